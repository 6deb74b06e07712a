r"""json and jsonb.

A json value is its text as it came, checked.  A jsonb value is its canonical text: no duplicate keys (the last wins), keys
ordered by length and then bytewise, one space after ``:`` and ``,``; numbers are numerics and keep their scale.

    >>> canonical('{"bb":1.50, "a":[true,null], "a":2}')
    '{"a": 2, "bb": 1.50}'

Checking goes through Python's C scanner.  Only text it refuses is read again by ``_Complaint``, which finds what to tell
the client.  ``members`` and ``elements`` cut a json text into the texts of its parts.

Source: PostgreSQL 15 manual, 8.14; RFC 7159.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from json.encoder import encode_basestring as quote
from typing import Any

from pydistdb.sql.errors import DatabaseError, InvalidTextRepresentation
from pydistdb.sql.types import numeric
from pydistdb.sql.types.base import EvalContext, TypeIO
from pydistdb.sql.types.nested_keys import json_kind
from pydistdb.sql.types.text import check_text, decode_text

__all__ = ["IO", "canonical", "document_key", "dump", "elements", "load", "members", "quote"]


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < 1000 else numeric.parse(digits, -1, None)


def _fraction(digits: str) -> Decimal:
    return numeric.parse(digits, -1, None)


_checker = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=str, parse_float=str)
_loader = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_integer, parse_float=_fraction)
_SPACE = " \t\n\r"
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_NO_LOW_HALF = "Unicode low surrogate must follow a high surrogate."


def load(text: str) -> Any:
    """Read a json text into dict, list, str, int, Decimal, bool and None."""
    try:
        document = _loader.decode(text)
    except DatabaseError:
        raise
    except ValueError:
        raise _Complaint(text).find() from None
    except RecursionError:
        raise _too_deep() from None
    return document


def _too_deep() -> DatabaseError:
    return DatabaseError.of("54001", "stack depth limit exceeded")


def _check_escapes(text: str) -> None:
    """Refuse escapes that json text may hold but a text value may not: zero, and halves of surrogate pairs."""
    high_end = -1
    """Where the first half of a pair ended, if the last escape was one."""
    for escape in _ESCAPE.finditer(text):
        code = int(escape[1], 16) if escape[1] else -1
        is_high, is_low = 0xD800 <= code < 0xDC00, 0xDC00 <= code < 0xE000
        if high_end >= 0:
            if escape.start() != high_end:
                raise invalid(text, _NO_LOW_HALF, high_end + 1)
            if is_high:
                raise invalid(text, "Unicode high surrogate must not follow a high surrogate.", escape.end())
        if is_low != (high_end >= 0):
            raise invalid(text, _NO_LOW_HALF, escape.end())
        if code == 0:
            raise DatabaseError.of(
                "22P05",
                "unsupported Unicode escape sequence",
                detail="\\u0000 cannot be converted to text.",
                where=_where(text, escape.end()),
            )
        high_end = escape.end() if is_high else -1
    if high_end >= 0:
        raise invalid(text, _NO_LOW_HALF, high_end + 1)


def load_strictly(text: str) -> Any:
    """Read a json text whose strings must all be proper text values."""
    document = load(text)
    if "\\u" in text:
        _check_escapes(text)
    return document


# ------------------------------------------------------------------------------------------------ canonical text


MOST_DEPTH = 250
"""How deep jsonb may nest; recursion over a document then stays well within the interpreter's limit."""


def dump(document: Any, depth: int = 0) -> str:
    """Write a document as jsonb does."""
    kind = type(document)
    if kind is str:
        return quote(document)
    if depth > MOST_DEPTH:
        raise _too_deep()
    if kind is dict:
        if not document:
            return "{}"
        keys = sorted(document)
        keys.sort(key=_byte_length)
        return "{" + ", ".join([quote(key) + ": " + dump(document[key], depth + 1) for key in keys]) + "}"
    if kind is list:
        return "[" + ", ".join([dump(item, depth + 1) for item in document]) + "]"
    if kind is int:
        return str(document)
    if document is True:
        return "true"
    if document is False:
        return "false"
    if document is None:
        return "null"
    return numeric.format_numeric(document)


def _byte_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def canonical(text: str) -> str:
    try:
        return dump(load_strictly(text))
    except RecursionError:
        raise _too_deep() from None


def document_key(document: Any) -> tuple[Any, ...]:
    """Make a key that sorts (and hashes) as jsonb values do: null < string < number < boolean < array < object.

    An empty array at the top is below everything, a quirk of old that indexes depend on."""
    if document == [] and type(document) is list:
        return (-1,)
    return _key(document)


def _key(document: Any) -> tuple[Any, ...]:
    match document:
        case None:
            return (0,)
        case str():
            return (1, document)
        case bool():
            return (3, document)
        case int() | Decimal():
            return (2, document)
        case list():
            return (4, len(document), tuple([_key(item) for item in document]))
        case _:
            keys = sorted(document)
            keys.sort(key=_byte_length)
            return (5, len(document), tuple([(key, _key(document[key])) for key in keys]))


# ------------------------------------------------------------------------------------------------ parts of a json text


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position


def members(text: str) -> Iterator[tuple[str, str]]:
    """Yield the keys of a json object and the texts of their values, in order, duplicates included."""
    position = _skip(text, _skip(text, 0) + 1)
    while text[position] != "}":
        key, position = _checker.raw_decode(text, position)
        position = _skip(text, _skip(text, position) + 1)
        _, end = _checker.raw_decode(text, position)
        yield key, text[position:end]
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)


