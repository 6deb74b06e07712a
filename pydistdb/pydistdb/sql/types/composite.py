r"""Composite types: rows with named fields, of a type of their own or of a table.

A value is a tuple with one slot per attribute *number*, dropped ones included (they hold None), so that a plan made before
an ALTER TYPE still finds its fields.  As an anonymous ``record`` it becomes a ``Record``, which knows its fields' types and
names and has no slots but the living ones.

    (1,"a b",)          text: NULL is nothing, quotes and backslashes are doubled
    [1, 'a b', None]    storage

Source: PostgreSQL 15 manual, 8.16; rowtypes.c for the details of the formats.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from pydistdb.sql.errors import DatabaseError, InvalidTextRepresentation, UndefinedFunction
from pydistdb.sql.types import domains, known, user
from pydistdb.sql.types.base import EvalContext, SqlType, TypeIO
from pydistdb.sql.types.integers import wrong_binary_length
from pydistdb.sql.types.nested_keys import row_kind
from pydistdb.sql.types.pseudo import Record, field_types, quote_field
from pydistdb.sql.types.user import FIRST_USER_OID, Attribute

_Row = tuple[Any, ...]


def attribute_type(attribute: Attribute) -> SqlType:
    return known.TYPES_BY_OID[attribute.type_oid].with_modifier(attribute.modifier)


def live_attributes(oid: int, context: EvalContext | None) -> list[Attribute]:
    """The fields of a composite type as the session sees it."""
    return [each for each in user.entry_of(oid, context).definition.attributes if not each.dropped]


def field(value: _Row, number: int) -> Any:
    return value[number - 1] if number <= len(value) else None


def to_record(oid: int, value: _Row, context: EvalContext | None) -> Record:
    """The same row as an anonymous record."""
    attributes = live_attributes(oid, context)
    return Record(
        [field(value, each.number) for each in attributes],
        [attribute_type(each) for each in attributes],
        [each.name for each in attributes],
    )


def from_record(oid: int, value: _Row, context: EvalContext | None) -> _Row:
    """An anonymous record of the same fields as a composite value."""
    definition = user.entry_of(oid, context).definition
    live = [each for each in definition.attributes if not each.dropped]
    types = field_types(value)
    fits = len(live) == len(value) and all(
        domains.base_oid(each.type_oid) == domains.base_oid(found.oid) for each, found in zip(live, types, strict=True)
    )
    if not fits:
        raise DatabaseError.of(
            "42846",
            f"cannot cast type record to {user.shown_name(oid, context)}",
            detail=f"The record has fields of types {', '.join(found.name for found in types)}.",
        )
    items: list[Any] = [None] * len(definition.attributes)
    for each, item in zip(live, value, strict=True):
        items[each.number - 1] = item
    return tuple(items)


# ------------------------------------------------------------------------------------------------ text


class _Fields:
    """Takes a row's text apart into the texts of its fields."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def malformed(self, detail: str) -> DatabaseError:
        return InvalidTextRepresentation(f'malformed record literal: "{self.text}"', detail=detail)

    def read(self, count: int) -> list[str | None]:
        stripped = self.text.lstrip(" \t\n\r\v\f")
        self.position = len(self.text) - len(stripped)
        if not stripped.startswith("("):
            raise self.malformed("Missing left parenthesis.")
        self.position += 1
        fields: list[str | None] = []
        for index in range(count):
            if index:
                if self._peek() != ",":
                    raise self.malformed("Too few columns.")
                self.position += 1
            fields.append(None if self._peek() in (",", ")") else self._field())
        if self._peek() != ")":
            raise self.malformed("Too many columns.")
        if self.text[self.position + 1 :].strip(" \t\n\r\v\f"):
            raise self.malformed("Junk after right parenthesis.")
        return fields

    def _peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def _field(self) -> str:
        text, quoted = self.text, False
        parts: list[str] = []
        while True:
            character = self._peek()
            if not character:
                raise self.malformed("Unexpected end of input.")
            if not quoted and character in ",)":
                return "".join(parts)
            self.position += 1
            if character == "\\":
                if not self._peek():
                    raise self.malformed("Unexpected end of input.")
                parts.append(self._peek())
                self.position += 1
            elif character == '"':
                if quoted and self._peek() == '"':
                    parts.append('"')
                    self.position += 1
                else:
                    quoted = not quoted
            else:
                parts.append(text[self.position - 1])


def _parse(oid: int, text: str, context: EvalContext) -> _Row:
    from pydistdb.sql.types.registry import io

    definition = user.entry_of(oid, context).definition
    live = [each for each in definition.attributes if not each.dropped]
    values: list[Any] = [None] * len(definition.attributes)
    for attribute, word in zip(live, _Fields(text).read(len(live)), strict=True):
        if word is not None:
            values[attribute.number - 1] = _fitted(
                attribute, io(attribute.type_oid).parse(word, attribute.modifier, context)
            )
        elif domains.is_domain(attribute.type_oid):
            domains.check_value(attribute.type_oid, None, context)
    return tuple(values)


def _fitted(attribute: Attribute, value: Any) -> Any:
    """Hold a field to its modifier, as input functions do."""
    if attribute.modifier < 0:
        return value
    from pydistdb.sql.functions.registry import length_coercion

    function = length_coercion(attribute_type(attribute))
    return value if function is None else function.implementation(value, attribute.modifier, False)


def _format(oid: int, value: _Row, context: EvalContext | None) -> str:
    from pydistdb.sql.types.registry import io

    words = []
    for attribute in live_attributes(oid, context):
        item = field(value, attribute.number)
        words.append("" if item is None else quote_field(io(attribute.type_oid).format(item, context)))  # type: ignore[arg-type]
    return "(" + ",".join(words) + ")"


