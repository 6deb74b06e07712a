"""Row locks when their leaseholder dies: those of live gateways stay, and what cannot be known to have stayed is given up."""

from __future__ import annotations

import pytest
from pydistdb.kv.api import LockNotAvailable, LockStrength, SerializationConflict, TransactionAborted, WaitPolicy

from tests.kv.test_txn_cluster import RC, World, account, leader_of
from tests.support.cluster import Cluster

UPDATE, KEY_SHARE = LockStrength.UPDATE, LockStrength.KEY_SHARE


def kill(cluster: Cluster, node_id: int) -> None:
    cluster.crash(next(name for name, node in cluster.nodes.items() if node.node_id == node_id))


def settled() -> tuple[World, int, int, int]:
    """A world that has run for a while; the leader of account 0, and the two other nodes."""
    world = World(23)
    world.cluster.advance(10)
    leader = leader_of(world, account(0))
    return world, leader, leader % 3 + 1, (leader + 1) % 3 + 1


@pytest.mark.parametrize("other_writes", [False, True], ids=["one-phase", "two-phase"])
@pytest.mark.parametrize("written", [True, False])
def test_locks_outlive_their_leaseholder(written: bool, other_writes: bool) -> None:
    """A shared one, too, which leaves no version behind; nobody gets in between, and the commit goes through."""
    world, leader, mine, theirs = settled()
    cluster = world.cluster
    txn = world.gateways[mine].begin(RC)
    cluster.run(txn.lock([account(0)], UPDATE))
    cluster.run(txn.lock([account(1)], KEY_SHARE))
    kill(cluster, leader)
    waiter = world.gateways[theirs].begin(RC)
    waiting = cluster.scheduler.spawn(waiter.lock([account(0)], KEY_SHARE))
    other = world.gateways[theirs].begin(RC)
    cluster.run(other.lock([account(1)], KEY_SHARE))
    with pytest.raises(LockNotAvailable):
        cluster.run(other.lock([account(1)], UPDATE, WaitPolicy.NOWAIT))
    assert not waiting.completion.done
    txn.put(account(0) if written else account(2), b"7")
    if other_writes:
        txn.put(account(9), b"8")
    cluster.run(txn.commit())
    cluster.advance(1)
    assert waiting.completion.done and waiting.completion.error() is None
    cluster.run(other.lock([account(1)], UPDATE))


def test_a_commit_under_way_outlives_the_leaseholder() -> None:
    world, leader, mine, _ = settled()
    cluster = world.cluster
    txn = world.gateways[mine].begin(RC)
    cluster.run(txn.lock([account(0)], UPDATE))
    txn.put(account(0), b"7")
    kill(cluster, leader)
    committing = cluster.scheduler.spawn(txn.commit())
    cluster.advance(5)
    assert committing.completion.done and committing.completion.error() is None


def test_what_was_given_back_is_not_claimed() -> None:
    world, leader, mine, theirs = settled()
    cluster = world.cluster
    txn = world.gateways[mine].begin(RC)
    cluster.run(txn.lock([account(0)], UPDATE))
    mark = txn.savepoint()
    cluster.run(txn.lock([account(1)], UPDATE))
    txn.rollback_to(mark, release_locks=True)
    kill(cluster, leader)
    other = world.gateways[theirs].begin(RC)
    cluster.run(other.lock([account(1)], UPDATE, WaitPolicy.WAIT))
    with pytest.raises(LockNotAvailable):
        cluster.run(other.lock([account(0)], UPDATE, WaitPolicy.NOWAIT))


def test_locks_of_a_gateway_that_does_not_answer_are_lost() -> None:
    """Others have had the row meanwhile; the transaction must not commit when its node is back."""
    world, leader, mine, theirs = settled()
    cluster = world.cluster
    txn = world.gateways[mine].begin(RC)
    cluster.run(txn.lock([account(1)], KEY_SHARE))
    names = {node.node_id: name for name, node in cluster.nodes.items()}
    cluster.network.partition([names[mine]], [names[leader], names[theirs]])
    other = world.gateways[theirs].begin(RC)
    locking = cluster.scheduler.spawn(other.lock([account(1)], UPDATE))  # let go for a node that is silent
    cluster.advance(5)
    assert locking.completion.done and locking.completion.error() is None
    other.rollback()  # and nothing tells of it but the record
    cluster.advance(1)
    cluster.network.heal()
    cluster.advance(2)
    kill(cluster, leader_of(world, account(1)))
    txn.put(account(2), b"7")
    with pytest.raises((SerializationConflict, TransactionAborted)):
        cluster.run(txn.commit())


class LostLocks:
    """A transaction that has locked ``keys``, of which nobody can tell any more: two leases have begun since, the last one
    after a death.  Under the first one somebody else has had the keys."""

    def __init__(self, keys: list[bytes], *, writes: bool) -> None:
        world, leader, mine, theirs = settled()
        cluster = world.cluster
        self.run = cluster.run
        self.txn = world.gateways[mine].begin(RC)
        self.run(self.txn.lock(keys, UPDATE))
        names = {node.node_id: name for name, node in cluster.nodes.items()}
        cluster.network.partition([names[mine]], [names[leader], names[theirs]])
        kill(cluster, leader)
        cluster.advance(1)
        cluster.restart(names[leader])
        second = world.gateways[theirs].begin(RC)
        self.run(second.lock(keys, UPDATE))
        if writes:
            second.put(keys[0], b"theirs")
            self.run(second.commit())
        else:
            second.rollback()
        cluster.network.heal()
        cluster.advance(3)
        kill(cluster, leader_of(world, keys[0]))


def test_a_lock_from_before_the_last_lease_but_one_is_lost() -> None:
    """In between somebody else may have had it, and left no trace."""
    lost = LostLocks([account(1)], writes=False)
    lost.txn.put(account(2), b"7")
    with pytest.raises((SerializationConflict, TransactionAborted)):
        lost.run(lost.txn.commit())


@pytest.mark.parametrize("writes", [True, False])
def test_a_new_row_needs_no_lock_as_long_as_it_is_new(writes: bool) -> None:
    key = account(1) + b"new"
    lost = LostLocks([key], writes=writes)
    lost.txn.put(key, b"mine")
    if writes:
        with pytest.raises(SerializationConflict):
            lost.run(lost.txn.commit())
    else:
        lost.run(lost.txn.commit())
