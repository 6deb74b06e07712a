"""What the catalog and the plan so far know of a statement's columns: where they come from, their statistics, how many values.

A column's id leads to its table; a projection that hands a column on under a new id is followed back.  A scan that has been
chosen bounds the distinct values of its columns by the rows it lets through, and ``x = 5`` leaves one::

    part [p_brand = 'Brand#23']: 80 rows of 2,000      p_partkey, 2,000 distinct values in the table: 80 from here on
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql.catalog.descriptors import JointStatistics, StatisticsObject, Table, TableStatistics
from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.plan.column_facts import ColumnFacts, column_facts
from pydistdb.sql.plan.comparisons import operator_name
from pydistdb.sql.plan.cost import BELIEVED, DISABLED_COST, NOTHING_DISABLED, Disabled
from pydistdb.sql.plan.expression_facts import KnownExpression, find, has_expressions, known_expressions, own_table
from pydistdb.sql.plan.matching import Keys
from pydistdb.sql.plan.physical import TableScan
from pydistdb.sql.plan.together import pairs_of
from pydistdb.sql.tree import (
    Aggregate,
    Call,
    ColumnRef,
    Const,
    Expr,
    Param,
    Project,
    Scan,
)

DEFAULT_ROWS = 1000.0
DEFAULT_DISTINCT = 200.0


class Known:
    """What is known of the tables and columns of one statement."""

    def __init__(self, catalog: CatalogView | None, disabled: Disabled = NOTHING_DISABLED) -> None:
        self.catalog = catalog
        self._disabled = disabled
        self.excludes = BELIEVED in disabled
        """Whether CHECK constraints are held against conditions."""
        self._columns: dict[int, tuple[Table, int]] = {}
        """Where a column comes from, by id."""
        self._filtered: dict[int, float] = {}
        """How many rows of its scan pass, by column: there are no more distinct values than that."""
        self._facts: dict[int, ColumnFacts | None] = {}
        self.has_joint = False
        """Whether a table has statistics objects: almost none has."""
        self._has_expressions = False
        """Whether a table has statistics of expressions."""
        self._expressions: dict[int, list[KnownExpression]] = {}
        """Those of a table, by its oid."""
        self._keys: dict[int, tuple[Scan, Keys]] = {}
        """Of a scan's indexes, by ``id(scan)``."""
        self._sources: dict[int, Expr] = {}
        """Columns that are another one's values, under a new id."""

    def extra(self, way: str) -> float:
        """What it costs more to do a thing in a way that may be ruled out by an ``enable_`` setting."""
        return DISABLED_COST if way in self._disabled else 0.0

    # ------------------------------------------------------------------------------------------ what is known

    def _statistics(self, table: Table) -> TableStatistics | None:
        return None if self.catalog is None else self.catalog.statistics(table.oid)

    def table_count(self) -> int:
        """How many tables there are, by which the system tables grow."""
        return 0 if self.catalog is None else self.catalog.table_count()

    def knows(self, table: Table) -> bool:
        """Whether there are statistics of a table."""
        return self._statistics(table) is not None

    def table_rows(self, table: Table) -> float:
        found = self._statistics(table)
        return max(float(found.rows), 1.0) if found is not None else DEFAULT_ROWS

    def joint(self, table: Table) -> list[tuple[StatisticsObject, JointStatistics]]:
        """What ANALYZE found for the table's statistics objects."""
        found = self._statistics(table)
        return [] if found is None else pairs_of(table, found.joint)

    def keys(self, scan: Scan) -> Keys:
        """What the indexes of a scan are over."""
        known = self._keys.get(id(scan))
        if known is None:
            known = self._keys[id(scan)] = (scan, Keys(scan, self.catalog))
        return known[1]

    def note_scan(self, scan: Scan | TableScan) -> None:
        self.has_joint = self.has_joint or bool(scan.table.statistics_objects)
        self._has_expressions = self._has_expressions or has_expressions(scan.table)
        for column, number in zip(scan.columns, scan.numbers, strict=True):
            self._columns[column.id] = (scan.table, number)

    def note_filtered(self, scan: TableScan, terms: Sequence[Expr] = ()) -> None:
        """A scan has been chosen: what it lets through bounds how many values its columns have."""
        for column in scan.columns:
            self._filtered[column.id] = scan.rows
        for term in terms:
            if isinstance(term, Call) and operator_name(term.function) == "=":
                left, right = term.arguments
                for fixed, value in ((left, right), (right, left)):
                    if isinstance(fixed, ColumnRef) and isinstance(value, Const | Param):
                        self._filtered[fixed.id] = 1.0

    def note_renamed(self, relation: Project | Aggregate) -> None:
        """Columns that go on under a new id."""
        expressions = relation.expressions if isinstance(relation, Project) else relation.groups
        for column, expression in zip(relation.columns, expressions, strict=False):
            if isinstance(expression, ColumnRef) and expression.id != column.id:
                self._sources[column.id] = expression

    def origin(self, expression: Expr) -> tuple[Table, int] | None:
        """The table and the number of a column that comes straight from one."""
        while isinstance(expression, ColumnRef):
            if expression.id in self._columns:
                return self._columns[expression.id]
            expression = self._sources.get(expression.id, Const(expression.type, None))
        return None

    def facts(self, expression: Expr) -> ColumnFacts | None:
        """What statistics say of a column, or of an expression that ANALYZE has looked at; None where there are none."""
        if not isinstance(expression, ColumnRef):
            return self._of_expression(expression) if self._has_expressions else None
        if expression.id not in self._facts:
            self._facts[expression.id] = self._look_up(expression)
        return self._facts[expression.id]

    def _of_expression(self, expression: Expr) -> ColumnFacts | None:
        if isinstance(expression, Const | Param) or self.catalog is None:
            return None
        owned = own_table(expression, self.origin)
        if owned is None:
            return None
        table, written = owned
        found = self._statistics(table)
        if found is None or not has_expressions(table):
            return None
        if table.oid not in self._expressions:
            self._expressions[table.oid] = known_expressions(table, found, self.catalog)
        known = find(written, self._expressions[table.oid])
        return None if known is None else column_facts(known[0].type.oid, known[1], found.rows)

    def distinct_values(self, table: Table, number: int) -> float | None:
        """How many different values, NULL included, a column of a table has; None if that is not known."""
        found = self._statistics(table)
        if found is None or number not in found.columns:
            return None
        column = found.columns[number]
        values = column.distinct if column.distinct >= 0 else -column.distinct * found.rows
        return max(values, 1.0) + (column.null_fraction > 0)

    def _look_up(self, column: ColumnRef) -> ColumnFacts | None:
        origin = self.origin(column)
        if origin is None:
            return None
        table, number = origin
        found = self._statistics(table)
        if found is None or number not in found.columns:
            return None
        oid = next(each.type_oid for each in table.columns if each.number == number)
        return column_facts(oid, found.columns[number], found.rows)

    def distinct(self, expression: Expr, rows: float, *, unfiltered: bool = False) -> float:
        """How many different values an expression has among ``rows`` rows (``unfiltered``: of its whole table)."""
        if isinstance(expression, Const):
            return 1.0
        origin = self.origin(expression)
        if origin is not None and isinstance(expression, ColumnRef):
            table, number = origin
            most = rows if unfiltered else min(rows, self._most(expression))
            if any(
                index.unique and index.is_plain and [c.column for c in index.columns] == [number]
                for index in table.indexes
            ):
                return max(min(self.table_rows(table), most), 1.0)
            facts = self.facts(expression)
            return max(min(DEFAULT_DISTINCT if facts is None else facts.distinct, most), 1.0)
        facts = self.facts(expression)
        return max(min(DEFAULT_DISTINCT if facts is None else facts.distinct, rows), 1.0)

    def _most(self, expression: Expr) -> float:
        while isinstance(expression, ColumnRef):
            if expression.id in self._filtered:
                return self._filtered[expression.id]
            expression = self._sources.get(expression.id, Const(expression.type, None))
        return float("inf")
