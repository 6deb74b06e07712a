"""Utility statements: what is neither a query nor a change of rows, as the binder hands it on.

Names are as written (already folded to lower case by the scanner unless quoted); expressions stay SQL text, because the
catalog stores them so.  ``bind.parse`` fills these from the parser's tree; session.py and catalog/ddl execute them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydistdb.sql.types.base import SqlType


@dataclass(frozen=True, slots=True)
class Name:
    """A possibly qualified object name."""

    name: str
    schema: str | None = None
    catalog: str | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Utility:
    """Base of all utility statements."""


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """A role as written.  ``kind``: name, current (CURRENT_USER, CURRENT_ROLE), session (SESSION_USER) or public."""

    kind: str
    name: str = ""


# ---------------------------------------------------------------------------------------------- transactions, settings


@dataclass(frozen=True, slots=True)
class Begin(Utility):
    isolation: str | None = None
    """'read committed', 'repeatable read', 'serializable' or 'read uncommitted'."""
    read_only: bool | None = None
    deferrable: bool | None = None


@dataclass(frozen=True, slots=True)
class Commit(Utility):
    chain: bool = False


@dataclass(frozen=True, slots=True)
class Rollback(Utility):
    chain: bool = False


@dataclass(frozen=True, slots=True)
class Savepoint(Utility):
    """``action``: savepoint, release, rollback_to."""

    action: str
    name: str


@dataclass(frozen=True, slots=True)
class SetTransaction(Utility):
    isolation: str | None
    read_only: bool | None
    session: bool
    deferrable: bool | None = None


@dataclass(frozen=True, slots=True)
class SetConstraints(Utility):
    """``names`` None: ALL."""

    names: tuple[Name, ...] | None
    deferred: bool


@dataclass(frozen=True, slots=True)
class SetVariable(Utility):
    """``values`` None: SET x TO DEFAULT or RESET x; ``name`` 'all' with values None: RESET ALL."""

    name: str
    values: tuple[str, ...] | None
    local: bool = False


@dataclass(frozen=True, slots=True)
class ShowVariable(Utility):
    name: str


@dataclass(frozen=True, slots=True)
class Discard(Utility):
    what: str


# ------------------------------------------------------------------------------------------------ statements and plans


@dataclass(frozen=True, slots=True)
class Explain(Utility):
    """``query`` is the text of the statement explained; ``position`` its offset in the whole text."""

    query: str
    analyze: bool = False
    verbose: bool = False
    costs: bool = True
    format: str = "text"
    options: tuple[tuple[str, str], ...] = ()
    position: int = 0


@dataclass(frozen=True, slots=True)
class Prepare(Utility):
    name: str
    parameter_types: tuple[SqlType, ...]
    query: str


@dataclass(frozen=True, slots=True)
class Execute(Utility):
    name: str
    arguments: tuple[str, ...]
    """SQL text of each argument expression."""


@dataclass(frozen=True, slots=True)
class Deallocate(Utility):
    name: str | None


@dataclass(frozen=True, slots=True)
class Copy(Utility):
    """``query`` for COPY (SELECT …) TO; only STDIN and STDOUT (``filename`` None) are served.

    ``options``: format text|csv|binary, delimiter, null, header, quote, escape, encoding, force_quote, force_not_null,
    force_null, freeze, default, as lower-case text."""

    table: Name | None
    query: str | None
    columns: tuple[str, ...]
    is_from: bool
    filename: str | None
    options: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    where: str | None = None


@dataclass(frozen=True, slots=True)
class Vacuum(Utility):
    """VACUUM and ANALYZE; ``tables`` empty: the whole database."""

    tables: tuple[Name, ...]
    analyze: bool
    vacuum: bool
    verbose: bool = False
    full: bool = False


@dataclass(frozen=True, slots=True)
class LockTable(Utility):
    tables: tuple[Name, ...]
    mode: int
    nowait: bool


@dataclass(frozen=True, slots=True)
class Checkpoint(Utility):
    pass


# ------------------------------------------------------------------------------------------------ cursors


@dataclass(frozen=True, slots=True)
class DeclareCursor(Utility):
    """``scroll`` None: as the query allows.  The query itself is planned beside this (``bind.CursorQuery``)."""

    name: str
    scroll: bool | None = None
    binary: bool = False
    hold: bool = False
    insensitive: bool = False


@dataclass(frozen=True, slots=True)
class Fetch(Utility):
    """FETCH, or MOVE if ``move``.  ``direction``: forward, backward, absolute, relative; ``count`` None: ALL."""

    cursor: str
    direction: str
    count: int | None
    move: bool = False


@dataclass(frozen=True, slots=True)
class CloseCursor(Utility):
    """``name`` None: CLOSE ALL."""

    name: str | None


# ------------------------------------------------------------------------------------------------ notifications


@dataclass(frozen=True, slots=True)
class Listen(Utility):
    channel: str


@dataclass(frozen=True, slots=True)
class Unlisten(Utility):
    """``channel`` None: UNLISTEN *."""

    channel: str | None


@dataclass(frozen=True, slots=True)
class Notify(Utility):
    channel: str
    payload: str


# ------------------------------------------------------------------------------------------------ schema


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


@dataclass(frozen=True, slots=True)
class ShardBy:
    """``SHARD BY HASH (columns) [SHARDS n] [COLOCATE WITH table]``."""

    columns: tuple[str, ...]
    shards: int | None = None
    colocate_with: Name | None = None


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
class TypeReference:
    """A type as written; ``type`` None: no type of that name is built in, so it may be a table's row type."""

    name: Name
    type: SqlType | None
    is_array: bool = False
    position: int | None = None


