"""Statements as trees of text, so that parts can be taken out or exchanged (``shrink.py``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SIMPLEST = {
    "int": ("1", "NULL::int"),
    "numeric": ("1.0", "NULL::numeric"),
    "text": ("'a'", "NULL::text"),
    "bool": ("true", "NULL::bool"),
    "date": ("date '2020-01-01'",),
    "interval": ("interval '1 day'",),
    "intarray": ("array[1]",),
    "timestamp": ("timestamp '2020-01-01'",),
    "jsonb": ("'1'::jsonb", "'{}'::jsonb"),
    "optional": ("",),
}


@dataclass
class Node:
    """``kind``: the SQL type of an expression, ``optional`` for a clause that may be left out, else what it is."""

    kind: str
    parts: list[str | Node]

    def sql(self) -> str:
        return "".join(part if isinstance(part, str) else part.sql() for part in self.parts)

    def walk(self) -> Iterator[Node]:
        yield self
        for part in self.parts:
            if isinstance(part, Node):
                yield from part.walk()

    def size(self) -> int:
        return sum(1 for _ in self.walk())
