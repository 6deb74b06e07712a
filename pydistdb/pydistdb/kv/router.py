"""Finding the leaseholder of a key, and asking it until it answers.

Where a key lives is asked in this order: the leases of this node (always right), the replicas of this node (right about
the span, good for a hint of the leader), the range cache, and the meta range, which holds every descriptor under the
end of its range.  Anything but the first may be stale; that costs a detour and never a wrong answer, since the
leaseholder checks every request against its own descriptor::

    send(get "k")   cache: range 7 [a, z), leader 2
        node 2:  NotLeaseholder(leader 3)   → remember 3, ask 3
        node 3:  WrongRange([a, m))         → only for requests of several keys: remember, the caller cuts again
        nobody:  back off, look the range up again; after the deadline RangeUnavailable

The deadline is for ranges that nobody leads.  A leaseholder that cannot keep up (proposals that are not committed in time, or
not even taken in) puts it off, to MOST_PATIENCE times as long: a busy cluster makes loads slower, it does not end them.

Requests are made so that asking twice does no harm (see the notes in requests.py, records.py and writes.py), so an
unreachable node is simply asked again, or its successor.  Only a commit whose last attempts stayed without a clear
answer ends as OutcomeUnknown, and a change that writes at the leaseholder (changes.py) takes its transaction along.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from pydistdb_storage.keys import prefix_end

from pydistdb.kv.advisory import AdvisoryLock
from pydistdb.kv.answers import (
    Entries,
    Failure,
    LockedAfterWaits,
    RangeDetails,
    StillWaiting,
    Values,
    WrongRange,
    raise_failure,
)
from pydistdb.kv.api import (
    KeyExists,
    KVError,
    OutcomeUnknown,
    RangeUnavailable,
    SerializationConflict,
    TransactionAborted,
)
from pydistdb.kv.changes import Change, Changed, ChangedAfterWaits
from pydistdb.kv.command import NotLeaseholder, ProposalLost
from pydistdb.kv.descriptor import (
    FIRST_SPLIT_KEY,
    KEY_MAX,
    META_PREFIX,
    NodeId,
    RangeDescriptor,
    decode_descriptor,
    meta_key,
)
from pydistdb.kv.evaluate import RangeServer
from pydistdb.kv.fragments import Evaluated
from pydistdb.kv.range_cache import CachedRange, RangeCache
from pydistdb.kv.requests import CommitOnePhase, EndTransaction, Lock, LookUpRange, PrepareRecord, Scan
from pydistdb.kv.transport import Message, NodeUnreachable, RemoteError, Transport
from pydistdb.tasks import gather, sleep

DEFAULT_TIMEOUT_NS = 15_000_000_000
LOOKUP_TIMEOUT_NS = 3_000_000_000
MOST_PATIENCE = 8
WORKED_NS = 6_000_000_000
"""A node that was lost so long after it was asked was at work until then: a dead one is noticed earlier."""
LOST_NS = 1_500_000_000
"""Of who has been silent for so long others have withdrawn their support: somebody else leads, or soon will."""
_COMMITS = (CommitOnePhase, EndTransaction, PrepareRecord)
_DECIDED = (KeyExists, SerializationConflict, TransactionAborted)
"""What an evaluation raises that has looked whether an earlier attempt has got through."""
FIRST_BACKOFF_NS = 2_000_000
LONGEST_BACKOFF_NS = 200_000_000
MAX_PARALLEL_CALLS = 32
MAX_CUTS = 50
"""How often a request may turn out to reach over a range's end."""

Observed = dict[NodeId, int]
"""What each node's clock said when a transaction first heard of it."""


