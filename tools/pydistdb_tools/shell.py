"""The SQL shell: ``proddb sql``.

Line editing, history and completion are prompt_toolkit's, colours are pygments', the backslash commands (``\\d``, ``\\dt``,
``\\l`` …) pgspecial's; here is what joins them.  A statement ends with a semicolon outside quotes; until then Enter starts a
new line.  Rows look as in psql.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import sqlparse
from pgspecial.main import PGSpecial
from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.key_binding.key_processor import KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import PostgresLexer

from pydistdb_tools.remote import Result, connect, run_text

HISTORY_FILE = Path.home() / ".proddb_history"
MAX_COLUMN_CHARACTERS = 10_000
_NUMERIC_OIDS = {20, 21, 23, 26, 700, 701, 790, 1700}
_KEYWORDS = """
SELECT FROM WHERE GROUP BY HAVING ORDER LIMIT OFFSET JOIN LEFT RIGHT FULL INNER OUTER ON USING UNION ALL
INSERT INTO VALUES RETURNING UPDATE SET DELETE CREATE TABLE INDEX UNIQUE PRIMARY KEY REFERENCES NOT NULL
DEFAULT CHECK SHARD HASH ALTER ADD DROP COLUMN CONSTRAINT TRUNCATE BEGIN COMMIT ROLLBACK EXPLAIN ANALYZE COPY
AND OR IN EXISTS BETWEEN LIKE ILIKE IS CASE WHEN THEN ELSE END DISTINCT AS COUNT SUM AVG MIN MAX NOW DATABASE
SCHEMA SHOW VACUUM WITH
"""

HELP = """\
  statement;        run SQL (it may span lines; a semicolon ends it)
  \\d [NAME]         describe a table; \\dt tables, \\di indexes, \\dn schemas, \\l databases, \\du roles
  \\timing           show how long statements take
  \\trace            show what transactions do, and in which shards
  \\x                expanded output
  \\i FILE           run a file
  \\c DATABASE       connect to another database
  \\?                this help
  \\q                leave (Ctrl-D too)"""


def format_rows(result: Result, expanded: bool = False) -> str:
    """Rows as psql prints them, with the row count."""
    if expanded:
        return _expanded(result)
    cells = [["" if value is None else value[:MAX_COLUMN_CHARACTERS] for value in row] for row in result.rows]
    columns = range(len(result.names))
    widths = [
        max([len(result.names[i]), *(len(part) for row in cells for part in row[i].split("\n"))]) for i in columns
    ]
    lines = ["|".join(f" {_centered(name, width)} " for name, width in zip(result.names, widths, strict=True))]
    lines.append("+".join("-" * (width + 2) for width in widths))
    for row in cells:
        lines.extend(_row_lines(row, widths, [oid in _NUMERIC_OIDS for oid in result.type_oids]))
    count = len(result.rows)
    lines.append(f"({count} row{'' if count == 1 else 's'})")
    return "\n".join(lines) + "\n"


def _centered(name: str, width: int) -> str:
    left = (width - len(name)) // 2
    return " " * left + name + " " * (width - len(name) - left)


def _row_lines(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> Iterator[str]:
    """A row as one line, or as several where a value has line breaks (marked + as in psql)."""
    parts = [value.split("\n") for value in row]
    height = max((len(part) for part in parts), default=1)
    for level in range(height):
        shown = []
        for part, width, to_right in zip(parts, widths, right, strict=True):
            text = part[level] if level < len(part) else ""
            mark = "+" if level + 1 < len(part) else " "
            shown.append(" " + (text.rjust(width) if to_right else text.ljust(width)) + mark)
        shown[-1] = " " + shown[-1][1:].rstrip()
        yield "|".join(shown)


def _expanded(result: Result) -> str:
    width = max((len(name) for name in result.names), default=0)
    lines = []
    for number, row in enumerate(result.rows, 1):
        lines.append(f"-[ RECORD {number} ]".ljust(width + 20, "-"))
        lines.extend(f"{name.ljust(width)} | {value or ''}" for name, value in zip(result.names, row, strict=True))
    return "\n".join(lines or ["(0 rows)"]) + "\n"


def is_complete(text: str) -> bool:
    """Whether Enter should run ``text``: a backslash command, or SQL that ends with a semicolon outside quotes."""
    stripped = text.strip()
    if not stripped or stripped.startswith("\\"):
        return True
    if not stripped.endswith(";"):
        return False
    tokens = [token for statement in sqlparse.parse(stripped) for token in statement.flatten()]  # type: ignore[no-untyped-call]
    return bool(tokens) and tokens[-1].ttype is sqlparse.tokens.Punctuation


class NameCompleter(Completer):
    """Keywords, and the names of tables and columns as they were when the shell last looked."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        word = document.get_word_before_cursor()
        if not word:
            return
        for name in self._shell.names():
            if name.lower().startswith(word.lower()):
                yield Completion(name, start_position=-len(word))
        for keyword in _KEYWORDS.split():
            if keyword.startswith(word.upper()):
                yield Completion(keyword if word.isupper() else keyword.lower(), start_position=-len(word))


