"""The locks of the whole cluster as of about one moment, and what pg_locks and pg_blocking_pids make of them.

Row locks are shown as Postgres shows them, where the first who waits holds the *tuple* and waits for the transaction that
has changed it, and all others wait for the tuple::

                                    A: UPDATE            B: UPDATE, waits        C: UPDATE, comes after B
    transactionid of A              granted              ShareLock, waits
    tuple                                                granted                 waits
    pg_blocking_pids                {}                   {A}                     {B}

A session that waits for several rows in different ranges at once is shown with one of these waits, as there is only one in
Postgres; pg_blocking_pids names everybody who is in the way of any.

Source: PostgreSQL 15 manual, 54.12 and 9.26.1; lockfuncs.c; heap/README.tuplock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from pydistdb.kv.advisory import ADVISORY_PREFIX
from pydistdb.kv.api import LockWait
from pydistdb.sql.pg_catalog.providers import LockInfo
from pydistdb.sql.session.advisory import MODES
from pydistdb.sql.session.lock_places import Places, tuple_number

ACCESS_EXCLUSIVE, SHARE = "AccessExclusiveLock", "ShareLock"
ROW_EXCLUSIVE, ROW_SHARE, ACCESS_SHARE = "RowExclusiveLock", "RowShareLock", "AccessShareLock"
_CONFLICTS = {
    ACCESS_SHARE: {ACCESS_EXCLUSIVE},
    ROW_SHARE: {ACCESS_EXCLUSIVE},
    ROW_EXCLUSIVE: {SHARE, ACCESS_EXCLUSIVE},
    SHARE: {ROW_EXCLUSIVE, ACCESS_EXCLUSIVE},
    ACCESS_EXCLUSIVE: {ACCESS_SHARE, ROW_SHARE, ROW_EXCLUSIVE, SHARE, ACCESS_EXCLUSIVE},
}
"""Of the modes that tables are locked in here."""
_STRONG = {SHARE, ACCESS_EXCLUSIVE}
_TUPLE_MODES = ("", ACCESS_SHARE, ROW_SHARE, "ExclusiveLock", ACCESS_EXCLUSIVE)
"""By strength."""


class Holdings(msgspec.Struct, array_like=True):
    """What one session, or one prepared transaction, holds."""

    pid: int | None
    database: int
    virtual: str
    """Its virtualtransaction."""
    in_transaction: bool
    xid: int
    """0: it has none."""
    ids: list[bytes]
    """What the kv layer knows it by."""
    relations: list[tuple[int, str, bool]] = []
    """Table, mode, granted."""
    row_tables: list[int] = []
    """Tables with rows that it has locked."""
    advisory: list[tuple[tuple[int, int, int], bool, bool]] = []
    """Key, shared, granted."""
    wait_start: int | None = None
    """As a timestamptz."""
    awaits_rows: bool = False


class LockPicture:
    """All locks and waits of the cluster, as of about one moment."""

    def __init__(self, holdings: list[Holdings], waits: list[LockWait], places: Places) -> None:
        self._holdings = holdings
        self._places = places
        self._owners = {transaction_id: each for each in holdings for transaction_id in each.ids}
        self._waits: dict[int, list[LockWait]] = {}
        self._waiting_for: dict[bytes, set[int]] = {}
        """By key: who waits for it."""
        for wait in waits:
            owner = self._owners.get(wait.waiter)
            if owner is not None and owner.pid is not None:
                self._waits.setdefault(owner.pid, []).append(wait)
                self._waiting_for.setdefault(wait.key, set()).add(owner.pid)

    @property
    def is_complete(self) -> bool:
        """Whether everybody who asks for row locks is seen waiting."""
        return all(each.pid in self._waits for each in self._holdings if each.awaits_rows)

    # ------------------------------------------------------------------------------------------ who blocks whom

    def blocking(self, pid: int) -> list[int]:
        """The processes that keep this one from a lock it waits for, 0 for each prepared transaction."""
        found: dict[str, int] = {}
        for waiter in self._holdings:
            if waiter.pid == pid:
                for wait in self._waits.get(pid, ()):
                    found |= {each.virtual: each.pid or 0 for each in self._blockers(waiter, wait)}
                for oid, mode, granted in waiter.relations:
                    if not granted:
                        found |= {each.virtual: each.pid or 0 for each in self._in_the_way(waiter, oid, mode)}
        return list(found.values())

    def wait_event(self, pid: int) -> str | None:
        """What pg_stat_activity calls that which a session waits for, if it is a row."""
        rows = [row for waiter in self._holdings if waiter.pid == pid for row in self._wait_rows(waiter)]
        return next((row.lock_type for row in rows if not row.granted), None)

    def _blockers(self, waiter: Holdings, wait: LockWait) -> list[Holdings]:
        """Those before it in the queue for a row if there are any, else the holders; of other locks, both."""
        found = [self._owners[each] for each in wait.blockers if each in self._owners]
        found = [each for each in found if each is not waiter]
        return self._ahead(found, wait.key) or found

    def _ahead(self, found: list[Holdings], key: bytes) -> list[Holdings]:
        if key.startswith(ADVISORY_PREFIX) or not key:
            return []
        waiting = self._waiting_for[key]
        return [each for each in found if each.pid in waiting]

    def _in_the_way(self, waiter: Holdings, oid: int, mode: str) -> Iterator[Holdings]:
        """Who has the table in a mode that conflicts; and who waits to, if nobody passes such a one."""
        against = _CONFLICTS[mode]
        for other in self._holdings:
            if (
                other is not waiter
                and other.database == waiter.database
                and any(
                    table == oid
                    and held in against
                    and (granted or (held in _STRONG and self._comes_first(other, waiter, mode)))
                    for table, held, granted in other.relations
                )
            ):
                yield other

    @staticmethod
    def _comes_first(other: Holdings, waiter: Holdings, mode: str) -> bool:
        return mode not in _STRONG or (other.wait_start or 0) < (waiter.wait_start or 0)

    # ------------------------------------------------------------------------------------------ rows of pg_locks

    def rows(self) -> list[LockInfo]:
        """Everything that pg_locks shows."""
        guarded = {
            (each.database, oid) for each in self._holdings for oid, mode, _ in each.relations if mode in _STRONG
        }
        return [row for each in self._holdings for row in self._rows_of(each, guarded)]

    def _rows_of(self, owner: Holdings, guarded: set[tuple[int, int]]) -> Iterable[LockInfo]:
        pid, virtual, database = owner.pid, owner.virtual, owner.database
        if pid is not None and owner.in_transaction:
            yield LockInfo(pid, "ExclusiveLock", True, "virtualxid", virtual, virtual_xid=virtual, fast_path=True)
        if owner.xid:
            yield LockInfo(pid, "ExclusiveLock", True, "transactionid", virtual, xid=owner.xid)
        waits = list(self._wait_rows(owner))
        for oid, mode, granted in self._relations_of(owner, waits):
            is_fast = granted and pid is not None and mode not in _STRONG and (database, oid) not in guarded
            start = None if granted else owner.wait_start
            yield LockInfo(pid, mode, granted, "relation", virtual, database, oid, wait_start=start, fast_path=is_fast)
        for (class_id, object_id, sub_id), shared, granted in owner.advisory:
            yield LockInfo(
                pid,
                MODES[shared],
                granted,
                "advisory",
                virtual,
                database,
                class_id=class_id,
                object_id=object_id,
                object_sub_id=sub_id,
                wait_start=None if granted else owner.wait_start,
            )
        yield from waits

    def _relations_of(self, owner: Holdings, waits: list[LockInfo]) -> list[tuple[int, str, bool]]:
        """Its tables; those of which it locks rows without changing them are locked ROW SHARE."""
        written = {oid for oid, mode, _ in owner.relations if mode == ROW_EXCLUSIVE}
        rows = {*owner.row_tables, *(row.relation for row in waits if row.lock_type == "tuple")} - written
        others = [each for each in owner.relations if each[:2] not in {(oid, ACCESS_SHARE) for oid in rows}]
        return sorted([*others, *((oid, ROW_SHARE, True) for oid in rows if oid is not None)])

    def _wait_rows(self, owner: Holdings) -> Iterable[LockInfo]:
        """What it waits for, if that is a row or stands in the catalog (other waits are among what it tells itself)."""
        for wait in self._waits.get(owner.pid or 0, ()):
            if wait.key and not wait.key.startswith(ADVISORY_PREFIX):
                return self._rows_of_wait(owner, wait)
        return ()

    def _rows_of_wait(self, owner: Holdings, wait: LockWait) -> Iterable[LockInfo]:
        pid, virtual, start = owner.pid, owner.virtual, owner.wait_start
        blockers = self._blockers(owner, wait)
        table = self._places.table_locked_by(wait.key)
        if table is not None:
            yield LockInfo(pid, ACCESS_EXCLUSIVE, False, "relation", virtual, *table, wait_start=start)
            return
        row = self._places.row_at(wait.key)
        if row is not None:
            is_behind = bool(self._ahead(blockers, wait.key))
            mode, (page, number) = _TUPLE_MODES[wait.strength], tuple_number(wait.key)
            yield LockInfo(
                pid,
                mode,
                not is_behind,
                "tuple",
                virtual,
                *row,
                page=page,
                tuple_number=number,
                wait_start=start if is_behind else None,
            )
            if is_behind:
                return
        xid = next((each.xid for each in blockers if each.xid), None)
        yield LockInfo(pid, SHARE, False, "transactionid", virtual, xid=xid, wait_start=start)
