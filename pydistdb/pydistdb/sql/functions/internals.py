r"""What Postgres uses inside and lets everybody call: input, output and send functions, the larger of two values.

    >>> from pydistdb.sql.functions.define import FUNCTIONS_BY_NAME
    >>> [function.implementation(1.5) for function in FUNCTIONS_BY_NAME["float8send"]]
    [b'?\xf8\x00\x00\x00\x00\x00\x00']

``float8send(x)`` shows a value's bits; ``int4in('12')`` reads one.  They are those of the types (types/registry.py), entered
here under the names that pg_type gives them, for every type that has one.

Source: PostgreSQL 15, pg_proc and pg_type.
"""

from __future__ import annotations

from typing import Any

from pydistdb.sql.functions.define import FUNCTIONS_BY_OID, Body, define, facts, read_table
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.known import POLYMORPHIC, TYPES_BY_NAME
from pydistdb.sql.types.ordering import sort_key

_EXTREMES = """
bpchar_larger(bpchar,bpchar) date_larger(date,date) float4larger(float4,float4) float8larger(float8,float8)
int2larger(int2,int2) int4larger(int4,int4) int8larger(int8,int8) interval_larger(interval,interval)
numeric_larger(numeric,numeric) oidlarger(oid,oid) text_larger(text,text)
time_larger(time,time) timestamp_larger(timestamp,timestamp) timestamptz_larger(timestamptz,timestamptz)
timetz_larger(timetz,timetz) xid8_larger(xid8,xid8)
"""


def _larger(sql_type: SqlType) -> Body:
    key = sort_key(sql_type.oid)
    if key is None:
        return lambda left, right: left if left > right else right
    return lambda left, right: left if key(left) > key(right) else right


def _smaller(sql_type: SqlType) -> Body:
    key = sort_key(sql_type.oid)
    if key is None:
        return lambda left, right: left if left < right else right
    return lambda left, right: left if key(left) < key(right) else right


def _define_extremes() -> None:
    for signature in _EXTREMES.split():
        for name, make in ((signature, _larger), (signature.replace("larger", "smaller"), _smaller)):
            fact = facts(name)
            if fact.oid not in FUNCTIONS_BY_OID:
                define(name, make(fact.argument_types[0]))


def _reader(sql_type: SqlType) -> Body:
    parse = registry.io(sql_type.oid).parse

    def read(context: EvalContext, text: str, item: int = 0, modifier: int = -1) -> Any:
        return parse(text, modifier, context)

    return read


def _writer(sql_type: SqlType) -> Body:
    show = registry.io(sql_type.oid).format
    return lambda context, value: show(value, context)


def _sender(sql_type: SqlType) -> Body:
    return registry.io(sql_type.oid).encode


def _has_form_of_its_own(sql_type: SqlType) -> bool:
    """Arrays, rows and enums are read and written by their items' functions, which is not done here."""
    return sql_type.category not in "APZ" and sql_type.oid not in POLYMORPHIC and sql_type.name != "unknown"


def _define_input_and_output() -> None:
    for row in read_table("pg_proc.txt"):
        signature, returns = row[1], row[2]
        name, _, arguments = signature[:-1].partition("(")
        first = arguments.partition(",")[0]
        if first == "cstring" and name.endswith("in"):
            sql_type, make, context = TYPES_BY_NAME.get(returns), _reader, True
        elif returns == "cstring" and name.endswith("out"):
            sql_type, make, context = TYPES_BY_NAME.get(first), _writer, True
        elif returns == "bytea" and name.endswith("send"):
            sql_type, make, context = TYPES_BY_NAME.get(first), _sender, False
        else:
            continue
        if sql_type is not None and _has_form_of_its_own(sql_type) and int(row[0]) not in FUNCTIONS_BY_OID:
            define(signature, make(sql_type), context=context)


def _send_argument(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    return registry.io(argument_types[0].oid).encode


define("array_send(anyarray)", specialize=_send_argument)
define("enum_send(anyenum)", specialize=_send_argument)
_define_extremes()
_define_input_and_output()
