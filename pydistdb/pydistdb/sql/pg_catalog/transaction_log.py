"""proddb.transaction_log: transactions over several ranges that have ended, as all nodes tell of them.

    SELECT state, ranges, votes, duration_ms, detail FROM proddb.transaction_log WHERE NOT recovered
    COMMITTED   {5,7}   {yes,yes}   22.1

Each node keeps the last thousand in memory (kv/journal.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydistdb.kv.journal import TOPIC, JournalEntry, read_journals
from pydistdb.kv.names import shown_id
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.clock import POSTGRES_EPOCH_US
from pydistdb.sql.pg_catalog.define import RowDict, gathered_relation
from pydistdb.sql.pg_catalog.objects import array
from pydistdb.sql.pg_catalog.operations import operator_relation
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.known import BOOL, FLOAT8, INT4, INT8, TEXT, TIMESTAMPTZ, TYPES_BY_OID

ANSWER_TIMEOUT_NS = 2_000_000_000
_INT8_ARRAY = TYPES_BY_OID[1016]
_TEXT_ARRAY = TYPES_BY_OID[1009]


async def _journals(context: EvalContext) -> list[JournalEntry]:
    session: Any = context.extra
    if session is None:
        return []
    return read_journals(await session.environment.database.broadcast(TOPIC, b"", ANSWER_TIMEOUT_NS))


def _time(us: int) -> int | None:
    return us - POSTGRES_EPOCH_US if us else None


@gathered_relation(
    operator_relation(
        "transaction_log",
        13_980,
        transaction_id=INT8,
        full_id=TEXT,
        gid=TEXT,
        state=TEXT,
        node_id=INT4,
        ranges=_INT8_ARRAY,
        votes=_TEXT_ARRAY,
        prepare_time=TIMESTAMPTZ,
        end_time=TIMESTAMPTZ,
        duration_ms=FLOAT8,
        recovered=BOOL,
        detail=TEXT,
    ),
    _journals,
)
def transaction_log(view: StateView, context: EvalContext, entries: list[JournalEntry]) -> Iterator[RowDict]:
    """The latest first."""
    for entry in entries:
        yield {
            "transaction_id": shown_id(entry.transaction_id),
            "full_id": entry.transaction_id.hex(),
            "gid": entry.name or None,
            "state": entry.state,
            "node_id": entry.node,
            "ranges": array(each.range_id for each in entry.participants),
            "votes": array(each.vote or "not asked" for each in entry.participants),
            "prepare_time": _time(entry.began_us),
            "end_time": _time(entry.ended_us),
            "duration_ms": entry.duration_us / 1_000 if entry.began_us else None,
            "recovered": entry.recovered,
            "detail": entry.detail or None,
        }
