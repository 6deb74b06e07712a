"""What a shard is asked to do, as SQL that Postgres reads: a line of EXPLAIN below Gather.

::

    Shard Query: SELECT u.city, count(*) AS partial_count, … FROM users AS u JOIN orders AS o ON u.user_id = o.user_id
                 WHERE o.amount > 5 GROUP BY u.city

The plan is made a query again, as a tree of sqlglot, which writes it.  Columns are followed from the scans up as expressions over
what stands in FROM; where a step can't be added to the query below it, that becomes a derived table::

    Aggregate over Distinct    SELECT s.a, count(*) AS partial_count FROM (SELECT DISTINCT a, b FROM t) AS s GROUP BY s.a

The text is for people: what is sent is the typed tree (exec/fragment.py, exec/part.py).  States of aggregates are shown by the
aggregates that make them up (partials.py).  What has no words in SQL (``Unwritable``) is not shown at all.

Source: sqlglot's documentation, "Build and modify SQL".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.plan.distribute import long_tail_of
from pydistdb.sql.plan.expressions import all_relations, conjuncts
from pydistdb.sql.plan.partials import partials
from pydistdb.sql.plan.physical import AtShards, Exchange, HashJoin, MergeJoin, Repartitioned, TableScan, TopN
from pydistdb.sql.plan.sql_expressions import SqlExpressions, Unwritable, closed, conjunction, name
from pydistdb.sql.tree import (
    Aggregate,
    AggregateCall,
    ColumnId,
    Delete,
    Distinct,
    Expr,
    Filter,
    FirstRows,
    Limit,
    OutputColumn,
    Project,
    Rel,
    Update,
    Window,
)

MOST_CHARACTERS = 10_000
"""Of a longer text (a list of thousands of values) only the beginning is shown."""
_JOINS = {"inner": "", "left": "LEFT", "full": "FULL"}


@dataclass(slots=True)
class _Query:
    """A query that steps can be added to.  ``outputs``: what it gives, by column ids."""

    outputs: list[ColumnId]
    source: exp.Expression
    joins: list[exp.Expression] = field(default_factory=list)
    where: list[exp.Expression] = field(default_factory=list)
    groups: list[exp.Expression] | None = None
    having: list[exp.Expression] = field(default_factory=list)
    distinct: bool = False
    windows: bool = False
    """Among its outputs are window functions, which nothing but the list of outputs may hold."""
    order: list[exp.Expression] = field(default_factory=list)
    limit: exp.Expression | None = None
    offset: exp.Expression | None = None

    @property
    def is_plain(self) -> bool:
        """It is FROM and WHERE alone."""
        return self.groups is None and not self.distinct and not self.windows and not self.is_cut

    @property
    def is_cut(self) -> bool:
        return bool(self.order) or self.limit is not None or self.offset is not None

    def select(self, shown: Sequence[exp.Expression]) -> exp.Select:
        query = exp.Select(expressions=list(shown) or [exp.Literal.number(1)])
        query.set("from_", exp.From(this=self.source))
        query.set("joins", self.joins)
        if self.distinct:
            query.set("distinct", exp.Distinct())
        if self.where:
            query.set("where", exp.Where(this=conjunction(self.where)))
        if self.groups:
            query.set("group", exp.Group(expressions=self.groups))
        if self.having:
            query.set("having", exp.Having(this=conjunction(self.having)))
        if self.order:
            query.set("order", exp.Order(expressions=self.order))
        if self.limit is not None:
            query.set("limit", exp.Limit(expression=self.limit))
        if self.offset is not None:
            query.set("offset", exp.Offset(expression=self.offset))
        return query


def shard_query(relation: Rel, step: Rel | None, names: dict[ColumnId, str], catalog: CatalogView | None) -> str | None:
    """``relation`` as a query, with the half of ``step``, which stands on it, that is done at the shards too; None if it can't be
    written.  ``names``: of columns that come from outside."""
    try:
        tree = _Writer(relation, names, catalog).statement(relation, step)
    except Unwritable:
        return None
    text = tree.sql(dialect="postgres", normalize_functions=False)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} …"


class _Writer(SqlExpressions):
    """Writes one query."""

    def __init__(self, relation: Rel, names: dict[ColumnId, str], catalog: CatalogView | None) -> None:
        super().__init__(names)
        self._catalog = catalog
        self._used: set[str] = set()
        self._qualifies = sum(isinstance(part, TableScan) for part in all_relations(relation)) > 1

    def statement(self, relation: Rel, step: Rel | None) -> exp.Expression:
        if isinstance(relation, Update | Delete):
            return self._change(relation)
        query = self._query(relation)
        shown: list[exp.Expression] | None = None
        match step:
            case Aggregate():
                query = self._plain(query, relation.columns)
                query.groups, shown = self._halved(step)
            case TopN():
                query = self._uncut(query, relation.columns)
                query.order, query.limit = self.order(step.keys), self._most(step.limit, step.offset)
            case Limit():
                query = self._uncut(query, relation.columns)
                query.limit = self._most(step.limit, step.offset)
            case FirstRows():
                return self._first_rows(step, query, relation.columns)
            case Distinct():
                query = self._uncut(query, relation.columns)
                query.distinct = True
        return query.select(self._columns(query.outputs) if shown is None else shown)

    def _columns(self, ids: Iterable[ColumnId]) -> list[exp.Expression]:
        return [self._column(number) for number in ids]

    def _alias(self, wanted: str) -> str:
        """A name for something in FROM that nothing else has, nor stands for in a query around it."""
        alias, number = wanted, 0
        while alias in self._used:
            number += 1
            alias = f"{wanted}_{number}"
        self._used.add(alias)
        return alias

    # ------------------------------------------------------------------------------------------ steps

    def _query(self, relation: Rel) -> _Query:
        match relation:
            case TableScan():
                return self._scan(relation)
            case AtShards() | Repartitioned() | Exchange():
                return self._query(relation.input)
            case Project():
                below = self._query(relation.input)
                if below.distinct:
                    below = self._derived(below, relation.input.columns)
                for column, expression in zip(relation.columns, relation.expressions, strict=True):
                    self.columns[column.id] = self.of(expression)
                below.outputs = _ids(relation.columns)
                return below
            case Filter():
                return self._filter(relation)
            case HashJoin() | MergeJoin():
                return self._join(relation)
            case Aggregate():
                return self._groups(relation)
            case Distinct(on=()):
                below = self._uncut(self._query(relation.input), relation.input.columns)
                below.distinct = True
                self._rename(relation, below)
                return below
            case Window():
                return self._window(relation)
            case FirstRows():  # what it leaves out does not pass the condition above it either
                below = self._query(relation.input)
                self._rename(relation, below)
                return below
            case TopN() | Limit(with_ties=False):
                below = self._uncut(self._query(relation.input), relation.input.columns)
                below.order = self.order(relation.keys) if isinstance(relation, TopN) else []
                below.limit = None if relation.limit is None else self.of(relation.limit)
                below.offset = None if relation.offset is None else self.of(relation.offset)
                self._rename(relation, below)
                return below
        raise Unwritable(type(relation).__name__)

    def _rename(self, relation: Rel, query: _Query) -> None:
        """The columns of a step that gives those of the one below."""
        for column, number in zip(relation.columns, query.outputs, strict=True):
            self.columns[column.id] = self._column(number)
        query.outputs = _ids(relation.columns)

    def _scan(self, scan: TableScan) -> _Query:
        if scan.current_of:
            raise Unwritable("CURRENT OF")
        called = self._alias(scan.alias or scan.table.name)
        table = exp.Table(this=name(scan.table.name), db=self._schema(scan.table.schema))
        if called != scan.table.name:
            table.set("alias", exp.TableAlias(this=name(called)))
        qualifier = called if self._qualifies or called != scan.table.name else ""
        by_number = {column.number: column.name for column in scan.table.columns}
        for column, number in zip(scan.columns, scan.numbers, strict=True):
            self.columns[column.id] = exp.Column(
                this=name(by_number.get(number, "ctid")), table=name(qualifier) if qualifier else None
            )
        terms = [*scan.access.gate, *scan.access.terms, *(conjuncts(scan.condition) if scan.condition else ())]
        return _Query(_ids(scan.columns), table, where=self.all(terms))

    def _schema(self, number: int) -> exp.Identifier | None:
        found = None if self._catalog is None else self._catalog.schema_by_oid(number)
        return None if found is None or found.name == "public" else name(found.name)

    def _filter(self, relation: Filter) -> _Query:
        below = self._query(relation.input)
        if below.distinct or below.windows or below.is_cut:
            below = self._derived(below, relation.input.columns)
        terms = self.all(conjuncts(relation.condition))
        if below.groups is None:
            below.where += terms
        else:
            below.having += terms
        self._rename(relation, below)
        return below

    def _groups(self, relation: Aggregate) -> _Query:
        query = self._plain(self._query(relation.input), relation.input.columns)
        query.groups = self._grouped_by(relation.groups, relation.grouping_sets)
        given = [*self.all(relation.groups), *(self.aggregate(call.function.name, call) for call in relation.calls)]
        given += [self._grouping([relation.groups[each] for each in one]) for one in relation.groupings]
        self.columns |= dict(zip(_ids(relation.columns), given, strict=True))
        query.outputs = _ids(relation.columns)
        return query

    def _grouped_by(self, groups: Sequence[Expr], sets: Sequence[Sequence[int]]) -> list[exp.Expression]:
        keys = [self.key(group) for group in groups]
        tuples = [exp.Tuple(expressions=[keys[number].copy() for number in each]) for each in sets]
        return [exp.GroupingSets(expressions=tuples)] if tuples else keys

    def _grouping(self, groups: Sequence[Expr]) -> exp.Expression:
        return exp.Anonymous(this="GROUPING", expressions=[self.key(group) for group in groups])

    def _window(self, relation: Window) -> _Query:
        query = self._plain(self._query(relation.input), relation.input.columns)
        for column, call in zip(relation.columns[-len(relation.calls) :], relation.calls, strict=True):
            self.columns[column.id] = self.window(call)
        query.outputs = _ids(relation.columns)
        query.windows = True
        return query

    def _plain(self, query: _Query, columns: Sequence[OutputColumn]) -> _Query:
        return query if query.is_plain else self._derived(query, columns)

    def _uncut(self, query: _Query, columns: Sequence[OutputColumn]) -> _Query:
        return self._derived(query, columns) if query.is_cut else query

    def _derived(self, query: _Query, columns: Sequence[OutputColumn]) -> _Query:
        """The query as a table in FROM."""
        alias, shown, names = self._alias("s"), [], list[str]()
        for number in query.outputs:
            node = self._column(number)
            wanted = node.name if isinstance(node, exp.Column) else f"column_{len(names) + 1}"
            names.append(wanted if wanted not in names else f"{wanted}_{len(names) + 1}")
            is_named = isinstance(node, exp.Column) and node.name == names[-1]
            shown.append(node if is_named else exp.Alias(this=node, alias=name(names[-1])))
        inner = exp.Subquery(this=query.select(shown), alias=exp.TableAlias(this=name(alias)))
        for number, called in zip(query.outputs, names, strict=True):
            self.columns[number] = exp.Column(this=name(called), table=name(alias))
        return _Query(_ids(columns), inner)

    # ------------------------------------------------------------------------------------------ joins

    def _join(self, join: HashJoin | MergeJoin) -> _Query:
        left, right = self._query(join.left), self._query(join.right)
        if not left.is_plain or (left.where and join.kind == "full"):
            left = self._derived(left, join.left.columns)
        if join.kind in ("semi", "anti"):
            left.where.append(self._partner(join, right))
            self._rename_joined(join, left, ())
            return left
        outer = join.kind != "inner"
        computed = any(not isinstance(self._column(number), exp.Column) for number in right.outputs)
        if not right.is_plain or (right.where and outer) or (computed and outer) or (right.joins and outer):
            right = self._derived(right, join.right.columns)
        if join.kind == "full" and any(not isinstance(self._column(number), exp.Column) for number in left.outputs):
            left = self._derived(left, join.left.columns)
        source = right.source
        if right.joins:
            source = exp.Paren(this=source)
            source.this.set("joins", right.joins)
        condition = conjunction(self._terms(join))
        joined = exp.Join(this=source, on=condition, side=_JOINS[join.kind] or None)
        left.joins.append(joined)
        left.where += right.where
        self._rename_joined(join, left, right.outputs)
        return left

    def _rename_joined(self, join: HashJoin | MergeJoin, query: _Query, more: Sequence[ColumnId]) -> None:
        """A join's columns are those of its sides, by the same ids, not always all of them."""
        if any(column.id not in self.columns for column in join.columns):
            query.outputs = [*query.outputs, *more]
            self._rename(join, query)
        query.outputs = _ids(join.columns)

    def _terms(self, join: HashJoin | MergeJoin) -> list[exp.Expression]:
        terms = self.all(join.condition) or [
            exp.EQ(this=closed(self.of(one)), expression=closed(self.of(other)))
            for one, other in zip(join.left_keys, join.right_keys, strict=True)
        ]
        return terms if join.residual is None else [*terms, self.of(join.residual)]

    def _partner(self, join: HashJoin | MergeJoin, right: _Query) -> exp.Expression:
        """The condition that a semi or anti join is."""
        right = self._plain(right, join.right.columns)
        if isinstance(join, HashJoin) and join.null_aware:
            (left_key,), (right_key,) = join.left_keys, join.right_keys
            found = exp.In(this=closed(self.of(left_key)), query=exp.Subquery(this=right.select([self.of(right_key)])))
            return exp.Not(this=exp.Paren(this=found))
        right.where += self._terms(join)
        exists = exp.Exists(this=right.select([]))
        return exp.Not(this=exists) if join.kind == "anti" else exists

    # ------------------------------------------------------------------------------------------ halves of steps

    def _halved(self, step: Aggregate) -> tuple[list[exp.Expression], list[exp.Expression]]:
        """What a shard groups by, and what it gives."""
        tail = long_tail_of(step)
        sets = () if tail is None else tail.sets
        shown = [*self.all(step.groups), *self._partials(step.calls)]
        if sets:
            shown.append(exp.Alias(this=self._grouping(step.groups), alias=name("grouping")))
        return self._grouped_by(step.groups, sets), shown

    def _partials(self, calls: Sequence[AggregateCall]) -> list[exp.Expression]:
        """What a shard computes for calls, as output columns."""
        return [
            exp.Alias(this=self.aggregate(part, call), alias=name(called))
            for call, parts in zip(calls, partials(calls), strict=True)
            for part, called in parts
        ]

    def _most(self, limit: Expr | None, offset: Expr | None) -> exp.Expression | None:
        parts = [self.of(part) for part in (limit, offset) if part is not None]
        return exp.Add(this=parts[0], expression=parts[1]) if len(parts) == 2 else parts[0] if parts else None

    def _first_rows(self, step: FirstRows, query: _Query, columns: Sequence[OutputColumn]) -> exp.Expression:
        query = self._plain(query, columns)
        over = exp.Window(this=exp.Anonymous(this=step.counting), partition_by=self.all(step.groups))
        if step.keys:
            over.set("order", exp.Order(expressions=self.order(step.keys)))
        place = -1  # no column of the plan has this number
        self.columns[place] = over
        query.outputs = [*query.outputs, place]
        numbered = self._derived(query, columns)
        counted = self._column(place)
        numbered.where = [exp.LTE(this=counted, expression=closed(self.of(step.limit)))]
        return numbered.select(self._columns(_ids(columns)))

    def _change(self, relation: Update | Delete) -> exp.Expression:
        """An UPDATE or DELETE by a condition."""
        found = self._query(relation.source)
        if not found.is_plain or found.joins:
            raise Unwritable("source")
        where = exp.Where(this=conjunction(found.where)) if found.where else None
        if isinstance(relation, Delete):
            return exp.Delete(this=found.source, where=where)
        names = {column.number: column.name for column in relation.table.columns}
        assigned = [
            exp.EQ(this=exp.Column(this=name(names[number])), expression=self.of(value))
            for number, value in relation.assignments
        ]
        return exp.Update(this=found.source, expressions=assigned, where=where)


def _ids(columns: Sequence[OutputColumn]) -> list[ColumnId]:
    return [column.id for column in columns]
