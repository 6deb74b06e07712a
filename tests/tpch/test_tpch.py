"""Every query gives what PostgreSQL gives, on a node of its own with the tables analysed."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from pydistdb_tools.local_cluster import stop_cluster

from tests.cluster.conftest import make_cluster
from tests.tpch import QUERIES, SCALE, answer
from tests.tpch.compare import Connection, load, run


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    cluster = make_cluster(tmp_path_factory.mktemp("tpch"), 1)
    try:
        with psycopg.connect(cluster.nodes[0].url, autocommit=True) as connection:
            load(connection, SCALE)
            yield connection
    finally:
        stop_cluster(cluster, print)


@pytest.mark.parametrize("name", QUERIES)
def test_query(connection: Connection, name: str) -> None:
    assert run(connection, QUERIES[name]) == answer(name)
