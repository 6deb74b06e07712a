"""INSERT: where the rows come from, and which of their columns.

``VALUES`` goes straight into the table, each value converted to its column's type; a query gets a projection on top that
does the same; columns not named are filled from their defaults.

Source: PostgreSQL 15 manual, INSERT; analyze.c (transformInsertStmt).
"""

from __future__ import annotations

from collections.abc import Sequence

import pydistdb.sql.bind.query as queries
import pydistdb.sql.bind.set_operations as set_operations
from pydistdb.sql.bind.assignments import (
    assign,
    bind_returning,
    column_named,
    ids_by_number,
    row_columns,
    target_name,
    target_table,
)
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import UNKNOWN_OID
from pydistdb.sql.bind.conflict import ChangedRow, bind_conflict
from pydistdb.sql.bind.dispatch import bind
from pydistdb.sql.bind.from_clause import qualifier
from pydistdb.sql.bind.insert_parts import names_parts, query_for_parts, values_for_parts
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.needs import note_relation
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import NO_ROWS_OF_NOTHING, FromItem, Scope, SetInValues, Source
from pydistdb.sql.bind.stored import bind_checks, column_default, column_type, generated_columns
from pydistdb.sql.bind.system_columns import name_written
from pydistdb.sql.bind.view_targets import view_target
from pydistdb.sql.catalog.acl import INSERT, UPDATE
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.errors import (
    DatabaseError,
    FeatureNotSupported,
    InvalidSyntax,
)
from pydistdb.sql.tree import (
    ColumnRef,
    Const,
    Expr,
    Insert,
    OutputColumn,
    Project,
    Rel,
    Values,
)
from pydistdb.sql.types.registry import INT4, INT8, TEXT

_PLAIN_INTEGERS = frozenset({INT4.oid, INT8.oid})


def bind_insert(b: Binder, parent: Scope | None, node: Node) -> Insert:
    table = target_table(b, node["relation"])
    name, _ = target_name(node["relation"])
    note = note_relation(b, table, INSERT)
    schema = qualifier(b, node["relation"], table)
    through = None
    if table.kind == "v":
        updates = node.get("onConflictClause", {}).get("action") == "ONCONFLICT_UPDATE"
        through = view_target(b, table, "INSERT", INSERT | UPDATE if updates else INSERT)
        table = through.table
    base = b.notes[-1]
    row = row_columns(b, table)
    if through is None:
        note.read(row)
    names, shown = table, row
    view_checks: tuple[tuple[str, Expr], ...] = ()
    if through is not None:
        shown, conditions = through.shown(b, row, note, base)
        view_checks = through.checks(conditions)
        for wrapper in node.get("cols", ()):
            through.refuse_computed(shown, wrapper["ResTarget"]["name"], "INSERT")
        defaulted = through.with_defaults(b, row)
        names = defaulted.names(shown)
    target = Source(name, shown, schema, table)
    source, numbers = _source(b, parent, node, table, target, names)
    if through is not None:
        if 0 in numbers:
            through.refuse_computed(shown, next(c.name for c in names.columns if not c.number), "INSERT")
        through.refuse_repeated(numbers)
        note.insert(through.numbers_in_view(shown, numbers))
    base.insert(numbers)
    given = set(numbers)
    defaults = {
        column.number: default
        for column in (table if through is None else defaulted.table).columns
        if not column.dropped and column.number not in given and not column.generated
        if (default := column_default(b, column)) is not None
    }
    row_ids = ids_by_number(row)
    item = FromItem(source, [target], shown)
    conflict = None
    if "onConflictClause" in node:
        changed = ChangedRow(table, row, base, names, shown, note, through)
        conflict = bind_conflict(b, parent, node["onConflictClause"], changed, name, schema)
    name_written(b, target, row_ids)
    columns, returning = bind_returning(b, parent, node, [item])
    checks = bind_checks(b, table, row_ids) + view_checks
    generated = generated_columns(b, table, row_ids)
    return Insert(columns, table, source, tuple(numbers), defaults, checks, row_ids, returning, conflict, generated)


