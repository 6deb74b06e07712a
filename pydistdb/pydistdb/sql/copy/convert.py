"""Fields of COPY data to values: whole columns at a time, and single values for errors.

``fast_converter`` gives a function for a column that raises at anything unusual; then every value goes through
``slow_converter``, the type's own input function, which knows what is really wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

from pydistdb.sql.session.statements import decode_text
from pydistdb.sql.types import domains, known, registry
from pydistdb.sql.types.base import EvalContext, SqlType

_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|.|$)", re.DOTALL)
_LETTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def unescape(field: str) -> str:
    """Text format's backslash sequences; \\x and octal ones name bytes, which must make UTF-8 together."""
    has_bytes = False

    def replace(found: re.Match[str]) -> str:
        nonlocal has_bytes
        code = found[1]
        if code[:1] == "x" and len(code) > 1:
            has_bytes = True
            return chr(0xDC00 + int(code[1:], 16))
        if code[:1].isdigit() and code[0] < "8":
            has_bytes = True
            return chr(0xDC00 + (int(code, 8) & 0xFF))
        return _LETTERS.get(code, code)

    result = _ESCAPE.sub(replace, field)
    if not has_bytes:
        return result
    data = b"".join(
        bytes([ord(character) - 0xDC00]) if "\udc00" <= character <= "\udcff" else character.encode()
        for character in result
    )
    return decode_text(data)


Column = Sequence[str | None]
_INTEGER_LIMITS = {known.INT2.oid: 1 << 15, known.INT4.oid: 1 << 31, known.INT8.oid: 1 << 63}
_UNCHANGED = frozenset({known.TEXT.oid})


def null_check(sql_type: SqlType, context: EvalContext) -> Callable[[], Any] | None:
    """What to call for a NULL in this column: a domain may refuse it; None if there is nothing to ask."""
    oid = sql_type.oid
    if not domains.is_domain(oid):
        return None
    return lambda: domains.check_value(oid, None, context)


def slow_converter(sql_type: SqlType, context: EvalContext) -> Callable[[str], Any]:
    parse = registry.io(sql_type.oid).parse
    modifier = sql_type.modifier
    return lambda text: parse(text, modifier, context)


def fast_converter(sql_type: SqlType, context: EvalContext) -> Callable[[Column], Sequence[Any]]:
    """A converter of a whole column; raises ValueError or DatabaseError if any value is unusual."""
    if sql_type.oid in _UNCHANGED or (sql_type.oid == known.VARCHAR.oid and sql_type.modifier < 0):
        return lambda column: column
    limit = _INTEGER_LIMITS.get(sql_type.oid)
    if limit is not None:
        return lambda column: _integers(column, limit)
    parse = registry.io(sql_type.oid).parse
    modifier = sql_type.modifier

    refuse_null = null_check(sql_type, context)
    if refuse_null is not None:

        def each_or_null(column: Column) -> Sequence[Any]:
            if None in column:
                refuse_null()
            return [None if text is None else parse(text, modifier, context) for text in column]

        return each_or_null

    def each(column: Column) -> Sequence[Any]:
        return [None if text is None else parse(text, modifier, context) for text in column]

    if sql_type.oid == known.FLOAT8.oid:
        return lambda column: _floats(column) or each(column)
    return each


_plain_floats = re.compile(r"[0-9.+-]*").fullmatch
"""Digits, signs and points only: where float() takes such a text, it means what Postgres reads."""


def _floats(column: Column) -> Sequence[float] | None:
    """A column of plain decimal fractions; None if any value is of another kind."""
    if None in column or not _plain_floats("".join(cast("Sequence[str]", column))):
        return None
    try:
        values = list(map(float, cast("Sequence[str]", column)))
    except ValueError:
        return None
    return values if math.isfinite(sum(map(abs, values))) else None


def _integers(column: Column, limit: int) -> Sequence[int | None]:
    """int() takes more than Postgres does (underscores, digits of other scripts): leave such values to the slow way."""
    texts = [text for text in column if text is not None] if None in column else cast("Sequence[str]", column)
    if not texts:
        return [None] * len(column)
    joined = "".join(texts)
    if not joined.isascii() or "_" in joined:
        raise ValueError("unusual integers")
    present = list(map(int, texts))
    if min(present) < -limit or max(present) >= limit:
        raise ValueError("out of range")
    if len(present) == len(column):
        return present
    values = iter(present)
    return [None if text is None else next(values) for text in column]