class Router:
    """This node's way to every range and node."""

    def __init__(
        self,
        server: RangeServer,
        transport: Transport,
        live_nodes: Callable[[], Iterable[NodeId]],
        silent_ns: Callable[[NodeId], int],
    ) -> None:
        self._server = server
        self._leases = server.leases
        self._transport = transport
        self._live_nodes = live_nodes
        self._silent_ns = silent_ns
        self._scheduler = server.leases.scheduler
        self.cache = RangeCache()
        self.timeout_ns = DEFAULT_TIMEOUT_NS
        self._node_id = server.node_id

    # ------------------------------------------------------------------------------------------------------ nodes

    def node_ids(self) -> list[NodeId]:
        """The nodes that count as alive, this one first."""
        return [self._node_id, *sorted({*self._live_nodes()} - {self._node_id})]

    def silent_ns(self, node_id: NodeId) -> int:
        """How long nothing at all has been heard of a node; 0 for this one."""
        return 0 if node_id == self._node_id else self._silent_ns(node_id)

    async def ask_node(self, node_id: NodeId, request: Message) -> Any:
        """Have a node answer; raises NodeUnreachable, RemoteError or what the node raised."""
        if node_id == self._node_id:
            return await self._server.handle(request)
        answer = await self._transport.call(node_id, request)
        if type(answer) is Failure:
            raise_failure(answer)
        return answer

    # ----------------------------------------------------------------------------------------------------- ranges

    async def locate(self, key: bytes) -> RangeDescriptor:
        """The descriptor of the range around ``key``, perhaps a stale one."""
        local = self._leases.find(key)
        if local is not None:
            return local.described
        replica = self._leases.find_replica(key)
        cached = self.cache.find(key)
        if replica is not None and (cached is None or replica.descriptor.generation >= cached.descriptor.generation):
            return replica.descriptor
        if cached is None:
            cached = await self._look_up(key)
        return cached.descriptor

    def leader_of(self, key: bytes) -> NodeId:
        """Who leads the range around ``key``, as far as is known here; 0: it is not."""
        replica = self._leases.find_replica(key)
        if replica is not None and replica.leader_hint:
            return replica.leader_hint
        cached = self.cache.find(key)
        return 0 if cached is None else cached.leader

    async def locate_before(self, end: bytes) -> RangeDescriptor:
        """The descriptor of the range that holds the keys just below ``end``, perhaps a stale one."""
        local = self._leases.find_before(end)
        if local is not None:
            return local.described
        cached = self.cache.find_before(end)
        if cached is not None:
            return cached.descriptor
        if end <= FIRST_SPLIT_KEY:
            return await self.locate(META_PREFIX)
        return (await self._look_up_meta(meta_key(end))).descriptor

    async def locate_head(self, start: bytes, end: bytes, *, reverse: bool) -> tuple[RangeDescriptor, bytes, bytes]:
        """The descriptor of the range that holds the first keys of [start, end) (``reverse``: the last), and their bounds.

        It may be stale.  What was published leaves holes while ranges are split and merged, and then a neighbour is found:
        the bounds are those of the hole, as far as is known, and whoever is asked for them says what is there."""
        descriptor = await (self.locate_before(end) if reverse else self.locate(start))
        first, last = max(start, descriptor.start), min(end, descriptor.end)
        if first >= last:
            return descriptor, start, end if reverse else min(end, max(descriptor.start, start + b"\0"))
        if reverse:
            return (descriptor, first, last) if last == end else (descriptor, last, end)
        return (descriptor, first, last) if first == start else (descriptor, start, first)

    async def _look_up(self, key: bytes) -> CachedRange:
        if key < FIRST_SPLIT_KEY:
            return await self._find_first_range()
        return await self._look_up_meta(prefix_end(meta_key(key)))

    async def _look_up_meta(self, start: bytes) -> CachedRange:
        """The first descriptor published at or after ``start``."""
        now = self._leases.clock.now()
        end = prefix_end(META_PREFIX)
        answer = await self.send(Scan(start, end, 1, False, now, now), timeout_ns=LOOKUP_TIMEOUT_NS)
        assert isinstance(answer, Entries)
        if not answer.values:
            raise RangeUnavailable("the range is not in the meta range")
        return self.cache.insert(decode_descriptor(answer.values[0]))

    async def _find_first_range(self) -> CachedRange:
        """Range 1 cannot be looked up in itself: ask around."""
        replica = self._leases.find_replica(META_PREFIX)
        if replica is not None:
            return self.cache.insert(replica.descriptor, replica.leader_hint or 0)
        for node_id in self.node_ids():
            if node_id == self._node_id:
                continue
            try:
                details = await self.ask_node(node_id, LookUpRange(META_PREFIX))
            except (NodeUnreachable, RemoteError, RangeUnavailable):
                continue
            assert isinstance(details, RangeDetails)
            return self.cache.insert(details.descriptor, details.leader)
        raise RangeUnavailable("no node knows where the meta range is")

    async def group(self, keys: Sequence[bytes]) -> list[list[bytes]]:
        """Cut sorted keys up by range."""
        groups: list[list[bytes]] = []
        position = 0
        while position < len(keys):
            descriptor = await self.locate(keys[position])
            stop = bisect_left(keys, descriptor.end, position) if descriptor.contains(keys[position]) else position + 1
            groups.append(list(keys[position:stop]))
            position = stop
        return groups

    async def each_range(self, keys: Sequence[bytes], call: Callable[[list[bytes]], Awaitable[None]]) -> None:
        """Make one call for each range's share of the sorted ``keys``, in parallel."""
        groups = await self.group(keys)
        if len(groups) == 1:
            await self._call_group(groups[0], call)
            return
        for first in range(0, len(groups), MAX_PARALLEL_CALLS):
            batch = groups[first : first + MAX_PARALLEL_CALLS]
            await gather(self._scheduler, [self._call_group(group, call) for group in batch])

    async def _call_group(
        self, keys: list[bytes], call: Callable[[list[bytes]], Awaitable[None]], most_cuts: int = MAX_CUTS
    ) -> None:
        try:
            await call(keys)
        except WrongRange as wrong:
            if most_cuts == 0:
                raise RangeUnavailable("the range keeps being split") from wrong
            self.cache.insert(wrong.descriptor)
            regrouped = await self.group(keys)
            if len(regrouped) == 1:
                await sleep(self._scheduler, FIRST_BACKOFF_NS)
            for group in regrouped:
                await self._call_group(group, call, most_cuts - 1)

    async def each_span(self, start: bytes, end: bytes, call: Callable[[bytes, bytes], Awaitable[None]]) -> None:
        """Make one call for each range's part of [start, end), in key order."""
        position = start
        while position < end:
            descriptor = await self.locate(position)
            stop = min(end, descriptor.end) if descriptor.contains(position) else end
            try:
                await call(position, stop)
            except WrongRange as wrong:
                self.cache.insert(wrong.descriptor)
                if not wrong.descriptor.contains(position):
                    self.cache.drop(position)
                    await sleep(self._scheduler, FIRST_BACKOFF_NS)
                continue
            position = stop

    # ---------------------------------------------------------------------------------------------------- sending

    async def send(
        self,
        request: Any,
        *,
        timeout_ns: int = 0,
        observed: Observed | None = None,
        served: set[NodeId] | None = None,
    ) -> Any:
        """Have the leaseholder of the request's key answer it.

        ``observed`` is consulted and kept up for reads; ``served`` learns which node answered.  Raises what the
        leaseholder raised, WrongRange, RangeUnavailable, OutcomeUnknown (commits only)."""
        self._leases.clock.check()
        search = _Search(request.routing_key, self._scheduler.now_ns(), timeout_ns or self.timeout_ns)
        while True:
            node_id = 0
            try:
                node_id = await self._choose(search)
                answer = await self._call(node_id, request, observed)
                if served is not None:
                    served.add(node_id)
                if search.waited_ns and isinstance(answer, LockedAfterWaits | ChangedAfterWaits):
                    answer.waits = answer.waits or 1  # it may have been granted between two calls
                    answer.waited_ns += search.waited_ns
                return answer
            except WrongRange as error:
                error.ambiguous = search.ambiguous
                raise
            except StillWaiting:
                search.waited_ns = self._scheduler.now_ns() - search.begun_ns
                search.deadline_ns = self._scheduler.now_ns() + search.timeout_ns
                search.hint = node_id
                continue
            except NotLeaseholder as error:
                self._follow(search, node_id, error.leader)
                if search.hint and search.redirects < 3:
                    search.redirects += 1
                    continue
            except ProposalLost as error:
                search.ambiguous = True
                search.error = error
                search.put_off(self._scheduler.now_ns())
            except (NodeUnreachable, RemoteError) as error:
                if isinstance(request, Change) and request.lays_down:
                    raise TransactionAborted("what became of a change at a shard is not known") from error
                search.ambiguous = True
                search.error = error
                if self._scheduler.now_ns() - search.asked_ns > WORKED_NS:
                    search.put_off(self._scheduler.now_ns())
                self._follow(search, node_id, 0)
            except RangeUnavailable as error:
                if search.error is None:
                    search.error = error
                self._follow(search, node_id, 0)
            except KVError as error:
                if not (search.ambiguous and isinstance(request, _COMMITS)) or isinstance(error, _DECIDED):
                    raise
                # What came in the way of asking again (a clock, a disk) says nothing of the attempt before.
                search.error = error
                self._follow(search, node_id, 0)
            await self._back_off(search, request)

    async def _call(self, node_id: NodeId, request: Any, observed: Observed | None) -> Any:
        if node_id == self._node_id:
            if observed is not None:
                request.observed = observed.get(node_id, 0)
            return await self._server.handle(request)
        if observed is not None:
            request.observed = observed.get(node_id, 0)
        started_ns = self._scheduler.now_ns()
        answer = await self._transport.call(node_id, request)
        if isinstance(request, Lock | AdvisoryLock | Change) and request.timeout_ns:
            request.timeout_ns = max(1, request.timeout_ns - (self._scheduler.now_ns() - started_ns))
        if (
            observed is not None
            and isinstance(answer, Values | Entries | Evaluated | Changed | Failure)
            and answer.observed
        ):
            observed.setdefault(node_id, answer.observed)
        if type(answer) is Failure:
            raise_failure(answer)
        return answer

    async def _choose(self, search: _Search) -> NodeId:
        """The node to ask next."""
        key = search.key
        local = self._leases.find(key)
        if local is not None and local.replica.is_leaseholder():
            return self._node_id
        if search.hint:
            hint, search.hint = search.hint, 0
            return hint
        replica = self._leases.find_replica(key)
        if replica is not None and search.attempts % 4 != 3:
            # This node's replica may have been left behind: now and then ask the meta range all the same.
            descriptor, leader = replica.descriptor, replica.leader_hint or 0
        else:
            if search.attempts:
                self.cache.drop(key)
            cached = self.cache.find(key) or await self._look_up(key)
            descriptor, leader = cached.descriptor, cached.leader
        if leader and leader != search.failed and not self._is_lost(leader):
            return leader
        search.failed = 0
        first = search.attempts % len(descriptor.replicas)
        node_ids = [replica.node_id for replica in (*descriptor.replicas[first:], *descriptor.replicas[:first])]
        return next((node_id for node_id in node_ids if not self._is_lost(node_id)), node_ids[0])

    def _is_lost(self, node_id: NodeId) -> bool:
        """Whether a call would probably wait in vain for as long as the transport lets it."""
        return self.silent_ns(node_id) > LOST_NS

    def _follow(self, search: _Search, asked: NodeId, leader: NodeId) -> None:
        """Remember that ``asked`` was not it, but ``leader`` may be."""
        search.failed = asked
        search.hint = leader if leader != asked else 0
        cached = self.cache.find(search.key)
        if cached is not None:
            cached.leader = leader if leader != asked else 0

    async def _back_off(self, search: _Search, request: Any) -> None:
        if not (search.ambiguous and isinstance(request, _COMMITS)):
            self._leases.clock.check()  # nobody answers a node whose clock is wrong
        search.attempts += 1
        search.redirects = 0
        pause_ns = min(FIRST_BACKOFF_NS << min(search.attempts, 10), LONGEST_BACKOFF_NS)
        if self._scheduler.now_ns() + pause_ns > search.deadline_ns:
            if search.ambiguous and isinstance(request, _COMMITS):
                raise OutcomeUnknown("the outcome of the commit could not be learnt in time")
            raise RangeUnavailable("the range has no leaseholder that answers") from search.error
        await sleep(self._scheduler, pause_ns)
        search.asked_ns = self._scheduler.now_ns()


class _Search:
    """The state of one ``send``."""

    __slots__ = (
        "ambiguous",
        "asked_ns",
        "attempts",
        "begun_ns",
        "deadline_ns",
        "error",
        "failed",
        "hint",
        "key",
        "redirects",
        "timeout_ns",
        "waited_ns",
    )

    def __init__(self, key: bytes, begun_ns: int, timeout_ns: int) -> None:
        self.key = key
        self.begun_ns = self.asked_ns = begun_ns
        self.timeout_ns = timeout_ns
        self.deadline_ns = begun_ns + timeout_ns
        self.attempts = 0
        self.redirects = 0
        self.waited_ns = 0
        """In calls that came back because others held what was asked for."""
        self.hint: NodeId = 0
        self.failed: NodeId = 0
        self.ambiguous = False
        self.error: Exception | None = None

    def put_off(self, now_ns: int) -> None:
        """There is a leaseholder, at work: wait as long again, within reason."""
        latest_ns = self.begun_ns + MOST_PATIENCE * self.timeout_ns
        self.deadline_ns = max(self.deadline_ns, min(now_ns + self.timeout_ns, latest_ns))


def clip(end: bytes) -> bytes:
    """The end of a span, within the key space."""
    return min(end, KEY_MAX)
