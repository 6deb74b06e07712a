"""Several stores: failover, leases, joining, replacing, snapshots, settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydistdb.kv import replica as replica_module
from pydistdb.kv.api import ClockOutOfBounds, Isolation, KVError
from pydistdb.kv.command import ANY_GENERATION, AddedReplica, Command, ProposalLost, SplitTrigger
from pydistdb.kv.descriptor import (
    NODE_PREFIX,
    REPLICATION_FACTOR_KEY,
    NodeState,
    ReplicaRole,
    decode_node,
)
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.replica import Replica
from pydistdb.kv.store import StoreConfig
from pydistdb.tasks import Completion
from pydistdb_storage import mvcc
from pydistdb_storage.engine import Engine, Space
from pydistdb_storage.errors import StoreFull
from pydistdb_storage.keys import prefix_end
from pydistdb_storage.lmdb_engine import LMDBEngine

from pydistdb import raft
from tests.support.cluster import SECOND, Cluster

SHORT_DEATH = StoreConfig(dead_after_ns=5 * SECOND)


def versions(cluster: Cluster, name: str) -> list[tuple[bytes, bytes]]:
    return list(cluster.nodes[name].engine.latest().scan(Space.VERSIONS, b"\x04", b"\x06"))


def propose(cluster: Cluster, name: str, key: bytes, value: bytes) -> Completion[None]:
    """Propose on a given node, whatever it thinks of its lease."""
    replica = cluster.store(name).replica_for_key(key)
    assert replica is not None
    timestamp = replica.owner.clock.now()
    write = (int(Space.VERSIONS), mvcc.versioned(key, timestamp), value)
    return replica.propose(Command(replica.lease_epoch, ANY_GENERATION, timestamp, [write]))


def holder(cluster: Cluster, key: bytes = b"\x04") -> str:
    name = cluster.leaseholder_name(key)
    assert name is not None
    return name


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(seed=1)
    cluster.start(3)
    return cluster


def test_a_commit_is_on_a_majority(cluster: Cluster) -> None:
    cluster.run(cluster.put(b"\x04k", b"v"))
    with_it = [name for name in cluster.nodes if has_entry(cluster, name, b"v")]
    assert len(with_it) >= 2


def has_entry(cluster: Cluster, name: str, value: bytes) -> bool:
    log = cluster.nodes[name].engine.latest().scan(Space.LOG, b"", b"\xff" * 17)
    return any(value in data for _, data in log) or any(v == value for _, v in versions(cluster, name))


def test_killing_the_leader_interrupts_for_less_than_three_seconds() -> None:
    for seed in range(10):
        cluster = Cluster(seed)
        cluster.start(3)
        for key in (b"\x04b", b"\x04c", b"\x04d", b"\x04e"):
            cluster.run(cluster.split(key))
        cluster.advance(12)
        cluster.run(cluster.put(b"\x04bb", b"1"))
        cluster.crash("n1")
        assert cluster.wait_until(cluster.covered, step=0.05) < 2.5
        cluster.run(cluster.put(b"\x04bb", b"2"))
        cluster.restart("n1")
        cluster.advance(5)
        assert versions(cluster, "n1") == versions(cluster, "n2")


def test_leases_spread_over_the_nodes(cluster: Cluster) -> None:
    for i in range(8):
        cluster.run(cluster.split(b"\x05" + bytes([i])))
    cluster.wait_until(lambda: max(len(s.leased_replicas()) for s in cluster.stores()) <= 4, 20)
    cluster.wait_until(cluster.covered)
    cluster.crash("n2")
    cluster.wait_until(cluster.covered)
    cluster.restart("n2")
    cluster.wait_until(lambda: min(len(s.leased_replicas()) for s in cluster.stores()) >= 2, 20)


def test_a_cut_off_leaseholder_serves_no_reads_once_another_can(cluster: Cluster) -> None:
    key = b"\x04k"
    old = holder(cluster, key)
    replica = cluster.leaseholder(key)
    assert replica is not None
    others = [name for name in cluster.nodes if name != old]
    cluster.network.partition([old], others)
    stranded = propose(cluster, old, key, b"never")
    valid_until = 0.0
    for _ in range(400):
        cluster.advance(0.01)
        cluster.leaseholder(key)  # asserts that there are not two
        if replica.is_leaseholder():
            valid_until = cluster.scheduler.now_ns() / SECOND
    assert valid_until < 3
    assert holder(cluster, key) in others
    cluster.run(cluster.put(key, b"new"))
    cluster.network.heal()
    cluster.advance(12)
    assert isinstance(stranded.error(), KVError), "it never reached a majority"
    assert cluster.run(cluster.get(key)) == b"new"
    assert versions(cluster, old) == versions(cluster, others[0])


def test_an_idle_cluster_keeps_its_leases_without_group_messages(cluster: Cluster) -> None:
    for i in range(20):
        cluster.run(cluster.split(b"\x05" + bytes([i])))
    cluster.advance(20)
    before = {s.node_id: (s.metrics.ticks, s.metrics.messages_sent, s.metrics.rounds) for s in cluster.stores()}
    for _ in range(100):
        cluster.advance(0.1)
        assert cluster.covered(), "every range can be read at any time"
    for store in cluster.stores():
        ticks, sent, rounds = before[store.node_id]
        assert store.metrics.ticks == ticks
        assert store.metrics.rounds == rounds
        # 5 pings, 5 pongs and 2 closed timestamps a second to each of two peers, and some audits.
        assert store.metrics.messages_sent - sent < 10 * 2 * (5 + 5 + 2) + 20


def test_a_sleeping_leader_that_missed_new_support_finds_out(cluster: Cluster) -> None:
    """Both followers ended their support and began anew, one after the other, and what their replicas said then was lost."""
    cluster.advance(20)
    replica = cluster.leaseholder(b"\x04")
    assert replica is not None and replica.raft.quiescent
    for voter in replica.support_epochs:
        replica.support_epochs[voter] -= 1
    cluster.advance(2)
    term = replica.raft.term
    cluster.wait_until(lambda: cluster.leaseholder(b"\x04") is replica, 10)
    assert replica.raft.term == term


def test_all_nodes_restart_at_once(cluster: Cluster) -> None:
    cluster.run(cluster.split(b"\x04m"))
    for i in range(30):
        cluster.run(cluster.put(b"\x04%d" % i, b"v%d" % i))
    cluster.crash("n1", "n2", "n3")
    cluster.advance(1)
    cluster.restart("n1", "n2", "n3")
    assert cluster.wait_until(cluster.covered) < 4
    for i in range(30):
        assert cluster.run(cluster.get(b"\x04%d" % i)) == b"v%d" % i


def test_in_flight_proposals_end_when_the_leader_crashes(cluster: Cluster) -> None:
    old = holder(cluster)
    stranded = [propose(cluster, old, b"\x04k%d" % i, b"v") for i in range(10)]
    cluster.advance(0.0007)
    cluster.crash(old)
    assert all(done.done for done in stranded)
    cluster.wait_until(cluster.covered)
    cluster.run(cluster.put(b"\x04z", b"after"))
    cluster.restart(old)
    cluster.advance(3)
    assert versions(cluster, old) == versions(cluster, next(name for name in cluster.nodes if name != old))


def test_proposals_end_whose_place_in_the_log_a_later_term_of_their_leader_takes(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """93058: it lost the lead with entries that nobody had, and led again, with a shorter log, before they were given up."""
    monkeypatch.setattr(replica_module, "PROPOSAL_TIMEOUT_NS", 1_000 * SECOND)
    old = holder(cluster)
    others = [name for name in cluster.nodes if name != old]
    cluster.network.partition([old], others)
    stranded = [propose(cluster, old, b"\x04k%d" % i, b"never") for i in range(10)]
    cluster.wait_until(lambda: cluster.leaseholder_name(b"\x04") in others)
    cluster.network.heal()
    cluster.advance(1)
    replica, leader = cluster.leaseholder(b"\x04"), holder(cluster)
    assert replica is not None and not all(done.done for done in stranded), "else this test shows nothing"
    assert cluster.store(leader).transfer_lease(replica, cluster.nodes[old].node_id)
    cluster.wait_until(lambda: cluster.leaseholder_name(b"\x04") == old)
    for i in range(10):
        cluster.run(cluster.put(b"\x04n%d" % i, b"v"))
    assert all(isinstance(done.error(), KVError) for done in stranded)
    assert cluster.run(cluster.get(b"\x04k9")) is None


def test_a_follower_that_was_away_for_long_gets_a_snapshot() -> None:
    config = StoreConfig(log_entries_kept=20, log_entries_most=50)
    cluster = Cluster(seed=3, config=config)
    cluster.start(3)
    old = holder(cluster)
    away = next(name for name in cluster.nodes if name != old)
    cluster.crash(away)
    for i in range(200):
        cluster.run(cluster.put(b"\x04%03d" % i, b"v" * 20_000))  # more than Raft keeps in memory
    assert len(list(cluster.nodes[old].engine.latest().scan(Space.LOG, b"", b"\xff" * 17))) < 120
    cluster.restart(away)
    cluster.wait_until(lambda: versions(cluster, away) == versions(cluster, old))
    assert cluster.store(away).metrics.snapshots_installed == 1


def test_a_newcomer_gets_nothing_older_than_itself() -> None:
    """Else it would split a range that it is not part of, and keep a right part that nobody knows of."""
    cluster = Cluster(seed=3)
    cluster.start(4)
    cluster.wait_until(cluster.covered)
    replica = cluster.leaseholder(b"\x04")
    assert replica is not None
    to = next(node.node_id for node in cluster.nodes.values() if replica.descriptor.replica_on(node.node_id) is None)
    for node in cluster.nodes.values():
        assert node.store is not None
        node.store.membership.settings.take({"rebalance.enabled": "off"})
    cluster.nodes[holder(cluster)].committer.delay_ns = SECOND  # a slow disk: the others' are a majority
    cut = Command(replica.lease_epoch, ANY_GENERATION, 0, [], [], SplitTrigger(b"\x04m", 99))
    split = replica.propose(cut)
    cluster.wait_until(lambda: replica.descriptor.end == b"\x04m", step=0.001)
    newcomer = AddedReplica(to, replica.descriptor.next_replica_id)
    added = replica.propose_membership((raft.Change(raft.ADD_LEARNER, newcomer.replica_id),), (newcomer,))
    there = cluster.store(f"n{to}").replicas
    cluster.wait_until(lambda: replica.range_id in there and there[replica.range_id].is_initialized)
    cluster.advance(3)
    assert split.done and added.done
    assert 99 not in there


def test_a_snapshot_brings_the_clock_along() -> None:
    """Whoever leads the range next must write above all that is in it, however slow its own clock is."""
    cluster = Cluster(seed=3, config=StoreConfig(log_entries_kept=20, log_entries_most=50))
    cluster.start(3)
    old = holder(cluster)
    away = next(name for name in cluster.nodes if name != old)
    cluster.crash(away)
    for i in range(200):
        cluster.run(cluster.put(b"\x04%03d" % i, b"v" * 20_000))
    cluster.nodes[away].skew_us = -200_000
    cluster.restart(away)
    cluster.wait_until(lambda: cluster.store(away).metrics.snapshots_installed == 1)
    newest = max(mvcc.split_version(key)[1] for key, _ in versions(cluster, away))
    replica = cluster.store(away).replica_for_key(b"\x04000")
    assert replica is not None and replica.log.state.clock >= newest
    assert cluster.store(away).clock.now() > newest
    cluster.crash(away)
    cluster.restart(away)
    assert cluster.store(away).clock.now() > newest, "also after a restart"


@pytest.mark.parametrize("moment", range(6))
def test_an_interrupted_snapshot_is_repeated_or_finished(tmp_path: Path, moment: int) -> None:
    def engine(name: str) -> Engine:
        return LMDBEngine(tmp_path / name, map_bytes=1 << 28, sync=False)

    cluster = Cluster(seed=moment, engine_factory=engine)
    cluster.bootstrap("n1")
    for i in range(300):
        cluster.run(cluster.put(b"\x04%03d" % i, bytes([i % 256]) * 10_000))
    cluster.add("n2")
    cluster.add("n3")
    cluster.wait_until(lambda: any(has_stage(cluster, name) for name in ("n2", "n3")), step=0.0005)
    cluster.advance(0.0015 * moment)
    victim = cluster.nodes["n3" if moment % 2 else "n1"]
    victim.crash()
    victim.engine.close()
    cluster.advance(0.5)
    victim.engine = LMDBEngine(tmp_path / victim.name, map_bytes=1 << 28, sync=False)
    cluster.restart(victim.name)
    cluster.wait_until(lambda: cluster.replicated(3))
    cluster.wait_until(lambda: versions(cluster, "n1") == versions(cluster, "n2") == versions(cluster, "n3"))
    assert len(versions(cluster, "n3")) == 300
    assert not any(has_stage(cluster, name) for name in cluster.nodes)
    assert not cluster.fatal_errors
    for node in cluster.nodes.values():
        node.crash()
        node.engine.close()


def has_stage(cluster: Cluster, name: str) -> bool:
    return any(True for _ in cluster.nodes[name].engine.latest().scan(Space.STATE, b"stage/", b"stage0"))


def test_an_emptied_node_joins_again_and_is_refilled(cluster: Cluster) -> None:
    cluster.run(cluster.split(b"\x04m"))
    cluster.run(cluster.put(b"\x04a", b"1"))
    cluster.run(cluster.put(b"\x04z", b"2"))
    old_id = cluster.nodes["n3"].node_id
    cluster.wipe("n3")
    assert cluster.nodes["n3"].node_id == 4
    cluster.wait_until(lambda: versions(cluster, "n3") == versions(cluster, "n1"))
    cluster.wait_until(lambda: cluster.replicated(3))
    cluster.advance(1)
    for store in cluster.stores():
        for replica in store.replicas.values():
            assert replica.descriptor.replica_on(old_id) is None
            assert all(r.role is ReplicaRole.VOTER for r in replica.descriptor.replicas)
        assert store.membership.nodes[old_id].state is NodeState.REPLACED
    cluster.advance(2)
    first = cluster.leaseholder(b"\x02")
    assert first is not None
    found = mvcc.scan(first.engine.latest(), NODE_PREFIX, prefix_end(NODE_PREFIX), mvcc.MAX_TIMESTAMP, 10)
    records = [decode_node(value) for value in found.values]
    assert [(r.node_id, r.name, r.state.name) for r in records] == [
        (1, "n1", "ACTIVE"),
        (2, "n2", "ACTIVE"),
        (3, "n3", "REPLACED"),
        (4, "n3", "ACTIVE"),
    ]


def test_a_newcomer_gets_the_number_it_asks_for_if_nobody_had_it() -> None:
    cluster = Cluster(seed=2)
    cluster.start(1)
    asked = [("n9", 9), ("n2", 2), ("another", 2), ("n11", 0), ("n5", 5), ("far", 5_000)]
    for name, wanted in asked:
        cluster.add(name, wanted=wanted)
    assert [cluster.nodes[name].node_id for name, _ in asked] == [9, 2, 10, 11, 5, 12]
    cluster.nodes["n2"].crash()
    cluster.add("n2", wanted=2)
    assert cluster.nodes["n2"].node_id == 13, "a number is never given twice"


def test_a_dead_node_is_replaced_by_a_spare() -> None:
    cluster = Cluster(seed=5, config=SHORT_DEATH)
    cluster.start(4)
    cluster.run(cluster.split(b"\x04m"))
    cluster.run(cluster.put(b"\x04a", b"1"))
    replica = cluster.leaseholder(b"\x04a")
    assert replica is not None
    members = {r.node_id for r in replica.descriptor.replicas}
    victim = next(n for n in cluster.nodes.values() if n.node_id in members and n.node_id != replica.owner.node_id)
    cluster.crash(victim.name)
    gone = victim.node_id

    def moved() -> bool:
        leased = [r for s in cluster.stores() for r in s.leased_replicas()]
        return cluster.replicated(3) and all(r.descriptor.replica_on(gone) is None for r in leased)

    assert cluster.wait_until(moved, 30) > 4
    cluster.restart(victim.name)
    cluster.advance(15)
    held = list(cluster.store(victim.name).replicas.values())
    assert all(r.descriptor.replica_on(gone) is not None for r in held), "what it lost it has deleted"


def test_changing_the_replication_factor() -> None:
    cluster = Cluster(seed=6)
    cluster.start(5)
    assert cluster.run(set_replication_factor(cluster, 5))
    cluster.wait_until(lambda: cluster.replicated(5))
    cluster.crash("n4", "n5")
    cluster.run(cluster.put(b"\x04a", b"1"))
    cluster.restart("n4", "n5")
    cluster.advance(2)
    assert cluster.run(set_replication_factor(cluster, 1))
    cluster.wait_until(lambda: cluster.replicated(1))
    assert cluster.run(cluster.get(b"\x04a")) == b"1"
    cluster.wait_until(lambda: sum(len(versions(cluster, name)) > 0 for name in cluster.nodes) == 1)


async def set_replication_factor(cluster: Cluster, value: int) -> int:
    return await cluster.put(REPLICATION_FACTOR_KEY, str(value).encode())


def test_two_nodes_hold_one_replica_until_there_are_three() -> None:
    cluster = Cluster(seed=7)
    cluster.start(2)
    cluster.advance(5)
    assert cluster.replicated(1)
    cluster.add("n3")
    cluster.wait_until(lambda: cluster.replicated(3))


def test_replicas_go_to_different_zones() -> None:
    cluster = Cluster(seed=8)
    cluster.start(5, localities=["zone=a", "zone=a", "zone=b", "zone=b", "zone=c"])
    for i in range(6):
        cluster.run(cluster.split(b"\x05" + bytes([i])))
    zones = {1: "a", 2: "a", 3: "b", 4: "b", 5: "c"}
    ids = {node.node_id: zones[int(name[1:])] for name, node in cluster.nodes.items()}

    def spread() -> bool:
        leased = [r for s in cluster.stores() for r in s.leased_replicas()]
        return cluster.replicated(3) and all(len({ids[x.node_id] for x in r.descriptor.replicas}) == 3 for r in leased)

    cluster.wait_until(spread, 60)


def test_the_right_part_of_a_split_is_led_after_a_few_round_trips(cluster: Cluster) -> None:
    """Nobody waits for it to be asked again whether it may lead: the followers say when they have applied the split."""

    def unserved_ns(key: bytes) -> int:
        store = cluster.store(holder(cluster, key))
        left = store.replica_for_key(key)
        task = cluster.scheduler.spawn(store.split(key), "split")
        cluster.wait_until(lambda: store.replica_for_key(key) is not left, step=0.0001)
        begun_ns = cluster.scheduler.now_ns()
        cluster.wait_until(lambda: cluster.leaseholder(key) is not None, step=0.0001)
        taken_ns = cluster.scheduler.now_ns() - begun_ns
        cluster.wait_until(lambda: task.completion.done)
        return taken_ns

    longest_ns = max(unserved_ns(b"\x04%02d" % number) for number in range(1, 15))
    # Votes and an entry: four messages of at most 0.4 ms, and four syncs of 0.5 ms.
    assert longest_ns < 4_500_000


def test_splits_under_load() -> None:
    cluster = Cluster(seed=9)
    cluster.start(3)
    written: dict[bytes, bytes] = {}

    async def writer(number: int) -> None:
        for i in range(60):
            key = b"\x05%02d" % ((number * 7 + i * 13) % 100)
            await cluster.put(key, b"%d" % i)
            written[key] = b"%d" % i

    tasks = [cluster.scheduler.spawn(writer(number)) for number in range(4)]
    for i in range(10, 100, 10):
        cluster.run(cluster.split(b"\x05%02d" % i))
    for task in tasks:
        cluster.scheduler.run_until(task.completion)
    assert len(written) > 50
    for key in written:
        assert cluster.run(cluster.get(key)) is not None
    cluster.advance(1)
    assert versions(cluster, "n1") == versions(cluster, "n2") == versions(cluster, "n3")
    assert len(cluster.store("n1").replicas) == 10


def test_a_split_part_has_a_leader_at_once(cluster: Cluster) -> None:
    cluster.advance(5)
    before = cluster.scheduler.now_ns()
    cluster.run(cluster.split(b"\x04m"))
    assert cluster.leaseholder(b"\x04z") is not None
    assert cluster.scheduler.now_ns() - before < SECOND // 5


def test_a_handover_is_quick(cluster: Cluster) -> None:
    old = holder(cluster)
    target = next(name for name in cluster.nodes if name != old)
    replica = cluster.leaseholder(b"\x04")
    assert replica is not None
    assert cluster.store(old).transfer_lease(replica, cluster.nodes[target].node_id)
    assert cluster.wait_until(lambda: cluster.leaseholder_name(b"\x04") == target, step=0.001) < 0.1


@pytest.mark.parametrize("skew_us", [600_000, -600_000, -30_000_000])
def test_a_node_whose_clock_is_off_stops_serving(
    cluster: Cluster, skew_us: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is ahead is refused by the others; one that is behind refuses them, and must notice all the same."""
    victim = holder(cluster)
    number = cluster.nodes[victim].node_id
    gateway = Gateway(cluster.store(victim))
    cluster.nodes[victim].skew_us = skew_us
    cluster.wait_until(lambda: holder_or_none(cluster) not in (None, victim), 10)
    cluster.wait_until(lambda: cluster.nodes[victim].clock.out_of_bounds, 5)
    for name, node in cluster.nodes.items():
        if name != victim:
            assert not node.clock.out_of_bounds
            assert (node.clock.last() >> 12) - node.clock.physical_us() < 300_000
    for txn in (gateway.begin(Isolation.READ_COMMITTED), gateway.begin_stale(Isolation.READ_COMMITTED, lambda: 0)):
        with pytest.raises(ClockOutOfBounds):
            txn.begin_statement()
    [logged] = [record.getMessage() for record in caplog.records if "clock" in record.getMessage()]
    assert logged.startswith(f"the clock of node {number} differs too much")
    assert ", node" in logged and " ms; at most 250 ms are allowed" in logged
    cluster.nodes[victim].skew_us = 0
    cluster.wait_until(lambda: not cluster.nodes[victim].clock.out_of_bounds, 10)
    assert any("the node serves again" in record.getMessage() for record in caplog.records)


