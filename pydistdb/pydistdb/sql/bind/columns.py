"""Column references: a name, qualified or not, to the column it means; whole rows; what ``t.*`` stands for.

Source: PostgreSQL 15, parse_expr.c (transformColumnRef) for the order in which meanings are tried.
"""

from __future__ import annotations

import pydistdb.sql.bind.routines as routines
from pydistdb.sql.bind import scope as scopes
from pydistdb.sql.bind.binder import Binder, Mention
from pydistdb.sql.bind.dispatch import BINDERS
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import Scope, ScopeColumn, Source
from pydistdb.sql.bind.system_columns import bare_system_column, system_column
from pydistdb.sql.errors import (
    DatabaseError,
    FeatureNotSupported,
    InvalidSyntax,
)
from pydistdb.sql.tree import Case, ColumnRef, Const, Expr, IsNull, RowExpr
from pydistdb.sql.types.registry import BOOL, RECORD, TEXT


def _column(b: Binder, scope: Scope, node: Node) -> Expr:
    fields = node["fields"]
    location = node["location"]
    last = fields[-1]
    if "A_Star" in last:
        if len(fields) == 1:
            raise InvalidSyntax('row expansion via "*" is not supported here', position=b.position(location))
        source, owner = _starred(b, scope, node)
        return whole_row(b, source, owner, location)
    if len(fields) == 1:
        return _bare_column(b, scope, fields[0]["String"]["sval"], location, node)
    names = [part["String"]["sval"] for part in fields]
    if len(names) > 4:
        raise InvalidSyntax(
            f"improper qualified name (too many dotted names): {'.'.join(names)}", position=b.position(location)
        )
    if len(names) == 4:
        if names[0] != b.catalog.database.name:
            raise FeatureNotSupported(
                f"cross-database references are not implemented: {'.'.join(names)}", position=b.position(location)
            )
        names = names[1:]
    schema = names[0] if len(names) == 3 else None
    qualifier, name = names[-2:]
    found = scope.find_source(qualifier, schema, b.position(location))
    if found is None:
        argument = routines.argument_reference(b, names)
        if argument is not None:
            return argument
        raise scopes.missing_from_entry(scope, qualifier, b.position(location))
    source, owner = found
    column = column_of(source, name)
    if column is None:
        system = system_column(b, source, owner, name, location)
        if system is not None:
            return system
        if source.table is not None:
            from pydistdb.sql.bind.calls import call_of_row

            called = call_of_row(b, name, whole_row(b, source, owner, location), location)
            if called is not None:
                return called
        raise scopes.undefined_column(scope, name, qualifier, b.position(location))
    if b.mentions is not None:
        mention(b, "column", source, location, len(fields), column)
    return reference(b, column, owner, location)


def mention(
    b: Binder, kind: str, source: Source | None, location: int, parts: int, column: ScopeColumn | None = None
) -> None:
    """Note that the text names a relation of FROM, or a column of it by the column's own name."""
    if source is None or source.relation is None or b.text_depth or b.mentions is None:
        return
    relation, aliased = source.relation
    number = 0
    if column is not None:
        live = [each for each in relation.columns if not each.dropped]
        position = source.columns.index(column)
        number = live[position].number if position < len(live) and live[position].name == column.name else 0
    b.mentions.append(Mention(kind, location, parts, relation.oid, number, aliased))


def _bare_column(b: Binder, scope: Scope, name: str, location: int, node: Node) -> Expr:
    column = scope.by_name.get(name)
    owner = scope
    if column is None:
        found = scope.find_column(name, b.position(location))
        if found is None:
            # The name of a relation alone stands for its whole row.
            row = scope.find_source(name, None, b.position(location))
            if row is not None:
                if b.mentions is not None:
                    mention(b, "row", row[0], location, 1)
                return whole_row(b, row[0], row[1], location)
            system = bare_system_column(b, scope, name, location)
            if system is not None:
                return system
            argument = routines.argument_reference(b, [name])
            if argument is not None:
                return argument
            raise scopes.undefined_column(scope, name, None, b.position(location))
        column, owner = found
    if b.mentions is not None and (named := owner.source_of(column.id)) is not None and column in named.columns:
        mention(b, "column", named, location, 1, column)
    if b.trace_sources is not None:
        source = owner.source_of(column.id)
        if source is not None:
            b.trace_sources[id(node)] = source.name
    if owner.clause == "LATERAL" and (source := owner.source_of(column.id)) and source.problem is not None:
        raise source.problem(b.position(location))
    return reference(b, column, owner, location)


