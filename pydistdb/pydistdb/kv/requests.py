"""What a gateway asks of a leaseholder, and what it hears back.

Every request names a key (``routing_key``): whoever holds the lease of the range around it answers.  A request never
reaches over the end of a range; the router cuts it up.  A request that went to the wrong place is answered with a
``Failure`` that says where to go instead, and one that met a user-visible conflict with a ``Failure`` that names it.  On
the local leaseholder requests are passed as objects and failures are raised as they are.

Reads carry ``read_timestamp`` and ``uncertainty_limit``: a version between the two may or may not have been committed
before the transaction began (clocks differ), and raises ReadRestart.  ``observed`` is what the answering node's clock
said when the transaction first heard of it (0: it has not): whatever that node commits later is later than that, so the
window ends there.

Writes are tuples ``(key, value, expected)``; value None deletes.  ``expected`` is the version that the gateway saw when
it locked the key, ``BLIND`` (no check) or ``INSERT`` (no live value may be there).
"""

from __future__ import annotations

import itertools
from enum import IntEnum
from typing import NamedTuple

from pydistdb_storage.engine import Picks

from pydistdb.kv import api
from pydistdb.kv.api import KVError, Timestamp
from pydistdb.kv.command import NotLeaseholder, ProposalLost
from pydistdb.kv.descriptor import NodeId, RangeDescriptor
from pydistdb.kv.transport import Message, register

BLIND = -1
INSERT = -2

Write = tuple[bytes, bytes | None, int]
"""Key, value (None: delete), expected version timestamp or BLIND or INSERT."""

Condition = tuple[bytes, int, int]
"""Key, expected version timestamp, lock strength: what a transaction locked without writing it."""

Span = tuple[bytes, bytes]
"""Start and end (exclusive); without an end it is the one key."""

TransactionId = bytes
"""Begin timestamp (8 bytes) ‖ gateway node (4) ‖ counter (4): orders by age, and names who answers for it."""

NO_TRANSACTION: TransactionId = b""

_counter = itertools.count(1)


def new_transaction_id(timestamp: Timestamp, node_id: NodeId) -> TransactionId:
    return (timestamp << 64 | node_id << 32 | next(_counter) & 0xFFFFFFFF).to_bytes(16, "big")


def begin_of(transaction_id: TransactionId) -> Timestamp:
    """When the transaction began, by its gateway's clock."""
    return int.from_bytes(transaction_id[:8], "big")


def gateway_of(transaction_id: TransactionId) -> NodeId:
    """The node whose gateway coordinates the transaction."""
    return int.from_bytes(transaction_id[8:12], "big")


def shown_id(transaction_id: TransactionId) -> int:
    """The number by which users are told of a transaction."""
    return int.from_bytes(transaction_id[8:], "big")


class WrongRange(ProposalLost):
    """The keys of the request do not all lie in one range here: cut it up along ``descriptor``."""

    def __init__(self, descriptor: RangeDescriptor) -> None:
        super().__init__(f"the request reaches beyond range {descriptor.range_id}")
        self.descriptor = descriptor
        self.ambiguous = False
        """Set by the router if an earlier attempt may have been carried out."""


class StillWaiting(ProposalLost):
    """A remote request has waited (for a lock, say) for as long as one call may take: send it again.

    It keeps its place in the queue."""


class CommitAmbiguous(KVError):
    """The proposal at ``timestamp`` was on its way when the lease of ``epoch`` was lost: ask the next leaseholder."""

    def __init__(self, timestamp: Timestamp, epoch: int) -> None:
        super().__init__("the outcome of a proposal is not known yet")
        self.timestamp = timestamp
        self.epoch = epoch


# ---------------------------------------------------------------------------------------------------------- requests


class GetMany(Message):
    """Read keys at a snapshot."""

    keys: list[bytes]
    read_timestamp: Timestamp
    uncertainty_limit: Timestamp
    transaction_id: TransactionId = NO_TRANSACTION
    observed: Timestamp = 0

    @property
    def routing_key(self) -> bytes:
        return self.keys[0]


class Scan(Message):
    """Read up to ``limit`` live entries of [start, end) in order, or from the end down."""

    start: bytes
    end: bytes
    limit: int
    reverse: bool
    read_timestamp: Timestamp
    uncertainty_limit: Timestamp
    transaction_id: TransactionId = NO_TRANSACTION
    observed: Timestamp = 0
    picks: Picks | None = None
    """Entries that are not of these may be left out."""

    @property
    def routing_key(self) -> bytes:
        return self.start


