"""CREATE TYPE … AS (…) and ALTER TYPE … ATTRIBUTE: composite types.

An attribute keeps its number for life; a dropped one stays as an empty slot, so that stored values need not be touched.
An attribute of a type that columns have cannot change its type.

Source: PostgreSQL 15 manual, CREATE TYPE, ALTER TYPE.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from pydistdb.sql.catalog.attribute_dependents import put_renamed_attribute, put_without
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.create_table import MOST_COLUMNS, make_column
from pydistdb.sql.catalog.naming import clip
from pydistdb.sql.catalog.type_dependencies import columns_holding, refuse_itself
from pydistdb.sql.catalog.type_names import put_type
from pydistdb.sql.errors import DatabaseError, DuplicateColumn, FeatureNotSupported, UndefinedColumn, WrongObjectType
from pydistdb.sql.schema_statements import ColumnSpec
from pydistdb.sql.type_statements import AlterTypeAction
from pydistdb.sql.types.user import Attribute, UserType


def attributes_of(specs: Sequence[ColumnSpec]) -> tuple[Attribute, ...]:
    """The attributes of a new composite type."""
    if len(specs) > MOST_COLUMNS:
        raise DatabaseError.of("54011", f"tables can have at most {MOST_COLUMNS} columns")
    attributes: list[Attribute] = []
    for number, spec in enumerate(specs, 1):
        attribute = _attribute(spec, number)
        if any(each.name == attribute.name for each in attributes):
            raise DuplicateColumn(f'column "{attribute.name}" specified more than once', position=spec.position)
        attributes.append(attribute)
    return tuple(attributes)


def _attribute(spec: ColumnSpec, number: int) -> Attribute:
    column = make_column(spec, number)
    return Attribute(number, column.name, column.type_oid, column.modifier)


def _found(definition: UserType, name: str) -> Attribute | None:
    return next((each for each in definition.attributes if each.name == name and not each.dropped), None)


def _missing(definition: UserType, name: str) -> DatabaseError:
    return UndefinedColumn(f'column "{name}" of relation "{definition.name}" does not exist')


def _with(definition: UserType, attribute: Attribute) -> UserType:
    attributes = tuple(attribute if each.number == attribute.number else each for each in definition.attributes)
    return replace(definition, attributes=attributes)


async def alter_composite(ddl: DdlContext, definition: UserType, action: AlterTypeAction) -> None:
    """One action of ALTER TYPE on attributes."""
    if definition.kind != "c":
        raise WrongObjectType(f'"{definition.name}" is not a composite type')
    await ddl.ddl.lock_tables([table.oid for table, _ in columns_holding(ddl, definition.oid)])
    match action.kind:
        case "add_attribute":
            _add(ddl, definition, action)
        case "drop_attribute":
            await _drop(ddl, definition, action)
        case "alter_attribute":
            _change_type(ddl, definition, action)
        case "rename_attribute":
            await _rename(ddl, definition, action)


def _add(ddl: DdlContext, definition: UserType, action: AlterTypeAction) -> None:
    assert action.column is not None
    number = 1 + max((each.number for each in definition.attributes), default=0)
    if number > MOST_COLUMNS:
        raise DatabaseError.of("54011", f"tables can have at most {MOST_COLUMNS} columns")
    attribute = _attribute(action.column, number)
    ddl.require_type(attribute.type_oid)
    if _found(definition, attribute.name) is not None:
        raise DuplicateColumn(f'column "{attribute.name}" of relation "{definition.name}" already exists')
    refuse_itself(ddl, definition.oid, attribute.type_oid)
    put_type(ddl, replace(definition, attributes=(*definition.attributes, attribute)))


async def _drop(ddl: DdlContext, definition: UserType, action: AlterTypeAction) -> None:
    attribute = _found(definition, action.name)
    if attribute is None:
        error = _missing(definition, action.name)
        if not action.if_exists:
            raise error
        ddl.tell(error.message + ", skipping")
        return
    changed = dropped_attribute(ddl, definition, attribute)
    await put_without(ddl, definition, changed, attribute.name, action.cascade)


def dropped_attribute(ddl: DdlContext, definition: UserType, attribute: Attribute) -> UserType:
    """The type without an attribute, whose slot stays.  Keys of indexes hold what their rows held."""
    for table, column in columns_holding(ddl, definition.oid):
        if any(part.column == column.number for index in table.indexes for part in index.columns):
            raise FeatureNotSupported(
                f'cannot drop a field of type "{definition.name}" because an index over '
                f'"{table.name}.{column.name}" uses it',
                hint="Drop the index, and make it again afterwards.",
            )
    name = f"........pg.dropped.{attribute.number}........"
    return _with(definition, replace(attribute, name=name, dropped=True))


def _change_type(ddl: DdlContext, definition: UserType, action: AlterTypeAction) -> None:
    assert action.column is not None
    attribute = _found(definition, action.name)
    if attribute is None:
        raise _missing(definition, action.name)
    users = columns_holding(ddl, definition.oid)
    if users:
        table, column = users[0]
        raise FeatureNotSupported(
            f'cannot alter type "{definition.name}" because column "{table.name}.{column.name}" uses it'
        )
    changed = _attribute(_named(action.column, action.name), attribute.number)
    ddl.require_type(changed.type_oid)
    refuse_itself(ddl, definition.oid, changed.type_oid)
    put_type(ddl, _with(definition, changed))


def _named(spec: ColumnSpec, name: str) -> ColumnSpec:
    return ColumnSpec(name, spec.type, collation=spec.collation, position=spec.position)


async def _rename(ddl: DdlContext, definition: UserType, action: AlterTypeAction) -> None:
    attribute = _found(definition, action.name)
    if attribute is None:
        raise UndefinedColumn(f'column "{action.name}" does not exist')
    name = clip(action.new_name)
    if _found(definition, name) is not None:
        raise DuplicateColumn(f'column "{name}" of relation "{definition.name}" already exists')
    await put_renamed_attribute(ddl, _with(definition, replace(attribute, name=name)), attribute.name, name)
