"""Noting what a statement needs privileges for, while it is bound.

A ``RelationNote`` is made where a relation is named.  Which of its columns are used shows later, when names are resolved:
``Binder.used_columns`` collects the ids of all columns referred to, and ``finish`` puts the two together (sql/catalog/needs.py
says what becomes of it).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydistdb.sql.catalog.acl import INSERT, SELECT, UPDATE
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.needs import FunctionNeed, Need, Needs
from pydistdb.sql.catalog.view import VirtualTable
from pydistdb.sql.tree import ColumnId

if TYPE_CHECKING:
    from pydistdb.sql.bind.binder import Binder
    from pydistdb.sql.bind.scope import ScopeColumn, Source


SYSTEM_COLUMN = -1


class RelationNote:
    """One mention of a relation.  ``role``: the owner of the view it stands in."""

    __slots__ = (
        "columns",
        "inserted",
        "privileges",
        "read_by_view",
        "relation",
        "role",
        "selected",
        "updated",
        "view",
    )

    def __init__(self, relation: Table | VirtualTable, privileges: int, role: int | None) -> None:
        self.relation = relation
        self.privileges = privileges
        self.role = role
        self.columns: list[tuple[ColumnId, int]] = []
        """Ids and numbers of the columns that make SELECT necessary where they are referred to."""
        self.selected: set[int] = set()
        self.inserted: set[int] = set()
        self.updated: set[int] = set()
        self.view: RelationNote | None = None
        """The view that rows of this table are changed through."""
        self.read_by_view: set[int] = set()

    def insert(self, numbers: Iterable[int]) -> None:
        self.privileges |= INSERT
        self.inserted.update(numbers)

    def update(self, numbers: Iterable[int]) -> None:
        self.privileges |= UPDATE
        self.updated.update(numbers)

    def read(self, columns: Iterable[ScopeColumn]) -> None:
        """Columns under these ids are the relation's."""
        self.columns += [(column.id, column.number) for column in columns]

    def settle(self, used: set[ColumnId]) -> None:
        """Find out which columns have been referred to."""
        self.selected.update(number for id, number in self.columns if id in used)

    def finish(self, used: set[ColumnId]) -> Need:
        self.settle(used)
        selected = self.selected
        if self.view is not None:
            self.view.settle(used)
            if self.view.selected:
                selected |= self.read_by_view
        return Need(
            self.relation,
            self.privileges | SELECT if selected else self.privileges,
            self.role,
            frozenset(selected),
            frozenset(self.inserted),
            frozenset(self.updated),
        )


def note_relation(b: Binder, relation: Table | VirtualTable, privileges: int) -> RelationNote:
    """Note that a relation is mentioned."""
    note = RelationNote(relation, privileges, b.acting_role)
    b.notes.append(note)
    return note


def note_system_column(b: Binder, source: Source) -> None:
    """System columns take SELECT on the table: no list of a column's own speaks of them."""
    ids = {column.id for column in source.columns}
    for note in b.notes:
        if any(id in ids for id, _ in note.columns):
            note.selected.add(SYSTEM_COLUMN)


def finish(b: Binder) -> Needs:
    """Everything that the statement needs."""
    used = b.used_columns
    relations = tuple([note.finish(used) for note in b.notes])
    if not b.called:
        return relations
    return (*relations, *(FunctionNeed(oid, name) for oid, name in b.called.items()))
