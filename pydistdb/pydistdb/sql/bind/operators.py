"""Which operator or function a name and argument types mean (manual, chapter 10).

An exact match is looked up at once; else all of that name are candidates, and overloads.py chooses.  polymorphic.py says
what anyelement and the like stand for.

Answers are kept, because a program asks the same few questions over and over:

    ``1 + 2.5``: operator +, (int4, numeric)  ->  numeric_add, with int4 cast to numeric

Source: PostgreSQL 15 manual, 10.2 and 10.3; parse_func.c and parse_oper.c.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql.bind.coerce import UNKNOWN_OID
from pydistdb.sql.bind.overloads import Ambiguous, AnyFunction, Candidate, Resolved, choose, settle
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.routines import RoutineFunction
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import AggregateFunction, Function, Operator, SqlType
from pydistdb.sql.types.domains import base_oid
from pydistdb.sql.types.registry import ANY, ANYARRAY, ANYCOMPATIBLE, ANYCOMPATIBLEARRAY, ANYELEMENT, TEXT
from pydistdb.sql.types.user import derived_from_types

MOST_ANSWERS = 8192
MOST_ARGUMENTS = 100


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
        candidate: Candidate | None = Candidate(operator.function, (operator.left, operator.right), -1)
    else:
        candidate = choose(
            [Candidate(o.function, (o.left, o.right), -1) for o in functions.operators(name) if o.left is not None],
            (left_oid, right_oid),
        )
    if candidate is None:
        return None
    return _remember(_binary, key, settle(candidate, (left_oid, right_oid)))


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
        candidate: Candidate | None = Candidate(operator.function, (operator.right,), -1)
    else:
        candidate = choose(
            [Candidate(o.function, (o.right,), -1) for o in functions.operators(name) if o.left is None], (oid,)
        )
    if candidate is None:
        return None
    answer = settle(candidate, (oid,))
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
        candidate: Candidate | None = min(exact, key=lambda c: c.variadic_from)
        if own and len(exact) > 1 and any(_rivals(candidate, other) for other in exact):
            raise Ambiguous
    else:
        candidate = choose(candidates, oids)
    if candidate is None:
        return None
    answer = settle(candidate, oids)
    if not own:
        if len(_functions) >= MOST_ANSWERS:
            _functions.clear()
        _functions[key] = answer
    return answer


def _rivals(chosen: Candidate | None, other: Candidate) -> bool:
    """Whether two of a user's functions take the same arguments, but for defaults."""
    if chosen is None or other is chosen or other.variadic_from != chosen.variadic_from:
        return False
    mine, theirs = chosen.function, other.function
    return isinstance(mine, Function) and isinstance(theirs, Function) and mine.schema == theirs.schema


def _candidates(known: Sequence[AnyFunction], count: int, variadic_array: bool) -> list[Candidate]:
    plain: list[Candidate] = []
    expanded: list[Candidate] = []
    for function in known:
        types = function.argument_types
        least = len(types) - getattr(function, "default_count", 0)
        if function.variadic and not variadic_array:
            fixed = len(types) - 1
            if count > fixed:
                last = types[-1]
                item = last if last.oid == ANY.oid else _variadic_item(last)
                start = -1 if last.oid == ANY.oid else fixed
                expanded.append(Candidate(function, types[:fixed] + (item,) * (count - fixed), start))
        if least <= count <= len(types) and (not function.variadic or variadic_array or types[-1].oid != ANY.oid):
            if variadic_array and not function.variadic:
                continue
            if function.variadic and not variadic_array:
                continue
            plain.append(Candidate(function, types[:count], -1))
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
    its default; raises Ambiguous."""
    given = (*positional, *named.values())
    found: dict[int, tuple[AnyFunction, list[int | str | None]]] = {}
    candidates = []
    for function in (*functions.functions(name, schema), *own):
        sources = _sources(function, len(positional), named)
        if sources is None:
            continue
        types = [function.argument_types[index] for index in range(len(positional))]
        types += [function.argument_types[sources.index(key)] for key in named]
        candidates.append(Candidate(function, tuple(types), -1))
        found[id(function)] = function, sources
    chosen = choose(candidates, given) if candidates else None
    if chosen is None:
        return None
    function, sources = found[id(chosen.function)]
    omitted = len(function.argument_types) - getattr(function, "default_count", 0)
    defaults = function.default_oids if isinstance(function, RoutineFunction) else ()
    oids = [
        positional[source]
        if isinstance(source, int)
        else named[source]
        if source is not None
        else (defaults[index - omitted] if defaults else function.argument_types[index].oid)
        for index, source in enumerate(sources)
    ]
    return settle(Candidate(function, function.argument_types, -1), oids), sources


def _sources(function: AnyFunction, positional: int, named: dict[str, int]) -> list[int | str | None] | None:
    """Where each argument comes from; None if the function has no such arguments, or one without a value."""
    if isinstance(function, AggregateFunction) or not function.argument_names:
        return None
    count = len(function.argument_types)
    names = function.argument_names[:count]
    if positional > count or any(name not in names[positional:] for name in named):
        return None
    sources: list[int | str | None] = list(range(positional))
    for index in range(positional, count):
        name = names[index] if index < len(names) else ""
        if name and name in named:
            sources.append(name)
        elif index >= count - function.default_count:
            sources.append(None)
        else:
            return None
    return sources
