"""What statements cost: counters per normalised text, and histograms of their latency by kind.

Theory of operation
-------------------
Every plan points to the ``StatementCounts`` of its statement, user and database, so counting is two additions on an object
at hand (0.1 µs).  What is answered on the fast path takes some 20 µs; two looks at the clock would be felt.  So of those one
in ``SAMPLE_EVERY`` is timed, the first included, and stands for the others::

    calls      1  2 … 16  17  18 … 32  33 …         timed: 1, 17, 33; each stands for the sixteen that end with it
    total      mean of the timed ones × calls

All other statements are timed one by one.  The histograms count a sample as many times as it stands for.

``MAX_STATEMENTS`` are kept; beyond that the least called twentieth is forgotten (``deallocations`` tells how often), as in
pg_stat_statements.  Plans may outlive that: a forgotten entry starts again from zero, and since the first call is always
timed, it is then taken in again.

Source: PostgreSQL 15 manual, F.32; pg_stat_statements.c (entry_dealloc).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any, NamedTuple
from weakref import ReferenceType, WeakValueDictionary

from pydistdb.sql.clock import now_us

MAX_STATEMENTS = 5_000
SAMPLE_EVERY = 16
_MASK = SAMPLE_EVERY - 1

BUCKETS_US = (25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000) + (
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
)
"""Upper bounds; a last bucket has what took longer."""

KINDS = ("select", "insert", "update", "delete", "transaction", "other")
_KIND_OF = {
    "SELECT": "select",
    "INSERT": "insert",
    "UPDATE": "update",
    "DELETE": "delete",
    **dict.fromkeys(("BEGIN", "START TRANSACTION", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE"), "transaction"),
}

Key = tuple[int, int, int]
"""User, database, query id."""


class Histogram:
    """How long statements took: ``counts`` by bucket."""

    __slots__ = ("counts", "total_us")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_US) + 1)
        self.total_us = 0


def quantile_us(counts: Iterable[int], fraction: float) -> float:
    """An estimate from a histogram's counts, linear within a bucket; 0 without any."""
    counts = list(counts)
    wanted = sum(counts) * fraction
    below = 0.0
    for bound, lower, count in zip((*BUCKETS_US, BUCKETS_US[-1]), (0, *BUCKETS_US), counts, strict=True):
        if count and below + count >= wanted:
            return lower + (bound - lower) * (wanted - below) / count
        below += count
    return 0.0


class StatementCounts:
    """One statement of one user in one database."""

    __slots__ = (
        "__weakref__",
        "calls",
        "histogram",
        "is_kept",
        "key",
        "kind",
        "longest_us",
        "plan",
        "rows",
        "shortest_us",
        "squares",
        "statistics",
        "text",
        "timed",
        "total_us",
    )

    def __init__(self, statistics: StatementStatistics, key: Key, text: str, tag: str) -> None:
        self.statistics = statistics
        self.key = key
        self.text = text
        self.kind = _KIND_OF.get(tag, "other")
        self.histogram = statistics.histograms[self.kind]
        self.plan: ReferenceType[Any] | None = None
        """The plan that was made last, as long as somebody else keeps it."""
        self.is_kept = False
        self.clear()

    def clear(self) -> None:
        self.calls = self.rows = 0
        self.timed = self.total_us = self.longest_us = 0
        self.shortest_us = -1
        self.squares = 0

    def count_fast(self, rows: int, started_us: int) -> None:
        """Something was done on the fast path; the wall clock is looked at if it is to be timed."""
        self.calls = calls = self.calls + 1
        self.rows += rows
        if calls & _MASK == 1:
            self._took(max(now_us() - started_us, 0), SAMPLE_EVERY if calls > 1 else 1)

    def count(self, rows: int, duration_us: int) -> None:
        """It was done in the ordinary way."""
        self.calls += 1
        self.rows += rows
        self._took(duration_us, 1)

    def _took(self, duration_us: int, weight: int) -> None:
        if not self.is_kept:
            self.statistics.keep(self)
        spent_us = duration_us * weight
        histogram = self.histogram
        histogram.counts[bisect_left(BUCKETS_US, duration_us)] += weight
        histogram.total_us += spent_us
        self.timed += weight
        self.total_us += spent_us
        self.squares += duration_us * spent_us
        if duration_us > self.longest_us:
            self.longest_us = duration_us
        if duration_us < self.shortest_us or self.shortest_us < 0:
            self.shortest_us = duration_us

    def report(self) -> StatementReport:
        """These counters as they travel."""
        return StatementReport(
            *self.key,
            self.text,
            self.kind,
            self.calls,
            self.rows,
            self.timed,
            self.total_us,
            self.squares,
            max(self.shortest_us, 0),
            self.longest_us,
        )


