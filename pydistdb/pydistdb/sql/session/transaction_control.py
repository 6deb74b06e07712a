"""Transaction control: BEGIN, COMMIT, ROLLBACK, savepoints, SET TRANSACTION and LOCK TABLE, as a client writes them.

The block itself is transaction.py's ``SessionTransaction``.  Here stand the rules around it: which command needs a block,
which only warns without one, and what tag each returns.

    COMMIT               without BEGIN: WARNING "there is no transaction in progress", tag COMMIT
    COMMIT               in a failed block: it is rolled back, tag ROLLBACK
    COMMIT AND CHAIN     a new block with the isolation level and access mode of the old one (of the defaults, if it failed)

Source: PostgreSQL manual, part VI, and chapter 13.3 for the modes of LOCK TABLE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydistdb.kv.api import Isolation
from pydistdb.sql import statements as st
from pydistdb.sql.api import Sink
from pydistdb.sql.catalog.access import PG_CLASS
from pydistdb.sql.catalog.acl import DELETE, INSERT, SELECT, TRUNCATE, UPDATE
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.needs import permission_denied, relation_kind
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.errors import (
    ActiveTransaction,
    DatabaseError,
    FeatureNotSupported,
    InvalidParameterValue,
    LockNotAvailable,
    NoActiveTransaction,
    UndefinedTable,
)
from pydistdb.sql.plan_cache import CachedPlan
from pydistdb.sql.session import prepared
from pydistdb.sql.settings import find

if TYPE_CHECKING:
    from pydistdb.sql.session.session import ClientSession
    from pydistdb.sql.session.transaction import SessionTransaction


async def control(session: ClientSession, plan: CachedPlan, utility: st.Utility, sink: Sink) -> str:
    block = session.transaction
    if isinstance(utility, (st.Commit, st.Rollback, st.PrepareTransaction)):
        await session.drop_started_portals()
    match utility:
        case st.Begin():
            if block.explicit:
                session.send_warning(sink, ActiveTransaction("there is already a transaction in progress"))
                block.set_characteristics(utility.isolation, utility.read_only, utility.deferrable)
                if plan.as_of is not None:
                    block.read_as_of(plan.as_of)
            else:
                if plan.as_of is not None:
                    block.read_as_of(plan.as_of)
                block.begin(utility.isolation, utility.read_only, utility.deferrable)
                session.context.transaction_timestamp = session.context.statement_timestamp
            return plan.kind
        case st.Commit():
            return await _commit(session, utility.chain, sink)
        case st.Rollback():
            return _rollback(session, utility.chain, sink)
        case st.PrepareTransaction():
            return await prepared.prepare(session, utility.name, sink)
        case st.FinishPrepared():
            return await prepared.finish(session, utility)
        case st.Savepoint():
            match utility.action:
                case "savepoint":
                    block.savepoint(utility.name)
                    return "SAVEPOINT"
                case "release":
                    block.release(utility.name)
                    return "RELEASE"
                case _:
                    await session.drop_started_portals()
                    block.rollback_to(utility.name)
                    return "ROLLBACK"
    raise FeatureNotSupported(f"{plan.kind} is not supported")


def _characteristics(session: ClientSession) -> tuple[str, bool, bool] | tuple[None, None, None]:
    """What AND CHAIN begins the next transaction with: after an error outside subtransactions, with the defaults."""
    values = session.settings.values
    if session.transaction.failed and not session.transaction.in_subtransaction:
        return None, None, None
    return values["transaction_isolation"], session.transaction.read_only, values["transaction_deferrable"] == "on"


async def _commit(session: ClientSession, chain: bool, sink: Sink) -> str:
    block = session.transaction
    characteristics = _characteristics(session)
    if not block.explicit:
        if chain:
            raise NoActiveTransaction("COMMIT AND CHAIN can only be used in transaction blocks")
        session.send_warning(sink, NoActiveTransaction("there is no transaction in progress"))
        await block.commit()
        return "COMMIT"
    tag = "COMMIT"
    if block.failed:
        block.rollback()
        tag = "ROLLBACK"
    else:
        await block.commit()
    if chain:
        block.begin(*characteristics)
    return tag


def _rollback(session: ClientSession, chain: bool, sink: Sink) -> str:
    block = session.transaction
    characteristics = _characteristics(session)
    if not block.explicit:
        if chain:
            raise NoActiveTransaction("ROLLBACK AND CHAIN can only be used in transaction blocks")
        session.send_warning(sink, NoActiveTransaction("there is no transaction in progress"))
    block.rollback()
    if chain:
        block.begin(*characteristics)
    return "ROLLBACK"


def set_transaction(session: ClientSession, plan: CachedPlan, utility: st.SetTransaction, sink: Sink) -> str:
    block = session.transaction
    if utility.session:
        if plan.as_of is not None:
            raise FeatureNotSupported("AS OF SYSTEM TIME is not supported in SET SESSION CHARACTERISTICS")
        if utility.isolation is not None:
            session.settings.set(find("default_transaction_isolation"), utility.isolation, local=False)
        if utility.read_only is not None:
            value = "on" if utility.read_only else "off"
            session.settings.set(find("default_transaction_read_only"), value, local=False)
        if utility.deferrable is not None:
            value = "on" if utility.deferrable else "off"
            session.settings.set(find("default_transaction_deferrable"), value, local=False)
        return "SET"
    if not block.is_block:
        session.send_warning(sink, NoActiveTransaction("SET TRANSACTION can only be used in transaction blocks"))
        if not block.in_block and utility.snapshot is None:
            return "SET"
    if utility.snapshot is not None:
        raise _refused_snapshot(block, utility.snapshot)
    block.set_characteristics(utility.isolation, utility.read_only, utility.deferrable)
    if plan.as_of is not None:
        block.read_as_of(plan.as_of)
    return "SET"


def _refused_snapshot(block: SessionTransaction, identifier: str) -> DatabaseError:
    """SET TRANSACTION SNAPSHOT: snapshots are never exported here, so there is none of that name."""
    if block.statements or block.in_subtransaction:
        return ActiveTransaction("SET TRANSACTION SNAPSHOT must be called before any query")
    if block.isolation is Isolation.READ_COMMITTED:
        text = "a snapshot-importing transaction must have isolation level SERIALIZABLE or REPEATABLE READ"
        return FeatureNotSupported(text)
    return InvalidParameterValue(f'invalid snapshot identifier: "{identifier}"')


ROW_EXCLUSIVE = 3
"""The strongest table lock mode that statements themselves take."""


async def lock_table(session: ClientSession, utility: st.LockTable) -> str:
    """LOCK TABLE: weak modes only pin the tables, strong ones keep writers, or everybody, off them."""
    block = session.transaction
    block.require_block("LOCK TABLE")
    oids: list[int] = []
    while oids != (named := _tables_to_lock(session, utility)):  # names can come to mean others while it waits
        oids = named
        try:
            await _lock_oids(session, oids, utility)
        except LockNotAvailable:
            if not utility.nowait:
                raise
            names = ", ".join(name.name for name in utility.tables)
            raise LockNotAvailable(f'could not obtain lock on relation "{names}"') from None
    return "LOCK TABLE"


def _tables_to_lock(session: ClientSession, utility: st.LockTable) -> list[int]:
    oids = []
    for name in utility.tables:
        view = session.view()
        relation = view.relation(name.name, name.schema)
        if relation is None:
            written = name.name if name.schema is None else f"{name.schema}.{name.name}"
            raise UndefinedTable(f'relation "{written}" does not exist', position=name.position)
        if isinstance(relation, Table):
            _check_lock(view, relation, utility.mode)
        oids.append(relation.oid)
    return oids


async def _lock_oids(session: ClientSession, oids: list[int], utility: st.LockTable) -> None:
    block = session.transaction
    gate = session.environment.catalog.gate
    transaction = block.open()
    deadline_ns = session.environment.scheduler.now_ns() if utility.nowait else session.lock_deadline_ns()
    if utility.mode > ROW_EXCLUSIVE:
        ddl = block.open_ddl()
        ddl.lock_deadline_ns = deadline_ns
        ddl.check_interrupt = session.check_interrupt
        await ddl.lock_as(oids, utility.mode, nowait=utility.nowait)
    await gate.enter(transaction, frozenset(oids), utility.mode == ROW_EXCLUSIVE, deadline_ns)


def _check_lock(view: StateView, table: Table, mode: int) -> None:
    """ACCESS SHARE takes SELECT, ROW EXCLUSIVE a privilege to write, the others one to change rows."""
    wanted = SELECT if mode == 1 else UPDATE | DELETE | TRUNCATE
    if mode == ROW_EXCLUSIVE:
        wanted |= INSERT
    if view.role is not None and not view.access.mask(view.role, PG_CLASS, table.oid, wanted):
        raise permission_denied(relation_kind(table), table.name)
