"""Arithmetic on money, which is counted in cents.

    '$10.00'::money * 1.5 = $15.00        '$10.00'::money / '$4.00'::money = 2.5

Source: PostgreSQL 15 manual, 8.2; cash.c.
"""

from __future__ import annotations

import math
from decimal import Decimal

from pydistdb.sql.errors import DatabaseError, NumericValueOutOfRange
from pydistdb.sql.functions.aggregates import extreme, fold
from pydistdb.sql.functions.comparison import define_comparisons
from pydistdb.sql.functions.define import define, define_aggregate
from pydistdb.sql.types import known, numeric
from pydistdb.sql.types.money import check_range
from pydistdb.sql.types.ordering import comparator


def _division_by_zero() -> DatabaseError:
    return DatabaseError.of("22012", "division by zero")


def plus(left: int, right: int) -> int:
    return check_range(left + right)


def times(amount: int, factor: int) -> int:
    return check_range(amount * factor)


def _rounded(value: float) -> int:
    if not math.isfinite(value):
        raise NumericValueOutOfRange("money out of range")
    return check_range(round(value))


def times_float(amount: int, factor: float) -> int:
    return _rounded(amount * factor)


def divided(amount: int, divisor: int) -> int:
    if not divisor:
        raise _division_by_zero()
    quotient = abs(amount) // abs(divisor)
    return quotient if (amount < 0) == (divisor < 0) else -quotient


def divided_float(amount: int, divisor: float) -> int:
    if not divisor:
        raise _division_by_zero()
    return _rounded(amount / divisor)


def ratio(left: int, right: int) -> float:
    if not right:
        raise _division_by_zero()
    return left / right


def from_numeric(value: Decimal) -> int:
    if not value.is_finite():
        kind = "NaN" if value.is_nan() else "infinity"
        raise DatabaseError.of("0A000", f"cannot convert {kind} to bigint")
    if value.adjusted() > 20:
        raise NumericValueOutOfRange("bigint out of range")
    return check_range(int(numeric.rescale(value * 100, 0)))


def _define() -> None:
    define_comparisons("cash_*", "money", "money", None, None)
    define("cash_cmp(money,money)", comparator(known.INT8.oid))
    define("cash_pl(money,money)", plus)
    define("cash_mi(money,money)", lambda left, right: check_range(left - right))
    define("cash_div_cash(money,money)", ratio)
    for name in ("int2", "int4", "int8"):
        define(f"cash_mul_{name}(money,{name})", times)
        define(f"{name}_mul_cash({name},money)", lambda factor, amount: times(amount, factor))
        define(f"cash_div_{name}(money,{name})", divided)
    for short, name in (("flt4", "float4"), ("flt8", "float8")):
        define(f"cash_mul_{short}(money,{name})", times_float)
        define(f"{short}_mul_cash({name},money)", lambda factor, amount: times_float(amount, factor))
        define(f"cash_div_{short}(money,{name})", divided_float)
    define("money(int4)", lambda value: check_range(value * 100))
    define("money(int8)", lambda value: check_range(value * 100))
    define("money(numeric)", from_numeric)
    define("numeric(money)", lambda value: numeric.rescale(Decimal(value) / 100, 2))
    define("cashlarger(money,money)", max)
    define("cashsmaller(money,money)", min)
    define_aggregate("max(money)", extreme(known.INT8.oid, True))
    define_aggregate("min(money)", extreme(known.INT8.oid, False))
    define_aggregate("sum(money)", fold(plus))


_define()
