"""``/status``: the whole cluster as JSON, put together from what every living node says of its own replicas.

A range's leader knows its followers and their lag; every replica knows its own log.  So each node is asked once, and
the answers are joined by range.  Nodes that do not answer in time are shown as the others see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydistdb.kv.api import KVError
from pydistdb.kv.status import RangeStatus, StoreStatus
from pydistdb.kv.store import StatusRequest, Store
from pydistdb.sql.catalog.state import CatalogState
from pydistdb.sql.layout import storage_prefix
from pydistdb.tasks import Completion, gather, with_deadline
from pydistdb_storage.keys import prefix_end

ANSWER_TIMEOUT_NS = 1_000_000_000

MOST_NAMES = 4
"""Tables named per range."""


async def cluster_status(store: Store, catalog: CatalogState) -> dict[str, Any]:
    """The JSON object of ``/status``."""
    own = store.status()
    others = [node.node_id for node in own.nodes if node.node_id != own.node_id and node.state == "live"]
    answers = await gather(store.scheduler, [_ask(store, node_id) for node_id in others])
    statuses = [own, *(answer for answer in answers if answer is not None)]
    return {
        "node_id": own.node_id,
        "node_name": own.name,
        "cluster_id": own.cluster_id.hex(),
        "replication_factor": own.replication_factor,
        "cluster_version": store.versions.active,
        "nodes": [_node(own, index, statuses) for index in range(len(own.nodes))],
        "ranges": _ranges(statuses, _table_spans(catalog)),
    }


async def _ask(store: Store, node_id: int) -> StoreStatus | None:
    try:
        completion: Completion[Any] = store.call(node_id, StatusRequest())
        deadline_ns = store.scheduler.now_ns() + ANSWER_TIMEOUT_NS
        answer = await with_deadline(store.scheduler, completion, deadline_ns, KVError("no answer in time"))
    except KVError:
        return None
    return answer if isinstance(answer, StoreStatus) else None


def _node(own: StoreStatus, index: int, statuses: Sequence[StoreStatus]) -> dict[str, Any]:
    node = own.nodes[index]
    told = next((status for status in statuses if status.node_id == node.node_id), None)
    return {
        "id": node.node_id,
        "name": node.name,
        "pid": node.process_id,
        "sql_address": node.sql_address,
        "http_address": node.http_address,
        "rpc_address": node.address,
        "state": node.state,
        "replicas": node.replica_count,
        "leases": node.lease_count,
        "clock_offset_us": node.clock_offset_us,
        "locality": dict(node.locality),
        "write_error": told.write_error if told is not None else "",
    }


def _table_spans(catalog: CatalogState) -> list[tuple[bytes, bytes, str]]:
    """Where each table lies: first key, end, name."""
    spans = []
    for database in catalog.databases.values():
        for table in database.tables.values():
            if table.kind == "r":
                prefix = storage_prefix(table)
                spans.append((prefix, prefix_end(prefix), table.name))
    return spans


def _ranges(statuses: Sequence[StoreStatus], spans: Sequence[tuple[bytes, bytes, str]]) -> list[dict[str, Any]]:
    by_range: dict[int, list[tuple[int, RangeStatus]]] = {}
    for status in statuses:
        for item in status.ranges:
            by_range.setdefault(item.range_id, []).append((status.node_id, item))
    found = []
    for range_id, reports in by_range.items():
        # The newest generation, and the leader's word before any other's.
        node_id, best = max(
            reports, key=lambda report: (report[1].generation, report[1].role == "leader", report[1].term)
        )
        leader = node_id if best.role == "leader" else best.leader
        lags = [follower.lag for follower in best.followers]
        by_node = dict(reports)
        found.append(
            {
                "id": range_id,
                "span": _span(best.start, best.end),
                "start": best.start.hex(),
                "end": best.end.hex(),
                "table": _tables_of(best.start, best.end, spans),
                "leader": leader,
                "term": best.term,
                "followers": [member for member, _, _ in best.replicas if member != leader],
                "lag": max(lags, default=0),
                "replicas": [_replica(member, role, by_node.get(member)) for member, _, role in best.replicas],
            }
        )
    return sorted(found, key=lambda item: str(item["start"]))


def _replica(node_id: int, role: str, told: RangeStatus | None) -> dict[str, Any]:
    if told is None:
        return {"node_id": node_id, "role": "learner" if role == "learner" else "unknown"}
    return {
        "node_id": node_id,
        "role": told.role,
        "term": told.term,
        "log_length": told.log_length,
        "commit_index": told.commit_index,
        "applied_index": told.applied_index,
    }


def _span(start: bytes, end: bytes) -> str:
    return f"[{_key(start)}, {_key(end)})"


def _key(key: bytes) -> str:
    """A boundary as people read it: /table/…, /group/hash/…, /group/shard/…, or hexadecimal digits."""
    if not key:
        return "/min"
    if key == b"\xff":
        return "/max"
    if key[0] == 4 and len(key) >= 5:
        text = f"/table {int.from_bytes(key[1:5], 'big')}"
        return text + (f"/{key[5:].hex()}" if len(key) > 5 else "")
    if key[0] in (5, 6) and len(key) >= 5:
        text = f"/group {int.from_bytes(key[1:5], 'big')}"
        if len(key) >= 7:
            text += f"/hash {key[5:7].hex()}" if key[0] == 5 else f"/shard {int.from_bytes(key[5:7], 'big')}"
        return text + (f"/{key[7:].hex()}" if len(key) > 7 else "")
    return "/" + key.hex()


def _tables_of(start: bytes, end: bytes, spans: Sequence[tuple[bytes, bytes, str]]) -> str:
    """What a range holds: "system" for addressing and catalog, and the names of the first few tables."""
    names = ["system"] if start < b"\x04" else []
    for first, last, name in spans:
        if first < end and start < last:
            if len(names) == MOST_NAMES:
                names.append("…")
                break
            names.append(name)
    return ", ".join(names)
