"""Enums: comparison, the labels of a type, and the extremes of a group.

An enum's value is its rank (types/user.py), so the comparisons are those of integers; what asks for the type's labels
looks them up in the session's catalog.

    enum_range(NULL::rainbow)             {red,orange,yellow,green,blue,purple}
    enum_range('orange', 'green')         {orange,yellow,green}

Source: PostgreSQL 15 manual, 9.10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions.aggregates import extreme
from pydistdb.sql.functions.comparison import define_comparisons
from pydistdb.sql.functions.define import AggregateBody, Body, define, define_aggregate
from pydistdb.sql.types import known
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.ordering import comparator
from pydistdb.sql.types.user import check_safe, entry_of, shown_name


def _safe(oid: int, ranks: Iterable[int], context: EvalContext) -> list[int]:
    """Values of the type; that one may not be used yet is an error."""
    entry, ranks = entry_of(oid, context), list(ranks)
    for rank in ranks:
        check_safe(entry, rank, context)
    return ranks


def _edge(position: int) -> Callable[[tuple[SqlType, ...], SqlType], Body]:
    def make(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
        def body(context: EvalContext, ignored: int | None) -> int:
            ranks = list(entry_of(return_type.oid, context).labels)
            if not ranks:
                raise DatabaseError.of("55000", f"enum {shown_name(return_type.oid, context)} contains no values")
            return _safe(return_type.oid, ranks[position:][:1], context)[0]

        return body

    return make


def _range(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    oid = return_type.element_oid

    def body(context: EvalContext, first: int | None, last: int | None = None) -> PgArray:
        ranks = entry_of(oid, context).labels
        asked = [rank for rank in ranks if (first is None or rank >= first) and (last is None or rank <= last)]
        return PgArray.of(_safe(oid, asked, context))

    return body


def _whole_range(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    oid = return_type.element_oid

    def body(context: EvalContext, ignored: int | None) -> PgArray:
        return PgArray.of(_safe(oid, entry_of(oid, context).labels, context))

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
