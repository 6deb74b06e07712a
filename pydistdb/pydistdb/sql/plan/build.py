"""From the rewritten tree to physical operators.

Bottom-up, with two wishes handed down: the order that a Sort above would like to find (so that an index that delivers it
can win), and how many rows a Limit above will take::

    Limit 3 (Sort by b (Filter a = 1 (t)))   ->   Limit 3 (Scan t by the index on (a, b), a = 1, about 3 rows)

Joins are in build_joins.py, queries in expressions in build_subqueries.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pydistdb.kv.api import WaitPolicy
from pydistdb.sql.plan import access
from pydistdb.sql.plan.build_joins import JoinBuilder
from pydistdb.sql.plan.empty import is_never
from pydistdb.sql.plan.exclusion import is_excluded
from pydistdb.sql.plan.expressions import (
    conjoin,
    conjuncts,
    direct_parts,
    free_columns,
    has_subquery,
    is_constant,
    is_volatile,
    map_parts,
    output_ids,
)
from pydistdb.sql.plan.implication import same
from pydistdb.sql.plan.ordering import ordering, useful_keys
from pydistdb.sql.plan.paths import OrderKey
from pydistdb.sql.plan.physical import (
    LockedRows,
    NestedLoop,
    TableScan,
    TopN,
)
from pydistdb.sql.plan.returning import split_returning
from pydistdb.sql.plan.several_indexes import first_of_each
from pydistdb.sql.plan.virtual import lookup_of, physical_scan
from pydistdb.sql.tree import (
    KEY_NUMBER,
    Aggregate,
    ColumnRef,
    Const,
    Cte,
    CteScan,
    Delete,
    Distinct,
    Expr,
    Filter,
    FirstRows,
    Insert,
    IsNull,
    Join,
    Limit,
    LockRows,
    Merge,
    OnConflict,
    OutputColumn,
    Project,
    ProjectSet,
    Rel,
    Scan,
    SetOperation,
    Sort,
    Update,
    Values,
    VirtualScan,
    Window,
)
from pydistdb.sql.types.known import BOOL, INT8
from pydistdb.sql.types.registry import type_by_oid

MOST_EXTREMES = 8
MOST_OF_ROWS_FIRST = 0.75
"""Where a greater part of all rows is among the first of its group, picking them out is not worth it."""


class Wish:
    """What the operators above would like: rows in an order, and how many of them."""

    __slots__ = ("most_rows", "order")

    def __init__(self, order: tuple[OrderKey, ...] = (), most_rows: tuple[Expr, ...] = ()) -> None:
        self.order = order
        self.most_rows = most_rows

    @property
    def rows(self) -> float | None:
        """The number of rows, as far as it is known now."""
        if not self.most_rows:
            return None
        return sum(
            float(part.value) if isinstance(part, Const) and part.value is not None else 100.0
            for part in self.most_rows
        )


NO_WISH = Wish()


class Builder(JoinBuilder):
    """Builds the physical plan of one statement."""

    def build(self, relation: Rel, wish: Wish = NO_WISH) -> Rel:
        match relation:
            case Scan() | Filter(input=Scan()):
                return self._scan(relation, wish)
            case VirtualScan() | Filter(input=VirtualScan()):
                return self._virtual_scan(relation)
            case Filter():
                return self._filter(relation, wish)
            case Project():
                return self._project(relation, wish)
            case Join():
                return self._join(relation)
            case Sort():
                return self._sort(relation, wish)
            case Limit():
                return self._limit(relation)
            case Aggregate():
                return self._aggregate(relation)
            case Window() if any(has_subquery(offset) for offset in _frame_offsets(relation)):
                return self._window_with_queries(relation)
            case Distinct(on=()) if (least := self._distinct_values(relation)) is not None:
                return least
            case FirstRows():
                return self._first_rows(relation, wish)
            case Window() | Distinct() | ProjectSet():
                source, lifted = self._lift(self.build(relation.input), relation)
                return replace(lifted, input=source)
            case LockRows():
                # Who passes rows over may need more of them than it gives.
                passes_over = relation.wait == WaitPolicy.SKIP_LOCKED
                source = self.build(relation.input, Wish(wish.order) if passes_over else wish)
                targets = relation.targets
                return LockedRows(relation.columns, source, targets, relation.strength, relation.wait, wish.most_rows)
            case Values():
                return self._values(relation)
            case Insert() | Update() | Delete():
                return self._change(relation)
            case Merge():
                return self._merge(relation)
            case Cte():
                return self._cte(relation)
        if any(has_subquery(expression) for expression in _own_expressions(relation)):
            source, with_columns = self._lift(Values((), ((),)), relation)
            inner = map_parts(with_columns, on_relation=self.build)
            return NestedLoop(relation.columns, "inner", source, inner, None, tuple(sorted(output_ids(source))))
        return map_parts(relation, on_relation=self.build)

    # ------------------------------------------------------------------------------------------ leaves

    def _scan(self, relation: Scan | Filter, wish: Wish) -> Rel:
        terms: list[Expr] = []
        scan: Rel = relation
        if isinstance(relation, Filter):
            terms = conjuncts(relation.condition)
            scan = relation.input
        assert isinstance(scan, Scan)
        self.estimator.note_scan(scan)
        # A scan decodes and filters in one go; nextval() may have to wait, and needs a filter of its own.
        plain = [term for term in terms if not has_subquery(term) and not is_volatile(term)]
        if is_never(plain) or (self.estimator.excludes and is_excluded(scan, plain, self.estimator.catalog)):
            return Values(relation.columns, ())
        chosen = access.choose(scan, plain, self.estimator, wish.order, wish.rows)
        delivers = not wish.order or access.satisfies(*ordering(chosen), wish.order) == 1
        arms = access.by_arms(
            scan,
            plain,
            self.estimator,
            chosen,
            is_sorted=bool(wish.order),
            delivers=delivers,
            most_rows=wish.rows if wish.most_rows else None,
        )
        if arms is not None:
            union = self._union(scan, arms)
            return self._checked(union, [term for term in terms if term not in plain])
        if not free_columns(chosen):
            self.estimator.note_filtered(chosen, plain)
        if wish.most_rows and delivers and chosen.condition is None and len(plain) == len(terms):
            chosen = replace(chosen, most_rows=wish.most_rows)
        return self._checked(chosen, [term for term in terms if term not in plain])

    @staticmethod
    def _union(scan: Scan, arms: Sequence[TableScan]) -> Rel:
        result: Rel = arms[0]
        for arm in arms[1:]:
            result = SetOperation(scan.columns, "union", True, result, arm)
        return result

    def _virtual_scan(self, relation: VirtualScan | Filter) -> Rel:
        terms: list[Expr] = []
        scan: Rel = relation
        if isinstance(relation, Filter):
            terms = conjuncts(relation.condition)
            scan = relation.input
        assert isinstance(scan, VirtualScan)
        plain = [term for term in terms if not has_subquery(term)]
        physical = physical_scan(scan, plain, lookup_of(scan, plain), self.estimator.table_count())
        return self._checked(physical, [term for term in terms if has_subquery(term)])

    def _values(self, relation: Values) -> Rel:
        if not any(has_subquery(cell) for row in relation.rows for cell in row):
            return relation
        arms: list[Rel] = []
        for row in relation.rows:
            source, lifted = self._lift(Values((), ((),)), Project(relation.columns, Values((), ((),)), row))
            arms.append(replace(lifted, input=source))
        result = arms[0]
        for arm in arms[1:]:
            result = SetOperation(relation.columns, "union", True, result, arm)
        return result

    # ------------------------------------------------------------------------------------------ one input

    def _filter(self, relation: Filter, wish: Wish) -> Rel:
        terms = conjuncts(relation.condition)
        plain = [term for term in terms if not has_subquery(term)]
        if is_never(plain):
            return Values(relation.columns, ())  # no row can pass, so the input need not run
        source = self.build(relation.input, Wish(wish.order))
        if plain:
            source = Filter(source.columns, source, conjoin(plain))
        return self._checked(source, [term for term in terms if has_subquery(term)])

    def _project(self, relation: Project, wish: Wish) -> Rel:
        references = {
            column.id: expression.id
            for column, expression in zip(relation.columns, relation.expressions, strict=True)
            if isinstance(expression, ColumnRef)
        }
        order: tuple[OrderKey, ...] = ()
        if all(key[0] in references for key in wish.order):
            order = tuple((references[key[0]], key[1], key[2]) for key in wish.order)
        source = self.build(relation.input, Wish(order, wish.most_rows if len(order) == len(wish.order) else ()))
        self.estimator.note_renamed(relation)
        source, lifted = self._lift(source, relation)
        return replace(lifted, input=source)

    def _sort(self, relation: Sort, wish: Wish) -> Rel:
        keys = useful_keys(relation.keys)
        order = tuple(
            (key.expression.id, key.descending, key.nulls_first)
            for key in keys
            if isinstance(key.expression, ColumnRef)
        )
        if len(order) < len(keys):
            order = order[: next(i for i, key in enumerate(keys) if not isinstance(key.expression, ColumnRef))]
        whole = len(order) == len(keys)
        source = self.build(relation.input, Wish(order if whole else (), wish.most_rows if whole else ()))
        if whole:
            offered, constant = ordering(source)
            if access.satisfies(offered, constant, order) == 1:
                return source
        source, lifted = self._lift(source, replace(relation, keys=keys))
        return replace(lifted, input=source, columns=source.columns)

    def _window_with_queries(self, relation: Window) -> Rel:
        """``ROWS (SELECT …) PRECEDING``: a frame's offsets see no row, so their queries run before the window does."""
        offsets = _frame_offsets(relation)
        columns = tuple([OutputColumn(next(self.ids), "", offset.type) for offset in offsets])
        project = Project(columns, Values((), ((),)), tuple(offsets))
        source, lifted = self._lift(Values((), ((),)), project)
        known = iter([ColumnRef(column.type, column.id) for column in columns])
        calls = tuple([replace(call, frame=_with_offsets(call.frame, known)) for call in relation.calls])
        inner = self.build(replace(relation, calls=calls))
        outer = replace(lifted, input=source)
        return NestedLoop(relation.columns, "inner", outer, inner, None, tuple(sorted(output_ids(outer))))

    def _first_rows(self, relation: FirstRows, wish: Wish) -> Rel:
        """Left out where an index delivers the order that the step above wants, or most rows are among the first."""
        source = self.build(relation.input, Wish(wish.order))
        made = replace(relation, input=source, columns=source.columns)
        if wish.order and access.satisfies(*ordering(source), wish.order) == 1:
            return source
        return made if self.estimator.rows(made) <= self.estimator.rows(source) * MOST_OF_ROWS_FIRST else source

    def _limit(self, relation: Limit) -> Rel:
        most_rows = tuple(part for part in (relation.limit, relation.offset) if part is not None)
        known = relation.limit is not None and all(map(is_constant, most_rows))
        if isinstance(relation.limit, Const) and relation.limit.value is None:
            known = False
        wish = Wish((), most_rows) if known and not relation.with_ties else NO_WISH
        if any(has_subquery(part) for part in most_rows):
            source, lifted = self._lift(Values((), ((),)), relation)
            inner = replace(lifted, input=self.build(relation.input))
            return NestedLoop(relation.columns, "inner", source, inner, None, tuple(sorted(output_ids(source))))
        source = self.build(relation.input, wish)
        if relation.limit is not None and not relation.with_ties:
            match source:
                case Sort(input=unsorted, keys=keys):
                    return TopN(source.columns, unsorted, keys, relation.limit, relation.offset)
                case Project(input=Sort(input=unsorted, keys=keys) as sort):
                    return replace(source, input=TopN(sort.columns, unsorted, keys, relation.limit, relation.offset))
        return replace(relation, input=source, columns=source.columns)

    def _aggregate(self, relation: Aggregate) -> Rel:
        self.estimator.note_renamed(relation)
        extreme = self._extreme(relation)
        if extreme is not None:
            return extreme
        least = self._least_of_groups(relation)
        if least is not None:
            return least
        source, lifted = self._lift(self.build(relation.input), relation)
        return replace(lifted, input=source)

    def _distinct_values(self, relation: Distinct) -> Rel | None:
        """``SELECT DISTINCT a`` over an index on a: one entry of each value."""
        below = relation.input
        if not isinstance(below, Project):
            return None
        scan = self._first_of_each(below.input, below.expressions, None)
        if scan is None:
            return None
        self.estimator.note_renamed(below)
        return replace(relation, input=replace(below, input=scan))

    def _least_of_groups(self, relation: Aggregate) -> Rel | None:
        """``SELECT a, min(b) … GROUP BY a`` over an index on (a, b): one entry of each group."""
        if not relation.groups or relation.grouping_sets or relation.groupings:
            return None
        least: Expr | None = None
        for call in relation.calls:
            if call.function.name != "min" or call.filter is not None or len(call.arguments) != 1:
                return None
            if least is not None and not same(call.arguments[0], least):
                return None
            least = call.arguments[0]
        scan = self._first_of_each(relation.input, relation.groups, least)
        return None if scan is None else replace(relation, input=scan)

    def _first_of_each(self, source: Rel, groups: Sequence[Expr], least: Expr | None) -> Rel | None:
        scan = source.input if isinstance(source, Filter) else source
        if not isinstance(scan, Scan) or scan.current_of:
            return None
        terms = conjuncts(source.condition) if isinstance(source, Filter) else []
        if any(has_subquery(term) or is_volatile(term) for term in terms) or is_never(terms):
            return None
        estimator = self.estimator
        estimator.note_scan(scan)
        return first_of_each(scan, terms, lambda: access.paths(scan, terms, estimator), groups, least, estimator)

    def _extreme(self, relation: Aggregate) -> Rel | None:
        """``SELECT min(x)`` over an index on x: aggregate the first entry only."""
        if relation.groups or relation.grouping_sets or not relation.calls:
            return None
        if len(relation.calls) > 1:
            return self._extremes(relation)
        call = relation.calls[0]
        if call.function.name not in ("min", "max") or call.filter is not None or len(call.arguments) != 1:
            return None
        argument = call.arguments[0]
        source = relation.input
        scan = source.input if isinstance(source, Filter) else source
        if not isinstance(scan, Scan) or not isinstance(argument, ColumnRef) or argument.id not in output_ids(scan):
            return None
        descending = call.function.name == "max"
        number = dict(zip((column.id for column in scan.columns), scan.numbers, strict=True))[argument.id]
        if all(column.column != number for index in scan.table.indexes for column in index.columns):
            return None
        # NULLs of an ascending index stand last: in the way of max, so they are filtered out.
        not_null: list[Expr] = []
        if not any(column.number == number and column.not_null for column in scan.table.columns):
            not_null = [_is_not_null(argument)]
        terms = [*(conjuncts(source.condition) if isinstance(source, Filter) else []), *not_null]
        filtered: Rel = Filter(scan.columns, scan, conjoin(terms)) if terms else scan
        one = Const(INT8, 1)
        wish = Wish(((argument.id, descending, descending),), (one,))
        built = self.build(filtered, wish)
        offered, constant = ordering(built)
        if access.satisfies(offered, constant, wish.order) != 1:
            return None
        return replace(relation, input=Limit(built.columns, built, one, None))

    def _extremes(self, relation: Aggregate) -> Rel | None:
        """``SELECT min(x), max(x)``: each by itself, if all of them can be had from an index."""
        if len(relation.calls) > MOST_EXTREMES or relation.groupings:
            return None
        found: Rel | None = None
        for column, call in zip(relation.columns, relation.calls, strict=True):
            extreme = self._extreme(replace(relation, columns=(column,), calls=(call,)))
            if extreme is None:
                return None
            if found is None:
                found = extreme
            else:
                found = NestedLoop(found.columns + extreme.columns, "inner", found, extreme, None, rows=1.0)
        return found

    def _merge(self, relation: Merge) -> Rel:
        has_queries = any(map(has_subquery, direct_parts(relation)[0]))
        source, lifted = self._lift(self.build(relation.source), relation)
        return replace(lifted, source=source, has_queries=has_queries)

    def _cte(self, relation: Cte) -> Rel:
        definition = self.build(relation.definition)
        self.estimator.note_cte(relation, definition)
        step = None if relation.step is None else self.build(relation.step)
        return replace(relation, definition=definition, step=step, body=self.build(relation.body))

    def _change(self, relation: Insert | Update | Delete) -> Rel:
        split = split_returning(relation, next(self.ids))
        if split is not None:
            below, lifted = self._lift(self._change(split[0]), split[1])
            return replace(lifted, input=below)
        source = self.build(relation.source)
        if isinstance(relation, Insert) and relation.on_conflict is not None:
            relation = replace(relation, on_conflict=self._conflict(relation, relation.on_conflict))
        if isinstance(relation, Update) and any(has_subquery(value) for _, value in relation.assignments):
            source, relation = self._lift(source, replace(relation, has_queries=True))
        return replace(relation, source=source)

    def _conflict(self, relation: Insert, conflict: OnConflict) -> OnConflict:
        """Queries in DO UPDATE see the existing row and the excluded one: they are computed over a CTE of both."""
        if not any(map(has_subquery, direct_parts(conflict)[0])):
            return conflict
        types = {column.number: column.type_oid for column in relation.table.columns}
        ids = [*relation.row_ids.items(), *conflict.excluded_ids.items()]
        ids = [(number, id) for number, id in ids if number > KEY_NUMBER]
        columns = tuple(OutputColumn(id, "", type_by_oid(types[number])) for number, id in ids)
        row_id = next(self.ids)
        lifted_row, lifted = self._lift(CteScan(columns, row_id), conflict)
        return replace(lifted, row=lifted_row, row_id=row_id)


def _own_expressions(relation: Rel) -> list[Expr]:
    return direct_parts(relation)[0]


def _is_not_null(column: ColumnRef) -> Expr:
    return IsNull(BOOL, column, True)


def _frame_offsets(relation: Window) -> list[Expr]:
    """The offsets of all calls' frames, in order."""
    return [bound[1] for call in relation.calls if call.frame for bound in call.frame[1:3] if bound[1] is not None]


def _with_offsets(frame: tuple[Any, ...], offsets: Iterator[Expr]) -> tuple[Any, ...]:
    """The frame with its offsets, where it has any, taken from ``offsets``."""
    if not frame:
        return frame
    unit, *bounds, exclusion = frame
    return (unit, *[(word, offset and next(offsets)) for word, offset in bounds], exclusion)