def elements(text: str) -> Iterator[str]:
    """Yield the texts of the elements of a json array."""
    position = _skip(text, _skip(text, 0) + 1)
    while text[position] != "]":
        _, end = _checker.raw_decode(text, position)
        yield text[position:end]
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)


# ------------------------------------------------------------------------------------------------ complaints

_TOKEN = re.compile(r'[ \t\n\r]*(?:([\[\]{},:])|(")|(-?[A-Za-z0-9_.+\-\x80-\U0010ffff]+)|([^ \t\n\r]))')
_PROPER_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_ESCAPES = frozenset('"\\/bfnrt')
_MOST_CONTEXT = 50


def _where(text: str, end: int | None = None) -> str:
    """Say in which line, and show the line up to the culprit, as Postgres's CONTEXT does."""
    stop = len(text) if end is None else end
    start = text.rfind("\n", 0, stop) + 1
    line = text.count("\n", 0, stop) + 1
    shown = text[start:stop]
    if len(shown) > _MOST_CONTEXT:
        shown = "..." + shown[-_MOST_CONTEXT:]
    more = "" if stop >= len(text) or text[stop] in "\n\r" else "..."
    return f"JSON data, line {line}: {shown}{more}"


def invalid(text: str, detail: str, end: int | None = None) -> DatabaseError:
    return InvalidTextRepresentation("invalid input syntax for type json", detail=detail, where=_where(text, end))


class _Complaint:
    """A second, slow reading of a text that is no json, to say why."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.end = 0
        self.token = ""
        self.is_string = False

    def find(self) -> DatabaseError:
        try:
            self.next()
            self.value("Expected JSON value")
            if self.token:
                self.expected("Expected end of input")
        except DatabaseError as error:
            return error
        return invalid(self.text, "The input string ended unexpectedly.")

    def fail(self, detail: str, end: int | None = None) -> None:
        raise invalid(self.text, detail, self.end if end is None else end)

    def expected(self, what: str) -> None:
        if not self.token:
            self.fail("The input string ended unexpectedly.")
        self.fail(f'{what}, but found "{self.token}".')

    def next(self) -> None:
        match = _TOKEN.match(self.text, self.end)
        self.is_string = False
        if match is None:
            self.token, self.end = "", len(self.text)
            return
        self.end = match.end()
        if match[2]:
            self.string(match.start(2))
            return
        self.token = match[1] or match[3] or match[4]
        if match[4] or (match[3] and not self.is_scalar()):
            self.fail(f'Token "{self.token}" is invalid.')

    def is_scalar(self) -> bool:
        return self.token in ("true", "false", "null") or _PROPER_NUMBER.fullmatch(self.token) is not None

    def string(self, start: int) -> None:
        text, position = self.text, start + 1
        while position < len(text):
            character = text[position]
            if character == '"':
                self.token, self.end, self.is_string = text[start : position + 1], position + 1, True
                return
            if character < " ":
                self.fail(f"Character with value 0x{ord(character):02x} must be escaped.", position)
            if character == "\\":
                position += 1
                if position >= len(text):
                    break
                character = text[position]
                if character == "u":
                    digits = re.compile("[0-9a-fA-F]{0,4}").match(text, position + 1)
                    assert digits is not None
                    if len(digits[0]) < 4:
                        if digits.end() == len(text):
                            break
                        self.fail('"\\u" must be followed by four hexadecimal digits.', digits.end() + 1)
                    position += 4
                elif character not in _ESCAPES:
                    self.fail(f'Escape sequence "\\{character}" is invalid.', position + 1)
            position += 1
        self.token = text[start:]
        self.fail(f'Token "{self.token}" is invalid.', len(text))

    def value(self, what: str) -> None:
        match self.token:
            case "{":
                self.object()
            case "[":
                self.array()
            case _ if self.token and (self.is_string or self.is_scalar()):
                self.next()
            case _:
                self.expected(what)

    def object(self) -> None:
        self.next()
        if self.token == "}":
            self.next()
            return
        what = 'Expected string or "}"'
        while True:
            if not self.is_string:
                self.expected(what)
            self.next()
            if self.token != ":":
                self.expected('Expected ":"')
            self.next()
            self.value("Expected JSON value")
            if self.token == "}":
                self.next()
                return
            if self.token != ",":
                self.expected('Expected "," or "}"')
            self.next()
            what = "Expected string"

    def array(self) -> None:
        self.next()
        if self.token == "]":
            self.next()
            return
        what = 'Expected array element or "]"'
        while True:
            self.value(what)
            if self.token == "]":
                self.next()
                return
            if self.token != ",":
                self.expected('Expected "," or "]"')
            self.next()
            what = "Expected JSON value"


# ------------------------------------------------------------------------------------------------ input and output


def parse_json(text: str, modifier: int, context: EvalContext | None) -> str:
    check_text(text)
    try:
        _checker.decode(text)
    except ValueError:
        raise _Complaint(text).find() from None
    except RecursionError:
        raise _too_deep() from None
    return text


def parse_jsonb(text: str, modifier: int, context: EvalContext | None) -> str:
    return canonical(check_text(text))


def _format(value: str, context: EvalContext | None) -> str:
    return value


def _decode_jsonb(data: bytes) -> str:
    if data[:1] != b"\1":
        raise DatabaseError.of("XX000", f"unsupported jsonb version number {data[0] if data else 0}")
    return canonical(decode_text(data[1:]))


IO = {
    "json": TypeIO(
        parse_json, _format, lambda data: parse_json(decode_text(data), -1, None), lambda value: value.encode(), None
    ),
    "jsonb": TypeIO(parse_jsonb, _format, _decode_jsonb, lambda value: b"\1" + value.encode(), json_kind(load, dump)),
}
