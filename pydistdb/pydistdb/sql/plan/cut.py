"""Which parts of a plan every range can do for itself, joins included.

Tables of a colocation group keep rows with equal shard columns in one *bucket*, the keys under one hash value, and a bucket
lies in one range (layout.py).  So a join on the shard columns pairs rows of a bucket with each other only, groups that
include them lie in one bucket each, and the rows of the whole are the rows of all buckets together::

    users u SHARD BY HASH (user_id), orders o SHARD BY HASH (user_id)

    u ⋈ o ON u.user_id = o.user_id                  bucket by bucket
    … GROUP BY u.user_id HAVING count(*) > 5        the groups are complete in their buckets: so are HAVING and top-N
    … GROUP BY u.city                               not; but the join is, and the shards add up what they have (distribute.py)
    rank() OVER (PARTITION BY u.user_id ORDER BY …) partitions are complete too: so is what window functions say

A table that is small can be given to every range: joined to one that is read where it lies, as the side that is looked up,
it gives the same rows range by range (inner, left, semi and anti joins, NOT IN too)::

    lineitem (6,000,000, in ranges) ⋈ nation (25, sent along)

REFERENCE tables are there to be joined so, whatever the proportion: nodes keep what they were sent, so that their rows cross the
network only when they have changed (exec/kept.py, exec/last_answers.py).

``cut`` takes such a plan apart into *leaves*, scans read piece by piece and tables that are sent along, and what is done
above them.  What buckets hold is followed from the leaves up as ``keys``: for each shard column the ids of the output
columns that are equal to it.

Source: DeWitt and Gray, "Parallel database systems" (1992); Shute et al., "F1" (2013), on joins of hierarchical tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydistdb.sql.plan.distribute import Tail, tail_of
from pydistdb.sql.plan.estimate import Estimator
from pydistdb.sql.plan.expressions import (
    all_relations,
    conjoin,
    conjuncts,
    direct_parts,
    free_columns,
    has_subquery,
    is_volatile,
    map_parts,
    relation_is_volatile,
)
from pydistdb.sql.plan.ordering import ordering
from pydistdb.sql.plan.physical import AtShards, Exchange, HashJoin, Leaf, TableScan, TopN
from pydistdb.sql.tree import (
    Aggregate,
    ColumnId,
    ColumnRef,
    Distinct,
    Expr,
    Filter,
    FirstRows,
    Limit,
    OutputColumn,
    Project,
    Rel,
    Window,
)

MOST_BROADCAST_ROWS = 20_000.0
"""Tables expected to be larger are not sent along."""
BROADCAST_RATIO = 4.0
"""How many times the rows of what is sent along there should be in what is read in place."""
MOST_REFERENCE_ROWS = 50_000.0
"""REFERENCE tables expected to be larger count as others do."""

Keys = tuple[frozenset[ColumnId], ...]
NO_GROUP = 0


@dataclass(frozen=True, slots=True)
class LeafScan:
    """A scan read piece by piece, with the projection that is done as its rows are decoded."""

    node: TableScan
    columns: tuple[OutputColumn, ...]
    output: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """A plan taken apart; ``part`` stands on Leaf nodes, ``broadcast`` are the plans of the tables that are sent along."""

    part: Rel
    scans: tuple[LeafScan, ...]
    broadcast: tuple[Rel, ...]
    by_bucket: bool
    """Buckets must be whole where the part runs: rows of several tables meet there, or groups are completed."""
    joins: int
    """How many joins are of tables of one group."""
    whole_groups: bool
    keys: Keys
    deciding: frozenset[int]
    """The numbers of tables sent along without whose rows there are none at all."""
    inputs: tuple[Exchange, ...] = ()
    """What is dealt to the nodes, in place of scans (repartition.py); ``input_tails``: what is done to it before."""
    input_tails: tuple[Tail | None, ...] = ()
    whole_partitions: bool = False
    references: int = 0
    """How many of the tables that are sent along are made of REFERENCE tables alone."""


@dataclass(frozen=True, slots=True)
class _Piece:
    part: Rel
    group: int
    keys: Keys
    deciding: frozenset[int] = frozenset()


class _Cutter:
    def __init__(self, refused: dict[int, Rel]) -> None:
        self.refused = refused
        """Relations, by id, that can't be taken apart: neither can what stands on them."""
        self.scans: list[LeafScan] = []
        self.broadcast: list[Rel] = []
        self.joins = 0
        self.groups = 0
        self.windows = 0

    def piece(self, relation: Rel) -> _Piece | None:
        found = None if id(relation) in self.refused else self._piece(relation)
        if found is None:
            self.refused[id(relation)] = relation
        return found

    def _piece(self, relation: Rel) -> _Piece | None:
        match relation:
            case TableScan():
                return self._scan(relation)
            case Filter() if not has_subquery(relation.condition) and not is_volatile(relation.condition):
                below = self.piece(relation.input)
                return below and replace(below, part=replace(relation, input=below.part))
            case Project():
                return self._project(relation)
            case HashJoin():
                return self._join(relation)
            case Aggregate():
                everywhere = set(range(len(relation.groups))).intersection(*relation.grouping_sets)
                return self._groups(relation, {number: relation.groups[number] for number in everywhere})
            case Distinct(on=()):
                own = [ColumnRef(column.type, column.id) for column in relation.input.columns]
                return self._groups(relation, dict(enumerate(own)))
            case Window():
                return self._window(relation)
            case FirstRows():  # of any part of the rows it keeps those wanted
                below = self.piece(relation.input)
                return below and replace(below, part=replace(relation, input=below.part))
        return None

    def _scan(self, scan: TableScan) -> _Piece | None:
        access, table = scan.access, scan.table
        primary = access.index is table.indexes[0]
        if (
            access.probes
            or access.skip
            or access.also
            or access.is_point
            or scan.current_of
            or not (primary or scan.index_only)
        ):
            return None
        keys: Keys = ()
        group = NO_GROUP
        whole = not (access.equal or access.lower or access.upper or access.is_routed)
        if whole and primary and table.sharding is not None and table.sharding.strategy == "hash":
            group = table.sharding.group
            keys = tuple(
                frozenset(column.id for column, each in zip(scan.columns, scan.numbers, strict=True) if each == number)
                for number in table.sharding.columns
            )
        own = tuple([ColumnRef(column.type, column.id) for column in scan.columns])
        self.scans.append(LeafScan(scan, scan.columns, own))
        return _Piece(Leaf(scan.columns, len(self.scans) - 1, False), group, keys)

    def _project(self, relation: Project) -> _Piece | None:
        if any(has_subquery(each) or is_volatile(each) for each in relation.expressions):
            return None
        below = self.piece(relation.input)
        if below is None:
            return None
        renamed: dict[ColumnId, list[ColumnId]] = {}
        for column, expression in zip(relation.columns, relation.expressions, strict=True):
            if isinstance(expression, ColumnRef):
                renamed.setdefault(expression.id, []).append(column.id)
        keys = tuple(frozenset(new for old in key for new in renamed.get(old, ())) for key in below.keys)
        part: Rel = replace(relation, input=below.part)
        if isinstance(below.part, Leaf) and isinstance(relation.input, TableScan):
            scan = self.scans[below.part.number]
            self.scans[below.part.number] = replace(scan, columns=relation.columns, output=relation.expressions)
            part = replace(below.part, columns=relation.columns)
        return _Piece(part, below.group, keys, below.deciding)

    def _join(self, join: HashJoin) -> _Piece | None:
        left = self.piece(join.left)
        if left is None:
            return None
        scans, broadcast = len(self.scans), len(self.broadcast)
        counts = self.joins, self.groups, self.windows
        right = self.piece(join.right)
        if right is not None and not join.null_aware and _meet_in_buckets(left, right, join):
            self.joins += 1
            part = replace(join, left=left.part, right=right.part, condition=())
            deciding = frozenset() if join.kind == "full" else left.deciding
            if join.kind in ("inner", "semi"):
                deciding |= right.deciding
            return _Piece(part, left.group, _within(_joined_keys(join.kind, left.keys, right.keys), join), deciding)
        del self.scans[scans:], self.broadcast[broadcast:]
        self.joins, self.groups, self.windows = counts
        if join.kind == "full" or free_columns(join.right) or relation_is_volatile(join.right):
            return None
        self.broadcast.append(join.right)
        given = Leaf(join.right.columns, len(self.broadcast) - 1, True)
        part = replace(join, left=left.part, right=given, condition=())
        deciding = left.deciding
        if join.kind in ("inner", "semi"):
            deciding |= {given.number}
        return _Piece(part, left.group, _within(left.keys, join), deciding)

    def _groups(self, relation: Aggregate | Distinct, groups: Mapping[int, Expr]) -> _Piece | None:
        """Groups that lie in one bucket each.  ``groups``: those that are in every grouping set, by their position."""
        below = self.piece(relation.input)
        if below is None or below.group == NO_GROUP:
            return None
        columns = relation.columns
        named = {group.id: columns[number].id for number, group in groups.items() if isinstance(group, ColumnRef)}
        keys = tuple(frozenset(named[old] for old in key if old in named) for key in below.keys)
        if not all(keys):
            return None
        self.groups += 1
        return _Piece(replace(relation, input=below.part), below.group, keys, below.deciding)

    def _window(self, relation: Window) -> _Piece | None:
        """Partitions that lie in one bucket each."""
        if any(has_subquery(each) or is_volatile(each) for each in direct_parts(relation)[0]):
            return None
        below = self.piece(relation.input)
        if below is None or below.group == NO_GROUP:
            return None
        for call in relation.calls:
            named = frozenset(each.id for each in call.partition_by if isinstance(each, ColumnRef))
            if not all(key & named for key in below.keys):
                return None
        self.windows += 1
        return replace(below, part=replace(relation, input=below.part), keys=_within(below.keys, relation))


