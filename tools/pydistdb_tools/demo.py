"""``proddb demo``: a three-node cluster on this machine with sample data, then a shell, or a short tour without one."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from pydistdb_tools.local_cluster import LocalCluster, free_base_port, plan_cluster, start_cluster, stop_cluster
from pydistdb_tools.remote import connect
from pydistdb_tools.shell import Shell, run_shell
from pydistdb_tools.status import cluster_report

SCHEMA = """
CREATE TABLE users (id BIGINT PRIMARY KEY, name TEXT, email TEXT, created_at TIMESTAMP) SHARD BY HASH(id);
CREATE TABLE orders (id BIGINT, user_id BIGINT REFERENCES users(id), amount DECIMAL, status TEXT,
                     PRIMARY KEY (user_id, id)) SHARD BY HASH(user_id);
"""
NAMES = ["Alice", "Bob", "Carol", "Dave", "Erin", "Frank", "Grace", "Heidi", "Ivan", "Judy"]
STATES = ["pending", "paid", "shipped"]
USERS = 200
ORDERS_EACH = 5

TOUR = [
    "SELECT count(*) AS users FROM users;",
    "BEGIN; UPDATE users SET name = 'Alicia' WHERE id = 1;"
    " INSERT INTO orders VALUES (100, 1, 99.99, 'pending'); COMMIT;",
    "SELECT u.id, u.name, sum(o.amount) AS total FROM users u JOIN orders o ON u.id = o.user_id"
    " GROUP BY u.id ORDER BY total DESC, u.id LIMIT 5;",
    "SELECT status, count(*), avg(amount)::numeric(10,2) FROM orders GROUP BY status ORDER BY status;",
    "INSERT INTO orders VALUES (1, 99999, 1.00, 'no such user');",
    "EXPLAIN SELECT * FROM orders WHERE user_id = 7;",
]


def load_sample(url: str) -> None:
    """Make the sample tables and fill them with COPY."""
    with connect(url) as connection:
        connection.execute(SCHEMA)
        with connection.cursor() as cursor:
            with cursor.copy("COPY users FROM STDIN") as copy:
                for user in range(1, USERS + 1):
                    name = NAMES[(user - 1) % len(NAMES)]
                    copy.write_row(
                        (user, name, f"{name.lower()}{user}@example.com", f"2026-01-{user % 28 + 1:02} 12:00")
                    )
            with cursor.copy("COPY orders FROM STDIN") as copy:
                for user in range(1, USERS + 1):
                    for number in range(1, ORDERS_EACH + 1):
                        amount = f"{(user * 37 + number * 1009) % 20000 / 100:.2f}"
                        copy.write_row((number, user, amount, STATES[(user + number) % len(STATES)]))


def _say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def _tour(cluster: LocalCluster) -> None:
    """Show the database at work, then what happens when a node is killed."""
    shell = Shell(cluster.nodes[0].url)
    for statement in TOUR:
        _say(statement)
        shell.run(statement)
    if len(cluster.nodes) < 3:
        return
    survivor = Shell(cluster.nodes[1].url)
    victim = cluster.nodes[0]
    _say(f"kill -9 {victim.pid}   # {victim.name}; asking {cluster.nodes[1].name} from now on")
    os.kill(victim.pid, signal.SIGKILL)
    started = time.monotonic()
    while True:
        try:
            survivor.connection.execute("UPDATE users SET name = 'Alice' WHERE id = 1")
            break
        except psycopg.Error as error:
            if time.monotonic() - started > 30:
                raise
            if survivor.connection.closed:
                survivor = Shell(cluster.nodes[1].url)
            print(f"  {str(error).strip()}")
            time.sleep(0.2)
    print(f"  writes go on after {time.monotonic() - started:.1f} s without {victim.name}")
    survivor.run("SELECT count(*) AS orders, sum(amount) AS total FROM orders;")


def run_demo(folder: Path | None, nodes: int, base_port: int, keep: bool) -> int:
    """Start, load, show; stops the cluster and removes a temporary folder at the end unless ``keep``."""
    with tempfile.TemporaryDirectory(prefix="proddb-demo-", ignore_cleanup_errors=True) as temporary:
        place = folder or Path(temporary)
        cluster = plan_cluster(place, nodes, min(3, nodes), free_base_port(base_port, nodes))
        try:
            _say(f"Starting {nodes} nodes in {place}")
            start_cluster(cluster, print)
            _say("Loading sample data")
            load_sample(cluster.nodes[0].url)
            print(cluster_report(cluster.status()))
            print(f"\nConnect with: psql {cluster.nodes[0].url}   (or any other node)")
            if sys.stdin.isatty() and sys.stdout.isatty():
                return run_shell(cluster.nodes[0].url)
            _tour(cluster)
            _say("That was the tour; run `proddb demo` in a terminal for a shell")
            return 0
        finally:
            if keep and folder is not None:
                print(f"The cluster goes on; stop it with: proddb stop --dir {folder}")
            else:
                stop_cluster(cluster, print)
