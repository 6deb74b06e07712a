"""Debian's pgbench, unchanged: initialise, run every built-in script in every protocol, and audit the sums."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest
from pydistdb_tools.local_cluster import LocalCluster

PGBENCH = Path("/usr/lib/postgresql/15/bin/pgbench")
pytestmark = pytest.mark.skipif(not PGBENCH.exists() or not shutil.which("psql"), reason="pgbench is not installed")


def _pgbench(cluster: LocalCluster, *options: str, node: int = 0) -> str:
    port = str(cluster.nodes[node].sql_port)
    command = [str(PGBENCH), "-h", "127.0.0.1", "-p", port, "-U", "postgres", *options, "postgres"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ERROR" not in done.stderr, done.stderr
    return done.stdout


def _processed(output: str) -> int:
    found = re.search(r"number of transactions actually processed: (\d+)", output)
    assert found and "number of failed transactions: 0 " in output, output
    return int(found.group(1))


def _audit(cluster: LocalCluster) -> int:
    """Every sum is the same, on every node; returns the number of history rows."""
    answers = set()
    for node in cluster.nodes:
        with psycopg.connect(node.url, autocommit=True) as connection:
            row = connection.execute(
                "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),"
                " (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history),"
                " (SELECT count(*) FROM pgbench_history)"
            ).fetchone()
            assert row is not None
            answers.add(row)
    assert len(answers) == 1
    accounts, tellers, branches, history, count = answers.pop()
    assert accounts == tellers == branches == history
    return int(count)


def _everything(cluster: LocalCluster) -> None:
    _pgbench(cluster, "-i", "-q", "-s", "1")
    committed = 0
    for mode in ("simple", "extended", "prepared"):
        for clients in ("1", "8"):
            node = len(cluster.nodes) - 1
            assert _processed(_pgbench(cluster, "-n", "-S", "-M", mode, "-c", clients, "-t", "30", node=node)) > 0
            committed += _processed(_pgbench(cluster, "-n", "-M", mode, "-c", clients, "-t", "15"))
    assert _audit(cluster) == committed
    for mode in ("simple", "extended", "prepared"):
        _processed(_pgbench(cluster, "-n", "-N", "-M", mode, "-c", "8", "-t", "10"))


def test_on_one_node(one_node: LocalCluster) -> None:
    _everything(one_node)


@pytest.mark.timeout(240)
def test_on_three_nodes(three_nodes: LocalCluster) -> None:
    _everything(three_nodes)