def _meet_in_buckets(left: _Piece, right: _Piece, join: HashJoin) -> bool:
    """Whether the join's equalities cover the shard columns of both sides, column by column."""
    if left.group == NO_GROUP or left.group != right.group:
        return False
    pairs = [
        (one.id, other.id)
        for one, other in zip(join.left_keys, join.right_keys, strict=True)
        if isinstance(one, ColumnRef) and isinstance(other, ColumnRef)
    ]
    return all(
        any(one in here and other in there for one, other in pairs)
        for here, there in zip(left.keys, right.keys, strict=True)
    )


def _joined_keys(kind: str, left: Keys, right: Keys) -> Keys:
    match kind:
        case "inner":
            return tuple(one | other for one, other in zip(left, right, strict=True))
        case "full":
            return (frozenset(),) * len(left)
    return left  # the other side's columns are NULL where there was no partner


def _within(keys: Keys, relation: Rel) -> Keys:
    ids = frozenset(column.id for column in relation.columns)
    return tuple(key & ids for key in keys)


def cut(relation: Rel, refused: dict[int, Rel] | None = None) -> Cut | None:
    """Take a plan apart; None if some of it must be done in one place.

    ``refused`` keeps what can't be, for those who ask about one part of a tree after the other."""
    cutter = _Cutter({} if refused is None else refused)
    found = cutter.piece(relation)
    if found is None:
        return None
    by_bucket = bool(cutter.joins or cutter.groups or cutter.windows)
    return Cut(
        found.part,
        tuple(cutter.scans if len(cutter.scans) == 1 else map(_without_gate, cutter.scans)),
        tuple(cutter.broadcast),
        by_bucket,
        cutter.joins,
        bool(cutter.groups),
        found.keys,
        found.deciding,
        whole_partitions=bool(cutter.windows),
        references=sum(map(of_references, cutter.broadcast)),
    )