class LeaseName(NamedTuple):
    """One lease of one range with its bounds as they were: which lock table it was that a lock was in."""

    range_id: int
    epoch: int
    generation: int


NO_LEASE = LeaseName(0, 0, 0)


class Lock(Message):
    """Lock keys for a transaction and read their newest versions."""

    transaction_id: TransactionId
    keys: list[bytes]
    strength: int
    wait: int
    timeout_ns: int = 0
    """0: wait as long as it takes."""
    early: bool = False
    """Take what others offer (pending.py)."""
    held: list[bytes] = []
    """Those of the keys that the transaction has locked before, and must hold still."""

    @property
    def routing_key(self) -> bytes:
        return self.keys[0]


class CommitOnePhase(Message):
    """Check and commit a transaction that touches this range only, in one proposal.

    ``recorded``: leave a record of the outcome, so that the same request may be sent again when its answer is lost."""

    transaction_id: TransactionId
    writes: list[Write]
    conditions: list[Condition]
    recorded: bool = True
    spans: tuple[Span, ...] = ()
    """What a SERIALIZABLE transaction has read at ``since``, all of it in this range."""
    since: Timestamp = 0
    offers: bool = False
    """Others may see the writes before they are durable (pending.py): if this fails, its statement begins anew."""
    gives_up: bool = False
    """What others hold is not waited for: SerializationConflict, and the statement begins anew."""

    @property
    def routing_key(self) -> bytes:
        return self.writes[0][0]


class Prepare(Message):
    """Check writes and conditions and lay them down as intents.

    ``sequence`` grows with each request of the transaction: a repeated request recognizes its own intents."""

    transaction_id: TransactionId
    anchor: bytes
    sequence: int
    writes: list[Write]
    conditions: list[Condition] = []
    gives_up: bool = False
    """As in CommitOnePhase."""

    @property
    def routing_key(self) -> bytes:
        return self.writes[0][0] if self.writes else self.conditions[0][0]


class PrepareFresh(Message):
    """Lay down intents on keys, sorted, that nobody else can know before the transaction commits: there is nothing to check.

    It may be repeated."""

    transaction_id: TransactionId
    anchor: bytes
    sequence: int
    entries: list[tuple[bytes, bytes]]

    @property
    def routing_key(self) -> bytes:
        return self.entries[0][0]


class EndTransaction(Message):
    """Decide: commit at ``timestamp`` or later, or abort.  Refused after ``expires`` (see records.py).

    ``exact``: commit at no other timestamp.  Where that is not possible any more the answer names another one in
    ``timestamp`` and says so by its ``resume``."""

    transaction_id: TransactionId
    anchor: bytes
    commit: bool
    timestamp: Timestamp
    expires: Timestamp
    spans: list[tuple[bytes, bytes]] = []
    """Where the intents are."""
    exact: bool = False
    prepared: bool = False
    """The transaction was prepared for later: nothing but this ends it (txn/prepared.py)."""

    @property
    def routing_key(self) -> bytes:
        return self.anchor


class PrepareRecord(Message):
    """Keep an open transaction until EndTransaction says that it was ``prepared``.  Refused after ``expires``."""

    transaction_id: TransactionId
    anchor: bytes
    timestamp: Timestamp
    expires: Timestamp
    spans: list[tuple[bytes, bytes]] = []

    @property
    def routing_key(self) -> bytes:
        return self.anchor


class PushTransaction(Message):
    """Ask how a transaction ended, or see to it that it commits above ``read_timestamp`` (0: only ask).

    A transaction whose coordinator is gone is aborted on the way.  ``wait``: for one that is just being decided.
    ``patient``: whoever asks need not wait until it has ended, so that its coordinator may be silent for long."""

    transaction_id: TransactionId
    anchor: bytes
    read_timestamp: Timestamp = 0
    wait: bool = True
    patient: bool = False

    @property
    def routing_key(self) -> bytes:
        return self.anchor


class Validate(Message):
    """Check that nothing in the spans, all of one range, has changed after ``since`` and up to ``timestamp``, nor will."""

    transaction_id: TransactionId
    spans: list[Span]
    since: Timestamp
    timestamp: Timestamp

    @property
    def routing_key(self) -> bytes:
        return self.spans[0][0]


class ForgetRecord(Message):
    """Every intent of the transaction is resolved: its record may go."""

    transaction_id: TransactionId
    anchor: bytes

    @property
    def routing_key(self) -> bytes:
        return self.anchor


