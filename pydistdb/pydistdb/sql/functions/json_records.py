"""json_to_record, json_to_recordset and their jsonb twins: objects to rows of the columns that the query lists.

    SELECT * FROM json_to_recordset('[{"a": 1}, {"b": "x"}]') AS t (a int, b text)

The columns are known only to the call, so the binder makes a function of its own for each (``with_columns``).  A value that
is not there, or null, becomes NULL; others go through their text and the column type's input.

Source: PostgreSQL 15 manual, 9.16; jsonfuncs.c (populate_record).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pydistdb.sql.errors import DatabaseError, FeatureNotSupported
from pydistdb.sql.functions.define import define
from pydistdb.sql.functions.json_reading import as_text, kind_of
from pydistdb.sql.types import registry
from pydistdb.sql.types.arrays import EMPTY, PgArray
from pydistdb.sql.types.base import EvalContext, Function, SqlType
from pydistdb.sql.types.composite import attribute_type
from pydistdb.sql.types.json import canonical, elements, members
from pydistdb.sql.types.user import entry_of

Columns = Sequence[tuple[str, SqlType]]
_JSON_TYPES = ("json", "jsonb")
EXPECTED_ARRAY = "expected JSON array"


def _reader(sql_type: SqlType) -> Callable[[str, EvalContext], Any]:
    """Make the conversion of a json text to a value of the type."""
    if sql_type.name == "jsonb":
        return lambda part, context: canonical(part)
    if sql_type.name == "json":
        return lambda part, context: part.strip()
    if sql_type.is_array:
        return _array_reader(sql_type)
    if sql_type.category == "C":
        return partial(_composite, sql_type.oid)
    parse, modifier = registry.io(sql_type.oid).parse, sql_type.modifier

    def read(part: str, context: EvalContext) -> Any:
        text = as_text(part)
        return None if text is None else parse(text.strip() if kind_of(part) != "string" else text, modifier, context)

    return read


def _composite(oid: int, part: str, context: EvalContext) -> Any:
    """A value of a composite type from an object, or from a string in the type's own format."""
    if kind_of(part) == "string":
        return registry.io(oid).parse(as_text(part) or "", -1, context)
    return _populate(oid, None, part, context)


def _populate(oid: int, base: tuple[Any, ...] | None, part: str, context: EvalContext) -> tuple[Any, ...]:
    """A row of a composite type: fields that the object does not have are those of ``base``."""
    if kind_of(part) != "object":
        raise DatabaseError.of("22023", f"cannot call populate_composite on {_WORDS[kind_of(part)]}")
    definition = entry_of(oid, context).definition
    found = dict(members(part))
    items = list(base or ()) + [None] * (len(definition.attributes) - len(base or ()))
    for each in definition.attributes:
        text = found.get(each.name)
        if text is not None and not each.dropped:
            items[each.number - 1] = None if kind_of(text) == "null" else _reader(attribute_type(each))(text, context)
    return tuple(items)


def _row_type(argument_types: tuple[SqlType, ...], name: str) -> int:
    if argument_types[0].category != "C":
        raise DatabaseError.of("42804", f"first argument of {name} must be a row type")
    return argument_types[0].oid


