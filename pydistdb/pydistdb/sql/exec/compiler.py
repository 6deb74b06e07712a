"""Physical plan to operators: one case per node."""

from __future__ import annotations

from dataclasses import replace

from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.exec.aggregate import AggregateOperator
from pydistdb.sql.exec.apply import ApplyOperator
from pydistdb.sql.exec.at_shards import AtShardsOperator
from pydistdb.sql.exec.codegen import Code
from pydistdb.sql.exec.first_rows import FirstRowsOperator
from pydistdb.sql.exec.hash_join import HashJoinOperator
from pydistdb.sql.exec.join import LookupJoinOperator, NestedLoopOperator
from pydistdb.sql.exec.key_filter import MOST_PARTNERS
from pydistdb.sql.exec.lock import LockRowsOperator
from pydistdb.sql.exec.measure import measure
from pydistdb.sql.exec.merge import MergeOperator
from pydistdb.sql.exec.merge_join import MergeJoinOperator
from pydistdb.sql.exec.modify import DeleteOperator, InsertOperator, UpdateOperator
from pydistdb.sql.exec.operator import (
    FilterOperator,
    FunctionScanOperator,
    LimitOperator,
    Operator,
    ProjectOperator,
    ProjectSetOperator,
    ValuesOperator,
)
from pydistdb.sql.exec.repartition import RepartitionedOperator
from pydistdb.sql.exec.right_hash_join import RightHashJoinOperator
from pydistdb.sql.exec.routine import RoutineScanOperator
from pydistdb.sql.exec.scan import TableScanOperator, VirtualScanOperator
from pydistdb.sql.exec.sequence import SequenceScanOperator
from pydistdb.sql.exec.setops import DistinctOperator, IntersectExceptOperator, UnionAllOperator
from pydistdb.sql.exec.shared import CteOperator, CteScanOperator
from pydistdb.sql.exec.sort import IncrementalSortOperator, SortOperator, TopNOperator, tie_key
from pydistdb.sql.exec.waiting import may_wait
from pydistdb.sql.exec.window import WindowOperator
from pydistdb.sql.plan.cut import cut
from pydistdb.sql.plan.distribute import Tail, long_tail_of, scan_below, tail_of
from pydistdb.sql.plan.explain_formats import Actual
from pydistdb.sql.plan.expressions import columns_of, substitute
from pydistdb.sql.plan.physical import (
    Apply,
    AtShards,
    Exchange,
    HashJoin,
    IncrementalSort,
    LockedRows,
    LookupJoin,
    MergeJoin,
    NestedLoop,
    Repartitioned,
    RightHashJoin,
    TableScan,
    TopN,
    VirtualTableScan,
)
from pydistdb.sql.plan.repartition import staged
from pydistdb.sql.plan.rules.inline_ctes import changes_data
from pydistdb.sql.tree import (
    Aggregate,
    ColumnRef,
    Cte,
    CteScan,
    Delete,
    Distinct,
    Expr,
    Filter,
    FirstRows,
    FunctionScan,
    Insert,
    Limit,
    Merge,
    OutputColumn,
    Project,
    ProjectSet,
    Rel,
    RoutineScan,
    SequenceScan,
    SetOperation,
    Sort,
    Update,
    Values,
    Window,
)

_LOCKING = (LockedRows, Insert, Update, Delete, Merge)
_WITH_TAIL = (TableScanOperator, AtShardsOperator, RepartitionedOperator)


def _tail(node: Rel) -> Tail | None:
    """What is done of a step below it; what is dealt out to the nodes stays as small as can be."""
    is_dealt = isinstance(getattr(node, "input", None), Exchange | Repartitioned)
    return tail_of(node) if is_dealt else long_tail_of(node)


