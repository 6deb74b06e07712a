"""Utility statements: what is neither a query nor a change of rows, as the binder hands it on.

Here are the statements of a session: transactions, settings, statements about statements, cursors, notifications; and
``Utility``, ``Name`` and the like, of which all are made.  What changes the schema is in schema_statements.py, types and
routines in type_statements.py, roles and privileges in role_statements.py.

    FETCH BACKWARD 5 FROM c        Fetch("c", "backward", 5)
    LOCK TABLE a, s.b              LockTable((Name("a"), Name("b", "s")), 8)

Names are as written (already folded to lower case by the scanner unless quoted); expressions stay SQL text, because the
catalog stores them so.  ``bind/utility.py`` fills these from the parser's tree; ``session/utility.py`` and
``catalog/ddl.py`` carry them out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class TypeReference:
    """A type as written; ``type`` None: no type of that name is built in, so it may be a table's row type."""

    name: Name
    type: SqlType | None
    is_array: bool = False
    position: int | None = None


@dataclass(frozen=True, slots=True)
class RoutineName:
    """A function by name and input argument types; None: by its name alone."""

    name: Name
    arguments: tuple[TypeReference, ...] | None


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
class PrepareTransaction(Utility):
    name: str


@dataclass(frozen=True, slots=True)
class FinishPrepared(Utility):
    """COMMIT PREPARED, or else ROLLBACK PREPARED."""

    name: str
    commit: bool


@dataclass(frozen=True, slots=True)
class SetTransaction(Utility):
    isolation: str | None = None
    read_only: bool | None = None
    session: bool = False
    deferrable: bool | None = None
    snapshot: str | None = None
    """SET TRANSACTION SNAPSHOT's identifier."""


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
    force_null, freeze, default, as text; None: no value given."""

    table: Name | None
    query: str | None
    columns: tuple[str, ...]
    is_from: bool
    filename: str | None
    options: dict[str, str | tuple[str, ...] | None] = field(default_factory=dict)
    positions: dict[str, int | None] = field(default_factory=dict)
    """Where the options stand in the text."""
    has_condition: bool = False
    """There is a WHERE clause (bind_copy_condition)."""


@dataclass(frozen=True, slots=True)
class Vacuum(Utility):
    """VACUUM and ANALYZE; ``tables`` empty: the whole database.  ``columns``: those named with each table."""

    tables: tuple[Name, ...]
    analyze: bool
    vacuum: bool
    verbose: bool = False
    full: bool = False
    columns: tuple[tuple[str, ...], ...] = ()


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


@dataclass(frozen=True, slots=True)
class Unsupported(Utility):
    """Anything else: executing it raises 0A000 naming ``what``."""

    what: str
