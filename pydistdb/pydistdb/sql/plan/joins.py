"""Join order and join method.

A cluster of inner joins is flattened into relations and terms, and put in order by ``join_order.py``.  For each step the
methods compete:

* look-up join: the right side is a table with a unique index whose columns the left side supplies, and the left is small;
* nested loop over an index: the same with any index, one scan per left row;
* nested loop over a system table's look-up (virtual.py);
* hash join: any equality between the sides, the smaller one built into the table;
* merge join: the same where both sides come sorted by their keys, and the table would have to go to disk;
* nested loop: what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.node import node
from pydistdb.sql.plan import access
from pydistdb.sql.plan.comparisons import comparison_terms
from pydistdb.sql.plan.cost import DISABLED_COST, HASH_ROW_COST, RESTART_COST, ROW_COST, lookup_cost, restart_cost
from pydistdb.sql.plan.estimate import Estimator
from pydistdb.sql.plan.expressions import columns_of, conjoin, free_columns, has_subquery, is_volatile, output_ids
from pydistdb.sql.plan.implication import known_by_equality
from pydistdb.sql.plan.join_order import Cluster, Plan, Probe
from pydistdb.sql.plan.ordering import ordering
from pydistdb.sql.plan.paths import Path
from pydistdb.sql.plan.physical import HashJoin, LookupJoin, MergeJoin, NestedLoop, TableScan
from pydistdb.sql.plan.virtual import LOOKUP_ROWS, lookup_of, physical_scan
from pydistdb.sql.tree import ColumnRef, Const, Distinct, Expr, OutputColumn, Project, Rel, Scan, VirtualScan
from pydistdb.sql.types.registry import BOOL

SPILLED_ROWS = 100_000
"""What a hash table of so many rows takes goes to disk, at the usual work_mem."""
MERGE_SHARE_OF_HASH, MERGE_SHARE_IN_MEMORY = 0.9, 1.2
"""What merging costs, beside a hash join that does go to disk, and one that does not."""
SYSTEM_LOOKUP_COST = RESTART_COST + LOOKUP_ROWS * 2 * ROW_COST


@node
class Side:
    """One relation of a cluster: its physical form, and the scan behind it if it is a plain table."""

    relation: Rel
    rows: float
    cost: float
    """Of the relation as a whole."""
    scan: Scan | None = None
    terms: tuple[Expr, ...] = ()
    """What is true of its rows: the scan's own condition, of a join those of its sides."""
    system_scan: VirtualScan | None = None
    """The scan behind it if it is a system table."""


@node
class Candidate:
    cost: float
    relation: Rel


Wanted = Callable[[Sequence[OutputColumn]], tuple[OutputColumn, ...]]
"""Picks, from the columns two sides have together, those that something further up still reads."""


_NO_KEY = Const(BOOL, None)
Key = tuple[Expr, Expr, Expr]
"""An equality between the sides: (left, right, term)."""


def split_keys(terms: Sequence[Expr], left_ids: set[int], right_ids: set[int]) -> tuple[list[Key], list[Expr]]:
    """The equalities between the sides, and the other terms."""
    keys: list[Key] = []
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


@node
class _Task:
    """What two sides are joined by, and what is wanted of it."""

    kind: str
    terms: Sequence[Expr]
    columns: tuple[OutputColumn, ...]
    rows: float
    estimator: Estimator
    null_aware: bool


