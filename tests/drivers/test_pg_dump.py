"""pg_dump 15 of a database, and its restore: what comes back must dump to the same text."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest
from pydistdb_tools.local_cluster import LocalCluster

_FOLDERS = ("/usr/lib/postgresql/15/bin", "/usr/bin")
COLOCATED = """SELECT string_agg(table_name, '+' ORDER BY table_name) FROM pydistdb_internal.tables
    WHERE colocation_group IS NOT NULL GROUP BY colocation_group ORDER BY 1"""
"""Which tables share numbered shards."""
SCHEMA = (Path(__file__).parent / "dumped.sql").read_text(encoding="utf-8")


def _program(name: str) -> str:
    found = next((path for folder in _FOLDERS if (path := shutil.which(name, path=folder))), None)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def _run(*words: str, text: str | None = None) -> str:
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _url(cluster: LocalCluster, database: str) -> str:
    return cluster.nodes[0].url.rpartition("/")[0] + "/" + database


def _new_database(cluster: LocalCluster, name: str) -> str:
    with psycopg.connect(cluster.nodes[0].url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return _url(cluster, name)


def _dump(url: str) -> str:
    """The dump without its key, which is another each time."""
    lines = _run(_program("pg_dump"), url).split("\n")
    return "\n".join(line for line in lines if not line.startswith(("\\restrict", "\\unrestrict")))


@pytest.fixture(scope="module")
def source(one_node: LocalCluster) -> str:
    url = _new_database(one_node, "dumped")
    _run(_program("psql"), url, "-qX", "-v", "ON_ERROR_STOP=1", "-f", "-", text=SCHEMA)
    return url


def test_a_plain_dump_comes_back(one_node: LocalCluster, source: str) -> None:
    dump = _dump(source)
    assert "COPY app.users" in dump
    target = _new_database(one_node, "from_text")
    _run(_program("psql"), target, "-qX", "-v", "ON_ERROR_STOP=1", "-f", "-", text=dump)
    assert _dump(target) == dump
    with psycopg.connect(target) as connection:
        assert connection.execute("SELECT count(*), sum(score) FROM app.users").fetchone() == (3, 4)
        assert connection.execute("SELECT nextval('app.counter')").fetchone() == (11,)
        assert connection.execute("SELECT * FROM app.totals WHERE total > 100").fetchone() == ("bob", 200)
        assert connection.execute("SELECT app.twice(4)").fetchone() == (8,)
        assert connection.execute(COLOCATED).fetchall() == [("areas+regions",), ("cities+lands",), ("tenants",)]


def test_a_part_of_colocated_tables_comes_back(one_node: LocalCluster, source: str) -> None:
    target = _new_database(one_node, "part")
    for name in ("cities", "lands"):
        dump = _run(_program("pg_dump"), "-t", name, source)
        _run(_program("psql"), target, "-qX", "-v", "ON_ERROR_STOP=1", "-f", "-", text=dump)
    with psycopg.connect(target) as connection:
        assert connection.execute(COLOCATED).fetchall() == [("cities+lands",)]


def test_an_archive_comes_back(one_node: LocalCluster, source: str, tmp_path: Path) -> None:
    archive = str(tmp_path / "archive")
    _run(_program("pg_dump"), "-Fc", "-f", archive, source)
    target = _new_database(one_node, "from_archive")
    _run(_program("pg_restore"), "--exit-on-error", "-d", target, archive)
    assert _dump(target) == _dump(source)
