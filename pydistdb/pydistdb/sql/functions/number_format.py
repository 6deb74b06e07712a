"""to_char and to_number for numbers, with templates such as ``FM999,990.00``.

A template lays out digit positions: 9 (blank if it would be a leading zero) and 0 (always a digit), a decimal point, group
separators, and signs (S, MI, PL, SG, PR).  Numbers too large for it come out as ``#``.

    >>> number_to_char(Decimal("-1234.5"), "9,999.99"), number_to_char(Decimal(7), "FM000")
    ('-1,234.50', '007')

The C locale's conventions hold: D is a point, G a comma, L a blank.

Source: PostgreSQL 15 manual, 9.8, tables of numeric patterns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache

from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, InvalidSyntax, InvalidTextRepresentation
from pydistdb.sql.functions.datetime_format import ordinal
from pydistdb.sql.functions.define import define, implements
from pydistdb.sql.types import numeric
from pydistdb.sql.types.floats import to_single

_TOKENS = re.compile(
    r'\\(?P<quote>")|"(?P<quoted>(?:[^"\\]|\\.)*)"?|(?P<key>EEEE|eeee|FM|fm|MI|mi|PL|pl|PR|pr|RN|rn|SG|sg|TH|th|SP|sp|[09.,DdGgLlSsVvBbCc])'
    r"|(?P<literal>.)",
    re.DOTALL,
)
MOST_TEMPLATE = 1024


@dataclass(slots=True)
class Model:
    """A template taken apart: tokens in order, and what they say as a whole."""

    tokens: list[tuple[str, str]] = field(default_factory=list)
    """(kind, text): kind "" for literal text."""
    before: int = 0
    after: int = 0
    shift: int = 0
    """Digits behind V."""
    first_zero: int = -1
    """Index among the digits before the point of the first 0, -1 without."""
    last_zero: int = 0
    """How many decimals are always shown, FM or not."""
    has_point: bool = False
    fill: bool = True
    sign: str = ""
    """S< (leading), S> (trailing), PR, or "" for MI, PL, SG or nothing."""
    explicit: bool = False
    """MI, PL or SG is there: no sign of its own in front."""
    roman: bool = False
    scientific: bool = False


def _syntax(message: str) -> DatabaseError:
    return InvalidSyntax(message)


@lru_cache(maxsize=256)
def model_of(template: str) -> Model:
    if len(template) > MOST_TEMPLATE:
        raise DatabaseError.of("22023", "format specification is too long")
    model = Model()
    after_v = False
    for match in _TOKENS.finditer(template):
        if match["key"] is None:
            quoted = match["quoted"]
            text = re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL) if quoted is not None else None
            model.tokens.append(("", text if text is not None else match["quote"] or match["literal"]))
            continue
        key = match["key"].upper()
        after_v = _note(model, key, after_v)
        model.tokens.append((key, match["key"]))
    return model


def _note(model: Model, key: str, after_v: bool) -> bool:
    match key:
        case "9" | "0" if after_v:
            model.shift += 1
            model.before += 1
            if key == "0" and model.first_zero < 0:
                model.first_zero = model.before - 1
        case "9" | "0" if model.has_point:
            model.after += 1
            if key == "0":
                model.last_zero = model.after
        case "9" | "0":
            if key == "0" and model.first_zero < 0:
                model.first_zero = model.before
            model.before += 1
        case "." | "D":
            if model.has_point:
                raise _syntax("multiple decimal points")
            if after_v:
                raise _syntax('cannot use "V" and decimal point together')
            model.has_point = True
        case "V":
            if model.has_point:
                raise _syntax('cannot use "V" and decimal point together')
            return True
        case "S":
            if model.sign:
                raise _syntax('cannot use "S" twice')
            if model.explicit:
                raise _syntax('cannot use "S" and "PL"/"MI"/"SG"/"PR" together')
            model.sign = "S<" if model.before == 0 and model.after == 0 else "S>"
        case "MI" | "PL" | "SG":
            if model.sign.startswith("S"):
                raise _syntax(f'cannot use "S" and "{key}" together')
            # PL stands beside the number's own sign, MI and SG instead of it.
            model.explicit = model.explicit or key != "PL"
        case "PR":
            if model.sign or model.explicit:
                raise _syntax('cannot use "PR" and "S"/"PL"/"MI"/"SG" together')
            model.sign = "PR"
        case "FM":
            model.fill = False
        case "RN":
            model.roman = True
        case "EEEE":
            model.scientific = True
    return after_v


_ROMAN_DIGITS = (
    (1000, "M"),
    (900, "CM"),
    (500, "D"),
    (400, "CD"),
    (100, "C"),
    (90, "XC"),
    (50, "L"),
    (40, "XL"),
    (10, "X"),
    (9, "IX"),
    (5, "V"),
    (4, "IV"),
    (1, "I"),
)


def _roman(value: Decimal, model: Model, lower: bool) -> str:
    number = int(numeric.rescale(value, 0)) if value.is_finite() else 0
    if not 1 <= number <= 3999:
        return "#" * 15
    text = ""
    for size, letters in _ROMAN_DIGITS:
        count, number = divmod(number, size)
        text += letters * count
    if lower:
        text = text.lower()
    return text.rjust(15) if model.fill else text


def _scientific(value: Decimal, model: Model) -> str:
    if not value.is_finite():
        return " " + "#" * model.before + ("." + "#" * model.after if model.after else "") + "####"
    sign = "-" if value < 0 else " "
    if not value:
        mantissa, exponent = Decimal(0), 0
    else:
        exponent = value.adjusted()
        mantissa = abs(value).scaleb(-exponent, numeric.EXACT)
    shown = numeric.rescale(mantissa, model.after)
    if shown >= 10:
        exponent += 1
        shown = numeric.rescale(mantissa.scaleb(-1, numeric.EXACT), model.after)
    return f"{sign}{numeric.format_numeric(shown)}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


class _Writer:
    """Fills a number's digits into a template."""

    def __init__(self, model: Model, negative: bool, whole: str, fraction: str) -> None:
        self.model = model
        self.negative = negative
        self.whole = whole
        self.fraction = fraction
        self.blank = model.before - len(whole)
        self.parts: list[str] = []
        self.signed = model.explicit or model.sign == "S>"
        self.position = 0
        self.decimals = 0
        # With FM, decimals are shown up to the last that is not zero (or a 0 in the template).
        significant = len(fraction.rstrip("0"))
        self.shown_decimals = model.after if model.fill else max(significant, model.last_zero)
        # 0.5 in 9.9 has no digit before the point, unless a 0 asks for one.
        self.bare_point = whole == "0" and model.after > 0 and model.first_zero < 0
        first_digit = self.blank + (1 if self.bare_point else 0)
        self.start = first_digit if model.first_zero < 0 else min(model.first_zero, first_digit)

    def write_sign(self) -> None:
        if self.signed:
            return
        self.signed = True
        match self.model.sign:
            case "S<":
                self.parts.append("-" if self.negative else "+")
            case "PR":
                if self.negative:
                    self.parts.append("<")
                elif self.model.fill:
                    self.parts.append(" ")
            case _:
                if self.negative:
                    self.parts.append("-")
                elif self.model.fill:
                    self.parts.append(" ")

    def digit(self) -> None:
        if self.position >= self.model.before:
            self.decimal()
            return
        position = self.position
        self.position += 1
        if position < self.start:
            last = position == self.model.before - 1
            if last and self.bare_point:
                self.bare_digit()
            elif self.model.fill:
                self.parts.append(" ")
            return
        self.write_sign()
        self.parts.append("0" if position < self.blank else self.whole[position - self.blank])

    def bare_digit(self) -> None:
        if not self.model.fill and not self.fraction.rstrip("0") and not self.model.last_zero:
            self.write_sign()
            self.parts.append("0")
            return
        if self.model.fill:
            self.parts.append(" ")
        self.write_sign()

    def decimal(self) -> None:
        if not self.fraction:
            self.parts.append(" " if self.model.fill else "")
        elif self.decimals < self.shown_decimals:
            self.write_sign()
            self.parts.append(self.fraction[self.decimals])
        self.decimals += 1

    def point(self) -> None:
        self.write_sign()
        self.parts.append("." if self.fraction else " " if self.model.fill else "")
        self.position = self.model.before

    def group(self) -> None:
        if self.position > self.start or (self.position == self.start and self.signed and self.model.explicit is False):
            self.parts.append(",")
        elif self.model.fill:
            self.parts.append(" ")

    def run(self) -> str:
        for kind, text in self.model.tokens:
            match kind:
                case "9" | "0":
                    self.digit()
                case "." | "D":
                    if not self.model.after:
                        break  # Postgres shows nothing from a point on that no digit follows
                    self.point()
                case "," | "G":
                    self.group()
                case "":
                    self.parts.append(text)
                case "S" if self.model.sign == "S>":
                    self.parts.append("-" if self.negative else "+")
                case "MI":
                    if self.negative:
                        self.parts.append("-")
                    elif self.model.fill:
                        self.parts.append(" ")
                case "PL":
                    if not self.negative:
                        self.parts.append("+")
                    elif self.model.fill:
                        self.parts.append(" ")
                case "SG":
                    self.parts.append("-" if self.negative else "+")
                case "PR":
                    if self.negative:
                        self.parts.append(">")
                    elif self.model.fill:
                        self.parts.append(" ")
                case "L":
                    if self.model.fill:
                        self.parts.append(" ")
                case "TH":
                    if not self.fraction and self.whole[-1:].isalpha():
                        raise InvalidTextRepresentation(f'"{self.whole}" is not a number')
                    if not self.model.has_point and not self.negative and self.whole[:1] != "#":
                        self.parts.append(ordinal(self.whole, text == "TH"))
                case _:
                    pass
        return "".join(self.parts)


