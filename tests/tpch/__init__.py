"""TPC-H at a small scale: 22 analytical queries, and what PostgreSQL 15 answers to them.

The data comes from tpchgen-cli (the same for everybody, by the benchmark's own generator); ``queries/`` has the queries with
their validation parameters, ``answers/`` the rows as PostgreSQL gives them at SCALE, columns separated by ``|``.
``python -m tests.tpch --postgres URL`` makes the answers anew; with ``--url`` it runs the queries there and compares.

Source: TPC Benchmark H, revision 3, clauses 1.4 and 2.4.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCALE = 0.01
TABLES = ("region", "nation", "part", "supplier", "partsupp", "customer", "orders", "lineitem")
QUERIES = {path.stem: path.read_text() for path in sorted((HERE / "queries").glob("*.sql"))}
SCHEMA = (HERE / "schema.sql").read_text()


def generate(folder: Path, scale: float = SCALE) -> dict[str, bytes]:
    """The tables' rows as CSV without a heading."""
    beside = Path(sys.executable).parent / "tpchgen-cli"
    program = str(beside) if beside.exists() else shutil.which("tpchgen-cli")
    assert program is not None, "tpchgen-cli is not installed"
    subprocess.run(
        [program, "csv", "-s", str(scale), "--output-dir", str(folder)], check=True, capture_output=True, timeout=60
    )
    return {table: (folder / f"{table}.csv").read_bytes().partition(b"\n")[2] for table in TABLES}


def answer(name: str) -> list[str]:
    return (HERE / "answers" / f"{name}.txt").read_text().splitlines()
