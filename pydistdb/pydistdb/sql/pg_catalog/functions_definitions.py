"""pg_get_*def, pg_get_expr, format_type: the functions with which clients have objects written as SQL.

Overloads with ``pretty`` leave out parentheses and schemas that a reader does not need.

    pg_get_constraintdef(oid)        PRIMARY KEY (id)
    format_type(1700, 524294)        numeric(8,2)

Source: PostgreSQL 15 manual, 9.26 (system catalog information functions).
"""

from __future__ import annotations

import re
from typing import Any

from pydistdb.sql.catalog.descriptors import Check, Column, Table
from pydistdb.sql.catalog.sequence_numbers import definition_of
from pydistdb.sql.catalog.view import VirtualTable
from pydistdb.sql.errors import UndefinedColumn, UndefinedTable
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.pg_catalog.constraints import REWRITE_OID_OFFSET
from pydistdb.sql.pg_catalog.defaults import default_text
from pydistdb.sql.pg_catalog.deparsing import expression_text, query_text
from pydistdb.sql.pg_catalog.describe import (
    check_attributes,
    check_definition,
    foreign_key_definition,
    index_column_text,
    index_definition,
    key_definition,
)
from pydistdb.sql.pg_catalog.objects import CONSTRAINT_OID_OFFSET, qualified_name, visible_name
from pydistdb.sql.pg_catalog.provide import provides, view_of
from pydistdb.sql.types import reg
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.base import EvalContext, Function
from pydistdb.sql.types.known import TYPES_BY_OID
from pydistdb.sql.types.user import DomainCheck, UserType


@provides("format_type(oid,int4)")
def format_type(context: EvalContext, type_oid: int | None, modifier: int | None) -> str | None:
    if type_oid is None:
        return None
    name = reg.user_type_name(type_oid, context)
    if name is not None:
        return name
    if type_oid in TYPES_BY_OID:
        return types.format_type(type_oid, modifier)
    if type_oid == 0:
        return "-"
    view = view_of(context)
    for table in view.tables():
        if table.row_type_oid and type_oid in (table.row_type_oid, table.row_type_oid + 1):
            suffix = "" if type_oid == table.row_type_oid else "[]"
            return visible_name(view, table.schema, table.name) + suffix
    return "???"


@provides("pg_get_expr(pg_node_tree,oid)")
def pg_get_expr(context: EvalContext, expression: str, relation: int) -> str | None:
    return _expression(context, expression, relation, False)


@provides("pg_get_expr(pg_node_tree,oid,bool)")
def pg_get_expr_pretty(context: EvalContext, expression: str, relation: int, pretty: bool) -> str | None:
    return _expression(context, expression, relation, pretty)


def _expression(context: EvalContext, expression: str, relation: int, pretty: bool) -> str | None:
    view = view_of(context)
    text = default_text(view, context, expression)
    return None if text is None else expression_text(view, context, view.table_by_oid(relation), text, pretty)


@provides("pg_get_indexdef(oid)")
def pg_get_indexdef(context: EvalContext, oid: int) -> str | None:
    view = view_of(context)
    found = view.index_by_oid(oid)
    return None if found is None else index_definition(view, *found)


@provides("pg_get_indexdef(oid,int4,bool)")
def pg_get_indexdef_column(context: EvalContext, oid: int, position: int, pretty: bool) -> str | None:
    view = view_of(context)
    found = view.index_by_oid(oid)
    if found is None:
        return None
    if position == 0:
        return index_definition(view, *found, pretty)
    table, index = found
    if not 1 <= position <= len(index.columns) + len(index.include):
        return ""
    return index_column_text(view, table, index, position - 1, pretty)


@provides("pg_get_constraintdef(oid)")
def pg_get_constraintdef(context: EvalContext, oid: int) -> str | None:
    return _constraint(context, oid, False)


def _check(context: EvalContext, table: Table, check: Check, pretty: bool) -> str:
    text = expression_text(view_of(context), context, table, check.expression, pretty)
    if text == check.expression and not pretty:
        return check_definition(check)
    return f"CHECK ({text}){check_attributes(check)}"


def _constraint(context: EvalContext, oid: int, pretty: bool) -> str | None:
    view = view_of(context)
    found = view.index_by_oid(oid - CONSTRAINT_OID_OFFSET)
    if found is not None:
        return key_definition(*found)
    for table in view.tables():
        for check in table.checks:
            if check.oid == oid:
                return _check(context, table, check, pretty)
        for key in table.foreign_keys:
            if key.oid == oid:
                return foreign_key_definition(view, table, key)
    for entry in view.state.types.values():
        for domain_check in entry.definition.checks:
            if domain_check.oid == oid:
                return _domain_check(context, entry.definition, domain_check, pretty)
    return None


def _domain_check(context: EvalContext, domain: UserType, check: DomainCheck, pretty: bool) -> str:
    """A domain's condition, which is one over a row that has VALUE alone."""
    value = Column(1, "value", domain.base_oid, domain.base_modifier)
    row = Table(0, domain.name, domain.schema, domain.database, (value,), ())
    text = _value_in_capitals(_check(context, row, Check(check.oid, check.name, check.expression), pretty))
    return text if check.validated else f"{text} NOT VALID"


