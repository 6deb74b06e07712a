"""Reads at a snapshot, on the leaseholder.

A read at timestamp T must see every commit at or below T, also one that is only just becoming visible:

1. The clock is raised to T, so whatever commits from now on does so above T.
2. A pending proposal at or below T on a key of the read is waited for.
3. An intent whose timestamp is at or below T may commit at or below T: its record is asked.  The question itself takes
   T along and raises the clock where the record is decided, so a transaction that is still open then can commit only
   above T, and the reader goes on without waiting.  A committed intent is read as if it were resolved already.
4. The newest version at or below T is the answer, if the lease still holds after it was read.

Versions in the uncertainty window (requests.py) raise ReadRestart::

    T = 10, limit = 14:   version at 12 → ReadRestart(12)       version at 15 → not seen, cannot be older than the reader
"""

from __future__ import annotations

from pydistdb_storage import mvcc
from pydistdb_storage.engine import Snapshot, Space
from pydistdb_storage.keys import prefix_end

from pydistdb.kv.answers import Entries, TransactionState, TransactionStatus, Values, WrongRange
from pydistdb.kv.api import ReadRestart, SerializationConflict, Timestamp
from pydistdb.kv.intents import IntentInfo, intent_head, intent_info, intent_transaction, intent_value, is_condition
from pydistdb.kv.leases import Leases
from pydistdb.kv.names import TransactionId
from pydistdb.kv.overlay import Chunk, covered_span, lay_over
from pydistdb.kv.pending import PendingGroup
from pydistdb.kv.range_local import RangeLocal
from pydistdb.kv.requests import GetMany, PushTransaction, Scan

MAX_SCAN_LIMIT = 100_000


class Blocked(Exception):
    """A read met something it must wait for or ask about."""

    def __init__(self, by: PendingGroup | IntentInfo) -> None:
        self.by = by


class Reader:
    """Evaluates GetMany and Scan."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    async def get_many(self, request: GetMany) -> Values:
        observed, since = self._enter(request)
        keys = request.keys
        first, last = min(keys), max(keys)
        while True:
            local = self._leases.need(first)
            local.check_span(first, last)
            limit = _limit(local, request)
            snapshot = self._leases.latest()
            try:
                values = [
                    self._point(
                        local,
                        snapshot,
                        key,
                        request.read_timestamp,
                        limit,
                        request.uncertainty_limit,
                        request.transaction_id,
                        since,
                    )
                    for key in keys
                ]
            except Blocked as blocked:
                await self._unblock(local, blocked, request.read_timestamp)
                continue
            local.check_lease()
            return Values(values, observed)

    async def scan(self, request: Scan, *, counts: bool = True) -> Entries:
        observed, since = self._enter(request)
        while True:
            local = self._leases.need(request.start, counts=counts)
            if not (local.start <= request.start and request.end <= local.end):
                raise WrongRange(local.described)
            try:
                keys, values, resume = self._span(local, self._leases.latest(), request, since)
            except Blocked as blocked:
                await self._unblock(local, blocked, request.read_timestamp)
                continue
            local.check_lease()
            return Entries(keys, values, resume, observed)

    def try_scan(self, local: RangeLocal, request: Scan) -> Chunk:
        """Scan without waiting; raises Blocked and ReadRestart.  The caller checks the lease afterwards."""
        if request.read_timestamp < self._leases.threshold():
            raise SerializationConflict("snapshot too old")
        return self._span(local, self._leases.latest(), request, request.observed)

    def _enter(self, request: GetMany | Scan) -> tuple[Timestamp, Timestamp]:
        """What the reader knows of this node's clock from now on, and a reading that is not before the reader began."""
        clock = self._leases.clock
        clock.check()
        self._leases.hear(request.read_timestamp)
        if request.read_timestamp < self._leases.threshold():
            raise SerializationConflict("snapshot too old")
        now = clock.now()
        return request.observed or now, min(request.observed or now, now)

    def _point(
        self,
        local: RangeLocal,
        snapshot: Snapshot,
        key: bytes,
        read_timestamp: Timestamp,
        limit: Timestamp,
        uncertainty_limit: Timestamp,
        transaction_id: TransactionId,
        since: Timestamp,
    ) -> bytes | None:
        group = local.pending.of_key(key, read_timestamp)
        if group is None and local.intents.fresh:
            group = local.pending.in_span(key, key + b"\0", read_timestamp)
        if group is not None:
            raise Blocked(group)
        if local.intents.may_hold(key):
            data = snapshot.get(Space.INTENTS, key)
            if data is not None and _visible(
                local, data, read_timestamp, limit, uncertainty_limit, transaction_id, since
            ):
                return intent_value(data)
        value, version = mvcc.get(snapshot, key, limit)
        if version > read_timestamp:
            raise ReadRestart(version)
        return value

    def _span(self, local: RangeLocal, snapshot: Snapshot, request: Scan, since: Timestamp) -> Chunk:
        read_timestamp = request.read_timestamp
        start, end, reverse = request.start, request.end, request.reverse
        count = min(request.limit, MAX_SCAN_LIMIT)
        limit = _limit(local, request)
        found = mvcc.scan(snapshot, start, end, read_timestamp, count, reverse=reverse, picks=request.picks)
        local.rows += len(found.keys)
        first, last = covered_span(start, end, found.resume, reverse)
        group = local.pending.in_span(first, last, read_timestamp)
        if group is not None:
            raise Blocked(group)
        if limit > read_timestamp and found.newest_above > read_timestamp:
            newest = found.newest_above
            if newest > limit:
                # It is beyond the window, but may hide one within: a snapshot that others write above must not fail for it.
                newest = mvcc.newest_within(snapshot, first, last, read_timestamp, limit)
            if newest:
                raise ReadRestart(newest)
        chunk = (found.keys, found.values, found.resume)
        if not local.intents.writes and not local.intents.fresh:
            return chunk
        overlay: list[tuple[bytes, bytes | None]] = []
        head, seen = b"", False
        for key, data in snapshot.scan(Space.INTENTS, first, last, reverse=reverse):
            if is_condition(data):
                continue
            if not head or not data.startswith(head):  # else it is of the same proposal as the one before
                head = intent_head(data)
                seen = _visible(
                    local, data, read_timestamp, limit, request.uncertainty_limit, request.transaction_id, since
                )
            if seen:
                overlay.append((key, data[len(head) :] or None))
                if len(overlay) >= count:
                    # Many intents between two versions: speak only for the span up to here.
                    return lay_over(_cut(chunk, key, reverse), overlay, count, reverse=reverse)
        return lay_over(chunk, overlay, count, reverse=reverse)

    async def _unblock(self, local: RangeLocal, blocked: Blocked, read_timestamp: Timestamp) -> None:
        by = blocked.by
        if isinstance(by, PendingGroup):
            await by.done
            return
        asked = self._leases.clock.now()
        status = await self._leases.send(PushTransaction(by.transaction_id, by.anchor, read_timestamp, patient=True))
        assert isinstance(status, TransactionStatus)
        local.learn(by.transaction_id, status, asked)