@implements("to_char(numeric,text)")
def number_to_char(value: Decimal, template: str) -> str:
    model = model_of(template)
    if model.roman:
        return _roman(value, model, "rn" in template)
    if model.scientific:
        return _scientific(value, model)
    if not value.is_finite():
        return _word(model, value)
    if model.shift:
        value = numeric.EXACT.multiply(value, Decimal(10) ** model.shift)
    rounded = value.quantize(Decimal((0, (1,), -model.after)), ROUND_HALF_UP, numeric.EXACT)
    whole, _, fraction = format(abs(rounded), "f").partition(".")
    negative = bool(rounded < 0)
    if len(whole) > model.before:
        return _overflow(model, negative)
    return _Writer(model, negative, whole, fraction).run()


def _word(model: Model, value: Decimal) -> str:
    """Infinity and NaN stand where the digits before the point would, and leave those behind it blank."""
    negative = not value.is_nan() and value < 0
    word = "NaN" if value.is_nan() else "Infinity"
    if len(word) > model.before:
        return _overflow(model, negative)
    return _Writer(model, negative, word, "").run()


def _overflow(model: Model, negative: bool) -> str:
    writer = _Writer(model, negative, "#" * model.before, "#" * model.after)
    writer.shown_decimals = model.after
    return writer.run()


