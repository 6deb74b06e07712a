"""Merging two neighbouring ranges into one, under traffic.

The left range takes the right one in.  Both must have their replicas on the same nodes, and one node must lead both: it
carries the merge out, as steps that each go through a range's log (``MergeStep``)::

    left log     MARK(right)                                MERGE(right as frozen)
    right log                 FREEZE ── applied on all nodes ──┘                       (its log ends here)

* MARK says in the left descriptor which neighbour is being taken in.  From then on neither span nor replicas of the left
  range change otherwise, and whoever leads it knows that there is something to finish.
* FREEZE is refused unless the right range is as it was before MARK: its replicas may be elsewhere by now.  It ends all
  service of that range: the leaseholder serves no reads from the moment it is applied, and what was proposed before and
  stands behind it in the log is refused everywhere.  Nobody else can have served since.
* Then every replica of the right range must have applied FREEZE, durably.  So wherever MERGE is applied, however late, the
  right data lies there complete, and it changes hands without being touched: the left descriptor gets the right end, the
  transaction records get the left range's name, the right replica and its log go, in one batch.
* MERGE carries the clock of the node that led both, so whoever leads the whole afterwards writes above all that was read.

What the leaseholder keeps in memory for the right range (row locks, promises to readers) goes over to the left one
(``leases.py``).  Requests for the right range that come in between find no leaseholder and are sent again, as after any move
of a lease: some milliseconds.

**Giving up.**  If the leader changes, a node is slow, or anything else goes wrong, the left range is found with its mark by its
leaseholder, which undoes the rest: FENCE (another generation: a MERGE that is still on its way will be refused; if it was
applied, the mark is gone), THAW at the right range (a FREEZE that is still on its way will be refused), CLEAR.  So the right
range is frozen only while the left one has the mark, and a crash at any moment leaves either both ranges or the whole.

A replica that was cut off meanwhile may find its range gone.  Whoever finds its start in another range's younger descriptor
knows that it was merged away: a snapshot of the whole replaces both parts (``lifecycle.py``), and a part that has no left
neighbour here any more is dropped (``directory.py``).

Sources: Ongaro's thesis has no merges; the freeze that is awaited on every replica is that of CockroachDB's design document on
range merges, the mark and the undoing by generations are ours.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pydistdb.kv.api import KVError
from pydistdb.kv.command import Command, MergeStep, MergeStepKind, NotLeaseholder, ProposalLost
from pydistdb.kv.descriptor import NodeId, RangeDescriptor, RangeId, ReplicaRole
from pydistdb.kv.replica import Replica
from pydistdb.kv.transport import Message, register
from pydistdb.tasks import gather, sleep

if TYPE_CHECKING:
    from pydistdb.kv.store import Store

logger = logging.getLogger(__name__)

FREEZE_TIMEOUT_NS = 300_000_000
"""How long every replica has to apply the freeze; nobody can use the right range meanwhile."""
_POLL_NS = 2_000_000
_RETRY_NS = 100_000_000


class MergeRefused(KVError):
    """The ranges cannot be merged as they are; nothing has happened."""


class ThawRange(Message):
    """End a freeze, or make one that may be on its way impossible; sent to every node, acted on by the range's leader."""

    range_id: RangeId


class Thawed(Message):
    """``done``: the receiver led the range, and it is not frozen."""

    done: bool


register(ThawRange, Thawed)


