"""Checking stored expressions when they are defined: CHECK conditions and column defaults.

The catalog keeps their SQL text; here they are bound once against the (new) table, so that errors come from the DDL
statement and not from the first INSERT.
"""

from __future__ import annotations

import dataclasses
import re

from pydistdb.sql import bind
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.catalog.qualify import qualified_text
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported
from pydistdb.sql.tree import Call, ColumnRef, Expr, SetCall, Subquery
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext, SqlType

_LITERAL = re.compile(r"'(?:[^'\\]|'')*'")


def column_type(column: Column) -> SqlType:
    return registry.type_by_oid(column.type_oid).with_modifier(column.modifier)


def check_columns(ddl: DdlContext, table: Table, text: str) -> list[str]:
    """Bind a CHECK condition; returns the names of the columns it uses, in column order."""
    expression = bind.bind_expression(text, table, ddl.view, ddl.context, registry.BOOL)
    used: set[int] = set()
    _collect(expression, used, "check constraint")
    return [column.name for column in table.columns if column.number in used]


def check_default(ddl: DdlContext, text: str, column: Column) -> Expr:
    """Bind a column default, converted to the column's type."""
    sql_type = column_type(column)
    try:
        expression = bind.bind_scalar(text, ddl.view, ddl.context, sql_type)
    except DatabaseError as error:
        if error.sqlstate == "42703":
            message = "cannot use column reference in DEFAULT expression"
            raise FeatureNotSupported(message, position=error.position) from None
        raise
    _collect(expression, set(), "DEFAULT expression")
    return expression


def stored_default(ddl: DdlContext, text: str, column: Column) -> str:
    """Check a column's default; returns the text to keep.

    A literal date or time means what it means now (``'now'``, ``'tomorrow'``), so its value is kept."""
    check_default(ddl, text, column)
    if _LITERAL.fullmatch(text) and column_type(column).category in "DT":
        io = registry.io(column.type_oid)
        value = io.parse(text[1:-1].replace("''", "'"), -1, ddl.context)
        return f"'{io.format(value, EvalContext())}'"
    return qualified_text(ddl.view, text)


def refuse_unstorable(expression: Expr, where: str) -> None:
    """Refuse an expression with parts that must not be stored."""
    _collect(expression, set(), where)


def _collect(node: object, used: set[int], where: str) -> None:
    """Walk an expression; note the columns it refers to, refuse what must not be stored."""
    if isinstance(node, ColumnRef):
        used.add(node.id)
    elif isinstance(node, Subquery):
        raise FeatureNotSupported(f"cannot use subquery in {where}")
    elif isinstance(node, tuple):
        for item in node:
            _collect(item, used, where)
        return
    if dataclasses.is_dataclass(node) and isinstance(node, Expr):
        for field in dataclasses.fields(node):
            _collect(getattr(node, field.name), used, where)


def column_numbers_used(ddl: DdlContext, table: Table, text: str) -> set[int]:
    """The columns that a stored expression of the table refers to."""
    used: set[int] = set()
    _collect(bind.bind_expression(text, table, ddl.view, ddl.context), used, "expression")
    return used


def is_volatile(expression: object) -> bool:
    """Tell whether evaluating the expression twice may give two values within one statement."""
    return _calls_any(expression, "v")


def is_immutable(expression: object) -> bool:
    """Tell whether the expression gives the same for the same, for ever."""
    return not _calls_any(expression, "vs")


def _calls_any(expression: object, volatilities: str) -> bool:
    if isinstance(expression, (Call, SetCall)) and expression.function.volatility in volatilities:
        return True
    if isinstance(expression, tuple):
        return any(_calls_any(item, volatilities) for item in expression)
    if isinstance(expression, Expr):
        return any(_calls_any(getattr(expression, each.name), volatilities) for each in dataclasses.fields(expression))
    return False
