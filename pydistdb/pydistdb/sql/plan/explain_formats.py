"""EXPLAIN's output formats: one tree of steps, written as text, JSON, YAML or XML in Postgres's layout.

::

    Sort  (cost=16.00..16.90 rows=3 width=4)         [ { "Plan": { "Node Type": "Sort", …,
      Sort Key: b                                          "Plans": [ { "Node Type": "Seq Scan", … } ] } } ]
      ->  Seq Scan on t  (cost=0.00..14.00 …)

Source: PostgreSQL 15 manual, EXPLAIN; explain.c.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from xml.sax.saxutils import escape

from pydistdb.kv.api import RangeWaits

Value = str | int | float | bool | list[str] | None
Group = list[tuple[str, Any]]


@dataclass
class ShardActual:
    """What was done in one range: entries read, rows (or groups) that came of them, bytes sent, requests, time waited; and the
    nodes that did it, ``replicas`` those of them that do not lead the range."""

    entries: int = 0
    rows: int = 0
    bytes: int = 0
    calls: int = 0
    seconds: float = 0.0
    nodes: set[int] = field(default_factory=set)
    replicas: tuple[int, ...] = ()
    lock_waits: int = 0
    lock_wait_seconds: float = 0.0
    cached: bool | None = None
    """Whether the node that did it knew from an earlier statement what was to be done; None: it was done at the gateway."""
    of_node: bool = False
    """It is a node's share of an exchange: no entries are read for it."""
    memory_bytes: int = 0
    disk_bytes: int = 0
    """The most that was held there, of rows, groups and tables, and of these in temporary files."""

    def note_held(self, memory_bytes: int, disk_bytes: int) -> None:
        """Count what one request has held at most: those of a range come one after the other."""
        self.memory_bytes = max(self.memory_bytes, memory_bytes)
        self.disk_bytes = max(self.disk_bytes, disk_bytes)


@dataclass(slots=True)
class Usage:
    """What a step kept in memory and on disk, at most.  ``method``: how it sorted; ``batches``: in how many parts it hashed."""

    method: str = ""
    memory_bytes: int = 0
    disk_bytes: int = 0
    batches: int = 1


@dataclass
class Actual:
    """What a step did: seconds to its first row and to its end, added up over all loops, and its rows."""

    first_seconds: float = 0.0
    seconds: float = 0.0
    rows: int = 0
    loops: int = 0
    shards: dict[int, ShardActual] = field(default_factory=dict)
    """Of a scan that was done at several ranges, by range id."""
    usage: Usage | None = None
    """Of a step that keeps rows."""
    lock_waits: dict[int, RangeWaits] = field(default_factory=dict)
    """Of a step that locks rows, by range id."""


@dataclass
class Style:
    """What to show.  ``costs``: "full", "rows" (of the estimates only the rows) or "none"."""

    costs: str = "full"
    analyze: bool = False
    timing: bool = True
    verbose: bool = False


@dataclass
class PlanNode:
    """One step.  ``head`` is for the structured formats what ``title`` is for text; ``properties`` is for both."""

    title: str
    head: Group
    properties: list[tuple[str, Value]] = field(default_factory=list)
    rows: int = 0
    width: int = 0
    startup_cost: float = 0.0
    total_cost: float = 0.0
    actual: Actual | None = None
    children: list[PlanNode] = field(default_factory=list)
    relationship: str = "Outer"
    label: str = ""
    """The line above it in text: ``SubPlan 1``, ``CTE c``."""
    changes_data: bool = False
    usage: Group = field(default_factory=list)
    """What it kept in memory and on disk, and the same as a line of text."""
    usage_text: str = ""
    shards: list[tuple[str, ShardActual]] = field(default_factory=list)
    """Of a Gather, under ANALYZE: what was done where."""


def estimates(node: PlanNode, style: Style) -> str:
    if style.costs == "rows":
        return "" if node.changes_data else f"(rows={node.rows})"
    if style.costs == "none":
        return ""
    return f"(cost={node.startup_cost:.2f}..{node.total_cost:.2f} rows={node.rows} width={node.width})"


