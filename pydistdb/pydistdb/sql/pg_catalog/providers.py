"""What system tables show of the running server: the server registers who can tell.

    providers.nodes = lambda: [NodeInfo(1, "host:port", is_live=True), …]

Without a provider (tests, tools) the tables are empty; ranges and nodes come from the store of the node that is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A row of pg_stat_activity; times are timestamptz values (microseconds since 2000 UTC)."""

    pid: int
    database: str
    user: str
    application_name: str = ""
    client_address: str | None = None
    client_port: int | None = None
    backend_start: int | None = None
    transaction_start: int | None = None
    query_start: int | None = None
    state_change: int | None = None
    wait_event_type: str | None = None
    wait_event: str | None = None
    state: str | None = None
    query: str = ""
    tls_version: str | None = None
    tls_cipher: str | None = None
    tls_bits: int | None = None
    role: int = 10
    """The oid of ``user``."""
    xid: int | None = None


@dataclass(frozen=True, slots=True)
class LockInfo:
    """A row of pg_locks."""

    pid: int | None
    mode: str
    granted: bool
    lock_type: str
    virtual_transaction: str
    database: int | None = None
    relation: int | None = None
    page: int | None = None
    tuple_number: int | None = None
    virtual_xid: str | None = None
    xid: int | None = None
    class_id: int | None = None
    object_id: int | None = None
    object_sub_id: int | None = None
    wait_start: int | None = None
    fast_path: bool = False


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A row of pydistdb_internal.nodes."""

    node_id: int
    address: str
    is_live: bool
    locality: str = ""
    ranges: int | None = None
    leaders: int | None = None
    started_at: int | None = None
    name: str = ""
    sql_address: str = ""
    http_address: str = ""


@dataclass(frozen=True, slots=True)
class RangeRow:
    """A row of pydistdb_internal.ranges."""

    range_id: int
    start: bytes
    end: bytes
    leaseholder: int
    replicas: tuple[int, ...]
    term: int = 0
    keys: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class PreparedInfo:
    """A row of pg_prepared_statements."""

    name: str
    statement: str
    prepared_at: int
    parameter_types: tuple[int, ...]
    from_sql: bool


@dataclass(frozen=True, slots=True)
class CursorInfo:
    """A row of pg_cursors."""

    name: str
    statement: str
    is_holdable: bool
    is_binary: bool
    is_scrollable: bool
    created_at: int


nodes: Callable[[], Iterable[NodeInfo]] = lambda: ()  # noqa: E731
ranges: Callable[[], Iterable[RangeRow]] = lambda: ()  # noqa: E731
prepared_statements: Callable[[object], Iterable[PreparedInfo]] = lambda session: ()  # noqa: E731
"""Takes EvalContext.extra, the session."""
cursors: Callable[[object], Iterable[CursorInfo]] = lambda session: ()  # noqa: E731
relation_bytes: Callable[[bytes, bytes], int | None] = lambda start, end: None  # noqa: E731
"""Roughly how many bytes are stored between two keys; None if nobody knows."""
