"""Taking JSON apart and changing it: -> ->> #> #>>, @> ?, json_each, jsonb_set and their kin.

json functions give parts of the text as it stands (spaces and all); jsonb functions work on the loaded document and give
canonical text.

    >>> field('{"a": [1, 2]}', "a"), contains('{"a": 1, "b": 2}', '{"b": 2}')
    ('[1, 2]', True)

Source: PostgreSQL 15 manual, 8.14.3 and 9.16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions.arithmetic import check_int2, check_int4, check_int8
from pydistdb.sql.functions.casts import numeric_to_float4, numeric_to_float8
from pydistdb.sql.functions.define import define, implements
from pydistdb.sql.types import numeric
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.json import dump, elements, load, load_strictly, members, quote

_SPACE = " \t\n\r"

# ------------------------------------------------------------------------------------------------ parts as text


def kind_of(text: str) -> str:
    match text.lstrip(_SPACE)[:1]:
        case "{":
            return "object"
        case "[":
            return "array"
        case '"':
            return "string"
        case "t" | "f":
            return "boolean"
        case "n":
            return "null"
    return "number"


def as_text(part: str | None) -> str | None:
    """Turn a json part into text: strings lose their quotes, null becomes NULL."""
    if part is None:
        return None
    match kind_of(part):
        case "string":
            return str(load_strictly(part))
        case "null":
            return None
    return part


def field(text: str, name: str) -> str | None:
    if kind_of(text) != "object":
        return None
    found = None
    for key, value in members(text):
        if key == name:
            found = value
    return found


def element(text: str, index: int) -> str | None:
    if kind_of(text) != "array":
        return None
    if index < 0:
        items = list(elements(text))
        return items[index] if -index <= len(items) else None
    for position, value in enumerate(elements(text)):
        if position == index:
            return value
    return None


def _path_index(step: str) -> int | None:
    digits = step[1:] if step[:1] in "+-" else step
    return int(step) if digits.isdigit() and digits.isascii() and len(digits) < 11 else None


def path(text: str, steps: PgArray) -> str | None:
    part: str | None = text.strip(_SPACE)
    for step in steps.items:
        if part is None or step is None:
            return None
        match kind_of(part):
            case "object":
                part = field(part, step)
            case "array":
                index = _path_index(step.strip())
                part = None if index is None else element(part, index)
            case _:
                return None
    return part


# jsonb: the same through the document, so that results are canonical and fast to find


def _jsonb_field(text: str, name: str) -> str | None:
    document = load(text)
    return dump(document[name]) if type(document) is dict and name in document else None


def _jsonb_element(text: str, index: int) -> str | None:
    document = load(text)
    return dump(document[index]) if type(document) is list and -len(document) <= index < len(document) else None


def _jsonb_path(text: str, steps: PgArray) -> str | None:
    document = load(text)
    for step in steps.items:
        if type(document) is dict and step in document:
            document = document[step]
        elif type(document) is list and step is not None:
            index = _path_index(step.strip())
            if index is None or not -len(document) <= index < len(document):
                return None
            document = document[index]
        else:
            return None
    return dump(document)


def _define_parts() -> None:
    for prefix, by_name, by_index, by_path in (
        ("json", field, element, path),
        ("jsonb", _jsonb_field, _jsonb_element, _jsonb_path),
    ):
        define(f"{prefix}_object_field({prefix},text)", by_name)
        define(f"{prefix}_array_element({prefix},int4)", by_index)
        define(f"{prefix}_extract_path({prefix},_text)", by_path)
        define(f"{prefix}_object_field_text({prefix},text)", _texted(by_name))
        define(f"{prefix}_array_element_text({prefix},int4)", _texted(by_index))
        define(f"{prefix}_extract_path_text({prefix},_text)", _texted(by_path))


def _texted(find: Callable[[str, Any], str | None]) -> Callable[[str, Any], str | None]:
    return lambda text, where: as_text(find(text, where))


# ------------------------------------------------------------------------------------------------ sets


def _each(text: str, function: str) -> Iterator[tuple[str, str]]:
    if kind_of(text) != "object":
        if function.startswith("jsonb"):
            raise DatabaseError.of("22023", f"cannot call {function} on a non-object")
        kind = "an array" if kind_of(text) == "array" else "a scalar"
        raise DatabaseError.of(
            "22023", f"cannot deconstruct {kind} as an object" if kind == "an array" else f"cannot deconstruct {kind}"
        )
    return members(text)


def _keys(text: str, function: str) -> Iterator[str]:
    if kind_of(text) != "object":
        kind = "an array" if kind_of(text) == "array" else "a scalar"
        raise DatabaseError.of("22023", f"cannot call {function} on {kind}")
    for key, _ in members(text):
        yield key


def _elements(text: str, function: str) -> Iterator[str]:
    if kind_of(text) != "array":
        if function.startswith("jsonb"):
            kind = "an object" if kind_of(text) == "object" else "a scalar"
            message = f"cannot extract elements from {kind}"
        else:
            kind = "a non-array" if kind_of(text) == "object" else "a scalar"
            message = f"cannot call {function} on {kind}"
        raise DatabaseError.of("22023", message)
    return elements(text)


def _length(text: str) -> int:
    if kind_of(text) != "array":
        kind = "a non-array" if kind_of(text) == "object" else "a scalar"
        raise DatabaseError.of("22023", f"cannot get array length of {kind}")
    return sum(1 for _ in elements(text))


def _define_sets() -> None:
    for prefix in ("json", "jsonb"):
        for suffix in ("", "_text"):
            name = f"{prefix}_each{suffix}"
            if suffix:
                define(
                    f"{name}({prefix})",
                    lambda text, name=name: [(key, as_text(value)) for key, value in _each(text, name)],
                )
            else:
                define(f"{name}({prefix})", lambda text, name=name: list(_each(text, name)))
            name = f"{prefix}_array_elements{suffix}"
            if suffix:
                define(f"{name}({prefix})", lambda text, name=name: [as_text(part) for part in _elements(text, name)])
            else:
                define(f"{name}({prefix})", lambda text, name=name: list(_elements(text, name)))
        name = f"{prefix}_object_keys"
        define(f"{name}({prefix})", lambda text, name=name: list(_keys(text, name)))
        define(f"{prefix}_array_length({prefix})", _length)
        define(f"{prefix}_typeof({prefix})", kind_of)


# ------------------------------------------------------------------------------------------------ containment


def _equal(left: Any, right: Any) -> bool:
    return (isinstance(left, bool) == isinstance(right, bool)) and bool(left == right)


def _contains(left: Any, right: Any) -> bool:
    if type(left) is dict and type(right) is dict:
        return all(key in left and _contains(left[key], value) for key, value in right.items())
    if type(left) is list and type(right) is list:
        return all(any(_contains(mine, value) for mine in left) for value in right)
    if type(left) is dict or type(right) is dict or type(left) is list or type(right) is list:
        return False
    return _equal(left, right)


@implements("jsonb_contains(jsonb,jsonb)")
def contains(left: str, right: str) -> bool:
    mine, other = load(left), load(right)
    if type(mine) is list and type(other) not in (list, dict):
        # An array may contain a bare scalar, at the top only.
        return any(type(item) not in (list, dict) and _equal(item, other) for item in mine)
    return _contains(mine, other)


define("jsonb_contained(jsonb,jsonb)", lambda left, right: contains(right, left))


@implements("jsonb_exists(jsonb,text)")
def exists(text: str, name: str) -> bool:
    document = load(text)
    if type(document) is dict:
        return name in document
    if type(document) is list:
        return any(type(item) is str and item == name for item in document)
    return type(document) is str and bool(document == name)


define("jsonb_exists_any(jsonb,_text)", lambda text, names: any(exists(text, n) for n in names.items if n is not None))
define("jsonb_exists_all(jsonb,_text)", lambda text, names: all(exists(text, n) for n in names.items if n is not None))

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
    index = _path_index(step.strip())
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

    if steps.items:
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

_define_parts()
_define_sets()
