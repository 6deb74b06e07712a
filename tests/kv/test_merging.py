"""Merges of neighbouring ranges: what goes over, and that a crash at any moment leaves both ranges or the whole."""

from __future__ import annotations

import msgspec
import pytest
from pydistdb.kv.api import Isolation, KVError, LockStrength
from pydistdb.kv.command import Command, MergeStep, MergeStepKind, NotLeaseholder, ProposalLost, SplitTrigger
from pydistdb.kv.descriptor import RangeDescriptor, ReplicaDescriptor, ReplicaRole
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.intents import IntentInfo
from pydistdb.kv.merging import obstacle
from pydistdb.kv.replica import Replica
from pydistdb.kv.requests import BLIND, EndTransaction, Prepare
from pydistdb.kv.store import Store, StoreConfig
from pydistdb.kv.versions import Feature
from pydistdb.tasks import Completion, sleep
from pydistdb_storage import mvcc
from pydistdb_storage.engine import Space
from pydistdb_storage.keys import prefix_end

from pydistdb import raft
from tests.support.cluster import SECOND, Cluster

CUT = b"\x04m"
KEYS = [b"\x04a", b"\x04f", CUT, b"\x04t"]


class World:
    """A cluster with gateways and two user ranges, [.., CUT) and [CUT, ..), led by one node."""

    def __init__(self, nodes: int = 3, seed: int = 1, config: StoreConfig | None = None) -> None:
        self.cluster = Cluster(seed, config=config)
        self.gateways: dict[int, Gateway] = {}
        self.cluster.on_open.append(self._open)
        self.cluster.start(nodes)
        self.run = self.cluster.run
        self.gateway = self.gateways[1]
        self.run(self.gateway.ingest([(key, b"old") for key in KEYS]))
        self.run(self.gateway.split([b"\x04", CUT]))
        for store in self.cluster.stores():
            store.membership.settings.take({"rebalance.enabled": "off"})  # a lease that moves takes no locks along
        self.together()

    def _open(self, store: Store) -> None:
        old = self.gateways.get(store.node_id)
        if old is not None:
            old.stop()
        gateway = self.gateways[store.node_id] = Gateway(store)
        gateway.start()

    def holder(self, key: bytes) -> Replica:
        replica = self.cluster.leaseholder(key)
        assert replica is not None
        return replica

    def store_of(self, key: bytes) -> Store:
        name = self.cluster.leaseholder_name(key)
        assert name is not None
        return self.cluster.store(name)

    def together(self) -> Store:
        """Have one node lead both ranges."""
        cluster = self.cluster
        for _ in range(20):
            cluster.wait_until(cluster.covered)
            left, right = self.store_of(KEYS[0]), self.holder(CUT)
            if left.replicas.get(right.range_id) is right:
                return left
            self.store_of(CUT).transfer_lease(right, left.node_id)
            cluster.advance(0.05)
        raise AssertionError("the leases do not come together")

    def merge(self) -> None:
        for attempt in range(20):
            try:
                self.run(self.together().merger.merge(CUT))
                return
            except NotLeaseholder:  # a lease moved in between
                assert attempt < 19

    def boundaries(self) -> list[bytes]:
        return [descriptor.start for descriptor in self.store_of(b"\x01").directory.published(b"", b"\xff", 100)]

    def is_settled(self) -> bool:
        """Whether the key space is served, and nothing is left of an unfinished merge."""
        replicas = [replica for store in self.cluster.stores() for replica in store.replicas.values()]
        return self.cluster.covered() and not any(r.is_initialized and r.descriptor.is_changing for r in replicas)

    def is_clean(self) -> bool:
        """Whether every node has the same ranges."""
        spans = [
            sorted((r.range_id, r.descriptor.start, r.descriptor.end) for r in store.replicas.values())
            for store in self.cluster.stores()
        ]
        return self.is_settled() and all(each == spans[0] for each in spans)

    async def write(self, key: bytes, value: bytes, node: int = 1) -> None:
        transaction = self.gateways[node].begin(Isolation.READ_COMMITTED)
        transaction.begin_statement()
        transaction.put(key, value)
        await transaction.commit()

    async def read(self, key: bytes, node: int = 1) -> bytes | None:
        transaction = self.gateways[node].begin(Isolation.READ_COMMITTED)
        transaction.begin_statement()
        return (await transaction.get_many([key]))[0]


