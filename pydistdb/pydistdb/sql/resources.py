"""Memory and temporary files of queries: who holds how much, and where it ends.

Every step of a query that keeps rows counts them, a batch at a time (exec/memory.py).  The counts add up twice::

    step (goes to disk past work_mem)  ->  query (proddb.max_query_memory)  ->  node (--max-sql-memory)
    temporary file                     ->  session (temp_file_limit)

What goes past a limit of memory and cannot go to disk ends with 53200, that query alone; past ``temp_file_limit`` it is 53400.
``QueryResources.close`` gives everything back, whatever way the query ends, so no step can leak.

Temporary files lie in a folder of the store and have no name from the moment they are made (O_TMPFILE, where the file system
knows it): a node that is killed leaves nothing, and what some other file system may have left is removed at the start.

Sizes are estimates of Python's objects (``exec.values.batch_bytes``).  Source: PostgreSQL 15 manual, 20.4.1 and 20.4.2.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Protocol

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.settings import kilobytes

FOLDER_NAME = "temporary"
FILE_PREFIX = "pydistdb-"
MEMORY_SHARE = 4
"""By default the queries of a node may hold one part in so many of the machine's memory."""
KB = 1 << 10


class Closable(Protocol):
    def close(self) -> None:
        """Give back what it holds."""


class NodeResources:
    """What the queries of one node hold together."""

    def __init__(self, memory_limit_bytes: int = 0, folder: Path | None = None) -> None:
        self.memory_limit_bytes = memory_limit_bytes or machine_memory_bytes() // MEMORY_SHARE
        self.memory_bytes = 0
        self.disk_bytes = 0
        self.files = 0
        """Open at this moment."""
        self.files_made = 0
        self.bytes_written = 0
        self._folder = folder
        if folder is not None:
            _empty(folder)

    def open_file(self) -> IO[bytes]:
        file = tempfile.TemporaryFile(prefix=FILE_PREFIX, dir=self._folder)  # noqa: SIM115
        self.files += 1
        self.files_made += 1
        return file


def machine_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _empty(folder: Path) -> None:
    """Make the folder, without what an earlier process may have left in it."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            path.unlink()


class SessionResources:
    """What one session has on disk, over all its queries and cursors."""

    __slots__ = ("disk_bytes", "disk_limit_kb", "memory_limit_kb", "node")

    def __init__(self, node: NodeResources) -> None:
        self.node = node
        self.disk_bytes = 0
        self.disk_limit_kb = -1
        """temp_file_limit; -1: none."""
        self.memory_limit_kb = 0
        """proddb.max_query_memory, of each query; 0: none but the node's."""


LIMITS = ("work_mem", "hash_mem_multiplier", "temp_file_limit", "proddb.max_query_memory")
"""Settings of the session that hold at the other nodes that work for it."""


def session_elsewhere(node: NodeResources, settings: Mapping[str, str]) -> SessionResources:
    """What a session may hold at another ``node`` than its own, by the settings that came along (LIMITS)."""
    session = SessionResources(node)
    limit = settings.get("temp_file_limit", "")
    session.disk_limit_kb = kilobytes(limit) if limit and not limit.startswith("-") else -1
    limit = settings.get("proddb.max_query_memory", "")
    session.memory_limit_kb = kilobytes(limit) if limit else 0
    return session


class QueryResources:
    """What one query holds at one node, and the most that was."""

    __slots__ = (
        "_files",
        "_is_closed",
        "disk_bytes",
        "memory_bytes",
        "peak_disk_bytes",
        "peak_memory_bytes",
        "session",
    )

    def __init__(self, session: SessionResources) -> None:
        self.session = session
        self.memory_bytes = self.peak_memory_bytes = 0
        self.disk_bytes = self.peak_disk_bytes = 0
        self._files: set[Closable] = set()
        self._is_closed = False

    @property
    def peaks_bytes(self) -> tuple[int, int]:
        """The most that was in memory, and in temporary files."""
        return self.peak_memory_bytes, self.peak_disk_bytes

    # ------------------------------------------------------------------------------------------ memory

    def grow(self, size_bytes: int) -> None:
        """Count what the query holds more (or, negative, less); raises 53200 past a limit."""
        if self._is_closed:  # a step that is given up later than its query
            return
        node = self.session.node
        self.memory_bytes += size_bytes
        node.memory_bytes += size_bytes
        if size_bytes <= 0:
            return
        if self.memory_bytes > self.peak_memory_bytes:
            self.peak_memory_bytes = self.memory_bytes
        limit_bytes = self.session.memory_limit_kb * KB
        if limit_bytes and self.memory_bytes > limit_bytes:
            raise _out_of_memory(
                f"The query holds more than {limit_bytes // KB}kB that cannot go to disk.",
                "Increase proddb.max_query_memory, or have the query keep less at a time.",
            )
        if node.memory_bytes > node.memory_limit_bytes:
            raise _out_of_memory(
                f"The queries of this node hold more than {node.memory_limit_bytes // KB}kB.",
                "Reduce work_mem or the number of queries at a time, or start the node with a greater --max-sql-memory.",
            )

    # ------------------------------------------------------------------------------------------ files

    def open_file(self, owner: Closable) -> IO[bytes]:
        """A temporary file of ``owner``, which is closed with the query at the latest."""
        file = self.session.node.open_file()
        self._files.add(owner)
        return file

    def grow_file(self, size_bytes: int) -> None:
        """Count what is about to be written; raises 53400 past ``temp_file_limit``."""
        session, node = self.session, self.session.node
        limit_kb = session.disk_limit_kb
        if limit_kb >= 0 and session.disk_bytes + size_bytes > limit_kb * KB:
            raise DatabaseError.of("53400", f"temporary file size exceeds temp_file_limit ({limit_kb}kB)")
        session.disk_bytes += size_bytes
        node.disk_bytes += size_bytes
        node.bytes_written += size_bytes
        self.disk_bytes += size_bytes
        self.peak_disk_bytes = max(self.peak_disk_bytes, self.disk_bytes)

    def forget_file(self, owner: Closable, size_bytes: int) -> None:
        """``owner`` has closed its file, which was this large."""
        self._files.discard(owner)
        self.disk_bytes -= size_bytes
        self.session.disk_bytes -= size_bytes
        self.session.node.disk_bytes -= size_bytes
        self.session.node.files -= 1

    def close(self) -> None:
        """Give everything back."""
        for owner in list(self._files):
            owner.close()
        self.grow(-self.memory_bytes)
        self._is_closed = True


def _out_of_memory(detail: str, hint: str) -> DatabaseError:
    return DatabaseError.of("53200", "out of memory", detail=detail, hint=hint)
