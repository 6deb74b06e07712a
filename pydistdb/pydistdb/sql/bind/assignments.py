"""What INSERT, UPDATE and DELETE share: the table changed, values put into its columns, RETURNING.

Source: PostgreSQL 15, parse_target.c (transformAssignedExpr and its kin).
"""

from __future__ import annotations

from collections.abc import Sequence

import pydistdb.sql.bind.query as queries
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import UNKNOWN_OID, coerce, coerce_to_target, resolve_unknown, type_named
from pydistdb.sql.bind.dispatch import bind
from pydistdb.sql.bind.from_clause import find_relation
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import FromItem, Scope, ScopeColumn
from pydistdb.sql.bind.stored import column_default, column_type
from pydistdb.sql.bind.stores import store
from pydistdb.sql.bind.system_columns import SYSTEM_COLUMNS
from pydistdb.sql.bind.targets import bind_targets
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.catalog.view import VirtualTable
from pydistdb.sql.errors import (
    DatabaseError,
    DatatypeMismatch,
    FeatureNotSupported,
    InsufficientPrivilege,
    InvalidSyntax,
    UndefinedColumn,
)
from pydistdb.sql.tree import (
    ColumnRef,
    Const,
    Expr,
    OutputColumn,
    RowExpr,
    Subquery,
)


def target_table(b: Binder, node: Node) -> Table:
    """The table, or view, that a statement changes."""
    relation = find_relation(b, node)
    position = b.position(node.get("location", -1))
    if isinstance(relation, VirtualTable):
        raise InsufficientPrivilege(f'permission denied: "{relation.name}" is a system catalog', position=position)
    if relation.kind == "v":
        return relation
    if relation.kind == "m":
        raise DatabaseError.of("42809", f'cannot change materialized view "{relation.name}"')
    if relation.kind == "S":
        raise DatabaseError.of("42809", f'cannot change sequence "{relation.name}"')
    if relation.kind != "r":
        raise DatabaseError.of("42809", f'cannot open relation "{relation.name}"', position=position)
    b.tables.add(relation.oid)
    return relation


def column_named(b: Binder, table: Table, name: str, location: int) -> Column:
    for column in table.columns:
        if column.name == name and not column.dropped:
            return column
    raise UndefinedColumn(f'column "{name}" of relation "{table.name}" does not exist', position=b.position(location))


def assign(b: Binder, expr: Expr, column: Column, location: int) -> Expr:
    """Convert a value to the type of the column it is put into."""
    target = column_type(column)
    if expr.type.oid == UNKNOWN_OID:
        return coerce(b, expr, target, "a", location)
    result = coerce_to_target(b, expr, target, "a", location)
    if result is None:
        raise DatatypeMismatch(
            f'column "{column.name}" is of type {type_named(target.oid)} '
            f"but expression is of type {type_named(expr.type.oid)}",
            hint="You will need to rewrite or cast the expression.",
            position=b.position(location),
        )
    return result


def row_columns(b: Binder, table: Table) -> list[ScopeColumn]:
    """Columns with new ids for a row of the table that is being made."""
    return [
        ScopeColumn(column.name, b.new_id(), column_type(column), not column.not_null, column.number)
        for column in table.columns
        if not column.dropped
    ]


def ids_by_number(columns: Sequence[ScopeColumn]) -> dict[int, int]:
    return {column.number: column.id for column in columns}


def target_name(node: Node) -> tuple[str, Node | None]:
    alias = node.get("alias")
    return (alias["aliasname"] if alias else node["relname"]), alias


def bind_returning(
    b: Binder, parent: Scope | None, node: Node, items: Sequence[FromItem]
) -> tuple[tuple[OutputColumn, ...], tuple[Expr, ...]]:
    """RETURNING over the new row (and what FROM brings)."""
    clause = node.get("returningClause") or node.get("returningList")
    if clause is None:
        return (), ()
    if isinstance(clause, dict):
        if clause.get("options"):
            raise FeatureNotSupported("RETURNING WITH is not supported")
        clause = clause["exprs"]
    scope = Scope(parent, "RETURNING")
    for item in items:
        scope.add(item)
    targets = bind_targets(b, scope, clause)
    expressions = tuple(resolve_unknown(b, target.expr) for target in targets)
    columns = tuple(
        OutputColumn(b.new_id(), target.name, expr.type) for target, expr in zip(targets, expressions, strict=True)
    )
    return columns, expressions