def join(
    kind: str,
    left: Side,
    right: Side,
    terms: Sequence[Expr],
    columns: tuple[OutputColumn, ...],
    estimator: Estimator,
    null_aware: bool = False,
    rows: float | None = None,
) -> Candidate:
    """The cheapest way to join two relations; for inner joins either side may come to stand left."""
    if rows is None:
        rows = estimator.join_rows(kind, left.rows, right.rows, conjoin(terms), output_ids(right.relation))
    task = _Task(kind, terms, columns, rows, estimator, null_aware)
    keys, rest = split_keys(terms, output_ids(left.relation), output_ids(right.relation))
    candidates: list[Candidate] = []
    if keys and not (null_aware and (rest or len(keys) > 1)):
        candidates.append(_hash(task, left, right, keys, rest))
    if not null_aware and kind in ("inner", "left", "semi", "anti"):
        candidates += _look_ups(task, left, right)
    if kind == "inner":
        if keys:
            candidates.append(_hash(task, right, left, [(there, here, term) for here, there, term in keys], rest))
        candidates += _look_ups(task, right, left)
    if keys and not null_aware:
        candidates += _merge(task, left, right, keys, rest)
    if kind == "semi" and keys and not rest:
        candidates += _distinct_first(task, left, right, keys)
    best = min(candidates, key=lambda candidate: candidate.cost, default=None)
    if best is not None and (best.cost < DISABLED_COST or null_aware or kind == "full"):
        return best
    loop = _loop(task, left, right)
    return loop if best is None or loop.cost < best.cost else best


def _loop(task: _Task, left: Side, right: Side) -> Candidate:
    """Every pair is looked at: the way that there always is, but for FULL JOIN."""
    kind = task.kind
    condition = conjoin(task.terms) if task.terms else None
    if kind == "full" and task.terms:
        if not all(isinstance(term, Const) for term in task.terms):
            message = "FULL JOIN is only supported with merge-joinable or hash-joinable join conditions"
            raise FeatureNotSupported(message)
        # ON FALSE (what is always true is no term any more): no two rows meet, as a NULL key has no equal.
        return _hash(task, left, right, [(_NO_KEY, _NO_KEY, task.terms[0])], ())
    first, second = (right, left) if kind == "inner" and right.rows > left.rows else (left, right)
    loop = NestedLoop(
        task.columns, kind, first.relation, second.relation, condition, null_aware=task.null_aware, rows=task.rows
    )
    cost = left.cost + right.cost + left.rows * right.rows * ROW_COST
    return Candidate(cost + task.estimator.extra("nestloop"), loop)


def _hash(task: _Task, left: Side, right: Side, keys: Sequence[Key], rest: Sequence[Expr]) -> Candidate:
    relation = HashJoin(
        task.columns,
        task.kind,
        left.relation,
        right.relation,
        tuple([key[0] for key in keys]),
        tuple([key[1] for key in keys]),
        conjoin(rest) if rest else None,
        task.null_aware,
        tuple([key[2] for key in keys]),
        task.rows,
    )
    # Building a row into the table costs about twice what probing with one does.
    cost = left.cost + right.cost + (2 * right.rows + left.rows) * HASH_ROW_COST
    return Candidate(cost + task.estimator.extra("hashjoin"), relation)


def _merge(task: _Task, left: Side, right: Side, keys: Sequence[Key], rest: Sequence[Expr]) -> list[Candidate]:
    """Both sides come in the order of the keys."""
    pairs: dict[int, tuple[ColumnRef, ColumnRef, Expr]] = {}
    for one, other, term in keys:
        if not isinstance(one, ColumnRef) or not isinstance(other, ColumnRef) or one.type.oid != other.type.oid:
            return []
        pairs[one.id] = (one, other, term)
    order = ordering(left.relation)[0][: len(keys)]
    if len(pairs) < len(keys) or {key[0] for key in order} != set(pairs):
        return []
    sorted_pairs = [pairs[key[0]] for key in order]
    wanted = [(other.id, False, False) for _, other, _ in sorted_pairs]
    if any(key[1] or key[2] for key in order) or list(ordering(right.relation)[0][: len(keys)]) != wanted:
        return []
    relation = MergeJoin(
        task.columns,
        task.kind,
        left.relation,
        right.relation,
        tuple([pair[0] for pair in sorted_pairs]),
        tuple([pair[1] for pair in sorted_pairs]),
        conjoin(rest) if rest else None,
        tuple([pair[2] for pair in sorted_pairs]),
        task.rows,
    )
    share = MERGE_SHARE_OF_HASH if right.rows > SPILLED_ROWS else MERGE_SHARE_IN_MEMORY
    cost = left.cost + right.cost + (2 * right.rows + left.rows) * HASH_ROW_COST * share
    return [Candidate(cost + task.estimator.extra("mergejoin"), relation)]


