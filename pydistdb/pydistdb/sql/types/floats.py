"""float4 and float8: the shortest decimal that reads back as the same value, in Postgres's dress.

Postgres (with its default ``extra_float_digits = 1``) prints plain digits while the decimal exponent is at least -4 and
below 15 (float8) or 6 (float4), else ``d.ddde+XX``; Python's repr uses the same digits with other limits.

>>> format_float8(1e15, None), format_float8(0.0001, None), format_float4(16777216.0, None)
('1e+15', '0.0001', '1.6777216e+07')

Source: PostgreSQL 15 manual, 8.1.3; Adams, "Ryu: fast float-to-string conversion" (PLDI 2018) for what shortest means.
"""

from __future__ import annotations

import math
import re
import struct

from pydistdb.sql.errors import InvalidTextRepresentation, NumericValueOutOfRange
from pydistdb.sql.types.base import EvalContext, TypeIO
from pydistdb.sql.types.integers import wrong_binary_length

NAN = math.nan
"""The one NaN that parsing and arithmetic here return, so that dictionaries find it by identity."""

_FLOAT = re.compile(r"[ \t\n\r\v\f]*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)[ \t\n\r\v\f]*")
_HEX_FLOAT = re.compile(
    r"[ \t\n\r\v\f]*([+-]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?[0-9]+)?)\s*"
)
_SPECIAL = {
    "nan": NAN,
    "infinity": math.inf,
    "+infinity": math.inf,
    "-infinity": -math.inf,
    "inf": math.inf,
    "+inf": math.inf,
    "-inf": -math.inf,
    "+nan": NAN,
    "-nan": NAN,
}

_single = struct.Struct("!f")
_double = struct.Struct("!d")


def to_single(value: float) -> float:
    """Round to single precision; OverflowError if the value does not fit."""
    return _single.unpack(_single.pack(value))[0]  # type: ignore[no-any-return]


def _parse(text: str, type_name: str) -> float:
    match = _FLOAT.fullmatch(text)
    if match is not None:
        value = float(match[1])
        if math.isinf(value) or (value == 0.0 and any(c in "123456789" for c in re.split("[eE]", match[1])[0])):
            raise NumericValueOutOfRange(f'"{text.strip()}" is out of range for type {type_name}')
        return value
    special = _SPECIAL.get(text.strip(" \t\n\r\v\f").lower())
    if special is not None:
        return special
    match = _HEX_FLOAT.fullmatch(text)
    if match is None:
        raise InvalidTextRepresentation(f'invalid input syntax for type {type_name}: "{text}"')
    try:
        return float.fromhex(match[1])
    except OverflowError:
        raise NumericValueOutOfRange(f'"{text.strip()}" is out of range for type {type_name}') from None


def parse_float8(text: str, modifier: int, context: EvalContext | None) -> float:
    return _parse(text, "double precision")


def parse_float4(text: str, modifier: int, context: EvalContext | None) -> float:
    value = _parse(text, "real")
    try:
        single = to_single(value)
    except OverflowError:
        single = math.inf
    if (math.isinf(single) and not math.isinf(value)) or (single == 0.0 and value != 0.0):
        raise NumericValueOutOfRange(f'"{text.strip()}" is out of range for type real')
    return NAN if single != single else single


def _format(digits_text: str, most_plain_exponent: int) -> str:
    """Lay out ``d.ddde±x`` as Postgres does."""
    mantissa, _, exponent_text = digits_text.partition("e")
    exponent = int(exponent_text)
    sign = ""
    if mantissa[0] == "-":
        sign, mantissa = "-", mantissa[1:]
    digits = mantissa.replace(".", "").rstrip("0") or "0"
    if -4 <= exponent < most_plain_exponent:
        if exponent < 0:
            return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
        if len(digits) <= exponent + 1:
            return sign + digits.ljust(exponent + 1, "0")
        return f"{sign}{digits[: exponent + 1]}.{digits[exponent + 1 :]}"
    fraction = "." + digits[1:] if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def _scientific(value: float) -> str:
    """Python's shortest digits as ``d.ddde±x``."""
    text = repr(value)
    if "e" in text:
        return text
    sign = ""
    if text[0] == "-":
        sign, text = "-", text[1:]
    whole, _, fraction = text.partition(".")
    digits = whole + fraction
    stripped = digits.lstrip("0")
    if not stripped:
        return sign + "0e0"
    exponent = len(whole) - 1 - (len(digits) - len(stripped))
    return f"{sign}{stripped[0]}.{stripped[1:]}e{exponent}"


_EXACT = frozenset({None, "1", "2", "3"})
"""Values of ``extra_float_digits`` that ask for the shortest exact text."""


def _rounded(value: float, digits: int, context: EvalContext) -> str:
    """``extra_float_digits`` is at or below 0: that many digits beyond ``digits``."""
    if not math.isfinite(value):
        return format_float8(value, None)
    return f"{value:.{max(digits + int(context.settings['extra_float_digits']), 1)}g}"


def format_float8(value: float, context: EvalContext | None) -> str:
    if context is not None and context.settings.get("extra_float_digits") not in _EXACT:
        return _rounded(value, 15, context)
    if 1e-4 <= value < 1e15 or -1e15 < value <= -1e-4 or value == 0:  # Python and Postgres write these alike
        text = repr(value)
        return text[:-2] if text[-2:] == ".0" else text
    if value != value:
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return _format(_scientific(value), 15)


def format_float4(value: float, context: EvalContext | None) -> str:
    if value != value:
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if context is not None and context.settings.get("extra_float_digits") not in _EXACT:
        return _rounded(value, 6, context)
    for precision in range(9):
        text = f"{value:.{precision}e}"
        try:
            if to_single(float(text)) == value:
                break
        except OverflowError:
            continue
    return _format(text, 6)


def _decode8(data: bytes) -> float:
    try:
        value: float = _double.unpack(data)[0]
    except struct.error:
        raise wrong_binary_length() from None
    return value if value == value else NAN


def _decode4(data: bytes) -> float:
    try:
        value: float = _single.unpack(data)[0]
    except struct.error:
        raise wrong_binary_length() from None
    return value if value == value else NAN


IO = {
    "float4": TypeIO(parse_float4, format_float4, _decode4, _single.pack, "float"),
    "float8": TypeIO(parse_float8, format_float8, _decode8, _double.pack, "float"),
}
