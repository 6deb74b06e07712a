"""What an operator may have done to ranges and nodes, from whatever node: splits, merges, moves, draining, leaving.

Each call returns when the thing is done, and may be given again: it finds out how far things are and goes on from there.
``OperationRefused`` says why something cannot be, before anything has happened.

* ``merge``: the right range's replicas move to where the left one's are, its lease too, and there the left one takes it in
  (merging.py).
* ``move_lease``: the leaseholder hands over to another voter.  ``move_replica``: the newcomer becomes a learner, gets the
  data, and one joint change makes it a voter and removes the other; a leaseholder that is to go hands over first.
* ``drain``: a node gives its leases away and takes none; for as long as its process runs.
* ``decommission``: a node's replicas go elsewhere too.  That is kept in its record: it outlives restarts.  Once it holds
  nothing its process may be stopped for good, and is forgotten when it has been silent for long enough.
* ``recommission`` takes either back.

Placement goes on by itself all the while (placement/queue.py): a lease or replica that makes nodes uneven may move again.
"""

from __future__ import annotations

from collections.abc import Callable

from pydistdb.kv.answers import RangeDetails
from pydistdb.kv.api import Isolation, KVError
from pydistdb.kv.descriptor import (
    FIRST_SPLIT_KEY,
    KEY_MAX,
    KEY_MIN,
    SETTING_PREFIX,
    NodeId,
    NodeRecord,
    NodeState,
    RangeDescriptor,
    RangeId,
    ReplicaRole,
)
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.in_doubt import InDoubtReporter
from pydistdb.kv.placement.reshaping import Reshaper
from pydistdb.kv.requests import RangeAround
from pydistdb.kv.settings import parse
from pydistdb.kv.store import MergeRange, Store, TransferLease
from pydistdb.kv.survey import Surveyor
from pydistdb.kv.transport import Message, NodeUnreachable, register
from pydistdb.kv.txn.recovery import Recovered
from pydistdb.tasks import sleep

HASH_PREFIX = b"\x05"
HASH_KEY_BYTES = 7
"""``05 group(4) hash16(2)``: rows that have these in common stay in one range, whatever their table."""
MOVE_TIMEOUT_NS = 120_000_000_000
MERGE_TIMEOUT_NS = 120_000_000_000
LEASE_TIMEOUT_NS = 10_000_000_000
_ASK_AGAIN_NS = 1_000_000_000
_POLL_NS = 50_000_000
_MOST_ASKED = 10


class OperationRefused(KVError):
    """What was asked for cannot be done; nothing has happened."""


class MoveReplica(Message):
    """Sent to the leaseholder of the range that holds ``key``; answered by OperationBegun."""

    key: bytes
    away: NodeId
    to: NodeId


class SetDraining(Message):
    """Sent to the node itself; answered by OperationBegun."""

    draining: bool


class OperationBegun(Message):
    refused: str = ""
    """Why it was not."""


register(MoveReplica, SetDraining, OperationBegun)


