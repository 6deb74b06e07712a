"""Definitions as text, as Postgres's pg_get_*def functions write them."""

from __future__ import annotations

from collections.abc import Callable

from pydistdb.sql.catalog.descriptors import Check, ForeignKey, Index, Table
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.deparse import Undeparsable, deparse, index_key
from pydistdb.sql.functions.strings import quote_literal
from pydistdb.sql.index_expressions import bound_index
from pydistdb.sql.pg_catalog.objects import column_names, index_numbers, qualified_name, visible_name
from pydistdb.sql.pg_catalog.type_facts import is_default_class
from pydistdb.sql.plan.expressions import conjoin
from pydistdb.sql.tree import Expr
from pydistdb.sql.types.reg import quote_identifier

_ACTIONS = {"r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def index_column_text(view: StateView, table: Table, index: Index, position: int, pretty: bool = False) -> str:
    """One column of an index, without its ordering; ``position`` counts the included columns on."""
    if position >= len(index.columns):
        return quote_identifier(column_names(table, [index.include[position - len(index.columns)]])[0])
    column = index.columns[position]
    if not column.expression:
        return quote_identifier(column_names(table, [column.column])[0])
    if pretty:
        key = _bound_key(view, table, index, position)
        if key is not None:
            return _pretty(table, key, column.expression, key_of=index_key)
    return column.expression


def _bound_key(view: StateView, table: Table, index: Index, position: int) -> Expr | None:
    return bound_index(table, index, view).keys[position]


def _pretty(table: Table, expression: Expr, written: str, key_of: Callable[..., str] = deparse) -> str:
    try:
        return key_of(expression, table, pretty=True)
    except Undeparsable:
        return written


def predicate_definition(view: StateView, table: Table, index: Index, pretty: bool = False) -> str:
    """The condition of a partial index."""
    if not pretty:
        return index.predicate
    return _pretty(table, conjoin(bound_index(table, index, view).predicate), index.predicate)


def index_definition(view: StateView, table: Table, index: Index, pretty: bool = False) -> str:
    """``CREATE UNIQUE INDEX t_a_key ON public.t USING btree (a)``."""
    items = []
    for position, column in enumerate(index.columns):
        text = index_column_text(view, table, index, position, pretty)
        if column.collation and column.collation not in ("default", "pg_catalog.default"):
            text += f" COLLATE {quote_identifier(column.collation.removeprefix('pg_catalog.'))}"
        if column.operator_class and not is_default_class(column.operator_class, index.method):
            text += f" {column.operator_class}"
        if column.descending:
            text += " DESC" if column.nulls_first else " DESC NULLS LAST"
        elif column.nulls_first:
            text += " NULLS FIRST"
        items.append(text)
    unique = "UNIQUE " if index.unique else ""
    name = visible_name(view, table.schema, table.name) if pretty else qualified_name(view, table)
    definition = (
        f"CREATE {unique}INDEX {quote_identifier(index.name)} ON {name} USING {index.method} ({', '.join(items)})"
    )
    if index.include:
        definition += f" INCLUDE {_list(column_names(table, index.include))}"
    if index.nulls_not_distinct:
        definition += " NULLS NOT DISTINCT"
    definition += _with_options(index)
    if index.predicate:
        definition += f" WHERE {predicate_definition(view, table, index, pretty)}"
    return definition


def _with_options(index: Index) -> str:
    if not index.options:
        return ""
    pairs = [option.split("=", 1) for option in index.options]
    words = [f"{quote_identifier(name)}={_option_value(value)}" for name, value in pairs]
    return f" WITH ({', '.join(words)})"


def _option_value(value: str) -> str:
    """Bare if it can be read as a name, else in quotes (flatten_reloptions in ruleutils.c)."""
    return value if quote_identifier(value) == value else quote_literal(value)


def _list(names: list[str]) -> str:
    return "(" + ", ".join(map(quote_identifier, names)) + ")"


def key_definition(table: Table, index: Index) -> str:
    """``PRIMARY KEY (a)`` or ``UNIQUE (a, b)``."""
    text = "PRIMARY KEY " if index.primary else "UNIQUE "
    if index.nulls_not_distinct:
        text += "NULLS NOT DISTINCT "
    text += _list(column_names(table, index_numbers(index)))
    if index.include:
        text += f" INCLUDE {_list(column_names(table, index.include))}"
    return text + _with_options(index) + deferrability(index.deferrable, index.deferred)


def deferrability(deferrable: bool, deferred: bool) -> str:
    return f"{' DEFERRABLE' if deferrable else ''}{' INITIALLY DEFERRED' if deferred else ''}"


def check_definition(check: Check) -> str:
    """``CHECK ((a > 0))``; Postgres puts the condition in parentheses of its own."""
    expression = check.expression
    text = f"CHECK (({expression}))" if not _is_parenthesized(expression) else f"CHECK ({expression})"
    return text + check_attributes(check)


def check_attributes(check: Check) -> str:
    """What stands behind the condition."""
    return (" NO INHERIT" if check.no_inherit else "") + ("" if check.validated else " NOT VALID")


def _is_parenthesized(text: str) -> bool:
    """Whether one pair of parentheses encloses the whole text."""
    if not (text.startswith("(") and text.endswith(")")):
        return False
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and position < len(text) - 1:
            return False
    return True


def foreign_key_definition(view: StateView, table: Table, key: ForeignKey) -> str:
    """``FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE``."""
    referenced = view.table_by_oid(key.referenced_table)
    if referenced is None:
        return ""
    target = visible_name(view, referenced.schema, referenced.name)
    text = (
        f"FOREIGN KEY {_list(column_names(table, key.columns))} REFERENCES "
        f"{target}{_list(column_names(referenced, key.referenced_columns))}"
    )
    if key.match_full:
        text += " MATCH FULL"
    if key.on_update in _ACTIONS:
        text += f" ON UPDATE {_ACTIONS[key.on_update]}"
    if key.on_delete in _ACTIONS:
        text += f" ON DELETE {_ACTIONS[key.on_delete]}"
        if key.delete_columns:
            text += f" {_list(column_names(table, key.delete_columns))}"
    text += deferrability(key.deferrable, key.deferred)
    return text if key.validated else f"{text} NOT VALID"


def view_definition(table: Table) -> str:
    """The view's query as it is stored (pg_get_viewdef starts with a space and ends with a semicolon)."""
    return f" {table.definition};"
