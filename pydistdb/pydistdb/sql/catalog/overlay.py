"""One transaction's uncommitted DDL: the catalog state that only its session sees, until it is committed.

The first DDL statement of a transaction opens the overlay over the newest state.  Each change makes a new state;
savepoints remember how many changes there were.  When others have committed DDL meanwhile, ``rebase`` lays the changes
over the state that came of it (whether they may be is for claims.py to say).  Nothing is written before the end:
``write`` puts the changed objects, the history record and the new version into the transaction just before its commit,
so that catalog and data become visible at one timestamp.  The history record is an *insert*: of two transactions that
made the same version one fails.

``private_storage`` holds the storage ids made since the last savepoint: nobody else can see them and no rollback to a
savepoint can bring an older content back, so they may be filled by ``Database.ingest`` directly.

Example::

    overlay.open(store.state)
    overlay.apply([(table_key(5, 16384), table)])      # overlay.state has the table, store.state does not
    overlay.rebase(store.state)                        # … which has become a newer one
    version = overlay.write(transaction, [])
    await transaction.commit()
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydistdb.kv.api import Transaction
from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.descriptors import Garbage
from pydistdb.sql.catalog.state import CatalogState, Change


@dataclass(frozen=True, slots=True)
class OverlayMark:
    """What ``Overlay.rollback_to`` goes back to: how much there was of each."""

    changes: int = 0
    garbage: int = 0
    made: int = 0


@dataclass(slots=True, eq=False)
class Overlay:
    """See the module's docstring."""

    base: CatalogState = CatalogState.EMPTY
    """The committed state below."""
    state: CatalogState = CatalogState.EMPTY
    is_open: bool = False
    changes: list[Change] = field(default_factory=list)
    dropped_storage: list[Garbage] = field(default_factory=list)
    """To be cleared once the transaction has committed."""
    made_storage: list[Garbage] = field(default_factory=list)
    """To be cleared if the transaction does not commit."""
    abandoned_storage: list[Garbage] = field(default_factory=list)
    """Made and given up again by a rollback to a savepoint: to be cleared at the end, whatever it is."""
    private_storage: set[int] = field(default_factory=set)

    def open(self, state: CatalogState) -> None:
        assert not self.is_open
        self.base = self.state = state
        self.is_open = True

    def apply(self, changes: list[Change]) -> None:
        """Make the changes visible to this transaction."""
        assert self.is_open
        self.changes.extend(changes)
        # The version stays that of the base: it becomes a new one only by committing.
        self.state = self.state.apply(changes, self.state.version)

    def rebase(self, state: CatalogState) -> None:
        """Lay the changes over another committed state."""
        self.base = state
        self.state = state.apply(self.changes, state.version) if self.changes else state

    def final(self, since: int = 0) -> dict[bytes, Any]:
        """The changes (from the one of that number on), the last of each object."""
        return dict(self.changes[since:])

    def mark(self) -> OverlayMark:
        """Where ``rollback_to`` can go back to, if nobody fills private storage meanwhile."""
        return OverlayMark(len(self.changes), len(self.dropped_storage), len(self.made_storage))

    def savepoint(self) -> OverlayMark:
        self.private_storage.clear()
        return self.mark()

    def rollback_to(self, mark: OverlayMark) -> None:
        """Forget the changes made since ``mark``.  An overlay opened since then stays open."""
        del self.changes[mark.changes :]
        self.rebase(self.base)
        del self.dropped_storage[mark.garbage :]
        self.abandoned_storage += self.made_storage[mark.made :]
        del self.made_storage[mark.made :]
        self.private_storage.clear()

    @property
    def has_changes(self) -> bool:
        return bool(self.changes)

    def write(self, transaction: Transaction, garbage_ids: list[int]) -> int:
        """Put the changes into the transaction; returns the new catalog version."""
        version = self.base.version + 1
        final = self.final()
        for key, value in final.items():
            if value is None:
                transaction.delete(key)
            else:
                transaction.put(key, keys.encode_object(value))
        for garbage_id, garbage in zip(garbage_ids, self.dropped_storage, strict=True):
            transaction.put(keys.garbage_key(garbage_id), keys.encode_object(garbage))
        transaction.insert(keys.history_key(version), keys.encode_object(list(final)))
        if version > keys.HISTORY_LIMIT:
            transaction.delete(keys.history_key(version - keys.HISTORY_LIMIT))
        transaction.put(keys.VERSION_KEY, keys.encode_object(version))
        return version