@pytest.mark.parametrize("nodes", [1, 3])
def test_two_ranges_become_one(nodes: int) -> None:
    world = World(nodes)
    right = world.holder(CUT).range_id
    world.merge()
    world.cluster.wait_until(world.is_clean)
    assert world.holder(CUT).descriptor == world.holder(KEYS[0]).descriptor
    world.cluster.wait_until(lambda: world.boundaries() == [b"", b"\x04"])
    for store in world.cluster.stores():
        assert right not in store.replicas
        names = [key for key, _ in store.engine.latest().scan(Space.STATE, b"", b"\xff")]
        assert [key[:5] for key in names if right.to_bytes(8, "big") in key] == [b"tomb/"]
    for node in world.gateways:
        for key in KEYS:
            assert world.run(world.read(key, node)) == (b"%d" % (node - 1) if node > 1 else b"old")
            world.run(world.write(key, b"%d" % node, node))
            assert world.run(world.read(key, node)) == b"%d" % node
    # The same place can be cut and closed again, and survives a restart.
    for _ in range(2):
        world.run(world.gateways[1].split([CUT]))
        world.merge()
    world.cluster.crash(*world.cluster.nodes)
    world.cluster.restart(*world.cluster.nodes)
    world.cluster.wait_until(world.is_clean)
    assert world.run(world.read(KEYS[3])) == b"%d" % nodes


def test_what_is_refused() -> None:
    replicas = tuple(ReplicaDescriptor(node, node) for node in (1, 2, 3))
    left = RangeDescriptor(1, b"a", b"m", 5, replicas, 4)
    right = RangeDescriptor(2, b"m", b"z", 3, replicas[::-1], 4)
    assert not obstacle(left, right)
    elsewhere = msgspec.structs.replace(right, replicas=(*replicas[:2], ReplicaDescriptor(4, 4)))
    assert "not on the same nodes" in obstacle(left, elsewhere)
    learning = msgspec.structs.replace(right, replicas=(*replicas[:2], ReplicaDescriptor(3, 3, ReplicaRole.LEARNER)))
    assert obstacle(left, learning) == "range 2 has a replica that does not vote yet"
    for busy in (msgspec.structs.replace(left, merging=7), msgspec.structs.replace(left, frozen=True)):
        assert obstacle(busy, right) == "range 1 is being changed"
        assert obstacle(right, busy) == "range 1 is being changed"