class Shell:
    """One conversation; knows nothing of the terminal."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.timing = False
        self.tracing = False
        self.connection = self._listened(connect(url))
        self.expanded = False
        self.failed = False
        self._special = PGSpecial()
        self._names: list[str] | None = None

    def names(self) -> list[str]:
        """Table and column names for completion (asked for once after each schema change)."""
        if self._names is None:
            try:
                rows = self.connection.execute(
                    "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' UNION "
                    "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public'"
                ).fetchall()
                self._names = sorted(str(name) for (name,) in rows)
            except psycopg.Error:
                self._names = []
        return self._names

    def run(self, text: str) -> bool:
        """Run one input; returns False when the user wants to leave."""
        stripped = text.strip()
        if stripped.startswith("\\"):
            return self._command(stripped.rstrip(";").strip())
        if stripped:
            self._statement(text)
        return True

    def run_script(self, text: str) -> None:
        """Run SQL and backslash commands line by line, as from a file."""
        pending = ""
        for line in text.splitlines():
            if not pending.strip() and line.strip().startswith("\\"):
                if not self.run(line):
                    return
                continue
            pending += line + "\n"
            if is_complete(pending):
                self.run(pending)
                pending = ""
        if pending.strip():
            self.run(pending)

    def _statement(self, text: str) -> None:
        started = time.perf_counter()
        try:
            for result in run_text(self.connection, text):
                self._show(result)
        except psycopg.Error as error:
            self.failed = True
            print(str(error).strip())
        if self.timing:
            print(f"Time: {(time.perf_counter() - started) * 1000:.3f} ms")
        if self.connection.closed or self.connection.pgconn.status != psycopg.pq.ConnStatus.OK:
            self._reconnect()

    def _listened(self, connection: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
        """Have the server's notices shown among the results, and what transactions do if that is wanted."""
        connection.add_notice_handler(_show_notice)
        if self.tracing:
            connection.execute("SET proddb.trace_txn = on")
        return connection

    def _trace(self, argument: str) -> None:
        self.tracing = argument.lower() in ("on", "true") if argument else not self.tracing
        word = "on" if self.tracing else "off"
        self._statement(f"SET proddb.trace_txn = {word};")
        print(f"Tracing of transactions is {word}.")

    def _show(self, result: Result) -> None:
        if result.error is not None:
            self.failed = True
            print(result.error)
        elif result.names:
            print(format_rows(result, self.expanded))
        elif result.rows:
            print("\n".join(str(line) for (line,) in result.rows))
        elif result.tag:
            print(result.tag)
        if result.tag.split(" ")[0] in ("CREATE", "DROP", "ALTER"):
            self._names = None

    def _reconnect(self) -> None:
        print("The connection was lost. Trying again ...")
        self.connection = self._listened(connect(self.url))
        print("Connected; an open transaction was rolled back.")

    def _command(self, text: str) -> bool:
        name, _, argument = text.partition(" ")
        argument = argument.strip()
        match name:
            case "\\q":
                return False
            case "\\?" | "\\h":
                print(HELP)
            case "\\timing":
                self.timing = argument.lower() in ("on", "true") if argument else not self.timing
                print(f"Timing is {'on' if self.timing else 'off'}.")
            case "\\x":
                self.expanded = not self.expanded
                print(f"Expanded display is {'on' if self.expanded else 'off'}.")
            case "\\trace":
                self._trace(argument)
            case "\\i":
                self._run_file(argument)
            case "\\c":
                self._switch(argument)
            case _:
                self._special_command(text)
        return True

    def _run_file(self, name: str) -> None:
        try:
            self.run_script(Path(name).read_text())
        except OSError as error:
            self.failed = True
            print(f"{name}: {error.strerror}")

    def _switch(self, database: str) -> None:
        info = psycopg.conninfo.conninfo_to_dict(self.url)
        try:
            url = psycopg.conninfo.make_conninfo(
                **{**{key: str(value) for key, value in info.items()}, "dbname": database}
            )
            connection = psycopg.connect(url, autocommit=True, connect_timeout=10, application_name="proddb")
        except psycopg.Error as error:
            self.failed = True
            print(f'cannot connect to "{database}": {str(error).strip()}')
            return
        self.connection.close()
        self.url, self.connection, self._names = url, self._listened(connection), None
        print(f'You are now connected to database "{database}".')

    def _special_command(self, text: str) -> None:
        started = time.perf_counter()
        try:
            for title, rows, headings, status in self._special.execute(self.connection.cursor(), text):
                if title:
                    print(title)
                if headings:
                    shown = tuple(tuple(None if v is None else str(v) for v in row) for row in rows or ())
                    print(format_rows(Result("", tuple(str(h) for h in headings), (0,) * len(headings), shown)))
                if status:
                    print(status)
        except psycopg.Error as error:
            self.failed = True
            print(f"ERROR:  {str(error).strip()}")
        except Exception as error:  # pgspecial raises bare exceptions for unknown commands
            self.failed = True
            print(f"{text}: {error or 'unknown command'} (try \\?)")
        if self.timing:
            print(f"Time: {(time.perf_counter() - started) * 1000:.3f} ms")


