"""Physical operators: how a relation is computed.

A physical tree is made of the typed tree's own relations where there is only one way to do a thing (Filter, Project,
Aggregate, Limit …) and of the nodes below where the planner chose one.  ``SELECT v FROM t WHERE id = $1`` becomes::

    Project([v], TableScan(t, columns id and v, Access(t_pkey, equal=[$1])))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

from pydistdb.sql.catalog.descriptors import Index, Table
from pydistdb.sql.catalog.view import VirtualTable
from pydistdb.sql.node import node
from pydistdb.sql.tree import ColumnId, Expr, Rel, SortKey


@node
class Term:
    """What one leading index column must equal: any of ``alternatives``, or any item of ``array``; ``is_null`` alone.

    ``between``: a shard column, whatever lies within two bounds, (expression, inclusive) each, if these are few values."""

    alternatives: tuple[Expr, ...] = ()
    array: Expr | None = None
    is_null: bool = False
    between: tuple[tuple[Expr, bool], ...] = ()


@node
class Probe:
    """What an inverted index is asked: its key number ``column``, ``operator``, ``value``."""

    column: int
    operator: str
    value: Expr


def expressions_of(
    terms: Sequence[Term], lower: Sequence[tuple[Expr, bool]], upper: Sequence[tuple[Expr, bool]]
) -> list[Expr]:
    """What terms and bounds are computed from, in order."""
    found: list[Expr] = []
    for term in terms:
        found.extend(term.alternatives)
        if term.array is not None:
            found.append(term.array)
        found.extend(pair[0] for pair in term.between)
    found.extend(pair[0] for pair in (*lower, *upper))
    return found


@node
class Skip:
    """What lies behind ``columns`` columns of an index, on which there is no condition: looked up for each of their values.

    Behind them, as in Access.  ``first``: nothing, and only the first entry of each value is wanted."""

    columns: int
    equal: tuple[Term, ...] = ()
    lower: tuple[tuple[Expr, bool], ...] = ()
    upper: tuple[tuple[Expr, bool], ...] = ()
    first: bool = False

    @property
    def expressions(self) -> list[Expr]:
        """Whatever the bounds are computed from, in order."""
        return expressions_of(self.equal, self.lower, self.upper)


@node
class Access:
    """Which entries of an index to read: those whose leading columns meet ``equal`` and whose next lies in the bounds.

    ``lower`` and ``upper`` are (expression, inclusive) pairs or empty.  ``terms`` is the condition in SQL's words."""

    index: Index
    equal: tuple[Term, ...] = ()
    lower: tuple[tuple[Expr, bool], ...] = ()
    upper: tuple[tuple[Expr, bool], ...] = ()
    reverse: bool = False
    terms: tuple[Expr, ...] = ()
    enforced: tuple[Expr, ...] = ()
    """More of the condition's terms that hold for every entry, since a partial index's predicate implies them."""
    probes: tuple[Probe, ...] = ()
    """Of an inverted index: what is found are candidates, of which ``terms`` are checked."""
    shards: tuple[Term, ...] = ()
    """Where the index's columns do not tell the shards to read: what each shard column must equal; none: any.  These
    terms stay in the condition."""
    shard_lower: tuple[tuple[Expr, bool], ...] = ()
    shard_upper: tuple[tuple[Expr, bool], ...] = ()
    """Or the bounds of the single shard column."""

    skip: Skip | None = None
    """Behind ``equal``: columns to skip, and what is looked for behind them."""
    also: tuple[Access, ...] = ()
    """Other indexes in which a row must be found as well."""
    gate: tuple[Expr, ...] = ()
    """Terms that speak of no column of the table: where one is not true, nothing is read."""

    @property
    def expressions(self) -> list[Expr]:
        """Whatever the bounds are computed from, in order."""
        found: list[Expr] = []
        for terms, lower, upper in (
            (self.equal, self.lower, self.upper),
            (self.shards, self.shard_lower, self.shard_upper),
        ):
            found += expressions_of(terms, lower, upper)
        return found

    @property
    def is_routed(self) -> bool:
        """Shards are chosen beside the index's columns."""
        return bool(self.shards or self.shard_lower or self.shard_upper)

    @property
    def may_read_all(self) -> bool:
        """Whether it turns out in each run if the bounds of the shard columns, and so the others, are of any use."""
        return any(term.between for term in self.shards)

    def left_over(self, terms: Sequence[Expr]) -> list[Expr]:
        """The terms that are still to be checked on every row."""
        return list(terms) if self.probes or self.may_read_all else self.others(terms)

    def others(self, terms: Sequence[Expr]) -> list[Expr]:
        """The terms that the index has no part in."""
        return [term for term in terms if term not in self.terms and term not in self.enforced]

    @property
    def is_point(self) -> bool:
        """Each combination of the terms names at most one entry."""
        return (
            self.index.unique
            and not self.index.deferrable
            and len(self.equal) == len(self.index.columns)
            and not any(term.is_null for term in self.equal)
        )