class Merger:
    """One node's part in merges: those of ranges that it leads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._busy: set[RangeId] = set()
        """Left ranges that are being worked on here."""
        store.register(ThawRange, self._on_thaw)

    async def merge(self, key: bytes) -> RangeDescriptor:
        """Have the range that ends at ``key`` take in the one that starts there; both are led here.

        Raises MergeRefused, NotLeaseholder, or what made it give up: it is undone then, and may be tried again."""
        left, right = self._pair(key)
        if left.range_id in self._busy:
            raise MergeRefused(f"range {left.range_id} is being merged already")
        self._busy.add(left.range_id)
        try:
            generation = right.descriptor.generation
            await self._step(left, MergeStep(MergeStepKind.MARK, right.range_id))
            await self._step(right, MergeStep(MergeStepKind.FREEZE), generation)
            await self._applied_everywhere(right)
            frozen = right.descriptor
            await self._step(left, MergeStep(MergeStepKind.MERGE, right.range_id, frozen.generation, frozen.end))
            return left.descriptor
        finally:
            self._busy.discard(left.range_id)
            self.look_at(left)

    def _pair(self, key: bytes) -> tuple[Replica, Replica]:
        store = self._store
        right = store.replica_for_key(key)
        left = store.replica_ending_at(key)
        for replica in (left, right):
            if replica is None or not replica.is_leaseholder():
                raise NotLeaseholder(
                    replica.range_id if replica is not None else 0,
                    (replica.leader_hint or 0) if replica is not None else 0,
                )
        assert left is not None and right is not None
        if right.descriptor.start != key:
            raise MergeRefused("no range starts at this key")
        why = obstacle(left.descriptor, right.descriptor)
        if why:
            raise MergeRefused(why)
        live = set(store.live_nodes())
        for each in right.descriptor.replicas:
            if each.node_id not in live:
                raise MergeRefused(f"node {each.node_id} is not alive")
        return left, right

    async def _step(self, replica: Replica, step: MergeStep, generation: int | None = None) -> None:
        if generation is None:
            generation = replica.descriptor.generation
        clock = self._store.clock.now()
        await replica.propose(Command(replica.lease_epoch, generation, clock, [], [], None, step))

    async def _applied_everywhere(self, right: Replica) -> None:
        """Wait until every replica has applied all that the leader has."""
        scheduler = self._store.scheduler
        index, generation = right.applied_index, right.descriptor.generation
        deadline_ns = scheduler.now_ns() + FREEZE_TIMEOUT_NS
        while True:
            if not right.leased or right.descriptor.generation != generation:
                raise NotLeaseholder(right.range_id, right.leader_hint or 0)
            if all(member.applied >= index for member in right.raft.members()):
                return
            if scheduler.now_ns() > deadline_ns:
                raise ProposalLost("a replica did not follow in time")
            right.read_barrier()  # its heartbeats tell what is committed, and the answers what is applied
            await sleep(scheduler, _POLL_NS)

    # ------------------------------------------------------------------------------------------------------- undoing

    def look_at(self, replica: Replica) -> None:
        """Undo what was left unfinished of a merge into a range led here."""
        if replica.leased and replica.descriptor.merging and replica.range_id not in self._busy:
            self._busy.add(replica.range_id)
            self._store.background(self._undo(replica), "undo a merge")

    async def _undo(self, left: Replica) -> None:
        store = self._store
        fenced_in = 0
        try:
            while left.leased and not left.destroyed and left.descriptor.merging and not store.stopped:
                try:
                    if fenced_in != left.lease_epoch:
                        await self._step(left, MergeStep(MergeStepKind.FENCE))
                        fenced_in = left.lease_epoch
                    elif await self._thaw(left.descriptor.merging):
                        await self._step(left, MergeStep(MergeStepKind.CLEAR))
                        logger.info("range %d does not take in its neighbour after all", left.range_id)
                    else:
                        await sleep(store.scheduler, _RETRY_NS)
                except KVError:
                    await sleep(store.scheduler, _RETRY_NS)
        finally:
            self._busy.discard(left.range_id)

    async def _thaw(self, range_id: RangeId) -> bool:
        """Have the leader of a range end its freeze, wherever it is."""
        answers = await gather(
            self._store.scheduler, [self._ask(node_id, range_id) for node_id in self._store.live_nodes()]
        )
        return any(answers)

    async def _ask(self, node_id: NodeId, range_id: RangeId) -> bool:
        try:
            answer = await self._store.call(node_id, ThawRange(range_id))
        except KVError:
            return False
        return isinstance(answer, Thawed) and answer.done

    async def _on_thaw(self, from_node: NodeId, request: ThawRange) -> Message:
        replica = self._store.replicas.get(request.range_id)
        if replica is None or not replica.leased:
            return Thawed(False)
        await self._step(replica, MergeStep(MergeStepKind.THAW))
        return Thawed(True)


def obstacle(left: RangeDescriptor, right: RangeDescriptor) -> str:
    """Why two neighbours cannot be merged as they are; empty: they can."""
    for descriptor in (left, right):
        if descriptor.is_changing:
            return f"range {descriptor.range_id} is being changed"
        if any(replica.role is not ReplicaRole.VOTER for replica in descriptor.replicas):
            return f"range {descriptor.range_id} has a replica that does not vote yet"
    if {replica.node_id for replica in left.replicas} != {replica.node_id for replica in right.replicas}:
        return f"the replicas of ranges {left.range_id} and {right.range_id} are not on the same nodes"
    return ""
