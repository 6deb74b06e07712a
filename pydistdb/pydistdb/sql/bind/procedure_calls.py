"""CALL: which procedure is meant, and its arguments as expressions.

For CALL every argument counts, OUT ones too (their values are not evaluated); elsewhere only input arguments do.

Source: PostgreSQL 15 manual, CALL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydistdb.sql.bind.binder import Binder, Parameters
from pydistdb.sql.bind.calls import convert_arguments
from pydistdb.sql.bind.coerce import type_named
from pydistdb.sql.bind.operators import find_function
from pydistdb.sql.bind.overloads import Ambiguous, Resolved, for_types
from pydistdb.sql.bind.parse import ParsedStatement
from pydistdb.sql.bind.rewrite import walk
from pydistdb.sql.bind.routines import bound_default
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.bind.stored import bind_text
from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.errors import (
    AmbiguousFunction,
    FeatureNotSupported,
    InvalidSyntax,
    UndefinedFunction,
    WrongObjectType,
)
from pydistdb.sql.routines import RoutineFunction
from pydistdb.sql.tree import Expr, Subquery
from pydistdb.sql.type_statements import Call
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext, Function


@dataclass(frozen=True, slots=True)
class BoundCall:
    """``arguments``: the input arguments' values."""

    function: RoutineFunction
    arguments: tuple[Expr, ...]


def bind_call_statement(statement: Call, catalog: CatalogView, context: EvalContext) -> BoundCall:
    """Bind CALL; raises UndefinedFunction, WrongObjectType (42809) for a function."""
    b = Binder(ParsedStatement("", 0, "CALL", "", {}, ""), catalog, context, Parameters(()))
    expressions = [bind_text(b, Scope(None, "CALL"), text) for _, text in statement.arguments]
    for expression in expressions:
        if any(isinstance(part, Subquery) for part in walk(expression)):
            raise FeatureNotSupported("cannot use subquery in CALL argument")
    known = catalog.routines(statement.name.name, statement.name.schema)
    procedures = {f.oid: f for f in known if f.routine.kind == "p"}
    for function in procedures.values():
        named = _by_position(statement, expressions, function)
        if named is None:
            continue
        found = _matches(statement, function, named)
        if found is not None:
            return _with_arguments(b, function, found, named, statement.variadic)
    raise _no_procedure(statement, expressions, known)


def _all_types(function: RoutineFunction) -> tuple[Function, list[int]]:
    """The procedure as a function of all its arguments, and the positions of the input ones."""
    arguments = function.routine.arguments
    types = tuple(registry.type_by_oid(argument.type_oid) for argument in arguments)
    inputs = [index for index, argument in enumerate(arguments) if argument.mode in "ibv"]
    whole = Function(
        0,
        function.name,
        types,
        function.return_type,
        function.implementation,
        variadic=function.variadic,
        default_count=function.default_count,
    )
    return whole, inputs


def _by_position(statement: Call, expressions: Sequence[Expr], function: RoutineFunction) -> list[Expr | None] | None:
    """The arguments in the procedure's order, None for those left out in the middle; None if names do not fit."""
    names = [argument.name for argument in function.routine.arguments]
    result: list[Expr | None] = []
    for (name, _), expression in zip(statement.arguments, expressions, strict=True):
        if not name:
            result.append(expression)
            continue
        if name not in names:
            return None
        index = names.index(name)
        result += [None] * (index + 1 - len(result))
        if result[index] is not None:
            raise InvalidSyntax(f'argument name "{name}" used more than once')
        result[index] = expression
    return result


def _matches(statement: Call, function: RoutineFunction, arguments: Sequence[Expr | None]) -> Resolved | None:
    whole, _ = _all_types(function)
    types = [argument.type_oid for argument in function.routine.arguments]
    if len(arguments) > len(types) and not function.variadic:
        return None
    for index, argument in enumerate(arguments):
        if argument is None and function.routine.arguments[index].default is None:
            return None
    oids = tuple(types[i] if argument is None else argument.type.oid for i, argument in enumerate(arguments))
    try:
        return find_function("", "", oids, statement.variadic, (whole,))
    except Ambiguous:
        raise AmbiguousFunction(
            f"procedure {statement.name.name}({', '.join(map(type_named, oids))}) is not unique",
            hint="Could not choose a best candidate procedure. You might need to add explicit type casts.",
            position=statement.position,
        ) from None


def _with_arguments(
    b: Binder, function: RoutineFunction, found: Resolved, arguments: Sequence[Expr | None], variadic: bool
) -> BoundCall:
    _, inputs = _all_types(function)
    function = for_types(function, _input_oids(function, found, inputs))
    given: list[Expr] = []
    for index, argument in enumerate(arguments):
        if argument is None:
            argument = bound_default(b, function, inputs.index(index))
        given.append(argument)
    converted = convert_arguments(b, found, given, [-1] * len(given), variadic)
    values = []
    for position, index in enumerate(inputs):
        values.append(converted[index] if index < len(converted) else bound_default(b, function, position))
    return BoundCall(function, tuple(values))


def _input_oids(function: RoutineFunction, found: Resolved, inputs: Sequence[int]) -> list[int]:
    """The types of all input arguments, in a call of some of them."""
    oids = [found.arguments[index].oid for index in inputs if index < len(found.arguments)]
    if found.variadic_from >= 0:
        oids[found.variadic_from :] = [registry.array_of(found.arguments[found.variadic_from]).oid]
    missing = len(inputs) - len(oids)
    return [*oids, *(function.default_oids[-missing:] if missing else ())]


def _no_procedure(statement: Call, expressions: Sequence[Expr], known: Sequence[RoutineFunction]) -> Exception:
    name = statement.name.name if statement.name.schema is None else f"{statement.name.schema}.{statement.name.name}"
    label = f"{name}({', '.join(type_named(each.type.oid) for each in expressions)})"
    oids = tuple(each.type.oid for each in expressions)
    functions = [function for function in known if function.routine.kind == "f"]
    if find_function(statement.name.name, statement.name.schema, oids, statement.variadic, functions) is not None:
        return WrongObjectType(
            f"{label} is not a procedure", hint="To call a function, use SELECT.", position=statement.position
        )
    return UndefinedFunction(
        f"procedure {label} does not exist",
        hint="No procedure matches the given name and argument types. You might need to add explicit type casts.",
        position=statement.position,
    )
