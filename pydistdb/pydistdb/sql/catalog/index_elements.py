"""The keys and the predicate of CREATE INDEX, checked and written down as the catalog keeps them.

Expressions are kept as Postgres would show them (deparse.py), if that text binds to the same expression again; else as
the user wrote them.  Operator classes and collations are checked and remembered, but make no difference: text is
ordered bytewise whatever they say.
"""

from __future__ import annotations

from msgspec.structs import replace

from pydistdb.sql import bind
from pydistdb.sql.catalog import constraints
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Index, IndexColumn, Table
from pydistdb.sql.catalog.expressions import column_numbers_used
from pydistdb.sql.catalog.options import collation_named
from pydistdb.sql.deparse import Undeparsable, deparse, index_key
from pydistdb.sql.errors import (
    DatabaseError,
    DatatypeMismatch,
    FeatureNotSupported,
    InvalidObjectDefinition,
    UndefinedColumn,
    UndefinedFunction,
    UndefinedObject,
)
from pydistdb.sql.inverted import token_class
from pydistdb.sql.pg_catalog.type_facts import OPERATOR_CLASSES
from pydistdb.sql.plan.expressions import has_subquery, rewrite, walk
from pydistdb.sql.plan.implication import same
from pydistdb.sql.schema_statements import IndexElement
from pydistdb.sql.tree import AnyAll, ArrayLiteral, Call, ColumnRef, Expr, InList
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import SqlType

_COLLATABLE = "S"
_ANYARRAY_OID = 2277


def index_column(ddl: DdlContext, table: Table, element: IndexElement, method: str) -> IndexColumn:
    """One key."""
    if element.name is not None:
        column = constraints.column_named(table, element.name)
        if column is None:
            if element.name in constraints.SYSTEM_COLUMNS:
                raise FeatureNotSupported("index creation on system columns is not supported")
            raise UndefinedColumn(f'column "{element.name}" does not exist')
        key = IndexColumn(column.number)
        sql_type = registry.type_by_oid(column.type_oid)
    else:
        key, sql_type = _expression(ddl, table, element.text)
    _check_operator_class(element, sql_type, method)
    if element.collation:
        if sql_type.category != _COLLATABLE:
            name = registry.format_type(sql_type.oid, -1)
            raise DatatypeMismatch(f"collations are not supported by type {name}")
        collation_named(element.collation)
    check_key(sql_type.oid, method, element.operator_class)
    nulls_first = element.descending if element.nulls_first is None else element.nulls_first
    return replace(
        key,
        descending=element.descending,
        nulls_first=nulls_first,
        operator_class=element.operator_class,
        collation=element.collation,
    )


def check_key(type_oid: int, method: str, operator_class: str) -> None:
    """Raise unless values of the type can be keys of such an index."""
    if method != "gin":
        constraints.check_key_type(type_oid)
    elif token_class(type_oid, operator_class) is None:
        sql_type = registry.type_by_oid(type_oid)
        if not sql_type.is_array:
            raise constraints.no_operator_class(registry.format_type(type_oid, -1), method)
        element = registry.format_type(sql_type.element_oid, -1)
        if element == "json":
            raise UndefinedFunction(f"could not identify a comparison function for type {element}")
        raise FeatureNotSupported(f"arrays of type {element} cannot be the key of an inverted index")


def _expression(ddl: DdlContext, table: Table, text: str) -> tuple[IndexColumn, SqlType]:
    expression = bind.bind_expression(text, table, ddl.view, ddl.context, clause="INDEX")
    if isinstance(expression, ColumnRef):
        return IndexColumn(expression.id), expression.type
    _check_immutable(expression, "index expression")
    if expression.type.category == "P":
        name = bind.expression_label(text) or "expr"
        raise DatabaseError.of("42P16", f'column "{name}" has pseudo-type {expression.type.name}')
    written = canonical(ddl, table, expression, text, key=True)
    return IndexColumn(0, expression=written, type_oid=expression.type.oid), expression.type


