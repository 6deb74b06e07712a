"""The calls of a window stage at work on one partition.

First everything that the calls look at is computed for all rows: peer groups, arguments, filters.  It goes to disk where it
does not fit (long_list.py), and so may the rows themselves.  Then values are made row by row as the rows are handed on, so that
nothing is kept of results::

    sum(v) OVER (ORDER BY d)         d 1 2 2 3       peers of 0 1 1 2   starts 0 1 3 4
                                     v 5 6 7 8       frames 0..1, 0..3, 0..3, 0..4     →  5, 18, 18, 26

An aggregate runs over each row's frame: where frames only grow at their end, as by default, one state is carried along; equal
frames in a row share their result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import compress, islice
from typing import TYPE_CHECKING, Any

from pydistdb.sql.exec.frames import Frame, Holed, Peers, frames
from pydistdb.sql.exec.long_list import Field, LongList, Repeated, ValueCodec
from pydistdb.sql.exec.memory import Holding
from pydistdb.sql.exec.operator import Batch, Row
from pydistdb.sql.exec.run import BATCH_ROWS, MOST_PAIRS, State
from pydistdb.sql.exec.spill import BlockCodec, RowCodec
from pydistdb.sql.exec.values import batch_bytes
from pydistdb.sql.functions.window import USES_FRAME, Partition
from pydistdb.sql.tree import WindowCall
from pydistdb.sql.types.base import AggregateFunction, Function
from pydistdb.sql.types.known import BOOL, INT8

if TYPE_CHECKING:
    from pydistdb.sql.exec.window import StageOperator

Parts = Callable[[], Iterator[Batch]]
"""A partition's rows in batches, as often as wanted."""
VALUE_BYTES = 40
"""What a number takes, in its list."""
MOST_AT_ONCE = 4 * BATCH_ROWS
"""Rows of a frame that are looked at between two breaths, and lie in memory at once."""


class PartitionRun:
    """See the module's introduction.  ``parts`` gives the rows, ``size`` of them."""

    def __init__(self, stage: StageOperator, parts: Parts, size: int, held: Holding, state: State) -> None:
        self._stage = stage
        self._parts = parts
        self._size = size
        self._held = held
        self._state = state
        self._lists: list[LongList] = []
        self._streams: list[AggregateRun | Iterator[Any]] = []

    async def begin(self) -> None:
        """Compute what the calls look at."""
        peers = await self._peers()
        for number, call in enumerate(self._stage.calls):
            self._streams.append(await self._stream(number, call, peers))

    async def take(self, count: int) -> Iterator[Row]:
        """The calls' values for the next ``count`` rows."""
        columns = [
            await stream.take(count) if isinstance(stream, AggregateRun) else list(islice(stream, count))
            for stream in self._streams
        ]
        return zip(*columns, strict=True)

    def close(self) -> None:
        for each in self._lists:
            each.close()

    def _list(self, codec: Callable[[], BlockCodec]) -> LongList:
        made = LongList(codec, self._held)
        self._lists.append(made)
        return made

    async def _each(
        self, function: Callable[[Batch, State], list[Any]], codec: Callable[[], BlockCodec], *, rows: bool = False
    ) -> Sequence[Any]:
        """What a function of batches gives for all rows: ``rows``, or single values."""
        found = self._list(codec)
        for part in self._parts():
            values = function(part, self._state)
            found.extend(values, batch_bytes(values) if rows else batch_bytes([values]))
            await self._state.breathe()
        return found.settle()

    async def _peers(self) -> Peers:
        stage, state = self._stage, self._state
        if not stage.order_by:
            return Peers(Repeated(0, self._size), [0, self._size])
        of, starts = self._list(_numbers), self._list(_numbers)
        last: Any = None
        group, position = -1, 0
        for part in self._parts():
            groups: list[int] = []
            begun: list[int] = []
            for key in stage.order_keys(part, state):
                if key != last or group < 0:
                    group += 1
                    begun.append(position)
                    last = key
                groups.append(group)
                position += 1
            of.extend(groups, VALUE_BYTES * len(groups))
            starts.extend(begun, VALUE_BYTES * len(begun))
            await state.breathe()
        starts.extend([position], VALUE_BYTES)
        return Peers(of.settle(), starts.settle())

    async def _stream(self, number: int, call: WindowCall, peers: Peers) -> AggregateRun | Iterator[Any]:
        """The values of a call, one after the other."""
        stage, state, function = self._stage, self._state, call.function
        chosen: Iterator[Frame] = iter(())
        has_offsets = bool(call.frame) and any(bound[1] is not None for bound in call.frame[1:3])
        if isinstance(function, AggregateFunction) or function.name in USES_FRAME or has_offsets:
            # row_number() has no use for its frame, but bad offsets are an error
            values: Sequence[Any] = ()
            if has_offsets and stage.order_by:
                type_ = stage.order_by[0].expression.type
                values = await self._each(stage.order_values, lambda: ValueCodec(type_))
            chosen = frames(call.frame, peers, values, stage.order_by, state)
        arguments: Sequence[Row] = Repeated((), self._size)
        if call.arguments:
            types = [argument.type for argument in call.arguments]
            arguments = await self._each(stage.arguments[number], lambda: RowCodec(types), rows=True)
        if isinstance(function, Function):
            columns: Iterator[Sequence[Any]] = iter(())
            if isinstance(arguments, list):
                columns = zip(*arguments, strict=True)
            elif call.arguments:
                columns = (Field(arguments, field) for field in range(len(call.arguments)))
            results: Iterator[Any] = iter(function.implementation(Partition(self._size, peers.of, chosen), *columns))
            return results
        passes = stage.filters[number]
        kept = None if passes is None else await self._each(passes, lambda: ValueCodec(BOOL))
        return AggregateRun(function, arguments, kept, chosen, state)


