"""Rows laid down past the buffer, on keys that nobody else can know: the leaseholder remembers only where they lie."""

from __future__ import annotations

import pytest
from pydistdb.kv.api import Isolation, KVError, LockStrength, ReadConflict
from pydistdb.kv.requests import PrepareFresh, ResolveIntents
from pydistdb.kv.txn.coordinator import Coordinator
from pydistdb_storage.errors import KeyTooLong

from tests.support.one_node import OneNode

RC = Isolation.READ_COMMITTED
ROWS = 900


def key(number: int) -> bytes:
    return b"\x04%08d" % number


def begin(node: OneNode, isolation: Isolation = RC) -> Coordinator:
    txn = node.gateway.begin(isolation)
    txn.begin_statement()
    return txn


async def load(txn: Coordinator, first: int = 0, rows: int = ROWS) -> None:
    """Even numbers only: others may write between."""
    for start in range(first, first + rows, 300):
        await txn.lay_down_fresh([(key(2 * n), b"row %d" % n) for n in range(start, min(start + 300, first + rows))])


async def count(txn: Coordinator) -> int:
    return len((await txn.scan(b"\x04", b"\x05", limit=10_000)).keys)


@pytest.fixture
def node() -> OneNode:
    node = OneNode()
    node.store.delay_ns = 200_000
    return node


def remembered(node: OneNode) -> int:
    return sum(len(local.intents.writes) + len(local.intents.fresh) for local in node.gateway.leases.all())


def test_all_or_nothing_is_seen_and_little_is_remembered(node: OneNode) -> None:
    txn = begin(node)
    node.run(load(txn))
    assert node.intents() == ROWS and remembered(node) == 1
    before = begin(node, Isolation.REPEATABLE_READ)
    assert node.run(count(before)) == 0 and node.run(count(txn)) == ROWS
    node.run(txn.commit())
    after = begin(node)
    assert node.run(count(after)) == ROWS and node.run(count(before)) == 0
    assert node.run(after.get_many([key(6), key(7)])) == [b"row 3", None]
    node.advance(5)
    assert node.intents() == 0 and node.records() == 0 and remembered(node) == 0


def test_rows_of_a_commit_that_is_not_resolved_are_locked_changed_and_read_by_key(node: OneNode) -> None:
    txn = begin(node)
    node.run(load(txn))
    node.run(txn.commit())
    other = begin(node)
    [found] = node.run(other.lock([key(6)], LockStrength.UPDATE))
    assert found.value == b"row 3"
    other.delete(key(6))
    node.run(other.commit())
    reader = begin(node)
    assert node.run(reader.get_many([key(6), key(8)])) == [None, b"row 4"]
    assert node.run(count(reader)) == ROWS - 1


def test_a_key_between_is_nobodys(node: OneNode) -> None:
    """Only the span is remembered, but a writer of another key in it does not wait."""
    txn = begin(node)
    node.run(load(txn))
    other = begin(node)
    node.run(other.lock([key(7)], LockStrength.UPDATE))
    other.put(key(7), b"odd")
    node.run(other.commit(), seconds=0.1)
    txn.rollback()
    node.advance(5)
    assert node.run(count(begin(node))) == 1 and node.intents() == 0 and remembered(node) == 0


@pytest.mark.parametrize("committed", [True, False])
def test_a_split_and_a_new_lease_in_the_middle(node: OneNode, committed: bool) -> None:
    txn = begin(node)
    node.run(load(txn, 0, 400))
    node.run(node.gateway.split([key(300)]))
    node.store.lose_lease(key(0))
    node.store.gain_lease(key(0))
    node.run(load(txn, 400, ROWS - 400))
    node.run(node.gateway.split([key(1_200)]))
    assert node.run(count_all(begin(node))) == 0
    if committed:
        node.run(txn.commit())
    else:
        txn.rollback()
    assert node.run(count_all(begin(node))) == (ROWS if committed else 0)
    node.advance(5)
    assert node.intents() == 0 and remembered(node) == 0


async def count_all(txn: Coordinator) -> int:
    found, start = 0, b"\x04"
    while True:
        batch = await txn.scan(start, b"\x05", limit=10_000)
        found += len(batch.keys)
        if batch.resume is None:
            return found
        start = batch.resume


def test_the_sweep_drops_what_a_dead_gateway_left(node: OneNode) -> None:
    txn = begin(node)
    node.run(load(txn))
    node.restart_gateway()
    node.advance(60)
    assert node.intents() == 0 and remembered(node) == 0
    assert node.run(count(begin(node))) == 0


def test_a_request_may_come_twice(node: OneNode) -> None:
    txn = begin(node)
    node.run(load(txn, 0, 10))
    again = PrepareFresh(txn.transaction_id, key(0), 1, [(key(2 * n), b"row %d" % n) for n in range(10)])
    node.run(node.gateway.router.send(again))
    node.run(txn.commit())
    assert node.run(count(begin(node))) == 10


def test_a_serializable_reader_of_the_table_conflicts(node: OneNode) -> None:
    reader = begin(node, Isolation.SERIALIZABLE)
    assert node.run(count(reader)) == 0
    reader.put(b"\x06", b"seen none")
    txn = begin(node)
    node.run(load(txn, 0, 10))
    node.run(txn.commit())
    with pytest.raises(ReadConflict):
        node.run(reader.commit())


def test_clearing_the_table_forgets_its_rows(node: OneNode) -> None:
    txn = begin(node)
    node.run(load(txn))
    node.run(txn.commit())
    node.run(node.gateway.clear_range(b"\x04", b"\x05"))
    node.advance(5)
    assert node.run(count(begin(node))) == 0 and node.intents() == 0 and remembered(node) == 0


def test_what_is_too_long_or_too_late_is_refused(node: OneNode) -> None:
    txn = begin(node)
    with pytest.raises(KeyTooLong):
        node.run(txn.lay_down_fresh([(b"\x04" * 3_000, b"x")]))
    txn.rollback()
    with pytest.raises(KVError):
        node.run(txn.lay_down_fresh([(key(0), b"x")]))


def test_rows_that_arrive_while_earlier_ones_are_resolved_are_remembered(node: OneNode) -> None:
    """A resolution has seen the first part only; the second is laid down while its own proposal is on its way."""
    txn = begin(node)
    node.run(load(txn, 0, 10))
    on_its_way = node.scheduler.spawn(load(txn, 10, 10))
    resolved = ResolveIntents(txn.transaction_id, 0, b"\x04", b"\x05")
    node.scheduler.spawn(node.gateway.router.send(resolved))
    while not on_its_way.completion.done:
        node.advance(0.00005)
    assert node.intents() == 0 or remembered(node) == 1
    node.advance(1)
    assert node.intents() == 0 or remembered(node) == 1
    txn.rollback()
    node.advance(5)
    assert node.intents() == 0 and remembered(node) == 0


def test_rows_that_arrive_behind_a_resolution_are_remembered(node: OneNode) -> None:
    """Somebody resolves the transaction while its rows are on their way: what is laid down after all is not forgotten."""
    txn = begin(node)
    on_its_way = node.scheduler.spawn(load(txn, 0, 10))
    resolved = ResolveIntents(txn.transaction_id, 0, b"\x04", b"\x05")
    node.run(node.gateway.router.send(resolved), seconds=0.0001)
    node.advance(0.1)
    assert on_its_way.completion.done
    assert node.intents() == 10 and remembered(node) == 1
    txn.rollback()
    node.advance(5)
    assert node.intents() == 0 and remembered(node) == 0
