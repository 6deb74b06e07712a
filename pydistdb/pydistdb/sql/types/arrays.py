r"""Arrays of any dimension: the runtime value PgArray and its text, binary and storage formats.

Items lie flat, row by row; ``dimensions`` says how many there are along each axis and ``lower_bounds`` where each axis
begins (1 unless told otherwise).  An empty array has no dimensions at all.

    >>> PgArray.of([1, 2]), PgArray((1, 2, 3, 4), (2, 2), (1, 1)).dimensions
    (PgArray((1, 2), (2,), (1,)), (2, 2))

In text: ``{1,NULL,"a,b"}``, ``{{1,2},{3,4}}``, ``[0:1]={7,8}``.  In storage: the bare list of items if the array is
one-dimensional from 1, else a map of dimensions (d),
lower bounds (l) and items (i).

Source: PostgreSQL 15 manual, 8.15.6.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydistdb.sql.errors import DatabaseError, InvalidTextRepresentation, ProgramLimitExceeded
from pydistdb.sql.types.base import EvalContext, TypeIO
from pydistdb.sql.types.integers import wrong_binary_length
from pydistdb.sql.types.known import BPCHAR
from pydistdb.sql.types.nested_keys import array_kind

MOST_DIMENSIONS = 6
MOST_ITEMS = 33_554_432
"""256 MB of references to items (Postgres: four times as many)."""


class PgArray:
    """An array value; treat as immutable."""

    __slots__ = ("dimensions", "items", "lower_bounds")

    def __init__(self, items: tuple[Any, ...], dimensions: tuple[int, ...], lower_bounds: tuple[int, ...]) -> None:
        self.items = items
        self.dimensions = dimensions
        self.lower_bounds = lower_bounds

    @classmethod
    def of(cls, items: Iterable[Any]) -> PgArray:
        """Make a one-dimensional array from 1, or the empty one."""
        values = tuple(items)
        return cls(values, (len(values),), (1,)) if values else EMPTY

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PgArray)
            and self.items == other.items
            and self.dimensions == other.dimensions
            and self.lower_bounds == other.lower_bounds
        )

    def __hash__(self) -> int:
        return hash((self.items, self.dimensions))

    def __repr__(self) -> str:
        return f"PgArray({self.items!r}, {self.dimensions!r}, {self.lower_bounds!r})"

    def with_items(self, items: Iterable[Any]) -> PgArray:
        """Make an array of the same shape with other items."""
        return PgArray(tuple(items), self.dimensions, self.lower_bounds)


EMPTY = PgArray((), (), ())


def check_shape(dimensions: Sequence[int]) -> None:
    if len(dimensions) > MOST_DIMENSIONS:
        raise ProgramLimitExceeded(
            f"number of array dimensions ({len(dimensions)}) exceeds the maximum allowed ({MOST_DIMENSIONS})"
        )
    size = 1
    for extent in dimensions:
        size *= extent
    if size > MOST_ITEMS:
        raise ProgramLimitExceeded(f"array size exceeds the maximum allowed ({MOST_ITEMS})")


def nest(arrays: Sequence[PgArray]) -> PgArray:
    """Make one array of the next dimension out of arrays of one shape (ARRAY[…] of arrays, array_agg of arrays)."""
    if not arrays or all(not array.dimensions for array in arrays):
        return EMPTY
    first = arrays[0]
    for array in arrays:
        if array.dimensions != first.dimensions or array.lower_bounds != first.lower_bounds:
            raise DatabaseError.of(
                "2202E", "multidimensional arrays must have array expressions with matching dimensions"
            )
    dimensions = (len(arrays), *first.dimensions)
    check_shape(dimensions)
    items = tuple([item for array in arrays for item in array.items])
    return PgArray(items, dimensions, (1, *first.lower_bounds))


# ------------------------------------------------------------------------------------------------ text format


class _Reader:
    """A recursive-descent reader of the array syntax; collects flat items and checks that rows agree in length."""

    def __init__(self, text: str, item: Callable[[str], Any]) -> None:
        self.text = text
        self.item = item
        self.position = 0
        self.items: list[Any] = []
        self.extents: list[int] = []
        self.depth_of_items = 0

    def malformed(self, detail: str) -> DatabaseError:
        return InvalidTextRepresentation(f'malformed array literal: "{self.text}"', detail=detail)

    def skip_space(self) -> str:
        text, position = self.text, self.position
        while position < len(text) and text[position] in " \t\n\r\v\f":
            position += 1
        self.position = position
        return text[position : position + 1]

    def read(self) -> PgArray:
        bounds = self.read_bounds() if self.skip_space() == "[" else None
        if self.skip_space() != "{":
            if bounds is None:
                raise self.malformed('Array value must start with "{" or dimension information.')
            raise self.malformed('Array contents must start with "{".')
        self.read_braces(1)
        if self.skip_space():
            raise self.malformed("Junk after closing right brace.")
        dimensions = tuple(self.extents) if self.items else ()
        check_shape(dimensions)
        lower_bounds = (1,) * len(dimensions)
        if bounds is not None:
            if [upper - lower + 1 for lower, upper in bounds] != list(dimensions):
                raise self.malformed("Specified array dimensions do not match array contents.")
            lower_bounds = tuple(lower for lower, _ in bounds)
        return PgArray(tuple(self.items), dimensions, lower_bounds) if dimensions else EMPTY

    def read_bounds(self) -> list[tuple[int, int]]:
        bounds = []
        while self.skip_space() == "[":
            end = self.text.find("]", self.position)
            if end < 0:
                raise self.malformed('Missing "]" after array dimensions.')
            first, colon, second = self.text[self.position + 1 : end].partition(":")
            try:
                pair = (int(first), int(second)) if colon else (1, int(first))
            except ValueError:
                raise self.malformed('"[" must introduce explicitly-specified array dimensions.') from None
            if pair[1] < pair[0]:
                raise DatabaseError.of("2202E", "upper bound cannot be less than lower bound")
            bounds.append(pair)
            self.position = end + 1
        if self.skip_space() != "=":
            raise self.malformed('Missing "=" after array dimensions.')
        self.position += 1
        return bounds

    def read_braces(self, depth: int) -> None:
        """Read ``{…}`` at nesting ``depth``, from 1."""
        if depth > MOST_DIMENSIONS:
            raise ProgramLimitExceeded(
                f"number of array dimensions ({depth}) exceeds the maximum allowed ({MOST_DIMENSIONS})"
            )
        self.position += 1
        count = 0
        if self.skip_space() == "}":
            if depth > 1:
                raise self.malformed('Unexpected "}" character.')
            self.position += 1
            return
        while True:
            match self.skip_space():
                case "":
                    raise self.malformed("Unexpected end of input.")
                case "{":
                    if self.depth_of_items and depth >= self.depth_of_items:
                        raise self.malformed('Unexpected "{" character.')
                    self.read_braces(depth + 1)
                case "}" | "," as character:
                    raise self.malformed(f'Unexpected "{character}" character.')
                case _:
                    if self.depth_of_items == 0:
                        self.depth_of_items = depth
                    if depth != self.depth_of_items:
                        raise self.malformed("Unexpected array element.")
                    self.read_item()
            count += 1
            match self.skip_space():
                case "":
                    raise self.malformed("Unexpected end of input.")
                case ",":
                    self.position += 1
                case "}":
                    self.position += 1
                    self.check_extent(depth, count)
                    return
                case "{":
                    raise self.malformed('Unexpected "{" character.')
                case _:
                    raise self.malformed("Unexpected array element.")

    def mismatch(self) -> DatabaseError:
        return self.malformed("Multidimensional arrays must have sub-arrays with matching dimensions.")

    def check_extent(self, depth: int, count: int) -> None:
        while len(self.extents) < depth:
            self.extents.append(-1)
        if self.extents[depth - 1] not in (-1, count):
            raise self.mismatch()
        self.extents[depth - 1] = count

    def read_item(self) -> None:
        text, position = self.text, self.position
        parts: list[str] = []
        quoted = False
        plain_end = 0
        while position < len(text):
            character = text[position]
            if character == '"':
                if quoted or "".join(parts).strip():
                    raise self.malformed("Unexpected array element.")
                parts, quoted = [], True
                position = self.read_quoted(position + 1, parts)
                continue
            if character in "{},":
                break
            if character == "\\":
                position += 1
                if position >= len(text):
                    break
                parts.append(text[position])
                plain_end = len(parts)
            elif quoted and not character.isspace():
                raise self.malformed("Unexpected array element.")
            elif not quoted:
                parts.append(character)
                if character not in " \t\n\r\v\f":
                    plain_end = len(parts)
            position += 1
        if position >= len(text):
            raise self.malformed("Unexpected end of input.")
        self.position = position
        word = "".join(parts if quoted else parts[:plain_end])
        if not quoted and word.lower() == "null":
            self.items.append(None)
        else:
            self.items.append(self.item(word))

    def read_quoted(self, position: int, parts: list[str]) -> int:
        text = self.text
        while position < len(text):
            character = text[position]
            if character == '"':
                return position + 1
            if character == "\\":
                position += 1
                if position >= len(text):
                    break
                character = text[position]
            parts.append(character)
            position += 1
        raise self.malformed("Unexpected end of input.")


def parse_array(text: str, item: Callable[[str], Any]) -> PgArray:
    return _Reader(text, item).read()


_QUOTED_CHARACTERS = frozenset('{}",\\ \t\n\r\v\f')


def _quote(text: str) -> str:
    if not text or text.lower() == "null" or not _QUOTED_CHARACTERS.isdisjoint(text):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text


def format_array(array: PgArray, item: Callable[[Any], str]) -> str:
    if not array.items:
        return "{}"
    words = ["NULL" if value is None else _quote(item(value)) for value in array.items]
    for extent in reversed(array.dimensions):
        words = ["{" + ",".join(words[i : i + extent]) + "}" for i in range(0, len(words), extent)]
    if any(lower != 1 for lower in array.lower_bounds):
        bounds = zip(array.lower_bounds, array.dimensions, strict=True)
        return "".join(f"[{lower}:{lower + extent - 1}]" for lower, extent in bounds) + "=" + words[0]
    return words[0]


# ------------------------------------------------------------------------------------------------ binary format


def _encode_array(array: PgArray, element_oid: int, element: TypeIO) -> bytes:
    parts = [struct.pack("!iiI", len(array.dimensions), None in array.items, element_oid)]
    for extent, lower in zip(array.dimensions, array.lower_bounds, strict=True):
        parts.append(struct.pack("!ii", extent, lower))
    for value in array.items:
        if value is None:
            parts.append(b"\xff\xff\xff\xff")
        else:
            data = element.encode(value)
            parts.append(len(data).to_bytes(4, "big"))
            parts.append(data)
    return b"".join(parts)


def _decode_array(data: bytes, element_oid: int, element: TypeIO) -> PgArray:
    try:
        count, _, oid = struct.unpack_from("!iiI", data)
        if not 0 <= count <= MOST_DIMENSIONS:
            raise wrong_binary_length()
        shape = [struct.unpack_from("!ii", data, 12 + 8 * axis) for axis in range(count)]
    except struct.error:
        raise wrong_binary_length() from None
    if oid != element_oid:
        raise DatabaseError.of("42804", "wrong element type")
    if any(extent < 0 for extent, _ in shape):
        raise wrong_binary_length()
    dimensions = tuple(extent for extent, _ in shape)
    check_shape(dimensions)
    items: list[Any] = []
    position, size = 12 + 8 * count, len(data)
    while position < size:
        length = int.from_bytes(data[position : position + 4], "big", signed=True)
        position += 4
        if length < 0:
            items.append(None)
            continue
        if position + length > size:
            raise wrong_binary_length()
        items.append(element.decode(data[position : position + length]))
        position += length
    expected = 1 if dimensions else 0
    for extent in dimensions:
        expected *= extent
    if len(items) != expected:
        raise wrong_binary_length()
    return PgArray(tuple(items), dimensions, tuple(lower for _, lower in shape)) if items else EMPTY


# ------------------------------------------------------------------------------------------------ storage


def _storage(element: TypeIO) -> tuple[Callable[[PgArray], Any], Callable[[Any], PgArray]]:
    convert_to, convert_from = element.to_storage, element.from_storage

    def to_storage(array: PgArray) -> Any:
        items = list(array.items)
        if convert_to is not None:
            items = [None if item is None else convert_to(item) for item in items]
        if not array.dimensions or (len(array.dimensions) == 1 and array.lower_bounds[0] == 1):
            return items
        return {"d": list(array.dimensions), "l": list(array.lower_bounds), "i": items}

    def from_storage(stored: Any) -> PgArray:
        items = stored if type(stored) is list else stored["i"]
        if convert_from is not None:
            items = [None if item is None else convert_from(item) for item in items]
        if type(stored) is list:
            return PgArray.of(items)
        return PgArray(tuple(items), tuple(stored["d"]), tuple(stored["l"]))

    return to_storage, from_storage


def array_io(element_oid: int, element: TypeIO) -> TypeIO:
    """Make the TypeIO of arrays from that of their items."""

    def parse(text: str, modifier: int, context: EvalContext) -> PgArray:
        return parse_array(text, lambda word: element.parse(word, modifier, context))

    def format_(array: PgArray, context: EvalContext) -> str:
        return format_array(array, lambda value: element.format(value, context))

    to_storage, from_storage = _storage(element)
    return TypeIO(
        parse,
        format_,
        lambda data: _decode_array(data, element_oid, element),
        lambda array: _encode_array(array, element_oid, element),
        array_kind("char" if element_oid == BPCHAR.oid else element.key_kind, PgArray),
        to_storage,
        from_storage,
    )


def vector_io(element_oid: int, element: TypeIO) -> TypeIO:
    """Make the TypeIO of int2vector or oidvector: numbers with spaces between, indexed from 0."""

    def parse(text: str, modifier: int, context: EvalContext) -> PgArray:
        items = tuple(element.parse(word, -1, context) for word in text.split())
        return PgArray(items, (len(items),), (0,))

    def format_(array: PgArray, context: EvalContext) -> str:
        return " ".join([str(item) for item in array.items])

    return TypeIO(
        parse,
        format_,
        lambda data: _decode_array(data, element_oid, element),
        lambda array: _encode_array(array, element_oid, element),
        None,
        lambda array: list(array.items),
        lambda items: PgArray(tuple(items), (len(items),), (0,)),
    )
