"""Types that users make: enums, domains, composite types, and the row type that every table has.

A type's identity (oid, the oid of its arrays, its kind) never changes and its oid is never given to another, so it may be
known to the whole process: ``learn`` enters it beside the built-in ones, and ``type_by_oid`` and ``io`` find it there.
What *can* change (names, labels, attributes, constraints) is looked up in the catalog that the session sees
(``EvalContext.catalog``), so that an ALTER TYPE shows to others only once it is committed; where there is no session at
hand (binary formats) the newest committed definition serves.

The value of an enum is its *rank*: a number by which its labels sort, and which they keep for life.  So enums are stored,
compared, hashed and indexed as integers, and renaming a label touches no row::

    CREATE TYPE mood AS ENUM ('sad', 'happy')          sad = 1 · 2³², happy = 2 · 2³²
    ALTER TYPE mood ADD VALUE 'ok' BEFORE 'happy'      ok = 3 · 2³¹, half way

``rank / 2³²`` is what Postgres keeps as pg_enum.enumsortorder.

Source: PostgreSQL 15 manual, 8.7, 8.16, 8.18; catalogs pg_type, pg_enum.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any, TypeVar

import msgspec

from pydistdb.sql.errors import DatabaseError, InvalidTextRepresentation, UndefinedObject
from pydistdb.sql.types import known
from pydistdb.sql.types.base import EvalContext, SqlType, TypeIO
from pydistdb.sql.types.reg import quote_identifier, user_type_name

_Cache = TypeVar("_Cache", bound=MutableMapping[Any, Any])

FIRST_USER_OID = 16384
RANK_GAP = 1 << 32
MOST_DROPPED_KEPT = 1_000
"""Dropped types that running statements may still meet; older ones are forgotten."""


class EnumLabel(msgspec.Struct, frozen=True, array_like=True):
    oid: int
    rank: int
    name: str


class DomainCheck(msgspec.Struct, frozen=True, array_like=True):
    oid: int
    name: str
    expression: str
    """SQL text over VALUE."""
    validated: bool = True


class Attribute(msgspec.Struct, frozen=True, array_like=True):
    """A field of a composite type; its value is at position ``number - 1``, dropped or not."""

    number: int
    name: str
    type_oid: int
    modifier: int = -1
    dropped: bool = False


class UserType(msgspec.Struct, frozen=True, array_like=True):
    """The descriptor of a type; ``kind`` as in pg_type.typtype: e enum, d domain, c composite."""

    oid: int
    name: str
    schema: int
    database: int
    kind: str
    array_oid: int
    owner: int = 10
    labels: tuple[EnumLabel, ...] = ()
    """Of an enum, by rank."""
    unsafe: tuple[int, ...] = ()
    """Ranks added by the transaction that wrote this; while it is open, they cannot be used."""
    base_oid: int = 0
    """What a domain is over (another domain, perhaps), with its modifier."""
    base_modifier: int = -1
    not_null: bool = False
    default: str | None = None
    checks: tuple[DomainCheck, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    relation: int = 0
    """The oid of a composite type's row in pg_class; the table's, for a row type."""


class TypeEntry:
    """A definition with what is derived from it."""

    __slots__ = ("array", "checks", "definition", "is_committed", "labels", "ranks", "type")

    def __init__(self, definition: UserType) -> None:
        self.definition = definition
        self.type = _sql_type(definition)
        self.array = SqlType(definition.array_oid, array_name(definition.name), -1, "A", element_oid=definition.oid)
        self.labels: dict[int, str] = {label.rank: label.name for label in definition.labels}
        self.ranks: dict[str, int] = {label.name: label.rank for label in definition.labels}
        self.is_committed = False
        self.checks: Any = None
        """A domain's CHECK conditions, compiled (domains.py)."""


class RowTypeEntry(TypeEntry):
    """The row type of a table; its definition is made from the table when it is first asked for."""

    __slots__ = ("_definition", "_make", "relation")

    def __init__(self, oid: int, name: str, relation: int, make: Callable[[], UserType]) -> None:
        self.relation = relation
        self.type = SqlType(oid, name, -1, "C", array_oid=oid + 1)
        self.array = SqlType(oid + 1, array_name(name), -1, "A", element_oid=oid)
        self.labels = {}
        self.ranks = {}
        self.checks = None
        self.is_committed = False
        self._make = make
        self._definition: UserType | None = None

    @property
    def definition(self) -> UserType:  # type: ignore[override]
        if self._definition is None:
            self._definition = self._make()
            _learn_fields(self._definition, True)
        return self._definition


