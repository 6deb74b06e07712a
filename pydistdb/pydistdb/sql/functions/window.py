"""Window functions, and how they are called.

A pure window function (``Function.window`` is set) is called once per partition::

    results = function.implementation(partition, *argument_columns)

``partition`` is a ``Partition``; ``argument_columns[k][i]`` is the value of argument k for row i, rows in window order.
``results`` gives one value per row, in order, and is asked for a few at a time: a function keeps nothing of its rows, for there
may be more of them than fit into memory.  Nothing is strict here: NULLs reach the function.

    >>> list(rank(Partition(3, peers=[0, 0, 1])))
    [1, 1, 3]

``peers[i]`` numbers the peer group of row i from 0: rows that ORDER BY does not tell apart (all of them, without ORDER BY).
``frames`` gives each row's frame in order, the sequence of row positions in it; it is asked for only by the functions in
``USES_FRAME``, and the caller may leave it out for others.

Aggregates used as window functions are AggregateFunctions: the caller runs them over the frames.

Source: PostgreSQL 15 manual, 9.22 and 4.2.8.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions.define import define

USES_FRAME = frozenset(("first_value", "last_value", "nth_value"))


class Partition:
    """The rows of one window partition, without their values."""

    __slots__ = ("frames", "peers", "size")

    def __init__(self, size: int, peers: Sequence[int] = (), frames: Iterable[Sequence[int]] = ()) -> None:
        self.size = size
        self.peers = peers
        self.frames = frames


def row_number(partition: Partition) -> Iterable[int]:
    return range(1, partition.size + 1)


def rank(partition: Partition) -> Iterator[int]:
    last, number = -1, 0
    for position, peer in enumerate(partition.peers, 1):
        if peer != last:
            last, number = peer, position
        yield number


def dense_rank(partition: Partition) -> Iterator[int]:
    return (peer + 1 for peer in partition.peers)


def percent_rank(partition: Partition) -> Iterator[float]:
    others = max(partition.size - 1, 1)
    return ((position - 1) / others for position in rank(partition))


def cume_dist(partition: Partition) -> Iterator[float]:
    last, end = -1, 0
    for peer in partition.peers:
        if peer != last:
            last, end = peer, bisect_right(partition.peers, peer, end)
        yield end / partition.size


def ntile(partition: Partition, counts: Sequence[int | None]) -> Iterator[int | None]:
    size = partition.size
    count = counts[0] if size else 1
    if count is None:
        yield from repeat(None, size)
        return
    if count <= 0:
        raise DatabaseError.of("22014", "argument of ntile must be greater than zero")
    # The first ``larger`` buckets have one row more than the others.
    per_bucket, larger = divmod(size, count)
    for bucket in range(1, min(count, size) + 1):
        yield from repeat(bucket, per_bucket + (bucket <= larger))


def _shifted(partition: Partition, direction: int, columns: Sequence[Sequence[Any]]) -> Iterator[Any]:
    values, size = columns[0], partition.size
    offsets = columns[1] if len(columns) > 1 else None
    defaults = columns[2] if len(columns) > 2 else None
    for position in range(size):
        offset = 1 if offsets is None else offsets[position]
        if offset is None:
            yield None
            continue
        target = position + direction * offset
        if 0 <= target < size:
            yield values[target]
        else:
            yield None if defaults is None else defaults[position]


def lag(partition: Partition, *columns: Sequence[Any]) -> Iterator[Any]:
    return _shifted(partition, -1, columns)


def lead(partition: Partition, *columns: Sequence[Any]) -> Iterator[Any]:
    return _shifted(partition, 1, columns)


def first_value(partition: Partition, values: Sequence[Any]) -> Iterator[Any]:
    return (values[frame[0]] if frame else None for frame in partition.frames)


def last_value(partition: Partition, values: Sequence[Any]) -> Iterator[Any]:
    return (values[frame[-1]] if frame else None for frame in partition.frames)


def nth_value(partition: Partition, values: Sequence[Any], counts: Sequence[int | None]) -> Iterator[Any]:
    for frame, count in zip(partition.frames, counts, strict=True):
        if count is None:
            yield None
            continue
        if count <= 0:
            raise DatabaseError.of("22016", "argument of nth_value must be greater than zero")
        yield values[frame[count - 1]] if count <= len(frame) else None


define("row_number()", row_number)
define("rank()", rank)
define("dense_rank()", dense_rank)
define("percent_rank()", percent_rank)
define("cume_dist()", cume_dist)
define("ntile(int4)", ntile)
define("lag(anyelement)", lag)
define("lag(anyelement,int4)", lag)
define("lag(anycompatible,int4,anycompatible)", lag)
define("lead(anyelement)", lead)
define("lead(anyelement,int4)", lead)
define("lead(anycompatible,int4,anycompatible)", lead)
define("first_value(anyelement)", first_value)
define("last_value(anyelement)", last_value)
define("nth_value(anyelement,int4)", nth_value)
