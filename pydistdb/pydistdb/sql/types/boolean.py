"""The type boolean: any unambiguous beginning of true, false, yes, no, on, off, or 1 and 0, whatever the case.

>>> parse(" Y ", -1, None)
True

Source: PostgreSQL 15 manual, 8.6.
"""

from __future__ import annotations

from pydistdb.sql.errors import InvalidTextRepresentation
from pydistdb.sql.types.base import EvalContext, TypeIO

_WORDS: dict[str, bool] = {"1": True, "0": False, "on": True, "of": False, "off": False}
for _word, _value in (("true", True), ("false", False), ("yes", True), ("no", False)):
    for _length in range(1, len(_word) + 1):
        _WORDS[_word[:_length]] = _value


def parse(text: str, modifier: int, context: EvalContext | None) -> bool:
    value = _WORDS.get(text)
    if value is None:
        value = _WORDS.get(text.strip(" \t\n\r\v\f").lower())
    if value is None:
        raise InvalidTextRepresentation(f'invalid input syntax for type boolean: "{text}"')
    return value


def decode(data: bytes) -> bool:
    if len(data) != 1:
        raise InvalidTextRepresentation.of("22P03", "incorrect binary data format")
    return data != b"\0"


IO = {
    "bool": TypeIO(
        parse=parse,
        format=lambda value, context: "t" if value else "f",
        decode=decode,
        encode=lambda value: b"\1" if value else b"\0",
        key_kind="bool",
    )
}
