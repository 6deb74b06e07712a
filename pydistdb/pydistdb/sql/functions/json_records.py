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

from pydistdb.sql.errors import DatabaseError, DatatypeMismatch, FeatureNotSupported
from pydistdb.sql.functions.define import FUNCTIONS_BY_NAME, define
from pydistdb.sql.functions.json_reading import as_text, kind_of
from pydistdb.sql.types import registry
from pydistdb.sql.types.arrays import EMPTY, PgArray
from pydistdb.sql.types.base import EvalContext, Function, SqlType
from pydistdb.sql.types.composite import attribute_type
from pydistdb.sql.types.domains import base_oid, base_type, check_value, is_domain
from pydistdb.sql.types.json import canonical, elements, members
from pydistdb.sql.types.known import RECORD
from pydistdb.sql.types.pseudo import Record
from pydistdb.sql.types.user import entry_of

Columns = Sequence[tuple[str, SqlType]]
Reader = Callable[[str | None, Any, EvalContext], Any]
_JSON_TYPES = ("json", "jsonb")
EXPECTED_ARRAY = "expected JSON array"


def _reader(sql_type: SqlType) -> Reader:
    """Make the conversion of a json text to a value of the type; None stands for what is not there, or null.

    ``base`` is the value that a row had so far: the fields of a composite value that an object does not have stay."""
    if is_domain(sql_type.oid):
        return _domain_reader(sql_type.oid)
    read = _value_reader(sql_type)
    return lambda part, base, context: None if part is None else read(part, base, context)


def _domain_reader(oid: int) -> Reader:
    below = _reader(base_type(oid))
    return lambda part, base, context: check_value(oid, below(part, base, context), context)


def _value_reader(sql_type: SqlType) -> Callable[[str, Any, EvalContext], Any]:
    if sql_type.name == "jsonb":
        return lambda part, base, context: canonical(part)
    if sql_type.name == "json":
        return lambda part, base, context: part.strip()
    if sql_type.is_array:
        return _array_reader(sql_type)
    if sql_type.category == "C":
        return partial(_composite, sql_type.oid)
    parse, modifier = registry.io(sql_type.oid).parse, sql_type.modifier

    def read(part: str, base: Any, context: EvalContext) -> Any:
        text = as_text(part)
        return None if text is None else parse(text.strip() if kind_of(part) != "string" else text, modifier, context)

    return read


def _composite(oid: int, part: str, base: Any, context: EvalContext) -> Any:
    """A value of a composite type from an object, or from a string in the type's own format."""
    if kind_of(part) == "string":
        return registry.io(oid).parse(as_text(part) or "", -1, context)
    return _populate(oid, base, part, context)


def _read_field(name: str, part: str | None, base: Any, read: Reader, context: EvalContext) -> Any:
    """The value of an object's field; an array that is none is told of by its place."""
    try:
        return read(None if part is None or kind_of(part) == "null" else part, base, context)
    except DatabaseError as error:
        if error.message == EXPECTED_ARRAY:
            if error.hint is None:
                error.hint = f'See the value of key "{name}".'
            elif " of key " not in error.hint:
                error.hint = f'{error.hint[:-1]} of key "{name}".'
        raise


def _populate(oid: int, base: tuple[Any, ...] | None, part: str, context: EvalContext) -> tuple[Any, ...]:
    """A row of a composite type: fields that the object does not have are those of ``base``."""
    found = _members(part)
    definition = entry_of(oid, context).definition
    items = list(base or ()) + [None] * (len(definition.attributes) - len(base or ()))
    for each in definition.attributes:
        if not each.dropped and (base is None or each.name in found):
            read = _reader(attribute_type(each))
            old = items[each.number - 1]
            items[each.number - 1] = _read_field(each.name, found.get(each.name), old, read, context)
    return tuple(items)


def _populate_record(name: str, base: Record | None, part: str, context: EvalContext) -> Record:
    """A row of the types of ``base``."""
    if base is None:
        raise _undetermined(name)
    found = _members(part)
    items = list(base)
    for index, (field, sql_type) in enumerate(zip(base.names, base.types, strict=True)):
        if field in found:
            items[index] = _read_field(field, found[field], items[index], _reader(sql_type), context)
    return Record(items, base.types, base.names)


def _members(part: str) -> dict[str, str]:
    kind = kind_of(part)
    if kind != "object":
        raise DatabaseError.of("22023", f"cannot call populate_composite on {_WORDS[kind]}")
    return dict(members(part))


def _filler(name: str, row_type: SqlType) -> Callable[[Any, str, EvalContext], Any]:
    """Make the function from a row so far and an object to the row."""
    if row_type.oid == RECORD.oid:
        return partial(_populate_record, name)
    if row_type.category != "C":
        raise DatabaseError.of("42804", f"first argument of {name} must be a row type")
    oid = base_oid(row_type.oid)
    if oid == row_type.oid:
        return partial(_populate, oid)
    return lambda base, part, context: check_value(row_type.oid, _populate(oid, base, part, context), context)


def _undetermined(name: str) -> FeatureNotSupported:
    return FeatureNotSupported(
        f"could not determine row type for result of {name}",
        hint="Provide a non-null record argument, or call the function in the FROM clause using a column definition list.",
    )