@dataclass(frozen=True, slots=True)
class ArgumentSpec:
    """``mode``: i, o, b, v or t, as in pg_proc.proargmodes; ``default`` is SQL text."""

    name: str
    mode: str
    type: TypeReference
    default: str | None = None


@dataclass(frozen=True, slots=True)
class RoutineName:
    """A function by name and input argument types; None: by its name alone."""

    name: Name
    arguments: tuple[TypeReference, ...] | None


@dataclass(frozen=True, slots=True)
class CreateRoutine(Utility):
    """``kind``: f function, p procedure.  ``form``: '' for a string body, 'return' or 'atomic'.

    ``options``: language, volatility, strict, security, leakproof, parallel, cost, rows, set, window, support."""

    name: Name
    kind: str
    arguments: tuple[ArgumentSpec, ...]
    returns: TypeReference | None
    returns_set: bool
    body: str | None
    form: str = ""
    replace: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    body_position: int | None = None
    """Where the body starts in the client's text, if it stands there as it is (no doubled quotes, no escapes)."""


@dataclass(frozen=True, slots=True)
class AlterRoutine(Utility):
    """Options as in CREATE, or one of the three others."""

    kind: str
    routine: RoutineName
    options: dict[str, Any] = field(default_factory=dict)
    new_name: str = ""
    new_schema: str = ""


@dataclass(frozen=True, slots=True)
class DropRoutines(Utility):
    """``kind``: function, procedure or routine (either)."""

    kind: str
    routines: tuple[RoutineName, ...]
    missing_ok: bool
    cascade: bool


@dataclass(frozen=True, slots=True)
class Call(Utility):
    """``arguments``: (name or '', SQL text)."""

    name: Name
    arguments: tuple[tuple[str, str], ...]
    variadic: bool = False
    position: int | None = None


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
    set_options, set_statistics."""

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
    """``kind``: table, index, view, schema, sequence, type, domain."""

    kind: str
    names: tuple[Name, ...]
    missing_ok: bool
    cascade: bool
    concurrently: bool = False


@dataclass(frozen=True, slots=True)
class CreateType(Utility):
    """``kind``: enum (with ``labels``) or composite (with ``attributes``)."""

    name: Name
    kind: str
    labels: tuple[str, ...] = ()
    attributes: tuple[ColumnSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class CreateDomain(Utility):
    """``default`` None: none of its own."""

    name: Name
    type: SqlType
    default: str | None = None
    not_null: bool = False
    checks: tuple[ConstraintSpec, ...] = ()
    collation: str | None = None


@dataclass(frozen=True, slots=True)
class AlterTypeAction:
    """``kind``: add_value, rename_value, rename, set_schema, owner_to; for domains set_default, drop_default,
    set_not_null, drop_not_null, add_constraint, drop_constraint, validate_constraint, rename_constraint; for composite
    types add_attribute, drop_attribute, alter_attribute, rename_attribute."""

    kind: str
    name: str = ""
    new_name: str = ""
    neighbor: str | None = None
    after: bool = True
    if_exists: bool = False
    """IF EXISTS, or IF NOT EXISTS."""
    expression: str | None = None
    constraint: ConstraintSpec | None = None
    column: ColumnSpec | None = None
    cascade: bool = False


@dataclass(frozen=True, slots=True)
class AlterType(Utility):
    """``kind``: type or domain, as written."""

    name: Name
    actions: tuple[AlterTypeAction, ...]
    kind: str = "type"


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
class Comment(Utility):
    kind: str
    name: tuple[str, ...]
    text: str | None
    routine: RoutineName | None = None


@dataclass(frozen=True, slots=True)
class Unsupported(Utility):
    """Anything else: executing it raises 0A000 naming ``what``."""

    what: str
