"""Typed expressions as bytes, for a node that compiles them there.

Every node of the tree becomes an array headed by its class, types and functions go by their numbers, constants in the
storage form of their type.  Only what every node knows by the same number can be written: built-in types and functions.
Anything else raises ``NotPortable``, and the work stays at the gateway::

    Call(int4lt, [ColumnRef(int4, 7), Const(int4, 5)])
      -> ["Call", ["t", 16, -1], ["f", 66], ["(", ["ColumnRef", ["t", 23, -1], 7, "", True], ["c", ["t", 23, -1], 5]]]

What comes in is decoded into known classes only; no name in it is looked up anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import msgspec

from pydistdb.sql import tree
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.plan.physical import HashJoin, Leaf
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.base import AggregateFunction, Function, SqlType
from pydistdb.sql.types.known import REG_TYPES
from pydistdb.sql.types.user import FIRST_USER_OID

_CLASSES: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        *(tree.ColumnRef, tree.Param, tree.Call, tree.And, tree.Or, tree.Not, tree.IsNull, tree.BooleanTest),
        *(tree.IsDistinct, tree.Case, tree.Coalesce, tree.MinMax, tree.InList, tree.AnyAll, tree.ArrayLiteral),
        *(tree.Subscript, tree.SortKey, tree.AggregateCall, tree.WindowCall, tree.OutputColumn),
        *(tree.Filter, tree.Project, tree.Aggregate, tree.Distinct, tree.Window, tree.FirstRows, HashJoin, Leaf),
    )
}
_NAMES = {cls: [field.name for field in fields(cls)] for cls in _CLASSES.values()}
_STABLE_MODULES = ("datetime_", "casts")
"""Where stable functions live that look at nothing but the time, the time zone and the styles of dates."""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()


class NotPortable(Exception):
    """The expression means something on this node, or in this session, alone."""


def dump(value: Any) -> bytes:
    """A tree (or a list of trees) as bytes."""
    try:
        return _encoder.encode(_packed(value))
    except (TypeError, OverflowError, ValueError, RecursionError, DatabaseError) as error:
        raise NotPortable(str(error)) from error


def load(data: bytes) -> Any:
    """What ``dump`` was given."""
    return _unpacked(_decoder.decode(data))


def check_type(sql_type: SqlType) -> None:
    """Raise NotPortable unless values of the type can be sent."""
    oid = sql_type.element_oid or sql_type.oid
    if oid >= FIRST_USER_OID or sql_type.oid >= FIRST_USER_OID or oid in REG_TYPES or sql_type.category == "P":
        raise NotPortable(sql_type.name)
    if types.type_by_oid(sql_type.oid).with_modifier(sql_type.modifier) != sql_type:
        raise NotPortable(sql_type.name)
    try:
        types.io(sql_type.oid)
    except DatabaseError as error:
        raise NotPortable(sql_type.name) from error


def storage_form(sql_type: SqlType, value: Any) -> Any:
    """A value as msgpack can carry it."""
    write = types.io(sql_type.oid).to_storage
    return value if value is None or write is None else write(value)


def runtime_form(sql_type: SqlType, stored: Any) -> Any:
    read = types.io(sql_type.oid).from_storage
    return stored if stored is None or read is None else read(stored)


# ------------------------------------------------------------------------------------------------ writing


def _packed(value: Any) -> Any:
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return value
        case SqlType():
            check_type(value)
            return ["t", value.oid, value.modifier]
        case tree.Const():
            return ["c", _packed(value.type), storage_form(value.type, value.value)]
        case tuple() | list():
            return ["(", *map(_packed, value)]
        case Function() | AggregateFunction():
            return _packed_function(value)
    names = _NAMES.get(type(value))
    if names is None:
        raise NotPortable(type(value).__name__)
    return [type(value).__name__, *[_packed(getattr(value, name)) for name in names]]


def _packed_function(function: Function | AggregateFunction) -> Any:
    if isinstance(function, Function):
        _check_volatility(function)
    known = functions.function_by_oid(function.oid) if function.oid else None
    if known is function:
        return ["f", function.oid]
    arguments, result = function.argument_types, function.return_type
    if known is not None and functions.specialize(known, arguments, result) is function:
        return ["s", function.oid, _packed(arguments), _packed(result)]
    if len(arguments) == 1:
        source, target = arguments[0], result
        check_type(source)
        check_type(target)
        found = functions.cast(source.oid, target.oid)
        if found is not None and found.function is function:
            return ["x", source.oid, target.oid]
    if arguments and isinstance(function, Function):
        found_coercion = functions.length_coercion(result.with_modifier(0))
        if found_coercion is function:
            return ["l", _packed(result)]
    raise NotPortable(function.name)


def _check_volatility(function: Function) -> None:
    if function.volatility == "i":
        return
    module = getattr(function.implementation, "__module__", "") or ""
    if function.volatility != "s" or not module.rpartition(".")[2].startswith(_STABLE_MODULES):
        raise NotPortable(function.name)


# ------------------------------------------------------------------------------------------------ reading


def _type(data: list[Any]) -> SqlType:
    return types.type_by_oid(data[1]).with_modifier(data[2])


def _const(data: list[Any]) -> tree.Const:
    sql_type = _type(data[1])
    return tree.Const(sql_type, runtime_form(sql_type, data[2]))


def _special(data: list[Any]) -> Any:
    generic = functions.function_by_oid(data[1])
    assert generic is not None
    return functions.specialize(generic, _unpacked(data[2]), _type(data[3]))


def _cast(data: list[Any]) -> Any:
    found = functions.cast(data[1], data[2])
    assert found is not None
    return found.function


_READERS: dict[str, Callable[[list[Any]], Any]] = {
    "t": _type,
    "c": _const,
    "(": lambda data: tuple(map(_unpacked, data[1:])),
    "f": lambda data: functions.function_by_oid(data[1]),
    "s": _special,
    "x": _cast,
    "l": lambda data: functions.length_coercion(_type(data[1]).with_modifier(0)),
}


def _unpacked(data: Any) -> Any:
    if not isinstance(data, list):
        return data
    reader = _READERS.get(data[0])
    if reader is not None:
        return reader(data)
    return _CLASSES[data[0]](*map(_unpacked, data[1:]))
