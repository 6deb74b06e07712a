"""EXPLAIN ANALYZE: what a step kept in memory and on disk, in Postgres's words.

::

    Sort Method: quicksort  Memory: 25kB          Sort Method: external merge  Disk: 1234kB
    Batches: 5  Memory Usage: 4145kB  Disk Usage: 1234kB
    Storage: Disk  Maximum Storage: 1234kB

The last stands at CTEs, nested loops and windows whose rows did not fit into memory (Postgres 18 has it; 15 tells nothing).
Source: explain.c, show_sort_info, show_hash_info, show_hashagg_info.
"""

from __future__ import annotations

from typing import Any

from pydistdb.sql.plan.explain_formats import Group, Usage, kilobytes

_HASHES = ("Hash Join", "Aggregate", "Unique", "HashAggregate over Append", "HashSetOp")


def usage_text(kind: str, usage: Usage) -> str:
    """The line of a step of a kind ("Node Type"); empty if there is nothing to tell."""
    memory, disk = kilobytes(usage.memory_bytes), kilobytes(usage.disk_bytes)
    if usage.method:
        return f"Sort Method: {usage.method}  {f'Disk: {disk}kB' if disk else f'Memory: {memory}kB'}"
    if kind.startswith(_HASHES):
        return f"Batches: {usage.batches}  Memory Usage: {memory}kB" + (f"  Disk Usage: {disk}kB" if disk else "")
    return f"Storage: Disk  Maximum Storage: {disk}kB" if disk else ""


def usage_group(kind: str, usage: Usage) -> Group:
    """The same as names and values."""
    memory, disk = kilobytes(usage.memory_bytes), kilobytes(usage.disk_bytes)
    if usage.method:
        space = "Disk" if disk else "Memory"
        return [("Sort Method", usage.method), ("Sort Space Used", disk or memory), ("Sort Space Type", space)]
    if kind.startswith(_HASHES):
        name = "Hash Batches" if kind == "Hash Join" else "HashAgg Batches"
        found: list[tuple[str, Any]] = [(name, usage.batches), ("Peak Memory Usage", memory)]
        return [*found, ("Disk Usage", disk)]
    return [("Storage", "Disk"), ("Maximum Storage", disk)] if disk else []
