"""Prepared transactions on one node: names, limits, what cannot be prepared, and large ones."""

from __future__ import annotations

import pytest
from pydistdb.kv.answers import TransactionState
from pydistdb.kv.api import (
    CannotPrepare,
    Isolation,
    KeyExists,
    LockNotAvailable,
    LockStrength,
    PreparedExists,
    PreparedMissing,
    PreparedTransaction,
    TooManyPrepared,
    WaitPolicy,
)
from pydistdb.kv.locking import Fate
from pydistdb.kv.requests import PushTransaction
from pydistdb.kv.txn.coordinator import Coordinator
from pydistdb.tasks import Completion
from pydistdb_storage.engine import Space

from tests.support.one_node import OneNode

RC = Isolation.READ_COMMITTED


def begin(node: OneNode, isolation: Isolation = RC) -> Coordinator:
    transaction = node.gateway.begin(isolation)
    transaction.begin_statement()
    return transaction


def prepare(node: OneNode, name: str, key: bytes, value: bytes) -> None:
    transaction = begin(node)
    transaction.insert(key, value)
    node.run(transaction.prepare(name, b"facts of " + name.encode()))


def finish(node: OneNode, name: str, commit: bool) -> None:
    node.run(node.gateway.finish_prepared(name, commit, lambda found: None))


def read(node: OneNode, *keys: bytes) -> list[bytes | None]:
    return node.run(begin(node).get_many(list(keys)))


def test_a_name_is_taken_until_its_transaction_is_finished() -> None:
    node = OneNode()
    prepare(node, "one", b"\x04a", b"1")
    assert not node.gateway.active
    with pytest.raises(PreparedExists):
        prepare(node, "one", b"\x04b", b"2")
    [found] = node.run(node.gateway.prepared_transactions())
    assert (found.name, found.facts) == ("one", b"facts of one")
    assert read(node, b"\x04a", b"\x04b") == [None, None]
    finish(node, "one", True)
    assert read(node, b"\x04a", b"\x04b") == [b"1", None]
    with pytest.raises(PreparedMissing):
        finish(node, "one", False)
    prepare(node, "one", b"\x04b", b"2")
    finish(node, "one", False)
    assert read(node, b"\x04a", b"\x04b") == [b"1", None]
    node.scheduler.advance(1_000_000_000)
    assert not list(node.store.engine.latest().scan(Space.INTENTS, b"", b"\xff"))


def test_who_may_not_finish_it_changes_nothing() -> None:
    node = OneNode()
    prepare(node, "one", b"\x04a", b"1")

    def refuse(found: PreparedTransaction) -> None:
        raise KeyExists(found.facts)

    with pytest.raises(KeyExists):
        node.run(node.gateway.finish_prepared("one", True, refuse))
    assert read(node, b"\x04a") == [None]
    finish(node, "one", True)
    assert read(node, b"\x04a") == [b"1"]


def test_who_asks_while_it_is_being_prepared_does_not_take_it_for_committed() -> None:
    """Its node has been silent for too long, and comes back just before its transaction would be ended."""
    node = OneNode()
    server = node.gateway.server
    looked: Completion[None] = Completion()

    async def fate(transaction_id: bytes, *, patient: bool) -> Fate:
        await looked
        return Fate.GONE

    server.locker.fate = fate  # type: ignore[method-assign]
    transaction = begin(node)
    transaction.insert(b"\x04a", b"1")
    asking = node.scheduler.spawn(server.records.push(PushTransaction(transaction.transaction_id, b"\x04a", wait=True)))
    node.scheduler.advance(1_000_000)
    node.run(transaction.prepare("one", b""))
    looked.set(None)
    found = node.scheduler.run_until(asking.completion)
    assert (found.state, found.prepared) == (TransactionState.PENDING, True)
    finish(node, "one", True)
    assert read(node, b"\x04a") == [b"1"]


def test_locks_are_kept_and_given_up() -> None:
    node = OneNode()
    prepare(node, "row", b"\x04a", b"1")
    finish(node, "row", True)
    transaction = begin(node)
    node.run(transaction.lock([b"\x04a"], LockStrength.NO_KEY_UPDATE))
    node.run(transaction.prepare("lock", b""))
    other = begin(node)
    with pytest.raises(LockNotAvailable):
        node.run(other.lock([b"\x04a"], LockStrength.SHARE, WaitPolicy.NOWAIT))
    other.rollback()
    other = begin(node)
    node.run(other.lock([b"\x04a"], LockStrength.KEY_SHARE, WaitPolicy.NOWAIT))
    other.rollback()
    finish(node, "lock", False)
    node.run(begin(node).lock([b"\x04a"], LockStrength.UPDATE, WaitPolicy.NOWAIT))


def test_there_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydistdb.kv.txn.prepared.MAX_PREPARED", 2)
    node = OneNode()
    for number in range(2):
        node.run(begin(node).prepare(f"empty {number}", b""))
    with pytest.raises(TooManyPrepared, match="2"):
        prepare(node, "more", b"\x04a", b"1")
    finish(node, "empty 0", True)
    prepare(node, "more", b"\x04a", b"1")
    finish(node, "more", True)
    assert read(node, b"\x04a") == [b"1"]


def test_what_is_laid_down_early_is_prepared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydistdb.kv.txn.writing.SPILL_BYTES", 2_000)
    node = OneNode()
    keys = [b"\x04%03d" % number for number in range(100)]
    transaction = begin(node)
    for key in keys:
        transaction.insert(key, b"value")
    node.run(transaction.prepare("large", b""))
    assert read(node, *keys) == [None] * 100
    finish(node, "large", True)
    assert read(node, *keys) == [b"value"] * 100


def test_serializable_reads_cannot_be_kept() -> None:
    node = OneNode()
    transaction = begin(node, Isolation.SERIALIZABLE)
    node.run(transaction.get_many([b"\x04a"]))
    transaction.put(b"\x04b", b"1")
    with pytest.raises(CannotPrepare):
        node.run(transaction.prepare("one", b""))
    assert node.run(node.gateway.prepared_transactions()) == []
    assert not node.gateway.active