class Operations:
    """One node's part in them, and its way to the others."""

    def __init__(
        self,
        store: Store,
        gateway: Gateway,
        version: str = "",
        disk: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self._store = store
        self._gateway = gateway
        self._scheduler = store.scheduler
        self.in_doubt = InDoubtReporter(gateway)
        self.store, self.gateway = store, gateway
        self.surveyor = Surveyor(store, gateway.load, version, disk)
        self.reshaper = Reshaper(self)
        store.register(MoveReplica, self._on_move)
        store.register(SetDraining, self._on_draining)

    # ---------------------------------------------------------------------------------------------------------- ranges

    async def split(self, range_id: RangeId, key: bytes | None = None) -> RangeId:
        """Cut a range at ``key``, or near its middle at a row; returns the right part's id."""
        descriptor = await self._find(range_id)
        return await self.split_at(await self._middle(descriptor) if key is None else key)

    async def split_at(self, key: bytes) -> RangeId:
        """Make ``key`` a boundary; returns the id of the range that starts there."""
        if not FIRST_SPLIT_KEY <= key < KEY_MAX:
            raise OperationRefused("this key cannot be a boundary: the cluster's own records stay in one range")
        await self._gateway.split([key])
        return (await self._around(key)).descriptor.range_id

    async def merge(self, range_id: RangeId) -> RangeId:
        """Have a range take in its right neighbour; returns its id."""
        descriptor = await self._find(range_id)
        if descriptor.end == KEY_MAX:
            raise OperationRefused(f"range {range_id} is the last one: it has no right neighbour")
        return await self.merge_at(descriptor.end)

    async def merge_at(self, key: bytes) -> RangeId:
        """Make ``key`` no boundary any more; returns the id of the range around it.  Refused if no range begins there."""
        if self._store.queue.residency.parts(key):
            raise OperationRefused(
                "a shard that is placed, or a table of which every node has a copy, begins or ends there"
            )
        deadline_ns = self._scheduler.now_ns() + MERGE_TIMEOUT_NS
        why = ""
        while self._scheduler.now_ns() < deadline_ns:
            right = await self._around(key)
            if right.descriptor.start != key:
                if not why:
                    raise OperationRefused(
                        f"no range begins there: the key is within range {right.descriptor.range_id}"
                    )
                return right.descriptor.range_id
            why = why or "they did not come together"
            if key < FIRST_SPLIT_KEY:
                raise OperationRefused("there is nothing to the left of it")
            left = await self._around((await self._gateway.router.locate_before(key)).start)
            self._gateway.router.cache.insert(left.descriptor, left.leader)
            try:
                if left.descriptor.end == key and await self._brought_together(left, right):
                    await self._store.call(left.leader, MergeRange(key))
            except KVError as error:
                why = str(error)  # placement was at work on one of them, or a lease moved
            await sleep(self._scheduler, _POLL_NS)
        raise OperationRefused(f"the ranges could not be merged in time: {why}")

    async def _brought_together(self, left: RangeDetails, right: RangeDetails) -> bool:
        """Whether both ranges are led by one node and lie on the same ones; else, one step on the way there."""
        there = {replica.node_id for replica in left.descriptor.replicas}
        here = {replica.node_id for replica in right.descriptor.replicas}
        if left.descriptor.is_changing or right.descriptor.is_changing:
            return False
        missing, superfluous = sorted(there - here), sorted(here - there)
        range_id = right.descriptor.range_id
        if missing and superfluous:
            await self.move_replica(range_id, superfluous[0], missing[0])
            return False
        if missing or superfluous:
            return False  # one of them is being repaired
        if left.leader != right.leader:
            await self.move_lease(range_id, left.leader)
        return True

    @staticmethod
    def boundary(key: bytes) -> bytes:
        """The boundary at or before ``key`` that cuts no row and no colocated rows in two."""
        return row_boundary(key)

    async def _middle(self, descriptor: RangeDescriptor) -> bytes:
        survey = await self.surveyor.survey()
        report = next((r for r in survey.ranges() if r.range_id == descriptor.range_id), None)
        middle = report.middle if report is not None else b""
        boundary = row_boundary(middle)
        if not max(descriptor.start, FIRST_SPLIT_KEY) < boundary < descriptor.end:
            raise OperationRefused(f"range {descriptor.range_id} cannot be split: it has no row boundary in its middle")
        return boundary

    async def move_lease(self, range_id: RangeId, to: NodeId) -> None:
        """Have node ``to`` lead the range.  A replica that is on its way there is waited for until it votes."""
        descriptor = await self._find(range_id)
        self._check_live(to)
        deadline_ns = self._scheduler.now_ns() + LEASE_TIMEOUT_NS
        asked_ns = 0
        while True:
            details = await self._around(descriptor.start)
            if details.leader == to:
                return
            voters = [voter.node_id for voter in details.descriptor.voters()]
            if to not in voters and details.descriptor.replica_on(to) is None:
                raise OperationRefused(
                    f"node {to} has no replica of range {range_id}, which is on nodes {', '.join(map(str, sorted(voters)))}"
                )
            now_ns = self._scheduler.now_ns()
            if now_ns > deadline_ns:
                if to not in voters:
                    raise OperationRefused(f"the replica of range {range_id} on node {to} does not vote")
                raise OperationRefused(f"node {to} did not take the lease of range {range_id} in time")
            if to in voters and now_ns - asked_ns > _ASK_AGAIN_NS:
                asked_ns = now_ns
                await self._ask(details.leader, TransferLease(descriptor.start, to))
            await sleep(self._scheduler, _POLL_NS)

    async def move_replica(self, range_id: RangeId, away: NodeId, to: NodeId) -> None:
        """Move the replica that node ``away`` has to node ``to``."""
        descriptor = await self._find(range_id)
        self._check_takes(descriptor, to)
        if descriptor.replica_on(away) is None:
            raise OperationRefused(f"node {away} has no replica of range {range_id}")
        if descriptor.replica_on(to) is not None:
            raise OperationRefused(f"node {to} has a replica of range {range_id} already")
        deadline_ns = self._scheduler.now_ns() + MOVE_TIMEOUT_NS
        asked, asked_ns = 0, 0
        while True:
            details = await self._around(descriptor.start)
            if self._has_moved(details.descriptor, range_id, away, to):
                return
            now_ns = self._scheduler.now_ns()
            if now_ns > deadline_ns:
                raise OperationRefused(f"the replica of range {range_id} did not move in time; it may still")
            # A new leaseholder knows nothing of it, and might use the newcomer in place of another replica.
            if details.leader != asked or now_ns - asked_ns > _ASK_AGAIN_NS:
                asked, asked_ns = details.leader, now_ns
                await self._push_move(details, away, to)
            await sleep(self._scheduler, _POLL_NS)

    def _has_moved(self, descriptor: RangeDescriptor, range_id: RangeId, away: NodeId, to: NodeId) -> bool:
        """Whether a move is done; raises OperationRefused where it has come to nothing."""
        if descriptor.range_id != range_id:
            raise OperationRefused(
                f"there is no range {range_id} any more: range {descriptor.range_id} has taken it in"
            )
        if descriptor.is_joint:
            return False
        newcomer, is_left = descriptor.replica_on(to), descriptor.replica_on(away) is None
        if newcomer is None and is_left:
            raise OperationRefused(
                f"node {away} has no replica of range {range_id} any more: it has gone to another node meanwhile"
            )
        if newcomer is None:
            self._check_takes(descriptor, to)
        elif newcomer.role is ReplicaRole.VOTER:
            if is_left:
                return True
            if len(descriptor.replicas) <= self._store.membership.replication_factor:
                raise OperationRefused(
                    f"node {to} has a replica of range {range_id} now, but in place of another node's than node {away}'s"
                )
        return False

    def _check_takes(self, descriptor: RangeDescriptor, to: NodeId) -> None:
        """Make sure that a node may be given a replica of a range."""
        self._check_live(to)
        queue = self._store.queue
        views = queue.node_views()
        if not views[to].takes_replicas:
            raise OperationRefused(f"node {to} takes no replicas: it is being drained")
        if not queue.residency.views(descriptor, views, self._store.membership.nodes)[to].takes_replicas:
            raise OperationRefused(f"range {descriptor.range_id} belongs to a shard that is placed elsewhere")

    async def _push_move(self, details: RangeDetails, away: NodeId, to: NodeId) -> None:
        descriptor = details.descriptor
        live = set(self._store.live_nodes())
        others = [voter.node_id for voter in descriptor.voters() if voter.node_id != away and voter.node_id in live]
        request: Message = MoveReplica(descriptor.start, away, to)
        if details.leader == away and others:
            request = TransferLease(descriptor.start, min(others))
        # With a single voter there is nobody to hand over to before the newcomer votes.
        try:
            answer = await self._store.call(details.leader, request)
        except KVError:
            return  # the leaseholder has changed: asked again
        if isinstance(answer, OperationBegun) and answer.refused:
            raise OperationRefused(answer.refused)

    async def _on_move(self, from_node: NodeId, request: MoveReplica) -> Message:
        replica = self._store.replica_for_key(request.key)
        if replica is None or not replica.is_leaseholder():
            raise KVError("the range is leased elsewhere")
        other = self._store.queue.move(replica, request.away, request.to, asked_again=True)
        if other is None:
            return OperationBegun()
        return OperationBegun(
            f"range {replica.range_id} is being moved from node {other.away} to node {other.to} already"
        )

    # ---------------------------------------------------------------------------------------------------- transactions

    async def recover_transactions(self) -> list[Recovered]:
        """Finish the transactions that nobody else will; tells of all that are in doubt."""
        return await self._gateway.recovery.recover()

    async def _find(self, range_id: RangeId) -> RangeDescriptor:
        replica = self._store.replicas.get(range_id)
        if replica is not None and replica.is_initialized:
            # A follower may be behind: the leaseholder knows.
            descriptor = (await self._around(replica.descriptor.start)).descriptor
            if descriptor.range_id == range_id:
                return descriptor
        for each in await self._gateway.ranges(KEY_MIN, KEY_MAX):
            if each.range_id == range_id:
                return (await self._around(each.start)).descriptor
        raise OperationRefused(f"there is no range {range_id}")

    async def _around(self, key: bytes) -> RangeDetails:
        details: RangeDetails = await self._gateway.router.send(RangeAround(key))
        return details

    # -------------------------------------------------------------------------------------------------------- settings

    async def set(self, name: str, text: str) -> None:
        """Give a setting of the cluster a value; every node goes by it within a second or so."""
        parse(name, text)
        transaction = self._gateway.begin(Isolation.READ_COMMITTED)
        transaction.begin_statement()
        transaction.put(SETTING_PREFIX + name.encode(), text.strip().encode())
        await transaction.commit()

    # ----------------------------------------------------------------------------------------------------------- nodes

    async def drain(self, node_id: NodeId) -> None:
        """Have a node give its leases away; returns at once."""
        self._check_live(node_id)
        await self._ask(node_id, SetDraining(True))

    async def decommission(self, node_id: NodeId) -> None:
        """Have a node's replicas go elsewhere; returns at once."""
        record = self._record(node_id)
        if record.state is NodeState.LEAVING:
            return
        left = sum(1 for each in self._store.membership.records() if each.state is NodeState.ACTIVE) - 1
        factor = self._store.membership.replication_factor
        if record.state is NodeState.ACTIVE and left < factor:
            raise OperationRefused(
                f"node {node_id} cannot leave: {left} nodes would remain, and every range has {factor} replicas"
            )
        self._store.membership.set_state(node_id, NodeState.LEAVING)

    async def recommission(self, node_id: NodeId) -> None:
        """Take back ``drain`` and ``decommission``."""
        record = self._record(node_id)
        if record.state is not NodeState.ACTIVE:
            self._store.membership.set_state(node_id, NodeState.ACTIVE)
        if node_id in self._store.live_nodes():
            await self._ask(node_id, SetDraining(False))

    async def _ask(self, node_id: NodeId, request: Message) -> None:
        """Have a node do what may be done twice.  A connection can break as it comes about, when both have dialled."""
        for _ in range(_MOST_ASKED):
            try:
                await self._store.call(node_id, request)
                return
            except NodeUnreachable:
                await sleep(self._scheduler, _POLL_NS)
        raise OperationRefused(f"node {node_id} does not answer")

    def _record(self, node_id: NodeId) -> NodeRecord:
        record = self._store.membership.nodes.get(node_id)
        if record is None or record.state is NodeState.REPLACED:
            raise OperationRefused(f"there is no node {node_id}")
        return record

    def _check_live(self, node_id: NodeId) -> None:
        self._record(node_id)
        if node_id not in self._store.live_nodes():
            raise OperationRefused(f"node {node_id} is not alive")

    async def _on_draining(self, from_node: NodeId, request: SetDraining) -> Message:
        if request.draining:
            self._store.drain()
        else:
            self._store.membership.draining = False
        return OperationBegun()


def row_boundary(key: bytes) -> bytes:
    """The boundary at or before ``key`` that cuts no row and no colocated rows in two."""
    return key[:HASH_KEY_BYTES] if key.startswith(HASH_PREFIX) else key
