"""Read a sqllogictest file of any dialect into records.

A record begins with a directive, goes on with lines of SQL and ends with a blank line; below a query's ``----`` stand the
rows it must return:

    query IT rowsort
    SELECT id, name FROM users
    ----
    1   Alice

Conditions (``skipif``, ``onlyif``), ``mode``, ``halt``, ``include``, ``repeat`` and loops are resolved while reading, so that
whoever runs the script sees nothing but records.  A loop's body is read once per value, with ``${name}`` replaced; what is to
be run at the same time (``concurrentloop``) is run one after the other.  A directive that only the server knows whose file it
is (``system``, ``awaitstatement``) has the whole file skipped, and the reason told.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydistdb_sqllogictest.records import (
    Dialect,
    Failure,
    Let,
    Pause,
    Query,
    Record,
    Script,
    ScriptError,
    Sort,
    Statement,
    Step,
)

ENGINE_NAMES = frozenset({"postgresql", "postgres", "pydistdb"})
MAX_RECORDS = 200_000
MAX_LOOP_DEPTH = 8
MAX_INCLUDE_DEPTH = 8
MAX_REPEATS = 10_000
MAX_PAUSE_SECONDS = 10.0

_SEPARATOR = "----"
_SQLSTATE = re.compile(r"[0-9A-Z]{5}")
# What DuckDB's files ask for and every server here has, or need not have.
_HARMLESS_REQUIREMENTS = frozenset({"skip_reload", "vector_size", "64bit", "noforcestorage", "notwindows"})
# Directives that steer somebody else's server and mean nothing here.
_IGNORED = frozenset(
    {
        "hash-threshold", "subtest", "skip_on_retry", "kv-batch-size", "restart", "reconnect", "load", "set", "reset",
        "reset-server", "tags", "traceon", "traceoff", "control",
    }
)  # fmt: skip
# What would run programs, read files, or needs more of a server than SQL.
_REFUSED = {
    "system": "runs programs on this machine",
    "unzip": "unpacks files on this machine",
    "copy": "reads files of this machine",
    "simple": "compares the messages of the protocol",
    "awaitstatement": "needs statements that go on by themselves",
    "awaitquery": "needs statements that go on by themselves",
    "require-env": "needs a variable of the environment",
    "upgrade": "changes the server's program",
}
_LOOPS = ("loop", "foreach", "concurrentloop", "concurrentforeach")
_SORTS = ("nosort", "rowsort", "valuesort")
_DIALECT_MODES = {"cockroach": Dialect.COCKROACH, "standard": Dialect.SQLITE}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|milliseconds?|s|seconds?|m|minutes?)?")
_UNIT_SECONDS = {"ms": 0.001, "millisecond": 0.001, "s": 1.0, "second": 1.0, "m": 60.0, "minute": 60.0}
_FOREACH_SETS = {
    "<integral>": ("smallint", "integer", "bigint"),
    "<signed>": ("smallint", "integer", "bigint"),
    "<numeric>": ("smallint", "integer", "bigint", "real", "double precision"),
}


class _Halt(Exception):
    """The rest of the file is not to be read."""


class _Skip(Exception):
    """The file needs something that is not here."""


@dataclass(slots=True)
class _Lines:
    """The file's lines, with a place in them; loops read parts of it again."""

    lines: list[str]
    position: int = 0
    end: int = 0

    @property
    def number(self) -> int:
        return self.position + 1

    def more(self) -> bool:
        return self.position < self.end

    def take(self) -> str:
        line = self.lines[self.position]
        self.position += 1
        return line

    def block(self) -> list[str]:
        """The lines up to the next blank one, which is taken too."""
        taken: list[str] = []
        while self.more() and (line := self.take()).strip():
            taken.append(line)
        return taken


