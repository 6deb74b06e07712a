"""Waiting until every copy of what was written is on its disk, not only a majority (``proddb.write_ack = all``).

A commit is acknowledged once a majority has it.  Who wants more asks afterwards, range by range: the leaseholder takes its
log's last index, which lies at or behind the commit, and looks until each member has confirmed that it holds the log up to
there::

    gateway                         leaseholder of range 7 (log ends at 41)
    AwaitCopies(k)             ->   node 2: 41, node 3: 38     … 5 ms …   node 3: 41
    CopiesMissing([])          <-   all have it                (or, after a second: CopiesMissing([3]), and it is asked again)

A copy counts once it is durable: followers confirm what they have written.  The commit stands whatever comes of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pydistdb.kv.api import KVError
from pydistdb.kv.command import NotLeaseholder
from pydistdb.kv.descriptor import NodeId, RangeId
from pydistdb.kv.replica import Replica
from pydistdb.kv.router import Router
from pydistdb.kv.transport import Message, register
from pydistdb.tasks import Scheduler, gather, sleep

LOOK_NS = 5_000_000
CALL_NS = 1_000_000_000
"""How long one request is kept before it is answered with who is missing."""


class AwaitCopies(Message):
    """Asked of a leaseholder: wait until all copies of the range around ``key`` have what its log holds now."""

    key: bytes

    @property
    def routing_key(self) -> bytes:
        return self.key


class CopiesMissing(Message):
    """Nodes whose copies have not confirmed yet; none: all is done, up to the end of the range that was asked."""

    nodes: list[NodeId]
    end: bytes


register(AwaitCopies, CopiesMissing)


class ReplicaFinder(Protocol):
    def replica_for_key(self, key: bytes) -> Replica | None:
        """Find this node's replica around a key."""


class CopyWaiter:
    """Both sides of it on one node."""

    def __init__(self, store: ReplicaFinder, router: Router, scheduler: Scheduler) -> None:
        self._store = store
        self._router = router
        self._scheduler = scheduler

    async def answer(self, sender: NodeId, request: AwaitCopies) -> CopiesMissing:
        replica = self._need(request.key)
        index = replica.raft.last_index
        deadline_ns = self._scheduler.now_ns() + CALL_NS
        while True:
            missing = _missing(replica, index)
            if not missing or self._scheduler.now_ns() > deadline_ns:
                return CopiesMissing(missing, replica.descriptor.end)
            await sleep(self._scheduler, LOOK_NS)
            if self._need(request.key) is not replica:
                raise NotLeaseholder(0, 0)

    def _need(self, key: bytes) -> Replica:
        replica = self._store.replica_for_key(key)
        if replica is None:
            raise NotLeaseholder(0, 0)
        if not replica.is_leaseholder():
            raise NotLeaseholder(replica.range_id, replica.leader_hint or 0)
        return replica

    async def wait(self, spans: Sequence[tuple[bytes, bytes]], timeout_ns: int) -> list[NodeId]:
        """Wait for all copies of the ranges that the spans touch; who is missing after ``timeout_ns``."""
        deadline_ns = self._scheduler.now_ns() + timeout_ns
        parts: dict[RangeId, tuple[bytes, bytes]] = {}
        copies: dict[RangeId, list[NodeId]] = {}

        async def note(start: bytes, end: bytes) -> None:
            # Where ranges lie is only a guess here: what the leaseholders say of themselves counts.
            descriptor = await self._router.locate(start)
            first, last = parts.get(descriptor.range_id, (start, end))
            parts[descriptor.range_id] = min(first, start), max(last, end)
            copies[descriptor.range_id] = [replica.node_id for replica in descriptor.replicas]

        for start, end in spans:
            await self._router.each_span(start, end, note)
        calls = [self._wait(*part, deadline_ns, copies[range_id]) for range_id, part in parts.items()]
        found = await gather(self._scheduler, calls)
        return sorted({node for missing in found for node in missing})

    async def _wait(self, start: bytes, end: bytes, deadline_ns: int, copies: list[NodeId]) -> list[NodeId]:
        """Wait for all ranges of a span, one after the other; of one that does not answer any copy may be missing."""
        missing: list[NodeId] = []
        while start < end and (left_ns := deadline_ns - self._scheduler.now_ns()) > 0:
            try:
                answer = await self._router.send(AwaitCopies(start), timeout_ns=left_ns)
            except KVError:  # it has no leaseholder just now, or this node's clock is wrong: that is told at once
                await sleep(self._scheduler, LOOK_NS)
                continue
            assert isinstance(answer, CopiesMissing)
            missing = answer.nodes
            if not missing:
                start = answer.end
        return missing if start >= end else missing or copies


def _missing(replica: Replica, index: int) -> list[NodeId]:
    """The nodes of the descriptor whose copies have not confirmed the log up to ``index``.

    The leaseholder's own is not asked for: what is applied is on its disk."""
    held = {member.peer: member.match for member in replica.raft.members()}
    return sorted(
        other.node_id
        for other in replica.descriptor.replicas
        if other.replica_id != replica.replica_id and held.get(other.replica_id, 0) < index
    )
