"""Window frames: for each row of a partition, the positions of the rows its frame holds.

``rows`` counts rows, ``groups`` counts peer groups, ``range`` compares values of the one ORDER BY column.  A frame is a range of
positions, or several where EXCLUDE cuts a hole::

    values 1 2 2 5, RANGE BETWEEN 1 PRECEDING AND CURRENT ROW   ->   0..1, 0..3, 0..3, 3..4

Frames are made one by one, in the order of the rows, and their edges only move forward: so a long partition needs no memory for
them, and the edge of a range is looked for from where the last one was.

Source: PostgreSQL 15 manual, 4.2.8.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pydistdb.sql.errors import DatabaseError, FeatureNotSupported
from pydistdb.sql.exec.codegen import evaluator
from pydistdb.sql.exec.run import State
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.tree import Expr, SortKey
from pydistdb.sql.types.base import Interval
from pydistdb.sql.types.known import DATE, FLOAT4, FLOAT8, INTERVAL
from pydistdb.sql.types.ordering import MICROSECONDS_PER_DAY, interval_key, sort_key


class Holed(Sequence[int]):
    """A frame in pieces."""

    __slots__ = ("pieces",)

    def __init__(self, *pieces: range) -> None:
        self.pieces = tuple([piece for piece in pieces if piece])

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self.pieces)

    def __getitem__(self, place: Any) -> Any:
        if place < 0:
            place += len(self)
        for piece in self.pieces:
            if 0 <= place < len(piece):
                return piece[place]
            place -= len(piece)
        raise IndexError(place)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Holed) and self.pieces == other.pieces

    __hash__ = None  # type: ignore[assignment]


Frame = range | Holed
DEFAULT: tuple[Any, ...] = ("range", ("unbounded preceding", None), ("current row", None), "")


@dataclass(frozen=True, slots=True)
class Peers:
    """A partition's rows by peer group: ``of[i]`` is row i's group, ``starts[g]`` its first row (and one more at the end)."""

    of: Sequence[int]
    starts: Sequence[int]

    @property
    def size(self) -> int:
        return len(self.of)


def frames(
    frame: tuple[Any, ...], peers: Peers, values: Sequence[Any], order_by: Sequence[SortKey], state: State
) -> Iterator[Frame]:
    """The frame of every row, one after the other; ``values``: the ORDER BY column (for a range with offsets)."""
    unit, (start_word, start_offset), (end_word, end_offset), exclusion = frame or DEFAULT
    start = _edge(
        unit, start_word, _offset(start_offset, "starting", unit, state), peers, values, order_by, state, False
    )
    end = _edge(unit, end_word, _offset(end_offset, "ending", unit, state), peers, values, order_by, state, True)
    size = peers.size

    def between(row: int) -> range:
        first = min(max(start(row), 0), size)
        return range(first, max(first, min(end(row), size)))

    if exclusion:
        return (_excluding(exclusion, between(row), row, peers) for row in range(size))
    return map(between, range(size))


def _excluding(exclusion: str, frame: range, row: int, peers: Peers) -> Frame:
    if exclusion == "current row":
        first, last = row, row + 1
    else:
        group = peers.of[row]
        first, last = peers.starts[group], peers.starts[group + 1]
    itself = range(row, row + 1) if exclusion == "ties" and row in frame else range(0)
    return Holed(range(frame.start, min(frame.stop, first)), itself, range(max(frame.start, last), frame.stop))


def _offset(expression: Expr | None, which: str, unit: str, state: State) -> Any:
    if expression is None:
        return None
    (value,) = evaluator([expression])(state)
    if value is None:
        raise DatabaseError.of("22004", f"frame {which} offset must not be null")
    if unit != "range" and value < 0:
        raise DatabaseError.of("22013", f"frame {which} offset must not be negative")
    return value


def _edge(
    unit: str,
    word: str,
    offset: Any,
    peers: Peers,
    values: Sequence[Any],
    order_by: Sequence[SortKey],
    state: State,
    is_end: bool,
) -> Callable[[int], int]:
    """A function from a row to the first position of its frame, or (``is_end``) the one behind its last."""
    size = peers.size
    if word.startswith("unbounded"):
        edge = 0 if word == "unbounded preceding" else size
        return lambda row: edge
    if unit == "rows":
        step = {"preceding": -1, "current row": 0, "following": 1}[word] * (offset or 0)
        return lambda row: row + step + is_end
    if word == "current row" or unit == "groups":
        steps = {"preceding": -1, "current row": 0, "following": 1}[word] * (offset or 0)
        last_group = len(peers.starts) - 2

        def by_group(row: int) -> int:
            group = peers.of[row] + steps
            if group < 0:
                return 0
            return size if group > last_group else peers.starts[group + is_end]

        return by_group
    return _range_edge(word, offset, values, order_by[0], peers, state, is_end)


def _range_edge(
    word: str, offset: Any, values: Sequence[Any], order: SortKey, peers: Peers, state: State, is_end: bool
) -> Callable[[int], int]:
    backwards = (word == "preceding") != order.descending
    move = _mover("-" if backwards else "+", order.expression.type.oid, offset, state)
    key = sort_key(order.expression.type.oid) or (lambda value: value)
    if order.expression.type.oid == DATE.oid and isinstance(offset, Interval):
        key = _midnight
    if order.nulls_first:
        place, last = bisect_left(values, True, key=lambda value: value is not None), len(values)
    else:
        place, last = 0, bisect_left(values, True, key=lambda value: value is None)

    outermost = float("inf") if is_end != order.descending else float("-inf")

    def edge(row: int) -> int:
        nonlocal place
        value = values[row]
        if value is None:
            return peers.starts[peers.of[row] + is_end]
        moved = move(value)
        if moved != moved and value == value:
            moved = type(value)(outermost)  # from one infinity to the other: every number is in between
        target = moved if key is _midnight else key(moved)

        def is_before(position: int) -> bool:
            here: Any = key(values[position])
            before: bool = here > target if order.descending else here < target
            return before or (is_end and here == target)

        low, high, step = place, last, 1
        while low + step <= last:  # first in leaps
            if not is_before(low + step - 1):
                high = low + step - 1
                break
            low, step = low + step, 2 * step
        while low < high:
            middle = (low + high) // 2
            if is_before(middle):
                low = middle + 1
            else:
                high = middle
        place = low
        return low

    return edge


def _midnight(day: int) -> int:
    """A date as a timestamp, which is what date arithmetic with an interval gives."""
    return day * MICROSECONDS_PER_DAY


def _mover(name: str, value_oid: int, offset: Any, state: State) -> Callable[[Any], Any]:
    """``value + offset`` or ``value - offset`` in the type's own arithmetic."""
    if isinstance(offset, Interval):
        operator = functions.operator_for(name, value_oid, INTERVAL.oid)
    elif value_oid == FLOAT4.oid:
        operator = functions.operator_for(name, FLOAT8.oid, FLOAT8.oid)
    else:
        operator = functions.operator_for(name, value_oid, value_oid)
    if operator is None:
        raise FeatureNotSupported("RANGE with offset PRECEDING/FOLLOWING is not supported for this column type")
    if isinstance(offset, Interval):
        refused = interval_key(offset) < 0
    else:
        refused = offset != offset or offset < 0
    if refused:
        raise DatabaseError.of("22013", "invalid preceding or following size in window function")
    function = operator.function
    body = function.implementation
    if function.needs_context:
        return lambda value: body(state.context, value, offset)

    def moved(value: Any) -> Any:
        try:
            return body(value, offset)
        except DatabaseError as error:
            if error.sqlstate != "22003":
                raise
            # Past the type's end: beyond every value there is.
            return value + offset if name == "+" else value - offset

    return moved