def _without_gate(scan: LeafScan) -> LeafScan:
    """The scan with what is to be tested before it in its condition: where several are read together, one may open."""
    access = scan.node.access
    if not access.gate:
        return scan
    condition = conjoin([*access.gate, *conjuncts(scan.node.condition)])
    return replace(scan, node=replace(scan.node, access=replace(access, gate=()), condition=condition))


def of_references(relation: Rel) -> bool:
    """Whether the rows come from REFERENCE tables alone."""
    scans = [part for part in all_relations(relation) if isinstance(part, TableScan)]
    return bool(scans) and all(scan.table.reference for scan in scans)


# ------------------------------------------------------------------------------------------------ the pass


def at_shards(relation: Rel, estimator: Estimator) -> Rel:
    """The plan with the largest parts that are worth it marked as AtShards."""
    return relation if estimator.extra("shardjoin") else _Pass(estimator).marked(relation, narrowed=False)


class _Pass:
    def __init__(self, estimator: Estimator) -> None:
        self._estimator = estimator
        self._refused: dict[int, Rel] = {}

    def marked(self, relation: Rel, *, narrowed: bool) -> Rel:
        """``narrowed``: the step above keeps a few of the rows only, and the shards can do so too."""
        found: Cut | None = None
        if isinstance(relation, HashJoin | Aggregate | Distinct | Window | Filter | Project):
            found = cut(relation, self._refused)
        if found is not None and self._is_worth_it(relation, found, narrowed):
            sent = {id(part) for part in found.broadcast}

            def below(part: Rel) -> Rel:
                if id(part) in sent:
                    return self.marked(part, narrowed=False)
                return map_parts(part, on_relation=below)

            return AtShards(relation.columns, below(relation))
        narrows = isinstance(relation, TopN | Limit)
        return map_parts(relation, on_relation=lambda part: self.marked(part, narrowed=narrows))

    def _is_worth_it(self, relation: Rel, found: Cut, narrowed: bool) -> bool:
        if ordering(relation)[0] or free_columns(relation):
            return False
        if found.broadcast and not _may_be_sent(found, self._estimator):
            return False
        if found.joins or found.broadcast or found.whole_partitions:
            return True
        # Whole groups are worth it where fewer of them leave the shards than there are, and where they can't be halved.
        return found.whole_groups and (narrowed or any(map(_gains_by_whole_groups, all_relations(relation))))


def _gains_by_whole_groups(part: Rel) -> bool:
    if isinstance(part, Filter):
        return any(isinstance(below, Aggregate) for below in all_relations(part.input))
    return isinstance(part, Aggregate) and tail_of(part) is None


def _may_be_sent(found: Cut, estimator: Estimator) -> bool:
    rows = {id(part): estimator.rows(part) for part in found.broadcast}
    sent = sum(
        rows[id(part)]
        for part in found.broadcast
        if not (of_references(part) and rows[id(part)] <= MOST_REFERENCE_ROWS)
    )
    read = max(estimator.rows(scan.node) for scan in found.scans)
    return sent <= MOST_BROADCAST_ROWS and sent * BROADCAST_RATIO <= read
