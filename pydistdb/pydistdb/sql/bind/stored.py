"""Expressions that the catalog keeps as SQL text: column defaults, generated columns and CHECK constraints.

The text is parsed once and kept; it is bound anew for every statement, against the column ids of that statement's row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import coerce_to_boolean, coerce_to_target, type_named
from pydistdb.sql.bind.cutting import Cut
from pydistdb.sql.bind.dispatch import bind
from pydistdb.sql.bind.parse import Node, parse
from pydistdb.sql.bind.scope import NO_ROWS_OF_NOTHING, FromItem, Scope, ScopeColumn, Source
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.errors import DatabaseError, DatatypeMismatch, InvalidSyntax
from pydistdb.sql.tree import Call, Expr
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.user import FIRST_USER_OID

MOST_PARSED_TEXTS = 4096
_WRAPPER = "SELECT ("


@lru_cache(maxsize=MOST_PARSED_TEXTS)
def parsed_expression(text: str) -> Node:
    """Parse an expression (as the select list of a query; a line break ends a trailing comment)."""
    statements = parse(f"{_WRAPPER}{text}\n)")
    node = statements[0].node if len(statements) == 1 else {}
    if len(node.get("targetList", ())) != 1:
        raise InvalidSyntax("an expression is expected")
    value: Node = node["targetList"][0]["ResTarget"]["val"]
    return value


def column_type(column: Column) -> SqlType:
    return registry.type_by_oid(column.type_oid).with_modifier(column.modifier)


def bind_text(b: Binder, scope: Scope, text: str) -> Expr:
    """Bind stored text; its locations mean nothing to the client, unless it was just cut out of the statement."""
    cut = isinstance(text, Cut) and not b.text_depth
    b.text_depth += not cut
    saved = b.references, b.used_columns, b.parsed
    b.references, b.used_columns = [], set()  # what the catalog's own expressions read takes no privileges
    if cut:
        b.parsed = replace(b.parsed, source=_WRAPPER + text)
    try:
        return bind(b, scope, parsed_expression(text))
    except DatabaseError as error:
        if isinstance(text, Cut) and cut and error.position is not None:
            error.position += text.start - len(_WRAPPER)
        raise
    finally:
        b.text_depth -= not cut
        b.references, b.used_columns, b.parsed = saved


def column_default(b: Binder, column: Column) -> Expr | None:
    """The default of a column as an expression of its type; None if it has none."""
    text = default_text(b.catalog, column)
    if text is None:
        return None
    expr = bind_text(b, Scope(None, "DEFAULT"), text)
    if column.identity and isinstance(expr, Call):
        from pydistdb.sql.pg_catalog.functions_sequences import next_identity

        expr = replace(expr, function=replace(expr.function, implementation=next_identity))
    return to_column(b, expr, column_type(column), column.name, "default expression")


def default_text(catalog: CatalogView, column: Column) -> str | None:
    """The text of a column's default, or of its domain's; a domain without any may still refuse NULL."""
    if column.generated or column.type_oid < FIRST_USER_OID:
        return None if column.generated else column.default
    if column.default is not None:
        return column.default
    entry = catalog.type_entry(column.type_oid)
    if entry is None or entry.definition.kind != "d":
        return None
    return entry.definition.default or "NULL"


def to_column(b: Binder, expr: Expr, target: SqlType, name: str, what: str, location: int = -1) -> Expr:
    result = coerce_to_target(b, expr, target, "a", location)
    if result is None:
        raise DatatypeMismatch(
            f'column "{name}" is of type {type_named(target.oid)} but {what} is of type {type_named(expr.type.oid)}',
            hint="You will need to rewrite or cast the expression.",
            position=b.position(location),
        )
    return result


def row_scope(table: Table, ids: dict[int, int], clause: str) -> Scope:
    """A scope in which the table's columns have the ids given by column number."""
    scope = Scope(None, clause)
    columns = [
        ScopeColumn(column.name, ids[column.number], column_type(column), not column.not_null, column.number)
        for column in table.columns
        if not column.dropped
    ]
    scope.add(FromItem(NO_ROWS_OF_NOTHING, [Source(table.name, columns, None, table)], columns))
    return scope


def bind_checks(b: Binder, table: Table, ids: dict[int, int]) -> tuple[tuple[str, Expr], ...]:
    """The table's CHECK constraints over a row with these column ids."""
    if not table.checks:
        return ()
    scope = row_scope(table, ids, "CHECK")
    return tuple(
        (check.name, coerce_to_boolean(b, bind_text(b, scope, check.expression), "CHECK", -1)) for check in table.checks
    )


def generated_columns(b: Binder, table: Table, ids: dict[int, int]) -> tuple[tuple[int, Expr], ...]:
    """What generated columns are computed as, over a row with these column ids."""
    generated: Sequence[Column] = [c for c in table.columns if c.generated and not c.dropped]
    if not generated:
        return ()
    scope = row_scope(table, ids, "GENERATED")
    return tuple(
        (
            column.number,
            to_column(
                b,
                bind_text(b, scope, column.default or "NULL"),
                column_type(column),
                column.name,
                "generation expression",
            ),
        )
        for column in generated
    )
