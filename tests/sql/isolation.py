"""Concurrent sessions by script: what each step gives, who waits, and who goes on when.

A script is a golden script (tests/support/golden.py) whose command names are those of sessions::

    split                        this test's rows lie in several ranges from here on (PostgreSQL: nothing)
    t1 UPDATE t SET v = 2        run in session t1, until it is done or waits
    t2 UPDATE t SET v = 3
    t1 COMMIT
    ---
    t1: UPDATE 1
    t2: (waits)
    t1: COMMIT
    t2: UPDATE 1                 what had to wait is reported after the step that let it go on

``settle`` lets three seconds pass, in which a deadlock is found and timeouts run out.

``python -m tests.sql.isolation`` runs the scripts, or those named, against a PostgreSQL (PYDISTDB_TEST_POSTGRES="host=… user=…",
a database that may be filled with rubbish; max_prepared_transactions = 20), and writes what differs, apart from how Postgres
found a pivot, into golden_isolation/postgres.diff.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import psycopg
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.store_config import StoreConfig
from pydistdb.sql.catalog.store import CatalogStore
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.session.environment import Environment
from pydistdb.tasks import Task

from tests.support import golden
from tests.support.cluster import Cluster
from tests.support.golden import Command
from tests.support.one_node import OneNode
from tests.support.sql_client import SqlClient, error_text

FOLDER = Path(__file__).parent / "golden_isolation"
DIFFERENCES = FOLDER / "postgres.diff"
SETTLE_SECONDS = 3.0
"""Longer than deadlock_timeout twice."""


class Backend(Protocol):
    """One side of the comparison."""

    def start(self, session: str, text: str) -> None:
        """Begin a statement, and let everything run until nothing moves any more."""

    def finished(self, session: str) -> list[str] | None:
        """What the session's statement gave, once; None while it waits."""

    def split(self) -> None:
        """Cut the tables' rows up into ranges of one row."""


class Script:
    """Runs the commands of a script on a backend.  ``strict``: a command for a session that waits is a mistake in the script;
    else it is passed over (who waits for whom differs)."""

    def __init__(self, backend: Backend, *, strict: bool = True) -> None:
        self.backend = backend
        self.strict = strict
        self.waiting: list[str] = []

    def execute(self, command: Command) -> str:
        name = command.name
        lines: list[str] = []
        if name == "split":
            self.backend.split()
            return ""
        if name == "settle":
            self.backend.start("", "")
        elif name in self.waiting:
            assert not self.strict, f"line {command.line}: session {name} waits"
            return "(waits still)"
        else:
            self.backend.start(name, command.text)
            answer = self.backend.finished(name)
            if answer is None:
                self.waiting.append(name)
                lines.append(f"{name}: (waits)")
            else:
                lines += [f"{name}: {line}" for line in answer]
        for waiting in list(self.waiting):
            answer = self.backend.finished(waiting) if waiting != name else None
            if answer is not None:
                self.waiting.remove(waiting)
                lines += [f"{waiting}: {line}" for line in answer]
        return re.sub(r"on transaction \d+", "on transaction N", "\n".join(lines))


class _Server:
    """What SqlClient wants of a SqlServer."""

    def __init__(self, node: Any, environment: Environment) -> None:
        self.scheduler = node.scheduler
        self.environment = environment


class OwnBackend:
    """Sessions over one node's real kv, under a virtual clock."""

    def __init__(self) -> None:
        self.node: Any = OneNode()
        catalog = CatalogStore(self.node.gateway, self.node.scheduler)
        self.node.run(catalog.start(renew=False))
        self._servers: list[Any] = [_Server(self.node, Environment(self.node.gateway, self.node.scheduler, catalog))]
        self._clients: dict[str, SqlClient] = {}
        self._tasks: dict[str, Task[None]] = {}

    def start(self, session: str, text: str) -> None:
        if session:
            client = self._clients.get(session)
            if client is None:
                process_id = 1 + len(self._clients)
                server = self._servers[len(self._clients) % len(self._servers)]
                client = self._clients[session] = SqlClient(server, "postgres", "postgres", {}, process_id)
            client.sink.lines = []
            self._tasks[session] = self.node.scheduler.spawn(self._run(client, text))
        self.node.advance(0.1 if session else SETTLE_SECONDS)

    async def _run(self, client: SqlClient, text: str) -> None:
        session = client.session
        try:
            if not session.try_simple_query(text, client.sink):
                await session.simple_query(text, client.sink)
        except DatabaseError as error:
            client.sink.lines.append(error_text(error))
            await session.failed(error)

    def finished(self, session: str) -> list[str] | None:
        task = self._tasks[session]
        if not task.completion.done:
            return None
        task.completion.result()
        return self._clients[session].sink.lines

    def split(self) -> None:
        keys = [key for key in self._rows() if key >= b"\x04"]
        self.node.run(self.node.gateway.split(keys))

    def _rows(self) -> Iterable[bytes]:
        transaction = self.node.gateway.begin(1)  # type: ignore[arg-type]
        transaction.begin_statement()
        return self.node.run(transaction.scan(b"\x04", b"\xff", limit=1_000)).keys


class ClusterBackend(OwnBackend):
    """Sessions of three nodes, the first on the first node and so on."""

    def __init__(self, config: StoreConfig | None = None) -> None:
        self.node = Cluster(seed=1, config=config)
        gateways: list[Gateway] = []
        self.node.on_open.append(lambda store: gateways.append(Gateway(store)))
        self.node.start(3)
        self.node.wait_until(lambda: self.node.replicated(3))
        self._servers = []
        for gateway in gateways:
            gateway.start()
            catalog = CatalogStore(gateway, self.node.scheduler)
            self.node.run(catalog.start())
            self._servers.append(_Server(self.node, Environment(gateway, self.node.scheduler, catalog)))
        self._clients = {}
        self._tasks = {}


