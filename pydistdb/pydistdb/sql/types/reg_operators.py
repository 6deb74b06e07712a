"""regoper and regoperator: operators by their names, and by their names and the types of both sides.

    '<->'::regoper                  the only operator of that name; 42725 if there are several
    '+(int4,int4)'::regoperator     +(integer,integer)
    '-(none,int4)'::regoperator     the unary minus

Unlike the other reg* types these write no object as ``0``, since ``-`` is an operator.

Source: PostgreSQL 15, regproc.c (regoperin, regoperatorin).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydistdb.sql.errors import AmbiguousFunction, DatabaseError, UndefinedFunction
from pydistdb.sql.types.base import EvalContext


def _named(text: str) -> Sequence[Any]:
    """The operators of a name, with or without the schema that they are all in."""
    from pydistdb.sql.functions.registry import all_operators

    name = text.strip()
    schema, dot, rest = name.rpartition(".")
    if dot:
        if schema.strip('"') != "pg_catalog":
            return ()
        name = rest
    return [operator for operator in all_operators() if operator.name == name]


def find_operator(text: str, context: EvalContext | None) -> int | None:
    found = _named(text)
    if len(found) > 1:
        raise AmbiguousFunction(f"more than one operator named {text}")
    return int(found[0].oid) if found else None


def find_operator_signature(text: str, context: EvalContext | None) -> int | None:
    """Find an operator by name and types: ``+(int4,int4)``."""
    from pydistdb.sql.types.reg import find_type

    name, parenthesis, arguments = text.partition("(")
    if not parenthesis:
        raise DatabaseError.of("22P02", "expected a left parenthesis")
    if not arguments.rstrip().endswith(")"):
        raise DatabaseError.of("22P02", "expected a right parenthesis")
    words = [word.strip() for word in arguments.rstrip()[:-1].split(",")]
    if len(words) == 1:
        hint = "Use NONE to denote the missing argument of a unary operator."
        raise DatabaseError.of("42P02", "missing argument", hint=hint)
    if len(words) > 2:
        raise DatabaseError.of("54023", "too many arguments", hint="Provide two argument types for operator.")
    wanted = [None if word.lower() == "none" else _type_of(word, find_type(word, context)) for word in words]
    for operator in _named(name):
        if [None if operator.left is None else operator.left.oid, operator.right.oid] == wanted:
            return int(operator.oid)
    return None


def _type_of(word: str, oid: int | None) -> int:
    if oid is None:
        raise DatabaseError.of("42704", f'type "{word}" does not exist')
    return oid


def missing_operator(text: str) -> DatabaseError:
    return UndefinedFunction(f"operator does not exist: {text}")


def _by_oid(oid: int) -> Any:
    from pydistdb.sql.functions.registry import all_operators

    return next((operator for operator in all_operators() if operator.oid == oid), None)


def operator_name(oid: int, context: EvalContext | None) -> str | None:
    """The name alone says nothing if there are several; Postgres prints it qualified then."""
    found = _by_oid(oid)
    if found is None:
        return None
    return str(found.name) if len(_named(found.name)) == 1 else f"pg_catalog.{found.name}"


def operator_signature(oid: int, context: EvalContext | None) -> str | None:
    """``<(integer,bigint)``; NONE stands for a side that is not there."""
    from pydistdb.sql.types.registry import format_type

    found = _by_oid(oid)
    if found is None:
        return None
    left = "NONE" if found.left is None else format_type(found.left.oid)
    return f"{found.name}({left},{format_type(found.right.oid)})"
