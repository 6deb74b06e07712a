"""What a traced transaction tells of where it goes, at a node that was not told of a split."""

from __future__ import annotations

from pydistdb.kv.api import Isolation, LockStrength
from pydistdb.kv.gateway import Gateway

from tests.support.cluster import Cluster

FIRST, SECOND = b"\x04a", b"\x04m"


def _told(cluster: Cluster, gateway: Gateway, key: bytes) -> list[str]:
    said: list[str] = []

    async def change() -> None:
        transaction = gateway.begin(Isolation.READ_COMMITTED, trace=said.append)
        transaction.begin_statement()
        await transaction.lock([key], LockStrength.NO_KEY_UPDATE)
        transaction.put(key, b"1")
        await transaction.commit()

    cluster.run(change())
    return [text.partition(": ")[2].partition(" at node")[0] for text in said]


def test_a_range_is_named_that_was_split_off_since_the_gateway_last_asked() -> None:
    cluster = Cluster(seed=71)
    gateways: dict[int, Gateway] = {}
    cluster.on_open.append(lambda store: gateways.update({store.node_id: Gateway(store)}))
    cluster.start(4)
    cluster.run(gateways[1].ingest([(FIRST, b"0"), (SECOND, b"0")]))
    cluster.advance(20)
    for gateway in gateways.values():
        _told(cluster, gateway, SECOND)  # and remember where it is
    before = cluster.leaseholder(SECOND)
    assert before is not None
    cluster.run(gateways[before.owner.node_id].split([SECOND]))
    cluster.advance(5)
    after = cluster.leaseholder(SECOND)
    assert after is not None and after.range_id != before.range_id
    expected = [
        f"locks in range {after.range_id}",
        f"one phase, checks and writes in range {after.range_id}",
        "COMMITTED",
    ]
    for gateway in gateways.values():
        assert _told(cluster, gateway, SECOND) == expected
