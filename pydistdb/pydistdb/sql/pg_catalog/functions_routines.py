"""What clients ask of functions: pg_get_functiondef, arguments, result and body.

psql and pg_dump build CREATE FUNCTION out of these.  A built-in function's answers come from the functions' registry,
a user's from the catalog (routines.py).

    pg_get_function_arguments('lower(text)'::regprocedure)      text
    pg_get_function_result('count(*)'…)                         bigint

Source: PostgreSQL 15 manual, 9.26 (system information functions).
"""

from __future__ import annotations

from pydistdb.sql.errors import WrongObjectType
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.pg_catalog import routines
from pydistdb.sql.pg_catalog.provide import provides, view_of
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.base import AggregateFunction, EvalContext


@provides("pg_get_function_result(oid)")
def pg_get_function_result(context: EvalContext, oid: int) -> str | None:
    routine = view_of(context).routine_by_oid(oid)
    if routine is not None:
        return routines.result_text(routine, context)
    function = functions.function_by_oid(oid)
    if function is None:
        return None
    name = types.format_type(function.return_type.oid)
    if isinstance(function, AggregateFunction):
        return name
    if function.out_columns and function.returns_set:
        name = "record"
    return f"SETOF {name}" if function.returns_set else name


@provides("pg_get_function_identity_arguments(oid)")
def pg_get_function_identity_arguments(context: EvalContext, oid: int) -> str | None:
    routine = view_of(context).routine_by_oid(oid)
    if routine is not None:
        return routines.arguments_text(routine, context, identity=True)
    text: str | None = pg_get_function_arguments(context, oid)
    return text


@provides("pg_get_function_arguments(oid)")
def pg_get_function_arguments(context: EvalContext, oid: int) -> str | None:
    routine = view_of(context).routine_by_oid(oid)
    if routine is not None:
        return routines.arguments_text(routine, context)
    function = functions.function_by_oid(oid)
    if function is None:
        return None
    words = [types.format_type(sql_type.oid) for sql_type in function.argument_types]
    if function.variadic and words:
        words[-1] = "VARIADIC " + words[-1]
    if not isinstance(function, AggregateFunction):
        words += [f"OUT {name} {types.format_type(each.oid)}" for name, each in function.out_columns]
    return ", ".join(words)


@provides("oidvectortypes(oidvector)")
def oidvectortypes(context: EvalContext, oids: PgArray) -> str:
    """The types' names, as they stand in a function's brackets."""
    return ", ".join(routines.type_text(oid, context) for oid in oids.items)


_VOLATILITY = {"i": "IMMUTABLE", "s": "STABLE", "v": "VOLATILE"}


@provides("pg_get_functiondef(oid)")
def pg_get_functiondef(context: EvalContext, oid: int) -> str | None:
    view = view_of(context)
    routine = view.routine_by_oid(oid)
    if routine is not None:
        return routines.definition(view, routine, context)
    function = functions.function_by_oid(oid)
    if function is None:
        return None
    if isinstance(function, AggregateFunction):
        raise WrongObjectType(f'"{function.name}" is an aggregate function')
    strict = " STRICT" if function.strict else ""
    return (
        f"CREATE OR REPLACE FUNCTION {function.schema}.{function.name}({pg_get_function_arguments(context, oid)})\n"
        f" RETURNS {pg_get_function_result(context, oid)}\n LANGUAGE internal\n"
        f" {_VOLATILITY[function.volatility]} PARALLEL SAFE{strict}\nAS $function${function.name}$function$\n"
    )


@provides("pg_get_function_sqlbody(oid)")
def pg_get_function_sqlbody(context: EvalContext, oid: int) -> str | None:
    routine = view_of(context).routine_by_oid(oid)
    return None if routine is None else routines.sql_body(routine)


@provides("pg_get_function_arg_default(oid,int4)")
def pg_get_function_arg_default(context: EvalContext, oid: int, number: int) -> str | None:
    routine = view_of(context).routine_by_oid(oid)
    if routine is None or not 1 <= number <= len(routine.arguments):
        return None
    return routine.arguments[number - 1].default
