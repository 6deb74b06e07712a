"""Ranges that a dropped table was cut into are merged away; those of others stay."""

from __future__ import annotations

from pydistdb.kv.api import Isolation
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.operations import Operations
from pydistdb.kv.store import Store
from pydistdb_storage.keys import prefix_end

from tests.support.cluster import Cluster

LEFT, DROPPED, RIGHT = b"\x04a", b"\x04m", b"\x04t"
PIECES = 40


class World:
    """Rows left and right of a table of PIECES ranges."""

    def __init__(self, nodes: int) -> None:
        self.cluster = Cluster(seed=7)
        self.gateways: dict[int, Gateway] = {}
        self.operations: dict[int, Operations] = {}
        self.cluster.on_open.append(self._open)
        self.cluster.start(nodes)
        self.run = self.cluster.run
        self.gateway = self.gateways[1]
        rows = [(head + b"%02d" % number, b"row") for head in (LEFT, DROPPED, RIGHT) for number in range(PIECES)]
        self.run(self.gateway.ingest(rows))
        self.run(self.gateway.split([LEFT + b"05", RIGHT, RIGHT + b"05"]))
        self.run(self.gateway.split([DROPPED + b"%02d" % number for number in range(PIECES)]))
        self.cluster.advance(10)  # the leases spread

    def _open(self, store: Store) -> None:
        old = self.gateways.get(store.node_id)
        if old is not None:
            old.stop()
        gateway = self.gateways[store.node_id] = Gateway(store)
        gateway.start()
        operations = self.operations[store.node_id] = Operations(store, gateway)
        operations.reshaper.start()

    def starts(self) -> list[bytes]:
        found = self.run(self.gateways[min(self.gateways)].ranges(LEFT, b"\x04z"))
        return [each.start for each in found][1:]

    def drop(self) -> None:
        self.run(self.gateway.clear_range(DROPPED, prefix_end(DROPPED)))

    def rows(self) -> int:
        async def count() -> int:
            transaction = self.gateway.begin(Isolation.READ_COMMITTED, read_only=True)
            transaction.begin_statement()
            found, position = 0, LEFT
            while position is not None:
                batch = await transaction.scan(position, b"\x04z", limit=1_000)
                found, position = found + len(batch.keys), batch.resume
            return found

        return self.run(count())


def test_the_ranges_of_a_dropped_table_go_and_all_others_stay() -> None:
    world = World(3)
    assert len(world.starts()) == PIECES + 3
    led = [sum(r.descriptor.start > DROPPED for r in store.leased.values()) for store in world.cluster.stores()]
    assert min(led) > 5, "by every node"
    world.drop()
    assert world.rows() == 2 * PIECES
    kept = [LEFT + b"05", RIGHT, RIGHT + b"05"]
    world.cluster.wait_until(lambda: world.starts() == kept, 20, 0.5)
    world.cluster.advance(10)
    assert world.starts() == kept, "what was cut for tables that are there stays cut"
    assert world.rows() == 2 * PIECES
    for store in world.cluster.stores():
        assert not any(replica.descriptor.is_changing for replica in store.replicas.values())


def test_what_was_written_meanwhile_keeps_its_range() -> None:
    world = World(1)
    world.drop()
    world.run(world.gateway.ingest([(DROPPED + b"20x", b"new")]))
    world.cluster.advance(10)
    assert DROPPED + b"20" in world.starts() and len(world.starts()) == 4
    assert world.rows() == 2 * PIECES + 1


def test_what_a_dead_node_keeps_from_being_merged_is_merged_when_it_is_back() -> None:
    world = World(3)
    world.cluster.crash("n3")
    world.cluster.advance(3)
    world.gateway = world.gateways[1]
    world.drop()
    world.cluster.advance(10)
    assert len(world.starts()) > PIECES, "every copy has to have what is merged"
    world.cluster.restart("n3")
    world.cluster.wait_until(lambda: len(world.starts()) == 3, 40, 0.5)
    assert world.rows() == 2 * PIECES
