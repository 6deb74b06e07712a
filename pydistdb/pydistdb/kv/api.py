"""What SQL sees of the key-value layer: transactions over one ordered key space, whoever holds which range.

``Database.begin`` gives a ``Transaction``; keys and values are bytes (an absent value is None).  Writes are buffered at
the gateway and seen by the transaction's own reads; nothing reaches a range before ``commit``.  The isolation rules are
those of docs/architecture.md §5:

* READ COMMITTED: ``begin_statement`` takes a fresh snapshot; ``lock`` returns the newest committed value, and says
  whether it differs from the snapshot's, so that the caller re-checks its predicate instead of failing.
* REPEATABLE READ: one snapshot; ``lock`` raises SerializationConflict where a newer version exists.
* SERIALIZABLE: as REPEATABLE READ, and ``commit`` raises ReadConflict unless everything read is still the same.

Example (transfer between two accounts)::

    txn = database.begin(Isolation.READ_COMMITTED)
    a, b = await txn.lock([key_a, key_b], LockStrength.NO_KEY_UPDATE)
    txn.put(key_a, changed(a.value)); txn.put(key_b, changed(b.value))
    await txn.commit()           # durable on a majority, or an error and no effect
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

from pydistdb_storage.engine import Picks

from pydistdb.kv.versions import Feature
from pydistdb.tasks import Completion

Timestamp = int
"""Hybrid logical clock reading: physical microseconds since 1970 « 12 | counter."""


class Isolation(IntEnum):
    READ_COMMITTED = 1
    REPEATABLE_READ = 2
    SERIALIZABLE = 3


class LockStrength(IntEnum):
    """Row lock modes, weakest first, with Postgres's conflict table (manual, 13.3.2)."""

    KEY_SHARE = 1
    SHARE = 2
    NO_KEY_UPDATE = 3
    UPDATE = 4


class WaitPolicy(IntEnum):
    WAIT = 1
    NOWAIT = 2
    SKIP_LOCKED = 3


class LockedValue(NamedTuple):
    """A key after it was locked: its newest committed value (own writes on top).

    ``changed``: that value is not the one the statement's snapshot shows.  ``skipped``: SKIP LOCKED passed it over.
    """

    value: bytes | None
    changed: bool
    skipped: bool = False


class ScanBatch(NamedTuple):
    """One chunk of a scan, in scan order.  ``resume`` is None at the end; else pass it on as the new ``start``
    (as the new ``end`` of a reverse scan)."""

    keys: list[bytes]
    values: list[bytes]
    resume: bytes | None


class SpanPart(NamedTuple):
    """The part of a span that lies in one range.  ``is_local``: the range is led by this node.  ``leader``: the node that
    led it last, as far as is known (0: it is not)."""

    start: bytes
    end: bytes
    range_id: int
    is_local: bool
    leader: int = 0


class FragmentAnswer(NamedTuple):
    """What a leaseholder made of a span up to ``resume`` (as in ScanBatch), out of so many ``entries``."""

    output: bytes
    resume: bytes | None
    entries: int
    lacking: bool = False
    """Nothing came of it: the leaseholder lacks data that the arguments name (fragments.py)."""
    node: int = 0
    """Who did it."""
    memory_bytes: int = 0
    disk_bytes: int = 0
    """What was held for that at most."""


class ChangeAnswer(NamedTuple):
    """How many rows of a span a leaseholder has changed up to ``resume``, out of so many ``entries``.

    ``writes``: what they become (None: deleted), where that is the caller's to write."""

    changed: int
    resume: bytes | None
    entries: int
    writes: dict[bytes, bytes | None]
    node: int = 0


class RangeWaits(NamedTuple):
    """What a transaction has waited for in one range: keys that others had locked or written, and had not ended."""

    node: int
    """Who led the range."""
    waits: int
    seconds: float


class RangeInfo(NamedTuple):
    """One range as users see it (EXPLAIN, SHOW RANGES, ``proddb status``)."""

    range_id: int
    start: bytes
    end: bytes
    leader: int
    replicas: tuple[int, ...]
    term: int


class KVError(Exception):
    """Base of this layer's errors; SQL gives each class its SQLSTATE."""


class MustWait(Exception):
    """A ``try_`` call cannot be answered at once: call the awaitable form."""