def column_of(source: Source, name: str) -> ScopeColumn | None:
    found = None
    for column in source.columns:
        if column.name == name:
            if found is not None:
                raise DatabaseError.of("42702", f'column reference "{name}" is ambiguous')
            found = column
    return found


def reference(b: Binder, column: ScopeColumn, owner: Scope, location: int) -> Expr:
    """Refer to a column, remembering where in the text and (inside an aggregate) of which query level."""
    expr = column.ref()
    b.used_columns.add(column.id)
    if b.references:
        for seen in b.references:
            seen.append(owner)
    if isinstance(expr, ColumnRef):
        b.locations[id(expr)] = (expr, location)
    return expr


def whole_row(b: Binder, source: Source, owner: Scope, location: int) -> Expr:
    """A relation's row: of the table's own row type, or a record of a subquery's columns."""
    items = [reference(b, column, owner, location) for column in source.columns]
    if source.scalar and len(items) == 1:
        return items[0]
    names = tuple(column.name for column in source.columns)
    row: Expr = RowExpr(RECORD, tuple(items), names)
    table = source.table
    numbers = {column.number: item for column, item in zip(source.columns, items, strict=True)}
    entry = b.catalog.type_entry(table.row_type_oid) if table is not None and table.row_type_oid else None
    if table is not None and entry is not None and len(numbers) == len(items):
        live = {column.number for column in table.columns if not column.dropped}
        if live == numbers.keys():
            slots = tuple(
                numbers.get(column.number) or Const(TEXT, None)
                for column in sorted(table.columns, key=lambda each: each.number)
            )
            row = RowExpr(entry.type, slots)
    if source.nullable:
        return _null_if_missing(row, source, numbers)
    return row


def _null_if_missing(row: Expr, source: Source, numbers: dict[int, Expr]) -> Expr:
    """NULL where an outer join found no row: there, a column that cannot be NULL is."""
    if source.presence_id is not None:
        missing = IsNull(BOOL, ColumnRef(BOOL, source.presence_id, ""))
        return Case(row.type, ((missing, Const(row.type, None)),), row)
    for column in source.table.columns if source.table is not None else ():
        item = numbers.get(column.number)
        if column.not_null and not column.dropped and item is not None:
            return Case(row.type, ((IsNull(BOOL, item), Const(row.type, None)),), row)
    return row


def star_columns(b: Binder, scope: Scope, wrapper: Node) -> list[Expr] | None:
    """The columns of ``t.*`` inside an expression list; None if the node is no such thing."""
    node = wrapper.get("ColumnRef")
    if node is None or "A_Star" not in node["fields"][-1] or len(node["fields"]) < 2:
        return None
    names = [part["String"]["sval"] for part in node["fields"][:-1]]
    if b.arguments is not None and scope.find_source(names[-1], None, None) is None:
        found = routines.argument_fields(b, names)
        if found is not None:
            return [expr for _, expr in found]
    source, owner = _starred(b, scope, node)
    return [reference(b, column, owner, node["location"]) for column in source.columns]


def _starred(b: Binder, scope: Scope, node: Node) -> tuple[Source, Scope]:
    """The relation of ``t.*``."""
    qualifier = node["fields"][-2]["String"]["sval"]
    schema = node["fields"][-3]["String"]["sval"] if len(node["fields"]) > 2 else None
    found = scope.find_source(qualifier, schema, b.position(node["location"]))
    if found is None:
        raise scopes.missing_from_entry(scope, qualifier, b.position(node["location"]))
    if b.mentions is not None:
        mention(b, "star", found[0], node["location"], len(node["fields"]))
    return found


BINDERS["ColumnRef"] = _column
