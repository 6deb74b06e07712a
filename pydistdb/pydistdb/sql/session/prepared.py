"""PREPARE TRANSACTION, COMMIT PREPARED and ROLLBACK PREPARED, as a client writes them.

The transaction itself goes to kv (kv/txn/prepared.py); here stand the rules around it: what cannot be prepared, who may
finish it, and what a client is told.

    BEGIN; UPDATE …; PREPARE TRANSACTION 'x'        on one node
    COMMIT PREPARED 'x'                             in any session of that database, on any node, at any time

Source: PostgreSQL 15 manual, part VI; twophase.c for the messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pydistdb.kv import api as kv
from pydistdb.sql import statements as st
from pydistdb.sql.api import Sink
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.prepared import PreparedFacts, facts_of
from pydistdb.sql.clock import now_us
from pydistdb.sql.errors import (
    DatabaseError,
    FeatureNotSupported,
    InsufficientPrivilege,
    InvalidParameterValue,
    NoActiveTransaction,
)
from pydistdb.sql.types.transactions import xid_of

if TYPE_CHECKING:
    from pydistdb.sql.session.session import ClientSession

MAX_NAME_BYTES = 199


async def prepare(session: ClientSession, name: str, sink: Sink) -> str:
    """PREPARE TRANSACTION; like COMMIT it ends the block whatever happens."""
    block = session.transaction
    if not block.explicit:
        session.send_warning(sink, NoActiveTransaction("there is no transaction in progress"))
        if not block.is_block:
            return "ROLLBACK"
    if block.failed:
        block.rollback()
        return "ROLLBACK"
    try:
        await block.prepare(lambda transaction: _keep(session, name, transaction))
    except (kv.PreparedExists, kv.TooManyPrepared, kv.CannotPrepare) as error:
        raise _refusal(name, error) from error
    return "PREPARE TRANSACTION"


async def _keep(session: ClientSession, name: str, transaction: kv.Transaction) -> None:
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidParameterValue(f'transaction identifier "{name}" is too long')
    gate, view, ddl = session.environment.catalog.gate, session.view(), session.transaction.ddl
    read, written = gate.read_by(transaction), gate.written_by(transaction)
    changed = [] if ddl is None else ddl.overlay.changes
    touched = [view.table_by_oid(oid) for oid in read | written] + [made for _, made in changed]
    if any(isinstance(table, Table) and table.persistence == "t" for table in touched):
        raise FeatureNotSupported("cannot PREPARE a transaction that has operated on temporary objects")
    if changed:
        raise FeatureNotSupported("cannot PREPARE a transaction that has changed the schema")
    if ddl is not None and ddl.has_locked:
        raise FeatureNotSupported("cannot PREPARE a transaction that has locked tables")
    facts = PreparedFacts(
        session.identity.current,
        view.database.oid,
        now_us(),
        sorted(read),
        sorted(written),
        xid_of(session.transaction.take_number()),
    )
    await transaction.prepare(name, msgspec.msgpack.encode(facts))


def _refusal(name: str, error: kv.KVError) -> DatabaseError:
    match error:
        case kv.PreparedExists():
            return DatabaseError.of("42710", f'transaction identifier "{name}" is already in use')
        case kv.TooManyPrepared():
            return DatabaseError.of(
                "53200",
                "maximum number of prepared transactions reached",
                hint=f"Commit or roll back some of those in pg_prepared_xacts (there can be {error}).",
            )
    return FeatureNotSupported(f"cannot PREPARE {error}", hint="Use REPEATABLE READ.")


async def finish(session: ClientSession, utility: st.FinishPrepared) -> str:
    """COMMIT PREPARED and ROLLBACK PREPARED."""
    tag = "COMMIT PREPARED" if utility.commit else "ROLLBACK PREPARED"
    session.transaction.forbid_block(tag)
    identity, database = session.identity, session.view().database.oid

    def check(prepared: kv.PreparedTransaction) -> None:
        facts = facts_of(prepared)
        if identity.restricted is not None and facts.owner != identity.current:
            raise InsufficientPrivilege(
                "permission denied to finish prepared transaction",
                hint="Must be superuser or the user that prepared the transaction.",
            )
        if facts.database != database:
            raise FeatureNotSupported(
                "prepared transaction belongs to another database",
                hint="Connect to the database where the transaction was prepared to finish it.",
            )

    try:
        await session.environment.database.finish_prepared(utility.name, utility.commit, check)
    except kv.PreparedMissing:
        text = f'prepared transaction with identifier "{utility.name}" does not exist'
        raise DatabaseError.of("42704", text) from None
    except kv.PreparedBusy:
        text = f'prepared transaction with identifier "{utility.name}" is busy'
        raise DatabaseError.of("55000", text) from None
    return tag
