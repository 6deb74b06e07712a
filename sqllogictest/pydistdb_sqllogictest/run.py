"""Take one file through a database of its own and say which records failed.

A record that fails does not end the file: the following ones are judged all the same, since most of them stand alone.
A connection that is lost does end it; every record after that counts as failed, for nobody knows what it would have done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from os import getpid
from pathlib import Path

from psycopg import sql
from psycopg.conninfo import make_conninfo

from pydistdb_sqllogictest.compare import Result, digest, lines_of, matches, render
from pydistdb_sqllogictest.parse import parse_script
from pydistdb_sqllogictest.records import (
    Dialect,
    Failure,
    Let,
    Pause,
    Query,
    Record,
    Script,
    ScriptError,
    Statement,
)
from pydistdb_sqllogictest.session import ConnectionLost, PostgresSession, ServerError, Session

MAX_CONNECTIONS = 32
MAX_FAILURES_KEPT = 1000
RETRY_SECONDS = 10.0
RETRY_INTERVAL_SECONDS = 0.2

_serial = count(1)


@dataclass(frozen=True, slots=True)
class Problem:
    """A record that failed: where, what was run, what was expected and what came."""

    line: int
    sql: str
    expected: str
    got: str


@dataclass(slots=True)
class FileResult:
    """How one file went."""

    path: Path
    total: int = 0
    failed: int = 0
    seconds: float = 0.0
    skipped: str | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def passed(self) -> int:
        return self.total - self.failed

    def fail(self, problem: Problem) -> None:
        self.failed += 1
        if len(self.problems) < MAX_FAILURES_KEPT:
            self.problems.append(problem)


@dataclass(frozen=True, slots=True)
class Options:
    """How to run: where, how long a statement may take, and whether to stop at the first failure."""

    url: str
    timeout_seconds: float = 30.0
    database_per_file: bool = True
    fail_fast: bool = False


Connect = Callable[[str], Session]
"""Opens a connection as a role, or as the one that the URL names if that is empty."""


def run_file(path: Path, dialect: Dialect, options: Options) -> FileResult:
    """Read a file and run it; what goes wrong outside its records (no server, bad syntax) counts as one failure."""
    started = time.monotonic()
    result = FileResult(path)
    try:
        script = parse_script(path.read_text(encoding="utf-8"), dialect, path.parent)
        if script.skipped is not None:
            result.skipped = script.skipped
        elif options.database_per_file:
            _run_in_own_database(script, options, result)
        else:
            run_script(script, partial(_connect, options.url, options), options, result)
    except (ScriptError, OSError, UnicodeDecodeError, ConnectionLost) as error:
        result.total += 1
        result.fail(Problem(0, "", "a file that can be run", f"{type(error).__name__}: {error}"))
    result.seconds = time.monotonic() - started
    return result


def _run_in_own_database(script: Script, options: Options, result: FileResult) -> None:
    name = f"slt_{getpid()}_{next(_serial)}"
    keeper = PostgresSession(options.url, options.timeout_seconds)
    try:
        _require(keeper.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)).as_string()))
        url = make_conninfo(options.url, dbname=name)
        try:
            run_script(script, partial(_connect, url, options), options, result)
        finally:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)).as_string()
            _require(keeper.execute(drop))
    finally:
        keeper.close()


def _connect(url: str, options: Options, user: str) -> Session:
    return PostgresSession(make_conninfo(url, user=user) if user else url, options.timeout_seconds)


def _require(found: Result | ServerError) -> None:
    if isinstance(found, ServerError):
        raise ConnectionLost(str(found))


def run_script(script: Script, connect: Connect, options: Options, result: FileResult) -> None:
    """Run every record; adds to ``result``."""
    sessions: dict[tuple[str, str], Session] = {}
    labels: dict[str, str] = {}
    variables: dict[str, str] = {}
    try:
        for position, record in enumerate(script.records):
            if isinstance(record, Pause):
                time.sleep(record.seconds)
                continue
            result.total += 1
            record = _with_variables(record, variables)
            try:
                session = _session(sessions, record, connect)
                problem = _attempt(record, session, script.dialect, labels, variables)
            except ConnectionLost as error:
                result.fail(Problem(record.line, record.sql, "an answer", f"connection lost: {error}"))
                left = sum(not isinstance(each, Pause) for each in script.records[position + 1 :])
                result.total += left
                result.failed += left
                return
            if problem is not None:
                result.fail(problem)
                if options.fail_fast:
                    return
    finally:
        for session in sessions.values():
            session.close()


def _with_variables(record: Record, variables: dict[str, str]) -> Record:
    """The record with the values that ``let`` gave to its variables."""
    for name in sorted(variables, key=len, reverse=True):
        if name in record.sql:
            record = replace(record, sql=record.sql.replace(name, variables[name]))
    return record


def _attempt(
    record: Record, session: Session, dialect: Dialect, labels: dict[str, str], variables: dict[str, str]
) -> Problem | None:
    """Run a record until it is as expected, if it may take a while to be, else once."""
    deadline = time.monotonic() + RETRY_SECONDS
    while True:
        found = session.execute(record.sql)
        problem = judge(record, found, dialect, labels)
        if problem is None:
            if isinstance(record, Let) and isinstance(found, Result):
                variables[record.name] = found.rows[0][0] or ""
            return None
        may_change = isinstance(record, Statement | Query) and record.retry
        if not may_change or time.monotonic() > deadline:
            return problem
        time.sleep(RETRY_INTERVAL_SECONDS)


def _session(sessions: dict[tuple[str, str], Session], record: Record, connect: Connect) -> Session:
    key = record.connection, record.user
    if key not in sessions:
        if len(sessions) >= MAX_CONNECTIONS:
            raise ConnectionLost(f"the file uses more than {MAX_CONNECTIONS} connections")
        if record.user:  # other servers are born with the roles of their tests
            role = sql.Identifier(record.user).as_string()
            _session(sessions, Statement(record.line, ""), connect).execute(f"CREATE ROLE {role} LOGIN")
        sessions[key] = connect(record.user)
    return sessions[key]


def judge(record: Record, found: Result | ServerError, dialect: Dialect, labels: dict[str, str]) -> Problem | None:
    """What is wrong with the answer to a record; None if nothing is.  ``labels`` remembers labelled results."""

    def problem(expected: str, got: str) -> Problem:
        return Problem(record.line, record.sql, expected, got)

    match record, found:
        case Failure(sqlstate=sqlstate), ServerError():
            if sqlstate in (None, found.sqlstate):
                return None
            return problem(f"error {sqlstate}", f"error {found}")
        case Failure(sqlstate=sqlstate), Result():
            return problem(f"error {sqlstate or ''}".strip(), f"success, {found.count} rows")
        case Statement(count=wanted), Result():
            if wanted in (None, found.count):
                return None
            return problem(f"{wanted} rows", f"{found.count} rows")
        case Statement(), ServerError():
            return problem("success", f"error {found}")
        case Let(), ServerError():
            return problem("a value", f"error {found}")
        case Let(), Result():
            if len(found.rows) == 1 and len(found.rows[0]) == 1:
                return None
            return problem("a single value", f"{len(found.rows)} rows")
        case Query(), ServerError():
            return problem("\n".join(record.expected or ()), f"error {found}")
        case Query(), Result():
            return _judge_rows(record, found, dialect, labels)
    raise AssertionError("every record and every answer is matched above")


def _judge_rows(query: Query, found: Result, dialect: Dialect, labels: dict[str, str]) -> Problem | None:
    rows = render(found, query, dialect)
    got = "\n".join(lines_of(rows, dialect))
    width = len(found.names)
    if dialect in (Dialect.PG, Dialect.SQLITE) and len(query.types) != width:
        return Problem(query.line, query.sql, f"{len(query.types)} columns", f"{width} columns\n{got}")
    # DuckDB writes nothing below the line of a labelled query whose result only has to equal the others of its label.
    only_label = dialect is Dialect.DUCKDB and query.label is not None and query.expected == ()
    if not only_label and not matches(rows, query, dialect):
        return Problem(query.line, query.sql, "\n".join(query.expected or ()), got)
    if query.label is not None:
        fingerprint = digest(rows)
        if labels.setdefault(query.label, fingerprint) != fingerprint:
            return Problem(query.line, query.sql, f"the same result as the other {query.label}", got)
    return None
