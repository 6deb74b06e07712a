"""How busy each range is: requests per second, as its leaseholder counts them.

A request adds one to its range's ``RangeLocal.requests`` (30 ns), and that is all it does.  Every ``SAMPLE_NS`` the counters
are read, and the rate follows them with half of the difference, so that it forgets a burst in about ten seconds::

    counter    0    5,000   10,000   10,000   10,000        samples 2 s apart
    rate            1,250    1,875      938      469        per second

A request here is what reaches a range: a point read, a chunk of a scan, a lock, a commit.  A lease that moves takes no
history along.

The processor time of a range is its part of what the whole process took in the sample, a request counting as much as
``REQUEST_ROWS`` entries that a scan goes through::

    process 0.90 s of 2 s;  range 7: 10,000 requests, range 9: 10 requests that scan 160,000 entries   → 0.45 s each

Ranges without requests cost nothing but a look at each in every sample (0.1 µs).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydistdb.kv.descriptor import RangeId
from pydistdb.kv.leases import Leases
from pydistdb.kv.range_local import RangeLocal
from pydistdb.tasks import Timer

SAMPLE_NS = 2_000_000_000
REQUEST_ROWS = 16
MOST_ROW_NS = 100_000
"""Of the process's time, this much at most is blamed on a row: what an idle node does is nobody's."""
_DECAY = 0.5
_QUIET = 0.02
"""Rates below are none."""


class LoadMeter:
    """Follows the load of the ranges whose lease this node holds."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._timer: Timer | None = None
        self._sampled_ns = 0
        self._busy: list[RangeLocal] = []
        self._rates: dict[RangeId, float] | None = None
        """What ``rates`` tells until the next sample, or until a lease is lost."""
        self._losses = 0
        self._cpu_before_ns = 0
        self.cpu_ns: Callable[[], int] = lambda: 0
        """Tells the processor time of the process so far."""

    def start(self) -> None:
        self._sampled_ns = self._leases.scheduler.now_ns()
        self._cpu_before_ns = self.cpu_ns()
        self._later()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def busy(self) -> list[RangeLocal]:
        """The ranges held that had requests lately."""
        return [local for local in self._busy if not local.detached]

    def rates(self) -> Mapping[RangeId, float]:
        """Load by range, in requests per second, of those that have any."""
        if self._rates is None or self._losses != self._leases.losses:
            self._rates = {local.range_id: local.load for local in self.busy()}
            self._losses = self._leases.losses
        return self._rates

    def _later(self) -> None:
        scheduler = self._leases.scheduler
        self._timer = scheduler.call_at(scheduler.now_ns() + SAMPLE_NS, self._sample)

    def _sample(self) -> None:
        now_ns, cpu_ns = self._leases.scheduler.now_ns(), self.cpu_ns()
        seconds = (now_ns - self._sampled_ns) / 1e9
        busy = [local for local in self._leases.each() if local.requests or local.request_rate]
        work = sum(local.requests * REQUEST_ROWS + local.rows for local in busy)
        row_ns = min((cpu_ns - self._cpu_before_ns) / work, MOST_ROW_NS) if work else 0.0
        for local in busy:
            count, rows = local.requests, local.rows
            local.requests = local.rows = 0
            rate = local.request_rate + _DECAY * (count / seconds - local.request_rate)
            local.request_rate = rate if rate > _QUIET else 0.0
            load = local.load + _DECAY * ((count + rows / REQUEST_ROWS) / seconds - local.load)
            local.load = load if local.request_rate else 0.0
            cpu = (count * REQUEST_ROWS + rows) * row_ns / 1e9 / seconds
            local.cpu_share += _DECAY * (cpu - local.cpu_share)
        self._busy, self._rates = busy, None
        self._sampled_ns, self._cpu_before_ns = now_ns, cpu_ns
        self._later()
