"""Whether a query's condition implies the predicate of a partial index.

Terms of one predicate must each follow from the terms of the condition::

    WHERE NOT gone AND age > 20     implies     NOT gone     the very same term
                                                age > 18     a tighter bound on the same side
                                                age IS NOT NULL     what a strict comparison needs to be true

It is a matter of form, as in Postgres: what it does not see is not implied, and the index is not used.  Parameters have
no value yet, so nothing but their own term follows from them.

Source: PostgreSQL 15, predtest.c; manual, 11.8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from pydistdb.sql.plan.comparisons import MIRRORED, comparison, comparison_terms
from pydistdb.sql.plan.expressions import TRUE, columns_of, substitute
from pydistdb.sql.tree import And, AnyAll, BooleanTest, Call, ColumnRef, Const, Expr, InList, IsNull, Not, Or
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.known import BOOL

DEEPEST = 20
_NOT_COMPARED = ("type", "nullable")


def implied(predicate: Sequence[Expr], condition: Sequence[Expr], depth: int = 0) -> bool:
    """Whether every term of ``predicate`` is true wherever all terms of ``condition`` are."""
    return all(_term_implied(term, condition, depth) for term in predicate)


def _term_implied(term: Expr, condition: Sequence[Expr], depth: int) -> bool:
    if depth > DEEPEST:
        return False
    if same(term, TRUE) or any(_implies(known, term, depth) for known in condition):
        return True
    match term:
        case And(arguments=parts):
            return implied(parts, condition, depth + 1)
        case Or(arguments=parts):
            return any(_term_implied(part, condition, depth + 1) for part in parts)
    return False


def same(left: Expr, right: Expr) -> bool:
    """Whether two expressions are the same in form (column names aside)."""
    if isinstance(left, ColumnRef) and isinstance(right, ColumnRef):
        return left.id == right.id
    if isinstance(left, Call) and isinstance(right, Call):
        if left.function.oid != right.function.oid or len(left.arguments) != len(right.arguments):
            return False
        return all(map(same, left.arguments, right.arguments))
    if isinstance(left, Const) and isinstance(right, Const):
        return left.type.oid == right.type.oid and _same_value(left.value, right.value)
    if type(left) is not type(right):
        return False
    names = [field.name for field in fields(left) if field.name not in _NOT_COMPARED]
    return all(_same_part(getattr(left, name), getattr(right, name)) for name in names)


def known_by_equality(term: Expr, equalities: Sequence[Expr], known: Sequence[Expr]) -> bool:
    """Whether one of the equalities makes a known term say the same of another column: ``a > 5``, by ``a = b`` and ``b > 5``."""
    if not known:
        return False
    own = columns_of(term)
    for equality in equalities:
        found = comparison_terms(equality)
        if found is None or found[0] != "=":
            continue
        for here, there in ((found[1], found[2]), (found[2], found[1])):
            if isinstance(here, ColumnRef) and here.id in own and isinstance(there, ColumnRef):
                follows = substitute(term, {here.id: there})
                if any(same(follows, other) for other in known):
                    return True
    return False


def _same_part(left: Any, right: Any) -> bool:
    if isinstance(left, Expr) and isinstance(right, Expr):
        return same(left, right)
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(_same_part, left, right))
    return bool(left == right)


def _same_value(left: Any, right: Any) -> bool:
    return type(left) is type(right) and bool(left == right)


def _implies(known: Expr, term: Expr, depth: int) -> bool:
    """Whether ``known`` being true makes ``term`` true."""
    if same(known, term):
        return True
    match known:
        case Or(arguments=parts):
            return all(_term_implied(term, [part], depth + 1) for part in parts)
        case And(arguments=parts):
            return _term_implied(term, parts, depth + 1)
        case InList(negated=False) | AnyAll(all=False):
            values = list(_alternatives(known))
            return bool(values) and all(_term_implied(term, [value], depth + 1) for value in values)
    match term:
        case InList(negated=False) | AnyAll(all=False):
            return any(_implies(known, value, depth + 1) for value in _alternatives(term))
        case IsNull(argument=argument, negated=True):
            return _needs(known, argument)
        case BooleanTest(argument=argument, value=True, negated=False):
            return same(known, argument)
        case Not(argument=argument):
            return isinstance(known, BooleanTest) and known.value is False and same(known.argument, argument)
    if isinstance(known, BooleanTest) and known.value is True and not known.negated and same(known.argument, term):
        return True
    return _bounds_imply(known, term)


def _alternatives(term: Expr) -> Iterator[Expr]:
    """``x = v`` for each of the values that a list of constants allows; nothing if they are not known."""
    if isinstance(term, InList) and comparison(term.equality) == "=":
        for item in term.items:
            yield Call(BOOL, term.equality, (term.argument, item))
    elif isinstance(term, AnyAll) and comparison(term.function) == "=" and isinstance(term.array, Const):
        array = term.array.value
        if isinstance(array, PgArray):
            item_type = term.function.argument_types[1]
            for value in array.items:
                yield Call(BOOL, term.function, (term.left, Const(item_type, value)))


def _needs(known: Expr, argument: Expr) -> bool:
    """Whether ``known`` can be true only if ``argument`` is not NULL."""
    if same(known, argument):
        return True
    match known:
        case Call(function=function, arguments=parts) if function.strict:
            return any(_needs(part, argument) for part in parts)
        case Not(argument=part):
            return _needs(part, argument)
        case InList(argument=part):
            return _needs(part, argument)
        case AnyAll(left=part) if known.function.strict:
            return _needs(part, argument)
        case BooleanTest(argument=part, negated=False) if known.value is not None:
            return _needs(part, argument)
    return False


def _bounds_imply(known: Expr, term: Expr) -> bool:
    """``x = 7`` or ``x > 5`` against ``x > 3``: comparisons of one thing with constants."""
    have, want = _bound(known), _bound(term)
    if have is None or want is None or not same(have[1], want[1]):
        return False
    operator, _, value = have
    wanted, _, limit = want
    try:
        match operator, wanted:
            case "=", "=":
                return bool(value == limit)
            case "=", _:
                return bool(_COMPARE[wanted](value, limit))
            case (">", ">") | ("<", "<") | (">=", ">=") | ("<=", "<=") | (">", ">=") | ("<", "<="):
                return bool(value == limit or _COMPARE[wanted[0]](value, limit))
            case (">=", ">") | ("<=", "<"):
                return bool(_COMPARE[wanted](value, limit))
            case (">" | "<", "<>"):
                return bool(value == limit or _COMPARE[operator](value, limit))
            case (">=" | "<=", "<>"):
                return bool(_COMPARE[operator[0]](value, limit))
            case "<>", "<>":
                return bool(value == limit)
    except TypeError:
        pass
    return False


_COMPARE: dict[str, Any] = {
    "=": lambda a, b: a == b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<>": lambda a, b: a != b,
}


def _bound(term: Expr) -> tuple[str, Expr, Any] | None:
    """(operator, what is compared, constant)."""
    found = comparison_terms(term)
    if found is None:
        return None
    name, left, right, _ = found
    if isinstance(right, Const) and right.value is not None:
        return name, left, right.value
    if isinstance(left, Const) and left.value is not None:
        return MIRRORED[name], right, left.value
    return None
