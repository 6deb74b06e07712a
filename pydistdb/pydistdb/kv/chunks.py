"""Cutting many writes up into proposals of bounded size.

::

    10,000 writes of 100 bytes    →  two proposals of 5,000
    3 writes, one of 5 MB         →  a proposal each
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from pydistdb.kv.requests import Write

CHUNK_BYTES = 512 << 10
MAX_CHUNK_WRITES = 5_000
WRITE_OVERHEAD_BYTES = 60
_Keyed = TypeVar("_Keyed", Write, tuple[bytes, bytes])


def even_chunks(writes: Sequence[_Keyed]) -> Iterator[list[_Keyed]]:
    """Cut a range's writes into proposals of bounded size, all of about the same number of writes."""
    count = len(writes)
    sizes = [len(write[0]) + len(write[1] or b"") + WRITE_OVERHEAD_BYTES for write in writes]
    step = max(1, min(MAX_CHUNK_WRITES, count * CHUNK_BYTES // sum(sizes)))
    for first in range(0, count, step):
        if sum(sizes[first : first + step]) <= 2 * CHUNK_BYTES:
            yield list(writes[first : first + step])
        else:  # the long values gather here
            yield from ([write] for write in writes[first : first + step])
