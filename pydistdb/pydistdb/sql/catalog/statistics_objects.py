"""CREATE, ALTER and DROP STATISTICS: which columns and expressions of a table ANALYZE is to look at together.

A statistics object is kept in its table's descriptor, so it goes when the table goes; it goes as well when one of its
columns does.  What ANALYZE finds for it stands with the table's other statistics (analyze_joint.py)::

    CREATE STATISTICS s (dependencies) ON city, zip FROM addresses
    StatisticsObject(oid, "s", public, columns=(2, 5), kinds="f")

Nobody is locked out: rows are not touched, and plans made before simply do not know of it.

Source: PostgreSQL 15 manual, CREATE STATISTICS; statscmds.c.
"""

from __future__ import annotations

from msgspec.structs import replace

from pydistdb.sql import bind
from pydistdb.sql.bind.cutting import Tokens
from pydistdb.sql.catalog import constraints, keys
from pydistdb.sql.catalog.access import PG_NAMESPACE, PG_STATISTIC_EXT
from pydistdb.sql.catalog.constraints import SYSTEM_COLUMNS
from pydistdb.sql.catalog.context import DdlContext, not_supported_for
from pydistdb.sql.catalog.descriptors import StatisticsExpression, StatisticsObject, Table
from pydistdb.sql.catalog.expressions import column_numbers_used
from pydistdb.sql.catalog.index_elements import canonical
from pydistdb.sql.catalog.naming import choose, clip, join_columns
from pydistdb.sql.catalog.statistics_names import Found, forget_comments, named, without_statistics
from pydistdb.sql.catalog.storage_settings import statistics_target
from pydistdb.sql.errors import (
    DatabaseError,
    DuplicateColumn,
    DuplicateObject,
    FeatureNotSupported,
    InvalidObjectDefinition,
    InvalidSchemaName,
    InvalidSyntax,
    UndefinedColumn,
    UndefinedObject,
    WrongObjectType,
)
from pydistdb.sql.pg_catalog.type_facts import operator_class
from pydistdb.sql.plan.expressions import has_subquery
from pydistdb.sql.plan.implication import same
from pydistdb.sql.schema_statements import AlterStatistics, CreateStatistics, DropObjects
from pydistdb.sql.statements import Name
from pydistdb.sql.tree import ColumnRef, Expr
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import SqlType

MOST_COLUMNS = 8
_KINDS = {"ndistinct": "d", "dependencies": "f", "mcv": "m"}


async def create_statistics(ddl: DdlContext, statement: CreateStatistics) -> str:
    if len(statement.tables) != 1:
        raise FeatureNotSupported("only a single relation is allowed in CREATE STATISTICS")
    table = _table(ddl, statement.tables[0])
    bound = [_bound(ddl, table, text) if name is None else None for name, text in statement.elements]
    ddl.require_table_owner(table)
    schema = ddl.target_schema(statement.name or Name("", statement.tables[0].schema))
    if statement.name is not None:
        name = clip(statement.name.name)
    else:
        labels = [column or "expr" for column, _ in statement.elements]
        name = chosen_name(ddl, table, schema.oid, labels)
    if ddl.view.state.statistics_named(schema.oid, name) is not None:
        message = f'statistics object "{name}" already exists'
        if not statement.if_not_exists:
            raise DuplicateObject(message)
        ddl.tell(message + ", skipping", "42710")
        return "CREATE STATISTICS"
    columns, expressions = _elements(ddl, table, statement, bound)
    kinds = _kinds(statement, len(columns), len(expressions))
    if len(columns) + len(expressions) == 1 and not expressions:
        raise InvalidObjectDefinition("extended statistics require at least 2 columns")
    if len(set(columns)) < len(columns):
        raise DuplicateColumn("duplicate column name in statistics definition")
    _refuse_duplicates(ddl, table, expressions)
    oid = await ddl.store.allocate_oids()
    made = StatisticsObject(oid, name, schema.oid, tuple(sorted(columns)), tuple(expressions), kinds, ddl.role)
    table = ddl.view.state.tables[table.oid]
    objects = (*table.statistics_objects, made)
    ddl.put_table(replace(table, statistics_objects=objects, version=table.version + 1))
    return "CREATE STATISTICS"


def chosen_name(ddl: DdlContext, table: Table, schema: int, labels: list[str]) -> str:
    """``t_a_b_stat``, numbered where that is taken."""
    state = ddl.view.state
    return choose(
        [table.name, join_columns(labels)], "stat", lambda name: state.statistics_named(schema, name) is not None
    )


def _table(ddl: DdlContext, name: Name) -> Table:
    if ddl.view.relation(name.name, name.schema) is None and ddl.view.index_by_name(name.name, name.schema) is not None:
        raise _wrong_kind(name.name, "i")
    table = ddl.table(name, "rmvS")
    if table.kind in "vS":
        raise _wrong_kind(table.name, table.kind)
    return table


