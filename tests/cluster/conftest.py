"""Real clusters for tests: node processes on loopback ports, started once per module where tests can share them."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from pydistdb_tools.local_cluster import LocalCluster, plan_cluster, start_cluster, stop_cluster

_bases = itertools.count(20_000 + os.getpid() % 97 * 300, 10)


def free_base_port(nodes: int) -> int:
    """A port from which SQL, HTTP and RPC ports of ``nodes`` nodes are free."""
    for base in _bases:
        if all(_is_free(base + offset + node) for node in range(nodes) for offset in (0, 100, 200)):
            return base
    raise AssertionError("unreachable")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def make_cluster(folder: Path, nodes: int) -> LocalCluster:
    cluster = plan_cluster(folder, nodes, nodes, free_base_port(nodes))
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
