"""Statements that change the schema: databases, schemas, tables, views, indexes, sequences (see statements.py).

Expressions and queries stay SQL text, with their place in the client's text where an error may point there: the catalog
stores them so.

    CREATE TABLE t (a int DEFAULT 1 CHECK (a > 0))
        CreateTable(Name("t"), (ColumnSpec("a", int4, default="1", …),), …)    and the check as a ConstraintSpec

Types and routines are in type_statements.py, roles and privileges in role_statements.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pydistdb.sql.statements import Execute, Name, RoleSpec, RoutineName, Utility
from pydistdb.sql.types.base import SqlType


@dataclass(frozen=True, slots=True)
class CreateDatabase(Utility):
    name: str
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DropDatabase(Utility):
    name: str
    missing_ok: bool
    force: bool = False


@dataclass(frozen=True, slots=True)
class CreateSchema(Utility):
    """``name`` empty: that of the owner.  ``elements``: the texts of the CREATE statements that stand in it."""

    name: str
    if_not_exists: bool
    owner: RoleSpec | None = None
    elements: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AlterSchema(Utility):
    """RENAME TO."""

    name: str
    new_name: str


@dataclass(frozen=True, slots=True)
class CreateExtension(Utility):
    name: str
    if_not_exists: bool


@dataclass(frozen=True, slots=True)
class ForeignKeySpec:
    columns: tuple[str, ...]
    referenced: Name
    referenced_columns: tuple[str, ...]
    on_delete: str = "a"
    on_update: str = "a"
    match_full: bool = False
    delete_columns: tuple[str, ...] = ()
    """ON DELETE SET NULL or SET DEFAULT of these columns alone."""


@dataclass(frozen=True, slots=True)
class ConstraintSpec:
    """``kind``: primary, unique, check, foreign.  ``using_index`` for ADD CONSTRAINT … USING INDEX."""

    kind: str
    name: str | None = None
    columns: tuple[str, ...] = ()
    expression: str | None = None
    foreign: ForeignKeySpec | None = None
    using_index: str | None = None
    not_valid: bool = False
    position: int | None = None
    deferrable: bool = False
    deferred: bool = False
    nulls_not_distinct: bool = False
    include: tuple[str, ...] = ()
    no_inherit: bool = False


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    name: str
    type: SqlType
    not_null: bool = False
    default: str | None = None
    constraints: tuple[ConstraintSpec, ...] = ()
    """Column constraints other than NOT NULL and DEFAULT."""
    identity: str = ""
    generated: str | None = None
    serial: str = ""
    """'int2', 'int4' or 'int8' for smallserial, serial and bigserial."""
    collation: str | None = None
    position: int | None = None
    identity_options: tuple[tuple[str, int | str | bool | None], ...] = ()
    """Of the sequence behind an identity column."""
    storage: str = ""
    compression: str = ""


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """``SHARD name VALUES (…) [PLACED IN (…)]``; DEFAULT in place of values."""

    name: str
    values: tuple[str | None, ...] = ()
    is_default: bool = False
    placement: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ShardBy:
    """A SHARD BY clause; bind/sharding.py has its grammar."""

    columns: tuple[str, ...]
    shards: int | None = None
    colocate_with: Name | None = None
    strategy: str = "hash"
    """hash, range, list, directory, reference or none."""
    split_values: tuple[str, ...] = ()
    """RANGE: what its shards but the first begin with, as text."""
    pieces: tuple[ShardSpec, ...] = ()
    """LIST: the shards; DIRECTORY: what is assigned to some, which are named by their numbers."""
    colocation_group: str | None = None
    """COLOCATE IN GROUP: its name."""
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Reshard(Utility):
    """ALTER TABLE … SHARD BY …"""

    name: Name
    shard_by: ShardBy
    missing_ok: bool = False


@dataclass(frozen=True, slots=True)
class LikeClause:
    """LIKE in CREATE TABLE; ``position``: how many of the statement's own columns stand before it."""

    source: Name
    options: int
    position: int


