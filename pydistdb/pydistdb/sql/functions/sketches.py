"""proddb.approx_count_distinct(x): about how many different values, by a sketch instead of keeping them all (sql/sketch.py).

    SELECT proddb.approx_count_distinct(user_id) FROM visits          shards send 4 kB each, the gateway merges them

Values count as equal where ``=`` says so: 1.0 and 1.00 are one number, and so are the two zeros.  NULLs do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from pydistdb.sql.functions.define import OPERATIONS_SCHEMA, add
from pydistdb.sql.sketch import Sketch, value_hash
from pydistdb.sql.types.base import AggregateFunction, SqlType
from pydistdb.sql.types.known import ANYELEMENT, INT8
from pydistdb.sql.types.ordering import sort_key

NAME = "approx_count_distinct"
_OID = 13_959


def _hash_of(type_: SqlType) -> Callable[[Any], int]:
    key = sort_key(type_.oid)
    if key is None:
        return value_hash
    of = key
    return lambda value: value_hash(_same(of(value)))


def _same(key: Any) -> Any:
    """A key of ordering.py as something that is written the same if it is equal."""
    if isinstance(key, tuple | list):
        return list(map(_same, key))
    if isinstance(key, Decimal | float):
        return hash(key)  # of a number's value, whatever its digits: the same in every process
    return key


def _merged(left: Sketch, right: Sketch) -> Sketch:
    left.merge(right)
    return left


def _concrete(argument_types: tuple[SqlType, ...], return_type: SqlType) -> AggregateFunction:
    hash_of = _hash_of(argument_types[0])

    def accumulate(state: Sketch, value: Any) -> Sketch:
        state.add((hash_of(value),))
        return state

    def batch(values: list[Any]) -> Sketch:
        state = Sketch()
        state.add(map(hash_of, values))
        return state

    return AggregateFunction(
        _OID,
        NAME,
        argument_types,
        return_type,
        Sketch,
        accumulate,
        lambda state: round(state.count()),
        _merged,
        batch=batch,
        schema=OPERATIONS_SCHEMA,
        specialize=_concrete,
    )


add(_concrete((ANYELEMENT,), INT8))
