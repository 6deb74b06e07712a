"""Scalar expressions: the parser's nodes to typed expressions.

Here are constants, columns, logic, conditionals, casts, rows and arrays.  Function calls, aggregates and windows are in
``calls.py``, subqueries in ``subqueries.py``, operators with their row and array forms in ``comparisons.py``.

Source: PostgreSQL 15, parse_expr.c for what is checked when and how errors are worded.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from pydistdb.sql.bind import scope as scopes
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.calls import call_by_name
from pydistdb.sql.bind.coerce import (
    UNKNOWN_OID,
    coerce,
    coerce_to_boolean,
    coerce_to_common,
    coerce_to_target,
    common_type,
    resolve_unknown,
    type_named,
)
from pydistdb.sql.bind.comparisons import compare
from pydistdb.sql.bind.dispatch import BINDERS, bind, bind_list
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.operators import ordering
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import Scope, ScopeColumn, Source
from pydistdb.sql.bind.typenames import resolve_type
from pydistdb.sql.errors import (
    CannotCoerce,
    DatabaseError,
    DatatypeMismatch,
    FeatureNotSupported,
    InvalidSyntax,
    UndefinedColumn,
    UndefinedFunction,
    WrongObjectType,
)
from pydistdb.sql.tree import (
    And,
    ArrayLiteral,
    BooleanTest,
    Call,
    Case,
    Coalesce,
    ColumnRef,
    Const,
    Expr,
    FieldAccess,
    IsNull,
    MinMax,
    Not,
    Or,
    RowExpr,
    Subscript,
)
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import Function, SqlType
from pydistdb.sql.types.registry import (
    BOOL,
    DATE,
    INT2VECTOR,
    INT4,
    INT8,
    JSONB,
    NAME,
    NUMERIC,
    OIDVECTOR,
    RECORD,
    TIME,
    TIMESTAMP,
    TIMESTAMPTZ,
    TIMETZ,
    UNKNOWN,
)

INT4_MIN, INT4_MAX = -(2**31), 2**31 - 1
INT8_MIN, INT8_MAX = -(2**63), 2**63 - 1


# ------------------------------------------------------------------------------------------------ constants, parameters


def _constant(b: Binder, scope: Scope, node: Node) -> Expr:
    if "sval" in node:
        return Const(UNKNOWN, node["sval"].get("sval", ""))
    if "ival" in node:
        return Const(INT4, node["ival"].get("ival", 0))
    if "fval" in node:
        return number(node["fval"]["fval"])
    if "boolval" in node:
        return Const(BOOL, node["boolval"].get("boolval", False))
    if "bsval" in node:
        raise FeatureNotSupported("bit string literals are not supported", position=b.position(node["location"]))
    return Const(UNKNOWN, None)


def number(text: str) -> Const:
    """A number that is not a plain int4: int8 if it fits, else numeric."""
    digits = text[1:] if text.startswith("-") else text
    if digits.isdigit():
        if len(digits) < 20:
            value = int(text)
            if INT4_MIN <= value <= INT4_MAX:
                return Const(INT4, value)
            if INT8_MIN <= value <= INT8_MAX:
                return Const(INT8, value)
    elif digits[:1] == "0" and digits[1:2] in "xXoObB" and digits[1:2]:
        value = int(text.replace("_", ""), 0)
        if INT4_MIN <= value <= INT4_MAX:
            return Const(INT4, value)
        return Const(INT8, value) if INT8_MIN <= value <= INT8_MAX else Const(NUMERIC, Decimal(value))
    return Const(NUMERIC, registry.io(NUMERIC.oid).parse(text.replace("_", ""), -1, None))  # type: ignore[arg-type]


def _parameter(b: Binder, scope: Scope, node: Node) -> Expr:
    return b.parameters.reference(node.get("number", 0), b.position(node["location"]))


# ------------------------------------------------------------------------------------------------ columns


def _column(b: Binder, scope: Scope, node: Node) -> Expr:
    fields = node["fields"]
    location = node["location"]
    last = fields[-1]
    if "A_Star" in last:
        if len(fields) == 1:
            raise InvalidSyntax('row expansion via "*" is not supported here', position=b.position(location))
        items = star_columns(b, scope, {"ColumnRef": node})
        return RowExpr(RECORD, tuple(items or ()))
    if len(fields) == 1:
        return _bare_column(b, scope, fields[0]["String"]["sval"], location)
    names = [part["String"]["sval"] for part in fields]
    if len(names) > 4:
        raise InvalidSyntax(
            f"improper qualified name (too many dotted names): {'.'.join(names)}", position=b.position(location)
        )
    if len(names) == 4:
        if names[0] != b.catalog.database.name:
            raise FeatureNotSupported(
                f"cross-database references are not implemented: {'.'.join(names)}", position=b.position(location)
            )
        names = names[1:]
    schema = names[0] if len(names) == 3 else None
    qualifier, name = names[-2:]
    found = scope.find_source(qualifier, schema, b.position(location))
    if found is None:
        raise scopes.missing_from_entry(scope, qualifier, b.position(location))
    source, owner = found
    column = column_of(source, name)
    if column is None:
        raise scopes.undefined_column(scope, name, qualifier, b.position(location))
    return reference(b, column, owner, location)


def _bare_column(b: Binder, scope: Scope, name: str, location: int) -> Expr:
    column = scope.by_name.get(name)
    owner = scope
    if column is None:
        found = scope.find_column(name, b.position(location))
        if found is None:
            # The name of a relation alone stands for its whole row.
            row = scope.find_source(name, None, b.position(location))
            if row is not None:
                return whole_row(b, row[0], row[1], location)
            raise scopes.undefined_column(scope, name, None, b.position(location))
        column, owner = found
    return reference(b, column, owner, location)


def column_of(source: Source, name: str) -> ScopeColumn | None:
    found = None
    for column in source.columns:
        if column.name == name:
            if found is not None:
                raise DatabaseError.of("42702", f'column reference "{name}" is ambiguous')
            found = column
    return found


def reference(b: Binder, column: ScopeColumn, owner: Scope, location: int) -> Expr:
    """Refer to a column, remembering where in the text and (inside an aggregate) of which query level."""
    expr = column.ref()
    if b.references:
        for seen in b.references:
            seen.append(owner)
    if isinstance(expr, ColumnRef):
        b.locations[id(expr)] = (expr, location)
    return expr


def whole_row(b: Binder, source: Source, owner: Scope, location: int) -> Expr:
    return RowExpr(RECORD, tuple(reference(b, column, owner, location) for column in source.columns))


# ------------------------------------------------------------------------------------------------ logic


def _logic(b: Binder, scope: Scope, node: Node) -> Expr:
    kind = node["boolop"]
    word = kind.removesuffix("_EXPR")
    arguments = tuple(
        coerce_to_boolean(b, bind(b, scope, argument), word, location_of(argument)) for argument in node["args"]
    )
    if kind == "AND_EXPR":
        return And(BOOL, arguments)
    if kind == "OR_EXPR":
        return Or(BOOL, arguments)
    return Not(BOOL, arguments[0])


def _null_test(b: Binder, scope: Scope, node: Node) -> Expr:
    argument = bind(b, scope, node["arg"])  # a parameter that is only tested stays without a type: an error
    negated = node["nulltesttype"] == "IS_NOT_NULL"
    if isinstance(argument, RowExpr):
        # A row is null if all its fields are, and not null if none is.
        tests = tuple(IsNull(BOOL, resolve_unknown(b, item), negated) for item in argument.items)
        return And(BOOL, tests) if len(tests) > 1 else tests[0] if tests else Const(BOOL, True)
    return IsNull(BOOL, argument, negated)


_BOOLEAN_TESTS: dict[str, tuple[bool | None, bool, str]] = {
    "IS_TRUE": (True, False, "IS TRUE"),
    "IS_NOT_TRUE": (True, True, "IS NOT TRUE"),
    "IS_FALSE": (False, False, "IS FALSE"),
    "IS_NOT_FALSE": (False, True, "IS NOT FALSE"),
    "IS_UNKNOWN": (None, False, "IS UNKNOWN"),
    "IS_NOT_UNKNOWN": (None, True, "IS NOT UNKNOWN"),
}


def _boolean_test(b: Binder, scope: Scope, node: Node) -> Expr:
    value, negated, words = _BOOLEAN_TESTS[node["booltesttype"]]
    argument = coerce_to_boolean(b, bind(b, scope, node["arg"]), words, location_of(node["arg"]))
    return BooleanTest(BOOL, argument, value, negated)


# ------------------------------------------------------------------------------------------------ conditionals


def _case(b: Binder, scope: Scope, node: Node) -> Expr:
    subject = node.get("arg")
    subject_expr = resolve_unknown(b, bind(b, scope, subject)) if subject is not None else None
    conditions: list[Expr] = []
    results: list[Expr] = []
    locations: list[int] = []
    for wrapper in node["args"]:
        when = wrapper["CaseWhen"]
        if subject_expr is None:
            condition = bind(b, scope, when["expr"])
        else:
            sides = (-1, location_of(when["expr"]))
            condition = compare(b, "=", subject_expr, bind(b, scope, when["expr"]), when["location"], sides)
        conditions.append(coerce_to_boolean(b, condition, "CASE/WHEN", location_of(when["expr"])))
        results.append(bind(b, scope, when["result"]))
        locations.append(location_of(when["result"]))
    if "defresult" in node:
        default = bind(b, scope, node["defresult"])
        default_location = location_of(node["defresult"])
    else:
        default, default_location = Const(UNKNOWN, None), node["location"]
    # The default has its say first: it decides the type where categories agree.
    target = common_type(b, [default, *results], "CASE", [default_location, *locations])
    assert target is not None
    branches = tuple(
        (condition, coerce_to_common(b, result, target, "CASE/WHEN", location))
        for condition, result, location in zip(conditions, results, locations, strict=True)
    )
    return Case(target, branches, coerce_to_common(b, default, target, "CASE/ELSE", default_location))


def _coalesce(b: Binder, scope: Scope, node: Node) -> Expr:
    target, arguments = _unify(b, scope, node["args"], "COALESCE")
    return Coalesce(target, tuple(arguments))


def _unify(b: Binder, scope: Scope, nodes: Sequence[Node], what: str) -> tuple[SqlType, list[Expr]]:
    expressions = bind_list(b, scope, nodes)
    locations = [location_of(node) for node in nodes]
    target = common_type(b, expressions, what, locations)
    assert target is not None
    return target, [
        coerce_to_common(b, expr, target, what, location) for expr, location in zip(expressions, locations, strict=True)
    ]


def _min_max(b: Binder, scope: Scope, node: Node) -> Expr:
    greatest = node.get("op") == "IS_GREATEST"
    target, arguments = _unify(b, scope, node["args"], "GREATEST" if greatest else "LEAST")
    less = ordering(target.oid)
    if less is None or not isinstance(less.function, Function):
        raise UndefinedFunction(
            f"could not identify a comparison function for type {type_named(target.oid)}",
            position=b.position(node["location"]),
        )
    return MinMax(target, tuple(arguments), less.function, greatest)


# ------------------------------------------------------------------------------------------------ casts, collations


def _cast(b: Binder, scope: Scope, node: Node) -> Expr:
    target = resolve_type(node["typeName"], b.position)
    argument = node["arg"]
    if "A_ArrayExpr" in argument and target.is_array:
        expr = bind_array(b, scope, argument["A_ArrayExpr"], registry.type_by_oid(target.oid))
    else:
        expr = bind(b, scope, argument)
    location = node.get("location", -1)
    if location < 0:
        location = location_of(argument) if expr.type.oid == UNKNOWN_OID else node["typeName"].get("location", -1)
    return cast_to(b, expr, target, location, location_of(argument))


def cast_to(b: Binder, expr: Expr, target: SqlType, location: int, argument_location: int = -1) -> Expr:
    """An explicit cast."""
    if expr.type.oid == UNKNOWN_OID:
        return coerce(b, expr, target, "e", argument_location)
    result = coerce_to_target(b, expr, target, "e", location)
    if result is None:
        raise CannotCoerce(
            f"cannot cast type {type_named(expr.type.oid)} to {type_named(target.oid)}", position=b.position(location)
        )
    return result


_COLLATABLE = frozenset({"S", "X"})


def _collate(b: Binder, scope: Scope, node: Node) -> Expr:
    expr = bind(b, scope, node["arg"])
    names = [part["String"]["sval"] for part in node["collname"]]
    item_type = registry.element_of(expr.type) if expr.type.is_array else expr.type
    if item_type.category not in _COLLATABLE:
        raise DatatypeMismatch(
            f"collations are not supported by type {type_named(expr.type.oid)}", position=b.position(node["location"])
        )
    check_collation(b, names, node["location"])
    return expr


def check_collation(b: Binder, names: Sequence[str], location: int) -> None:
    """Text orders bytewise whatever it is called: accept the names that mean just that."""
    if names[-1] in ("default", "C", "POSIX", "ucs_basic") and (len(names) == 1 or names[0] == "pg_catalog"):
        return
    if names[-1] in ("en_US", "en_US.utf8", "en-x-icu", "und-x-icu", "en-US-x-icu"):
        raise FeatureNotSupported(f'collation "{names[-1]}" is not supported', position=b.position(location))
    raise DatabaseError.of(
        "42704", f'collation "{".".join(names)}" for encoding "UTF8" does not exist', position=b.position(location)
    )


# ------------------------------------------------------------------------------------------------ rows and arrays


def _row(b: Binder, scope: Scope, node: Node) -> Expr:
    items: list[Expr] = []
    for argument in node.get("args", []):
        expansion = star_columns(b, scope, argument)
        if expansion is not None:
            items += expansion
        else:
            items.append(resolve_unknown(b, bind(b, scope, argument)))
    return RowExpr(RECORD, tuple(items))


def star_columns(b: Binder, scope: Scope, wrapper: Node) -> list[Expr] | None:
    """The columns of ``t.*`` inside an expression list; None if the node is no such thing."""
    node = wrapper.get("ColumnRef")
    if node is None or "A_Star" not in node["fields"][-1] or len(node["fields"]) < 2:
        return None
    qualifier = node["fields"][-2]["String"]["sval"]
    schema = node["fields"][-3]["String"]["sval"] if len(node["fields"]) > 2 else None
    found = scope.find_source(qualifier, schema, b.position(node["location"]))
    if found is None:
        raise scopes.missing_from_entry(scope, qualifier, b.position(node["location"]))
    return [reference(b, column, found[1], node["location"]) for column in found[0].columns]


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
        item_type = registry.element_of(target)
        made = [
            item if item.type.is_array and nested else cast_to(b, item, item_type, location, location)
            for item, location in zip(items, locations, strict=True)
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


def row_fields(b: Binder, scope: Scope, wrapper: Node, expr: Expr) -> list[tuple[str, SqlType]] | None:
    """Names and types of a row expression's fields, as far as they are known."""
    if "ColumnRef" in wrapper:
        names = [part["String"]["sval"] for part in wrapper["ColumnRef"]["fields"] if "String" in part]
        found = scope.find_source(names[-1], None, None)
        if found is not None and isinstance(expr, RowExpr):
            return [(column.name, column.type) for column in found[0].columns]
    if isinstance(expr, Call) and expr.function.out_columns:
        return list(expr.function.out_columns)
    if isinstance(expr, RowExpr):
        return [(f"f{index}", item.type) for index, item in enumerate(expr.items, 1)]
    return None