def _times(actual: Actual) -> tuple[float, float, float]:
    """Milliseconds to the first row and to the end, and rows, of the average loop."""
    loops = actual.loops or 1
    return actual.first_seconds * 1000 / loops, actual.seconds * 1000 / loops, actual.rows / loops


def actuals(node: PlanNode, style: Style) -> str:
    actual = node.actual
    if not style.analyze or actual is None:
        return ""
    if not actual.loops:
        return "(never executed)"
    first, total, rows = _times(actual)
    times = f"time={first:.3f}..{total:.3f} " if style.timing else ""
    return f"(actual {times}rows={rows:.0f} loops={actual.loops})"


def kilobytes(size_bytes: int) -> int:
    return -(-size_bytes // 1024)


def _shard_text(shard: ShardActual, style: Style) -> str:
    found: Group = [("rows", shard.rows), ("bytes", shard.bytes), ("calls", shard.calls)]
    if not shard.of_node:
        found.insert(0, ("scanned", shard.entries))
    if style.timing:
        found.append(("time", fixed(shard.seconds * 1000)))
    if shard.memory_bytes:
        found.append(("memory", f"{kilobytes(shard.memory_bytes)}kB"))
    if shard.disk_bytes:
        found.append(("disk", f"{kilobytes(shard.disk_bytes)}kB"))
    if shard.lock_waits:
        if not shard.entries and not shard.calls:  # it is told of for this alone
            found = []
        found.append(("lock waits", shard.lock_waits))
        if style.timing:
            found.append(("lock wait time", fixed(shard.lock_wait_seconds * 1000)))
    if shard.cached:
        found.append(("cached", "yes"))
    found += [("replica", f"node {node}") for node in shard.replicas]
    return " ".join(f"{what}={value}" for what, value in found)


def _shard_group(shard: ShardActual, style: Style) -> Group:
    found: Group = [] if shard.of_node else [("Rows Scanned", shard.entries)]
    found += [("Rows", shard.rows), ("Bytes", shard.bytes), ("Calls", shard.calls)]
    if style.timing:
        found.append(("Time", fixed(shard.seconds * 1000)))
    found += [
        ("Peak Memory Usage", kilobytes(shard.memory_bytes)),
        ("Disk Usage", kilobytes(shard.disk_bytes)),
    ]
    found.append(("Lock Waits", shard.lock_waits))
    if style.timing:
        found.append(("Lock Wait Time", fixed(shard.lock_wait_seconds * 1000)))
    if shard.cached is not None:
        found.append(("Cached", shard.cached))
    return [*found, ("Replicas", [f"node {node}" for node in shard.replicas])]


def text_lines(root: PlanNode, style: Style) -> list[str]:
    output: list[str] = []
    _text_node(root, "", "", style, output)
    return output


def _text_node(node: PlanNode, indent: str, arrow: str, style: Style, output: list[str]) -> None:
    shown = " ".join(part for part in (estimates(node, style), actuals(node, style)) if part)
    output.append(f"{indent}{arrow}{node.title}{'  ' if shown else ''}{shown}")
    inner = indent + ("      " if arrow else "  ")
    for name, value in node.properties:
        output.append(f"{inner}{name}: {', '.join(value) if isinstance(value, list) else value}")
    if style.analyze and node.usage_text:
        output.append(f"{inner}{node.usage_text}")
    for name, shard in node.shards:
        output.append(f"{inner}{name}: {_shard_text(shard, style)}")
    for child in node.children:
        if child.label:
            output.append(f"{inner}{child.label}")
            _text_node(child, inner + "  ", "->  ", style, output)
        else:
            _text_node(child, inner, "->  ", style, output)


# ------------------------------------------------------------------------------------------------ structured formats


def groups(node: PlanNode, style: Style, relationship: bool = False) -> Group:
    """A step as names and values; ``Plans`` holds its inputs, groups too."""
    result: Group = [node.head[0]]
    if relationship:
        result.append(("Parent Relationship", node.relationship))
        if node.label:
            result.append(("Subplan Name", node.label))
    result += [("Parallel Aware", False), ("Async Capable", False), *node.head[1:]]
    if style.costs != "none":
        result += [("Startup Cost", fixed(node.startup_cost, 2)), ("Total Cost", fixed(node.total_cost, 2))]
        result += [("Plan Rows", node.rows), ("Plan Width", node.width)]
    if style.analyze and node.actual is not None:
        first, total, rows = _times(node.actual)
        if style.timing:
            result += [("Actual Startup Time", fixed(first)), ("Actual Total Time", fixed(total))]
        result += [("Actual Rows", round(rows)), ("Actual Loops", node.actual.loops)]
    result += node.properties
    if style.analyze:
        result += node.usage
    if node.shards:
        result.append(("Shards", [[("Shard", name), *_shard_group(shard, style)] for name, shard in node.shards]))
    if node.children:
        result.append(("Plans", [groups(child, style, True) for child in node.children]))
    return result


def structured(format: str, root: PlanNode, style: Style, summary: Group) -> str:
    """The whole answer in JSON, YAML or XML; ``summary``: planning and execution times."""
    document: Group = [("Plan", groups(root, style)), *summary]
    if format == "json":
        return "[\n  " + _json(document, 1) + "\n]"
    if format == "yaml":
        return "- " + "\n".join(_yaml(document, 1)).lstrip()
    lines = ['<explain xmlns="http://www.postgresql.org/2009/explain">', "  <Query>"]
    for name, value in document:
        lines += _xml(name, value, 2)
    return "\n".join([*lines, "  </Query>", "</explain>"])


def _is_group(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], tuple)


