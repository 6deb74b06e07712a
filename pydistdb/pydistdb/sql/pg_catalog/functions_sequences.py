"""nextval, setval, currval, lastval, pg_sequence_last_value.

Drawing a number is synchronous as long as the node has a block of them; what has to wait raises (catalog/sequence_numbers.py),
and the executor evaluates the row again afterwards.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from pydistdb.sql.catalog.access import PG_CLASS
from pydistdb.sql.catalog.acl import SELECT, UPDATE, USAGE
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.needs import permission_denied
from pydistdb.sql.catalog.sequence_numbers import NeedsSetting, NeedsState, definition_of
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, UndefinedTable, WrongObjectType
from pydistdb.sql.functions.effects import act, effect
from pydistdb.sql.pg_catalog.provide import provides, view_of
from pydistdb.sql.types.base import EvalContext

_last_values: WeakKeyDictionary[Any, dict[int, int]] = WeakKeyDictionary()
"""What each session got from its sequences last, by oid; under 0 the oid of the sequence it used last."""


def _session_values(context: EvalContext) -> dict[int, int]:
    if context.extra is None:
        raise FeatureNotSupported("sequences need a session")
    values = _last_values.get(context.extra)
    if values is None:
        values = _last_values[context.extra] = {}
    return values


def forget_values(session: object) -> None:
    """DISCARD SEQUENCES."""
    _last_values.pop(session, None)


def _sequence(context: EvalContext, oid: int, wanted: int) -> Table:
    """The sequence, if the current user has one of the privileges on it (where any is wanted)."""
    view = view_of(context)
    table = view.table_by_oid(oid)
    if table is None:
        virtual = view.virtual_by_oid(oid)
        if virtual is not None:
            raise WrongObjectType(f'"{virtual.name}" is not a sequence')
        raise UndefinedTable(f"could not open relation with OID {oid}")
    if table.kind != "S":
        raise WrongObjectType(f'"{table.name}" is not a sequence')
    if wanted and view.role is not None and not view.access.mask(view.role, PG_CLASS, oid, wanted):
        raise permission_denied("sequence", table.name)
    return table


def _check_writable(context: EvalContext, sequence: Table, command: str) -> None:
    """Raise 25006 in a read-only transaction; temporary sequences are the session's own."""
    if context.extra is not None and sequence.persistence != "t":
        context.extra.transaction.check_writable(command)


@provides("nextval(regclass)")
def nextval(context: EvalContext, oid: int) -> int:
    return _next(context, _sequence(context, oid, USAGE | UPDATE))


def next_identity(context: EvalContext, oid: int) -> int:
    """The value of an identity column: its sequence is part of the table, and takes no privilege."""
    return _next(context, _sequence(context, oid, 0))


def _next(context: EvalContext, sequence: Table) -> int:
    view = view_of(context)
    if view.numbers is None:
        raise FeatureNotSupported("sequences need a session")
    _check_writable(context, sequence, "nextval()")
    numbers = view.numbers
    value = effect(context, lambda: numbers.try_next(sequence))
    if context.extra is not None:
        values = _session_values(context)
        values[sequence.oid] = value
        values[0] = sequence.oid
    return value


@provides("currval(regclass)")
def currval(context: EvalContext, oid: int) -> int:
    sequence = _sequence(context, oid, USAGE | SELECT)
    value = _session_values(context).get(oid)
    if value is None:
        raise DatabaseError.of("55000", f'currval of sequence "{sequence.name}" is not yet defined in this session')
    return value


@provides("lastval()")
def lastval(context: EvalContext) -> int:
    values = _session_values(context)
    if 0 not in values or view_of(context).table_by_oid(values[0]) is None:
        raise DatabaseError.of("55000", "lastval is not yet defined in this session")
    _sequence(context, values[0], USAGE | SELECT)
    return values[values[0]]


@provides("pg_sequence_parameters(oid)")
def pg_sequence_parameters(context: EvalContext, oid: int) -> tuple[Any, ...]:
    definition = definition_of(_sequence(context, oid, USAGE | SELECT | UPDATE))
    return (
        definition.start,
        definition.minimum,
        definition.maximum,
        definition.increment,
        definition.cycle,
        1,
        definition.type_oid,
    )


@provides("pg_sequence_last_value(regclass)")
def pg_sequence_last_value(context: EvalContext, oid: int) -> int | None:
    sequence = _sequence(context, oid, USAGE | SELECT)
    numbers = view_of(context).numbers
    if numbers is None:
        raise FeatureNotSupported("sequences need a session")
    value: int | None = act(context, NeedsState(numbers, sequence))
    return value


def _set(context: EvalContext, oid: int, value: int, is_called: bool) -> int:
    sequence = _sequence(context, oid, UPDATE)
    numbers = view_of(context).numbers
    if numbers is None:
        raise FeatureNotSupported("sequences need a session")
    _check_writable(context, sequence, "setval()")
    act(context, NeedsSetting(numbers, sequence, value, is_called))
    if is_called and context.extra is not None:
        _session_values(context)[oid] = value
    return value


@provides("setval(regclass,int8)")
def setval(context: EvalContext, oid: int, value: int) -> int:
    return _set(context, oid, value, True)


@provides("setval(regclass,int8,bool)")
def setval_called(context: EvalContext, oid: int, value: int, is_called: bool) -> int:
    return _set(context, oid, value, is_called)
