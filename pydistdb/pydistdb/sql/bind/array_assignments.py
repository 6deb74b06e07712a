"""``SET a[2] = x``: the array as it is with one element or slice replaced; several of one column add up.

    UPDATE t SET a[1] = 5, a[2] = 6        a = array_set(array_set(a, 5, 1), 6, 2)

Source: PostgreSQL 15 manual, 8.15.4; arraysubs.c.
"""

from __future__ import annotations

from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import UNKNOWN_OID, coerce, coerce_to_target, type_named
from pydistdb.sql.bind.dispatch import bind
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.bind.stored import column_type
from pydistdb.sql.catalog.descriptors import Column
from pydistdb.sql.errors import DatatypeMismatch, FeatureNotSupported, InvalidSyntax
from pydistdb.sql.functions.array_assignment import ARRAY_SET, ARRAY_SET_SLICE
from pydistdb.sql.tree import Call, ColumnRef, Const, Expr
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.known import INT4


def assign_part(
    b: Binder, scope: Scope, column: Column, node: Node, assignments: list[tuple[int, Expr]], seen: set[int]
) -> None:
    """Add or extend the assignment to a column of which ``node`` sets a part."""
    location = node.get("location", -1)
    array_type = column_type(column)
    if "A_Indices" in node["indirection"][0] and not array_type.is_array and array_type.name != "jsonb":
        raise DatatypeMismatch(
            f"cannot subscript type {type_named(array_type.oid)} because it does not support subscripting",
            position=b.position(location),
        )
    if not array_type.is_array or any("A_Indices" not in step for step in node["indirection"]):
        raise FeatureNotSupported("assigning to fields is not supported", position=b.position(location))
    before = next((index for index, (number, _) in enumerate(assignments) if number == column.number), None)
    if before is not None and not isinstance(assignments[before][1], Call):
        raise InvalidSyntax(f'multiple assignments to same column "{column.name}"')
    current: Expr = _current(scope, column) if before is None else assignments[before][1]
    steps = [step["A_Indices"] for step in node["indirection"]]
    is_slice = any(step.get("is_slice") for step in steps)
    if is_slice and len(steps) > 1:
        raise FeatureNotSupported("assigning to slices of several dimensions is not supported")
    target = array_type if is_slice else registry.element_of(array_type)
    value = _value(b, scope, column, node["val"], target, location)
    if is_slice:
        bounds = [_index(b, scope, steps[0].get(key)) for key in ("lidx", "uidx")]
        made = Call(array_type, ARRAY_SET_SLICE, (current, value, *bounds))
    else:
        made = Call(array_type, ARRAY_SET, (current, value, *(_index(b, scope, step["uidx"]) for step in steps)))
    seen.add(column.number)
    if before is None:
        assignments.append((column.number, made))
    else:
        assignments[before] = (column.number, made)


def _current(scope: Scope, column: Column) -> Expr:
    """The column of the row that is being changed."""
    for source in scope.sources:
        if source.table is not None:
            for known in source.columns:
                if known.number == column.number:
                    return ColumnRef(known.type, known.id, known.name)
    raise FeatureNotSupported("assigning to array elements is not supported here")


def _value(b: Binder, scope: Scope, column: Column, node: Node, target: SqlType, target_location: int) -> Expr:
    expr = bind(b, scope, node)
    location = location_of(node)
    if expr.type.oid == UNKNOWN_OID:
        return coerce(b, expr, target, "a", location)
    converted = coerce_to_target(b, expr, target, "a", location)
    if converted is None:
        raise DatatypeMismatch(
            f'subscripted assignment to "{column.name}" requires type {type_named(target.oid)} '
            f"but expression is of type {type_named(expr.type.oid)}",
            hint="You will need to rewrite or cast the expression.",
            position=b.position(target_location),
        )
    return converted


def _index(b: Binder, scope: Scope, node: Node | None) -> Expr:
    """A subscript; NULL where ``a[:5]`` leaves one out."""
    if node is None:
        return Const(INT4, None)
    converted = coerce_to_target(b, bind(b, scope, node), INT4, "a", location_of(node))
    if converted is None:
        raise DatatypeMismatch("array subscript must have type integer", position=b.position(location_of(node)))
    return converted
