"""Descriptors: the catalog as it is stored, one msgspec struct per object.

Object ids (``oid``) come from one cluster-wide counter starting at 16384, as users of Postgres expect; storage ids
(``storage_id``) name key prefixes and change when a table is truncated or rewritten.  A column is identified by its
``number`` (attnum), which is never reused; the row codec keeps column ``number`` at position ``number - 1``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pydistdb.sql.catalog.acl import AclItem


class Column(msgspec.Struct, frozen=True, array_like=True):
    number: int
    name: str
    type_oid: int
    modifier: int = -1
    not_null: bool = False
    default: str | None = None
    """SQL text of the default expression (or of the generation expression)."""
    identity: str = ""
    """'' none, 'a' always, 'd' by default."""
    generated: bool = False
    dropped: bool = False
    missing: Any = None
    """Storage value of rows written before the column existed."""
    collation: str = ""
    """As given (without its schema); empty for the type's own.  Text is ordered bytewise whatever it says."""
    storage: str = ""
    """SET STORAGE, as pg_attribute.attstorage has it; empty for the type's own.  Kept and shown, as compression is."""
    compression: str = ""
    statistics: int = -1
    """SET STATISTICS; -1 for default_statistics_target."""
    options: tuple[str, ...] = ()
    """n_distinct=… (pg_attribute.attoptions)."""


class IndexColumn(msgspec.Struct, frozen=True, array_like=True):
    column: int
    """Column number; 0 for an expression, and for the hidden row id of a table without primary key."""
    descending: bool = False
    nulls_first: bool = False
    expression: str = ""
    """SQL text over the table's columns, as pg_get_indexdef writes it; empty for a plain column."""
    type_oid: int = 0
    """The expression's type."""
    operator_class: str = ""
    """As given; those of btree all order alike here."""
    collation: str = ""
    statistics: int = -1
    """ALTER INDEX … SET STATISTICS, of an expression; -1 for default_statistics_target."""


class Index(msgspec.Struct, frozen=True, array_like=True):
    oid: int
    name: str
    storage_id: int
    """Distinguishes the indexes of a table in its key prefix; the primary index's rows hold the table."""
    columns: tuple[IndexColumn, ...]
    unique: bool = False
    primary: bool = False
    constraint: bool = False
    """Made by a PRIMARY KEY or UNIQUE constraint of the same name."""
    is_global: bool = True
    """False: the entries live under the row's hash prefix (SHARD BY HASH tables)."""
    predicate: str = ""
    """Only rows that meet it have an entry (SQL text, as pg_get_expr writes it)."""
    include: tuple[int, ...] = ()
    """Columns that the entries carry beside the key.  If there are any, entries hold the key's columns in full as well,
    so that reads need not go to the row."""
    nulls_not_distinct: bool = False
    deferrable: bool = False
    """The constraint is checked at the end of the statement, or of the transaction if ``deferred``: entries of one key
    may stand side by side meanwhile, so every entry's key ends with the primary key."""
    deferred: bool = False
    state: str = ""
    """'' public; while it is being built: 'd' delete-only, 'w' write-only (F1's states; see index_build.py); 'i' a
    build that failed."""
    clustered: bool = False
    """CLUSTER used it last (pg_index.indisclustered)."""
    method: str = "btree"
    """The access method: btree (hash is kept as one) or gin, an inverted index (inverted.py)."""
    options: tuple[str, ...] = ()
    """Storage parameters as in pg_class.reloptions."""

    @property
    def is_inverted(self) -> bool:
        """Its entries are the tokens of its keys."""
        return self.method == "gin"

    @property
    def is_readable(self) -> bool:
        """It has an entry for every row (that meets its predicate)."""
        return not self.state

    @property
    def is_plain(self) -> bool:
        """Its keys are columns of every row."""
        return not self.predicate and not any(column.expression for column in self.columns)

    @property
    def is_arbiter(self) -> bool:
        """Each key is a row's own at any moment: foreign keys and ON CONFLICT may rely on it."""
        return self.unique and not self.deferrable and not self.state