# ------------------------------------------------------------------------------------------------ binary


def _encode(oid: int, value: _Row, context: EvalContext | None = None) -> bytes:
    attributes = live_attributes(oid, context)
    parts = [struct.pack("!i", len(attributes))]
    for attribute in attributes:
        item = field(value, attribute.number)
        if item is None:
            parts.append(struct.pack("!Ii", attribute.type_oid, -1))
        else:
            data = encode_as_seen(attribute.type_oid, item, context)
            parts.append(struct.pack("!Ii", attribute.type_oid, len(data)) + data)
    return b"".join(parts)


def encode_as_seen(oid: int, value: Any, context: EvalContext | None) -> bytes:
    """The binary format by the definition that the session sees: its own transaction may have altered the type."""
    from pydistdb.sql.types.registry import io

    catalog = None if context is None else context.catalog
    entry = None if catalog is None or oid < FIRST_USER_OID else catalog.type_entry(oid)
    if entry is not None and entry.definition.oid == oid:
        if entry.definition.kind == "c":
            return _encode(oid, value, context)
        if entry.definition.kind == "e":
            return user.enum_label(oid, value, context).encode()
    return io(oid).encode(value)


def _decode(oid: int, data: bytes) -> _Row:
    from pydistdb.sql.types.registry import io

    definition = user.entry_of(oid, None).definition
    live = [each for each in definition.attributes if not each.dropped]
    values: list[Any] = [None] * len(definition.attributes)
    try:
        (count,) = struct.unpack_from("!i", data)
        if count != len(live):
            raise DatabaseError.of("42804", f"wrong number of columns: {count}, expected {len(live)}")
        position = 4
        for number, attribute in enumerate(live, 1):
            type_oid, length = struct.unpack_from("!Ii", data, position)
            position += 8
            if type_oid != attribute.type_oid:
                raise DatabaseError.of(
                    "42804",
                    f"binary data has type {type_oid} instead of expected {attribute.type_oid} in record column {number}",
                )
            if length >= 0:
                if position + length > len(data):
                    raise wrong_binary_length()
                values[attribute.number - 1] = io(type_oid).decode(bytes(data[position : position + length]))
                position += length
    except struct.error:
        raise wrong_binary_length() from None
    if position != len(data):
        raise wrong_binary_length()
    return tuple(values)


# ------------------------------------------------------------------------------------------------ storage and order

_Convert = Callable[[Any], Any]


def _converters(oid: int, name: str) -> list[_Convert | None]:
    """By slot: how a field's value is stored (``to_storage``) or read back; None where it is as it is."""
    from pydistdb.sql.types.registry import io

    cached: dict[str, list[_Convert | None]] = user.field_cache(oid)
    found = cached.get(name)
    if found is None:
        found = cached[name] = [
            getattr(io(type_oid), name) if type_oid else (lambda value: None) for type_oid in user.field_types(oid)
        ]
    return found


def _map(value: Any, converters: list[_Convert | None]) -> list[Any]:
    items = [
        item if item is None or convert is None else convert(item)
        for item, convert in zip(value, converters, strict=False)
    ]
    return items + [None] * (len(converters) - len(items))


def composite_key(oid: int) -> Callable[[_Row], _Row]:
    """A value that sorts and hashes as the row does: field by field, NULL last."""
    from pydistdb.sql.types.ordering import sort_key

    def key(value: _Row) -> _Row:
        parts: list[Any] = []
        for attribute in live_attributes(oid, None):
            item = field(value, attribute.number)
            if item is None:
                parts.append((1,))
            else:
                find = sort_key(attribute.type_oid)
                parts.append((0, item if find is None else find(item)))
        return tuple(parts)

    return key


def _key_kind(oid: int) -> str:
    """Fields may be added as long as nothing is of the type: they are looked up when a key is made."""
    from pydistdb.sql.types.registry import format_type, io

    def fields() -> list[tuple[int, str]]:
        found = []
        for each in live_attributes(oid, None):
            kind = "char" if domains.base_oid(each.type_oid) == known.BPCHAR.oid else io(each.type_oid).key_kind
            if kind is None:
                raise UndefinedFunction(
                    f"could not identify a comparison function for type {format_type(each.type_oid, -1)}"
                )
            found.append((each.number, kind))
        return found

    return row_kind(oid, fields, lambda: len(user.entry_of(oid, None).definition.attributes))


def unordered_part(oid: int) -> int | None:
    """The type that keeps values of a type from being ordered, deep inside of it or the type itself; None if nothing does."""
    from pydistdb.sql.types.registry import io

    sql_type = known.TYPES_BY_OID[domains.base_oid(oid)]
    if sql_type.element_oid:
        return unordered_part(sql_type.element_oid)
    if sql_type.category == "C":
        parts = (unordered_part(each.type_oid) for each in live_attributes(sql_type.oid, None))
        return next((part for part in parts if part is not None), None)
    return None if io(sql_type.oid).key_kind is not None else sql_type.oid


def composite_io(oid: int) -> TypeIO:
    return TypeIO(
        lambda text, modifier, context: _parse(oid, text, context),
        lambda value, context: _format(oid, value, context),
        lambda data: _decode(oid, data),
        lambda value: _encode(oid, value),
        _key_kind(oid),
        lambda value: _map(value, _converters(oid, "to_storage")),
        lambda stored: tuple(_map(stored, _converters(oid, "from_storage"))),
    )


user.IO_MAKERS["c"] = composite_io