@dataclass(slots=True)
class _Reader:
    dialect: Dialect
    source: _Lines
    folder: Path | None = None
    variables: dict[str, str] = field(default_factory=dict)
    records: list[Step] = field(default_factory=list)
    connection: str = "default"
    user: str = ""
    wanted: bool = True
    retry: bool = False
    repeats: int = 1
    includes: int = 0
    skipping: bool = False
    sort: Sort = Sort.NONE

    def read(self) -> None:
        while self.source.more():
            line_number = self.source.number
            line = self.source.take()
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if words[0] in ("statement", "query", "let"):
                record = self._record(line_number, words)
                if self.wanted and not self.skipping and record is not None:
                    self.records += [record] * self.repeats
                if len(self.records) > MAX_RECORDS:
                    raise ScriptError(f"line {line_number}: more than {MAX_RECORDS} records")
                self.wanted, self.retry, self.repeats = True, False, 1
                self.connection = "default"
            elif not self.skipping or words[0] == "mode" or words[0] in _LOOPS:
                self._directive(line_number, words)

    def _directive(self, line_number: int, words: list[str]) -> None:
        match words:
            case ["skipif", engine, *_]:
                self.wanted = self.wanted and not self._holds(engine)
            case ["onlyif", engine, *_]:
                self.wanted = self.wanted and self._holds(engine)
            case ["connection", name]:
                self.connection = name
            case ["halt"]:
                if self.wanted:
                    raise _Halt
                self.wanted = True
            case ["mode", "skip" | "unskip" as mode]:
                self.skipping = mode == "skip"
            case ["mode", mode, *_]:
                self.dialect = _DIALECT_MODES.get(mode, self.dialect)
            case ["user", name, *_]:
                self.user = "" if name == "root" else name
            case ["retry", *_]:
                self.retry = True
            case ["repeat", count] if count.isdigit() and int(count) <= MAX_REPEATS:
                self.repeats = int(count)
            case ["sleep", *rest]:
                self.records.append(Pause(line_number, _seconds(" ".join(rest), line_number)))
            case ["include", pattern]:
                self._include(line_number, pattern)
            case ["test-env", name, *value]:
                self.variables = {**self.variables, name: " ".join(value)}
            case ["skip", *why]:
                raise _Skip(" ".join(why) or "its author skips it")
            case ["control", "sortmode", mode]:
                self.sort = _sort(mode, line_number)
            case ["require", what, *_]:
                if what not in _HARMLESS_REQUIREMENTS and not what.startswith("no_"):
                    raise _Skip(f"requires {what}")
            case ["loop" | "concurrentloop", name, first, last]:
                self._loop(line_number, name, [str(value) for value in range(int(first), int(last))])
            case ["foreach" | "concurrentforeach", name, *values]:
                self._loop(line_number, name, [one for value in values for one in _FOREACH_SETS.get(value, (value,))])
            case [word, *_] if word in _IGNORED:
                pass
            case [word, *_] if word in _REFUSED:
                if self.wanted:
                    raise _Skip(f"line {line_number}: {word!r} {_REFUSED[word]}")
                self.wanted = True
                self.source.block()
            case _:
                raise ScriptError(f"line {line_number}: unknown directive {' '.join(words)!r}")

    def _holds(self, condition: str) -> bool:
        """Whether a condition names this engine, or a loop's variable with its present value."""
        name, equals, value = condition.partition("=")
        if equals and name in self.variables:
            return self.variables[name] == value
        return condition.lower() in ENGINE_NAMES

    def _include(self, line_number: int, pattern: str) -> None:
        if self.folder is None or self.includes >= MAX_INCLUDE_DEPTH:
            raise ScriptError(f"line {line_number}: files cannot be included here")
        folder, whole = self.folder, self.source
        paths = sorted(path for path in folder.glob(pattern.removeprefix("./")) if path.is_file())
        if not paths:
            raise ScriptError(f"line {line_number}: there is no file {pattern!r} beside this one")
        self.includes += 1
        for path in paths:
            self.source, self.folder = _lines_of(path.read_text(encoding="utf-8")), path.parent
            self.read()
        self.source, self.folder, self.includes = whole, folder, self.includes - 1

    def _loop(self, line_number: int, name: str, values: Sequence[str]) -> None:
        if len(self.variables) >= MAX_LOOP_DEPTH:
            raise ScriptError(f"line {line_number}: loops are nested more than {MAX_LOOP_DEPTH} deep")
        source = self.source
        start, end = source.position, self._end_of_loop(line_number)
        whole_end, variables = source.end, self.variables
        for value in values:
            source.position, source.end = start, end
            self.variables = {**variables, name: value}
            self.read()
        source.position, source.end, self.variables = end + 1, whole_end, variables

    def _end_of_loop(self, line_number: int) -> int:
        depth = 1
        for position in range(self.source.position, self.source.end):
            word = self.source.lines[position].strip().split(" ", 1)[0]
            depth += (word in _LOOPS) - (word == "endloop")
            if depth == 0:
                return position
        raise ScriptError(f"line {line_number}: this loop has no endloop")

    def _record(self, line_number: int, words: list[str]) -> Record | None:
        lines = [self._with_variables(line) for line in self.source.block()]
        expected: list[str] | None = None
        if _SEPARATOR in (stripped := [line.rstrip() for line in lines]):
            separator = stripped.index(_SEPARATOR)
            lines, expected = lines[:separator], lines[separator + 1 :]
        sql = "\n".join(lines)
        match words:
            case [_, "error", *rest]:
                self._pass_error_text(expected)
                return Failure(line_number, sql, self.connection, self._sqlstate(rest), self.user)
            case ["statement", "ok" | "notice" as kind, *rest]:
                connection = self._connection(rest) if kind == "ok" else self.connection
                return Statement(line_number, sql, connection, None, self.user, self.retry or rest[:1] == ["retry"])
            case ["statement", "count", count, *_] if count.isdigit():
                return Statement(line_number, sql, self.connection, int(count), self.user, self.retry)
            case ["statement", "maybe", *_]:
                return None
            case ["statement", "async", *_]:
                raise _Skip(f"line {line_number}: {_REFUSED['awaitstatement']}")
            case ["let", name] if name.startswith("$"):
                return Let(line_number, sql, name, self.connection, self.user)
            case ["query", *rest]:
                return self._query(line_number, sql, rest, expected)
        raise ScriptError(f"line {line_number}: unknown record {' '.join(words)!r}")

    def _query(self, line_number: int, sql: str, options: list[str], expected: list[str] | None) -> Query:
        types = options[0] if options else ""
        sort, label, names, retry = self.sort, None, False, self.retry
        for word in _OPTION_SEPARATOR.split(_RETRY_COUNT.sub("retry", " ".join(options[1:]))):
            if word in _SORTS:
                sort = Sort(word)
            elif word.startswith("partialsort"):
                sort = Sort.ROWS
            elif word == "colnames":
                names = True
            elif word == "retry":
                retry = True
            elif word in ("async", "kvtrace", "noticetrace"):
                raise _Skip(f"line {line_number}: queries with {word!r} look into another server")
            elif word and word != "multiline" and not word.startswith("nodeidx="):
                label = word
        if "multiline" in options[1:] and expected is not None:
            expected = self._multiline(expected)
        rows = None if expected is None else tuple(expected)
        return Query(line_number, sql, types, sort, rows, self.connection, label, names, self.user, retry)

    def _multiline(self, expected: list[str]) -> list[str]:
        """Materialize's results of several lines, blank ones included, end with EOF."""
        while (not expected or expected[-1] != "EOF") and self.source.more():
            expected = [*expected, *([""] if expected else []), *self.source.block()]
        return expected[:-1] if expected and expected[-1] == "EOF" else expected

    def _connection(self, rest: list[str]) -> str:
        if rest and rest[0] != "retry" and self.dialect is Dialect.DUCKDB:
            return rest[0]
        return self.connection

    def _sqlstate(self, rest: list[str]) -> str | None:
        if self.dialect is Dialect.PG and rest and _SQLSTATE.fullmatch(rest[0]):
            return rest[0]
        return None

    def _pass_error_text(self, expected: list[str] | None) -> None:
        """DataFusion's error texts may hold blank lines: they end with two."""
        if self.dialect is not Dialect.DATAFUSION or expected is None:
            return
        while self.source.more() and self.source.lines[self.source.position].strip():
            self.source.block()

    def _with_variables(self, line: str) -> str:
        for name, value in self.variables.items():
            line = line.replace("${" + name + "}", value)
        return line


_OPTION_SEPARATOR = re.compile(r"[\s,]+(?![^(]*\))")
_RETRY_COUNT = re.compile(r"\bretry \d+(?: backoff \S+)?")


def _lines_of(text: str) -> _Lines:
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return _Lines(lines, 0, len(lines))


def _unit(word: str) -> str:
    return word if len(word) <= 2 else word.removesuffix("s")


def _seconds(text: str, line_number: int) -> float:
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ScriptError(f"line {line_number}: unknown duration {text!r}")
    return min(float(found[1]) * _UNIT_SECONDS[_unit(found[2] or "s")], MAX_PAUSE_SECONDS)


def _sort(word: str, line_number: int) -> Sort:
    try:
        return Sort(word)
    except ValueError:
        raise ScriptError(f"line {line_number}: unknown sort mode {word!r}") from None


def parse_script(text: str, dialect: Dialect, folder: Path | None = None) -> Script:
    """Read a whole file, which lies in ``folder``; raises ScriptError for what its dialect does not allow."""
    reader = _Reader(dialect, _lines_of(text), folder)
    skipped = None
    try:
        reader.read()
    except _Halt:
        pass
    except _Skip as reason:
        skipped = str(reason)
    return Script(reader.dialect, tuple(reader.records), skipped)
