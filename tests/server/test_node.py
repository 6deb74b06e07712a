"""A node process as its users meet it: start, cancel, time out, disconnect, stop, be killed, come back."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from pydistdb.kv.api import RangeUnavailable
from pydistdb.sql.errors import CannotConnectNow
from pydistdb.tasks import run_inline
from pydistdb_server.node import Node

Connection = psycopg.Connection[tuple[object, ...]]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """One node process on free ports."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = options
        self.port = free_port()
        self.http_port = free_port()
        self.log = folder / "log"
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> Process:
        command = [sys.executable, "-m", "pydistdb_server", "--store", str(self.folder / "store")]
        command += ["--listen", f"127.0.0.1:{self.port}", "--http-listen", f"127.0.0.1:{self.http_port}"]
        with open(self.log, "ab") as log:
            self.popen = subprocess.Popen([*command, *self.options], stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/health", timeout=1):
                    return self
            except OSError:
                assert self.popen.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)

    def connect(self, **options: object) -> Connection:
        url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        return psycopg.connect(url, autocommit=True, **options)  # type: ignore[arg-type]

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.popen is not None
        self.popen.send_signal(number)
        return self.popen.wait(20)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(tmp_path_factory.mktemp("node")).start()
    with process.connect() as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, n int)")
        connection.execute("INSERT INTO t VALUES (1, 0), (2, 0)")
    yield process
    assert process.stop() == 0, process.log.read_text()
    assert "Traceback" not in process.log.read_text(), process.log.read_text()


@pytest.fixture
def holder(node: Process) -> Iterator[Connection]:
    """Somebody who keeps row 1 locked."""
    with node.connect() as connection:
        connection.execute("BEGIN")
        connection.execute("UPDATE t SET n = n + 1 WHERE id = 1")
        yield connection
        connection.execute("ROLLBACK")


def test_a_waiting_statement_can_be_cancelled(node: Process, holder: Connection) -> None:
    with node.connect() as connection:
        threading.Timer(0.2, connection.cancel).start()
        with pytest.raises(psycopg.errors.QueryCanceled, match="canceling statement due to user request"):
            connection.execute("UPDATE t SET n = n + 1 WHERE id = 1")
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_busy_statement_can_be_cancelled(node: Process) -> None:
    with node.connect() as connection:
        threading.Timer(0.3, connection.cancel).start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT count(*) FROM generate_series(1, 1000000000)")
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_wrong_secret_cancels_nothing(node: Process, holder: Connection) -> None:
    with node.connect() as connection:
        pid = connection.info.backend_pid
        with socket.create_connection(("127.0.0.1", node.port)) as raw:
            raw.sendall(b"\0\0\0\x10\x04\xd2\x16\x2e" + pid.to_bytes(4, "big") + b"abcd")
            assert raw.recv(10) == b""
        connection.execute("SET statement_timeout = 300")
        with pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
            connection.execute("UPDATE t SET n = n + 1 WHERE id = 1")


def test_statement_timeout(node: Process, holder: Connection) -> None:
    with node.connect(options="-c statement_timeout=200ms") as connection:
        started = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled, match="canceling statement due to statement timeout"):
            connection.execute("UPDATE t SET n = n + 1 WHERE id = 1")
        assert 0.15 < time.monotonic() - started < 5


def test_lock_timeout(node: Process, holder: Connection) -> None:
    with node.connect() as connection:
        connection.execute("SET lock_timeout = '200ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable, match="canceling statement due to lock timeout"):
            connection.execute("UPDATE t SET n = n + 1 WHERE id = 1")


def test_idle_in_transaction_timeout(node: Process) -> None:
    with node.connect() as connection:
        connection.execute("SET idle_in_transaction_session_timeout = '100ms'")
        connection.execute("BEGIN")
        connection.execute("UPDATE t SET n = n + 1 WHERE id = 2")
        time.sleep(0.4)
        with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout, match="idle-in-transaction timeout"):
            connection.execute("SELECT 1")
    with node.connect() as connection:
        assert connection.execute("UPDATE t SET n = 0 WHERE id = 2").rowcount == 1