class RowLocked(MustWait):
    """It is the lock of one row that must be waited for."""

    def __init__(self, key: bytes, strength: LockStrength) -> None:
        super().__init__()
        self.key = key
        self.strength = strength


class SerializationConflict(KVError):
    """Another transaction won; the whole transaction may be retried (40001)."""


class ReadConflict(SerializationConflict):
    """SERIALIZABLE: something that the transaction read has been changed by another one since (40001)."""


class KeyExists(KVError):
    """An ``insert`` met a live value (23505, which SQL words by the key's index)."""

    def __init__(self, key: bytes) -> None:
        super().__init__("key exists")
        self.key = key


class PreparedExists(KVError):
    """A prepared transaction has that name already (42710)."""


class PreparedMissing(KVError):
    """No prepared transaction has that name (42704)."""


class PreparedBusy(KVError):
    """Somebody is just finishing the prepared transaction (55000)."""


class TooManyPrepared(KVError):
    """As many transactions are prepared as may be (53200)."""


class CannotPrepare(KVError):
    """What the transaction has done cannot be kept for later (0A000)."""


class LockNotAvailable(KVError):
    """NOWAIT, or lock_timeout ran out (55P03)."""


class DeadlockDetected(KVError):
    """This transaction was chosen to break a cycle of waiting ones (40P01)."""


class TransactionAborted(KVError):
    """The transaction was aborted by somebody else, for example after its heartbeats stopped (40001)."""


class OutcomeUnknown(KVError):
    """The commit was sent but its fate could not be learnt (40003): it took effect wholly or not at all."""


class RangeUnavailable(KVError):
    """No majority of a range answered in time (57P03)."""


class TransactionTooLarge(KVError):
    """The write buffer passed its limit (54000)."""


class NotClosed(KVError):
    """This copy of a range is complete only up to ``usable`` (0: unknown): read elsewhere, or at that timestamp."""

    def __init__(self, usable: Timestamp) -> None:
        super().__init__("this copy of the range is not complete up to the time of the read")
        self.usable = usable


class SnapshotTooOld(KVError):
    """What could be seen at ``timestamp`` may have been removed already (72000)."""

    def __init__(self, timestamp: Timestamp) -> None:
        super().__init__("snapshot too old")
        self.timestamp = timestamp


class PastIsReadOnly(KVError):
    """A transaction that reads in the past was asked to write or to lock (25006)."""

    def __init__(self) -> None:
        super().__init__("a transaction that reads in the past cannot write or lock")


class DiskFull(KVError):
    """This node's disk takes no writes at present; nothing was written, and reads go on (53100)."""


class ClockOutOfBounds(KVError):
    """This node's clock is outside --max-clock-offset; it serves nothing until mended (58000)."""


class ReadRestart(KVError):
    """A read met a value inside its uncertainty window: take a new snapshot at ``timestamp`` and run the statement
    again.  The session does that itself as long as no row has left and (under REPEATABLE READ) it is the first."""

    def __init__(self, timestamp: Timestamp) -> None:
        super().__init__("read within the uncertainty interval")
        self.timestamp = timestamp


class ExchangeLost(KVError):
    """A node that takes part in an exchange is gone, or has let go of it: the query does without, if it can."""


class PreparedTransaction(NamedTuple):
    """A transaction between its two phases, which somebody else will finish."""

    name: str
    transaction_id: bytes
    facts: bytes


class LockWait(NamedTuple):
    """One transaction's wait for others, as the node sees it where it waits."""

    waiter: bytes
    blockers: list[bytes]
    """The holders, and those who wait for the same and come first."""
    key: bytes
    """What it waits for; empty if that is no key (``Database.wait_for``)."""
    strength: int


