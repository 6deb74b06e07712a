"""Character types: text, varchar(n), char(n), name and the one-byte "char".

A modifier is the declared length plus 4.  Casting to a length cuts silently, storing does not, except for blanks: SQL
lets trailing spaces vanish.  char(n) values are kept blank-padded.

>>> coerce_varchar("abc  ", 3 + 4, False), coerce_bpchar("ab", 3 + 4, False)
('abc', 'ab ')

Source: PostgreSQL 15 manual, 8.3.
"""

from __future__ import annotations

from pydistdb.sql.errors import DatabaseError, StringDataRightTruncation
from pydistdb.sql.types.base import EvalContext, TypeIO

NAME_BYTES = 63


def check_text(text: str) -> str:
    """Refuse the one character that Postgres's UTF-8 text cannot hold."""
    if "\0" in text:
        raise DatabaseError.of("22021", 'invalid byte sequence for encoding "UTF8": 0x00')
    return text


def decode_text(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        shown = " ".join(f"0x{byte:02x}" for byte in data[error.start : max(error.end, error.start + 1)])
        raise DatabaseError.of("22021", f'invalid byte sequence for encoding "UTF8": {shown}') from None
    return check_text(text)


def coerce_varchar(value: str, modifier: int, explicit: bool) -> str:
    most = modifier - 4
    if modifier < 4 or len(value) <= most:
        return value
    if not explicit and value[most:].strip(" "):
        raise StringDataRightTruncation(f"value too long for type character varying({most})")
    return value[:most]


def coerce_bpchar(value: str, modifier: int, explicit: bool) -> str:
    length = modifier - 4
    if modifier < 4:
        return value
    if len(value) <= length:
        return value.ljust(length)
    if not explicit and value[length:].strip(" "):
        raise StringDataRightTruncation(f"value too long for type character({length})")
    return value[:length]


def truncate_name(value: str) -> str:
    """Cut an identifier to 63 bytes, at a character's boundary."""
    if len(value) * 4 <= NAME_BYTES:
        return value
    data = value.encode()
    return value if len(data) <= NAME_BYTES else data[:NAME_BYTES].decode(errors="ignore")


def parse_text(text: str, modifier: int, context: EvalContext | None) -> str:
    return check_text(text)


def parse_varchar(text: str, modifier: int, context: EvalContext | None) -> str:
    return coerce_varchar(check_text(text), modifier, False)


def parse_bpchar(text: str, modifier: int, context: EvalContext | None) -> str:
    return coerce_bpchar(check_text(text), modifier, False)


def parse_name(text: str, modifier: int, context: EvalContext | None) -> str:
    return truncate_name(check_text(text))


def parse_char(text: str, modifier: int, context: EvalContext | None) -> str:
    """Keep the first byte; a backslash and three octal digits name one above 127."""
    if len(text) == 4 and text[0] == "\\" and all(c in "01234567" for c in text[1:]):
        return chr(int(text[1:], 8) & 0xFF)
    first = check_text(text)[:1].encode()[:1]
    return chr(first[0]) if first else ""


def format_char(value: str, context: EvalContext | None) -> str:
    if value and ord(value) > 127:
        return f"\\{ord(value):03o}"
    return "" if value == "\0" else value


def _format(value: str, context: EvalContext | None) -> str:
    return value


def _encode(value: str) -> bytes:
    return value.encode()


IO = {
    "text": TypeIO(parse_text, _format, decode_text, _encode, "text"),
    "varchar": TypeIO(parse_varchar, _format, decode_text, _encode, "text"),
    "bpchar": TypeIO(parse_bpchar, _format, decode_text, _encode, "text"),
    "name": TypeIO(parse_name, _format, lambda data: truncate_name(decode_text(data)), _encode, "text"),
    "char": TypeIO(
        parse_char,
        format_char,
        lambda data: data.decode("latin-1")[:1],
        lambda value: value.encode("latin-1") or b"\0",
        "text",
    ),
    "cstring": TypeIO(parse_text, _format, decode_text, _encode, None),
    "unknown": TypeIO(parse_text, _format, decode_text, _encode, None),
    "pg_node_tree": TypeIO(parse_text, _format, decode_text, _encode, None),
    "aclitem": TypeIO(parse_text, _format, decode_text, _encode, None),
}
