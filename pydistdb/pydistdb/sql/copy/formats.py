"""COPY's options, and rows to COPY data in text, CSV and binary format (manual, COPY, "File Formats").

``CopyOptions.of`` checks the options as Postgres does, with its messages; ``row_writer`` gives a function from a
batch of rows to one bytes object per row (clients such as psycopg expect a row per message).  Reading is
reader.py's business.

Example: ``row_writer(CopyOptions.of({}, is_from=False), (INT4, TEXT), context)([(1, "a\\tb"), (2, None)])`` gives
``[b"1\\ta\\\\tb\\n", b"2\\t\\\\N\\n"]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any, NamedTuple

from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, InvalidParameterValue, InvalidSyntax
from pydistdb.sql.functions.binary import codec_of
from pydistdb.sql.types import known, registry
from pydistdb.sql.types.base import EvalContext, SqlType

BINARY_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
BINARY_HEADER = BINARY_SIGNATURE + b"\0\0\0\0\0\0\0\0"
BINARY_TRAILER = b"\xff\xff"

_FORBIDDEN_DELIMITERS = frozenset("\\.abcdefghijklmnopqrstuvwxyz0123456789")

Value = str | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """How COPY data look."""

    format: str = "text"
    delimiter: str = "\t"
    null: str = "\\N"
    header: bool = False
    header_match: bool = False
    quote: str = '"'
    escape: str = '"'
    force_quote: tuple[str, ...] = ()
    """Column names, or ("*",)."""
    force_not_null: tuple[str, ...] = ()
    force_null: tuple[str, ...] = ()
    freeze: bool = False
    encoding: str = "UTF8"
    """Of text and CSV data: a name that ``codec_of`` knows."""

    @property
    def binary(self) -> bool:
        return self.format == "binary"

    @property
    def csv(self) -> bool:
        return self.format == "csv"

    @staticmethod
    def of(given: dict[str, Value], positions: dict[str, int | None] | None = None, *, is_from: bool) -> CopyOptions:
        """Check what the statement says; raises 42601, 22023 or 0A000 in Postgres's words."""
        asked = _Asked(given, positions or {})
        form = asked.text("format", "text")
        if form not in ("text", "csv", "binary"):
            raise InvalidParameterValue(f'COPY format "{form}" not recognized', position=asked.positions.get("format"))
        for name in given:
            if name not in _KNOWN:
                raise InvalidSyntax(f'option "{name}" not recognized', position=asked.positions.get(name))
        csv = form == "csv"
        header = asked.switch("header", ' or "match"', ("match",))
        if header == "match" and not is_from:
            raise FeatureNotSupported('cannot use "match" with HEADER in COPY TO')
        quote = asked.text("quote", '"')
        options = CopyOptions(
            form,
            asked.text("delimiter", "," if csv else "\t"),
            asked.text("null", "" if csv else "\\N"),
            header != "false",
            header == "match",
            quote,
            asked.text("escape", quote),
            asked.names("force_quote", may_be_all=True),
            asked.names("force_not_null"),
            asked.names("force_null"),
            asked.switch("freeze") == "true",
            asked.encoding(),
        )
        _check_modes(given, form, is_from=is_from)
        if options.header and form == "binary":
            raise FeatureNotSupported("cannot specify HEADER in BINARY mode")
        if form != "binary":
            options._check_characters()
        return options

    def _check_characters(self) -> None:
        delimiter, null = self.delimiter, self.null
        if len(delimiter.encode()) != 1:
            raise FeatureNotSupported("COPY delimiter must be a single one-byte character")
        if delimiter in "\r\n":
            raise InvalidParameterValue("COPY delimiter cannot be newline or carriage return")
        if "\r" in null or "\n" in null:
            raise InvalidParameterValue("COPY null representation cannot use newline or carriage return")
        if not self.csv and delimiter in _FORBIDDEN_DELIMITERS:
            raise InvalidParameterValue(f'COPY delimiter cannot be "{delimiter}"')
        if delimiter in null:
            raise FeatureNotSupported("COPY delimiter must not appear in the NULL specification")
        if self.csv:
            if len(self.quote.encode()) != 1:
                raise FeatureNotSupported("COPY quote must be a single one-byte character")
            if delimiter == self.quote:
                raise InvalidParameterValue("COPY delimiter and quote must be different")
            if len(self.escape.encode()) != 1:
                raise FeatureNotSupported("COPY escape must be a single one-byte character")
            if self.quote in null:
                raise FeatureNotSupported("CSV quote character must not appear in the NULL specification")


