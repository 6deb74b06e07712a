"""How runtime values are compared, sorted and hashed, as source templates by type.

Most types' Python values order and hash as the SQL type does.  The others get a key: NaN is equal to itself and greater
than every number; an interval counts by its span; char(n) by its text without trailing blanks; anything else goes
through the type's own ``<`` operator.  NULL sorts by the sentinels FIRST and LAST, which compare with every value.

>>> sort_template(FLOAT8, {})
'({0} if {0} == {0} else LAST_NUMBER)'
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydistdb.sql.functions import registry as functions
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.base import Function, SqlType
from pydistdb.sql.types.domains import base_oid
from pydistdb.sql.types.known import TYPES_BY_NAME
from pydistdb.sql.types.ordering import sort_key

_NATIVE_NAMES = (
    "bool int2 int4 int8 oid text varchar name char bytea uuid date time timestamp timestamptz unknown xid cid xid8 "
    "bit varbit inet cidr macaddr macaddr8 money pg_lsn"
)
NATIVE_OIDS = frozenset(TYPES_BY_NAME[name].oid for name in _NATIVE_NAMES.split()) | types.REG_TYPES
_NAN_OIDS = frozenset({types.FLOAT4.oid, types.FLOAT8.oid, types.NUMERIC.oid})
_NEGATABLE_OIDS = frozenset(
    type_.oid
    for type_ in (
        *(types.INT2, types.INT4, types.INT8, types.OID),
        *(types.DATE, types.TIME, types.TIMESTAMP, types.TIMESTAMPTZ),
    )
)


class _Edge:
    """Compares below (``FIRST``) or above everything else: NaN (``LAST_NUMBER``) above numbers, NULL (``LAST``) above that."""

    __slots__ = ("rank",)

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __lt__(self, other: object) -> bool:
        return self.rank < (other.rank if isinstance(other, _Edge) else 0)

    def __gt__(self, other: object) -> bool:
        return self.rank > (other.rank if isinstance(other, _Edge) else 0)


FIRST = _Edge(-1)
LAST_NUMBER = _Edge(1)
LAST = _Edge(2)


class Descending:
    """Turns the order of a value round."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: object) -> bool:
        return bool(other.value < self.value) if isinstance(other, Descending) else NotImplemented

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Descending) and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash(self.value)


def sort_template(type_: SqlType, namespace: dict[str, Any]) -> str:
    """Source of a key of a non-null value ``{0}`` that Python orders, compares and hashes as SQL does the value."""
    oid = type_.oid
    if oid in _NAN_OIDS:
        namespace["LAST_NUMBER"] = LAST_NUMBER
        return "({0} if {0} == {0} else LAST_NUMBER)"
    if oid == types.BPCHAR.oid:
        return "{0}.rstrip(' ')"
    key = sort_key(oid)
    if key is None:
        return "{0}"
    namespace[f"key{oid}"] = key
    return f"key{oid}({{0}})"


def is_negatable(type_: SqlType) -> bool:
    """Whether ``-key`` turns the order round."""
    return type_.oid in _NEGATABLE_OIDS


def is_native(type_: SqlType) -> bool:
    """Whether Python's ``==``, ``<`` and hash on the bare values are the type's own."""
    return base_oid(type_.oid) in NATIVE_OIDS or type_.category == "E"


@lru_cache(maxsize=1)
def _never_null() -> frozenset[int]:
    names = ("=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "~~", "!~~", "~~*", "!~~*", "~", "!~")
    return frozenset(
        operator.function.oid
        for name in names
        for operator in functions.operators(name)
        if operator.function.return_type.category in "NBDTS"
    )


def never_null(function: Function) -> bool:
    """Whether a strict function is known to give no NULL for arguments that are not."""
    return function.oid in _never_null()


def row_bytes(row: Any) -> int:
    """Roughly how much memory a row takes."""
    total = 56 + 8 * len(row)
    for value in row:
        if value.__class__ is str or value.__class__ is bytes:
            total += 50 + len(value)
        elif value.__class__ is list or value.__class__ is tuple:
            total += row_bytes(value)
        elif value is not None and value.__class__ is not bool:
            total += 32
    return total


def batch_bytes(rows: list[Any]) -> int:
    """Roughly how much memory a batch takes, from a sample of its rows."""
    count = len(rows)
    if count <= 8:
        return sum(map(row_bytes, rows))
    sample = rows[:: max(1, count // 8)]
    return sum(map(row_bytes, sample)) * count // len(sample)
