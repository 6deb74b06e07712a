"""INSERT, UPDATE and DELETE.

The relation below an Insert yields one value per target column, already of the column's type; defaults, checks and
RETURNING are expressions over the new row, whose columns have ids of their own (``row_ids``, ``new_ids``).  Update and
Delete read their target with its key (column number 0) and all its columns.

Source: PostgreSQL 15, analyze.c and parse_target.c; manual, pages of the three statements.
"""

from __future__ import annotations

from collections.abc import Sequence

import pydistdb.sql.bind.query as queries
import pydistdb.sql.bind.set_operations as set_operations
import pydistdb.sql.bind.with_queries as with_queries
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import UNKNOWN_OID, coerce, coerce_to_target, resolve_unknown, type_named
from pydistdb.sql.bind.conflict import bind_conflict
from pydistdb.sql.bind.dispatch import bind, bind_condition
from pydistdb.sql.bind.from_clause import NO_ROWS_OF_NOTHING, TRUE, find_relation, table_item, tracked_item
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import FromItem, Scope, ScopeColumn, Source
from pydistdb.sql.bind.stored import bind_checks, column_default, column_type, generated_columns
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
    Delete,
    Expr,
    Filter,
    Insert,
    Join,
    OutputColumn,
    Project,
    Rel,
    RowExpr,
    Subquery,
    Update,
    Values,
)
from pydistdb.sql.types.registry import INT4, INT8, TEXT

_PLAIN_INTEGERS = frozenset({INT4.oid, INT8.oid})


def bind_change(b: Binder, parent: Scope | None, wrapper: Node) -> Rel:
    """An INSERT, UPDATE or DELETE, at the top or in WITH."""
    for kind, node in wrapper.items():
        outside = parent
        wrap: with_queries.Wrap | None = None
        if "withClause" in node:
            outside = Scope(parent)
            wrap = with_queries.bind_with(b, outside, node["withClause"])
        match kind:
            case "InsertStmt":
                rel: Rel = _insert(b, outside, node)
            case "UpdateStmt":
                rel = _update(b, outside, node)
            case "DeleteStmt":
                rel = _delete(b, outside, node)
            case _:
                raise FeatureNotSupported(f"{kind.removesuffix('Stmt').upper()} is not supported")
        return rel if wrap is None else wrap(rel)
    raise FeatureNotSupported("empty statement")


def _target(b: Binder, node: Node) -> Table:
    relation = find_relation(b, node)
    position = b.position(node.get("location", -1))
    if isinstance(relation, VirtualTable):
        raise InsufficientPrivilege(f'permission denied: "{relation.name}" is a system catalog', position=position)
    if relation.kind == "v":
        raise FeatureNotSupported(f'changing rows through view "{relation.name}" is not supported', position=position)
    if relation.kind not in ("r", "p"):
        raise DatabaseError.of("42809", f'cannot open relation "{relation.name}"', position=position)
    b.tables.add(relation.oid)
    return relation


def _column_named(b: Binder, table: Table, name: str, location: int) -> Column:
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


def _target_name(node: Node) -> tuple[str, Node | None]:
    alias = node.get("alias")
    return (alias["aliasname"] if alias else node["relname"]), alias


