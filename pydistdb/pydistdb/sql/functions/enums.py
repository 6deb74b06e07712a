"""Enums: comparison, the labels of a type, and the extremes of a group.

An enum's value is its rank (types/user.py), so the comparisons are those of integers; what asks for the type's labels
looks them up in the session's catalog.

    enum_range(NULL::rainbow)             {red,orange,yellow,green,blue,purple}
    enum_range('orange', 'green')         {orange,yellow,green}

Source: PostgreSQL 15 manual, 9.10.
"""

from __future__ import annotations

from collections.abc import Callable

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions.aggregates import extreme
from pydistdb.sql.functions.comparison import define_comparisons
from pydistdb.sql.functions.define import AggregateBody, Body, define, define_aggregate
from pydistdb.sql.types import known
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.ordering import comparator
from pydistdb.sql.types.user import check_safe, entry_of, shown_name


def _ranks(oid: int, context: EvalContext) -> list[int]:
    """All values of the type in order; those that may not be used yet are an error."""
    entry = entry_of(oid, context)
    for rank in entry.labels:
        check_safe(entry, rank, context)
    return list(entry.labels)


def _edge(position: int) -> Callable[[tuple[SqlType, ...], SqlType], Body]:
    def make(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
        def body(context: EvalContext, ignored: int | None) -> int:
            ranks = _ranks(return_type.oid, context)
            if not ranks:
                raise DatabaseError.of("55000", f"enum {shown_name(return_type.oid, context)} contains no values")
            return ranks[position]

        return body

    return make


def _range(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    oid = return_type.element_oid

    def body(context: EvalContext, first: int | None, last: int | None = None) -> PgArray:
        return PgArray.of(
            rank for rank in _ranks(oid, context) if (first is None or rank >= first) and (last is None or rank <= last)
        )

    return body


def _whole_range(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    oid = return_type.element_oid

    def body(context: EvalContext, ignored: int | None) -> PgArray:
        return PgArray.of(_ranks(oid, context))

    return body


def _extreme(greatest: bool) -> Callable[[tuple[SqlType, ...], SqlType], AggregateBody]:
    return lambda argument_types, return_type: extreme(known.INT8.oid, greatest)


define_comparisons("enum_*", "anyenum", "anyenum", None, None)
define("enum_cmp(anyenum,anyenum)", comparator(known.INT8.oid))
define("enum_larger(anyenum,anyenum)", max)
define("enum_smaller(anyenum,anyenum)", min)
define("enum_first(anyenum)", specialize=_edge(0), context=True)
define("enum_last(anyenum)", specialize=_edge(-1), context=True)
define("enum_range(anyenum)", specialize=_whole_range, context=True)
define("enum_range(anyenum,anyenum)", specialize=_range, context=True)
define_aggregate("max(anyenum)", specialize=_extreme(True))
define_aggregate("min(anyenum)", specialize=_extreme(False))
