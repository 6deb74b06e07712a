"""Which index to read a table by, and between which bounds.

For every index, terms of the condition are matched with its columns from the left: equalities (``=``, IN, ``= ANY``, IS NULL) as
far as they go, then one pair of bounds.  Terms so matched are enforced by the key range itself and leave the condition.
The path that costs least wins; where an order is asked for, a path that delivers it saves the sort::

    t(a, b, c), index (a, b):   a = 1 AND b > $1 AND c = 2   ->   bounds a = 1, b > $1; condition c = 2

A partial index is a way only where the condition implies its predicate (implication.py); terms that the predicate implies
in turn need no check.  An index on an expression serves terms that speak of the same expression.  Inverted indexes answer
other questions (inverted.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pydistdb.sql.catalog.descriptors import Index, Sharding, Table
from pydistdb.sql.node import node
from pydistdb.sql.plan.cost import ROW_COST, SECONDARY_ROW_COST, SORT_ROW_COST, START_COST
from pydistdb.sql.plan.estimate import Estimator
from pydistdb.sql.plan.expressions import (
    columns_of,
    conjoin,
    conjuncts,
)
from pydistdb.sql.plan.gates import gated, gates
from pydistdb.sql.plan.implication import implied
from pydistdb.sql.plan.inverted import inverted_access
from pydistdb.sql.plan.matching import is_unusable, matches
from pydistdb.sql.plan.paths import OrderKey, Path, Search, bound, equal_share, equality, range_share, term_of
from pydistdb.sql.plan.physical import Access, TableScan, Term
from pydistdb.sql.plan.several_indexes import intersections, skip_paths
from pydistdb.sql.plan.short_ranges import few_values
from pydistdb.sql.tree import BooleanTest, ColumnRef, Expr, Or, Scan
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.known import BOOL

MOST_ARMS = 20


def paths(scan: Scan, terms: Sequence[Expr], estimator: Estimator, *, alone: bool = False) -> list[Path]:
    """Every way to read the table that the terms allow, the sequential scan first.

    ``alone``: it is read once, so that ways are worth looking at that go beyond one stretch of an index."""
    table = scan.table
    keys = estimator.keys(scan)
    total = estimator.table_rows(table)
    search = Search(table, keys, matches(keys, terms), total, estimator)
    result: list[Path] = []
    for index in table.indexes:
        numbers = keys.of_index.get(index.storage_id)
        if numbers is None:
            continue
        enforced: tuple[Expr, ...] = ()
        rows = total
        predicate = keys.predicates.get(index.storage_id, ())
        if predicate:
            if not implied(predicate, terms):
                continue
            if not index.is_inverted:  # which may end in reading the whole table
                enforced = tuple(term for term in terms if implied([term], predicate))
            rows = max(total * estimator.combined(predicate, total), 1.0)
        if index.is_inverted:
            path = _inverted_path(search, index, numbers, terms, rows)
        else:
            path = _path(search, index, numbers, rows)
        if path is not None:
            result.append(replace(path, access=replace(path.access, enforced=enforced)) if enforced else path)
    if alone and len(terms) > 1 and len(result) > 2:
        result += intersections(table, result, estimator)
    if alone and terms and estimator.knows(table):
        result += skip_paths(search)
    return result


def _inverted_path(
    search: Search, index: Index, numbers: Sequence[int], terms: Sequence[Expr], total: float
) -> Path | None:
    keys, estimator = search.keys, search.estimator

    def may_be_asked(value: Expr) -> bool:
        return not (columns_of(value) & keys.numbers.keys() or is_unusable(value))

    access = inverted_access(index, numbers, keys.find, may_be_asked, terms)
    if access is None:
        return None
    rows = max(total * estimator.combined(access.terms, total), 1.0)
    cost = START_COST * len(access.probes) + rows * SECONDARY_ROW_COST + estimator.extra("bitmapscan")
    return Path(access, rows, cost, (), frozenset())


def _path(search: Search, index: Index, numbers: Sequence[int], total: float) -> Path | None:
    """``total``: how many rows the index has."""
    table, keys, found, estimator = search.table, search.keys, search.found, search.estimator
    ids = keys.ids
    is_primary = index is table.indexes[0]
    hashed = table.sharding is not None and (is_primary or not index.is_global)
    equal: list[Term] = []
    used: list[Expr] = []
    constant: set[int] = set()
    points = 1.0
    rows = total
    for number in numbers:
        match = equality(found.get(number, ()), points)
        if match is None:
            break
        term, count = term_of(match)
        equal.append(term)
        used.append(match.term)
        points *= count
        if count == 1 and number in ids:
            constant.add(ids[number])
        rows *= equal_share(match, keys.expression(number), count, total, estimator)
    route: _Route | None = None
    if hashed:
        assert table.sharding is not None
        if not set(numbers[: len(equal)]) >= set(table.sharding.columns):
            route = _route(search, table.sharding, total)
            if is_primary and not set(numbers) >= set(table.sharding.columns):
                # A row's key may stand in several shards: read those that come into question, check everything.
                return _routed_scan(index, route, total, estimator)
            if route is None and table.sharding.strategy == "hash":
                return _routed_scan(index, route, total, estimator) if is_primary else None
    lower: tuple[tuple[Expr, bool], ...] = ()
    upper: tuple[tuple[Expr, bool], ...] = ()
    if len(equal) < len(numbers):
        bounds = found.get(numbers[len(equal)], ())
        lower, lower_term = bound(bounds, (">", ">="))
        upper, upper_term = bound(bounds, ("<", "<="))
        ranges = [term for term in (lower_term, upper_term) if term is not None]
        used.extend(ranges)
        rows *= range_share(ranges, [*lower, *upper], keys.expression(numbers[len(equal)]), total, estimator)
    access = Access(index, tuple(equal), lower, upper, terms=tuple({id(term): term for term in used}.values()))
    if table.statistics_objects and len(access.terms) > 1:
        rows = total * estimator.combined(access.terms, total)
    spans, is_one = points, points == 1
    if hashed and table.sharding is not None and not set(numbers[: len(equal)]) >= set(table.sharding.columns):
        spans *= max(len(table.sharding.shards), 1) if route is None else route.shards
        is_one = is_one and route is not None and route.is_one
        if route is not None:
            access = replace(access, shards=route.terms, shard_lower=route.lower, shard_upper=route.upper)
            rows = min(rows, total * route.share) if not (equal or lower or upper) else rows
    if access.is_point:
        rows = min(rows, points) if points > 1 else 1.0
    rows = max(rows, 1.0)
    cost = START_COST * spans + rows * (ROW_COST if is_primary else SECONDARY_ROW_COST)
    is_bounded = bool(equal or lower or upper)
    cost += estimator.extra("indexscan" if is_bounded or not is_primary else "seqscan")
    order = tuple(
        (ids[number], column.descending, column.nulls_first) if number in ids else (-1, False, False)
        for number, column in zip(numbers, index.columns, strict=True)
    )
    may_order = not hashed or is_one or shards_ascend(table, index)
    return Path(access, rows, cost, order if may_order else (), frozenset(constant))


@node
class _Route:
    """What the condition says of the shard columns: which shards to look into."""

    terms: tuple[Term, ...]
    lower: tuple[tuple[Expr, bool], ...]
    upper: tuple[tuple[Expr, bool], ...]
    shards: float
    """How many they are, at most."""
    share: float
    """Of the rows."""

    @property
    def is_one(self) -> bool:
        """Certainly a single shard."""
        return bool(self.terms) and all(term.is_null or len(term.alternatives) == 1 for term in self.terms)


def _route(search: Search, sharding: Sharding, total: float) -> _Route | None:
    found, ids, estimator = search.found, search.keys.ids, search.estimator
    every = float(len(sharding.shards) or 65_536)
    terms: list[Term] = []
    count = share = 1.0
    for number in sharding.columns:
        column = ColumnRef(types.INT8, ids.get(number, -1))
        match = equality(found.get(number, ()), count)
        if match is not None:
            term, values = term_of(match)
            part = equal_share(match, column, values, total, estimator)
        elif sharding.strategy in ("hash", "directory"):
            few = few_values(search, number)
            if few is None:
                break
            term, values, ranges = few
            part = range_share(ranges, term.between, column, total, estimator)
        else:
            break
        terms.append(term)
        count *= values
        share *= part
    else:
        count = min(count, every)
        return _Route(tuple(terms), (), (), count, max(share, count / every) if sharding.shards else share)
    if sharding.strategy not in ("range", "list"):
        return None
    bounds = found.get(sharding.columns[0], ())
    lower, lower_term = bound(bounds, (">", ">="))
    upper, upper_term = bound(bounds, ("<", "<="))
    ranges = [term for term in (lower_term, upper_term) if term is not None]
    if not ranges:
        return None
    column = ColumnRef(types.INT8, ids.get(sharding.columns[0], -1))
    part = range_share(ranges, [*lower, *upper], column, total, estimator)
    return _Route((), lower, upper, max(part * every, 1.0), min(part + 1 / every, 1.0))


def _routed_scan(index: Index, route: _Route | None, total: float, estimator: Estimator) -> Path:
    """A scan of the shards that come into question."""
    if route is None:
        cost = START_COST + total * ROW_COST + estimator.extra("seqscan")
        return Path(Access(index), total, cost, (), frozenset())
    rows = max(total * route.share, 1.0)
    cost = START_COST * route.shards + rows * ROW_COST + estimator.extra("seqscan")
    access = Access(index, shards=route.terms, shard_lower=route.lower, shard_upper=route.upper)
    return Path(access, rows, cost, (), frozenset())


def shards_ascend(table: Table, index: Index) -> bool:
    """Whether one shard after the other gives an index's order: its first column is that of a range."""
    sharding, first = table.sharding, index.columns[0]
    ascending = not first.descending and not first.nulls_first
    return sharding is not None and sharding.strategy == "range" and first.column == sharding.columns[0] and ascending


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
    table = scan.table
    gate = gates(scan, terms)
    if gate:
        terms = [term for term in terms if term not in gate]
    for path in paths(scan, terms, estimator, alone=True):
        direction = satisfies(path.order, path.constant, order) if order else 0
        cost = path.cost
        rows = _rows_left(table, path, terms, estimator)
        if order:
            cost = _cost_in_order(cost, rows, direction != 0, most_rows, estimator)
        if best is None or cost < best[0]:
            best = (cost, path, direction)
    assert best is not None, "the primary index always gives a path"
    chosen = build_scan(scan, best[1], terms, estimator, reverse=best[2] == -1)
    return gated(chosen, gate) if gate or chosen.condition is not None else chosen


