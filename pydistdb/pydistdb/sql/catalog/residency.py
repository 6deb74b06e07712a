"""Where tables say that their rows must be: the rules that the placement of replicas goes by.

    SHARD eu VALUES ('de') PLACED IN (region 'eu')      06 group 0000 … 06 group 0001: at region = eu
    SHARD BY REFERENCE                                  04 storage …: on every node

They follow from the catalog, so they change with the transaction that commits the DDL, and each node finds them in its own
copy, which is never older than some seconds.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydistdb_storage.keys import prefix_end

from pydistdb.kv.placement.residency import Rule
from pydistdb.sql.catalog.descriptors import Table, table_to_be
from pydistdb.sql.catalog.store import CatalogStore
from pydistdb.sql.layout import storage_prefix


def rules_of(table: Table) -> Iterator[Rule]:
    """What a table says."""
    prefix = storage_prefix(table)
    if table.reference:
        yield Rule(prefix, prefix_end(prefix), everywhere=True)
    elif table.sharding is not None:
        for number, shard in enumerate(table.sharding.shards):
            if shard.placement:
                start = prefix + number.to_bytes(2, "big")
                yield Rule(start, prefix_end(start), shard.placement)


class PlacementRules:
    """The rules of all tables; computed once for each version of the catalog."""

    def __init__(self, store: CatalogStore) -> None:
        self._store = store
        self._version = -1
        self._rules: tuple[Rule, ...] = ()

    def __call__(self) -> tuple[Rule, ...]:
        state = self._store.state
        if state.version != self._version:
            self._version = state.version
            rules = (
                rule
                for database in state.databases.values()
                for table in database.tables.values()
                for each in ([table] if table.resharding is None else [table, table_to_be(table)])
                if each.reference or (each.sharding is not None and each.sharding.shards)
                for rule in rules_of(each)
            )
            found = tuple(dict.fromkeys(rules))  # those of colocated tables are the same
            if found != self._rules:
                self._rules = found
        return self._rules
