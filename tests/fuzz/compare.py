"""Running a statement on both servers and judging the answers.

An answer is the rows as text, or the SQLSTATE.  Errors of class 22 (a value went wrong) and 21 (a query gave too many rows)
depend on which rows an expression is computed for, which is up to the planner: they are passed over.  So is an answer that
PostgreSQL gives itself with another plan (``answers_of_other_plans``), and one with the same numbers, written differently:
of 1.5 and 1.50 max() may return either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg

TIMEOUT_MS = 5_000
INTERNAL_ERROR = "XX000"
CANCELED = "57014"
DATA_ERRORS = ("21", "22")
OTHER_PLANS = (
    ("hashagg", "hashjoin"),
    ("sort", "mergejoin"),
    ("nestloop", "material"),
    ("hashjoin", "mergejoin", "indexscan", "bitmapscan"),
    ("seqscan",),
)
"""What PostgreSQL's planner is to do without, in turn."""
_ZEROS = re.compile(r"(\d+)\.(?:(\d*[1-9])0*|0+)(?!\d)")


@dataclass(frozen=True)
class Answer:
    sqlstate: str
    rows: tuple[tuple[str | None, ...], ...] = ()
    tag: str = ""
    message: str = ""


class Side:
    """One server, in a database with the fuzzer's tables."""

    def __init__(self, url: str, schema: str) -> None:
        self.url = url
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS fuzz")
            connection.execute("CREATE DATABASE fuzz")
        with psycopg.connect(url, dbname="fuzz", autocommit=True) as connection:
            connection.execute(schema)  # type: ignore[arg-type]
        self.connect()

    def connect(self) -> None:
        self.connection = psycopg.connect(self.url, dbname="fuzz", autocommit=True)
        self.connection.execute(f"SET statement_timeout = {TIMEOUT_MS}")  # type: ignore[arg-type]

    def run(self, text: str) -> Answer:
        """A statement's answer; a connection that is lost is made anew."""
        if self.connection.pgconn.status != psycopg.pq.ConnStatus.OK:
            self.connect()
        result = self.connection.pgconn.exec_(text.encode())
        if result.status in (psycopg.pq.ExecStatus.FATAL_ERROR, psycopg.pq.ExecStatus.BAD_RESPONSE):
            code = (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"08006").decode()
            message = (result.error_field(psycopg.pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode()
            return Answer(code, message=message)
        rows = []
        for row in range(result.ntuples):
            values = [result.get_value(row, column) for column in range(result.nfields)]
            rows.append(tuple(None if value is None else value.decode() for value in values))
        return Answer("", tuple(rows), (result.command_status or b"").decode())

    def run_and_undo(self, text: str) -> Answer:
        """A change, with what the table looks like afterwards."""
        self.run("BEGIN")
        answer = self.run(text)
        after = self.run("SELECT * FROM t1 ORDER BY a") if not answer.sqlstate else answer
        self.run("ROLLBACK")
        return Answer(answer.sqlstate, (*sorted(answer.rows, key=repr), *after.rows), answer.tag, answer.message)


def answers_of_other_plans(side: Side, run: Callable[[str], Answer], text: str) -> Iterator[Answer]:
    """What PostgreSQL says with other plans."""
    for features in OTHER_PLANS:
        for feature in features:
            side.run(f"SET enable_{feature} = off")
        try:
            yield run(text)
        finally:
            for feature in features:
                side.run(f"RESET enable_{feature}")


def same_numbers(one: Answer, other: Answer) -> bool:
    """Tell whether two answers are equal but for zeros behind a decimal point."""

    def plain(answer: Answer) -> list[list[str | None]]:
        rows = [[value and _ZEROS.sub(_without_zeros, value) for value in row] for row in answer.rows]
        return sorted(rows, key=repr)

    return one.sqlstate == other.sqlstate == "" and one.tag == other.tag and plain(one) == plain(other)


def _without_zeros(match: re.Match[str]) -> str:
    return f"{match[1]}.{match[2]}" if match[2] else match[1]


def differ(theirs: Answer, ours: Answer, ordered: bool) -> bool:
    """Tell whether our answer is wrong, as far as it can be told."""
    if ours.sqlstate == INTERNAL_ERROR or ours.sqlstate.startswith("08"):
        return True
    if CANCELED in (theirs.sqlstate, ours.sqlstate):
        return False
    if theirs.sqlstate or ours.sqlstate:
        if theirs.sqlstate[:2] in DATA_ERRORS or ours.sqlstate[:2] in DATA_ERRORS:
            return False
        return theirs.sqlstate != ours.sqlstate
    if theirs.tag != ours.tag:
        return True
    if ordered:
        return theirs.rows != ours.rows
    return sorted(theirs.rows, key=repr) != sorted(ours.rows, key=repr)
