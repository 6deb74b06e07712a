"""COPY data to rows of values: whole chunks at a time, column by column, with Postgres's errors for single values.

Theory of operation
-------------------
A chunk from the client is cut at its last line end; the rest waits for the next chunk.  The lines are split into
fields, the fields turned round into columns, and each column is converted in one list comprehension: at 100 000 rows
a second and more, Python has no time for a call per value.  If anything in a chunk is unusual (a conversion fails, a
line has too many fields) the chunk is gone through again line by line, with Postgres's own order of checks, to raise
the right error for the right line: ``COPY t, line 3, column a: "x"``.

CSV without a quote character in the chunk is split the same way.  With quotes, a record may span lines: lines are
joined until their quotes are even, then cut by a regular expression; if ESCAPE is not the QUOTE character, character
by character.

``feed(data)`` takes bytes and gives rows (lists of values, in the order of the columns copied); ``finish()`` what is
left.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

from pydistdb.sql.copy.binary import MAX_LINE_BYTES, Batch, BinaryReader, CopyColumn, Row
from pydistdb.sql.copy.convert import Column, fast_converter, null_check, slow_converter, unescape
from pydistdb.sql.copy.formats import CopyOptions, bad_format
from pydistdb.sql.errors import DatabaseError, ProgramLimitExceeded
from pydistdb.sql.session.statements import decode_text
from pydistdb.sql.types.base import EvalContext

MAX_SHOWN_CHARACTERS = 100


class CopyReader(Protocol):
    def feed(self, data: bytes) -> Batch:
        """Take bytes as they come; give the rows that are complete."""

    def finish(self) -> Batch:
        """The data have ended; give what is left, or raise if it is incomplete."""


def copy_reader(options: CopyOptions, table: str, columns: Sequence[CopyColumn], context: EvalContext) -> CopyReader:
    """The reader for these options; ``table`` names the table in CONTEXT."""
    if options.binary:
        return BinaryReader(table, columns, context)
    return TextReader(options, table, columns, context)


def shown(text: str) -> str:
    """A value for CONTEXT, cut if it is long."""
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "..."


class TextReader:
    """Text and CSV format."""

    def __init__(self, options: CopyOptions, table: str, columns: Sequence[CopyColumn], context: EvalContext) -> None:
        self._options = options
        self._table = table
        self._columns = columns
        self._context = context
        self._rest = b""
        self._line = 0
        """Lines read so far."""
        self._header_pending = options.header
        self._ended = False
        self._newline: str | None = None
        self._fast = [fast_converter(column.type, context) for column in columns]
        self._slow = [slow_converter(column.type, context) for column in columns]
        self._null_checks = [null_check(column.type, context) for column in columns]
        self._force_not_null = [column.name in options.force_not_null for column in columns]
        self._force_null = [column.name in options.force_null for column in columns]
        self._plain_null = not any(self._force_not_null) and not any(self._force_null)
        delimiter, quote = re.escape(options.delimiter), re.escape(options.quote)
        self._csv_field = re.compile(
            f"(?:{quote}((?:[^{quote}]|{quote}{quote})*){quote}|([^{delimiter}{quote}]*))({delimiter}|\\Z)", re.DOTALL
        )

    def feed(self, data: bytes) -> Batch:
        if self._ended:
            return Batch([], ())
        data = self._rest + data if self._rest else data
        end = data.rfind(b"\n") + 1
        if not end:
            self._keep(data)
            return Batch([], ())
        self._keep(data[end:])
        return self._read(data[: end - 1])

    def finish(self) -> Batch:
        data, self._rest = self._rest, b""
        if not data or self._ended:
            return Batch([], ())
        batch = self._read(data[:-1] if data.endswith(b"\n") else data)
        if self._rest and not self._ended:
            raise bad_format("unterminated CSV quoted field", self._where_line(self._rest.decode(errors="replace")))
        return batch

    def _keep(self, rest: bytes) -> None:
        if len(rest) > MAX_LINE_BYTES:
            raise ProgramLimitExceeded(f"line of COPY data is longer than {MAX_LINE_BYTES} bytes")
        self._rest = rest

    def _read(self, data: bytes) -> Batch:
        """Whole lines, without the last line's end."""
        try:
            text = decode_text(data)
        except DatabaseError as error:
            bad = data.count(b"\n", 0, _first_bad_byte(data)) + 1
            error.where = f"COPY {self._table}, line {self._line + bad}"
            raise
        lines = text.split("\n")
        if self._newline is None:
            self._newline = "\r\n" if lines[0].endswith("\r") else "\n"
        if self._newline == "\r\n":
            lines = [line[:-1] if line.endswith("\r") else line for line in lines]
        first = self._line
        if self._options.csv:
            numbers: Sequence[int]
            if self._options.quote in text:
                lines, numbers = self._join_quoted(lines)
            else:
                numbers = range(first + 1, first + 1 + len(lines))
                self._line += len(lines)
        else:
            numbers = range(first + 1, first + 1 + len(lines))
            self._line += len(lines)
        if self._header_pending and lines:
            self._header_pending = False
            self._check_header(lines[0], numbers[0])
            lines, numbers = lines[1:], numbers[1:]
        if "\\." in lines:
            end = lines.index("\\.")
            lines, numbers = lines[:end], numbers[:end]
            self._ended = True
        if not lines:
            return Batch([], ())
        return Batch(self._convert(lines, numbers, text), numbers, lines)

    def _join_quoted(self, lines: list[str]) -> tuple[list[str], list[int]]:
        """CSV records, which may contain line ends inside quotes, and the number of each one's last line."""
        quote = self._options.quote
        newline = self._newline or "\n"
        same = self._options.escape == quote
        records: list[str] = []
        numbers: list[int] = []
        open_lines: list[str] = []
        inside = False
        for line in lines:
            self._line += 1
            open_lines.append(line)
            if same:
                if line.count(quote) % 2:
                    inside = not inside
            else:
                inside = self._is_open(line, inside)
            if not inside:
                records.append(open_lines[0] if len(open_lines) == 1 else newline.join(open_lines))
                numbers.append(self._line)
                open_lines.clear()
        if open_lines:
            self._line -= len(open_lines)
            rest = newline.join(open_lines).encode() + newline.encode()
            self._keep(rest + self._rest)
        return records, numbers

    def _is_open(self, line: str, inside: bool) -> bool:
        """Whether a quote is open at the line's end, with an escape character of its own."""
        quote, escape = self._options.quote, self._options.escape
        position = 0
        while position < len(line):
            character = line[position]
            if inside and character == escape and line[position + 1 : position + 2] in (quote, escape):
                position += 1
            elif character == quote:
                inside = not inside
            position += 1
        return inside

    # ------------------------------------------------------------------------------------------ fields

    def _convert(self, lines: list[str], numbers: Sequence[int], text: str) -> list[Row]:
        if not self._columns:
            if any(lines):
                self._fail_slowly(lines, numbers)
            return [[] for _ in lines]
        columns = self._plain_columns(lines, text) or self._columns_of(lines, numbers, text)
        try:
            values = [convert(column) for convert, column in zip(self._fast, columns, strict=True)]
        except (ValueError, DatabaseError):
            return self._convert_slowly(lines, numbers)
        return list(map(list, zip(*values, strict=True)))

    def _plain_columns(self, lines: list[str], text: str) -> list[Column] | None:
        """The columns of text format without escapes, cut by one split of everything: about 0.1 µs a field."""
        options = self._options
        if options.csv or "\\" in text or options.null != "\\N":
            return None
        delimiter, count = options.delimiter, len(self._columns)
        if {line.count(delimiter) for line in lines} != {count - 1}:
            return None
        fields = delimiter.join(lines).split(delimiter)
        return [fields[position::count] for position in range(count)]

    def _columns_of(self, lines: list[str], numbers: Sequence[int], text: str) -> list[Column]:
        options = self._options
        rows: list[list[str | None]]
        if options.csv:
            rows = [self._csv_fields(line) for line in lines] if options.quote in text else self._plain_csv(lines)
        else:
            rows = [self._text_fields(line) for line in lines]
        if set(map(len, rows)) != {len(self._columns)}:
            self._fail_slowly(lines, numbers)
        return list(zip(*rows, strict=True))

    def _text_fields(self, line: str) -> list[str | None]:
        options = self._options
        if "\\" not in line:
            return [None if field == options.null else field for field in line.split(options.delimiter)]
        fields: list[str | None] = []
        pieces = line.split(options.delimiter)
        index = 0
        while index < len(pieces):
            piece = pieces[index]
            # An odd number of backslashes before the delimiter makes it a character like any other.
            while index + 1 < len(pieces) and (len(piece) - len(piece.rstrip("\\"))) % 2:
                index += 1
                piece += options.delimiter + pieces[index]
            fields.append(None if piece == options.null else unescape(piece) if "\\" in piece else piece)
            index += 1
        return fields

    def _plain_csv(self, lines: list[str]) -> list[list[str | None]]:
        delimiter, null = self._options.delimiter, self._options.null
        if self._plain_null:
            return [[None if field == null else field for field in line.split(delimiter)] for line in lines]
        return [self._nulls(line.split(delimiter), ()) for line in lines]

    def _nulls(self, fields: Sequence[str], quoted: Sequence[int]) -> list[str | None]:
        """Unquoted fields that are the null string become NULL, as FORCE_NOT_NULL and FORCE_NULL have it."""
        null = self._options.null
        result: list[str | None] = []
        for index, field in enumerate(fields):
            is_null = field == null
            if is_null and index < len(self._columns):
                is_null = self._force_null[index] if index in quoted else not self._force_not_null[index]
            elif is_null:
                is_null = index not in quoted
            result.append(None if is_null else field)
        return result

    def _csv_fields(self, line: str) -> list[str | None]:
        options = self._options
        quote = options.quote
        if quote not in line:
            return self._nulls(line.split(options.delimiter), ())
        if options.escape != quote:
            return self._csv_by_character(line)
        fields: list[str] = []
        quoted: list[int] = []
        position = 0
        match_field = self._csv_field.match
        while True:
            found = match_field(line, position)
            if found is None:
                return self._csv_by_character(line)  # quotes in the middle of a field
            if found[1] is not None:
                quoted.append(len(fields))
                fields.append(found[1].replace(quote + quote, quote))
            else:
                fields.append(found[2])
            position = found.end()
            if not found[3]:
                return self._nulls(fields, quoted)

    def _csv_by_character(self, line: str) -> list[str | None]:
        options = self._options
        quote, escape, delimiter = options.quote, options.escape, options.delimiter
        fields: list[str] = []
        quoted: list[int] = []
        field: list[str] = []
        inside = False
        position = 0
        while position < len(line):
            character = line[position]
            following = line[position + 1 : position + 2]
            if inside:
                if character == escape and following and following in (quote, escape):
                    field.append(following)
                    position += 1
                elif character == quote:
                    inside = False
                else:
                    field.append(character)
            elif character == quote:
                inside = True
                if not quoted or quoted[-1] != len(fields):
                    quoted.append(len(fields))
            elif character == delimiter:
                fields.append("".join(field))
                field.clear()
            else:
                field.append(character)
            position += 1
        fields.append("".join(field))
        return self._nulls(fields, quoted)

    # ------------------------------------------------------------------------------------------ errors

    def _split_line(self, line: str) -> list[str | None]:
        return self._csv_fields(line) if self._options.csv else self._text_fields(line)

    def _fail_slowly(self, lines: list[str], numbers: Sequence[int]) -> None:
        self._convert_slowly(lines, numbers)
        raise AssertionError("a line with the wrong number of fields was not found again")

    def _convert_slowly(self, lines: list[str], numbers: Sequence[int]) -> list[Row]:
        """Line by line, in Postgres's order of checks."""
        rows = []
        for line, number in zip(lines, numbers, strict=True):
            try:
                fields = self._split_line(line)
            except DatabaseError as error:
                error.where = self._where_line(line, number)
                raise
            if len(fields) > len(self._columns) and (self._columns or line):
                raise bad_format("extra data after last expected column", self._where_line(line, number))
            row: Row = []
            for index, column in enumerate(self._columns):
                if index >= len(fields):
                    raise bad_format(f'missing data for column "{column.name}"', self._where_line(line, number))
                row.append(self._convert_value(index, fields[index], number))
            rows.append(row)
        return rows

    def _convert_value(self, index: int, field: str | None, number: int) -> Any:
        check = self._null_checks[index]
        if field is None and check is None:
            return None
        try:
            if field is not None:
                return self._slow[index](field)
            return check() if check is not None else None
        except DatabaseError as error:
            if error.where is None:
                what = "null input" if field is None else f'"{shown(field)}"'
                error.where = f"COPY {self._table}, line {number}, column {self._columns[index].name}: {what}"
            raise

    def _where_line(self, line: str, number: int | None = None) -> str:
        return f'COPY {self._table}, line {self._line + 1 if number is None else number}: "{shown(line)}"'

    def _check_header(self, line: str, number: int) -> None:
        if not self._options.header_match:
            return
        fields = self._split_line(line)
        where = self._where_line(line, number)
        if len(fields) != len(self._columns):
            raise bad_format(
                f"wrong number of fields in header line: got {len(fields)}, expected {len(self._columns)}", where
            )
        for index, (field, column) in enumerate(zip(fields, self._columns, strict=True), 1):
            if field is None:
                raise bad_format(
                    f'column name mismatch in header line field {index}: got null value ("{self._options.null}"), '
                    f'expected "{column.name}"',
                    where,
                )
            if field != column.name:
                raise bad_format(
                    f'column name mismatch in header line field {index}: got "{field}", expected "{column.name}"', where
                )


def _first_bad_byte(data: bytes) -> int:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start
    return data.index(b"\0")
