"""Printing what a cluster says of itself: ``proddb status``, ``proddb raft status`` and the topology after ``init``.

Input is the JSON of a node's ``/status``: ``nodes`` (id, name, pid, sql_address, http_address, rpc_address, state) and
``ranges`` (id, start, end, table, leader, term, followers, lag, replicas with node_id, role, log_length, commit_index).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Status = dict[str, Any]


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned under their headings; numbers to the right."""
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max([len(heading), *(len(row[i]) for row in texts)]) for i, heading in enumerate(headings)]
    numeric = [bool(rows) and all(isinstance(row[i], int | None) for row in rows) for i in range(len(headings))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if right else c.ljust(w) for c, w, right in zip(cells, widths, numeric, strict=True)]
        return "  ".join(padded).rstrip()

    return "\n".join([line(headings), line(["-" * width for width in widths]), *(line(row) for row in texts)])


def _names(status: Status) -> dict[int, str]:
    return {int(node["id"]): str(node["name"]) for node in status["nodes"]}


def cluster_report(status: Status) -> str:
    """Nodes, then ranges with leader, followers and lag."""
    names = _names(status)
    nodes = [
        [node["name"], node["state"], node.get("pid"), node["sql_address"], node["http_address"], node["rpc_address"]]
        for node in status["nodes"]
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
