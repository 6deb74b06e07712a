"""Asking every node for its locks, for pg_locks and pg_blocking_pids.

A node tells what its sessions hold (``Holdings``) and which waits it sees on the ranges that it leads (kv's LockWait).
Prepared transactions, which have no session, are added from their entries; their process id is 0.

Between two calls of a waiter at another node no wait is seen for a moment; so where somebody asks for locks and is not
found waiting, all nodes are asked again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pydistdb.kv.api import KVError, LockWait, RangeUnavailable
from pydistdb.sql.catalog.prepared import facts_of
from pydistdb.sql.clock import now_us
from pydistdb.sql.functions.effects import MustAct
from pydistdb.sql.session.lock_picture import ACCESS_SHARE, ROW_EXCLUSIVE, Holdings, LockPicture
from pydistdb.sql.session.lock_places import Places
from pydistdb.sql.types.transactions import xid_of
from pydistdb.tasks import sleep, with_deadline

if TYPE_CHECKING:
    from pydistdb.sql.session.base import SessionBase
    from pydistdb.sql.session.environment import Environment

LOCKS_TOPIC = "locks.picture"
ANSWER_TIMEOUT_NS = 2_000_000_000
MOST_LOOKS = 4
LOOK_AGAIN_NS = 5_000_000
KEPT_NS = 100_000_000
"""How long one statement's calls of pg_blocking_pids share a picture."""


class _NodeLocks(msgspec.Struct, array_like=True):
    sessions: list[Holdings]
    waits: list[LockWait]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_NodeLocks).decode


class ClusterLocks:
    """One node's answers, and its questions to all."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._kept: tuple[tuple[int, int], int, LockPicture] | None = None
        environment.database.on_broadcast(LOCKS_TOPIC, self._on_locks)
        environment.database.xid_of_session = self._xid_of_session

    async def picture(self) -> LockPicture:
        """The locks of all nodes' sessions and of prepared transactions."""
        environment = self._environment
        for look in range(MOST_LOOKS):
            if look:
                await sleep(environment.scheduler, LOOK_AGAIN_NS)
            answers = await environment.database.broadcast(LOCKS_TOPIC, b"", ANSWER_TIMEOUT_NS)
            nodes = [_decode(answers[node] or b"") for node in sorted(answers) if answers[node]]
            holdings = [each for node in nodes for each in node.sessions] + await self._prepared()
            waits = [wait for node in nodes for wait in node.waits]
            picture = LockPicture(holdings, waits, Places(environment.catalog.state))
            if picture.is_complete:
                break
        return picture

    async def picture_for(self, session: SessionBase) -> LockPicture:
        """The same, for the calls of one statement."""
        statement = session.process_id, session.context.statement_timestamp
        kept, now_ns = self._kept, self._environment.scheduler.now_ns()
        if kept is not None and kept[0] == statement and now_ns - kept[1] < KEPT_NS:
            return kept[2]
        picture = await self.picture()
        self._kept = statement, self._environment.scheduler.now_ns(), picture
        return picture

    async def _prepared(self) -> list[Holdings]:
        """Those of the prepared transactions; none if that cannot be learnt now."""
        scheduler = self._environment.scheduler
        asking = scheduler.spawn(self._environment.database.prepared_transactions(), "prepared transactions")
        deadline_ns = scheduler.now_ns() + ANSWER_TIMEOUT_NS
        try:
            found = await with_deadline(
                scheduler, asking.completion, deadline_ns, RangeUnavailable("no answer in time")
            )
        except KVError:
            return []
        holdings = []
        for prepared in found:
            facts = facts_of(prepared)
            modes = [(oid, ACCESS_SHARE, True) for oid in facts.read]
            modes += [(oid, ROW_EXCLUSIVE, True) for oid in facts.written]
            virtual = f"-1/{facts.xid}"
            holdings.append(Holdings(None, facts.database, virtual, True, facts.xid, [prepared.transaction_id], modes))
        return holdings

    async def _on_locks(self, sender: int, payload: bytes) -> bytes:
        environment = self._environment
        places = Places(environment.catalog.state)
        sessions = [holdings_of(session, places) for session in environment.sessions.values()]
        return _encode(_NodeLocks(sessions, environment.database.lock_waits()))

    def _xid_of_session(self, process_id: int) -> int:
        session = self._environment.sessions.get(process_id)
        return 0 if session is None else session_xid(session)


def session_xid(session: SessionBase) -> int:
    """What backend_xid shows: the number of a transaction that has written or locked something, or was asked for it; 0."""
    block = session.transaction
    if block.number is None and (block.kv is None or not block.kv.holds_rows):
        return 0
    return xid_of(block.take_number())


def holdings_of(session: SessionBase, places: Places) -> Holdings:
    """What a session holds, and since when it waits for more."""
    environment, advisory = session.environment, session.advisory
    database = session.view().database.oid
    in_transaction = session.is_active or session.transaction_status != b"I"
    began = session.context.transaction_timestamp & 0x7FFFFFFF if in_transaction else 0
    found = Holdings(
        session.process_id,
        database,
        f"{session.process_id}/{began}",
        in_transaction,
        session_xid(session),
        [advisory.owner_id] if advisory.owner_id else [],
        advisory=[(key, shared, True) for key, shared in advisory.held()],
    )
    if advisory.waiting is not None:
        found.advisory.append((advisory.waiting.key, advisory.waiting.shared, False))
        found.wait_start = session.query_started_us
    transaction = session.transaction.kv
    if transaction is None:
        return found
    if transaction.known_id:
        found.ids.append(transaction.known_id)
    gate = environment.catalog.gate
    found.relations = gate.locks_of(transaction)
    found.row_tables = places.tables_of(transaction.locked_keys(), database)
    found.awaits_rows = transaction.waits_since_ns > 0
    since_ns = transaction.waits_since_ns or gate.waits_since_ns(transaction)
    if since_ns:
        waited_us = (environment.scheduler.now_ns() - since_ns) // 1_000
        found.wait_start = max(session.query_started_us, now_us() - waited_us)
    return found


class AskBlocking(MustAct):
    """pg_blocking_pids() waits for the answers of all nodes."""

    def __init__(self, session: SessionBase, process_id: int) -> None:
        super().__init__("blocking processes")
        self._session = session
        self._process_id = process_id

    async def act(self) -> list[int]:
        locks = self._session.environment.locks
        return (await locks.picture_for(self._session)).blocking(self._process_id)