class Compiler:
    """Makes the operators of one plan."""

    def __init__(self, actuals: dict[int, Actual] | None = None) -> None:
        self._actuals = actuals
        """Where EXPLAIN ANALYZE wants to find what each node did, by ``id(node)``."""
        self.scans: dict[int, TableScanOperator] = {}
        """The operator of each scan, with the projection and the tail it does, by ``id(node)``."""
        self.parts: dict[int, AtShardsOperator] = {}
        """The operators of what may be done at the shards."""
        self.exchanges: dict[int, RepartitionedOperator] = {}
        """Those of what may be done over an exchange."""
        self._recursive: list[int] = []
        """CTEs whose step is being compiled: their scans read the working table."""

    def operator(self, node: Rel) -> Operator:
        if isinstance(node, Exchange):  # as far as the gateway goes, rows pass through it
            return self.operator(node.input)
        made = self._operator(node)
        if isinstance(made, TableScanOperator):
            self.scans[id(made.node)] = made
        if self._actuals is not None:
            actual = self._actuals.setdefault(id(node), Actual())
            measure(made, actual, locks=isinstance(node, _LOCKING))
            made.observe(actual)
        return made

    def _over_scan(self, node: Aggregate | TopN | Limit | Distinct | FirstRows) -> Operator:
        """The input of a step of which a part can be done where the rows are."""
        source = self.operator(node.input)
        if isinstance(source, _WITH_TAIL):
            source.tail = _tail(node)
        return source

    def _operator(self, node: Rel) -> Operator:
        match node:
            case TableScan():
                return TableScanOperator(node)
            case VirtualTableScan():
                return VirtualScanOperator(node)
            case Values():
                return ValuesOperator(node)
            case SequenceScan():
                return SequenceScanOperator(node)
            case RoutineScan():
                return RoutineScanOperator(node)
            case FunctionScan():
                return FunctionScanOperator(node)
            case CteScan():
                return CteScanOperator(node, node.cte_id in self._recursive)
            case Filter():
                return FilterOperator(self.operator(node.input), node.condition)
            case Project():
                return self._project(node)
            case ProjectSet():
                return ProjectSetOperator(self.operator(node.input), node)
            case Limit():
                return self._limit(node)
            case Sort():
                return SortOperator(self.operator(node.input), node.keys)
            case TopN():
                return TopNOperator(self._over_scan(node), node)
            case IncrementalSort():
                return IncrementalSortOperator(self.operator(node.input), node.keys, node.presorted)
            case Aggregate():
                return self._aggregate(node)
            case Window():
                return WindowOperator(self.operator(node.input), node)
            case FirstRows():
                return FirstRowsOperator(self._over_scan(node), node)
            case Distinct():
                return DistinctOperator(self._over_scan(node), node.on)
            case _:
                return self._combining(node)

    def _combining(self, node: Rel) -> Operator:
        """Operators with several inputs, and those that change data."""
        match node:
            case RightHashJoin():
                return self._right_hash_join(node)
            case HashJoin():
                return self._hash_join(node)
            case LookupJoin():
                assert isinstance(node.scan, TableScan)
                return LookupJoinOperator(node, self.operator(node.left), TableScanOperator(node.scan))
            case MergeJoin():
                return MergeJoinOperator(node, self.operator(node.left), self.operator(node.right))
            case AtShards():
                return self._at_shards(node)
            case Repartitioned():
                return self._repartitioned(node)
            case NestedLoop():
                return NestedLoopOperator(node, self.operator(node.left), self.operator(node.right))
            case SetOperation():
                return self._set_operation(node)
            case Cte():
                return self._cte(node)
            case Apply():
                source = self.operator(node.input)
                return ApplyOperator(node, source, [self.operator(plan.query) for plan in node.subplans])
            case LockedRows():
                return LockRowsOperator(self.operator(node.input), node)
            case Insert():
                conflict = node.on_conflict
                row = None if conflict is None or conflict.row is None else self.operator(conflict.row)
                return InsertOperator(node, self.operator(node.source), row)
            case Update():
                return UpdateOperator(node, self.operator(node.source))
            case Delete():
                return DeleteOperator(node, self.operator(node.source))
            case Merge():
                return MergeOperator(node, self.operator(node.source))
        raise FeatureNotSupported(f"{type(node).__name__} is not supported")

    def _aggregate(self, node: Aggregate) -> Operator:
        """Arguments that may have to wait are computed in a projection below, which can."""
        tail = None if scan_below(node) is None else _tail(node)
        raw = self.operator(node.input) if tail is not None and tail.grows else None
        source = self._over_scan(node)
        waiting = [a for call in node.calls for a in call.arguments if may_wait([a])]
        if waiting:
            if isinstance(source, _WITH_TAIL):
                source.tail = None
            ids = {argument: -number for number, argument in enumerate(waiting, 1)}
            columns = (*source.columns, *(OutputColumn(id, "", argument.type) for argument, id in ids.items()))
            passed = [ColumnRef(column.type, column.id) for column in source.columns]
            source = ProjectOperator(source, columns, (*passed, *ids))
            calls = tuple(
                replace(
                    call,
                    arguments=tuple(ColumnRef(a.type, ids[a]) if a in ids else a for a in call.arguments),
                )
                for call in node.calls
            )
            node = replace(node, calls=calls)
        return AggregateOperator(source, node, raw if source.columns == node.input.columns else None)

    def _project(self, node: Project) -> Operator:
        source = self.operator(node.input)
        fits = isinstance(source, TableScanOperator) and not source.is_projected
        if isinstance(source, TableScanOperator) and fits and not may_wait(node.expressions):
            return source.project(node.columns, node.expressions)
        return ProjectOperator(source, node.columns, node.expressions)

    def _limit(self, node: Limit) -> Operator:
        source = self._over_scan(node)
        if not node.with_ties:
            return LimitOperator(source, node)
        sort = node.input
        while isinstance(sort, Project | Limit):
            sort = sort.input
        if not isinstance(sort, Sort):
            raise FeatureNotSupported("WITH TIES is not supported here")
        return LimitOperator(source, node, tie_key(Code(source.scope()), sort.keys))

    def _hash_join(self, node: HashJoin) -> Operator:
        left = self.operator(node.left)
        if isinstance(left, TableScanOperator) and left.is_span and node.kind in ("inner", "semi"):
            # What few rows find a partner for need not be sent.
            left.filter_keys = node.left_keys if node.rows < MOST_PARTNERS * left.node.rows else ()
        return HashJoinOperator(node, left, self.operator(node.right))

    def _right_hash_join(self, node: RightHashJoin) -> Operator:
        made = RightHashJoinOperator(node, self.operator(node.left), self.operator(node.right))
        below: Operator = made.right
        relation, keys = node.right, node.right_keys
        while not isinstance(below, TableScanOperator):
            match relation:
                case Filter() if isinstance(below, FilterOperator):
                    relation = relation.input
                case Aggregate(grouping_sets=(), groupings=()) if isinstance(below, AggregateOperator):
                    groups: dict[int, Expr] = {
                        column.id: group for column, group in zip(relation.columns, relation.groups, strict=False)
                    }
                    if not set().union(*map(columns_of, keys)) <= groups.keys():
                        return made
                    keys = tuple([substitute(key, groups) for key in keys])
                    relation = relation.input
                case _:
                    return made
            below = below.source
        if node.sends_keys and below.is_span and not may_wait(keys):
            below.filter_keys = keys
            below.filters_here = relation is not node.right
            made.filtered = below
        return made

    def _at_shards(self, node: AtShards) -> Operator:
        found = cut(node.input)
        assert found is not None, "the planner has found a cut"
        plain = self.operator(node.input)
        made = AtShardsOperator(node, found, plain, [self.operator(given) for given in found.broadcast])
        self.parts[id(node)] = made
        return made

    def _repartitioned(self, node: Repartitioned) -> Operator:
        found = staged(node.input)
        plain = self.operator(node.input)
        sources = [self.exchanges.get(id(each.input)) or self.parts[id(each.input)] for each in found.inputs]
        given = [self.operator(table) for table in found.broadcast]
        made = RepartitionedOperator(node, found, plain, sources, given)
        if self._actuals is not None:
            made.input_actuals = [self._actuals.setdefault(id(each), Actual()) for each in found.inputs]
        self.exchanges[id(node)] = made
        return made

    def _set_operation(self, node: SetOperation) -> Operator:
        if node.kind == "union":
            # a UNION ALL b UNION ALL c: one operator with three arms, however long the chain.
            arms: list[Rel] = [node.right]
            first = node.left
            while isinstance(first, SetOperation) and first.kind == "union" and (first.all or not node.all):
                arms.append(first.right)
                first = first.left
            union = UnionAllOperator(node.columns, [self.operator(arm) for arm in (first, *reversed(arms))])
            return union if node.all else DistinctOperator(union, ())
        left, right = self.operator(node.left), self.operator(node.right)
        combined = IntersectExceptOperator(node.columns, node.kind, node.all, left, right)
        return combined if node.all else DistinctOperator(combined, ())

    def _cte(self, node: Cte) -> Operator:
        definition = self.operator(node.definition)
        step: Operator | None = None
        if node.step is not None:
            self._recursive.append(node.cte_id)
            step = self.operator(node.step)
            self._recursive.remove(node.cte_id)
        return CteOperator(node, definition, step, self.operator(node.body), changes_data(node.definition))
