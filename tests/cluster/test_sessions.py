"""What sessions of different nodes have to do with each other: notifications, advisory locks, pg_stat_activity."""

from __future__ import annotations

import psycopg
from pydistdb_tools.local_cluster import LocalCluster


def test_a_notification_reaches_listeners_of_every_node_in_order(three_nodes: LocalCluster) -> None:
    connections = [psycopg.connect(node.url, autocommit=True) for node in three_nodes.nodes]
    sender = connections[0]
    try:
        for connection in connections:
            connection.execute("LISTEN news")
        with sender.transaction():
            for text in ("one", "two", "one", "three"):
                sender.execute("SELECT pg_notify('news', %s)", (text,))
        sender.execute("NOTIFY news, 'four'")
        for connection in connections:
            heard = list(connection.notifies(timeout=5, stop_after=4))
            assert [notice.payload for notice in heard] == ["one", "two", "three", "four"]
            assert {notice.pid for notice in heard} == {sender.info.backend_pid}
    finally:
        for connection in connections:
            connection.close()
