"""What a step of a run keeps in memory, and what it has put on disk.

A step that keeps rows makes a ``Holding``, counts every batch, and looks whether it is time to go to disk::

    with state.hold(self.actual) as held:
        async for batch in source:
            held.take(batch)
            if held.is_over: …held.file(codec).write(…); held.clear()

The end of the ``with`` gives back what is left, and tells EXPLAIN ANALYZE the most there was.  Steps that hash may keep
``hash_mem_multiplier`` times ``work_mem``, as in Postgres.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from pydistdb.sql.exec.values import batch_bytes
from pydistdb.sql.plan.explain_formats import Actual, Usage
from pydistdb.sql.resources import QueryResources

if TYPE_CHECKING:
    from pydistdb.sql.exec.spill import BlockCodec, SpillFile


class Holding:
    """Memory and disk of one step."""

    __slots__ = ("disk_bytes", "limit_bytes", "resources", "size_bytes", "usage")

    def __init__(self, resources: QueryResources, limit_bytes: int, actual: Actual | None = None) -> None:
        self.resources = resources
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self.disk_bytes = 0
        if actual is None:
            self.usage = Usage()
        else:
            self.usage = actual.usage = actual.usage or Usage()
        """What EXPLAIN ANALYZE shows of it."""

    def __enter__(self) -> Holding:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.clear()

    @property
    def is_over(self) -> bool:
        """It is time to go to disk."""
        return self.size_bytes > self.limit_bytes

    def take(self, rows: list[Any]) -> None:
        """Count a batch that is kept; raises 53200 past the limits of the query and the node."""
        self.resize(self.size_bytes + batch_bytes(rows))

    def resize(self, size_bytes: int) -> None:
        """Count anew."""
        grown = size_bytes - self.size_bytes
        self.size_bytes = size_bytes
        if size_bytes > self.usage.memory_bytes:
            self.usage.memory_bytes = size_bytes
        self.resources.grow(grown)

    def clear(self) -> None:
        """Nothing is kept any more."""
        if self.size_bytes:
            self.resources.grow(-self.size_bytes)
            self.size_bytes = 0

    def wrote(self, size_bytes: int) -> None:
        """Count what is about to be written; raises 53400 past ``temp_file_limit``."""
        self.resources.grow_file(size_bytes)
        self.disk_bytes += size_bytes
        if self.disk_bytes > self.usage.disk_bytes:
            self.usage.disk_bytes = self.disk_bytes

    def file(self, codec: BlockCodec) -> SpillFile:
        """A temporary file that counts for this step."""
        from pydistdb.sql.exec.spill import SpillFile

        return SpillFile(codec, self)
