"""Which names mean what: the relations of a FROM clause and their columns, query level by query level.

A ``Scope`` belongs to one query level; its parent is the query around it, so a name that is not found here is an outer
reference (and a ``ColumnRef`` to an id that the inputs do not produce).  ``FROM a JOIN b USING (k)`` gives::

    sources  a (k, x)  b (k, y)          for a.k, b.k, a.*
    columns  k, x, y                     for k, x, * (k is there once: the merged column)

Source: PostgreSQL 15, parse_relation.c and parse_clause.c for the rules and the words of the errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.errors import (
    AmbiguousColumn,
    DatabaseError,
    DuplicateAlias,
    FeatureNotSupported,
    UndefinedColumn,
    UndefinedTable,
)
from pydistdb.sql.tree import AggregateCall, ColumnId, ColumnRef, Expr, Rel, Values, WindowCall
from pydistdb.sql.types.base import SqlType

if TYPE_CHECKING:
    from pydistdb.sql.bind.parse import Node


NO_ROWS_OF_NOTHING = Values((), ((),))
"""What SELECT without FROM reads: one row without columns."""


class SetInValues(FeatureNotSupported):
    """A set-returning function in VALUES, where INSERT of one row allows it."""


class ScopeColumn:
    """A column that a name can mean; ``expression`` is set for merged USING columns that are computed."""

    __slots__ = ("expression", "id", "name", "nullable", "number", "type")

    def __init__(self, name: str, id: ColumnId, type: SqlType, nullable: bool = True, number: int = 0) -> None:
        self.name = name
        self.id = id
        self.type = type
        self.nullable = nullable
        self.number = number
        self.expression: Expr | None = None

    def ref(self) -> Expr:
        if self.expression is not None:
            return self.expression
        return ColumnRef(self.type, self.id, self.name, self.nullable)


class Source:
    """One relation of a FROM clause, under its alias."""

    __slots__ = (
        "catalog_oid",
        "columns",
        "deleter_id",
        "is_query",
        "key_id",
        "name",
        "nullable",
        "presence_id",
        "problem",
        "relation",
        "scalar",
        "schema",
        "stored",
        "table",
        "version_id",
        "words",
    )

    def __init__(
        self,
        name: str,
        columns: list[ScopeColumn],
        schema: str | None = None,
        table: Table | None = None,
        key_id: ColumnId | None = None,
    ) -> None:
        self.name = name
        self.columns = columns
        self.schema = schema
        """Only for tables without alias, which ``schema.table.column`` can name."""
        self.table = table
        self.key_id = key_id
        """The id of the row's key column, where the statement changes or locks rows."""
        self.version_id: ColumnId | None = None
        """The id of the row's xmin, where the statement mentions system columns."""
        self.deleter_id: ColumnId | None = None
        """The same of xmax, in RETURNING."""
        self.catalog_oid = 0
        """Of a system table: its oid, which ``tableoid`` gives."""
        self.relation: tuple[Table, bool] | None = None
        """The table or view that it is, and whether it has an alias: if the binder notes mentions."""
        self.stored: list[ScopeColumn] | None = None
        """Of a view that is changed through: the columns of the table's row behind it."""
        self.is_query = False
        """A subquery or view, whose tables FOR UPDATE would have to reach."""
        self.nullable = False
        """It stands on the side of an outer join that is filled up with NULLs."""
        self.presence_id: ColumnId | None = None
        """A column that is NULL just where an outer join has filled the row up, if the row as a whole is asked for."""
        self.scalar = False
        """A function that returns single values: its name alone stands for the value."""
        self.words = "a relation of this kind"
        """What it is if it is no table, for errors."""
        self.problem: Callable[[int | None], DatabaseError] | None = None
        """Makes the error for using it, where it stands in FROM but may not be referred to (LATERAL)."""


class FromItem:
    """What a FROM item has come to: its relation, the sources that qualified names see, and its columns in order."""

    __slots__ = ("columns", "rel", "sources")

    def __init__(self, rel: Rel, sources: list[Source], columns: list[ScopeColumn]) -> None:
        self.rel = rel
        self.sources = sources
        self.columns = columns


