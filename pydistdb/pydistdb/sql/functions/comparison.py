"""The comparison operators of all types: ``=  <>  <  <=  >  >=`` and the btree support functions.

Postgres has a function per pair of types and operator (int4eq, int48lt, timestamp_ge_date …) whose names follow a few
patterns; this module walks the patterns.  Where runtime values compare as SQL does, the functions have inline templates.

    >>> FUNCTIONS_BY_OID[65].inline
    '({0} == {1})'

A date compares with a timestamp as the midnight it begins with; with a timestamptz, as that midnight in the session's
zone.

Source: PostgreSQL 15 manual, 9.2; catalog pg_operator.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from pydistdb.sql.errors import DatatypeMismatch, UndefinedFunction
from pydistdb.sql.functions.define import FUNCTIONS_BY_OID, Body, define
from pydistdb.sql.types import known
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.ordering import SortKey, comparator, sort_key
from pydistdb.sql.types.pseudo import Record
from pydistdb.sql.types.registry import format_type

__all__ = ["FUNCTIONS_BY_OID", "compared_by", "define_comparisons"]

_TESTS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "eq": ("==", operator.eq),
    "ne": ("!=", operator.ne),
    "lt": ("<", operator.lt),
    "le": ("<=", operator.le),
    "gt": (">", operator.gt),
    "ge": (">=", operator.ge),
}


def compared_by(test: Callable[[Any, Any], Any], left_key: SortKey | None, right_key: SortKey | None) -> Body:
    """Make a comparison of values that first go through a key function each."""
    if left_key is None and right_key is None:
        return test
    if left_key is right_key:
        assert left_key is not None
        key: SortKey = left_key
        return lambda left, right: test(key(left), key(right))
    first: SortKey = left_key or (lambda value: value)
    second: SortKey = right_key or (lambda value: value)
    return lambda left, right: test(first(left), second(right))


def define_comparisons(
    pattern: str, left: str, right: str, left_key: SortKey | None, right_key: SortKey | None, inline: str = "{}"
) -> None:
    """Define the six operators of a pair of types; in ``pattern`` a star stands for eq, ne, lt, …

    ``inline`` wraps both operands where the key is as simple as an expression; without keys it stays ``{}``."""
    for name, (symbol, test) in _TESTS.items():
        template = None
        if (left_key is None and right_key is None) or inline != "{}":
            template = f"({inline.format('{0}')} {symbol} {inline.format('{1}')})"
        body = compared_by(test, left_key, right_key)
        define(f"{pattern.replace('*', name)}({left},{right})", body, inline=template)


def _three_way(pattern: str, left: str, right: str, oid: int) -> None:
    define(f"{pattern}({left},{right})", comparator(oid))


def _define_integers() -> None:
    for left, right in [("2", "2"), ("2", "4"), ("2", "8"), ("4", "2"), ("4", "4"), ("4", "8"), ("8", "2"), ("8", "4")]:
        name = left if left == right else left + right
        define_comparisons(f"int{name}*", f"int{left}", f"int{right}", None, None)
        _three_way(f"btint{name}cmp", f"int{left}", f"int{right}", known.INT8.oid)
    define_comparisons("int8*", "int8", "int8", None, None)
    _three_way("btint8cmp", "int8", "int8", known.INT8.oid)
    for left, right in (("4", "4"), ("4", "8"), ("8", "4"), ("8", "8")):
        name = left if left == right else left + right
        key = sort_key(known.FLOAT8.oid)
        define_comparisons(f"float{name}*", f"float{left}", f"float{right}", key, key)
        _three_way(f"btfloat{name}cmp", f"float{left}", f"float{right}", known.FLOAT8.oid)


def _define_plain() -> None:
    """Types whose functions are called after them, with or without an underscore."""
    for name, pattern, three_way in [
        ("bool", "bool*", "btboolcmp"),
        ("oid", "oid*", "btoidcmp"),
        ("char", "char*", "btcharcmp"),
        ("name", "name*", "btnamecmp"),
        ("bytea", "bytea*", "byteacmp"),
        ("date", "date_*", "date_cmp"),
        ("time", "time_*", "time_cmp"),
        ("timestamp", "timestamp_*", "timestamp_cmp"),
        ("timestamptz", "timestamptz_*", "timestamptz_cmp"),
        ("uuid", "uuid_*", "uuid_cmp"),
        ("xid8", "xid8*", "xid8cmp"),
        ("pg_lsn", "pg_lsn_*", "pg_lsn_cmp"),
        ("interval", "interval_*", "interval_cmp"),
        ("timetz", "timetz_*", "timetz_cmp"),
        ("numeric", "numeric_*", "numeric_cmp"),
        ("jsonb", "jsonb_*", "jsonb_cmp"),
        ("oidvector", "oidvector*", "btoidvectorcmp"),
    ]:
        sql_type = known.TYPES_BY_NAME[name]
        key = sort_key(sql_type.oid)
        define_comparisons(pattern, name, name, key, key)
        _three_way(three_way, name, name, sql_type.oid)


def _check_alike(left: tuple[Any, ...], right: tuple[Any, ...]) -> None:
    """Raise 42804 where two anonymous rows meet columns that cannot be compared before one that differs."""
    if not isinstance(left, Record) or not isinstance(right, Record):
        return
    for number, (a, b, left_type, right_type) in enumerate(zip(left, right, left.types, right.types, strict=False), 1):
        if left_type.oid != right_type.oid:
            raise DatatypeMismatch(
                f"cannot compare dissimilar column types {format_type(left_type.oid)} and "
                f"{format_type(right_type.oid)} at record column {number}"
            )
        if left_type.oid == known.UNKNOWN.oid:
            raise UndefinedFunction("could not identify an equality operator for type unknown")
        if a != b:
            return
    if len(left) != len(right):
        raise DatatypeMismatch("cannot compare record types with different numbers of columns")


def _define_records() -> None:
    key = sort_key(known.RECORD.oid)
    for name, (_, test) in _TESTS.items():
        compare = compared_by(test, key, key)

        def body(left: Any, right: Any, compare: Body = compare) -> Any:
            _check_alike(left, right)
            return compare(left, right)

        define(f"record_{name}(record,record)", body)
    _three_way("btrecordcmp", "record", "record", known.RECORD.oid)


def _define_strings() -> None:
    for name, (symbol, test) in _TESTS.items():
        underscore = "" if name in ("eq", "ne") else "_"
        define(f"text{underscore}{name}(text,text)", test, inline=f"({{0}} {symbol} {{1}})")
        define(f"name{name}text(name,text)", test, inline=f"({{0}} {symbol} {{1}})")
        define(f"text{name}name(text,name)", test, inline=f"({{0}} {symbol} {{1}})")
        if underscore:
            define(f"text_pattern_{name}(text,text)", test, inline=f"({{0}} {symbol} {{1}})")
    key = sort_key(known.BPCHAR.oid)
    define_comparisons("bpchar*", "bpchar", "bpchar", key, key, inline='{}.rstrip(" ")')
    _three_way("bttextcmp", "text", "text", known.TEXT.oid)
    _three_way("btnametextcmp", "name", "text", known.TEXT.oid)
    _three_way("bttextnamecmp", "text", "name", known.TEXT.oid)
    _three_way("bpcharcmp", "bpchar", "bpchar", known.BPCHAR.oid)


def _define_transaction_ids() -> None:
    for name in ("xideq(xid,xid)", "cideq(cid,cid)", "xideqint4(xid,int4)"):
        define(name, operator.eq, inline="({0} == {1})")
    for name in ("xidneq(xid,xid)", "xidneqint4(xid,int4)"):
        define(name, operator.ne, inline="({0} != {1})")
    define_comparisons("tid*", "tid", "tid", None, None)


def _array_test(test: Callable[[Any, Any], Any]) -> Callable[[tuple[SqlType, ...], SqlType], Body]:
    def make(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
        key = sort_key(argument_types[0].oid)
        return compared_by(test, key, key)

    return make


def _define_arrays() -> None:
    for name, (_, test) in _TESTS.items():
        define(f"array_{name}(anyarray,anyarray)", specialize=_array_test(test))
    define("btarraycmp(anyarray,anyarray)", specialize=lambda types, _: comparator(types[0].oid))


_define_integers()
_define_plain()
_define_records()
_define_strings()
_define_transaction_ids()
_define_arrays()
