"""SERIALIZABLE on one node: whatever lies in one range or in several, what was read still holds at the commit timestamp."""

from __future__ import annotations

from typing import Any

import pytest
from pydistdb.kv.api import Isolation, LockStrength, ReadConflict
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.txn import read_set
from pydistdb.kv.txn.coordinator import Coordinator
from pydistdb.kv.txn.read_set import ReadSet
from pydistdb.kv.txn.serializable import SerializableCoordinator
from pydistdb.tasks import sleep

from tests.support.one_node import OneNode

RC = Isolation.READ_COMMITTED
RR = Isolation.REPEATABLE_READ
SERIALIZABLE = Isolation.SERIALIZABLE
A, B, C, D, X, Y = (b"\x04" + letter for letter in (b"a", b"b", b"c", b"d", b"x", b"y"))


@pytest.fixture(params=["one range", "a range per key"])
def node(request: pytest.FixtureRequest) -> OneNode:
    made = OneNode()
    made.run(made.gateway.ingest([(key, b"50") for key in (A, B, X, Y)]))
    if request.param != "one range":
        made.run(made.gateway.split([A, B, C, D, X, Y]))
    return made


def begin(node: OneNode) -> Coordinator:
    txn = node.gateway.begin(SERIALIZABLE)
    txn.begin_statement()
    return txn


def read(node: OneNode, txn: Coordinator, *keys: bytes) -> list[bytes | None]:
    return node.run(txn.get_many(keys))


def scan(node: OneNode, txn: Coordinator, start: bytes, end: bytes) -> list[bytes]:
    return node.run(txn.scan(start, end, limit=100)).keys


def put(node: OneNode, key: bytes, value: bytes) -> None:
    txn = node.gateway.begin(RC)
    txn.put(key, value)
    node.run(txn.commit())


def test_write_skew_fails(node: OneNode) -> None:
    first, second = begin(node), begin(node)
    assert read(node, first, X, Y) == read(node, second, X, Y) == [b"50", b"50"]
    first.put(X, b"-30")
    second.put(Y, b"-30")
    node.run(first.commit())
    with pytest.raises(ReadConflict):
        node.run(second.commit())
    assert not node.gateway.active


def test_of_write_skew_at_the_same_moment_one_gets_through(node: OneNode) -> None:
    node.store.delay_ns = 1_000_000
    first, second = begin(node), begin(node)
    for txn, key in ((first, X), (second, Y)):
        read(node, txn, X, Y)
        txn.put(key, b"-30")
    commits = [node.scheduler.spawn(txn.commit()) for txn in (first, second)]
    node.advance(5)
    errors = [commit.completion.error() for commit in commits]
    assert sum(error is None for error in errors) == 1, errors
    assert sum(isinstance(error, ReadConflict) for error in errors) == 1


def test_write_skew_by_predicate_fails(node: OneNode) -> None:
    first, second = begin(node), begin(node)
    assert scan(node, first, C, X) == scan(node, second, C, X) == []
    first.insert(C, b"1")
    second.insert(D, b"1")
    node.run(first.commit())
    with pytest.raises(ReadConflict):
        node.run(second.commit())


def test_a_deleted_row_is_missed(node: OneNode) -> None:
    txn, other = begin(node), node.gateway.begin(RC)
    assert scan(node, txn, A, C) == [A, B]
    txn.put(X, b"2")
    other.delete(B)
    node.run(other.commit())
    with pytest.raises(ReadConflict):
        node.run(txn.commit())


def test_what_was_not_read_may_change(node: OneNode) -> None:
    txn = begin(node)
    read(node, txn, A, D)
    scan(node, txn, X, Y)
    txn.put(X, b"2")
    put(node, B, b"7")
    put(node, Y, b"7")
    node.run(txn.commit())


def test_the_read_only_anomaly_is_none(node: OneNode) -> None:
    """Fekete, O'Neil & O'Neil 2004: a reader sees the deposit, but not the fee that was decided on before it."""
    fee = begin(node)
    assert read(node, fee, X, Y) == [b"50", b"50"]
    deposit = begin(node)
    read(node, deposit, Y)
    deposit.put(Y, b"70")
    node.run(deposit.commit())
    reader = begin(node)
    assert read(node, reader, X, Y) == [b"50", b"70"]
    node.run(reader.commit())
    fee.put(X, b"-11")
    with pytest.raises(ReadConflict):
        node.run(fee.commit())


def test_a_transaction_that_writes_nothing_never_fails(node: OneNode) -> None:
    txn = begin(node)
    assert read(node, txn, X) == [b"50"]
    put(node, X, b"60")
    assert read(node, txn, X, Y) == [b"50", b"50"]
    node.run(txn.lock([Y], LockStrength.UPDATE))
    node.run(txn.commit())


def test_own_writes_are_no_conflict(node: OneNode) -> None:
    txn = begin(node)
    read(node, txn, X, C)
    txn.put(X, b"1")
    txn.insert(C, b"1")
    assert scan(node, txn, A, Y) == [A, B, C, X]
    node.run(txn.commit())
    assert read(node, begin(node), X, C) == [b"1", b"1"]


