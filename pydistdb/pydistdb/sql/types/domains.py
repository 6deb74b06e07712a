"""Domains: a base type with constraints, checked whenever a value becomes one.

    CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100)
    101::percent          ERROR:  value for domain percent violates check constraint "percent_check"

A domain's values are those of its base type, and so are its operators, functions, order, storage and formats; only a
conversion *to* a domain is something of its own: the base type's conversion, then ``check_value``.  The constraints are
those of the session's catalog at that moment, compiled once per definition (``set_compiler``: the executor knows how).

Source: PostgreSQL 15 manual, 8.18 and CREATE DOMAIN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.types import known, user
from pydistdb.sql.types.base import EvalContext, Function, SqlType
from pydistdb.sql.types.user import FIRST_USER_OID, TypeEntry

MOST_LEVELS = 100

Check = tuple[str, Callable[[EvalContext, Any], Any]]
"""A constraint's name and the function that gives True, False or None for a value."""
Compiler = Callable[[TypeEntry, EvalContext], tuple[Check, ...]]

_compiler: list[Compiler] = []


def set_compiler(compiler: Compiler) -> None:
    """Tell how a domain's CHECK conditions become functions."""
    _compiler[:] = (compiler,)


def is_domain(oid: int) -> bool:
    return oid >= FIRST_USER_OID and _base_oid(oid) != 0


def _base_oid(oid: int) -> int:
    entry = user.committed_entry(oid)
    return entry.definition.base_oid if entry is not None else 0


def base_oid(oid: int) -> int:
    """The type that a domain is over in the end; any other type is its own."""
    if oid < FIRST_USER_OID:
        return oid
    for _ in range(MOST_LEVELS):
        below = _base_oid(oid)
        if not below:
            break
        oid = below
    return oid


def next_base(oid: int) -> SqlType:
    """The type that a domain is directly over, with its modifier."""
    entry = user.committed_entry(oid)
    assert entry is not None
    definition = entry.definition
    return known.TYPES_BY_OID[definition.base_oid].with_modifier(definition.base_modifier)


def base_type(oid: int) -> SqlType:
    """The type that a domain is over in the end, with the nearest modifier."""
    modifier = -1
    while is_domain(oid):
        below = next_base(oid)
        modifier = below.modifier if modifier < 0 else modifier
        oid = below.oid
    return known.TYPES_BY_OID[oid].with_modifier(modifier)


def check_value(oid: int, value: Any, context: EvalContext) -> Any:
    """Hold a value of the base type against the constraints of the domain and of all below it, those below first;
    gives the value back."""
    levels: list[TypeEntry] = []
    below = oid
    while is_domain(below):
        levels.append(user.entry_of(below, context))
        below = levels[-1].definition.base_oid
    if value is None and any(level.definition.not_null for level in levels):
        message = f"domain {user.shown_name(oid, context)} does not allow null values"
        raise DatabaseError.of("23502", message, **_where(levels[0], context))
    for level in reversed(levels):
        if level.definition.checks:
            _hold_against(level, levels[0], value, context)
    return value


def _hold_against(level: TypeEntry, domain: TypeEntry, value: Any, context: EvalContext) -> None:
    checks = level.checks
    if checks is None:
        checks = level.checks = _compiler[0](level, context)
    for name, test in checks:
        if test(context, value) is False:
            raise DatabaseError.of(
                "23514",
                f"value for domain {user.shown_name(domain.definition.oid, context)} violates check constraint "
                f'"{name}"',
                constraint=name,
                **_where(domain, context),
            )


def _where(entry: TypeEntry, context: EvalContext) -> dict[str, str | None]:
    schema = context.catalog.schema_by_oid(entry.definition.schema) if context.catalog is not None else None
    return {"schema": None if schema is None else schema.name, "datatype": entry.definition.name}


_coercions: dict[int, Function] = user.derived_from_types({})


def coercion(oid: int) -> Function:
    """The function from a value of ``base_type(oid)`` to one of the domain."""
    found = _coercions.get(oid)
    if found is None:
        found = _coercions[oid] = _make_coercion(oid)
    return found


def _make_coercion(oid: int) -> Function:
    domain = known.TYPES_BY_OID[oid]
    return Function(
        oid=0,
        name=domain.name,
        argument_types=(known.TYPES_BY_OID[base_oid(oid)],),
        return_type=domain,
        implementation=lambda context, value: check_value(oid, value, context),
        strict=False,
        volatility="s",
        needs_context=True,
    )