def _value_in_capitals(expression: str) -> str:
    """A domain's condition with VALUE written as the keyword it is."""
    return re.sub(r"(?i)(?<![\w.\"'])value(?![\w\"'(])", "VALUE", expression)


@provides("pg_get_constraintdef(oid,bool)")
def pg_get_constraintdef_pretty(context: EvalContext, oid: int, pretty: bool) -> str | None:
    return _constraint(context, oid, pretty)


def _view_definition(context: EvalContext, oid: int, pretty: bool) -> str | None:
    view = view_of(context)
    table = view.table_by_oid(oid)
    if table is None or table.kind not in "vm":
        return None
    return query_text(view, context, table, pretty) + ";"


@provides("pg_get_viewdef(oid)")
def pg_get_viewdef(context: EvalContext, oid: int) -> str | None:
    return _view_definition(context, oid, False)


@provides("pg_get_viewdef(oid,bool)", "pg_get_viewdef(oid,int4)")
def pg_get_viewdef_pretty(context: EvalContext, oid: int, pretty: Any) -> str | None:
    return _view_definition(context, oid, bool(pretty))


@provides("pg_get_viewdef(text)")
def pg_get_viewdef_named(context: EvalContext, name: str) -> str | None:
    return _view_definition(context, _relation_named(context, name).oid, False)


@provides("pg_get_viewdef(text,bool)")
def pg_get_viewdef_named_pretty(context: EvalContext, name: str, pretty: bool) -> str | None:
    return _view_definition(context, _relation_named(context, name).oid, pretty)


@provides("pg_get_ruledef(oid)")
def pg_get_ruledef(context: EvalContext, oid: int) -> str | None:
    view = view_of(context)
    table = view.table_by_oid(oid - REWRITE_OID_OFFSET)
    if table is None or table.kind not in "vm":
        return None
    return f'CREATE RULE "_RETURN" AS\n    ON SELECT TO {qualified_name(view, table)} DO INSTEAD {table.definition};'


@provides("pg_get_ruledef(oid,bool)")
def pg_get_ruledef_pretty(context: EvalContext, oid: int, pretty: bool) -> str | None:
    text: str | None = pg_get_ruledef(context, oid)
    return text


@provides(
    "pg_get_partkeydef(oid)",
    "pg_get_partition_constraintdef(oid)",
    "pg_get_triggerdef(oid)",
)
def nothing(context: EvalContext, oid: int) -> None:
    """There are no partitions and triggers to describe."""
    return None


@provides("pg_get_triggerdef(oid,bool)")
def pg_get_triggerdef_pretty(context: EvalContext, oid: int, pretty: bool) -> None:
    return None


@provides("pg_partition_ancestors(regclass)", "pg_partition_tree(regclass)")
def no_partitions(context: EvalContext, oid: int) -> list[Any]:
    return []


@provides("pg_partition_root(regclass)")
def pg_partition_root(context: EvalContext, oid: int) -> None:
    return None


def _relation_named(context: EvalContext, name: str) -> Table:
    oid = reg.find_class(name, context)
    table = None if oid is None else view_of(context).table_by_oid(oid)
    if table is None:
        raise UndefinedTable(f'relation "{name}" does not exist')
    return table


@provides("pg_get_serial_sequence(text,text)")
def pg_get_serial_sequence(context: EvalContext, table_name: str, column_name: str) -> str | None:
    view = view_of(context)
    *qualifiers, name = reg.split_name(table_name)
    system = view.relation(name, qualifiers[-1] if qualifiers else None)
    if isinstance(system, VirtualTable):
        if not any(column == column_name for column, _ in system.columns):
            raise UndefinedColumn(f'column "{column_name}" of relation "{system.name}" does not exist')
        return None
    table = _relation_named(context, table_name)
    number = next((c.number for c in table.columns if c.name == column_name and not c.dropped), None)
    if number is None:
        raise UndefinedColumn(f'column "{column_name}" of relation "{table.name}" does not exist')
    for sequence in view.tables():
        if sequence.kind == "S":
            definition = definition_of(sequence)
            if (definition.owner_table, definition.owner_column) == (table.oid, number):
                return qualified_name(view, sequence)
    return None


def _expand_array(values: PgArray) -> list[tuple[Any, int]]:
    """The items with their numbers, from 1 on (JDBC drivers call it)."""
    return [(item, number) for number, item in enumerate(values.items, 1)]


functions.register(
    Function(
        13_210,
        "_pg_expandarray",
        (types.ANYARRAY,),
        types.RECORD,
        _expand_array,
        returns_set=True,
        out_columns=(("x", types.ANYELEMENT), ("n", types.INT4)),
        schema="information_schema",
    )
)


@provides("pg_options_to_table(_text)")
def pg_options_to_table(context: EvalContext, options: PgArray) -> list[tuple[str, str | None]]:
    """``{name=value, …}`` as rows."""
    pairs = [str(option).partition("=") for option in options.items]
    return [(name, value if separator else None) for name, separator, value in pairs]
