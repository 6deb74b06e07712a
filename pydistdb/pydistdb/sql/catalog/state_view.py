"""A ``CatalogView`` over a ``CatalogState``: one database seen with one search_path.

Names are resolved as Postgres does: pg_catalog comes first unless the search_path names it, schemas that do not exist
are passed over, and tables and indexes share one name space per schema.  All look-ups are one or two dictionary
look-ups per schema on the path.  Beyond the protocol there are the look-ups that DDL and pg_catalog need.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql.catalog.access import PG_CLASS, PG_NAMESPACE, Access
from pydistdb.sql.catalog.acl import SELECT, USAGE
from pydistdb.sql.catalog.descriptors import DatabaseDescriptor, Index, Routine, Schema, Table, TableStatistics
from pydistdb.sql.catalog.sequence_numbers import SequenceNumbers
from pydistdb.sql.catalog.state import CatalogState, DatabaseState
from pydistdb.sql.catalog.view import Relation, VirtualTable
from pydistdb.sql.errors import InsufficientPrivilege
from pydistdb.sql.pg_catalog import registry
from pydistdb.sql.routines import RoutineFunction, routine_function
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.known import TYPES_BY_OID
from pydistdb.sql.types.user import TypeEntry, UserType


class StateView:
    """See CatalogView."""

    __slots__ = (
        "_access",
        "_creation_path",
        "_functions",
        "_path_oids",
        "_search_path",
        "_state",
        "_virtual",
        "catalog_state",
        "numbers",
        "overlaid",
        "role",
        "temporary_schema",
        "version",
    )

    def __init__(
        self,
        catalog_state: CatalogState,
        database: str,
        search_path: Sequence[str],
        *,
        overlaid: bool = False,
        numbers: SequenceNumbers | None = None,
        temporary_schema: str = "",
        role: int | None = None,
    ) -> None:
        self.catalog_state = catalog_state
        self.version = catalog_state.version
        self.overlaid = overlaid
        """It shows uncommitted DDL: plans made against it are of no use to anybody else."""
        self._functions: dict[int, RoutineFunction] = {}
        self.role = role
        """Who looks, if that is not a superuser: schemas without USAGE are closed to it."""
        self._access: Access | None = None
        self.numbers = numbers
        """Where ``nextval`` gets its numbers."""
        self._state: DatabaseState = catalog_state.databases_by_name[database]
        self.temporary_schema = temporary_schema
        """The name of the session's own temporary schema, which ``pg_temp`` stands for; empty while there is none."""
        self._creation_path = tuple(search_path)
        path = tuple(search_path) if "pg_catalog" in search_path else ("pg_catalog", *search_path)
        if temporary_schema:
            if "pg_temp" not in path:
                path = ("pg_temp", *path)
            path = tuple(temporary_schema if name == "pg_temp" else name for name in path)
        self._search_path = path
        named = self._state.schemas_by_name
        self._path_oids = tuple(
            (named[name].oid, name) for name in dict.fromkeys(path) if name in named and self.may_use(named[name])
        )
        self._virtual = registry.virtual_tables()

    # ------------------------------------------------------------------------------------------ CatalogView

    def relation(self, name: str, schema: str | None = None) -> Relation | None:
        state = self._state
        if schema is not None:
            found = self.schema_named(schema)
            if found is None:
                return None
            if self.role is not None:
                self._check_schema(found)
            return self._virtual.get((schema, name)) or state.relations.get((found.oid, name))
        for oid, schema_name in self._path_oids:
            relation = self._virtual.get((schema_name, name)) or state.relations.get((oid, name))
            if relation is not None:
                return relation
        return None

    def table_by_oid(self, oid: int) -> Table | None:
        return self._state.tables.get(oid)

    def index_by_name(self, name: str, schema: str | None = None) -> tuple[Table, Index] | None:
        indexes = self._state.indexes
        if schema is not None:
            found = self.schema_named(schema)
            if found is not None and self.role is not None:
                self._check_schema(found)
            return None if found is None else indexes.get((found.oid, name))
        for oid, _ in self._path_oids:
            index = indexes.get((oid, name))
            if index is not None:
                return index
        return None

    def type_named(self, name: str, schema: str | None = None) -> SqlType | None:
        for oid, schema_name in self._type_schemas(schema):
            if schema_name == "pg_catalog":
                built_in = types.type_by_name(name)
                if built_in is not None:
                    return built_in
            entry = self._entry_named(oid, name)
            if entry is not None:
                return entry.type
            if name.startswith("_"):
                entry = self._entry_named(oid, name[1:])
                if entry is not None:
                    return entry.array
        return None

    def _entry_named(self, schema_oid: int, name: str) -> TypeEntry | None:
        entry = self._state.types_by_name.get((schema_oid, name))
        if entry is None:
            table = self._state.relations.get((schema_oid, name))
            return None if table is None else self._state.row_types.get(table.row_type_oid)
        return entry

    def _type_schemas(self, schema: str | None) -> Sequence[tuple[int, str]]:
        if schema is None:
            return self._path_oids
        found = self.schema_named(schema)
        return () if found is None else ((found.oid, schema),)

    def type_entry(self, oid: int) -> TypeEntry | None:
        return self._state.types.get(oid) or self._state.row_types.get(oid)

    def type_definition(self, oid: int) -> UserType | None:
        """The definition of a user's type, or of the one whose arrays' type ``oid`` is."""
        sql_type = TYPES_BY_OID.get(oid)
        if sql_type is None:
            return None
        entry = self.type_entry(sql_type.element_oid or oid)
        return None if entry is None else entry.definition

    def composite_name(self, relation: int) -> tuple[int, str] | None:
        """The schema and name of the composite type with this oid in pg_class."""
        for entry in self._state.types.values():
            if entry.definition.relation == relation:
                return entry.definition.schema, entry.definition.name
        return None

    def is_type_visible(self, schema_oid: int, name: str) -> bool:
        for oid, schema_name in self._path_oids:
            if oid == schema_oid:
                return True
            if schema_name == "pg_catalog" and types.type_by_name(name) is not None:
                return False
            if self._entry_named(oid, name) is not None:
                return False
        return False

    def schema_named(self, name: str) -> Schema | None:
        return self._state.schemas_by_name.get(self.temporary_schema if name == "pg_temp" else name)

    def tables(self) -> Sequence[Table]:
        return list(self._state.tables.values())

    def table_count(self) -> int:
        return len(self._state.tables)

    def schemas(self) -> Sequence[Schema]:
        return list(self._state.schemas.values())

    def databases(self) -> Sequence[DatabaseDescriptor]:
        return [database.descriptor for database in self.catalog_state.databases.values()]

    @property
    def database(self) -> DatabaseDescriptor:
        return self._state.descriptor

    @property
    def search_path(self) -> tuple[str, ...]:
        return self._search_path

    def statistics(self, table_oid: int) -> TableStatistics | None:
        return self._state.statistics.get(table_oid)

    # ------------------------------------------------------------------------------------------ more look-ups

    def routines(self, name: str, schema: str | None = None) -> Sequence[RoutineFunction]:
        """The users' functions and procedures of a name, those that others hide left out."""
        by_name = self._state.routines_by_name
        if not by_name:
            return ()
        if schema is not None:
            found = self.schema_named(schema)
            return [] if found is None else [self.function_of(r) for r in by_name.get((found.oid, name), ())]
        seen: dict[tuple[int, ...], RoutineFunction] = {}
        for oid, schema_name in self._path_oids:
            if schema_name != self.temporary_schema:  # functions are never looked for among temporary objects
                for routine in by_name.get((oid, name), ()):
                    function = self.function_of(routine)
                    seen.setdefault(tuple(t.oid for t in function.argument_types), function)
        return list(seen.values())

    def function_of(self, routine: Routine) -> RoutineFunction:
        """The routine as the binder takes functions."""
        function = self._functions.get(routine.oid)
        if function is None:
            row_of = self.table_by_oid(routine.row_of) if routine.row_of else None
            schema = self.schema_by_oid(routine.schema)
            name = schema.name if schema is not None else ""
            function = self._functions[routine.oid] = routine_function(routine, name, row_of)
        return function

    def routine_by_oid(self, oid: int) -> Routine | None:
        return self._state.routines.get(oid)

    @property
    def state(self) -> DatabaseState:
        return self._state

    @property
    def access(self) -> Access:
        """The privileges in this database."""
        if self._access is None:
            self._access = Access(self.catalog_state, self._state)
        return self._access

    def unrestricted(self) -> StateView:
        """The same for a superuser: what a view's query names was looked up when the view was made."""
        return self.restricted_to(None)

    def restricted_to(self, role: int | None) -> StateView:
        """The same for another role (None: a superuser)."""
        if self.role == role:
            return self
        return StateView(
            self.catalog_state,
            self._state.descriptor.name,
            self._creation_path,
            overlaid=self.overlaid,
            numbers=self.numbers,
            temporary_schema=self.temporary_schema,
            role=role,
        )

    def with_path(self, search_path: Sequence[str]) -> StateView:
        """The same with another search path: inside a function that sets it."""
        return StateView(
            self.catalog_state,
            self._state.descriptor.name,
            search_path,
            overlaid=self.overlaid,
            numbers=self.numbers,
            temporary_schema=self.temporary_schema,
            role=self.role,
        )

    def readable(self, table: Table) -> frozenset[int] | None:
        role, access = self.role, self.access
        if role is None or not access.missing(role, PG_CLASS, table.oid, SELECT):
            return None
        return frozenset(c.number for c in table.columns if access.column_mask(role, table.oid, c.number, SELECT))

    def may_use(self, schema: Schema, privilege: int = USAGE) -> bool:
        """Tell whether the role may look into a schema (or CREATE in it)."""
        role = self.role
        return (
            role is None
            or schema.name == self.temporary_schema
            or not self.access.missing(role, PG_NAMESPACE, schema.oid, privilege)
        )

    def _check_schema(self, schema: Schema) -> None:
        if not self.may_use(schema):
            raise InsufficientPrivilege(f"permission denied for schema {schema.name}")

    def virtual_by_oid(self, oid: int) -> VirtualTable | None:
        return registry.virtual_by_oid(oid)

    def schema_by_oid(self, oid: int) -> Schema | None:
        return self._state.schemas.get(oid)

    def index_by_oid(self, oid: int) -> tuple[Table, Index] | None:
        return self._state.indexes_by_oid.get(oid)

    def is_name_taken(self, schema_oid: int, name: str) -> bool:
        """Tell whether a relation of any kind in the schema has this name."""
        return (schema_oid, name) in self._state.relations or (schema_oid, name) in self._state.indexes

    def comment(self, object_class: int, oid: int, sub_id: int = 0) -> str | None:
        return self._state.comments.get((object_class, oid, sub_id))

    def creation_schema(self) -> Schema | None:
        """Where an unqualified CREATE puts its object: the first schema of the path that exists."""
        for name in self._creation_path:
            schema = self.schema_named(name)
            if schema is not None and self.may_use(schema):
                return schema
        return None

    @property
    def creates_temporary(self) -> bool:
        """Tell whether an unqualified CREATE makes a temporary object: pg_temp comes first in the search_path."""
        for name in self._creation_path:
            if name == "pg_temp":
                return True
            if name in self._state.schemas_by_name:
                return False
        return False

    def is_visible(self, schema_oid: int, name: str) -> bool:
        """Tell whether the relation would be found by its name alone."""
        for oid, schema_name in self._path_oids:
            if oid == schema_oid:
                return True
            if (schema_name, name) in self._virtual or self.is_name_taken(oid, name):
                return False
        return False
