"""Rows and arrays: ROW(…), ARRAY[…], subscripts and fields.

Source: PostgreSQL 15 manual, 4.2.3, 4.2.4, 4.2.12 and 4.2.13; parse_expr.c.
"""

from __future__ import annotations

from collections.abc import Sequence

import pydistdb.sql.bind.routines as routines
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.calls import call_of_row
from pydistdb.sql.bind.coerce import (
    coerce,
    coerce_to_common,
    coerce_to_target,
    common_type,
    relabelled,
    type_named,
)
from pydistdb.sql.bind.columns import star_columns
from pydistdb.sql.bind.composites import RowField, composite_fields, field_of, is_composite
from pydistdb.sql.bind.dispatch import BINDERS, bind
from pydistdb.sql.bind.expressions import cast_to
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.bind.stores import jsonb_path, path_literal
from pydistdb.sql.errors import (
    DatabaseError,
    DatatypeMismatch,
    InvalidSyntax,
    ProgramLimitExceeded,
    UndefinedColumn,
    WrongObjectType,
)
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.tree import (
    ArrayLiteral,
    Call,
    ColumnRef,
    Const,
    Expr,
    RowExpr,
    SetCall,
    Subscript,
)
from pydistdb.sql.types import registry
from pydistdb.sql.types.arrays import MOST_DIMENSIONS
from pydistdb.sql.types.base import Function, SqlType
from pydistdb.sql.types.domains import base_type, is_domain
from pydistdb.sql.types.known import CHAR, NAME
from pydistdb.sql.types.registry import (
    INT2VECTOR,
    INT4,
    JSONB,
    OIDVECTOR,
    RECORD,
    TEXT,
)


def _byte_of_name(name: str, index: int) -> str | None:
    data = name.encode()
    return data[index : index + 1].decode("latin-1") if 0 <= index < len(data) else ""


NAME_BYTE = Function(0, "name_subscript", (NAME, INT4), CHAR, _byte_of_name)
"""``name[0]``: a name is an array of bytes for those who look (pg_dump does)."""


def _row(b: Binder, scope: Scope, node: Node) -> Expr:
    items: list[Expr] = []
    for argument in node.get("args", []):
        expansion = star_columns(b, scope, argument)
        if expansion is not None:
            items += expansion
        else:
            items.append(bind(b, scope, argument))
    return RowExpr(RECORD, tuple(items))


def _array(b: Binder, scope: Scope, node: Node) -> Expr:
    return bind_array(b, scope, node, None)


def bind_array(b: Binder, scope: Scope, node: Node, target: SqlType | None) -> Expr:
    """ARRAY[…]; nested ones are further dimensions.  ``target`` is the array type it is cast to, if it is."""
    elements = node.get("elements", [])
    items: list[Expr] = []
    nested = False
    for element in elements:
        if "A_ArrayExpr" in element:
            items.append(bind_array(b, scope, element["A_ArrayExpr"], target))
            nested = True
        else:
            items.append(bind(b, scope, element))
            nested = nested or items[-1].type.is_array
    locations = [location_of(element) for element in elements]
    if target is not None:
        item_type = target if nested else registry.element_of(target)
        made = [
            cast_to(b, item, item_type, location, location) for item, location in zip(items, locations, strict=True)
        ]
        return ArrayLiteral(target, tuple(made))
    if not items:
        raise DatabaseError.of(
            "42P18",
            "cannot determine type of empty array",
            hint="Explicitly cast to the desired type, for example ARRAY[]::integer[].",
            position=b.position(node["location"]),
        )
    common = common_type(b, items, "ARRAY", locations)
    assert common is not None
    made = [
        coerce_to_common(b, item, common, "ARRAY", location) for item, location in zip(items, locations, strict=True)
    ]
    return ArrayLiteral(common if common.is_array else registry.array_of(common), tuple(made))


def _indirection(b: Binder, scope: Scope, node: Node) -> Expr:
    """Subscripts and fields after an expression: ``a[1]``, ``(t).name``, ``(f(x)).*``."""
    expr = bind(b, scope, node["arg"])
    location = location_of(node["arg"])
    steps = node["indirection"]
    index = 0
    while index < len(steps):
        step = steps[index]
        if "A_Indices" in step:
            last = index
            while last < len(steps) and "A_Indices" in steps[last]:
                last += 1
            expr = _subscript(b, scope, expr, [s["A_Indices"] for s in steps[index:last]], location)
            index = last
            continue
        if "A_Star" in step:
            raise InvalidSyntax('row expansion via "*" is not supported here', position=b.position(location))
        expr = field(b, scope, node["arg"], expr, step["String"]["sval"], location)
        index += 1
    return expr


