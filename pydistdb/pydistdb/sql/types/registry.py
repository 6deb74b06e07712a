"""What a type is called and how its values are read and written: the front door of this package.

    >>> type_by_name("double precision").oid, format_type(1043, 14), array_of(INT4).name
    (701, 'character varying(10)', '_int4')

Every type family has its module with a table ``IO``; they are gathered here.  Array types need no entries: their TypeIO
is made from that of their items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydistdb.sql.errors import FeatureNotSupported, UndefinedObject
from pydistdb.sql.types import (
    bits,
    boolean,
    bytea,
    composite,
    datetime,
    domains,
    floats,
    integers,
    interval,
    json,
    jsonpath,
    money,
    network,
    numeric,
    ordering,
    pseudo,
    reg,
    text,
    transactions,
    user,
    uuid,
)
from pydistdb.sql.types.arrays import array_io, vector_io
from pydistdb.sql.types.base import EvalContext, SqlType, TypeIO
from pydistdb.sql.types.known import (
    ACLITEM,
    ANY,
    ANYARRAY,
    ANYCOMPATIBLE,
    ANYCOMPATIBLEARRAY,
    ANYCOMPATIBLENONARRAY,
    ANYELEMENT,
    ANYENUM,
    ANYNONARRAY,
    BIT,
    BOOL,
    BPCHAR,
    BYTEA,
    CHAR,
    CID,
    CSTRING,
    DATE,
    FLOAT4,
    FLOAT8,
    INT2,
    INT2VECTOR,
    INT4,
    INT8,
    INTERNAL,
    INTERVAL,
    JSON,
    JSONB,
    JSONPATH,
    NAME,
    NUMERIC,
    OID,
    OIDVECTOR,
    PG_NODE_TREE,
    POLYMORPHIC,
    RECORD,
    REG_TYPES,
    REGCLASS,
    REGCOLLATION,
    REGNAMESPACE,
    REGOPER,
    REGOPERATOR,
    REGPROC,
    REGPROCEDURE,
    REGROLE,
    REGTYPE,
    TEXT,
    TID,
    TIME,
    TIMESTAMP,
    TIMESTAMPTZ,
    TIMETZ,
    TRIGGER,
    TYPES_BY_NAME,
    TYPES_BY_OID,
    UNKNOWN,
    UUID,
    VARBIT,
    VARCHAR,
    VOID,
    XID,
    XID8,
)
from pydistdb.sql.types.reg import quote_identifier

__all__ = [
    "ACLITEM",
    "ANY",
    "ANYARRAY",
    "ANYCOMPATIBLE",
    "ANYCOMPATIBLEARRAY",
    "ANYCOMPATIBLENONARRAY",
    "ANYELEMENT",
    "ANYENUM",
    "ANYNONARRAY",
    "BOOL",
    "BPCHAR",
    "BYTEA",
    "CHAR",
    "CID",
    "CSTRING",
    "DATE",
    "FLOAT4",
    "FLOAT8",
    "INT2",
    "INT2VECTOR",
    "INT4",
    "INT8",
    "INTERNAL",
    "INTERVAL",
    "JSON",
    "JSONB",
    "JSONPATH",
    "NAME",
    "NUMERIC",
    "OID",
    "OIDVECTOR",
    "PG_NODE_TREE",
    "POLYMORPHIC",
    "RECORD",
    "REGCLASS",
    "REGCOLLATION",
    "REGNAMESPACE",
    "REGOPER",
    "REGOPERATOR",
    "REGPROC",
    "REGPROCEDURE",
    "REGROLE",
    "REGTYPE",
    "REG_TYPES",
    "TEXT",
    "TID",
    "TIME",
    "TIMESTAMP",
    "TIMESTAMPTZ",
    "TIMETZ",
    "TRIGGER",
    "UNKNOWN",
    "UUID",
    "VARCHAR",
    "VOID",
    "XID",
    "XID8",
    "all_types",
    "array_of",
    "element_of",
    "format_type",
    "io",
    "sort_key",
    "type_by_name",
    "type_by_oid",
]

_IO_BY_NAME: dict[str, TypeIO] = {}
for _module in (
    boolean,
    integers,
    floats,
    numeric,
    text,
    bytea,
    uuid,
    json,
    jsonpath,
    datetime,
    interval,
    bits,
    money,
    network,
    reg,
    transactions,
    pseudo,
):
    _IO_BY_NAME.update(_module.IO)
_IO_BY_OID: dict[int, TypeIO] = {TYPES_BY_NAME[name].oid: type_io for name, type_io in _IO_BY_NAME.items()}

user.derived_from_types(_IO_BY_OID)

_SPELLINGS = {
    "boolean": BOOL,
    "smallint": INT2,
    "integer": INT4,
    "int": INT4,
    "bigint": INT8,
    "real": FLOAT4,
    "float": FLOAT8,
    "double precision": FLOAT8,
    "decimal": NUMERIC,
    "dec": NUMERIC,
    "character varying": VARCHAR,
    "char varying": VARCHAR,
    "character": BPCHAR,
    "time without time zone": TIME,
    "time with time zone": TIMETZ,
    "timestamp without time zone": TIMESTAMP,
    "timestamp with time zone": TIMESTAMPTZ,
    "bit varying": VARBIT,
}

_FORMATS = {
    BOOL.oid: "boolean",
    INT2.oid: "smallint",
    INT4.oid: "integer",
    INT8.oid: "bigint",
    FLOAT4.oid: "real",
    FLOAT8.oid: "double precision",
    NUMERIC.oid: "numeric",
    BPCHAR.oid: "character",
    VARCHAR.oid: "character varying",
    CHAR.oid: '"char"',
    TIME.oid: "time without time zone",
    TIMETZ.oid: "time with time zone",
    TIMESTAMP.oid: "timestamp without time zone",
    TIMESTAMPTZ.oid: "timestamp with time zone",
    ANY.oid: '"any"',
    BIT.oid: "bit",
    VARBIT.oid: "bit varying",
}

# Bits of an interval modifier's upper half, as Postgres numbers its date/time fields.
_INTERVAL_FIELDS = {
    0x0004: " year",
    0x0002: " month",
    0x0008: " day",
    0x0400: " hour",
    0x0800: " minute",
    0x1000: " second",
    0x0006: " year to month",
    0x0408: " day to hour",
    0x0C08: " day to minute",
    0x1C08: " day to second",
    0x0C00: " hour to minute",
    0x1C00: " hour to second",
    0x1800: " minute to second",
}


def type_by_oid(oid: int) -> SqlType:
    """Find a type; an oid that is none is an error for the client (it may have sent it)."""
    sql_type = TYPES_BY_OID.get(oid)
    if sql_type is None:
        raise UndefinedObject(f"type with OID {oid} does not exist")
    return sql_type


def type_by_name(name: str) -> SqlType | None:
    """Find a type by its catalog name (``int4``, ``_int4``) or SQL spelling (``integer``, ``text[]``).

    ``char`` alone is the catalog's one-byte type; SQL's CHAR is ``character`` or ``bpchar``."""
    sql_type = TYPES_BY_NAME.get(name)
    if sql_type is not None:
        return sql_type
    words = " ".join(name.lower().split())
    if words.endswith("]") and "[" in words:
        element = type_by_name(words[: words.index("[")].rstrip())
        return array_of(element) if element is not None and element.array_oid else None
    return _SPELLINGS.get(words) or TYPES_BY_NAME.get(words)


def array_of(element: SqlType) -> SqlType:
    """Find the type of arrays of ``element`` (an array type is its own, having any number of dimensions); the modifier
    goes along."""
    if element.category == "A" and not element.array_oid:
        return element
    sql_type = TYPES_BY_OID.get(element.array_oid)
    if sql_type is None:
        raise UndefinedObject(f"could not find array type for data type {format_type(element.oid)}")
    return sql_type.with_modifier(element.modifier)


def element_of(array: SqlType) -> SqlType:
    """Find the type of an array's items; the modifier goes along."""
    return type_by_oid(array.element_oid).with_modifier(array.modifier)