def _wrong_kind(name: str, kind: str) -> DatabaseError:
    return WrongObjectType(f'cannot define statistics for relation "{name}"', detail=not_supported_for(kind))


def _elements(
    ddl: DdlContext, table: Table, statement: CreateStatistics, bound: list[Expr | None]
) -> tuple[list[int], list[StatisticsExpression]]:
    if len(statement.elements) > MOST_COLUMNS:
        raise DatabaseError.of("54011", f"cannot have more than {MOST_COLUMNS} columns in statistics")
    columns: list[int] = []
    expressions: list[StatisticsExpression] = []
    for (name, text), expression in zip(statement.elements, bound, strict=True):
        if name is not None or expression is None:
            columns.append(_column(table, text))
            continue
        if isinstance(expression, ColumnRef):
            columns.append(_column(table, constraints.column_numbered(table, expression.id).name))
            continue
        if has_subquery(expression):
            raise FeatureNotSupported("cannot use subquery in statistics expression")
        if len(statement.elements) > 1 and not _has_order(expression.type):
            raise FeatureNotSupported(
                "expression cannot be used in multivariate statistics because its type "
                f"{registry.format_type(expression.type.oid, -1)} has no default btree operator class"
            )
        written = canonical(ddl, table, expression, text, key=True)
        expressions.append(StatisticsExpression(written, expression.type.oid))
    return columns, expressions


def _bound(ddl: DdlContext, table: Table, text: str) -> Expr:
    tokens = Tokens(text)
    for kind, start, end in zip(tokens.names, tokens.starts, tokens.ends, strict=True):
        if kind == "IDENT" and text[start:end].lower() in SYSTEM_COLUMNS:
            raise _system_column()
    return bind.bind_expression(text, table, ddl.view, ddl.context, clause="STATISTICS")


def _system_column() -> DatabaseError:
    return FeatureNotSupported("statistics creation on system columns is not supported")


def _column(table: Table, name: str) -> int:
    column = constraints.column_named(table, name)
    if column is None:
        if name in SYSTEM_COLUMNS:
            raise _system_column()
        raise UndefinedColumn(f'column "{name}" does not exist')
    if not _has_order(registry.type_by_oid(column.type_oid)):
        raise FeatureNotSupported(
            f'column "{name}" cannot be used in statistics because its type '
            f"{registry.format_type(column.type_oid, -1)} has no default btree operator class"
        )
    return column.number


def _has_order(sql_type: SqlType) -> bool:
    """Whether the type has a default operator class for btree; those of users' making have, as enums and records do."""
    return (
        bool(operator_class(sql_type.oid))
        or sql_type.category in "EC"
        or registry.io(sql_type.oid).key_kind is not None
    )


def _kinds(statement: CreateStatistics, columns: int, expressions: int) -> str:
    if columns == 0 and expressions == 1:
        if statement.kinds:
            raise FeatureNotSupported(
                "when building statistics on a single expression, statistics kinds may not be specified"
            )
        return ""
    for kind in statement.kinds:
        if kind not in _KINDS:
            raise InvalidSyntax(f'unrecognized statistics kind "{kind}"')
    return "".join(letter for kind, letter in _KINDS.items() if kind in statement.kinds or not statement.kinds)


def _refuse_duplicates(ddl: DdlContext, table: Table, expressions: list[StatisticsExpression]) -> None:
    bound = [bind.bind_expression(each.text, table, ddl.view, ddl.context) for each in expressions]
    for place, expression in enumerate(bound):
        if any(same(expression, other) for other in bound[:place]):
            raise DuplicateColumn("duplicate expression in statistics definition")


# ---------------------------------------------------------------------------------------------------- ALTER, DROP


async def alter_statistics(ddl: DdlContext, statement: AlterStatistics) -> str:
    target = None if statement.target is None else statistics_target(ddl, statement.target)
    try:
        table, statistics = named(ddl, statement.name)
    except (InvalidSchemaName, UndefinedObject) as error:
        if not statement.missing_ok:
            raise
        missing = isinstance(error, InvalidSchemaName)
        written = ddl.written(statement.name) if missing else statement.name.name
        ddl.tell(f'statistics object "{written}" does not exist, skipping')
        return "ALTER STATISTICS"
    require_owner(ddl, statistics)
    if statement.new_name is not None:
        _rename(ddl, (table, statistics), clip(statement.new_name))
    elif statement.new_schema is not None:
        _move(ddl, (table, statistics), statement.new_schema)
    elif target is not None:
        put_statistics(ddl, table, replace(statistics, target=target))
    return "ALTER STATISTICS"


def require_owner(ddl: DdlContext, statistics: StatisticsObject) -> None:
    ddl.require_owner(PG_STATISTIC_EXT, statistics.oid, "statistics object", statistics.name)


