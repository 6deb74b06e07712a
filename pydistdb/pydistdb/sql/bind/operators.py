"""Which operator or function a name and argument types mean (manual, chapter 10).

The rules in short: an exact match wins; else the candidates whose arguments can all be converted implicitly are
narrowed down to those with most exact matches, then most exact or preferred types; literals of unknown type count as
strings if any candidate takes a string there, else as the one category that the candidates agree on; last, unknown
literals are supposed to be of the type that all known arguments share.

Answers are kept, because a program asks the same few questions over and over:

    ``1 + 2.5``: operator +, (int4, numeric)  ->  numeric_add, with int4 cast to numeric

Source: PostgreSQL 15 manual, 10.2, 10.3 and 38.2.5 (polymorphic types); parse_func.c and parse_oper.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydistdb.sql.bind.coerce import UNKNOWN_OID, can_coerce, type_named
from pydistdb.sql.errors import DatabaseError, DatatypeMismatch
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import AggregateFunction, Function, Operator, SqlType
from pydistdb.sql.types.domains import base_oid
from pydistdb.sql.types.known import POLYMORPHIC
from pydistdb.sql.types.registry import (
    ANY,
    ANYARRAY,
    ANYCOMPATIBLE,
    ANYCOMPATIBLEARRAY,
    ANYCOMPATIBLENONARRAY,
    ANYELEMENT,
    ANYENUM,
    ANYNONARRAY,
    TEXT,
)
from pydistdb.sql.types.user import derived_from_types

AnyFunction = Function | AggregateFunction

MOST_ANSWERS = 8192
MOST_ARGUMENTS = 100

_SIMPLE_ELEMENTS = frozenset({ANYELEMENT.oid, ANYNONARRAY.oid, ANYENUM.oid})
_COMPATIBLE_ELEMENTS = frozenset({ANYCOMPATIBLE.oid, ANYCOMPATIBLENONARRAY.oid})


class Resolved(NamedTuple):
    """A function settled for given argument types: ``arguments[i]`` is what argument i must be converted to."""

    function: AnyFunction
    arguments: tuple[SqlType, ...]
    result: SqlType
    variadic_from: int
    """Index of the first argument that goes into a VARIADIC array; -1 if there is none."""


class _Candidate(NamedTuple):
    function: AnyFunction
    types: tuple[SqlType, ...]
    variadic_from: int


class Ambiguous(Exception):
    """Several candidates are equally good."""


# ------------------------------------------------------------------------------------------------ choosing


def _choose(candidates: Sequence[_Candidate], oids: Sequence[int]) -> _Candidate | None:
    """Pick among candidates; None if none fits, Ambiguous if several do equally well."""
    fitting = [
        candidate
        for candidate in candidates
        if all(
            oid == t.oid or oid == UNKNOWN_OID or can_coerce(oid, t.oid)
            for oid, t in zip(oids, candidate.types, strict=True)
        )
        and _polymorphic_fit(candidate.types, oids)
    ]
    if len(fitting) <= 1:
        return fitting[0] if fitting else None
    oids = [base_oid(oid) for oid in oids]
    fitting = _best(fitting, [sum(_exact(o, t) for o, t in zip(oids, c.types, strict=True)) for c in fitting])
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
            if all(can_coerce(supposed, t.oid) for t in c.types) and _polymorphic_fit(c.types, all_supposed)
        ]
        if len(agreeing) == 1:
            return agreeing[0]
    raise Ambiguous


def _exact(oid: int, declared: SqlType) -> bool:
    return oid == declared.oid and oid != UNKNOWN_OID


def _preferred(oid: int, declared: SqlType) -> bool:
    if oid == UNKNOWN_OID:
        return False
    return oid == declared.oid or (declared.preferred and declared.category == registry.type_by_oid(oid).category)


def _best(candidates: list[_Candidate], scores: list[int]) -> list[_Candidate]:
    best = max(scores)
    return [candidate for candidate, score in zip(candidates, scores, strict=True) if score == best]


def _by_category(candidates: list[_Candidate], unknowns: list[int]) -> list[_Candidate]:
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


# ------------------------------------------------------------------------------------------------ polymorphic types


def _polymorphic_fit(declared: Sequence[SqlType], oids: Sequence[int]) -> bool:
    if not any(t.oid in POLYMORPHIC for t in declared):
        return True
    try:
        _solve(declared, oids)
    except DatabaseError:
        return False
    return True


def _solve(declared: Sequence[SqlType], oids: Sequence[int]) -> tuple[SqlType | None, SqlType | None]:
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
        if kind in _SIMPLE_ELEMENTS:
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


def _settle(candidate: _Candidate, oids: Sequence[int]) -> Resolved:
    """Replace polymorphic types by what they stand for."""
    function = candidate.function
    declared = candidate.types
    result = function.return_type
    if any(t.oid in POLYMORPHIC for t in declared):
        element, common = _solve(declared, oids)
        if element is None and any(t.oid in _SIMPLE_ELEMENTS or t.oid == ANYARRAY.oid for t in declared):
            raise DatatypeMismatch("could not determine polymorphic type because input has type unknown")
        declared = tuple(_substitute(t, element, common) for t in declared)
        result = _substitute(result, element, common)
    actual = tuple(registry.type_by_oid(oid) if t.oid == ANY.oid else t for t, oid in zip(declared, oids, strict=True))
    if function.specialize is not None:
        function = functions.specialize(function, actual, result)
    return Resolved(function, actual, result, candidate.variadic_from)


def _substitute(declared: SqlType, element: SqlType | None, common: SqlType | None) -> SqlType:
    oid = declared.oid
    if oid in _SIMPLE_ELEMENTS and element is not None:
        return element
    if oid == ANYARRAY.oid and element is not None:
        return registry.array_of(element)
    if oid in _COMPATIBLE_ELEMENTS and common is not None:
        return common
    if oid == ANYCOMPATIBLEARRAY.oid and common is not None:
        return registry.array_of(common)
    return declared


# ------------------------------------------------------------------------------------------------ operators

_binary: dict[tuple[str, int, int], Resolved] = derived_from_types({})
_prefix: dict[tuple[str, int], Resolved] = derived_from_types({})


def _remember(answers: dict[tuple[str, int, int], Resolved], key: tuple[str, int, int], answer: Resolved) -> Resolved:
    if len(answers) >= MOST_ANSWERS:
        answers.clear()
    answers[key] = answer
    return answer


def binary_operator(name: str, left_oid: int, right_oid: int) -> Resolved | None:
    """Find a binary operator; None if there is none, Ambiguous if there are too many."""
    key = (name, left_oid, right_oid)
    found = _binary.get(key)
    if found is not None:
        return found
    left_oid, right_oid = base_oid(left_oid), base_oid(right_oid)
    operator = _exact_operator(name, left_oid, right_oid)
    if operator is not None:
        assert operator.left is not None
        candidate: _Candidate | None = _Candidate(operator.function, (operator.left, operator.right), -1)
    else:
        candidate = _choose(
            [_Candidate(o.function, (o.left, o.right), -1) for o in functions.operators(name) if o.left is not None],
            (left_oid, right_oid),
        )
    if candidate is None:
        return None
    return _remember(_binary, key, _settle(candidate, (left_oid, right_oid)))


def _exact_operator(name: str, left_oid: int, right_oid: int) -> Operator | None:
    """A literal of unknown type is first supposed to be of the other side's type."""
    if left_oid == UNKNOWN_OID != right_oid:
        left_oid = right_oid
    elif right_oid == UNKNOWN_OID != left_oid:
        right_oid = left_oid
    found = functions.operator_for(name, left_oid, right_oid)
    if found is None and left_oid == right_oid and (text := _as_text(left_oid)) is not None:
        found = functions.operator_for(name, text, text)
    return found


