"""Types, functions, operators and casts as data: what the binder resolves against and the executor calls.

Runtime values
--------------
Inside the database a SQL value is a plain Python object, chosen so that comparison and hashing are the type's own and
the msgpack row codec takes most of them as they are:

==================  ============================================================================================
bool                bool
int2 int4 int8 oid  int (reg* types too: their oid)
float4 float8       float (float4 rounded to single precision)
numeric             decimal.Decimal (NaN and ±Infinity included)
text varchar char   str (char(n) blank-padded as stored); name, unknown, json and jsonb (canonical text) too
bytea               bytes
uuid                bytes, 16 long
date                int, days since 2000-01-01; ±infinity are DATE_INFINITY / -DATE_INFINITY (postgres's own ends)
time                int, microseconds since midnight
timetz              (microseconds of local time, zone seconds west of UTC)
timestamp(tz)       int, microseconds since 2000-01-01 (UTC for timestamptz); ±infinity as Postgres's int64 ends
interval            Interval(months, days, microseconds)
arrays              PgArray (list of items and lower bounds; see arrays.py)
row values          tuple
NULL                None
==================  ============================================================================================

A *storage value* is what goes into the row codec; it differs from the runtime value only for numeric (str), interval and
timetz (list) and arrays: ``TypeIO.to_storage`` / ``from_storage`` are None where it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple


class Interval(NamedTuple):
    """A span of time in Postgres's three fields, which do not convert into one another."""

    months: int
    days: int
    microseconds: int


@dataclass(frozen=True, slots=True)
class SqlType:
    """A data type with its modifier (varchar length, numeric precision and scale) as in pg_type and atttypmod.

    Compare ``oid`` where the modifier does not matter.
    """

    oid: int
    name: str
    """The name in pg_type: int4, not integer."""
    length: int
    """typlen: bytes, -1 for varying, -2 for C strings."""
    category: str
    """typcategory: N numeric, S string, D date/time, B boolean, A array, U user-defined, …"""
    preferred: bool = False
    element_oid: int = 0
    """The item type's oid when this is an array type, else 0."""
    array_oid: int = 0
    """The oid of the array of this, 0 if there is none."""
    modifier: int = -1

    def with_modifier(self, modifier: int) -> SqlType:
        return self if modifier == self.modifier else replace(self, modifier=modifier)

    @property
    def is_array(self) -> bool:
        return self.element_oid != 0


@dataclass(frozen=True, slots=True)
class TypeIO:
    """How values of one type are read, written, stored and keyed.

    ``parse(text, modifier, context)`` and ``decode(bytes)`` raise DatabaseError (22P02, 22003, …) on bad input.
    ``format(value, context)`` gives Postgres's text; ``encode(value)`` its binary format (the bytes after the length).
    """

    parse: Callable[[str, int, EvalContext], Any]
    format: Callable[[Any, EvalContext], str]
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    key_kind: str | None
    """Which pydistdb_storage.keys codec orders it (``"int"``, ``"float"``, ``"decimal"``, ``"text"``, ``"bytes"``,
    ``"bool"``, ``"interval"``, ``"timetz"``, ``"uuid"``); None if the type cannot be an index key."""
    to_storage: Callable[[Any], Any] | None = None
    from_storage: Callable[[Any], Any] | None = None