def _numbers() -> ValueCodec:
    return ValueCodec(INT8)


class AggregateRun:
    """An aggregate's values for frames, in their order.  ``kept``: which rows pass the call's FILTER."""

    def __init__(
        self,
        function: AggregateFunction,
        arguments: Sequence[Row],
        kept: Sequence[bool] | None,
        chosen: Iterator[Frame],
        state: State,
    ) -> None:
        self._function = function
        self._arguments = arguments
        self._kept = kept
        self._chosen = chosen
        self._state = state
        self._previous: Frame | None = None
        self._value: Any = None
        self._result: Any = None
        self._looked_at = 0
        """Rows, since the last breath."""

    async def take(self, count: int) -> list[Any]:
        """The values for the next ``count`` frames."""
        function, state = self._function, self._state
        finish: Callable[..., Any] = function.finish
        results: list[Any] = []
        previous, value, result = self._previous, self._value, self._result
        for frame in islice(self._chosen, count):
            if frame == previous:
                results.append(result)
                continue
            if isinstance(frame, Holed):
                pieces, grows = frame.pieces, False
            elif isinstance(previous, range) and frame.start == previous.start and frame.stop >= previous.stop:
                pieces, grows = (range(previous.stop, frame.stop),), True
            else:
                pieces, grows = (frame,), False
            if not grows:
                value = function.initial()
            for piece in pieces:
                value = self._taken(value, piece) if len(piece) <= MOST_AT_ONCE else await self._long(value, piece)
            self._looked_at += len(frame)  # of all the frame: an array is made of as many
            if self._looked_at >= MOST_PAIRS:
                await state.breathe()
                self._looked_at = 0
            previous = frame
            result = finish(value, state.context) if function.needs_context else finish(value)
            results.append(result)
        self._previous, self._value, self._result = previous, value, result
        return results

    def _taken(self, value: Any, piece: range) -> Any:
        """The state with the rows of a piece of a frame taken in."""
        rows = self._arguments[piece.start : piece.stop]
        if self._kept is not None:
            rows = list(compress(rows, self._kept[piece.start : piece.stop]))
        accumulate, strict = self._function.accumulate, self._function.strict
        for row in rows:
            if not (strict and None in row):
                value = accumulate(value, *row)
        return value

    async def _long(self, value: Any, piece: range) -> Any:
        for first in range(0, len(piece), MOST_AT_ONCE):
            value = self._taken(value, piece[first : first + MOST_AT_ONCE])
            await self._state.breathe()
        return value
