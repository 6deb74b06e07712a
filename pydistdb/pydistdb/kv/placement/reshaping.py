"""Ranges that look after themselves: split when large or busy, merged when small and quiet.

Every node looks after the ranges that it leads, every ``LOOK_NS`` (as often as the load is sampled, load.py)::

    larger than range.max_bytes                        split near the middle of its bytes
    over range.split_qps for PATIENCE looks            split where the sampled keys are divided evenly, into several parts
                                                       if it is far over (splitting.py);
                                                       a single hot key is noted for proddb.hotspots instead
    cut by itself once, and small and quiet (with its  merged with its left neighbour, after range.merge_after
      left neighbour) ever since
    the same, and empty                                merged with its left neighbour soon (sweeping.py)
    this node much busier than another                 a lease or a replica goes elsewhere (evening.py)

What people have cut (by command, or SHARD BY HASH) stays cut as long as there is the table: only ranges that came into being
by this module are merged, and those that dropped tables were cut into.
Each has its hysteresis: a merge waits for a quarter of the load and half of the size that call for a split.

Sizes are counted by going through the data, so a range is measured only after many writes, and once when its lease has come
here, for whoever led it before may have been about to split it.  That takes at most one ``MEASURING_PART``th of the node's
time: a restarted node comes round to its thousands of ranges, without its clients noticing.
"""

from __future__ import annotations

import logging
from math import ceil, inf
from typing import TYPE_CHECKING

from pydistdb.kv.api import KVError
from pydistdb.kv.descriptor import RangeId
from pydistdb.kv.load import SAMPLE_NS
from pydistdb.kv.placement.evening import Evener
from pydistdb.kv.placement.splitting import KeySampler, hot_key, split_points
from pydistdb.kv.range_local import RangeLocal
from pydistdb.kv.replica import Replica
from pydistdb.kv.survey import RangeReport, Survey
from pydistdb.tasks import Timer

if TYPE_CHECKING:
    from pydistdb.kv.operations import Operations

logger = logging.getLogger(__name__)

LOOK_NS = SAMPLE_NS
PATIENCE = 3
FILLED = 0.6
"""A range is cut into so many parts that each gets this much of ``range.split_qps`` at most."""
MOST_PARTS = 8
MEASURED_WRITES = 10_000
"""A range is measured (again) after so many writes, or a quarter of its keys."""
MEASURING_PART = 40
MOST_MERGES = 8
"""Merges begun in one look."""
USER_KEYS = b"\x04"
"""What lies below is the system's: not split by itself."""