_KNOWN = frozenset(
    {
        "format",
        "delimiter",
        "null",
        "header",
        "quote",
        "escape",
        "force_quote",
        "force_not_null",
        "force_null",
        "encoding",
        "freeze",
    }
)


def _check_modes(given: dict[str, Value], form: str, *, is_from: bool) -> None:
    if form == "binary":
        for name in ("delimiter", "null"):
            if name in given:
                raise InvalidSyntax(f"cannot specify {name.upper()} in BINARY mode")
    for name in ("quote", "escape", "force_quote", "force_not_null", "force_null"):
        if name in given and form != "csv":
            raise FeatureNotSupported(f"COPY {name.replace('_', ' ')} available only in CSV mode")
    if "force_quote" in given and is_from:
        raise FeatureNotSupported("COPY force quote only available using COPY TO")
    for name in ("force_not_null", "force_null"):
        if name in given and not is_from:
            raise FeatureNotSupported(f"COPY {name.replace('_', ' ')} only available using COPY FROM")


class _Asked(NamedTuple):
    """The options as given; each method reads one kind of them (Postgres: define.c)."""

    given: dict[str, Value]
    positions: dict[str, int | None]

    def text(self, name: str, default: str) -> str:
        if name not in self.given:
            return default
        value = self.given[name]
        if value is None:
            raise InvalidSyntax(f"{name} requires a parameter")
        return value if isinstance(value, str) else ", ".join(value)

    def switch(self, name: str, more: str = "", others: tuple[str, ...] = ()) -> str:
        """``true``, ``false`` or one of the other words."""
        value = self.given.get(name, "false")
        word = "true" if value is None else value.lower() if isinstance(value, str) else ""
        word = _SWITCHES.get(word, word)
        if word not in ("true", "false", *others):
            raise InvalidSyntax(f"{name} requires a Boolean value{more}")
        return word

    def names(self, name: str, *, may_be_all: bool = False) -> tuple[str, ...]:
        value = self.given.get(name, ())
        if not isinstance(value, tuple) or (value == ("*",) and not may_be_all):
            message = f'argument to option "{name}" must be a list of column names'
            raise InvalidParameterValue(message, position=self.positions.get(name))
        return value

    def encoding(self) -> str:
        if "encoding" not in self.given:
            return "UTF8"
        name = self.text("encoding", "")
        if codec_of(name) is None:
            message = 'argument to option "encoding" must be a valid encoding name'
            raise InvalidParameterValue(message, position=self.positions.get("encoding"))
        return name.upper()


_SWITCHES = {"on": "true", "off": "false", "1": "true", "0": "false"}


# ---------------------------------------------------------------------------------------------- writing

RowWriter = Callable[[Sequence[tuple[Any, ...]]], list[bytes]]

_PLAIN_TEXT = frozenset({known.TEXT.oid, known.VARCHAR.oid, known.BPCHAR.oid, known.NAME.oid})
_INTEGERS = frozenset({known.INT2.oid, known.INT4.oid, known.INT8.oid, known.OID.oid})
_ESCAPES = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\"}
_int16 = Struct("!h").pack
_int32 = Struct("!i").pack


def row_writer(
    options: CopyOptions, types: Sequence[SqlType], context: EvalContext, names: Sequence[str] = ()
) -> RowWriter:
    """A function from rows of these types to COPY data, a bytes object for each row."""
    if options.binary:
        return _binary_writer(types)
    formats = [_formatter(sql_type, context) for sql_type in types]
    if options.csv:
        forced = [options.force_quote == ("*",) or name in options.force_quote for name in names]
        return _csv_writer(options, formats, forced or [False] * len(types))
    return _text_writer(options, formats, [_may_need_escapes(sql_type) for sql_type in types])


