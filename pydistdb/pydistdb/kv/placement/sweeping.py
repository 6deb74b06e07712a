"""Ranges that nothing is in any more go at once: what a dropped table leaves behind.

Whoever clears the storage of a dropped table (``ClearRange``) tells the ranges that begin in it that their boundary serves
nothing any more (``MergeStepKind.LOOSEN``: the descriptor's ``automatic``).  Every node looks for such ranges among those that
it leads, and has them merged into their left neighbours without the patience that ranges with data are owed (reshaping.py):
an empty range moves no data, and nobody asks for it::

    anchor (n1) | t.1 (n3) | t.2 (n3) | t.3 (n1) | next table (n2)     neighbours led by one node are merged first
    anchor (n1) | t.1 (n3)            | t.3 (n1) | next table (n2)     what is left goes to n1, which leads what stands
    anchor (n1) | t.1 (n1)            | t.3 (n1) | next table (n2)     left of the whole run
    anchor (n1)                                  | next table (n2)

Long runs are cut into pieces, and AT_ONCE pieces are worked on side by side: a merge is some rounds of its range's log, most
of which is waiting.  A range that is not empty, or whose neighbour lies on other nodes, is left to the usual course of things.
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

AT_ONCE = 16
LONGEST_PIECE = 32
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

    async def _sweep(self, swept: Sequence[Replica]) -> None:
        store = self._store
        try:
            pieces: list[list[Replica]] = []
            for replica in sorted(swept, key=lambda replica: replica.descriptor.start)[:MOST_AT_A_TIME]:
                start = replica.descriptor.start
                if self._is_bound(start):
                    continue
                if pieces and pieces[-1][-1].descriptor.end == start and len(pieces[-1]) < LONGEST_PIECE:
                    pieces[-1].append(replica)
                else:
                    pieces.append([replica])
            for first in range(0, len(pieces), AT_ONCE):
                await gather(store.scheduler, [self._merge_all(piece) for piece in pieces[first : first + AT_ONCE]])
            anchors: dict[RangeId, Replica | None] = {}
            for piece in pieces:
                self._hand_over(piece[0], anchors)
        finally:
            self._sweeping = False

    def _is_bound(self, boundary: bytes) -> bool:
        """Whether the boundary has become one of a rule (residency.py)."""
        return self._store.queue.residency.parts(boundary)

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

    def _hand_over(self, replica: Replica, anchors: dict[RangeId, Replica | None]) -> None:
        """Have an empty range that is left led where the anchor is."""
        store = self._store
        if replica.destroyed or not replica.leased or replica.descriptor.is_changing or replica.raft.transfer_target:
            return
        anchor = self._anchor(replica, anchors)
        leader = 0 if anchor is None or anchor.leased else store.leader_node(anchor)
        if leader not in (0, store.node_id) and store.liveness.is_live(leader):
            store.transfer_lease(replica, leader)

    async def _merge_all(self, piece: Sequence[Replica]) -> None:
        """Merge the piece into what stands left of it, if that is an anchor led here, else into its first range."""
        store = self._store
        left = store.replica_ending_at(piece[0].descriptor.start)
        is_anchored = left is not None and left.is_leaseholder() and not self._is_swept(left)
        for replica in piece if is_anchored else piece[1:]:
            if store.stopped or replica.destroyed or not replica.is_leaseholder():
                return
            start = replica.descriptor.start
            left = store.replica_ending_at(start)
            if left is None or not left.is_leaseholder() or left.descriptor.is_changing:
                return
            if not self._is_swept(replica):
                return
            try:
                await store.merger.merge(start)
                self.merges += 1
            except KVError as error:
                logger.debug("the empty range at %s is not merged now: %s", start.hex(), error)
                return
            await give_way(store.scheduler, MERGE_NS)
