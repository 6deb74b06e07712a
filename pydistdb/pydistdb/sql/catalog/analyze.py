"""ANALYZE: what the planner wants to know about a table, from one pass over its rows.

Rows are counted exactly, the different values of all or some of them within some per cent, and a sample of SAMPLE_ROWS is taken,
where they lie (sampling.py).  Columns are described from the sample one by one (describe_columns.py), and together where a
statistics object asks for it (analyze_joint.py).
Tables that change are analysed again by themselves (auto_analyze.py).

VACUUM has nothing to do here: old versions go by themselves (kv garbage collection).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from pydistdb.kv.versions import Feature
from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.access import PG_CLASS, PG_DATABASE
from pydistdb.sql.catalog.analyze_joint import describe_indexed, describe_together, joint_target
from pydistdb.sql.catalog.backfill import CHUNK_ROWS
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.describe_columns import DEFAULT_TARGET, Counted, describe_column
from pydistdb.sql.catalog.descriptors import Index, Table, TableStatistics
from pydistdb.sql.catalog.queries import live_columns
from pydistdb.sql.catalog.state import CatalogState
from pydistdb.sql.errors import ActiveTransaction, FeatureNotSupported, UndefinedColumn
from pydistdb.sql.layout import TableLayout
from pydistdb.sql.sampling import SAMPLE_TEXT, Sample, SampleRun, decode_answer, encode_arguments
from pydistdb.sql.statements import Vacuum
from pydistdb.tasks import give_way

SAMPLE_ROWS = 30_000
TURN_NS = 5_000_000
"""What one step takes, roughly."""


async def vacuum(ddl: DdlContext, statement: Vacuum) -> str:
    """VACUUM and ANALYZE; statistics become visible with the commit."""
    tag = "VACUUM" if statement.vacuum else "ANALYZE"
    if statement.vacuum and ddl.in_transaction_block:
        raise ActiveTransaction("VACUUM cannot run inside a transaction block")
    if any(statement.columns) and not statement.analyze:
        raise FeatureNotSupported("ANALYZE option must be specified when a column list is provided")
    tables = [ddl.table(name, "rm") for name in statement.tables]
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
    changes: list[tuple[bytes, TableStatistics]] = []
    for table in tables:
        ddl.store.analyze_begins(table.oid)
        statistics = structs.replace(await gather_statistics(ddl, table), automatic=automatic)
        changes.append((keys.statistics_key(table.database, table.oid), statistics))
    # Reading takes long and locks nothing: some of the tables may be gone, or have other columns.
    await ddl.store.refresh()
    base = ddl.ddl.overlay.base
    changes = [change for change in changes if _is_alive(change[0], base, ddl.store.state)]
    await ddl.ddl.claim(changes)
    newest = ddl.store.state
    ddl.apply([(key, _still_true(statistics, key, base, newest)) for key, statistics in changes])


def _table_at(key: bytes, state: CatalogState) -> Table | None:
    """The table whose statistics are at ``key``."""
    found: Table | None = state.object_at(keys.table_key(*keys.unpack_key(key)[1]))
    return found


def _is_alive(key: bytes, base: CatalogState, newest: CatalogState) -> bool:
    """Whether the table of these statistics has not been dropped by others since the statement began."""
    return _table_at(key, base) is None or _table_at(key, newest) is not None


def _still_true(statistics: TableStatistics, key: bytes, base: CatalogState, newest: CatalogState) -> TableStatistics:
    """The statistics without what was found in columns that others have given another type meanwhile."""
    before, now = _table_at(key, base), _table_at(key, newest)
    if before is None or now is None or before is now:
        return statistics
    types = {column.number: column.type_oid for column in before.columns}
    changed = {column.number for column in now.columns if types.get(column.number) != column.type_oid}
    if not changed:
        return statistics
    columns = {number: found for number, found in statistics.columns.items() if number not in changed}
    return structs.replace(statistics, columns=columns, joint={}, expressions={})


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
    default_target = int(ddl.context.settings.get("default_statistics_target", DEFAULT_TARGET))
    targets = {column.number: column.statistics for column in live_columns(table)}
    targets = {number: target if target >= 0 else default_target for number, target in targets.items()}
    keys_alone = {index.columns[0].column for index in table.indexes if _is_key(index)}
    counted = tuple([number for number, target in targets.items() if target and number not in keys_alone])
    if not ddl.store.database.is_active(Feature.SKETCHES_IN_SAMPLES):
        counted = ()
    sample = await take_sample(ddl, layout, table.oid, counted)
    rows = [layout.decode(value) for value in sample.values]
    columns = {}
    for column in live_columns(table):
        target = targets[column.number]
        if target:
            values = [row[column.number - 1] for row in rows]
            sketch = sample.sketches.get(column.number) if sample.count > len(rows) else None
            looked_at = None if sketch is None else Counted(sketch.count(), sample.counted_all)
            columns[column.number] = describe_column(column, values, sample.count, target, looked_at)
        await give_way(ddl.store.scheduler, TURN_NS)
    bytes_per_row = sample.size / sample.count if sample.count else 0.0
    expressions = await describe_indexed(ddl, table, rows, sample.count, default_target)
    joint = {}
    before = ddl.view.statistics(table.oid)
    for each in table.statistics_objects:
        target = joint_target(table, each, default_target)
        if target:
            joint[each.oid] = await describe_together(ddl, table, each, rows, sample.count, target)
        elif before is not None and each.oid in before.joint:
            joint[each.oid] = before.joint[each.oid]
    now = ddl.context.statement_timestamp
    return TableStatistics(float(sample.count), bytes_per_row, columns, now, joint=joint, expressions=expressions)


def _is_key(index: Index) -> bool:
    """Whether its one column has no value twice."""
    return index.unique and not index.predicate and len(index.columns) == 1


async def take_sample(ddl: DdlContext, layout: TableLayout, seed: int, columns: tuple[int, ...]) -> Sample:
    """Leaseholders count and sample their rows, and the different values of ``columns``, themselves (sampling.py); what this
    transaction has written is not theirs to read."""
    transaction = ddl.transaction
    span = layout.table_span()
    sample = Sample(SAMPLE_ROWS, seed, columns)
    start = span.start
    while start < span.end:
        part = await transaction.part_at(start, span.end)
        start, end = part.start, part.end
        while start < end:
            ddl.ddl.check_interrupt()
            arguments = sample.arguments(span.identity)
            answer = await transaction.evaluate(SAMPLE_TEXT, encode_arguments(arguments), start, end)
            if answer is not None:
                sample.add(decode_answer(answer.output))
                resume = answer.resume
            else:
                run = SampleRun(arguments)
                batch = await transaction.scan(start, end, limit=CHUNK_ROWS, picks=run.picks)
                run.take(batch.keys, batch.values)
                sample.add(run)
                resume = batch.resume
            await give_way(ddl.store.scheduler, TURN_NS)
            start = end if resume is None else resume
    sample.trim()
    return sample
