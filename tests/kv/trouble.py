"""What happens to a simulated cluster while clients work on it (tests/kv/simulate.py): one fault more, or one less.

The mild kinds keep clocks within their bound and disks slow at worst.  The harsh ones add clocks that jump beyond the bound,
disks that are full, syncs that fail (after which nobody knows what is on the disk: half of the time the write is there), and
replicas that move from node to node.  ``reshapes`` adds merges to either, and more splits, and mends everything now and then.
The wide ones add processes that stop for longer than any lease, and that die just before they send their n-th message from now
on; nodes that give their leases away; and a node that has lost its disk and begins anew, once everything else is well.  One
statement in CANCELED_SHARE is cancelled on its way, also within its commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydistdb.kv.api import KVError
from pydistdb.kv.descriptor import NodeId
from pydistdb.kv.store import Store, StoreConfig
from pydistdb.tasks import Task, sleep
from pydistdb_storage.errors import StorageError, StoreFull

if TYPE_CHECKING:
    from tests.kv.simulate import Simulation

KEYS = 8
CANCELED_SHARE = 8
CANCELED_AFTER_MS = (1, 5, 20, 100, 2_000)
MOST_SKEW_US = 90_000
WRONG_SKEWS_US = (-3_000_000, -400_000, -260_000, 260_000, 400_000, 3_000_000)
HARSH = StoreConfig(log_entries_kept=20, log_entries_most=60, dead_after_ns=8_000_000_000)
MILD_KINDS = ("crash", "crash", "all", "cut", "silence", "loss", "late", "disk", "clock", "split", "move", "heal")
RESHAPING_KINDS = ("split", "split", "split", *("merge",) * 7, "mend", "mend", "mend")
WIDE_KINDS = ("stop", "stop", "fuse", "fuse", "fuse", "drain", "wipe")
HARSH_KINDS = (*MILD_KINDS, "jump", "full", "sync", "rehome", "rehome", "deaf")


class Canceled(Exception):
    """A statement is stopped wherever it waits, as a client's cancel or statement_timeout does it; a commit may stand."""


class InjectedFailure(StorageError):
    """The disk of this node fails because the simulation says so."""