define("to_char(int4,text)", lambda value, template: number_to_char(Decimal(value), template))
define("to_char(int8,text)", lambda value, template: number_to_char(Decimal(value), template))


def _float_to_char(value: float, template: str, digits: int) -> str:
    """Show no more digits than a float of the kind holds."""
    if value != value or value in (float("inf"), float("-inf")):
        return number_to_char(Decimal(value), template)
    model = model_of(template)
    if model.scientific or model.roman:
        return number_to_char(Decimal(repr(value)), template)
    whole = len(str(int(abs(value))))
    after = 0 if whole >= digits else min(model.after + model.shift, digits - whole)
    return number_to_char(Decimal(f"{value:.{after}f}"), template)


define("to_char(float8,text)", lambda value, template: _float_to_char(value, template, 15))
define("to_char(float4,text)", lambda value, template: _float_to_char(to_single(value), template, 6))

# ------------------------------------------------------------------------------------------------ to_number


@implements("to_number(text,text)")
def to_number(text: str, template: str) -> Decimal | None:
    if not template:
        return None
    model = model_of(template)
    if model.scientific:
        raise FeatureNotSupported('"EEEE" not supported for input')
    if model.roman:
        raise FeatureNotSupported('"RN" not supported for input')
    position, negative = 0, False
    digits = ""
    seen_digit = False

    def sign_at(where: int) -> tuple[int, bool]:
        if where < len(text) and text[where] in "+-<":
            return where + 1, text[where] in "-<"
        return where, False

    for kind, literal in model.tokens:
        if position >= len(text) and kind not in ("S", "MI", "PR", "SG"):
            break
        match kind:
            case "9" | "0":
                while position < len(text) and text[position] == " ":
                    position += 1
                if not seen_digit:
                    position, minus = sign_at(position)
                    negative = negative or minus
                    while position < len(text) and text[position] == " ":
                        position += 1
                if position < len(text) and text[position].isdigit():
                    digits += text[position]
                    position += 1
                    seen_digit = True
                elif position < len(text) and text[position] == "." and not model.has_point:
                    break
            case "." | "D":
                if position < len(text) and text[position] == ".":
                    digits += "."
                    position += 1
            case "," | "G":
                if position < len(text) and text[position] == ",":
                    position += 1
            case "S" | "MI" | "SG" | "PL":
                position, minus = sign_at(position)
                negative = negative or minus
            case "PR":
                if position < len(text) and text[position] == ">":
                    position += 1
            case "TH":
                position += 2
            case "L":
                if position < len(text) and not text[position].isdigit() and text[position] not in "+-.,":
                    position += 1
            case "":
                # Literal text takes up its room, unless the number itself stands there.
                for _ in literal:
                    if position < len(text) and not text[position].isdigit() and text[position] not in "+-.,":
                        position += 1
            case _:
                pass
    if not any(character.isdigit() for character in digits):
        raise InvalidTextRepresentation('invalid input syntax for type numeric: " "')
    value = numeric.parse(digits.rstrip(".") or "0", -1, None)
    if model.shift:
        value = numeric.divide(value, Decimal(10) ** model.shift)
    return numeric.negate(value) if negative else value
