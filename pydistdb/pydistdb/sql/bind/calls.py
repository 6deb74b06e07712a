"""Function calls: finding the function, converting arguments, and telling functions from aggregates and windows.

Arguments may be positional, named (``f(days => 3)``), VARIADIC or left out where there are defaults.  A name with one
argument that is no function but a type is a cast: ``int8('5')``.

Aggregates and window functions are bound in ``aggregates.py``.

Source: PostgreSQL 15 manual, 4.2.6 and 4.3; parse_func.c.
"""

from __future__ import annotations

from collections.abc import Sequence

import pydistdb.sql.bind.aggregates as aggregates
import pydistdb.sql.bind.routines as routines
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import UNKNOWN_OID, coerce, resolve_unknown, type_named
from pydistdb.sql.bind.composites import composite_fields, field_of, is_composite
from pydistdb.sql.bind.dispatch import BINDERS, bind
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.operators import find_function, find_named
from pydistdb.sql.bind.overloads import Ambiguous, Resolved
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import NO_ROWS_OF_NOTHING, Scope, SetInValues
from pydistdb.sql.errors import (
    AmbiguousFunction,
    DatabaseError,
    DatatypeMismatch,
    FeatureNotSupported,
    InvalidSchemaName,
    InvalidSyntax,
    ProgramLimitExceeded,
    UndefinedFunction,
    WrongObjectType,
)
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.functions.spread import spread
from pydistdb.sql.routines import RoutineFunction
from pydistdb.sql.tree import (
    ArrayLiteral,
    Call,
    Const,
    Expr,
    OutputColumn,
    Param,
    Project,
    RowExpr,
    SetCall,
    Subquery,
)
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import AggregateFunction, Function
from pydistdb.sql.types.registry import ANY, RECORD, VOID

MOST_ARGUMENTS = 100

_ASKED_ONCE = frozenset({"pg_current_snapshot", "txid_current_snapshot"})
"""Functions of the statement that have to wait: conditions, which cannot, take them from a subquery."""
_CONDITIONS = frozenset({"WHERE", "HAVING", "JOIN conditions"})
SET_CLAUSES = frozenset({"SELECT", "ORDER BY", "GROUP BY", "DISTINCT ON", "FROM"})
"""Where a set-returning function may stand (RETURNING refuses later)."""


def function_name(node: Node) -> tuple[str, str | None]:
    """The name and schema of a FuncCall."""
    parts = [part["String"]["sval"] for part in node["funcname"]]
    if len(parts) > 3:
        raise InvalidSyntax(f"improper qualified name (too many dotted names): {'.'.join(parts)}")
    return parts[-1], parts[-2] if len(parts) > 1 else None


def bind_call(b: Binder, scope: Scope, node: Node) -> Expr:
    """A FuncCall node."""
    name, schema = function_name(node)
    location = node["location"]
    known: list[Function | AggregateFunction] = [*functions.functions(name, schema), *b.catalog.routines(name, schema)]
    if any(isinstance(function, AggregateFunction) or function.window for function in known) or "over" in node:
        return aggregates.bind_aggregate(b, scope, node, name, schema)
    for flag, words in (
        ("agg_star", f"{name}(*) specified, but {name} is not an aggregate function"),
        ("agg_distinct", f"DISTINCT specified, but {name} is not an aggregate function"),
        ("agg_within_group", f"WITHIN GROUP specified, but {name} is not an aggregate function"),
        ("agg_order", f"ORDER BY specified, but {name} is not an aggregate function"),
        ("agg_filter", f"FILTER specified, but {name} is not an aggregate function"),
    ):
        if node.get(flag):
            if not known:
                bound = [bind(b, scope, argument) for argument in node.get("args", [])]
                raise no_function(b, name, schema, bound, location)
            resolve(b, name, schema, [bind(b, scope, argument) for argument in node.get("args", [])], location)
            raise WrongObjectType(words, position=b.position(location))
    arguments = node.get("args", [])
    if any("NamedArgExpr" in argument for argument in arguments):
        return _named_call(b, scope, node, name, schema)
    expressions = [bind(b, scope, argument) for argument in arguments]
    if any(_is_out_parameter(each) for each in expressions):
        arguments = [a for a, each in zip(arguments, expressions, strict=True) if not _is_out_parameter(each)]
        expressions = [each for each in expressions if not _is_out_parameter(each)]
    if len(expressions) > MOST_ARGUMENTS:
        raise ProgramLimitExceeded(
            f"cannot pass more than {MOST_ARGUMENTS} arguments to a function", position=b.position(location)
        )
    locations = [location_of(argument) for argument in arguments]
    if len(expressions) == 1 and not known and schema is None and is_composite(expressions[0].type):
        fields = composite_fields(b, expressions[0].type)
        for each in fields:  # name(row) may mean row.name
            if each.name == name:
                return field_of(expressions[0], each)
    if len(expressions) == 1 and not any(_takes(function, expressions[0]) for function in known):
        cast = _as_cast(b, name, schema, expressions[0], location, locations[0])
        if cast is not None:
            return cast
    found = resolve(b, name, schema, expressions, location, node.get("func_variadic", False))
    return make_call(b, scope, found, expressions, location, locations, node.get("func_variadic", False))


