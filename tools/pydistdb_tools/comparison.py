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
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg

from pydistdb_tools import comparison_queries as queries
from pydistdb_tools.comparison_systems import POSTGRES_BIN, Target, alternate, postgres, pydistdb, run
from pydistdb_tools.layer_cost import layer_cost
from pydistdb_tools.local_cluster import free_base_port

PAGE = Path("docs/benchmarks.md")
BEGIN_MARK, END_MARK = "<!-- figures: begin -->", "<!-- figures: end -->"
COPY_ROWS = 1_000_000


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


# --------------------------------------------------------------------------------------------------------- workloads


def _pgbench(target: Target, *options: str) -> float:
    return _pgbench_counting(target, *options)[0]


def _pgbench_counting(target: Target, *options: str) -> tuple[float, int]:
    """Transactions per second, without the time to connect, and how many there were; raises if any failed.

    With ``--max-tries`` some may be under way for yet another time when the time is over: pgbench calls these failed."""
    base = [str(POSTGRES_BIN / "pgbench"), "-h", "127.0.0.1", "-p", str(target.port), "-U", "postgres", "-n"]
    output = run([*base, *options, "postgres"])
    failed = re.search(r"number of failed transactions: (\d+)", output)
    if failed and failed.group(1) != "0" and "--max-tries" not in options:
        raise RuntimeError(f"{target.name}: {failed.group(0)}")
    found = re.search(r"tps = ([\d.]+) \(without", output)
    if not found:
        raise RuntimeError(f"pgbench printed no rate:\n{output}")
    count = re.search(r"number of transactions actually processed: (\d+)", output)
    return float(found.group(1)), int(count.group(1)) if count else 0


def _one_row_rate(target: Target, seconds: int) -> float:
    """32 clients increment one row at READ COMMITTED: nothing may fail, and nothing may be lost."""
    with (
        tempfile.NamedTemporaryFile("w", suffix=".sql") as script,
        psycopg.connect(target.url, autocommit=True) as control,
    ):
        script.write("UPDATE bench_row SET n = n + 1 WHERE id = 1;\n")
        script.flush()
        control.execute("DROP TABLE IF EXISTS bench_row; CREATE TABLE bench_row AS SELECT 1 AS id, 0 AS n")
        control.execute("ALTER TABLE bench_row ADD PRIMARY KEY (id)")
        load = ["-M", "prepared", "-c", "32", "-j", "2", "-f", script.name]
        rate, count = _pgbench_counting(target, *load, "-T", str(seconds))
        row = control.execute("SELECT n FROM bench_row").fetchone()
    if row != (count,):
        raise RuntimeError(f"{target.name}: {count} increments, but {row}")
    return rate


def _serializable_rate(target: Target, seconds: int) -> float:
    """TPC-B by 8 clients at SERIALIZABLE, who try again what cannot be serialized; the sums must hold."""
    with psycopg.connect(target.url, autocommit=True) as control:
        control.execute("ALTER ROLE postgres SET default_transaction_isolation = 'serializable'")
        try:
            rate = _pgbench(target, "-M", "prepared", "-c", "8", "-j", "2", "--max-tries", "1000", "-T", str(seconds))
        finally:
            control.execute("ALTER ROLE postgres RESET default_transaction_isolation")
    _check_sums(target)
    return rate


def _load(target: Target, scale: int) -> None:
    base = [str(POSTGRES_BIN / "pgbench"), "-h", "127.0.0.1", "-p", str(target.port), "-U", "postgres"]
    run([*base, "-i", "-q", "-s", str(scale), "postgres"])
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
    """Of a process and its children."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")).split()
    return (int(found.group(1)) / 1024 if found else 0.0) + sum(_resident_megabytes(int(child)) for child in children)


# -------------------------------------------------------------------------------------------------------------- report


def _one_node(rounds: int, seconds: int, scale: int, say: Callable[[str], None]) -> list[Row]:
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pydistdb-bench-data-")))
        theirs = stack.enter_context(postgres(free_base_port(6433, 1)))
        ours, _ = stack.enter_context(pydistdb(free_base_port(6533, 1), 1))
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
            pair = alternate(ours, theirs, rounds, lambda target, load=load: _pgbench(target, *load))  # type: ignore[misc]
            rows.append(Row(name, *pair, "tps", floor))
        _check_sums(ours)
        rows += _layer_shares(ours, seconds, say)
        data = _copy_file(folder)
        say("COPY and scan")
        pair = alternate(ours, theirs, rounds, lambda target: _copy_rate(target, data))
        rows.append(Row("COPY 1,000,000 rows (bigint, int, float8, text)", *pair, "rows/s", "0.15"))
        rows.append(
            Row("`count(*), sum(v)` of those rows", *alternate(ours, theirs, rounds, _scan_rate), "rows/s", "0.05")
        )
        rows += _queries(ours, theirs, rounds, say)
    return rows


def _layer_shares(ours: Target, seconds: int, say: Callable[[str], None]) -> list[Row]:
    """What part of the server's work for a statement is the transaction layer's (layer_cost.py)."""
    say("the transaction layer")
    cost = layer_cost()
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as update:
        update.write("\\set aid random(1, 100000)\nUPDATE pgbench_accounts SET abalance = 1 WHERE aid = :aid;\n")
        update.flush()
        rows = []
        for what, cost_us, load in (
            ("a point select", cost.read_us, ["-S"]),
            ("an UPDATE by key", cost.write_us, ["-f", update.name]),
        ):
            work_us, wait_us = _statement_us(ours, [*load, "-T", str(seconds)])
            name = f"the transaction layer's part of {what}"
            rows.append(Row(f"{name}, of the server's work", cost_us / work_us * 100, None, "% of CPU", "< 10"))
            rows.append(Row(f"{name}, of what one client waits", cost_us / wait_us * 100, None, "% of time", "< 10"))
    return rows


def _statement_us(target: Target, load: list[str]) -> tuple[float, float]:
    """Microseconds of the server's processor time per statement, with many clients; and those that a single client waits."""
    before = _cpu_seconds(target.processes())
    _, count = _pgbench_counting(target, "-M", "prepared", "-c", "8", "-j", "2", *load)
    work_us = (_cpu_seconds(target.processes()) - before) / count * 1e6
    return work_us, 1e6 / _pgbench(target, "-M", "prepared", "-c", "1", *load)