class Reshaper:
    """One node's part."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._store = operations.store
        self._leases = operations.gateway.leases
        self._evener = Evener(operations.store)
        self._busy_looks: dict[RangeId, int] = {}
        self._quiet_since_ns: dict[RangeId, int] = {}
        self._measured_writes: dict[RangeId, int] = {}
        """How much had been written when a range was measured; no entry: not measured under this lease."""
        self._max_bytes = 0.0
        self._credit_ns = 0
        """How much time the measuring of ranges that nobody writes to may take at present."""
        self._looking = False
        self._timer: Timer | None = None
        self.splits = 0
        self._quiet_merges = 0

    @property
    def merges(self) -> int:
        return self._quiet_merges + self._store.sweeper.merges

    @property
    def leases_moved(self) -> int:
        return self._evener.leases_moved

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
            # Whoever acts on one of them makes sure of its lease: there may be thousands.
            busy = self._operations.gateway.load.busy()
            self._sample(busy)
            if not self.setting("rebalance.enabled"):
                return
            self._store.sweeper.begin()
            self._credit_ns = min(self._credit_ns + LOOK_NS // MEASURING_PART, LOOK_NS // MEASURING_PART)
            for replica in self._to_split(busy):
                await self._look_at(replica)
            await self._merge_quiet()
            if self._has_company:
                held = [local for local in busy if not local.detached and local.replica.is_leaseholder()]
                self._evener.even_out(held, self.setting("range.split_qps"))
        finally:
            self._looking = False

    def _sample(self, busy: list[RangeLocal]) -> None:
        """Note keys where they may be wanted soon, and forget what is led elsewhere by now."""
        rate = self.setting("range.split_qps") if self._has_company else inf
        for local in busy:
            if local.request_rate < rate / 4:
                local.sampler, local.hot_key = None, b""
            elif local.request_rate > rate / 2 and local.sampler is None:
                local.sampler = KeySampler()
        for memory in (self._busy_looks, self._quiet_since_ns, self._measured_writes):
            for range_id in memory.keys() - self._store.leased.keys():
                del memory[range_id]

    # ---------------------------------------------------------------------------------------------------------- splits

    @property
    def _has_company(self) -> bool:
        """Ranges are cut so that other nodes can take a part.  A node without others serves one range better than two:
        transactions over both would need two phases."""
        return len(self._store.live_nodes()) > 1

    def _to_split(self, busy: list[RangeLocal]) -> list[Replica]:
        """The ranges that may be too busy or too large."""
        if not self._has_company:
            return []
        if self._max_bytes != self.setting("range.max_bytes"):
            self._max_bytes = self.setting("range.max_bytes")
            self._measured_writes.clear()
        most, looks = self.setting("range.split_qps"), self._busy_looks
        chosen = {local.range_id for local in busy if local.request_rate > most or looks.get(local.range_id)}
        measured = self._measured_writes
        return [
            replica
            for range_id, replica in self._store.leased.items()
            if range_id in chosen or replica.logged_writes - measured.get(range_id, -MEASURED_WRITES) >= MEASURED_WRITES
        ]

    async def _look_at(self, replica: Replica) -> None:
        if not replica.leased or replica.destroyed or replica.descriptor.is_changing:
            return
        local = self._leases.find(replica.descriptor.start)
        if local is None or not replica.is_leaseholder():
            return
        try:
            cuts = self._cuts_by_load(local) or await self._cut_by_size(local, replica)
            for cut in reversed(cuts):  # what is left of a cut keeps the range's name
                if max(local.start, USER_KEYS) < cut < local.end:
                    await self._store.split(cut, automatic=True)
                    self.splits += 1
                    self._evener.wait()
                    logger.info("range %d was split by itself at %s", local.range_id, cut.hex())
        except KVError as error:
            logger.info("range %d stays as it is: %s", local.range_id, error)

    def _cuts_by_load(self, local: RangeLocal) -> list[bytes]:
        looks = self._busy_looks.get(local.range_id, 0)
        most = self.setting("range.split_qps")
        busy = local.request_rate > most
        if not busy and not looks:
            return []
        self._busy_looks[local.range_id] = looks = looks + 1 if busy else 0
        if busy and looks == 1:
            local.sampler = KeySampler()  # what was asked for before it got busy is of no interest
        if looks < PATIENCE or local.sampler is None:
            return []
        from_sample = local.sampler.keys()
        boundary = self._operations.boundary
        parts = min(ceil(local.request_rate / (most * FILLED)), MOST_PARTS)
        cuts = split_points(from_sample, local.start, boundary, parts)
        local.hot_key = b"" if cuts else hot_key(from_sample, boundary)
        self._busy_looks[local.range_id] = 0
        local.sampler = KeySampler()
        return cuts

    async def _cut_by_size(self, local: RangeLocal, replica: Replica) -> list[bytes]:
        sizes = self._operations.surveyor.sizes
        known = sizes.known(local.range_id)
        before = self._measured_writes.get(local.range_id)
        if before is None:
            if self._credit_ns <= 0:
                return []  # another time
        elif replica.logged_writes - before < max(MEASURED_WRITES, known.keys // 4 if known is not None else 0):
            return []
        written = replica.logged_writes
        await sizes.refresh([replica])
        known = sizes.known(local.range_id)
        if known is None or known.generation != replica.descriptor.generation:
            return []
        if before is None:
            self._credit_ns -= known.duration_ns
        self._measured_writes[local.range_id] = written
        if known.size_bytes <= self.setting("range.max_bytes"):
            return []
        del self._measured_writes[local.range_id]  # either part may still be too large
        return [self._operations.boundary(known.middle)]

    # ---------------------------------------------------------------------------------------------------------- merges

    async def _merge_quiet(self) -> None:
        """Merge ranges that were cut off by themselves and are small and quiet, as are their left neighbours."""
        due = self._long_quiet()
        if not due:
            return
        survey = await self._operations.surveyor.survey()  # one for all of them
        merged = 0
        for start in quiet_starts(
            survey, due, self.setting("range.split_qps") / 8, self.setting("range.max_bytes") / 2
        ):
            if merged >= MOST_MERGES:
                return
            try:
                await self._operations.merge_at(start)
                self._quiet_merges += 1
                merged += 1
            except KVError as error:
                logger.info("the ranges at %s are not merged: %s", start.hex(), error)

    def _long_quiet(self) -> list[bytes]:
        """Where ranges begin that have been quiet for ``range.merge_after``."""
        now_ns, since = self._store.scheduler.now_ns(), self._quiet_since_ns
        quiet_rate, after_ns = self.setting("range.split_qps") / 8, int(self.setting("range.merge_after") * 1e9)
        rates = self._store.range_rates()
        due: list[bytes] = []
        for range_id, replica in self._store.leased.items():
            if not replica.descriptor.automatic:
                continue
            if rates.get(range_id, 0.0) > quiet_rate:
                since[range_id] = now_ns
            elif now_ns - since.setdefault(range_id, now_ns) >= after_ns:
                since[range_id] = now_ns  # asking everybody is not for every look
                due.append(replica.descriptor.start)
        return due


def quiet_starts(survey: Survey, due: list[bytes], most_rate: float, most_bytes: float) -> list[bytes]:
    """Those of ``due`` at which the ranges left and right are quiet, and small together."""
    reports = survey.ranges()
    right = {report.status.start: report for report in reports}
    left = {report.status.end: report for report in reports}

    def is_quiet(*pair: RangeReport | None) -> bool:
        total = 0.0
        for report in pair:
            if report is None or report.size_bytes is None or report.requests_per_second > most_rate:
                return False
            total += report.size_bytes
        return total < most_bytes

    return [start for start in due if is_quiet(left.get(start), right.get(start))]
