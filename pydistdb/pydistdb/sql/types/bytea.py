r"""bytea: ``\x`` and hexadecimal digits, or the older escape format.

>>> parse(r"\xDE ad", -1, None), parse(r"a\\\000", -1, None)
(b'\xde\xad', b'a\\\x00')

Source: PostgreSQL 15 manual, 8.4.
"""

from __future__ import annotations

import re

from pydistdb.sql.errors import DatabaseError, InvalidTextRepresentation
from pydistdb.sql.types.base import EvalContext, TypeIO

_ESCAPE = re.compile(r"\\(\\|[0-3][0-7][0-7])|\\")
_PLAIN = {byte: chr(byte) for byte in range(32, 127)} | {92: "\\\\"}


def parse_hex(digits: str) -> bytes:
    """Read pairs of hexadecimal digits; white space may stand between pairs."""
    try:
        return bytes.fromhex(digits)
    except ValueError:
        pass
    position = 0
    while position < len(digits):
        character = digits[position]
        if character in " \t\n\r":
            position += 1
            continue
        if character not in "0123456789abcdefABCDEF":
            raise DatabaseError.of("22023", f'invalid hexadecimal digit: "{character}"')
        if position + 1 >= len(digits):
            raise DatabaseError.of("22023", "invalid hexadecimal data: odd number of digits")
        if digits[position + 1] not in "0123456789abcdefABCDEF":
            raise DatabaseError.of("22023", f'invalid hexadecimal digit: "{digits[position + 1]}"')
        position += 2
    raise DatabaseError.of("22023", "invalid hexadecimal data: odd number of digits")


def parse_escape(text: str) -> bytes:
    parts: list[bytes] = []
    position = 0
    for match in _ESCAPE.finditer(text):
        parts.append(text[position : match.start()].encode())
        code = match[1]
        if code is None:
            raise InvalidTextRepresentation("invalid input syntax for type bytea")
        parts.append(b"\\" if code == "\\" else bytes((int(code, 8),)))
        position = match.end()
    parts.append(text[position:].encode())
    return b"".join(parts)


def parse(text: str, modifier: int, context: EvalContext | None) -> bytes:
    return parse_hex(text[2:]) if text.startswith("\\x") else parse_escape(text)


def format_escape(value: bytes) -> str:
    return "".join([_PLAIN.get(byte) or f"\\{byte:03o}" for byte in value])


def format_bytea(value: bytes, context: EvalContext | None) -> str:
    if context is not None and context.settings.get("bytea_output") == "escape":
        return format_escape(value)
    return "\\x" + value.hex()


IO = {"bytea": TypeIO(parse, format_bytea, bytes, bytes, "bytes")}
