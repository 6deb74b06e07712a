"""The same answers everywhere: some of our suites on three nodes, and with every table cut into many ranges.

tests/sqllogictest runs all of them on one node, where a table is one range.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pydistdb_sqllogictest.records import Dialect
from pydistdb_sqllogictest.run import Options, run_file
from pydistdb_tools.local_cluster import LocalCluster

SUITES = Path(__file__).parents[2] / "sqllogictest" / "suites"
SPLITS = "-c pydistdb.split_new_tables=on"


def ranges_of(cluster: LocalCluster, table: str) -> int:
    return sum(table in item["table"].split(", ") for item in cluster.status()["ranges"])


def test_a_new_table_is_cut(one_node: LocalCluster) -> None:
    with psycopg.connect(one_node.nodes[0].url, options=SPLITS, autocommit=True) as connection:
        connection.execute("CREATE TABLE cut (a int PRIMARY KEY, b text UNIQUE, c date, d numeric)")
        cut = ranges_of(one_node, "cut")
        assert cut >= 10
        connection.execute("CREATE INDEX ON cut (c DESC)")
        connection.execute("RESET pydistdb.split_new_tables")
        assert ranges_of(one_node, "cut") >= cut + 3
        connection.execute("SET pydistdb.split_new_tables = off; CREATE TABLE whole (a int PRIMARY KEY, b text UNIQUE)")
        assert ranges_of(one_node, "whole") == 1
        connection.execute("INSERT INTO cut SELECT n, n, date '2000-01-01' + n * 100, n FROM generate_series(0, 99) n")
        query = "SELECT a FROM cut WHERE c > '2000-01-01' ORDER BY c {} LIMIT 3 OFFSET 40"
        assert connection.execute(query.format("DESC")).fetchall() == [(59,), (58,), (57,)]
        assert connection.execute(query.format("ASC")).fetchall() == [(41,), (42,), (43,)]
        connection.execute("DROP TABLE cut, whole")


@pytest.mark.parametrize("name", ["alter_table", "constraints", "cursors", "indexes", "merge", "queries"])
def test_on_a_node_that_leads_nothing(three_nodes: LocalCluster, name: str) -> None:
    outcome = run_file(SUITES / f"{name}.slt", Dialect.PG, Options(three_nodes.nodes[1].url))
    assert outcome.total and not outcome.problems


@pytest.mark.parametrize("name", ["assignments", "changes", "constraints", "cursors", "indexes", "merge", "queries"])
def test_tables_of_many_ranges(one_node: LocalCluster, name: str) -> None:
    url = make_conninfo(one_node.nodes[0].url, options=SPLITS)
    outcome = run_file(SUITES / f"{name}.slt", Dialect.PG, Options(url))
    assert outcome.total and not outcome.problems


@pytest.mark.parametrize("name", ["changes", "cursors", "grouping", "samples_and_system_columns"])
def test_tables_of_many_ranges_on_three_nodes(three_nodes: LocalCluster, name: str) -> None:
    url = make_conninfo(three_nodes.nodes[2].url, options=SPLITS)
    outcome = run_file(SUITES / f"{name}.slt", Dialect.PG, Options(url))
    assert outcome.total and not outcome.problems
