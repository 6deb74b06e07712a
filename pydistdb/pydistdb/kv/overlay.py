"""Laying provisional entries over a scanned chunk of committed ones.

Both sides of kv need this: the gateway lays its buffered writes over what a leaseholder returned, the leaseholder the
intents that a reader may see over what it found in the store::

    committed  a=1  c=3  e=5   resume f         chunk of [a, f)
    overlay    b=2  c=None                      (None: a delete)
    limit 2  → a=1  b=2        resume c         the rest of the chunk comes with the next call

A chunk covers its span from the start (the end, in reverse) up to ``resume``; the overlay must hold every provisional
entry of that span, in scan order.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb_storage.keys import prefix_end

Chunk = tuple[list[bytes], list[bytes], bytes | None]


def covered_span(start: bytes, end: bytes, resume: bytes | None, reverse: bool) -> tuple[bytes, bytes]:
    """The part of [start, end) that a chunk with this ``resume`` speaks for."""
    if resume is None:
        return start, end
    return (resume, end) if reverse else (start, resume)


def lay_over(
    chunk: Chunk, overlay: Sequence[tuple[bytes, bytes | None]], limit: int, *, reverse: bool = False
) -> Chunk:
    """The chunk with ``overlay`` on top, cut after ``limit`` entries."""
    keys, values, resume = chunk
    if not overlay:
        return chunk
    if not keys and len(overlay) <= limit:
        live = sorted((entry for entry in overlay if entry[1] is not None), reverse=reverse)
        return [key for key, _ in live], [value for _, value in live if value is not None], resume
    merged: dict[bytes, bytes | None] = dict(zip(keys, values, strict=True))
    merged.update(overlay)
    ordered = sorted(merged, reverse=reverse)
    out_keys: list[bytes] = []
    out_values: list[bytes] = []
    for key in ordered:
        value = merged[key]
        if value is None:
            continue
        if len(out_keys) >= limit:
            last = out_keys[-1]
            return out_keys, out_values, last if reverse else prefix_end(last)
        out_keys.append(key)
        out_values.append(value)
    return out_keys, out_values, resume
