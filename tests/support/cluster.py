"""A whole cluster in one process under a virtual clock: for tests of anything above the engine.

Every node is a real ``Store`` on its own engine; only the network, the disk's pace and the clocks are played::

    cluster = Cluster(seed=7)
    cluster.start(3)                              # n1 bootstraps, n2 and n3 join, ranges are replicated three times
    cluster.run(cluster.put(b"\\x04k", b"v"))
    cluster.crash("n1"); cluster.advance(3.0)     # like kill -9: what was not durable is gone
    assert cluster.run(cluster.get(b"\\x04k")) == b"v"
    cluster.restart("n1")

One seed gives one history.  The network encodes and decodes every message, so what the codec cannot carry fails here.
``cluster.network`` has the knobs: ``delay_ns``, ``loss``, ``duplicates``, ``late``, ``partition``, ``heal``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pydistdb.kv.api import KVError, RangeUnavailable
from pydistdb.kv.command import Command, ProposalLost
from pydistdb.kv.commit import InlineCommitter
from pydistdb.kv.hlc import ClockOffsetExceeded, HybridClock
from pydistdb.kv.membership import NodeAddresses, bootstrap, join, open_identity
from pydistdb.kv.replica import Replica
from pydistdb.kv.store import Store, StoreConfig
from pydistdb.kv.transport import (
    Message,
    NodeUnreachable,
    RaftEnvelope,
    RemoteError,
    decode_envelopes,
    decode_message,
    encode_envelopes,
    encode_message,
)
from pydistdb.kv.versions import THIS_RELEASE, ClusterVersion, Supported
from pydistdb.tasks import Completion, SimulatedScheduler, sleep
from pydistdb_storage import mvcc
from pydistdb_storage.engine import Engine, Space
from pydistdb_storage.memory_engine import MemoryEngine

from tests.support.node_scheduler import NodeScheduler

T = TypeVar("T")

START_US = 1_700_000_000_000_000
SECOND = 1_000_000_000
CALL_TIMEOUT_NS = 3 * SECOND
DEFAULT_DELAY_NS = (100_000, 400_000)
DEFAULT_DISK_DELAY_NS = 500_000


class LocalNetwork:
    """Carries messages between nodes, as badly as it is told to."""

    def __init__(self, scheduler: SimulatedScheduler, rand: random.Random) -> None:
        self.scheduler = scheduler
        self.rand = rand
        self.delay_ns = DEFAULT_DELAY_NS
        self.loss = 0.0
        """Probability that a message is lost; requests and answers too."""
        self.duplicates = 0.0
        self.late = 0.0
        """Probability that a one-way message takes a hundred times as long, overtaken by others."""
        self.messages = 0
        self.on_send: Callable[[str], None] = lambda sender: None
        """Called with the sender's name before each message leaves."""
        self.endpoints: dict[str, LocalTransport] = {}
        self._cut: set[frozenset[str]] = set()
        self._silent: set[tuple[str, str]] = set()
        self._arrival_ns: dict[tuple[str, str], int] = {}

    def partition(self, *groups: list[str]) -> None:
        """Let nodes of different groups not hear each other (nodes in no group hear everybody)."""
        for i, group in enumerate(groups):
            for other in groups[i + 1 :]:
                self._cut |= {frozenset((a, b)) for a in group for b in other}

    def silence(self, sender: str, receiver: str) -> None:
        """Let ``receiver`` not hear ``sender``, which still hears it."""
        self._silent.add((sender, receiver))

    def heal(self) -> None:
        self._cut.clear()
        self._silent.clear()

    def is_cut(self, a: str, b: str) -> bool:
        return frozenset((a, b)) in self._cut or (a, b) in self._silent

    def deliver(self, sender: str, receiver: str, arrive: Callable[[], None], one_way: bool = False) -> None:
        """Have ``arrive`` called after a while, or never; in order per pair, unless ``late`` strikes."""
        self.messages += 1
        self.on_send(sender)
        if not self.endpoints[sender].alive:
            return
        if self.rand.random() < self.loss:
            return
        delay = self.rand.randint(*self.delay_ns)
        now = self.scheduler.now_ns()
        if one_way and self.late and self.rand.random() < self.late:
            at = now + 100 * delay
        else:
            at = max(now + delay, self._arrival_ns.get((sender, receiver), 0))
            self._arrival_ns[sender, receiver] = at

        def arrives() -> None:
            if not self.is_cut(sender, receiver):
                endpoint = self.endpoints.get(receiver)
                if endpoint is not None:
                    endpoint.scheduler.run(arrive)

        self.scheduler.call_at(at, arrives)
        if one_way and self.duplicates and self.rand.random() < self.duplicates:
            self.scheduler.call_at(at + self.rand.randint(0, 50 * delay), arrives)