def _json(value: Any, depth: int) -> str:
    pad = "  " * (depth + 1)
    if _is_group(value):
        inner = ",\n".join(f"{pad}{json.dumps(name)}: {_json(item, depth + 1)}" for name, item in value)
        return "{\n" + inner + "\n" + "  " * depth + "}"
    if isinstance(value, list) and value and _is_group(value[0]):
        inner = ",\n".join(pad + _json(item, depth + 1) for item in value)
        return "[\n" + inner + "\n" + "  " * depth + "]"
    if isinstance(value, list):
        return "[" + ", ".join(map(_scalar, value)) + "]"
    return _scalar(value)


def fixed(value: float, digits: int = 3) -> Decimal:
    """A number that is shown with so many digits."""
    return Decimal(f"{value:.{digits}f}")


def _scalar(value: Any) -> str:
    if isinstance(value, Decimal):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def _yaml(value: Group, depth: int) -> list[str]:
    pad = "  " * depth
    lines: list[str] = []
    for name, item in value:
        if _is_group(item):
            lines += [f"{pad}{name}: ", *_yaml(item, depth + 1)]
        elif isinstance(item, list) and item and _is_group(item[0]):
            lines.append(f"{pad}{name}: ")
            for part in item:
                made = _yaml(part, depth + 2)
                lines += [f"{pad}  - {made[0].lstrip()}", *made[1:]]
        elif isinstance(item, list):
            lines += [f"{pad}{name}: ", *(f"{pad}  - {_scalar(part)}" for part in item)]
        else:
            lines.append(f"{pad}{name}: {_scalar(item)}")
    return lines


def _xml(name: str, value: Any, depth: int) -> list[str]:
    pad = "  " * depth
    tag = name.replace(" ", "-")
    if _is_group(value):
        parts: Sequence[tuple[str, Any]] = value
    elif isinstance(value, list):
        parts = [("Plan" if _is_group(item) else "Item", item) for item in value]
    else:
        return [f"{pad}<{tag}>{escape(value if isinstance(value, str) else _scalar(value))}</{tag}>"]
    inner = [line for part, item in parts for line in _xml(part, item, depth + 1)]
    return [f"{pad}<{tag}>", *inner, f"{pad}</{tag}>"]
