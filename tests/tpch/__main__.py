"""``python -m tests.tpch``: take PostgreSQL's answers, or compare a server's with them."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from tests.tpch import HERE, QUERIES, SCALE, SCHEMA, TABLES, answer, generate

Connection = psycopg.Connection[tuple[object, ...]]


def load(connection: Connection, scale: float) -> None:
    for table in reversed(TABLES):
        connection.execute(f"DROP TABLE IF EXISTS {table}")
    for statement in SCHEMA.split(";"):
        if statement.strip():
            connection.execute(statement)
    with TemporaryDirectory() as folder:
        for table, data in generate(Path(folder), scale).items():
            with connection.cursor().copy(f"COPY {table} FROM STDIN (FORMAT csv)") as copy:
                copy.write(data)
    connection.execute("ANALYZE")


def run(connection: Connection, text: str) -> list[str]:
    """The rows as text: the simple protocol sends them so."""
    with psycopg.RawCursor(connection) as cursor:
        cursor.execute(text.encode())
        result = cursor.pgresult
        assert result is not None
        rows: list[str] = []
        for row in range(result.ntuples):
            cells = [result.get_value(row, column) for column in range(result.nfields)]
            rows.append("|".join(["NULL" if cell is None else bytes(cell).decode() for cell in cells]))
        return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tpch", description=__doc__)
    parser.add_argument("--postgres", help="write its answers down")
    parser.add_argument("--url", help="compare this server's answers with those")
    parser.add_argument("--scale", type=float, default=SCALE)
    parser.add_argument("--loaded", action="store_true", help="the tables are there already")
    given = parser.parse_args()
    failures = 0
    with psycopg.connect(given.postgres or given.url, autocommit=True) as connection:
        if not given.loaded:
            load(connection, given.scale)
        for name, text in QUERIES.items():
            started = time.perf_counter()
            rows = run(connection, text)
            elapsed_ms = (time.perf_counter() - started) * 1e3
            verdict = ""
            if given.postgres:
                (HERE / "answers" / f"{name}.txt").write_text("".join(f"{row}\n" for row in rows))
            elif given.scale == SCALE:
                verdict = "ok" if rows == answer(name) else "DIFFERENT"
                failures += rows != answer(name)
            print(f"{name} {len(rows):5} rows {elapsed_ms:9.1f} ms {verdict}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
