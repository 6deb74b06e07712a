"""uuid: 16 bytes, written as 8-4-4-4-12 hexadecimal digits; read with or without hyphens and braces.

>>> format_uuid(parse("{A0EEBC999C0B4EF8BB6D6BB9BD380A11}", -1, None), None)
'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'

Source: PostgreSQL 15 manual, 8.12.
"""

from __future__ import annotations

import re

from pydistdb.sql.errors import InvalidTextRepresentation
from pydistdb.sql.types.base import EvalContext, TypeIO
from pydistdb.sql.types.integers import wrong_binary_length

# A hyphen may follow every group of four digits.
_UUID = re.compile(r"(\{)?((?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4})(?(1)\})")


def parse(text: str, modifier: int, context: EvalContext | None) -> bytes:
    match = _UUID.fullmatch(text)
    if match is None:
        raise InvalidTextRepresentation(f'invalid input syntax for type uuid: "{text}"')
    return bytes.fromhex(match[2].replace("-", ""))


def format_uuid(value: bytes, context: EvalContext | None) -> str:
    digits = value.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def decode(data: bytes) -> bytes:
    if len(data) != 16:
        raise wrong_binary_length()
    return bytes(data)


IO = {"uuid": TypeIO(parse, format_uuid, decode, bytes, "uuid")}
