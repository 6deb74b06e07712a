"""String functions: concatenation, cutting, padding, searching, case, quoting.

Positions count characters from 1; a negative start cuts into the part that is kept.

    >>> substring("Postgres", -1, 5), lpad("hi", 5, "xy")
    ('Pos', 'xyxhi')

char(n) arguments reach most of these functions as text, without their blanks; the few functions that take char(n) itself
(length, octet_length) say so in their signature.

Source: PostgreSQL 15 manual, 9.4.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions.define import Body, define, implements, specializes
from pydistdb.sql.functions.limits import MOST_BYTES, added, check_length, joined, too_long
from pydistdb.sql.types import known
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.reg import quote_identifier
from pydistdb.sql.types.registry import element_of, io

# ------------------------------------------------------------------------------------------------ concatenation

define("textcat(text,text)", added)


def as_text(sql_type: SqlType) -> Callable[[Any, EvalContext], str]:
    """Give the cast to text, which differs from output for booleans (true, not t) and char(n) (no blanks)."""
    if sql_type.oid == known.BOOL.oid:
        return lambda value, context: "true" if value else "false"
    if sql_type.oid == known.BPCHAR.oid:
        return lambda value, context: str(value).rstrip(" ")
    return io(sql_type.oid).format


@specializes("textanycat(text,anynonarray)", context=True)
def _text_and_any(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    format_ = as_text(argument_types[1])

    def concatenate(context: EvalContext, left: str, right: Any) -> str:
        return added(left, format_(right, context))

    return concatenate


@specializes("anytextcat(anynonarray,text)", context=True)
def _any_and_text(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    format_ = as_text(argument_types[0])

    def concatenate(context: EvalContext, left: Any, right: str) -> str:
        return added(format_(left, context), right)

    return concatenate


@specializes("concat(any)", context=True)
def _concat(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    formats = [io(sql_type.oid).format for sql_type in argument_types]

    def concat(context: EvalContext, *values: Any) -> str:
        return joined([f(v, context) for f, v in zip(formats, values, strict=True) if v is not None])

    return concat


@specializes("concat_ws(text,any)", context=True)
def _concat_with_separator(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    formats = [io(sql_type.oid).format for sql_type in argument_types[1:]]

    def concat(context: EvalContext, separator: str | None, *values: Any) -> str | None:
        if separator is None:
            return None
        return joined([f(v, context) for f, v in zip(formats, values, strict=True) if v is not None], separator)

    return concat


# ------------------------------------------------------------------------------------------------ length and case

define("length(text)", len, inline="len({0})")
define("char_length(text)", len, inline="len({0})")
define("character_length(text)", len, inline="len({0})")
define("textlen(text)", len, inline="len({0})")
for _name in ("length", "char_length", "character_length"):
    define(f"{_name}(bpchar)", lambda value: len(value.rstrip(" ")))
define("octet_length(text)", lambda value: len(value.encode()))
define("octet_length(bpchar)", lambda value: len(value.encode()))
define("bit_length(text)", lambda value: len(value.encode()) * 8)


def _simple_case(text: str, upper: bool) -> str:
    """Change case character by character, as the C library does (ß has no capital there)."""
    changed = text.upper() if upper else text.lower()
    if text.isascii() or len(changed) == len(text):
        return changed
    if not upper:
        return "".join([character.lower()[0] for character in text])
    return "".join([new if len(new) == 1 else old for old in text for new in (old.upper(),)])


@implements("lower(text)")
def lower(text: str) -> str:
    return _simple_case(text, False)


@implements("upper(text)")
def upper(text: str) -> str:
    return _simple_case(text, True)


@implements("initcap(text)")
def initcap(text: str) -> str:
    parts: list[str] = []
    inside = False
    for character in text:
        parts.append(lower(character) if inside else upper(character))
        inside = character.isalnum()
    return "".join(parts)


# ------------------------------------------------------------------------------------------------ cutting


def substring(text: str, start: int, length: int) -> str:
    if length < 0:
        raise DatabaseError.of("22011", "negative substring length not allowed")
    end = start + length
    return text[max(start, 1) - 1 : max(end, 1) - 1]


define("substring(text,int4,int4)", substring)
define("substr(text,int4,int4)", substring)
define("substring(text,int4)", lambda text, start: text[max(start, 1) - 1 :])
define("substr(text,int4)", lambda text, start: text[max(start, 1) - 1 :])


@implements("left(text,int4)")
def left(text: str, count: int) -> str:
    return text[:count]


@implements("right(text,int4)")
def right(text: str, count: int) -> str:
    return text[len(text) - count :] if 0 <= count <= len(text) else text if count > 0 else text[-count:]


def _trims(name: str, both: str) -> None:
    def trim(text: str, characters: str) -> str:
        return getattr(text, both)(characters) if characters else text

    define(f"{name}(text,text)", trim)
    define(f"{name}(text)", lambda text: getattr(text, both)(" "))


_trims("btrim", "strip")
_trims("ltrim", "lstrip")
_trims("rtrim", "rstrip")


@implements("split_part(text,text,int4)")
def split_part(text: str, delimiter: str, position: int) -> str:
    if position == 0:
        raise DatabaseError.of("22023", "field position must not be zero")
    if not text:
        return ""
    parts = text.split(delimiter) if delimiter else [text]
    index = position - 1 if position > 0 else len(parts) + position
    return parts[index] if 0 <= index < len(parts) else ""


@implements("overlay(text,text,int4,int4)")
def overlay(text: str, replacement: str, start: int, length: int) -> str:
    if start <= 0:
        raise DatabaseError.of("22011", "negative substring length not allowed")
    return text[: start - 1] + replacement + text[max(start + length - 1, 0) :]


define("overlay(text,text,int4)", lambda text, new, start: overlay(text, new, start, len(new)))


# ------------------------------------------------------------------------------------------------ building


def _pad(text: str, length: int, fill: str) -> str:
    missing = length - len(text)
    if length > MOST_BYTES // 4:
        raise too_long()
    return (fill * (missing // len(fill) + 1))[:missing] if fill and missing > 0 else ""


def lpad(text: str, length: int, fill: str = " ") -> str:
    return text[: max(length, 0)] if length < len(text) else _pad(text, length, fill) + text


def rpad(text: str, length: int, fill: str = " ") -> str:
    return text[: max(length, 0)] if length < len(text) else text + _pad(text, length, fill)


define("lpad(text,int4,text)", lpad)
define("lpad(text,int4)", lpad)
define("rpad(text,int4,text)", rpad)
define("rpad(text,int4)", rpad)


@implements("repeat(text,int4)")
def repeat(text: str, count: int) -> str:
    if count > 0 and len(text) * count > MOST_BYTES:
        raise too_long()
    return text * count


define("reverse(text)", lambda text: text[::-1])


@implements("replace(text,text,text)")
def replace(text: str, old: str, new: str) -> str:
    if len(new) > len(old) > 0 and len(text) // len(old) * len(new) > MOST_BYTES:
        check_length(len(text) + text.count(old) * (len(new) - len(old)))
    return text.replace(old, new) if old else text


@implements("translate(text,text,text)")
def translate(text: str, old: str, new: str) -> str:
    table: dict[int, str | None] = {}
    for position, character in enumerate(old):
        table.setdefault(ord(character), new[position] if position < len(new) else None)
    return text.translate(table)


@implements("chr(int4)")
def chr_(code: int) -> str:
    if code == 0:
        raise DatabaseError.of("54000", "null character not permitted")
    if code < 0:
        raise DatabaseError.of("22023", "character number must be positive")
    if code > 0x10FFFF:
        raise DatabaseError.of("54000", f"requested character too large for encoding: {code}")
    if 0xD800 <= code <= 0xDFFF:
        raise DatabaseError.of("54000", f"requested character not valid for encoding: {code}")
    return chr(code)


define("ascii(text)", lambda text: ord(text[0]) if text else 0)


def _hexadecimal(bits: int) -> Body:
    mask = (1 << bits) - 1
    return lambda value: f"{value & mask:x}"


define("to_hex(int4)", _hexadecimal(32))
define("to_hex(int8)", _hexadecimal(64))


# ------------------------------------------------------------------------------------------------ searching

define("strpos(text,text)", lambda text, part: text.find(part) + 1)
define("position(text,text)", lambda text, part: text.find(part) + 1)
define("starts_with(text,text)", lambda text, prefix: text.startswith(prefix), inline="{0}.startswith({1})")


# ------------------------------------------------------------------------------------------------ quoting


def quote_literal(text: str) -> str:
    quoted = "'" + text.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


define("quote_ident(text)", quote_identifier)
define("quote_literal(text)", quote_literal)
define("quote_nullable(text)", lambda text: "NULL" if text is None else quote_literal(text))


@specializes("quote_literal(anyelement)", context=True)
def _quote_any_literal(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    format_ = io(argument_types[0].oid).format
    return lambda context, value: quote_literal(format_(value, context))


@specializes("quote_nullable(anyelement)", context=True)
def _quote_any_nullable(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    format_ = io(argument_types[0].oid).format
    return lambda context, value: "NULL" if value is None else quote_literal(format_(value, context))


# ------------------------------------------------------------------------------------------------ lists in strings


def split_text(text: str, separator: str | None) -> list[str]:
    if not text:
        return []
    if separator is None:
        return list(text)
    return text.split(separator) if separator else [text]


@implements("string_to_array(text,text)")
def string_to_array(text: str | None, separator: str | None) -> PgArray | None:
    return None if text is None else PgArray.of(split_text(text, separator))


@implements("string_to_array(text,text,text)")
def string_to_array_with_null(text: str | None, separator: str | None, null: str | None) -> PgArray | None:
    if text is None:
        return None
    return PgArray.of(None if part == null else part for part in split_text(text, separator))


@implements("string_to_table(text,text)")
def string_to_table(text: str | None, separator: str | None) -> Iterator[str]:
    yield from split_text(text or "", separator)


@implements("string_to_table(text,text,text)")
def string_to_table_with_null(text: str | None, separator: str | None, null: str | None) -> Iterator[str | None]:
    for part in split_text(text or "", separator):
        yield None if part == null else part


@specializes("array_to_string(anyarray,text)", context=True)
def _array_to_string(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    format_ = io(element_of(argument_types[0]).oid).format

    def join(context: EvalContext, array: PgArray, separator: str) -> str:
        return joined([format_(item, context) for item in array.items if item is not None], separator)

    return join


@specializes("array_to_string(anyarray,text,text)", context=True)
def _array_to_string_with_null(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    format_ = io(element_of(argument_types[0]).oid).format

    def join(context: EvalContext, array: PgArray | None, separator: str | None, null: str | None) -> str | None:
        if array is None or separator is None:
            return None
        shown = [null if item is None else format_(item, context) for item in array.items]
        return joined([text for text in shown if text is not None], separator)

    return join


# ------------------------------------------------------------------------------------------------ normal forms


def _normal_form(form: str) -> str:
    if form.upper() not in ("NFC", "NFD", "NFKC", "NFKD"):
        raise DatabaseError.of("22023", f"invalid normalization form: {form}")
    return form.upper()


define(
    "normalize(text,text)",
    lambda text, form="NFC": unicodedata.normalize(_normal_form(form), text),  # type: ignore[arg-type]
    defaults=("NFC",),
)
define(
    "is_normalized(text,text)",
    lambda text, form="NFC": unicodedata.is_normalized(_normal_form(form), text),  # type: ignore[arg-type]
    defaults=("NFC",),
)
