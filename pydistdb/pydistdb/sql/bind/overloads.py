"""Which of several overloads a call means: Postgres's rules for functions and operators of the same name.

The candidates whose arguments can all be converted implicitly are narrowed down to those with most exact matches, then most
exact or preferred types; literals of unknown type count as strings if any candidate takes a string there, else as the one
category that the candidates agree on; last, unknown literals are supposed to be of the type that all known arguments share.

    round(numeric), round(float8), called with int        numeric and float8 both fit; float8 is preferred
    'a' || 'b'                                            both unknown: strings win, so text || text

``None`` is "no such thing", ``Ambiguous`` "more than one is as good".

Source: PostgreSQL 15 manual, 10.2 and 10.3; parse_func.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from pydistdb.sql.bind.coerce import UNKNOWN_OID, can_coerce
from pydistdb.sql.bind.polymorphic import SIMPLE, Meaning, is_polymorphic, polymorphic_fit, solve, substitute
from pydistdb.sql.errors import DatatypeMismatch
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.routines import RoutineFunction
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import AggregateFunction, Function, SqlType
from pydistdb.sql.types.domains import base_oid
from pydistdb.sql.types.registry import ANY

AnyFunction = Function | AggregateFunction

MOST_SPECIALIZED = 1_024


class Resolved(NamedTuple):
    """A function settled for given argument types: ``arguments[i]`` is what argument i must be converted to."""

    function: AnyFunction
    arguments: tuple[SqlType, ...]
    result: SqlType
    variadic_from: int
    """Index of the first argument that goes into a VARIADIC array; -1 if there is none."""


class Candidate(NamedTuple):
    function: AnyFunction
    types: tuple[SqlType, ...]
    variadic_from: int


class Ambiguous(Exception):
    """Several candidates are equally good."""


def choose(candidates: Sequence[Candidate], oids: Sequence[int]) -> Candidate | None:
    """Pick among candidates; None if none fits, Ambiguous if several do equally well."""
    fitting = [
        candidate
        for candidate in candidates
        if all(
            oid == t.oid or oid == UNKNOWN_OID or can_coerce(oid, t.oid)
            for oid, t in zip(oids, candidate.types, strict=True)
        )
        and polymorphic_fit(candidate.types, oids)
    ]
    if len(fitting) <= 1:
        return fitting[0] if fitting else None
    oids = [base_oid(oid) for oid in oids]
    fitting = _best(fitting, [sum(_is_exact(o, t) for o, t in zip(oids, c.types, strict=True)) for c in fitting])
    if len(fitting) == 1:
        return fitting[0]
    fitting = _best(fitting, [sum(_preferred(o, t) for o, t in zip(oids, c.types, strict=True)) for c in fitting])
    if len(fitting) == 1:
        return fitting[0]
    unknowns = [index for index, oid in enumerate(oids) if oid == UNKNOWN_OID]
    if not unknowns:
        raise Ambiguous
    narrowed = _by_category(fitting, unknowns)
    if len(narrowed) == 1:
        return narrowed[0]
    known = {oid for oid in oids if oid != UNKNOWN_OID}
    if len(known) == 1:
        supposed = next(iter(known))
        all_supposed = [supposed] * len(oids)
        agreeing = [
            c
            for c in narrowed
            if all(can_coerce(supposed, t.oid) for t in c.types) and polymorphic_fit(c.types, all_supposed)
        ]
        if len(agreeing) == 1:
            return agreeing[0]
    raise Ambiguous


def _is_exact(oid: int, declared: SqlType) -> bool:
    return oid == declared.oid and oid != UNKNOWN_OID


def _preferred(oid: int, declared: SqlType) -> bool:
    if oid == UNKNOWN_OID:
        return False
    return oid == declared.oid or (declared.preferred and declared.category == registry.type_by_oid(oid).category)


def _best(candidates: list[Candidate], scores: list[int]) -> list[Candidate]:
    best = max(scores)
    return [candidate for candidate, score in zip(candidates, scores, strict=True) if score == best]


def _by_category(candidates: list[Candidate], unknowns: list[int]) -> list[Candidate]:
    """Narrow down by what the literals of unknown type could be."""
    chosen: dict[int, tuple[str, bool]] = {}
    for index in unknowns:
        categories = {candidate.types[index].category for candidate in candidates}
        if "S" in categories:
            category = "S"
        elif len(categories) == 1:
            category = categories.pop()
        else:
            return candidates
        has_preferred = any(
            candidate.types[index].category == category and candidate.types[index].preferred for candidate in candidates
        )
        chosen[index] = (category, has_preferred)
    kept = [
        candidate
        for candidate in candidates
        if all(
            candidate.types[index].category == category and (candidate.types[index].preferred or not has_preferred)
            for index, (category, has_preferred) in chosen.items()
        )
    ]
    return kept or candidates


def settle(candidate: Candidate, oids: Sequence[int]) -> Resolved:
    """Replace polymorphic types by what they stand for."""
    function = candidate.function
    declared = candidate.types
    result = function.return_type
    if is_polymorphic(declared) or is_polymorphic(function.argument_types[len(declared) :]):
        meaning = _meaning(candidate, oids)
        declared = tuple(substitute(t, meaning) for t in declared)
        result = substitute(result, meaning)
        if isinstance(function, Function) and (isinstance(function, RoutineFunction) or function.out_columns):
            function = _specialized(function, meaning)
    actual = tuple(registry.type_by_oid(oid) if t.oid == ANY.oid else t for t, oid in zip(declared, oids, strict=True))
    if function.specialize is not None:
        function = functions.specialize(function, actual, result)
    return Resolved(function, actual, result, candidate.variadic_from)


def _meaning(candidate: Candidate, oids: Sequence[int]) -> Meaning:
    """What the types stand for; arguments that are left out count with the types of their defaults."""
    function, declared = candidate.function, candidate.types
    missing = len(function.argument_types) - len(declared)
    if isinstance(function, RoutineFunction) and candidate.variadic_from < 0 and missing > 0:
        declared = (*declared, *function.argument_types[-missing:])
        oids = (*oids, *function.default_oids[-missing:])
    meaning = solve(declared, oids)
    if meaning.element is None and any(t.oid in SIMPLE for t in declared):
        raise DatatypeMismatch("could not determine polymorphic type because input has type unknown")
    return meaning


@lru_cache(maxsize=MOST_SPECIALIZED)
def _specialized(function: Function, meaning: Meaning) -> Function:
    """A function whose columns or body depend on the types, for these types; always the same one, as calls of one
    function must be equal."""
    changes: dict[str, Any] = {}
    if isinstance(function, RoutineFunction):
        types = tuple(substitute(t, meaning) for t in function.argument_types)
        changes = {"argument_types": types, "actual_oids": tuple(t.oid for t in types)}
        changes["return_type"] = substitute(function.return_type, meaning)
    columns = tuple((name, substitute(t, meaning)) for name, t in function.out_columns)
    return replace(function, out_columns=columns, **changes)


def for_types(function: RoutineFunction, oids: Sequence[int]) -> RoutineFunction:
    """A routine for actual types of all its arguments."""
    if not is_polymorphic(function.argument_types):
        return function
    found = settle(Candidate(function, function.argument_types, -1), oids).function
    assert isinstance(found, RoutineFunction)
    return found
