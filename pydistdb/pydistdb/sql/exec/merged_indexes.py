"""Reading a table by two or more of its indexes at once: the rows that are found in each of them.

Entries with the same values in all columns of an index are sorted by the row's key, so those of two indexes are merged as the
tokens of an inverted index are (inverted_scan.py), each leaping over what the other does not have; nothing is kept::

    a = 1:   17 ............ 9041
    b = 2:   1 2 3 4 … 255  (leap) 9041 …
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydistdb.kv.api import Transaction
from pydistdb.sql.exec.inverted_scan import Every, Some, Source, Token
from pydistdb.sql.exec.run import State
from pydistdb.sql.index_layout import IndexLayout

if TYPE_CHECKING:
    from pydistdb.sql.exec.scan import Bounds


class IndexEntries(Token):
    """The entries of one index that start with a prefix."""

    def __init__(self, transaction: Transaction, index: IndexLayout, prefix: bytes) -> None:
        super().__init__(transaction, prefix)
        self._index = index

    async def fill(self) -> None:
        if self.pairs:
            return
        await super().fill()
        if self._index.row_key is not None:
            rows = self._index.row_keys([value for _, value in self.pairs])
            self.pairs = [(key, row) for (key, _), row in zip(self.pairs, rows, strict=True)]


class MergedBounds:
    """The accesses made ready."""

    def __init__(self, bounds: Sequence[Bounds]) -> None:
        self._bounds = bounds

    def source(self, state: State) -> Source:
        """The rows that are in all of them."""
        found: list[Source] = []
        for bounds in self._bounds:
            combinations = list(bounds.combinations(bounds.access.equal, iter(bounds.values(state))))
            if not combinations:
                return Some(())  # a value is NULL
            index = bounds.index
            found.append(IndexEntries(state.transaction, index, index.head + index.encode(combinations[0])))
        return Every(found, state.breathe)
