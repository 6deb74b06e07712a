"""Real clusters for tests: node processes on loopback ports, started once per module where tests can share them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from pydistdb_tools.local_cluster import LocalCluster, free_base_port, plan_cluster, start_cluster, stop_cluster

_FIRST_PORT = 10_000 + os.getpid() % 70 * 300
"""Below the range from which the kernel takes the ports of outgoing connections (32768 and up)."""


def make_cluster(folder: Path, nodes: int, replication_factor: int = 0) -> LocalCluster:
    cluster = plan_cluster(folder, nodes, replication_factor or nodes, free_base_port(_FIRST_PORT, nodes))
    try:
        start_cluster(cluster, print)
    except BaseException:
        stop_cluster(cluster, print)
        raise
    return cluster


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    cluster = make_cluster(tmp_path_factory.mktemp("one"), 1)
    yield cluster
    stop_cluster(cluster, print)


@pytest.fixture(scope="module")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    cluster = make_cluster(tmp_path_factory.mktemp("three"), 3)
    yield cluster
    stop_cluster(cluster, print)


@pytest.fixture
def fresh_three_nodes(tmp_path: Path) -> Iterator[LocalCluster]:
    """A cluster of one test's own, to be hurt."""
    cluster = make_cluster(tmp_path, 3)
    yield cluster
    stop_cluster(cluster, print)


@pytest.fixture
def connection(one_node: LocalCluster) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(one_node.nodes[0].url, autocommit=True) as opened:
        yield opened
