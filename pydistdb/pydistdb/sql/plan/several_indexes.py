"""Ways to read a table that go beyond one stretch of one index.

* Two indexes for conditions joined by AND: rows that are found in both (exec/inverted_scan.py merges their entries)::

      a = 1 AND b = 2, indexes (a), (b)       entries of a = 1 and of b = 2 are both sorted by the row's key

  Each index must have a value for all of its columns: only then its entries are in the order of their rows.

* A skip scan, where there are few values of an index's leading columns and a condition on those behind them::

      b = 7, index (a, b), ten values of a    (1, 7), (2, 7), … (10, 7): ten look-ups

* A loose index scan, where one row for each of these values will do (``first_of_each``)::

      SELECT DISTINCT a …                      the first entry of each a
      SELECT a, min(b) … GROUP BY a            likewise, of an index on (a, b)

The values to skip are found by the way, one seek each, so statistics must say that they are few.

Sources: Goetz Graefe, "Modern B-Tree Techniques" (2011), 4.8 and 4.10; Oracle's "index skip scan"; MySQL's "loose index scan".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pydistdb.sql.catalog.descriptors import Index, Table
from pydistdb.sql.plan.cost import ENTRY_COST, FAR_CALL_COST, ROW_COST, SECONDARY_ROW_COST, SKIP_COST, START_COST
from pydistdb.sql.plan.estimate import Estimator
from pydistdb.sql.plan.paths import Path, Search, bound, equal_share, equality, range_share, term_of
from pydistdb.sql.plan.physical import Access, Skip, TableScan, Term
from pydistdb.sql.tree import ColumnRef, Expr, Scan

LEAP_ENTRIES = 64.0
Bound = tuple[tuple[Expr, bool], ...]


def has_order_of_rows(access: Access, table: Table) -> bool:
    """Whether the entries that an access reads are one stretch, sorted by the rows' keys."""
    index = access.index
    return (
        index is not table.indexes[0]
        and not index.unique
        and not access.probes
        and (table.sharding is None or index.is_global)
        and len(access.equal) == len(index.columns)
        and all(term.is_null or (term.array is None and len(term.alternatives) == 1) for term in access.equal)
    )


def intersections(table: Table, found: Sequence[Path], estimator: Estimator) -> list[Path]:
    """The two indexes that leave the fewest rows, and one more as long as that pays."""
    candidates = sorted([path for path in found if has_order_of_rows(path.access, table)], key=lambda path: path.rows)
    total = estimator.table_rows(table)
    result: list[Path] = []
    for path in candidates:
        first = result[-1] if result else path
        if path is first:
            result.append(path)
            continue
        if set(map(id, first.access.terms)) & set(map(id, path.access.terms)):
            continue
        access = replace(
            first.access,
            terms=(*first.access.terms, *path.access.terms),
            enforced=(*first.access.enforced, *path.access.enforced),
            also=(*first.access.also, path.access),
        )
        rows = max(total * estimator.combined(access.terms, total), 1.0)
        # Where one index leaps to the entries that the other has, it reads a chunk for each at most.
        entries = candidates[0].rows + min(path.rows, candidates[0].rows * LEAP_ENTRIES)
        read = first.cost - first.rows * SECONDARY_ROW_COST if first.access.also else 0.0
        cost = read + START_COST + entries * ENTRY_COST + rows * SECONDARY_ROW_COST + estimator.extra("bitmapscan")
        if cost < first.cost:
            result.append(Path(access, rows, cost, (), first.constant | path.constant))
    return [path for path in result if path.access.also]


def skip_paths(search: Search) -> list[Path]:
    """Skip scans of all indexes that have something to find behind a column to skip."""
    result: list[Path] = []
    table, found = search.table, search.found
    for index in table.indexes:
        numbers = search.keys.of_index.get(index.storage_id, ())
        if len(numbers) > 1 and _is_plain_run(index, table) and any(number in found for number in numbers[1:]):
            path = _skip_path(search, index, numbers)
            if path is not None:
                result.append(path)
    return result


def _is_plain_run(index: Index, table: Table) -> bool:
    """Whether an index is one sorted run of entries, with one for every row."""
    hashed = table.sharding is not None and (index is table.indexes[0] or not index.is_global)
    return index.is_plain and not index.is_inverted and not hashed


