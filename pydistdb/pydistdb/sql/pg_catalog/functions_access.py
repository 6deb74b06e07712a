"""Visibility, reg* look-ups, and what else clients ask about the running database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydistdb.sql.bind.view_targets import updatable_columns, updatable_through
from pydistdb.sql.errors import InvalidSchemaName, UndefinedObject, UndefinedTable
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.pg_catalog.provide import provides, view_of
from pydistdb.sql.types import reg
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.known import TYPES_BY_OID

# ---------------------------------------------------------------------------------------------------- visibility


@provides("pg_table_is_visible(oid)")
def pg_table_is_visible(context: EvalContext, oid: int) -> bool | None:
    view = view_of(context)
    table = view.table_by_oid(oid)
    if table is not None:
        return view.is_visible(table.schema, table.name)
    found = view.index_by_oid(oid)
    if found is not None:
        return view.is_visible(found[0].schema, found[1].name)
    for entry in view.state.types.values():
        if entry.definition.relation == oid:
            return view.is_type_visible(entry.definition.schema, entry.definition.name)
    virtual = view.virtual_by_oid(oid)
    return None if virtual is None else virtual.schema in view.search_path


@provides("pg_type_is_visible(oid)")
def pg_type_is_visible(context: EvalContext, oid: int) -> bool | None:
    view = view_of(context)
    definition = view.type_definition(oid)
    if definition is not None:
        return view.is_type_visible(definition.schema, definition.name)
    if oid in TYPES_BY_OID:
        return True
    for table in view.tables():
        if table.row_type_oid and oid in (table.row_type_oid, table.row_type_oid + 1):
            return view.is_visible(table.schema, table.name)
    return None


@provides("pg_function_is_visible(oid)")
def pg_function_is_visible(context: EvalContext, oid: int) -> bool | None:
    view = view_of(context)
    built_in = functions.function_by_oid(oid)
    if built_in is not None:
        schema = getattr(built_in, "schema", "pg_catalog")
        return schema == "pg_catalog" or schema in view.search_path
    routine = view.routine_by_oid(oid)
    return None if routine is None else any(found.oid == oid for found in view.routines(routine.name))


@provides(
    "pg_operator_is_visible(oid)",
    "pg_opclass_is_visible(oid)",
    "pg_opfamily_is_visible(oid)",
    "pg_collation_is_visible(oid)",
    "pg_conversion_is_visible(oid)",
    "pg_ts_config_is_visible(oid)",
    "pg_ts_dict_is_visible(oid)",
    "pg_ts_parser_is_visible(oid)",
    "pg_ts_template_is_visible(oid)",
)
def always_visible(context: EvalContext, oid: int) -> bool:
    """All of these live in pg_catalog only."""
    return True


def relation_oid(context: EvalContext, relation: Any) -> int | None:
    """The relation's oid; None for an oid that names none (a name that names none is an error)."""
    view = view_of(context)
    if isinstance(relation, str):
        oid = reg.find_class(relation, context)
        if oid is None:
            raise UndefinedTable(f'relation "{relation}" does not exist')
        return oid
    exists = view.table_by_oid(relation) or view.index_by_oid(relation) or view.virtual_by_oid(relation)
    return int(relation) if exists is not None else None


@provides("row_security_active(oid)", "row_security_active(text)")
def row_security_active(context: EvalContext, relation: Any) -> bool:
    return False


# ---------------------------------------------------------------------------------------------------- look-ups


def _register_to_reg() -> None:
    finders: dict[str, Callable[[str, EvalContext | None], int | None]] = {
        "regclass": reg.find_class,
        "regtype": reg.find_type,
        "regproc": reg.find_function,
        "regprocedure": reg.find_procedure,
        "regnamespace": reg.find_schema,
        "regrole": reg.find_role,
        "regcollation": reg.find_collation,
    }
    for name, finder in finders.items():

        def body(context: EvalContext, text: str, finder: Any = finder) -> int | None:
            try:
                oid: int | None = finder(text, context)
            except (UndefinedTable, UndefinedObject, InvalidSchemaName):
                return None
            return oid

        provides(f"to_{name}(text)")(body)


_register_to_reg()


# ---------------------------------------------------------------------------------------------------- the server

_ENCODINGS = {0: "SQL_ASCII", 6: "UTF8"}


@provides("pg_encoding_to_char(int4)")
def pg_encoding_to_char(context: EvalContext, encoding: int) -> str:
    return _ENCODINGS.get(encoding, "")


@provides("pg_char_to_encoding(name)")
def pg_char_to_encoding(context: EvalContext, name: str) -> int:
    names = {"UTF8": 6, "UTF-8": 6, "UNICODE": 6, "SQL_ASCII": 0}
    return names.get(name.upper(), -1)


@provides("pg_is_in_recovery()")
def pg_is_in_recovery(context: EvalContext) -> bool:
    return False


@provides("pg_my_temp_schema()")
def pg_my_temp_schema(context: EvalContext) -> int:
    schema = view_of(context).schema_named("pg_temp")
    return 0 if schema is None else schema.oid


@provides("pg_is_other_temp_schema(oid)")
def pg_is_other_temp_schema(context: EvalContext, oid: int) -> bool:
    view = view_of(context)
    schema = view.schema_by_oid(oid)
    return schema is not None and bool(schema.session) and schema.name != view.temporary_schema


@provides("pg_relation_is_publishable(regclass)")
def pg_relation_is_publishable(context: EvalContext, oid: int) -> bool | None:
    return False if relation_oid(context, oid) is not None else None


@provides("pg_relation_is_updatable(regclass,bool)")
def pg_relation_is_updatable(context: EvalContext, oid: int, triggers: bool) -> int:
    view = view_of(context)
    table = view.table_by_oid(oid)
    if table is None or not (table.kind == "r" or (table.kind == "v" and updatable_through(view, table))):
        return 0
    return 28 if updatable_columns(view, table) else 16  # update, insert, delete; or delete alone


@provides("pg_column_is_updatable(regclass,int2,bool)")
def pg_column_is_updatable(context: EvalContext, oid: int, number: int, triggers: bool) -> bool:
    view = view_of(context)
    table = view.table_by_oid(oid)
    if table is None or table.kind not in "rv":
        return False
    names = updatable_columns(view, table)
    return any(column.number == number and column.name in names for column in table.columns)


@provides("pg_relation_filenode(regclass)")
def pg_relation_filenode(context: EvalContext, oid: int) -> int | None:
    table = view_of(context).table_by_oid(oid)
    return table.storage_id if table is not None and table.kind != "v" else None