class LocalTransport:
    """One process's side of the network (``Transport``)."""

    def __init__(self, network: LocalNetwork, name: str, clock: HybridClock, scheduler: NodeScheduler) -> None:
        self._network = network
        self.name = name
        self.scheduler = scheduler
        self.clock = clock
        self.node_id = 0
        self.store: Store | None = None
        self.alive = True
        self.clock_refused: Callable[[int, int], None] = lambda node_id, reading: None
        self._addresses: dict[int, str] = {}
        network.endpoints[name] = self

    def set_address(self, node_id: int, address: str) -> None:
        self._addresses[node_id] = address

    def send_raft(self, node_id: int, envelopes: list[RaftEnvelope]) -> None:
        address = self._addresses.get(node_id)
        if address is None or not self.alive:
            return
        data = encode_envelopes(envelopes)
        reading = self.clock.now()

        def arrive() -> None:
            endpoint = self._network.endpoints.get(address)
            if endpoint is None or not endpoint.alive or endpoint.store is None or endpoint.node_id != node_id:
                return
            if endpoint.hears(reading, self.node_id):
                endpoint.store.receive_raft(self.node_id, decode_envelopes(data))

        self._network.deliver(self.name, address, arrive, one_way=True)

    def hears(self, reading: int, node_id: int) -> bool:
        try:
            self.clock.update(reading)
        except ClockOffsetExceeded:
            self.clock_refused(node_id, reading)
            return False
        return True

    def call(self, node_id: int, request: Message) -> Completion[Any]:
        address = self._addresses.get(node_id)
        if address is None:
            failed: Completion[Any] = Completion()
            failed.fail(NodeUnreachable(node_id, "its address is not known"))
            return failed
        return self._call(address, node_id, request)

    def call_address(self, address: str, request: Message) -> Completion[Any]:
        return self._call(address, 0, request)

    def _call(self, address: str, node_id: int, request: Message) -> Completion[Any]:
        network = self._network
        scheduler = self.scheduler
        answer: Completion[Any] = Completion()
        data = encode_message(request)
        reading = self.clock.now()
        timer = scheduler.call_at(
            scheduler.now_ns() + CALL_TIMEOUT_NS, lambda: answer.fail(NodeUnreachable(node_id or address, "no answer"))
        )
        answer.on_done(lambda _: timer.cancel())

        def arrive() -> None:
            endpoint = network.endpoints.get(address)
            if endpoint is None or not endpoint.alive or endpoint.store is None:
                return
            if (node_id and endpoint.node_id != node_id) or not endpoint.hears(reading, self.node_id):
                return
            task = endpoint.scheduler.spawn(endpoint.serve(self.node_id, data), f"serve {type(request).__name__}")
            task.completion.on_done(lambda done: reply(endpoint, done.result()))

        def reply(endpoint: LocalTransport, result: tuple[bytes | None, str]) -> None:
            back = endpoint.clock.now()

            def come_back() -> None:
                if not self.alive or not self.hears(back, endpoint.node_id):
                    return
                if result[0] is not None:
                    answer.set(decode_message(result[0]))
                else:
                    answer.fail(RemoteError(result[1]))

            if endpoint.alive:
                network.deliver(address, self.name, come_back)

        if self.alive:
            network.deliver(self.name, address, arrive)
        return answer

    async def serve(self, from_node: int, data: bytes) -> tuple[bytes | None, str]:
        assert self.store is not None
        try:
            return encode_message(await self.store.handle(from_node, decode_message(data))), ""
        except KVError as error:
            return None, f"{type(error).__name__}: {error}"


