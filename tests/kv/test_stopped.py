"""Tasks that are told to stop wherever they wait (a statement's timeout, a scan whose sibling failed): they stop, and nobody
else waits for what they have left behind."""

from __future__ import annotations

from typing import Any

import pytest
from pydistdb.kv.api import LockStrength, OutcomeUnknown, WaitPolicy
from pydistdb.kv.descriptor import COUNTER_PREFIX
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.range_local import RangeLocal
from pydistdb.kv.requests import BLIND, Prepare
from pydistdb.kv.txn import prepared
from pydistdb.kv.txn.two_phase import TwoPhase
from pydistdb.kv.writes import Writer
from pydistdb.tasks import Completion, Task
from pydistdb_storage.engine import Space

from tests.kv.test_changes import ChangeWorld, raise_all
from tests.kv.test_fragments import FragmentWorld, total_of
from tests.kv.test_txn_cluster import RC, World, account, leader_of, register

ROW = register(0)
UPDATE = LockStrength.UPDATE


class ToldToStop(Exception):
    """What the tasks here are given."""


def led_here(world: World, key: bytes) -> tuple[Gateway, RangeLocal]:
    gateway = world.gateways[leader_of(world, key)]
    local = gateway.leases.find(key)
    assert local is not None
    return gateway, local


def stop(world: World, task: Task[Any]) -> None:
    assert not task.completion.done
    error = ToldToStop()
    task.cancel(error)
    world.cluster.wait_until(lambda: task.completion.done, 5)
    assert task.completion.error() is error


def withheld(monkeypatch: pytest.MonkeyPatch) -> list[Completion[None]]:
    """What those who propose something from now on wait for, in place of the outcome, which nobody learns of."""
    kept: list[Completion[None]] = []
    propose = RangeLocal.propose

    def kept_from(self: RangeLocal, writes: object, *rest: object) -> Completion[None]:
        proposed = propose(self, writes, *rest)  # type: ignore[arg-type]
        if not writes:
            return proposed  # it finds out what has become of those before
        kept.append(Completion())
        return kept[-1]

    monkeypatch.setattr(RangeLocal, "propose", kept_from)
    return kept


