"""UPDATE and DELETE at the data: a leaseholder finds the rows of a span, locks them and computes what becomes of them.

What is done to a row, this layer does not know: as with fragments, it is bytes that the layer above understands, and a
``ChangeRun`` made of them (``ChangeServer.start``).  One request does a bounded number of rows, in this order::

    gateway                                  leaseholder of [a, m)
    Change([a, m), at T, x = x + 1)     →    1. scan at T, run.take(keys, values)           rows that meet the condition
                                             2. lock them, read their newest versions       as the gateway's own Lock would
                                             3. run.changes(…)                              changed since T? checked again
                                             4. lay the new rows down as intents            where ``lays_down``
    Changed(count=700, resume=f)        ←    or send them back as (key, new value, version)
    Change([f, m), at T, x = x + 1)     →    …

Up to the fourth step there is no effect but locks, so whatever fails before it may be asked again.

Without ``lays_down`` there is no fourth step: the gateway buffers what it gets, like all other writes, so savepoints, retries
and one-phase commits are what they were; only the rows that would have travelled twice, to be computed on, do not travel.

With it nothing travels but a number, and **a request is never repeated once it may have had an effect**: computing x + 1 twice
is not what Prepare's repetition, the same bytes again, is.  Who does not hear an answer gives the transaction up (router.py),
and the statement, which is all there is to that transaction, runs again as another one.  What a lost request still lays
down belongs to a transaction that is never committed.  A message may come twice or late all the same:

* the rows then carry the transaction's own intents: they are passed over;
* or it is all over.  A row whose newest version is younger than T may be of this very transaction, so before such a row is
  changed its record is asked; any other row cannot have been changed by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import structs
from pydistdb_storage.engine import Picks
from pydistdb_storage.errors import StorageError

from pydistdb.kv.answers import (
    OWN_INTENT,
    Locked,
    LockedAfterWaits,
    StillWaiting,
    TransactionState,
    TransactionStatus,
    WrongRange,
)
from pydistdb.kv.api import (
    DeadlockDetected,
    KVError,
    LockNotAvailable,
    SerializationConflict,
    Timestamp,
    TransactionAborted,
)
from pydistdb.kv.chunks import CHUNK_BYTES, even_chunks
from pydistdb.kv.fragments import Refused, refusing
from pydistdb.kv.leases import Leases
from pydistdb.kv.locking import Locker
from pydistdb.kv.names import NO_LEASE, LeaseName, TransactionId
from pydistdb.kv.reads import Reader
from pydistdb.kv.requests import Lock, Prepare, PushTransaction, Scan, Write
from pydistdb.kv.transport import Message, register
from pydistdb.kv.writes import Writer
from pydistdb.tasks import pause

CHUNK_ENTRIES = 1_024
COMPUTED_AT_ONCE = 256
TURN_NS = 100_000_000
"""How long one request looks for rows: then the gateway hears of it, and asks for the rest unless it has been cancelled."""
PAUSE_NS = 3_000_000
CONFLICT_TEXT = "could not serialize access due to concurrent update"
_DELETED_TEXT = "could not serialize access due to concurrent delete"
_HARMLESS = (SerializationConflict, DeadlockDetected, LockNotAvailable, TransactionAborted, WrongRange, StillWaiting)
"""What is raised before the first intent is proposed."""


class Change(Message):
    """Change the rows of [start, end) as ``fragment`` says, up to ``most`` of them.

    ``rechecks``: READ COMMITTED, so that a row changed since the snapshot is looked at again instead of being a conflict."""

    transaction_id: TransactionId
    start: bytes
    end: bytes
    read_timestamp: Timestamp
    uncertainty_limit: Timestamp
    fragment: bytes
    arguments: bytes
    strength: int
    wait: int
    """WaitPolicy: a statement that goes to several ranges at once must not wait for a lock in one while it has some in others."""
    rechecks: bool
    most: int
    timeout_ns: int = 0
    """How long to wait for a lock; 0: as long as it takes."""
    lays_down: bool = False
    anchor: bytes = b""
    sequence: int = 0
    observed: Timestamp = 0

    @property
    def routing_key(self) -> bytes:
        return self.start


class Changed(Message):
    """What became of the span up to ``resume`` (None: all of it), out of so many ``entries``."""

    count: int
    resume: bytes | None
    entries: int = 0
    writes: list[Write] = []
    """What is to be written, unless it was laid down: key, new value, and the version that it is built on."""
    more: list[tuple[bytes, bytes | None]] = []
    """What is to be written beside, wherever it lies (entries of indexes)."""
    timestamp: Timestamp = 0
    """The lower bound of the commit timestamp, where intents were laid down."""
    observed: Timestamp = 0
    refused: bool = False
    node: int = 0
    lease: LeaseName = NO_LEASE
    """Under which the rows were locked."""


class ChangedAfterWaits(Changed, tag="Changed"):
    """The same where others were in the way (answers.LockedAfterWaits)."""

    waits: int = 0
    waited_ns: int = 0


class ChangeRun(Protocol):
    """One evaluation of a change."""

    picks: Picks | None
    """The entries that there is a use for (Scan)."""
    keys: list[bytes]
    """The rows to change, as the snapshot has them."""
    size_bytes: int
    more: list[tuple[bytes, bytes | None]]
    """Other writes that come with what ``changes`` has given."""

    def take(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Take a chunk of entries in: add those that meet the condition to ``keys``."""

    def changes(self, first: int, newest: Sequence[tuple[bytes | None, bool]]) -> list[tuple[int, bytes | None]]:
        """What becomes of the rows from number ``first`` on: (number, new value or None for a delete) of each that is changed.

        ``newest``: of each row the newest value, and whether that is another one than the snapshot's."""


