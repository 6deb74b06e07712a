"""A user's function as the binder sees it: a ``Function`` that knows its descriptor instead of a Python body.

    CREATE FUNCTION add(a int, b int DEFAULT 1, OUT total int) …
    ->  argument_types (int4, int4), argument_names (a, b), default_count 1, out_columns ((total, int4),)

What a call becomes is decided in bind/routines.py; what runs the statements is session/routines.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydistdb.sql.catalog.descriptors import Argument, Routine, Table
from pydistdb.sql.errors import InternalError
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import Function, SqlType
from pydistdb.sql.types.composite import attribute_type, live_attributes

INPUT_MODES, OUTPUT_MODES = frozenset("ibv"), frozenset("obt")
VOID_OID, RECORD_OID = 2278, 2249


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RoutineFunction(Function):
    """See the module's docstring."""

    routine: Routine
    default_oids: tuple[int, ...] = ()
    """The types of the defaults: they help to tell what anyelement stands for in a call without the argument."""
    listed: bool = False
    """``out_columns`` are from the query: f() AS (a int, …)."""
    actual_oids: tuple[int, ...] = ()
    """The arguments' types that a polymorphic function has been settled for (bind/overloads.py)."""

    @property
    def variant(self) -> tuple[object, ...]:
        """What tells one body from another that the same function has for other types."""
        listed = tuple((name, t.oid, t.modifier) for name, t in self.out_columns) if self.listed else ()
        return self.actual_oids, listed

    @property
    def returns_row(self) -> bool:
        """Its result is a row of several columns (or of a table's row type)."""
        return len(self.out_columns) > 1 or self.routine.row_of != 0 or self.return_type.oid == RECORD_OID


def _no_body(*values: Any) -> Any:
    raise InternalError("a function written in SQL has no body of its own")


def input_arguments(routine: Routine) -> list[Argument]:
    return [argument for argument in routine.arguments if argument.mode in INPUT_MODES]


def output_arguments(routine: Routine) -> list[Argument]:
    return [argument for argument in routine.arguments if argument.mode in OUTPUT_MODES]


def routine_function(routine: Routine, schema: str, row_of: Table | None) -> RoutineFunction:
    """Make the function of a descriptor; ``row_of`` is the table whose rows it returns."""
    inputs = input_arguments(routine)
    outputs: Sequence[tuple[str, SqlType]] = [
        (argument.name or f"column{number}", registry.type_by_oid(argument.type_oid))
        for number, argument in enumerate(output_arguments(routine), 1)
    ]
    if row_of is not None:
        outputs = [
            (column.name, registry.type_by_oid(column.type_oid).with_modifier(column.modifier))
            for column in row_of.columns
            if not column.dropped
        ]
    return_type = registry.RECORD if row_of is not None else registry.type_by_oid(routine.return_type)
    if return_type.category == "C" and not outputs:
        outputs = [(each.name, attribute_type(each)) for each in live_attributes(return_type.oid, None)]
        return_type = registry.RECORD
    return RoutineFunction(
        routine.oid,
        routine.name,
        tuple(registry.type_by_oid(argument.type_oid) for argument in inputs),
        return_type,
        _no_body,
        routine.strict,
        routine.volatility,
        any(argument.mode == "v" for argument in inputs),
        routine.returns_set,
        tuple(outputs),
        default_count=sum(argument.default is not None for argument in inputs),
        argument_names=tuple(argument.name for argument in inputs),
        schema=schema,
        routine=routine,
        default_oids=tuple(
            argument.default_oid or argument.type_oid for argument in inputs if argument.default is not None
        ),
    )


def default_text(function: RoutineFunction, index: int) -> str:
    """The text of the default of an input argument."""
    text = input_arguments(function.routine)[index].default
    assert text is not None
    return text
