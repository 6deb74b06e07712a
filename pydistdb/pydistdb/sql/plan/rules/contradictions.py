"""Terms of one condition that contradict each other, or say the same twice.

What is known of a column is put into the other terms that speak of it alone, and computed::

    a = 1 AND a > 5              1 > 5: FALSE, and nothing is read
    a = $1 AND a = $2            a = $1 AND $1 = $2: tested before anything is read (Access.gate)
    a = 1 AND b = a              a = 1 AND b = 1
    a > 5 AND a < 3              5 < 3: FALSE
    a > 3 AND a > 8              a > 8
    a IN (1, 5, 9) AND a > 4     a IN (5, 9)
    a IS NULL AND a = $1         FALSE; a IS NOT NULL AND a = $1: a = $1
    id IS NOT NULL               TRUE of a NOT NULL column; id = id likewise

Comparisons only are treated so: equal values (1.0 and 1.00) look alike to them, and not to every function.

Source: PostgreSQL 15, predtest.c and equivclass.c; nbtutils.c (_bt_preprocess_keys).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import is_

from pydistdb.sql.plan.comparisons import MIRRORED, comparison, comparison_terms, family
from pydistdb.sql.plan.expressions import (
    FALSE,
    columns_of,
    conjoin,
    conjuncts,
    is_volatile,
    map_parts,
    rewrite,
    substitute,
)
from pydistdb.sql.plan.implication import same
from pydistdb.sql.plan.rules.fold import fails, fold_expression
from pydistdb.sql.plan.rules.outer_joins import null_rejected
from pydistdb.sql.tree import (
    AnyAll,
    Call,
    ColumnId,
    ColumnRef,
    Const,
    Expr,
    Filter,
    InList,
    IsNull,
    Param,
    Rel,
    Scan,
    Subquery,
)
from pydistdb.sql.types.known import BOOL

MOST_TERMS = 30
"""Of one condition: every term is held against every other."""


def contradictions(relation: Rel) -> Rel:
    relation = map_parts(relation, lambda part: rewrite(part, _in_expression), contradictions)
    if not isinstance(relation, Filter):
        return relation
    terms = conjuncts(relation.condition)
    found = consistent(terms, relation.input)
    if found is None:
        return relation if any(map(fails, terms)) else replace(relation, condition=FALSE)
    if not found:
        return relation.input
    unchanged = len(found) == len(terms) and all(map(is_, found, terms))
    return relation if unchanged else replace(relation, condition=conjoin(found))


def _in_expression(expression: Expr) -> Expr:
    return map_parts(expression, on_relation=contradictions) if isinstance(expression, Subquery) else expression


def consistent(terms: Sequence[Expr], source: Rel) -> list[Expr] | None:
    """The terms without what follows from others; None if not all of them can be true."""
    terms = [known for term in terms if (known := _of_not_null(_of_itself(term), source)) is not None]
    if 1 < len(terms) <= MOST_TERMS:
        terms = _by_equality(terms)
        terms = _without_nulls(terms)
        terms = _by_bounds(terms)
    return None if any(isinstance(term, Const) and term.value is not True for term in terms) else terms


# ------------------------------------------------------------------------------------------------ NULL


def _of_itself(term: Expr) -> Expr:
    """``a = a`` is ``a IS NOT NULL``, but for rows: with a NULL in them they are equal to themselves."""
    found = comparison_terms(term)
    if found is None or not isinstance(found[1], ColumnRef) or not same(found[1], found[2]):
        return term
    if found[1].type.category == "C":
        return term
    return IsNull(BOOL, found[1], True) if "=" in found[0] else FALSE


def _of_not_null(term: Expr, source: Rel) -> Expr | None:
    """The term; None if it is true of every row of a table, as IS NOT NULL of a NOT NULL column is."""
    match term:
        case IsNull(argument=ColumnRef(id=id) as column) if isinstance(source, Scan) and column.type.category != "C":
            number = next((n for each, n in zip(source.columns, source.numbers, strict=True) if each.id == id), 0)
            if any(each.number == number and each.not_null for each in source.table.columns):
                return None if term.negated else FALSE
    return term


def _without_nulls(terms: list[Expr]) -> list[Expr]:
    """``a IS NULL`` beside what is true of no NULL is FALSE; ``a IS NOT NULL`` says no more than that."""
    if not any(isinstance(term, IsNull) for term in terms):
        return terms
    result: list[Expr] = []
    for term in terms:
        match term:
            case IsNull(argument=ColumnRef() as column) if column.type.category != "C":
                others = [other for other in terms if other is not term and not _same_test(term, other)]
                if any(column.id in null_rejected(other) for other in others):
                    if not term.negated:
                        return [FALSE]
                    continue
        result.append(term)
    return result


def _same_test(term: IsNull, other: Expr) -> bool:
    return isinstance(other, IsNull) and other.negated == term.negated


# ------------------------------------------------------------------------------------------------ equalities


def _by_equality(terms: list[Expr]) -> list[Expr]:
    """``column = value`` put into the comparisons beside it."""
    done: set[ColumnId] = set()
    while True:
        known = next((found for term in terms if (found := _fixed(term)) is not None and found[0].id not in done), None)
        if known is None:
            return terms
        column, value, source = known
        done.add(column.id)
        result: list[Expr] = []
        for term in terms:
            if term is not source and _compares(term, column.id):
                term = fold_expression(substitute(term, {column.id: value}))
                if isinstance(term, Const) and term.value is True:
                    continue
            result.append(term)
        terms = result


def _fixed(term: Expr) -> tuple[ColumnRef, Expr, Expr] | None:
    """(column, value, term) of ``column = value``."""
    found = comparison_terms(term)
    if found is None or found[0] != "=":
        return None
    for column, value in ((found[1], found[2]), (found[2], found[1])):
        if isinstance(column, ColumnRef) and _may_stand_for(value, column):
            return column, value, term
    return None


def _may_stand_for(value: Expr, column: ColumnRef) -> bool:
    if isinstance(value, Const):
        return value.value is not None and family(value.type.oid) == family(column.type.oid)
    return isinstance(value, Param) and value.type.oid == column.type.oid


def _compares(term: Expr, column: ColumnId) -> bool:
    """Whether a term compares the column, as it is, with other columns or with values."""
    match term:
        case Call(arguments=(left, right)):
            if not isinstance(left, ColumnRef | Const | Param) or not isinstance(right, ColumnRef | Const | Param):
                return False
            speaks = any(isinstance(part, ColumnRef) and part.id == column for part in (left, right))
            return speaks and comparison(term.function) is not None
        case InList(argument=ColumnRef(id=id)):
            return id == column and comparison(term.equality) == "=" and not any(map(columns_of, term.items))
        case AnyAll(left=ColumnRef(id=id)):
            return id == column and comparison(term.function) is not None and isinstance(term.array, Const | Param)
    return False


# ------------------------------------------------------------------------------------------------ bounds and lists


def _by_bounds(terms: list[Expr]) -> list[Expr]:
    """Bounds and lists of constants of one column: the tightest, and FALSE if nothing lies between them."""
    result: list[Expr] = []
    for term in terms:
        for place, other in enumerate(result):
            combined = _combined(other, term)
            if combined is not None:
                result[place], rest = combined
                if rest is None:
                    break
                term = rest
        else:
            result.append(term)
    return result


def _combined(first: Expr, second: Expr) -> tuple[Expr, Expr | None] | None:
    """What two terms say together, as one or two terms; None if they have nothing to do with each other."""
    if same(first, second) and not is_volatile(first):
        return first, None
    for one, other in ((first, second), (second, first)):
        values = _listed(one)
        if values is not None and _compares(other, values[0].id) and len(columns_of(other)) == 1:
            return _listed_meeting(one, other)
    low, high = _bound(first), _bound(second)
    if low is None or high is None or low[1].id != high[1].id:
        return None
    if low[0][0] == high[0][0]:
        if _is_true_of(low[2], second):
            return first, None
        return (second, None) if _is_true_of(high[2], first) else None
    meet = _is_true_of(low[2], second) and _is_true_of(high[2], first)
    return None if meet else (FALSE, None)


def _listed(term: Expr) -> tuple[ColumnRef, tuple[Expr, ...]] | None:
    match term:
        case InList(argument=ColumnRef() as column, negated=False) if comparison(term.equality) == "=":
            return (column, term.items) if all(_may_stand_for(item, column) for item in term.items) else None
    return None


def _listed_meeting(listed: Expr, other: Expr) -> tuple[Expr, Expr | None]:
    """The values of a list that another term may be true of."""
    assert isinstance(listed, InList) and isinstance(listed.argument, ColumnRef)
    column = listed.argument
    tests = [fold_expression(substitute(other, {column.id: item})) for item in listed.items]
    items = tuple(
        item
        for item, test in zip(listed.items, tests, strict=True)
        if not isinstance(test, Const) or test.value is True
    )
    if not items:
        return FALSE, None
    rest: Expr = listed if len(items) == len(listed.items) else replace(listed, items=items)
    if len(items) == 1:
        rest = Call(BOOL, listed.equality, (column, items[0]))
    return rest, None if all(isinstance(test, Const) for test in tests) else other


def _bound(term: Expr) -> tuple[str, ColumnRef, Const] | None:
    """(operator, column, constant) of a comparison but equality."""
    found = comparison_terms(term)
    if found is None or found[0] in ("=", "<>") or found[3].function.needs_context:
        return None
    name, left, right, _ = found
    if isinstance(left, ColumnRef) and isinstance(right, Const) and _may_stand_for(right, left):
        return name, left, right
    if isinstance(right, ColumnRef) and isinstance(left, Const) and _may_stand_for(left, right):
        return MIRRORED[name], right, left
    return None


def _is_true_of(value: Const, term: Expr) -> bool:
    """Whether a comparison of a column with a constant is true if the column has this value."""
    assert isinstance(term, Call)
    arguments = [part.value if isinstance(part, Const) else value.value for part in term.arguments]
    return term.function.implementation(*arguments) is True