def header_line(options: CopyOptions, names: Sequence[str]) -> bytes:
    """The line of column names that HEADER asks for."""
    if options.csv:
        return (options.delimiter.join(_quoted(name, options) for name in names) + "\n").encode()
    table = str.maketrans(_escapes(options))
    return (options.delimiter.join(name.translate(table) for name in names) + "\n").encode()


def _formatter(sql_type: SqlType, context: EvalContext) -> Callable[[Any], str]:
    if sql_type.oid in _INTEGERS:
        return str
    if sql_type.oid in _PLAIN_TEXT:
        return lambda value: value
    write = registry.io(sql_type.oid).format
    return lambda value: write(value, context)


def _may_need_escapes(sql_type: SqlType) -> bool:
    return sql_type.category not in "NDBT" or sql_type.oid == known.BYTEA.oid


def _escapes(options: CopyOptions) -> dict[str, str]:
    escapes = dict(_ESCAPES)
    escapes.setdefault(options.delimiter, "\\" + options.delimiter)
    return escapes


def _text_writer(options: CopyOptions, formats: list[Callable[[Any], str]], escaped: list[bool]) -> RowWriter:
    table = str.maketrans(_escapes(options))
    null, delimiter = options.null, options.delimiter
    columns = list(zip(formats, escaped, strict=True))

    def write(rows: Sequence[tuple[Any, ...]]) -> list[bytes]:
        lines = []
        for row in rows:
            fields = [
                null if value is None else (form(value).translate(table) if escape else form(value))
                for value, (form, escape) in zip(row, columns, strict=True)
            ]
            lines.append((delimiter.join(fields) + "\n").encode())
        return lines

    return write


def _quoted(text: str, options: CopyOptions) -> str:
    quote, escape = options.quote, options.escape
    if text == options.null or options.delimiter in text or quote in text or "\n" in text or "\r" in text:
        return quote + _csv_escaped(text, quote, escape) + quote
    return text


def _csv_escaped(text: str, quote: str, escape: str) -> str:
    if escape != quote:
        text = text.replace(escape, escape + escape)
    return text.replace(quote, escape + quote)


def _csv_writer(options: CopyOptions, formats: list[Callable[[Any], str]], forced: list[bool]) -> RowWriter:
    null, delimiter, quote, escape = options.null, options.delimiter, options.quote, options.escape
    columns = list(zip(formats, forced, strict=True))
    alone = len(columns) == 1

    def write(rows: Sequence[tuple[Any, ...]]) -> list[bytes]:
        lines = []
        for row in rows:
            fields = []
            for value, (form, force) in zip(row, columns, strict=True):
                if value is None:
                    fields.append(null)
                    continue
                text = form(value)
                if force or (alone and text == "\\."):
                    fields.append(quote + _csv_escaped(text, quote, escape) + quote)
                else:
                    fields.append(_quoted(text, options))
            lines.append((delimiter.join(fields) + "\n").encode())
        return lines

    return write


def _binary_writer(types: Sequence[SqlType]) -> RowWriter:
    encoders = [registry.io(sql_type.oid).encode for sql_type in types]
    head = _int16(len(types))

    def write(rows: Sequence[tuple[Any, ...]]) -> list[bytes]:
        lines = []
        for row in rows:
            parts = [head]
            for value, encode in zip(row, encoders, strict=True):
                if value is None:
                    parts.append(b"\xff\xff\xff\xff")
                else:
                    data = encode(value)
                    parts.append(_int32(len(data)))
                    parts.append(data)
            lines.append(b"".join(parts))
        return lines

    return write


def bad_format(message: str, where: str | None = None) -> DatabaseError:
    """22P04 for COPY data that are not what they should be."""
    return DatabaseError.of("22P04", message, where=where)
