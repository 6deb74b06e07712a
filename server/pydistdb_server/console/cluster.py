"""What the pages show, gathered from all nodes and judged: the survey, load over time, health.

A survey is asked for at most once in ``FRESH_SECONDS``, however many people look on, and everything long is done in slices, with
others having their turn in between.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydistdb.kv.survey import Survey
from pydistdb.kv.version_report import VersionReport, version_report
from pydistdb.sql.catalog.garbage import recorded_garbage
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.pg_catalog import operations
from pydistdb.sql.statement_statistics import quantile_us
from pydistdb.sql.types.base import EvalContext
from pydistdb.tasks import Completion, pause

from pydistdb_server.console.history import INTERVAL_SECONDS, History, Load

if TYPE_CHECKING:
    from pydistdb_server.node import Node

T = TypeVar("T")

FRESH_SECONDS = 1.5
ITEMS_PER_SLICE = 100
CLOCK_SHARE = 0.5
DISK_SHARE = 0.1

Row = dict[str, Any]


class Point(NamedTuple):
    """The whole cluster in one interval; None where no node told."""

    slot: int
    statements: float | None = None
    errors: float | None = None
    sessions: int | None = None
    median_ms: float | None = None
    slowest_ms: float | None = None
    """The 99th of a hundred."""


class ClusterView:
    """The cluster as this node sees it."""

    def __init__(self, node: Node, history: History) -> None:
        self._node = node
        self.history = history
        self._survey: Survey | None = None
        self._rows: list[Row] = []
        self._surveyed = 0.0
        self._running: Completion[None] | None = None

    # ------------------------------------------------------------------------------------------ survey

    async def survey(self) -> Survey:
        """What all nodes say, at most ``FRESH_SECONDS`` old."""
        while self._running is not None:
            await self._running
        if self._survey is None or time.monotonic() - self._surveyed > FRESH_SECONDS:
            running = self._running = Completion()
            try:
                survey = await self._node.operations.surveyor.survey(quick=True)
                self._rows = [row async for row in self.sliced(operations.ranges(self.view(), self.context(), survey))]
                self._survey = survey
                self._surveyed = time.monotonic()
            finally:
                self._running = None
                running.set(None)
        return self._survey

    def forget(self) -> None:
        """Something was changed: the next page asks anew."""
        self._survey = None

    async def ranges(self) -> list[Row]:
        """The rows of proddb.ranges, in key order."""
        await self.survey()
        return self._rows

    async def nodes(self) -> list[Row]:
        """The rows of proddb.nodes, node10 behind node9."""
        rows: list[Row] = list(operations.nodes(self.view(), self.context(), await self.survey()))
        return sorted(rows, key=lambda row: (len(row["node_name"]), row["node_name"]))

    async def jobs(self) -> list[Row]:
        """The rows of proddb.jobs."""
        gathered = await self.survey(), await recorded_garbage(self._node.gateway)
        return [row async for row in self.sliced(operations.jobs(self.view(), self.context(), gathered))]

    def view(self) -> StateView:
        """The catalog, as from the database with most tables: those of others are shown with their database's name."""
        catalog = self._node.catalog
        largest = max(catalog.state.databases.values(), key=lambda database: len(database.tables))
        return catalog.view(largest.descriptor.name, ("public",))

    def context(self) -> EvalContext:
        """What the system views ask for the cluster's state."""
        context = EvalContext()
        context.extra = SimpleNamespace(environment=self._node.environment, is_active=True)
        return context

    async def sliced(self, items: Iterable[T], at_once: int = ITEMS_PER_SLICE) -> AsyncIterator[T]:
        """The same items, with a turn for others every so often."""
        for number, item in enumerate(items, 1):
            yield item
            if number % at_once == 0:
                await pause(self._node.loop)

    # ------------------------------------------------------------------------------------------ health

    async def problems(self) -> list[tuple[str, str]]:
        """What is wrong: ("error" or "warning", in words)."""
        survey, found = await self.survey(), []
        live = [node.node_id for node in survey.nodes if node.state == "live"]
        dead = [node.name for node in survey.nodes if node.state == "dead"]
        if dead:
            found.append(("error", f"{_count(len(dead), 'node')} not answering: {', '.join(dead)}"))
        rows = await self.ranges()
        alive = set(live)
        leaderless = sum(row["leaseholder"] not in alive for row in rows)
        if leaderless:
            found.append(("error", f"{_count(leaderless, 'range')} without a leader: statements on them wait or fail"))
        wanted = min(survey.replication_factor, len([n for n in survey.nodes if n.state in ("live", "dead")]))
        missing = sum(len(alive.intersection(row["replicas"].items)) < wanted for row in rows)
        if missing:
            found.append(("warning", f"{_count(missing, 'range')} with fewer than {wanted} live replicas"))
        found += self._node_problems(survey)
        versions = version_report(survey)
        if versions.state != "current":
            found.append(("warning", version_line(versions)))
        hot = sum(row["heat"] == "hot" for row in rows)
        if hot:
            found.append(("warning", f"{_count(hot, 'hot range')}: see Ranges for what would help"))
        return found

    def _node_problems(self, survey: Survey) -> list[tuple[str, str]]:
        found = []
        for node in survey.nodes:
            answer = survey.answers.get(node.node_id)
            if answer is not None and answer.status.write_error:
                found.append(("error", f"{node.name} cannot write: {answer.status.write_error}"))
            if answer is not None and answer.disk_total and answer.disk_free < DISK_SHARE * answer.disk_total:
                found.append(("warning", f"{node.name} has less than a tenth of its disk left"))
            if abs(node.clock_offset_us) > CLOCK_SHARE * self._node.clock.max_offset_us:
                found.append(("warning", f"the clock of {node.name} differs by {node.clock_offset_us / 1e3:.0f} ms"))
            if node.mode:
                found.append(("warning", f"{node.name} is {node.mode}"))
        return found

    # ------------------------------------------------------------------------------------------ load

    async def loads(self, seconds: int) -> tuple[list[Point], dict[int, list[Load]]]:
        """The last ``seconds``: the cluster as a whole, and every node's samples."""
        last = int(time.time()) // INTERVAL_SECONDS
        first = last - seconds // INTERVAL_SECONDS
        by_node = await self.history.loads(first)
        slots: dict[int, list[Load]] = {slot: [] for slot in range(first, last)}
        for loads in by_node.values():
            for load in loads:
                if load.slot in slots:
                    slots[load.slot].append(load)
        return [_point(slot, loads) for slot, loads in slots.items()], by_node


def _point(slot: int, loads: list[Load]) -> Point:
    if not loads:
        return Point(slot)
    counts = [sum(column) for column in zip(*(load.latencies for load in loads), strict=True)]
    return Point(
        slot,
        sum(load.statements for load in loads) / INTERVAL_SECONDS,
        sum(load.errors for load in loads) / INTERVAL_SECONDS,
        sum(load.sessions for load in loads),
        quantile_us(counts, 0.5) / 1e3 if any(counts) else None,
        quantile_us(counts, 0.99) / 1e3 if any(counts) else None,
    )


def version_line(report: VersionReport) -> str:
    """Where a rolling upgrade stands."""
    if report.state == "current":
        return f"The cluster is at version {report.version}, the newest that its nodes know."
    return f"The cluster is at version {report.version} of {report.newest}, {report.state}: {report.detail}."


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"
