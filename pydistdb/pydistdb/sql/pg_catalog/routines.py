"""Users' functions in pg_proc, and their definitions as text.

    CREATE OR REPLACE FUNCTION public.add(a integer, b integer DEFAULT 1)
     RETURNS integer
     LANGUAGE sql
     IMMUTABLE STRICT
    AS $function$SELECT a + b$function$

Source: PostgreSQL 15, ruleutils.c (pg_get_functiondef, print_function_arguments).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pydistdb.sql.catalog.descriptors import Argument, Routine
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.functions.strings import quote_literal
from pydistdb.sql.pg_catalog.define import RowDict
from pydistdb.sql.pg_catalog.objects import array, schema_name, vector
from pydistdb.sql.routines import input_arguments
from pydistdb.sql.settings import split_identifiers
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.reg import quote_identifier

SQL_LANGUAGE_OID = 14
_LITERAL = re.compile(r"'(?:[^']|'')*'")
_MODE_WORDS = {"i": "", "o": "OUT ", "b": "INOUT ", "v": "VARIADIC ", "t": ""}
_VOLATILITY = {"i": "IMMUTABLE", "s": "STABLE", "v": ""}
_PARALLEL = {"s": "PARALLEL SAFE", "r": "PARALLEL RESTRICTED", "u": ""}
DEFAULT_COST, DEFAULT_ROWS = 100.0, 1000.0


def routine_rows(view: StateView) -> Iterator[RowDict]:
    for routine in view.state.routines.values():
        yield routine_row(routine)


def routine_row(routine: Routine) -> RowDict:
    """A row of pg_proc."""
    inputs = input_arguments(routine)
    arguments = routine.arguments
    only_inputs = all(argument.mode == "i" for argument in arguments)
    variadic = next((argument.type_oid for argument in arguments if argument.mode == "v"), 0)
    defaults = [argument.default for argument in inputs if argument.default is not None]
    return {
        "oid": routine.oid,
        "proname": routine.name,
        "pronamespace": routine.schema,
        "proowner": routine.owner,
        "prolang": SQL_LANGUAGE_OID,
        "procost": routine.cost,
        "prorows": routine.rows,
        "provariadic": types.type_by_oid(variadic).element_oid if variadic else 0,
        "prosupport": 0,
        "prokind": routine.kind,
        "prosecdef": routine.security_definer,
        "proleakproof": routine.leakproof,
        "proisstrict": routine.strict,
        "proretset": routine.returns_set,
        "provolatile": routine.volatility,
        "proparallel": routine.parallel,
        "pronargs": len(inputs),
        "pronargdefaults": len(defaults),
        "prorettype": routine.return_type,
        "proargtypes": vector([argument.type_oid for argument in inputs]),
        "proallargtypes": None if only_inputs else array([argument.type_oid for argument in arguments]),
        "proargmodes": None if only_inputs else array([argument.mode for argument in arguments]),
        "proargnames": array([a.name for a in arguments]) if any(a.name for a in arguments) else None,
        "proargdefaults": ", ".join(defaults) or None,
        "prosrc": "" if routine.form else routine.body,
        "proconfig": None if routine.search_path is None else array([f"search_path={routine.search_path}"]),
        "prosqlbody": sql_body(routine) if routine.form else None,
    }


# ---------------------------------------------------------------------------------------------------- text


def type_text(oid: int, context: EvalContext | None) -> str:
    from pydistdb.sql.pg_catalog.functions_definitions import format_type

    return str(format_type(context, oid, None))


def _argument(argument: Argument, context: EvalContext, *, in_words: bool, default: bool) -> str:
    mode = _MODE_WORDS[argument.mode]
    if in_words and argument.mode == "i":
        mode = "IN "
    name = quote_identifier(argument.name) + " " if argument.name else ""
    text = f"{mode}{name}{type_text(argument.type_oid, context)}"
    if default and argument.default is not None:
        text += f" DEFAULT {_default_text(argument, context)}"
    return text


def _default_text(argument: Argument, context: EvalContext) -> str:
    """A default; a string literal shows the type that it has been given."""
    text = argument.default or ""
    return f"{text}::{type_text(argument.type_oid, context)}" if _LITERAL.fullmatch(text) else text


def arguments_text(routine: Routine, context: EvalContext, *, identity: bool = False) -> str:
    """What stands in the brackets; ``identity``: as ALTER and DROP want it, without defaults and table columns."""
    shown: Sequence[Argument] = [argument for argument in routine.arguments if argument.mode != "t"]
    in_words = routine.kind == "p"
    return ", ".join(_argument(argument, context, in_words=in_words, default=not identity) for argument in shown)


def result_text(routine: Routine, context: EvalContext) -> str | None:
    """What stands behind RETURNS; None for a procedure."""
    if routine.kind == "p":
        return None
    columns = [argument for argument in routine.arguments if argument.mode == "t"]
    if columns:
        return f"TABLE({', '.join(_argument(c, context, in_words=False, default=False) for c in columns)})"
    text = type_text(routine.return_type, context)
    return f"SETOF {text}" if routine.returns_set else text


def sql_body(routine: Routine) -> str | None:
    """RETURN … or BEGIN ATOMIC … END."""
    match routine.form:
        case "return":
            return f"RETURN {routine.body}"
        case "atomic":
            statements = [line.strip() for line in routine.body.strip().split("\n")]
            return "BEGIN ATOMIC\n " + "\n ".join(statements) + "\nEND"
    return None


def definition(view: StateView, routine: Routine, context: EvalContext) -> str:
    """CREATE OR REPLACE FUNCTION …"""
    word = "PROCEDURE" if routine.kind == "p" else "FUNCTION"
    name = f"{quote_identifier(schema_name(view, routine.schema))}.{quote_identifier(routine.name)}"
    text = f"CREATE OR REPLACE {word} {name}({arguments_text(routine, context)})\n"
    if routine.kind == "f":
        text += f" RETURNS {result_text(routine, context)}\n"
    text += " LANGUAGE sql\n"
    words = _options(routine)
    if words:
        text += f" {' '.join(words)}\n"
    if routine.search_path is not None:
        names = split_identifiers("search_path", routine.search_path)
        text += f" SET search_path TO {', '.join(map(quote_literal, names))}\n"
    body = sql_body(routine)
    if body is not None:
        return text + body + "\n"
    quote = "procedure" if routine.kind == "p" else "function"
    while f"${quote}$" in routine.body:
        quote += "x"
    return f"{text}AS ${quote}${routine.body}${quote}$\n"


def _options(routine: Routine) -> list[str]:
    words = [_VOLATILITY[routine.volatility], _PARALLEL[routine.parallel]]
    words += ["STRICT"] if routine.strict else []
    words += ["SECURITY DEFINER"] if routine.security_definer else []
    words += ["LEAKPROOF"] if routine.leakproof else []
    if routine.cost != DEFAULT_COST:
        words.append(f"COST {routine.cost:g}")
    if routine.returns_set and routine.rows != DEFAULT_ROWS:
        words.append(f"ROWS {routine.rows:g}")
    return [word for word in words if word]
