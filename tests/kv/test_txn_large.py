"""Transactions larger than the write buffer: early intents, own reads over them, conflicts, resolution in chunks."""

from __future__ import annotations

from typing import Any

import pytest
from pydistdb.kv.api import Isolation, KeyExists, LockStrength
from pydistdb.kv.txn import writing

from tests.support.one_node import OneNode

RC = Isolation.READ_COMMITTED


def key(number: int) -> bytes:
    return b"\x04%08d" % number


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "SPILL_BYTES", 20_000)
    monkeypatch.setattr("pydistdb.kv.txn.two_phase.CHUNK_BYTES", 3_000)
    monkeypatch.setattr("pydistdb.kv.resolution.CHUNK_BYTES", 3_000)
    monkeypatch.setattr("pydistdb.kv.txn.two_phase.MAX_KEPT_KEYS", 100)


async def copy(txn: Any, first: int, count: int, step: int = 1) -> None:
    for number in range(first, first + count * step, step):
        txn.insert(key(number), b"row %d" % number)
        if number % 50 == 0:
            await txn.relieve()


async def count(txn: Any, limit: int = 300, reverse: bool = False) -> int:
    start, end, found = b"\x04", b"\x05", 0
    while True:
        batch = await txn.scan(start, end, limit=limit, reverse=reverse)
        assert batch.keys == sorted(batch.keys, reverse=reverse) and len(batch.keys) <= limit
        found += len(batch.keys)
        if batch.resume is None:
            return found
        if reverse:
            end = batch.resume
        else:
            start = batch.resume


@pytest.mark.parametrize("splits", [[], [key(700), key(1500)]])
def test_copy_spills_reads_its_own_rows_and_commits(splits: list[bytes]) -> None:
    node = OneNode()
    node.store.delay_ns = 200_000
    node.run(node.gateway.split(splits))
    txn = node.gateway.begin(RC)
    txn.begin_statement()
    node.run(copy(txn, 0, 2_000))
    node.advance(0.1)
    assert node.intents() > 500
    before = node.gateway.begin(RC)
    before.begin_statement()
    assert node.run(count(before)) == 0, "others read past the intents without waiting"
    assert node.run(count(txn)) == 2_000 and node.run(count(txn, 77, True)) == 2_000
    assert node.run(txn.get_many([key(3), key(1_999), key(5_000)])) == [b"row 3", b"row 1999", None]
    txn.delete(key(3))
    txn.put(key(4), b"again")
    assert node.run(count(txn)) == 1_999
    node.run(txn.commit())
    after = node.gateway.begin(RC)
    after.begin_statement()
    assert node.run(count(after)) == 1_999, "unresolved intents of a committed transaction are read"
    assert node.run(after.get_many([key(3), key(4)])) == [None, b"again"]
    assert node.run(count(before)) == 0
    node.advance(3)
    assert node.intents() == 0 and node.records() == 0 and not node.gateway.active
    assert node.run(count(after)) == 1_999 and node.run(count(after, 10, True)) == 1_999
    biggest = max(replica.proposals for replica in node.store.replicas)
    assert biggest > 20, "bounded proposals"


def test_rollback_of_a_spilled_transaction() -> None:
    node = OneNode()
    node.store.delay_ns = 200_000
    txn = node.gateway.begin(RC)
    node.run(copy(txn, 0, 1_000))
    txn.rollback()
    node.advance(3)
    assert node.intents() == 0 and not node.gateway.active
    reader = node.gateway.begin(RC)
    reader.begin_statement()
    assert node.run(count(reader)) == 0


def test_a_duplicate_far_away_in_a_spilled_transaction() -> None:
    node = OneNode()
    node.store.delay_ns = 200_000
    txn = node.gateway.begin(RC)

    async def load() -> None:
        await copy(txn, 0, 1_000)
        txn.insert(key(3), b"twice")
        await txn.commit()

    with pytest.raises(KeyExists) as error:
        node.run(load())
    assert error.value.key == key(3)
    node.advance(3)
    assert node.intents() == 0


def test_large_update_under_locks() -> None:
    node = OneNode()
    node.store.delay_ns = 200_000
    node.run(node.gateway.ingest([(key(n), b"old %d" % n) for n in range(1_000)]))
    node.run(node.gateway.split([key(500)]))
    txn = node.gateway.begin(RC)
    txn.begin_statement()

    async def update() -> None:
        for first in range(0, 1_000, 100):
            keys = [key(n) for n in range(first, first + 100)]
            for k, locked in zip(keys, await txn.lock(keys, LockStrength.NO_KEY_UPDATE), strict=True):
                assert locked.value is not None
                txn.put(k, locked.value + b"!")
            await txn.relieve()
        again = await txn.lock([key(1)], LockStrength.UPDATE)
        assert again[0].value == b"old 1!"
        await txn.commit()

    node.run(update())
    node.advance(3)
    reader = node.gateway.begin(RC)
    reader.begin_statement()
    assert node.run(reader.scan(b"\x04", b"\x05", limit=2_000)).values == [b"old %d!" % n for n in range(1_000)]
    assert all(len(local.locks) == 0 for local in node.gateway.leases.all())


