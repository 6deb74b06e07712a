"""Functions, operators and casts by name and type: the front door of this package.

    >>> operator_for("+", INT4.oid, INT4.oid).function.name
    'int4pl'
    >>> cast(INT4.oid, TEXT.oid).context
    'a'

Importing this module imports every family of functions; each enters its bodies through ``define``, and the operators
and casts whose functions are there are then read from the data files.  Casts that pg_cast does not list but Postgres
performs all the same (through text, or item by item between arrays) are made on demand.
"""

from __future__ import annotations

from collections.abc import Sequence

# Every module that defines functions: their import registers them.
from pydistdb.sql.functions import (  # noqa: F401
    aggregates,
    arithmetic,
    arrays,
    binary,
    bits,
    casts,
    comparison,
    datetime_arithmetic,
    datetime_casts,
    datetime_fields,
    datetime_format,
    datetime_making,
    datetime_scan,
    enums,
    hashing,
    internals,
    json_changing,
    json_making,
    json_path,
    json_reading,
    json_records,
    mathematics,
    miscellany,
    money,
    network,
    number_format,
    patterns,
    series,
    sessions,
    sketches,
    sleeping,
    snapshots,
    statistics,
    string_format,
    strings,
    system,
    window,
)
from pydistdb.sql.functions.define import (
    FUNCTIONS_BY_NAME,
    FUNCTIONS_BY_OID,
    OPERATIONS_SCHEMA,
    AnyFunction,
    add,
    names_in_postgres,
    read_table,
)
from pydistdb.sql.types.base import Cast, Function, Operator, SqlType
from pydistdb.sql.types.known import TYPES_BY_NAME
from pydistdb.sql.types.user import derived_from_types

__all__ = [
    "all_casts",
    "all_functions",
    "all_operators",
    "cast",
    "function_by_oid",
    "functions",
    "is_lacking",
    "length_coercion",
    "operator_for",
    "operators",
    "register",
    "specialize",
]

_OPERATORS_BY_NAME: dict[str, list[Operator]] = {}
_OPERATORS: dict[tuple[str, int, int], Operator] = {}


def _read_operators() -> None:
    for oid, name, left, right, function_oid, commutator, negator in read_table("pg_operator.txt"):
        function = FUNCTIONS_BY_OID.get(int(function_oid))
        if not isinstance(function, Function):
            continue
        left_type = TYPES_BY_NAME[left] if left else None
        right_type = TYPES_BY_NAME[right]
        operator = Operator(int(oid), name, left_type, right_type, function, commutator or None, negator or None)
        _OPERATORS_BY_NAME.setdefault(name, []).append(operator)
        _OPERATORS[name, left_type.oid if left_type else 0, right_type.oid] = operator


_read_operators()
casts.read_casts()


def register(function: AnyFunction) -> None:
    """Enter a function from another package (catalog functions); ``define.define`` does it from Postgres's facts."""
    add(function)


def functions(name: str, schema: str | None = None) -> Sequence[AnyFunction]:
    """List the functions and aggregates of a name."""
    if schema == OPERATIONS_SCHEMA:
        return FUNCTIONS_BY_NAME.get(f"{schema}.{name}", ())
    found = FUNCTIONS_BY_NAME.get(name, ())
    return (
        found
        if schema is None
        else [function for function in found if getattr(function, "schema", "pg_catalog") == schema]
    )


def function_by_oid(oid: int) -> AnyFunction | None:
    return FUNCTIONS_BY_OID.get(oid)


def operators(name: str) -> Sequence[Operator]:
    """List the operators of a name."""
    return _OPERATORS_BY_NAME.get(name, ())


def operator_for(name: str, left_oid: int, right_oid: int) -> Operator | None:
    """Find the operator for exactly these types; 0 on the left for a prefix operator."""
    return _OPERATORS.get((name, left_oid, right_oid))


def cast(source_oid: int, target_oid: int) -> Cast | None:
    """Find how to convert between two types, by pg_cast or else through text; None if they are the same or cannot."""
    return casts.cast(source_oid, target_oid)


def length_coercion(sql_type: SqlType) -> Function | None:
    """Find the function (value, modifier, explicit) that fits a value to a type's modifier; None if it has none."""
    return casts.length_coercion(sql_type)


def is_lacking(name: str) -> bool:
    """Tell whether Postgres has functions of this name and PyDistDB none: then a call of it is not supported (0A000)
    rather than a mistake (42883)."""
    return name not in FUNCTIONS_BY_NAME and name in names_in_postgres()


_MOST_SPECIALIZED = 4096
_specialized: dict[tuple[int, tuple[int, ...], int], AnyFunction] = derived_from_types({})


def specialize(function: AnyFunction, argument_types: Sequence[SqlType], return_type: SqlType) -> AnyFunction:
    """Give the concrete function behind a polymorphic one, now that the binder knows the types; others as they are."""
    if function.specialize is None:
        return function
    key = (function.oid, tuple([t.oid for t in argument_types]), return_type.oid)
    found = _specialized.get(key)
    if found is None:
        if len(_specialized) >= _MOST_SPECIALIZED:
            _specialized.clear()
        found = _specialized[key] = function.specialize(tuple(argument_types), return_type)
    return found


def all_functions() -> Sequence[AnyFunction]:
    return tuple(FUNCTIONS_BY_OID.values())


def all_operators() -> Sequence[Operator]:
    return tuple(_OPERATORS.values())


def all_casts() -> Sequence[Cast]:
    """List the casts that pg_cast has."""
    return casts.listed_casts()
