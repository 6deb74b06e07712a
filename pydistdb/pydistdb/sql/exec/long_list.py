"""A long list of values: in memory as far as its account lets it, and in pages on disk beyond.

What the calls of a window function look at (arguments, peer groups, ORDER BY values) is a value for every row of a partition,
read in order or around places that move forward, as frames and lag() do.  The pages around these places are kept::

    found = LongList(codec, held); found.extend(values, size_bytes); …
    values = found.settle()
    values[70_000]        page 273 is read; 70_001 … 70_143 are in it        values[70_000:70_500]   pages 273 and 274

A list that fits is handed out as the list that it is, so there is nothing to pay for what is not needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydistdb.sql.exec.memory import Holding
from pydistdb.sql.exec.spill import BlockCodec, RowCodec, SpillFile
from pydistdb.sql.types.base import SqlType

PAGE_VALUES = 256
NEAR_SHARE = 8
"""The pages kept may take one part in so many of what the step may keep, and are at least LEAST_NEAR."""
LEAST_NEAR = 2


class ValueCodec:
    """Blocks of single values."""

    def __init__(self, type_: SqlType) -> None:
        rows = RowCodec([type_])
        self.encode: Callable[[list[Any]], bytes] = lambda values: rows.encode([(value,) for value in values])
        self.decode: Callable[[bytes], list[Any]] = lambda block: [value for (value,) in rows.decode(block)]


class LongList(Sequence[Any]):
    """See the module's introduction.  Whoever clears ``held`` gives back what it counts; ``close`` closes the file."""

    __slots__ = ("_codec", "_file", "_held", "_most_near", "_near", "_page_bytes", "_size", "_size_bytes", "_values")

    def __init__(self, codec: Callable[[], BlockCodec], held: Holding) -> None:
        self._codec = codec
        self._held = held
        self._values: list[Any] = []
        """All values; once there is a file, those behind its last page."""
        self._file: SpillFile | None = None
        self._near: OrderedDict[int, list[Any]] = OrderedDict()
        self._size = self._size_bytes = 0
        self._most_near = self._page_bytes = 0

    def extend(self, values: list[Any], size_bytes: int) -> None:
        """Append values that take about so much memory."""
        self._values += values
        self._size += len(values)
        self._size_bytes += size_bytes
        if self._file is None:
            held = self._held
            held.resize(held.size_bytes + size_bytes)
            if not held.is_over:
                return
            held.resize(held.size_bytes - self._size_bytes)
            self._file = held.file(self._codec())
        whole = len(self._values) // PAGE_VALUES * PAGE_VALUES
        for start in range(0, whole, PAGE_VALUES):
            self._file.write(self._values[start : start + PAGE_VALUES])
        del self._values[:whole]

    def settle(self) -> Sequence[Any]:
        """The whole, when nothing more comes."""
        if self._file is None:
            return self._values
        self._page_bytes = self._size_bytes * PAGE_VALUES // self._size + 1
        self._most_near = max(LEAST_NEAR, self._held.limit_bytes // NEAR_SHARE // self._page_bytes)
        return self

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        if self._file is not None:
            for page in self._file.read():
                yield from page
        yield from self._values

    def __getitem__(self, place: Any) -> Any:
        """A value, or the values from one place up to another; places count from the front."""
        if not isinstance(place, slice):
            if not 0 <= place < self._size:
                raise IndexError(place)
            return self._page(place // PAGE_VALUES)[place % PAGE_VALUES]
        start, stop, step = place.indices(self._size)
        assert step == 1
        found: list[Any] = []
        while start < stop:
            number, first = divmod(start, PAGE_VALUES)
            found += self._page(number)[first : first + stop - start]
            start += PAGE_VALUES - first
        return found

    def _page(self, number: int) -> list[Any]:
        near = self._near
        page = near.get(number)
        if page is not None:
            near.move_to_end(number)
            return page
        if self._file is None or number >= self._file.blocks:
            return self._values
        page = near[number] = self._file.block(number)
        if len(near) > self._most_near:
            near.popitem(last=False)
        else:
            self._held.resize(self._held.size_bytes + self._page_bytes)
        return page

    def close(self) -> None:
        self._near.clear()
        if self._file is not None:
            self._file.close()
            self._file = None


class Field(Sequence[Any]):
    """One field of a sequence of rows."""

    __slots__ = ("_number", "_rows")

    def __init__(self, rows: Sequence[Any], number: int) -> None:
        self._rows = rows
        self._number = number

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        return self._rows[place][self._number]

    def __iter__(self) -> Iterator[Any]:
        number = self._number
        return (row[number] for row in self._rows)


class Repeated(Sequence[Any]):
    """The same value so many times."""

    __slots__ = ("_size", "_value")

    def __init__(self, value: Any, size: int) -> None:
        self._value = value
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self._value] * len(range(*place.indices(self._size)))
        if not 0 <= place < self._size:
            raise IndexError(place)
        return self._value
