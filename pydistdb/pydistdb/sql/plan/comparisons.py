"""Recognising comparisons in the typed tree: which functions are ``=`` or ``<``, and between what."""

from __future__ import annotations

from functools import lru_cache

from pydistdb.sql.functions import registry as functions
from pydistdb.sql.tree import Call, Expr
from pydistdb.sql.types import known
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.base import Function
from pydistdb.sql.types.domains import base_oid

NAMES = ("=", "<", "<=", ">", ">=", "<>")
MIRRORED = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<=", "<>": "<>"}

_INTEGER_OIDS = frozenset({types.INT2.oid, types.INT4.oid, types.INT8.oid, types.OID.oid}) | types.REG_TYPES
_STRING_OIDS = frozenset({types.TEXT.oid, types.VARCHAR.oid, types.NAME.oid, types.UNKNOWN.oid})
_TWINS = {known.CIDR.oid: known.INET.oid, known.BIT.oid: known.VARBIT.oid}
FLOAT_OIDS = frozenset({types.FLOAT4.oid, types.FLOAT8.oid})


def family(oid: int) -> int:
    """Types of one family have the same runtime values and the same key encoding: int2, int4 and int8, say."""
    oid = base_oid(oid)
    if oid in _TWINS:
        return _TWINS[oid]
    if oid in _INTEGER_OIDS:
        return types.INT8.oid
    if oid in _STRING_OIDS:
        return types.TEXT.oid
    return types.FLOAT8.oid if oid in FLOAT_OIDS else oid


@lru_cache(maxsize=1)
def _by_function() -> dict[int, str]:
    return {
        operator.function.oid: name
        for name in NAMES
        for operator in functions.operators(name)
        if operator.left is not None
    }


def operator_name(function: Function) -> str | None:
    """The comparison that a function is, whatever its types."""
    return _by_function().get(function.oid)


@lru_cache(maxsize=1)
def _operators() -> dict[int, str]:
    names: dict[int, str] = {}
    for operator in functions.all_operators():
        names.setdefault(operator.function.oid, operator.name)
    return names


def written_operator(function: Function) -> str | None:
    """The operator as which a function is written in SQL, a comparison or any other; None if it is only called by name."""
    return operator_name(function) or _operators().get(function.oid)


def comparison(function: Function) -> str | None:
    """Which comparison a function is, between two values of one family; None if none."""
    name = _by_function().get(function.oid)
    if name is None or len(function.argument_types) != 2:
        return None
    left, right = function.argument_types
    return name if family(left.oid) == family(right.oid) else None


def comparison_terms(term: Expr) -> tuple[str, Expr, Expr, Call] | None:
    """(operator, left, right, call) if a term is a comparison between values of one family."""
    if not isinstance(term, Call) or len(term.arguments) != 2:
        return None
    name = comparison(term.function)
    return None if name is None else (name, term.arguments[0], term.arguments[1], term)
