"""Validation of what a SERIALIZABLE transaction has read, on the leaseholder.

The transaction read at its snapshot S and commits at C.  If nothing it read was changed in between, it may as well have
read at C: then everything it did happened at C, and all such transactions together are as if run one after the other in
the order of their commit timestamps (Kung & Robinson, "On Optimistic Methods for Concurrency Control", 1981; the rule is
CockroachDB's "read refresh").  With all its own intents in place::

    1. raise the clock to C                   whatever is written here from now on commits above C
    2. another's proposal in a span           → conflict
    3. another's intent in a span             its record is asked, with C: committed in (S, C] → conflict;
                                              still open, it can commit only above C then → no conflict
    4. a version above S in a span            → conflict

Write skew (each reads x and y, A writes x, B writes y): A and B lay down their intents, take C(A) < C(B).  A asks about
B's intent: B can only commit above C(A): A commits.  B asks about A's, and finds it open at C(A) below C(B), or committed
there: B fails.  One of them always gets through.

Where the writes lie in one range, and all that was read with them, the leaseholder does steps 2 to 4 in the same breath
as it picks C (``check_here``); an open intent is a conflict then, for its transaction may still choose any timestamp.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb_storage import mvcc
from pydistdb_storage.engine import Snapshot

from pydistdb.kv.answers import Applied, TransactionState, TransactionStatus, WrongRange
from pydistdb.kv.api import ReadConflict, SerializationConflict, Timestamp
from pydistdb.kv.intents import IntentInfo
from pydistdb.kv.leases import Leases
from pydistdb.kv.names import TransactionId
from pydistdb.kv.range_local import KnownStatus, RangeLocal
from pydistdb.kv.requests import PushTransaction, Validate
from pydistdb.tasks import pause

SLICE_VERSIONS = 2_000
"""Looked at between two pauses: about a millisecond."""

_CONFLICT_TEXT = "could not serialize access due to read/write dependencies among transactions"

Span = tuple[bytes, bytes]
"""Start and end; a point has no end."""


class Validator:
    """Evaluates Validate, and the read spans of one-phase commits."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    async def validate(self, request: Validate) -> Applied:
        """Raise ReadConflict unless the spans are at ``timestamp`` what they were at ``since``."""
        leases = self._leases
        leases.clock.check()
        leases.hear(request.timestamp)
        local = leases.need(request.routing_key)
        self._check_request(local, request.spans, request.since)
        own = request.transaction_id
        _check_pending(local, request.spans, own)
        # An intent that is laid down from here on commits above ``timestamp``: those of this moment are all there are.
        for info in _foreign_intents(local, request.spans, own):
            await self._check_intent(local, info, request.since, request.timestamp)
        for start, end in request.spans:
            position: bytes | None = start
            while position is not None:
                changed, position = _changed(leases.latest(), position, end, request.since)
                if changed:
                    raise ReadConflict(_CONFLICT_TEXT)
                if position is not None:
                    await pause(leases.scheduler)
        local.check_lease()
        return Applied(request.timestamp)

    async def _check_intent(self, local: RangeLocal, info: IntentInfo, since: Timestamp, timestamp: Timestamp) -> None:
        if info.timestamp > timestamp:
            return
        status: KnownStatus | TransactionStatus | None = local.statuses.get(info.transaction_id)
        if status is None or (status.state == TransactionState.PENDING and status.timestamp < timestamp):
            status = await self._ask(local, info, timestamp)
        if status.state == TransactionState.PENDING and status.timestamp < timestamp:
            raise ReadConflict(_CONFLICT_TEXT)
        if status.state == TransactionState.COMMITTED and since < status.timestamp <= timestamp:
            raise ReadConflict(_CONFLICT_TEXT)

    async def _ask(self, local: RangeLocal, info: IntentInfo, timestamp: Timestamp) -> TransactionStatus:
        request = PushTransaction(info.transaction_id, info.anchor, timestamp, wait=False, patient=True)
        asked = self._leases.clock.now()
        status = await self._leases.send(request)
        assert isinstance(status, TransactionStatus)
        local.learn(info.transaction_id, status, asked)
        return status

    async def learn_intents(self, local: RangeLocal, spans: Sequence[Span], transaction_id: TransactionId) -> None:
        """Find out about the intents in the way of ``check_here``, which cannot wait."""
        for info in _foreign_intents(local, spans, transaction_id):
            status = local.statuses.get(info.transaction_id)
            if status is None or status.state == TransactionState.PENDING:
                await self._ask(local, info, 0)

    def check_here(
        self, local: RangeLocal, spans: Sequence[Span], since: Timestamp, transaction_id: TransactionId
    ) -> None:
        """Raise ReadConflict unless the spans are now, at this very moment, what they were at ``since``."""
        self._check_request(local, spans, since)
        _check_pending(local, spans, transaction_id)
        for info in _foreign_intents(local, spans, transaction_id):
            status = local.statuses.get(info.transaction_id)
            if status is None or status.state == TransactionState.PENDING:
                raise ReadConflict(_CONFLICT_TEXT)
            if status.state == TransactionState.COMMITTED and status.timestamp > since:
                raise ReadConflict(_CONFLICT_TEXT)
        snapshot = self._leases.latest()
        for start, end in spans:
            position: bytes | None = start
            while position is not None:
                changed, position = _changed(snapshot, position, end, since)
                if changed:
                    raise ReadConflict(_CONFLICT_TEXT)

    def _check_request(self, local: RangeLocal, spans: Sequence[Span], since: Timestamp) -> None:
        if since < self._leases.threshold():
            raise SerializationConflict("snapshot too old")  # what was deleted since may have left no trace
        for start, end in spans:
            if not (local.start <= start < local.end and end <= local.end):
                raise WrongRange(local.described)


def _check_pending(local: RangeLocal, spans: Sequence[Span], transaction_id: TransactionId) -> None:
    pending = local.pending
    if not pending.by_key:
        return
    for start, end in spans:
        group = pending.in_span(start, end, mvcc.MAX_TIMESTAMP) if end else pending.by_key.get(start)
        if group is not None and group.transaction_id != transaction_id:
            raise ReadConflict(_CONFLICT_TEXT)


def _foreign_intents(local: RangeLocal, spans: Sequence[Span], transaction_id: TransactionId) -> list[IntentInfo]:
    """One intent of each other transaction that has any in the spans."""
    writes = local.intents.writes
    if not writes and not local.intents.fresh:
        return []
    found: dict[TransactionId, IntentInfo] = {}
    for first, last, fresh in local.intents.fresh.values():
        if any(start <= last and (end or start + b"\0") > first for start, end in spans):
            found[fresh.transaction_id] = fresh
    keys: list[bytes] | None = None
    for start, end in spans:
        if not end:
            info = writes.get(start)
            if info is not None:
                found.setdefault(info.transaction_id, info)
            continue
        keys = list(writes) if keys is None else keys
        for key in keys:
            if start <= key < end:
                info = writes[key]
                known = found.get(info.transaction_id)
                if known is None or info.timestamp < known.timestamp:
                    found[info.transaction_id] = info
    found.pop(transaction_id, None)
    return list(found.values())


def _changed(snapshot: Snapshot, start: bytes, end: bytes, since: Timestamp) -> tuple[bool, bytes | None]:
    """Whether a version above ``since`` stands in a span, and where to look on (None: seen all)."""
    if not end:
        return mvcc.newest_timestamp(snapshot, start) > since, None
    return mvcc.changed_since(snapshot, start, end, since, SLICE_VERSIONS)
