"""Composite types in expressions: their fields, rows made to them, and they made to anonymous records.

    ROW(1, 'x')::pair             the row's items, each converted to its field's type
    (c).y                         FieldAccess by slot
    c = ROW(1, 'x')               both sides as records

Source: PostgreSQL 15 manual, 8.16; parse_coerce.c (coerce_record_to_complex).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from pydistdb.sql.errors import CannotCoerce
from pydistdb.sql.tree import Call, Const, Expr, FieldAccess, RowExpr
from pydistdb.sql.types import composite, domains, registry
from pydistdb.sql.types.base import Function, SqlType
from pydistdb.sql.types.registry import RECORD
from pydistdb.sql.types.user import Attribute, derived_from_types

if TYPE_CHECKING:
    from pydistdb.sql.bind.binder import Binder

Coerce = Callable[["Binder", Expr, SqlType, str, int], Expr | None]


class RowField(NamedTuple):
    """A field of a row value: ``position`` is its place in the value."""

    name: str
    type: SqlType
    position: int


def is_composite(sql_type: SqlType) -> bool:
    """Tell whether it is a row type with a name (or a domain over one)."""
    return sql_type.category == "C"


def _attributes(b: Binder, sql_type: SqlType) -> tuple[Attribute, ...]:
    entry = b.catalog.type_entry(domains.base_oid(sql_type.oid))
    return () if entry is None else entry.definition.attributes


def composite_fields(b: Binder, sql_type: SqlType) -> list[RowField]:
    """The fields of a composite type."""
    return [
        RowField(each.name, composite.attribute_type(each), each.number - 1)
        for each in _attributes(b, sql_type)
        if not each.dropped
    ]


def field_of(expr: Expr, field: RowField) -> Expr:
    """One field of a row value."""
    return expr.items[field.position] if isinstance(expr, RowExpr) else FieldAccess(field.type, expr, field.position)


def row_to_composite(b: Binder, row: RowExpr, target: SqlType, context: str, location: int, coerce: Coerce) -> Expr:
    """Convert a row to a composite type, item by item."""
    from pydistdb.sql.bind.coerce import type_named

    attributes = _attributes(b, target)
    items = list(row.items)
    if is_composite(row.type):
        items = [items[field.position] for field in composite_fields(b, row.type)]
    live = [each for each in attributes if not each.dropped]

    def fail(detail: str) -> CannotCoerce:
        message = f"cannot cast type {type_named(row.type.oid)} to {type_named(target.oid)}"
        return CannotCoerce(message, detail=detail, position=b.position(location))

    if len(items) != len(live):
        raise fail(f"Input has too {'few' if len(items) < len(live) else 'many'} columns.")
    made: list[Expr] = [Const(registry.TEXT, None)] * len(attributes)
    for number, (item, attribute) in enumerate(zip(items, live, strict=True), 1):
        wanted = composite.attribute_type(attribute)
        converted = coerce(b, item, wanted, context, location)
        if converted is None:
            raise fail(f"Cannot cast type {type_named(item.type.oid)} to {type_named(wanted.oid)} in column {number}.")
        made[attribute.number - 1] = converted
    return RowExpr(target, tuple(made))


_record_makers: dict[int, Function] = derived_from_types({})


def _record_maker(oid: int) -> Function:
    found = _record_makers.get(oid)
    if found is None:
        found = _record_makers[oid] = _make_record_maker(oid)
    return found


def _make_record_maker(oid: int) -> Function:
    source = registry.type_by_oid(oid)
    return Function(
        oid=0,
        name="record",
        argument_types=(source,),
        return_type=RECORD,
        implementation=lambda context, value: composite.to_record(oid, value, context),
        volatility="s",
        needs_context=True,
    )


_composite_makers: dict[int, Function] = derived_from_types({})


def composite_maker(oid: int) -> Function:
    """The function from an anonymous record, whose fields are known only when it is there, to a composite type."""
    found = _composite_makers.get(oid)
    if found is None:
        found = _composite_makers[oid] = Function(
            oid=0,
            name="composite",
            argument_types=(RECORD,),
            return_type=registry.type_by_oid(oid),
            implementation=lambda context, value: composite.from_record(oid, value, context),
            volatility="s",
            needs_context=True,
        )
    return found


def to_record(b: Binder, expr: Expr) -> Expr:
    """A composite value as an anonymous record."""
    if isinstance(expr, RowExpr):
        fields = composite_fields(b, expr.type)
        return RowExpr(RECORD, tuple(field_of(expr, each) for each in fields), tuple(each.name for each in fields))
    return Call(RECORD, _record_maker(domains.base_oid(expr.type.oid)), (expr,))
