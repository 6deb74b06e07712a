"""ALTER DOMAIN: defaults, NOT NULL and CHECK constraints, held against the columns that have the domain.

The tables with such columns are locked, so that nobody writes what the new constraint would refuse while the rows are
looked through.

Source: PostgreSQL 15 manual, ALTER DOMAIN.
"""

from __future__ import annotations

from msgspec.structs import replace

from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.create_domain import check_default, new_check
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.catalog.naming import clip
from pydistdb.sql.catalog.qualify import qualified_text
from pydistdb.sql.catalog.queries import first_row, full_name, quote
from pydistdb.sql.catalog.renaming import rename_in_expression
from pydistdb.sql.catalog.type_names import put_type, shown
from pydistdb.sql.errors import CheckViolation, DuplicateObject, FeatureNotSupported, NotNullViolation, UndefinedObject
from pydistdb.sql.type_statements import AlterTypeAction
from pydistdb.sql.types import domains
from pydistdb.sql.types.user import DomainCheck, TypeEntry, UserType


async def alter_domain(ddl: DdlContext, entry: TypeEntry, action: AlterTypeAction) -> None:
    """One action of ALTER DOMAIN."""
    definition = entry.definition
    await ddl.ddl.lock_tables([table.oid for table, _ in columns_of(ddl, definition)])
    match action.kind:
        case "set_default":
            assert action.expression is not None
            check_default(ddl, action.expression, domains.next_base(definition.oid))
            put_type(ddl, replace(definition, default=qualified_text(ddl.view, action.expression)))
        case "drop_default":
            put_type(ddl, replace(definition, default=None))
        case "set_not_null":
            await _refuse_nulls(ddl, definition)
            put_type(ddl, replace(definition, not_null=True))
        case "drop_not_null":
            put_type(ddl, replace(definition, not_null=False))
        case "add_constraint":
            await _add_constraint(ddl, definition, action)
        case "drop_constraint":
            _drop_constraint(ddl, definition, action)
        case "validate_constraint":
            await _validate_constraint(ddl, definition, action.name)
        case "rename_constraint":
            _rename_constraint(ddl, definition, action)


def columns_of(ddl: DdlContext, definition: UserType) -> list[tuple[Table, Column]]:
    """The columns of the domain, and of domains over it; those that hold it inside of something else are refused."""
    found: list[tuple[Table, Column]] = []
    for table in ddl.view.tables():
        if table.kind != "r":
            continue
        for column in table.columns:
            if column.dropped:
                continue
            if column.type_oid == definition.oid:
                found.append((table, column))
            elif column.type_oid == definition.array_oid:
                what = shown(ddl, definition.oid)
                raise FeatureNotSupported(
                    f'cannot alter type "{what}" because column "{table.name}.{column.name}" uses it'
                )
    for other in ddl.view.state.types.values():
        if other.definition.base_oid == definition.oid:
            found += columns_of(ddl, other.definition)
        for attribute in other.definition.attributes:
            if attribute.type_oid in (definition.oid, definition.array_oid) and not attribute.dropped:
                what = f"{other.definition.name}.{attribute.name}"
                raise FeatureNotSupported(
                    f'cannot alter type "{shown(ddl, definition.oid)}" because column "{what}" uses it'
                )
    return found


async def _refuse_nulls(ddl: DdlContext, definition: UserType) -> None:
    for table, column in columns_of(ddl, definition):
        query = f"SELECT 1 FROM {full_name(ddl, table)} WHERE {quote(column.name)} IS NULL LIMIT 1"
        if await first_row(ddl, query) is not None:
            raise NotNullViolation(
                f'column "{column.name}" of table "{table.name}" contains null values',
                schema=ddl.view.state.schemas[table.schema].name,
                table=table.name,
                column=column.name,
            )


async def _hold_rows_against(ddl: DdlContext, definition: UserType, check: DomainCheck) -> None:
    for table, column in columns_of(ddl, definition):
        condition = rename_in_expression(check.expression, "value", column.name)
        query = f"SELECT 1 FROM {full_name(ddl, table)} WHERE NOT ({condition}\n) LIMIT 1"
        if await first_row(ddl, query) is not None:
            raise CheckViolation(
                f'column "{column.name}" of table "{table.name}" contains values that violate the new constraint',
                schema=ddl.view.state.schemas[table.schema].name,
                table=table.name,
                column=column.name,
            )


async def _add_constraint(ddl: DdlContext, definition: UserType, action: AlterTypeAction) -> None:
    assert action.constraint is not None
    base = domains.next_base(definition.oid)
    check = await new_check(ddl, definition.name, base, action.constraint, definition.checks)
    if check.validated:
        await _hold_rows_against(ddl, definition, check)
    put_type(ddl, replace(definition, checks=(*definition.checks, check)))


def _drop_constraint(ddl: DdlContext, definition: UserType, action: AlterTypeAction) -> None:
    left = tuple(check for check in definition.checks if check.name != action.name)
    if len(left) == len(definition.checks):
        message = f'constraint "{action.name}" of domain "{definition.name}" does not exist'
        if not action.if_exists:
            raise UndefinedObject(message)
        ddl.tell(message + ", skipping")
        return
    put_type(ddl, replace(definition, checks=left))


async def _validate_constraint(ddl: DdlContext, definition: UserType, name: str) -> None:
    check = next((check for check in definition.checks if check.name == name), None)
    if check is None:
        raise UndefinedObject(f'constraint "{name}" of domain "{definition.name}" does not exist')
    if not check.validated:
        await _hold_rows_against(ddl, definition, check)
        checks = tuple(replace(each, validated=True) if each.name == name else each for each in definition.checks)
        put_type(ddl, replace(definition, checks=checks))


def _rename_constraint(ddl: DdlContext, definition: UserType, action: AlterTypeAction) -> None:
    new_name = clip(action.new_name)
    names = [check.name for check in definition.checks]
    if action.name not in names:
        raise UndefinedObject(f'constraint "{action.name}" for domain {shown(ddl, definition.oid)} does not exist')
    if new_name in names:
        raise DuplicateObject(f'constraint "{new_name}" for domain {shown(ddl, definition.oid)} already exists')
    checks = tuple(replace(each, name=new_name) if each.name == action.name else each for each in definition.checks)
    put_type(ddl, replace(definition, checks=checks))
