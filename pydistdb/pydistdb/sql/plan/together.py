"""What statistics objects say of several conditions, or several groups, at once (catalog/statistics_objects.py).

Conditions are first weighed by the common combinations, then equalities by dependencies; what is left goes the usual way,
as if columns had nothing to do with one another::

    city = 'A' AND zip = 10, each zip in one city, zip 10 in 1 % of the rows
    alone        P(city) * P(zip)                                          0.1 * 0.01
    zip => city  P(zip) * (f + (1 - f) * P(city)), f = 1 the degree        0.01
    mcv          the frequency of ('A', 10) if it is common, plus a share of what is not

``GROUP BY city, zip`` has as many groups as ANALYZE counted combinations.

Source: PostgreSQL 15 manual, 14.2.2 and 76.2; extended_stats.c, dependencies.c (the formulas' names are ours).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from pydistdb.sql.catalog.descriptors import CommonCombination, JointStatistics, StatisticsObject, Table
from pydistdb.sql.plan.comparisons import operator_name
from pydistdb.sql.plan.expressions import walk
from pydistdb.sql.tree import And, AnyAll, BooleanTest, Call, ColumnRef, Const, Expr, InList, IsNull, Not, Or, Param
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.arrays import PgArray

MOST_COMBINATIONS = 1_000
"""How many common combinations a condition is tried on."""

Origin = Callable[[Expr], tuple[Table, int] | None]
Share = Callable[[Sequence[Expr]], float]


class Subject(NamedTuple):
    """A term and what it is about: columns of one table."""

    term: Expr
    source: Table
    numbers: frozenset[int]


def subjects(terms: Iterable[Expr], origin: Origin) -> Iterator[Subject]:
    """The terms that are about columns of a table with statistics objects."""
    for term in terms:
        found = [origin(node) for node in walk(term) if isinstance(node, ColumnRef)]
        tables = {place[0].oid for place in found if place is not None}
        if found and None not in found and len(tables) == 1 and found[0] is not None and found[0][0].statistics_objects:
            yield Subject(term, found[0][0], frozenset(place[1] for place in found if place is not None))


def pairs_of(table: Table, joint: dict[int, JointStatistics]) -> list[tuple[StatisticsObject, JointStatistics]]:
    """The table's statistics objects with what was found for them."""
    return [(each, joint[each.oid]) for each in table.statistics_objects if each.oid in joint]


# ---------------------------------------------------------------------------------------------------- common combinations


def common_share(
    found: Sequence[Subject],
    known: Sequence[tuple[StatisticsObject, JointStatistics]],
    table: Table,
    origin: Origin,
    alone: Share,
) -> tuple[float, list[Subject]] | None:
    """The share of rows for the terms that common combinations can weigh, and those terms; None if there are none."""
    best: tuple[int, StatisticsObject, JointStatistics, list[Subject]] | None = None
    for statistics, joint in known:
        covered = [each for each in found if each.numbers <= set(statistics.columns) and _is_decidable(each.term)]
        width = len({number for each in covered for number in each.numbers})
        if joint.common and width > 1 and (best is None or width > best[0]):
            best = (width, statistics, joint, covered)
    if best is None:
        return None
    _, statistics, joint, covered = best
    terms = [each.term for each in covered]
    matching = matching_combinations(joint.common[:MOST_COMBINATIONS], statistics, table, terms, origin)
    share = sum(each.frequency for each in matching)
    base = sum(each.base_frequency for each in matching)
    total = sum(each.frequency for each in joint.common)
    rest = min(max(alone(terms) - base, 0.0), max(1 - total, 0.0))
    return min(share + rest, 1.0), covered


def _is_decidable(term: Expr) -> bool:
    """Whether ``_holds`` can tell of a term."""
    for node in walk(term):
        match node:
            case ColumnRef() | Const() | And() | Or() | Not() | IsNull() | BooleanTest() | InList():
                pass
            case Call():
                if operator_name(node.function) is None or node.function.needs_context:
                    return False
            case AnyAll():
                if not isinstance(node.array, Const) or node.function.needs_context:
                    return False
            case _:
                return False
    return True


def matching_combinations(
    common: Sequence[CommonCombination],
    statistics: StatisticsObject,
    table: Table,
    terms: Sequence[Expr],
    origin: Origin,
) -> list[CommonCombination]:
    """Those for which all terms are true."""
    type_oids = {column.number: column.type_oid for column in table.columns}
    convert = [types.io(type_oids[number]).from_storage or _same for number in statistics.columns]
    found = []
    for each in common:
        values = {
            number: None if value is None else from_storage(value)
            for number, value, from_storage in zip(statistics.columns, each.values, convert, strict=False)
        }
        if all(_holds(term, values, origin) is True for term in terms):
            found.append(each)
    return found


