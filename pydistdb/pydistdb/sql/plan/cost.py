"""What things cost: the numbers behind index and join choices.

The unit is one row of a sequential scan (about 0.6 µs); the other figures are ratios to it, measured on the executor.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydistdb.sql.catalog.descriptors import Index, Table

ROW_COST = 1.0
SECONDARY_ROW_COST = 4.0
"""A row found through a secondary index: its entry, and the fetch by key."""
LOOKUP_COST = 4.0
"""One key of a batched look-up."""
FAR_LOOKUP_COST = 8.0
FAR_CALL_COST = 400.0
"""More where the table is spread over nodes: a key of a batch, with its row on the way back; a request and its answer."""
START_COST = 4.0
"""Opening a scan at a place."""
SKIP_COST = 25.0
"""Finding the next value of an index's leading columns, and what is looked for behind it."""
ENTRY_COST = 1.2
"""An entry of an index whose row is not fetched."""
RESTART_COST = 40.0
"""Running the inner side of a nested loop anew."""
HASH_ROW_COST = 0.6
SORT_ROW_COST = 0.3
NETWORK_BYTE_COST = 0.03
"""A byte that goes from one node to another: written, sent, read."""
DEAL_ROW_COST = 1.2
"""Finding out by its hash which node a row goes to, and a message of its own to that node."""
LEFT_ROW_COST = 3.0
"""A row, or a group with its states, that nodes leave to the gateway: written, read, merged."""
EXCHANGE_COST = 30_000.0
"""Setting up an exchange, and its rounds between the nodes: some 20 ms."""
ANSWER_ROWS = 30_000.0
"""How many rows a shard reads and groups for one answer, within the time that it works on one."""
ASSUMED_NODES = 3.0
"""A plan is made without knowing where the ranges are led: the nodes that share what is repartitioned."""
DISABLED_COST = 1e10
"""On top of what a way costs that an ``enable_`` setting rules out: taken only where there is no other."""

BELIEVED = "constraint_exclusion"
"""Among the ways that are ruled out: reading what CHECK constraints say is not there (exclusion.py)."""

Disabled = frozenset[str]
NOTHING_DISABLED: Disabled = frozenset()
SWITCHES = (
    "seqscan",
    "indexscan",
    "indexonlyscan",
    "indexskipscan",
    "bitmapscan",
    "hashjoin",
    "nestloop",
    "mergejoin",
    "sort",
    "shardjoin",
    "repartition",
    "gatewayjoin",
)
"""The ``enable_`` settings that the planner heeds; look-up joins count as nested loops, a shard join is what is done at the
shards with the rows of several tables, and a gateway join is what could be repartitioned and is not."""


def lookup_cost(table: Table, index: Index) -> float:
    """Of a key of a batched look-up."""
    near = LOOKUP_COST if index is table.indexes[0] else 2 * LOOKUP_COST
    return near if table.sharding is None else near + FAR_LOOKUP_COST


def restart_cost(table: Table) -> float:
    """Of running a scan of the table anew, as the inner side of a nested loop."""
    return RESTART_COST if table.sharding is None else RESTART_COST + FAR_CALL_COST


def disabled_ways(settings: Mapping[str, str]) -> Disabled:
    """Which ways to do things a session's settings rule out."""
    switched_off = [name for name in SWITCHES if settings.get(f"enable_{name}") == "off"]
    return frozenset([*switched_off, BELIEVED] if settings.get("constraint_exclusion") == "on" else switched_off)
