"""The typed tree: what the binder makes of a statement, what the rules rewrite, what the executor compiles.

Every expression carries its SqlType; every implicit cast is spelt out; every column of every relation has an id that is
unique in the statement, so a rule may move an expression without renaming.  A ``ColumnRef`` to an id that the
relation's inputs do not produce is a reference to an outer query (a correlated subquery or LATERAL).

``SELECT name FROM users WHERE id = $1`` becomes::

    Project([(2, "name", ColumnRef(text, 2))],
        Filter(Call(bool, int8eq, [ColumnRef(int8, 1), Param(int8, 0)]),
            Scan(users, columns=((1, column 1), (2, column 2)))))
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.needs import Needs
from pydistdb.sql.catalog.view import VirtualTable
from pydistdb.sql.node import node
from pydistdb.sql.routines import RoutineFunction
from pydistdb.sql.types.base import AggregateFunction, Function, SqlType

ColumnId = int

VIEW_CHECK = "view\0"
"""What the names of checks start with that are a view's WITH CHECK OPTION; the view's name follows."""

KEY_NUMBER = 0
"""In place of a column's number: the row's key."""
VERSION_NUMBER = -1
"""The row's version, its xmin; ``old_ids`` has it only where the statement asks for it."""
DELETER_NUMBER = -2
"""The xmax of a row that is being written: this transaction's number if ON CONFLICT has updated it, else 0."""

# ------------------------------------------------------------------------------------------------ expressions


@node
class Expr:
    type: SqlType


@node
class Const(Expr):
    """A runtime value (None for NULL)."""

    value: Any


@node
class Param(Expr):
    """``$index+1``."""

    index: int


@node
class ColumnRef(Expr):
    id: ColumnId
    name: str = ""
    nullable: bool = True


@node
class Call(Expr):
    """A function, operator or cast.  ``modifier_call``: a length coercion, called with (value, modifier, explicit)."""

    function: Function
    arguments: tuple[Expr, ...]


@node
class And(Expr):
    arguments: tuple[Expr, ...]


@node
class Or(Expr):
    arguments: tuple[Expr, ...]


@node
class Not(Expr):
    argument: Expr


@node
class IsNull(Expr):
    argument: Expr
    negated: bool = False


@node
class BooleanTest(Expr):
    """IS [NOT] TRUE | FALSE | UNKNOWN; ``value`` None stands for UNKNOWN."""

    argument: Expr
    value: bool | None
    negated: bool = False


@node
class IsDistinct(Expr):
    """IS [NOT] DISTINCT FROM, by the type's equality function."""

    left: Expr
    right: Expr
    equality: Function
    negated: bool = False


@node
class Case(Expr):
    """Searched CASE (the simple form is bound to comparisons); ``default`` may be a NULL constant."""

    branches: tuple[tuple[Expr, Expr], ...]
    default: Expr


@node
class Coalesce(Expr):
    arguments: tuple[Expr, ...]


@node
class MinMax(Expr):
    """GREATEST or LEAST; NULLs are ignored."""

    arguments: tuple[Expr, ...]
    less: Function
    greatest: bool


@node
class InList(Expr):
    """``argument [NOT] IN (items)`` with one equality function for all items."""

    argument: Expr
    items: tuple[Expr, ...]
    equality: Function
    negated: bool = False


@node
class AnyAll(Expr):
    """``left operator ANY|ALL (array)``."""

    left: Expr
    array: Expr
    function: Function
    all: bool


@node
class ArrayLiteral(Expr):
    items: tuple[Expr, ...]


@node
class Subscript(Expr):
    """``array[i]`` (one index per dimension), or slices when ``slices`` holds (lower, upper) pairs."""

    array: Expr
    indexes: tuple[Expr, ...] = ()
    slices: tuple[tuple[Expr | None, Expr | None], ...] = ()


@node
class RowExpr(Expr):
    """A row: a record with these ``names`` (f1, f2 … if empty), or a composite type with an item for every slot."""

    items: tuple[Expr, ...]
    names: tuple[str, ...] = ()


@node
class FieldAccess(Expr):
    """``(row).field`` by position."""

    row: Expr
    position: int


@node
class Subquery(Expr):
    """A query as an expression.

    ``kind``: "exists", "scalar", "array", or "any" / "all" with ``test``, a boolean expression over the ColumnRefs of
    the subquery's output and the outer row.  IN (SELECT …) is "any" with an equality.  "call": the value of the
    RoutineScan in ``query``, anew for every row if the function is volatile; "rows": all of them, as a list (only in
    the SetCall that yields them).
    """

    kind: str
    query: Rel
    test: Expr | None = None


@node
class SetCall(Expr):
    """A set-returning function in a select list; the binder puts it only directly into a ProjectSet."""

    function: Function
    arguments: tuple[Expr, ...]


# ------------------------------------------------------------------------------------------------ relations


@node
class OutputColumn:
    id: ColumnId
    name: str
    type: SqlType


@node
class Rel:
    """A relation; ``columns`` is its output, in order."""

    columns: tuple[OutputColumn, ...]