class EvalContext:
    """What stable and volatile functions and date/time formats may look at; one per statement execution.

    ``timestamptz`` values are in microseconds since 2000-01-01 UTC.
    """

    __slots__ = (
        "catalog",
        "database_name",
        "effects",
        "extra",
        "resources",
        "role",
        "session_user",
        "settings",
        "statement_timestamp",
        "timezone",
        "transaction_timestamp",
        "user",
    )

    def __init__(self) -> None:
        self.transaction_timestamp = 0
        self.statement_timestamp = 0
        self.timezone = "UTC"
        self.user = self.session_user = "postgres"
        """current_user and session_user, by name."""
        self.role = 10
        """current_user's oid: whose privileges count."""
        self.database_name = "postgres"
        self.settings: dict[str, str] = {}
        self.catalog: Any = None
        """The session's CatalogView (for reg* types and catalog functions)."""
        self.extra: Any = None
        """The session, for functions that act on it (set_config, pg_backend_pid)."""
        self.resources: Any = None
        """The session's SessionResources: what its queries may keep in memory and on disk."""
        self.effects: Any = None
        """What the row's functions with effects have given, while it may be evaluated again (functions/effects.py)."""


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A row of pg_proc with its Python body.

    ``implementation`` takes runtime values (after an EvalContext if ``needs_context``); for ``strict`` functions it is
    never called with None.  ``inline`` is a Python expression template over ``{0}``, ``{1}``… that the code generator may
    use instead of a call; it must behave exactly as the body does for non-null arguments.
    """

    oid: int
    name: str
    argument_types: tuple[SqlType, ...]
    return_type: SqlType
    implementation: Callable[..., Any]
    strict: bool = True
    volatility: str = "i"
    """i immutable, s stable, v volatile."""
    variadic: bool = False
    """The last argument type is an array that collects the remaining arguments."""
    returns_set: bool = False
    """``implementation`` returns an iterable: of values, or of tuples for several ``out_columns``."""
    out_columns: tuple[tuple[str, SqlType], ...] = ()
    needs_context: bool = False
    inline: str | None = None
    default_count: int = 0
    """How many trailing arguments may be left out (``implementation`` has defaults for them)."""
    argument_names: tuple[str, ...] = ()
    """For named notation, ``f(days => 3)``; given only where there are defaults."""
    default_values: tuple[Any, ...] = ()
    """The runtime values of the trailing ``default_count`` arguments, for calls that leave out one in the middle."""
    schema: str = "pg_catalog"
    window: bool = False
    """A pure window function (row_number, lag, …): ``implementation`` works on a partition, see functions/window.py."""
    specialize: Callable[[tuple[SqlType, ...], SqlType], Function] | None = None
    """For polymorphic functions whose body depends on the actual types (to_json, array_agg, ``=`` on arrays): makes the
    concrete Function from the actual argument types and result type.  The binder calls
    ``functions.registry.specialize(function, argument_types, return_type)``, which caches, once it has resolved a call;
    the unspecialized body must not be run.  VARIADIC "any" functions get their actual arguments one by one."""


class HypotheticalPlace(NamedTuple):
    """Where a row would stand among ``rows`` sorted ones: how many come before it, how many groups of peers these
    make, and how many rows are its peers."""

    rows: int = 0
    before: int = 0
    groups_before: int = 0
    peers: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class AggregateFunction:
    """An aggregate as four Python functions over a state.

    ``accumulate(state, *args) -> state`` per row; ``combine(state, state) -> state`` joins partial states from other
    fragments (None: not splittable), and may change the first one, never the second; ``finish(state) -> value``.
    ``strict``: rows with a NULL argument are skipped.
    ``batch(values) -> state`` does a whole list of non-null single arguments at once (sum, min, max, count).
    """

    oid: int
    name: str
    argument_types: tuple[SqlType, ...]
    return_type: SqlType
    initial: Callable[[], Any]
    accumulate: Callable[..., Any]
    finish: Callable[[Any], Any]
    combine: Callable[[Any, Any], Any] | None = None
    strict: bool = True
    batch: Callable[[list[Any]], Any] | None = None
    variadic: bool = False
    ordered_set: bool = False
    """WITHIN GROUP: a call's arguments are the direct arguments and then the ordered expressions; ``accumulate`` gets all
    of them for each row, rows come sorted."""
    direct_count: int = 0
    """How many of ``argument_types`` are direct arguments, if ``ordered_set``."""
    hypothetical: bool = False
    """A hypothetical-set aggregate: one direct argument per ordered expression; ``finish`` gets the HypotheticalPlace of
    a row of these among the rows."""
    needs_context: bool = False
    """``finish`` takes an EvalContext after the state."""
    specialize: Callable[[tuple[SqlType, ...], SqlType], AggregateFunction] | None = None
    """As in Function."""
    schema: str = "pg_catalog"


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """A row of pg_operator: ``left`` is None for prefix operators."""

    oid: int
    name: str
    left: SqlType | None
    right: SqlType
    function: Function
    commutator: str | None = None
    negator: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Cast:
    """A row of pg_cast: ``context`` is i(mplicit), a(ssignment) or e(xplicit).

    ``function`` is None for binary-coercible casts.  Length coercion (varchar(n), numeric(p,s), …) is a cast from the type
    to itself; its function takes (value, modifier, is_explicit).
    """

    source: SqlType
    target: SqlType
    context: str
    function: Function | None