def _queries(ours: Target, theirs: Target, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Times, so that a ratio above 1 is slower; the others are rates."""
    say("analytical queries")
    for target in (ours, theirs):
        queries.load(target)
    rows = []
    for name, floor, text in queries.QUERIES:
        pair = alternate(ours, theirs, rounds, lambda target, text=text: queries.milliseconds(target, text))  # type: ignore[misc]
        rows.append(Row(name, *pair, "ms", floor))
    name, floor, _ = queries.RANGE
    rows.append(Row(name, *alternate(ours, theirs, rounds, queries.range_milliseconds), "ms", floor))
    return rows


def _only_queries(rounds: int, say: Callable[[str], None]) -> list[Row]:
    """The analytical ones on systems of their own."""
    with postgres(free_base_port(6433, 1)) as theirs, pydistdb(free_base_port(6533, 1), 1) as (ours, _):
        return _queries(ours, theirs, rounds, say)


def _three_nodes(rounds: int, seconds: int, scale: int, say: Callable[[str], None]) -> list[Row]:
    rows = []
    with ExitStack() as stack:
        ours, _ = stack.enter_context(pydistdb(free_base_port(6533, 3), 3))
        say("idle cluster")
        rows.append(Row("idle three-node cluster, CPU", _idle_cpu_percent(ours, 20), None, "% of a core", "< 3"))
        theirs = stack.enter_context(postgres(free_base_port(6433, 3), standbys=2))
        say(f"loading pgbench -i -s {scale} on three nodes")
        for target in (ours, theirs):
            _load(target, scale)
        load = ["-M", "prepared", "-c", "8", "-j", "2", "-T", str(seconds)]
        name = "TPC-B `-M prepared -c 8`, three nodes RF 3 / two synchronous standbys"
        say(name)
        rows.append(Row(name, *alternate(ours, theirs, rounds, lambda t: _pgbench(t, *load)), "tps", "0.3"))
        _check_sums(ours)
    return rows


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _contention(rounds: int, seconds: int, scale: int, say: Callable[[str], None]) -> list[Row]:
    with ExitStack() as stack:
        ours, _ = stack.enter_context(pydistdb(free_base_port(6533, 3), 3))
        theirs = stack.enter_context(postgres(free_base_port(6433, 3), standbys=2))
        for target in (ours, theirs):
            _load(target, scale)
        name = "32 clients increment one row at READ COMMITTED, three nodes / two synchronous standbys"
        say(name)
        rows = [Row(name, *alternate(ours, theirs, rounds, lambda t: _one_row_rate(t, seconds)), "tps", "0.5")]
        name = "TPC-B `-M prepared -c 8 --max-tries 1000` at SERIALIZABLE, the same"
        say(name)
        rows.append(Row(name, *alternate(ours, theirs, rounds, lambda t: _serializable_rate(t, seconds)), "tps", ""))
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
        theirs = "" if row.theirs is None else _figure(row.theirs)
        ours = _figure(row.ours)
        lines.append(f"| {row.workload} | {ours} | {theirs} | {row.unit} | {row.ratio} | {row.floor} |")
    return "\n".join(lines)


def write_page(table: str, begin_mark: str = BEGIN_MARK, end_mark: str = END_MARK) -> None:
    """Put a table between two marks of the page."""
    text = PAGE.read_text() if PAGE.exists() else f"# Benchmarks\n\n{begin_mark}\n{end_mark}\n"
    before, _, rest = text.partition(begin_mark)
    _, _, after = rest.partition(end_mark)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(f"{before}{begin_mark}\n{table}\n{end_mark}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=12, help="of each run")
    parser.add_argument("--scale", type=int, default=10)
    parser.add_argument("--only", choices=["one", "three", "queries", "contention"])
    arguments = parser.parse_args()
    if not (POSTGRES_BIN / "initdb").exists() or not shutil.which("psql"):
        print("make bench needs PostgreSQL 15: apt-get install postgresql-15", file=sys.stderr)
        return 1
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {text}", file=sys.stderr, flush=True)

    rows: list[Row] = []
    if arguments.only == "queries":
        rows += _only_queries(arguments.rounds, say)
    if arguments.only in (None, "one"):
        rows += _one_node(arguments.rounds, arguments.seconds, arguments.scale, say)
    if arguments.only in (None, "three"):
        rows += _three_nodes(arguments.rounds, arguments.seconds, arguments.scale, say)
    if arguments.only in (None, "contention"):
        rows += _contention(arguments.rounds, arguments.seconds, arguments.scale, say)
    table = _table(rows, arguments.rounds, arguments.seconds, arguments.scale)
    print(table)
    if arguments.only is None:
        write_page(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