def array_name(name: str) -> str:
    """What the array type of a type is called."""
    data = ("_" + name).encode()[:63]
    return data.decode(errors="ignore")


def _sql_type(definition: UserType) -> SqlType:
    oid, name, array_oid = definition.oid, definition.name, definition.array_oid
    match definition.kind:
        case "e":
            return SqlType(oid, name, 4, "E", array_oid=array_oid)
        case "d":
            base = known.TYPES_BY_OID[definition.base_oid]
            return SqlType(oid, name, base.length, base.category, array_oid=array_oid)
        case _:
            return SqlType(oid, name, -1, "C", array_oid=array_oid)


# ------------------------------------------------------------------------------------------------ what the process knows

_known: dict[int, TypeEntry] = {}
"""By the type's oid, and by that of its arrays."""
_dropped: deque[int] = deque()


_identities: dict[int, tuple[str, int]] = {}
_derived: list[MutableMapping[Any, Any]] = []
"""What is kept elsewhere by types' oids."""


def derived_from_types(cache: _Cache) -> _Cache:
    """Note a cache by types' oids.  In one process, oids mean the same for ever unless it meets another cluster (as
    tests do): then its entries for users' types go."""
    _derived.append(cache)
    return cache


def _is_users(key: Any) -> bool:
    if isinstance(key, tuple):
        return any(_is_users(part) for part in key)
    return isinstance(key, int) and key >= FIRST_USER_OID


def _forget_derived() -> None:
    for cache in _derived:
        for key in [key for key in cache if _is_users(key)]:
            del cache[key]


def learn(entry: TypeEntry, committed: bool, is_new: bool) -> None:
    """Enter a type, or its new definition; what is not committed does not take the place of what is."""
    definition = entry.definition
    old = _known.get(definition.oid)
    if is_new:
        _identify(entry)
        _fields.pop(definition.oid, None)
    if definition.kind == "c":
        _learn_fields(definition, committed)
    if old is not None and old.is_committed and not committed and not is_new:
        return
    entry.is_committed = committed
    _known[definition.oid] = entry
    known.TYPES_BY_OID[definition.oid] = entry.type
    known.TYPES_BY_OID[definition.array_oid] = entry.array


_fields: dict[int, tuple[list[int], dict[str, Any]]] = {}
"""Of composite types: the types of all fields by slot (0 for dropped ones), and what is derived from them.  Fields of
transactions that are still open are here too, since these store values with them."""


def _learn_fields(definition: UserType, committed: bool) -> None:
    types, cache = _fields.setdefault(definition.oid, ([], {}))
    for attribute in definition.attributes:
        while len(types) < attribute.number:
            types.append(0)
        if not attribute.dropped:
            types[attribute.number - 1] = attribute.type_oid
        elif committed:
            types[attribute.number - 1] = 0
    cache.clear()


def field_types(oid: int) -> list[int]:
    """The types of a composite type's fields by slot; 0 for those that are dropped."""
    if oid not in _fields:
        entry = _known[oid]
        _learn_fields(entry.definition, True)
    return _fields[oid][0]


def field_cache(oid: int) -> dict[str, Any]:
    """What has been derived from ``field_types``."""
    field_types(oid)
    return _fields[oid][1]


def _identify(entry: TypeEntry) -> None:
    """Note what never changes about a type and its arrays; what was derived from anything else is forgotten."""
    kind, base = ("c", 0) if isinstance(entry, RowTypeEntry) else (entry.definition.kind, entry.definition.base_oid)
    for oid, identity in ((entry.type.oid, (kind, base)), (entry.array.oid, ("array", entry.type.oid))):
        if _identities.setdefault(oid, identity) != identity:
            _identities[oid] = identity
            _known.pop(oid, None)
            _forget_derived()


