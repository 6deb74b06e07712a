"""The systems that ``make bench`` and ``make tpch`` compare: PyDistDB and PostgreSQL 15, started in temporary folders.

PostgreSQL runs from Debian's binaries with an otherwise default configuration except ``shared_buffers = 1GB`` and
``max_wal_size = 4GB``.  Both have durable commits.  Everything listens on loopback and is removed afterwards.
"""

from __future__ import annotations

import os
import pwd
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from pydistdb_tools.local_cluster import LocalCluster, plan_cluster, start_cluster, stop_cluster

POSTGRES_BIN = Path("/usr/lib/postgresql/15/bin")


@dataclass(frozen=True, slots=True)
class Target:
    """A running system that psql and pgbench reach on a loopback port."""

    name: str
    port: int
    processes: Callable[[], list[int]]

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"


def as_postgres(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root."""
    return (
        ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *command] if os.geteuid() == 0 else command
    )


def run(command: list[str], **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", **options)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return str(done.stdout)


class Postgres:
    """PostgreSQL servers under one temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[Path] = []
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
        folder.chmod(0o755)

    def start_primary(self, port: int, standbys: int = 0) -> Target:
        data = self.folder / f"primary{port}"
        run(as_postgres([str(POSTGRES_BIN / "initdb"), "-D", str(data), "-A", "trust", "--locale=C.UTF-8"]))
        settings = {"shared_buffers": "1GB", "max_wal_size": "4GB"}
        self._start(data, port, settings)
        names = [f"standby{number}" for number in range(1, standbys + 1)]
        for number, name in enumerate(names, 1):
            self._add_standby(port, port + number, name)
        if names:
            with psycopg.connect(f"host=127.0.0.1 port={port} user=postgres", autocommit=True) as connection:
                connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 ({', '.join(names)})'")
                connection.execute("SELECT pg_reload_conf()")
        return Target("PostgreSQL 15", port, lambda: [])

    def _add_standby(self, primary_port: int, port: int, name: str) -> None:
        data = self.folder / name
        backup = [str(POSTGRES_BIN / "pg_basebackup"), "-h", "127.0.0.1", "-p", str(primary_port), "-U", "postgres"]
        run(as_postgres([*backup, "-D", str(data), "-R", "-c", "fast"]))
        connection = f"host=127.0.0.1 port={primary_port} user=postgres application_name={name}"
        self._start(data, port, {"primary_conninfo": f"'{connection}'"})

    def _start(self, data: Path, port: int, settings: dict[str, str]) -> None:
        lines = [f"port = {port}", "listen_addresses = '127.0.0.1'", f"unix_socket_directories = '{self.folder}'"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        with open(data / "postgresql.auto.conf", "a") as file:
            file.write("\n".join(lines) + "\n")
        log = str(data) + ".log"
        try:
            run(as_postgres([str(POSTGRES_BIN / "pg_ctl"), "-D", str(data), "-l", log, "-w", "start"]), timeout=120)
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{Path(log).read_text()}") from None
        self.running.append(data)

    def stop(self) -> None:
        for data in reversed(self.running):
            stop = [str(POSTGRES_BIN / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop"]
            subprocess.run(as_postgres(stop), capture_output=True, cwd="/")
        self.running.clear()


@contextmanager
def postgres(port: int, standbys: int = 0) -> Iterator[Target]:
    with tempfile.TemporaryDirectory(prefix="pydistdb-bench-pg-", ignore_cleanup_errors=True) as folder:
        servers = Postgres(Path(folder))
        try:
            yield servers.start_primary(port, standbys)
        finally:
            servers.stop()


@contextmanager
def pydistdb(port: int, nodes: int) -> Iterator[tuple[Target, LocalCluster]]:
    with tempfile.TemporaryDirectory(prefix="pydistdb-bench-", ignore_cleanup_errors=True) as folder:
        cluster = plan_cluster(Path(folder) / "cluster", nodes, nodes, port)
        try:
            start_cluster(cluster, lambda message: None)
            yield Target("PyDistDB", port, lambda: [node.pid for node in cluster.nodes]), cluster
        finally:
            stop_cluster(cluster, lambda message: None)


def alternate(ours: Target, theirs: Target, rounds: int, measure: Callable[[Target], float]) -> tuple[float, float]:
    first, second = [], []
    for _ in range(rounds):
        first.append(measure(ours))
        second.append(measure(theirs))
    return statistics.median(first), statistics.median(second)
