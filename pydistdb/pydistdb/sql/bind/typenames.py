"""Type names in SQL text to types: ``varchar(10)[]`` to the array type with modifier 14.

The modifier numbers are Postgres's own (atttypmod), because clients see them in RowDescription and in pg_attribute:
length + 4 for character types, precision and scale packed for numeric, precision for times, fields and precision for
interval.

Source: PostgreSQL 15, the types' typmodin functions and parse_type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydistdb.sql.bind.parse import Node
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, InvalidSchemaName, InvalidSyntax, UndefinedObject
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.bits import MOST_BITS
from pydistdb.sql.types.integers import parse_int4

if TYPE_CHECKING:
    from pydistdb.sql.catalog.view import CatalogView

SERIAL_TYPES = {
    "smallserial": "int2",
    "serial2": "int2",
    "serial": "int4",
    "serial4": "int4",
    "bigserial": "int8",
    "serial8": "int8",
}

COLLATABLE = frozenset({"S", "X"})
"""Categories of the types that COLLATE may be said of."""

MOST_CHARACTERS = 10485760
MOST_TIME_PRECISION = 6
INTERVAL_FULL_PRECISION = 0xFFFF
INTERVAL_FULL_RANGE = 0x7FFF

PositionAt = Callable[[int], int | None]


def resolve_type(node: Node, position_at: PositionAt, catalog: CatalogView | None) -> SqlType:
    """Find the type that a TypeName node means, among the catalog's too; raises UndefinedObject (42704)."""
    names = [part["String"]["sval"] for part in node["names"]]
    position = position_at(node.get("location", -1))
    if node.get("pct_type"):
        raise FeatureNotSupported("%TYPE is not supported here", position=position)
    if node.get("setof"):
        shown = ".".join(names).removeprefix("pg_catalog.")
        raise InvalidSyntax(f'type "{shown}" cannot be a set here', position=position)
    found = find_type(names, position, catalog)
    if found is None:
        raise UndefinedObject(f'type "{".".join(names)}" does not exist', position=position)
    modifiers = node.get("typmods")
    modifier = -1
    if modifiers:
        modifier = type_modifier(found, _integers(modifiers, position), position)
    if node.get("arrayBounds"):
        found = registry.array_of(found)
    return found.with_modifier(modifier)


def find_type(names: list[str], position: int | None, catalog: CatalogView | None) -> SqlType | None:
    """Find a type by its (perhaps qualified) name."""
    if len(names) > 3:
        raise InvalidSyntax(f"improper qualified name (too many dotted names): {'.'.join(names)}", position=position)
    if catalog is None:
        return registry.type_by_name(names[-1]) if len(names) == 1 or names[0] == "pg_catalog" else None
    if len(names) == 3 and names[0] != catalog.database.name:
        raise FeatureNotSupported(
            f"cross-database references are not implemented: {'.'.join(names)}", position=position
        )
    schema = names[-2] if len(names) > 1 else None
    if schema is not None and catalog.schema_named(schema) is None:
        raise InvalidSchemaName(f'schema "{schema}" does not exist', position=position)
    return catalog.type_named(names[-1], schema)


def serial_kind(node: Node) -> str:
    """Tell which integer type a SERIAL pseudo-type stands for ('' if the name is none)."""
    names = node["names"]
    return SERIAL_TYPES.get(names[0]["String"]["sval"], "") if len(names) == 1 and "arrayBounds" not in node else ""


def _integers(modifiers: list[Node], position: int | None) -> list[int]:
    values = []
    for wrapper in modifiers:
        constant = wrapper.get("A_Const")
        if constant is None:
            raise InvalidSyntax("type modifiers must be simple constants or identifiers", position=position)
        if "ival" in constant:
            values.append(constant["ival"].get("ival", 0))
            continue
        text = constant.get("fval", {}).get("fval") or constant.get("sval", {}).get("sval", "")
        try:
            values.append(parse_int4(text, -1, None))
        except DatabaseError as error:
            error.position = position
            raise
    return values


def type_modifier(sql_type: SqlType, values: list[int], position: int | None) -> int:
    """Pack what stands in the parentheses after a type's name."""
    name = sql_type.name
    if name in ("varchar", "bpchar"):
        return _length("char" if name == "bpchar" else name, values, MOST_CHARACTERS, position) + 4
    if name == "numeric":
        return _numeric_modifier(values, position)
    if name in ("time", "timetz", "timestamp", "timestamptz"):
        if len(values) != 1 or values[0] < 0:
            raise DatabaseError.of("22023", "invalid type modifier", position=position)
        return min(values[0], MOST_TIME_PRECISION)
    if name in ("bit", "varbit"):
        return _length("bit" if name == "bit" else "bit varying", values, MOST_BITS, position)
    if name == "interval":
        return _interval_modifier(values, position)
    raise InvalidSyntax(f'type modifier is not allowed for type "{name}"', position=position)


def _length(name: str, values: list[int], most: int, position: int | None) -> int:
    """The n of char(n), varchar(n), bit(n), varbit(n)."""
    if len(values) != 1:
        raise DatabaseError.of("22023", "invalid type modifier", position=position)
    if values[0] < 1:
        raise DatabaseError.of("22023", f"length for type {name} must be at least 1", position=position)
    if values[0] > most:
        raise DatabaseError.of("22023", f"length for type {name} cannot exceed {most}", position=position)
    return values[0]


def _numeric_modifier(values: list[int], position: int | None) -> int:
    if len(values) not in (1, 2):
        raise DatabaseError.of("22023", "invalid NUMERIC type modifier", position=position)
    precision, scale = (values + [0])[:2]
    if not 1 <= precision <= 1000:
        raise DatabaseError.of("22023", f"NUMERIC precision {precision} must be between 1 and 1000", position=position)
    if not -1000 <= scale <= 1000:
        raise DatabaseError.of("22023", f"NUMERIC scale {scale} must be between -1000 and 1000", position=position)
    return ((precision << 16) | (scale & 0x7FF)) + 4


def _interval_modifier(values: list[int], position: int | None) -> int:
    fields = values[0]
    precision = INTERVAL_FULL_PRECISION
    if len(values) > 1:
        if values[1] < 0:
            raise DatabaseError.of("22023", f"INTERVAL({values[1]}) precision must not be negative", position=position)
        precision = min(values[1], MOST_TIME_PRECISION)
    elif fields == INTERVAL_FULL_RANGE:
        return -1
    return (fields << 16) | precision