class Transaction(Protocol):
    """One client transaction.  Used by one task at a time."""

    @property
    def transaction_id(self) -> bytes:
        """Tell what other nodes know the transaction by."""

    @property
    def known_id(self) -> bytes:
        """Tell the same if others may know it by now, else nothing."""

    @property
    def holds_rows(self) -> bool:
        """Tell whether it has written or locked anything, or waits to."""

    def locked_keys(self) -> Iterable[bytes]:
        """Return what it has locked."""

    waits_since_ns: int
    """Since when it has been asking for locks that it does not have yet, by the scheduler's clock; 0: it has all."""
    isolation: Isolation
    read_timestamp: Timestamp
    oldest_read: Timestamp
    """An older snapshot that the statement has read at as well (0: none): ``lock`` calls changed what is newer than that."""
    lock_timeout_ns: int
    """How long ``lock`` may wait for others; 0: as long as it takes."""
    starts_anew: bool
    """Set by whoever begins the transaction anew when it fails with SerializationConflict, and tells nobody what it has
    seen before it has committed or been confirmed: a READ COMMITTED statement outside a block.

    ``lock`` may then return what commits under way will leave, and ``commit`` lets others see its own writes so."""
    gives_up: bool
    """Set where ``starts_anew`` is: ``commit`` raises SerializationConflict instead of waiting for what others hold."""
    process_id: int
    """The session's, for the report of a deadlock."""
    lock_waits: dict[int, RangeWaits] | None
    """Where ``lock`` and ``change`` add what they have waited for, by range id; None: nobody wants to know."""

    def begin_statement(self, at_least: Timestamp = 0) -> None:
        """Take the statement's snapshot (a new one under READ COMMITTED), not older than ``at_least``."""

    def try_get(self, key: bytes) -> bytes | None:
        """Return the value at ``key`` at the snapshot if that is known at once; raises MustWait otherwise."""

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values at ``keys`` at the snapshot, in order."""

    def try_scan(
        self, start: bytes, end: bytes, *, limit: int, reverse: bool = False, picks: Picks | None = None
    ) -> ScanBatch:
        """Return one chunk of at most ``limit`` entries if it lies at hand; raises MustWait otherwise.

        Entries that are not of ``picks`` may be left out."""

    async def scan(
        self, start: bytes, end: bytes, *, limit: int, reverse: bool = False, picks: Picks | None = None
    ) -> ScanBatch:
        """Return one chunk of at most ``limit`` live entries of [start, end) at the snapshot; ``picks`` as above."""

    def is_local(self, start: bytes, end: bytes) -> bool:
        """Tell whether every range of [start, end) is led by this node."""

    async def part_at(self, start: bytes, end: bytes, *, reverse: bool = False) -> SpanPart:
        """Return the first part (from behind, in reverse) of [start, end), as far as is known now."""

    async def evaluate(
        self, fragment: bytes, arguments: bytes, start: bytes, end: bytes, *, reverse: bool = False
    ) -> FragmentAnswer | None:
        """Have the leaseholder of the head of [start, end) make of the entries there what the fragment says (fragments.py).

        None where that cannot be: the transaction's own writes lie in the span, or the leaseholder refuses.  Then ``scan``."""

    async def change(
        self,
        fragment: bytes,
        arguments: bytes,
        start: bytes,
        end: bytes,
        strength: LockStrength,
        *,
        most: int,
        lays_down: bool = False,
        wait: WaitPolicy = WaitPolicy.WAIT,
    ) -> ChangeAnswer | None:
        """Have the leaseholder of the head of [start, end) lock about ``most`` rows and compute what they become (changes.py).

        ``lays_down``: it also writes them.  The transaction then must have begun with this statement, has not written in the
        span, and is given up (TransactionAborted) where an answer is lost.  None as with ``evaluate``: nothing was done."""

    def try_lock(self, key: bytes, strength: LockStrength) -> LockedValue:
        """Do what ``lock`` does for one key; raises MustWait, holding at most the lock, if that cannot be done at once."""

    async def confirm(self) -> None:
        """Raise SerializationConflict unless all that ``lock`` has returned is durable, as all is that it returns from now on.

        ``commit`` does so itself."""

    async def lock(
        self, keys: Sequence[bytes], strength: LockStrength, wait: WaitPolicy = WaitPolicy.WAIT
    ) -> list[LockedValue]:
        """Lock rows until the transaction ends and return their newest committed values, in order.

        Absent keys can be locked too (a unique insert does).  Raises LockNotAvailable, DeadlockDetected,
        SerializationConflict (REPEATABLE READ and above, where a newer version than the snapshot's exists; but KEY SHARE
        is had under REPEATABLE READ as long as there is a row)."""

    def put(self, key: bytes, value: bytes) -> None:
        """Buffer a write; the key should have been locked before, or nobody else can know it."""

    @property
    def can_lay_down(self) -> bool:
        """Whether ``lay_down_fresh`` is possible: not while a savepoint may still be rolled back to."""

    async def lay_down_fresh(self, entries: list[tuple[bytes, bytes]]) -> None:
        """Write entries past the buffer, sorted by keys that nobody else can know before the commit.

        The transaction's own statements see them once this has returned."""

    def put_all(self, entries: dict[bytes, bytes]) -> None:
        """Buffer many writes at once."""

    def insert(self, key: bytes, value: bytes) -> None:
        """Buffer a write that holds only if no live value is at ``key`` at commit (KeyExists from ``commit``)."""

    def delete(self, key: bytes) -> None:
        """Buffer a delete."""

    def savepoint(self) -> int:
        """Return a mark for ``rollback_to``."""

    def rollback_to(self, mark: int, *, release_locks: bool = False) -> None:
        """Forget the writes buffered since ``mark``, and give back the locks taken since (not before a retry)."""

    def forget_savepoints(self) -> None:
        """No mark given out so far will be used any more: what is buffered may be passed on before the commit."""

    def snapshot(self) -> Transaction:
        """Return a reader of what this statement sees, which nothing that comes later in the transaction changes.

        It takes no locks and needs no end.  Raises MustWait if too much is buffered to be kept aside."""

    @property
    def has_writes(self) -> bool:
        """Tell whether anything is buffered."""

    def written_spans(self) -> list[tuple[bytes, bytes]]:
        """Return spans that hold all that the transaction has written so far."""

    @property
    def is_spilling(self) -> bool:
        """Whether a part of what was buffered is being passed on: as long as that is so, even a commit can be interrupted."""

    async def relieve(self) -> None:
        """Wait while much more is buffered than could be passed on; bulk writers await this between batches."""

    async def commit(self) -> Timestamp:
        """Make the writes durable and visible, release the locks; returns the commit timestamp.

        Raises KeyExists, SerializationConflict, TransactionAborted, OutcomeUnknown, RangeUnavailable; after any
        error the transaction is over."""

    async def prepare(self, name: str, facts: bytes) -> None:
        """Make all that the transaction has written and locked last until ``finish_prepared``, whatever happens; it is over
        here then.

        ``facts``: whatever the caller wants to find with it.  Raises what ``commit`` raises, PreparedExists, TooManyPrepared
        and CannotPrepare; after any error the transaction is over and without effect, but for OutcomeUnknown."""

    def rollback(self, reason: str = "") -> None:
        """Drop the writes and release the locks (in the background where they are remote).

        ``reason``: what the log of transactions says of it."""


