"""Growing from three nodes to five and shrinking back moves what theory says has to move, and hardly more.

Consistent hashing's promise, kept by the allocator: of 60 ranges with three replicas each, two newcomers among five nodes are due
two fifths of the 180 replicas, and what they hold is all that has to move when they leave.
"""

from __future__ import annotations

from collections import Counter

from pydistdb.kv.descriptor import NodeState

from tests.support.cluster import Cluster

RANGES = 60
REPLICAS = 3 * RANGES
MOST_FACTOR = 1.2


class Counted(Cluster):
    """A cluster that tells how many replicas were filled, and where they are."""

    def copies(self) -> int:
        return sum(store.metrics.snapshots_installed for store in self.stores())

    def held(self) -> Counter[int]:
        return Counter(
            replica.node_id
            for store in self.stores()
            for leased in store.leased.values()
            for replica in leased.descriptor.replicas
        )

    def is_even(self) -> bool:
        held = [self.held()[store.node_id] for store in self.stores()]
        return self.replicated(3) and sum(held) == REPLICAS and max(held) - min(held) <= 1


def test_two_nodes_come_and_go() -> None:
    cluster = Counted(seed=17)
    cluster.start(3)
    for number in range(RANGES - 1):
        cluster.run(cluster.split(b"\x04%03d" % number))
    for number in range(RANGES):
        cluster.run(cluster.put(b"\x04%03dk" % number, b"v"))
    cluster.wait_until(cluster.is_even, 30, step=0.25)

    before = cluster.copies()
    cluster.add("n4")
    cluster.add("n5")
    cluster.wait_until(cluster.is_even, 300, step=0.25)
    cluster.advance(30)
    grown = cluster.copies() - before
    due = REPLICAS * 2 // 5
    assert due - 1 <= grown <= MOST_FACTOR * due, "what the newcomers are due, and it comes to rest"

    newcomers = {cluster.store(name).node_id for name in ("n4", "n5")}
    leaving = sum(cluster.held()[node_id] for node_id in newcomers)
    before = cluster.copies()
    for node_id in newcomers:
        cluster.store("n1").membership.set_state(node_id, NodeState.LEAVING)
    cluster.wait_until(lambda: not newcomers & cluster.held().keys() and cluster.replicated(3), 300, step=0.25)
    cluster.advance(30)
    shrunk = cluster.copies() - before
    assert leaving <= shrunk <= MOST_FACTOR * leaving
    for number in range(RANGES):
        assert cluster.run(cluster.get(b"\x04%03dk" % number)) == b"v"