def _as_text(oid: int) -> int | None:
    """varchar has no operators of its own: they are text's."""
    return TEXT.oid if oid == 1043 else None


def prefix_operator(name: str, oid: int) -> Resolved | None:
    """Find a prefix operator."""
    key = (name, oid)
    found = _prefix.get(key)
    if found is not None:
        return found
    oid = base_oid(oid)
    operator = functions.operator_for(name, 0, oid) if oid != UNKNOWN_OID else None
    if operator is not None:
        candidate: _Candidate | None = _Candidate(operator.function, (operator.right,), -1)
    else:
        candidate = _choose(
            [_Candidate(o.function, (o.right,), -1) for o in functions.operators(name) if o.left is None], (oid,)
        )
    if candidate is None:
        return None
    answer = _settle(candidate, (oid,))
    _prefix[key] = answer
    return answer


def equality(left_oid: int, right_oid: int | None = None) -> Resolved | None:
    """Find the = operator; None if there is none."""
    try:
        return binary_operator("=", left_oid, left_oid if right_oid is None else right_oid)
    except Ambiguous:
        return None


def ordering(oid: int) -> Resolved | None:
    """Find the < operator by which values of a type are sorted; None if they are not."""
    try:
        return binary_operator("<", oid, oid)
    except Ambiguous:
        return None


