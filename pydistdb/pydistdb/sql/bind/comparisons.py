"""Operators, with their forms for rows, lists and arrays.

``(a, b) < (c, d)`` becomes ``a < c OR (a = c AND b < d)``, which agrees with SQL's definition under NULLs too;
``BETWEEN`` and ``IN`` over rows become plain comparisons as well.  ``x IN (1, 2, 3)`` becomes one ``InList`` with one
equality function if its items have a common type.

Source: PostgreSQL 15 manual, 9.24; parse_expr.c and parse_oper.c.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import UNKNOWN_OID, coerce, coerce_to_boolean, coerce_to_target, common_type, type_named
from pydistdb.sql.bind.dispatch import BINDERS, bind
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.operators import binary_operator, prefix_operator
from pydistdb.sql.bind.overloads import Ambiguous, Resolved
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.errors import (
    AmbiguousFunction,
    DatabaseError,
    DatatypeMismatch,
    FeatureNotSupported,
    InvalidSchemaName,
    InvalidSyntax,
    UndefinedFunction,
    WrongObjectType,
)
from pydistdb.sql.tree import (
    And,
    AnyAll,
    Call,
    Case,
    Const,
    Expr,
    InList,
    IsDistinct,
    IsNull,
    Not,
    Or,
    RowExpr,
    SetCall,
    Subquery,
)
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import Function
from pydistdb.sql.types.registry import BOOL, RECORD, TEXT, UNKNOWN

_COMPARISONS = frozenset({"=", "<>", "<", "<=", ">", ">="})


def operator_name(b: Binder, parts: Sequence[Node], location: int) -> str:
    """The operator's name, from ``OPERATOR(schema.name)`` too."""
    if len(parts) == 1:
        return str(parts[0]["String"]["sval"])
    names = [part["String"]["sval"] for part in parts]
    if b.catalog.schema_named(names[-2]) is None and names[-2] != "pg_catalog":
        raise InvalidSchemaName(f'schema "{names[-2]}" does not exist', position=b.position(location))
    if names[-2] != "pg_catalog":
        raise UndefinedFunction(
            f"operator does not exist: {'.'.join(names)}",
            hint="No operator matches the given name and argument types. You might need to add explicit type casts.",
            position=b.position(location),
        )
    return str(names[-1])


def no_operator(b: Binder, name: str, left: Expr | None, right: Expr, location: int, ambiguous: bool) -> DatabaseError:
    """The error for an operator that cannot be found for these types."""
    types = type_named(right.type.oid)
    label = f"{type_named(left.type.oid)} {name} {types}" if left is not None else f"{name} {types}"
    if ambiguous:
        return AmbiguousFunction(
            f"operator is not unique: {label}",
            hint="Could not choose a best candidate operator. You might need to add explicit type casts.",
            position=b.position(location),
        )
    noun = "types" if left is not None else "type"
    return UndefinedFunction(
        f"operator does not exist: {label}",
        hint=f"No operator matches the given name and argument {noun}. You might need to add "
        f"{'explicit type casts' if left is not None else 'an explicit type cast'}.",
        position=b.position(location),
    )


def find_binary(b: Binder, name: str, left: Expr, right: Expr, location: int) -> Resolved:
    """Find a binary operator or say that there is none."""
    try:
        found = binary_operator(name, left.type.oid, right.type.oid)
    except Ambiguous:
        raise no_operator(b, name, left, right, location, True) from None
    if found is None:
        raise no_operator(b, name, left, right, location, False)
    return found


def apply_operator(
    b: Binder, name: str, left: Expr | None, right: Expr, location: int, sides: tuple[int, int] = (-1, -1)
) -> Expr:
    """Make the call of an operator; ``sides`` are the operands' locations."""
    if left is None:
        try:
            found = prefix_operator(name, right.type.oid)
        except Ambiguous:
            raise no_operator(b, name, None, right, location, True) from None
        if found is None:
            raise no_operator(b, name, None, right, location, False)
        arguments: tuple[Expr, ...] = (coerce(b, right, found.arguments[0], "i", sides[1]),)
    else:
        found = find_binary(b, name, left, right, location)
        arguments = (
            coerce(b, left, found.arguments[0], "i", sides[0]),
            coerce(b, right, found.arguments[1], "i", sides[1]),
        )
    function = found.function
    assert isinstance(function, Function)
    if function.volatility == "v":
        b.volatile = True
    if function.returns_set:
        return SetCall(found.result, function, arguments)
    return Call(found.result, function, arguments)