def io(oid: int) -> TypeIO:
    """Find how values of a type are read and written."""
    type_io = _IO_BY_OID.get(oid)
    if type_io is not None:
        return type_io
    sql_type = type_by_oid(oid)
    made = user.user_io(oid)
    if made is not None:
        _IO_BY_OID[oid] = made
        return made
    if not sql_type.element_oid:
        raise FeatureNotSupported(f"values of type {format_type(oid)} are not supported")
    make = vector_io if sql_type in (INT2VECTOR, OIDVECTOR) else array_io
    type_io = _IO_BY_OID[oid] = make(sql_type.element_oid, io(sql_type.element_oid))
    return type_io


def _domain_io(oid: int) -> TypeIO:
    """A domain's values are read and written as those of the type it is over, and checked when read as text."""
    base = io(domains.base_oid(oid))
    modifier = domains.base_type(oid).modifier

    def parse(text: str, ignored: int, context: EvalContext) -> Any:
        return domains.check_value(oid, base.parse(text, modifier, context), context)

    return replace(base, parse=parse)


user.IO_MAKERS["d"] = _domain_io
assert composite, "imported because it enters its formats"

sort_key = ordering.sort_key
"""sort_key(oid): a function from a runtime value to one that Python sorts, compares and hashes as SQL does; None where
the runtime value already does."""