@dataclass(frozen=True, slots=True)
class CreateTable(Utility):
    name: Name
    columns: tuple[ColumnSpec, ...]
    constraints: tuple[ConstraintSpec, ...]
    if_not_exists: bool = False
    temporary: bool = False
    shard_by: ShardBy | None = None
    like: tuple[LikeClause, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    on_commit: str = ""
    """Of a temporary table: 'delete', 'drop' or '' (nothing)."""
    unlogged: bool = False


@dataclass(frozen=True, slots=True)
class CreateTableAs(Utility):
    name: Name
    columns: tuple[str, ...]
    query: str
    with_data: bool = True
    if_not_exists: bool = False
    temporary: bool = False
    on_commit: str = ""
    unlogged: bool = False
    options: dict[str, str] = field(default_factory=dict)
    materialized: bool = False
    """CREATE MATERIALIZED VIEW."""
    position: int = 0
    """Where the query starts in the client's text."""
    execute: Execute | None = None
    """AS EXECUTE: the session puts its prepared statement's text in the place of ``query``."""


@dataclass(frozen=True, slots=True)
class RefreshView(Utility):
    """REFRESH MATERIALIZED VIEW."""

    name: Name
    concurrently: bool
    with_data: bool


@dataclass(frozen=True, slots=True)
class CreateView(Utility):
    """``query`` is the text of the view's SELECT; ``columns`` renames its first output columns."""

    name: Name
    columns: tuple[str, ...]
    query: str
    replace: bool = False
    temporary: bool = False
    options: tuple[tuple[str, str], ...] = ()
    """check_option (local, cascaded), security_barrier, security_invoker."""
    position: int = 0
    """Where the query starts in the client's text."""


@dataclass(frozen=True, slots=True)
class CreateSequence(Utility):
    """``options``: as, start, increment, minvalue, maxvalue, cache, cycle (None for NO MINVALUE and the like)."""

    name: Name
    options: tuple[tuple[str, int | str | bool | None], ...] = ()
    if_not_exists: bool = False
    temporary: bool = False


@dataclass(frozen=True, slots=True)
class AlterSequence(Utility):
    """``options`` as for CREATE SEQUENCE, and restart."""

    name: Name
    options: tuple[tuple[str, int | str | bool | None], ...] = ()
    missing_ok: bool = False


@dataclass(frozen=True, slots=True)
class AlterTableAction:
    """``kind``: add_column, drop_column, rename_column, rename_table, rename_constraint, set_default, drop_default,
    set_not_null, drop_not_null, alter_type, add_constraint, drop_constraint, validate_constraint, alter_constraint,
    add_identity, set_identity, drop_identity, drop_expression, cluster_on, set_without_cluster, set_schema, owner_to,
    set_options (a value of None: RESET), set_statistics, set_storage, set_compression, set_column_options, replica_identity."""

    kind: str
    name: str | None = None
    new_name: str | None = None
    column: ColumnSpec | None = None
    constraint: ConstraintSpec | None = None
    expression: str | None = None
    type: SqlType | None = None
    missing_ok: bool = False
    cascade: bool = False
    options: tuple[tuple[str, int | str | bool | None], ...] = ()
    owner: RoleSpec | None = None
    collation: str | None = None


@dataclass(frozen=True, slots=True)
class AlterTable(Utility):
    name: Name
    actions: tuple[AlterTableAction, ...]
    missing_ok: bool = False
    kind: str = "table"


@dataclass(frozen=True, slots=True)
class DropObjects(Utility):
    """``kind``: table, index, view, schema, sequence, type, domain, statistics."""

    kind: str
    names: tuple[Name, ...]
    missing_ok: bool
    cascade: bool
    concurrently: bool = False


@dataclass(frozen=True, slots=True)
class DropAbsent(Utility):
    """DROP of a kind of objects that there are none of; ``kind`` as messages call it."""

    kind: str
    names: tuple[Name, ...]
    missing_ok: bool
    tag: str
    relation: Name | None = None
    """Whose trigger, rule or policy it is."""
    method: str = ""
    """The access method of an operator class or family."""


@dataclass(frozen=True, slots=True)
class IndexElement:
    """One key of an index: a column's ``name``, or (None) an expression's SQL ``text``."""

    name: str | None
    text: str
    descending: bool = False
    nulls_first: bool | None = None
    operator_class: str = ""
    collation: str = ""


@dataclass(frozen=True, slots=True)
class CreateIndex(Utility):
    name: str | None
    table: Name
    columns: tuple[IndexElement, ...]
    unique: bool
    if_not_exists: bool = False
    concurrently: bool = False
    where: str | None = None
    include: tuple[str, ...] = ()
    method: str = "btree"
    nulls_not_distinct: bool = False
    options: dict[str, str] = field(default_factory=dict)
    tablespace: str | None = None


@dataclass(frozen=True, slots=True)
class Cluster(Utility):
    """``table`` None: all that have been clustered before."""

    table: Name | None
    index: str | None = None


@dataclass(frozen=True, slots=True)
class Reindex(Utility):
    """``kind``: index, table, schema, system, database."""

    kind: str
    name: Name
    concurrently: bool = False
    verbose: bool = False


@dataclass(frozen=True, slots=True)
class Truncate(Utility):
    tables: tuple[Name, ...]
    cascade: bool
    restart_identity: bool


@dataclass(frozen=True, slots=True)
class CreateStatistics(Utility):
    """``elements``: column names, and (as pairs with None) the SQL text of expressions."""

    name: Name | None
    if_not_exists: bool
    kinds: tuple[str, ...]
    elements: tuple[tuple[str | None, str], ...]
    tables: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class AlterStatistics(Utility):
    """RENAME TO, SET SCHEMA or SET STATISTICS (OWNER TO is AlterOwner)."""

    name: Name
    new_name: str | None = None
    new_schema: str | None = None
    target: int | None = None
    missing_ok: bool = False


@dataclass(frozen=True, slots=True)
class Comment(Utility):
    kind: str
    name: tuple[str, ...]
    text: str | None
    routine: RoutineName | None = None
