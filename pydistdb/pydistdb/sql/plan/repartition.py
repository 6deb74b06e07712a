"""Joins and groups of what lies apart: both sides dealt out over the nodes by the hash of their keys.

Tables that are not of one colocation group, and of which none is small, do not meet where they lie (cut.py).  Brought to the
gateway, all their rows cross the network and one node does all the work.  Dealt out by the hash of the join's keys, as many
rows cross it, but equal keys meet at one node, every node does its share, and what leaves the nodes is what the step above
makes of it::

    Aggregate [city] [count(*)]                      gateway: adds up 3 x 20 groups
      Repartitioned
        HashJoin (o.cust = c.id)                     node k of 3: the rows with hash(key) % 3 = k of both sides
          Exchange (o.cust)   AtShards orders ⋈ items    at the shards: a collocated join, its rows dealt
          Exchange (c.id)     AtShards customers

``GROUP BY`` with many groups deals the shards' partial groups by their keys, and each node finishes its own; calls with DISTINCT
get their groups whole in the same way, and where all have the same argument it is the distinct values that are dealt::

    count(DISTINCT x)        Aggregate count(x) over Repartitioned(Distinct over Exchange (x))

and where they are few, it is the shards that find them (Aggregate count(x) over Distinct, distribute.py).

Window functions get their partitions whole so too, by the columns that all of them partition by, where what stands above leaves
few of the rows.

The inputs of an exchange may be repartitioned themselves; small tables are sent along to every node, as to the shards.  What is
best is found by cost, for ASSUMED_NODES, bytes between nodes included; how many there are, and whether ranges lie on several at
all, is seen when the plan runs (exec/repartition.py).

Source: DeWitt and Gray, "Parallel database systems" (1992); Graefe, "Volcano" (1994), on the exchange operator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import count
from math import exp

from pydistdb.sql.plan.cost import (
    ANSWER_ROWS,
    ASSUMED_NODES,
    DEAL_ROW_COST,
    EXCHANGE_COST,
    HASH_ROW_COST,
    LEFT_ROW_COST,
    NETWORK_BYTE_COST,
    ROW_COST,
)
from pydistdb.sql.plan.cut import MOST_BROADCAST_ROWS, MOST_REFERENCE_ROWS, Cut, cut, of_references
from pydistdb.sql.plan.distribute import Tail, tail_of
from pydistdb.sql.plan.estimate import Estimator
from pydistdb.sql.plan.expressions import (
    direct_parts,
    free_columns,
    greatest_id,
    has_subquery,
    is_volatile,
    map_parts,
    relation_is_volatile,
)
from pydistdb.sql.plan.ordering import ordering
from pydistdb.sql.plan.physical import AtShards, Exchange, HashJoin, Leaf, Repartitioned, RightHashJoin, TableScan, TopN
from pydistdb.sql.tree import (
    Aggregate,
    ColumnRef,
    Distinct,
    Expr,
    Filter,
    FirstRows,
    Limit,
    OutputColumn,
    Project,
    Rel,
    Sort,
    Window,
)

_TEXT_BYTES = 24
LEAST_REPETITIONS = 4.0
"""How often a value must come in a group for DISTINCT calls to be done in two steps at the shards and here."""
_REMOTE_SHARE = (ASSUMED_NODES - 1) / ASSUMED_NODES
"""Of rows that go to a node as if by chance: one in so many is there already."""


def repartition(relation: Rel, estimator: Estimator) -> Rel:
    """The plan with the parts that are worth it done over an exchange."""
    if estimator.extra("repartition"):
        return relation
    return _Pass(relation, estimator).marked(relation, None, hurried=False)


def staged(relation: Rel) -> Cut:
    """The input of a Repartitioned taken apart: what a node does, what it is dealt, and the tables that it is given."""
    exchanges: list[Exchange] = []
    tails: list[Tail | None] = []
    given: list[Rel] = []

    def part(node: Rel, above: Rel | None = None) -> Rel:
        if isinstance(node, Exchange):
            exchanges.append(node)
            tails.append(None if above is None else tail_of(above))
            return Leaf(node.columns, len(exchanges) - 1, False)
        if isinstance(node, HashJoin):
            left = part(node.left)
            if isinstance(node.right, Exchange):
                right = part(node.right)
            else:
                given.append(node.right)
                right = Leaf(node.right.columns, len(given) - 1, True)
            return replace(node, left=left, right=right, condition=())
        return map_parts(node, on_relation=lambda below: part(below, node))

    whole = part(relation)
    return Cut(whole, (), tuple(given), False, 0, False, (), frozenset(), tuple(exchanges), tuple(tails))


class _Pass:
    def __init__(self, root: Rel, estimator: Estimator) -> None:
        self.rows = estimator.rows
        self.estimator = estimator
        self.forced = bool(estimator.extra("gatewayjoin"))
        self.root = root
        self.refused: dict[tuple[int, float], Rel] = {}
        """Relations, by id, that are not worth an exchange if the step above leaves so many rows."""

    @cached_property
    def ids(self) -> Iterator[int]:
        """For new columns, which few plans need."""
        return count(greatest_id(self.root) + 1)

    def marked(self, relation: Rel, leaving: float | None, *, hurried: bool) -> Rel:
        """``leaving``: how many rows the step above leaves over at the nodes; ``hurried``: it wants the first few only."""
        if isinstance(relation, AtShards):
            return relation
        if isinstance(relation, RightHashJoin):  # its right side is sent keys, and leaves little to be dealt
            return replace(relation, left=self.marked(relation.left, None, hurried=False))
        if isinstance(relation, HashJoin | Filter | Project | Aggregate | Distinct | Window) and not hurried:
            found = self._stage(relation, self.rows(relation) if leaving is None else leaving)
            if found is not None and not ordering(relation)[0] and not free_columns(relation):
                return Repartitioned(relation.columns, found)
            if isinstance(relation, Aggregate):
                relation = self._distinct_values(relation) or relation
        if isinstance(relation, Repartitioned):
            return relation
        below: float | None = None
        if isinstance(relation, Aggregate | TopN | Distinct | FirstRows) and tail_of(relation) is not None:
            below = self.rows(relation) * ASSUMED_NODES
        if isinstance(relation, Limit):
            hurried = True
        elif isinstance(relation, Aggregate | TopN | Sort | Window):
            hurried = False
        return map_parts(relation, on_relation=lambda part: self.marked(part, below, hurried=hurried))

    # ------------------------------------------------------------------------------------------ stages

    def _stage(self, relation: Rel, leaving: float) -> Rel | None:
        """The relation upon exchanges."""
        key = (id(relation), leaving)
        found = None if key in self.refused else self._staged(relation, leaving)
        if found is None:
            self.refused[key] = relation
        return found

    def _staged(self, relation: Rel, leaving: float) -> Rel | None:
        match relation:
            case Filter() if not has_subquery(relation.condition) and not is_volatile(relation.condition):
                below = self._stage(relation.input, leaving)
                return below and replace(relation, input=below)
            case Project() if not any(has_subquery(each) or is_volatile(each) for each in relation.expressions):
                below = self._stage(relation.input, leaving)
                return below and replace(relation, input=below)
            case HashJoin() if not relation.null_aware and not isinstance(relation, RightHashJoin):
                return self._join(relation, leaving)
            case Aggregate() if relation.groups and not relation.grouping_sets and not relation.groupings:
                return self._grouped(relation, relation.groups, leaving)
            case Distinct(on=()) if relation.columns:
                keys = tuple([ColumnRef(column.type, column.id) for column in relation.input.columns])
                return self._grouped(relation, keys, leaving)
            case Window():
                return self._windowed(relation, leaving)
        return None

    def _join(self, join: HashJoin, leaving: float) -> Rel | None:
        left_rows, right_rows = self.rows(join.left), self.rows(join.right)
        most = MOST_REFERENCE_ROWS if of_references(join.right) else MOST_BROADCAST_ROWS
        if (
            right_rows <= most
            and join.kind != "full"
            and not free_columns(join.right)
            and not relation_is_volatile(join.right)
        ):
            below = self._stage(join.left, leaving)
            if below is not None:
                return replace(join, left=below, right=self.marked(join.right, None, hurried=False))
        if not self.forced and not self._join_pays(join, left_rows, right_rows, leaving):
            return None
        left, right = self._source(join.left), self._source(join.right)
        if left is None or right is None:
            return None
        return replace(
            join,
            left=Exchange(join.left.columns, left, join.left_keys),
            right=Exchange(join.right.columns, right, join.right_keys),
        )

    def _grouped(self, relation: Aggregate | Distinct, keys: tuple[Expr, ...], leaving: float) -> Rel | None:
        if not self.forced and not self._groups_pay(relation, leaving):
            return None
        if any(has_subquery(key) or is_volatile(key) for key in keys):
            return None
        source = self._source(relation.input)
        return source and replace(relation, input=Exchange(relation.input.columns, source, keys))

    def _windowed(self, relation: Window, leaving: float) -> Rel | None:
        keys = [
            key for key in relation.calls[0].partition_by if all(key in call.partition_by for call in relation.calls)
        ]
        rows, width = self.rows(relation), row_bytes(relation.input.columns)
        pays = self._pays(rows * width, rows, rows * HASH_ROW_COST, min(leaving, rows), row_bytes(relation.columns))
        if not keys or not (pays or self.forced):
            return None
        if any(has_subquery(each) or is_volatile(each) for each in direct_parts(relation)[0]):
            return None
        source = self._source(relation.input)
        return source and replace(relation, input=Exchange(relation.input.columns, source, tuple(keys)))

    def _source(self, relation: Rel) -> Rel | None:
        """What can be dealt out from where it is: done at the shards, or over an exchange of its own."""
        if isinstance(relation, AtShards | Repartitioned):
            return relation
        if free_columns(relation):
            return None
        found = cut(relation) if isinstance(_scanned(relation), TableScan) else None
        if found is not None and not found.broadcast:
            return AtShards(relation.columns, relation)
        below = self._stage(relation, self.rows(relation))
        return below and Repartitioned(relation.columns, below)

    def _distinct_values(self, relation: Aggregate) -> Rel | None:
        """Calls that all have the same DISTINCT argument, as calls upon distinct rows."""
        calls = relation.calls
        if not calls or relation.grouping_sets or relation.groupings:
            return None
        plain = tuple([replace(call, distinct=False) for call in calls])
        if (
            any(not call.distinct or call.filter is not None or call.order_by for call in calls)
            or any(call.arguments != calls[0].arguments for call in calls)
            or tail_of(replace(relation, calls=plain)) is None
        ):
            return None
        below = relation.input.input if isinstance(relation.input, AtShards) else relation.input
        expressions = (*relation.groups, *calls[0].arguments)
        columns = tuple([OutputColumn(next(self.ids), "", each.type) for each in expressions])
        project = Project(columns, below, expressions)
        self.estimator.note_renamed(project)
        distinct = Distinct(columns, project, ())
        if free_columns(relation) or any(has_subquery(each) or is_volatile(each) for each in expressions):
            return None
        found = self._stage(distinct, self.rows(relation) * ASSUMED_NODES)
        if found is not None:
            source: Rel = Repartitioned(columns, found)
        elif self.rows(distinct) * LEAST_REPETITIONS <= self.rows(relation.input):
            at_shards = isinstance(relation.input, AtShards)
            source = replace(distinct, input=AtShards(columns, project) if at_shards else project)
        else:
            return None
        references = [ColumnRef(column.type, column.id) for column in columns]
        groups, arguments = references[: len(relation.groups)], references[len(relation.groups) :]
        calls = tuple([replace(call, arguments=tuple(arguments)) for call in plain])
        return replace(relation, input=source, groups=tuple(groups), calls=calls)

    # ------------------------------------------------------------------------------------------ costs

    def _join_pays(self, join: HashJoin, left: float, right: float, leaving: float) -> bool:
        rows = left + right
        made = self.rows(join)
        bytes_dealt = left * row_bytes(join.left.columns) + right * row_bytes(join.right.columns)
        work = rows * HASH_ROW_COST + made * ROW_COST
        return self._pays(bytes_dealt, rows, work, min(leaving, made), row_bytes(join.columns))

    def _groups_pay(self, relation: Aggregate | Distinct, leaving: float) -> bool:
        rows, groups = self.rows(relation.input), self.rows(relation)
        width = row_bytes(relation.input.columns)
        if isinstance(relation, Distinct) or tail_of(relation) is not None:
            rows, width = partial_rows(rows, groups), row_bytes(relation.columns)
        return self._pays(rows * width, rows, rows * ROW_COST, min(leaving, groups), row_bytes(relation.columns))

    @staticmethod
    def _pays(bytes_dealt: float, rows: float, work: float, rows_left: float, width_left: float) -> bool:
        """Whether sharing the work is worth the exchange: all rows to the gateway, or dealt and then what is left over."""
        at_gateway = bytes_dealt * _REMOTE_SHARE * NETWORK_BYTE_COST + work
        shared = (rows * DEAL_ROW_COST + work) / ASSUMED_NODES
        shared += (bytes_dealt / ASSUMED_NODES + rows_left * width_left) * _REMOTE_SHARE * NETWORK_BYTE_COST
        shared += rows_left * LEFT_ROW_COST
        return shared + EXCHANGE_COST < at_gateway


def _scanned(relation: Rel) -> Rel:
    while isinstance(relation, Filter | Project):
        relation = relation.input
    return relation


def partial_rows(rows: float, groups: float) -> float:
    """How many groups leave the shards: an answer is of so many rows, and begins with no groups.

    600,000 rows in 20,000 groups are expected to be 311,000, and not 20,000 a node; 534,640 they were, on a busy machine."""
    answers = max(rows / ANSWER_ROWS, ASSUMED_NODES)
    return min(answers * groups * (1 - exp(-rows / answers / groups)), rows)


def row_bytes(columns: Sequence[OutputColumn]) -> float:
    """About how long a row is on its way."""
    return 1 + sum(min(column.type.length, 9) if column.type.length > 0 else _TEXT_BYTES for column in columns)