def _is_out_parameter(argument: Expr) -> bool:
    """A parameter of type void is dropped, as in Postgres: with it JDBC marks what a function gives back."""
    return isinstance(argument, Param) and argument.type.oid == VOID.oid


def _takes(function: Function | AggregateFunction, argument: Expr) -> bool:
    types = function.argument_types
    return len(types) == 1 and types[0].oid == argument.type.oid


def _as_cast(
    b: Binder, name: str, schema: str | None, argument: Expr, location: int, argument_location: int
) -> Expr | None:
    """``type(x)`` as a cast, where no function takes just that: of a literal, or through text, or of equal values."""
    target = b.catalog.type_named(name, schema) if name.replace("_", "").isalnum() else None
    if target is None or target.category == "P":
        return None
    oid = argument.type.oid
    if oid != UNKNOWN_OID and oid != target.oid:
        cast = functions.cast(oid, target.oid)
        if cast is None or (cast.function is not None and cast.function.oid != 0):
            return None
    return coerce(b, argument, target, "e", argument_location)


def _signature(arguments: Sequence[Expr]) -> str:
    return ", ".join(type_named(argument.type.oid) for argument in arguments)


def no_function(
    b: Binder, name: str, schema: str | None, arguments: Sequence[Expr], location: int, signature: str | None = None
) -> DatabaseError:
    if schema is not None and schema != "pg_catalog" and b.catalog.schema_named(schema) is None:
        return InvalidSchemaName(f'schema "{schema}" does not exist', position=b.position(location))
    label = f"{schema}.{name}" if schema else name
    types = signature if signature is not None else _signature(arguments)
    return UndefinedFunction(
        f"function {label}({types}) does not exist",
        hint="No function matches the given name and argument types. You might need to add explicit type casts.",
        position=b.position(location),
    )


def _not_unique(b: Binder, name: str, schema: str | None, signature: str, location: int) -> DatabaseError:
    label = f"{schema}.{name}" if schema else name
    return AmbiguousFunction(
        f"function {label}({signature}) is not unique",
        hint="Could not choose a best candidate function. You might need to add explicit type casts.",
        position=b.position(location),
    )


def resolve(
    b: Binder,
    name: str,
    schema: str | None,
    arguments: Sequence[Expr],
    location: int,
    variadic_array: bool = False,
) -> Resolved:
    """Find the function for these arguments or say that there is none."""
    try:
        own = b.catalog.routines(name, schema)
        found = find_function(name, schema, tuple([argument.type.oid for argument in arguments]), variadic_array, own)
    except Ambiguous:
        raise _not_unique(b, name, schema, _signature(arguments), location) from None
    if found is None:
        raise no_function(b, name, schema, arguments, location)
    return found


def convert_arguments(
    b: Binder,
    found: Resolved,
    arguments: Sequence[Expr],
    locations: Sequence[int],
    variadic_array: bool = False,
) -> tuple[Expr, ...]:
    """Convert the arguments to what the function takes; those of a VARIADIC parameter go into an array."""
    converted = [
        coerce(b, argument, target, "i", location) if target.oid != ANY.oid else argument
        for argument, target, location in zip(arguments, found.arguments, locations, strict=True)
    ]
    converted = [resolve_unknown(b, item) if isinstance(item, RowExpr) else item for item in converted]
    start = found.variadic_from
    if variadic_array and not converted[-1].type.is_array and converted[-1].type.oid != UNKNOWN_OID:
        raise DatatypeMismatch("VARIADIC argument must be an array", position=b.position(locations[-1]))
    if start >= 0 and not variadic_array:
        collected = tuple(converted[start:])
        element = found.arguments[start] if len(found.arguments) > start else collected[0].type
        converted[start:] = [ArrayLiteral(registry.array_of(element), collected)]
    return tuple(converted)


