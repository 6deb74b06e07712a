"""What statistics say of expressions: those of indexes, and of CREATE STATISTICS objects.

A query's expression is looked for among those of its table, both written over column numbers::

    CREATE INDEX ON users (lower(email));  ANALYZE          lower(#2): 9,000 different values, …
    WHERE lower(u.email) = 'ann@example.org'                lower(u.2) is lower(#2): 1 / 9,000 of the rows

Source: PostgreSQL 15 manual, CREATE STATISTICS and 14.2.2; selfuncs.c, examine_variable.
"""

from __future__ import annotations

from collections.abc import Callable

from pydistdb.sql.catalog.descriptors import ColumnStatistics, Table, TableStatistics
from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.index_expressions import bound_expressions, bound_index
from pydistdb.sql.plan.expressions import substitute, walk
from pydistdb.sql.plan.implication import same
from pydistdb.sql.tree import ColumnRef, Expr, Subquery

Origin = Callable[[Expr], tuple[Table, int] | None]
KnownExpression = tuple[Expr, ColumnStatistics]


def has_expressions(table: Table) -> bool:
    """Whether ANALYZE looks at expressions of the table."""
    return any(each.expressions for each in table.statistics_objects) or any(
        column.expression for index in table.indexes for column in index.columns
    )


def known_expressions(table: Table, found: TableStatistics, catalog: CatalogView) -> list[KnownExpression]:
    """The table's expressions with statistics, over column numbers."""
    known: list[KnownExpression] = []
    for index in table.indexes:
        if index.is_readable and any(column.expression in found.expressions for column in index.columns):
            for column, key in zip(index.columns, bound_index(table, index, catalog).keys, strict=True):
                if key is not None and column.expression in found.expressions:
                    known.append((key, found.expressions[column.expression]))
    for each in table.statistics_objects:
        joint = found.joint.get(each.oid)
        if joint is not None and joint.expressions:
            bound = bound_expressions(table, [expression.text for expression in each.expressions], catalog)
            known += zip(bound, joint.expressions, strict=False)
    return known


def own_table(expression: Expr, origin: Origin) -> tuple[Table, Expr] | None:
    """The table that all columns of an expression come from, and the expression over column numbers."""
    table: Table | None = None
    replacements: dict[int, Expr] = {}
    for node in walk(expression):
        if isinstance(node, Subquery):
            return None
        if isinstance(node, ColumnRef):
            place = origin(node)
            if place is None or (table is not None and place[0].oid != table.oid):
                return None
            table = place[0]
            replacements[node.id] = ColumnRef(node.type, place[1], node.name)
    return None if table is None else (table, substitute(expression, replacements))


def find(expression: Expr, known: list[KnownExpression]) -> KnownExpression | None:
    """The expression among those that are known."""
    return next((each for each in known if same(each[0], expression)), None)