def _limit(local: RangeLocal, request: GetMany | Scan) -> Timestamp:
    """The end of the uncertainty window: what the node said of its clock holds for its own leases only."""
    limit = request.uncertainty_limit
    if request.observed:
        limit = min(limit, max(request.observed, local.lease_start))
    return max(limit, request.read_timestamp)


def _visible(
    local: RangeLocal,
    data: bytes,
    read_timestamp: Timestamp,
    limit: Timestamp,
    uncertainty_limit: Timestamp,
    transaction_id: TransactionId,
    since: Timestamp,
) -> bool:
    """Tell whether a read sees this intent's value; raises Blocked where its record must be asked first.

    That a transaction was open and promised to commit above the read counts only if it was asked at ``since`` or later, when
    the reader had begun: it may have committed within the window and been acknowledged before that.

    A coordinator tells the time of its commit to the nodes that it had prepare.  This node need not be one of them if the
    intent is older than the lease: then its clock says nothing about the commit, and the whole window counts."""
    owner = intent_transaction(data)
    if owner == transaction_id:
        return True
    info = intent_info(data)
    if info.timestamp > limit:
        return False
    status = local.statuses.get(owner)
    if status is None:
        raise Blocked(info)
    if status.state == TransactionState.COMMITTED:
        if info.timestamp < local.lease_start:
            limit = max(limit, uncertainty_limit)
        if read_timestamp < status.timestamp <= limit:
            raise ReadRestart(status.timestamp)
        return status.timestamp <= read_timestamp
    if status.state == TransactionState.PENDING and (status.timestamp < read_timestamp or status.asked < since):
        raise Blocked(info)
    return False


def _cut(chunk: Chunk, last: bytes, reverse: bool) -> Chunk:
    """The part of a chunk up to and including ``last``."""
    keys, values, _ = chunk
    count = sum(1 for key in keys if (key >= last if reverse else key <= last))
    return keys[:count], values[:count], last if reverse else prefix_end(last)