class ChangeServer:
    """Evaluates Change over the ranges that are leased here."""

    def __init__(self, leases: Leases, reader: Reader, locker: Locker, writer: Writer) -> None:
        self._leases = leases
        self._reader = reader
        self._locker = locker
        self._writer = writer
        self.start: Callable[[bytes, bytes], ChangeRun] | None = None
        """Begins a run from a change and its arguments."""

    async def change(self, request: Change, call_deadline_ns: int = 0) -> Changed:
        try:
            return await self._change(request, call_deadline_ns)
        except Refused:
            return Changed(0, request.start, observed=request.observed, refused=True)

    async def _change(self, request: Change, call_deadline_ns: int) -> Changed:
        if self.start is None:
            return Changed(0, request.start, refused=True)
        with refusing():
            run = self.start(request.fragment, request.arguments)
        entries, resume = await self._find(request, run)
        answer = Changed(0, resume, entries, observed=request.observed, node=self._leases.node_id)
        if run.keys:
            writes, locked = await self._compute(request, run, call_deadline_ns)
            if isinstance(locked, LockedAfterWaits):
                answer = ChangedAfterWaits(**structs.asdict(answer), waits=locked.waits, waited_ns=locked.waited_ns)
            answer.lease, answer.count, answer.more = locked.lease, len(writes), run.more
            if not request.lays_down:
                answer.writes = writes
            elif writes:
                answer.timestamp = await self._lay_down(request, writes, call_deadline_ns)
        return answer

    async def _find(self, request: Change, run: ChangeRun) -> tuple[int, bytes | None]:
        """Feed the run until it has enough; returns how many entries were read and where to go on."""
        scheduler = self._leases.scheduler
        begun_ns = turn_ns = scheduler.now_ns()
        start, entries = request.start, 0
        while True:
            chunk = await self._reader.scan(
                Scan(
                    start,
                    request.end,
                    min(CHUNK_ENTRIES, request.most),
                    False,
                    request.read_timestamp,
                    request.uncertainty_limit,
                    request.transaction_id,
                    request.observed,
                    run.picks,
                )
            )
            request.observed = chunk.observed
            entries += len(chunk.keys)
            with refusing():
                run.take(chunk.keys, chunk.values)
            now_ns = scheduler.now_ns()
            enough = len(run.keys) >= request.most or run.size_bytes >= CHUNK_BYTES or now_ns - begun_ns > TURN_NS
            if chunk.resume is None or enough:
                return entries, chunk.resume
            start = chunk.resume
            if now_ns - turn_ns > PAUSE_NS:
                await pause(scheduler)
                turn_ns = scheduler.now_ns()

    async def _compute(self, request: Change, run: ChangeRun, call_deadline_ns: int) -> tuple[list[Write], Locked]:
        """Lock the rows that were found, and say what is to be written."""
        keys, transaction_id = run.keys, request.transaction_id
        locked = await self._locker.lock(
            Lock(transaction_id, keys, request.strength, request.wait, request.timeout_ns), call_deadline_ns
        )
        versions = locked.versions
        newest = [
            (value, version > request.read_timestamp) for value, version in zip(locked.values, versions, strict=True)
        ]
        if any(changed for _, changed in newest):
            if not request.rechecks:
                gone = next(value is None for value, changed in newest if changed)
                raise SerializationConflict(_DELETED_TEXT if gone else CONFLICT_TEXT)
            if request.lays_down:
                await self._check_open(request)
        scheduler = self._leases.scheduler
        turn_ns = scheduler.now_ns()
        writes: list[Write] = []
        for first in range(0, len(keys), COMPUTED_AT_ONCE):
            with refusing():
                found = run.changes(first, newest[first : first + COMPUTED_AT_ONCE])
            writes += [(keys[number], value, versions[number]) for number, value in found]
            if scheduler.now_ns() - turn_ns > PAUSE_NS:
                await pause(scheduler)
                turn_ns = scheduler.now_ns()
        if not request.lays_down:
            return writes, locked
        writes = [write for write in writes if write[2] != OWN_INTENT]
        if len(writes) < len(keys):
            kept = {write[0] for write in writes}
            unchanged = [key for key in keys if key not in kept]
            self._leases.need(request.start).locks.release_keys(transaction_id, unchanged)
        return writes, locked

    async def _check_open(self, request: Change) -> None:
        """Raise unless the transaction can still be committed."""
        status = await self._leases.send(PushTransaction(request.transaction_id, request.anchor))
        assert isinstance(status, TransactionStatus)
        if status.state != TransactionState.PENDING:
            raise TransactionAborted("the transaction has ended")

    async def _lay_down(self, request: Change, writes: list[Write], call_deadline_ns: int) -> Timestamp:
        timestamp = 0
        for chunk in even_chunks(writes):
            prepare = Prepare(request.transaction_id, request.anchor, request.sequence, chunk)
            try:
                done = await self._writer.prepare(prepare, call_deadline_ns)
            except (KVError, StorageError) as error:
                if not timestamp and isinstance(error, _HARMLESS):
                    raise
                raise TransactionAborted("what became of a change at a shard is not known") from error
            timestamp = max(timestamp, done.timestamp)
        return timestamp


register(Change, ChangedAfterWaits)
