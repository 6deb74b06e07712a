"""Fragments that deal their rows out to nodes, on a simulated cluster: what counts adds up, whatever happens meanwhile.

The fragment here sends every node its share of the balances; the reader adds up what lies at the nodes under the attempts whose
receipts it has.  Transfers never change the total of any snapshot, while ranges split, leases move, nodes die and messages are
lost: so a share that counts twice, or not at all, shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import msgspec
import pytest
from pydistdb.kv.api import ExchangeLost, Transaction
from pydistdb.kv.fragments import FragmentRun
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.range_cache import RangeCache
from pydistdb.kv.store import Store

from tests.kv.test_fragments import Adding, FragmentWorld
from tests.kv.test_txn_cluster import ACCOUNTS, RR, account, everything, no_trouble, splits

NODES = (1, 2, 3)
TOPIC = "shares"
names = count(1)
pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode


class Dealing(Adding):
    """``arguments``: the name of the exchange.  The output is the attempt's name."""

    def __init__(self, fragment: bytes, arguments: bytes) -> None:
        self.exchange = int(arguments)
        self.attempt = next(names)
        self.shares = dict.fromkeys(NODES, 0)

    def take(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        for key, value in zip(keys, values, strict=True):
            self.shares[NODES[key[-1] % 3]] += int(value)

    def outgoing(self) -> Sequence[tuple[int, bytes]]:
        return [(node, pack(("deal", self.exchange, self.attempt, share))) for node, share in self.shares.items()]

    def finish(self) -> bytes:
        return b"%d" % self.attempt

    @property
    def peaks_bytes(self) -> tuple[int, int]:
        return 0, 0

    def release(self) -> None:
        pass


def dealing(fragment: bytes, arguments: bytes) -> FragmentRun:
    return Dealing(fragment, arguments)


class DealingWorld(FragmentWorld):
    """A world whose readers have balances dealt out, and what the nodes have of them."""

    lost = 0

    def _open(self, store: Store) -> None:
        super()._open(store)
        gateway = self.gateways[store.node_id]
        inboxes: dict[int, dict[int, int]] = {}  # gone with the node

        async def handle(sender: int, payload: bytes) -> bytes:
            kind, exchange, *rest = unpack(payload)
            if kind == "open":
                inboxes[exchange] = {}
            elif exchange not in inboxes:
                raise ExchangeLost("not known here")
            elif kind == "deal":
                inboxes[exchange][rest[0]] = rest[1]
            else:
                return pack(sum(inboxes[exchange][attempt] for attempt in rest[0]))
            return b"taken"

        async def deliver(node: int, data: bytes) -> None:
            await gateway.ask(node, TOPIC, data)

        gateway.on_broadcast(TOPIC, handle)
        gateway.server.fragments.start = dealing
        gateway.server.fragments.deliver = deliver

    async def added_up(self, txn: Transaction, gateway: Gateway) -> tuple[int, int]:
        exchange = next(names)
        for node in NODES:
            await gateway.ask(node, TOPIC, pack(("open", exchange)))
        attempts: list[int] = []
        start, end = account(0), account(999)
        while start < end:
            answer = await txn.evaluate(b"deal", b"%d" % exchange, start, end)
            assert answer is not None
            attempts.append(int(answer.output))
            start = end if answer.resume is None else answer.resume
        shares = [unpack(await gateway.ask(node, TOPIC, pack(("draw", exchange, attempts)))) for node in NODES]
        return sum(shares), ACCOUNTS

    async def read_all(self, gateway: Gateway) -> None:
        try:
            await super().read_all(gateway)
        except ExchangeLost:
            self.lost += 1


@pytest.mark.parametrize(
    ("seed", "trouble"), [(1, no_trouble), (2, splits), (6, everything)], ids=["calm", "splits", "everything"]
)
def test_what_counts_adds_up(seed: int, trouble: object) -> None:
    world = DealingWorld(seed, (0, 40_000, -60_000))
    world.run_clients(6, trouble, 4)
    world.check()
    assert world.totals > 15 and world.transfers > 10
    assert bool(world.lost) == (trouble is everything)


def test_every_node_knows_who_leads_what_it_has_a_copy_of() -> None:
    """Who takes part in an exchange goes by that, also where nobody has been asked yet."""
    world = DealingWorld(4, (0, 40_000, -60_000))
    world.run_clients(2, no_trouble, 1)
    parts = {}
    for gateway in world.gateways.values():
        gateway.router.cache = RangeCache()
        transaction = gateway.begin(RR)
        transaction.begin_statement()
        parts[gateway.node_id] = world.cluster.run(transaction.part_at(account(0), account(1)))
    leaders = [node for node, part in parts.items() if part.is_local]
    assert len(parts) == 3 and len(leaders) == 1
    assert all(part.leader == leaders[0] for part in parts.values())