@pytest.mark.parametrize("operation", ["merge", "split"])
def test_row_locks_outlive_it(operation: str) -> None:
    """Who waits for a lock in the right part goes on waiting, and its owner commits as if nothing had happened."""
    world = World()
    if operation == "split":
        world.merge()
    store = world.together()
    owner = world.gateways[store.node_id].begin(Isolation.REPEATABLE_READ)
    rival = world.gateways[1 + store.node_id % 3].begin(Isolation.READ_COMMITTED)
    order: list[str] = []

    async def rivals() -> None:
        rival.begin_statement()
        (locked,) = await rival.lock([KEYS[3]], LockStrength.UPDATE)
        order.append(f"rival sees {locked.value!r}")
        rival.rollback()

    async def run() -> None:
        owner.begin_statement()
        await owner.lock([KEYS[3], KEYS[0]], LockStrength.UPDATE)
        waiting = world.cluster.scheduler.spawn(rivals()).completion
        await sleep(world.cluster.scheduler, SECOND // 10)
        if operation == "split":
            await world.gateways[1].split([CUT])
        else:
            await store.merger.merge(CUT)
        await sleep(world.cluster.scheduler, 2 * SECOND)
        order.append("owner commits")
        owner.put(KEYS[3], b"new")
        await owner.commit()
        await waiting

    world.run(run())
    assert order == ["owner commits", "rival sees b'new'"]
    # Nothing is left of the locks, wherever they went.
    world.cluster.advance(0.1)
    for gateway in world.gateways.values():
        assert not [local for local in gateway.leases.all() if len(local.locks)]


def test_a_transaction_anchored_right_goes_on() -> None:
    """Prepared before the merge, its record is decided, found and cleaned up in the whole."""
    world = World()
    transaction = world.gateways[2].begin(Isolation.READ_COMMITTED)

    async def run() -> None:
        transaction.begin_statement()
        for key in (CUT, KEYS[3], b"\x03other"):
            transaction.put(key, b"two-phase")
        commit = world.cluster.scheduler.spawn(transaction.commit()).completion
        await sleep(world.cluster.scheduler, 2_000_000)
        try:
            await store.merger.merge(CUT)
        except KVError:
            pass
        await commit

    store = world.together()
    world.run(run())
    world.cluster.advance(30)
    for key in (CUT, KEYS[3], b"\x03other"):
        assert world.run(world.read(key)) == b"two-phase"
    for each in world.cluster.stores():
        assert not list(each.engine.latest().scan(Space.INTENTS, b"", b"\xff\xff"))


def test_reads_are_not_overtaken() -> None:
    """What was read in the right part stays as it was read, whoever writes there afterwards."""
    world = World()
    world.cluster.nodes["n2"].skew_us = 80_000
    store = world.together()
    reader = world.gateways[2].begin(Isolation.REPEATABLE_READ)

    async def run() -> None:
        reader.begin_statement()
        assert (await reader.get_many([KEYS[3]]))[0] == b"old"
        await store.merger.merge(CUT)
        await world.write(KEYS[3], b"new")
        assert (await reader.get_many([KEYS[3]]))[0] == b"old"

    world.run(run())


def test_intents_go_over() -> None:
    """A prepared write in the right part is in the way of readers and writers of the whole."""
    world = World()
    store = world.together()
    gateway = world.gateways[store.node_id]
    transaction = gateway.begin(Isolation.READ_COMMITTED)
    transaction_id = transaction.transaction_id  # the gateway knows it from now on
    world.run(gateway.router.send(Prepare(transaction_id, CUT, 1, [(KEYS[3], b"prepared", BLIND)])))
    world.run(store.merger.merge(CUT))
    local = gateway.leases.find(KEYS[3])
    assert local is not None and KEYS[3] in local.intents.writes
    assert world.run(world.read(KEYS[3])) == b"old"
    world.run(gateway.router.send(EndTransaction(transaction_id, CUT, True, 0, mvcc.MAX_TIMESTAMP)))
    assert world.run(world.read(KEYS[3])) == b"prepared"


def test_an_intent_laid_down_while_its_range_is_cut_is_the_right_parts() -> None:
    """Else the left part meets it again in its memory when both are merged, and finds nobody who would take it away."""
    world = World()
    store = world.together()
    gateway = world.gateways[store.node_id]
    whole = world.holder(CUT)
    transaction = gateway.begin(Isolation.READ_COMMITTED)
    transaction_id = transaction.transaction_id
    prepare = Prepare(transaction_id, CUT, 1, [(KEYS[3], b"prepared", BLIND)])
    prepared = world.cluster.scheduler.spawn(gateway.router.send(prepare)).completion
    world.cluster.advance(0)
    assert not prepared.done
    cut = Command(whole.lease_epoch, whole.descriptor.generation, 0, [], [], SplitTrigger(b"\x04p", 99))
    world.cluster.scheduler.run_until(whole.propose(cut))
    world.cluster.wait_until(lambda: prepared.done)
    left = gateway.leases.find(CUT)
    assert left is not None and left.end == b"\x04p" and not left.intents
    world.cluster.wait_until(
        lambda: (right := gateway.leases.find(KEYS[3])) is not None and KEYS[3] in right.intents.writes
    )


def test_an_intent_that_only_memory_knows_is_in_nobodys_way() -> None:
    world = World()
    gateway = world.gateways[world.together().node_id]
    local = gateway.leases.find(CUT)
    assert local is not None
    gone = gateway.begin(Isolation.READ_COMMITTED).transaction_id
    local.intents.add_writes([KEYS[3]], IntentInfo(gone, gateway.now(), 1, CUT))
    gateway.active.pop(gone)
    world.run(world.write(KEYS[3], b"new", gateway.node_id))
    assert not local.intents


def test_a_right_range_that_has_left_a_node_meanwhile_is_not_taken_in() -> None:
    """That node would be told to join two ranges of which it has but one."""
    world = World()
    store = world.together()
    right = world.holder(CUT)
    gone = next(each for each in right.descriptor.replicas if each.node_id != store.node_id)
    removal = right.propose_membership((raft.Change(raft.REMOVE, gone.replica_id),), ())
    with pytest.raises(ProposalLost):
        world.run(store.merger.merge(CUT))
    world.cluster.scheduler.run_until(removal)
    world.cluster.wait_until(world.is_settled)
    assert not world.cluster.fatal_errors
    world.run(world.write(KEYS[3], b"new"))
    assert world.run(world.read(KEYS[0])) == b"old"


def test_a_frozen_range_is_served_by_nobody() -> None:
    """Not even by another leader: the left range may have taken its keys over, which that one has not heard of."""
    world = World()
    store = world.together()
    right = world.holder(CUT)
    command = Command(right.lease_epoch, right.descriptor.generation, 0, [], [], None, MergeStep(MergeStepKind.FREEZE))
    world.cluster.scheduler.run_until(right.propose(command))
    other = next(each for each in world.cluster.stores() if each is not store)
    world.cluster.wait_until(lambda: right.range_id in other.replicas)
    store.transfer_lease(right, other.node_id)
    world.cluster.wait_until(lambda: other.replicas[right.range_id].leased)
    world.cluster.advance(3)
    assert world.cluster.leaseholder(CUT) is None
    with pytest.raises(ProposalLost):
        world.cluster.scheduler.run_until(
            other.replicas[right.range_id].propose(put_command(other.replicas[right.range_id]))
        )


def put_command(replica: Replica) -> Command:
    now = replica.owner.clock.now()
    return Command(
        replica.lease_epoch,
        replica.descriptor.generation,
        now,
        [(int(Space.VERSIONS), mvcc.versioned(CUT, now), b"late")],
    )


def records_of(world: World, key: bytes) -> list[bytes]:
    replica = world.holder(key)
    prefix = b"txn/" + replica.range_id.to_bytes(8, "big")
    return [name for name, _ in replica.engine.latest().scan(Space.STATE, prefix, prefix_end(prefix))]


def test_records_get_the_name_of_the_whole() -> None:
    """A one-phase commit of another node leaves a record in an older release: sent again after the merge, it must be found."""
    world = World()
    for gateway in world.gateways.values():
        gateway.leases.is_active = lambda feature: feature is not Feature.OUTCOMES_BY_KEY
    store = world.together()
    other = next(node for node in world.gateways if node != store.node_id)
    world.run(world.write(KEYS[3], b"remote", other))
    names = [name[-16:] for name in records_of(world, CUT)]
    assert names and not set(names) & {name[-16:] for name in records_of(world, KEYS[0])}
    world.merge()
    assert set(names) <= {name[-16:] for name in records_of(world, KEYS[0])}


def test_nobody_notices_more_than_latency() -> None:
    world = World()
    waits: list[float] = []
    stopping = False

    async def client(node: int, key: bytes) -> None:
        count = 0
        scheduler = world.cluster.scheduler
        while not stopping:
            count += 1
            begun = scheduler.now_ns()
            await world.write(key, b"%d" % count, node)
            assert await world.read(key, node) == b"%d" % count
            waits.append((scheduler.now_ns() - begun) / 1e6)
            await sleep(scheduler, 1_000_000)

    clients: list[Completion[None]] = [
        world.cluster.scheduler.spawn(client(node, b"%s%d" % (key, node))).completion
        for node in world.gateways
        for key in (b"\x04b", b"\x04u")
    ]
    for _ in range(5):
        world.together()
        world.cluster.advance(0.2)
        calm = max(waits)
        waits.clear()
        world.merge()
        world.cluster.advance(0.2)
        assert max(waits) < calm + 50
        waits.clear()
        world.run(world.gateways[1].split([CUT]))
        world.cluster.advance(0.2)
        assert max(waits) < calm + 50
    stopping = True
    world.cluster.advance(2)
    for each in clients:
        each.result()


CONFIGS = [StoreConfig(), StoreConfig(log_entries_kept=2, log_entries_most=4)]


@pytest.mark.parametrize("victim", ["leader", "follower", "all"])
@pytest.mark.parametrize("short_log", [False, True])
def test_a_crash_at_any_moment(victim: str, short_log: bool) -> None:
    """One cluster, a merge after the other, each struck a little later than the one before."""
    world = World(config=CONFIGS[short_log])
    cluster = world.cluster
    merged = given_up = 0
    for moment_us in range(0, 12_000, 300):
        store = world.together()
        names = {node.node_id: name for name, node in cluster.nodes.items()}
        leader = names[store.node_id]
        follower = next(name for name in cluster.nodes if name != leader)
        struck = {"leader": [leader], "follower": [follower], "all": list(cluster.nodes)}[victim]
        value = b"%d" % moment_us
        for key in KEYS:
            world.run(world.write(key, value))
        cluster.scheduler.spawn(_try(store, CUT))
        cluster.advance(moment_us / 1e6)
        cluster.crash(*struck)
        if victim != "all":
            cluster.advance(3)
            # Two of three nodes must be able to finish it one way or the other.
            cluster.wait_until(world.is_settled)
            survivor = next(each.node_id for each in cluster.stores())
            for key in KEYS:
                assert world.run(world.read(key, survivor)) == value
                world.run(world.write(key, value + b"+", survivor))
        cluster.restart(*struck)
        cluster.wait_until(world.is_clean)
        assert not cluster.fatal_errors
        whole = world.holder(CUT).descriptor.start != CUT
        merged, given_up = merged + whole, given_up + (not whole)
        for key in KEYS:
            assert world.run(world.read(key)) == value + (b"+" if victim != "all" else b"")
        world.run(world.gateways[1].split([CUT]))
        cluster.wait_until(lambda: all_equal(cluster))
    assert merged > 3 and given_up > 3


async def _try(store: Store, key: bytes) -> None:
    try:
        await store.merger.merge(key)
    except KVError:
        pass


def all_equal(cluster: Cluster) -> bool:
    dumps = [list(store.engine.latest().scan(Space.VERSIONS, b"\x04", b"\x05")) for store in cluster.stores()]
    return all(dump == dumps[0] for dump in dumps)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_node_that_missed_it_gets_the_whole(restarted: bool) -> None:
    """Cut off when the others merge, it finds the log gone: a snapshot of the whole replaces both of its parts."""
    world = World(config=CONFIGS[1])
    cluster = world.cluster
    store = world.together()
    laggard = next(name for name, node in cluster.nodes.items() if node.node_id != store.node_id)
    others = [name for name in cluster.nodes if name != laggard]
    right = world.holder(CUT).range_id

    def frozen_everywhere() -> bool:
        replica = store.replicas[right]
        members = replica.raft.members()
        return replica.descriptor.frozen and all(member.applied >= replica.raft.last_index for member in members)

    merging = cluster.scheduler.spawn(store.merger.merge(CUT)).completion
    cluster.wait_until(frozen_everywhere, step=0.0001)
    cluster.network.partition([laggard], others)
    if restarted:
        cluster.crash(laggard)
    cluster.wait_until(lambda: merging.done)
    merging.result()
    survivor = next(each.node_id for each in cluster.stores() if each.node_id == store.node_id)
    for round in range(8):
        for key in KEYS:
            world.run(world.write(key, b"%d" % round + bytes(50_000), survivor))
    cluster.advance(2)
    installed = 0 if restarted else cluster.store(laggard).metrics.snapshots_installed
    cluster.network.heal()
    if restarted:
        cluster.restart(laggard)
    cluster.wait_until(world.is_clean, 60)
    assert cluster.store(laggard).metrics.snapshots_installed > installed
    assert right not in cluster.store(laggard).replicas
    cluster.wait_until(lambda: all_equal(cluster))
    assert not cluster.fatal_errors
    value, _ = mvcc.get(cluster.nodes[laggard].engine.latest(), CUT, mvcc.MAX_TIMESTAMP)
    assert value is not None and value.startswith(b"7")