@node
class Scan(Rel):
    """All rows of a stored table; ``numbers[i]`` is the column number behind ``columns[i]`` (0: the row's key, as bytes,
    which UPDATE and DELETE need)."""

    table: Table
    numbers: tuple[int, ...]
    alias: str = ""
    current_of: str = ""
    """Only the row that this cursor is on (WHERE CURRENT OF)."""


@node
class VirtualScan(Rel):
    """All rows of a virtual table; ``positions[i]`` is where ``columns[i]`` stands in its rows."""

    table: VirtualTable
    positions: tuple[int, ...]
    alias: str = ""


@node
class SequenceScan(Rel):
    """The one row of a sequence read as a table; ``numbers[i]``: 1 last_value, 2 log_cnt, 3 is_called."""

    table: Table
    numbers: tuple[int, ...]


@node
class FunctionScan(Rel):
    """The rows of a set-returning (or scalar) function; the last column counts them if ``ordinality``."""

    function: Function
    arguments: tuple[Expr, ...]
    ordinality: bool = False
    alias: str = ""


@node
class RoutineScan(Rel):
    """The rows that a function written in SQL returns, by running its statements.

    ``whole``: a single column with each row as one value (a call in an expression), else a column per result column."""

    function: RoutineFunction
    arguments: tuple[Expr, ...]
    whole: bool = False
    alias: str = ""


@node
class Values(Rel):
    rows: tuple[tuple[Expr, ...], ...]


@node
class Filter(Rel):
    input: Rel
    condition: Expr


@node
class Project(Rel):
    """``expressions[i]`` computes ``columns[i]``."""

    input: Rel
    expressions: tuple[Expr, ...]


@node
class ProjectSet(Rel):
    """A projection in which some expressions are SetCalls, advanced in step (Postgres 10 and later)."""

    input: Rel
    expressions: tuple[Expr, ...]


@node
class Join(Rel):
    """``kind``: "inner", "left", "right", "full", "semi", "anti"; cross joins are inner with a TRUE condition.

    ``lateral``: the right side refers to columns of the left.  ``null_aware``: an anti join for NOT IN.
    """

    kind: str
    left: Rel
    right: Rel
    condition: Expr
    lateral: bool = False
    null_aware: bool = False


@node
class SortKey:
    expression: Expr
    descending: bool = False
    nulls_first: bool = False


@node
class AggregateCall:
    function: AggregateFunction
    arguments: tuple[Expr, ...]
    distinct: bool = False
    filter: Expr | None = None
    order_by: tuple[SortKey, ...] = ()


@node
class Aggregate(Rel):
    """GROUP BY: output columns are the groups, then the calls, then the groupings.  No groups: exactly one output row.

    ``grouping_sets``: positions into ``groups``, one tuple per set; empty for plain GROUP BY.  ``groupings``: the
    arguments of each GROUPING() as such positions; its value has a bit for each that is not in the row's set."""

    input: Rel
    groups: tuple[Expr, ...]
    calls: tuple[AggregateCall, ...]
    grouping_sets: tuple[tuple[int, ...], ...] = ()
    groupings: tuple[tuple[int, ...], ...] = ()


@node
class WindowCall:
    """A window function call; ``function`` is a window Function (called on a partition) or an aggregate."""

    function: Function | AggregateFunction
    arguments: tuple[Expr, ...]
    partition_by: tuple[Expr, ...] = ()
    order_by: tuple[SortKey, ...] = ()
    frame: tuple[Any, ...] = ()
    """``(unit, (start, offset), (end, offset), exclusion)``: unit rows|range|groups, bounds "unbounded preceding",
    "preceding", "current row", "following" or "unbounded following" with their offset or None, exclusion "",
    "current row", "group" or "ties".  Empty: the default, range from unbounded preceding to the current row."""
    filter: Expr | None = None


@node
class Window(Rel):
    """Output: the input's columns, then one per call."""

    input: Rel
    calls: tuple[WindowCall, ...]


@node
class FirstRows(Rel):
    """The rows of each group that are the first ``limit`` of it by ``keys``, and perhaps some more.

    ``counting``: row_number, rank or dense_rank: what of a row is at most ``limit``."""

    input: Rel
    groups: tuple[Expr, ...]
    keys: tuple[SortKey, ...]
    limit: Expr
    counting: str


@node
class Sort(Rel):
    input: Rel
    keys: tuple[SortKey, ...]


@node
class Limit(Rel):
    """``limit`` None: no limit.  ``with_ties`` needs the Sort below."""

    input: Rel
    limit: Expr | None
    offset: Expr | None
    with_ties: bool = False


@node
class Distinct(Rel):
    """``on``: DISTINCT ON expressions (the first row of each in input order, which is kept); empty for all columns."""

    input: Rel
    on: tuple[Expr, ...] = ()


@node
class SetOperation(Rel):
    """``kind``: "union", "intersect", "except"; both sides already have the output's types, by position."""

    kind: str
    all: bool
    left: Rel
    right: Rel