def put_statistics(ddl: DdlContext, table: Table, changed: StatisticsObject) -> None:
    """Replace one of the table's statistics objects."""
    objects = tuple(changed if each.oid == changed.oid else each for each in table.statistics_objects)
    ddl.put_table(replace(table, statistics_objects=objects, version=table.version + 1))


def _refuse_taken(ddl: DdlContext, schema: int, name: str) -> None:
    if ddl.view.state.statistics_named(schema, name) is not None:
        schema_name = ddl.view.state.schemas[schema].name
        raise DuplicateObject(f'statistics object "{name}" already exists in schema "{schema_name}"')


def _rename(ddl: DdlContext, found: Found, name: str) -> None:
    table, statistics = found
    _refuse_taken(ddl, statistics.schema, name)
    put_statistics(ddl, table, replace(statistics, name=name))


def _move(ddl: DdlContext, found: Found, schema_name: str) -> None:
    table, statistics = found
    schema = ddl.target_schema(Name(statistics.name, schema_name))
    if schema.oid != statistics.schema:
        _refuse_taken(ddl, schema.oid, statistics.name)
        put_statistics(ddl, table, replace(statistics, schema=schema.oid))


def drop_statistics(ddl: DdlContext, statement: DropObjects) -> None:
    """DROP STATISTICS; nothing depends on one."""
    doomed: dict[int, StatisticsObject] = {}
    for name in statement.names:
        try:
            _, statistics = named(ddl, name)
        except (InvalidSchemaName, UndefinedObject) as error:
            if not statement.missing_ok:
                raise
            ddl.tell(f"{error.message}, skipping")
            continue
        role = ddl.view.role
        if role is not None and not ddl.view.access.owns(role, PG_NAMESPACE, statistics.schema):
            require_owner(ddl, statistics)
        doomed[statistics.oid] = statistics
    for oid in doomed:
        found = ddl.view.state.statistics_object(oid)
        assert found is not None
        ddl.apply(forget_comments(ddl, {oid}))
        ddl.put_table(replace(without_statistics(found[0], {oid}), version=found[0].version + 1))


# ---------------------------------------------------------------------------------------------------- the table changes


def columns_of(ddl: DdlContext, table: Table, statistics: StatisticsObject) -> set[int]:
    """The columns without which it is nothing."""
    numbers = set(statistics.columns)
    for expression in statistics.expressions:
        numbers |= column_numbers_used(ddl, table, expression.text)
    return numbers


def using_column(ddl: DdlContext, table: Table, number: int) -> list[StatisticsObject]:
    """The table's statistics objects over a column."""
    return [each for each in table.statistics_objects if number in columns_of(ddl, table, each)]


def forget_findings(ddl: DdlContext, table: Table, number: int) -> None:
    """Forget what ANALYZE found about a column, alone and with others: its values are of another type from now on."""
    statistics = ddl.view.statistics(table.oid)
    if statistics is None:
        return
    users = {each.oid for each in using_column(ddl, table, number)}
    columns = {other: found for other, found in statistics.columns.items() if other != number}
    joint = {oid: found for oid, found in statistics.joint.items() if oid not in users}
    kept = replace(statistics, columns=columns, joint=joint, expressions={})
    ddl.apply([(keys.statistics_key(table.database, table.oid), kept)])


def rebound_statistics(ddl: DdlContext, table: Table) -> tuple[StatisticsObject, ...]:
    """The objects after a column's type has changed: what their expressions are may have changed with it."""
    return tuple(
        replace(each, expressions=tuple(_rebound(ddl, table, expression) for expression in each.expressions))
        if each.expressions
        else each
        for each in table.statistics_objects
    )


def _rebound(ddl: DdlContext, table: Table, expression: StatisticsExpression) -> StatisticsExpression:
    bound = bind.bind_expression(expression.text, table, ddl.view, ddl.context)
    return StatisticsExpression(canonical(ddl, table, bound, expression.text, key=True), bound.type.oid)


async def copies(ddl: DdlContext, source: Table, table: Table) -> Table:
    """CREATE TABLE … (LIKE source INCLUDING STATISTICS): the new table with statistics objects like the source's."""
    numbers = {column.name: column.number for column in table.columns}
    for each in source.statistics_objects:
        names = [constraints.column_numbered(source, number).name for number in each.columns]
        name = chosen_name(ddl, table, table.schema, [*names, *("expr" for _ in each.expressions)])
        columns = tuple(sorted(numbers[name] for name in names))
        oid = await ddl.store.allocate_oids()
        copy = replace(each, oid=oid, name=name, schema=table.schema, columns=columns, owner=ddl.role)
        table = replace(table, statistics_objects=(*table.statistics_objects, copy))
        ddl.put_table(table)
    return table