def bind_assignments(b: Binder, scope: Scope, table: Table, targets: Sequence[Node]) -> list[tuple[int, Expr]]:
    """SET a = 1, (b, c) = (2, 3), (d, e) = (SELECT …)."""
    assignments: list[tuple[int, Expr]] = []
    seen: set[int] = set()
    parts: dict[int, Expr] = {}
    for wrapper in targets:
        node = wrapper["ResTarget"]
        location = node.get("location", -1)
        if node["name"] in SYSTEM_COLUMNS:
            raise FeatureNotSupported(f'cannot assign to system column "{node["name"]}"', position=b.position(location))
        column = column_named(b, table, node["name"], location)
        if column.number in seen and ("indirection" not in node or column.number not in parts):
            raise InvalidSyntax(f'multiple assignments to same column "{column.name}"')
        seen.add(column.number)
        if "indirection" in node:
            before = parts.get(column.number)
            base = _current(scope, column) if before is None else before
            parts[column.number] = store(b, scope, column.name, base, node["indirection"], node["val"], location)
            continue
        assignments.append((column.number, _assigned(b, scope, column, node["val"], location)))
    return assignments + list(parts.items())


def _current(scope: Scope, column: Column) -> Expr:
    """The column of the row that is being changed."""
    for source in scope.sources:
        if source.table is not None:
            for known in source.columns:
                if known.number == column.number:
                    return ColumnRef(known.type, known.id, known.name)
    raise FeatureNotSupported("assigning to a part of a column is not supported here")


def _assigned(b: Binder, scope: Scope, column: Column, value: Node, location: int) -> Expr:
    if "SetToDefault" in value:
        if column.generated:
            return Const(column_type(column), None)
        default = column_default(b, column)
        return default if default is not None else Const(column_type(column), None)
    if column.generated or column.identity == "a":
        what = "a generated column" if column.generated else "an identity column defined as GENERATED ALWAYS"
        raise DatabaseError.of(
            "428C9",
            f'column "{column.name}" can only be updated to DEFAULT',
            detail=f'Column "{column.name}" is {what}.',
        )
    if "MultiAssignRef" not in value:
        return assign(b, bind(b, scope, value), column, location_of(value))
    part = value["MultiAssignRef"]
    source = part["source"]
    index, count = part["colno"] - 1, part["ncolumns"]
    is_row = "RowExpr" in source
    if is_row and any("A_Star" in item.get("ColumnRef", {}).get("fields", ({},))[-1] for item in _args(source)):
        row = bind(b, scope, source)
        assert isinstance(row, RowExpr)
        if len(row.items) == count:
            return assign(b, row.items[index], column, location)
    if is_row:
        items = _args(source)
        if len(items) != count:
            raise InvalidSyntax(
                "number of columns does not match number of values", position=b.position(location_of(source))
            )
        if "SetToDefault" in items[index]:
            return _assigned(b, scope, column, items[index], location)
        return assign(b, bind(b, scope, items[index]), column, location_of(items[index]))
    if "SubLink" in source and source["SubLink"]["subLinkType"] == "EXPR_SUBLINK":
        return assign(b, _column_of_subquery(b, scope, source["SubLink"], index, count), column, location)
    raise FeatureNotSupported(
        "source for a multiple-column UPDATE item must be a sub-SELECT or ROW() expression",
        position=b.position(location_of(source)),
    )


def _args(source: Node) -> list[Node]:
    args: list[Node] = source["RowExpr"].get("args", [])
    return args


def _column_of_subquery(b: Binder, scope: Scope, link: Node, index: int, count: int) -> Expr:
    """One column of a row subquery, as a scalar subquery of its own."""
    rel = queries.bind_subquery(b, scope, link["subselect"])
    if len(rel.columns) != count:
        raise InvalidSyntax("number of columns does not match number of values", position=b.position(link["location"]))
    column = rel.columns[index]
    single = queries.single_projection(b, rel, ColumnRef(column.type, column.id, column.name))
    return Subquery(column.type, "scalar", single)
