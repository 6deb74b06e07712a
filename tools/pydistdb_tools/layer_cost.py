"""What the transaction layer costs: processor time of a point read and a point write with it and without.

Both run in this process on a node of one range, without SQL, network or disk, so that nothing else is in the figures::

    read     without: the newest version out of the engine        with: lease, pending writes and intents looked at, and the same
    write    without: a read, and a version proposed to Raft      with: a transaction, a row lock, the checks, and the same

The differences, divided by the processor time that the whole server takes for such a statement with many clients, are the layer's
shares of its work; divided by the time that a single client waits for one, its shares of that.  ``make bench`` prints both.
Timestamps, leases, locks, pending writes, intents and validation are all in them; what the bare read and proposal need is not.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from time import process_time
from typing import NamedTuple

from pydistdb.kv.api import Isolation, LockStrength
from pydistdb.kv.commit import InlineCommitter
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.hlc import HybridClock
from pydistdb.kv.joining import NodeAddresses, bootstrap, open_identity
from pydistdb.kv.store import Store
from pydistdb.kv.transport import LoopbackTransport
from pydistdb.tasks import SimulatedScheduler
from pydistdb_storage import mvcc
from pydistdb_storage.engine import Space
from pydistdb_storage.memory_engine import MemoryEngine

KEYS = 500
ROUNDS = 100
"""Of some 20 ms each: short enough that a few of them have the processor to themselves."""


class LayerCost(NamedTuple):
    """Microseconds of processor time that the layer adds."""

    read_us: float
    write_us: float


class _Node:
    """One node and one range, in memory."""

    def __init__(self) -> None:
        self.scheduler = SimulatedScheduler()
        clock = HybridClock(lambda: 1_700_000_000_000_000 + self.scheduler.now_ns() // 1_000)
        engine, transport = MemoryEngine(), LoopbackTransport()
        addresses = NodeAddresses("n1", "n1:sql", "n1:http", ())
        bootstrap(engine, clock, b"layer cost", "n1", addresses, 1)
        identity = open_identity(engine)
        assert identity is not None
        transport.node_id = identity.node_id
        self.store = Store(
            identity,
            engine,
            self.scheduler,
            clock,
            transport,
            InlineCommitter(self.scheduler, engine),
            random.Random(1).randint,
            addresses=addresses,
        )
        self.gateway = Gateway(self.store)
        self.store.start()
        self.gateway.start()
        self.keys = [b"\x04row%06d" % number for number in range(KEYS)]
        while self.gateway.leases.find(self.keys[0]) is None:
            self.scheduler.advance(10_000_000)
        self.scheduler.run(self.gateway.ingest([(key, b"value") for key in self.keys]))

    def read_bare(self, key: bytes) -> None:
        mvcc.get(self.gateway.leases.latest(), key, mvcc.MAX_TIMESTAMP)

    def read(self, key: bytes) -> None:
        self.gateway.try_get(key)

    async def write_bare(self, key: bytes) -> None:
        local = self.gateway.leases.need(key)
        self.read_bare(key)
        timestamp = self.gateway.leases.clock.now()
        await local.propose([(int(Space.VERSIONS), mvcc.versioned(key, timestamp), b"value")], timestamp)

    async def write(self, key: bytes) -> None:
        # As an UPDATE outside a block does it (sql/session/execute.py).
        txn = self.gateway.begin(Isolation.READ_COMMITTED)
        txn.begin_statement()
        txn.starts_anew = txn.gives_up = True
        await txn.lock([key], LockStrength.NO_KEY_UPDATE)
        txn.put(key, b"value")
        await txn.commit()

    def write_all(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Write each key once."""

        async def each() -> None:
            for key in self.keys:
                await write(key)

        self.scheduler.run(each())

    def read_all(self, read: Callable[[bytes], None]) -> None:
        """Read each key once."""
        for key in self.keys:
            read(key)


def layer_cost() -> LayerCost:
    """Measure it; takes some six seconds."""
    node = _Node()
    return LayerCost(
        _difference(lambda: node.read_all(node.read_bare), lambda: node.read_all(node.read)),
        _difference(lambda: node.write_all(node.write_bare), lambda: node.write_all(node.write)),
    )


def _difference(bare: Callable[[], None], whole: Callable[[], None]) -> float:
    """Microseconds per key that ``whole`` takes longer: the best of several rounds of each, alternating."""
    best = {bare: float("inf"), whole: float("inf")}
    for _ in range(ROUNDS):
        for function in best:
            started = process_time()
            function()
            best[function] = min(best[function], (process_time() - started) / KEYS * 1e6)
    return best[whole] - best[bare]


if __name__ == "__main__":
    cost = layer_cost()
    print(f"point read {cost.read_us:.2f} us, point write {cost.write_us:.2f} us")
