"""pg_current_snapshot, txid_status and their kin, and arithmetic with places in the log (pg_lsn).

    >>> visible_in(13, "12:16:14,15"), visible_in(14, "12:16:14,15")
    (True, False)

What transactions there are is the session's to say (session/transaction_numbers.py).  PyDistDB has no single log, so
pg_lsn is a type like any other: values of elsewhere can be kept, compared and subtracted.

Source: PostgreSQL 15 manual, 8.20 and 9.26.8; pg_lsn.c, xid8funcs.c.
"""

from __future__ import annotations

from decimal import Decimal

from pydistdb.sql.errors import FeatureNotSupported, InvalidParameterValue
from pydistdb.sql.functions.define import define, implements
from pydistdb.sql.functions.effects import act
from pydistdb.sql.functions.sessions import active_session
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.transactions import place, place_number, snapshot_parts

_LARGEST_PLACE = 2**64 - 1

# ------------------------------------------------------------------------------------------------ snapshots


@implements("txid_current_snapshot()", "pg_current_snapshot()", context=True)
def current_snapshot(context: EvalContext) -> str:
    snapshot: str = act(context, active_session(context).ask_snapshot())
    return snapshot


@implements("txid_status(int8)", "pg_xact_status(xid8)", context=True)
def transaction_status(context: EvalContext, number: int) -> str | None:
    status: str | None = act(context, active_session(context).ask_status(number))
    return status


def visible_in(number: int, snapshot: str) -> bool:
    """Tell whether a transaction had ended when the snapshot was taken."""
    xmin, xmax, listed = snapshot_parts(snapshot)
    return number < xmin or (number < xmax and number not in listed)


for _snapshot, _number in (("pg_snapshot", "xid8"), ("txid_snapshot", "int8")):
    _prefix = _snapshot.removesuffix("_snapshot")
    define(f"{_snapshot}_xmin({_snapshot})", lambda value: snapshot_parts(value)[0])
    define(f"{_snapshot}_xmax({_snapshot})", lambda value: snapshot_parts(value)[1])
    define(f"{_snapshot}_xip({_snapshot})", lambda value: snapshot_parts(value)[2])
    define(f"{_prefix}_visible_in_snapshot({_number},{_snapshot})", visible_in)

# ------------------------------------------------------------------------------------------------ places in the log


@implements("pg_lsn(numeric)")
def place_of_number(number: Decimal) -> bytes:
    if number.is_nan():
        raise FeatureNotSupported("cannot convert NaN to pg_lsn")
    if number.is_infinite():
        raise FeatureNotSupported("cannot convert infinity to pg_lsn")
    whole = number.to_integral_value(rounding="ROUND_HALF_UP")
    if not 0 <= whole <= _LARGEST_PLACE:
        raise InvalidParameterValue("pg_lsn out of range")
    return place(int(whole))


@implements("pg_lsn_pli(pg_lsn,numeric)")
def place_after(start: bytes, distance: Decimal) -> bytes:
    if distance.is_nan():
        raise FeatureNotSupported("cannot add NaN to pg_lsn")
    return place_of_number(Decimal(place_number(start)) + distance)


@implements("pg_lsn_mii(pg_lsn,numeric)")
def place_before(start: bytes, distance: Decimal) -> bytes:
    if distance.is_nan():
        raise FeatureNotSupported("cannot subtract NaN from pg_lsn")
    return place_after(start, -distance)


@implements("pg_lsn_mi(pg_lsn,pg_lsn)", "pg_wal_lsn_diff(pg_lsn,pg_lsn)")
def bytes_between(left: bytes, right: bytes) -> Decimal:
    return Decimal(place_number(left) - place_number(right))


define("numeric_pl_pg_lsn(numeric,pg_lsn)", lambda distance, start: place_after(start, distance))
define("pg_lsn_larger(pg_lsn,pg_lsn)", max)
define("pg_lsn_smaller(pg_lsn,pg_lsn)", min)
