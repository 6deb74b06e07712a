"""Join order and join method.

A cluster of inner joins is flattened into relations and terms.  Starting from the relation with the fewest rows, the next
one is always the connected relation whose join costs least (a relation without a connecting term waits until nothing else is
left).  For each step the methods compete:

* look-up join: the right side is a table with a unique index whose columns the left side supplies, and the left is small;
* nested loop over an index: the same with any index, one scan per left row;
* hash join: any equality between the sides, the smaller one built into the table;
* nested loop: what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.plan import access
from pydistdb.sql.plan.comparisons import comparison_terms
from pydistdb.sql.plan.cost import HASH_ROW_COST, LOOKUP_COST, RESTART_COST, ROW_COST, Estimator
from pydistdb.sql.plan.expressions import columns_of, conjoin, has_subquery, is_volatile, output_ids
from pydistdb.sql.plan.physical import HashJoin, LookupJoin, NestedLoop, TableScan
from pydistdb.sql.tree import ColumnRef, Distinct, Expr, OutputColumn, Project, Rel, Scan


@dataclass(frozen=True, slots=True)
class Side:
    """One relation of a cluster: its physical form, and the scan behind it if it is a plain table."""

    relation: Rel
    rows: float
    scan: Scan | None = None
    terms: tuple[Expr, ...] = ()
    """The scan's own condition."""


@dataclass(frozen=True, slots=True)
class Candidate:
    cost: float
    relation: Rel


Wanted = Callable[[Sequence[OutputColumn]], tuple[OutputColumn, ...]]
"""Picks, from the columns two sides have together, those that something further up still reads."""


def split_keys(
    terms: Sequence[Expr], left_ids: set[int], right_ids: set[int]
) -> tuple[list[tuple[Expr, Expr, Expr]], list[Expr]]:
    """Equalities between the sides as (left, right, term), and the other terms."""
    keys: list[tuple[Expr, Expr, Expr]] = []
    rest: list[Expr] = []
    for term in terms:
        found = comparison_terms(term)
        pair = None
        if found is not None and found[0] == "=" and not has_subquery(term) and not is_volatile(term):
            _, first, second, _ = found
            first_ids, second_ids = columns_of(first), columns_of(second)
            if (
                first_ids & left_ids
                and not first_ids & right_ids
                and second_ids & right_ids
                and not second_ids & left_ids
            ):
                pair = (first, second, term)
            elif (
                first_ids & right_ids
                and not first_ids & left_ids
                and second_ids & left_ids
                and not second_ids & right_ids
            ):
                pair = (second, first, term)
        if pair is None:
            rest.append(term)
        else:
            keys.append(pair)
    return keys, rest


def join(
    kind: str,
    left: Side,
    right: Side,
    terms: Sequence[Expr],
    columns: tuple[OutputColumn, ...],
    estimator: Estimator,
    null_aware: bool = False,
) -> Candidate:
    """The cheapest way to join two relations; for inner joins either side may come to stand left."""
    rows = estimator.join_rows(kind, left.rows, right.rows, conjoin(terms))
    candidates = [_hash(kind, left, right, terms, columns, rows, null_aware)]
    if not null_aware and kind in ("inner", "left", "semi", "anti"):
        candidates.append(_lookup(kind, left, right, terms, columns, rows, estimator))
        candidates.append(_index_loop(kind, left, right, terms, columns, rows, estimator))
    if kind == "inner":
        candidates.append(_hash(kind, right, left, terms, columns, rows, False))
        candidates.append(_lookup(kind, right, left, terms, columns, rows, estimator))
        candidates.append(_index_loop(kind, right, left, terms, columns, rows, estimator))
    if kind == "semi":
        candidates.extend(_distinct_first(left, right, terms, columns, rows, estimator))
    possible = [candidate for candidate in candidates if candidate is not None]
    if possible:
        return min(possible, key=lambda candidate: candidate.cost)
    condition = conjoin(terms) if terms else None
    if kind == "full" and terms:
        raise FeatureNotSupported("FULL JOIN is only supported with merge-joinable or hash-joinable join conditions")
    first, second = (right, left) if kind == "inner" and right.rows > left.rows else (left, right)
    loop = NestedLoop(columns, kind, first.relation, second.relation, condition, null_aware=null_aware, rows=rows)
    return Candidate(left.rows * right.rows * ROW_COST, loop)


def _hash(
    kind: str,
    left: Side,
    right: Side,
    terms: Sequence[Expr],
    columns: tuple[OutputColumn, ...],
    rows: float,
    null_aware: bool,
) -> Candidate | None:
    keys, rest = split_keys(terms, output_ids(left.relation), output_ids(right.relation))
    if not keys or (null_aware and (rest or len(keys) > 1)):
        return None
    relation = HashJoin(
        columns,
        kind,
        left.relation,
        right.relation,
        tuple(key[0] for key in keys),
        tuple(key[1] for key in keys),
        conjoin(rest) if rest else None,
        null_aware,
        tuple(key[2] for key in keys),
        rows,
    )
    # Building a row into the table costs about twice what probing with one does.
    return Candidate(_read_cost(left) + _read_cost(right) + (2 * right.rows + left.rows) * HASH_ROW_COST, relation)


def _read_cost(side: Side) -> float:
    return side.rows * ROW_COST if side.scan is None else _scan_rows(side) * ROW_COST