def _show_notice(notice: psycopg.errors.Diagnostic) -> None:
    lines = [f"{notice.severity}:  {notice.message_primary}"]
    lines += [f"DETAIL:  {notice.message_detail}"] * bool(notice.message_detail)
    lines += [f"HINT:  {notice.message_hint}"] * bool(notice.message_hint)
    print("\n".join(lines))


def _interactive(shell: Shell) -> None:
    bindings = KeyBindings()

    @Condition
    def ready() -> bool:
        return is_complete(session.default_buffer.text)

    @bindings.add("enter", filter=ready)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(HISTORY_FILE)),
        auto_suggest=AutoSuggestFromHistory(),
        completer=NameCompleter(shell),
        complete_while_typing=False,
        lexer=PygmentsLexer(PostgresLexer),
        multiline=True,
        key_bindings=bindings,
        prompt_continuation=lambda width, *_: "... ".rjust(width),
    )
    info = shell.connection.info
    print(f"proddb sql, connected to {info.host}:{info.port}. \\? for help, \\q to leave.")
    while True:
        marks = {psycopg.pq.TransactionStatus.INTRANS: "*", psycopg.pq.TransactionStatus.INERROR: "!"}
        mark = marks.get(shell.connection.info.transaction_status, "")
        try:
            text = session.prompt(f"{shell.connection.info.dbname}={mark}> ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if not shell.run(text):
            return


def run_shell(url: str, statements: Sequence[str] = (), file: Path | None = None) -> int:
    """Run statements, a file, standard input, or the interactive shell; 1 if any statement failed outside of it."""
    shell = Shell(url)
    if statements:
        for statement in statements:
            shell.run(statement)
    elif file is not None:
        shell.run(f"\\i {file}")
    elif sys.stdin.isatty():
        _interactive(shell)
        return 0
    else:
        shell.run_script(sys.stdin.read())
    return 1 if shell.failed else 0
