"""What a sqllogictest file holds: statements and queries, each with what it must lead to.

Source: https://www.sqlite.org/sqllogictest/doc/trunk/about.wiki, and what CockroachDB, DataFusion and DuckDB made of it.

``user``: the role to connect as, where it is not that of the URL.  ``retry``: what is expected may take a while to be so.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Dialect(Enum):
    """Who wrote the file: the same few directives, but other habits in writing results."""

    PG = "pg"
    SQLITE = "sqlite"
    COCKROACH = "cockroach"
    DATAFUSION = "datafusion"
    DUCKDB = "duckdb"


class Sort(Enum):
    """How both sides are sorted before they are compared."""

    NONE = "nosort"
    ROWS = "rowsort"
    VALUES = "valuesort"


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL that must succeed, or succeed with ``count`` rows."""

    line: int
    sql: str
    connection: str = "default"
    count: int | None = None
    user: str = ""
    retry: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """SQL that must fail; ``sqlstate`` is None where the file does not say how (or says it in another server's words)."""

    line: int
    sql: str
    connection: str = "default"
    sqlstate: str | None = None
    user: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """SQL that must return rows.  ``expected`` holds the lines below ``----``; None if there is no such line."""

    line: int
    sql: str
    types: str
    sort: Sort
    expected: tuple[str, ...] | None
    connection: str = "default"
    label: str | None = None
    with_column_names: bool = False
    user: str = ""
    retry: bool = False


@dataclass(frozen=True, slots=True)
class Let:
    """A query whose only value takes the place of ``$name`` in the SQL that follows."""

    line: int
    sql: str
    name: str
    connection: str = "default"
    user: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the next record; itself no record that could fail."""

    line: int
    seconds: float


Record = Statement | Failure | Query | Let
Step = Record | Pause


@dataclass(frozen=True, slots=True)
class Script:
    """One file, read: its records in order, or why it cannot be run here (``skipped``)."""

    dialect: Dialect
    records: tuple[Step, ...]
    skipped: str | None = None


class ScriptError(Exception):
    """The file is not what its dialect allows; the message names the line."""