def test_a_savepoint_keeps_everything_in_the_buffer() -> None:
    node = OneNode()
    txn = node.gateway.begin(RC)
    mark = txn.savepoint()
    node.run(copy(txn, 0, 1_000))
    assert node.intents() == 0
    txn.rollback_to(mark)
    node.run(txn.commit())
    reader = node.gateway.begin(RC)
    reader.begin_statement()
    assert node.run(count(reader)) == 0


def test_savepoints_that_are_forgotten_let_the_buffer_go() -> None:
    node = OneNode()
    txn = node.gateway.begin(RC)
    txn.begin_statement()
    txn.savepoint()
    node.run(copy(txn, 0, 1_000))
    node.advance(0.1)
    assert node.intents() == 0
    txn.forget_savepoints()
    node.run(copy(txn, 1_000, 100))
    node.advance(0.1)
    assert node.intents() > 500
    mark = txn.savepoint()
    txn.insert(key(5_000), b"x")
    txn.rollback_to(mark)
    node.run(txn.commit())
    after = node.gateway.begin(RC)
    after.begin_statement()
    assert node.run(count(after)) == 1_100


class Canceled(Exception):
    pass


@pytest.mark.parametrize("wait", [0.02, 0.3, 0.7])
def test_a_large_commit_can_be_given_up_until_it_is_decided(wait: float) -> None:
    node = OneNode()
    node.run(node.gateway.split([key(number) for number in range(20, 2_000, 20)]))
    txn = node.gateway.begin(RC)
    for number in range(2_000):
        txn.insert(key(number), b"row %d" % number)
    node.store.delay_ns = 200_000_000
    commit = node.scheduler.spawn(txn.commit())
    node.advance(wait)
    assert txn.is_spilling
    commit.cancel(Canceled())
    node.advance(0.001)
    with pytest.raises(Canceled):
        commit.completion.result()
    node.advance(0.3)
    laid_down = node.intents()
    node.advance(10)
    assert laid_down < 2_000 and node.intents() == node.records() == 0 and not node.gateway.active
    reader = node.gateway.begin(RC)
    reader.begin_statement()
    assert node.run(count(reader)) == 0


def test_a_decision_is_not_interrupted() -> None:
    node = OneNode()
    node.run(node.gateway.split([key(500)]))
    txn = node.gateway.begin(RC)
    for number in range(1_000):
        txn.insert(key(number), b"row %d" % number)
    node.store.delay_ns = 50_000_000
    commit = node.scheduler.spawn(txn.commit())
    spilling = []
    while not commit.completion.done:
        spilling.append(txn.is_spilling)
        node.advance(0.01)
    assert spilling == sorted(spilling, reverse=True) and spilling[0]
    assert spilling.count(False) >= 4, "as long as the record takes"
    assert commit.completion.result() > 0


def test_a_failure_of_any_kind_while_writes_are_laid_down_fails_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    node = OneNode()
    txn = node.gateway.begin(RC)
    for number in range(1_000):
        txn.insert(key(number), b"row %d" % number)
    monkeypatch.setattr(writing.WritingPart, "_lay_down", fail)
    with pytest.raises(ZeroDivisionError):
        node.run(txn.commit())


def test_waiting_for_locks_in_several_ranges_can_be_interrupted() -> None:
    node = OneNode()
    node.run(node.gateway.ingest([(key(number), b"row") for number in range(10)]))
    node.run(node.gateway.split([key(number) for number in range(1, 10)]))
    holder, waiter = node.gateway.begin(RC), node.gateway.begin(RC)
    for txn in (holder, waiter):
        txn.begin_statement()
    node.run(holder.lock([key(3), key(7)], LockStrength.UPDATE))
    waiting = node.scheduler.spawn(waiter.lock([key(number) for number in range(10)], LockStrength.UPDATE))
    node.advance(1)
    assert not waiting.completion.done
    waiting.cancel(Canceled())
    node.advance(0.001)
    with pytest.raises(Canceled):
        waiting.completion.result()
    waiter.rollback()
    holder.rollback()
    node.advance(1)
    assert all(len(local.locks) == 0 for local in node.gateway.leases.all())
