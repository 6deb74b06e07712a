"""What a DDL statement works with: the transaction's overlay, name resolution with Postgres's errors, notices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydistdb.kv.api import Transaction
from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.access import PG_CLASS, PG_NAMESPACE, PG_TYPE
from pydistdb.sql.catalog.acl import CREATE, USAGE
from pydistdb.sql.catalog.birth import with_privileges
from pydistdb.sql.catalog.descriptors import Schema, Table
from pydistdb.sql.catalog.needs import must_be_owner, permission_denied, relation_kind
from pydistdb.sql.catalog.roles import BOOTSTRAP_ROLE, Role, RoleSet
from pydistdb.sql.catalog.state import PG_CATALOG_OID, SYSTEM_SCHEMAS, Change, DatabaseState
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.catalog.store import CatalogStore
from pydistdb.sql.catalog.transaction import DdlTransaction
from pydistdb.sql.catalog.view import VirtualTable
from pydistdb.sql.errors import (
    DatabaseError,
    FeatureNotSupported,
    InsufficientPrivilege,
    InvalidSchemaName,
    ObjectInUse,
    UndefinedObject,
    UndefinedTable,
    WrongObjectType,
)
from pydistdb.sql.statements import Name
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext

if TYPE_CHECKING:
    from pydistdb.sql.catalog.temporary import TemporaryObjects

PLURALS = {"v": "views", "m": "materialized views", "S": "sequences", "i": "indexes"}
_KIND_NAMES = {"r": "table", "v": "view", "m": "materialized view", "S": "sequence", "i": "index"}
_SYSTEM_OIDS = frozenset(schema.oid for schema in SYSTEM_SCHEMAS)


def _ignore(notice: DatabaseError, severity: str = "NOTICE") -> None:
    pass


@dataclass(slots=True, eq=False)
class DdlContext:
    """One DDL statement's surroundings.  ``notice`` is the session's way to a NoticeResponse (Sink.notice)."""

    ddl: DdlTransaction
    database_name: str
    search_path: Sequence[str]
    context: EvalContext
    notice: Callable[..., None] = _ignore
    in_transaction_block: bool = False
    temporary: TemporaryObjects | None = None
    """The session's temporary schema; None where there is no session."""
    has_pending_checks: Callable[[int], bool] = lambda table: False
    """Tells whether deferred constraint checks of a table wait for the commit."""
    role: int = BOOTSTRAP_ROLE
    """Who executes the statement, and owns what it makes: current_user; ``session_role`` is session_user."""
    session_role: int = BOOTSTRAP_ROLE
    splits_new_tables: bool = False
    """pydistdb.split_new_tables (presplit.py)."""
    _view: StateView | None = field(default=None)

    @property
    def store(self) -> CatalogStore:
        return self.ddl.store

    @property
    def transaction(self) -> Transaction:
        return self.ddl.transaction

    @property
    def view(self) -> StateView:
        """The catalog with this transaction's changes so far."""
        state = self.ddl.state
        if self._view is None or self._view.catalog_state is not state:
            self._view = StateView(
                state,
                self.database_name,
                self.search_path,
                overlaid=self.ddl.overlay.is_open,
                numbers=self.store.sequences,
                temporary_schema=self.temporary.schema_name if self.temporary is not None else "",
                role=None if state.roles.is_superuser(self.role) else self.role,
            )
            self.context.catalog = self._view
        return self._view

    def forget_view(self) -> None:
        """The next look at the catalog takes the session's new temporary schema into account."""
        self._view = None

    @property
    def database_oid(self) -> int:
        return self.view.database.oid

    def tell(
        self, message: str, sqlstate: str = "00000", *, detail: str | None = None, severity: str = "NOTICE"
    ) -> None:
        """Send a notice."""
        notice = DatabaseError(message, detail=detail)
        notice.sqlstate = sqlstate
        notice.severity = severity
        self.notice(notice, severity)

    # ------------------------------------------------------------------------------------------ roles

    @property
    def roles(self) -> RoleSet:
        return self.view.catalog_state.roles

    @property
    def current_role(self) -> Role:
        """Raises UndefinedObject if somebody has dropped it."""
        role = self.roles.by_oid.get(self.role)
        if role is None:
            raise UndefinedObject(f"role with OID {self.role} does not exist")
        return role

    @property
    def is_superuser(self) -> bool:
        return self.view.role is None

    @property
    def may_create_roles(self) -> bool:
        """CREATEROLE, or a superuser."""
        role = self.roles.by_oid.get(self.role)
        return role is not None and (role.superuser or role.create_role)

    def view_of(self, database: DatabaseState) -> StateView:
        """Another database, without restrictions."""
        return StateView(self.view.catalog_state, database.descriptor.name, ("public",), overlaid=True)

    def require(self, object_class: int, oid: int, privilege: int, kind: str, name: str) -> None:
        """Raise 42501 unless the role has a privilege on an object, described for the error."""
        role = self.view.role
        if role is not None and self.view.access.missing(role, object_class, oid, privilege):
            raise permission_denied(kind, name)

    def require_owner(self, object_class: int, oid: int, kind: str, name: str) -> None:
        """Raise 42501 unless the role owns an object, described for the error."""
        role = self.view.role
        if role is not None and not self.view.access.owns(role, object_class, oid):
            raise must_be_owner(kind, name)

    def require_type(self, oid: int) -> None:
        """Raise 42501 unless the role may use a type (or that of an array's items)."""
        role = self.view.role
        element = registry.type_by_oid(oid).element_oid or oid
        if role is not None and self.view.access.missing(role, PG_TYPE, element, USAGE):
            definition = self.view.type_definition(element)
            raise permission_denied("type", registry.format_type(element) if definition is None else definition.name)

    def require_table_owner(self, table: Table) -> None:
        self.require_owner(PG_CLASS, table.oid, relation_kind(table), table.name)

    # ------------------------------------------------------------------------------------------ changes

    def put_table(self, *tables: Table) -> None:
        for table in tables:
            self._check_not_resharded(table)
        self.apply([(keys.table_key(table.database, table.oid), table) for table in tables])

    def _check_not_resharded(self, table: Table) -> None:
        """Refuse changes of what is copied while a table is re-sharded."""
        database = self.view.catalog_state.databases.get(table.database)
        old = None if database is None else database.tables.get(table.oid)
        if old is None or old.resharding is None or old.resharding != table.resharding:
            return
        for kept in ("columns", "indexes", "storage_id", "sharding", "reference"):
            if getattr(old, kept) != getattr(table, kept):
                raise ObjectInUse(
                    f'cannot change table "{table.name}" because it is being re-sharded',
                    hint="Wait until that is done, or call proddb.reshard_cancel.",
                )

    def apply(self, changes: list[Change]) -> None:
        """Make changes: new objects get default privileges, what is dropped leaves none behind."""
        self.ddl.apply(with_privileges(self.view, changes))

    def check_not_in_use(self, table: Table, command: str) -> None:
        """Refuse to change a table that this very transaction has yet to check."""
        if self.has_pending_checks(table.oid):
            raise ObjectInUse(f'cannot {command} "{table.name}" because it has pending trigger events')

    # ------------------------------------------------------------------------------------------ names

    def target_schema(self, name: Name) -> Schema:
        """The schema that a CREATE of ``name`` puts its object into."""
        self._check_catalog(name)
        if name.schema is None:
            schema = self.view.creation_schema()
            if schema is None:
                raise InvalidSchemaName("no schema has been selected to create in", position=name.position)
        else:
            schema = self.schema(name.schema, name.position)
        if schema.oid in _SYSTEM_OIDS:
            detail = "System catalog modifications are currently disallowed." if schema.oid == PG_CATALOG_OID else None
            raise InsufficientPrivilege(f'permission denied to create "{schema.name}.{name.name}"', detail=detail)
        self.require(PG_NAMESPACE, schema.oid, CREATE, "schema", schema.name)
        return schema

    def schema(self, name: str, position: int | None = None) -> Schema:
        schema = self.view.schema_named(name)
        if schema is None:
            raise InvalidSchemaName(f'schema "{name}" does not exist', position=position)
        return schema

    def _check_catalog(self, name: Name) -> None:
        if name.catalog is not None and name.catalog != self.database_name:
            raise FeatureNotSupported(
                f'cross-database references are not implemented: "{name.catalog}.{name.schema}.{name.name}"',
                position=name.position,
            )

    def find(self, name: Name, kinds: str = "r") -> Table | None:
        """The relation of one of these kinds; None if there is none of that name."""
        self._check_catalog(name)
        relation = self.view.relation(name.name, name.schema)
        if relation is None:
            found = self.view.index_by_name(name.name, name.schema)
            if found is not None:
                raise self.wrong_kind(name, kinds)
            return None
        if isinstance(relation, VirtualTable):
            raise InsufficientPrivilege(f'permission denied: "{relation.name}" is a system catalog')
        if relation.kind not in kinds:
            raise self.wrong_kind(name, kinds)
        return relation

    def wrong_kind(self, name: Name, kinds: str) -> DatabaseError:
        kind = _KIND_NAMES[kinds[0]]
        article = "an" if kind[0] in "aeiou" else "a"
        return WrongObjectType(f'"{name.name}" is not {article} {kind}')

    def table(self, name: Name, kinds: str = "r") -> Table:
        """The relation of that name; raises UndefinedTable."""
        table = self.find(name, kinds)
        if table is None:
            if name.schema is not None:
                self.schema(name.schema, name.position)
            raise UndefinedTable(f'relation "{self.written(name)}" does not exist', position=name.position)
        return table

    async def locked_table(self, name: Name, kinds: str = "r", *, exclusive: bool = True) -> Table:
        """The table, locked against everybody else until the transaction ends."""
        table = self.table(name, kinds)
        await self.ddl.lock_tables([table.oid], exclusive=exclusive)
        return table

    @staticmethod
    def written(name: Name) -> str:
        return name.name if name.schema is None else f"{name.schema}.{name.name}"


def not_supported_for(kind: str) -> str:
    """The DETAIL where a statement wants another kind of relation."""
    return f"This operation is not supported for {PLURALS[kind]}."
