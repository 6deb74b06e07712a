"""Polymorphic types: what anyelement, anyarray, anycompatible and their kin stand for in one call.

``anyelement`` and its kin must all be the same type; ``anycompatible`` and its kin are brought to a common one.

    array_append(anycompatiblearray, anycompatible)   called with int[], bigint      anycompatible is bigint
    array_length(anyarray, int)                       called with text[], int        anyelement is text

Source: PostgreSQL 15 manual, 38.2.5; parse_coerce.c.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from pydistdb.sql.bind.coerce import UNKNOWN_OID, can_coerce, type_named
from pydistdb.sql.errors import DatabaseError, DatatypeMismatch, UndefinedObject
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
COMPATIBLE_ELEMENTS = frozenset({ANYCOMPATIBLE.oid, ANYCOMPATIBLENONARRAY.oid})
SIMPLE = SIMPLE_ELEMENTS | {ANYARRAY.oid}
COMPATIBLE = COMPATIBLE_ELEMENTS | {ANYCOMPATIBLEARRAY.oid}


class Meaning(NamedTuple):
    """What the polymorphic types of a call stand for; None where nothing tells."""

    element: SqlType | None = None
    """anyelement and its kin."""
    array: SqlType | None = None
    """anyarray, where an argument is one (int2vector is not the array type of its items)."""
    common: SqlType | None = None
    """anycompatible and its kin."""


def is_polymorphic(types: Iterable[SqlType]) -> bool:
    return any(t.oid in POLYMORPHIC for t in types)


def polymorphic_fit(declared: Sequence[SqlType], oids: Sequence[int]) -> bool:
    if not is_polymorphic(declared):
        return True
    try:
        meaning = solve(declared, oids)
    except DatabaseError:
        return False
    return meaning.element is not None or all(t.oid != ANYENUM.oid for t in declared)


def solve(declared: Sequence[SqlType], oids: Sequence[int]) -> Meaning:
    """Find what anyelement and anycompatible stand for; raises DatatypeMismatch if the arguments disagree."""
    element = array = None
    compatible: list[SqlType] = []
    kinds = {t.oid for t in declared}
    for declared_type, oid in zip(declared, oids, strict=True):
        kind = declared_type.oid
        if oid == UNKNOWN_OID:
            continue
        actual = registry.type_by_oid(oid)
        if kind in SIMPLE_ELEMENTS:
            if element is not None and element.oid != oid:
                raise _not_alike("anyelement", element, actual)
            element = registry.type_by_oid(base_oid(oid)) if kind == ANYENUM.oid else actual
        elif kind == ANYARRAY.oid:
            actual = _array("anyarray", actual)
            if array is not None and array.oid != actual.oid:
                raise _not_alike("anyarray", array, actual)
            array = actual
        elif kind in COMPATIBLE_ELEMENTS:
            compatible.append(actual)
        elif kind == ANYCOMPATIBLEARRAY.oid:
            compatible.append(registry.element_of(_array("anycompatiblearray", actual)))
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
    if common is None and kinds & COMPATIBLE:
        common = TEXT
    if element is not None and ANYENUM.oid in kinds and element.category != "E":
        raise DatatypeMismatch(f"type matched to anyenum is not an enum type: {type_named(element.oid)}")
    _check_no_array(kinds, ANYNONARRAY, element)
    _check_no_array(kinds, ANYCOMPATIBLENONARRAY, common)
    return Meaning(element, array, common)


def _array(kind: str, actual: SqlType) -> SqlType:
    found = actual if actual.is_array else registry.type_by_oid(base_oid(actual.oid))
    if not found.is_array:
        raise DatatypeMismatch(f"argument declared {kind} is not an array but type {type_named(actual.oid)}")
    return found


def _check_no_array(kinds: Collection[int], kind: SqlType, actual: SqlType | None) -> None:
    if actual is not None and kind.oid in kinds and registry.type_by_oid(base_oid(actual.oid)).is_array:
        raise DatatypeMismatch(f"type matched to {kind.name} is an array type: {type_named(actual.oid)}")


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


def substitute(declared: SqlType, meaning: Meaning) -> SqlType:
    """The type that a declared one stands for."""
    oid = declared.oid
    if oid in SIMPLE_ELEMENTS and meaning.element is not None:
        return meaning.element
    if oid == ANYARRAY.oid and meaning.element is not None:
        return meaning.array or _array_of(meaning.element)
    if oid in COMPATIBLE_ELEMENTS and meaning.common is not None:
        return meaning.common
    if oid == ANYCOMPATIBLEARRAY.oid and meaning.common is not None:
        return _array_of(meaning.common)
    return declared


def _array_of(element: SqlType) -> SqlType:
    if element.is_array and not element.array_oid:
        raise UndefinedObject(f"could not find array type for data type {type_named(element.oid)}")
    return registry.array_of(element)
