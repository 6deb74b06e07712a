r"""How far a regular expression reaches: POSIX takes the longest match there is, or the shortest, as a whole.

Python's engine takes the first alternative that fits, and each repetition goes its own way.  In Postgres an expression as a
whole prefers the longest match that begins where a match can begin; it prefers the shortest if the first repetition in it
that has a preference is a non-greedy one (and it is no choice of alternatives).  Its parts then share out what the whole
has taken, by their own preferences.  So there are two steps: where the match ends, and then, within that, the groups::

    (a|ab)(c|bcd)?      abcd          RE2 in its mode for the longest match: abcd      groups within it: a, bcd
    (.*?)(\d+)(.*)      abc012x       all repetitions non-greedy: abc0                 groups within it: abc, 0, nothing

What can not be had of RE2 (references back, lookarounds) keeps the first alternative that fits.

Source: PostgreSQL 15 manual, 9.7.3.5 (Regular Expression Matching Rules).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from pydistdb.sql.functions.regex_linear import Expression


class Longest(Expression):
    """Finds where the longest match ends, as far as RE2 knows the expression."""

    def __init__(self, source: str, flags: int) -> None:
        super().__init__(source, flags)
        self._longest = self.compile_linear(longest=True)

    def _engine(self, text: str) -> Any:
        if self._longest is not None and self.linear_knows(text):
            return self._longest
        return super()._engine(text)

    def search(self, text: str) -> re.Match[str] | None:
        found: re.Match[str] | None = self._engine(text).search(text)
        return found


class Spanning:
    """An expression with another one that says how far its matches reach; it has the methods of both."""

    def __init__(self, inner: Expression, extent: Expression) -> None:
        self._inner = inner
        self._extent = extent
        self.backtracking = inner.backtracking

    def matches(self, text: str) -> bool:
        return self._inner.matches(text)

    def search(self, text: str) -> re.Match[str] | None:
        found = self._extent.search(text)
        return None if found is None else self._settled(text, found)

    def finditer(self, text: str, start: int = 0) -> Iterator[re.Match[str]]:
        for found in self._extent.finditer(text, start):
            yield self._settled(text, found)

    def sub(self, replacement: Callable[[re.Match[str]], str], text: str, count: int = 0) -> str:
        return self._extent.sub(lambda found: replacement(self._settled(text, found)), text, count)

    def _settled(self, text: str, found: re.Match[str]) -> re.Match[str]:
        """The match with its groups by the expression's own preferences."""
        return self._inner.within(text, *found.span()) or found
