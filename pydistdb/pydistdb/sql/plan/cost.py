"""How many rows, at what cost: the numbers behind index and join choices.

Statistics come from the catalog where it has them (ANALYZE); otherwise a table counts as
DEFAULT_ROWS and a condition by its kind, with Postgres's default selectivities.  The unit of cost is one row of a
sequential scan (about 0.6 µs); the other figures are ratios to it, measured on the executor.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydistdb.sql.catalog.descriptors import Table, TableStatistics
from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.plan.comparisons import operator_name, written_operator
from pydistdb.sql.plan.physical import (
    Apply,
    HashJoin,
    IncrementalSort,
    LockedRows,
    LookupJoin,
    NestedLoop,
    TableScan,
    TopN,
    VirtualTableScan,
)
from pydistdb.sql.tree import (
    Aggregate,
    And,
    AnyAll,
    ArrayLiteral,
    Call,
    ColumnRef,
    Const,
    Cte,
    CteScan,
    Distinct,
    Expr,
    Filter,
    FunctionScan,
    InList,
    IsNull,
    Join,
    Limit,
    Not,
    Or,
    Project,
    ProjectSet,
    Rel,
    RoutineScan,
    Scan,
    SequenceScan,
    SetOperation,
    Sort,
    Subquery,
    Values,
    Window,
)
from pydistdb.sql.types.arrays import PgArray

DEFAULT_ROWS = 1000.0
RANGE_SELECTIVITY = 1 / 3
TWO_SIDED_SELECTIVITY = 0.05
OTHER_SELECTIVITY = 1 / 3
CONTAINMENT_SELECTIVITY = 0.01
_CONTAINMENT = frozenset({"@>", "<@", "&&", "?", "?|", "?&"})
DEFAULT_DISTINCT = 200.0

ROW_COST = 1.0
SECONDARY_ROW_COST = 4.0
"""A row found through a secondary index: its entry, and the fetch by key."""
LOOKUP_COST = 4.0
"""One key of a batched look-up."""
START_COST = 4.0
"""Opening a scan at a place."""
RESTART_COST = 40.0
"""Running the inner side of a nested loop anew."""
HASH_ROW_COST = 0.6
SORT_ROW_COST = 0.3


class Estimator:
    """Estimates for the relations of one statement."""

    def __init__(self, catalog: CatalogView | None) -> None:
        self.catalog = catalog
        self._columns: dict[int, tuple[Table, int]] = {}
        """Where a column comes from, by id."""

    def _statistics(self, table: Table) -> TableStatistics | None:
        return None if self.catalog is None else self.catalog.statistics(table.oid)

    def knows(self, table: Table) -> bool:
        """Whether there are statistics of a table."""
        return self._statistics(table) is not None

    def table_rows(self, table: Table) -> float:
        found = self._statistics(table)
        return max(float(found.rows), 1.0) if found is not None else DEFAULT_ROWS

    def note_scan(self, scan: Scan) -> None:
        for column, number in zip(scan.columns, scan.numbers, strict=True):
            self._columns[column.id] = (scan.table, number)

    def distinct(self, expression: Expr, rows: float) -> float:
        """How many different values an expression has among ``rows`` rows."""
        if isinstance(expression, Const):
            return 1.0
        if isinstance(expression, ColumnRef) and expression.id in self._columns:
            table, number = self._columns[expression.id]
            if any(
                index.unique and index.is_plain and [c.column for c in index.columns] == [number]
                for index in table.indexes
            ):
                return max(min(self.table_rows(table), rows), 1.0)
            found = self._statistics(table)
            column = found.columns.get(number) if found is not None else None
            if found is not None and column is not None:
                count = column.distinct if column.distinct >= 0 else -column.distinct * found.rows
                return max(min(count, rows), 1.0)
        return max(min(DEFAULT_DISTINCT, rows), 1.0)

    def selectivity(self, term: Expr, rows: float) -> float:
        """The share of rows for which a term is true."""
        match term:
            case Const():
                return 1.0 if term.value is True else 0.0
            case And():
                return self.combined(term.arguments, rows)
            case Or():
                missed = 1.0
                for argument in term.arguments:
                    missed *= 1 - self.selectivity(argument, rows)
                return 1 - missed
            case Not():
                return 1 - self.selectivity(term.argument, rows)
            case Call():
                return self._call_selectivity(term, rows)
            case InList():
                share = min(len(term.items) / self.distinct(term.argument, rows), 0.9)
                return 1 - share if term.negated else share
            case AnyAll():
                return min(array_length(term.array) / self.distinct(term.left, rows), 0.9)
            case IsNull():
                return 0.99 if term.negated else 0.01
            case Subquery():
                return 0.5
        return OTHER_SELECTIVITY

    def _call_selectivity(self, call: Call, rows: float) -> float:
        name = operator_name(call.function)
        if name == "=":
            return 1 / max(self.distinct(argument, rows) for argument in call.arguments)
        if name == "<>":
            return 1 - 1 / max(self.distinct(argument, rows) for argument in call.arguments)
        if name is not None:
            return RANGE_SELECTIVITY
        return CONTAINMENT_SELECTIVITY if written_operator(call.function) in _CONTAINMENT else OTHER_SELECTIVITY

    def combined(self, terms: Iterable[Expr], rows: float) -> float:
        share = 1.0
        for term in terms:
            share *= self.selectivity(term, rows)
        return share

    def rows(self, relation: Rel) -> float:
        """How many rows a relation has."""
        match relation:
            case TableScan() | VirtualTableScan() | HashJoin() | LookupJoin() | NestedLoop():
                return relation.rows
            case Scan():
                return self.table_rows(relation.table)
            case Values():
                return float(len(relation.rows))
            case SequenceScan():
                return 1.0
            case FunctionScan() | RoutineScan():
                return 1000.0 if relation.function.returns_set else 1.0
            case Filter():
                rows = self.rows(relation.input)
                return max(rows * self.selectivity(relation.condition, rows), 1.0)
            case Project() | Window() | Sort() | LockedRows() | Apply() | IncrementalSort():
                return self.rows(relation.input)
            case ProjectSet():
                return self.rows(relation.input) * 10
            case Aggregate():
                return self.group_rows(relation.groups, self.rows(relation.input))
            case Distinct():
                return max(self.rows(relation.input) / 2, 1.0)
            case Limit() | TopN():
                rows = self.rows(relation.input)
                if isinstance(relation.limit, Const) and relation.limit.value is not None:
                    return max(min(rows, float(relation.limit.value)), 1.0)
                return max(rows / 10, 1.0)
            case SetOperation():
                left, right = self.rows(relation.left), self.rows(relation.right)
                return left + right if relation.kind == "union" else left
            case Join():
                return self.join_rows(
                    relation.kind, self.rows(relation.left), self.rows(relation.right), relation.condition
                )
            case Cte():
                return self.rows(relation.body)
            case CteScan():
                return DEFAULT_ROWS
        return DEFAULT_ROWS

    def group_rows(self, groups: tuple[Expr, ...], rows: float) -> float:
        count = 1.0
        for group in groups:
            count *= self.distinct(group, rows)
        return max(min(count, rows), 1.0)

    def join_rows(self, kind: str, left: float, right: float, condition: Expr) -> float:
        terms = condition.arguments if isinstance(condition, And) else (condition,)
        share = 1.0
        for term in terms:
            if isinstance(term, Call) and operator_name(term.function) == "=":
                share /= max(self.distinct(argument, max(left, right)) for argument in term.arguments)
            else:
                share *= self.selectivity(term, left * right)
        match kind:
            case "semi" | "anti":
                return max(left / 2, 1.0)
            case "left":
                return max(left * right * share, left)
            case "full":
                return max(left * right * share, left + right)
        return max(left * right * share, 1.0)


def array_length(array: Expr) -> float:
    if isinstance(array, Const) and isinstance(array.value, PgArray):
        return float(len(array.value.items))
    return float(len(array.items)) if isinstance(array, ArrayLiteral) else 10.0
