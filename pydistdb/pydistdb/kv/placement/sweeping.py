"""Ranges that nothing is in any more go at once: what a dropped table leaves behind.

Whoever clears the storage of a dropped table (``ClearRange``) tells the ranges that begin in it that their boundary serves
nothing any more (``MergeStepKind.LOOSEN``: the descriptor's ``automatic``).  Every node looks for such ranges among those that
it leads, and has them merged into their left neighbours without the patience that ranges with data are owed (reshaping.py):
an empty range moves no data, and nobody asks for it::

    anchor (n1) | t.1 empty (n3) | t.2 empty (n1) | next table (n2)        leases of the empty ones go to n1, which leads
    anchor (n1) | t.1 empty (n1) | t.2 empty (n1) | next table (n2)        what stands left of the whole run
    anchor (n1)                                   | next table (n2)        n1 merges them one after the other

Runs are worked on side by side, AT_ONCE of them, with pauses as any housekeeping takes them.  A range that is not empty, or
whose neighbour lies on other nodes, is left to the usual course of things.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydistdb_storage.engine import Space

from pydistdb.kv.api import KVError
from pydistdb.kv.descriptor import RangeId
from pydistdb.kv.replica import Replica
from pydistdb.tasks import gather, give_way

if TYPE_CHECKING:
    from pydistdb.kv.store import Store

logger = logging.getLogger(__name__)

AT_ONCE = 4
MOST_AT_A_TIME = 500
"""Empty ranges dealt with in one sweep; the next one goes on with the rest."""
MERGE_NS = 2_000_000
"""About how long this node works for a merge."""
LONGEST_RUN = 10_000


class Sweeper:
    """One node's part."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[RangeId, tuple[int, bool]] = {}
        """Of loose ranges: whether they were empty, at which index of their logs."""
        self._sweeping = False
        self.merges = 0

    def begin(self) -> None:
        """Sweep in the background, if there is anything to sweep."""
        if self._sweeping:
            return
        empty = self.swept()
        if empty:
            self._sweeping = True
            self._store.background(self._sweep(list(empty.values())), "merge empty ranges")

    def swept(self) -> dict[RangeId, Replica]:
        """The loose and empty ranges led here.

        They do not count as leases that others could take over: they were gathered here to be merged (queue.py)."""
        loose = [replica for replica in self._store.leased.values() if replica.descriptor.automatic]
        if len(self._seen) > 2 * len(loose):
            self._seen = {each.range_id: self._seen[each.range_id] for each in loose if each.range_id in self._seen}
        return {replica.range_id: replica for replica in loose if self._is_swept(replica)}

    def _is_swept(self, replica: Replica) -> bool:
        """Whether the range is loose, and the copy here has neither versions nor intents."""
        descriptor, index = replica.descriptor, replica.applied_index
        if not descriptor.automatic:
            return False
        seen = self._seen.get(replica.range_id)
        if seen is not None and seen[0] == index:
            return seen[1]
        view = self._store.engine.latest()
        is_empty = all(
            next(iter(view.scan(space, descriptor.start, descriptor.end)), None) is None
            for space in (Space.VERSIONS, Space.INTENTS)
        )
        self._seen[replica.range_id] = index, is_empty
        return is_empty

    async def _sweep(self, empty: Sequence[Replica]) -> None:
        store = self._store
        try:
            runs: list[list[Replica]] = []
            anchors: dict[RangeId, Replica | None] = {}
            for replica in sorted(empty, key=lambda replica: replica.descriptor.start)[:MOST_AT_A_TIME]:
                anchor = self._anchor(replica, anchors)
                if anchor is None or self._is_bound(replica):
                    continue
                if not anchor.leased:
                    self._hand_over(replica, anchor)
                elif runs and runs[-1][-1].descriptor.end == replica.descriptor.start:
                    runs[-1].append(replica)
                else:
                    runs.append([replica])
            for first in range(0, len(runs), AT_ONCE):
                await gather(store.scheduler, [self._merge_all(run) for run in runs[first : first + AT_ONCE]])
        finally:
            self._sweeping = False

    def _is_bound(self, replica: Replica) -> bool:
        """Whether the boundary has become one of a rule (residency.py)."""
        return bool(self._store.queue.residency.parts(replica.descriptor.start))

    def _anchor(self, replica: Replica, known: dict[RangeId, Replica | None]) -> Replica | None:
        """What stands left of the run of empty ranges that this one is in; None if that is not on this node."""
        passed: list[RangeId] = []
        found: Replica | None = replica
        while found is not None and len(passed) < LONGEST_RUN:
            if found.range_id in known:
                found = known[found.range_id]
                break
            if found is not replica and not self._is_swept(found):
                break
            passed.append(found.range_id)
            found = self._store.replica_ending_at(found.descriptor.start)
        for range_id in passed:
            known[range_id] = found
        return found

    def _hand_over(self, replica: Replica, anchor: Replica) -> None:
        """Have an empty range led where the anchor is."""
        store = self._store
        leader = store.leader_node(anchor)
        if leader in (0, store.node_id) or not store.liveness.is_live(leader):
            return
        if not replica.descriptor.is_changing and not replica.raft.transfer_target:
            store.transfer_lease(replica, leader)

    async def _merge_all(self, run: Sequence[Replica]) -> None:
        """Have the range left of the run take it in, one after the other, as far as they are led here."""
        store = self._store
        for replica in run:
            if store.stopped or not replica.is_leaseholder():
                return
            start = replica.descriptor.start
            left = store.replica_ending_at(start)
            if left is None or not left.is_leaseholder() or left.descriptor.is_changing:
                return
            if not self._is_swept(replica):
                continue
            try:
                await store.merger.merge(start)
                self.merges += 1
            except KVError as error:
                logger.debug("the empty range at %s is not merged now: %s", start.hex(), error)
                return
            await give_way(store.scheduler, MERGE_NS)