def holder_or_none(cluster: Cluster) -> str | None:
    return cluster.leaseholder_name(b"\x04")


def test_a_leader_with_a_full_disk_hands_over(cluster: Cluster) -> None:
    old = holder(cluster)
    cluster.nodes[old].committer.error = StoreFull("no room")
    propose(cluster, old, b"\x04k", b"v")
    cluster.wait_until(lambda: holder_or_none(cluster) not in (None, old), 10)
    cluster.run(cluster.put(b"\x04k", b"w"))
    cluster.nodes[old].committer.error = None
    cluster.advance(3)
    assert versions(cluster, old) == versions(cluster, next(n for n in cluster.nodes if n != old))


def test_a_repeated_join_gets_the_same_id() -> None:
    cluster = Cluster(seed=10)
    cluster.bootstrap("n1")
    cluster.network.loss = 0.5
    cluster.add("n2")
    cluster.network.loss = 0.0
    cluster.advance(1)
    names = [record.name for record in cluster.store("n1").membership.active()]
    assert names == ["n1", "n2"]


def test_draining_gives_all_leases_away(cluster: Cluster) -> None:
    for i in range(3):
        cluster.run(cluster.split(b"\x05" + bytes([i])))
    cluster.store("n1").drain()
    cluster.wait_until(lambda: not cluster.store("n1").leased_replicas(), 5)
    cluster.wait_until(cluster.covered)


