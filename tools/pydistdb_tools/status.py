"""Printing what a cluster says of itself: ``proddb status``, ``proddb raft status`` and the topology after ``init``.

Input is the JSON of a node's ``/status``: ``nodes`` (id, name, pid, sql_address, http_address, rpc_address, state) and
``ranges`` (id, start, end, table, leader, term, followers, lag, replicas with node_id, role, log_length, commit_index).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

Status = dict[str, Any]


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned under their headings; numbers to the right."""
    texts = [["" if cell is None else _text(cell) for cell in row] for row in rows]
    widths = [max([len(heading), *(len(row[i]) for row in texts)]) for i, heading in enumerate(headings)]
    numeric = [_are_numbers([row[i] for row in rows]) for i in range(len(headings))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if right else c.ljust(w) for c, w, right in zip(cells, widths, numeric, strict=True)]
        return "  ".join(padded).rstrip()

    return "\n".join([line(headings), line(["-" * width for width in widths]), *(line(row) for row in texts)])


def _text(cell: object) -> str:
    return {True: "yes", False: "no"}[cell] if isinstance(cell, bool) else str(cell)


_QUANTITY = re.compile(r"[+-]?[\d,.]+ ?(%|[kMGTP]?B|ms|s)?|\?|")


def _is_number(cell: object) -> bool:
    return not isinstance(cell, bool) and _QUANTITY.fullmatch("" if cell is None else str(cell)) is not None


def _are_numbers(cells: Sequence[object]) -> bool:
    """Tell whether a column is one of numbers, be they written for people ("8,500", "24 MB", "85%", "?")."""
    return any(cell not in (None, "") for cell in cells) and all(map(_is_number, cells))


def _natural(name: str) -> tuple[str, int]:
    """Sorts node2 before node10."""
    head = name.rstrip("0123456789")
    return head, int(name[len(head) :] or 0)


def _names(status: Status) -> dict[int, str]:
    return {int(node["id"]): str(node["name"]) for node in status["nodes"]}


def cluster_report(status: Status) -> str:
    """Nodes, then ranges with leader, followers and lag."""
    names = _names(status)
    nodes = [
        [node["name"], node["state"], node.get("pid"), node["sql_address"], node["http_address"], node["rpc_address"]]
        for node in sorted(status["nodes"], key=lambda node: _natural(str(node["name"])))
    ]
    ranges = [
        [
            item["id"],
            item["span"],
            item.get("table") or "",
            names.get(item["leader"], "(none)"),
            item["term"],
            ", ".join(names.get(follower, f"n{follower}") for follower in item["followers"]),
            item["lag"],
        ]
        for item in status["ranges"]
    ]
    return "\n".join(
        [
            "Nodes",
            table(["name", "state", "pid", "sql", "http", "rpc"], nodes),
            "",
            "Ranges",
            table(["range", "span", "table", "leader", "term", "followers", "lag"], ranges),
        ]
    )


def topology_report(status: Status) -> str:
    """Every shard with the nodes that hold it, leader first, and where they stand.

    Shard 2 (range: 0x0000-0x1C71)
      ├── node4 (leader, us-west-2a)
      └── node1 (follower, us-east-1a)"""
    names = _names(status)
    places = {int(node["id"]): _place(node.get("locality") or {}) for node in status["nodes"]}
    parts = ["Cluster Topology", "================"]
    for item in status["ranges"]:
        parts.append(f"Shard {item['id']} ({_shard_span(item)})")
        members = [(item["leader"], "leader"), *((follower, "follower") for follower in item["followers"])]
        for position, (node_id, role) in enumerate(members, 1):
            branch = "└──" if position == len(members) else "├──"
            place = ", ".join(part for part in (role, places.get(node_id, "")) if part)
            parts.append(f"  {branch} {names.get(node_id, '(none)')} ({place})")
        parts.append("")
    return "\n".join(parts).rstrip()


def _place(locality: dict[str, str]) -> str:
    """The narrowest tier of a locality: it names the others by custom (us-east-1a)."""
    return list(locality.values())[-1] if locality else ""


def _shard_span(item: dict[str, Any]) -> str:
    """``range: 0x0000-0x5555`` of the hash values where it holds some, else its tables or its first key."""
    start, end = bytes.fromhex(item["start"]), bytes.fromhex(item["end"])
    is_hash = start[:1] == b"\x05" and end[:1] == b"\x05" and len(end) in (5, 7)
    if is_hash and (len(end) == 7 or int.from_bytes(end[1:5], "big") == int.from_bytes(start[1:5], "big") + 1):
        first = start[5:7].hex().upper() or "0000"
        last = end[5:7].hex().upper() or "FFFF"
        return f"range: 0x{first}-0x{last}" + (f", {item['table']}" if item.get("table") else "")
    return str(item.get("table") or f"keys from {item['span'].strip('[)').split(', ')[0]} on")


def raft_report(status: Status) -> str:
    """Per range, one line per replica: role, term, log length, commit index."""
    names = _names(status)
    down = {int(node["id"]) for node in status["nodes"] if node["state"] != "live"}
    parts = []
    for item in status["ranges"]:
        leader = names.get(item["leader"], "(none)")
        rows: list[list[object]] = []
        for replica in item["replicas"]:
            node_id = int(replica["node_id"])
            name = names.get(node_id, f"n{node_id}")
            if node_id in down:
                rows.append([name, "(down)", None, None, None])
            else:
                details = [replica.get(key) for key in ("term", "log_length", "commit_index")]
                rows.append([name, str(replica["role"]).capitalize(), *details])
        heading = f"Range {item['id']} {item['span']}  leader {leader} (term={item['term']})"
        parts.append(heading + "\n" + table(["Node", "State", "Term", "Log Length", "Commit Index"], rows))
    return "\n\n".join(parts)
