"""Transactions on one node: snapshots, own writes, locks, conflicts, two-phase commit and its crash points."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.msgpack import Decoder
from pydistdb.kv.answers import Locked, LockedAfterWaits, TransactionState
from pydistdb.kv.api import (
    Isolation,
    KeyExists,
    LockNotAvailable,
    LockStrength,
    SerializationConflict,
    TransactionAborted,
    WaitPolicy,
)
from pydistdb.kv.requests import ClearRange, PushTransaction
from pydistdb.kv.transport import decode_message, encode_message
from pydistdb_storage.engine import Space

from tests.support.one_node import OneNode

RC = Isolation.READ_COMMITTED
RR = Isolation.REPEATABLE_READ
A, B, C, D, X, Y = (b"\x04" + letter for letter in (b"a", b"b", b"c", b"d", b"x", b"y"))


def node_with(**values: bytes) -> OneNode:
    node = OneNode()
    node.run(node.gateway.ingest([(b"\x04" + name.encode(), value) for name, value in values.items()]))
    return node


def get(node: OneNode, *keys: bytes) -> list[bytes | None]:
    txn = node.gateway.begin(RC)
    txn.begin_statement()
    return node.run(txn.get_many(keys))


def split(node: OneNode, *keys: bytes) -> None:
    node.run(node.gateway.split(keys))


def test_reads_overlay_own_writes_and_keep_their_snapshot() -> None:
    node = node_with(a=b"1", b=b"2", c=b"3")
    writer, reader = node.gateway.begin(RC), node.gateway.begin(RR)
    reader.begin_statement()
    writer.begin_statement()
    writer.put(B, b"two")
    writer.delete(C)
    writer.insert(D, b"4")
    for _ in range(2):
        assert writer.try_get(B) == b"two" and writer.try_get(C) is None
        assert node.run(writer.scan(A, b"\x05", limit=10)) == ([A, B, D], [b"1", b"two", b"4"], None)
        assert node.run(writer.scan(A, b"\x05", limit=2, reverse=True)) == ([D, B], [b"4", b"two"], B)
        assert node.run(writer.scan(b"", b"\xff\xff", limit=2)).keys == [A, B]
        split(node, B, C)
    assert node.run(reader.get_many([B])) == [b"2"]
    node.run(writer.commit())
    assert get(node, A, B, C, D) == [b"1", b"two", None, b"4"]
    assert reader.try_get(A) == b"1" and node.run(reader.get_many([C, D])) == [b"3", None]


def test_insert_finds_the_row_that_is_there() -> None:
    node = node_with(a=b"1")
    txn = node.gateway.begin(RC)
    txn.insert(A, b"x")
    with pytest.raises(KeyExists):
        node.run(txn.commit())
    deleter = node.gateway.begin(RC)
    deleter.delete(A)
    node.run(deleter.commit())
    again = node.gateway.begin(RC)
    again.insert(A, b"x")
    with pytest.raises(KeyExists):
        again.insert(A, b"y")
    node.run(again.commit())
    assert get(node, A) == [b"x"]
    assert not node.gateway.active


def test_a_reader_waits_for_a_pending_write_only_if_it_could_see_it() -> None:
    node = node_with(a=b"1")
    early = node.gateway.begin(RR)
    early.begin_statement()
    node.store.hold = True
    writer = node.gateway.begin(RC)
    writer.put(A, b"2")
    commit = node.scheduler.spawn(writer.commit())
    late = node.gateway.begin(RR)
    late.begin_statement()
    assert node.run(early.get_many([A])) == [b"1"]
    reads = [node.scheduler.spawn(late.get_many([A])), node.scheduler.spawn(late.scan(A, B, limit=5))]
    node.advance(1)
    assert not any(read.completion.done for read in reads)
    node.store.replicas[0].apply_next()
    node.advance(0)
    assert commit.completion.done
    assert reads[0].completion.result() == [b"2"] and reads[1].completion.result().values == [b"2"]


def test_a_lost_proposal_is_made_again() -> None:
    node = node_with(a=b"1")
    node.store.hold = True
    writer = node.gateway.begin(RC)
    writer.put(A, b"2")
    commit = node.scheduler.spawn(writer.commit())
    node.store.replicas[0].drop_next()
    node.store.hold = False
    node.run(_wait(commit))
    assert get(node, A) == [b"2"]


async def _wait(task: Any) -> Any:
    return await task.completion


@pytest.mark.parametrize("applied", [True, False])
def test_a_commit_whose_lease_went_away_learns_its_fate(applied: bool) -> None:
    node = node_with(a=b"1")
    node.store.hold = True
    writer = node.gateway.begin(RC)
    writer.insert(B, b"2")
    commit = node.scheduler.spawn(writer.commit())
    node.store.lose_lease(A, apply=applied)
    node.store.hold = False
    node.scheduler.call_at(node.scheduler.now_ns() + 10**9, lambda: node.store.gain_lease(A))
    timestamp = node.run(_wait(commit))
    assert timestamp and get(node, B) == [b"2"]


def test_row_locks_queue_and_conflicts_show() -> None:
    node = node_with(a=b"1")
    first, second, third = (node.gateway.begin(RC) for _ in range(3))
    for txn in (first, second, third):
        txn.begin_statement()
    assert node.run(first.lock([A], LockStrength.NO_KEY_UPDATE)) == [(b"1", False, False)]
    assert node.run(third.lock([A], LockStrength.KEY_SHARE)) == [(b"1", False, False)]
    waiting = node.scheduler.spawn(second.lock([A], LockStrength.UPDATE))
    with pytest.raises(LockNotAvailable):
        node.run(node.gateway.begin(RC).lock([A], LockStrength.UPDATE, WaitPolicy.NOWAIT))
    [skipped] = node.run(node.gateway.begin(RC).lock([A], LockStrength.SHARE, WaitPolicy.SKIP_LOCKED))
    assert skipped.skipped
    first.put(A, b"2")
    node.run(first.commit())
    node.advance(0.1)
    assert not waiting.completion.done, "KEY SHARE blocks FOR UPDATE"
    third.rollback()
    node.advance(0.1)
    assert waiting.completion.result() == [(b"2", True, False)]
    strict = node.gateway.begin(RR)
    strict.begin_statement()
    second.put(A, b"3")
    node.run(second.commit())
    with pytest.raises(SerializationConflict):
        node.run(strict.lock([A], LockStrength.UPDATE))
    strict.rollback()
    assert len(node.gateway.leases.all()[0].locks) == 0


def test_lock_timeout() -> None:
    node = node_with(a=b"1")
    holder, waiter = node.gateway.begin(RC), node.gateway.begin(RC)
    node.run(holder.lock([A], LockStrength.UPDATE))
    waiter.lock_timeout_ns = 300_000_000
    with pytest.raises(LockNotAvailable, match="lock timeout"):
        node.run(waiter.lock([A], LockStrength.UPDATE))
    assert not node.gateway.leases.all()[0].locks.queued


def test_locks_lost_with_the_lease_cannot_lose_an_update() -> None:
    node = node_with(a=b"1")
    slow = node.gateway.begin(RC)
    node.run(slow.lock([A], LockStrength.UPDATE))
    node.store.lose_lease(A)
    node.store.gain_lease(A)
    fast = node.gateway.begin(RC)
    node.run(fast.lock([A], LockStrength.UPDATE))
    fast.put(A, b"fast")
    node.run(fast.commit())
    slow.put(A, b"slow")
    with pytest.raises(SerializationConflict):
        node.run(slow.commit())
    assert get(node, A) == [b"fast"]


@pytest.mark.parametrize("lost_by", ["who removes", "who adds"])
def test_a_lost_lock_fails_its_transaction_though_nobody_has_changed_the_row(lost_by: str) -> None:
    """As a foreign key does: a child locks its parent, who removes a parent locks it and looks for children.  A shared lock
    leaves no version behind, so neither can see that the other was there while its own lock was gone."""
    node = node_with(a=b"parent")
    adds, removes = node.gateway.begin(RC), node.gateway.begin(RC)

    def remove() -> None:
        node.run(removes.lock([A], LockStrength.UPDATE))
        removes.begin_statement()
        assert node.run(removes.get_many([B])) == [None]
        removes.delete(A)

    def add() -> None:
        assert node.run(adds.lock([A], LockStrength.KEY_SHARE))[0].value == b"parent"
        adds.insert(B, b"child")

    first, second = (remove, add) if lost_by == "who removes" else (add, remove)
    first()
    node.store.lose_lease(A)
    node.store.gain_lease(A)
    second()
    winner, loser = (adds, removes) if lost_by == "who removes" else (removes, adds)
    node.run(winner.commit())
    with pytest.raises(SerializationConflict):
        node.run(loser.commit())
    assert get(node, A, B) == ([b"parent", b"child"] if winner is adds else [None, None])


def test_a_lost_lock_is_not_mended_by_locking_again() -> None:
    node = node_with(a=b"1")
    txn = node.gateway.begin(RC)
    node.run(txn.lock([A], LockStrength.KEY_SHARE))
    node.store.lose_lease(A)
    node.store.gain_lease(A)
    with pytest.raises(SerializationConflict):
        node.run(txn.lock([A], LockStrength.UPDATE))
    txn.rollback()
    with pytest.raises(SerializationConflict):
        remote = node.gateway.begin(RC)
        node.run(remote.lock([A, B], LockStrength.KEY_SHARE))
        node.store.lose_lease(A)
        node.store.gain_lease(A)
        node.run(remote.lock([A, B], LockStrength.UPDATE))
    remote.rollback()


def test_a_commit_waits_for_locks_of_others_on_keys_it_did_not_lock() -> None:
    node = node_with(a=b"1")
    holder, inserter = node.gateway.begin(RC), node.gateway.begin(RC)
    node.run(holder.lock([B], LockStrength.UPDATE))
    inserter.insert(B, b"mine")
    commit = node.scheduler.spawn(inserter.commit())
    node.advance(0.5)
    assert not commit.completion.done
    holder.put(B, b"theirs")
    node.run(holder.commit())
    with pytest.raises(KeyExists):
        node.run(_wait(commit))


def test_waits_for_locks_are_counted_for_who_wants_to_know() -> None:
    node = node_with(a=b"1", b=b"1")
    holder, waiter = node.gateway.begin(RC), node.gateway.begin(RC)
    node.run(holder.lock([A], LockStrength.UPDATE))
    waiter.lock_waits = {}
    waits = node.scheduler.spawn(waiter.lock([A, B], LockStrength.UPDATE))
    node.advance(0.5)
    node.run(holder.commit())
    node.run(_wait(waits))
    [(number, seconds)] = [(each.waits, each.seconds) for each in waiter.lock_waits.values()]
    assert number == 1 and seconds == pytest.approx(0.5, abs=0.1)
    node.run(waiter.lock([B], LockStrength.UPDATE))
    assert [each.waits for each in waiter.lock_waits.values()] == [1]


def test_answers_tell_of_waits_only_where_there_were_some() -> None:
    plain, late = Locked([b"v"], [7]), LockedAfterWaits([b"v"], [7], waits=2, waited_ns=5)
    assert len(encode_message(plain)) < len(encode_message(late))
    assert decode_message(encode_message(late)) == late
    told = decode_message(encode_message(plain))
    assert isinstance(told, LockedAfterWaits) and (told.waits, told.versions) == (0, [7])
    assert Decoder(Locked).decode(encode_message(late)) == plain, "an older release"


def two_ranges() -> OneNode:
    node = node_with(a=b"1", x=b"1")
    split(node, b"\x04m")
    return node


def test_two_phase_commit_is_atomic_and_cleans_up() -> None:
    node = two_ranges()
    node.store.delay_ns = 1_000_000
    txn = node.gateway.begin(RC)
    node.run(txn.lock([A, X], LockStrength.UPDATE))
    txn.put(A, b"2")
    txn.put(X, b"2")
    txn.insert(Y, b"new")
    node.run(txn.commit())
    assert get(node, A, X, Y) == [b"2", b"2", b"new"], "at once, while the intents are still there"
    node.advance(1)
    assert node.intents() == 0 and node.records() == 0 and not node.gateway.active
    assert get(node, A, X, Y) == [b"2", b"2", b"new"]
    for local in node.gateway.leases.all():
        assert not local.intents and len(local.locks) == 0


def test_two_phase_commit_that_fails_in_one_range_leaves_nothing() -> None:
    node = two_ranges()
    txn = node.gateway.begin(RC)
    txn.put(A, b"2")
    txn.insert(X, b"2")
    with pytest.raises(KeyExists):
        node.run(txn.commit())
    node.advance(1)
    assert get(node, A, X) == [b"1", b"1"]
    assert node.intents() == 0 and not node.gateway.active


def test_conditions_in_another_range_hold_until_the_commit() -> None:
    node = two_ranges()
    child, other_child, parent = (node.gateway.begin(RC) for _ in range(3))
    for txn in (child, other_child):
        node.run(txn.lock([A], LockStrength.KEY_SHARE))
    child.insert(Y, b"child of a")
    other_child.insert(b"\x04z", b"child of a")
    parent_lock = node.scheduler.spawn(parent.lock([A], LockStrength.UPDATE))
    node.store.delay_ns = 10_000_000
    commits = [node.scheduler.spawn(txn.commit()) for txn in (child, other_child)]
    node.advance(0.015)
    assert node.intents() >= 4 and not parent_lock.completion.done
    # Even a new leaseholder knows that the parent must stay.
    node.store.lose_lease(A, apply=True)
    node.store.gain_lease(A)
    node.advance(0.001)
    for commit in commits:
        node.run(_wait(commit))
    [locked] = node.run(_wait(parent_lock))
    assert locked.value == b"1"
    parent.delete(A)
    node.run(parent.commit())
    node.advance(1)
    assert node.intents() == 0


@pytest.mark.parametrize("steps", range(1, 8))
def test_a_coordinator_that_dies_leaves_all_or_nothing(steps: int) -> None:
    """Stop the world after some proposals of a two-phase commit, restart the gateway, and look."""
    node = two_ranges()
    node.store.hold = True
    txn = node.gateway.begin(RC)
    txn.put(A, b"2")
    txn.put(X, b"2")
    commit = node.scheduler.spawn(txn.commit())
    for _ in range(steps):
        for replica in node.store.replicas:
            if replica.queue:
                replica.apply_next()
                node.scheduler.run_ready()
                break
    acknowledged = commit.completion.done
    for replica in node.store.replicas:
        replica.queue.clear()
    node.store.hold = False
    node.restart_gateway()
    values = get(node, A, X)
    assert values in ([b"1", b"1"], [b"2", b"2"])
    assert values == [b"2", b"2"] or not acknowledged
    node.advance(400)
    assert node.intents() == 0 and node.records() == 0
    assert get(node, A, X) == values
    later = node.gateway.begin(RC)
    later.put(A, b"3")
    later.put(X, b"3")
    node.run(later.commit())
    assert get(node, A, X) == [b"3", b"3"]


def test_a_push_of_a_dead_coordinator_makes_its_late_commit_fail() -> None:
    node = two_ranges()
    txn = node.gateway.begin(RC)
    txn.put(A, b"2")
    txn.put(X, b"2")
    node.run(txn._lay_down(txn._buffer, []))
    node.gateway.active.clear()  # as a gateway that forgot it would answer
    status = node.run(node.gateway.router.send(PushTransaction(txn.transaction_id, A)))
    assert status.state == TransactionState.ABORTED
    with pytest.raises(TransactionAborted):
        node.run(txn.commit())
    node.advance(1)
    assert get(node, A, X) == [b"1", b"1"] and node.intents() == 0


def test_readers_pass_an_open_transactions_intents_and_writers_wait() -> None:
    node = two_ranges()
    txn = node.gateway.begin(RC)
    txn.put(A, b"2")
    txn.put(X, b"2")
    node.run(txn._lay_down(txn._buffer, []))
    txn._buffer = type(txn._buffer)()
    assert get(node, A, X) == [b"1", b"1"], "a reader pushes the commit above itself"
    assert node.run(txn.get_many([A, X])) == [b"2", b"2"], "own intents"
    assert node.run(txn.scan(A, b"\x05", limit=9)).values == [b"2", b"2"]
    snapshot = node.gateway.begin(RR)
    snapshot.begin_statement()
    assert node.run(snapshot.scan(A, b"\x05", limit=9)).values == [b"1", b"1"]
    writer = node.gateway.begin(RC)
    writer.put(A, b"3")
    blocked = node.scheduler.spawn(writer.commit())
    node.advance(2)
    assert not blocked.completion.done
    node.run(txn.commit())
    node.run(_wait(blocked))
    assert get(node, A, X) == [b"3", b"2"]
    assert node.run(snapshot.get_many([A, X])) == [b"1", b"1"]


def test_deadlock_between_two_rows_kills_the_younger() -> None:
    node = two_ranges()
    older, younger = node.gateway.begin(RC), node.gateway.begin(RC)
    node.run(older.lock([A], LockStrength.UPDATE))
    node.run(younger.lock([X], LockStrength.UPDATE))
    first = node.scheduler.spawn(older.lock([X], LockStrength.UPDATE))
    second = node.scheduler.spawn(younger.lock([A], LockStrength.UPDATE))
    node.advance(2.5)
    assert type(second.completion.error()).__name__ == "DeadlockDetected"
    assert not first.completion.done
    younger.rollback()
    node.advance(0.1)
    assert first.completion.result()[0].value == b"1"


def test_savepoints() -> None:
    node = node_with(a=b"1")
    txn = node.gateway.begin(RC)
    txn.put(A, b"2")
    mark = txn.savepoint()
    txn.put(A, b"3")
    txn.insert(B, b"4")
    assert txn.try_scan(A, C, limit=5).values == [b"3", b"4"]
    txn.rollback_to(mark)
    assert txn.try_scan(A, C, limit=5).values == [b"2"]
    node.run(txn.commit())
    assert get(node, A, B) == [b"2", None]


def test_counters_are_never_handed_out_twice() -> None:
    node = OneNode()
    node.store.delay_ns = 1_000_000
    tasks = [node.scheduler.spawn(node.gateway.allocate_ids(b"oid", 3)) for _ in range(4)]
    assert sorted(node.run(_wait(task)) for task in tasks) == [1, 4, 7, 10]


def test_ranges_and_clear_range() -> None:
    node = node_with(a=b"1", b=b"2", x=b"3")
    split(node, B, b"\x04m")
    assert [(r.start, r.end) for r in node.run(node.gateway.ranges(A, C))] == [(b"", B), (B, b"\x04m")]
    node.run(node.gateway.clear_range(B, b"\x05"))
    assert get(node, A, B, X) == [b"1", None, None]


def test_broadcast_to_itself() -> None:
    node = OneNode()

    async def answer(sender: int, payload: bytes) -> bytes:
        return b"%d:%s" % (sender, payload)

    node.gateway.on_broadcast("t", answer)
    assert node.run(node.gateway.broadcast("t", b"hi", 10**9)) == {1: b"1:hi"}


def test_a_large_span_is_cleared_in_pieces() -> None:
    node = OneNode()
    node.run(node.gateway.ingest([(b"\x04t%06d" % number, b"value") for number in range(10_000)]))
    sizes: list[int] = []

    async def one_piece(start: bytes) -> bytes:
        before = _versions(node)
        cleared = await node.gateway.router.send(ClearRange(start, b"\x04u"))
        sizes.append(before - _versions(node))
        return bytes(cleared.resume)

    assert node.run(one_piece(b"\x04t")) == b"\x04t004000"
    node.run(node.gateway.clear_range(b"\x04t", b"\x04u"))
    assert sizes == [4_000]
    assert _versions(node) == 0


def _versions(node: OneNode) -> int:
    return len(list(node.store.engine.latest().scan(Space.VERSIONS, b"\x04t", b"\x04u")))
