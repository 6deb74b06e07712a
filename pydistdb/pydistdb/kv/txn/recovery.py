"""Finding transactions in doubt, and finishing them: what happens by itself, on demand and with a report.

A transaction is in doubt while ranges hold intents of it that nobody has resolved.  Mostly its coordinator is just about to.
If that is gone, whoever is in need of the keys, or a sweep every few seconds, asks the record and finishes the
work (records.py, locking.py).  ``recover`` does so for everything at once, without waiting for anybody to come by::

    ask every node    what do your ranges hold?          tx 7: range 5 (2 writes), range 9 (1 write)
    ask its record    COMMITTED at T                     → resolve as committed
                      PREPARED                           → left: it waits for COMMIT PREPARED or ROLLBACK PREPARED
                      none, the coordinator answers      → left: it is at work
                      none, the coordinator is silent    → after SILENCE_NS the record says ABORTED: resolve as that
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pydistdb.kv.answers import TransactionState, TransactionStatus
from pydistdb.kv.api import KVError
from pydistdb.kv.descriptor import NodeId, RangeId
from pydistdb.kv.hlc import COUNTER_BITS
from pydistdb.kv.intents import IntentInfo
from pydistdb.kv.locking import SILENCE_NS
from pydistdb.kv.names import TransactionId, gateway_of
from pydistdb.kv.requests import PushTransaction
from pydistdb.kv.resolution import resolve_span
from pydistdb.tasks import sleep

if TYPE_CHECKING:
    from pydistdb.kv.gateway import Gateway

TOPIC = "open intents"
ANSWER_TIMEOUT_NS = 2_000_000_000
PUSH_INTERVAL_NS = 300_000_000
MAX_REPORTED = 10_000


class OpenIntents(msgspec.Struct, array_like=True):
    """What one range holds of a transaction."""

    transaction_id: TransactionId
    anchor: bytes
    range_id: RangeId
    node: NodeId
    """The range's leaseholder."""
    writes: int
    locks: int
    since_us: int
    span: tuple[bytes, bytes]
    """The range's."""


class Recovered(msgspec.Struct):
    """What was found out about a transaction in doubt, and what was done."""

    transaction_id: TransactionId
    coordinator: NodeId
    name: str
    """Of PREPARE TRANSACTION."""
    participants: list[OpenIntents]
    outcome: str
    """COMMITTED or ABORTED, and resolved; PREPARED or RUNNING, and left alone; UNKNOWN."""
    detail: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[OpenIntents]).decode


class Recovery:
    """See the module's docstring."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        gateway.on_broadcast(TOPIC, self._answer)

    async def _answer(self, sender: NodeId, payload: bytes) -> bytes:
        """What the ranges led here hold."""
        found: list[OpenIntents] = []
        for local in self._gateway.leases.all():
            if not local.intents or not local.replica.is_leaseholder():
                continue
            by_transaction: dict[TransactionId, OpenIntents] = {}

            def entry(info: IntentInfo, local=local, by_transaction=by_transaction) -> OpenIntents:  # type: ignore[no-untyped-def]
                known: OpenIntents | None = by_transaction.get(info.transaction_id)
                since_us = info.timestamp >> COUNTER_BITS
                if known is None:
                    span = (local.start, local.end)
                    known = by_transaction[info.transaction_id] = OpenIntents(
                        info.transaction_id, info.anchor, local.range_id, self._gateway.node_id, 0, 0, since_us, span
                    )
                known.since_us = min(known.since_us, since_us)
                return known

            for info in local.intents.writes.values():
                entry(info).writes += 1
            for conditions in local.intents.conditions.values():
                for condition in conditions.values():
                    entry(condition.intent).locks += 1
            found += by_transaction.values()
        return _encode(found[:MAX_REPORTED])

    async def find(self) -> list[OpenIntents]:
        """What the ranges of all nodes hold, by transaction."""
        answers = await self._gateway.broadcast(TOPIC, b"", ANSWER_TIMEOUT_NS)
        found = [each for answer in answers.values() if answer is not None for each in _decode(answer)]
        return sorted(found, key=lambda each: (each.transaction_id, each.range_id))

    async def recover(self) -> list[Recovered]:
        """Finish whatever nobody else will; tells of everything that is in doubt."""
        grouped: dict[TransactionId, list[OpenIntents]] = {}
        for each in await self.find():
            grouped.setdefault(each.transaction_id, []).append(each)
        names = await self._gateway.prepared.names()
        report = []
        for transaction_id, participants in grouped.items():
            name = names.get(transaction_id, "")
            report.append(
                Recovered(
                    transaction_id, gateway_of(transaction_id), name, participants, *await self._finish(participants)
                )
            )
        return report

    async def _finish(self, participants: list[OpenIntents]) -> tuple[str, str]:
        """The outcome, and what is to be said of it."""
        transaction_id = participants[0].transaction_id
        gateway = self._gateway
        coordinator = f"its coordinator, node {gateway_of(transaction_id)},"
        try:
            status = await self._ask(participants[0])
            if status.prepared:
                return "PREPARED", "it waits for COMMIT PREPARED or ROLLBACK PREPARED"
            if status.state == TransactionState.PENDING:
                return "RUNNING", f"{coordinator} is at work on it"
            committed = status.state == TransactionState.COMMITTED
            timestamp = status.timestamp if committed else 0
            for each in participants:
                await resolve_span(gateway.leases, transaction_id, timestamp, *each.span)
        except KVError as error:
            return "UNKNOWN", str(error)
        state = "COMMITTED" if committed else "ABORTED"
        gateway.journal.note(
            transaction_id,
            state,
            gateway.journal.asked(each.range_id for each in participants),
            detail="finished by recovery",
            recovered=True,
        )
        return state, "its record says so" if committed else f"{coordinator} was gone before it had decided"

    async def _ask(self, participant: OpenIntents) -> TransactionStatus:
        """How the transaction stands; for as long as it takes to know whether its coordinator is alive."""
        scheduler = self._gateway.leases.scheduler
        give_up_ns = scheduler.now_ns() + 2 * SILENCE_NS
        transaction_id = participant.transaction_id
        while True:
            status: TransactionStatus = await self._gateway.router.send(
                PushTransaction(transaction_id, participant.anchor)
            )
            if status.prepared or status.state != TransactionState.PENDING or scheduler.now_ns() > give_up_ns:
                return status
            if await self._gateway.server.locker.is_reachable(transaction_id):
                return status
            await sleep(scheduler, PUSH_INTERVAL_NS)
