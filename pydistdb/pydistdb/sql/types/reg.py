"""The reg* types: oids that are read and written as the names of what they identify.

    'users'::regclass        looks the table up along the search path; 'audit.users' names the schema
    'integer'::regtype       any spelling of a type
    'now'::regproc           a function's name, if there is only one of that name

Names come from the session's CatalogView in ``EvalContext.catalog``; a number passes as the oid itself.  On output a name
is qualified where the search path would not find it, and an oid that names nothing prints as a number.

Source: PostgreSQL 15 manual, 8.19.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from pydistdb.sql.errors import (
    AmbiguousFunction,
    DatabaseError,
    FeatureNotSupported,
    InvalidSchemaName,
    UndefinedFunction,
    UndefinedObject,
    UndefinedTable,
)
from pydistdb.sql.types import known
from pydistdb.sql.types.base import EvalContext, SqlType, TypeIO
from pydistdb.sql.types.integers import packed, parse_oid
from pydistdb.sql.types.reg_operators import (
    find_operator,
    find_operator_signature,
    missing_operator,
    operator_name,
    operator_signature,
)
from pydistdb.sql.types.text import truncate_name

BOOTSTRAP_USER_OID = 10
DEFAULT_COLLATION_OID, C_COLLATION_OID, POSIX_COLLATION_OID, UCS_BASIC_OID = 100, 950, 951, 12340
COLLATIONS = {
    "default": DEFAULT_COLLATION_OID,
    "C": C_COLLATION_OID,
    "POSIX": POSIX_COLLATION_OID,
    "ucs_basic": UCS_BASIC_OID,
}

_PART = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^\s".]+))\s*')
_PLAIN_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_$]*")
_RESERVED_WORDS = """
all analyse analyze and any array as asc asymmetric both case cast check collate column constraint create
current_catalog current_date current_role current_time current_timestamp current_user default deferrable desc
distinct do else end except false fetch for foreign from grant group having in initially intersect into lateral
leading limit localtime localtimestamp not null offset on only or order placing primary references returning
select session_user some symmetric table then to trailing true union unique user using variadic when where
window with authorization binary collation concurrently cross current_schema freeze full ilike inner is isnull
join left like natural notnull outer overlaps right similar tablesample verbose between bigint bit boolean char
character coalesce dec decimal exists extract float greatest grouping inout int integer interval least national
nchar none normalize nullif numeric out overlay position precision real row setof smallint substring time
timestamp treat trim values varchar xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces
xmlparse xmlpi xmlroot xmlserialize xmltable
"""
_RESERVED = frozenset(_RESERVED_WORDS.split())


def quote_identifier(name: str) -> str:
    """Quote a name where SQL needs it: capitals, odd characters, keywords."""
    if _PLAIN_IDENTIFIER.fullmatch(name) and name not in _RESERVED:
        return name
    return '"' + name.replace('"', '""') + '"'


def split_name(text: str) -> list[str]:
    """Take ``a."B".c`` apart; unquoted parts are folded to lower case."""
    parts: list[str] = []
    position = 0
    while True:
        match = _PART.match(text, position)
        if match is None:
            raise DatabaseError.of("42602", "invalid name syntax")
        quoted, plain = match.groups()
        parts.append(truncate_name(quoted.replace('""', '"') if quoted is not None else plain.lower()))
        position = match.end()
        if position == len(text):
            return parts
        if text[position] != ".":
            raise DatabaseError.of("42602", "invalid name syntax")
        position += 1


def _qualified(parts: Sequence[str]) -> tuple[str | None, str]:
    if len(parts) > 3:
        raise DatabaseError.of("42601", f"improper relation name (too many dotted names): {'.'.join(parts)}")
    return (parts[-2] if len(parts) > 1 else None), parts[-1]


def _catalog(context: EvalContext | None) -> Any:
    if context is None or context.catalog is None:
        raise FeatureNotSupported("names of objects cannot be looked up here")
    return context.catalog


# ------------------------------------------------------------------------------------------------ looking up


def find_class(text: str, context: EvalContext | None) -> int | None:
    """Find the oid of a table, view, sequence or index by name."""
    schema, name = _qualified(split_name(text))
    catalog = _catalog(context)
    relation = catalog.relation(name, schema)
    if relation is not None:
        return int(relation.oid)
    index = catalog.index_by_name(name, schema)
    if index is not None:
        return int(index[1].oid)
    if schema is not None and catalog.schema_named(schema) is None:
        raise InvalidSchemaName(f'schema "{schema}" does not exist')
    sql_type = catalog.type_named(name, schema)
    entry = None if sql_type is None else catalog.type_entry(sql_type.oid)
    return None if entry is None else entry.definition.relation or None


def find_type(text: str, context: EvalContext | None) -> int | None:
    from pydistdb.sql.types.registry import type_by_name

    words = text.strip()
    if words.lower() == "char" or words.lower().startswith("char["):
        # The keyword; the one-byte type must be quoted.
        words = "character" + words[4:]
    brackets = ""
    if "[" in words and words.endswith("]"):
        words, _, _ = words.partition("[")
        words, brackets = words.rstrip(), "[]"
    words = re.sub(r"\s*\(\s*-?\d+(\s*,\s*-?\d+)?\s*\)", "", words)
    catalog = None if context is None else context.catalog
    if '"' in words or "." in words:
        schema, words = _qualified(split_name(words))
        if catalog is not None and schema is not None and catalog.schema_named(schema) is None:
            raise InvalidSchemaName(f'schema "{schema}" does not exist')
        found = None if catalog is None else catalog.type_named(words, schema)
        if found is not None:
            return _array_or_not(found, brackets)
        if schema not in (None, "pg_catalog"):
            return None
    elif catalog is not None and _PLAIN_IDENTIFIER.fullmatch(words.lower()):
        found = catalog.type_named(words.lower())
        if found is not None:
            return _array_or_not(found, brackets)
    sql_type = type_by_name(words + brackets) or type_by_name(words.lower() + brackets)
    return None if sql_type is None else sql_type.oid


def _array_or_not(sql_type: SqlType, brackets: str) -> int | None:
    if not brackets:
        return sql_type.oid
    return sql_type.array_oid or None


def _functions_named(text: str, context: EvalContext | None) -> list[Any]:
    from pydistdb.sql.functions.registry import functions

    schema, name = _qualified(split_name(text))
    own = [] if context is None or context.catalog is None else context.catalog.routines(name, schema)
    return [*functions(name, schema), *own]


def find_function(text: str, context: EvalContext | None) -> int | None:
    found = _functions_named(text, context)
    if len(found) > 1:
        raise AmbiguousFunction(f'more than one function named "{text}"')
    return found[0].oid if found else _io_function(text)


def _io_function(text: str) -> int | None:
    """A type's input or output function: nobody can call it, but clients look types up by theirs (array_in)."""
    from pydistdb.sql.pg_catalog.type_facts import IO_FUNCTIONS

    schema, name = _qualified(split_name(text))
    if schema not in (None, "pg_catalog"):
        return None
    return next((each.oid for each in IO_FUNCTIONS.values() if each.name == name), None)