def _same(value: Any) -> Any:
    return value


def _holds(expression: Expr, values: dict[int, Any], origin: Origin) -> Any:
    """The value of a decidable expression, by three-valued logic."""
    match expression:
        case Const():
            return expression.value
        case ColumnRef():
            place = origin(expression)
            return None if place is None else values[place[1]]
        case And():
            return _all(_holds(part, values, origin) for part in expression.arguments)
        case Or():
            return _not(_all(_not(_holds(part, values, origin)) for part in expression.arguments))
        case Not():
            return _not(_holds(expression.argument, values, origin))
        case IsNull():
            return (_holds(expression.argument, values, origin) is None) != expression.negated
        case BooleanTest():
            return (_holds(expression.argument, values, origin) is expression.value) != expression.negated
        case Call():
            return _called(expression.function, [_holds(part, values, origin) for part in expression.arguments])
        case InList():
            value = _holds(expression.argument, values, origin)
            items = [_holds(item, values, origin) for item in expression.items]
            found = _not(_all(_not(_called(expression.equality, [value, item])) for item in items))
            return _not(found) if expression.negated else found
        case AnyAll(array=Const(value=PgArray() as array)):
            value = _holds(expression.left, values, origin)
            outcomes = [_called(expression.function, [value, item]) for item in array.items]
            return _all(outcomes) if expression.all else _not(_all(map(_not, outcomes)))
    return None


def _called(function: Any, arguments: list[Any]) -> Any:
    return None if None in arguments else function.implementation(*arguments)


def _not(value: Any) -> Any:
    return None if value is None else not value


def _all(values: Iterable[Any]) -> bool | None:
    outcome: bool | None = True
    for value in values:
        if value is False:
            return False
        if value is None:
            outcome = None
    return outcome


# ---------------------------------------------------------------------------------------------------- dependencies


def dependent_share(
    found: Sequence[Subject], known: Sequence[tuple[StatisticsObject, JointStatistics]], alone: Share
) -> tuple[float, list[Subject]] | None:
    """The share of rows for equalities that imply one another to a degree, and those terms."""
    equalities = [each for each in found if len(each.numbers) == 1 and _is_equality(each.term)]
    left = {number for each in equalities for number in each.numbers}
    dependencies = [each for _, joint in known for each in joint.dependencies if min(each[0]) > 0]
    chosen: list[tuple[tuple[int, ...], float]] = []
    while True:
        fitting = [each for each in dependencies if left.issuperset(each[0])]
        if not fitting:
            break
        strongest = max(fitting, key=lambda each: (len(each[0]), each[1]))
        chosen.append(strongest)
        left.discard(strongest[0][-1])
    if not chosen:
        return None
    involved = {number for numbers, _ in chosen for number in numbers}
    used = [each for each in equalities if each.numbers <= involved]
    shares = {number: alone([each.term for each in used if number in each.numbers]) for number in involved}
    for numbers, degree in reversed(chosen):
        *given, implied = numbers
        product = 1.0
        for number in given:
            product *= shares[number]
        own = shares[implied]
        certain = degree if product <= own else degree * own / product
        shares[implied] = certain + (1 - degree) * own
    share = 1.0
    for each_share in shares.values():
        share *= each_share
    return share, used


def _is_equality(term: Expr) -> bool:
    match term:
        case Call():
            fixed = [part for part in term.arguments if isinstance(part, Const | Param)]
            return operator_name(term.function) == "=" and len(fixed) == 1
        case InList():
            return not term.negated and all(isinstance(item, Const | Param) for item in term.items)
        case AnyAll():
            return not term.all and operator_name(term.function) == "="
        case ColumnRef():
            return True
    return False


# ---------------------------------------------------------------------------------------------------- groups


def distinct_combinations(
    numbers: Iterable[int], known: Sequence[tuple[StatisticsObject, JointStatistics]]
) -> list[tuple[frozenset[int], float]]:
    """Disjoint sets of the columns, each with the number of combinations that ANALYZE counted; the largest sets first."""
    left = set(numbers)
    counted = sorted((each for _, joint in known for each in joint.distinct), key=lambda each: -len(each[0]))
    chosen = []
    for attributes, count in counted:
        if left.issuperset(attributes):
            chosen.append((frozenset(attributes), count))
            left.difference_update(attributes)
    return chosen
