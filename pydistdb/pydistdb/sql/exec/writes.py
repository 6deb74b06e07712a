"""The writes and outstanding foreign key checks that a statement gathers (see writer.py)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pydistdb.kv.api import Transaction
from pydistdb.sql.catalog.descriptors import ForeignKey, Table
from pydistdb.sql.exec.deferred import UniqueCheck
from pydistdb.sql.layout import IndexLayout


class ParentEvent(NamedTuple):
    """A row that others may refer to went away or changed its key (``new`` None: deleted)."""

    table: Table
    old: Sequence[Any]
    new: Sequence[Any] | None


class ChildEvent(NamedTuple):
    """A row refers to a parent with these values in ``key.columns``."""

    table: Table
    key: ForeignKey
    values: tuple[Any, ...]
    row_key: bytes


class StatementWrites:
    """The writes and outstanding checks of one statement."""

    __slots__ = (
        "absent",
        "child_events",
        "given_up",
        "has_missed",
        "parent_events",
        "pending",
        "released",
        "touched",
        "unique_checks",
    )

    def __init__(self) -> None:
        self.pending: dict[bytes, bytes | None] = {}
        self.absent: set[bytes] = set()
        """Keys of ``pending`` that the commit must find absent."""
        self.touched: set[bytes] = set()
        """Primary keys of rows that this statement has inserted, updated or deleted already."""
        self.child_events: list[ChildEvent] = []
        self.parent_events: list[ParentEvent] = []
        self.released: dict[tuple[bytes, bytes], IndexLayout] = {}
        """(key, row's key): entries of unique indexes being built, to be deleted if they lead to that row (writer.py)."""
        self.given_up: set[bytes] = set()
        """Keys of unique indexes that rows had and leave: nobody else may know yet whether they are free (writer.py)."""
        self.has_missed = False
        """A row that was to be changed is gone, and may have another key now."""
        self.unique_checks: dict[UniqueCheck, bool] = {}
        """Keys of deferrable constraints to look at, and whether they are initially deferred."""

    def flush(self, transaction: Transaction) -> None:
        """Hand the writes to the transaction."""
        self.flush_part(self.pending.items(), transaction)
        self.pending = {}
        self.absent = set()

    def flush_part(self, entries: Iterable[tuple[bytes, bytes | None]], transaction: Transaction) -> None:
        """Hand over some of ``pending``, which stay there."""
        absent = self.absent
        for key, value in entries:
            if value is None:
                transaction.delete(key)
            elif key in absent:
                transaction.insert(key, value)
            else:
                transaction.put(key, value)
