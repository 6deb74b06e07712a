"""ANALYZE: what the planner wants to know about a table, from one pass over its rows.

Rows are counted exactly, and a sample of SAMPLE_ROWS of them is taken, where they lie (sampling.py); columns are described
from the sample with Postgres's own estimators: Haas and Stokes's for the number of distinct values, common values with
their frequencies, and an equi-depth histogram of the rest (their documentation: manual 76.1; analyze.c's comments name the
paper).  Tables that change are analysed again by themselves (auto_analyze.py).

VACUUM has nothing to do here: old versions go by themselves (kv garbage collection).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from msgspec import structs
from pydistdb_storage.keys import key_encoder

from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.access import PG_CLASS, PG_DATABASE
from pydistdb.sql.catalog.backfill import CHUNK_ROWS
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Column, ColumnStatistics, Table, TableStatistics
from pydistdb.sql.catalog.queries import live_columns
from pydistdb.sql.catalog.state import CatalogState, Change
from pydistdb.sql.errors import ActiveTransaction, FeatureNotSupported, UndefinedColumn
from pydistdb.sql.layout import TableLayout
from pydistdb.sql.sampling import SAMPLE_TEXT, Sample, SampleRun, decode_answer, encode_arguments
from pydistdb.sql.statements import Vacuum
from pydistdb.sql.types import registry
from pydistdb.tasks import give_way

DEFAULT_TARGET = 100
"""default_statistics_target."""
SAMPLE_ROWS = 30_000
TURN_NS = 5_000_000
"""What one step takes, roughly."""
WIDEST_VALUE_BYTES = 1_000
"""Longer values are left out of the statistics."""


async def vacuum(ddl: DdlContext, statement: Vacuum) -> str:
    """VACUUM and ANALYZE; statistics become visible with the commit."""
    tag = "VACUUM" if statement.vacuum else "ANALYZE"
    if statement.vacuum and ddl.in_transaction_block:
        raise ActiveTransaction("VACUUM cannot run inside a transaction block")
    if any(statement.columns) and not statement.analyze:
        raise FeatureNotSupported("ANALYZE option must be specified when a column list is provided")
    tables = [ddl.table(replace(name, position=None), "rm") for name in statement.tables]
    for table, names in zip(tables, statement.columns, strict=False):
        for name in names:
            if all(column.dropped or column.name != name for column in table.columns):
                raise UndefinedColumn(f'column "{name}" of relation "{table.name}" does not exist')
    if not statement.tables:
        tables = [table for table in ddl.view.tables() if table.kind in "rm"]
    tables = [table for table in tables if _may_process(ddl, statement, table)]
    if not statement.analyze:
        return tag
    await analyze_tables(ddl, tables)
    return tag


async def analyze_tables(ddl: DdlContext, tables: Sequence[Table], *, automatic: bool = False) -> None:
    """Gather the statistics of tables and write them down."""
    changes: list[Change] = []
    for table in tables:
        ddl.store.analyze_begins(table.oid)
        statistics = structs.replace(await gather_statistics(ddl, table), automatic=automatic)
        changes.append((keys.statistics_key(table.database, table.oid), statistics))
    # Reading takes long and locks nothing: some of the tables may be gone.
    await ddl.store.refresh()
    newest = ddl.store.state
    base = ddl.ddl.overlay.base
    ddl.apply([change for change in changes if _is_alive(change[0], base, newest)])


def _is_alive(key: bytes, base: CatalogState, newest: CatalogState) -> bool:
    """Whether the table of these statistics has not been dropped by others since the statement began."""
    table = keys.table_key(*keys.unpack_key(key)[1])
    return base.object_at(table) is None or newest.object_at(table) is not None


def _may_process(ddl: DdlContext, statement: Vacuum, table: Table) -> bool:
    """The owners of the table and of the database may; others are told that it is left out."""
    role, access = ddl.view.role, ddl.view.access
    if role is None or access.owns(role, PG_CLASS, table.oid) or access.owns(role, PG_DATABASE, ddl.database_oid):
        return True
    verb = "vacuum" if statement.vacuum else "analyze"
    message = f'skipping "{table.name}" --- only table or database owner can {verb} it'
    ddl.tell(message, "01000", severity="WARNING")
    return False


async def gather_statistics(ddl: DdlContext, table: Table) -> TableStatistics:
    """Count the table's rows and take a sample of them; describe it."""
    layout = TableLayout.of(table)
    sample = await take_sample(ddl, layout, table.oid)
    rows = [layout.decode(value) for value in sample.values]
    columns = {}
    default_target = int(ddl.context.settings.get("default_statistics_target", DEFAULT_TARGET))
    for column in live_columns(table):
        target = column.statistics if column.statistics >= 0 else default_target
        if target:
            values = [row[column.number - 1] for row in rows]
            columns[column.number] = describe_column(column, values, sample.count, target)
        await give_way(ddl.store.scheduler, TURN_NS)
    bytes_per_row = sample.size / sample.count if sample.count else 0.0
    return TableStatistics(float(sample.count), bytes_per_row, columns, ddl.context.statement_timestamp)


