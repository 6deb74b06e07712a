"""``INSERT INTO t (id, c.x, c.y, a[2]) VALUES …``: values for parts of columns.

What the parts of one column are given is put together in a value that starts from NULL: ``c`` becomes
``set_field(set_field(NULL, x, 1), y, 2)``.

Source: PostgreSQL 15, parse_target.c (transformAssignmentIndirection).
"""

from __future__ import annotations

from pydistdb.sql.bind.assignments import assign, column_named
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.dispatch import bind
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import FromItem, Scope, ScopeColumn, Source
from pydistdb.sql.bind.stored import column_default, column_type
from pydistdb.sql.bind.stores import store
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.errors import DatabaseError, InvalidSyntax
from pydistdb.sql.tree import Const, Expr, OutputColumn, Project, Rel, Values


def names_parts(node: Node) -> bool:
    """Tell whether an INSERT names a part of a column."""
    return any("indirection" in wrapper["ResTarget"] for wrapper in node.get("cols", ()))


def values_for_parts(
    b: Binder, parent: Scope | None, table: Table, node: Node, select: Node, target: Source
) -> tuple[Rel, list[Column]]:
    """The rows of VALUES, with one value for each column that is named in whole or in part."""
    scope = Scope(parent, "VALUES")
    scope.hidden = [target]
    columns, named = _targets(b, table, node)
    rows = []
    for wrapper in select["valuesLists"]:
        items = wrapper["List"]["items"]
        if len(items) != len(named):
            more = "expressions than target columns" if len(items) > len(named) else "target columns than expressions"
            raise InvalidSyntax(f"INSERT has more {more}")
        values: dict[int, Expr] = {}
        for (column, steps, location), item in zip(named, items, strict=True):
            values[column.number] = _value(b, scope, column, steps, item, location, values.get(column.number))
        rows.append(tuple(values[column.number] for column in columns))
    outputs = tuple(OutputColumn(b.new_id(), column.name, column_type(column)) for column in columns)
    return Values(outputs, tuple(rows)), columns


def query_for_parts(b: Binder, parent: Scope | None, table: Table, node: Node, rel: Rel) -> tuple[Rel, list[Column]]:
    """The rows of a query, with one value for each column that is named in whole or in part."""
    columns, named = _targets(b, table, node)
    if len(rel.columns) != len(named):
        more = "expressions than target columns" if len(rel.columns) > len(named) else "target columns than expressions"
        raise InvalidSyntax(f"INSERT has more {more}")
    # The query's columns under names that nobody writes, so that parts can be bound as those of VALUES are.
    shown = [ScopeColumn(f"\0{place}", column.id, column.type) for place, column in enumerate(rel.columns)]
    scope = Scope(parent, "SELECT")
    scope.add(FromItem(rel, [Source("", shown)], shown))
    values: dict[int, Expr] = {}
    for (column, steps, location), given in zip(named, shown, strict=True):
        item = {"ColumnRef": {"fields": [{"String": {"sval": given.name}}], "location": location}}
        values[column.number] = _value(b, scope, column, steps, item, location, values.get(column.number))
    outputs = tuple(OutputColumn(b.new_id(), column.name, column_type(column)) for column in columns)
    return Project(outputs, rel, tuple(values[column.number] for column in columns)), columns


def _targets(b: Binder, table: Table, node: Node) -> tuple[list[Column], list[tuple[Column, list[Node], int]]]:
    """The columns, and for each value its column, the steps to the part and where it is named."""
    columns: list[Column] = []
    whole: set[int] = set()
    named = []
    for wrapper in node["cols"]:
        item = wrapper["ResTarget"]
        location = item.get("location", -1)
        column = column_named(b, table, item["name"], location)
        steps = item.get("indirection", [])
        if column in columns and (not steps or column.number in whole):
            raise DatabaseError.of(
                "42701", f'column "{column.name}" specified more than once', position=b.position(location)
            )
        if column.generated or column.identity == "a":
            raise DatabaseError.of("428C9", f'cannot insert a non-DEFAULT value into column "{column.name}"')
        if column not in columns:
            columns.append(column)
        if not steps:
            whole.add(column.number)
        named.append((column, steps, location))
    return columns, named


def _value(
    b: Binder, scope: Scope, column: Column, steps: list[Node], item: Node, location: int, before: Expr | None
) -> Expr:
    if steps:
        base = Const(column_type(column), None) if before is None else before
        return store(b, scope, column.name, base, steps, item, location)
    if "SetToDefault" in item:
        return column_default(b, column) or Const(column_type(column), None)
    return assign(b, bind(b, scope, item), column, location_of(item))