def test_a_client_that_vanishes_leaves_no_locks(node: Process, holder: Connection) -> None:
    victim = node.connect()
    victim.execute("BEGIN")
    victim.execute("UPDATE t SET n = 7 WHERE id = 2")
    waiting = threading.Thread(target=lambda: _ignore(lambda: victim.execute("UPDATE t SET n = 7 WHERE id = 1")))
    waiting.start()
    time.sleep(0.2)
    os.close(os.dup(victim.fileno()))
    socket.socket(fileno=os.dup(victim.fileno())).shutdown(socket.SHUT_RDWR)
    waiting.join()
    with node.connect(options="-c lock_timeout=5s") as connection:
        assert connection.execute("UPDATE t SET n = 0 WHERE id = 2").rowcount == 1


def _ignore(function: object) -> None:
    try:
        function()  # type: ignore[operator]
    except psycopg.Error:
        pass


def test_terminating_and_cancelling_another_backend(node: Process, holder: Connection) -> None:
    with node.connect() as other, node.connect() as connection:
        pid = other.info.backend_pid
        found = connection.execute("SELECT state, usename FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone()
        assert found == ("idle", "postgres")
        assert connection.execute("SELECT pg_terminate_backend(%s)", (pid,)).fetchone() == (True,)
        assert connection.execute("SELECT pg_terminate_backend(1)").fetchone() == (False,)
        with pytest.raises(psycopg.errors.AdminShutdown):
            other.execute("SELECT 1")


def test_a_slow_reader_does_not_fill_the_memory_or_stop_others(node: Process) -> None:
    with node.connect() as connection:
        cursor = connection.cursor()
        pgconn = connection.pgconn
        pgconn.send_query(b"SELECT n, repeat('x', 1000) FROM generate_series(1, 200000) AS n")
        pgconn.set_single_row_mode()
        time.sleep(0.5)
        with node.connect() as other:
            assert other.execute("SELECT 1").fetchone() == (1,)
        rss = int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{node.popen.pid}/status").read_text())[1])  # type: ignore[index,union-attr]
        assert rss < 400_000, "kB"
        count = 0
        while (result := pgconn.get_result()) is not None:
            count += result.ntuples
        assert count == 200_000
        cursor.close()


def _temporary(node: Process) -> tuple[int, int, int]:
    """Temporary files as the node counts them, memory, and files as the system does."""
    text = node.get("/metrics")
    counted = [
        int(re.search(rf"^pydistdb_{name} (\d+)$", text, re.MULTILINE).group(1))  # type: ignore[union-attr]
        for name in ("sql_temporary_files", "sql_memory_bytes")
    ]
    assert node.popen is not None
    return counted[0], counted[1], sum("/temporary/" in link for link in _open_files(node.popen.pid))


def _open_files(process: int) -> Iterator[str]:
    """The names of what a process has open; what it closes meanwhile is left out."""
    for path in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(path)


@pytest.mark.parametrize("end", ["cancel", "disconnect", "timeout"])
def test_temporary_files_go_with_their_query(node: Process, end: str) -> None:
    def until(reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not reached():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    victim = node.connect()
    victim.execute("SET work_mem = '64kB'")
    if end == "timeout":
        victim.execute("SET statement_timeout = '700ms'")
    text = "SELECT count(*) FROM (SELECT * FROM generate_series(1, 3000000) g ORDER BY g % 7919, g) x"
    victim.pgconn.send_query(text.encode())

    def holds_both() -> bool:
        """Right after it has written its rows to a file it holds none in memory."""
        counted, memory_bytes, found = _temporary(node)
        return counted > 3 and found > 3 and memory_bytes > 0

    until(holds_both)
    if end == "cancel":
        victim.cancel()
    elif end == "disconnect":
        victim.close()
    until(lambda: _temporary(node) == (0, 0, 0))
    if end != "disconnect":
        result = victim.pgconn.get_result()
        assert result is not None and result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"57014"
        victim.close()


def test_pipelined_queries(node: Process) -> None:
    with node.connect() as connection, connection.pipeline():
        cursors = [connection.execute("SELECT %s::int", (number,)) for number in range(500)]
        assert [cursor.fetchone() for cursor in cursors] == [(number,) for number in range(500)]


def test_http(node: Process) -> None:
    assert node.get("/health") == "ok\n"
    status = json.loads(node.get("/status"))
    assert [item["state"] for item in status["nodes"]] == ["live"]
    assert status["ranges"][0]["leader"] == 1
    metrics = node.get("/metrics")
    assert re.search(r'^pydistdb_sql_statements_total\{kind="select"\} \d+$', metrics, re.MULTILINE)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        node.get("/nothing")
    with socket.create_connection(("127.0.0.1", node.http_port)) as raw:
        raw.sendall(b"nonsense\r\n\r\n")
        assert b"400 Bad Request" in raw.recv(1000)


def test_an_idle_node_costs_nearly_nothing(node: Process) -> None:
    def cpu_seconds() -> float:
        fields = Path(f"/proc/{node.popen.pid}/stat").read_text().rpartition(")")[2].split()  # type: ignore[union-attr]
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    time.sleep(0.5)
    before = cpu_seconds()
    time.sleep(2)
    assert cpu_seconds() - before < 0.1


def test_stop_start_and_kill(tmp_path: Path) -> None:
    process = Process(tmp_path).start()
    with process.connect() as connection:
        connection.execute("CREATE TABLE k (id int PRIMARY KEY)")
        connection.execute("INSERT INTO k VALUES (1)")
        assert process.stop() == 0
        with pytest.raises(psycopg.errors.AdminShutdown, match="terminating connection"):
            connection.execute("SELECT 1")
    process.start()
    acknowledged: list[int] = []

    def insert(first: int) -> None:
        try:
            with process.connect() as writer:
                for number in range(first, first + 100_000):
                    writer.execute("INSERT INTO k VALUES (%s)", (number,))
                    acknowledged.append(number)
        except psycopg.Error:
            pass

    threads = [threading.Thread(target=insert, args=(first,)) for first in (100_000, 300_000)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 20 and any(thread.is_alive() for thread in threads):
        time.sleep(0.05)
    process.stop(signal.SIGKILL)
    for thread in threads:
        thread.join()
    process.start()
    with process.connect() as connection:
        kept = {row[0] for row in connection.execute("SELECT id FROM k")}
    assert acknowledged
    assert kept >= {1, *acknowledged}
    assert process.stop(signal.SIGINT) == 0


def test_a_second_process_cannot_open_the_store(node: Process) -> None:
    command = [
        sys.executable,
        "-m",
        "pydistdb_server",
        "--store",
        str(node.folder / "store"),
        "--listen",
        "127.0.0.1:1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "cannot open the store" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--listen", "0.0.0.0:5433"], "--insecure"),
        (["--listen", "localhost"], "is not HOST:PORT"),
        (["--join", "127.0.0.1:1"], "--join needs --rpc-listen"),
        (["--replication-factor", "9", "--rpc-listen", "127.0.0.1:0"], "--replication-factor must be between"),
        (["--locality", "nowhere"], "is not KEY=VALUE"),
        (["--max-clock-offset", "soon"], "is not a duration"),
        (["--gc-ttl", "1s"], "--gc-ttl must be between 10s and 720h"),
        (["--gc-ttl", "5 parsecs"], "--gc-ttl: '5 parsecs' is not a duration"),
        (["--node-name", ""], "--node-name"),
        (["--node-id", "-1"], "--node-id must be between 1 and 1000"),
    ],
)
def test_a_broken_configuration_is_explained(tmp_path: Path, options: list[str], message: str) -> None:
    command = [sys.executable, "-m", "pydistdb_server", "--store", str(tmp_path / "store"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store").exists()


def test_a_port_in_use_is_explained(tmp_path: Path, node: Process) -> None:
    command = [sys.executable, "-m", "pydistdb_server", "--store", str(tmp_path / "store")]
    done = subprocess.run([*command, "--listen", f"127.0.0.1:{node.port}"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "cannot listen on" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_connection_that_finds_no_leaseholder_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unavailable:
        async def ensure_fresh(self) -> None:
            raise RangeUnavailable("the range has no leaseholder that answers")

    node = Node.__new__(Node)
    monkeypatch.setattr(node, "catalog", Unavailable(), raising=False)
    with pytest.raises(CannotConnectNow, match="a range of the data is not available"):
        run_inline(node._open_session(None, {}))  # type: ignore[arg-type]  # not looked at