def _scan_rows(side: Side) -> float:
    relation = side.relation
    return relation.rows if isinstance(relation, TableScan) else side.rows


def _inner_scan(
    right: Side, terms: Sequence[Expr], left_ids: set[int], estimator: Estimator
) -> tuple[TableScan, list[Expr]] | None:
    """The right table read by an index whose columns the left side supplies; and the terms left over for the pairs."""
    if right.scan is None:
        return None
    usable = [term for term in terms if not has_subquery(term)]
    own = [*right.terms, *usable]
    best: access.Path | None = None
    for path in access.paths(right.scan, own, estimator):
        uses_left = any(columns_of(term) & left_ids for term in path.access.terms)
        if (path.access.equal or path.access.probes) and uses_left and (best is None or path.cost < best.cost):
            best = path
    if best is None:
        return None
    scan = access.build_scan(right.scan, best, right.terms, estimator)
    return scan, [term for term in terms if best.access.probes or term not in best.access.terms]


def _lookup(
    kind: str,
    left: Side,
    right: Side,
    terms: Sequence[Expr],
    columns: tuple[OutputColumn, ...],
    rows: float,
    estimator: Estimator,
) -> Candidate | None:
    found = _inner_scan(right, terms, output_ids(left.relation), estimator)
    if found is None:
        return None
    scan, rest = found
    if not scan.access.is_point or any(len(term.alternatives) != 1 for term in scan.access.equal):
        return None
    keys = tuple(term.alternatives[0] for term in scan.access.equal)
    relation = LookupJoin(columns, kind, left.relation, scan, keys, conjoin(rest) if rest else None, rows)
    per_row = LOOKUP_COST if scan.access.index is scan.table.indexes[0] else 2 * LOOKUP_COST
    return Candidate(_read_cost(left) + left.rows * per_row, relation)


def _index_loop(
    kind: str,
    left: Side,
    right: Side,
    terms: Sequence[Expr],
    columns: tuple[OutputColumn, ...],
    rows: float,
    estimator: Estimator,
) -> Candidate | None:
    left_ids = output_ids(left.relation)
    found = _inner_scan(right, terms, left_ids, estimator)
    if found is None:
        return None
    scan, rest = found
    outer = sorted(set().union(*(columns_of(term) for term in scan.access.terms)) & left_ids)
    relation = NestedLoop(columns, kind, left.relation, scan, conjoin(rest) if rest else None, tuple(outer), rows=rows)
    return Candidate(_read_cost(left) + left.rows * (RESTART_COST + scan.rows * 2 * ROW_COST), relation)


def _distinct_first(
    left: Side,
    right: Side,
    terms: Sequence[Expr],
    columns: tuple[OutputColumn, ...],
    rows: float,
    estimator: Estimator,
) -> list[Candidate | None]:
    """A semi join on plain columns from the other end: look the left table up by each different value on the right."""
    keys, rest = split_keys(terms, output_ids(left.relation), output_ids(right.relation))
    if not keys or rest or not all(isinstance(key[1], ColumnRef) for key in keys):
        return []
    wanted = {key[1].id for key in keys if isinstance(key[1], ColumnRef)}
    kept = tuple(column for column in right.relation.columns if column.id in wanted)
    narrow = Project(kept, right.relation, tuple(ColumnRef(column.type, column.id, column.name) for column in kept))
    values = Side(Distinct(kept, narrow), right.rows)
    return [
        _lookup("inner", values, left, terms, columns, rows, estimator),
        _index_loop("inner", values, left, terms, columns, rows, estimator),
    ]


def order_joins(
    sides: list[Side],
    terms: list[Expr],
    wanted: Wanted,
    estimator: Estimator,
) -> tuple[Rel, list[Expr]]:
    """Join a cluster of relations; returns the join and the terms that could not be used in it."""
    remaining = list(sides)
    pending = list(terms)
    remaining.sort(key=lambda side: side.rows)
    current = remaining.pop(0)
    while remaining:
        best: tuple[bool, float, int, Candidate, list[Expr]] | None = None
        current_ids = output_ids(current.relation)
        for position, side in enumerate(remaining):
            others = set().union(*(output_ids(other.relation) for other in remaining if other is not side), set())
            applicable = [
                term
                for term in pending
                if columns_of(term) & output_ids(side.relation) and not columns_of(term) & others
            ]
            connected = any(columns_of(term) & current_ids for term in applicable)
            still = [term for term in pending if term not in applicable]
            columns = _columns(current, side, wanted, still)
            candidate = join("inner", current, side, applicable, columns, estimator)
            rank = (not connected, candidate.cost + estimator.rows(candidate.relation) * ROW_COST)
            if best is None or rank < best[:2]:
                best = (*rank, position, candidate, applicable)
        assert best is not None
        side = remaining.pop(best[2])
        used = best[4]
        pending = [term for term in pending if term not in used]
        relation = best[3].relation
        current = Side(relation, estimator.rows(relation))
    return current.relation, pending


def _columns(left: Side, right: Side, wanted: Wanted, pending: Sequence[Expr]) -> tuple[OutputColumn, ...]:
    """What the join of two sides must hand on."""
    later = set().union(*map(columns_of, pending), set())
    both = left.relation.columns + right.relation.columns
    needed = {column.id for column in wanted(both)} | later
    return tuple(column for column in both if column.id in needed)
