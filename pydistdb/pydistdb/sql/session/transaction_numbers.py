"""Numbers of transactions, for those that ask: txid_current(), pg_current_snapshot(), txid_status().

Transactions are told apart by timestamps, which no client sees.  One that asks gets a number, unique in the cluster: the
time in microseconds, and the node's number behind it.  Who lists changes by number (an outbox, say) relies on this::

    INSERT INTO outbox VALUES (pg_current_xact_id(), …);              every writer
    SELECT … WHERE xid < pg_snapshot_xmin(pg_current_snapshot());     the reader: nothing below will appear any more

A transaction that has written or locked something also gets its number when somebody else looks at it: in pg_stat_activity
(backend_xid), pg_locks (transactionid), the report of a deadlock, and when it is prepared (pg_prepared_xacts).  These show
the number's ``xid_of``, as ``pg_current_xact_id()::xid`` and xmax in RETURNING do.  It goes round every second, so ``take``
passes over numbers that would look like that of another open transaction.

So a snapshot lists as in progress every numbered transaction that the statement may not see, on whichever node it runs:
the open ones, and those that ended after the statement's read timestamp.  The question carries the number from which on
nothing had begun (xmax), and a node that hears it gives only later numbers from then on, so a clock that is behind does no
harm.  A node that does not answer is an error.  Each node remembers the last ``MOST_ENDED`` transactions that had numbers;
what is older has no status (NULL in Postgres as well).

Source: PostgreSQL 15 manual, 9.26.8.
"""

from __future__ import annotations

import msgspec

from pydistdb.kv import api as kv
from pydistdb.sql.clock import now_us
from pydistdb.sql.errors import DatabaseError, InvalidParameterValue
from pydistdb.sql.functions.effects import MustAct
from pydistdb.sql.types.transactions import FIRST_NORMAL_XID, NODE_BITS, snapshot_text, xid_of

MOST_ENDED = 10_000
_PERMANENT = (1, 2)
"""What Postgres calls the bootstrap and the frozen transaction."""
ANSWER_TIMEOUT_NS = 2_000_000_000
_SNAPSHOT_TOPIC = "numbers.snapshot"
_STATUS_TOPIC = "numbers.status"

_encode = msgspec.msgpack.Encoder().encode
_decode_question = msgspec.msgpack.Decoder(tuple[int, int]).decode
_decode_answer = msgspec.msgpack.Decoder(list[int] | None).decode
_decode_status = msgspec.msgpack.Decoder(str | None).decode


class TransactionNumbers:
    """One node's numbers, and its questions to all."""

    def __init__(self, database: kv.Database) -> None:
        self._database = database
        self._last_us = 0
        self._open: dict[int, int] = {}
        """The numbers, by xid."""
        self._ended: dict[int, tuple[bool | None, kv.Timestamp]] = {}
        """Whether they committed, if known, and when; the oldest first."""
        self._forgotten_until: kv.Timestamp = 0
        database.on_broadcast(_SNAPSHOT_TOPIC, self._on_snapshot)
        database.on_broadcast(_STATUS_TOPIC, self._on_status)

    def next(self) -> int:
        """A number that no transaction of any node has had."""
        self._last_us = max(now_us(), self._last_us + 1)
        return self._last_us << NODE_BITS | self._database.node_id & (1 << NODE_BITS) - 1

    def take(self) -> int:
        """Number a transaction that goes on."""
        number = self.next()
        while (xid := xid_of(number)) in self._open or xid < FIRST_NORMAL_XID:
            number = self.next()
        self._open[xid] = number
        return number

    def end(self, number: int, committed: bool | None) -> None:
        """A numbered transaction has ended; None: nobody knows how, or it is prepared."""
        self._open.pop(xid_of(number), None)
        self._ended[number] = committed, self._database.now()
        if len(self._ended) > MOST_ENDED:
            oldest = next(iter(self._ended))
            self._forgotten_until = self._ended.pop(oldest)[1]

    # ------------------------------------------------------------------------------------------ all nodes

    async def snapshot(self, read_timestamp: kv.Timestamp) -> str:
        """What a statement that reads as of this timestamp does not see of the numbered transactions."""
        before_us = self.next() >> NODE_BITS
        answers = await self._database.broadcast(
            _SNAPSHOT_TOPIC, _encode((before_us, read_timestamp)), ANSWER_TIMEOUT_NS
        )
        xmax = (before_us + 1) << NODE_BITS
        listed: list[int] = []
        for node, answer in sorted(answers.items()):
            numbers = None if answer is None else _decode_answer(answer)
            if numbers is None:
                reason = "it does not answer" if answer is None else "too many have ended since"
                raise DatabaseError.of("55000", f"the transactions of node {node} are not known: {reason}")
            listed += numbers
        listed = sorted(number for number in listed if number < xmax)
        return snapshot_text(listed[0] if listed else xmax, xmax, listed)

    async def status(self, number: int) -> str | None:
        """What became of a transaction: in progress, committed or aborted; None if it is not remembered."""
        if number in _PERMANENT:
            return "committed"
        if number < 0 or number >> NODE_BITS > max(now_us(), self._last_us) + self._database.max_clock_offset_us:
            raise InvalidParameterValue(f"transaction ID {number % (1 << 64)} is in the future")
        answers = await self._database.broadcast(_STATUS_TOPIC, _encode((number, 0)), ANSWER_TIMEOUT_NS)
        known = [_decode_status(answer) for answer in answers.values() if answer is not None]
        return next((status for status in known if status is not None), None)

    async def _on_snapshot(self, sender: int, payload: bytes) -> bytes:
        before_us, read_timestamp = _decode_question(payload)
        self._last_us = max(self._last_us, before_us)
        if self._forgotten_until > read_timestamp:
            return _encode(None)
        late = [number for number, (_, ended_at) in self._ended.items() if ended_at > read_timestamp]
        return _encode([*self._open.values(), *late])

    async def _on_status(self, sender: int, payload: bytes) -> bytes:
        number, _ = _decode_question(payload)
        if self._open.get(xid_of(number)) == number:
            return _encode("in progress")
        committed, _ = self._ended.get(number, (None, 0))
        return _encode(None if committed is None else "committed" if committed else "aborted")


class AskSnapshot(MustAct):
    """pg_current_snapshot() waits for the answers of all nodes."""

    def __init__(self, numbers: TransactionNumbers, read_timestamp: kv.Timestamp) -> None:
        super().__init__("snapshot of transactions")
        self._numbers = numbers
        self._read_timestamp = read_timestamp

    async def act(self) -> str:
        return await self._numbers.snapshot(self._read_timestamp)


class AskStatus(MustAct):
    """txid_status() waits for the answers of all nodes."""

    def __init__(self, numbers: TransactionNumbers, number: int) -> None:
        super().__init__("status of a transaction")
        self._numbers = numbers
        self._number = number

    async def act(self) -> str | None:
        try:
            return await self._numbers.status(self._number)
        except kv.KVError as error:
            raise DatabaseError.of("58000", str(error)) from error
