"""A table's SHARD BY clause, written as SQL: what pg_class.reloptions, and so pg_dump and \\d+, show as ``shard_by``.

    LIST (region) (SHARD eu VALUES ('de', 'fr') PLACED IN (region 'eu-west'), SHARD rest DEFAULT) COLOCATE IN GROUP users
    DIRECTORY (tenant) SHARDS 4 (SHARD 2 VALUES ('7', '9'))

What colocated tables share is written with each of them, since a dump may be restored in any order, and in parts.
"""

from __future__ import annotations

from pydistdb.sql.catalog.constraints import column_numbered
from pydistdb.sql.catalog.descriptors import ColocationGroup, Shard, Sharding, Table
from pydistdb.sql.types.reg import quote_identifier


def sharding_text(table: Table, group: ColocationGroup | None) -> str | None:
    """The clause that makes it so, without SHARD BY; None for a table without one."""
    if table.reference:
        return "REFERENCE"
    sharding = table.sharding
    if sharding is None:
        return None
    columns = ", ".join(quote_identifier(column_numbered(table, number).name) for number in sharding.columns)
    text = f"{sharding.strategy.upper()} ({columns})"
    match sharding.strategy:
        case "hash":
            return text + (f" SHARDS {group.requested_shards}" if group is not None and group.requested_shards else "")
        case "directory":
            return f"{text} SHARDS {len(sharding.shards)}{_directory_text(sharding)}"
        case "range":
            values = ", ".join(_literal(value) for shard in sharding.shards for value in shard.values)
            text += f" (SPLIT AT VALUES ({values}))"
        case _:
            text += f" ({', '.join(map(_shard_text, sharding.shards))})"
    return text + (f" COLOCATE IN GROUP {quote_identifier(group.name)}" if group is not None else "")


def _directory_text(sharding: Sharding) -> str:
    values: dict[int, list[str]] = {}
    for value, number in sharding.directory:
        values.setdefault(number, []).append(_literal(value))
    assigned = [f"SHARD {number + 1} VALUES ({', '.join(values[number])})" for number in sorted(values)]
    return f" ({', '.join(assigned)})" if assigned else ""


def _shard_text(shard: Shard) -> str:
    what = "DEFAULT" if shard.is_default else f"VALUES ({', '.join(map(_literal, shard.values))})"
    placed = ", ".join(f"{quote_identifier(tier)} {_literal(value)}" for tier, value in shard.placement)
    return f"SHARD {quote_identifier(shard.name)} {what}" + (f" PLACED IN ({placed})" if placed else "")


def _literal(value: str | None) -> str:
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"