def compare(b: Binder, name: str, left: Expr, right: Expr, location: int, sides: tuple[int, int] = (-1, -1)) -> Expr:
    """Apply an operator to two expressions that may be rows."""
    if isinstance(left, RowExpr) and isinstance(right, RowExpr):
        return compare_rows(b, name, left.items, right.items, location)
    if (
        isinstance(left, RowExpr)
        and isinstance(right, Subquery)
        and right.kind == "scalar"
        and len(right.query.columns) > 1
    ):
        raise FeatureNotSupported("comparing a row with a subquery is not supported", position=b.position(location))
    return apply_operator(b, name, left, right, location, sides)


def compare_rows(b: Binder, name: str, left: Sequence[Expr], right: Sequence[Expr], location: int) -> Expr:
    """Compare two rows column by column."""
    if len(left) != len(right):
        raise InvalidSyntax("unequal number of entries in row expressions", position=b.position(location))
    if not left:
        raise FeatureNotSupported("cannot compare rows of zero length", position=b.position(location))
    if len(left) == 1:
        return _boolean_comparison(b, name, left[0], right[0], location)
    if name not in _COMPARISONS:
        raise FeatureNotSupported(
            f"could not determine interpretation of row comparison operator {name}",
            hint="Row comparison operators must be associated with btree operator families.",
            position=b.position(location),
        )
    if name in ("=", "<>"):
        tests = tuple(
            _boolean_comparison(b, name, one, other, location) for one, other in zip(left, right, strict=True)
        )
        return And(BOOL, tests) if name == "=" else Or(BOOL, tests)
    strict = name[0]
    result = _boolean_comparison(b, name, left[-1], right[-1], location)
    for one, other in zip(reversed(left[:-1]), reversed(right[:-1]), strict=True):
        less = _boolean_comparison(b, strict, one, other, location)
        equal = _boolean_comparison(b, "=", one, other, location)
        result = Or(BOOL, (less, And(BOOL, (equal, result))))
    return result


def _boolean_comparison(b: Binder, name: str, left: Expr, right: Expr, location: int) -> Expr:
    # A row within a row is a value: NULLs in it are equal, and its literals do not take the other side's types.
    result = apply_operator(b, name, left, right, location)
    if result.type.oid != BOOL.oid:
        raise DatatypeMismatch(
            f"row comparison operator must yield type boolean, not type {type_named(result.type.oid)}",
            position=b.position(location),
        )
    return result


# ------------------------------------------------------------------------------------------------ A_Expr


def _is_null_constant(wrapper: Node | None) -> bool:
    return wrapper is not None and bool(wrapper.get("A_Const", {}).get("isnull"))


def bind_operator(b: Binder, scope: Scope, node: Node) -> Expr:
    """An A_Expr: a plain operator or one of the constructs that are written like one."""
    kind = node["kind"]
    if kind == "AEXPR_OP":
        return _plain(b, scope, node)
    return _KINDS[kind](b, scope, node)


def _plain(b: Binder, scope: Scope, node: Node) -> Expr:
    location = node["location"]
    name = operator_name(b, node["name"], location)
    right_node = node["rexpr"]
    left_node = node.get("lexpr")
    if left_node is None:
        return apply_operator(b, name, None, bind(b, scope, right_node), location, (-1, location_of(right_node)))
    if "RowExpr" in left_node and "SubLink" in right_node:
        link = right_node["SubLink"]
        if link["subLinkType"] == "EXPR_SUBLINK":
            row = {**link, "subLinkType": "ROWCOMPARE_SUBLINK", "testexpr": left_node, "operName": node["name"]}
            return bind(b, scope, {"SubLink": row})
    # Left-deep chains such as 1 + 2 + 3 … are as deep as they are long.
    left = bind(b, scope, left_node)
    right = bind(b, scope, right_node)
    return compare(b, name, left, right, location, (location_of(left_node), location_of(right_node)))


