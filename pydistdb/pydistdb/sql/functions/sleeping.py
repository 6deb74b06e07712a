"""pg_sleep and its relatives: they tell the session how long to wait, which it does before the rows go on.

A function cannot wait, and nothing may hold the node's loop.  So the rows of a batch are computed first, and the time that
they have asked for passes then; the statement's duration is the same, but clock_timestamp() beside pg_sleep() in one row
does not show it.

Source: PostgreSQL 15 manual, 9.9.5.
"""

from __future__ import annotations

import time
from typing import Any

from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.functions.define import implements
from pydistdb.sql.types.base import EvalContext, Interval
from pydistdb.sql.types.ordering import interval_key

POSTGRES_EPOCH_SECONDS = 946_684_800


def _sleep(context: EvalContext, seconds: float) -> str:
    session: Any = context.extra
    if session is None:
        raise FeatureNotSupported("pg_sleep needs a session")
    session.owe_sleep(seconds)
    return ""


@implements("pg_sleep(float8)", context=True)
def pg_sleep(context: EvalContext, seconds: float) -> str:
    return _sleep(context, seconds)


@implements("pg_sleep_for(interval)", context=True)
def pg_sleep_for(context: EvalContext, duration: Interval) -> str:
    return _sleep(context, interval_key(duration) / 1e6)


@implements("pg_sleep_until(timestamptz)", context=True)
def pg_sleep_until(context: EvalContext, moment: int) -> str:
    return _sleep(context, moment / 1e6 + POSTGRES_EPOCH_SECONDS - time.time())