class PastReader(Transaction, Protocol):
    """A transaction that only reads, in the past; writing and locking raise PastIsReadOnly."""

    served: dict[int, int]
    """How many reads each node has answered."""
    schema_checked: bool
    """False after each ``begin_statement``: nothing is answered at once before the caller has made sure that the tables
    were then what they are now."""


class SessionLocks(Protocol):
    """Advisory locks of one session, which outlive its transactions; cluster-wide, and freed with the session."""

    process_id: int
    transaction_id: bytes
    """The owner of the locks; empty before the first."""

    async def lock(self, key: bytes, strength: LockStrength, wait: WaitPolicy, timeout_ns: int = 0) -> bool:
        """Lock a key (SHARE or UPDATE); False if that would take waiting and ``wait`` forbids it.

        Raises LockNotAvailable past the timeout, DeadlockDetected."""

    async def unlock(self, keys: Iterable[bytes], strength: int = 0) -> None:
        """Release keys, or hold them at a weaker strength from now on."""

    def close(self) -> None:
        """Release everything, in the background."""


class Database(Protocol):
    """The gateway's door to the cluster's key space."""

    def begin(
        self, isolation: Isolation, *, read_only: bool = False, trace: Callable[[str], None] | None = None
    ) -> Transaction:
        """Start a transaction.  ``trace`` is told what it does, and where."""

    def begin_stale(self, isolation: Isolation, floor: Callable[[], Timestamp], *, exact: bool = False) -> PastReader:
        """Start a transaction that only reads, at a timestamp that copies near this node can serve.

        ``floor`` is asked for each snapshot: what it may look back to; ``exact``: it reads at the floor itself."""

    def now(self) -> Timestamp:
        """Read this node's clock: later than everything that it has heard of."""

    @property
    def max_clock_offset_us(self) -> int:
        """Tell how far the clocks of two nodes may differ."""

    def session_locks(self, current: Callable[[], object], on_lost: Callable[[], None]) -> SessionLocks:
        """Return the advisory locks of a new session.

        ``current`` tells the session's transaction, for the detection of deadlocks; ``on_lost`` is called when locks could
        not be kept (this node was cut off): the session must not go on."""

    def lock_waits(self) -> list[LockWait]:
        """Return who waits for whom on this node's ranges, and in ``wait_for``."""

    xid_of_session: Callable[[int], int]
    """Set by the layer above: the number of a session's transaction, by process id (0: none), for the report of a deadlock."""

    async def prepared_transactions(self) -> list[PreparedTransaction]:
        """Return the prepared transactions of the whole cluster, by name."""

    async def finish_prepared(self, name: str, commit: bool, check: Callable[[PreparedTransaction], None]) -> None:
        """Commit or roll back a prepared transaction, of whatever node, unless ``check`` raises.

        Raises PreparedMissing, PreparedBusy."""

    def try_get(self, key: bytes) -> bytes | None:
        """Autocommit read of the newest value when the range is at hand; raises MustWait otherwise."""

    async def wait_for(
        self,
        completion: Completion[None],
        transaction: Transaction,
        holders: Callable[[], Iterable[bytes]],
        *,
        since_ns: int = 0,
        deadline_ns: int = 0,
    ) -> None:
        """Wait for what other transactions keep from this one; ``holders`` gives the ids of those.

        It counts for deadlocks as a wait for a row lock does.  ``since_ns``: when it began, if this is not the first call.
        Raises DeadlockDetected, LockNotAvailable past ``deadline_ns`` (0: none)."""

    async def ingest(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Write durably, outside any transaction, to keys that no transaction can know yet (backfills, new tables).

        Split over ranges and into bounded proposals; may be repeated after an error."""

    async def clear_range(self, start: bytes, end: bytes) -> None:
        """Remove every version in [start, end) outside any transaction (dropped tables and indexes).

        Ranges that begin there may be merged with their left neighbours from now on."""

    async def split(self, keys: Sequence[bytes]) -> None:
        """Make each key a range boundary; boundaries that exist already are left alone."""

    async def ranges(self, start: bytes, end: bytes) -> list[RangeInfo]:
        """Return the ranges that overlap [start, end), in order."""

    async def await_copies(self, spans: Sequence[tuple[bytes, bytes]], timeout_ns: int) -> list[int]:
        """Wait until every copy of the ranges around the spans has what they hold now; the nodes still missing in the end."""

    async def require_unchanged(self, spans: Sequence[tuple[bytes, bytes]], since: Timestamp) -> None:
        """Raise SerializationConflict if anything in the spans has been written after ``since``."""

    async def allocate_ids(self, counter: bytes, count: int = 1) -> int:
        """Advance the named cluster-wide counter by ``count`` durably; returns the first of the new numbers.

        Numbers start at 1 and are never handed out twice (object ids, hidden row ids, sequences)."""

    async def broadcast(self, topic: str, payload: bytes, timeout_ns: int) -> dict[int, bytes | None]:
        """Call the handler of ``topic`` on every node of the cluster, this one included; answers by node id.

        None stands for a node that did not answer in time; nodes that the cluster counts as dead are left out."""

    async def ask(self, node_id: int, topic: str, payload: bytes) -> bytes:
        """Call the handler of ``topic`` on one node; raises ExchangeLost if no answer comes."""

    def on_broadcast(self, topic: str, handler: BroadcastHandler) -> None:
        """Register this node's handler of ``topic``."""

    def is_active(self, feature: Feature) -> bool:
        """Tell whether every node of the cluster knows a feature (versions.py)."""

    @property
    def node_id(self) -> int:
        """Tell this node's id."""


class BroadcastHandler(Protocol):
    async def __call__(self, sender: int, payload: bytes) -> bytes:
        """Answer one broadcast."""