def _populator(name: str) -> Callable[[tuple[SqlType, ...], SqlType], Any]:
    def make(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Any:
        fill = _filler(name, argument_types[0])

        def populate(context: EvalContext, base: Any, text: str | None, ignored: bool | None = None) -> Any:
            return base if text is None else fill(base, text, context)

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
        fill = _filler(name, argument_types[0])
        is_record = argument_types[0].oid == RECORD.oid

        def populate(context: EvalContext, base: Any, text: str | None, ignored: bool | None = None) -> Iterator[Any]:
            if text is None:
                return
            if is_record and base is None:
                raise _undetermined(name)
            for item in _objects(name, text):
                yield fill(base, item, context)

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


def _array_reader(sql_type: SqlType) -> Callable[[str, Any, EvalContext], Any]:
    item = registry.element_of(sql_type).with_modifier(sql_type.modifier)
    read_item = _reader(item)
    parse = registry.io(sql_type.oid).parse

    def read(part: str, base: Any, context: EvalContext) -> Any:
        kind = kind_of(part)
        if kind == "string":
            return parse(as_text(part) or "", sql_type.modifier, context)
        if kind != "array":
            raise DatabaseError.of("22P02", EXPECTED_ARRAY)
        sizes: list[int] = []
        flat = list(_leaves(part, (), sizes, item.name in _JSON_TYPES))
        values = tuple(read_item(None if kind_of(leaf) == "null" else leaf, None, context) for leaf in flat)
        return PgArray(values, tuple(sizes), (1,) * len(sizes)) if values else EMPTY

    return read


def _leaves(part: str, path: tuple[int, ...], sizes: list[int], is_json: bool) -> Iterator[str]:
    """The items of nested arrays, checking that all of one depth have the same size."""
    depth = len(path)
    parts = list(elements(part))
    if depth == len(sizes):
        sizes.append(len(parts))
    elif sizes[depth] != len(parts):
        raise DatabaseError.of(
            "22P02",
            "malformed JSON array",
            detail="Multidimensional arrays must have sub-arrays with matching dimensions.",
        )
    for index, item in enumerate(parts):
        if kind_of(item) == "array" and not is_json:
            yield from _leaves(item, (*path, index), sizes, is_json)
        elif depth + 1 < len(sizes):
            place = "".join(f"[{each}]" for each in (*path, index))
            raise DatabaseError.of("22P02", EXPECTED_ARRAY, hint=f"See the array element {place}.")
        else:
            yield item


def _object_reader(columns: Columns) -> Callable[[str, EvalContext], tuple[Any, ...]]:
    readers = [(name, _reader(sql_type)) for name, sql_type in columns]

    def read(text: str, context: EvalContext) -> tuple[Any, ...]:
        parts = _members(text)
        return tuple([_read_field(name, parts.get(name), None, reader, context) for name, reader in readers])

    return read


def _check_row(base: Record, columns: Columns) -> None:
    """Hold the row that is given against the columns that the query lists."""
    mismatch = "function return row and query-specified return row do not match"
    count = len(base.types)
    if count != len(columns):
        attributes = "attribute" if count == 1 else "attributes"
        detail = f"Returned row contains {count} {attributes}, but query expects {len(columns)}."
        raise DatatypeMismatch(mismatch, detail=detail)
    for position, (given, (_, wanted)) in enumerate(zip(base.types, columns, strict=True), 1):
        if given.oid != wanted.oid:
            given_name, wanted_name = registry.format_type(given.oid), registry.format_type(wanted.oid)
            detail = f"Returned type {given_name} at ordinal position {position}, but query expects {wanted_name}."
            raise DatatypeMismatch(mismatch, detail=detail)


def with_columns(function: Function, columns: Columns) -> Function:
    """The function as called with a column definition list."""
    name = function.name
    read = _object_reader(columns)
    single = len(columns) == 1
    populates = "populate" in name

    def row_of(text: str | None, base: Record | None, context: EvalContext) -> Any:
        """The values of an object; with a row before it, these are the fields by the names that the row has."""
        if base is not None:
            _check_row(base, columns)
        if text is None:
            row: tuple[Any, ...] = base or (None,) * len(columns)
        else:
            row = read(text, context) if base is None else _populate_record(name, base, text, context)
        return row[0] if single else tuple(row)

    def one(context: EvalContext, *arguments: Any) -> Any:
        base, text = arguments[:2] if populates else (None, arguments[0])
        return row_of(text, base, context)

    def many(context: EvalContext, *arguments: Any) -> Iterator[Any]:
        base, text = arguments[:2] if populates else (None, arguments[0])
        if text is not None:
            for item in _objects(name, text):
                yield row_of(item, base, context)

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
    raise _undetermined(name)


_define_populate()

TAKES_COLUMNS = frozenset(
    define(f"{name}({argument})", partial(_without_columns, name)).oid
    for argument in _JSON_TYPES
    for name in (f"{argument}_to_record", f"{argument}_to_recordset")
) | frozenset(
    function.oid
    for argument in _JSON_TYPES
    for name in (f"{argument}_populate_record", f"{argument}_populate_recordset")
    for function in FUNCTIONS_BY_NAME[name]
)
