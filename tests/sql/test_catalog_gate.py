"""Table locks across nodes: who waits for whom, what a dead or silent node does, deadlocks."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest
from pydistdb.kv.api import Isolation
from pydistdb.sql.catalog.gate import BLOCK_LEASE_NS, TableGate
from pydistdb.sql.errors import LockNotAvailable, SerializationFailure
from pydistdb.tasks import Task

from tests.sql.catalog_nodes import Nodes

T = frozenset({20000})
SECOND = 1_000_000_000


class Owner:
    """Stands for a transaction."""

    def __init__(self, isolation: Isolation = Isolation.READ_COMMITTED) -> None:
        self.isolation = isolation
        self.transaction_id = id(self).to_bytes(16, "big")


def gates(count: int) -> tuple[Nodes, list[TableGate]]:
    nodes = Nodes(count)
    return nodes, [store.gate for store in nodes.stores]


def start(nodes: Nodes, coroutine: Coroutine[Any, None, None]) -> Task[None]:
    return nodes.scheduler.spawn(coroutine)


def test_a_block_waits_for_pins_on_every_node() -> None:
    nodes, (first, second) = gates(2)
    reader, ddl = Owner(), Owner()
    assert second.try_enter(reader, T, writes=False)
    blocking = start(nodes, first.block(ddl, T))
    nodes.scheduler.advance(2 * SECOND)
    assert not blocking.completion.done
    second.leave(reader)
    nodes.scheduler.advance(SECOND)
    assert blocking.completion.done
    assert not second.try_enter(Owner(), T, writes=False)
    assert first.try_enter(ddl, T, writes=True), "the owner itself goes on"


def test_a_shared_block_lets_readers_in() -> None:
    nodes, (first, second) = gates(2)
    reader, writer, ddl = Owner(), Owner(), Owner()
    assert first.try_enter(reader, T, writes=False)
    nodes.run(first.block(ddl, T, exclusive=False))
    assert second.try_enter(Owner(), T, writes=False)
    assert not second.try_enter(writer, T, writes=True)
    nodes.run(first.release(ddl))
    assert second.try_enter(writer, T, writes=True)


def test_a_statement_waits_until_release() -> None:
    nodes, (first, second) = gates(2)
    ddl, statement = Owner(), Owner()
    nodes.run(first.block(ddl, T))
    entering = start(nodes, second.enter(statement, T, False))
    nodes.scheduler.advance(SECOND)
    assert not entering.completion.done
    nodes.run(first.release(ddl))
    nodes.scheduler.advance(1)
    assert entering.completion.done and second.pinned(statement) == T


def test_lock_timeout() -> None:
    nodes, (first, second) = gates(2)
    ddl = Owner()
    nodes.run(first.block(ddl, T))
    deadline_ns = nodes.scheduler.now_ns() + SECOND
    with pytest.raises(LockNotAvailable, match="canceling statement due to lock timeout"):
        nodes.run(second.enter(Owner(), T, False, deadline_ns))
    with pytest.raises(LockNotAvailable):
        nodes.run(second.block(Owner(), T, deadline_ns=nodes.scheduler.now_ns() + SECOND))


def test_a_dead_node_is_left_out_and_a_silent_one_waited_for() -> None:
    nodes, (first, second) = gates(2)
    assert second.try_enter(Owner(), T, writes=True)
    nodes.databases[1].silent = True
    blocking = start(nodes, first.block(Owner(), T))
    nodes.scheduler.advance(20 * SECOND)
    assert not blocking.completion.done
    nodes.databases[1].up = False
    nodes.scheduler.advance(5 * SECOND)
    assert blocking.completion.done


def test_blocks_of_a_node_that_died_lapse() -> None:
    nodes, (first, second) = gates(2)
    nodes.run(first.block(Owner(), T))
    first._held.clear()  # the process is gone: nobody renews
    assert not second.try_enter(Owner(), T, writes=False)
    nodes.scheduler.advance(BLOCK_LEASE_NS + SECOND)
    assert second.try_enter(Owner(), T, writes=False)


def test_blocks_are_renewed_while_their_owner_lives() -> None:
    nodes, (first, second) = gates(2)
    ddl = Owner()
    nodes.run(first.block(ddl, T))
    nodes.scheduler.advance(5 * BLOCK_LEASE_NS)
    assert not second.try_enter(Owner(), T, writes=False)
    nodes.run(first.confirm(ddl))
    nodes.run(first.release(ddl))
    assert second.try_enter(Owner(), T, writes=False)


def test_a_commit_is_refused_if_a_block_may_have_lapsed() -> None:
    nodes, (first, _) = gates(2)
    ddl = Owner()
    nodes.run(first.block(ddl, T))
    nodes.databases[1].silent = True
    nodes.scheduler.advance(BLOCK_LEASE_NS)
    with pytest.raises(SerializationFailure):
        nodes.run(first.confirm(ddl))


def test_who_has_a_table_pinned_comes_to_it_again_while_somebody_waits_for_that() -> None:
    nodes, (first, second) = gates(2)
    reader, writer, ddl = Owner(), Owner(), Owner()
    assert second.try_enter(reader, T, writes=False)
    assert second.try_enter(writer, T, writes=True)
    blocking = start(nodes, first.block(ddl, T))
    nodes.scheduler.advance(SECOND // 10)
    assert second.try_enter(reader, T, writes=False)
    assert second.try_enter(writer, T, writes=False)
    assert not second.try_enter(reader, T, writes=True), "a pin for reading is none for writing"
    assert not second.try_enter(Owner(), T, writes=False)
    second.leave(reader)
    second.leave(writer)
    nodes.scheduler.advance(SECOND)
    assert blocking.completion.done


def test_shared_blocks_go_together() -> None:
    nodes, (first, second) = gates(2)
    one, other, exclusive = Owner(), Owner(), Owner()
    nodes.run(first.block(one, T, exclusive=False))
    nodes.run(second.block(other, T, exclusive=False))
    blocking = start(nodes, first.block(exclusive, T))
    nodes.run(first.release(one))
    nodes.scheduler.advance(SECOND)
    assert not second.try_enter(Owner(), T, writes=True)
    assert not blocking.completion.done
    nodes.run(second.release(other))
    nodes.scheduler.advance(SECOND)
    assert blocking.completion.done


def test_ddl_waits_for_a_transaction_that_uses_the_table() -> None:
    nodes = Nodes(2)
    nodes.ddl(0, "create table t (a int)")
    oid = nodes.stores[0].view("postgres", ("public",)).tables()[0].oid
    user = nodes.databases[1].begin(Isolation.READ_COMMITTED)
    assert nodes.stores[1].gate.try_enter(user, frozenset({oid}), writes=True)
    altering = nodes.scheduler.spawn(nodes.execute(0, "alter table t add column b int"))
    nodes.scheduler.advance(2 * SECOND)
    assert not altering.completion.done
    nodes.stores[1].gate.leave(user)
    nodes.scheduler.advance(SECOND)
    assert altering.completion.result() == ["ALTER TABLE"]
    for store in nodes.stores:
        (table,) = store.view("postgres", ("public",)).tables()
        assert [column.name for column in table.columns] == ["a", "b"]
        assert store.gate.try_enter(Owner(), frozenset({oid}), writes=True)


def test_an_old_snapshot_does_not_meet_a_table_that_changed_since() -> None:
    nodes = Nodes(2)
    nodes.ddl(0, "create table t (a int, b int)")
    nodes.ddl(0, "create table u (a int)")
    oids = {table.name: frozenset({table.oid}) for table in nodes.stores[0].view("postgres", ("public",)).tables()}
    gate = nodes.stores[1].gate
    old = Owner(Isolation.REPEATABLE_READ)
    assert gate.try_enter(old, frozenset(), writes=False)
    nodes.ddl(0, "create index on t (b)")
    assert gate.try_enter(old, oids["u"], writes=False)
    with pytest.raises(SerializationFailure):
        gate.try_enter(old, oids["t"], writes=False)
    gate.leave(old)
    assert gate.try_enter(Owner(Isolation.REPEATABLE_READ), oids["t"], writes=False)
    assert gate.try_enter(Owner(), oids["t"], writes=False)


def test_pins_cost_little() -> None:
    import time

    _, (gate,) = gates(1)
    owner = Owner()
    started = time.perf_counter()
    for _ in range(10_000):
        gate.try_enter(owner, T, False)
        gate.leave(owner)
    assert (time.perf_counter() - started) / 10_000 < 20e-6


def test_a_block_that_was_given_up_is_asked_for_again() -> None:
    nodes, (first, second) = gates(2)
    reader, ddl = Owner(), Owner()
    assert second.try_enter(reader, T, writes=False)
    for _ in range(2):  # the first time before a savepoint is rolled back to
        with pytest.raises(LockNotAvailable):
            nodes.run(first.block(ddl, T, deadline_ns=nodes.scheduler.now_ns() + SECOND))
    second.leave(reader)
    nodes.run(first.block(ddl, T))
    assert not second.try_enter(Owner(), T, writes=False)