def make_call(
    b: Binder,
    scope: Scope | None,
    found: Resolved,
    arguments: Sequence[Expr],
    location: int,
    locations: Sequence[int] | None = None,
    variadic_array: bool = False,
) -> Expr:
    """Make the Call (or SetCall) of a function that was found."""
    function = found.function
    assert isinstance(function, Function)
    if locations is None:
        locations = [-1] * len(arguments)
    converted = convert_arguments(b, found, arguments, locations, variadic_array)
    b.called[function.oid] = function.name
    if function.volatility == "v":
        b.volatile = True
    if isinstance(function, RoutineFunction):
        return _routine_call(b, scope, function, converted, location)
    result = found.result
    if variadic_array:
        types = tuple(argument.type for argument in converted)
        function = spread(function.oid, types, result) or function
    if function.out_columns and len(function.out_columns) > 1:
        result = RECORD
    if function.returns_set:
        _note_set_call(b, scope, location)
        return SetCall(result, function, converted)
    call = Call(result, function, converted)
    if function.name in _ASKED_ONCE and scope is not None and scope.clause in _CONDITIONS:
        asked = Project((OutputColumn(b.new_id(), function.name, result),), NO_ROWS_OF_NOTHING, (call,))
        return Subquery(result, "scalar", asked)
    return call


def _note_set_call(b: Binder, scope: Scope | None, location: int) -> None:
    from pydistdb.sql.bind.call_parts import CLAUSE_WORDS

    if scope is None or scope.clause not in SET_CLAUSES:
        clause = scope.clause if scope is not None else "this context"
        error = SetInValues if clause == "VALUES" else FeatureNotSupported
        words = CLAUSE_WORDS.get(clause, clause)
        raise error(f"set-returning functions are not allowed in {words}", position=b.position(location))
    scope.set_calls = True
    scope.set_location = location


def _routine_call(
    b: Binder, scope: Scope | None, function: RoutineFunction, arguments: tuple[Expr, ...], location: int
) -> Expr:
    """A call of a function written in SQL."""
    if function.returns_set:
        _note_set_call(b, scope, location)
    try:
        return routines.routine_call(b, scope, function, arguments)
    except DatabaseError as error:
        if error.position is None and error.where is None:
            error.position = b.position(location)
        raise


def call_of_row(b: Binder, name: str, row: Expr, location: int) -> Expr | None:
    """``row.name`` where the row has no such field, as a call of a function; None if there is none."""
    try:
        return call_by_name(b, name, [row], location)
    except (UndefinedFunction, AmbiguousFunction):
        return None


def call_by_name(b: Binder, name: str, arguments: Sequence[Expr], location: int, schema: str | None = None) -> Expr:
    """Call a function that the grammar names for the user."""
    return make_call(b, None, resolve(b, name, schema, arguments, location), arguments, location)


def _named_call(b: Binder, scope: Scope, node: Node, name: str, schema: str | None) -> Expr:
    location = node["location"]
    positional: list[Expr] = []
    named: dict[str, Expr] = {}
    for argument in node["args"]:
        inner = argument.get("NamedArgExpr")
        if inner is None:
            if named:
                raise InvalidSyntax(
                    "positional argument cannot follow named argument", position=b.position(location_of(argument))
                )
            positional.append(bind(b, scope, argument))
        elif inner["name"] in named:
            raise InvalidSyntax(
                f'argument name "{inner["name"]}" used more than once', position=b.position(inner["location"])
            )
        else:
            named[inner["name"]] = bind(b, scope, inner["arg"])
    types = [type_named(argument.type.oid) for argument in positional]
    types += [f"{key} => {type_named(value.type.oid)}" for key, value in named.items()]
    try:
        found = find_named(
            name,
            schema,
            tuple(argument.type.oid for argument in positional),
            {key: value.type.oid for key, value in named.items()},
            b.catalog.routines(name, schema),
        )
    except Ambiguous:
        raise _not_unique(b, name, schema, ", ".join(types), location) from None
    if found is None:
        raise no_function(b, name, schema, [], location, ", ".join(types))
    resolved, sources = found
    function = resolved.function
    assert isinstance(function, Function)
    arguments: list[Expr] = []
    first_default = len(function.argument_types) - function.default_count
    for index, source in enumerate(sources):
        if source is None and isinstance(function, RoutineFunction):
            arguments.append(routines.bound_default(b, function, index))
        elif source is None:
            arguments.append(Const(function.argument_types[index], function.default_values[index - first_default]))
        elif isinstance(source, str):
            arguments.append(named[source])
        else:
            arguments.append(positional[source])
    return make_call(b, scope, resolved, arguments, location)


BINDERS["FuncCall"] = bind_call
