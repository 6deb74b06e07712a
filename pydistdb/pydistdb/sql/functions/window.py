"""Window functions, and how they are called.

A pure window function (``Function.window`` is set) is called once per partition::

    results = function.implementation(partition, *argument_columns)

``partition`` is a ``Partition``; ``argument_columns[k][i]`` is the value of argument k for row i, rows in window order.
``results`` is a list with one value per row.  Nothing is strict here: NULLs reach the function.

    >>> rank(Partition(3, peers=[0, 0, 1]))
    [1, 1, 3]

``peers[i]`` numbers the peer group of row i from 0: rows that ORDER BY does not tell apart (all of them, without ORDER BY).
``frames[i]`` is the sequence of row positions in row i's frame, as a range, or a list where EXCLUDE cuts a hole; it is
asked for only by the functions in ``USES_FRAME``, and the caller may leave it out for others.

Aggregates used as window functions are AggregateFunctions: the caller runs them over the frames.

Source: PostgreSQL 15 manual, 9.22 and 4.2.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions.define import define

USES_FRAME = frozenset(("first_value", "last_value", "nth_value"))


class Partition:
    """The rows of one window partition, without their values."""

    __slots__ = ("frames", "peers", "size")

    def __init__(self, size: int, peers: Sequence[int] = (), frames: Sequence[Sequence[int]] = ()) -> None:
        self.size = size
        self.peers = peers
        self.frames = frames


def row_number(partition: Partition) -> list[int]:
    return list(range(1, partition.size + 1))


def rank(partition: Partition) -> list[int]:
    ranks: list[int] = []
    for position, peer in enumerate(partition.peers):
        ranks.append(ranks[-1] if position and peer == partition.peers[position - 1] else position + 1)
    return ranks


def dense_rank(partition: Partition) -> list[int]:
    first = partition.peers[0] if partition.size else 0
    return [peer - first + 1 for peer in partition.peers]


def percent_rank(partition: Partition) -> list[float]:
    if partition.size <= 1:
        return [0.0] * partition.size
    return [(position - 1) / (partition.size - 1) for position in rank(partition)]


def cume_dist(partition: Partition) -> list[float]:
    results = [0.0] * partition.size
    last = partition.size
    for position in range(partition.size - 1, -1, -1):
        if position + 1 < partition.size and partition.peers[position] != partition.peers[position + 1]:
            last = position + 1
        results[position] = last / partition.size
    return results


def ntile(partition: Partition, counts: Sequence[int | None]) -> list[int | None]:
    size = partition.size
    count = counts[0] if size else 1
    if count is None:
        return [None] * size
    if count <= 0:
        raise DatabaseError.of("22014", "argument of ntile must be greater than zero")
    # The first ``larger`` buckets have one row more than the others.
    per_bucket, larger = divmod(size, count)
    results: list[int | None] = []
    for bucket in range(1, min(count, size) + 1):
        results.extend([bucket] * (per_bucket + (bucket <= larger)))
    return results


def _shifted(partition: Partition, direction: int, columns: Sequence[Sequence[Any]]) -> list[Any]:
    values, size = columns[0], partition.size
    offsets = columns[1] if len(columns) > 1 else None
    defaults = columns[2] if len(columns) > 2 else None
    results: list[Any] = []
    for position in range(size):
        offset = 1 if offsets is None else offsets[position]
        if offset is None:
            results.append(None)
            continue
        target = position + direction * offset
        if 0 <= target < size:
            results.append(values[target])
        else:
            results.append(None if defaults is None else defaults[position])
    return results


def lag(partition: Partition, *columns: Sequence[Any]) -> list[Any]:
    return _shifted(partition, -1, columns)


def lead(partition: Partition, *columns: Sequence[Any]) -> list[Any]:
    return _shifted(partition, 1, columns)


def first_value(partition: Partition, values: Sequence[Any]) -> list[Any]:
    return [values[frame[0]] if frame else None for frame in partition.frames]


def last_value(partition: Partition, values: Sequence[Any]) -> list[Any]:
    return [values[frame[-1]] if frame else None for frame in partition.frames]


def nth_value(partition: Partition, values: Sequence[Any], counts: Sequence[int | None]) -> list[Any]:
    results: list[Any] = []
    for frame, count in zip(partition.frames, counts, strict=True):
        if count is None:
            results.append(None)
            continue
        if count <= 0:
            raise DatabaseError.of("22016", "argument of nth_value must be greater than zero")
        results.append(values[frame[count - 1]] if count <= len(frame) else None)
    return results


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
