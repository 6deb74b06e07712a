"""Read a sqllogictest file of any dialect into records.

A record begins with a directive, goes on with lines of SQL and ends with a blank line; below a query's ``----`` stand the
rows it must return:

    query IT rowsort
    SELECT id, name FROM users
    ----
    1   Alice

Conditions (``skipif``, ``onlyif``), ``mode``, ``halt`` and loops are resolved while reading, so that whoever runs the
script sees nothing but records.  A loop's body is read once per value, with ``${name}`` replaced.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydistdb_sqllogictest.records import Dialect, Failure, Query, Record, Script, ScriptError, Sort, Statement

ENGINE_NAMES = frozenset({"postgresql", "postgres", "pydistdb"})
MAX_RECORDS = 200_000
MAX_LOOP_DEPTH = 8

_SEPARATOR = "----"
_SQLSTATE = re.compile(r"[0-9A-Z]{5}")
# What DuckDB's files ask for and every server here has, or need not have.
_HARMLESS_REQUIREMENTS = frozenset({"skip_reload", "vector_size", "64bit", "noforcestorage", "notwindows"})
# Directives that steer somebody else's server and mean nothing here.
_IGNORED = frozenset(
    {"hash-threshold", "subtest", "sleep", "user", "kv-batch-size", "restart", "reconnect", "load", "set"}
)
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
    variables: dict[str, str] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    connection: str = "default"
    wanted: bool = True
    skipping: bool = False
    sort: Sort = Sort.NONE

    def read(self) -> None:
        while self.source.more():
            line_number = self.source.number
            line = self.source.take()
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if words[0] in ("statement", "query"):
                record = self._record(line_number, words)
                if self.wanted and not self.skipping and record is not None:
                    self.records.append(record)
                if len(self.records) > MAX_RECORDS:
                    raise ScriptError(f"line {line_number}: more than {MAX_RECORDS} records")
                self.wanted = True
                self.connection = "default"
            else:
                self._directive(line_number, words)

    def _directive(self, line_number: int, words: list[str]) -> None:
        match words:
            case ["skipif", engine, *_]:
                self.wanted = self.wanted and engine.lower() not in ENGINE_NAMES
            case ["onlyif", engine, *_]:
                self.wanted = self.wanted and engine.lower() in ENGINE_NAMES
            case ["connection", name]:
                self.connection = name
            case ["halt"]:
                if self.wanted:
                    raise _Halt
                self.wanted = True
            case ["mode", "skip" | "unskip" as mode]:
                self.skipping = mode == "skip"
            case ["control", "sortmode", mode]:
                self.sort = _sort(mode, line_number)
            case ["require", what, *_]:
                if what not in _HARMLESS_REQUIREMENTS and not what.startswith("no_"):
                    raise _Skip(f"requires {what}")
            case ["loop", name, first, last]:
                self._loop(line_number, name, [str(value) for value in range(int(first), int(last))])
            case ["foreach", name, *values]:
                self._loop(line_number, name, [one for value in values for one in _FOREACH_SETS.get(value, (value,))])
            case [word, *_] if word in _IGNORED:
                pass
            case _:
                raise ScriptError(f"line {line_number}: unknown directive {' '.join(words)!r}")

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
            depth += (word in ("loop", "foreach")) - (word == "endloop")
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
                return Failure(line_number, sql, self.connection, self._sqlstate(rest))
            case ["statement", "ok", *rest]:
                return Statement(line_number, sql, self._connection(rest))
            case ["statement", "count", count, *_] if count.isdigit():
                return Statement(line_number, sql, self.connection, int(count))
            case ["statement", "maybe", *_]:
                return None
            case ["query", *rest]:
                return self._query(line_number, sql, rest, expected)
        raise ScriptError(f"line {line_number}: unknown record {' '.join(words)!r}")

    def _query(self, line_number: int, sql: str, options: list[str], expected: list[str] | None) -> Query:
        types = options[0] if options else ""
        sort, label, names = self.sort, None, False
        for words in options[1:]:
            for word in words.split(","):
                if word in ("nosort", "rowsort", "valuesort"):
                    sort = Sort(word)
                elif word == "partialsort" or word.startswith("partialsort("):
                    sort = Sort.ROWS
                elif word == "colnames":
                    names = True
                elif word != "retry":
                    label = word
        rows = None if expected is None else tuple(expected)
        return Query(line_number, sql, types, sort, rows, self.connection, label, names)

    def _connection(self, rest: list[str]) -> str:
        return rest[0] if rest and self.dialect is Dialect.DUCKDB else self.connection

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


def _sort(word: str, line_number: int) -> Sort:
    try:
        return Sort(word)
    except ValueError:
        raise ScriptError(f"line {line_number}: unknown sort mode {word!r}") from None


def parse_script(text: str, dialect: Dialect) -> Script:
    """Read a whole file; raises ScriptError for what its dialect does not allow."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    reader = _Reader(dialect, _Lines(lines, 0, len(lines)))
    skipped = None
    try:
        reader.read()
    except _Halt:
        pass
    except _Skip as reason:
        skipped = str(reason)
    return Script(dialect, tuple(reader.records), skipped)
