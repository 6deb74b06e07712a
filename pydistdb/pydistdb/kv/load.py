"""How busy each range is: requests per second, as its leaseholder counts them.

A request adds one to its range's ``RangeLocal.requests`` (30 ns), and that is all it does.  Every ``SAMPLE_NS`` the counters
are read, and the rate follows them with half of the difference, so that it forgets a burst in about ten seconds::

    counter    0    5,000   10,000   10,000   10,000        samples 2 s apart
    rate            1,250    1,875      938      469        per second

A request here is what reaches a range: a point read, a chunk of a scan, a lock, a commit.  A lease that moves takes no
history along.
"""

from __future__ import annotations

from pydistdb.kv.leases import Leases
from pydistdb.tasks import Timer

SAMPLE_NS = 2_000_000_000
_DECAY = 0.5


class LoadMeter:
    """Follows the load of the ranges whose lease this node holds."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._timer: Timer | None = None
        self._sampled_ns = 0

    def start(self) -> None:
        self._sampled_ns = self._leases.scheduler.now_ns()
        self._later()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def rates(self) -> dict[int, float]:
        """Requests per second by range."""
        return {local.range_id: local.request_rate for local in self._leases.all()}

    def hot_key(self, range_id: int) -> bytes:
        """The key that gets most of a range's requests, if they cannot be divided; empty otherwise."""
        return next((local.hot_key for local in self._leases.all() if local.range_id == range_id), b"")

    def _later(self) -> None:
        scheduler = self._leases.scheduler
        self._timer = scheduler.call_at(scheduler.now_ns() + SAMPLE_NS, self._sample)

    def _sample(self) -> None:
        now_ns = self._leases.scheduler.now_ns()
        seconds = (now_ns - self._sampled_ns) / 1e9
        self._sampled_ns = now_ns
        for local in self._leases.all():
            count, local.requests = local.requests, 0
            local.request_rate += _DECAY * (count / seconds - local.request_rate)
        self._later()
