"""Definitions as text, as Postgres's pg_get_*def functions write them."""

from __future__ import annotations

from pydistdb.sql.catalog.descriptors import Check, ForeignKey, Index, Table
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.pg_catalog.objects import column_names, index_numbers, qualified_name, visible_name
from pydistdb.sql.types.reg import quote_identifier

_ACTIONS = {"r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def index_column_text(table: Table, index: Index, position: int) -> str:
    """One column of an index, without its ordering."""
    return quote_identifier(column_names(table, [index.columns[position].column])[0])


def index_definition(view: StateView, table: Table, index: Index) -> str:
    """``CREATE UNIQUE INDEX t_a_key ON public.t USING btree (a)``."""
    items = []
    for position, column in enumerate(index.columns):
        text = index_column_text(table, index, position)
        if column.descending:
            text += " DESC" if column.nulls_first else " DESC NULLS LAST"
        elif column.nulls_first:
            text += " NULLS FIRST"
        items.append(text)
    unique = "UNIQUE " if index.unique else ""
    return (
        f"CREATE {unique}INDEX {quote_identifier(index.name)} ON {qualified_name(view, table)} "
        f"USING btree ({', '.join(items)})"
    )


def _list(names: list[str]) -> str:
    return "(" + ", ".join(map(quote_identifier, names)) + ")"


def key_definition(table: Table, index: Index) -> str:
    """``PRIMARY KEY (a)`` or ``UNIQUE (a, b)``."""
    return ("PRIMARY KEY " if index.primary else "UNIQUE ") + _list(column_names(table, index_numbers(index)))


def check_definition(check: Check) -> str:
    """``CHECK ((a > 0))``; Postgres puts the condition in parentheses of its own."""
    expression = check.expression
    return f"CHECK (({expression}))" if not _is_parenthesized(expression) else f"CHECK ({expression})"


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
    if key.on_update in _ACTIONS:
        text += f" ON UPDATE {_ACTIONS[key.on_update]}"
    if key.on_delete in _ACTIONS:
        text += f" ON DELETE {_ACTIONS[key.on_delete]}"
    return text


def view_definition(table: Table) -> str:
    """The view's query as it is stored (pg_get_viewdef starts with a space and ends with a semicolon)."""
    return f" {table.definition};"


def shard_definition(table: Table) -> str:
    """``SHARD BY HASH (id)``, or nothing."""
    if table.sharding is None:
        return ""
    return f"SHARD BY HASH {_list(column_names(table, table.sharding.columns))}"
