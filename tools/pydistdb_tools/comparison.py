"""``make bench``: PyDistDB and PostgreSQL 15 on the same machine in the same run, alternating; ratios into docs/benchmarks.md.

Every workload is run in rounds: first one system, then the other, each time for the same number of seconds, and the
median of the rounds counts.  Both have durable commits (fsync on).  PostgreSQL runs from Debian's binaries with an
otherwise default configuration except ``shared_buffers = 1GB`` and ``max_wal_size = 4GB``; for the replicated workload it
has two synchronous standbys (``ANY 1``).  Everything listens on loopback and is removed afterwards.
"""

from __future__ import annotations

import argparse
import os
import platform
import pwd
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from pydistdb_tools.local_cluster import LocalCluster, free_base_port, plan_cluster, start_cluster, stop_cluster

POSTGRES_BIN = Path("/usr/lib/postgresql/15/bin")
PAGE = Path("docs/benchmarks.md")
BEGIN_MARK, END_MARK = "<!-- figures: begin -->", "<!-- figures: end -->"
COPY_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Target:
    """A running system that psql and pgbench reach on a loopback port."""

    name: str
    port: int
    processes: Callable[[], list[int]]

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: medians of both systems and the ratio; ``unit`` tells what is counted."""

    workload: str
    ours: float
    theirs: float | None
    unit: str
    floor: str

    @property
    def ratio(self) -> str:
        return "" if not self.theirs else f"{self.ours / self.theirs:.2f}"


# ---------------------------------------------------------------------------------------------------------- systems


def _as_postgres(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root."""
    return (
        ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *command] if os.geteuid() == 0 else command
    )