class Node:
    """One node of the cluster: what survives a crash (the engine), and what does not (the rest)."""

    def __init__(self, cluster: Cluster, name: str, engine: Engine, addresses: NodeAddresses) -> None:
        self.cluster = cluster
        self.name = name
        self.engine = engine
        self.addresses = addresses
        self.skew_us = 0
        self.fatal: BaseException | None = None
        self.scheduler: NodeScheduler
        self.clock: HybridClock
        self.transport: LocalTransport
        self.committer: InlineCommitter
        self.store: Store | None = None

    @property
    def node_id(self) -> int:
        return self.transport.node_id

    @property
    def running(self) -> bool:
        return self.store is not None and not self.store.stopped

    def boot(self) -> None:
        """Begin a process: clock and transport, but no store yet."""
        scheduler = self.cluster.scheduler
        self.fatal = None
        self.scheduler = self.cluster.node_scheduler()
        self.clock = HybridClock(lambda: START_US + scheduler.now_ns() // 1_000 + self.skew_us)
        self.transport = LocalTransport(self.cluster.network, self.name, self.clock, self.scheduler)

    def open(self) -> None:
        """Open the store, which has an identity."""
        cluster = self.cluster
        identity = open_identity(self.engine)
        assert identity is not None
        self.committer = InlineCommitter(self.scheduler, self.engine, cluster.disk_delay_ns)
        self.transport.node_id = identity.node_id
        versions = ClusterVersion(cluster.release_of(self.name))
        versions.load(self.engine)
        self.store = Store(
            identity,
            self.engine,
            self.scheduler,
            self.clock,
            self.transport,
            self.committer,
            cluster.rand.randint,
            cluster.config,
            self.addresses,
            versions,
        )
        self.store.on_fatal = self._on_fatal
        self.transport.store = self.store
        for prepare in cluster.on_open:
            prepare(self.store)
        self.store.start()

    def _on_fatal(self, error: BaseException) -> None:
        self.fatal = error
        self.cluster.fatal_errors.append(error)
        self.tell_of_death()

    def tell_of_death(self) -> None:
        for tell in self.cluster.on_crash:
            tell(self.node_id)

    def crash(self) -> None:
        """Like kill -9: nothing more is written, sent or heard."""
        if self.store is not None:
            self.committer.stop()
            self.store.stop()
        self.transport.alive = False
        self.scheduler.resume()  # what is left runs into nothing


class Cluster:
    """See the module's docstring."""

    def __init__(
        self,
        seed: int = 0,
        engine_factory: Callable[[str], Engine] | None = None,
        config: StoreConfig | None = None,
        disk_delay_ns: int = DEFAULT_DISK_DELAY_NS,
    ) -> None:
        self.scheduler = SimulatedScheduler()
        self.rand = random.Random(seed)
        self.network = LocalNetwork(self.scheduler, self.rand)
        self.config = config or StoreConfig()
        self.disk_delay_ns = disk_delay_ns
        self.nodes: dict[str, Node] = {}
        self.on_open: list[Callable[[Store], None]] = []
        """Called with each new store before it starts (to register handlers, observers, gateways)."""
        self.on_crash: list[Callable[[int], None]] = []
        """Called with the id of each node that dies."""
        self.fatal_errors: list[BaseException] = []
        self.releases: dict[str, Supported] = {}
        """The releases that nodes play from their next start on, by name; others run this one."""
        self.clocks_drift = False
        """Whether the monotonic clocks of processes that begin from now on differ, in where they begin and how fast they go."""
        self._engine_factory = engine_factory or (lambda name: MemoryEngine())

    # ---------------------------------------------------------------------------------------------------------- nodes

    def start(self, count: int, replication_factor: int = 3, localities: list[str] | None = None) -> None:
        """Bootstrap n1, join the others, and wait until range 1 has its replicas and a leaseholder."""
        self.bootstrap("n1", replication_factor, localities[0] if localities else "")
        for number in range(2, count + 1):
            self.add(f"n{number}", localities[number - 1] if localities else "")
        voters = min(count, replication_factor)
        if voters < replication_factor and voters % 2 == 0:
            voters -= 1
        self.wait_until(lambda: self.replicated(voters))

    def bootstrap(self, name: str = "n1", replication_factor: int = 3, locality: str = "") -> Node:
        node = self._new_node(name, locality)
        release = self.release_of(name)
        bootstrap(node.engine, node.clock, b"test cluster", name, node.addresses, replication_factor, release)
        node.open()
        self.wait_until(lambda: self.leaseholder(b"\x04") is not None)
        return node

    def add(self, name: str, locality: str = "", wanted: int = 0) -> Node:
        """Join a new node (or an emptied one of the same name), which asks for a number."""
        node = self._new_node(name, locality)
        seeds = [other.name for other in self.nodes.values() if other is not node and other.running]
        nonce = self.rand.randbytes(8)
        release = self.release_of(name)
        joining = join(
            node.engine,
            self.scheduler,
            node.transport,
            seeds,
            name,
            node.addresses,
            nonce,
            supported=release,
            wanted=wanted,
        )
        self.run(joining)
        node.open()
        return node

    def release_of(self, name: str) -> Supported:
        """What the release that a node runs knows."""
        return self.releases.get(name, THIS_RELEASE)

    def _new_node(self, name: str, locality: str) -> Node:
        tiers = tuple(tuple(tier.split("=", 1)) for tier in locality.split(",") if tier)
        addresses = NodeAddresses(name, f"{name}:sql", f"{name}:http", tiers)  # type: ignore[arg-type]
        node = self.nodes[name] = Node(self, name, self._engine_factory(name), addresses)
        node.boot()
        return node

    def node_scheduler(self) -> NodeScheduler:
        """The scheduler of a process that begins."""
        if not self.clocks_drift:
            return NodeScheduler(self.scheduler)
        return NodeScheduler(self.scheduler, self.rand.randrange(10**12), self.rand.uniform(0.96, 1.04))

    def store(self, name: str) -> Store:
        store = self.nodes[name].store
        assert store is not None
        return store

    def stores(self) -> list[Store]:
        """The stores of running nodes."""
        return [node.store for node in self.nodes.values() if node.store is not None and node.running]

    def crash(self, *names: str) -> None:
        for name in names:
            self.nodes[name].crash()
            self.nodes[name].tell_of_death()

    def restart(self, *names: str) -> None:
        """Start crashed nodes again on what their engines hold."""
        for name in names:
            self.nodes[name].boot()
        for name in names:
            self.nodes[name].open()

    def mend(self) -> None:
        """End all trouble: a whole, lossless network, and every node running."""
        self.network.heal()
        self.network.loss = self.network.late = self.network.duplicates = 0.0
        for node in self.nodes.values():
            node.scheduler.resume()
            if not node.running:
                self.restart(node.name)

    def wipe(self, name: str) -> Node:
        """Crash a node, empty its store, and let it join again under its name."""
        self.nodes[name].crash()
        return self.add(name)

    # ----------------------------------------------------------------------------------------------------------- time

    def advance(self, seconds: float) -> None:
        self.scheduler.advance(int(seconds * SECOND))

    def run(self, coroutine: Coroutine[Any, None, T], timeout_seconds: float = 60.0) -> T:
        return self.scheduler.run(coroutine, int(timeout_seconds * SECOND))

    def wait_until(self, condition: Callable[[], bool], timeout_seconds: float = 30.0, step: float = 0.01) -> float:
        """Let time pass until ``condition`` holds; returns how many seconds that took."""
        start = self.scheduler.now_ns()
        while not condition():
            if self.scheduler.now_ns() - start > timeout_seconds * SECOND:
                raise AssertionError(f"condition does not hold after {timeout_seconds} s")
            self.advance(step)
        return (self.scheduler.now_ns() - start) / SECOND

    # --------------------------------------------------------------------------------------------------------- looking

    def leaseholder(self, key: bytes) -> Replica | None:
        """The replica that may serve ``key`` right now."""
        found = [
            replica
            for store in self.stores()
            if (replica := store.replica_for_key(key)) is not None and replica.is_leaseholder()
        ]
        assert len(found) <= 1, f"two leaseholders: {found}"
        return found[0] if found else None

    def leaseholder_name(self, key: bytes) -> str | None:
        replica = self.leaseholder(key)
        if replica is None:
            return None
        return next(name for name, node in self.nodes.items() if node.running and node.node_id == replica.owner.node_id)

    def replicated(self, voters: int) -> bool:
        """Whether every range has just that many voters, and a leaseholder."""
        for store in self.stores():
            for replica in store.leased_replicas():
                descriptor = replica.descriptor
                if len(descriptor.replicas) != voters or len(descriptor.voters()) != voters or descriptor.is_joint:
                    return False
        return self.covered()

    def covered(self) -> bool:
        """Whether the leaseholders' ranges cover the whole key space."""
        spans = sorted(
            (replica.descriptor.start, replica.descriptor.end)
            for store in self.stores()
            for replica in store.leased_replicas()
            if replica.is_leaseholder()
        )
        at = b""
        for start, end in spans:
            if start != at:
                return False
            at = end
        return at == b"\xff"

    # ---------------------------------------------------------------------------------------------- the simplest client

    async def put(self, key: bytes, value: bytes, timeout_seconds: float = 20.0) -> int:
        """Write one version through whoever holds the lease, again after a certain loss; returns its timestamp."""
        deadline = self.scheduler.now_ns() + int(timeout_seconds * SECOND)
        while self.scheduler.now_ns() < deadline:
            replica = self.leaseholder(key)
            if replica is not None:
                timestamp = replica.owner.clock.now()
                write = (int(Space.VERSIONS), mvcc.versioned(key, timestamp), value)
                try:
                    generation = replica.descriptor.generation
                    await replica.propose(Command(replica.lease_epoch, generation, timestamp, [write]))
                    return timestamp
                except ProposalLost:
                    pass
            await sleep(self.scheduler, SECOND // 100)
        raise RangeUnavailable(f"no leaseholder for {key!r}")

    async def get(self, key: bytes, timeout_seconds: float = 20.0) -> bytes | None:
        """Read the newest value from whoever holds the lease."""
        deadline = self.scheduler.now_ns() + int(timeout_seconds * SECOND)
        while self.scheduler.now_ns() < deadline:
            replica = self.leaseholder(key)
            if replica is not None:
                return mvcc.get(replica.engine.latest(), key, mvcc.MAX_TIMESTAMP)[0]
            await sleep(self.scheduler, SECOND // 100)
        raise RangeUnavailable(f"no leaseholder for {key!r}")

    async def split(self, key: bytes, timeout_seconds: float = 20.0) -> None:
        """Make ``key`` a boundary."""
        deadline = self.scheduler.now_ns() + int(timeout_seconds * SECOND)
        while self.scheduler.now_ns() < deadline:
            replica = self.leaseholder(key)
            if replica is not None:
                store = next(s for s in self.stores() if s.node_id == replica.owner.node_id)
                try:
                    await store.split(key)
                    return
                except ProposalLost:
                    pass
            await sleep(self.scheduler, SECOND // 100)
        raise RangeUnavailable(f"no leaseholder for {key!r}")
