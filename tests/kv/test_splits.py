"""What those who are at work notice of a split: the right part is served by nobody until its lease begins."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pydistdb.kv.api import Isolation
from pydistdb.kv.command import Command, NotLeaseholder
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.range_log import INITIAL_INDEX
from pydistdb.kv.replica import Replica
from pydistdb.kv.router import Router
from pydistdb.kv.store import Store
from pydistdb.kv.versions import FIRST_VERSION, THIS_RELEASE, Supported
from pydistdb.raft import Role
from pydistdb.tasks import Completion, sleep

from tests.support.cluster import Cluster

MILLISECOND = 1_000_000
KEYS = 1_000
SPLITS = 10
CLIENTS = 8
OLD = Supported(FIRST_VERSION, FIRST_VERSION)
"""Releases in which the right part's leader is elected."""


def key_of(number: int) -> bytes:
    return b"\x04k%04d" % number


class Traffic:
    """Clients at all nodes that read and write single keys."""

    def __init__(self, delay_ms: tuple[int, int], sync_ms: int, release: Supported = THIS_RELEASE) -> None:
        self.cluster = Cluster(seed=3)
        self.cluster.releases = dict.fromkeys(("n1", "n2", "n3"), release)
        self.gateways: dict[int, Gateway] = {}
        self.cluster.on_open.append(self._open)
        self.cluster.start(3)
        self.cluster.network.delay_ns = delay_ms[0] * MILLISECOND, delay_ms[1] * MILLISECOND
        for node in self.cluster.nodes.values():
            node.committer.delay_ns = sync_ms * MILLISECOND
        self.taken: list[tuple[int, int]] = []
        """When each statement began, and how long it took."""
        self._stopping = False
        self._tasks = [self.cluster.scheduler.spawn(self._client(number)) for number in range(CLIENTS)]

    def _open(self, store: Store) -> None:
        self.gateways[store.node_id] = Gateway(store)
        self.gateways[store.node_id].start()

    async def _client(self, number: int) -> None:
        rand, scheduler, gateway = random.Random(number), self.cluster.scheduler, self.gateways[number % 3 + 1]
        while not self._stopping:
            key, begun_ns = key_of(rand.randrange(KEYS)), scheduler.now_ns()
            transaction = gateway.begin(Isolation.READ_COMMITTED)
            transaction.begin_statement()
            if rand.random() < 0.5:
                await transaction.get_many([key])
            else:
                transaction.put(key, b"v")
            await transaction.commit()
            self.taken.append((begun_ns, scheduler.now_ns() - begun_ns))
            await sleep(scheduler, 4 * MILLISECOND)

    def longest_ms(self) -> list[float]:
        """Split where the clients are at work; per split, how long the longest statement took in the half second after."""
        longest: list[float] = []
        for number in range(SPLITS):
            begun_ns = self.cluster.scheduler.now_ns()
            self.cluster.run(self.gateways[1].split([key_of((2 * number + 1) * KEYS // (2 * SPLITS))]))
            self.cluster.advance(0.5)
            longest.append(max(taken for begun, taken in self.taken if begun + taken > begun_ns) / MILLISECOND)
        self._stopping = True
        for task in self._tasks:
            self.cluster.scheduler.run_until(task.completion)
        return longest


def at_work() -> tuple[Traffic, str]:
    """Clients on a quick network and disk, and the name of the node that leads the middle of their keys."""
    traffic = Traffic((1, 1), 1)
    traffic.cluster.advance(3)
    name = traffic.cluster.leaseholder_name(key_of(500))
    assert name is not None
    return traffic, name


@pytest.mark.parametrize(
    ("release", "median_ms", "most_ms"), [(OLD, 50, 60), (THIS_RELEASE, 35, 42)], ids=["old", "new"]
)
def test_statements_wait_for_the_lease_and_no_longer(
    monkeypatch: pytest.MonkeyPatch, release: Supported, median_ms: int, most_ms: int
) -> None:
    """A message takes 2 to 4 ms and a sync 3 ms, as on a busy machine; a statement without a split takes up to 24 ms.

    From the split on the right part's lease takes two messages or a sync, whatever takes longer (with an election, which an older
    release needs: six and three).  Who waits for it is not sent away, nor who stood behind the split in the log."""
    sent_away: list[str] = []
    back_off = Router._back_off

    async def counted(router: Router, search: Any, request: Any) -> None:
        sent_away.append(type(request).__name__)
        await back_off(router, search, request)

    traffic = Traffic((2, 4), 3, release)
    traffic.cluster.advance(3)
    monkeypatch.setattr(Router, "_back_off", counted)
    monkeypatch.setattr(Store, "transfer_lease", lambda *_: False)  # whoever meets one is sent away, too
    longest = traffic.longest_ms()
    assert max(longest) < most_ms and sorted(longest)[len(longest) // 2] < median_ms
    assert not sent_away


def test_a_request_waits_a_little_where_the_lease_is_about_to_begin() -> None:
    """At the node that campaigns; at others it is sent to where the lease should be."""
    traffic, name = at_work()
    cluster = traffic.cluster
    store = cluster.store(name)
    leader, others = store.node_id, [other for other in cluster.stores() if other.node_id != store.node_id]
    split = cluster.scheduler.spawn(store.split(key_of(500)))
    cluster.wait_until(lambda: store.replica_for_key(key_of(500)).descriptor.start == key_of(500), step=0.0001)
    right = store.replica_for_key(key_of(500))
    assert right is not None and not right.leased and right.is_about_to_lead
    leases = traffic.gateways[leader].leases
    assert cluster.run(leases.begins(key_of(700))) and right.leased
    assert not cluster.run(leases.begins(key_of(700))), "it has begun"
    cluster.scheduler.run_until(split.completion)
    for other in others:
        replica = other.replica_for_key(key_of(700))
        assert replica is not None and not replica.is_about_to_lead and replica.leader_hint == leader
        with pytest.raises(NotLeaseholder):
            traffic.gateways[other.node_id].leases.need(key_of(700))


def test_a_request_is_sent_away_when_the_election_takes_long() -> None:
    traffic, name = at_work()
    cluster = traffic.cluster
    store = cluster.store(name)
    cluster.network.partition([name], [other for other in cluster.nodes if other != name])
    cluster.advance(4)
    replica = store.replica_for_key(key_of(500))
    assert replica is not None
    cluster.wait_until(lambda: replica.is_about_to_lead, 10)
    begun_ns = cluster.scheduler.now_ns()
    leases = traffic.gateways[store.node_id].leases
    assert not cluster.run(leases.begins(key_of(500)))
    assert 99 <= (cluster.scheduler.now_ns() - begun_ns) / MILLISECOND <= 101 and not leases._begun


def split_at_work(cluster: Cluster, key: bytes) -> tuple[Store, Replica]:
    """Split at a key, and stop the clock at the moment at which its leaseholder has applied that."""
    name = cluster.leaseholder_name(key)
    assert name is not None
    store = cluster.store(name)
    cluster.scheduler.spawn(store.split(key))
    cluster.wait_until(lambda: store.replica_for_key(key).descriptor.start == key, step=0.0001)
    right = store.replica_for_key(key)
    assert right is not None
    return store, right


def follows(store: Store, range_id: int, leader: int) -> bool:
    replica = store.replicas.get(range_id)
    return replica is not None and replica.raft.leader == leader


def has_entry(store: Store, range_id: int, index: int) -> bool:
    replica = store.replicas.get(range_id)
    return replica is not None and replica.raft.last_index >= index


def test_the_right_part_is_led_at_once_by_whoever_split_it() -> None:
    cluster = at_work()[0].cluster
    store, right = split_at_work(cluster, key_of(500))
    assert right.raft.role is Role.LEADER and right.raft.term == 1
    cluster.wait_until(lambda: right.is_leaseholder(), step=0.0001, timeout_seconds=0.02)
    others = [other.replicas[right.range_id] for other in cluster.stores() if other is not store]
    assert {other.raft.term for other in others} == {1} and all(
        other.log.state.vote == right.replica_id for other in others
    )


def quiet() -> tuple[Cluster, str]:
    """Three nodes at which nobody works, and the name of the one that leads the keys."""
    cluster = Cluster(seed=3)
    cluster.start(3)
    cluster.wait_until(lambda: cluster.leaseholder_name(key_of(500)) is not None)
    name = cluster.leaseholder_name(key_of(500))
    assert name is not None
    return cluster, name


def test_the_lease_of_the_right_part_takes_no_entry_and_no_sync_but_that_of_the_split() -> None:
    cluster, name = quiet()
    for node in cluster.nodes.values():
        node.committer.delay_ns = 20 * MILLISECOND
    _, right = split_at_work(cluster, key_of(500))
    seconds = cluster.wait_until(lambda: right.is_leaseholder(), step=0.0001)
    assert seconds < 0.025 and right.raft.last_index == INITIAL_INDEX
    assert name == cluster.leaseholder_name(key_of(500))


def test_the_lease_begins_when_the_split_is_on_the_leaders_disk() -> None:
    """Before that its store does not show what was written to the whole just before the split."""
    cluster, name = quiet()
    cluster.nodes[name].committer.delay_ns = 50 * MILLISECOND
    _, right = split_at_work(cluster, key_of(500))
    seconds = cluster.wait_until(lambda: right.raft.is_confirmed, step=0.0001)
    assert seconds < 0.01 and not right.leased
    seconds = cluster.wait_until(lambda: right.is_stored, step=0.0001)
    assert seconds > 0.03 and right.leased


def test_a_copy_shows_nothing_of_the_right_part_before_the_split_is_on_its_disk() -> None:
    """90628: what was written to the whole just before the split is not in its store yet, and the leader closes a time without
    an entry of the right part."""
    cluster, name = quiet()
    slow = next(other for other in cluster.nodes if other != name)
    cluster.nodes[slow].committer.delay_ns = 2_000 * MILLISECOND
    _, right = split_at_work(cluster, key_of(500))
    store = cluster.store(slow)
    cluster.wait_until(lambda: right.range_id in store.replicas)
    copy = store.replicas[right.range_id]
    cluster.advance(1)
    assert right.is_leaseholder() and not copy.is_stored and store.closed.at(copy) == 0
    cluster.wait_until(lambda: copy.is_stored)
    assert store.closed.at(copy)


def test_the_lease_waits_for_those_who_follow() -> None:
    cluster, name = quiet()
    _, right = split_at_work(cluster, key_of(500))
    cluster.network.partition([name], [other for other in cluster.nodes if other != name])
    cluster.advance(0.1)
    assert right.is_stored and right.is_leader and not right.leased
    cluster.network.heal()
    cluster.wait_until(lambda: right.is_leaseholder(), timeout_seconds=0.5)


def test_who_leads_next_knows_of_a_lease_that_left_no_entry() -> None:
    """It asks for the row locks that were held under it (reclaim.py)."""
    cluster, name = quiet()
    _, right = split_at_work(cluster, key_of(500))
    cluster.wait_until(lambda: right.is_leaseholder())
    assert right.previous_epoch == 0 and right.raft.last_index == INITIAL_INDEX
    cluster.crash(name)
    cluster.wait_until(lambda: cluster.leaseholder_name(key_of(500)) not in (None, name))
    successor = cluster.leaseholder(key_of(500))
    assert successor is not None and successor.range_id == right.range_id and successor.previous_epoch == 1


def test_no_later_life_of_the_leader_takes_up_the_first_term() -> None:
    """The leader's disk is slow: the others have heard of it when it crashes, and it knows of nothing.

    It applies the split once more, and must not lead in a term in which it has said other things before."""
    cluster = at_work()[0].cluster
    name = cluster.leaseholder_name(key_of(500))
    assert name is not None
    node = cluster.nodes[name]
    _, right = split_at_work(cluster, key_of(500))
    node.committer.delay_ns = 10**12
    others = [other for other in cluster.nodes if other != name]
    cluster.wait_until(lambda: all(follows(cluster.store(other), right.range_id, right.replica_id) for other in others))
    cluster.crash(name)
    terms = []
    cluster.restart(name)
    again = cluster.store(name)

    def leads() -> bool:
        replica = again.replicas.get(right.range_id)
        if replica is not None and replica.raft.role is Role.LEADER:
            terms.append(replica.raft.term)
        return cluster.leaseholder(key_of(500)) is not None and replica is not None

    cluster.wait_until(leads)
    assert 1 not in terms
    cluster.run(cluster.put(key_of(500), b"after"))
    assert cluster.run(cluster.get(key_of(500))) == b"after"


def test_a_leader_of_the_whole_that_did_not_ask_for_the_split_is_elected_for_the_right_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one that did is cut off before it knows that its split is committed."""
    cluster = at_work()[0].cluster
    name = cluster.leaseholder_name(key_of(500))
    assert name is not None
    store, others = cluster.store(name), [other for other in cluster.nodes if other != name]
    left = store.replica_for_key(key_of(500))
    assert left is not None
    indexes: list[int] = []
    propose = left.propose

    def noted(command: Command) -> Completion[None]:
        done = propose(command)
        if command.split is not None:
            indexes.append(left.raft.last_index)
        return done

    monkeypatch.setattr(left, "propose", noted)
    cluster.scheduler.spawn(store.split(key_of(500)))
    cluster.wait_until(
        lambda: bool(indexes) and all(has_entry(cluster.store(n), left.range_id, indexes[0]) for n in others),
        step=0.0001,
    )
    assert store.replica_for_key(key_of(500)) is left
    cluster.network.partition([name], others)
    cluster.wait_until(lambda: cluster.leaseholder_name(key_of(500)) in others)
    right = cluster.leaseholder(key_of(500))
    assert right is not None and right.descriptor.start == key_of(500) and right.raft.term > 1
    cluster.network.heal()
    cluster.wait_until(lambda: store.replica_for_key(key_of(500)).descriptor.start == key_of(500))
    cluster.run(cluster.put(key_of(500), b"after"))
    assert cluster.run(cluster.get(key_of(500))) == b"after"