def find_procedure(text: str, context: EvalContext | None) -> int | None:
    """Find a function by name and argument types: ``lower(text)``."""
    name, parenthesis, arguments = text.partition("(")
    if not parenthesis or not arguments.endswith(")"):
        raise DatabaseError.of("22P02", "expected a left parenthesis")
    wanted: list[int | None] = []
    if arguments[:-1].strip():
        wanted = [find_type(part, context) for part in arguments[:-1].split(",")]
    for function in _functions_named(name, context):
        if [sql_type.oid for sql_type in function.argument_types] == wanted:
            return int(function.oid)
    return None


def find_schema(text: str, context: EvalContext | None) -> int | None:
    (name,) = split_name(text)[:1]
    schema = _catalog(context).schema_named(name)
    return None if schema is None else int(schema.oid)


def find_role(text: str, context: EvalContext | None) -> int | None:
    (name,) = split_name(text)[:1]
    if context is None or context.catalog is None:
        return BOOTSTRAP_USER_OID if name == "postgres" else None
    role = context.catalog.catalog_state.roles.by_name.get(name)
    return None if role is None else int(role.oid)


def find_collation(text: str, context: EvalContext | None) -> int | None:
    schema, name = _qualified(split_name(text))
    return COLLATIONS.get(name) if schema in (None, "pg_catalog") else None