class Check(msgspec.Struct, frozen=True, array_like=True):
    oid: int
    name: str
    expression: str
    """SQL text over the table's columns."""
    validated: bool = True
    no_inherit: bool = False
    """Said, shown and dumped: there are no tables that could inherit it."""


class ForeignKey(msgspec.Struct, frozen=True, array_like=True):
    oid: int
    name: str
    columns: tuple[int, ...]
    referenced_table: int
    referenced_columns: tuple[int, ...]
    on_delete: str = "a"
    """a no action, r restrict, c cascade, n set null, d set default (pg_constraint's letters)."""
    on_update: str = "a"
    match_full: bool = False
    deferrable: bool = False
    deferred: bool = False
    validated: bool = True
    delete_columns: tuple[int, ...] = ()
    """The columns that ON DELETE SET NULL or SET DEFAULT sets, if not all of them."""


class Shard(msgspec.Struct, frozen=True, array_like=True):
    """One of the numbered shards of a table that is sharded by range, list or directory."""

    name: str
    values: tuple[str | None, ...] = ()
    """Range: the first value it holds (none: it is the lowest); list: the values it holds.  As text."""
    is_default: bool = False
    """List: it holds what no other shard does."""
    placement: tuple[tuple[str, str], ...] = ()
    """Where its replicas must be: ("region", "eu"), ("zone", "a") or ("node", "node3"); all of them hold."""


class Sharding(msgspec.Struct, frozen=True, array_like=True):
    columns: tuple[int, ...]
    group: int
    """The colocation group, whose tables share the prefix of hashes or shards.  Unless it is hash, mostly the table's own."""
    strategy: str = "hash"
    """hash, range, list or directory."""
    shards: tuple[Shard, ...] = ()
    """By number, unless it is hash."""
    directory: tuple[tuple[str, int], ...] = ()
    """Directory: the shards of values that were assigned to one, as text and number; others go by their hash."""


class Resharding(msgspec.Struct, frozen=True, array_like=True):
    """What a table that is being re-sharded will be (reshard_jobs.py)."""

    job: int
    """The job's number (IndexJob.index)."""
    state: str
    """'d': writers take rows away there, 'w': they keep them; as the states of an index."""
    version: int
    """Of the table that will be: the version in the rows that are written there."""
    storage_id: int
    indexes: tuple[Index, ...]
    next_index_id: int
    sharding: Sharding | None = None
    reference: bool = False


class StatisticsExpression(msgspec.Struct, frozen=True, array_like=True):
    text: str
    """SQL text over the table's columns, as an index's expressions are kept."""
    type_oid: int


class StatisticsObject(msgspec.Struct, frozen=True, array_like=True):
    """What CREATE STATISTICS made: ANALYZE looks at these columns and expressions together."""

    oid: int
    name: str
    schema: int
    columns: tuple[int, ...]
    """Their numbers, ascending."""
    expressions: tuple[StatisticsExpression, ...] = ()
    kinds: str = "dfm"
    """d ndistinct, f dependencies, m mcv (pg_statistic_ext.stxkind); empty for one expression alone."""
    owner: int = 10
    target: int = -1
    """ALTER STATISTICS … SET STATISTICS; -1 for the columns' own."""

    @property
    def attributes(self) -> tuple[int, ...]:
        """Column numbers, then -1, -2 … for the expressions: how what ANALYZE finds names them."""
        return (*self.columns, *(-1 - place for place in range(len(self.expressions))))


