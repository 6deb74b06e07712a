"""Assigning to a part of a column: ``SET a[1] = 5``, ``SET c.x = 1``, ``SET j['a']['b'] = '2'``.

Such an assignment computes the whole new value from the old one; several on one column go on from each other's result::

    SET c.x = 1, c.y = 2      c := set_field(set_field(c, x, 1), y, 2)
    SET c.tags[2] = 'new'     c := set_field(c, tags, set_item(c.tags, 2, 'new'))

Source: PostgreSQL 15, parse_target.c (transformAssignmentIndirection).
"""

from __future__ import annotations

from typing import Any

from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import UNKNOWN_OID, coerce, coerce_to_target, type_named
from pydistdb.sql.bind.composites import composite_fields, field_of, is_composite
from pydistdb.sql.bind.dispatch import bind
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.errors import DatatypeMismatch, FeatureNotSupported, UndefinedColumn
from pydistdb.sql.functions import stores
from pydistdb.sql.tree import ArrayLiteral, Call, Const, Expr, Subscript
from pydistdb.sql.types import domains, registry
from pydistdb.sql.types.base import Function, SqlType
from pydistdb.sql.types.registry import INT4, JSONB, TEXT


def _function(name: str, body: Any, result: SqlType, argument_types: tuple[SqlType, ...]) -> Function:
    return Function(0, name, argument_types, result, body, strict=False)


def _call(name: str, body: Any, result: SqlType, arguments: tuple[Expr, ...]) -> Expr:
    return Call(result, _function(name, body, result, tuple(each.type for each in arguments)), arguments)


def store(b: Binder, scope: Scope, column: str, base: Expr, steps: list[Node], value: Node, location: int) -> Expr:
    """The value of ``base`` with the part that ``steps`` name replaced."""
    whole = base.type
    if domains.is_domain(whole.oid):
        is_part_stored = isinstance(base, Call) and base.function is domains.coercion(whole.oid)
        if is_part_stored:  # the domain is asked once, when all parts are there
            assert isinstance(base, Call)
            inner = base.arguments[0]
        else:
            inner = coerce(b, base, domains.base_type(whole.oid), "i")
        return coerce(b, store(b, scope, column, inner, steps, value, location), whole, "a")
    if "String" in steps[0]:
        return _store_field(b, scope, column, base, steps, value, location)
    last = 0
    while last < len(steps) and "A_Indices" in steps[last]:
        last += 1
    indices = [step["A_Indices"] for step in steps[:last]]
    rest = steps[last:]
    if whole.oid == JSONB.oid:
        path = jsonb_path(b, scope, indices, location)
        item = _value(b, scope, column, "subscripted assignment to", Const(JSONB, None), rest, value, location)
        return _call("jsonb_assign", stores.jsonb_assign, whole, (base, item, *path))
    if not whole.is_array:
        raise DatatypeMismatch(
            f"cannot subscript type {type_named(whole.oid)} because it does not support subscripting",
            position=b.position(location),
        )
    return _store_items(b, scope, column, base, indices, rest, value, location)


def _store_field(
    b: Binder, scope: Scope, column: str, base: Expr, steps: list[Node], value: Node, location: int
) -> Expr:
    whole, name = base.type, steps[0]["String"]["sval"]
    if not is_composite(whole):
        raise DatatypeMismatch(
            f'cannot assign to field "{name}" of column "{column}" because its type {type_named(whole.oid)} '
            "is not a composite type",
            position=b.position(location),
        )
    fields = composite_fields(b, whole)
    found = next((each for each in fields if each.name == name), None)
    if found is None:
        raise UndefinedColumn(
            f'cannot assign to field "{name}" of column "{column}" because there is no such column in data type '
            f"{type_named(whole.oid)}",
            position=b.position(location),
        )
    item = _value(b, scope, name, "subfield", field_of(base, found), steps[1:], value, location)
    width = 1 + max(each.position for each in fields)
    return _call("set_field", stores.field_setter(found.position, width), whole, (base, item))