# ------------------------------------------------------------------------------------------------ functions

_functions: dict[tuple[str, str | None, tuple[int, ...], bool], Resolved] = derived_from_types({})


def find_function(
    name: str,
    schema: str | None,
    oids: tuple[int, ...],
    variadic_array: bool = False,
    own: Sequence[Function] = (),
) -> Resolved | None:
    """Find a function for positional arguments; None if there is none, Ambiguous if there are too many.

    ``variadic_array``: the last argument was marked VARIADIC and is the array itself.  ``own``: the users' functions of
    that name (answers that involve them are not kept)."""
    key = (name, schema, oids, variadic_array)
    found = _functions.get(key) if not own else None
    if found is not None:
        return found
    candidates = _candidates([*functions.functions(name, schema), *own], len(oids), variadic_array)
    exact = [c for c in candidates if all(t.oid == oid for t, oid in zip(c.types, oids, strict=True))]
    if not exact and (bases := tuple([base_oid(oid) for oid in oids])) != oids:
        exact = [c for c in candidates if all(t.oid == oid for t, oid in zip(c.types, bases, strict=True))]
    if exact and UNKNOWN_OID not in oids:
        candidate: _Candidate | None = min(exact, key=lambda c: c.variadic_from)
    else:
        candidate = _choose(candidates, oids)
    if candidate is None:
        return None
    answer = _settle(candidate, oids)
    if not own:
        if len(_functions) >= MOST_ANSWERS:
            _functions.clear()
        _functions[key] = answer
    return answer


def _candidates(known: Sequence[AnyFunction], count: int, variadic_array: bool) -> list[_Candidate]:
    plain: list[_Candidate] = []
    expanded: list[_Candidate] = []
    for function in known:
        types = function.argument_types
        least = len(types) - getattr(function, "default_count", 0)
        if function.variadic and not variadic_array:
            fixed = len(types) - 1
            if count > fixed:
                last = types[-1]
                item = last if last.oid == ANY.oid else _variadic_item(last)
                start = -1 if last.oid == ANY.oid else fixed
                expanded.append(_Candidate(function, types[:fixed] + (item,) * (count - fixed), start))
        if least <= count <= len(types) and (not function.variadic or variadic_array or types[-1].oid != ANY.oid):
            if variadic_array and not function.variadic:
                continue
            if function.variadic and not variadic_array:
                continue
            plain.append(_Candidate(function, types[:count], -1))
    # A variadic function loses against a plain one of the same argument types.
    taken = {tuple(t.oid for t in candidate.types) for candidate in plain}
    return plain + [c for c in expanded if tuple(t.oid for t in c.types) not in taken]


def _variadic_item(array: SqlType) -> SqlType:
    if array.oid == ANYARRAY.oid:
        return ANYELEMENT
    if array.oid == ANYCOMPATIBLEARRAY.oid:
        return ANYCOMPATIBLE
    return registry.element_of(array)


def find_named(
    name: str, schema: str | None, positional: tuple[int, ...], named: dict[str, int], own: Sequence[Function] = ()
) -> tuple[Resolved, list[int | str | None]] | None:
    """Find a function called with ``name => value``.

    Returns it with, for each of its arguments, the index of a positional argument, the name of a named one, or None for
    its default."""
    for function in (*functions.functions(name, schema), *own):
        if isinstance(function, AggregateFunction) or not function.argument_names:
            continue
        names = function.argument_names[: len(function.argument_types)]
        sources: list[int | str | None] = list(range(len(positional)))
        oids = list(positional)
        for index in range(len(positional), len(function.argument_types)):
            argument_name = names[index] if index < len(names) else ""
            if argument_name in named:
                sources.append(argument_name)
                oids.append(named[argument_name])
            elif index >= len(function.argument_types) - function.default_count:
                sources.append(None)
                oids.append(function.argument_types[index].oid)
            else:
                break
        if len(sources) != len(function.argument_types) or any(n not in names[len(positional) :] for n in named):
            continue
        candidate = _Candidate(function, function.argument_types, -1)
        if _choose([candidate], oids) is not None:
            return _settle(candidate, oids), sources
    return None