class Trouble:
    """All that can happen to one simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.cluster = simulation.cluster
        self.rand = simulation.rand
        self.faults = 0
        self.merges = 0
        self._clocks_wrong_until_ns = -1 << 62
        self.kinds = HARSH_KINDS if simulation.harsh else MILD_KINDS
        if simulation.reshapes:
            self.kinds += RESHAPING_KINDS
        if simulation.wide:
            self.kinds += WIDE_KINDS
            self.cluster.network.on_send = self._sends
        self._fuses: dict[str, int] = {}
        """How many messages each of these nodes still sends before it dies."""
        self.wiped = False
        self.canceled = 0

    def hurt(self) -> None:
        """One fault more, or one less."""
        cluster, rand = self.cluster, self.rand
        self.faults += 1
        names = list(cluster.nodes)
        victim = rand.choice(names)
        others = [name for name in names if name != victim]
        match rand.choice(self.kinds):
            case "crash":
                down = [name for name in names if not cluster.nodes[name].running]
                if down:
                    cluster.restart(*down)
                else:
                    cluster.crash(victim)
            case "all":
                cluster.crash(*[name for name in names if cluster.nodes[name].running])
                cluster.advance(rand.uniform(0, 0.3))
                cluster.restart(*names)
            case "cut":
                cluster.network.partition([victim], others)
            case "silence":
                cluster.network.silence(victim, rand.choice(others))
            case "deaf":
                for other in others:
                    cluster.network.silence(other, victim)
            case "loss":
                cluster.network.loss = rand.choice((0.0, 0.02, 0.1))
            case "late":
                cluster.network.late = cluster.network.duplicates = rand.choice((0.0, 0.1))
            case "disk":
                cluster.nodes[victim].committer.delay_ns = rand.choice((500_000, 20_000_000, 300_000_000))
            case "full":
                committer = cluster.nodes[victim].committer
                committer.error = None if committer.error else StoreFull("no room left, says the simulation")
            case "sync":
                committer = cluster.nodes[victim].committer
                committer.error = InjectedFailure("a sync failed, says the simulation")
                committer.applies_all_the_same = rand.random() < 0.5
            case "clock":
                self._set_clock(victim, rand.randint(-MOST_SKEW_US, MOST_SKEW_US))
            case "jump":
                self._set_clock(victim, rand.choice(WRONG_SKEWS_US))
            case "split":
                cluster.scheduler.spawn(self._split(self._some_key()))
            case "merge":
                cluster.scheduler.spawn(self._merge())
            case "mend":
                self.end()
            case "move":
                self._move(self._some_key(), cluster.nodes[victim].node_id)
            case "rehome":
                cluster.scheduler.spawn(self._rehome(self._some_key(), cluster.nodes[victim].node_id))
            case "stop":
                self._stop(victim)
            case "fuse":
                self._fuses[victim] = rand.randint(1, 40)
            case "drain":
                if (store := cluster.nodes[victim].store) is not None and cluster.nodes[victim].running:
                    store.drain()
            case "wipe":
                self._wipe(victim)
            case "heal":
                cluster.network.heal()
                cluster.network.loss = cluster.network.late = cluster.network.duplicates = 0.0

    def cancel_some_time(self, task: Task[None]) -> None:
        """Perhaps have a client's statement stopped before long."""
        if self.simulation.wide and self.rand.randrange(CANCELED_SHARE) == 0:
            after_ns = int(self.rand.random() * self.rand.choice(CANCELED_AFTER_MS) * 1_000_000)
            scheduler = self.cluster.scheduler
            scheduler.call_at(scheduler.now_ns() + after_ns, lambda: self._cancel(task))

    def _cancel(self, task: Task[None]) -> None:
        self.canceled += not task.completion.done
        task.cancel(Canceled("canceling statement due to user request"))

    def end(self) -> None:
        """Mend everything."""
        self._fuses.clear()
        for store in self.cluster.stores():
            store.membership.draining = False
        for node in self.cluster.nodes.values():
            node.committer.delay_ns = self.cluster.disk_delay_ns
            node.committer.error = None
            if abs(node.skew_us) > MOST_SKEW_US:
                self._set_clock(node.name, 0)
        self.cluster.mend()

    def _stop(self, name: str) -> None:
        """As SIGSTOP does, and SIGCONT after a while."""
        scheduler = self.cluster.nodes[name].scheduler
        if not scheduler.stopped:
            scheduler.stop()
            until_ns = self.cluster.scheduler.now_ns() + self.rand.randint(100, 9_000) * 1_000_000
            self.cluster.scheduler.call_at(until_ns, scheduler.resume)

    def _sends(self, name: str) -> None:
        left = self._fuses.get(name)
        if left is not None:
            self._fuses[name] = left - 1
            if left <= 1:
                del self._fuses[name]
                self.cluster.crash(name)

    def _wipe(self, name: str) -> None:
        """A node loses its disk, where that leaves every range its majority."""
        cluster = self.cluster
        if self.wiped:
            return
        self.end()
        cluster.advance(3)
        nodes = cluster.nodes.values()
        if not all(node.running and not node.scheduler.stopped for node in nodes) or not cluster.replicated(3):
            return
        self.wiped = True
        former = cluster.nodes[name].node_id
        cluster.crash(name)
        cluster.wipe(name)
        del self.simulation.gateways[former], self.simulation.operations[former]

    def _set_clock(self, name: str, skew_us: int) -> None:
        node = self.cluster.nodes[name]
        if abs(node.skew_us) > MOST_SKEW_US:
            self._clocks_wrong_until_ns = self.cluster.scheduler.now_ns()
        node.skew_us = skew_us

    def clocks_are_right(self, since_ns: int) -> bool:
        """Whether no clock has been out of bounds since then, nor can there be a timestamp left of one that was before."""
        furthest_ns = max(WRONG_SKEWS_US) * 1_000
        return self._clocks_wrong_until_ns + furthest_ns < since_ns and all(
            abs(node.skew_us) <= MOST_SKEW_US for node in self.cluster.nodes.values()
        )

    def _some_key(self) -> bytes:
        prefix = self.rand.choice((b"\x04acc%03d", b"\x04list%03d"))
        return prefix % self.rand.randrange(KEYS)

    async def _split(self, key: bytes) -> None:
        gateway = self.simulation.gateway()
        try:
            if gateway is not None:
                await gateway.split([key])
        except KVError:
            pass

    async def _merge(self) -> None:
        """Bring the leases of two neighbours to one node, and merge there."""
        boundaries = {
            replica.descriptor.start
            for store in self.cluster.stores()
            for replica in store.leased_replicas()
            if replica.descriptor.start
        }
        if not boundaries:
            return
        key = self.rand.choice(sorted(boundaries))
        for store in self.cluster.stores():
            left, right = store.replica_ending_at(key), store.replica_for_key(key)
            if left is None or right is None or not left.leased or self._is_stopped(store):
                continue
            for _ in range(100):
                if right.leased or store.stopped:
                    break
                self._move(key, store.node_id)
                await sleep(self.cluster.scheduler, 20_000_000)
            try:
                await store.merger.merge(key)
                self.merges += 1
            except KVError:
                pass
            return

    def _is_stopped(self, store: Store) -> bool:
        return any(node.store is store and node.scheduler.stopped for node in self.cluster.nodes.values())

    def _move(self, key: bytes, to: NodeId) -> None:
        replica = self.cluster.leaseholder(key)
        name = self.cluster.leaseholder_name(key)
        if (
            replica is not None
            and name is not None
            and replica.owner.node_id != to
            and not self.cluster.nodes[name].scheduler.stopped
        ):
            self.cluster.store(name).transfer_lease(replica, to)

    async def _rehome(self, key: bytes, to: NodeId) -> None:
        """Move a replica of the range that holds ``key`` to a node that has none."""
        replica = self.cluster.leaseholder(key)
        gateway = self.simulation.gateway()
        if replica is None or gateway is None:
            return
        descriptor = replica.descriptor
        away = self.rand.choice(descriptor.replicas).node_id
        try:
            await self.simulation.operations[gateway.node_id].move_replica(descriptor.range_id, away, to)
        except KVError:
            pass