def test_status_of_a_cluster(cluster: Cluster) -> None:
    cluster.run(cluster.put(b"\x04k", b"v"))
    cluster.advance(1)
    name = holder(cluster)
    status = cluster.store(name).status()
    assert [node.state for node in status.nodes] == ["live"] * 3
    (only,) = status.ranges
    assert only.role == "leader" and len(only.followers) == 2
    assert all(follower.lag == 0 and follower.role == "voter" for follower in only.followers)
    cluster.crash(next(other for other in cluster.nodes if other != name))
    cluster.advance(3)
    states = sorted(node.state for node in cluster.store(name).status().nodes)
    assert states == ["dead", "live", "live"]


def test_a_replica_removed_while_its_node_was_away_is_deleted_even_if_nobody_else_is_left() -> None:
    cluster = Cluster(seed=11, config=SHORT_DEATH)
    cluster.start(3)
    cluster.run(cluster.split(b"\x04m"))
    cluster.run(cluster.put(b"\x04z", b"1"))
    cluster.wait_until(lambda: cluster.replicated(3))
    cluster.advance(2)
    cluster.crash("n3")
    for name in ("n4", "n5", "n6"):
        cluster.add(name)
    cluster.wait_until(lambda: cluster.replicated(3), 30)
    cluster.wait_until(
        lambda: all(r.descriptor.replica_on(3) is None for s in cluster.stores() for r in s.leased_replicas())
    )
    for name in ("n1", "n2"):
        cluster.store(name).membership.draining = True
    cluster.restart("n3")
    cluster.wait_until(
        lambda: all(r.descriptor.replica_on(3) is not None for r in cluster.store("n3").replicas.values())
    )
    cluster.advance(20)
    assert not cluster.fatal_errors
    assert cluster.run(cluster.get(b"\x04z")) == b"1"