@node
class TableScan(Rel):
    """Rows of a stored table through one of its indexes (the primary index without terms: a sequential scan).

    ``numbers[i]`` is the column behind ``columns[i]`` (0: the row's key); ``condition`` is checked on every row.
    ``most_rows``: expressions whose sum is how many rows will be asked for at most (a hint)."""

    table: Table
    alias: str
    numbers: tuple[int, ...]
    access: Access
    condition: Expr | None = None
    most_rows: tuple[Expr, ...] = ()
    rows: float = 1000.0
    cost: float = 1000.0
    """Of reading what the access path says, whether or not it passes the condition."""
    current_of: str = ""
    """Only the row that this cursor is on."""
    index_only: bool = False
    """The index's entries hold every column asked for: the rows themselves are not read."""


@node
class VirtualTableScan(Rel):
    """Rows of a virtual table, by one of its lookups (a column name and a value) if there is one."""

    table: VirtualTable
    positions: tuple[int, ...]
    alias: str
    lookup_column: str = ""
    lookup_value: Expr | None = None
    rows: float = 100.0


@node
class HashJoin(Rel):
    """Joins on equality of ``left_keys`` and ``right_keys``; the right side is built into the table.

    ``kind``: inner, left, full, semi, anti.  ``residual`` is checked on every pair."""

    kind: str
    left: Rel
    right: Rel
    left_keys: tuple[Expr, ...]
    right_keys: tuple[Expr, ...]
    residual: Expr | None = None
    null_aware: bool = False
    condition: tuple[Expr, ...] = ()
    """The equalities as written, for EXPLAIN."""
    rows: float = 1000.0


@node
class RightHashJoin(HashJoin):
    """The same with the left side, the smaller one, built into the table (smaller_side.py).  ``kind``: left, semi, anti."""

    sends_keys: bool = False
    """Few of the right rows are expected to find a partner: have the others dropped where they are scanned."""


@node
class MergeJoin(Rel):
    """Joins on equality of ``left_keys`` and ``right_keys``, by which both sides come sorted, in this order.

    ``kind``: inner, left, full, semi, anti."""

    kind: str
    left: Rel
    right: Rel
    left_keys: tuple[Expr, ...]
    right_keys: tuple[Expr, ...]
    residual: Expr | None = None
    condition: tuple[Expr, ...] = ()
    rows: float = 1000.0


@node
class LookupJoin(Rel):
    """For each batch of left rows, fetches the right table's rows by a unique index in one request.

    ``kind``: inner, left, semi, anti; ``keys`` (over the left row) give the index columns in order."""

    kind: str
    left: Rel
    scan: Rel
    keys: tuple[Expr, ...]
    residual: Expr | None = None
    rows: float = 1000.0


@node
class NestedLoop(Rel):
    """Runs ``right`` for every left row if ``outer_ids`` (columns it takes from the left row), else once, and pairs them.

    ``kind``: inner, left, full, semi, anti."""

    kind: str
    left: Rel
    right: Rel
    condition: Expr | None
    outer_ids: tuple[ColumnId, ...] = ()
    null_aware: bool = False
    rows: float = 1000.0


@node
class AtShards(Rel):
    """``input`` can be done range by range, each where it lies, and its rows are those of all ranges (cut.py)."""

    input: Rel


@node
class Exchange(Rel):
    """The rows of ``input``, an AtShards or a Repartitioned, dealt out over the nodes by the hash of ``keys``."""

    input: Rel
    keys: tuple[Expr, ...]


@node
class Repartitioned(Rel):
    """``input`` stands on Exchanges and can be done by each node for the rows it is dealt (repartition.py)."""

    input: Rel


@node
class Leaf(Rel):
    """In a part of a plan that runs elsewhere: the rows of its scan, or of what it is dealt (or, ``broadcast``, of its given
    table) ``number``."""

    number: int
    broadcast: bool
    not_null: tuple[ColumnId, ...] = ()


@node
class SubPlan:
    """A query in an expression; its value becomes the column ``id``.

    ``kind``: exists, scalar, array, any, all.  ``outer_ids``: the columns it takes from the row (none: run once).
    ``probe``: for "any" with a plain equality, the left operand to look up in the hashed first column."""

    id: ColumnId
    kind: str
    query: Rel
    outer_ids: tuple[ColumnId, ...]
    test: Expr | None = None
    probe: Expr | None = None
    volatile: bool = False
    guard: Expr | None = None
    """Computed only for rows of which this is true: the branch of a CASE in which the query stands is taken."""


@node
class Apply(Rel):
    """Adds to each input row the value of each subplan, remembered per combination of outer values."""

    input: Rel
    subplans: tuple[SubPlan, ...]


@node
class TopN(Rel):
    """Sort and Limit in one: keeps only the first rows."""

    input: Rel
    keys: tuple[SortKey, ...]
    limit: Expr
    offset: Expr | None


@node
class IncrementalSort(Rel):
    """The input is sorted by the first ``presorted`` keys already."""

    input: Rel
    keys: tuple[SortKey, ...]
    presorted: int = field(default=0)


@node
class LockedRows(Rel):
    """LockRows that stops once it has locked as many rows as will be asked for (the sum of ``most_rows``)."""

    input: Rel
    targets: tuple[tuple[Table, ColumnId], ...]
    strength: int
    wait: int
    most_rows: tuple[Expr, ...] = ()
