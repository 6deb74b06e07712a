"""Runs one SQL function call, cast or aggregate without a binder, from a line of text.

A line holds a call with its argument types and the arguments as a JSON list of texts (null for NULL)::

    int4pl(int4,int4) ["1", "2"]
    cast(text,int4) ["x"]                       through pg_cast or text
    input(varchar,7) ["abcd"]                   type input with a modifier
    binary(int4) ["1"]                          the binary format, in hexadecimal; it is read back as well
    sum(int4) [["1"], ["2"], [null]]            an aggregate over rows
    + (int4,int8) ["1", "2"]                    an operator

and ``evaluate`` gives Postgres's text of the result, NULL, rows joined by `` | ``, or ``! SQLSTATE message``.  The same
line can be turned into SQL for a real server (differential.py).
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.types import known
from pydistdb.sql.types.base import AggregateFunction, EvalContext, Function, SqlType
from pydistdb.sql.types.pseudo import Record
from pydistdb.sql.types.registry import array_of, element_of, io, type_by_name

LINE = re.compile(r"(?P<name>\S+?) ?\((?P<types>[^)]*)\) (?P<arguments>\[.*\])")


def context() -> EvalContext:
    result = EvalContext()
    result.timezone = "America/New_York"
    result.settings = {"timezone": "America/New_York", "search_path": "public", "datestyle": "ISO, MDY"}
    return result


def sql_type(name: str) -> SqlType:
    found = type_by_name(name)
    assert found is not None, name
    return found


ARRAYS = (known.ANYARRAY.oid, known.ANYCOMPATIBLEARRAY.oid)


def _accepts(declared: SqlType, actual: SqlType) -> bool:
    if declared.oid in ARRAYS:
        return actual.is_array
    if declared.oid in (known.ANYNONARRAY.oid, known.ANYCOMPATIBLENONARRAY.oid):
        return not actual.is_array
    return declared.oid == actual.oid or declared.oid in known.POLYMORPHIC or declared is known.ANY


def _matches(function: Any, actual: list[SqlType]) -> bool:
    declared = list(function.argument_types)
    if function.variadic and declared[-1] is known.ANY:
        declared = declared[:-1] + [known.ANY] * (len(actual) - len(declared) + 1)
    if getattr(function, "default_count", 0) and len(actual) < len(declared):
        declared = declared[: len(actual)]
    return len(declared) == len(actual) and all(map(_accepts, declared, actual))


def _result_type(function: Any, actual: list[SqlType]) -> SqlType:
    declared = function.return_type
    if declared.oid not in known.POLYMORPHIC:
        return declared  # type: ignore[no-any-return]
    for parameter, argument in zip(function.argument_types, actual, strict=False):
        if parameter.oid in known.POLYMORPHIC:
            is_array = parameter.oid in ARRAYS
            if declared.oid in ARRAYS:
                return argument if is_array else array_of(argument)
            return element_of(argument) if is_array else argument
    raise AssertionError(function.name)


def find(name: str, actual: list[SqlType]) -> Any:
    if not name[0].isalpha() and name[0] != "_":
        if len(actual) == 1:
            operator = functions.operator_for(name, 0, actual[0].oid)
        else:
            operator = functions.operator_for(name, actual[0].oid, actual[1].oid)
        if operator is None:
            candidates: list[Any] = [o.function for o in functions.operators(name)]
        else:
            return operator.function
    else:
        candidates = list(functions.functions(name))
    exact = [f for f in candidates if [t.oid for t in f.argument_types] == [t.oid for t in actual]]
    # An array goes where an array is asked for before it goes where anything does.
    candidates.sort(key=lambda f: -sum(t.oid in ARRAYS for t in f.argument_types))
    found = exact or [f for f in candidates if _matches(f, actual)]
    assert found, f"no function {name}({', '.join(t.name for t in actual)})"
    return found[0]


def _parse(text: str | None, actual: SqlType, session: EvalContext) -> Any:
    return None if text is None else io(actual.oid).parse(text, actual.modifier, session)


def _show(value: Any, result_type: SqlType, session: EvalContext) -> str:
    return "NULL" if value is None else io(result_type.oid).format(value, session)


def evaluate(line: str, session: EvalContext | None = None) -> str:
    session = session or context()
    match = LINE.fullmatch(line)
    assert match is not None, line
    try:
        return _evaluate(match["name"], match["types"], json.loads(match["arguments"]), session)
    except DatabaseError as error:
        detail = f" DETAIL: {error.detail}" if error.detail else ""
        return f"! {error.sqlstate} {error.message}{detail}".replace("\n", "\\n")


def _evaluate(name: str, types: str, arguments: list[Any], session: EvalContext) -> str:
    if name == "input":
        type_name, _, modifier = types.partition(",")
        actual = sql_type(type_name).with_modifier(int(modifier or -1))
        return _show(_parse(arguments[0], actual, session), actual, session).replace("\n", "\\n")
    actual_types = [sql_type(type_name) for type_name in types.split(",") if type_name]
    if name == "binary":
        return _binary(sql_type(types), arguments[0], session)
    if name == "cast":
        source, target = actual_types
        cast = functions.cast(source.oid, target.oid)
        assert cast is not None
        value = _parse(arguments[0], source, session)
        if cast.function is not None:
            value = call(cast.function, [value], session)
        return _show(value, target, session).replace("\n", "\\n")
    function = find(name, actual_types)
    result_type = _result_type(function, actual_types)
    function = functions.specialize(function, actual_types, result_type)
    if isinstance(function, AggregateFunction):
        rows = [[_parse(t, a, session) for t, a in zip(row, actual_types, strict=True)] for row in arguments]
        return _show(aggregate(function, rows, session), result_type, session).replace("\n", "\\n")
    values = [_parse(text, actual, session) for text, actual in zip(arguments, actual_types, strict=True)]
    result = call(function, values, session)
    if not function.returns_set:
        if isinstance(result, tuple) and function.out_columns:
            result = Record(result, [column for _, column in function.out_columns])
        return _show(result, result_type, session).replace("\n", "\\n")
    shown = []
    for item in result if result is not None else ():
        if function.out_columns and len(function.out_columns) > 1:
            item = Record(item, [column for _, column in function.out_columns])
            shown.append(_show(item, known.RECORD, session))
        else:
            shown.append(_show(item, result_type, session))
    return " | ".join(shown).replace("\n", "\\n")


def _binary(actual: SqlType, text: str, session: EvalContext) -> str:
    type_io = io(actual.oid)
    value = _parse(text, actual, session)
    data = type_io.encode(value)
    again = type_io.decode(data)
    assert type_io.format(again, session) == type_io.format(value, session), f"{actual.name}: read back as {again!r}"
    if type_io.to_storage is not None:
        assert type_io.from_storage is not None
        stored = msgspec.msgpack.decode(msgspec.msgpack.encode(type_io.to_storage(value)))
        again = type_io.from_storage(stored)
        assert type_io.format(again, session) == type_io.format(value, session), f"{actual.name}: stored as {stored!r}"
    return data.hex()


def call(function: Function, values: list[Any], session: EvalContext) -> Any:
    if function.strict and None in values:
        return None
    if function.needs_context:
        return function.implementation(session, *values)
    result = function.implementation(*values)
    if function.inline is not None:
        again = eval(function.inline.format(*(f"v[{i}]" for i in range(len(values)))), {"v": values})
        assert again == result or again != again, f"{function.name}: the inline template gives {again!r}"
    return result


def aggregate(function: AggregateFunction, rows: list[list[Any]], session: EvalContext) -> Any:
    """Aggregate row by row, in two halves combined, and by batch; they must agree."""
    if function.strict:
        rows = [row for row in rows if None not in row]

    def run(some: list[list[Any]]) -> Any:
        state = function.initial()
        for row in some:
            state = function.accumulate(state, *row)
        return state

    def finish(state: Any) -> Any:
        return function.finish(state, session) if function.needs_context else function.finish(state)

    result = finish(run(rows))
    if function.combine is not None and not function.ordered_set:
        half = len(rows) // 2
        combined = finish(function.combine(run(rows[:half]), run(rows[half:])))
        assert _close(combined, result), f"{function.name}: combined {combined!r}, not {result!r}"
    if function.batch is not None:
        batched = finish(function.batch([row[0] for row in rows]))
        assert _close(batched, result), f"{function.name}: by batch {batched!r}, not {result!r}"
    return result


def _close(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return left == right or left != left or abs(left - right) <= 1e-9 * max(abs(left), abs(right))
    return bool(left == right or left != left)
