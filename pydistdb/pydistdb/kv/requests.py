"""What a gateway asks of a leaseholder; what it hears back is in answers.py.

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

from pydistdb_storage.engine import Picks

from pydistdb.kv.api import Timestamp
from pydistdb.kv.names import NO_TRANSACTION, TransactionId
from pydistdb.kv.transport import Message, register

BLIND = -1
INSERT = -2

Write = tuple[bytes, bytes | None, int]
"""Key, value (None: delete), expected version timestamp or BLIND or INSERT."""

Condition = tuple[bytes, int, int]
"""Key, expected version timestamp, lock strength: what a transaction locked without writing it."""

Span = tuple[bytes, bytes]
"""Start and end (exclusive); without an end it is the one key."""


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


register(
    GetMany,
    Scan,
    Lock,
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
)