def _any_all(b: Binder, scope: Scope, node: Node) -> Expr:
    location = node["location"]
    name = operator_name(b, node["name"], location)
    left = bind(b, scope, node["lexpr"])
    right = bind(b, scope, node["rexpr"])
    return any_all(b, name, left, right, node["kind"] == "AEXPR_OP_ALL", location, location_of(node["rexpr"]))


def any_all(
    b: Binder, name: str, left: Expr, right: Expr, is_all: bool, location: int, right_location: int = -1
) -> Expr:
    """``left operator ANY|ALL (array)``."""
    if right.type.oid == UNKNOWN_OID:
        item_oid = UNKNOWN_OID
    elif right.type.is_array:
        item_oid = right.type.element_oid
    else:
        raise WrongObjectType("op ANY/ALL (array) requires array on right side", position=b.position(location))
    stand_in = Const(registry.type_by_oid(item_oid), None)
    found = find_binary(b, name, left, stand_in, location)
    if found.result.oid != BOOL.oid:
        raise WrongObjectType("op ANY/ALL (array) requires operator to yield boolean", position=b.position(location))
    array_type = registry.array_of(found.arguments[1])
    function = found.function
    assert isinstance(function, Function)
    return AnyAll(
        BOOL,
        coerce(b, left, found.arguments[0], "i"),
        coerce(b, right, array_type, "i", right_location),
        function,
        is_all,
    )


def _distinct(b: Binder, scope: Scope, node: Node) -> Expr:
    location = node["location"]
    negated = node["kind"] == "AEXPR_NOT_DISTINCT"
    if _is_null_constant(node["rexpr"]):
        return IsNull(BOOL, coerce_unknown(b, bind(b, scope, node["lexpr"])), not negated)
    if _is_null_constant(node["lexpr"]):
        return IsNull(BOOL, coerce_unknown(b, bind(b, scope, node["rexpr"])), not negated)
    left = bind(b, scope, node["lexpr"])
    right = bind(b, scope, node["rexpr"])
    if isinstance(left, RowExpr) and isinstance(right, RowExpr):
        if len(left.items) != len(right.items):
            raise InvalidSyntax("unequal number of entries in row expressions", position=b.position(location))
        tests = tuple(
            _is_distinct(b, one, other, False, location) for one, other in zip(left.items, right.items, strict=True)
        )
        result: Expr = Or(BOOL, tests)
        return Not(BOOL, result) if negated else result
    return _is_distinct(b, left, right, negated, location)


def coerce_unknown(b: Binder, expr: Expr) -> Expr:
    return coerce(b, expr, TEXT, "i") if expr.type.oid == UNKNOWN_OID else expr


def _is_distinct(b: Binder, left: Expr, right: Expr, negated: bool, location: int) -> Expr:
    found = find_binary(b, "=", left, right, location)
    if found.result.oid != BOOL.oid:
        raise DatatypeMismatch("IS DISTINCT FROM requires = operator to yield boolean", position=b.position(location))
    function = found.function
    assert isinstance(function, Function)
    return IsDistinct(
        BOOL, coerce(b, left, found.arguments[0], "i"), coerce(b, right, found.arguments[1], "i"), function, negated
    )


def _null_if(b: Binder, scope: Scope, node: Node) -> Expr:
    """NULLIF(a, b): a, unless it equals b."""
    location = node["location"]
    left = bind(b, scope, node["lexpr"])
    right = bind(b, scope, node["rexpr"])
    found = find_binary(b, "=", left, right, location)
    function = found.function
    assert isinstance(function, Function)
    left = coerce(b, left, found.arguments[0], "i", location_of(node["lexpr"]))
    right = coerce(b, right, found.arguments[1], "i", location_of(node["rexpr"]))
    return Case(left.type, ((Call(BOOL, function, (left, right)), Const(left.type, None)),), left)


