"""Rows that certainly have one partner: those whose foreign key refers to it.

``c JOIN p ON p.id = c.pid`` pairs every row of ``c`` whose ``pid`` is not NULL with exactly one of ``p``, if ``pid`` REFERENCES
``p``.  That is said of what a snapshot shows of constraints that have looked at every row and look at each change at once.  It
is not said of NOT VALID ones, nor of DEFERRABLE ones: a transaction may see its own rows before their partners are there.

    c(pid REFERENCES p)             p.id -> c.pid
    d(a, b) REFERENCES q (a, b)     q.a -> d.a, q.b -> d.b          one equality per column
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql.catalog.descriptors import ForeignKey, Table
from pydistdb.sql.node import node
from pydistdb.sql.plan.comparisons import comparison_terms
from pydistdb.sql.plan.expressions import conjuncts
from pydistdb.sql.tree import Aggregate, ColumnId, ColumnRef, Expr, Filter, Join, Limit, Project, Rel, Scan, Sort


@node
class Parent:
    """A relation that may turn out to be a partner of others: a table, under the names that columns have outside."""

    scan: Scan
    numbers: dict[ColumnId, int]
    terms: tuple[Expr, ...]
    """Its own condition."""


@node
class Partner:
    """Of which columns the parent's are equals (by id), the terms that say so, and those columns that may be NULL."""

    equals: dict[ColumnId, ColumnRef]
    terms: tuple[Expr, ...]
    nullable: tuple[ColumnRef, ...]


def parent_of(relation: Rel) -> Parent | None:
    """The relation as a table that others refer to."""
    terms: list[Expr] = []
    renamed: list[Project] = []
    while isinstance(relation, Filter | Project):
        if isinstance(relation, Filter):
            terms += conjuncts(relation.condition)
        elif terms or not all(isinstance(each, ColumnRef) for each in relation.expressions):
            return None
        else:
            renamed.append(relation)
        relation = relation.input
    if not isinstance(relation, Scan) or not relation.table.referenced_by or relation.current_of:
        return None
    numbers = dict(zip((column.id for column in relation.columns), relation.numbers, strict=True))
    for project in reversed(renamed):
        for column, expression in zip(project.columns, project.expressions, strict=True):
            assert isinstance(expression, ColumnRef)
            if expression.id in numbers:
                numbers[column.id] = numbers[expression.id]
    return Parent(relation, numbers, tuple(terms))


def partner(parent: Parent, terms: Sequence[Expr], others: Sequence[Rel]) -> Partner | None:
    """Whom the terms make the parent a certain partner of, by a foreign key of one of the other relations."""
    pairs: list[tuple[int, ColumnRef, Scan, int, Expr]] = []
    for term in terms:
        found = comparison_terms(term)
        if found is None or found[0] != "=":
            continue
        for own, other in ((found[1], found[2]), (found[2], found[1])):
            if not isinstance(own, ColumnRef) or not isinstance(other, ColumnRef) or own.id not in parent.numbers:
                continue
            sources = (source for each in others if (source := _source(each, other.id)) is not None)
            source = next(sources, None)
            if source is not None and source[0] is not parent.scan:
                pairs.append((parent.numbers[own.id], other, *source, term))
    for _, _, child, _, _ in pairs:
        for key in child.table.foreign_keys:
            if not _holds(key, parent.scan.table):
                continue
            chosen = [
                next((pair for pair in pairs if (pair[0], pair[3]) == numbers and pair[2] is child), None)
                for numbers in zip(key.referenced_columns, key.columns, strict=True)
            ]
            if all(chosen):
                return _partner(parent, [pair for pair in chosen if pair is not None])
    return None


def _holds(key: ForeignKey, parent: Table) -> bool:
    """Whether every row that anybody sees has its one partner in this table."""
    if key.referenced_table != parent.oid or not key.validated or key.deferrable:
        return False
    return any(
        index.unique
        and index.is_plain
        and index.is_readable
        and not index.deferrable
        and {column.column for column in index.columns} == set(key.referenced_columns)
        for index in parent.indexes
    )


def _partner(parent: Parent, chosen: Sequence[tuple[int, ColumnRef, Scan, int, Expr]]) -> Partner:
    by_number = {number: column for number, column, _, _, _ in chosen}
    equals = {id: by_number[number] for id, number in parent.numbers.items() if number in by_number}
    nullable = [column for _, column, child, number, _ in chosen if number not in _never_null(child.table)]
    return Partner(equals, tuple(pair[4] for pair in chosen), tuple(nullable))


def _never_null(table: Table) -> set[int]:
    primary = {column.column for index in table.indexes if index.primary for column in index.columns}
    return primary | {column.number for column in table.columns if column.not_null}


def _source(relation: Rel, column: ColumnId) -> tuple[Scan, int] | None:
    """The table and the number of a column that comes from it as it is, in every row of the relation."""
    while True:
        if all(each.id != column for each in relation.columns):
            return None
        match relation:
            case Scan():
                number = next(
                    n for each, n in zip(relation.columns, relation.numbers, strict=True) if each.id == column
                )
                return relation, number
            case Filter() | Sort() | Limit():
                relation = relation.input
            case Join(kind="left" | "semi" | "anti"):
                relation = relation.left
            case Join(kind="inner"):
                found = _source(relation.left, column)
                if found is not None:
                    return found
                relation = relation.right
            case Project() | Aggregate(grouping_sets=()):
                made = relation.expressions if isinstance(relation, Project) else relation.groups
                expression = next(
                    (made for each, made in zip(relation.columns, made, strict=False) if each.id == column), None
                )
                if not isinstance(expression, ColumnRef):
                    return None
                relation, column = relation.input, expression.id
            case _:
                return None