def _source(
    b: Binder, parent: Scope | None, node: Node, table: Table, target: Source, names: Table
) -> tuple[Rel, list[int]]:
    """VALUES, SELECT or DEFAULT VALUES, and the numbers of the columns that its columns go to."""
    targets, locations = ([], []) if names_parts(node) else insert_targets(b, names, node)
    select = node.get("selectStmt", {}).get("SelectStmt")
    overriding = node.get("override", "OVERRIDING_NOT_SET")
    if select is None:
        return NO_ROWS_OF_NOTHING, []
    if names_parts(node):
        if "valuesLists" in select:
            source, used = values_for_parts(b, parent, table, node, select, target)
        else:
            outside = Scope(parent)
            outside.hidden = [target]
            rows = queries.bind_statement_query(b, outside, select)
            source, used = query_for_parts(b, parent, table, node, rows)
    elif "valuesLists" in select and not any(
        k in select for k in ("sortClause", "limitCount", "limitOffset", "withClause")
    ):
        try:
            if b.arguments is not None and _has_star(select):
                raise SetInValues("a row is spread in VALUES")
            source, used = _insert_values(
                b, parent, table, select, targets, locations, "cols" in node, overriding, target
            )
        except SetInValues:
            as_select = _select_of_values(select)
            if as_select is None:
                raise
            source, used = _insert_rows(b, parent, node, as_select, targets, locations, overriding, target)
    else:
        source, used = _insert_rows(b, parent, node, select, targets, locations, overriding, target)
    numbers = [column.number for column in used]
    if overriding == "OVERRIDING_USER_VALUE":
        return _without_identity(b, table, source, numbers)
    return source, numbers


def _insert_rows(
    b: Binder,
    parent: Scope | None,
    node: Node,
    select: Node,
    targets: list[Column],
    locations: list[int],
    overriding: str,
    target: Source,
) -> tuple[Rel, list[Column]]:
    """The rows of a query."""
    outside = Scope(parent)
    outside.hidden = [target]
    source, used = _insert_select(b, outside, node, select, targets, locations)
    for column in used:
        check_identity(column, overriding, False)
    return source, used


def _select_of_values(select: Node) -> Node | None:
    """The select list that a single row of VALUES stands for: only there are set-returning functions allowed."""
    lists = select["valuesLists"]
    items = lists[0]["List"]["items"]
    if len(lists) > 1 or any("SetToDefault" in item for item in items):
        return None
    return {"targetList": [{"ResTarget": {"val": item}} for item in items], "op": "SETOP_NONE"}


def _has_star(select: Node) -> bool:
    """``VALUES (argument.*)`` inside a function."""
    fields = [item.get("ColumnRef", {}).get("fields", ({},)) for item in select["valuesLists"][0]["List"]["items"]]
    return any("A_Star" in each[-1] for each in fields)


def insert_targets(b: Binder, table: Table, node: Node) -> tuple[list[Column], list[int]]:
    """The columns that values are given for, and where they are named."""
    if "cols" not in node:
        columns = [column for column in table.columns if not column.dropped]
        return columns, [-1] * len(columns)
    columns = []
    locations = []
    for wrapper in node["cols"]:
        target = wrapper["ResTarget"]
        location = target.get("location", -1)
        if "indirection" in target:
            raise FeatureNotSupported("MERGE into parts of columns is not supported", position=b.position(location))
        column = column_named(b, table, target["name"], location)
        if column in columns:
            raise DatabaseError.of(
                "42701", f'column "{column.name}" specified more than once', position=b.position(location)
            )
        columns.append(column)
        locations.append(location)
    return columns, locations