def _in(b: Binder, scope: Scope, node: Node) -> Expr:
    location = node["location"]
    negated = node["name"][0]["String"]["sval"] == "<>"
    left = bind(b, scope, node["lexpr"])
    nodes = node["rexpr"]["List"]["items"]
    items = [bind(b, scope, item) for item in nodes]
    if not isinstance(left, RowExpr) and not any(isinstance(item, RowExpr | SetCall) for item in items):
        common = common_type(b, [left, *items], None)
        if common is not None and common.oid != RECORD.oid:
            found = find_binary(
                b, "=", left, Const(common if left.type.oid != UNKNOWN_OID else UNKNOWN, None), location
            )
            function = found.function
            assert isinstance(function, Function)
            if found.result.oid == BOOL.oid:
                target = found.arguments[1]
                made = [
                    coerce_to_target(b, coerce_to_target(b, item, common, "i", at) or item, target, "i", at)
                    for item, at in zip(items, map(location_of, nodes), strict=True)
                ]
                converted = tuple(item for item in made if item is not None)
                if len(converted) == len(items):
                    left = coerce(b, left, found.arguments[0], "i", location_of(node["lexpr"]))
                    return InList(BOOL, left, converted, function, negated)
    tests = []
    for item, item_node in zip(items, nodes, strict=True):
        if isinstance(left, RowExpr) and not isinstance(item, RowExpr):
            raise UndefinedFunction(
                f"operator does not exist: record = {type_named(item.type.oid)}",
                hint="No operator matches the given name and argument types. "
                "You might need to add explicit type casts.",
                position=b.position(location),
            )
        sides = (location_of(node["lexpr"]), location_of(item_node))
        test = compare(b, "<>" if negated else "=", left, item, location, sides)
        tests.append(coerce_to_boolean(b, test, "IN", location))
    if len(tests) == 1:
        return tests[0]
    return And(BOOL, tuple(tests)) if negated else Or(BOOL, tuple(tests))


def _between(b: Binder, scope: Scope, node: Node) -> Expr:
    location = node["location"]
    kind = node["kind"]
    subject, subject_at = node["lexpr"], location_of(node["lexpr"])
    low, high = node["rexpr"]["List"]["items"]

    def test(name: str, bound: Node) -> Expr:
        # Bound anew each time: the subject may be a parameter or literal that takes its type from the bound.
        return coerce_to_boolean(
            b,
            compare(
                b, name, bind(b, scope, subject), bind(b, scope, bound), location, (subject_at, location_of(bound))
            ),
            "BETWEEN",
            location,
        )

    def within(lower: Node, upper: Node) -> Expr:
        return And(BOOL, (test(">=", lower), test("<=", upper)))

    def without(lower: Node, upper: Node) -> Expr:
        return Or(BOOL, (test("<", lower), test(">", upper)))

    match kind:
        case "AEXPR_BETWEEN":
            return within(low, high)
        case "AEXPR_NOT_BETWEEN":
            return without(low, high)
        case "AEXPR_BETWEEN_SYM":
            return Or(BOOL, (within(low, high), within(high, low)))
    return And(BOOL, (without(low, high), without(high, low)))


_KINDS = {
    "AEXPR_OP_ANY": _any_all,
    "AEXPR_OP_ALL": _any_all,
    "AEXPR_DISTINCT": _distinct,
    "AEXPR_NOT_DISTINCT": _distinct,
    "AEXPR_NULLIF": _null_if,
    "AEXPR_IN": _in,
    "AEXPR_LIKE": _plain,
    "AEXPR_ILIKE": _plain,
    "AEXPR_SIMILAR": _plain,
    "AEXPR_BETWEEN": _between,
    "AEXPR_NOT_BETWEEN": _between,
    "AEXPR_BETWEEN_SYM": _between,
    "AEXPR_NOT_BETWEEN_SYM": _between,
}
BINDERS["A_Expr"] = bind_operator
