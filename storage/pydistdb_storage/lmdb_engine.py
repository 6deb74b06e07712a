"""The engine on LMDB: one memory-mapped B+tree file, copy-on-write, one writer, readers that never block.

Durability: a commit writes the changed pages, syncs, writes the meta page, syncs; a crash at any instruction leaves the
last commit whole, without recovery.  ``apply`` may run in a thread of its own; everything else belongs to the owner's
thread.

Reading costs about 2 µs, of which beginning a transaction would be half.  ``latest`` therefore keeps one read
transaction open for as long as no commit has come in between, and begins a new one only then.

The map (LMDB's address range) starts large, because address space costs nothing.  When it is full all the same,
``apply`` asks the owner's thread to grow it: that must happen while no transaction is open in the process, so it
does it in its next ``latest`` or ``maintain`` call, once long snapshots are closed; the writer waits a while.

Files of a store: ``data.mdb``, ``lock.mdb`` (reader slots), ``OWNER`` (held by flock while open).
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import lmdb

from pydistdb_storage.engine import Snapshot, Space, WriteBatch
from pydistdb_storage.errors import (
    StorageError,
    StoreCorrupt,
    StoreFull,
    StoreInUse,
    StoreReadOnly,
    StoreVersionMismatch,
)

STORE_VERSION = b"1"
MAX_SNAPSHOTS = 500
DEFAULT_MAP_BYTES = 1 << 40
_VERSION_KEY = b"store_version"
_GROWTH_WAIT_SECONDS = 5.0
_BULK_OPERATIONS = 100
_FULL_DISK_BYTES = 1 << 20
"""With less than this free, a failed write means a full disk."""


class LMDBSnapshot:
    """A read transaction; ``Snapshot`` over it."""

    __slots__ = ("_cursors", "_databases", "_engine", "_transaction")

    def __init__(self, engine: LMDBEngine, transaction: lmdb.Transaction) -> None:
        self._engine = engine
        self._databases = engine.databases
        self._transaction = transaction
        self._cursors: list[lmdb.Cursor | None] = [None] * len(Space)

    def get(self, space: Space, key: bytes) -> bytes | None:
        return self._transaction.get(key, db=self._databases[space])  # type: ignore[return-value]  # no buffers are used

    def seek(self, space: Space, key: bytes) -> tuple[bytes, bytes] | None:
        cursor = self._cursors[space]
        if cursor is None:
            cursor = self._cursors[space] = self._transaction.cursor(self._databases[space])
        if not cursor.set_range(key):
            return None
        return cursor.item()  # type: ignore[return-value]  # no buffers are used

    def scan(self, space: Space, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        cursor = self._transaction.cursor(self._databases[space])
        if reverse:
            return _scan_down(cursor, start, end)
        return _scan_up(cursor, start, end)

    def close(self) -> None:
        self._engine.release(self)

    def abort(self) -> None:
        """End the read transaction (the engine's business)."""
        self._cursors = [None] * len(Space)
        self._transaction.abort()


def _scan_up(cursor: lmdb.Cursor, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not cursor.set_range(start):
        return
    entries: Iterator[tuple[bytes, bytes]] = cursor.iternext()  # type: ignore[assignment]  # no buffers are used
    for entry in entries:
        if entry[0] >= end:
            return
        yield entry


def _scan_down(cursor: lmdb.Cursor, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
    # Stand on the last entry below `end`.
    positioned = cursor.prev() if cursor.set_range(end) else cursor.last()
    if not positioned:
        return
    entries: Iterator[tuple[bytes, bytes]] = cursor.iterprev()  # type: ignore[assignment]  # no buffers are used
    for entry in entries:
        if entry[0] < start:
            return
        yield entry


class LMDBEngine:
    """One store folder; raises StoreInUse, StoreVersionMismatch, StoreReadOnly or StoreCorrupt when opened."""

    def __init__(self, path: Path | str, *, map_bytes: int = DEFAULT_MAP_BYTES, sync: bool = True) -> None:
        self._path = Path(path)
        self._owner_file = _lock_folder(self._path)
        try:
            self._environment = lmdb.open(
                str(self._path),
                map_size=map_bytes,
                max_dbs=len(Space),
                max_readers=MAX_SNAPSHOTS + 100,
                max_spare_txns=4,
                sync=sync,
                meminit=False,
            )
            self._environment.reader_check()
            self.databases = tuple(self._environment.open_db(space.name.lower().encode()) for space in Space)
            self._check_version()
        except lmdb.Error as error:
            os.close(self._owner_file)
            raise _translated(error) from error
        except StorageError:
            self._environment.close()
            os.close(self._owner_file)
            raise
        self._committed = 0
        """Counts commits; the owner compares it to know that its open view is old."""
        self._viewed = -1
        self._view: LMDBSnapshot | None = None
        self._snapshots: set[LMDBSnapshot] = set()
        self._owner_thread = threading.get_ident()
        self._growth = threading.Condition()
        self._growth_wanted = False

    def _check_version(self) -> None:
        state = self.databases[Space.STATE]
        with self._environment.begin() as transaction:
            found = transaction.get(_VERSION_KEY, db=state)
        if found is None:
            with self._environment.begin(write=True) as transaction:
                transaction.put(_VERSION_KEY, STORE_VERSION, db=state)
        elif found != STORE_VERSION:
            raise StoreVersionMismatch(
                f"store {self._path} has format {found.decode(errors='replace')}, "
                f"this version of PyDistDB reads format {STORE_VERSION.decode()}"
            )

    # ------------------------------------------------------------------------------------------------------ reading

    def latest(self) -> LMDBSnapshot:
        if self._growth_wanted:
            self.maintain()
        view = self._view
        if view is not None and self._viewed == self._committed:
            return view
        if view is not None:
            view.abort()
        # Read the counter before beginning: a commit in between makes the view newer than it says, never older.
        self._viewed = self._committed
        view = self._view = LMDBSnapshot(self, self._environment.begin())
        return view

    def snapshot(self) -> Snapshot:
        if len(self._snapshots) >= MAX_SNAPSHOTS:
            raise StorageError(f"more than {MAX_SNAPSHOTS} snapshots are open")
        snapshot = LMDBSnapshot(self, self._environment.begin())
        self._snapshots.add(snapshot)
        return snapshot

    def release(self, snapshot: LMDBSnapshot) -> None:
        """Close a snapshot opened by ``snapshot`` (the shared view stays open)."""
        if snapshot in self._snapshots:
            self._snapshots.discard(snapshot)
            snapshot.abort()

    def idle(self) -> None:
        """Drop the shared view, so that a process that reads nothing pins no old pages."""
        if self._view is not None:
            self._view.abort()
            self._view = None

    # ------------------------------------------------------------------------------------------------------ writing

    def apply(self, batches: list[WriteBatch]) -> None:
        while True:
            try:
                self._write(batches)
                return
            except lmdb.MapFullError:
                self._wait_for_growth()
            except lmdb.Error as error:
                # LMDB reports a write cut short by a full disk as an input/output error.
                disk = os.statvfs(self._path)
                if disk.f_bavail * disk.f_frsize < _FULL_DISK_BYTES:
                    raise StoreFull(f"no room left on the disk of {self._path}: {error}") from error
                raise _translated(error) from error

    def _write(self, batches: list[WriteBatch]) -> None:
        databases = self.databases
        with self._environment.begin(write=True) as transaction:
            for batch in batches:
                for space, start, end in batch.cleared:
                    _clear(transaction.cursor(databases[space]), start, end)
                operations = batch.operations
                if len(operations) > _BULK_OPERATIONS and _only_puts_in_one_space(operations):
                    # Grouping costs as much as writing: spare it where everything goes to one place.
                    entries = [(key, value or b"") for _, key, value in operations]
                    transaction.cursor(databases[operations[0][0]]).putmulti(entries)
                    continue
                for (space, is_delete), group in groupby(operations, _operation_kind):
                    database = databases[space]
                    if is_delete:
                        for _, key, _ in group:
                            transaction.delete(key, db=database)
                    else:
                        transaction.cursor(database).putmulti([(key, value or b"") for _, key, value in group])
        self._committed += 1

    def _wait_for_growth(self) -> None:
        if threading.get_ident() == self._owner_thread:
            self._growth_wanted = True
            self.maintain()
            if self._growth_wanted:
                raise StoreFull("the store's map is full and cannot grow while snapshots are open")
            return
        with self._growth:
            self._growth_wanted = True
            if not self._growth.wait_for(lambda: not self._growth_wanted, _GROWTH_WAIT_SECONDS):
                self._growth_wanted = False
                raise StoreFull("the store's map is full and could not grow in time")

    def maintain(self) -> None:
        """Grow the map if a writer waits for it and no snapshot is open (owner's thread)."""
        if not self._growth_wanted or self._snapshots:
            return
        self.idle()
        with self._growth:
            try:
                self._environment.set_mapsize(self._environment.info()["map_size"] * 2)
            except (lmdb.Error, OSError):
                pass  # the writer runs into its time limit and reports StoreFull
            else:
                self._growth_wanted = False
                self._growth.notify_all()

    # -------------------------------------------------------------------------------------------------------- the rest

    def size_bytes(self) -> int:
        info = self._environment.info()
        page_bytes: int = self._environment.stat()["psize"]
        return (int(info["last_pgno"]) + 1) * page_bytes

    def close(self) -> None:
        self.idle()
        for snapshot in list(self._snapshots):
            self.release(snapshot)
        self._environment.close()
        os.close(self._owner_file)


def _operation_kind(operation: tuple[Space, bytes, bytes | None]) -> tuple[Space, bool]:
    return operation[0], operation[2] is None


def _only_puts_in_one_space(operations: list[tuple[Space, bytes, bytes | None]]) -> bool:
    return len(set(map(itemgetter(0), operations))) == 1 and None not in set(map(itemgetter(2), operations))


def _clear(cursor: lmdb.Cursor, start: bytes, end: bytes) -> None:
    """Delete [start, end): counted first, since a look at each key would double the calls that give the GIL away."""
    count = sum(1 for _ in _scan_up(cursor, start, end))
    if count:
        cursor.set_range(start)
        for _ in range(count):
            cursor.delete()  # leaves the cursor on the next entry


def _lock_folder(path: Path) -> int:
    """Make the folder and take its OWNER lock, which the kernel lets go of when the process dies."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = os.open(path / "OWNER", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _translated_os(error) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise StoreInUse(f"store {path} is open in another process") from None
    return file


def _translated(error: lmdb.Error) -> StorageError:
    if isinstance(error, lmdb.DiskError | lmdb.MapFullError) or "No space left" in str(error):
        return StoreFull(f"no room left in the store: {error}")
    if isinstance(error, lmdb.ReadonlyError) or "Read-only file system" in str(error):
        return StoreReadOnly(f"the store cannot be written: {error}")
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.InvalidError | lmdb.PanicError):
        return StoreCorrupt(f"the store's file is damaged: {error}")
    if isinstance(error, lmdb.VersionMismatchError):
        return StoreVersionMismatch(f"the store was written by another LMDB version: {error}")
    return StorageError(str(error))


def _translated_os(error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"no room left for the store: {error}")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StoreReadOnly(f"the store cannot be written: {error}")
    return StorageError(str(error))
