"""Many entries on their way into storage, past the transaction's buffer.

Entries are gathered, because each write waits for the disk once, and one gathered batch is written while the next is being
made: so whoever makes them never waits, unless the disk is slower.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from pydistdb.tasks import Scheduler, Task

INGEST_ENTRIES = 5_000
INGEST_BYTES = 4 << 20
"""Keys and values gathered for one write, whichever comes first."""


Entries = list[tuple[bytes, bytes]]


class Ingest:
    """Gathers (key, value) pairs and hands them to ``write``: ``Database.ingest`` for storage that only the current
    transaction knows, ``Transaction.lay_down_fresh`` for rows that nobody else can know."""

    def __init__(self, write: Callable[[Entries], Coroutine[Any, None, None]], scheduler: Scheduler) -> None:
        self._write_entries = write
        self._scheduler = scheduler
        self._gathered: Entries = []
        self._gathered_bytes = 0
        self._writing: Task[None] | None = None

    async def add(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Take entries; raises what an earlier write failed with."""
        gathered = self._gathered
        before = len(gathered)
        gathered.extend(entries)
        self._gathered_bytes += sum(len(key) + len(value) for key, value in gathered[before:])
        if len(gathered) >= INGEST_ENTRIES or self._gathered_bytes >= INGEST_BYTES:
            await self._write()

    async def finish(self) -> None:
        """Wait until everything is written."""
        if self._gathered:
            await self._write()
        await self._written()

    async def settle(self) -> None:
        """Wait for the write under way, whatever becomes of it: what is cleared from here on stays clear."""
        self._gathered.clear()
        with contextlib.suppress(Exception):
            await self._written()

    async def _write(self) -> None:
        await self._written()
        gathered, self._gathered = self._gathered, []
        self._gathered_bytes = 0
        self._writing = self._scheduler.spawn(self._write_entries(gathered), "ingest")

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing.completion