@node
class Cte(Rel):
    """``definition`` is computed once and read by CteScans of ``cte_id`` in ``body``; ``step`` makes it recursive
    (``union_all`` or not), with CteScans of the same id inside ``step`` reading the working table.

    ``materialized``: as written, None if left to the planner.  ``definition`` may be an Insert, Update or Delete; it
    runs
    whether or not it is referred to."""

    cte_id: int
    definition: Rel
    body: Rel
    step: Rel | None = None
    union_all: bool = True
    materialized: bool | None = None


@node
class CteScan(Rel):
    cte_id: int


@node
class LockRows(Rel):
    """SELECT … FOR UPDATE/SHARE: locks the rows of ``targets``; each is (table, id of its key column).

    ``strength`` and ``wait`` are numbers of kv's LockStrength and WaitPolicy.  A NULL key (outer join) locks nothing."""

    input: Rel
    targets: tuple[tuple[Table, ColumnId], ...]
    strength: int
    wait: int


# ------------------------------------------------------------------------------------------------ statements


@node
class Insert(Rel):
    """``columns``: RETURNING's output (empty without).  ``source`` yields one value per entry of ``target_numbers``,
    already cast; columns left out are filled from ``defaults`` (by column number; absent: NULL).

    ``row_ids`` names, by column number, the ColumnIds under which checks and RETURNING see the new row."""

    table: Table
    source: Rel
    target_numbers: tuple[int, ...]
    defaults: dict[int, Expr]
    checks: tuple[tuple[str, Expr], ...]
    row_ids: dict[int, ColumnId]
    returning: tuple[Expr, ...] = ()
    on_conflict: OnConflict | None = None
    generated: tuple[tuple[int, Expr], ...] = ()
    """Generated columns by number, computed over the rest of the new row, before the checks."""


@node
class OnConflict:
    """``indexes``: storage ids of the arbiters (None: any).  ``assignments`` empty: DO NOTHING.  ``excluded_ids`` names the
    proposed row's columns, ``Insert.row_ids`` the existing row's while assignments and condition are evaluated."""

    indexes: tuple[int, ...] | None
    assignments: tuple[tuple[int, Expr], ...] = ()
    condition: Expr | None = None
    excluded_ids: dict[int, ColumnId] = field(default_factory=dict)
    row: Rel | None = None
    """Made by the planner if there are queries in DO UPDATE: their values over the CTE ``row_id``, whose one row is the
    existing row and the excluded one."""
    row_id: int = 0


@node
class Update(Rel):
    """``source`` yields the target's key (``key_id``), all its columns (``old_ids``) and whatever FROM brings;
    ``assignments`` are evaluated over it.  ``new_ids``: the new row, for checks and RETURNING.

    ``recheck`` is the part of the WHERE clause to evaluate again when a locked row turns out to have changed; where there are
    queries in it, or in the assignments (``has_queries``), the statement starts again instead."""

    table: Table
    source: Rel
    key_id: ColumnId
    old_ids: dict[int, ColumnId]
    assignments: tuple[tuple[int, Expr], ...]
    new_ids: dict[int, ColumnId]
    checks: tuple[tuple[str, Expr], ...]
    recheck: Expr | None = None
    returning: tuple[Expr, ...] = ()
    generated: tuple[tuple[int, Expr], ...] = ()
    """As in Insert, over ``new_ids``."""
    has_queries: bool = False


@node
class Delete(Rel):
    table: Table
    source: Rel
    key_id: ColumnId
    old_ids: dict[int, ColumnId]
    recheck: Expr | None = None
    returning: tuple[Expr, ...] = ()


@node
class MergeAction:
    """WHEN [NOT] MATCHED AND ``condition`` THEN ``kind``: update, delete, insert or nothing.

    ``values`` by column number: the assignments of an update, the new row of an insert (absent: NULL)."""

    kind: str
    matched: bool
    condition: Expr | None
    values: tuple[tuple[int, Expr], ...] = ()


@node
class Merge(Rel):
    """``source`` joins MERGE's source with the target's key (``key_id``; NULL: not matched) and columns (``old_ids``).

    ``condition`` is the ON clause, to evaluate again on rows that have changed; ``row_ids``: a new row, for checks and
    generated columns."""

    table: Table
    source: Rel
    key_id: ColumnId
    old_ids: dict[int, ColumnId]
    condition: Expr
    actions: tuple[MergeAction, ...]
    row_ids: dict[int, ColumnId]
    checks: tuple[tuple[str, Expr], ...]
    generated: tuple[tuple[int, Expr], ...] = ()
    has_queries: bool = False
    """As in Update: in the conditions and values of its actions."""


@node
class BoundStatement:
    """A bound SELECT, INSERT, UPDATE, DELETE, MERGE or VALUES.

    ``tables``: oids of the stored tables it touches.  ``tag``: SELECT, INSERT, UPDATE, DELETE, MERGE.  ``has_rows``: it
    returns rows to the client, described by ``query.columns``."""

    query: Rel
    parameter_types: tuple[SqlType, ...]
    tag: str
    has_rows: bool
    tables: frozenset[int]
    volatile: bool = False
    needs: Needs = ()
    """What privileges it takes to run it."""