# ------------------------------------------------------------------------------------------------ naming


def _with_schema(catalog: Any, schema_oid: int, name: str) -> str:
    """Qualify a relation's name unless the search path finds it."""
    schema = catalog.schema_by_oid(schema_oid)
    if schema is None or schema.name in catalog.search_path:
        return quote_identifier(name)
    return f"{quote_identifier(schema.name)}.{quote_identifier(name)}"


def class_name(oid: int, context: EvalContext | None) -> str | None:
    from pydistdb.sql.pg_catalog.registry import virtual_by_oid

    catalog = None if context is None else context.catalog
    if catalog is not None:
        table = catalog.table_by_oid(oid)
        if table is not None:
            return _with_schema(catalog, table.schema, table.name)
        found = catalog.index_by_oid(oid)
        if found is not None:
            return _with_schema(catalog, found[0].schema, found[1].name)
        name = catalog.composite_name(oid)
        if name is not None:
            return _with_schema(catalog, *name)
    virtual = virtual_by_oid(oid)
    if virtual is None:
        return None
    if virtual.schema == "pg_catalog":
        return quote_identifier(virtual.name)
    return f"{quote_identifier(virtual.schema)}.{quote_identifier(virtual.name)}"


def type_name(oid: int, context: EvalContext | None) -> str | None:
    from pydistdb.sql.types.registry import format_type

    name = user_type_name(oid, context)
    if name is not None:
        return name
    return format_type(oid) if oid in known.TYPES_BY_OID else None


def user_type_name(oid: int, context: EvalContext | None) -> str | None:
    """The name of a user's type or of its arrays, qualified unless the search path finds it; None for others."""
    catalog = None if context is None else context.catalog
    return None if catalog is None else name_in_catalog(oid, catalog)


def name_in_catalog(oid: int, catalog: Any) -> str | None:
    """The name that a session with this catalog uses for a user's type or its arrays; None for others."""
    definition = catalog.type_definition(oid)
    if definition is None:
        return None
    name = quote_identifier(definition.name) + ("[]" if oid == definition.array_oid else "")
    if catalog.is_type_visible(definition.schema, definition.name):
        return name
    schema = catalog.schema_by_oid(definition.schema)
    return name if schema is None else f"{quote_identifier(schema.name)}.{name}"


def function_name(oid: int, context: EvalContext | None) -> str | None:
    from pydistdb.sql.functions.registry import function_by_oid, functions

    function = function_by_oid(oid)
    if function is None:
        from pydistdb.sql.pg_catalog.type_facts import IO_FUNCTIONS

        return IO_FUNCTIONS[oid].name if oid in IO_FUNCTIONS else _routine_name(oid, context, False)
    name = quote_identifier(function.name)
    # An overloaded name says nothing without its schema; Postgres prints it qualified.
    return name if len(functions(function.name)) == 1 else f"pg_catalog.{name}"


def _routine_name(oid: int, context: EvalContext | None, with_arguments: bool) -> str | None:
    """The name of a user's function; qualified where it would not be found, or not alone."""
    from pydistdb.sql.types.registry import format_type

    catalog = None if context is None else context.catalog
    routine = None if catalog is None else catalog.routine_by_oid(oid)
    if catalog is None or routine is None:
        return None
    function = catalog.function_of(routine)
    found = _functions_named(quote_identifier(routine.name), context)
    visible = any(each.oid == oid for each in found) if with_arguments else [each.oid for each in found] == [oid]
    name = quote_identifier(routine.name)
    if not visible:
        name = f"{quote_identifier(function.schema)}.{name}"
    if not with_arguments:
        return name
    return f"{name}({','.join(format_type(t.oid) for t in function.argument_types)})"