class ResolveIntents(Message):
    """Turn a transaction's intents in [start, end) into versions at ``commit_timestamp`` (0: drop them).

    With ``keys`` only those.  Also releases the transaction's locks in this range."""

    transaction_id: TransactionId
    commit_timestamp: Timestamp
    start: bytes
    end: bytes
    keys: list[bytes] = []

    @property
    def routing_key(self) -> bytes:
        return self.start


class ReleaseLocks(Message):
    """Release everything a transaction has locked in this range, or only ``keys``: (key, strength still to be held or 0)."""

    transaction_id: TransactionId
    start: bytes
    keys: list[tuple[bytes, int]] = []

    @property
    def routing_key(self) -> bytes:
        return self.start


class QueryVersion(Message):
    """Tell whether ``key`` has a version at exactly ``timestamp``, under a lease newer than ``epoch``."""

    key: bytes
    timestamp: Timestamp
    epoch: int

    @property
    def routing_key(self) -> bytes:
        return self.key


class Ingest(Message):
    """Write entries at a given timestamp without any check."""

    timestamp: Timestamp
    entries: list[tuple[bytes, bytes]]

    @property
    def routing_key(self) -> bytes:
        return self.entries[0][0]


TOO_LATE = b"too late"
"""``resume`` of the answer to an Ingest whose timestamp lies too far back: ask again with a newer one."""


class ClearRange(Message):
    """Remove every version and intent in [start, end); a range that begins at ``start`` need not any more."""

    start: bytes
    end: bytes

    @property
    def routing_key(self) -> bytes:
        return self.start


class Increment(Message):
    """Advance a counter (decimal digits in ASCII) and tell its value before."""

    key: bytes
    by: int

    @property
    def routing_key(self) -> bytes:
        return self.key


class SplitAt(Message):
    """Make ``key`` a range boundary."""

    key: bytes

    @property
    def routing_key(self) -> bytes:
        return self.key


class RangeAround(Message):
    """Tell the descriptor of the range that holds ``key``, and who leads it."""

    key: bytes

    @property
    def routing_key(self) -> bytes:
        return self.key


Request = (
    GetMany
    | Scan
    | Lock
    | CommitOnePhase
    | Prepare
    | PrepareFresh
    | EndTransaction
    | PrepareRecord
    | PushTransaction
    | Validate
    | ForgetRecord
    | ResolveIntents
    | ReleaseLocks
    | QueryVersion
    | Ingest
    | ClearRange
    | Increment
    | SplitAt
    | RangeAround
)


class QueryTransaction(Message):
    """Asked of a gateway: is this transaction still being coordinated?"""

    transaction_id: TransactionId


class QuerySession(Message):
    """Asked of a gateway: the process id of the session whose transaction this is."""

    transaction_id: TransactionId


class WaitEdges(Message):
    """Asked of a node: who waits for whom on its ranges?"""


class RaiseClock(Message):
    """Asked of a node: take notice of ``timestamp``."""

    timestamp: Timestamp


class Broadcast(Message):
    """Asked of a node: hand ``payload`` to the handler of ``topic``."""

    topic: str
    payload: bytes


class LookUpRange(Message):
    """Asked of any node: where is ``key``, as far as you know?"""

    key: bytes


# ----------------------------------------------------------------------------------------------------------- answers


class Applied(Message):
    """Nothing more to say; ``timestamp`` where the request has one to tell, ``resume`` where it is not finished."""

    timestamp: Timestamp = 0
    resume: bytes = b""


class Values(Message):
    values: list[bytes | None]
    observed: Timestamp = 0


class Entries(Message):
    keys: list[bytes]
    values: list[bytes]
    resume: bytes | None
    observed: Timestamp = 0


class Locked(Message):
    """Newest values and their versions, in the order asked for; version ``SKIPPED`` for a key passed over."""

    values: list[bytes | None]
    versions: list[int]
    early: bool = False
    """Some of it is not durable yet."""
    lease: LeaseName = NO_LEASE
    """Under which the locks were taken."""


class LocksHanded(Message):
    """To whom a lease is handed: the row locks under it (``locks.HeldLocks``)."""

    range_id: int
    epoch: int
    locks: dict[bytes, dict[bytes, int]]


SKIPPED = -3
OWN_INTENT = -4
"""Version of a key that carries the asking transaction's own intent."""


class TransactionState(IntEnum):
    PENDING = 1
    COMMITTED = 2
    ABORTED = 3


