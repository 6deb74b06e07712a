"""What a node knows of others may be out of date: where ranges lie, how transactions stand, and whether anybody still waits
for the answer to a request.  No read may be wrong for it."""

from __future__ import annotations

from typing import Any

import pytest
from pydistdb.kv.api import ReadRestart
from pydistdb.kv.copies import CopyWaiter
from pydistdb.kv.descriptor import meta_key
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.range_cache import RangeCache
from pydistdb.kv.replica import Replica
from pydistdb.kv.requests import BLIND, Prepare, ResolveIntents
from pydistdb.kv.txn.coordinator import Coordinator
from pydistdb.kv.txn.two_phase import TwoPhase
from pydistdb.kv.writes import Writer
from pydistdb.tasks import Completion

from tests.kv.test_fragments import FragmentWorld, total_of
from tests.kv.test_txn_cluster import ACCOUNTS, RC, RR, START_BALANCE, World, account, move_lease, register
from tests.support.cluster import SECOND


def test_a_hole_in_what_is_published_hides_no_rows() -> None:
    """Between a split and the publication of both parts only neighbours may be found where a range lies."""
    world = FragmentWorld(41)
    cluster = world.cluster
    cluster.add("n4")  # finds ranges that it has no replica of only by what is published
    cluster.advance(5)
    missing = next(end for end in (4, 8) if cluster.store("n4").replica_for_key(account(end - 1)) is None)
    cluster.run(cluster.put(meta_key(account(missing)), b""))
    gateway = world.gateways[cluster.nodes["n4"].node_id]

    async def read(reverse: bool) -> tuple[list[bytes], tuple[int, int]]:
        gateway.router.cache = RangeCache()
        txn = gateway.begin(RR)
        txn.begin_statement()
        batch = await txn.scan(account(0), account(999), limit=100, reverse=reverse)
        gateway.router.cache = RangeCache()
        return batch.keys, await total_of(txn, reverse)

    everybody = [account(number) for number in range(ACCOUNTS)]
    total = (ACCOUNTS * START_BALANCE, ACCOUNTS)
    assert cluster.run(read(False)) == (everybody, total)
    assert cluster.run(read(True)) == (everybody[::-1], total)


def test_all_copies_of_a_range_that_was_split_unnoticed_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(47)
    cluster = world.cluster
    cluster.add("n4")
    cluster.advance(5)
    gateway = world.gateways[cluster.nodes["n4"].node_id]
    first = next(n for n in (4, 0, 8) if cluster.store("n4").replica_for_key(account(n)) is None)
    span = (account(first), account(first + 4))
    cluster.run(gateway.await_copies([span], SECOND))  # knows the range now
    cluster.run(world.gateways[1].split([account(first + 2)]))
    asked: set[bytes] = set()
    need = CopyWaiter._need

    def note(waiter: CopyWaiter, key: bytes) -> Replica:
        asked.add(key)
        return need(waiter, key)

    monkeypatch.setattr(CopyWaiter, "_need", note)
    assert cluster.run(gateway.await_copies([span], SECOND)) == []
    assert asked == {account(first), account(first + 2)}
    cluster.network.partition(["n4"], ["n1", "n2", "n3"])
    assert cluster.run(gateway.await_copies([span], SECOND)) != [], "nobody has said that there are any"


def test_that_a_transaction_was_open_once_says_nothing_to_a_later_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """n1 is told that a transaction is open, and will commit above the time of an early reader.  It does, and is acknowledged;
    then somebody begins whose clock is behind that commit, but not behind the first reader: it must see the commit."""

    async def never(two_phase: TwoPhase, commit_timestamp: int) -> None:
        pass

    monkeypatch.setattr(TwoPhase, "resolve", never)
    world = World(43, (0, 0, -90_000))
    cluster = world.cluster
    cluster.advance(10)
    for number in (0, 1, 2):
        move_lease(world, (account(0), register(0), register(2))[number], "n1")
    gateways: list[Gateway] = [world.gateways[cluster.nodes[name].node_id] for name in ("n1", "n2", "n3")]
    writer = gateways[1].begin(RC)
    writer.put(register(0), b"new")
    writer.put(register(2), b"new")
    cluster.run(writer._lay_down(writer._buffer, []))
    assert writer._two_phase is not None

    async def read(reader: Coordinator) -> tuple[list[bytes], list[bytes | None]]:
        while True:
            try:
                batch = await reader.scan(register(0), register(1), limit=10)
                return batch.values, await reader.get_many([register(2)])
            except ReadRestart as restart:
                reader.begin_statement(restart.timestamp)

    cluster.network.partition(["n3"], ["n1", "n2"])  # it is not told the time meanwhile
    cluster.advance(0.05)
    early = gateways[0].begin(RR)
    early.begin_statement()
    assert cluster.run(read(early)) == ([b"0"], [b"0"])
    cluster.run(writer._two_phase.decide())
    late = gateways[2].begin(RR)
    late.begin_statement()
    assert late.read_timestamp < early.read_timestamp, "else this test shows nothing"
    cluster.network.heal()
    assert cluster.run(read(late)) == ([b"new"], [b"new"])


@pytest.mark.parametrize("resolved", [False, True])
def test_a_prepare_that_came_again_meanwhile_lays_nothing_down_any_more(
    resolved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request to prepare waits for another transaction, and its sender asks again.  That request is answered, and the
    transaction committed; then (``resolved``: once its intents are resolved, and somebody else has written) the first goes on.
    """
    stuck: Completion[None] = Completion()
    unblock = Writer._unblock

    async def get_stuck(*arguments: Any) -> None:
        await unblock(*arguments)
        await stuck

    world = World(53)
    cluster = world.cluster
    cluster.advance(10)
    anchor, key = account(0), register(2)
    move_lease(world, anchor, "n1")
    move_lease(world, key, "n2")
    gateway, holder = (world.gateways[cluster.nodes[name].node_id] for name in ("n1", "n2"))

    def lay_down(txn: Coordinator, value: bytes) -> TwoPhase:
        txn.put(anchor, value)
        txn.put(key, value)
        cluster.run(txn._lay_down(txn._buffer, []))
        assert txn._two_phase is not None
        return txn._two_phase

    other, writer = lay_down(gateway.begin(RC), b"other"), gateway.begin(RC)
    request = Prepare(writer.transaction_id, anchor, 1, [(key, b"mine", BLIND)], [])
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "_unblock", get_stuck)
        first = cluster.scheduler.spawn(holder.server.writer.prepare(request))
        cluster.advance(0.05)
    cluster.run(other.resolve(cluster.run(other.decide())))
    timestamp = cluster.run(lay_down(writer, b"mine").decide())
    if resolved:  # here, while the other range has yet to be
        cluster.run(gateway.router.send(ResolveIntents(writer.transaction_id, timestamp, key, key + b"\0", [key])))
        newer = gateway.begin(RC)
        newer.put(key, b"newer")
        cluster.run(newer.commit())
    reader = holder.begin(RR)
    reader.begin_statement()
    cluster.advance(0.001)
    stuck.set(None)
    cluster.advance(0.05)
    assert first.completion.done

    async def read(reader: Coordinator) -> tuple[list[bytes], list[bytes | None]]:
        return (await reader.scan(key, key + b"\xff", limit=10)).values, await reader.get_many([key])

    expected = b"newer" if resolved else b"mine"
    later = gateway.begin(RR)
    later.begin_statement()
    for each in (reader, later):
        assert cluster.run(read(each)) == ([expected], [expected])