def learn_row_type(entry: RowTypeEntry, committed: bool, is_new: bool) -> None:
    """Enter the row type of a table; what it consists of is looked at when somebody asks."""
    old = _known.get(entry.type.oid)
    if is_new:
        _identify(entry)
    if old is not None and old.is_committed and not committed and not is_new:
        return
    entry.is_committed = committed
    _known[entry.type.oid] = entry
    _fields.pop(entry.type.oid, None)
    known.TYPES_BY_OID[entry.type.oid] = entry.type
    known.TYPES_BY_OID[entry.array.oid] = entry.array


def forget(oid: int) -> None:
    """Note that a type was dropped."""
    _dropped.append(oid)
    while len(_dropped) > MOST_DROPPED_KEPT:
        entry = _known.pop(_dropped.popleft(), None)
        if entry is not None:
            _fields.pop(entry.type.oid, None)
            _identities.pop(entry.type.oid, None)
            _identities.pop(entry.array.oid, None)
            known.TYPES_BY_OID.pop(entry.type.oid, None)
            known.TYPES_BY_OID.pop(entry.array.oid, None)


def committed_entry(oid: int) -> TypeEntry | None:
    """The newest definition that this process has."""
    return _known.get(oid)


def entry_of(oid: int, context: EvalContext | None) -> TypeEntry:
    """The definition as the session sees it."""
    catalog = None if context is None else context.catalog
    entry = None if catalog is None else catalog.type_entry(oid)
    if entry is None:
        entry = _known.get(oid)
        if entry is None:
            raise UndefinedObject(f"type with OID {oid} does not exist")
    return entry


def shown_name(oid: int, context: EvalContext | None) -> str:
    """The type's name as it must be written: qualified where the search path would not find it."""
    return user_type_name(oid, context) or quote_identifier(entry_of(oid, context).definition.name)


# ------------------------------------------------------------------------------------------------ enums


def enum_rank(oid: int, label: str, context: EvalContext | None) -> int:
    """The value of a label."""
    entry = entry_of(oid, context)
    rank = entry.ranks.get(label)
    if rank is None:
        raise InvalidTextRepresentation(f'invalid input value for enum {shown_name(oid, context)}: "{label}"')
    check_safe(entry, rank, context)
    return rank


def check_safe(entry: TypeEntry, rank: int, context: EvalContext | None) -> None:
    """Refuse a label that ALTER TYPE has added in a transaction that is still open (Postgres does: a rollback would
    leave it in indexes)."""
    if entry.is_committed or rank not in entry.definition.unsafe:
        return
    name = shown_name(entry.definition.oid, context)
    raise DatabaseError.of(
        "55P04",
        f'unsafe use of new value "{entry.labels[rank]}" of enum type {name}',
        hint="New enum values must be committed before they can be used.",
    )


def enum_label(oid: int, rank: int, context: EvalContext | None) -> str:
    label = entry_of(oid, context).labels.get(rank)
    if label is None:
        # A label that this session's catalog does not have: added since its transaction began.
        newest = _known.get(oid)
        label = newest.labels.get(rank) if newest is not None else None
    if label is None:
        raise DatabaseError.of("22P03", f"invalid internal value for enum: {rank}")
    return label


def enum_io(oid: int) -> TypeIO:
    """How values of an enum are read and written: in both formats by their label."""

    def parse(text: str, modifier: int, context: EvalContext) -> int:
        return enum_rank(oid, text, context)

    def format_(value: int, context: EvalContext | None) -> str:
        return enum_label(oid, value, context)

    def decode(data: bytes) -> int:
        try:
            return enum_rank(oid, bytes(data).decode(), None)
        except UnicodeDecodeError:
            raise DatabaseError.of("22021", 'invalid byte sequence for encoding "UTF8"') from None

    def encode(value: int) -> bytes:
        return enum_label(oid, value, None).encode()

    return TypeIO(parse, format_, decode, encode, "int")


def user_io(oid: int) -> TypeIO | None:
    """How values of a user's type are read and written; None if ``oid`` is none."""
    entry = _known.get(oid)
    if entry is None:
        return None
    maker = IO_MAKERS.get(entry.definition.kind)
    return None if maker is None else maker(oid)


IO_MAKERS: dict[str, Callable[[int], TypeIO]] = {"e": enum_io}
"""By kind; the modules for domains and composite types enter theirs."""