async def take_sample(ddl: DdlContext, layout: TableLayout, seed: int) -> Sample:
    """Ranges that other nodes lead count and sample their rows themselves."""
    transaction = ddl.transaction
    span = layout.table_span()
    sample = Sample(SAMPLE_ROWS, seed)
    start = span.start
    while start < span.end:
        part = await transaction.part_at(start, span.end)
        start, end = part.start, part.end
        while start < end:
            ddl.ddl.check_interrupt()
            arguments = sample.arguments(span.identity)
            answer = None
            if not part.is_local:
                answer = await transaction.evaluate(SAMPLE_TEXT, encode_arguments(arguments), start, end)
            if answer is not None:
                sample.add(decode_answer(answer.output))
                resume = answer.resume
            else:
                batch = await transaction.scan(start, end, limit=CHUNK_ROWS)
                run = SampleRun(arguments)
                run.take(batch.keys, batch.values)
                sample.add(run)
                resume = batch.resume
            await give_way(ddl.store.scheduler, TURN_NS)
            start = end if resume is None else resume
    sample.trim()
    return sample


def describe_column(
    column: Column, values: Sequence[Any], total: int, target: int = DEFAULT_TARGET
) -> ColumnStatistics:
    """Statistics of one column from a sample of ``total`` rows' values: at most ``target`` common values and buckets."""
    if not values:
        return ColumnStatistics()
    io = registry.io(column.type_oid)
    to_storage = io.to_storage or (lambda value: value)
    present = [to_storage(value) for value in values if value is not None]
    null_fraction = 1 - len(present) / len(values)
    width = round(sum(map(_width, present)) / len(present)) if present else 0
    hashable = [_hashable(value) for value in present if _width(value) <= WIDEST_VALUE_BYTES]
    if not hashable:
        return ColumnStatistics(null_fraction, 0.0 if not present else -1.0, width)
    counts = Counter(hashable)
    distinct = estimate_distinct(counts, len(hashable), total * (1 - null_fraction))
    sample_size = len(values)
    ordered: list[Any] = []
    if io.key_kind is not None:
        ordered = _sorted(io.key_kind, io.from_storage, counts)
        counts = Counter({value: counts[value] for value in ordered})  # so equally common values come in order
    common = _common_values(counts, len(hashable), target)
    minimum = maximum = None
    histogram: tuple[Any, ...] = ()
    if ordered:
        minimum, maximum = ordered[0], ordered[-1]
        taken = {value for value, _ in common}
        rest = [value for value in ordered if value not in taken]
        histogram = _histogram([value for value in rest for _ in range(counts[value])], len(rest), target)
    return ColumnStatistics(
        null_fraction,
        distinct,
        width,
        _plain(minimum),
        _plain(maximum),
        tuple(_plain(value) for value, _ in common),
        tuple(count / sample_size for _, count in common),
        tuple(_plain(value) for value in histogram),
    )


def estimate_distinct(counts: Counter[Any], sample_size: int, total: float) -> float:
    """Distinct values in all rows, as stadistinct: negative for a share of the rows.

    Haas and Stokes, "Estimating the number of classes in a finite population" (1998), estimator Duj1."""
    once = sum(1 for count in counts.values() if count == 1)
    distinct = len(counts)
    if once == distinct == sample_size:
        return -1.0
    if once == 0 or sample_size >= total:
        estimate = float(distinct)
    else:
        estimate = sample_size * distinct / (sample_size - once + once * sample_size / total)
        estimate = min(max(estimate, float(distinct)), total)
    return -estimate / total if total and estimate > 0.1 * total else float(round(estimate))


def _common_values(counts: Counter[Any], sample_size: int, most: int) -> list[tuple[Any, int]]:
    """Values that are clearly more frequent than the average, most frequent first."""
    if len(counts) <= most and all(count > 1 for count in counts.values()):
        return counts.most_common()
    least = max(2.0, 1.25 * sample_size / len(counts))
    return [(value, count) for value, count in counts.most_common(most) if count >= least]


def _histogram(ordered: list[Any], distinct: int, target: int) -> tuple[Any, ...]:
    """Bounds that cut ``ordered`` into equally populated buckets."""
    if distinct < 2:
        return ()
    buckets = min(target, distinct - 1)
    last = len(ordered) - 1
    return tuple(ordered[index * last // buckets] for index in range(buckets + 1))


def _sorted(kind: str, from_storage: Any, values: Counter[Any]) -> list[Any]:
    encode = key_encoder([kind])
    if from_storage is None:
        return sorted(values, key=lambda value: encode([value]))
    return sorted(values, key=lambda value: encode([from_storage(_plain(value))]))


def _width(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, (list, tuple)):
        return sum(map(_width, value)) + 8
    return 1 if isinstance(value, bool) else 8


def _hashable(value: Any) -> Any:
    return tuple(_hashable(item) for item in value) if isinstance(value, (list, tuple)) else value


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