def predicate_text(ddl: DdlContext, table: Table, text: str) -> str:
    """The predicate of a partial index."""
    expression = bind.bind_expression(text, table, ddl.view, ddl.context, registry.BOOL, clause="INDEX WHERE")
    _check_immutable(expression, "index predicate")
    return canonical(ddl, table, expression, text)


def canonical(ddl: DdlContext, table: Table, expression: Expr, text: str, *, key: bool = False) -> str:
    """The expression as Postgres would show it, if that means the same; else the text as written."""
    try:
        shown = (index_key if key else deparse)(expression, table)
        target = None if key else registry.BOOL
        again = bind.bind_expression(shown, table, ddl.view, ddl.context, target)
        if same(rewrite(again, _list_as_array), rewrite(expression, _list_as_array)):
            return shown
    except (Undeparsable, DatabaseError):
        pass
    return text if not key or text.startswith("(") else f"({text})"


def _list_as_array(expression: Expr) -> Expr:
    """IN (…) as = ANY (ARRAY[…]), which is how it is shown and read back."""
    if isinstance(expression, InList) and not expression.negated:
        items = ArrayLiteral(registry.array_of(expression.items[0].type), expression.items)
        return AnyAll(expression.type, expression.argument, items, expression.equality, False)
    return expression


def _check_immutable(expression: Expr, what: str) -> None:
    if has_subquery(expression):
        raise FeatureNotSupported(f"cannot use subquery in {what}")
    for node in walk(expression):
        if isinstance(node, Call) and node.function.volatility != "i":
            raise InvalidObjectDefinition(f"functions in {what} must be marked IMMUTABLE")


def _check_operator_class(element: IndexElement, sql_type: SqlType, method: str) -> None:
    name = element.operator_class.removeprefix("pg_catalog.")
    if not name:
        return
    classes = [entry for entry in OPERATOR_CLASSES if entry.name == name and entry.method == method]
    if not classes:
        raise UndefinedObject(f'operator class "{name}" does not exist for access method "{method}"')
    accepted = {entry.input_type for entry in classes}
    if sql_type.is_array and _ANYARRAY_OID in accepted:
        return
    if sql_type.oid in accepted or (sql_type.category == "S" and registry.TEXT.oid in accepted):
        return
    type_name = registry.format_type(sql_type.oid, -1)
    raise DatatypeMismatch(f'operator class "{name}" does not accept data type {type_name}')


def key_label(table: Table, column: IndexColumn) -> str:
    """What the key contributes to a chosen name: ``t_lower_idx``, ``t_a_expr_idx``."""
    if column.column:
        return constraints.column_numbered(table, column.column).name
    return bind.expression_label(column.expression) or "expr"


def columns_of_index(ddl: DdlContext, table: Table, index: Index) -> set[int]:
    """The columns that the index cannot do without."""
    numbers = {column.column for column in index.columns if column.column} | set(index.include)
    texts = [column.expression for column in index.columns if column.expression]
    for text in [*texts, index.predicate]:
        if text:
            numbers |= column_numbers_used(ddl, table, text)
    return numbers


def rebound_indexes(ddl: DdlContext, table: Table, storage_ids: set[int]) -> tuple[Index, ...]:
    """The table's indexes after a column's type has changed: what these expressions are may have changed with it."""
    return tuple(_rebound(ddl, table, index) if index.storage_id in storage_ids else index for index in table.indexes)


def _rebound(ddl: DdlContext, table: Table, index: Index) -> Index:
    columns = []
    for column in index.columns:
        if column.expression:
            key, sql_type = _expression(ddl, table, column.expression)
            check_key(sql_type.oid, index.method, column.operator_class)
            column = replace(column, expression=key.expression, type_oid=key.type_oid)
        columns.append(column)
    predicate = predicate_text(ddl, table, index.predicate) if index.predicate else ""
    return replace(index, columns=tuple(columns), predicate=predicate)