def _look_ups(task: _Task, left: Side, right: Side) -> list[Candidate]:
    """The ways to find the right rows of each left row, or batch of them."""
    if right.system_scan is not None:
        return _system_loop(task, left, right, right.system_scan)
    found = _inner_scan(left, right, task.terms, task.estimator)
    if found is None:
        return []
    loop = _index_loop(task, left, *found)
    lookup = _lookup(task, left, *found)
    return [loop] if lookup is None else [lookup, loop]


def _inner_scan(
    left: Side, right: Side, terms: Sequence[Expr], estimator: Estimator
) -> tuple[TableScan, list[Expr]] | None:
    """The right table read by an index whose columns the left side supplies; and the terms left over for the pairs."""
    if right.scan is None:
        return None
    left_ids = output_ids(left.relation)
    usable = [term for term in terms if not has_subquery(term)]
    checked = [term for term in right.terms if not known_by_equality(term, usable, left.terms)]
    own = [*checked, *usable]
    best: Path | None = None
    for path in access.paths(right.scan, own, estimator):
        uses_left = any(columns_of(term) & left_ids for term in path.access.terms)
        if (path.access.equal or path.access.probes) and uses_left and (best is None or path.cost < best.cost):
            best = path
    if best is None:
        return None
    scan = access.build_scan(right.scan, best, checked, estimator)
    return scan, [term for term in terms if best.access.probes or term not in best.access.terms]


def _lookup(task: _Task, left: Side, scan: TableScan, rest: Sequence[Expr]) -> Candidate | None:
    if not scan.access.is_point or any(len(term.alternatives) != 1 for term in scan.access.equal):
        return None
    keys = tuple([term.alternatives[0] for term in scan.access.equal])
    relation = LookupJoin(
        task.columns, task.kind, left.relation, scan, keys, conjoin(rest) if rest else None, task.rows
    )
    per_row = lookup_cost(scan.table, scan.access.index)
    return Candidate(left.cost + left.rows * per_row + task.estimator.extra("nestloop"), relation)


def _index_loop(task: _Task, left: Side, scan: TableScan, rest: Sequence[Expr]) -> Candidate:
    # The shards to read may be told by more than the index's terms are.
    outer = tuple(sorted(free_columns(scan) & output_ids(left.relation)))
    condition = conjoin(rest) if rest else None
    relation = NestedLoop(task.columns, task.kind, left.relation, scan, condition, outer, rows=task.rows)
    cost = left.cost + left.rows * (restart_cost(scan.table) + scan.rows * 2 * ROW_COST)
    return Candidate(cost + task.estimator.extra("nestloop"), relation)


def _system_loop(task: _Task, left: Side, right: Side, scan: VirtualScan) -> list[Candidate]:
    """A system table looked up for each left row."""
    if lookup_of(scan, right.terms) is not None:
        return []
    left_ids = output_ids(left.relation)
    lookup = lookup_of(scan, [term for term in task.terms if columns_of(term) & left_ids])
    if lookup is None or not columns_of(lookup[1]) <= left_ids or is_volatile(lookup[1]):
        return []
    inner = physical_scan(scan, right.terms, lookup, task.estimator.table_count())
    outer = tuple(sorted(columns_of(lookup[1])))
    condition = conjoin(task.terms)
    relation = NestedLoop(task.columns, task.kind, left.relation, inner, condition, outer, rows=task.rows)
    cost = left.cost + left.rows * SYSTEM_LOOKUP_COST
    return [Candidate(cost + task.estimator.extra("nestloop"), relation)]