def test_what_a_cursor_reads_counts(node: OneNode) -> None:
    txn = begin(node)
    cursor = txn.snapshot()
    assert scan(node, cursor, A, C) == [A, B]
    txn.put(X, b"1")
    put(node, B, b"2")
    with pytest.raises(ReadConflict):
        node.run(txn.commit())


def test_an_open_intent_of_another_does_not_hold_up_a_commit_across_ranges() -> None:
    node = OneNode()
    node.run(node.gateway.ingest([(A, b"1"), (X, b"1")]))
    node.run(node.gateway.split([B]))
    other = node.gateway.begin(RC)
    other.put(A, b"2")
    other.put(X, b"2")
    node.run(other._lay_down(other._buffer, []))
    txn = begin(node)
    assert read(node, txn, A, X) == [b"1", b"1"]
    txn.put(C, b"1")
    timestamp = node.run(txn.commit())
    assert node.run(_decide(other)) > timestamp
    with pytest.raises(ReadConflict):  # the other way round: now it has been decided
        again = begin(node)
        again.read_timestamp = timestamp
        read(node, again, A)
        again.put(D, b"1")
        node.run(again.commit())


async def _decide(txn: Coordinator) -> int:
    assert txn._two_phase is not None
    return await txn._two_phase.decide()


def test_a_reader_pushes_a_transaction_that_has_validated(node: OneNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read above the timestamp that a transaction validated at makes it validate again, above the read."""
    if len(node.store.replicas) == 1:
        pytest.skip("commits in one phase")
    txn = begin(node)
    read(node, txn, A, B)
    txn.put(X, b"1")
    txn.put(Y, b"1")
    validated: list[int] = []
    readers: list[Coordinator] = []
    validate = txn._validate

    async def validate_and_be_read(timestamp: int) -> None:
        await validate(timestamp)
        validated.append(timestamp)
        reader = node.gateway.begin(RR)
        reader.begin_statement()
        readers.append(reader)
        if len(readers) == 1:
            assert await reader.get_many([X, Y]) == [b"50", b"50"]

    monkeypatch.setattr(SerializableCoordinator, "_validate", lambda _, timestamp: validate_and_be_read(timestamp))
    timestamp = node.run(txn.commit())
    assert len(validated) == 2 and timestamp == validated[1] > readers[0].read_timestamp
    assert read(node, readers[0], X, Y) == [b"50", b"50"]


def test_a_reader_waits_for_a_transaction_that_was_pushed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    node = OneNode()
    node.run(node.gateway.ingest([(A, b"1"), (X, b"1"), (Y, b"1")]))
    node.run(node.gateway.split([B, Y]))
    txn = begin(node)
    read(node, txn, A)
    txn.put(X, b"2")
    txn.put(Y, b"2")
    validate = txn._validate
    reads: list[Any] = []

    async def slowly(timestamp: int) -> None:
        await validate(timestamp)
        reader = node.gateway.begin(RR)
        reader.begin_statement()
        if not reads:
            reads.append(await reader.get_many([X]))
        else:
            reads.append(node.scheduler.spawn(reader.get_many([X])))
            await sleep(node.scheduler, 100_000_000)
            assert not reads[1].completion.done

    monkeypatch.setattr(SerializableCoordinator, "_validate", lambda _, timestamp: slowly(timestamp))
    node.run(txn.commit())
    node.advance(1)
    assert reads[0] == [b"1"] and reads[1].completion.result() == [b"2"]


def test_a_large_transaction_and_large_reads(node: OneNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydistdb.kv.txn.coordinator.MOST_READS_AT_ONCE", 3)
    txn = begin(node)
    read(node, txn, A, B, X, Y)
    txn.put(X, b"1")
    node.run(txn.commit())
    loser = begin(node)
    read(node, loser, A, B, X, Y)
    loser.put(X, b"2")
    put(node, A, b"1")
    with pytest.raises(ReadConflict):
        node.run(loser.commit())
    assert node.intents() == 0


def test_the_read_set_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_set, "MOST_SPANS", 100)
    reads = ReadSet()
    for number in range(500):
        reads.add_point(b"t%d/%03d" % (number % 2, number))
    spans = reads.spans()
    assert len(spans) <= 200  # points and spans, each
    assert not any(start.startswith(b"t0") and end.startswith(b"t1") for start, end in spans)
    for number in range(500):
        key = b"t%d/%03d" % (number % 2, number)
        assert any(start == key or start <= key < end for start, end in spans)


def test_chunks_of_a_scan_are_one_span() -> None:
    reads = ReadSet()
    reads.add_span(b"a", b"c", 2)
    reads.add_span(b"c", b"f", 2)
    reads.add_span(b"x", b"z", 2)
    reads.add_span(b"t", b"x", 2)
    reads.add_point(b"d")
    reads.add_point(b"f")
    assert reads.spans() == [(b"a", b"f"), (b"f", b""), (b"t", b"z")]
    assert reads.lies_in(b"a", b"z") and not reads.lies_in(b"b", b"z")


def test_only_serializable_transactions_note_what_they_read() -> None:
    node = OneNode()
    gateway: Gateway = node.gateway
    assert type(gateway.begin(RC)) is type(gateway.begin(RR)) is Coordinator
    assert gateway.begin(RR)._reads is None