def named_items(row: RowExpr) -> tuple[tuple[str, SqlType], ...]:
    """The names and types of a record's fields."""
    names = row.names or tuple(f"f{index}" for index in range(1, len(row.items) + 1))
    return tuple((name, item.type) for name, item in zip(names, row.items, strict=True))


def row_fields(b: Binder, scope: Scope, wrapper: Node, expr: Expr) -> list[RowField] | None:
    """The fields of a row expression, as far as they are known."""
    if is_composite(expr.type):
        return composite_fields(b, expr.type)
    known: Sequence[tuple[str, SqlType]] | None = None
    if "ColumnRef" in wrapper and isinstance(expr, RowExpr):
        names = [part["String"]["sval"] for part in wrapper["ColumnRef"]["fields"] if "String" in part]
        found = scope.find_source(names[-1], None, None)
        if found is not None:
            known = [(column.name, column.type) for column in found[0].columns]
    scan = routines.called(expr)
    if known is None:
        if isinstance(expr, ColumnRef) and expr.id in b.record_fields:
            known = b.record_fields[expr.id]
        elif scan is not None and scan.function.returns_row:
            known = scan.function.out_columns
        elif isinstance(expr, Call | SetCall) and expr.function.out_columns:
            known = expr.function.out_columns
        elif isinstance(expr, RowExpr):
            known = named_items(expr)
    if known is None:
        return None
    return [RowField(name, sql_type, position) for position, (name, sql_type) in enumerate(known)]


def field(b: Binder, scope: Scope, wrapper: Node, expr: Expr, name: str, location: int) -> Expr:
    """``(row).name``."""
    known = row_fields(b, scope, wrapper, expr)
    for each in known or ():
        if each.name == name:
            return field_of(expr, each)
    if known is not None and "ColumnRef" in wrapper and isinstance(expr, RowExpr):
        qualifier = wrapper["ColumnRef"]["fields"][-1]["String"]["sval"]
        raise UndefinedColumn(f"column {qualifier}.{name} does not exist", position=b.position(location))
    if is_composite(expr.type):
        called = call_of_row(b, name, expr, location)
        if called is not None:
            return called
        raise UndefinedColumn(
            f'column "{name}" not found in data type {type_named(expr.type.oid)}', position=b.position(location)
        )
    if expr.type.oid != RECORD.oid:
        raise WrongObjectType(
            f"column notation .{name} applied to type {type_named(expr.type.oid)}, which is not a composite type",
            position=b.position(location),
        )
    raise UndefinedColumn(f'could not identify column "{name}" in record data type', position=b.position(location))


def _subscript(b: Binder, scope: Scope, array: Expr, steps: list[Node], location: int) -> Expr:
    if array.type.oid == JSONB.oid:
        arrow = functions.operator_for("#>", JSONB.oid, TEXT.array_oid)
        assert arrow is not None
        return Call(JSONB, arrow.function, (array, path_literal(jsonb_path(b, scope, steps, location))))
    if is_domain(array.type.oid):
        array = relabelled(b, array, base_type(array.type.oid))
    if array.type.oid == NAME.oid and len(steps) == 1 and not steps[0].get("is_slice"):
        return Call(CHAR, NAME_BYTE, (array, coerce(b, bind(b, scope, steps[0]["uidx"]), INT4, "a")))
    if not array.type.is_array:
        raise DatatypeMismatch(
            f"cannot subscript type {type_named(array.type.oid)} because it does not support subscripting",
            position=b.position(location),
        )
    if len(steps) > MOST_DIMENSIONS:
        raise ProgramLimitExceeded(
            f"number of array dimensions ({len(steps)}) exceeds the maximum allowed ({MOST_DIMENSIONS})"
        )
    element = registry.element_of(array.type)

    def index_of(wrapper: Node | None) -> Expr | None:
        if wrapper is None:
            return None
        expr = bind(b, scope, wrapper)
        result = coerce_to_target(b, expr, INT4, "a", location_of(wrapper))
        if result is None:
            raise DatatypeMismatch("array subscript must have type integer", position=b.position(location_of(wrapper)))
        return result

    if any(step.get("is_slice") for step in steps):
        slices = tuple(
            (index_of(step.get("lidx")) if step.get("is_slice") else Const(INT4, 1), index_of(step.get("uidx")))
            for step in steps
        )
        result = array.type
        if array.type.oid in (INT2VECTOR.oid, OIDVECTOR.oid):
            result = registry.array_of(element)
        return Subscript(result, array, (), slices)
    indexes = tuple(i for i in (index_of(step["uidx"]) for step in steps) if i is not None)
    return Subscript(element, array, indexes)


BINDERS.update({"RowExpr": _row, "A_ArrayExpr": _array, "A_Indirection": _indirection})
