"""A catalog view for tests, filled from CREATE TABLE statements: no storage, no transactions.

>>> catalog = FakeCatalog("create table t (id int8 primary key, name text not null unique); create view v as select 1 x")
>>> catalog.relation("t").columns[1].name, catalog.relation("v").kind
('name', 'v')
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql import schema_statements, statements
from pydistdb.sql.bind import parse
from pydistdb.sql.bind.analyze import analyze
from pydistdb.sql.catalog.descriptors import (
    Check,
    Column,
    DatabaseDescriptor,
    ForeignKey,
    Index,
    IndexColumn,
    Schema,
    Sharding,
    Table,
    TableStatistics,
)
from pydistdb.sql.catalog.view import Relation, VirtualTable
from pydistdb.sql.routines import RoutineFunction
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.user import TypeEntry, UserType

PUBLIC = Schema(2200, "public", 5)
PG_CATALOG = Schema(11, "pg_catalog", 5)
INFORMATION_SCHEMA = Schema(12000, "information_schema", 5)


class FakeCatalog:
    """Implements CatalogView over what was declared."""

    def __init__(self, ddl: str = "", virtual: Sequence[VirtualTable] = ()) -> None:
        self.version = 1
        self.search_path = ("pg_catalog", "public")
        self.database = DatabaseDescriptor(5, "postgres")
        self._schemas = [PG_CATALOG, PUBLIC, INFORMATION_SCHEMA]
        self._tables: dict[tuple[str, str], Table] = {}
        self._virtual = {(table.schema, table.name): table for table in virtual}
        self._next_oid = 16384
        self._groups: dict[tuple[str | None, ...], int] = {}
        self.add(ddl)

    def routines(self, name: str, schema: str | None = None) -> Sequence[RoutineFunction]:
        """There are no functions of users' own."""
        return ()

    def unrestricted(self) -> FakeCatalog:
        return self

    def readable(self, table: Table) -> None:
        return None

    def add(self, ddl: str) -> None:
        """Declare more tables, views, schemas and indexes."""
        for parsed in parse(ddl):
            statement = analyze(parsed, self, EvalContext())  # type: ignore[arg-type]
            match statement:
                case schema_statements.CreateTable():
                    self._create_table(statement)
                case schema_statements.CreateView():
                    self._create_view(statement, EvalContext())
                case schema_statements.CreateIndex():
                    self._create_index(statement)
                case schema_statements.CreateSchema():
                    self._schemas.append(Schema(self._oid(), statement.name, 5))
                case _:
                    raise AssertionError(f"the fake catalog has no {statement!r}")
        self.version += 1

    def type_named(self, name: str, schema: str | None = None) -> SqlType | None:
        return registry.type_by_name(name) if schema in (None, "pg_catalog") else None

    def type_entry(self, oid: int) -> TypeEntry | None:
        return None

    def type_definition(self, oid: int) -> UserType | None:
        return None

    def composite_name(self, relation: int) -> tuple[int, str] | None:
        return None

    def is_type_visible(self, schema_oid: int, name: str) -> bool:
        return True

    def _oid(self) -> int:
        self._next_oid += 1
        return self._next_oid - 1

    def _create_table(self, statement: schema_statements.CreateTable) -> None:
        oid = self._oid()
        numbers = {spec.name: number for number, spec in enumerate(statement.columns, 1)}
        constraints = list(statement.constraints)
        columns = []
        for spec in statement.columns:
            not_null = spec.not_null or any(c.kind == "primary" for c in spec.constraints)
            not_null |= any(c.kind == "primary" and spec.name in c.columns for c in statement.constraints)
            default = spec.default if spec.generated is None else spec.generated
            if spec.serial or spec.identity:
                default = f"nextval('{statement.name.name}_{spec.name}_seq'::regclass)"
            columns.append(
                Column(
                    numbers[spec.name],
                    spec.name,
                    spec.type.oid,
                    spec.type.modifier,
                    not_null,
                    default,
                    spec.identity,
                    spec.generated is not None,
                )
            )
            constraints += [
                schema_statements.ConstraintSpec(c.kind, c.name, c.columns or (spec.name,), c.expression, c.foreign)
                for c in spec.constraints
            ]
        table = Table(
            oid=oid,
            name=statement.name.name,
            schema=self._schema_oid(statement.name.schema),
            database=5,
            columns=tuple(columns),
            indexes=self._indexes(statement.name.name, constraints, numbers),
            checks=tuple(
                Check(self._oid(), c.name or f"{statement.name.name}_check", c.expression or "")
                for c in constraints
                if c.kind == "check"
            ),
            foreign_keys=tuple(self._foreign_key(statement.name.name, c, numbers) for c in constraints if c.foreign),
            sharding=self._sharding(statement, numbers, columns),
            storage_id=oid - 16384 + 100,
            next_index_id=10,
            reference=statement.shard_by is not None and statement.shard_by.strategy == "reference",
        )
        self._tables[statement.name.schema or "public", table.name] = table

    def _indexes(
        self, table: str, constraints: Sequence[schema_statements.ConstraintSpec], numbers: dict[str, int]
    ) -> tuple[Index, ...]:
        indexes = []
        for c in sorted(constraints, key=lambda c: c.kind != "primary"):
            if c.kind in ("primary", "unique"):
                columns = tuple(IndexColumn(numbers[name]) for name in c.columns)
                suffix = "pkey" if c.kind == "primary" else "_".join([*c.columns, "key"])
                name = c.name or f"{table}_{suffix}"
                indexes.append(
                    Index(self._oid(), name, len(indexes) + 1, columns, True, c.kind == "primary", constraint=True)
                )
        if not indexes or not indexes[0].primary:
            moved = [Index(i.oid, i.name, i.storage_id + 1, i.columns, i.unique, constraint=True) for i in indexes]
            return (Index(0, "", 1, (IndexColumn(0),), True), *moved)
        return tuple(indexes)

    def _foreign_key(self, table: str, c: schema_statements.ConstraintSpec, numbers: dict[str, int]) -> ForeignKey:
        foreign = c.foreign
        assert foreign is not None
        columns = foreign.columns or c.columns
        referenced = self._tables[foreign.referenced.schema or "public", foreign.referenced.name]
        names = foreign.referenced_columns
        if names:
            by_name = {column.name: column.number for column in referenced.columns}
            target = tuple(by_name[name] for name in names)
        else:
            target = tuple(part.column for part in referenced.indexes[0].columns)
        name = c.name or f"{table}_{'_'.join(columns)}_fkey"
        return ForeignKey(
            self._oid(),
            name,
            tuple(numbers[column] for column in columns),
            referenced.oid,
            target,
            foreign.on_delete,
            foreign.on_update,
        )

    def _sharding(
        self, statement: schema_statements.CreateTable, numbers: dict[str, int], columns: Sequence[Column]
    ) -> Sharding | None:
        if statement.shard_by is None or statement.shard_by.strategy == "reference":
            return None
        shard_columns = tuple(numbers[name] for name in statement.shard_by.columns)
        types = {column.number: column.type_oid for column in columns}
        kinds = tuple(registry.io(types[number]).key_kind for number in shard_columns)
        return Sharding(shard_columns, self._groups.setdefault(kinds, len(self._groups) + 1))

    def _create_view(self, statement: schema_statements.CreateView, context: EvalContext) -> None:
        bound = analyze(parse(statement.query)[0], self, context)  # type: ignore[arg-type]
        assert not isinstance(bound, statements.Utility)
        names = list(statement.columns) + [c.name for c in bound.query.columns[len(statement.columns) :]]
        columns = tuple(
            Column(number, name, column.type.oid, column.type.modifier)
            for number, (name, column) in enumerate(zip(names, bound.query.columns, strict=True), 1)
        )
        self._tables[statement.name.schema or "public", statement.name.name] = Table(
            oid=self._oid(),
            name=statement.name.name,
            schema=self._schema_oid(statement.name.schema),
            database=5,
            columns=columns,
            indexes=(),
            kind="v",
            definition=statement.query,
        )

    def _create_index(self, statement: schema_statements.CreateIndex) -> None:
        import msgspec

        key = (statement.table.schema or "public", statement.table.name)
        table = self._tables[key]
        by_name = {column.name: column.number for column in table.columns}
        columns = tuple(
            IndexColumn(
                by_name[key.name], key.descending, key.descending if key.nulls_first is None else key.nulls_first
            )
            for key in statement.columns
            if key.name is not None
        )
        storage_id = max(index.storage_id for index in table.indexes) + 1
        index = Index(self._oid(), statement.name or f"{table.name}_idx", storage_id, columns, statement.unique)
        self._tables[key] = msgspec.structs.replace(table, indexes=(*table.indexes, index))

    def _schema_oid(self, name: str | None) -> int:
        return next(schema.oid for schema in self._schemas if schema.name == (name or "public"))

    # -------------------------------------------------------------------------------------------- CatalogView

    def relation(self, name: str, schema: str | None = None) -> Relation | None:
        for candidate in (schema,) if schema else self.search_path:
            found = self._tables.get((candidate, name)) or self._virtual.get((candidate, name))
            if found is not None:
                return found
        return None

    def table_by_oid(self, oid: int) -> Table | None:
        return next((table for table in self._tables.values() if table.oid == oid), None)

    def index_by_name(self, name: str, schema: str | None = None) -> tuple[Table, Index] | None:
        for table in self._tables.values():
            for index in table.indexes:
                if index.name == name:
                    return table, index
        return None

    def schema_named(self, name: str) -> Schema | None:
        return next((schema for schema in self._schemas if schema.name == name), None)

    def tables(self) -> Sequence[Table]:
        return tuple(self._tables.values())

    def table_count(self) -> int:
        return len(self._tables)

    def statistics(self, table_oid: int) -> TableStatistics | None:
        return None

    def schema_by_oid(self, oid: int) -> Schema | None:
        return next((schema for schema in self._schemas if schema.oid == oid), None)

    def schemas(self) -> Sequence[Schema]:
        return tuple(self._schemas)

    def databases(self) -> Sequence[DatabaseDescriptor]:
        return (self.database,)