def procedure_name(oid: int, context: EvalContext | None) -> str | None:
    from pydistdb.sql.functions.registry import function_by_oid
    from pydistdb.sql.types.registry import format_type

    function = function_by_oid(oid)
    if function is None:
        return _routine_name(oid, context, True)
    return f"{quote_identifier(function.name)}({','.join(format_type(t.oid) for t in function.argument_types)})"


def schema_name(oid: int, context: EvalContext | None) -> str | None:
    if context is None or context.catalog is None:
        return None
    schema = context.catalog.schema_by_oid(oid)
    return None if schema is None else quote_identifier(schema.name)


def role_name(oid: int, context: EvalContext | None) -> str | None:
    if context is None or context.catalog is None:
        return "postgres" if oid == BOOTSTRAP_USER_OID else None
    role = context.catalog.catalog_state.roles.by_oid.get(oid)
    return None if role is None else quote_identifier(role.name)


def collation_name(oid: int, context: EvalContext | None) -> str | None:
    return next((quote_identifier(name) for name, number in COLLATIONS.items() if number == oid), None)


# ------------------------------------------------------------------------------------------------ the types


def _missing_class(text: str) -> DatabaseError:
    return UndefinedTable(f'relation "{".".join(split_name(text))}" does not exist')


def _missing_type(text: str) -> DatabaseError:
    return UndefinedObject(f'type "{text.strip()}" does not exist')


def _missing_function(text: str) -> DatabaseError:
    return UndefinedFunction(f'function "{text}" does not exist')


def _missing_schema(text: str) -> DatabaseError:
    return InvalidSchemaName(f'schema "{split_name(text)[0]}" does not exist')


def _missing_role(text: str) -> DatabaseError:
    return UndefinedObject(f'role "{split_name(text)[0]}" does not exist')


def _missing_collation(text: str) -> DatabaseError:
    return UndefinedObject(f'collation "{text}" for encoding "UTF8" does not exist')


Finder = Callable[[str, EvalContext | None], int | None]
Namer = Callable[[int, EvalContext | None], str | None]


def _reg_io(find: Finder, name: Namer, missing: Callable[[str], DatabaseError], nothing: str = "-") -> TypeIO:
    def parse(text: str, modifier: int, context: EvalContext) -> int:
        if text == nothing:
            return 0
        if text.isascii() and text.isdigit():
            return parse_oid(text, -1, context)
        oid = find(text, context)
        if oid is None:
            raise missing(text)
        return oid

    def format_(value: int, context: EvalContext) -> str:
        return nothing if value == 0 else name(value, context) or str(value)

    decode, encode = packed("!I")
    return TypeIO(parse, format_, decode, encode, "int")


FINDERS: dict[str, Finder] = {
    "regclass": find_class,
    "regtype": find_type,
    "regproc": find_function,
    "regprocedure": find_procedure,
    "regoper": find_operator,
    "regoperator": find_operator_signature,
    "regnamespace": find_schema,
    "regrole": find_role,
    "regcollation": find_collation,
}

IO = {
    "regclass": _reg_io(find_class, class_name, _missing_class),
    "regtype": _reg_io(find_type, type_name, _missing_type),
    "regproc": _reg_io(find_function, function_name, _missing_function),
    "regprocedure": _reg_io(find_procedure, procedure_name, _missing_function),
    "regoper": _reg_io(find_operator, operator_name, missing_operator, "0"),
    "regoperator": _reg_io(find_operator_signature, operator_signature, missing_operator, "0"),
    "regnamespace": _reg_io(find_schema, schema_name, _missing_schema),
    "regrole": _reg_io(find_role, role_name, _missing_role),
    "regcollation": _reg_io(find_collation, collation_name, _missing_collation),
}
