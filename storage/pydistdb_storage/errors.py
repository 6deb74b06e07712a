"""What can go wrong in a store, classed by what the caller does next."""

from __future__ import annotations

import errno


class StorageError(Exception):
    """Base of every error this layer raises for the world's faults (our own bugs are assertions)."""


class StoreFull(StorageError):
    """The disk (or a configured limit) has no room; nothing was written, and reads go on."""


class StoreReadOnly(StorageError):
    """The file system refuses writes."""


class StoreInUse(StorageError):
    """Another process has this store open."""


class StoreVersionMismatch(StorageError):
    """The store was written by a version of PyDistDB that this one cannot read."""


class StoreCorrupt(StorageError):
    """The store's bytes contradict themselves; the node must stop and be filled again by its peers."""


class KeyTooLong(StorageError):
    """A key is longer than the engine can hold (SQLSTATE 54000 to a client)."""

    def __init__(self, length: int, limit: int) -> None:
        super().__init__(f"key of {length} bytes exceeds the limit of {limit} bytes")
        self.length = length
        self.limit = limit


def translated(error: OSError) -> StorageError:
    """An operating system's error in this layer's terms."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreFull(f"no room left for the store: {error}")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StoreReadOnly(f"the store cannot be written: {error}")
    return StorageError(str(error))
