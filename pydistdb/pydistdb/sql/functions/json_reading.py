"""Taking JSON apart: -> ->> #> #>>, @> ?, json_each and their kin.

json functions give parts of the text as it stands (spaces and all); jsonb functions work on the loaded document and give
canonical text.

    >>> field('{"a": [1, 2]}', "a"), contains('{"a": 1, "b": 2}', '{"b": 2}')
    ('[1, 2]', True)

Source: PostgreSQL 15 manual, 8.14.3 and 9.16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions.define import define, implements
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.json import dump, elements, load, load_strictly, members

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


def _check_strings(text: str) -> None:
    """Whoever looks into a json text reads all of its strings: an escape that is no character is an error anywhere."""
    if "\\u" in text:
        load_strictly(text)


def field(text: str, name: str) -> str | None:
    _check_strings(text)
    if kind_of(text) != "object":
        return None
    found = None
    for key, value in members(text):
        if key == name:
            found = value
    return found


def element(text: str, index: int) -> str | None:
    _check_strings(text)
    if kind_of(text) != "array":
        return None
    if index < 0:
        items = list(elements(text))
        return items[index] if -index <= len(items) else None
    for position, value in enumerate(elements(text)):
        if position == index:
            return value
    return None


def path_index(step: str) -> int | None:
    digits = step[1:] if step[:1] in "+-" else step
    return int(step) if digits.isdigit() and digits.isascii() and len(digits) < 11 else None


def path(text: str, steps: PgArray) -> str | None:
    _check_strings(text)
    part: str | None = text.strip(_SPACE)
    for step in steps.items:
        if part is None or step is None:
            return None
        match kind_of(part):
            case "object":
                part = field(part, step)
            case "array":
                index = path_index(step.strip())
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
    if type(document) not in (list, dict):
        document = [document]  # Postgres keeps a scalar as an array of one
    return dump(document[index]) if type(document) is list and -len(document) <= index < len(document) else None


def _jsonb_path(text: str, steps: PgArray) -> str | None:
    document = load(text)
    for step in steps.items:
        if type(document) is dict and step in document:
            document = document[step]
        elif type(document) is list and step is not None:
            index = path_index(step.strip())
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

_define_parts()
_define_sets()
