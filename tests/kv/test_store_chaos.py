"""Random faults against a whole cluster: nothing acknowledged is lost, and no read is stale.

Each key is a register written by one client with growing numbers.  A read by the leaseholder must return at least the
greatest number acknowledged before the read began (linearizability of a single-writer register), whoever is cut off,
killed or late at that moment.
"""

from __future__ import annotations

import pytest
from pydistdb.kv.api import KVError
from pydistdb.kv.command import ANY_GENERATION, Command
from pydistdb.kv.replica import Replica
from pydistdb.kv.store import StoreConfig
from pydistdb.tasks import sleep
from pydistdb_storage import mvcc
from pydistdb_storage.engine import Space

from tests.support.cluster import Cluster

MILLISECOND = 1_000_000


class Register:
    """One key and its writer."""

    def __init__(self, cluster: Cluster, key: bytes) -> None:
        self.cluster = cluster
        self.key = key
        self.acknowledged = 0
        self.sent = 0
        self.reads = 0
        self.stop = False
        self.stale: list[str] = []

    def candidates(self) -> list[Replica]:
        """Everybody who claims the lease, without asking the others."""
        found = (store.replica_for_key(self.key) for store in self.cluster.stores())
        return [replica for replica in found if replica is not None and replica.is_leaseholder()]

    async def write(self) -> None:
        while not self.stop:
            for replica in self.candidates():
                self.sent += 1
                number = self.sent
                timestamp = replica.owner.clock.now()
                write = (int(Space.VERSIONS), mvcc.versioned(self.key, timestamp), str(number).encode())
                try:
                    await replica.propose(Command(replica.lease_epoch, ANY_GENERATION, timestamp, [write]))
                    self.acknowledged = number
                except KVError:
                    pass
                break
            await sleep(self.cluster.scheduler, 5 * MILLISECOND)

    async def read(self) -> None:
        while not self.stop:
            for replica in self.candidates():
                value = mvcc.get(replica.engine.latest(), self.key, mvcc.MAX_TIMESTAMP)[0]
                self.reads += 1
                if int(value or b"0") < self.acknowledged:
                    self.stale.append(f"node {replica.owner.node_id} read {value!r} after {self.acknowledged}")
            await sleep(self.cluster.scheduler, 3 * MILLISECOND)


def hurt(cluster: Cluster) -> None:
    """One random fault, for one to three seconds."""
    rand = cluster.rand
    names = list(cluster.nodes)
    victim = rand.choice(names)
    kind = rand.choice(["crash", "partition", "loss", "late", "disk", "half", "restart"])
    match kind:
        case "crash":
            cluster.crash(victim)
            cluster.advance(rand.uniform(0.1, 3.0))
            cluster.restart(victim)
        case "restart":
            cluster.crash(*names)
            cluster.advance(rand.uniform(0.0, 0.5))
            cluster.restart(*names)
        case "partition":
            cluster.network.partition([victim], [name for name in names if name != victim])
            cluster.advance(rand.uniform(0.3, 3.0))
            cluster.network.heal()
        case "half":
            other = rand.choice([name for name in names if name != victim])
            cluster.network.partition([victim], [other])
            cluster.advance(rand.uniform(0.3, 3.0))
            cluster.network.heal()
        case "loss":
            cluster.network.loss = 0.3
            cluster.advance(rand.uniform(0.3, 3.0))
            cluster.network.loss = 0.0
        case "late":
            cluster.network.late = 0.2
            cluster.network.duplicates = 0.2
            cluster.advance(rand.uniform(0.3, 3.0))
            cluster.network.late = cluster.network.duplicates = 0.0
        case "disk":
            cluster.nodes[victim].committer.delay_ns = rand.randint(1, 1500) * MILLISECOND
            cluster.advance(rand.uniform(0.3, 3.0))
            cluster.nodes[victim].committer.delay_ns = cluster.disk_delay_ns
    cluster.advance(rand.uniform(0.0, 2.0))


@pytest.mark.parametrize("seed", range(8))
def test_registers_survive_faults(seed: int) -> None:
    cluster = Cluster(seed)
    cluster.start(3)
    cluster.run(cluster.split(b"\x04m"))
    registers = [Register(cluster, key) for key in (b"\x04a", b"\x04z")]
    for register in registers:
        cluster.scheduler.spawn(register.write())
        cluster.scheduler.spawn(register.read())
    for _ in range(8):
        hurt(cluster)
        assert not cluster.fatal_errors
        assert not [stale for register in registers for stale in register.stale]
    cluster.wait_until(cluster.covered)
    for register in registers:
        register.stop = True
    cluster.advance(11)
    for register in registers:
        assert register.acknowledged > 50
        assert int(cluster.run(cluster.get(register.key)) or b"0") >= register.acknowledged
    assert cluster.wait_until(lambda: same_everywhere(cluster)) < 10


@pytest.mark.parametrize("seed", [2, 7, 11, 13])
def test_registers_survive_while_ranges_split_move_and_lose_their_nodes(seed: int) -> None:
    """Five nodes, short logs (so that snapshots are needed), emptied nodes, splits that crashes interrupt."""
    config = StoreConfig(log_entries_kept=10, log_entries_most=30, dead_after_ns=4_000 * MILLISECOND)
    cluster = Cluster(seed, config=config)
    cluster.start(5)
    registers = [Register(cluster, b"\x05%d" % i) for i in range(6)]
    for register in registers:
        cluster.scheduler.spawn(register.write())
        cluster.scheduler.spawn(register.read())
    for _ in range(10):
        choice = cluster.rand.random()
        boundary = b"\x05%d" % cluster.rand.randint(0, 6)
        if choice < 0.2:
            cluster.scheduler.spawn(cluster.split(boundary))
            hurt(cluster)
        elif choice < 0.3:
            cluster.wait_until(lambda: cluster.replicated(3), 60)
            cluster.wipe(cluster.rand.choice(list(cluster.nodes)))
            cluster.advance(2)
        elif choice < 0.4:
            cluster.scheduler.spawn(cluster.split(boundary))
            cluster.advance(cluster.rand.uniform(0, 0.05))
            cluster.crash(*cluster.nodes)
            cluster.restart(*cluster.nodes)
            cluster.advance(2)
        else:
            hurt(cluster)
        assert not cluster.fatal_errors
        assert not [stale for register in registers for stale in register.stale]
    cluster.wait_until(cluster.covered, 60)
    for register in registers:
        register.stop = True
    cluster.advance(11)
    cluster.wait_until(lambda: cluster.replicated(3), 60)
    for register in registers:
        assert int(cluster.run(cluster.get(register.key)) or b"0") >= register.acknowledged
    cluster.wait_until(lambda: replicas_agree(cluster), 10)


def replicas_agree(cluster: Cluster) -> bool:
    """Whether all replicas of each range hold the same versions."""
    for store in cluster.stores():
        for leader in store.leased_replicas():
            descriptor = leader.descriptor
            start = max(descriptor.start, b"\x04")
            dumps = [
                list(other.engine.latest().scan(Space.VERSIONS, start, descriptor.end))
                for other in cluster.stores()
                if descriptor.replica_on(other.node_id) is not None
            ]
            if any(dump != dumps[0] for dump in dumps):
                return False
    return True


def same_everywhere(cluster: Cluster) -> bool:
    """Whether all engines hold the same versions."""
    dumps = [list(store.engine.latest().scan(Space.VERSIONS, b"\x04", b"\x05")) for store in cluster.stores()]
    return all(dump == dumps[0] for dump in dumps)