def test_a_sequence_whose_user_stops_while_the_outcome_is_not_known_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement timed out in nextval() while its range did not answer: nobody ever learnt what had become of the proposal,
    and every nextval() of the sequence waited until the lease moved."""
    world = World(31)
    cluster = world.cluster
    cluster.advance(10)  # for leases to be where they stay
    gateway, local = led_here(world, COUNTER_PREFIX)
    unknown = withheld(monkeypatch)
    task = cluster.scheduler.spawn(gateway.allocate_ids(b"numbers"))
    cluster.wait_until(lambda: bool(unknown), 5)
    first = unknown.pop()
    stop(world, task)
    first.fail(OutcomeUnknown("the range did not answer in time"))
    again = cluster.scheduler.spawn(gateway.allocate_ids(b"numbers"))
    cluster.wait_until(lambda: bool(unknown), 5)
    assert gateway.leases.find(COUNTER_PREFIX) is local
    unknown.pop().set(None)
    cluster.wait_until(lambda: again.completion.done, 5)
    assert again.completion.result() == 2


def test_locks_that_a_stopped_commit_came_to_hold_are_released(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(32)
    cluster = world.cluster
    gateway, local = led_here(world, ROW)
    txn = gateway.begin(RC)
    txn.put(ROW, b"1")
    txn.put(register(1), b"1")

    async def holds(self: Writer, local: RangeLocal, request: object, *_: object) -> None:
        assert local.locks.try_acquire(txn.transaction_id, ROW, 4)
        await Completion[None]()

    monkeypatch.setattr(Writer, "_make_way", holds)
    task = cluster.scheduler.spawn(txn.commit())
    assert local.locks.owner_count == 1
    stop(world, task)
    assert not local.locks.owner_count
    assert not gateway.active


def test_a_transaction_that_is_stopped_while_it_becomes_prepared_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(33)
    cluster = world.cluster
    gateway, _ = led_here(world, ROW)
    txn = gateway.begin(RC)
    txn.put(ROW, b"1")
    keep = TwoPhase.keep

    async def never(self: TwoPhase) -> None:
        await keep(self)
        await Completion[None]()

    monkeypatch.setattr(TwoPhase, "keep", never)
    task = cluster.scheduler.spawn(txn.prepare("name", b""))
    cluster.advance(1)
    stop(world, task)
    cluster.advance(5)
    assert not gateway.active
    assert not cluster.run(gateway.prepared_transactions())
    reader = gateway.begin(RC)
    reader.begin_statement()
    assert cluster.run(reader.get_many([ROW])) == [b"0"]


def test_a_transaction_whose_prepare_is_stopped_stays_committed_if_it_was_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was withdrawn: what it had laid down was dropped."""
    world = World(33)
    cluster = world.cluster
    gateway, _ = led_here(world, ROW)
    other = world.gateways[gateway.node_id % 3 + 1]
    txn = gateway.begin(RC)
    txn.put(ROW, b"1")
    keep = TwoPhase.keep

    async def kept_and_finished(self: TwoPhase) -> None:
        await keep(self)
        await other.finish_prepared("name", True, lambda found: None)
        await Completion[None]()

    async def later(*_: object) -> None:
        await Completion[None]()

    monkeypatch.setattr(TwoPhase, "keep", kept_and_finished)
    monkeypatch.setattr(prepared, "_resolve", later)
    task = cluster.scheduler.spawn(txn.prepare("name", b""))
    cluster.advance(1)
    stop(world, task)
    cluster.advance(5)
    assert not gateway.active
    reader = gateway.begin(RC)
    reader.begin_statement()
    assert cluster.run(reader.get_many([ROW])) == [b"1"]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_locks_of_a_stopped_statement_are_given_back_at_the_savepoint_before_it(elsewhere: bool) -> None:
    """Of two rows it had locked one and waited for the other: it held both, until its transaction ended."""
    world = World(38)
    cluster, run = world.cluster, world.cluster.run
    cluster.advance(10)
    gateway, _ = led_here(world, ROW)
    other_row = register(1)
    if elsewhere:
        gateway = world.gateways[gateway.node_id % 3 + 1]
    holder, txn, third = (gateway.begin(RC) for _ in range(3))
    for each in (holder, txn, third):
        each.begin_statement()
    run(holder.lock([other_row], UPDATE))
    mark = txn.savepoint()
    task = cluster.scheduler.spawn(txn.lock([ROW, other_row], UPDATE))
    cluster.advance(0.5)
    stop(world, task)
    txn.rollback_to(mark, release_locks=True)
    holder.rollback()
    cluster.advance(0.5)
    run(third.lock([ROW, other_row], UPDATE, WaitPolicy.NOWAIT))
    third.rollback()
    cluster.advance(0.5)
    run(txn.lock([ROW, other_row], UPDATE))
    txn.put(ROW, b"1")
    run(txn.commit())


def test_intents_are_forgotten_that_a_stopped_task_has_cleared() -> None:
    world = World(34)
    cluster = world.cluster
    gateway, local = led_here(world, ROW)
    cluster.run(gateway.router.send(Prepare(b"x" * 16, ROW, 1, [(ROW, b"5", BLIND)])))
    assert local.intents
    task = cluster.scheduler.spawn(gateway.clear_range(ROW, ROW + b"\0"))
    stop(world, task)
    cluster.wait_until(lambda: not any(local.replica.owner.engine.latest().scan(Space.INTENTS, ROW, ROW + b"\0")), 5)
    cluster.advance(0.1)
    assert not local.intents


def test_a_fragment_that_waits_for_a_row_stops() -> None:
    """It went on with the rows themselves."""
    world = FragmentWorld(35)
    gateway, local = led_here(world, account(0))
    group = local.pending.add(b"y" * 16, [account(0)], 1)
    txn = gateway.begin(RC)
    txn.begin_statement()
    task = world.cluster.scheduler.spawn(total_of(txn))
    stop(world, task)
    local.pending.remove(group)


@pytest.mark.parametrize("lays_down", [False, True])
def test_a_change_that_waits_for_a_row_stops(lays_down: bool) -> None:
    world = ChangeWorld(36)
    gateway, local = led_here(world, account(0))
    group = local.pending.add(b"y" * 16, [account(0)], 1)
    txn = gateway.begin(RC)
    txn.begin_statement()
    task = world.cluster.scheduler.spawn(raise_all(txn, lays_down=lays_down))
    stop(world, task)
    local.pending.remove(group)


def test_a_change_that_is_laying_its_rows_down_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its statement was told that its transaction had been aborted, and began anew."""
    world = ChangeWorld(37)
    gateway, _ = led_here(world, account(0))
    txn = gateway.begin(RC)
    txn.begin_statement()
    unknown = withheld(monkeypatch)
    task = world.cluster.scheduler.spawn(raise_all(txn, lays_down=True))
    assert len(unknown) == 1
    stop(world, task)