def _populator(name: str) -> Callable[[tuple[SqlType, ...], SqlType], Any]:
    def make(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Any:
        oid = _row_type(argument_types, name)

        def populate(context: EvalContext, base: Any, text: str | None, ignored: bool | None = None) -> Any:
            return base if text is None else _populate(oid, base, text, context)

        return populate

    return make


def _objects(name: str, text: str) -> Iterator[str]:
    """The objects of a JSON array; anything else is an error of the function ``name``."""
    if kind_of(text) != "array":
        raise DatabaseError.of("22023", f"cannot call {name} on {_WORDS[kind_of(text)]}")
    for item in elements(text):
        if kind_of(item) != "object":
            raise DatabaseError.of("22023", f"argument of {name} must be an array of objects")
        yield item


def _set_populator(name: str) -> Callable[[tuple[SqlType, ...], SqlType], Any]:
    def make(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Any:
        oid = _row_type(argument_types, name)

        def populate(context: EvalContext, base: Any, text: str | None, ignored: bool | None = None) -> Iterator[Any]:
            if text is None:
                return
            for item in _objects(name, text):
                yield _populate(oid, base, item, context)

        return populate

    return make


def _define_populate() -> None:
    define(
        "json_populate_record(anyelement,json,bool)",
        specialize=_populator("json_populate_record"),
        context=True,
        defaults=(False,),
    )
    define(
        "json_populate_recordset(anyelement,json,bool)",
        specialize=_set_populator("json_populate_recordset"),
        context=True,
        defaults=(False,),
    )
    define("jsonb_populate_record(anyelement,jsonb)", specialize=_populator("jsonb_populate_record"), context=True)
    define(
        "jsonb_populate_recordset(anyelement,jsonb)",
        specialize=_set_populator("jsonb_populate_recordset"),
        context=True,
    )


def _array_reader(sql_type: SqlType) -> Callable[[str, EvalContext], Any]:
    item = registry.element_of(sql_type).with_modifier(sql_type.modifier)
    read_item = _reader(item)
    parse = registry.io(sql_type.oid).parse

    def read(part: str, context: EvalContext) -> Any:
        kind = kind_of(part)
        if kind == "null":
            return None
        if kind == "string":
            return parse(as_text(part) or "", sql_type.modifier, context)
        if kind != "array":
            raise DatabaseError.of("22P02", EXPECTED_ARRAY)
        sizes: list[int] = []
        flat = list(_leaves(part, 0, sizes, item.name in _JSON_TYPES))
        values = tuple(None if kind_of(leaf) == "null" else read_item(leaf, context) for leaf in flat)
        return PgArray(values, tuple(sizes), (1,) * len(sizes)) if values else EMPTY

    return read


def _leaves(part: str, depth: int, sizes: list[int], is_json: bool) -> Iterator[str]:
    """The items of nested arrays, checking that all of one depth have the same size."""
    parts = list(elements(part))
    if depth == len(sizes):
        sizes.append(len(parts))
    elif sizes[depth] != len(parts):
        raise DatabaseError.of(
            "22P02",
            "malformed JSON array",
            detail="Multidimensional arrays must have sub-arrays with matching dimensions.",
        )
    nested = [kind_of(item) == "array" for item in parts]
    for item, is_nested in zip(parts, nested, strict=True):
        if is_nested and not is_json:
            yield from _leaves(item, depth + 1, sizes, is_json)
        elif depth + 1 < len(sizes):
            raise DatabaseError.of("22P02", EXPECTED_ARRAY)
        else:
            yield item


def _object_reader(columns: Columns) -> Callable[[str, EvalContext], tuple[Any, ...]]:
    readers = [(name, _reader(sql_type)) for name, sql_type in columns]

    def value(name: str, part: str | None, reader: Callable[[str, EvalContext], Any], context: EvalContext) -> Any:
        if part is None or kind_of(part) == "null":
            return None
        try:
            return reader(part, context)
        except DatabaseError as error:
            if error.message == EXPECTED_ARRAY and error.hint is None:
                error.hint = f'See the value of key "{name}".'
            raise

    def read(text: str, context: EvalContext) -> tuple[Any, ...]:
        parts = dict(members(text))
        return tuple([value(name, parts.get(name), reader, context) for name, reader in readers])

    return read


def with_columns(function: Function, columns: Columns) -> Function:
    """The function as called with a column definition list."""
    name = function.name
    read = _object_reader(columns)
    single = len(columns) == 1

    def one(context: EvalContext, text: str) -> Any:
        if kind_of(text) != "object":
            raise DatabaseError.of("22023", f"cannot call populate_composite on {_WORDS[kind_of(text)]}")
        row = read(text, context)
        return row[0] if single else row

    def many(context: EvalContext, text: str | None) -> Iterator[Any]:
        if text is None:
            return
        for item in _objects(name, text):
            row = read(item, context)
            yield row[0] if single else row

    body = many if function.returns_set else one
    return replace(function, implementation=body, out_columns=tuple(columns), needs_context=True)


_WORDS = {
    "array": "an array",
    "object": "an object",
    "string": "a scalar",
    "number": "a scalar",
    "boolean": "a scalar",
    "null": "a scalar",
}


def _without_columns(name: str, *arguments: Any) -> Any:
    raise FeatureNotSupported(
        f"could not determine row type for result of {name}",
        hint="Provide a non-null record argument, or call the function in the FROM clause using a column definition list.",
    )


_define_populate()

TAKES_COLUMNS = frozenset(
    define(f"{name}({argument})", partial(_without_columns, name)).oid
    for argument in _JSON_TYPES
    for name in (f"{argument}_to_record", f"{argument}_to_recordset")
)
