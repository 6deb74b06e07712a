"""The transaction of a session: blocks, implicit blocks, savepoints, and how they end (manual, 55.2.2.1 and 3.4).

Theory of operation
-------------------
A transaction is in one of these situations:

============  ========  ====================================================================================
explicit      status T  between BEGIN and COMMIT or ROLLBACK
implicit      status I  in a string of several statements, or between Syncs of the extended protocol: all of it
                        is one transaction; BEGIN turns it into an explicit one
none          status I  a statement is a transaction of its own
failed        status E  an explicit one after an error: nothing but its end (or ROLLBACK TO) is taken
============  ========  ====================================================================================

The kv transaction is begun by the first statement that needs one.  After an error it is rolled back at once, so that
its locks go, unless savepoints may bring it back.  Settings, table pins and uncommitted DDL end with it.

While ``is_committing`` nothing may interrupt, or the outcome would be lost; except that a large transaction first lays down
what is left of its writes, and can be given up until it is decided (``can_be_interrupted``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from pydistdb.kv import api as kv
from pydistdb.sql.catalog import temporary
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.drop_plan import drop_tables
from pydistdb.sql.catalog.gate import GateMark
from pydistdb.sql.catalog.overlay import OverlayMark
from pydistdb.sql.catalog.temporary import TemporaryObjects
from pydistdb.sql.catalog.transaction import DdlTransaction
from pydistdb.sql.consistency import COUNTER_BITS, AsOf, resolve_time
from pydistdb.sql.errors import (
    ActiveTransaction,
    DatabaseError,
    InvalidParameterValue,
    NoActiveTransaction,
    ProgramLimitExceeded,
    ReadOnlyTransaction,
)
from pydistdb.sql.session.environment import Environment
from pydistdb.sql.session.participant import Participant
from pydistdb.sql.session.past import PastReads
from pydistdb.sql.session.settings import SessionSettings
from pydistdb.sql.settings import milliseconds
from pydistdb.sql.types.base import EvalContext

MAX_SAVEPOINTS = 1_000

_LEVELS = {
    "read uncommitted": kv.Isolation.READ_COMMITTED,
    "read committed": kv.Isolation.READ_COMMITTED,
    "repeatable read": kv.Isolation.REPEATABLE_READ,
    "serializable": kv.Isolation.SERIALIZABLE,
}


class _Savepoint(NamedTuple):
    name: str
    kv_mark: int
    settings_mark: int
    ddl_mark: OverlayMark | None
    gate_mark: GateMark
    participant_marks: tuple[int, ...]
    read_only: bool
    """What SET TRANSACTION has made of a subtransaction ends with it."""


class SessionTransaction:
    """See the module's introduction."""

    def __init__(
        self,
        environment: Environment,
        settings: SessionSettings,
        database_name: str,
        temporary_objects: TemporaryObjects,
    ) -> None:
        self._environment = environment
        self._settings = settings
        self._database_name = database_name
        self._temporary = temporary_objects
        self.kv: kv.Transaction | None = None
        self.reader: kv.PastReader | None = None
        """The same, if it reads in the past."""
        self.past = PastReads(environment.database)
        self.awaits_all_copies = False
        """proddb.write_ack = all"""
        self.warn: Callable[[DatabaseError], None] = lambda warning: None
        self.ddl: DdlTransaction | None = None
        self.explicit = False
        self.implicit = False
        self.is_pipeline = False
        """The implicit block is a batch of the extended protocol, not a string of statements."""
        self.has_run = False
        """A statement of the batch has been executed."""
        self.failed = False
        self.is_committing = False
        self.lock_timeout_ns = 0
        self.process_id = 0
        self.trace: Callable[[str], None] | None = None
        """Told what the transactions do, and where (proddb.trace_txn)."""
        self.isolation = kv.Isolation.READ_COMMITTED
        self.read_only = False
        self.statements = 0
        """How many statements have run in it: characteristics can be set before the first."""
        self.number: int | None = None
        """What txid_current() has told."""
        self.least_timestamp: kv.Timestamp = 0
        """What a restarted transaction must be able to see."""
        self._savepoints: list[_Savepoint] = []
        self._participants: list[Participant] = []
        self._is_default = False
        """The characteristics are those of ``default_transaction_…``."""
        self._take_defaults()

    @property
    def status(self) -> bytes:
        return b"E" if self.failed else b"T" if self.explicit else b"I"

    @property
    def in_block(self) -> bool:
        """In an explicit or implicit block: a statement is not a transaction of its own."""
        return self.explicit or self.implicit

    @property
    def can_be_interrupted(self) -> bool:
        return not self.is_committing or (self.kv is not None and self.kv.is_spilling)

    def take_number(self) -> int:
        """The transaction's number, unique in the cluster: given when somebody first asks for it."""
        if self.number is None:
            self.number = self._environment.numbers.take()
        return self.number

    def join(self, participant: Participant) -> None:
        """Have a participant told of savepoints and of the end."""
        if participant not in self._participants:
            self._participants.append(participant)

    # ------------------------------------------------------------------------------------------ characteristics

    def _take_defaults(self) -> None:
        self._is_default = True
        values = self._settings.values
        self._set_isolation(values["default_transaction_isolation"])
        self._set_read_only(values["default_transaction_read_only"] == "on")
        self._settings.set_characteristic("transaction_deferrable", values["default_transaction_deferrable"])

    def _set_isolation(self, level: str) -> None:
        self.isolation = _LEVELS[level]
        self._settings.set_characteristic("transaction_isolation", level)

    def _set_read_only(self, read_only: bool) -> None:
        self.read_only = read_only
        self._settings.set_characteristic("transaction_read_only", "on" if read_only else "off")

    def set_characteristics(
        self, isolation: str | None, read_only: bool | None, deferrable: bool | None, *, in_query: bool = False
    ) -> None:
        """BEGIN's options, or SET TRANSACTION; ``in_query``: asked for by a function."""
        if isolation is None and read_only is None and deferrable is None:
            return
        has_begun = in_query or self.statements > 0
        self._is_default = False
        if isolation is not None:
            if isolation != self._settings.values["transaction_isolation"]:
                if has_begun:
                    raise ActiveTransaction("SET TRANSACTION ISOLATION LEVEL must be called before any query")
                if self._savepoints:
                    raise ActiveTransaction("SET TRANSACTION ISOLATION LEVEL must not be called in a subtransaction")
            self._set_isolation(isolation)
        if read_only is not None:
            if not read_only and (self.past.at or self.past.floor_at):
                raise ActiveTransaction("cannot set transaction read-write mode in a transaction AS OF SYSTEM TIME")
            if self.read_only and not read_only:
                if self._savepoints:
                    raise ActiveTransaction("cannot set transaction read-write mode inside a read-only transaction")
                if has_begun:
                    raise ActiveTransaction("transaction read-write mode must be set before any query")
            self._set_read_only(read_only)
        if deferrable is not None:
            if self._savepoints:
                raise ActiveTransaction("SET TRANSACTION [NOT] DEFERRABLE cannot be called within a subtransaction")
            if has_begun:
                raise ActiveTransaction("SET TRANSACTION [NOT] DEFERRABLE must be called before any query")
            self._settings.set_characteristic("transaction_deferrable", "on" if deferrable else "off")
        if not has_begun and self.kv is not None:
            reads_in_past = self.past.applies and self.read_only
            if self.kv.isolation is not self.isolation or reads_in_past is not (self.reader is not None):
                self._drop()

    def defaults_changed(self) -> None:
        """A default_transaction_… setting was set: outside a block it is what the next transaction is."""
        if not self.in_block and self.kv is None:
            self._take_defaults()

    # ------------------------------------------------------------------------------------------ statements

    def open(self) -> kv.Transaction:
        """The kv transaction, begun if need be."""
        transaction = self.kv
        if transaction is None:
            past = self.past
            if self.read_only and self.isolation is kv.Isolation.SERIALIZABLE and not past.applies:
                past.wait_for_safety(self._settings.values["transaction_deferrable"] == "on")
            if past.applies and (self.read_only or past.only_reads):
                transaction = self.kv = self.reader = past.begin(self.isolation)
            else:
                transaction = self.kv = self._environment.database.begin(
                    self.isolation, read_only=self.read_only, trace=self.trace
                )
            transaction.lock_timeout_ns = self.lock_timeout_ns
            transaction.process_id = self.process_id
        return transaction

    def read_as_of(self, asked: AsOf) -> None:
        """AS OF SYSTEM TIME: what has not read anything yet does so as of that time."""
        now = self._environment.database.now()
        timestamp = resolve_time(asked, now >> COUNTER_BITS, self._settings.values["timezone"])
        if self.statements or (self.kv is not None and self.kv.has_writes):
            raise ActiveTransaction("AS OF SYSTEM TIME must be set before any query")
        if timestamp > now:
            raise InvalidParameterValue(f'AS OF SYSTEM TIME: "{asked.text}" lies in the future')
        self._drop()
        past = self.past
        past.at, past.floor_at = (0, timestamp) if asked.kind == "staleness" else (timestamp, 0)

    def set_lock_timeout(self, timeout_ns: int) -> None:
        """lock_timeout was set; it counts from the next lock on."""
        self.lock_timeout_ns = timeout_ns
        if self.kv is not None:
            self.kv.lock_timeout_ns = timeout_ns

    def open_ddl(self) -> DdlTransaction:
        """The transaction's DDL, begun if need be."""
        ddl = self.ddl
        if ddl is None:
            ddl = self.ddl = DdlTransaction(self._environment.catalog, self.open())
        return ddl

    def check_writable(self, command: str) -> None:
        """Raise 25006 in a read-only transaction."""
        if self.read_only:
            raise ReadOnlyTransaction(f"cannot execute {command} in a read-only transaction")

    @property
    def in_subtransaction(self) -> bool:
        return bool(self._savepoints)

    @property
    def is_block(self) -> bool:
        """In an explicit block, or a string of several statements: what Postgres calls a transaction block."""
        return self.explicit or (self.implicit and not self.is_pipeline)

    @property
    def refuses_alone(self) -> bool:
        """A command that must be a transaction of its own cannot be one here: only the first of a batch can."""
        return self.is_block or (self.implicit and self.has_run)

    def refusal(self, command: str) -> ActiveTransaction:
        """25001 for a command that must be a transaction of its own."""
        if self.is_block:
            return ActiveTransaction(f"{command} cannot run inside a transaction block")
        return ActiveTransaction(f"{command} cannot be executed within a pipeline")

    def forbid_block(self, command: str) -> None:
        """Raise 25001 for a command that must be a transaction of its own."""
        if self.refuses_alone:
            raise self.refusal(command)

    def require_block(self, command: str) -> None:
        """Raise 25P01 for a command whose effect would end with it."""
        if not self.is_block:
            raise NoActiveTransaction(f"{command} can only be used in transaction blocks")

    # ------------------------------------------------------------------------------------------ blocks

    def begin(self, isolation: str | None, read_only: bool | None, deferrable: bool | None) -> None:
        """BEGIN, outside an explicit block."""
        assert not self.explicit
        self.set_characteristics(isolation, read_only, deferrable)
        self.explicit = True
        self.implicit = False

    def begin_implicit(self, *, pipeline: bool = False) -> None:
        """A string of several statements, or a batch of the extended protocol, begins."""
        if not self.explicit:
            self.implicit = True
            self.is_pipeline = pipeline

    def fail(self, reason: str = "") -> None:
        """A statement failed: mark a block as failed, and roll back what no savepoint can need."""
        if self.explicit:
            self.failed = True
            if self._savepoints:
                if self.kv is not None:
                    # What the innermost subtransaction has done is void from here on, and others may have its locks.
                    self._undo_to(self.kv, self._savepoints[-1])
                return
            self._drop(reason)
            for participant in self._participants:
                participant.rollback_to(0)
        else:
            self._drop(reason)
            self._ended(committed=False)

    async def commit(self) -> None:
        """End the transaction with its effects, or raise and end it without."""
        participants = self._participants
        if participants:
            try:
                if self.kv is not None:
                    await self.kv.confirm()  # they may complain of what they see
                for participant in participants:
                    await participant.before_commit()
            except BaseException as error:
                self.rollback(str(error))
                raise
        transaction, ddl = self.kv, self.ddl
        if transaction is None:
            await self._committed()
            return
        self.is_committing = True
        try:
            if self._temporary.has_commit_actions:
                ddl = await self._temporary_tables_on_commit(transaction)
            if ddl is not None:
                await ddl.prepare_commit()
            if transaction.has_writes:
                await self._environment.catalog.check_commit(transaction)
                spans = transaction.written_spans() if self.awaits_all_copies else []
                self.past.note_end(await transaction.commit())
                if spans:
                    await self._await_copies(spans)
            else:
                await transaction.confirm()
                transaction.rollback()  # nothing to make durable: just release what it holds
        except BaseException as error:
            transaction.rollback()
            if ddl is not None:
                await (ddl.outcome_unknown() if isinstance(error, kv.OutcomeUnknown) else ddl.rolled_back())
            self._ended(committed=False, is_known=not isinstance(error, kv.OutcomeUnknown))
            raise
        else:
            if ddl is not None:
                await ddl.committed()
            await self._committed()
        finally:
            self.is_committing = False

    async def _await_copies(self, spans: list[tuple[bytes, bytes]]) -> None:
        """proddb.write_ack = all: the commit stands, but is not acknowledged before every copy has it on its disk."""
        values = self._settings.values
        timeout_ns = milliseconds(values["proddb.write_ack_timeout"]) * 1_000_000
        missing = await self._environment.database.await_copies(spans, timeout_ns)
        if missing:
            nodes = ", ".join(map(str, missing))
            self.warn(
                DatabaseError.of(
                    "01000",
                    "not all copies have confirmed the transaction",
                    detail="The transaction has already committed on a majority, but might not have reached "
                    f"{'node' if len(missing) == 1 else 'nodes'} {nodes}.",
                )
            )

    async def prepare(self, keep: Callable[[kv.Transaction], Awaitable[None]]) -> None:
        """End the transaction with its effects kept for later (prepared.py), or raise and end it without."""
        transaction = self.open()
        try:
            for participant in self._participants:
                await participant.before_prepare()
            self.is_committing = True
            await self._environment.catalog.check_commit(transaction)
            await keep(transaction)
        except BaseException:
            self.rollback()
            raise
        finally:
            self.is_committing = False
        if self.ddl is not None:  # which has been undone
            await self.ddl.rolled_back()
        self._ended(committed=True, is_known=False)

    async def _temporary_tables_on_commit(self, transaction: kv.Transaction) -> DdlTransaction | None:
        """Empty or drop the temporary tables that were made so, if the transaction wrote anything."""
        ddl = self.ddl
        if not transaction.has_writes and ddl is None:
            return ddl
        state = ddl.state if ddl is not None else self._environment.catalog.state
        tables = temporary.tables_with_action(state, self._database_name, self._temporary.schema_name)
        transaction.begin_statement(self.least_timestamp)
        for table in tables:
            if table.on_commit == "delete":
                await temporary.delete_rows(transaction, table)
        dropped = [table for table in tables if table.on_commit == "drop"]
        if dropped:
            ddl = self.open_ddl()
            context = DdlContext(ddl, self._database_name, (), EvalContext(), temporary=self._temporary)
            await ddl.statement(lambda: drop_tables(context, dropped))
        return ddl

    async def _committed(self) -> None:
        for participant in self._participants:
            await participant.after_commit()
        self._ended(committed=True)

    def rollback(self, reason: str = "") -> None:
        """End the transaction without effects."""
        self._drop(reason)
        self._ended(committed=False)

    def restart(self, least_timestamp: kv.Timestamp = 0) -> None:
        """Begin the kv transaction anew, to run its only statement again."""
        self._drop()
        self.least_timestamp = max(self.least_timestamp, least_timestamp)

    def _drop(self, reason: str = "") -> None:
        """Let go of the kv transaction; uncommitted DDL is cleaned up in the background."""
        transaction, ddl = self.kv, self.ddl
        self.kv = self.reader = None
        self.ddl = None
        if transaction is None:
            return
        self.past.note_end(transaction.read_timestamp)
        transaction.rollback(reason)
        self._environment.catalog.gate.leave(transaction)
        if ddl is not None:
            self._environment.scheduler.spawn(ddl.rolled_back(), "roll back DDL")

    def _ended(self, *, committed: bool, is_known: bool = True) -> None:
        if self.kv is not None:
            self._environment.catalog.gate.leave(self.kv)
            self.past.note_end(self.kv.read_timestamp)
        if self.number is not None:
            self._environment.numbers.end(self.number, committed if is_known else None)
            self.number = None
        self.kv = self.reader = None
        self.ddl = None
        self.past.ended()
        self.explicit = self.implicit = self.failed = self.has_run = False
        self.statements = 0
        self.least_timestamp = 0
        self._savepoints.clear()
        if self._participants:
            participants, self._participants = self._participants, []
            for participant in participants:
                participant.ended(committed)
        statistics = self._environment.statistics
        if committed:
            changed = self._settings.commit()
            statistics.commits += 1
        else:
            changed = self._settings.rollback()
            statistics.rollbacks += 1
        if changed or not self._is_default:
            self._take_defaults()

    # ------------------------------------------------------------------------------------------ savepoints

    def savepoint(self, name: str) -> None:
        """SAVEPOINT: a name may be used again, and hides the older one."""
        self._require_block("SAVEPOINT")
        if len(self._savepoints) >= MAX_SAVEPOINTS:
            raise ProgramLimitExceeded(f"a transaction can have at most {MAX_SAVEPOINTS} savepoints")
        transaction = self.open()
        mark = transaction.savepoint()
        ddl_mark = self.ddl.savepoint() if self.ddl is not None else None
        gate_mark = self._environment.catalog.gate.savepoint(transaction)
        marks = tuple([participant.mark() for participant in self._participants])
        settings_mark = self._settings.mark()
        self._savepoints.append(_Savepoint(name, mark, settings_mark, ddl_mark, gate_mark, marks, self.read_only))

    def release(self, name: str) -> None:
        """RELEASE SAVEPOINT: forget it and all later ones."""
        self._require_block("RELEASE SAVEPOINT")
        index = self._find(name)
        self._restore_access(self._savepoints[index])
        del self._savepoints[index:]
        self.forget_marks()

    def forget_marks(self) -> None:
        """Nothing but the user's savepoints can be rolled back to from here on; large writes need not stay in memory."""
        if not self._savepoints and self.kv is not None:
            self.kv.forget_savepoints()

    def rollback_to(self, name: str) -> None:
        """ROLLBACK TO SAVEPOINT: undo what came after it; it stays.  Brings a failed block back."""
        self._require_block("ROLLBACK TO SAVEPOINT")
        index = self._find(name)
        savepoint = self._savepoints[index]
        del self._savepoints[index + 1 :]
        assert self.kv is not None
        self._undo_to(self.kv, savepoint)
        self._settings.rollback_to(savepoint.settings_mark)
        self._restore_access(savepoint)
        marks = savepoint.participant_marks
        for number, participant in enumerate(self._participants):
            participant.rollback_to(marks[number] if number < len(marks) else 0)
        self.failed = False

    def _undo_to(self, transaction: kv.Transaction, savepoint: _Savepoint) -> None:
        """Undo the changes of rows and of the schema made since then, and give back the locks."""
        transaction.rollback_to(savepoint.kv_mark, release_locks=True)
        if self.ddl is not None:
            self.ddl.rollback_to(savepoint.ddl_mark or OverlayMark())
        self._environment.catalog.gate.rollback_to(transaction, savepoint.gate_mark)

    def _restore_access(self, savepoint: _Savepoint) -> None:
        if self.read_only != savepoint.read_only:
            self._set_read_only(savepoint.read_only)

    def _require_block(self, command: str) -> None:
        if not self.explicit:
            raise NoActiveTransaction(f"{command} can only be used in transaction blocks")

    def _find(self, name: str) -> int:
        for index in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[index].name == name:
                return index
        raise DatabaseError.of("3B001", f'savepoint "{name}" does not exist')
