"""Which index to read a table by, and between which bounds.

For every index, terms of the condition are matched with its columns from the left: equalities (``=``, IN, ``= ANY``, IS NULL) as
far as they go, then one pair of bounds.  Terms so matched are enforced by the key range itself and leave the condition.
The path that costs least wins; where an order is asked for, a path that delivers it saves the sort::

    t(a, b, c), index (a, b):   a = 1 AND b > $1 AND c = 2   ->   bounds a = 1, b > $1; condition c = 2
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydistdb.sql.catalog.descriptors import Index, Table
from pydistdb.sql.plan.comparisons import MIRRORED, comparison, family
from pydistdb.sql.plan.cost import (
    ROW_COST,
    SECONDARY_ROW_COST,
    SORT_ROW_COST,
    START_COST,
    TWO_SIDED_SELECTIVITY,
    Estimator,
    array_length,
)
from pydistdb.sql.plan.expressions import columns_of, conjoin, has_subquery, is_volatile
from pydistdb.sql.plan.physical import Access, TableScan, Term
from pydistdb.sql.tree import AnyAll, Call, ColumnRef, Expr, InList, IsNull, Scan
from pydistdb.sql.types import registry as types

MOST_POINTS = 20_000
"""An IN list that spans more keys than this is checked row by row."""

OrderKey = tuple[int, bool, bool]
"""(column id, descending, nulls first)"""


@dataclass(frozen=True, slots=True)
class Match:
    """What one term of the condition says about one column."""

    term: Expr
    kind: str
    """=, in, any, null, <, <=, >, >="""
    values: tuple[Expr, ...] = ()


@dataclass(frozen=True, slots=True)
class Path:
    access: Access
    rows: float
    cost: float
    order: tuple[OrderKey, ...]
    constant: frozenset[int]
    """Columns that have one value in all of the path's rows."""


def matches(scan: Scan, terms: Sequence[Expr]) -> dict[int, list[Match]]:
    """The terms that speak of a single column of the scan, by column number."""
    numbers = {column.id: number for column, number in zip(scan.columns, scan.numbers, strict=True)}
    column_types = {column.id: column.type.oid for column in scan.columns}
    found: dict[int, list[Match]] = {}

    def note(column: Expr, match: Match) -> None:
        if not isinstance(column, ColumnRef) or numbers.get(column.id, 0) <= 0:
            return
        if any(family(value.type.oid) != family(column_types[column.id]) for value in match.values):
            return
        if not any(columns_of(value) & numbers.keys() or _unusable(value) for value in match.values):
            found.setdefault(numbers[column.id], []).append(match)

    for term in terms:
        match term:
            case Call(arguments=(left, right)):
                name = comparison(term.function)
                if name is not None and name != "<>":
                    note(left, Match(term, name, (right,)))
                    note(right, Match(term, MIRRORED[name], (left,)))
            case InList(negated=False) if comparison(term.equality) == "=":
                note(term.argument, Match(term, "in", term.items))
            case AnyAll(all=False) if comparison(term.function) == "=":
                element = types.type_by_oid(term.array.type.element_oid) if term.array.type.element_oid else None
                column = term.left
                if element is not None and isinstance(column, ColumnRef) and column.id in numbers:
                    usable = not columns_of(term.array) & numbers.keys() and not _unusable(term.array)
                    if usable and family(element.oid) == family(column_types[column.id]) and numbers[column.id] > 0:
                        found.setdefault(numbers[column.id], []).append(Match(term, "any", (term.array,)))
            case IsNull(argument=ColumnRef() as column, negated=False):
                note(column, Match(term, "null"))
    return found


def _unusable(value: Expr) -> bool:
    return is_volatile(value) or has_subquery(value)


def paths(scan: Scan, terms: Sequence[Expr], estimator: Estimator) -> list[Path]:
    """Every way to read the table that the terms allow, the sequential scan first."""
    table = scan.table
    ids = {number: column.id for column, number in zip(scan.columns, scan.numbers, strict=True)}
    found = matches(scan, terms)
    total = estimator.table_rows(table)
    result: list[Path] = []
    for index in table.indexes:
        path = _path(table, index, ids, found, total, estimator)
        if path is not None:
            result.append(path)
    return result


