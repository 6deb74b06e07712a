"""Polymorphic types: what anyelement, anyarray, anycompatible and their kin stand for in one call.

``anyelement`` and its kin must all be the same type; ``anycompatible`` and its kin are brought to a common one.

    array_append(anycompatiblearray, anycompatible)   called with int[], bigint      anycompatible is bigint
    array_length(anyarray, int)                       called with text[], int        anyelement is text

Source: PostgreSQL 15 manual, 38.2.5; parse_coerce.c.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql.bind.coerce import UNKNOWN_OID, can_coerce, type_named
from pydistdb.sql.errors import DatabaseError, DatatypeMismatch
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.domains import base_oid
from pydistdb.sql.types.known import POLYMORPHIC
from pydistdb.sql.types.registry import (
    ANYARRAY,
    ANYCOMPATIBLE,
    ANYCOMPATIBLEARRAY,
    ANYCOMPATIBLENONARRAY,
    ANYELEMENT,
    ANYENUM,
    ANYNONARRAY,
    TEXT,
)

SIMPLE_ELEMENTS = frozenset({ANYELEMENT.oid, ANYNONARRAY.oid, ANYENUM.oid})


_COMPATIBLE_ELEMENTS = frozenset({ANYCOMPATIBLE.oid, ANYCOMPATIBLENONARRAY.oid})


def polymorphic_fit(declared: Sequence[SqlType], oids: Sequence[int]) -> bool:
    if not any(t.oid in POLYMORPHIC for t in declared):
        return True
    try:
        solve(declared, oids)
    except DatabaseError:
        return False
    return True


def solve(declared: Sequence[SqlType], oids: Sequence[int]) -> tuple[SqlType | None, SqlType | None]:
    """Find what anyelement and anycompatible stand for; raises DatatypeMismatch if the arguments disagree."""
    element = array = None
    compatible: list[SqlType] = []
    has_compatible = False
    for declared_type, oid in zip(declared, oids, strict=True):
        kind = declared_type.oid
        has_compatible |= kind in _COMPATIBLE_ELEMENTS or kind == ANYCOMPATIBLEARRAY.oid
        if oid == UNKNOWN_OID:
            continue
        actual = registry.type_by_oid(oid)
        if kind in SIMPLE_ELEMENTS:
            if element is not None and element.oid != oid:
                raise _not_alike("anyelement", element, actual)
            element = registry.type_by_oid(base_oid(oid)) if kind == ANYENUM.oid else actual
        elif kind == ANYARRAY.oid:
            if not actual.is_array:
                actual = registry.type_by_oid(base_oid(oid))
            if not actual.is_array:
                raise DatatypeMismatch(f"argument declared anyarray is not an array but type {type_named(oid)}")
            if array is not None and array.oid != oid:
                raise _not_alike("anyarray", array, actual)
            array = actual
        elif kind in _COMPATIBLE_ELEMENTS:
            compatible.append(actual)
        elif kind == ANYCOMPATIBLEARRAY.oid:
            if not actual.is_array:
                raise DatatypeMismatch(
                    f"argument declared anycompatiblearray is not an array but type {type_named(oid)}"
                )
            compatible.append(registry.element_of(actual))
    if array is not None:
        inner = registry.element_of(array)
        if element is not None and element.oid != inner.oid:
            raise DatatypeMismatch(
                "argument declared anyarray is not consistent with argument declared anyelement",
                detail=f"{type_named(array.oid)} versus {type_named(element.oid)}",
            )
        element = inner
    common: SqlType | None = None
    for actual in compatible:
        common = _wider(common, actual)
    if has_compatible and common is None:
        common = TEXT
    return element, common


def _wider(chosen: SqlType | None, candidate: SqlType) -> SqlType:
    if chosen is None or chosen.oid == candidate.oid:
        return candidate
    if chosen.category != candidate.category:
        raise _not_alike("anycompatible", chosen, candidate)
    if not chosen.preferred and can_coerce(chosen.oid, candidate.oid) and not can_coerce(candidate.oid, chosen.oid):
        return candidate
    return chosen


def _not_alike(name: str, left: SqlType, right: SqlType) -> DatabaseError:
    return DatatypeMismatch(
        f'arguments declared "{name}" are not all alike',
        detail=f"{type_named(left.oid)} versus {type_named(right.oid)}",
    )


def substitute(declared: SqlType, element: SqlType | None, common: SqlType | None) -> SqlType:
    oid = declared.oid
    if oid in SIMPLE_ELEMENTS and element is not None:
        return element
    if oid == ANYARRAY.oid and element is not None:
        return registry.array_of(element)
    if oid in _COMPATIBLE_ELEMENTS and common is not None:
        return common
    if oid == ANYCOMPATIBLEARRAY.oid and common is not None:
        return registry.array_of(common)
    return declared
