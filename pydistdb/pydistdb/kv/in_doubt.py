"""Transactions in doubt: those that have prepared writes somewhere and are not resolved yet.

Every leaseholder knows the intents of its ranges, and the leaseholder of a transaction's anchor its record.  Each node is
asked for both, and the answers are joined by transaction::

    node 1   range 7: 3 intents of T (anchor k)                     ─┐
    node 2   range 9: 1 intent of T;  range 12 holds k: no record   ─┴─►  T: undecided, 4 intents in 2 ranges

Most of what is seen is on its way: commits leave intents for some milliseconds.  What stays for seconds has lost its
coordinator or cannot reach a range, and is decided by whoever meets it next, or by the sweep (records.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

import msgspec

from pydistdb.kv.gateway import Gateway
from pydistdb.kv.hlc import COUNTER_BITS
from pydistdb.kv.names import begin_of, gateway_of
from pydistdb.kv.records import RecordState

TOPIC = "transactions.in_doubt"
ANSWER_TIMEOUT_NS = 2_000_000_000
MOST_INTENTS = 20_000
"""Looked at per node: a bulk load has more, and the picture is then a part of it."""
MOST_TRANSACTIONS = 500

_STATES: dict[int, str] = {RecordState.ABORTED: "aborted", RecordState.PREPARED: "prepared"}

_encode = msgspec.msgpack.Encoder().encode
_decode_question = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]]).decode
_decode = msgspec.msgpack.Decoder(list[tuple[bytes, bytes, int, list[int], str]]).decode


class InDoubt(NamedTuple):
    """``state``: undecided, prepared (it waits for COMMIT PREPARED or ROLLBACK PREPARED), committed (its intents are being
    resolved), aborted, or unknown (its anchor did not answer)."""

    transaction_id: bytes
    anchor: bytes
    intents: int
    ranges: tuple[int, ...]
    state: str

    @property
    def gateway(self) -> int:
        """The node that coordinates it."""
        return gateway_of(self.transaction_id)

    @property
    def began_us(self) -> int:
        """Since 1970, by its gateway's clock."""
        return begin_of(self.transaction_id) >> COUNTER_BITS


class InDoubtReporter:
    """One node's answers, and its questions to all."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        gateway.on_broadcast(TOPIC, self._on_question)

    async def list(self) -> list[InDoubt]:
        """All of them, oldest first."""
        found = joined(await self._ask([]))
        stateless = [(each.transaction_id, each.anchor) for each in found if not each.state]
        if stateless:  # the anchor lies on a node that has none of the intents
            found = joined([*found, *await self._ask(stateless)])
        found = [each._replace(state=each.state or "unknown") for each in found if each.intents]
        return sorted(found, key=lambda each: each.began_us)

    async def _ask(self, about: Iterable[tuple[bytes, bytes]]) -> Iterable[InDoubt]:
        """Every node's intents, or what their records say about these transactions."""
        answers = await self._gateway.broadcast(TOPIC, _encode(list(about)), ANSWER_TIMEOUT_NS)
        return [
            InDoubt(transaction_id, anchor, intents, tuple(ranges), state)
            for answer in answers.values()
            if answer
            for transaction_id, anchor, intents, ranges, state in _decode(answer)
        ]

    def _own(self) -> dict[tuple[bytes, bytes], tuple[int, set[int]]]:
        """Transactions with intents in the ranges leased here: number of intents, and ranges."""
        found: dict[tuple[bytes, bytes], tuple[int, set[int]]] = {}
        left = MOST_INTENTS
        for local in self._gateway.leases.all():
            for info in islice(local.intents.writes.values(), left):
                left -= 1
                key = (info.transaction_id, info.anchor)
                count, ranges = found.get(key) or (0, set())
                ranges.add(local.range_id)
                found[key] = (count + 1, ranges)
            if not left:
                break
        return dict(islice(found.items(), MOST_TRANSACTIONS))

    async def _on_question(self, sender: int, payload: bytes) -> bytes:
        about = _decode_question(payload)
        if about:
            return _encode([(each, anchor, 0, [], self._state(each, anchor)) for each, anchor in about])
        return _encode(
            [
                (each, anchor, count, sorted(ranges), self._state(each, anchor))
                for (each, anchor), (count, ranges) in self._own().items()
            ]
        )

    def _state(self, transaction_id: bytes, anchor: bytes) -> str:
        """What the record says, if the anchor's lease is here; else nothing."""
        local = self._gateway.leases.find(anchor)
        if local is None:
            return ""
        record = self._gateway.server.records.find(local, transaction_id, anchor)
        if record is None:
            return "undecided"
        return _STATES.get(record.state, "committed")


def joined(parts: Iterable[InDoubt]) -> list[InDoubt]:
    """The nodes' parts, by transaction."""
    found: dict[bytes, InDoubt] = {}
    for part in parts:
        other = found.get(part.transaction_id)
        if other is not None:
            ranges = tuple(sorted({*part.ranges, *other.ranges}))
            part = part._replace(intents=part.intents + other.intents, ranges=ranges, state=part.state or other.state)
        found[part.transaction_id] = part
    return list(found.values())
