"""Schema changes, COPY FROM and CALL outside of a transaction block: begun anew when they cannot be serialized.

Theory of operation
-------------------
A statement that is a transaction of its own never tells its client 40001: nobody but the server knows what it has seen, so
the server runs it again.  Queries and changes of rows do so in execute.py; here it is for the utility statements that read
and write.  What they have told the client cannot be told twice, so

* notices wait until the statement has ended, well or badly;
* the data of COPY FROM are kept, up to ``KEPT_BYTES``, and read again from there;
* once rows have left (CALL returns some), nothing is repeated.

    CREATE TABLE t (…)      locks the name; the node that kept the lock dies
                            COMMIT: SerializationConflict; rolled back, begun anew, the client has waited a little
    COPY t FROM STDIN       1 MB of lines, COMMIT: SerializationConflict; the same lines again, out of memory

Statements that go on after a commit of their own (CREATE INDEX CONCURRENTLY, ALTER TABLE … SHARD BY) are not repeated as
a whole: their parts are (catalog/transaction.py).  Statements in a block, or in a string of several, are the client's to repeat.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from pydistdb_storage.errors import StorageError

from pydistdb.kv.api import KVError, ReadRestart
from pydistdb.sql.api import Field, Sink
from pydistdb.sql.catalog.ddl import DDL_STATEMENTS
from pydistdb.sql.errors import DatabaseError, SerializationFailure
from pydistdb.sql.plan_cache import CachedPlan
from pydistdb.sql.schema_statements import CreateIndex, Reshard
from pydistdb.sql.session import utility as utilities
from pydistdb.sql.session.execute import MAX_RETRIES, back_off
from pydistdb.sql.statements import Copy, Utility
from pydistdb.sql.type_statements import Call

if TYPE_CHECKING:
    from pydistdb.sql.session.session import ClientSession

KEPT_BYTES = 4 << 20
"""COPY data kept for another try.  A transaction that has written more is not one that many others collide with."""

_REPEATABLE = frozenset((*DDL_STATEMENTS, Copy, Call)) - {Reshard}


def can_begin_anew(utility: Utility) -> bool:
    """Tell whether ``run_alone`` is for this statement."""
    if type(utility) not in _REPEATABLE:
        return False
    match utility:
        case Copy():
            return utility.is_from
        case CreateIndex():
            return not utility.concurrently
    return True


async def run_alone(
    session: ClientSession,
    plan: CachedPlan,
    sink: Sink,
    *,
    simple: bool,
    parameters: Sequence[Any] = (),
) -> str:
    """Run a utility statement and commit, as often as it takes; returns its command tag."""
    block = session.transaction
    assert plan.utility is not None
    held = HeldSink(sink)
    notified = session.notifications.mark()
    retries = 0
    try:
        while True:
            try:
                tag = await utilities.run(session, plan, plan.utility, held, simple=simple, parameters=parameters)
                await block.commit()
                return tag
            except (KVError, StorageError, SerializationFailure) as error:
                explained = session.explain_error(error)
                retries += 1
                if not isinstance(explained, SerializationFailure) or retries > MAX_RETRIES or not held.begin_anew():
                    raise explained from error
                if block.kv is not None:
                    block.rollback(str(error))
                session.notifications.rollback_to(notified)
                block.least_timestamp = error.timestamp if isinstance(error, ReadRestart) else 0
            session.environment.statistics.retries += 1
            await back_off(session, retries)
    finally:
        held.release()


class HeldSink:
    """What one statement sends, so that it can be run again before anything of it has left."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._notices: list[tuple[DatabaseError, str]] = []
        self._input: KeptInput | None = None
        self._has_sent = False

    def begin_anew(self) -> bool:
        """Forget what the last run has told; False if that is too late."""
        if self._has_sent or (self._input is not None and not self._input.rewind()):
            return False
        self._notices.clear()
        return True

    def release(self) -> None:
        """The statement has ended: send its notices."""
        for notice, severity in self._notices:
            self._sink.notice(notice, severity)
        self._notices.clear()

    # ------------------------------------------------------------------------------------------ Sink

    def notice(self, notice: DatabaseError, severity: str = "NOTICE") -> None:
        self._notices.append((notice, severity))

    async def copy_in(self, binary: bool, columns: int) -> AsyncIterator[bytes]:
        if self._input is None:
            self._input = KeptInput(await self._sink.copy_in(binary, columns))
        return self._input

    def row_description(self, fields: Sequence[Field], binary: bool = False) -> None:
        self._has_sent = True
        self._sink.row_description(fields, binary)

    def rows(self, batch: list[tuple[Any, ...]]) -> None:
        self._has_sent = True
        self._sink.rows(batch)

    async def drain(self) -> None:
        await self._sink.drain()

    def complete(self, tag: str) -> None:
        self._sink.complete(tag)

    def suspended(self) -> None:
        self._sink.suspended()

    def empty_query(self) -> None:
        self._sink.empty_query()

    def parameter_status(self, name: str, value: str) -> None:
        self._sink.parameter_status(name, value)

    def copy_out(self, binary: bool, columns: int) -> None:
        self._has_sent = True
        self._sink.copy_out(binary, columns)

    def copy_data(self, data: bytes) -> None:
        self._sink.copy_data(data)

    def copy_done(self) -> None:
        self._sink.copy_done()


class KeptInput:
    """COPY data as they arrive; until they are too many, they can be had again from the start."""

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source = source
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._is_whole = True
        self._ended = False
        self._next = 0

    def rewind(self) -> bool:
        """Go back to the start; False if that is no longer there."""
        self._next = 0
        return self._is_whole

    def __aiter__(self) -> KeptInput:
        return self

    async def __anext__(self) -> bytes:
        if self._next < len(self._kept):
            self._next += 1
            return self._kept[self._next - 1]
        if self._ended:
            raise StopAsyncIteration
        try:
            chunk = await anext(self._source)
        except StopAsyncIteration:
            self._ended = True
            raise
        if self._is_whole:
            self._keep(chunk)
        return chunk

    def _keep(self, chunk: bytes) -> None:
        self._kept_bytes += len(chunk)
        if self._kept_bytes > KEPT_BYTES:
            self._is_whole = False
            self._kept.clear()
            self._next = 0
        else:
            self._kept.append(chunk)
            self._next += 1