def _cost_in_order(cost: float, rows: float, delivers: bool, most_rows: float | None, estimator: Estimator) -> float:
    """What the first ``most_rows`` rows (None: all) cost in the order asked for: as the scan ``delivers`` them, or sorted."""
    if not delivers:
        return cost + rows * math.log2(rows + 1) * SORT_ROW_COST + estimator.extra("sort")
    # Reading stops as soon as enough rows have passed.
    return cost if most_rows is None else START_COST + (cost - START_COST) * min(most_rows / rows, 1.0)


def _rows_left(table: Table, path: Path, terms: Sequence[Expr], estimator: Estimator) -> float:
    """How many of the path's rows meet all terms; statistics objects are asked about all terms together."""
    if table.statistics_objects and not path.access.is_point:
        total = estimator.table_rows(table)
        return max(min(total * estimator.combined(terms, total), path.rows), 1.0)
    return max(path.rows * estimator.combined(path.access.others(terms), path.rows), 1.0)


def by_arms(
    scan: Scan,
    terms: Sequence[Expr],
    estimator: Estimator,
    whole: TableScan,
    *,
    is_sorted: bool = False,
    delivers: bool = False,
    most_rows: float | None = None,
) -> tuple[TableScan, ...] | None:
    """An OR whose arms have an index each, as scans of their own; None if the ``whole`` in one scan is cheaper.

    ``a = 1 OR b = 2`` becomes the rows of ``a = 1`` and those of ``b = 2 AND (a = 1) IS NOT TRUE``: none comes twice.

    ``is_sorted``: an order is asked for, which the one scan may deliver, and the arms one after the other do not."""
    if whole.access.is_point or scan.current_of:
        return None
    limit = _cost_in_order(whole.cost, whole.rows, delivers or not is_sorted, most_rows, estimator)
    for term in terms:
        if not isinstance(term, Or) or len(term.arguments) > MOST_ARMS:
            continue
        rest = [other for other in terms if other is not term]
        arms: list[TableScan] = []
        for position, arm in enumerate(term.arguments):
            earlier = [BooleanTest(BOOL, other, True, True) for other in term.arguments[:position]]
            arms.append(choose(scan, [*conjuncts(arm), *rest, *earlier], estimator))
            cost, rows = sum(each.cost for each in arms), sum(each.rows for each in arms)
            if _cost_in_order(cost, rows, not is_sorted, most_rows, estimator) >= limit:
                break
        else:
            return tuple(arms)
    return None


def build_scan(scan: Scan, path: Path, terms: Sequence[Expr], estimator: Estimator, reverse: bool = False) -> TableScan:
    """The scan along a path, with what is left of the terms as its condition."""
    rest = path.access.left_over(terms)
    rows = _rows_left(scan.table, path, terms, estimator)
    access = replace(path.access, reverse=reverse) if reverse else path.access
    return TableScan(
        scan.columns,
        scan.table,
        scan.alias,
        scan.numbers,
        access,
        conjoin(rest) if rest else None,
        rows=1.0 if scan.current_of else rows,
        cost=START_COST if scan.current_of else path.cost,
        current_of=scan.current_of,
        index_only=not access.also and not estimator.extra("indexonlyscan") and _covers(access.index, scan),
    )


def _covers(index: Index, scan: Scan) -> bool:
    """Whether the index's entries hold all columns that are asked for."""
    if not index.include:
        return False
    held = {*index.include, *(column.column for column in index.columns if not column.expression)}
    return held.issuperset(scan.numbers)
