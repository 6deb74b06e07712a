"""CREATE DOMAIN, and what ALTER DOMAIN shares with it: defaults and CHECK conditions, checked when they are defined.

Source: PostgreSQL 15 manual, CREATE DOMAIN.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql import bind
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.expressions import refuse_unstorable
from pydistdb.sql.catalog.naming import choose, clip
from pydistdb.sql.catalog.options import collation_named
from pydistdb.sql.catalog.qualify import qualified_text
from pydistdb.sql.catalog.temporary import place
from pydistdb.sql.catalog.type_names import put_type, refuse_taken, shown
from pydistdb.sql.errors import DatatypeMismatch, DuplicateObject
from pydistdb.sql.schema_statements import ConstraintSpec
from pydistdb.sql.type_statements import CreateDomain
from pydistdb.sql.types import domains, registry
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.user import DomainCheck, UserType


async def create_domain(ddl: DdlContext, statement: CreateDomain) -> str:
    schema = await place(ddl, statement.name, False)
    name = clip(statement.name.name)
    base = statement.type
    if base.category in "PX":
        raise DatatypeMismatch(f'"{shown(ddl, base.oid)}" is not a valid base type for a domain')
    collation_named(statement.collation)
    ddl.require_type(base.oid)
    registry.io(base.oid)
    refuse_taken(ddl, schema.oid, name)
    below = ddl.view.type_entry(base.oid)
    default = below.definition.default if statement.default is None and below is not None else statement.default
    if statement.default is not None:
        check_default(ddl, statement.default, base)
    checks: tuple[DomainCheck, ...] = ()
    for spec in statement.checks:
        checks = (*checks, await new_check(ddl, name, base, spec, checks))
    oid = await ddl.store.allocate_oids(2)
    definition = UserType(
        oid,
        name,
        schema.oid,
        ddl.database_oid,
        "d",
        oid + 1,
        ddl.role,
        base_oid=base.oid,
        base_modifier=base.modifier,
        not_null=statement.not_null,
        default=None if default is None else qualified_text(ddl.view, default),
        checks=checks,
    )
    put_type(ddl, definition)
    return "CREATE DOMAIN"


def check_default(ddl: DdlContext, text: str, base: SqlType) -> None:
    """Bind a default, converted to the base type."""
    refuse_unstorable(bind.bind_scalar(text, ddl.view, ddl.context, base), "DEFAULT expression")


async def new_check(
    ddl: DdlContext, domain: str, base: SqlType, spec: ConstraintSpec, others: Sequence[DomainCheck]
) -> DomainCheck:
    """Check a CHECK constraint and give it its name and oid."""
    assert spec.expression is not None
    taken = {check.name for check in others}
    name = clip(spec.name) if spec.name else choose([domain], "check", taken.__contains__)
    if name in taken:
        raise DuplicateObject(f'constraint "{name}" for domain "{domain}" already exists')
    value = domains.base_type(base.oid) if domains.is_domain(base.oid) else base
    condition = bind.bind_domain_check(spec.expression, value, ddl.view, ddl.context)
    refuse_unstorable(condition, "check constraint")
    return DomainCheck(
        await ddl.store.allocate_oids(), name, qualified_text(ddl.view, spec.expression), not spec.not_valid
    )