def _skip_path(search: Search, index: Index, numbers: Sequence[int]) -> Path | None:
    table, keys, found, estimator = search.table, search.keys, search.found, search.estimator
    rows, searches = search.total, 1.0
    parts: list[list[Term]] = [[]]
    """The terms of the columns before the one to skip, and of those behind it."""
    used: list[Expr] = []
    constant: set[int] = set()
    limits: list[tuple[Bound, Bound]] = []
    skipped = 0
    for place, number in enumerate(numbers):
        match = equality(found.get(number, ()), searches)
        column = keys.expression(number)
        if match is not None:
            term, count = term_of(match)
            parts[-1].append(term)
            used.append(match.term)
            rows *= equal_share(match, column, count, search.total, estimator)
            searches *= count
            if count == 1 and number in keys.ids:
                constant.add(keys.ids[number])
            continue
        lower, lower_term = bound(found.get(number, ()), (">", ">="))
        upper, upper_term = bound(found.get(number, ()), ("<", "<="))
        ranges = [term for term in (lower_term, upper_term) if term is not None]
        share = range_share(ranges, [*lower, *upper], column, search.total, estimator)
        used.extend(ranges)
        limits.append((lower, upper))
        rows *= share
        values = estimator.distinct_values(table, number)
        if len(parts) == 2 or place == len(numbers) - 1 or values is None:
            break
        parts.append([])
        skipped = place + 1
        searches *= max(values * share, 1.0)
    if len(parts) < 2 or not (parts[1] or (len(limits) == 2 and any(limits[1]))):
        return None
    before, behind = limits[0], limits[1] if len(limits) == 2 else ((), ())
    skip = Skip(skipped, tuple(parts[1]), *behind)
    access = Access(index, tuple(parts[0]), *before, terms=tuple({id(term): term for term in used}.values()), skip=skip)
    each = SKIP_COST if table.sharding is None else SKIP_COST + FAR_CALL_COST
    rows = max(rows, 1.0)
    cost = START_COST + searches * each + rows * (ROW_COST if index is table.indexes[0] else SECONDARY_ROW_COST)
    order = tuple(
        (keys.ids.get(number, -1), column.descending, column.nulls_first)
        for number, column in zip(numbers, index.columns, strict=True)
    )
    return Path(access, rows, cost + estimator.extra("indexskipscan"), order, frozenset(constant))


def first_of_each(
    scan: Scan,
    terms: Sequence[Expr],
    found: Callable[[], Sequence[Path]],
    groups: Sequence[Expr],
    least: Expr | None,
    estimator: Estimator,
) -> TableScan | None:
    """A scan of one row for each combination of the groups: that where ``least`` is least, if it is given.

    ``found``: the ways to read the table under the terms."""
    table = scan.table
    if estimator.extra("indexskipscan") or not estimator.knows(table) or not groups:
        return None
    numbers = dict(zip((column.id for column in scan.columns), scan.numbers, strict=True))
    if not all(isinstance(each, ColumnRef) and each.id in numbers for each in (*groups, *([least] if least else []))):
        return None
    wanted = {numbers[group.id] for group in groups if isinstance(group, ColumnRef)}
    if not any({column.column for column in index.columns[: len(wanted)]} == wanted for index in table.indexes):
        return None
    total = estimator.table_rows(table)
    count = estimator.group_rows(tuple(groups), total)
    each = SKIP_COST if table.sharding is None else SKIP_COST + FAR_CALL_COST
    if count * each > total * ROW_COST / 2:
        return None
    for path in found():
        access = path.access
        index = access.index
        columns = [column.column for column in index.columns]
        bounded = len(access.equal) + bool(access.lower or access.upper)
        if not _is_plain_run(index, table) or set(columns[: len(wanted)]) != wanted or access.left_over(terms):
            continue
        if bounded > len(wanted) or access.is_point or access.also or access.skip:
            continue
        if least is not None and not _is_next(least, numbers, index, len(wanted)):
            continue
        skipping = replace(access, skip=Skip(len(wanted), first=True))
        return TableScan(
            scan.columns, table, scan.alias, scan.numbers, skipping, rows=count, cost=START_COST + count * each
        )
    return None


def _is_next(least: Expr, numbers: dict[int, int], index: Index, place: int) -> bool:
    """Whether the index's next column orders by ``least``, its NULLs behind everything."""
    if place >= len(index.columns) or not isinstance(least, ColumnRef):
        return False
    column = index.columns[place]
    return column.column == numbers[least.id] and not column.descending and not column.nulls_first