def all_types() -> Sequence[SqlType]:
    """List the built-in types."""
    return tuple(sql_type for oid, sql_type in TYPES_BY_OID.items() if oid < user.FIRST_USER_OID)


def _format_modifier(oid: int, modifier: int) -> str:
    if modifier < 0:
        return ""
    if oid in (VARCHAR.oid, BPCHAR.oid):
        return f"({modifier - 4})" if modifier >= 4 else ""
    if oid == NUMERIC.oid:
        precision, scale = numeric.precision_and_scale(modifier)
        return f"({precision},{scale})"
    if oid in (BIT.oid, VARBIT.oid):
        return f"({modifier})"
    if oid == INTERVAL.oid:
        fields = _INTERVAL_FIELDS.get(modifier >> 16 & 0x7FFF, "")
        precision = modifier & 0xFFFF
        return fields + (f"({precision})" if precision != 0xFFFF else "")
    return ""


def format_type(oid: int, modifier: int | None = None) -> str:
    """Spell a type as SQL does, with its modifier; None (unlike -1) leaves the modifier out of consideration, as error
    messages do."""
    sql_type = TYPES_BY_OID.get(oid)
    if sql_type is None:
        return "-" if oid == 0 else "???"
    if sql_type.category == "A" and not sql_type.array_oid and sql_type.element_oid:
        return format_type(sql_type.element_oid, modifier) + "[]"
    if modifier is None:
        return _FORMATS.get(oid) or (sql_type.name if oid < user.FIRST_USER_OID else quote_identifier(sql_type.name))
    if oid in (TIME.oid, TIMETZ.oid, TIMESTAMP.oid, TIMESTAMPTZ.oid) and modifier >= 0:
        head, _, tail = _FORMATS[oid].partition(" ")
        return f"{head}({modifier}) {tail}"
    if oid == BIT.oid and modifier == -1:
        return '"bit"'
    if oid == BPCHAR.oid and modifier == -1:
        # character alone means character(1): say bpchar for the unlimited type.
        return "bpchar"
    if oid >= user.FIRST_USER_OID:
        return quote_identifier(sql_type.name)
    return _FORMATS.get(oid, sql_type.name) + _format_modifier(oid, modifier)
