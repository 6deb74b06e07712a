"""Cutting pieces of SQL text out of a statement: what the catalog stores and what PREPARE or EXPLAIN carry.

The parser tells where a node starts but not where it ends, and not at all about parentheses around it.  So the pieces
are found among the scanner's tokens, which know strings, comments and quoting: from a landmark (``DEFAULT``, ``CHECK``,
``AS`` …) to the matching bracket, or to the next comma on the same level.

>>> Tokens("check ((a) > 0), b int").group_after(0, "CHECK")
'(a) > 0'
"""

from __future__ import annotations

from collections.abc import Sequence

from pglast import parser

OPEN = frozenset({"ASCII_40", "ASCII_91"})
CLOSE = frozenset({"ASCII_41", "ASCII_93"})
COMMA = "ASCII_44"
SEMICOLON = "ASCII_59"


class Cut(str):
    """A piece of a statement's text that knows where it stands, in characters from 0: errors in it can be pointed at."""

    __slots__ = ("start",)

    def __new__(cls, text: str, start: int) -> Cut:
        piece = super().__new__(cls, text)
        piece.start = start
        return piece

    start: int


class Tokens:
    """The tokens of one statement, with searches; offsets are characters from 0.

    ``start`` is where the statement stands, if pieces are to know where they do (``Cut``)."""

    def __init__(self, text: str, start: int | None = None) -> None:
        self.text = text
        self.start = start
        tokens = [token for token in parser.scan(str(text)) if token.name not in ("SQL_COMMENT", "C_COMMENT")]
        self.names = [token.name for token in tokens]
        self.starts = [token.start for token in tokens]
        self.ends = [token.end + 1 for token in tokens]
        self.depths: list[int] = []
        depth = 0
        for name in self.names:
            if name in CLOSE:
                depth -= 1
            self.depths.append(depth)
            if name in OPEN:
                depth += 1

    def index_at(self, offset: int) -> int:
        """The first token that starts at or after the offset."""
        for index, start in enumerate(self.starts):
            if start >= offset:
                return index
        return len(self.starts)

    def find(self, name: str, start: int = 0, depth: int | None = None) -> int:
        """The index of the first token of this name from ``start`` on (at one nesting depth); -1 if there is none."""
        for index in range(start, len(self.names)):
            if self.names[index] == name and (depth is None or self.depths[index] == depth):
                return index
        return -1

    def find_before(self, name: str, offset: int) -> int:
        """The index of the last token of this name that starts before the offset."""
        found = -1
        for index, start in enumerate(self.starts):
            if start >= offset:
                break
            if self.names[index] == name:
                found = index
        return found

    def closing(self, opening: int) -> int:
        """The index of the bracket that closes the one at ``opening``."""
        for index in range(opening + 1, len(self.names)):
            if self.names[index] in CLOSE and self.depths[index] == self.depths[opening]:
                return index
        return len(self.names) - 1

    def between(self, first: int, last: int) -> str:
        """The text from one token up to, but not including, another."""
        if first >= last:
            return ""
        piece = self.text[self.starts[first] : self.ends[last - 1]]
        return piece if self.start is None else Cut(piece, self.start + self.starts[first])

    def group_after(self, offset: int, name: str) -> str:
        """The text inside the first bracket after the first token of this name from the offset on."""
        opening = self.find("ASCII_40", self.find(name, self.index_at(offset)))
        return self.between(opening + 1, self.closing(opening))

    def phrase(self, first: int, stops: frozenset[int] = frozenset()) -> str:
        """The text from a token to the next comma or closing bracket on its level, or a start offset in ``stops``."""
        depth = self.depths[first]
        last = first
        while last < len(self.names):
            name = self.names[last]
            if self.depths[last] < depth or name == SEMICOLON or (last > first and self.starts[last] in stops):
                break
            if self.depths[last] == depth and name == COMMA:
                break
            last += 1
        return self.between(first, last)

    def items(self, opening: int) -> list[int]:
        """The first token of each comma-separated item in the bracket at ``opening``."""
        depth = self.depths[opening] + 1
        firsts = [opening + 1]
        for index in range(opening + 1, self.closing(opening)):
            if self.names[index] == COMMA and self.depths[index] == depth:
                firsts.append(index + 1)
        return firsts

    def rest(self, first: int) -> str:
        """The text from a token to the end of the statement."""
        last = len(self.names)
        while last > first and self.names[last - 1] == SEMICOLON:
            last -= 1
        return self.between(first, last)


def with_parameters(text: str, values: Sequence[str]) -> str:
    """A query's text with the texts of values in the place of $1, $2 …"""
    tokens = Tokens(text.rstrip().rstrip(";"))
    parts, end = [], 0
    for name, start, stop in zip(tokens.names, tokens.starts, tokens.ends, strict=True):
        if name == "PARAM":
            parts += [tokens.text[end:start], values[int(tokens.text[start + 1 : stop]) - 1]]
            end = stop
    return "".join((*parts, tokens.text[end:]))
