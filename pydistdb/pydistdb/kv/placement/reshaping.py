"""Ranges that look after themselves: split when large or busy, merged when small and quiet, and leases that follow the load.

Every node looks after the ranges that it leads, every ``LOOK_NS`` (as often as the load is sampled, load.py)::

    larger than range.max_bytes                        split near the middle of its bytes
    over range.split_qps for PATIENCE looks            split where the sampled keys are divided evenly (splitting.py);
                                                       a single hot key is noted for proddb.hotspots instead
    this node much busier than another                 hand the lease of one range over that evens the two out
    cut by itself once, and small and quiet (with its  merged with its left neighbour, after range.merge_after
      left neighbour) ever since

What people have cut (by command, or SHARD BY HASH) stays cut: only ranges that came into being by this module are merged.
Each has its hysteresis: a merge waits for a quarter of the load and half of the size that call for a split; a lease moves only
if the difference stays the same way round, one at a time, and none soon after a split or a move, when the rates say nothing yet.

Sizes are counted by going through the data, so a range is measured only after many writes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING

from pydistdb.kv.api import KVError
from pydistdb.kv.descriptor import NodeId, RangeId
from pydistdb.kv.leases import RangeLocal
from pydistdb.kv.load import SAMPLE_NS
from pydistdb.kv.placement.allocator import NodeView
from pydistdb.kv.placement.splitting import KeySampler, hot_key, split_point
from pydistdb.kv.replica import Replica
from pydistdb.tasks import Timer

if TYPE_CHECKING:
    from pydistdb.kv.operations import Operations

logger = logging.getLogger(__name__)

LOOK_NS = SAMPLE_NS
PATIENCE = 3
SETTLING_NS = 8_000_000_000
"""After a split or a move the rates need so long to tell anything."""
MEASURED_WRITES = 10_000
"""A range is measured (again) after so many writes, or a quarter of its keys."""
USER_KEYS = b"\x04"
"""What lies below is the system's: not split by itself."""
_BUSIER = 1.25
_AT_ONCE = -(1 << 60)
"""Measured when that many writes were made: the range is measured at the next look."""