def _store_items(
    b: Binder,
    scope: Scope,
    column: str,
    base: Expr,
    indices: list[Node],
    rest: list[Node],
    value: Node,
    location: int,
) -> Expr:
    whole = base.type
    if any(index.get("is_slice") for index in indices):
        bounds: list[Expr] = []
        given: list[tuple[bool, bool]] = []
        for index in indices:
            low = index.get("lidx") if index.get("is_slice") else {"A_Const": {"ival": {"ival": 1}}}
            high = index.get("uidx")
            given.append((low is not None, high is not None))
            bounds += [_subscript(b, scope, low), _subscript(b, scope, high)]
        item = _value(b, scope, column, "subscripted assignment to", Const(whole, None), rest, value, location)
        return _call("set_slice", stores.slice_setter(tuple(given)), whole, (base, item, *bounds))
    subscripts = tuple(_subscript(b, scope, index.get("uidx")) for index in indices)
    element = registry.element_of(whole)
    before = Subscript(element, base, subscripts)
    item = _value(b, scope, column, "subscripted assignment to", before, rest, value, location)
    return _call("set_item", stores.set_item, whole, (base, item, *subscripts))


def _subscript(b: Binder, scope: Scope, node: Node | None) -> Expr:
    if node is None:
        return Const(INT4, None)
    expr = bind(b, scope, node)
    result = coerce_to_target(b, expr, INT4, "a", location_of(node))
    if result is None:
        raise DatatypeMismatch("array subscript must have type integer", position=b.position(location_of(node)))
    return result


def _value(
    b: Binder, scope: Scope, name: str, what: str, before: Expr, rest: list[Node], value: Node, location: int
) -> Expr:
    """What goes into the part: itself a part replaced, or the value assigned, as the part's type."""
    if rest:
        return store(b, scope, name, before, rest, value, location)
    target = before.type
    if "SetToDefault" in value:
        part = "an array element" if what.startswith("sub" + "scripted") else "a subfield"
        raise FeatureNotSupported(f"cannot set {part} to DEFAULT", position=b.position(location))
    expr = bind(b, scope, value)
    at = location_of(value)
    if expr.type.oid == UNKNOWN_OID:
        return coerce(b, expr, target, "a", at)
    result = coerce_to_target(b, expr, target, "a", at)
    if result is None:
        verb = "requires" if what.startswith("sub" + "scripted") else "is of"
        raise DatatypeMismatch(
            f'{what} "{name}" {verb} type {type_named(target.oid)} but expression is of type '
            f"{type_named(expr.type.oid)}",
            hint="You will need to rewrite or cast the expression.",
            position=b.position(location),
        )
    return result


def jsonb_path(b: Binder, scope: Scope, indices: list[Node], location: int) -> tuple[Expr, ...]:
    """Subscripts of a jsonb value as texts."""
    path: list[Expr] = []
    for index in indices:
        at = location_of(index["uidx"]) if "uidx" in index else location
        if index.get("is_slice"):
            raise DatatypeMismatch("jsonb subscript does not support slices", position=b.position(at))
        expr = bind(b, scope, index["uidx"])
        if expr.type.oid == UNKNOWN_OID:
            path.append(coerce(b, expr, TEXT, "i", at))
            continue
        as_integer = coerce_to_target(b, expr, INT4, "i", at)
        as_text = coerce_to_target(b, expr, TEXT, "i", at) if as_integer is None else None
        if as_integer is None and as_text is None:
            raise DatatypeMismatch(
                f"subscript type {type_named(expr.type.oid)} is not supported",
                hint="jsonb subscript must be coercible to either integer or text.",
                position=b.position(at),
            )
        path.append(as_text if as_text is not None else coerce(b, as_integer or expr, TEXT, "e", at))
    return tuple(path)


def path_literal(path: tuple[Expr, ...]) -> Expr:
    return ArrayLiteral(registry.array_of(TEXT), path)