def _path(
    table: Table, index: Index, ids: dict[int, int], found: dict[int, list[Match]], total: float, estimator: Estimator
) -> Path | None:
    is_primary = index is table.indexes[0]
    hashed = table.sharding is not None and (is_primary or not index.is_global)
    equal: list[Term] = []
    used: list[Expr] = []
    constant: set[int] = set()
    points = 1.0
    rows = total
    numbers = [column.column for column in index.columns]
    for number in numbers:
        match = _equality(found.get(number, ()), points)
        if match is None:
            break
        term, count = _term(match)
        equal.append(term)
        used.append(match.term)
        points *= count
        if count == 1 and number in ids:
            constant.add(ids[number])
        column = ColumnRef(types.INT8, ids.get(number, -1))
        rows = rows * min(count / estimator.distinct(column, total), 1.0)
    if hashed:
        assert table.sharding is not None
        bound = set(numbers[: len(equal)])
        if not bound >= set(table.sharding.columns):
            if not is_primary:
                return None
            # Without the shard columns there is no place to start at: read everything, check everything.
            return Path(Access(index), total, START_COST + total * ROW_COST, (), frozenset())
    lower: tuple[tuple[Expr, bool], ...] = ()
    upper: tuple[tuple[Expr, bool], ...] = ()
    if len(equal) < len(numbers):
        bounds = found.get(numbers[len(equal)], ())
        lower, lower_term = _bound(bounds, (">", ">="))
        upper, upper_term = _bound(bounds, ("<", "<="))
        used.extend(term for term in (lower_term, upper_term) if term is not None)
        if lower and upper:
            rows *= TWO_SIDED_SELECTIVITY
        elif lower or upper:
            rows /= 3
    access = Access(index, tuple(equal), lower, upper, terms=tuple(dict.fromkeys(used)))
    if access.is_point:
        rows = min(rows, points) if points > 1 else 1.0
    rows = max(rows, 1.0)
    cost = START_COST * points + rows * (ROW_COST if is_primary else SECONDARY_ROW_COST)
    order = tuple(
        (ids[column.column], column.descending, column.nulls_first) if column.column in ids else (-1, False, False)
        for column in index.columns
    )
    may_order = table.sharding is None or not hashed or points == 1
    return Path(access, rows, cost, order if may_order else (), frozenset(constant))


def _equality(candidates: Sequence[Match], points: float) -> Match | None:
    for kinds in (("=",), ("null",), ("in", "any")):
        for match in candidates:
            if match.kind in kinds:
                if match.kind == "in" and points * len(match.values) > MOST_POINTS:
                    continue
                return match
    return None


def _term(match: Match) -> tuple[Term, float]:
    match match.kind:
        case "null":
            return Term(is_null=True), 1.0
        case "any":
            return Term(array=match.values[0]), max(array_length(match.values[0]), 1.0)
    return Term(match.values), float(len(match.values))


def _bound(candidates: Sequence[Match], kinds: tuple[str, str]) -> tuple[tuple[tuple[Expr, bool], ...], Expr | None]:
    for match in candidates:
        if match.kind in kinds:
            return ((match.values[0], match.kind.endswith("=")),), match.term
    return (), None


def satisfies(path_order: Sequence[OrderKey], constant: frozenset[int] | set[int], wanted: Sequence[OrderKey]) -> int:
    """How the path's order serves the wanted one: 1 as it stands, -1 read backwards, 0 not at all."""
    for direction in (1, -1):
        position = 0
        for key in wanted:
            if key[0] in constant:
                continue
            while position < len(path_order) and path_order[position][0] in constant:
                position += 1
            if position == len(path_order):
                break
            offered = path_order[position]
            if direction == -1:
                offered = (offered[0], not offered[1], not offered[2])
            if offered != key:
                break
            position += 1
        else:
            return direction
    return 0


def choose(
    scan: Scan,
    terms: Sequence[Expr],
    estimator: Estimator,
    order: Sequence[OrderKey] = (),
    most_rows: float | None = None,
) -> TableScan:
    """The cheapest scan of a table under ``terms``, delivering ``order`` if that is worth it."""
    best: tuple[float, Path, int] | None = None
    for path in paths(scan, terms, estimator):
        direction = satisfies(path.order, path.constant, order) if order else 0
        cost = path.cost
        rest = [term for term in terms if term not in path.access.terms]
        rows = max(path.rows * estimator.combined(rest, path.rows), 1.0)
        if order and direction == 0:
            cost += rows * math.log2(rows + 1) * SORT_ROW_COST
        elif order and most_rows is not None:
            # Reading stops as soon as enough rows have passed.
            cost = START_COST + (cost - START_COST) * min(most_rows / rows, 1.0)
        if best is None or cost < best[0]:
            best = (cost, path, direction)
    assert best is not None, "the primary index always gives a path"
    return build_scan(scan, best[1], terms, estimator, reverse=best[2] == -1)


def build_scan(scan: Scan, path: Path, terms: Sequence[Expr], estimator: Estimator, reverse: bool = False) -> TableScan:
    """The scan along a path, with what is left of the terms as its condition."""
    rest = [term for term in terms if term not in path.access.terms]
    rows = max(path.rows * estimator.combined(rest, path.rows), 1.0)
    access = replace(path.access, reverse=reverse) if reverse else path.access
    return TableScan(
        scan.columns,
        scan.table,
        scan.alias,
        scan.numbers,
        access,
        conjoin(rest) if rest else None,
        rows=1.0 if scan.current_of else rows,
        current_of=scan.current_of,
    )
