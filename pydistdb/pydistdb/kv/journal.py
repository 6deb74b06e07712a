"""The log of transactions over several ranges: what each node's gateway has coordinated, and cleaned up after others.

A bounded ring in memory, per node; ``proddb.transaction_log`` and ``proddb txn log`` put those of all nodes together.  A
transaction of one range is not in it, and pays nothing for it::

    tx 4294967299   COMMITTED   participants 5: yes, 7: yes     prepared 10:30:00.123   committed 10:30:00.145
    tx 4294967301   ABORTED     participants 5: yes, 7: no      key exists
    tx 8589934593   ABORTED     recovered: its coordinator, node 2, was gone

Where records themselves are kept, and why they can be trusted, is in records.py: nothing is ever decided by this log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from pydistdb.kv.descriptor import NodeId, RangeId
from pydistdb.kv.names import TransactionId

MAX_ENTRIES = 1_000
MAX_PARTICIPANTS = 100
"""Of a transaction over more ranges the others are only counted."""
MAX_DETAIL = 500
TOPIC = "transaction log"


class Participant(msgspec.Struct, array_like=True):
    """A range that the transaction has written or locked."""

    range_id: RangeId
    vote: str = ""
    """yes, no, or nothing: it was never asked."""


class JournalEntry(msgspec.Struct, array_like=True):
    """How one transaction ended.  Times are microseconds since 1970, 0 where there is none."""

    transaction_id: TransactionId
    state: str
    """COMMITTED, ABORTED, PREPARED, or UNKNOWN if that could not be learnt in time."""
    node: NodeId
    """Who writes this: the coordinator, or who has finished it in its place."""
    participants: list[Participant]
    more: int
    """How many participants are not listed."""
    began_us: int
    """When the ranges were asked to prepare."""
    ended_us: int
    duration_us: int
    name: str = ""
    """Of PREPARE TRANSACTION."""
    detail: str = ""
    recovered: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[JournalEntry]).decode


class Journal:
    """One node's ring."""

    def __init__(self, node_id: NodeId, physical_us: Callable[[], int]) -> None:
        self._node_id = node_id
        self._physical_us = physical_us
        self._entries: deque[JournalEntry] = deque(maxlen=MAX_ENTRIES)

    def now_us(self) -> int:
        return self._physical_us()

    def note(
        self,
        transaction_id: TransactionId,
        state: str,
        participants: list[Participant],
        began_us: int = 0,
        *,
        name: str = "",
        detail: str = "",
        recovered: bool = False,
    ) -> None:
        """A transaction has ended."""
        now_us = self.now_us()
        self._entries.append(
            JournalEntry(
                transaction_id,
                state,
                self._node_id,
                participants[:MAX_PARTICIPANTS],
                max(0, len(participants) - MAX_PARTICIPANTS),
                began_us,
                now_us,
                now_us - began_us if began_us else 0,
                name,
                detail[:MAX_DETAIL],
                recovered,
            )
        )

    @staticmethod
    def asked(range_ids: Iterable[RangeId]) -> list[Participant]:
        """Participants that have said yes: their intents are there."""
        return [Participant(range_id, "yes") for range_id in range_ids]

    async def answer(self, sender: NodeId, payload: bytes) -> bytes:
        """Another node asks for all of it."""
        return _encode(list(self._entries))


def read_journals(answers: dict[int, bytes | None]) -> list[JournalEntry]:
    """The logs of all nodes that have answered, the latest first."""
    entries = [entry for answer in answers.values() if answer is not None for entry in _decode(answer)]
    return sorted(entries, key=lambda entry: entry.ended_us, reverse=True)
