"""What the binder and the executor ask of the catalog; a session sees its own uncommitted DDL through one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydistdb.sql.catalog.descriptors import DatabaseDescriptor, Index, Schema, Table, TableStatistics
from pydistdb.sql.routines import RoutineFunction
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.user import TypeEntry, UserType


@dataclass(frozen=True, slots=True, eq=False)
class VirtualTable:
    """A system table computed from the catalog (pg_catalog, information_schema, pydistdb_internal).

    ``rows(view, context)`` yields tuples in column order; ``lookups`` maps a column name to a function that yields only
    the rows with that value (an index by oid or by name).
    """

    oid: int
    schema: str
    name: str
    columns: tuple[tuple[str, SqlType], ...]
    rows: Callable[[CatalogView, EvalContext], Iterable[tuple[Any, ...]]]
    lookups: dict[str, Callable[[CatalogView, EvalContext, Any], Iterable[tuple[Any, ...]]]]
    gather: Callable[[EvalContext], Awaitable[Any]] | None = None
    """Gets from other nodes what the rows are made of; ``rows_gathered`` makes them (``rows`` is not called then)."""
    rows_gathered: Callable[[CatalogView, EvalContext, Any], Iterable[tuple[Any, ...]]] | None = None


Relation = Table | VirtualTable


class CatalogView(Protocol):
    """An immutable state of the catalog, seen from one database with one search_path."""

    version: int
    """Changes with every DDL: a plan made against another version must be made again."""

    def relation(self, name: str, schema: str | None = None) -> Relation | None:
        """Find a table, view or virtual table by name along the search_path (or in ``schema``)."""

    def unrestricted(self) -> CatalogView:
        """Return the same view for somebody whom no privileges restrict."""

    def readable(self, table: Table) -> frozenset[int] | None:
        """List the columns that the user may read, by number; None: all of them, and the table as such."""

    def table_by_oid(self, oid: int) -> Table | None:
        """Find a table by oid in this database."""

    def index_by_name(self, name: str, schema: str | None = None) -> tuple[Table, Index] | None:
        """Find an index and its table."""

    def type_named(self, name: str, schema: str | None = None) -> SqlType | None:
        """Find a type, built in or made by a user, along the search_path (or in ``schema``)."""

    def type_entry(self, oid: int) -> TypeEntry | None:
        """Return the definition of a user's type."""

    def type_definition(self, oid: int) -> UserType | None:
        """Return the definition of a user's type, given its oid or that of its arrays."""

    def composite_name(self, relation: int) -> tuple[int, str] | None:
        """Return the schema and name of the composite type with this oid in pg_class."""

    def is_type_visible(self, schema_oid: int, name: str) -> bool:
        """Tell whether a user's type would be found by its name alone."""

    def routines(self, name: str, schema: str | None = None) -> Sequence[RoutineFunction]:
        """Find the users' functions of a name along the search_path (or in ``schema``)."""

    def schema_named(self, name: str) -> Schema | None:
        """Find a schema of this database."""

    def schema_by_oid(self, oid: int) -> Schema | None:
        """Find a schema of this database."""

    def tables(self) -> Sequence[Table]:
        """List every table of this database."""

    def table_count(self) -> int:
        """Tell how many tables this database has."""

    def statistics(self, table_oid: int) -> TableStatistics | None:
        """Return what ANALYZE found about a table, if it ever ran."""

    def schemas(self) -> Sequence[Schema]:
        """List every schema of this database, pg_catalog and information_schema included."""

    def databases(self) -> Sequence[DatabaseDescriptor]:
        """List every database of the cluster."""

    @property
    def database(self) -> DatabaseDescriptor:
        """Tell which database this is."""

    @property
    def search_path(self) -> tuple[str, ...]:
        """List the schemas that unqualified names are looked up in, pg_catalog first unless named."""