class CteEntry:
    """A WITH query that names can mean; ``used`` counts the references."""

    __slots__ = ("columns", "hidden", "id", "ids", "is_recursive", "name", "problem", "used")

    def __init__(self, name: str, id: int, columns: Sequence[tuple[str, SqlType]]) -> None:
        self.name = name
        self.id = id
        self.columns = columns
        self.ids: Sequence[ColumnId] = ()
        """The columns of the query itself."""
        self.used = 0
        self.hidden = 0
        """How many of the last columns SEARCH and CYCLE have added, while the recursive term is bound."""
        self.is_recursive = False
        """Its own recursive term is being bound."""
        self.problem: DatabaseError | None = None
        """The error for referring to it, where that is wrong."""


class Scope:
    """One query level."""

    __slots__ = (
        "aggregates",
        "all_columns",
        "by_name",
        "clause",
        "ctes",
        "groupings",
        "hidden",
        "in_aggregate",
        "in_window",
        "locking",
        "node",
        "parent",
        "pending_ctes",
        "reads_itself",
        "set_calls",
        "set_location",
        "sources",
        "wants_keys",
        "window_definitions",
        "windows",
    )

    def __init__(self, parent: Scope | None, clause: str = "SELECT") -> None:
        self.parent = parent
        self.sources: list[Source] = []
        self.all_columns: list[ScopeColumn] = []
        """What * means."""
        self.by_name: dict[str, ScopeColumn | None] = {}
        """Unqualified names; None marks an ambiguous one."""
        self.ctes: dict[str, CteEntry] = {}
        self.clause = clause
        """Where we are, in the words of the error messages ("WHERE", "JOIN conditions")."""
        self.aggregates: list[tuple[ColumnId, AggregateCall]] = []
        self.reads_itself = False
        """FROM reads the recursive query that this is the recursive term of."""
        self.groupings: list[tuple[ColumnId, tuple[Expr, ...], tuple[int, ...]]] = []
        """GROUPING() calls: the id of the result, the arguments, and where they stand."""
        self.windows: list[tuple[ColumnId, WindowCall]] = []
        self.window_definitions: dict[str, Node] = {}
        self.set_calls = False
        self.set_location = -1
        """Where the last call of a set-returning function stands."""
        """A set-returning function stands in the select list."""
        self.in_aggregate = False
        self.in_window = False
        self.locking: Sequence[Node] = ()
        """The locking clauses, which subqueries of FROM take over."""
        self.node: Node | None = None
        """The SELECT, if it is one."""
        self.wants_keys = False
        """Tables are to be read with their rows' keys (FOR UPDATE)."""
        self.pending_ctes: frozenset[str] = frozenset()
        """WITH names that are not to be seen yet (for hints)."""
        self.hidden: list[Source] = []
        """Relations of the same FROM clause that cannot be referred to from here (for hints)."""

    def add(self, item: FromItem) -> None:
        """Make a FROM item visible."""
        self.add_sources(item.sources)
        self.all_columns += item.columns
        by_name = self.by_name
        for column in item.columns:
            by_name[column.name] = None if column.name in by_name else column

    def add_sources(self, sources: Sequence[Source]) -> None:
        for source in sources:
            if source.name:
                for other in self.sources:
                    if other.name == source.name and (
                        other.schema == source.schema or None in (other.schema, source.schema)
                    ):
                        raise DuplicateAlias(f'table name "{source.name}" specified more than once')
        self.sources += sources

    def levels(self) -> Iterator[Scope]:
        """This query level, the one around it, and so on."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def find_cte(self, name: str) -> CteEntry | None:
        for scope in self.levels():
            entry = scope.ctes.get(name)
            if entry is not None:
                return entry
        return None

    def find_column(self, name: str, position: int | None) -> tuple[ScopeColumn, Scope] | None:
        """Look an unqualified name up."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.by_name:
                column = scope.by_name[name]
                if column is None:
                    raise AmbiguousColumn(f'column reference "{name}" is ambiguous', position=position)
                return column, scope
            scope = scope.parent
        return None

    def find_source(self, name: str, schema: str | None, position: int | None) -> tuple[Source, Scope] | None:
        """Look a relation up by its alias."""
        scope: Scope | None = self
        while scope is not None:
            found = [
                source
                for source in scope.sources
                if source.name == name and (schema is None or source.schema == schema)
            ]
            if len(found) > 1:
                raise DatabaseError.of("42P09", f'table reference "{name}" is ambiguous', position=position)
            if found:
                if found[0].problem is not None:
                    raise found[0].problem(position)
                return found[0], scope
            scope = scope.parent
        return None

    def source_of(self, id: ColumnId) -> Source | None:
        """Find the relation of this level that a column belongs to."""
        for source in self.sources:
            if id in (source.key_id, source.version_id):
                return source
            for column in source.columns:
                if column.id == id:
                    return source
        return None