class TransactionStatus(Message):
    """How a transaction stands.  COMMITTED: at ``timestamp``.  PENDING: it can only commit above ``timestamp``."""

    state: int
    timestamp: Timestamp = 0
    prepared: bool = False
    """PENDING, and it stays so until somebody finishes it by its name."""


class Resolved(Message):
    """Intents are resolved up to ``resume`` (None: all of the span); ask again from there."""

    resume: bytes | None = None


class Number(Message):
    value: int


class Edges(Message):
    """Pairs of transactions: the first waits for the second.  ``links``: (a transaction, the id of its session)."""

    edges: list[tuple[TransactionId, TransactionId]]
    links: list[tuple[TransactionId, TransactionId]] = []


class RangeDetails(Message):
    descriptor: RangeDescriptor
    leader: NodeId
    term: int


class BroadcastAnswer(Message):
    payload: bytes | None


class Failure(Message):
    """An error on its way back over the network."""

    kind: str
    text: str = ""
    key: bytes = b""
    timestamp: int = 0
    node: NodeId = 0
    descriptor: RangeDescriptor | None = None
    observed: Timestamp = 0


_PLAIN_ERRORS: dict[str, type[KVError]] = {
    cls.__name__: cls
    for cls in (
        api.ExchangeLost,
        api.SerializationConflict,
        api.ReadConflict,
        api.LockNotAvailable,
        api.DeadlockDetected,
        api.TransactionAborted,
        api.OutcomeUnknown,
        api.RangeUnavailable,
        api.TransactionTooLarge,
        api.ClockOutOfBounds,
        api.DiskFull,
    )
}


def failure_of(error: KVError) -> Failure:
    """The error as a message."""
    kind = type(error).__name__
    text = str(error)
    match error:
        case api.KeyExists():
            return Failure("KeyExists", text, key=error.key)
        case api.ReadRestart():
            return Failure("ReadRestart", text, timestamp=error.timestamp)
        case api.NotClosed():
            return Failure("NotClosed", text, timestamp=error.usable)
        case api.SnapshotTooOld():
            return Failure("SnapshotTooOld", text, timestamp=error.timestamp)
        case NotLeaseholder():
            return Failure("NotLeaseholder", text, node=error.leader, timestamp=error.range_id)
        case WrongRange():
            return Failure("WrongRange", text, descriptor=error.descriptor)
        case CommitAmbiguous():
            return Failure("CommitAmbiguous", text, timestamp=error.timestamp, node=error.epoch)
        case StillWaiting():
            return Failure("StillWaiting", text)
        case ProposalLost():
            return Failure("ProposalLost", text)
        case _ if kind in _PLAIN_ERRORS:
            return Failure(kind, text)
        case _:
            return Failure("KVError", f"{kind}: {text}")


def raise_failure(failure: Failure) -> None:
    """Raise what ``failure_of`` was given."""
    match failure.kind:
        case "KeyExists":
            raise api.KeyExists(failure.key)
        case "ReadRestart":
            raise api.ReadRestart(failure.timestamp)
        case "NotClosed":
            raise api.NotClosed(failure.timestamp)
        case "SnapshotTooOld":
            raise api.SnapshotTooOld(failure.timestamp)
        case "NotLeaseholder":
            raise NotLeaseholder(failure.timestamp, failure.node)
        case "WrongRange":
            assert failure.descriptor is not None
            raise WrongRange(failure.descriptor)
        case "CommitAmbiguous":
            raise CommitAmbiguous(failure.timestamp, failure.node)
        case "StillWaiting":
            raise StillWaiting(failure.text)
        case "ProposalLost":
            raise ProposalLost(failure.text)
        case kind:
            raise _PLAIN_ERRORS.get(kind, KVError)(failure.text)


register(
    GetMany,
    Scan,
    Lock,
    LocksHanded,
    CommitOnePhase,
    Prepare,
    PrepareFresh,
    EndTransaction,
    PrepareRecord,
    PushTransaction,
    Validate,
    ForgetRecord,
    ResolveIntents,
    ReleaseLocks,
    QueryVersion,
    Ingest,
    ClearRange,
    Increment,
    SplitAt,
    RangeAround,
    QueryTransaction,
    QuerySession,
    WaitEdges,
    RaiseClock,
    Broadcast,
    LookUpRange,
    Applied,
    Values,
    Entries,
    Locked,
    TransactionStatus,
    Resolved,
    Number,
    Edges,
    RangeDetails,
    BroadcastAnswer,
    Failure,
)
