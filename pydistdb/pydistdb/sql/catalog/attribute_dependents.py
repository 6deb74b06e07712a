"""What needs an attribute of a composite type: conditions, generated columns and views that name it.

They are found by looking: the type is changed, and what is stored is bound once more; what does not bind now needed the
attribute::

    CREATE TABLE t (y pair CHECK ((y).a > 0))
    ALTER TYPE pair DROP ATTRIBUTE a              refused: constraint t_y_check on table t depends on it
    ALTER TYPE pair DROP ATTRIBUTE a CASCADE      the constraint goes along

Source: PostgreSQL 15 manual, ALTER TYPE, 5.14.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from pydistdb.sql import bind
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.dependencies import described
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.drop_plan import DependentText, forget_table, report_dependents
from pydistdb.sql.catalog.queries import bind_query
from pydistdb.sql.catalog.stored_texts import field_renamed, follow
from pydistdb.sql.catalog.type_dependencies import columns_holding
from pydistdb.sql.catalog.type_names import put_type, shown
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported
from pydistdb.sql.types import registry
from pydistdb.sql.types.user import UserType


async def put_without(ddl: DdlContext, old: UserType, new: UserType, attribute: str, cascade: bool) -> None:
    """Put a type that has lost an attribute; raises 2BP01 if anything needs that, or (CASCADE) drops it too."""
    put_type(ddl, new)
    what = f"column {attribute} of composite type {shown(ddl, old.oid)}"
    await drop_users(ddl, old.oid, what, attribute, cascade)


async def drop_users(ddl: DdlContext, type_oid: int, what: str, attribute: str, cascade: bool) -> None:
    """The same for a row type, which has lost its attribute already: of a composite type or of a table."""
    holding = {table.oid: table for table, _ in columns_holding(ddl, type_oid)}
    checks = [
        (table, check)
        for table in holding.values()
        for check in table.checks
        if not _binds_over(ddl, table, check.expression)
    ]
    others = list(_others(ddl, type_oid, list(holding.values())))
    views = [view for view in ddl.view.tables() if _needs(ddl, view, attribute)]
    found = [
        *(DependentText(t.oid, f"constraint {check.name} on {described(ddl, t)}", what) for t, check in checks),
        *(DependentText(type_oid, description, what) for description in others),
        *(DependentText(view.oid, described(ddl, view), what) for view in views),
    ]
    if not found:
        return
    report_dependents(ddl, found, cascade, [what])
    if others:
        raise FeatureNotSupported(f"dropping {what} with {others[0]} is not supported")
    for table, check in checks:
        current = ddl.view.state.tables[table.oid]
        left = tuple(each for each in current.checks if each.name != check.name)
        ddl.put_table(replace(current, checks=left, version=current.version + 1))
    await ddl.ddl.lock_tables([view.oid for view in views])
    for view in views:
        if view.oid in ddl.view.state.tables:
            ddl.apply(forget_table(ddl, view))


def _others(ddl: DdlContext, type_oid: int, holding: Sequence[Table]) -> Iterator[str]:
    """What CASCADE does not drop: generated columns, and the conditions of domains over the type."""
    for table in holding:
        for column in table.columns:
            is_kept = column.generated and not column.dropped and column.default is not None
            if is_kept and not _binds_over(ddl, table, column.default or ""):
                yield f"column {column.name} of {described(ddl, table)}"
    for entry in ddl.view.state.types.values():
        if entry.definition.kind == "d" and entry.definition.base_oid == type_oid:
            for check in entry.definition.checks:
                if not _binds_over_value(ddl, type_oid, check.expression):
                    yield f"constraint {check.name}"


def _needs(ddl: DdlContext, view: Table, attribute: str) -> bool:
    if view.kind not in "vm" or attribute not in view.definition:
        return False
    try:
        bind_query(ddl, view.definition)
    except DatabaseError:
        return True
    return False


def _binds_over(ddl: DdlContext, table: Table, text: str) -> bool:
    try:
        bind.bind_expression(text, table, ddl.view, ddl.context)
    except DatabaseError:
        return False
    return True


def _binds_over_value(ddl: DdlContext, type_oid: int, text: str) -> bool:
    try:
        bind.bind_domain_check(text, registry.type_by_oid(type_oid), ddl.view, ddl.context)
    except DatabaseError:
        return False
    return True


async def put_renamed_attribute(ddl: DdlContext, new: UserType, name: str, new_name: str) -> None:
    """Put a type whose attribute is called otherwise, and have those follow whose texts name it."""
    put_type(ddl, new)
    await follow(ddl, name, field_renamed(name, new_name), f'rename attribute "{name}"')