def field(b: Binder, scope: Scope, wrapper: Node, expr: Expr, name: str, location: int) -> Expr:
    """``(row).name``."""
    known = row_fields(b, scope, wrapper, expr)
    if known is not None and "ColumnRef" in wrapper and all(field_name != name for field_name, _ in known):
        qualifier = wrapper["ColumnRef"]["fields"][-1]["String"]["sval"]
        raise UndefinedColumn(f"column {qualifier}.{name} does not exist", position=b.position(location))
    if known is None:
        if expr.type.oid != RECORD.oid:
            raise WrongObjectType(
                f"column notation .{name} applied to type {type_named(expr.type.oid)}, which is not a composite type",
                position=b.position(location),
            )
        raise UndefinedColumn(f'could not identify column "{name}" in record data type', position=b.position(location))
    for position, (field_name, field_type) in enumerate(known):
        if field_name == name:
            if isinstance(expr, RowExpr):
                return expr.items[position]
            return FieldAccess(field_type, expr, position)
    raise UndefinedColumn(f'could not identify column "{name}" in record data type', position=b.position(location))


def _subscript(b: Binder, scope: Scope, array: Expr, steps: list[Node], location: int) -> Expr:
    if array.type.oid == JSONB.oid:
        for step in steps:
            index = bind(b, scope, step["uidx"])
            arrow = call_by_name(b, "jsonb_object_field", [array, index], location)
            if index.type.category == "N":
                arrow = call_by_name(b, "jsonb_array_element", [array, index], location)
            array = arrow
        return array
    if not array.type.is_array:
        raise DatatypeMismatch(
            f"cannot subscript type {type_named(array.type.oid)} because it does not support subscripting",
            position=b.position(location),
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


# ------------------------------------------------------------------------------------------------ SQL value functions

_VALUE_FUNCTIONS: dict[str, tuple[str, SqlType]] = {
    "SVFOP_CURRENT_DATE": ("current_date", DATE),
    "SVFOP_CURRENT_TIME": ("current_time", TIMETZ),
    "SVFOP_CURRENT_TIME_N": ("current_time", TIMETZ),
    "SVFOP_CURRENT_TIMESTAMP": ("current_timestamp", TIMESTAMPTZ),
    "SVFOP_CURRENT_TIMESTAMP_N": ("current_timestamp", TIMESTAMPTZ),
    "SVFOP_LOCALTIME": ("localtime", TIME),
    "SVFOP_LOCALTIME_N": ("localtime", TIME),
    "SVFOP_LOCALTIMESTAMP": ("localtimestamp", TIMESTAMP),
    "SVFOP_LOCALTIMESTAMP_N": ("localtimestamp", TIMESTAMP),
    "SVFOP_CURRENT_ROLE": ("current_user", NAME),
    "SVFOP_CURRENT_USER": ("current_user", NAME),
    "SVFOP_USER": ("current_user", NAME),
    "SVFOP_SESSION_USER": ("session_user", NAME),
    "SVFOP_CURRENT_CATALOG": ("current_database", NAME),
    "SVFOP_CURRENT_SCHEMA": ("current_schema", NAME),
}


def _value_function(b: Binder, scope: Scope, node: Node) -> Expr:
    """CURRENT_DATE and its kin: now() in the session's time zone, or a function of the catalog."""
    name, result = _VALUE_FUNCTIONS[node["op"]]
    location = node["location"]
    if result is NAME:
        return call_by_name(b, name, [], location)
    modifier = node.get("typmod", -1)
    moment = call_by_name(b, "now", [], location)
    target = result if modifier < 0 else result.with_modifier(min(modifier, 6))
    return coerce(b, moment, target, "e", location)


def value_function_name(op: str) -> str:
    """The output column's name."""
    words = op.removeprefix("SVFOP_").removesuffix("_N").lower()
    return words


def _default_marker(b: Binder, scope: Scope, node: Node) -> Expr:
    raise InvalidSyntax("DEFAULT is not allowed in this context", position=b.position(node["location"]))


BINDERS.update(
    {
        "A_Const": _constant,
        "ColumnRef": _column,
        "ParamRef": _parameter,
        "BoolExpr": _logic,
        "TypeCast": _cast,
        "NullTest": _null_test,
        "BooleanTest": _boolean_test,
        "CaseExpr": _case,
        "CoalesceExpr": _coalesce,
        "MinMaxExpr": _min_max,
        "RowExpr": _row,
        "A_ArrayExpr": _array,
        "A_Indirection": _indirection,
        "SQLValueFunction": _value_function,
        "CollateClause": _collate,
        "SetToDefault": _default_marker,
    }
)
