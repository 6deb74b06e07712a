"""What a client is told when the key-value layer fails: one SQLSTATE, message and HINT per class of error.

The wording follows Postgres where Postgres has such an error.  KeyExists is not here: the executor words it by the
index whose key it was (``exec.unique_violation``).
"""

from __future__ import annotations

from pydistdb_storage.errors import KeyTooLong, StorageError, StoreFull, StoreReadOnly

from pydistdb.kv import api as kv
from pydistdb.kv.operations import OperationRefused
from pydistdb.kv.settings import SettingRefused
from pydistdb.sql import errors
from pydistdb.sql.errors import DatabaseError

RETRY_HINT = "The transaction might succeed if retried."
LOG_HINT = "See server log for query details."
"""What the victim ran is there (session/statistics.py)."""


def database_error(error: kv.KVError | StorageError) -> DatabaseError:
    """The error for the client."""
    known = _mapped(error)
    known.__cause__ = error
    return known


def _mapped(error: kv.KVError | StorageError) -> DatabaseError:
    text = str(error)
    match error:
        case kv.ReadConflict():
            return errors.SerializationFailure(
                "could not serialize access due to read/write dependencies among transactions",
                detail="Reason code: Canceled on identification as a pivot, during commit attempt.",
                hint=RETRY_HINT,
            )
        case kv.SerializationConflict() if text.startswith("could not serialize access due to concurrent"):
            return errors.SerializationFailure(text)
        case kv.SerializationConflict():
            return errors.SerializationFailure(
                "could not serialize access due to concurrent update", detail=text or None, hint=RETRY_HINT
            )
        case kv.ReadRestart():
            return errors.SerializationFailure(
                "could not serialize access due to a value within the clock uncertainty window", hint=RETRY_HINT
            )
        case kv.TransactionAborted():
            return errors.SerializationFailure(
                "transaction was aborted by another one", detail=text or None, hint=RETRY_HINT
            )
        case kv.DeadlockDetected():
            return errors.DeadlockDetected("deadlock detected", detail=text or None, hint=LOG_HINT)
        case kv.LockNotAvailable():
            return errors.LockNotAvailable(text or "could not obtain lock on row")
        case OperationRefused():
            return DatabaseError.of("55000", text)
        case SettingRefused():
            return errors.InvalidParameterValue(text)
        case kv.OutcomeUnknown():
            return errors.StatementCompletionUnknown(
                "the outcome of the transaction is unknown",
                detail="The commit was sent, but its answer was lost: it took effect wholly or not at all.",
                hint="Read the data to find out before you repeat the transaction.",
            )
        case kv.RangeUnavailable():
            return errors.CannotConnectNow(
                "a range of the data is not available",
                detail=text or None,
                hint="A majority of its replicas does not answer; try again once the nodes are back.",
            )
        case kv.TransactionTooLarge():
            return errors.ProgramLimitExceeded(
                text or "transaction is too large", hint="Split the work over several transactions."
            )
        case kv.ClockOutOfBounds():
            return DatabaseError.of(
                "58000",
                text or "the clock of this node differs too much from those of its peers",
                hint="Synchronize the clock; the node serves again by itself.",
            )
        case kv.SnapshotTooOld():
            return DatabaseError.of(
                "72000",
                "snapshot too old",
                detail="What could be seen at the time of the read may have been removed already.",
                hint="Read a more recent time, or keep old versions for longer (--gc-ttl).",
            )
        case kv.PastIsReadOnly():
            return errors.ReadOnlyTransaction("cannot write or lock rows in a transaction that reads in the past")
        case KeyTooLong():
            return errors.ProgramLimitExceeded(
                f"index row size {error.length} exceeds maximum {error.limit}",
                hint="Values of this size cannot be indexed.",
            )
        case kv.DiskFull() | StoreFull():
            return errors.DiskFull("could not write: the store is full", detail=text or None)
        case StoreReadOnly():
            return errors.ReadOnlyTransaction("could not write: the store is read-only", detail=text or None)
    return errors.InternalError(f"{type(error).__name__}: {text}")