def test_numbers_are_given_out_while_the_lease_of_the_first_range_moves(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leaseholder that asks itself tries again as the others do when its proposal comes to nothing."""
    replica = cluster.leaseholder(b"\x02")
    assert replica is not None
    propose, lost = Replica.propose, [True]

    def lose_the_first(self: Replica, command: Command) -> Any:
        if lost:
            lost.clear()
            raise ProposalLost("leadership is being transferred")
        return propose(self, command)

    monkeypatch.setattr(Replica, "propose", lose_the_first)
    name = cluster.leaseholder_name(b"\x02")
    assert name is not None
    assert cluster.run(cluster.store(name).directory.allocate(b"numbers", 3)) == 1
    assert not lost


def test_a_split_makes_the_replicate_queue_look_at_its_halves_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydistdb.kv.placement import residency

    cluster = Cluster(seed=3)
    cluster.start(1)
    for number in range(30):
        cluster.run(cluster.split(b"\x04%02d" % number))
    cluster.advance(2.5)
    looked_at: list[int] = []
    next_step = residency.next_step

    def counted(descriptor: Any, *arguments: Any) -> Any:
        looked_at.append(descriptor.range_id)
        return next_step(descriptor, *arguments)

    monkeypatch.setattr(residency, "next_step", counted)
    cluster.advance(2.5)
    assert not looked_at, "settled ranges are left alone"
    cluster.run(cluster.split(b"\x0415a"))
    cluster.advance(2.5)
    assert 2 <= len(set(looked_at)) <= 3 and len(looked_at) <= 6