class Table(msgspec.Struct, frozen=True, array_like=True):
    oid: int
    name: str
    schema: int
    database: int
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...]
    """The primary index is the first; a table without primary key has one over its hidden row id, with oid 0."""
    checks: tuple[Check, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    referenced_by: tuple[int, ...] = ()
    """oids of tables with a foreign key to this one."""
    sharding: Sharding | None = None
    storage_id: int = 0
    next_index_id: int = 2
    kind: str = "r"
    """r table, v view, S sequence (pg_class.relkind)."""
    owner: int = 10
    version: int = 1
    row_type_oid: int = 0
    definition: str = ""
    """A view's SELECT; a sequence's parameters."""
    depends_on: tuple[int, ...] = ()
    """oids of the relations that a view's query names."""
    persistence: str = "p"
    """p permanent, t temporary, u unlogged (pg_class.relpersistence; unlogged tables are stored as permanent ones)."""
    on_commit: str = ""
    """Of a temporary table: what a commit does; '' nothing, 'delete' its rows, 'drop' it."""
    populated: bool = True
    """False for a materialized view that has no rows yet, and cannot be read."""
    options: tuple[str, ...] = ()
    """As in pg_class.reloptions: a view's check_option=local, a table's fillfactor=70."""
    reference: bool = False
    """SHARD BY REFERENCE: every node has a copy."""
    replica_identity: str = "d"
    """pg_class.relreplident: d default, f full, n nothing, i ``replica_index``."""
    replica_index: int = 0
    resharding: Resharding | None = None
    statistics_objects: tuple[StatisticsObject, ...] = ()
    """They go with the table; each has a name, a schema and an owner of its own."""


def table_to_be(table: Table) -> Table:
    """The table as it will be once it is re-sharded."""
    there = table.resharding
    assert there is not None
    return msgspec.structs.replace(
        table,
        version=there.version,
        storage_id=there.storage_id,
        indexes=there.indexes,
        next_index_id=there.next_index_id,
        sharding=there.sharding,
        reference=there.reference,
        columns=tuple(msgspec.structs.replace(column, missing=None) for column in table.columns),
        resharding=None,
    )


class Argument(msgspec.Struct, frozen=True, array_like=True):
    """An argument of a function; ``mode`` is i(n), o(ut), b(oth), v(ariadic) or t(able column)."""

    name: str
    type_oid: int
    mode: str = "i"
    default: str | None = None
    """SQL text."""
    default_oid: int = 0
    """The default's own type, where the argument's is polymorphic."""


class Routine(msgspec.Struct, frozen=True, array_like=True):
    """A function or procedure written in SQL."""

    oid: int
    name: str
    schema: int
    database: int
    arguments: tuple[Argument, ...]
    return_type: int
    """pg_proc.prorettype: a type, void, record, or the row type of a table."""
    body: str
    """The statements; for the standard's forms the text of what RETURN or BEGIN ATOMIC hold."""
    returns_set: bool = False
    kind: str = "f"
    """f function, p procedure."""
    form: str = ""
    """'' a string body, 'return' and 'atomic' the SQL standard's."""
    row_of: int = 0
    """The table (or view) whose row type is returned."""
    strict: bool = False
    volatility: str = "v"
    security_definer: bool = False
    leakproof: bool = False
    parallel: str = "u"
    cost: float = 100.0
    rows: float = 0.0
    owner: int = 10
    version: int = 1
    depends_on: tuple[int, ...] = ()
    """oids of relations and routines that a body of the standard's form uses; string bodies depend on nothing."""
    search_path: str | None = None
    """SET search_path of the function, as the setting's text."""


class Schema(msgspec.Struct, frozen=True, array_like=True):
    oid: int
    name: str
    database: int
    owner: int = 10
    session: tuple[int, ...] = ()
    """(node, process id) of the session whose temporary objects it holds; empty for a schema that stays."""


class DatabaseDescriptor(msgspec.Struct, frozen=True, array_like=True):
    oid: int
    name: str
    owner: int = 10
    connection_limit: int = -1
    allows_connections: bool = True
    is_template: bool = False


def accepts_connections(database: DatabaseDescriptor) -> bool:
    """pg_database.datallowconn; template0 stays as it is."""
    return database.allows_connections and database.name != "template0"


class ColumnStatistics(msgspec.Struct, frozen=True, array_like=True):
    """What ANALYZE found about a column; values are storage values."""

    null_fraction: float = 0.0
    distinct: float = -1.0
    """Number of distinct values; if negative, minus their share of all rows (pg_statistic.stadistinct)."""
    average_width: int = 8
    minimum: Any = None
    maximum: Any = None
    common_values: tuple[Any, ...] = ()
    common_frequencies: tuple[float, ...] = ()
    histogram: tuple[Any, ...] = ()
    """Bounds of equally populated buckets of the values that are not common; empty if there is no order."""


class CommonCombination(msgspec.Struct, frozen=True, array_like=True):
    values: tuple[Any, ...]
    """One per attribute, as stored."""
    frequency: float
    base_frequency: float
    """What it would be if the attributes had nothing to do with one another."""


class JointStatistics(msgspec.Struct, frozen=True, array_like=True):
    """What ANALYZE found for a statistics object, by its ``attributes``."""

    distinct: tuple[tuple[tuple[int, ...], float], ...] = ()
    """How many combinations of some attributes there are."""
    dependencies: tuple[tuple[tuple[int, ...], float], ...] = ()
    """The share of rows in which all attributes but the last say what the last is."""
    common: tuple[CommonCombination, ...] = ()
    expressions: tuple[ColumnStatistics, ...] = ()


class TableStatistics(msgspec.Struct, frozen=True, array_like=True):
    rows: float
    bytes_per_row: float = 0.0
    columns: dict[int, ColumnStatistics] = {}
    """By column number."""
    analyzed_at: int = 0
    """timestamptz: microseconds since 2000-01-01 UTC."""
    automatic: bool = False
    """Nobody asked for it."""
    joint: dict[int, JointStatistics] = {}
    """By the oid of a statistics object."""
    expressions: dict[str, ColumnStatistics] = {}
    """Of the expressions of indexes, by their text."""


class ColocationGroup(msgspec.Struct, frozen=True, array_like=True):
    """SHARD BY HASH tables whose shard columns have the same key kinds share one, unless they ask otherwise; tables SHARD BY
    RANGE or LIST that were colocated share one, which has a name (colocation.py)."""

    group: int
    database: int
    kinds: tuple[str, ...]
    """Empty for RANGE and LIST."""
    shards: int
    """Pieces the hash space was split into when the group was made; how many shards there are."""
    requested_shards: int = 0
    """What SHARDS n asked for; 0: nothing."""
    name: str = ""
    """Of RANGE and LIST: what COLOCATE IN GROUP calls it."""


class DefaultAcl(msgspec.Struct, frozen=True, array_like=True):
    """ALTER DEFAULT PRIVILEGES: the privileges of what a role makes from now on.

    Without a schema it takes the place of the built-in defaults, with one it is added to them."""

    oid: int
    items: tuple[AclItem, ...]


class IndexJob(msgspec.Struct, frozen=True, array_like=True):
    """An index that is being built while writers go on (index_jobs.py), stored under the index's oid; or a table that is
    re-sharded (reshard_jobs.py), under an oid of its own."""

    database: int
    table: int
    index: int
    node: int
    """Who builds it."""
    beat: int = 0
    """Grows as the builder gets on: one that stands still has lost its builder."""
    position: bytes = b""
    """Rows with keys below have their entries; empty: the build has not begun."""
    rows_done: int = 0
    rows_total: int = 0
    process_id: int = 0
    """The session that asked for it, as long as that is on ``node``."""
    phase: str = "initializing"
    kind: str = ""
    """'' an index, 'reshard' a table."""
    canceled: bool = False
    """Somebody wants it undone."""


class Garbage(msgspec.Struct, frozen=True, array_like=True):
    """Storage that no descriptor names any more: spans [start, end), of which only the keys with ``identity`` at bytes
    7..13 go if that is not empty (tables of a colocation group interleave)."""

    spans: tuple[tuple[bytes, bytes], ...]
    identity: bytes = b""