def _distinct_first(task: _Task, left: Side, right: Side, keys: Sequence[Key]) -> list[Candidate]:
    """A semi join on plain columns from the other end: look the left table up by each different value on the right."""
    wanted = {key[1].id for key in keys if isinstance(key[1], ColumnRef)}
    if left.scan is None or not all(isinstance(key[1], ColumnRef) for key in keys):
        return []
    kept = tuple([column for column in right.relation.columns if column.id in wanted])
    narrow = Project(kept, right.relation, tuple([ColumnRef(column.type, column.id, column.name) for column in kept]))
    values = Side(Distinct(kept, narrow), right.rows, right.cost + right.rows * HASH_ROW_COST)
    return _look_ups(replace(task, kind="inner"), values, left)


def order_joins(
    sides: list[Side],
    terms: list[Expr],
    wanted: Wanted,
    estimator: Estimator,
) -> tuple[Side, list[Expr]]:
    """Join a cluster of relations; returns the join and the terms that could not be used in it."""
    cluster = Cluster(
        [output_ids(side.relation) for side in sides],
        [side.rows for side in sides],
        [side.cost for side in sides],
        terms,
        estimator,
    )
    for number, side in enumerate(sides if len(sides) > 2 else ()):  # two are joined in one way only
        cluster.probes[number] = _probes(cluster, number, side, estimator)

    def build(plan: Plan) -> Side:
        if plan.left is None or plan.right is None:
            return sides[plan.mask.bit_length() - 1]
        left, right = build(plan.left), build(plan.right)
        both = left.relation.columns + right.relation.columns
        needed = {column.id for column in wanted(both)} | cluster.needed_later(plan.mask)
        columns = tuple([column for column in both if column.id in needed])
        rows = cluster.cardinality(plan.mask)
        found = join(
            "inner", left, right, cluster.between(plan.left.mask, plan.right.mask), columns, estimator, rows=rows
        )
        return Side(found.relation, rows, found.cost, terms=(*left.terms, *right.terms))

    # What speaks of one relation alone or of none is checked above.
    rest = [term for mask, term in cluster.others if not mask & (mask - 1)]
    return build(cluster.best()), rest


def _probes(cluster: Cluster, number: int, side: Side, estimator: Estimator) -> list[Probe]:
    """The ways to look a relation up by what other relations supply."""
    connecting = [each for each in cluster.connecting(number) if not has_subquery(each[0])]
    if side.system_scan is not None and lookup_of(side.system_scan, side.terms) is None:
        return [
            Probe(0 if is_any else mask, (mask,) if is_any else (), SYSTEM_LOOKUP_COST)
            for term, mask, is_any in connecting
            if lookup_of(side.system_scan, [term]) is not None
        ]
    if side.scan is None:
        return []
    sets = [connecting] if len(connecting) < 2 else [connecting, *([each] for each in connecting)]
    own = output_ids(side.relation)
    found: list[Probe] = []
    for chosen in sets:
        for path in access.paths(side.scan, [*side.terms, *(term for term, _, _ in chosen)], estimator):
            used = [each for each in chosen if each[0] in path.access.terms]
            if (
                not (path.access.equal or path.access.probes)
                or not used
                or not any(columns_of(term) - own for term in path.access.terms)
            ):
                continue
            needs = 0
            for _, mask, is_any in used:
                needs |= 0 if is_any else mask
            needs_any = tuple([mask for _, mask, is_any in used if is_any])
            found.append(Probe(needs, needs_any, _probe_cost(side.scan, path)))
    return found


def _probe_cost(scan: Scan, path: Path) -> float:
    if path.access.is_point and all(len(term.alternatives) == 1 for term in path.access.equal):
        return lookup_cost(scan.table, path.access.index)
    return restart_cost(scan.table) + path.rows * 2 * ROW_COST