class StatementReport(NamedTuple):
    """What is known of a statement, on one node or (``joined``) on several."""

    user: int
    database: int
    query_id: int
    text: str
    kind: str
    calls: int
    rows: int
    timed: int
    total_us: int
    squares: int
    shortest_us: int
    longest_us: int

    @property
    def key(self) -> Key:
        return self.user, self.database, self.query_id

    @property
    def mean_ms(self) -> float:
        return self.total_us / self.timed / 1e3 if self.timed else 0.0

    @property
    def total_ms(self) -> float:
        return self.mean_ms * self.calls

    @property
    def deviation_ms(self) -> float:
        """The standard deviation of the population, as in Postgres."""
        if not self.timed:
            return 0.0
        mean = self.total_us / self.timed
        return float(max(self.squares / self.timed - mean * mean, 0.0) ** 0.5) / 1e3


def joined(reports: Iterable[StatementReport]) -> list[StatementReport]:
    """The reports of several nodes, those of the same statement added up."""
    found: dict[Key, StatementReport] = {}
    for report in reports:
        other = found.get(report.key)
        if other is not None:
            report = report._replace(
                calls=report.calls + other.calls,
                rows=report.rows + other.rows,
                timed=report.timed + other.timed,
                total_us=report.total_us + other.total_us,
                squares=report.squares + other.squares,
                shortest_us=min(report.shortest_us, other.shortest_us),
                longest_us=max(report.longest_us, other.longest_us),
            )
        found[report.key] = report
    return list(found.values())


class StatementStatistics:
    """All statements of a node."""

    def __init__(self, most: int = MAX_STATEMENTS) -> None:
        self._most = most
        self._kept: dict[Key, StatementCounts] = {}
        self._known: WeakValueDictionary[Key, StatementCounts] = WeakValueDictionary()
        """The forgotten ones too, as long as a plan points to them."""
        self._forgotten_calls = dict.fromkeys(KINDS, 0)
        self.histograms = {kind: Histogram() for kind in KINDS}
        self.deallocations = 0
        self.reset_us = now_us()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Key) -> StatementCounts | None:
        return self._known.get(key)

    def counts(self, key: Key, text: str, tag: str) -> StatementCounts:
        """The counters of a statement, which a plan is to point to."""
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = StatementCounts(self, key, text, tag)
        return found

    def keep(self, counts: StatementCounts) -> None:
        """A statement has been executed that is not (or no longer) listed."""
        if len(self._kept) >= self._most:
            self.deallocations += 1
            by_calls = sorted(self._kept.values(), key=lambda counts: counts.calls)
            for least in by_calls[: max(self._most // 20, 1)]:
                self._forget(least)
        counts.is_kept = True
        self._kept[counts.key] = counts

    def _forget(self, counts: StatementCounts) -> None:
        self._forgotten_calls[counts.kind] += counts.calls
        counts.is_kept = False
        counts.clear()
        del self._kept[counts.key]

    def reset(self, user: int = 0, database: int = 0, query_id: int = 0) -> None:
        """Forget what matches; 0 matches everything."""
        for counts in list(self._kept.values()):
            own_user, own_database, own_query_id = counts.key
            if user in (0, own_user) and database in (0, own_database) and query_id in (0, own_query_id):
                self._forget(counts)
        if not (user or database or query_id):
            self.deallocations = 0
            self.reset_us = now_us()

    def reports(self, most: int | None = None) -> list[StatementReport]:
        """All statements; or those that took most time."""
        reports = [counts.report() for counts in self._kept.values()]
        if most is not None and len(reports) > most:
            reports.sort(key=lambda report: -report.total_us)
            del reports[most:]
        return reports

    def calls(self) -> dict[str, int]:
        """How many statements of each kind were executed."""
        total = dict(self._forgotten_calls)
        for counts in self._kept.values():
            total[counts.kind] += counts.calls
        return total