def _run(command: list[str], **options: object) -> str:
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
        _run(_as_postgres([str(POSTGRES_BIN / "initdb"), "-D", str(data), "-A", "trust", "--locale=C.UTF-8"]))
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
        _run(_as_postgres([*backup, "-D", str(data), "-R", "-c", "fast"]))
        connection = f"host=127.0.0.1 port={primary_port} user=postgres application_name={name}"
        self._start(data, port, {"primary_conninfo": f"'{connection}'"})

    def _start(self, data: Path, port: int, settings: dict[str, str]) -> None:
        lines = [f"port = {port}", "listen_addresses = '127.0.0.1'", f"unix_socket_directories = '{self.folder}'"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        with open(data / "postgresql.auto.conf", "a") as file:
            file.write("\n".join(lines) + "\n")
        log = str(data) + ".log"
        try:
            _run(_as_postgres([str(POSTGRES_BIN / "pg_ctl"), "-D", str(data), "-l", log, "-w", "start"]), timeout=120)
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{Path(log).read_text()}") from None
        self.running.append(data)

    def stop(self) -> None:
        for data in reversed(self.running):
            stop = [str(POSTGRES_BIN / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop"]
            subprocess.run(_as_postgres(stop), capture_output=True, cwd="/")
        self.running.clear()


@contextmanager
def _postgres(port: int, standbys: int = 0) -> Iterator[Target]:
    with tempfile.TemporaryDirectory(prefix="pydistdb-bench-pg-", ignore_cleanup_errors=True) as folder:
        servers = Postgres(Path(folder))
        try:
            yield servers.start_primary(port, standbys)
        finally:
            servers.stop()


@contextmanager
def _pydistdb(port: int, nodes: int) -> Iterator[tuple[Target, LocalCluster]]:
    with tempfile.TemporaryDirectory(prefix="pydistdb-bench-", ignore_cleanup_errors=True) as folder:
        cluster = plan_cluster(Path(folder) / "cluster", nodes, nodes, port)
        try:
            start_cluster(cluster, lambda message: None)
            yield Target("PyDistDB", port, lambda: [node.pid for node in cluster.nodes]), cluster
        finally:
            stop_cluster(cluster, lambda message: None)


# --------------------------------------------------------------------------------------------------------- workloads


def _pgbench(target: Target, *options: str) -> float:
    """Transactions per second, without the time to connect; raises if any transaction failed."""
    base = [str(POSTGRES_BIN / "pgbench"), "-h", "127.0.0.1", "-p", str(target.port), "-U", "postgres", "-n"]
    output = _run([*base, *options, "postgres"])
    failed = re.search(r"number of failed transactions: (\d+)", output)
    if failed and failed.group(1) != "0":
        raise RuntimeError(f"{target.name}: {failed.group(0)}")
    found = re.search(r"tps = ([\d.]+) \(without", output)
    if not found:
        raise RuntimeError(f"pgbench printed no rate:\n{output}")
    return float(found.group(1))


def _load(target: Target, scale: int) -> None:
    base = [str(POSTGRES_BIN / "pgbench"), "-h", "127.0.0.1", "-p", str(target.port), "-U", "postgres"]
    _run([*base, "-i", "-q", "-s", str(scale), "postgres"])
    _check_sums(target)


def _check_sums(target: Target) -> None:
    """Accounts and history agree, and tellers and branches (which ``-N`` leaves alone)."""
    columns = (("accounts", "abalance"), ("history", "delta"), ("tellers", "tbalance"), ("branches", "bbalance"))
    with psycopg.connect(target.url, autocommit=True) as connection:
        rows = [
            connection.execute(f"SELECT coalesce(sum({column}), 0) FROM pgbench_{table}").fetchone()
            for table, column in columns
        ]
    if rows[0] != rows[1] or rows[2] != rows[3]:
        raise RuntimeError(f"{target.name}: the sums disagree: {rows}")


def _alternate(ours: Target, theirs: Target, rounds: int, measure: Callable[[Target], float]) -> tuple[float, float]:
    first, second = [], []
    for _ in range(rounds):
        first.append(measure(ours))
        second.append(measure(theirs))
    return statistics.median(first), statistics.median(second)


def _copy_rate(target: Target, data: Path) -> float:
    """Rows per second of one COPY of COPY_ROWS rows into a new table."""
    with psycopg.connect(target.url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS bench_copy")
        connection.execute("CREATE TABLE bench_copy (id bigint, n int, v float8, t text)")
        started = time.perf_counter()
        with connection.cursor() as cursor, cursor.copy("COPY bench_copy FROM STDIN") as copy, open(data, "rb") as file:
            while chunk := file.read(1 << 16):
                copy.write(chunk)
        return COPY_ROWS / (time.perf_counter() - started)


def _scan_rate(target: Target) -> float:
    """Rows per second of a full scan with two aggregates."""
    with psycopg.connect(target.url, autocommit=True) as connection:
        started = time.perf_counter()
        row = connection.execute("SELECT count(*), sum(v) FROM bench_copy").fetchone()
        elapsed = time.perf_counter() - started
    if row is None or row[0] != COPY_ROWS:
        raise RuntimeError(f"{target.name}: the scan found {row}")
    return COPY_ROWS / elapsed


def _copy_file(folder: Path) -> Path:
    path = folder / "rows.tsv"
    with open(path, "w") as file:
        file.writelines(f"{i}\t{i * 7 % 1000}\t{i * 0.25}\trow number {i}\n" for i in range(COPY_ROWS))
    return path


def _cpu_seconds(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _idle_cpu_percent(target: Target, seconds: float) -> float:
    time.sleep(5)
    before = _cpu_seconds(target.processes())
    time.sleep(seconds)
    return (_cpu_seconds(target.processes()) - before) / seconds * 100


def _resident_megabytes(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) / 1024 if found else 0.0


# -------------------------------------------------------------------------------------------------------------- report


def _one_node(rounds: int, seconds: int, scale: int, say: Callable[[str], None]) -> list[Row]:
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pydistdb-bench-data-")))
        theirs = stack.enter_context(_postgres(free_base_port(6433, 1)))
        ours, _ = stack.enter_context(_pydistdb(free_base_port(6533, 1), 1))
        rows.append(Row("memory of a fresh node", _resident_megabytes(ours.processes()[0]), None, "MB", "< 120"))
        say(f"loading pgbench -i -s {scale}")
        for target in (ours, theirs):
            _load(target, scale)
        for name, floor, options in (
            ("`-S -M prepared -c 8`, one node", "0.5", ["-S", "-M", "prepared"]),
            ("`-S -M simple -c 8`, one node", "0.5", ["-S", "-M", "simple"]),
            ("`-N -M prepared -c 8`, one node", "", ["-N", "-M", "prepared"]),
            ("TPC-B `-M prepared -c 8`, one node", "0.4", ["-M", "prepared"]),
        ):
            say(name)
            load = [*options, "-c", "8", "-j", "2", "-T", str(seconds)]
            pair = _alternate(ours, theirs, rounds, lambda target, load=load: _pgbench(target, *load))  # type: ignore[misc]
            rows.append(Row(name, *pair, "tps", floor))
        _check_sums(ours)
        data = _copy_file(folder)
        say("COPY and scan")
        pair = _alternate(ours, theirs, rounds, lambda target: _copy_rate(target, data))
        rows.append(Row("COPY 1,000,000 rows (bigint, int, float8, text)", *pair, "rows/s", "0.15"))
        rows.append(
            Row("`count(*), sum(v)` of those rows", *_alternate(ours, theirs, rounds, _scan_rate), "rows/s", "0.05")
        )
    return rows


def _three_nodes(rounds: int, seconds: int, scale: int, say: Callable[[str], None]) -> list[Row]:
    rows = []
    with ExitStack() as stack:
        ours, _ = stack.enter_context(_pydistdb(free_base_port(6533, 3), 3))
        say("idle cluster")
        rows.append(Row("idle three-node cluster, CPU", _idle_cpu_percent(ours, 20), None, "% of a core", "< 3"))
        theirs = stack.enter_context(_postgres(free_base_port(6433, 3), standbys=2))
        say(f"loading pgbench -i -s {scale} on three nodes")
        for target in (ours, theirs):
            _load(target, scale)
        load = ["-M", "prepared", "-c", "8", "-j", "2", "-T", str(seconds)]
        name = "TPC-B `-M prepared -c 8`, three nodes RF 3 / two synchronous standbys"
        say(name)
        rows.append(Row(name, *_alternate(ours, theirs, rounds, lambda t: _pgbench(t, *load)), "tps", "0.3"))
        _check_sums(ours)
    return rows


def _table(rows: list[Row], rounds: int, seconds: int, scale: int) -> str:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    lines = [
        f"Taken {time.strftime('%Y-%m-%d')} on {os.cpu_count()} cores ({model.group(1) if model else platform.machine()}), "
        f"Python {platform.python_version()}; pgbench scale {scale}, {rounds} rounds of {seconds} s each, alternating; medians.",
        "",
        "| workload | PyDistDB | PostgreSQL 15 | unit | ratio | floor |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        theirs = "" if row.theirs is None else f"{row.theirs:,.0f}"
        ours = f"{row.ours:,.0f}" if row.ours >= 100 else f"{row.ours:.1f}"
        lines.append(f"| {row.workload} | {ours} | {theirs} | {row.unit} | {row.ratio} | {row.floor} |")
    return "\n".join(lines)


def _write_page(table: str) -> None:
    text = PAGE.read_text() if PAGE.exists() else f"# Benchmarks\n\n{BEGIN_MARK}\n{END_MARK}\n"
    before, _, rest = text.partition(BEGIN_MARK)
    _, _, after = rest.partition(END_MARK)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(f"{before}{BEGIN_MARK}\n{table}\n{END_MARK}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=15, help="of each run")
    parser.add_argument("--scale", type=int, default=10)
    parser.add_argument("--only", choices=["one", "three"])
    arguments = parser.parse_args()
    if not (POSTGRES_BIN / "initdb").exists() or not shutil.which("psql"):
        print("make bench needs PostgreSQL 15: apt-get install postgresql-15", file=sys.stderr)
        return 1
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {text}", file=sys.stderr, flush=True)

    rows: list[Row] = []
    if arguments.only != "three":
        rows += _one_node(arguments.rounds, arguments.seconds, arguments.scale, say)
    if arguments.only != "one":
        rows += _three_nodes(arguments.rounds, arguments.seconds, arguments.scale, say)
    table = _table(rows, arguments.rounds, arguments.seconds, arguments.scale)
    print(table)
    if arguments.only is None:
        _write_page(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
