"""What a gateway hears back from a leaseholder (requests.py): results, and failures that are raised again there.

A ``Failure`` names the class of the error and carries what it needs to be made anew at the other side::

    raise WrongRange(descriptor) ── failure_of ──► Failure("WrongRange", …) ── raise_failure ──► raise WrongRange(descriptor)
"""

from __future__ import annotations

from enum import IntEnum

from pydistdb.kv import api
from pydistdb.kv.api import KVError, Timestamp
from pydistdb.kv.command import NotLeaseholder, ProposalLost
from pydistdb.kv.descriptor import NodeId, RangeDescriptor
from pydistdb.kv.names import NO_LEASE, LeaseName, TransactionId
from pydistdb.kv.transport import Message, register


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


TOO_LATE = b"too late"
"""``resume`` of the answer to an Ingest whose timestamp lies too far back: ask again with a newer one."""


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


class LockedAfterWaits(Locked, tag="Locked"):
    """The same where others were in the way: for how many keys, and how long.  A Locked that had not to wait does without; who
    does not know of the two fields passes them over."""

    waits: int = 0
    waited_ns: int = 0


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
    xid: int = 0
    """Of a session's process id: that of its transaction (0: none)."""


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
    Applied,
    Values,
    Entries,
    LockedAfterWaits,
    LocksHanded,
    TransactionStatus,
    Resolved,
    Number,
    Edges,
    RangeDetails,
    BroadcastAnswer,
    Failure,
)
