"""format(): ``%s``, ``%I`` and ``%L`` with positions and widths.

    >>> format_alone("100%%")
    '100%'

Source: PostgreSQL 15 manual, 9.4.1.
"""

from __future__ import annotations

from typing import Any

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions.define import Body, implements, specializes
from pydistdb.sql.functions.limits import check_length
from pydistdb.sql.functions.strings import quote_literal
from pydistdb.sql.types import known
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.reg import quote_identifier
from pydistdb.sql.types.registry import io

# ------------------------------------------------------------------------------------------------ format()


class _Format:
    """Walks a format string: ``%%``, ``%[n$][-][width|*|*n$](s|I|L)``."""

    def __init__(self, text: str, values: list[str | None]) -> None:
        self.text = text
        self.values = values
        self.position = 0
        self.next_value = 0

    def run(self) -> str:
        parts: list[str] = []
        text = self.text
        while True:
            percent = text.find("%", self.position)
            if percent < 0:
                parts.append(text[self.position :])
                return "".join(parts)
            parts.append(text[self.position : percent])
            self.position = percent + 1
            parts.append(self.specifier())

    def peek(self) -> str:
        if self.position >= len(self.text):
            raise DatabaseError.of(
                "22023",
                "unterminated format() type specifier",
                hint='For a single "%" use "%%".',
            )
        return self.text[self.position]

    def number(self) -> int | None:
        start = self.position
        while self.position < len(self.text) and self.text[self.position] in "0123456789":
            self.position += 1
        return int(self.text[start : self.position]) if self.position > start else None

    def value(self, index: int | None) -> str | None:
        if index is not None:
            if index == 0:
                raise DatabaseError.of("22023", "format specifies argument 0, but arguments are numbered from 1")
            self.next_value = index - 1
        if self.next_value >= len(self.values):
            raise DatabaseError.of("22023", "too few arguments for format()")
        value = self.values[self.next_value]
        self.next_value += 1
        return value

    def specifier(self) -> str:
        if self.peek() == "%":
            self.position += 1
            return "%"
        index: int | None = None
        start = self.position
        number = self.number()
        if number is not None and self.peek() == "$":
            self.position += 1
            index = number
        else:
            self.position = start
        left = False
        while self.peek() == "-":
            left = True
            self.position += 1
        width = self.number() if self.peek() != "*" else self.indirect_width()
        kind = self.peek()
        self.position += 1
        if kind not in "sIL":
            raise DatabaseError.of(
                "22023",
                f'unrecognized format() type specifier "{kind}"',
                hint='For a single "%" use "%%".',
            )
        value = self.value(index)
        shown = _convert(kind, value)
        if width is not None and width < 0:
            left, width = True, -width
        check_length(width or 0)
        return shown.ljust(width or 0) if left else shown.rjust(width or 0)

    def indirect_width(self) -> int:
        self.position += 1
        start = self.position
        index = self.number()
        if index is None or self.peek() != "$":
            self.position = start
            index = None
        else:
            self.position += 1
        value = self.value(index)
        return 0 if value is None else int(io(known.INT4.oid).parse(value, -1, EvalContext()))


def _convert(kind: str, value: str | None) -> str:
    if kind == "s":
        return value or ""
    if kind == "L":
        return "NULL" if value is None else quote_literal(value)
    if value is None:
        raise DatabaseError.of("22004", "null values cannot be formatted as an SQL identifier")
    return quote_identifier(value)


@specializes("format(text,any)", context=True)
def _format_any(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    formats = [io(sql_type.oid).format for sql_type in argument_types[1:]]

    def format_(context: EvalContext, text: str | None, *values: Any) -> str | None:
        if text is None:
            return None
        shown = [None if v is None else f(v, context) for f, v in zip(formats, values, strict=True)]
        return _Format(text, shown).run()

    return format_


@implements("format(text)")
def format_alone(text: str | None) -> str | None:
    return None if text is None else _Format(text, []).run()
