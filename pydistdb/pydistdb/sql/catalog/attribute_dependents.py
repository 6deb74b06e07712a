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
from pydistdb.sql.bind.cutting import Tokens
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.dependencies import described, quoted
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.drop_plan import DependentText, forget_table, report_dependents
from pydistdb.sql.catalog.queries import bind_query
from pydistdb.sql.catalog.type_dependencies import columns_holding
from pydistdb.sql.catalog.type_names import put_type, shown
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported
from pydistdb.sql.types import registry
from pydistdb.sql.types.user import UserType


async def put_without(ddl: DdlContext, old: UserType, new: UserType, attribute: str, cascade: bool) -> None:
    """Put a type that has lost an attribute; raises 2BP01 if anything needs that, or (CASCADE) drops it too."""
    put_type(ddl, new)
    what = f"column {attribute} of composite type {shown(ddl, old.oid)}"
    holding = {table.oid: table for table, _ in columns_holding(ddl, old.oid)}
    checks = [
        (table, check)
        for table in holding.values()
        for check in table.checks
        if not _binds_over(ddl, table, check.expression)
    ]
    others = list(_others(ddl, old, list(holding.values())))
    views = [view for view in ddl.view.tables() if _needs(ddl, view, attribute)]
    found = [
        *(DependentText(t.oid, f"constraint {check.name} on {described(ddl, t)}", what) for t, check in checks),
        *(DependentText(old.oid, description, what) for description in others),
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


def _others(ddl: DdlContext, old: UserType, holding: Sequence[Table]) -> Iterator[str]:
    """What CASCADE does not drop: generated columns, and the conditions of domains over the type."""
    for table in holding:
        for column in table.columns:
            is_kept = column.generated and not column.dropped and column.default is not None
            if is_kept and not _binds_over(ddl, table, column.default or ""):
                yield f"column {column.name} of {described(ddl, table)}"
    for entry in ddl.view.state.types.values():
        if entry.definition.kind == "d" and entry.definition.base_oid == old.oid:
            for check in entry.definition.checks:
                if not _binds_over_value(ddl, old, check.expression):
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


def _binds_over_value(ddl: DdlContext, definition: UserType, text: str) -> bool:
    try:
        bind.bind_domain_check(text, registry.type_by_oid(definition.oid), ddl.view, ddl.context)
    except DatabaseError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------- renaming


def put_renamed_attribute(ddl: DdlContext, old: UserType, new: UserType, name: str, new_name: str) -> None:
    """Put a type whose attribute is called otherwise; conditions and generated columns follow."""
    put_type(ddl, new)

    def followed(text: str, what: str, table: Table | None) -> str:
        def binds(candidate: str) -> bool:
            if table is None:
                return _binds_over_value(ddl, old, candidate)
            return _binds_over(ddl, table, candidate)

        for candidate in (text, _with_field(text, name, new_name)):
            if binds(candidate):
                return candidate
        raise FeatureNotSupported(f'cannot rename attribute "{name}" while {what} uses it')

    for table in {table.oid: table for table, _ in columns_holding(ddl, old.oid)}.values():
        where = described(ddl, table)
        for index in table.indexes:
            for text in (*(each.expression for each in index.columns), index.predicate):
                if text and not _binds_over(ddl, table, text):
                    raise FeatureNotSupported(f'cannot rename attribute "{name}" while index {index.name} uses it')
        checks = tuple(
            replace(each, expression=followed(each.expression, f"constraint {each.name} on {where}", table))
            for each in table.checks
        )
        columns = tuple(
            replace(each, default=followed(each.default, f"column {each.name} of {where}", table))
            if each.generated and each.default is not None and not each.dropped
            else each
            for each in table.columns
        )
        if (checks, columns) != (table.checks, table.columns):
            ddl.put_table(replace(table, checks=checks, columns=columns, version=table.version + 1))
    for entry in list(ddl.view.state.types.values()):
        domain = entry.definition
        if domain.kind == "d" and domain.base_oid == old.oid:
            conditions = tuple(
                replace(each, expression=followed(each.expression, f"constraint {each.name}", None))
                for each in domain.checks
            )
            if conditions != domain.checks:
                put_type(ddl, replace(domain, checks=conditions))
    for view in ddl.view.tables():
        if _needs(ddl, view, name):
            raise FeatureNotSupported(f'cannot rename attribute "{name}" while {described(ddl, view)} uses it')


def _with_field(text: str, name: str, new_name: str) -> str:
    """The text with ``(row).name`` renamed, wherever it stands."""
    tokens = Tokens(text)
    pieces: list[str] = []
    position = 0
    for index in range(2, len(tokens.names)):
        word = text[tokens.starts[index] : tokens.ends[index]]
        plain = word[1:-1].replace('""', '"') if word.startswith('"') else word.lower()
        is_field = tokens.names[index - 1] == "ASCII_46" and tokens.names[index - 2] in (
            "ASCII_41",
            "ASCII_93",
            "IDENT",
        )
        if is_field and plain == name:
            pieces += [text[position : tokens.starts[index]], quoted(new_name)]
            position = tokens.ends[index]
    return "".join(pieces) + text[position:]
