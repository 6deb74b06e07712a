"""What one client transaction knows at its gateway: its snapshot, its id, its buffer, its locks.

The parts that work with it stand on one another, one idea each::

    TransactionBase         snapshots and ids                               (here)
      └ ReadingPart         point reads, scans, fragments                   (reading.py)
          └ LockingPart     row locks, and giving them back                 (locking.py)
              └ WritingPart buffered writes, savepoints, spilling           (writing.py)
                  └ ChangingPart         changes made at the ranges         (changing.py)
                      └ Coordinator      commit and rollback                (coordinator.py)

One line of inheritance and one set of slots, so that a call costs what it would in one class.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from pydistdb.kv.api import (
    Isolation,
    RangeWaits,
    Timestamp,
    TransactionAborted,
)
from pydistdb.kv.hlc import COUNTER_BITS
from pydistdb.kv.names import NO_TRANSACTION, LeaseName, TransactionId, new_transaction_id
from pydistdb.kv.txn.buffer import WriteBuffer
from pydistdb.kv.txn.read_set import ReadSet
from pydistdb.kv.txn.two_phase import TwoPhase
from pydistdb.tasks import Completion

if TYPE_CHECKING:
    from pydistdb.kv.gateway import Gateway


MISSING = object()

Held = tuple[int, int, LeaseName]
"""Of a key that is locked: the version found under the lock, its strength, and the lease under which it was taken."""


class TransactionBase:
    """See the module's docstring."""

    __slots__ = (
        "_buffer",
        "_early",
        "_failure",
        "_first_statement",
        "_gateway",
        "_giving_back",
        "_id",
        "_leases",
        "_lock_starts",
        "_locked",
        "_observed",
        "_over",
        "_reads",
        "_spilled_bytes",
        "_spilling",
        "_spilling_buffer",
        "_trace",
        "_two_phase",
        "gives_up",
        "isolation",
        "lock_timeout_ns",
        "lock_waits",
        "oldest_read",
        "process_id",
        "read_only",
        "read_timestamp",
        "starts_anew",
        "waits_since_ns",
    )

    _trace: tuple[Callable[[str], None], set[str]]
    """Whom to tell, and what the statement has told (tracing.py); set where it is traced only."""

    def __init__(self, gateway: Gateway, isolation: Isolation, read_only: bool) -> None:
        self._gateway = gateway
        self._leases = gateway.leases
        self.isolation = isolation
        self.read_only = read_only
        self.read_timestamp: Timestamp = gateway.leases.clock.now()
        self.oldest_read: Timestamp = 0
        self.lock_timeout_ns = 0
        """How long ``lock`` waits for one range's locks; 0: as long as it takes."""
        self.lock_waits: dict[int, RangeWaits] | None = None
        self.process_id = 0
        self.starts_anew = False
        self.gives_up = False
        self.waits_since_ns = 0
        self._first_statement = True
        self._id: TransactionId = NO_TRANSACTION
        self._buffer = WriteBuffer()
        self._locked: dict[bytes, Held] = {}
        self._early: dict[bytes, int] | None = None
        """Of ``_locked``, the versions that may not have been durable when they were seen."""
        self._lock_starts: dict[bytes, None] = {}
        self._observed: dict[int, Timestamp] | None = None
        self._over = False
        self._two_phase: TwoPhase | None = None
        self._spilling: Completion[None] | None = None
        self._spilling_buffer: WriteBuffer | None = None
        self._spilled_bytes = 0
        self._failure: Exception | None = None
        self._giving_back: Completion[None] | None = None
        """Done once locks that a savepoint had are given back to other nodes."""
        self._reads: ReadSet | None = None
        """What was read, of a SERIALIZABLE transaction (serializable.py)."""

    # -------------------------------------------------------------------------------------------------- snapshots

    def begin_statement(self, at_least: Timestamp = 0) -> None:
        """Take the statement's snapshot; with ``at_least`` the statement is run again (ReadRestart)."""
        if self._over or self._failure is not None:
            self._check_open()
        if self._first_statement or self.isolation is Isolation.READ_COMMITTED or at_least > self.read_timestamp:
            leases = self._leases
            leases.clock.check()
            if at_least:
                leases.hear(at_least)
            else:
                self._observed = None
            self.read_timestamp = leases.clock.now()
            self.oldest_read = 0
            self._first_statement = False

    def _limit(self) -> Timestamp:
        return self.read_timestamp + (self._leases.clock.max_offset_us << COUNTER_BITS)

    def _seen(self) -> dict[int, Timestamp]:
        """What the nodes' clocks said when this statement first heard of them."""
        if self._observed is None:
            self._observed = {self._leases.node_id: self.read_timestamp}
        return self._observed

    @property
    def transaction_id(self) -> TransactionId:
        """The id, made (and announced to this node) when it is first needed."""
        if not self._id:
            self._id = new_transaction_id(self.read_timestamp, self._leases.node_id)
            self._gateway.active[self._id] = self
        return self._id

    @property
    def known_id(self) -> TransactionId:
        """The id if others may know it."""
        return self._id

    def _check_open(self) -> None:
        if self._over:
            raise TransactionAborted("the transaction is over")
        if self._failure is not None:
            raise self._failure

    def _buffered(self, key: bytes) -> object:
        value = self._buffer.entries.get(key, MISSING)
        if value is MISSING and self._spilling_buffer is not None:
            value = self._spilling_buffer.entries.get(key, MISSING)
        return value

    def _spawn(self, coroutine: Coroutine[Any, None, None]) -> None:
        self._leases.scheduler.spawn(coroutine, "end of a transaction")