def _returning(
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
    if scope.set_calls:
        raise FeatureNotSupported("set-returning functions are not allowed in RETURNING")
    expressions = tuple(resolve_unknown(b, target.expr) for target in targets)
    columns = tuple(
        OutputColumn(b.new_id(), target.name, expr.type) for target, expr in zip(targets, expressions, strict=True)
    )
    return columns, expressions


# ------------------------------------------------------------------------------------------------ INSERT


def _insert(b: Binder, parent: Scope | None, node: Node) -> Insert:
    table = _target(b, node["relation"])
    name, _ = _target_name(node["relation"])
    row = row_columns(b, table)
    target = Source(name, row, None, table)
    targets, locations = _insert_targets(b, table, node)
    select = node.get("selectStmt", {}).get("SelectStmt")
    overriding = node.get("override", "OVERRIDING_NOT_SET")
    if select is None:
        numbers: list[int] = []
        source: Rel = NO_ROWS_OF_NOTHING
    elif "valuesLists" in select and not any(
        k in select for k in ("sortClause", "limitCount", "limitOffset", "withClause")
    ):
        source, used = _insert_values(b, parent, table, select, targets, locations, "cols" in node, overriding, target)
        numbers = [column.number for column in used]
    else:
        outside = Scope(parent)
        outside.hidden = [target]
        source, used = _insert_select(b, outside, node, select, targets, locations)
        for column in used:
            _check_identity(column, overriding, False)
        numbers = [column.number for column in used]
    if overriding == "OVERRIDING_USER_VALUE":
        source, numbers = _without_identity(b, table, source, numbers)
    given = set(numbers)
    defaults = {
        column.number: default
        for column in table.columns
        if not column.dropped and column.number not in given and not column.generated
        if (default := column_default(b, column)) is not None
    }
    row_ids = ids_by_number(row)
    item = FromItem(source, [target], row)
    conflict = None
    if "onConflictClause" in node:
        conflict = bind_conflict(b, parent, node["onConflictClause"], table, name, row)
    columns, returning = _returning(b, parent, node, [item])
    checks = bind_checks(b, table, row_ids)
    generated = generated_columns(b, table, row_ids)
    return Insert(columns, table, source, tuple(numbers), defaults, checks, row_ids, returning, conflict, generated)


def _insert_targets(b: Binder, table: Table, node: Node) -> tuple[list[Column], list[int]]:
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
            raise FeatureNotSupported("INSERT into array elements is not supported", position=b.position(location))
        column = _column_named(b, table, target["name"], location)
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
    _check_width(b, targets, target_locations, lists[0], width, named)
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
                _check_identity(targets[index], overriding, False)
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


def _check_width(
    b: Binder, targets: list[Column], locations: list[int], items: Sequence[Node], width: int, named: bool
) -> None:
    if width > len(targets):
        raise InvalidSyntax(
            "INSERT has more expressions than target columns", position=b.position(location_of(items[len(targets)]))
        )
    if named and width < len(targets):
        raise InvalidSyntax("INSERT has more target columns than expressions", position=b.position(locations[width]))


def _check_identity(column: Column, overriding: str, is_default: bool) -> None:
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


# ------------------------------------------------------------------------------------------------ UPDATE, DELETE


def _changed_rows(
    b: Binder, parent: Scope | None, node: Node, table: Table, others: Sequence[Node]
) -> tuple[Scope, FromItem, list[FromItem], Rel, Expr | None]:
    """The rows to change: the target with its key, joined with what FROM or USING brings, where the condition holds."""
    name, alias = _target_name(node["relation"])
    scope = Scope(parent)
    target = table_item(b, table, name, alias, None if alias else node["relation"].get("schemaname"), True)
    scope.add(target)
    rel = target.rel
    items = [target]
    for other in others:
        item, lateral = tracked_item(b, scope, other, items)
        scope.add(item)
        items.append(item)
        rel = Join(rel.columns + item.rel.columns, "inner", rel, item.rel, TRUE, lateral)
    if "whereClause" in node and "CurrentOfExpr" in node["whereClause"]:
        raise FeatureNotSupported("WHERE CURRENT OF is not supported")
    return scope, target, items, rel, None


def _filtered(b: Binder, scope: Scope, node: Node, rel: Rel) -> tuple[Rel, Expr | None]:
    if "whereClause" not in node:
        return rel, None
    condition = bind_condition(b, scope, node["whereClause"], "WHERE")
    return Filter(rel.columns, rel, condition), condition


def _update(b: Binder, parent: Scope | None, node: Node) -> Update:
    table = _target(b, node["relation"])
    scope, target, items, rel, _ = _changed_rows(b, parent, node, table, node.get("fromClause", ()))
    scope.clause = "UPDATE"
    assignments = bind_assignments(b, scope, table, node["targetList"])
    rel, condition = _filtered(b, scope, node, rel)
    source = target.sources[0]
    new_row = row_columns(b, table)
    labels = {column.number: column.name for column in source.columns}
    for column in new_row:
        column.name = labels[column.number]
    new_ids = ids_by_number(new_row)
    new_item = FromItem(rel, [Source(source.name, new_row, source.schema, table)], new_row)
    columns, returning = _returning(b, parent, node, [new_item, *items[1:]])
    assert source.key_id is not None
    return Update(
        columns,
        table,
        rel,
        source.key_id,
        ids_by_number(source.columns),
        tuple(assignments),
        new_ids,
        bind_checks(b, table, new_ids),
        condition,
        returning,
        generated_columns(b, table, new_ids),
    )


def bind_assignments(b: Binder, scope: Scope, table: Table, targets: Sequence[Node]) -> list[tuple[int, Expr]]:
    """SET a = 1, (b, c) = (2, 3), (d, e) = (SELECT …)."""
    assignments: list[tuple[int, Expr]] = []
    seen: set[int] = set()
    for wrapper in targets:
        node = wrapper["ResTarget"]
        location = node.get("location", -1)
        column = _column_named(b, table, node["name"], location)
        if "indirection" in node:
            raise FeatureNotSupported(
                "assigning to array elements or fields is not supported", position=b.position(location)
            )
        if column.number in seen:
            raise InvalidSyntax(f'multiple assignments to same column "{column.name}"')
        seen.add(column.number)
        assignments.append((column.number, _assigned(b, scope, column, node["val"], location)))
    return assignments


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
    if "RowExpr" in source:
        items = source["RowExpr"].get("args", [])
        if len(items) != count:
            raise InvalidSyntax(
                "number of columns does not match number of values", position=b.position(location_of(source))
            )
        if "SetToDefault" in items[index]:
            return _assigned(b, scope, column, items[index], location)
        return assign(b, bind(b, scope, items[index]), column, location_of(items[index]))
    if "SubLink" in source and source["SubLink"]["subLinkType"] == "EXPR_SUBLINK":
        return assign(b, _column_of_subquery(b, scope, source["SubLink"], index, count), column, location)
    expr = bind(b, scope, source)
    if isinstance(expr, RowExpr) and len(expr.items) == count:
        return assign(b, expr.items[index], column, location)
    raise FeatureNotSupported(
        "source for a multiple-column UPDATE item must be a sub-SELECT or ROW() expression",
        position=b.position(location_of(source)),
    )


def _column_of_subquery(b: Binder, scope: Scope, link: Node, index: int, count: int) -> Expr:
    """One column of a row subquery, as a scalar subquery of its own."""
    rel = queries.bind_subquery(b, scope, link["subselect"])
    if len(rel.columns) != count:
        raise InvalidSyntax("number of columns does not match number of values", position=b.position(link["location"]))
    column = rel.columns[index]
    single = queries.single_projection(b, rel, ColumnRef(column.type, column.id, column.name))
    return Subquery(column.type, "scalar", single)


def _delete(b: Binder, parent: Scope | None, node: Node) -> Delete:
    table = _target(b, node["relation"])
    scope, target, items, rel, _ = _changed_rows(b, parent, node, table, node.get("usingClause", ()))
    rel, condition = _filtered(b, scope, node, rel)
    source = target.sources[0]
    columns, returning = _returning(b, parent, node, items)
    assert source.key_id is not None
    return Delete(columns, table, rel, source.key_id, ids_by_number(source.columns), condition, returning)
