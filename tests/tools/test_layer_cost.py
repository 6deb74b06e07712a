"""The two ways that are timed against each other do the same."""

from __future__ import annotations

from pydistdb_storage import mvcc
from pydistdb_tools.layer_cost import KEYS, _Node


def test_both_ways_write_every_row_and_leave_nothing_behind() -> None:
    node = _Node()
    [local] = node.gateway.leases.all()
    for write in (node.write_bare, node.write):
        before = node.gateway.now()
        node.write_all(write)
        versions = [mvcc.newest_timestamp(node.gateway.leases.latest(), key) for key in node.keys]
        assert len(versions) == KEYS and min(versions) > before
        assert not local.pending.by_key and not len(local.locks)