# ------------------------------------------------------------------------------------------------ errors


def _distance(left: str, right: str, most: int) -> int:
    """Levenshtein's distance, or more than ``most``."""
    if abs(len(left) - len(right)) > most:
        return most + 1
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        above = row
        row = [i]
        for j, b in enumerate(right, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
    return row[-1]


MOST_DISTANCE = 3


def _suggestion(scope: Scope, name: str, qualifier: str | None) -> str | None:
    """Postgres's hint for a misspelt column."""
    best = MOST_DISTANCE + 1
    found: list[str] = []
    for level in scope.levels():
        for source in level.sources:
            penalty = 0
            if qualifier is not None and source.name != qualifier:
                penalty = _distance(qualifier, source.name, MOST_DISTANCE)
            if not source.name or penalty > MOST_DISTANCE:
                continue
            for column in source.columns:
                own = _distance(name, column.name, MOST_DISTANCE)
                distance = penalty + own
                if distance > MOST_DISTANCE or own > len(name) // 2:
                    continue
                label = f'"{source.name}.{column.name}"'
                if distance < best:
                    best, found = distance, [label]
                elif distance == best:
                    found.append(label)
    if len(found) == 1:
        return f"Perhaps you meant to reference the column {found[0]}."
    if len(found) == 2:
        return f"Perhaps you meant to reference the column {found[0]} or the column {found[1]}."
    return None


def _hidden_column(scope: Scope, name: str) -> str | None:
    """The hint for a column that is there, in a relation that cannot be referred to from here."""
    for level in scope.levels():
        for source in level.hidden:
            if any(column.name == name for column in source.columns):
                return (
                    f'There is a column named "{name}" in table "{source.name}", '
                    "but it cannot be referenced from this part of the query."
                )
    return None


def undefined_column(scope: Scope, name: str, qualifier: str | None, position: int | None) -> DatabaseError:
    label = f"{qualifier}.{name}" if qualifier else f'"{name}"'
    return UndefinedColumn(
        f"column {label} does not exist",
        hint=_hidden_column(scope, name) or _suggestion(scope, name, qualifier),
        position=position,
    )


def missing_from_entry(scope: Scope, name: str, position: int | None) -> DatabaseError:
    """The error for a qualifier that no relation in sight has."""
    for level in scope.levels():
        if any(source.name == name for source in level.hidden):
            return UndefinedTable(
                f'invalid reference to FROM-clause entry for table "{name}"',
                hint=f'There is an entry for table "{name}", but it cannot be referenced from this part of the query.',
                position=position,
            )
        for source in level.sources:
            if source.name == name:  # of another schema than the one asked for
                return UndefinedTable(
                    f'invalid reference to FROM-clause entry for table "{name}"',
                    hint=f'There is an entry for table "{name}", '
                    "but it cannot be referenced from this part of the query.",
                    position=position,
                )
            if source.table is not None and source.table.name == name and source.name != name:
                return UndefinedTable(
                    f'invalid reference to FROM-clause entry for table "{name}"',
                    hint=f'Perhaps you meant to reference the table alias "{source.name}".',
                    position=position,
                )
    return UndefinedTable(f'missing FROM-clause entry for table "{name}"', position=position)
