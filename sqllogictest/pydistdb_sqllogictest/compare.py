"""Hold what the server returned against what a file expects, in the manner of the file's dialect.

Every dialect formats a value its own way (``true`` or ``t``, 3 decimals or all of them) and writes rows its own way (one
value per line, or columns separated by tabs or blanks).  ``render`` turns a result into lines, ``matches`` compares:

    pg          exactly, columns separated by a tab
    sqlite      one value per line, formatted by the type letters, or an MD5 of all of them
    cockroach   blank-separated words, numbers by value
    datafusion  blank-separated words, numbers by value
    duckdb      one row per line or one value per line, numbers by value, or an MD5
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from math import isclose

from pydistdb_sqllogictest.records import Dialect, Query, Sort

Row = list[str]

_HASH = re.compile(r"(\d+) values hashing to ([0-9a-f]{32})")
_BOOL, _DATE, _TIMESTAMP, _TIMESTAMPTZ, _TIME = 16, 1082, 1114, 1184, 1083
_UNPRINTABLE = re.compile(r"[^ -~]")
_WHOLE = re.compile(r"[+-]?\d+")
_OFFSET = re.compile(r"([+-]\d\d)(?::?(\d\d))?$")


@dataclass(frozen=True, slots=True)
class Result:
    """What a statement returned: text values, with the type oid and name of every column."""

    rows: list[list[str | None]]
    type_oids: list[int]
    names: list[str]
    count: int


def render(result: Result, query: Query, dialect: Dialect) -> list[Row]:
    """The rows as the dialect writes their values, sorted as the record asks."""
    rows = [
        [_value(value, column, result.type_oids[column], query.types, dialect) for column, value in enumerate(row)]
        for row in result.rows
    ]
    if query.sort is Sort.ROWS:
        rows.sort()
    elif query.sort is Sort.VALUES:
        rows = [[value] for value in sorted(value for row in rows for value in row)]
    if query.with_column_names:
        rows.insert(0, list(result.names))
    return rows


def digest(rows: Sequence[Row]) -> str:
    """What ``hashing to`` means: MD5 over every value followed by a line feed."""
    found = hashlib.md5(usedforsecurity=False)
    for row in rows:
        for value in row:
            found.update(value.encode() + b"\n")
    return found.hexdigest()


def lines_of(rows: Sequence[Row], dialect: Dialect) -> list[str]:
    """The rows as lines of a file: what ``got`` shows."""
    if dialect is Dialect.SQLITE:
        return [value for row in rows for value in row]
    between = "\t" if dialect in (Dialect.PG, Dialect.DUCKDB) else " "
    return [between.join(row) for row in rows]


def matches(rows: Sequence[Row], query: Query, dialect: Dialect) -> bool:
    """Whether the rendered rows are what the record expects."""
    expected = query.expected
    if expected is None:
        return True
    if len(expected) == 1 and (hashed := _HASH.fullmatch(expected[0].strip())):
        return int(hashed[1]) == sum(len(row) for row in rows) and hashed[2] == digest(rows)
    match dialect:
        case Dialect.PG:
            return _same_lines(lines_of(rows, dialect), expected, query)
        case Dialect.SQLITE:
            return [value for row in rows for value in row] == _sorted_flat(expected, rows, query)
        case Dialect.DUCKDB:
            return _same_duckdb(rows, expected, query)
        case Dialect.COCKROACH | Dialect.DATAFUSION:
            found = [" ".join(row).split() for row in rows]
            return _same_rows(found, [line.split() for line in expected], query)


def _same_lines(found: list[str], expected: Sequence[str], query: Query) -> bool:
    """Exact comparison; a value may hold line feeds, so lines are compared and not rows."""
    lines = "\n".join(found).split("\n") if found else []
    if query.sort is Sort.NONE:
        return lines == list(expected)
    return sorted(lines) == sorted(expected)


def _sorted_flat(expected: Sequence[str], rows: Sequence[Row], query: Query) -> list[str]:
    """SQLite's files are written in sorted order already; hand-made ones may not be."""
    width = len(rows[0]) if rows else 1
    if query.sort is Sort.ROWS and width and len(expected) % width == 0:
        grouped = sorted(list(expected[start : start + width]) for start in range(0, len(expected), width))
        return [value for row in grouped for value in row]
    return sorted(expected) if query.sort is Sort.VALUES else list(expected)


def _same_duckdb(rows: Sequence[Row], expected: Sequence[str], query: Query) -> bool:
    width = len(rows[0]) if rows else 1
    split = [line.split("\t") for line in expected]
    if width > 1 and not all(len(row) == width for row in split) and len(expected) == width * len(rows):
        split = [list(expected[start : start + width]) for start in range(0, len(expected), width)]
    return _same_rows([list(row) for row in rows], split, query)


def _same_rows(found: list[Row], expected: list[Row], query: Query) -> bool:
    if query.sort is Sort.VALUES:
        found, expected = (sorted([value] for row in side for value in row) for side in (found, expected))
    elif query.sort is Sort.ROWS:
        start = 1 if query.with_column_names else 0
        found, expected = ([*side[:start], *sorted(side[start:])] for side in (found, expected))
    return len(found) == len(expected) and all(
        len(left) == len(right) and all(map(_same_value, left, right))
        for left, right in zip(found, expected, strict=True)
    )


def _same_value(left: str, right: str) -> bool:
    """Equal as text, as truth value, or as numbers."""
    if left == right:
        return True
    if (left, right) in (("true", "1"), ("false", "0")):
        return True
    try:
        first, second = Decimal(left), Decimal(right)
    except InvalidOperation:
        return False
    if first == second:
        return True
    # Floating-point results may differ in the last digits; exact ones were equal above.
    return not (_WHOLE.fullmatch(left) and _WHOLE.fullmatch(right)) and isclose(first, second, rel_tol=1e-9)


def _value(value: str | None, column: int, type_oid: int, types: str, dialect: Dialect) -> str:
    if value is None:
        return "NULL"
    match dialect:
        case Dialect.PG:
            return value or "(empty)"
        case Dialect.SQLITE:
            return _sqlite_value(value, types[column : column + 1])
        case Dialect.COCKROACH:
            return _cockroach_value(value, type_oid)
        case Dialect.DATAFUSION if type_oid == _TIMESTAMP:
            return value.replace(" ", "T", 1)
        case Dialect.DATAFUSION | Dialect.DUCKDB:
            return _truth(value) if type_oid == _BOOL else value or "(empty)"


def _sqlite_value(value: str, letter: str) -> str:
    try:
        if letter == "I":
            return value if _WHOLE.fullmatch(value) else str(int(Decimal(value)))
        if letter == "R":
            return f"{float(value):.3f}"
    except (ValueError, ArithmeticError):
        return value
    return _UNPRINTABLE.sub("@", value) or "(empty)"


def _cockroach_value(value: str, type_oid: int) -> str:
    if type_oid == _BOOL:
        return _truth(value)
    if type_oid == _DATE:
        return f"{value} 00:00:00 +0000 +0000"
    if type_oid == _TIMESTAMP:
        return f"{value} +0000 +0000"
    if type_oid == _TIME:
        return f"0000-01-01 {value} +0000 UTC"
    if type_oid == _TIMESTAMPTZ and (offset := _OFFSET.search(value)):
        zone = f"{offset[1]}{offset[2] or '00'}"
        return f"{value[: offset.start()]} {zone} {'UTC' if zone == '+0000' else zone}"
    return value or "·"


def _truth(value: str) -> str:
    return {"t": "true", "f": "false"}.get(value, value)
