"""How transactions and leases are named, in requests, answers, records and on disk.

A transaction's id orders by age and says which gateway answers for it::

    new_transaction_id(timestamp, node_id=2)  ->  8 bytes of timestamp | 00000002 | 4 bytes of a counter
    begin_of(id) == timestamp;  gateway_of(id) == 2
"""

from __future__ import annotations

import itertools
from struct import Struct
from typing import NamedTuple

from pydistdb.kv.api import Timestamp
from pydistdb.kv.descriptor import NodeId

TransactionId = bytes
"""Begin timestamp (8 bytes) ‖ gateway node (4) ‖ counter (4): orders by age, and names who answers for it."""


NO_TRANSACTION: TransactionId = b""


_counter = itertools.count(1)
_pack_id = Struct(">QII").pack


def new_transaction_id(timestamp: Timestamp, node_id: NodeId) -> TransactionId:
    return _pack_id(timestamp, node_id, next(_counter) & 0xFFFFFFFF)


def begin_of(transaction_id: TransactionId) -> Timestamp:
    """When the transaction began, by its gateway's clock."""
    return int.from_bytes(transaction_id[:8], "big")


def gateway_of(transaction_id: TransactionId) -> NodeId:
    """The node whose gateway coordinates the transaction."""
    return int.from_bytes(transaction_id[8:12], "big")


def shown_id(transaction_id: TransactionId) -> int:
    """The number by which users are told of a transaction."""
    return int.from_bytes(transaction_id[8:], "big")


class LeaseName(NamedTuple):
    """One lease of one range with its bounds as they were: which lock table it was that a lock was in."""

    range_id: int
    epoch: int
    generation: int


NO_LEASE = LeaseName(0, 0, 0)
