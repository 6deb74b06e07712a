"""What pg_stat_activity and pydistdb_internal show of this node: the server's answers.

``register`` hands them to pydistdb.sql.pg_catalog.providers, which the system tables ask.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydistdb.sql.pg_catalog import providers
from pydistdb.sql.pg_catalog.providers import NodeInfo, RangeRow, SessionInfo
from pydistdb.sql.session.base import SessionBase
from pydistdb.sql.session.environment import POSTGRES_EPOCH_US

if TYPE_CHECKING:
    from pydistdb_server.node import Node

MAX_SHOWN_QUERY = 1_024
"""What pg_stat_activity shows of a statement (Postgres's track_activity_query_size)."""


def register(node: Node) -> None:
    """Let the system tables ask this node."""
    providers.sessions = lambda: map(_session, list(node.environment.sessions.values()))
    providers.nodes = lambda: _nodes(node)
    providers.ranges = lambda: _ranges(node)


def _session(session: SessionBase) -> SessionInfo:
    status = session.transaction_status
    if session.is_active:
        state = "active"
    elif status == b"T":
        state = "idle in transaction"
    elif status == b"E":
        state = "idle in transaction (aborted)"
    else:
        state = "idle"
    host, _, port = session.client_address.rpartition(":")
    in_transaction = session.is_active or status != b"I"
    return SessionInfo(
        pid=session.process_id,
        database=session.database_name,
        user=session.user,
        role=session.identity.authenticated,
        application_name=session.settings.values["application_name"],
        client_address=host or None,
        client_port=int(port) if port.isdigit() else None,
        backend_start=session.connected_us,
        transaction_start=session.context.transaction_timestamp if in_transaction else None,
        query_start=session.query_started_us or None,
        state_change=session.state_changed_us,
        wait_event_type=None if session.is_active else "Client",
        wait_event=None if session.is_active else "ClientRead",
        state=state,
        query=session.query[:MAX_SHOWN_QUERY],
    )


def _nodes(node: Node) -> Iterable[NodeInfo]:
    for status in node.store.status().nodes:
        yield NodeInfo(
            status.node_id,
            status.address,
            status.state == "live",
            ",".join(f"{key}={value}" for key, value in status.locality),
            status.replica_count,
            status.lease_count,
            status.started_us - POSTGRES_EPOCH_US if status.started_us else None,
            status.name,
            status.sql_address,
            status.http_address,
        )


def _ranges(node: Node) -> Iterable[RangeRow]:
    """The ranges that have a replica on this node; SHOW RANGES asks the whole cluster."""
    for status in node.store.status().ranges:
        yield RangeRow(
            status.range_id,
            status.start,
            status.end,
            status.leader,
            tuple(member for member, _, _ in status.replicas),
            status.term,
        )
