"""When others may end a transaction whose coordinator is silent, and that it stays ended if that comes back."""

from __future__ import annotations

import pytest
from pydistdb.kv.api import LockStrength, TransactionAborted
from pydistdb.kv.txn.coordinator import Coordinator

from tests.kv.test_txn_cluster import RC, REGISTERS, World, account, leader_of, register

LARGE = b"x" * (1_200 << 10)


class Laid:
    """A transaction of a node that leads none of its ranges, all of whose writes are laid down before it commits."""

    def __init__(self, seed: int, *, locks: bool) -> None:
        self.world = world = World(seed)
        self.cluster = world.cluster
        self.cluster.advance(10)
        leaders = {leader_of(world, key) for key in (account(0), *map(register, range(REGISTERS)))}
        mine, *_ = set(world.gateways) - leaders
        self.names = {node.node_id: name for name, node in self.cluster.nodes.items()}
        self.mine = self.names[mine]
        self.others = [name for name in self.cluster.nodes if name != self.mine]
        self.gateway = world.gateways[mine]
        self.elsewhere = world.gateways[next(iter(leaders))]
        self.txn = self.gateway.begin(RC)
        if locks:
            self.cluster.run(self.txn.lock([account(0)], LockStrength.UPDATE))
        for number in range(REGISTERS):
            self.txn.put(register(number), LARGE)
        self.cluster.advance(2)
        assert not self.txn.is_spilling and self.txn.has_writes

    def values(self, txn: Coordinator) -> list[bytes | None]:
        txn.begin_statement()
        return self.cluster.run(txn.get_many([register(number) for number in range(REGISTERS)]), 5)


@pytest.mark.parametrize("seconds", [1, 15])
def test_a_silence_in_which_nobody_waits_for_it_ends_no_transaction(seconds: int) -> None:
    """Some seconds of it, of a transaction of any age: readers go on, and so does the transaction."""
    laid = Laid(17, locks=True)
    cluster = laid.cluster
    cluster.advance(seconds)  # sweeps look after what is ten seconds old
    cluster.network.partition([laid.mine], laid.others)
    cluster.advance(10)
    assert laid.values(laid.elsewhere.begin(RC)) == [b"0"] * REGISTERS
    cluster.advance(5)
    cluster.network.heal()
    cluster.advance(2)
    laid.txn.put(account(0), b"7")
    cluster.run(laid.txn.commit())
    assert laid.values(laid.elsewhere.begin(RC)) == [LARGE] * REGISTERS


@pytest.mark.parametrize("waits", [True, False])
def test_a_coordinator_that_comes_back_cannot_commit_what_others_have_undone(waits: bool) -> None:
    """After whatever time: nothing is left of it by then but the record that says so."""
    laid = Laid(18, locks=False)
    cluster = laid.cluster
    cluster.network.partition([laid.mine], laid.others)
    if waits:
        waiter = laid.elsewhere.begin(RC)
        waiting = cluster.scheduler.spawn(waiter.lock([register(0)], LockStrength.UPDATE))
        cluster.advance(4)
        assert waiting.completion.done and waiting.completion.error() is None
        waiter.rollback()
    cluster.advance(300)
    cluster.network.heal()
    cluster.advance(5)
    with pytest.raises(TransactionAborted):
        cluster.run(laid.txn.commit())
    assert laid.values(laid.elsewhere.begin(RC)) == [b"0"] * REGISTERS
    cluster.advance(60)
    for gateway in laid.world.gateways.values():
        assert not any(local.intents for local in gateway.leases.all())
