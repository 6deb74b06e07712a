"""Changing jsonb: ||, - and #-, jsonb_set and jsonb_insert, leaving out nulls, pretty print; casts to SQL scalars.

    >>> set_path('{"a": [1]}', PgArray.of(["a", "0"]), "7")
    '{"a": [7]}'

Source: PostgreSQL 15 manual, 9.16.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions.arithmetic import check_int2, check_int4, check_int8
from pydistdb.sql.functions.casts import numeric_to_float4, numeric_to_float8
from pydistdb.sql.functions.define import define, implements
from pydistdb.sql.functions.json_reading import kind_of, path_index
from pydistdb.sql.types import numeric
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.json import dump, elements, load, members, quote

_SPACE = " \t\n\r"


# ------------------------------------------------------------------------------------------------ changes


@implements("jsonb_concat(jsonb,jsonb)")
def concatenate(left: str, right: str) -> str:
    first, second = load(left), load(right)
    if type(first) is dict and type(second) is dict:
        return dump(first | second)
    return dump((first if type(first) is list else [first]) + (second if type(second) is list else [second]))


def _refuse_scalar(document: Any, doing: str) -> None:
    if type(document) not in (dict, list):
        raise DatabaseError.of("22023", f"cannot {doing} scalar")


@implements("jsonb_delete(jsonb,text)")
def delete_key(text: str, name: str) -> str:
    return delete_keys(text, PgArray.of((name,)))


@implements("jsonb_delete(jsonb,_text)")
def delete_keys(text: str, names: PgArray) -> str:
    document = load(text)
    _refuse_scalar(document, "delete from")
    if type(document) is dict:
        return dump({key: value for key, value in document.items() if key not in names.items})
    return dump([item for item in document if not (type(item) is str and item in names.items)])


@implements("jsonb_delete(jsonb,int4)")
def delete_index(text: str, index: int) -> str:
    document = load(text)
    _refuse_scalar(document, "delete from")
    if type(document) is dict:
        raise DatabaseError.of("22023", "cannot delete from object using integer index")
    if -len(document) <= index < len(document):
        del document[index]
    return dump(document)


def _step_index(step: Any, size: int, position: int) -> int:
    index = path_index(step.strip())
    if index is None:
        raise DatabaseError.of("22P02", f'path element at position {position} is not an integer: "{step}"')
    return index + size if index < 0 else index


def _change(document: Any, steps: list[Any], position: int, change: Callable[[Any, Any, bool], None]) -> None:
    """Walk to the last step of a path and let ``change(container, key or index, is_object)`` do its work."""
    step = steps[position]
    if step is None:
        raise DatabaseError.of("22004", f"path element at position {position + 1} is null")
    is_last = position == len(steps) - 1
    if type(document) is dict:
        if is_last:
            change(document, step, True)
        elif step in document:
            _change(document[step], steps, position + 1, change)
    elif type(document) is list:
        index = _step_index(step, len(document), position + 1)
        if is_last:
            change(document, index, False)
        elif 0 <= index < len(document):
            _change(document[index], steps, position + 1, change)


@implements("jsonb_delete_path(jsonb,_text)")
def delete_path(text: str, steps: PgArray) -> str:
    document = load(text)
    _refuse_scalar(document, "delete path in")

    def change(container: Any, where: Any, is_object: bool) -> None:
        if is_object:
            container.pop(where, None)
        elif 0 <= where < len(container):
            del container[where]

    if steps.items and document:  # of nothing, nothing goes, whatever the path says
        _change(document, list(steps.items), 0, change)
    return dump(document)


def _check_path(steps: PgArray) -> None:
    if len(steps.dimensions) > 1:
        raise DatabaseError.of("2202E", "wrong number of array subscripts")


def set_path(text: str, steps: PgArray, new: str, create: bool = True) -> str:
    _check_path(steps)
    document, value = load(text), load(new)
    _refuse_scalar(document, "set path in")

    def change(container: Any, where: Any, is_object: bool) -> None:
        if is_object:
            if create or where in container:
                container[where] = value
        elif 0 <= where < len(container):
            container[where] = value
        elif create:
            container.insert(0 if where < 0 else len(container), value)

    if steps.items:
        _change(document, list(steps.items), 0, change)
    return dump(document)


define("jsonb_set(jsonb,_text,jsonb,bool)", set_path, defaults=(True,))


def set_lax(
    text: str | None,
    steps: PgArray | None,
    new: str | None,
    create: bool | None = True,
    treatment: str | None = "use_json_null",
) -> str | None:
    if text is None or steps is None or create is None:
        return None
    if treatment is None:
        raise DatabaseError.of(
            "22023",
            'null_value_treatment must be "delete_key", "return_target", "use_json_null", or "raise_exception"',
        )
    if new is not None:
        return set_path(text, steps, new, create)
    match treatment:
        case "raise_exception":
            raise DatabaseError.of(
                "22004",
                "JSON value must not be null",
                detail='Exception was raised because null_value_treatment is "raise_exception".',
                hint="To avoid, either change the null_value_treatment argument or ensure that an SQL NULL is not passed.",
            )
        case "use_json_null":
            return set_path(text, steps, "null", create)
        case "delete_key":
            return delete_path(text, steps)
        case "return_target":
            return text
    raise DatabaseError.of(
        "22023", 'null_value_treatment must be "delete_key", "return_target", "use_json_null", or "raise_exception"'
    )


define("jsonb_set_lax(jsonb,_text,jsonb,bool,text)", set_lax, defaults=(True, "use_json_null"))


def insert_path(text: str, steps: PgArray, new: str, after: bool = False) -> str:
    _check_path(steps)
    document, value = load(text), load(new)
    _refuse_scalar(document, "set path in")

    def change(container: Any, where: Any, is_object: bool) -> None:
        if is_object:
            if where in container:
                raise DatabaseError.of(
                    "22023",
                    "cannot replace existing key",
                    hint="Try using the function jsonb_set to replace key value.",
                )
            container[where] = value
        elif 0 <= where < len(container):
            container.insert(where + after, value)
        else:
            container.insert(0 if where < 0 else len(container), value)

    if steps.items:
        _change(document, list(steps.items), 0, change)
    return dump(document)


define("jsonb_insert(jsonb,_text,jsonb,bool)", insert_path, defaults=(False,))


def _without_nulls(document: Any) -> Any:
    if type(document) is dict:
        return {key: _without_nulls(value) for key, value in document.items() if value is not None}
    if type(document) is list:
        return [_without_nulls(item) for item in document]
    return document


define("jsonb_strip_nulls(jsonb)", lambda text: dump(_without_nulls(load(text))))


@implements("json_strip_nulls(json)")
def strip_nulls(text: str) -> str:
    """Drop members that are null, and the spaces with them."""
    match kind_of(text):
        case "object":
            kept = [f"{quote(key)}:{strip_nulls(value)}" for key, value in members(text) if kind_of(value) != "null"]
            return "{" + ",".join(kept) + "}"
        case "array":
            return "[" + ",".join([strip_nulls(value) for value in elements(text)]) + "]"
    return text.strip(_SPACE)


def _pretty(document: Any, indent: int) -> str:
    margin = " " * 4 * (indent + 1)
    end = "\n" + " " * 4 * indent
    if document in ({}, []) and type(document) in (dict, list):
        return ("{" + end + "}") if type(document) is dict else ("[" + end + "]")
    if type(document) is dict:
        keys = sorted(document, key=lambda key: (len(key.encode()), key))
        lines = [f"{margin}{quote(key)}: {_pretty(document[key], indent + 1)}" for key in keys]
        return "{\n" + ",\n".join(lines) + end + "}"
    if type(document) is list:
        lines = [margin + _pretty(item, indent + 1) for item in document]
        return "[\n" + ",\n".join(lines) + end + "]"
    return dump(document)


define("jsonb_pretty(jsonb)", lambda text: _pretty(load(text), 0))

# ------------------------------------------------------------------------------------------------ casts


def _scalar(text: str, type_name: str) -> Any:
    kind = kind_of(text)
    wanted = "boolean" if type_name == "boolean" else "number"
    if kind != wanted:
        shown = "numeric" if kind == "number" else kind
        raise DatabaseError.of("22023", f"cannot cast jsonb {shown} to type {type_name}")
    return load(text)


def _number(text: str, type_name: str) -> Decimal:
    return Decimal(_scalar(text, type_name))


def _whole(check: Callable[[int], int], type_name: str) -> Callable[[str], int]:
    return lambda text: check(int(numeric.rescale(_number(text, type_name), 0)))


define("bool(jsonb)", lambda text: bool(_scalar(text, "boolean")))
define("int2(jsonb)", _whole(check_int2, "smallint"))
define("int4(jsonb)", _whole(check_int4, "integer"))
define("int8(jsonb)", _whole(check_int8, "bigint"))
define("numeric(jsonb)", lambda text: _number(text, "numeric"))
define("float4(jsonb)", lambda text: numeric_to_float4(_number(text, "real")))
define("float8(jsonb)", lambda text: numeric_to_float8(_number(text, "double precision")))
