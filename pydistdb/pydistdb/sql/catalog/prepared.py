"""What is kept with a prepared transaction for SQL: whose it is, and which tables it holds.

A transaction's pins (gate.py) go when it is prepared; what it has touched stays locked all the same, as in Postgres.  So DDL
that has waited for all pins then waits for the prepared transactions that name its tables::

    BEGIN; INSERT INTO t …; PREPARE TRANSACTION 'x'      facts: written {t}
    ALTER TABLE t …                                      waits for COMMIT PREPARED 'x' or ROLLBACK PREPARED 'x'
    SELECT * FROM t                                      does not
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from pydistdb.kv.api import Database, PreparedTransaction


class PreparedFacts(msgspec.Struct, array_like=True):
    """``kv.api.PreparedTransaction.facts``."""

    owner: int
    database: int
    prepared_us: int
    """As a timestamptz."""
    read: list[int]
    written: list[int]
    xid: int = 0
    """By which users are told of it."""


_decode = msgspec.msgpack.Decoder(PreparedFacts).decode


def facts_of(prepared: PreparedTransaction) -> PreparedFacts:
    return _decode(prepared.facts)


async def holders(database: Database, tables: Collection[int], *, exclusive: bool) -> set[bytes]:
    """The prepared transactions that have written one of the tables, or have touched it at all if ``exclusive``: their ids."""
    found = set()
    for prepared in await database.prepared_transactions():
        facts = facts_of(prepared)
        held = facts.written + facts.read if exclusive else facts.written
        if not set(held).isdisjoint(tables):
            found.add(prepared.transaction_id)
    return found
