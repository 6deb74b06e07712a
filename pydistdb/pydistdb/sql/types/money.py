"""money: an amount in cents, written as ``$1,234.56`` (the C locale's currency format).

>>> format_money(-123456, None), parse("($1,234.565)", -1, None)
('-$1,234.56', -123457)

Source: PostgreSQL 15 manual, 8.2; cash.c.
"""

from __future__ import annotations

import re

from pydistdb.sql.errors import InvalidTextRepresentation, NumericValueOutOfRange
from pydistdb.sql.types.base import EvalContext, TypeIO
from pydistdb.sql.types.integers import packed

_MONEY = re.compile(r"\s*(\(|-|\+)?\s*\$?\s*(-|\+)?\s*([0-9][0-9,]*)?(?:\.([0-9]*))?\s*(\)|-|\+)?\s*\$?\s*")
MOST_CENTS = (1 << 63) - 1


def check_range(cents: int) -> int:
    if not -MOST_CENTS - 1 <= cents <= MOST_CENTS:
        raise NumericValueOutOfRange("money out of range")
    return cents


def parse(text: str, modifier: int, context: EvalContext | None) -> int:
    match = _MONEY.fullmatch(text)
    if match is None:
        raise InvalidTextRepresentation(f'invalid input syntax for type money: "{text}"')
    fraction = match[4] or ""
    cents = int((match[3] or "0").replace(",", "") + fraction[:2].ljust(2, "0"))
    if fraction[2:3] >= "5":
        cents += 1
    if "-" in (match[1], match[2], match[5]) or match[1] == "(":
        cents = -cents
    if not -MOST_CENTS - 1 <= cents <= MOST_CENTS:
        raise NumericValueOutOfRange(f'value "{text}" is out of range for type money')
    return cents


def format_money(value: int, context: EvalContext | None) -> str:
    units, cents = divmod(abs(value), 100)
    return f"{'-' if value < 0 else ''}${units:,}.{cents:02d}"


_decode, _encode = packed("!q")
IO = {"money": TypeIO(parse, format_money, _decode, _encode, "int")}
