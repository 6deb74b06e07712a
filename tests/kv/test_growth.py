"""A range that gets more replicas never depends on fewer failures not happening than before."""

from __future__ import annotations

import pytest

from tests.support.cluster import Cluster

KEY = b"\x04k"


@pytest.mark.parametrize("victim", ["n2", "n3"])
@pytest.mark.parametrize("moment_ms", range(0, 1_600, 100))
def test_from_one_voter_to_three(victim: str, moment_ms: int) -> None:
    """Either newcomer may die at any moment: the first node goes on with the other, or alone."""
    cluster = Cluster(moment_ms)
    cluster.bootstrap("n1", 3)
    cluster.run(cluster.put(KEY, b"before"))
    cluster.add("n2")
    cluster.add("n3")
    cluster.advance(moment_ms / 1000)
    cluster.crash(victim)
    for number in range(5):
        cluster.run(cluster.put(KEY, b"%d" % number, timeout_seconds=8))
        cluster.advance(0.5)
    cluster.restart(victim)
    cluster.wait_until(lambda: cluster.replicated(3), 60)
    assert cluster.run(cluster.get(KEY)) == b"4"


@pytest.mark.parametrize("factor", [3, 5])
def test_no_even_number_of_voters_on_the_way(factor: int) -> None:
    cluster = Cluster(factor)
    cluster.bootstrap("n1", factor)
    seen: set[int] = set()

    def note() -> None:
        for store in cluster.stores():
            for replica in store.leased_replicas():
                seen.add(len(replica.log.membership.voters))

    for number in range(2, factor + 1):
        cluster.add(f"n{number}")
        for _ in range(600):
            note()
            cluster.advance(0.005)
    cluster.wait_until(lambda: cluster.replicated(factor))
    assert seen == {1, 3, factor}