def _insert_values(
    b: Binder,
    parent: Scope | None,
    table: Table,
    select: Node,
    targets: list[Column],
    target_locations: list[int],
    named: bool,
    overriding: str,
    target: Source,
) -> tuple[Rel, list[Column]]:
    """VALUES straight into the table: every value is converted to its column's type."""
    scope = Scope(parent, "VALUES")
    scope.hidden = [target]
    lists = [row["List"]["items"] for row in select["valuesLists"]]
    width = len(lists[0])
    check_width(b, targets, target_locations, lists[0], width, named)
    targets = targets[:width]
    types = [column_type(column) for column in targets]
    writable = [not column.generated and column.identity != "a" for column in targets]
    defaults: dict[int, Expr] = {}
    rows = []
    for items in lists:
        if len(items) != width:
            raise InvalidSyntax("VALUES lists must all be the same length", position=b.position(location_of(items[0])))
        row: list[Expr] = []
        for index, item in enumerate(items):
            if "SetToDefault" in item:
                if index not in defaults:
                    default = None if targets[index].generated else column_default(b, targets[index])
                    defaults[index] = default if default is not None else Const(types[index], None)
                row.append(defaults[index])
                continue
            if not writable[index]:
                check_identity(targets[index], overriding, False)
            constant = item.get("A_Const")
            if constant is not None:  # the usual case, and it may be there a million times
                if "ival" in constant and types[index].oid in _PLAIN_INTEGERS:
                    row.append(Const(types[index], constant["ival"].get("ival", 0)))
                    continue
                if "sval" in constant and types[index].oid == TEXT.oid:
                    row.append(Const(types[index], constant["sval"].get("sval", "")))
                    continue
            expr = bind(b, scope, item)
            if expr.type is not types[index]:
                expr = assign(b, expr, targets[index], location_of(item))
            row.append(expr)
        rows.append(tuple(row))
    columns = tuple(
        OutputColumn(b.new_id(), column.name, sql_type) for column, sql_type in zip(targets, types, strict=True)
    )
    return Values(columns, tuple(rows)), targets


def check_width(
    b: Binder, targets: list[Column], locations: list[int], items: Sequence[Node], width: int, named: bool
) -> None:
    if width > len(targets):
        raise InvalidSyntax(
            "INSERT has more expressions than target columns", position=b.position(location_of(items[len(targets)]))
        )
    if named and width < len(targets):
        raise InvalidSyntax("INSERT has more target columns than expressions", position=b.position(locations[width]))


def check_identity(column: Column, overriding: str, is_default: bool) -> None:
    if is_default:
        return
    if column.generated:
        raise DatabaseError.of(
            "428C9",
            f'cannot insert a non-DEFAULT value into column "{column.name}"',
            detail=f'Column "{column.name}" is a generated column.',
        )
    if column.identity == "a" and overriding == "OVERRIDING_NOT_SET":
        raise DatabaseError.of(
            "428C9",
            f'cannot insert a non-DEFAULT value into column "{column.name}"',
            detail=f'Column "{column.name}" is an identity column defined as GENERATED ALWAYS.',
            hint="Use OVERRIDING SYSTEM VALUE to override.",
        )


def _insert_select(
    b: Binder,
    parent: Scope | None,
    node: Node,
    select: Node,
    targets: list[Column],
    target_locations: list[int],
) -> tuple[Rel, list[Column]]:
    rel = queries.bind_statement_query(b, parent, select, keep_unknown=True)
    width = len(rel.columns)
    locations = [
        location_of(item["ResTarget"]["val"]) if "val" in item["ResTarget"] else -1
        for item in select.get("targetList", [])
    ]
    if len(locations) != width:
        locations = [locations[0] if locations else -1] * width
    if width > len(targets):
        raise InvalidSyntax(
            "INSERT has more expressions than target columns", position=b.position(locations[len(targets)])
        )
    if "cols" in node and width < len(targets):
        raise InvalidSyntax(
            "INSERT has more target columns than expressions", position=b.position(target_locations[width])
        )
    targets = targets[:width]
    for expr, column, location in zip(set_operations.column_expressions(rel), targets, locations, strict=True):
        if expr.type.oid != UNKNOWN_OID:
            assign(b, expr, column, location)
    types = [column_type(column) for column in targets]
    return set_operations.with_types(b, rel, types, locations, "a"), targets


def _without_identity(b: Binder, table: Table, source: Rel, numbers: list[int]) -> tuple[Rel, list[int]]:
    """OVERRIDING USER VALUE: what is given for identity columns is ignored."""
    identity = {column.number for column in table.columns if column.identity}
    kept = [index for index, number in enumerate(numbers) if number not in identity]
    if len(kept) == len(numbers):
        return source, numbers
    columns = [source.columns[index] for index in kept]
    return (
        Project(
            tuple(OutputColumn(b.new_id(), column.name, column.type) for column in columns),
            source,
            tuple(ColumnRef(column.type, column.id, column.name) for column in columns),
        ),
        [numbers[index] for index in kept],
    )