class Reshaper:
    """One node's part."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._store = operations.store
        self._leases = operations.gateway.leases
        self._busy_looks: dict[RangeId, int] = {}
        self._quiet_since_ns: dict[RangeId, int] = {}
        self._measured_writes: dict[RangeId, int] = {}
        self._settled_ns = 0
        self._looking = False
        self._timer: Timer | None = None
        self.splits = 0
        self.merges = 0
        self.leases_moved = 0

    def start(self) -> None:
        self._later()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _later(self) -> None:
        scheduler = self._store.scheduler
        self._timer = scheduler.call_at(scheduler.now_ns() + LOOK_NS, self._due)

    def _due(self) -> None:
        if self._store.stopped:
            return
        self._later()
        if not self._looking:
            self._looking = True
            self._store.background(self._look(), "reshape ranges")

    def setting(self, name: str) -> float:
        return self._store.membership.settings.value(name)

    async def _look(self) -> None:
        try:
            held = [local for local in self._leases.all() if local.replica.is_leaseholder()]
            self._sample(held)
            if self.setting("rebalance.enabled"):
                for local in held:
                    if not local.detached:
                        await self._look_at(local)
                self._even_out(held)
        finally:
            self._looking = False

    def _sample(self, held: list[RangeLocal]) -> None:
        """Note keys where they may be wanted soon."""
        rate = self.setting("range.split_qps") if self._has_company else inf
        for local in held:
            if local.request_rate < rate / 4:
                local.sampler, local.hot_key = None, b""
            elif local.request_rate > rate / 2 and local.sampler is None:
                local.sampler = KeySampler()
        known = {local.range_id for local in held}
        for memory in (self._busy_looks, self._quiet_since_ns, self._measured_writes):
            for range_id in memory.keys() - known:
                del memory[range_id]

    async def _look_at(self, local: RangeLocal) -> None:
        replica = self._store.replicas.get(local.range_id)
        if replica is None or replica.descriptor.is_changing:
            return
        try:
            cut = (self._cut_by_load(local) or await self._cut_by_size(local, replica)) if self._has_company else None
            if cut is not None and max(local.start, USER_KEYS) < cut < local.end:
                right = await self._store.split(cut, automatic=True)
                self.splits += 1
                if right is not None and self._measured_writes.get(local.range_id) == _AT_ONCE:
                    self._measured_writes[right.range_id] = _AT_ONCE
                self._settled_ns = self._store.scheduler.now_ns() + SETTLING_NS
                logger.info("range %d was split by itself at %s", local.range_id, cut.hex())
            elif await self._is_done_with(local, replica):
                await self._operations.merge_at(local.start)
                self.merges += 1
        except KVError as error:
            logger.info("range %d stays as it is: %s", local.range_id, error)

    # ---------------------------------------------------------------------------------------------------------- splits

    @property
    def _has_company(self) -> bool:
        """Ranges are cut so that other nodes can take a part.  A node without others serves one range better than two:
        transactions over both would need two phases."""
        return len(self._store.live_nodes()) > 1

    def _cut_by_load(self, local: RangeLocal) -> bytes | None:
        looks = self._busy_looks.get(local.range_id, 0)
        busy = local.request_rate > self.setting("range.split_qps")
        self._busy_looks[local.range_id] = looks = looks + 1 if busy else 0
        if looks < PATIENCE or local.sampler is None:
            return None
        from_sample = local.sampler.keys()
        boundary = self._operations.boundary
        cut = split_point(from_sample, local.start, boundary)
        local.hot_key = hot_key(from_sample, boundary) if cut is None else b""
        self._busy_looks[local.range_id] = 0
        local.sampler = KeySampler()
        return cut

    async def _cut_by_size(self, local: RangeLocal, replica: Replica) -> bytes | None:
        sizes = self._operations.surveyor.sizes
        known = sizes.known(local.range_id)
        written = replica.logged_writes - self._measured_writes.get(local.range_id, 0)
        if written < max(MEASURED_WRITES, known.keys // 4 if known is not None else 0):
            return None
        self._measured_writes[local.range_id] = replica.logged_writes
        await sizes.refresh([replica])
        known = sizes.known(local.range_id)
        if known is None or known.size_bytes <= self.setting("range.max_bytes"):
            return None
        self._measured_writes[local.range_id] = _AT_ONCE  # either part may still be too large
        return self._operations.boundary(known.middle)

    # ---------------------------------------------------------------------------------------------------------- merges

    async def _is_done_with(self, right: RangeLocal, replica: Replica) -> bool:
        """Whether a range that was cut off by itself is small and quiet, and so is its left neighbour, whoever leads that."""
        if not replica.descriptor.automatic:
            return False
        now_ns = self._store.scheduler.now_ns()
        quiet_rate = self.setting("range.split_qps") / 8
        since = self._quiet_since_ns.setdefault(right.range_id, now_ns)
        if right.request_rate > quiet_rate:
            self._quiet_since_ns[right.range_id] = now_ns
            return False
        if now_ns - since < self.setting("range.merge_after") * 1e9:
            return False
        self._quiet_since_ns[right.range_id] = now_ns  # asking everybody is not for every look
        survey = await self._operations.surveyor.survey()
        pair = [report for report in survey.ranges() if right.start in (report.status.start, report.status.end)]
        total = sum(1 << 62 if report.size_bytes is None else report.size_bytes for report in pair)
        if len(pair) != 2 or any(report.requests_per_second > quiet_rate for report in pair):
            return False
        return total < self.setting("range.max_bytes") / 2

    # ---------------------------------------------------------------------------------------------------------- leases

    def _even_out(self, held: list[RangeLocal]) -> None:
        """Hand one lease over, if that makes this node and another more even."""
        store = self._store
        now_ns = store.scheduler.now_ns()
        if now_ns < self._settled_ns:
            return
        rates = {local.range_id: local.request_rate for local in held}
        voters = {
            local.range_id: [voter.node_id for voter in local.replica.descriptor.voters()]
            for local in held
            if not local.replica.descriptor.is_changing
        }
        move = lease_for_load(
            store.node_id, rates, voters, store.queue.node_views(), self.setting("range.split_qps") / 4
        )
        if move is None:
            return
        range_id, to = move
        if store.transfer_lease(store.replicas[range_id], to):
            self.leases_moved += 1
            self._settled_ns = now_ns + SETTLING_NS
            logger.info("the lease of range %d goes to node %d, which has less to do", range_id, to)


def lease_for_load(
    here: NodeId,
    rates: Mapping[RangeId, float],
    voters: Mapping[RangeId, list[NodeId]],
    nodes: Mapping[NodeId, NodeView],
    least: float,
) -> tuple[RangeId, NodeId] | None:
    """Which lease to hand over, and where to: the one that leaves the smallest difference between the two nodes.

    ``least``: differences below are not worth a move."""
    mine = sum(rates.values())
    best: tuple[float, RangeId, NodeId] | None = None
    for range_id, nodes_of in sorted(voters.items()):
        rate = rates[range_id]
        for node_id in nodes_of:
            node = nodes.get(node_id)
            if node_id == here or node is None or not node.takes_replicas:
                continue
            before, after = mine - node.load, abs((mine - rate) - (node.load + rate))
            if before < least or mine < _BUSIER * node.load or after > before / 2:
                continue
            if best is None or after < best[0]:
                best = (after, range_id, node_id)
    return None if best is None else best[1:]