class PostgresBackend:
    """Sessions of a real PostgreSQL, each in a thread."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connections: dict[str, psycopg.Connection[tuple[Any, ...]]] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._answers: dict[str, list[str]] = {}
        self._number: dict[int, int] = {}
        self.monitor = psycopg.connect(dsn, autocommit=True)
        self.monitor.execute("DROP SCHEMA public CASCADE")
        self.monitor.execute("CREATE SCHEMA public")

    def start(self, session: str, text: str) -> None:
        if session:
            connection = self._connections.get(session)
            if connection is None:
                connection = self._connections[session] = psycopg.connect(self._dsn, autocommit=True)
                self._number[connection.info.backend_pid] = len(self._connections)
            self._answers.pop(session, None)
            thread = self._threads[session] = threading.Thread(target=self._run, args=(session, connection, text))
            thread.start()
        for name in [session, *self._threads] if session else []:
            while self._threads[name].is_alive() and not self._is_blocked(name):
                time.sleep(0.005)
        if not session:
            time.sleep(SETTLE_SECONDS)

    def _is_blocked(self, session: str) -> bool:
        pid = self._connections[session].info.backend_pid
        [(blockers,)] = self.monitor.execute("SELECT pg_blocking_pids(%s)", [pid]).fetchall()
        return bool(blockers)

    def _run(self, session: str, connection: psycopg.Connection[Any], text: str) -> None:
        lines: list[str] = []
        cursor = psycopg.ClientCursor(connection)
        try:
            cursor.execute(text)  # type: ignore[arg-type]
            lines += self._lines(cursor.pgresult)
            while cursor.nextset():
                lines += self._lines(cursor.pgresult)
        except psycopg.Error as error:
            lines.append(self._error(error.pgresult))
        self._answers[session] = lines

    def _lines(self, result: Any) -> list[str]:
        rows = [
            "|".join(
                "NULL" if (value := result.get_value(row, column)) is None else value.decode()
                for column in range(result.nfields)
            )
            for row in range(result.ntuples)
        ]
        rows = [re.sub(r"\b\d{4,}\b", self._session_number, row) for row in rows]
        return [*rows, result.command_status.decode()]

    def _session_number(self, found: re.Match[str]) -> str:
        """A process id as the number of its session, as our process ids are here."""
        return str(self._number.get(int(found[0]), found[0]))

    def _error(self, result: Any) -> str:
        field = psycopg.pq.DiagnosticField
        text = {
            name: (result.error_field(getattr(field, name)) or b"").decode()
            for name in (
                "SEVERITY",
                "SQLSTATE",
                "MESSAGE_PRIMARY",
                "MESSAGE_DETAIL",
                "MESSAGE_HINT",
                "STATEMENT_POSITION",
            )
        }
        detail = text["MESSAGE_DETAIL"]
        for pid, number in self._number.items():
            detail = detail.replace(f"rocess {pid}", f"rocess {number}")
        parts = [f"{text['SEVERITY']}: {text['SQLSTATE']}: {text['MESSAGE_PRIMARY']}"]
        parts += [f"DETAIL: {detail}"] if detail else []
        parts += [f"HINT: {text['MESSAGE_HINT']}"] if text["MESSAGE_HINT"] else []
        parts += [f"at {text['STATEMENT_POSITION']}"] if text["STATEMENT_POSITION"] else []
        return "; ".join(parts)

    def finished(self, session: str) -> list[str] | None:
        if self._threads[session].is_alive():
            return None
        return self._answers[session]

    def split(self) -> None:
        pass

    def close(self) -> None:
        for connection in self._connections.values():
            connection.cancel()
        for thread in self._threads.values():
            thread.join()
        for connection in [*self._connections.values(), self.monitor]:
            connection.close()


def transcript(backend: Backend, path: Path, *, strict: bool = True) -> list[str]:
    """The script with its output."""
    script = Script(backend, strict=strict)
    lines: list[str] = []
    for block in golden.parse(path.read_text()):
        for command in block.commands:
            lines.append(f"{command.name} {command.text}".rstrip())
            lines += [f"    {line}" for line in script.execute(command).split("\n") if line]
    return lines


def _plain(lines: list[str]) -> list[str]:
    """Without how a cancelled pivot was found: here always by the validation at its commit."""
    return [re.sub(r"DETAIL: Reason code: [^;]*", "DETAIL: Reason code", line) for line in lines]


def main(names: list[str]) -> None:
    dsn = os.environ["PYDISTDB_TEST_POSTGRES"]
    found: list[str] = []
    for path in [FOLDER / f"{name}.txt" for name in names] or sorted(FOLDER.glob("*.txt")):
        if "SHARD BY" in path.read_text():
            continue  # ours alone
        postgres = PostgresBackend(dsn)
        try:
            theirs = _plain(transcript(postgres, path, strict=False))
        finally:
            postgres.close()
        ours = _plain(transcript(OwnBackend(), path))
        found += difflib.unified_diff(
            theirs, ours, f"{path.stem} PostgreSQL", f"{path.stem} PyDistDB", lineterm="", n=2
        )
    if not names:
        DIFFERENCES.write_text("".join(line + "\n" for line in found))
    sys.stdout.write("".join(line + "\n" for line in found))


if __name__ == "__main__":
    main(sys.argv[1:])
