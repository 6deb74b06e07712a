"""Statements with which users extend SQL: types, domains, functions and procedures (see statements.py).

What a type is called stays a ``TypeReference`` until the statement is carried out, since the type may be the user's own.

    CREATE FUNCTION f(a int) RETURNS int …        CreateRoutine(Name("f"), (ArgumentSpec(…),), …)
    DROP FUNCTION f(int)                          DropRoutines((RoutineName(Name("f"), …),))
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydistdb.sql.schema_statements import ColumnSpec, ConstraintSpec
from pydistdb.sql.statements import Name, RoutineName, TypeReference, Utility
from pydistdb.sql.types.base import SqlType


@dataclass(frozen=True, slots=True)
class ArgumentSpec:
    """``mode``: i, o, b, v or t, as in pg_proc.proargmodes; ``default`` is SQL text."""

    name: str
    mode: str
    type: TypeReference
    default: str | None = None


@dataclass(frozen=True, slots=True)
class CreateRoutine(Utility):
    """``kind``: f function, p procedure.  ``form``: '' for a string body, 'return' or 'atomic'.

    ``options``: language, volatility, strict, security, leakproof, parallel, cost, rows, set, window, support."""

    name: Name
    kind: str
    arguments: tuple[ArgumentSpec, ...]
    returns: TypeReference | None
    returns_set: bool
    body: str | None
    form: str = ""
    replace: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    body_position: int | None = None
    """Where the body starts in the client's text, if it stands there as it is (no doubled quotes, no escapes)."""


@dataclass(frozen=True, slots=True)
class AlterRoutine(Utility):
    """Options as in CREATE, or one of the three others."""

    kind: str
    routine: RoutineName
    options: dict[str, Any] = field(default_factory=dict)
    new_name: str = ""
    new_schema: str = ""


@dataclass(frozen=True, slots=True)
class DropRoutines(Utility):
    """``kind``: function, procedure or routine (either)."""

    kind: str
    routines: tuple[RoutineName, ...]
    missing_ok: bool
    cascade: bool


@dataclass(frozen=True, slots=True)
class Call(Utility):
    """``arguments``: (name or '', SQL text)."""

    name: Name
    arguments: tuple[tuple[str, str], ...]
    variadic: bool = False
    position: int | None = None


@dataclass(frozen=True, slots=True)
class CreateType(Utility):
    """``kind``: enum (with ``labels``) or composite (with ``attributes``)."""

    name: Name
    kind: str
    labels: tuple[str, ...] = ()
    attributes: tuple[ColumnSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class CreateDomain(Utility):
    """``default`` None: none of its own."""

    name: Name
    type: SqlType
    default: str | None = None
    not_null: bool = False
    checks: tuple[ConstraintSpec, ...] = ()
    collation: str | None = None


@dataclass(frozen=True, slots=True)
class AlterTypeAction:
    """``kind``: add_value, rename_value, rename, set_schema, owner_to; for domains set_default, drop_default,
    set_not_null, drop_not_null, add_constraint, drop_constraint, validate_constraint, rename_constraint; for composite
    types add_attribute, drop_attribute, alter_attribute, rename_attribute."""

    kind: str
    name: str = ""
    new_name: str = ""
    neighbor: str | None = None
    after: bool = True
    if_exists: bool = False
    """IF EXISTS, or IF NOT EXISTS."""
    expression: str | None = None
    constraint: ConstraintSpec | None = None
    column: ColumnSpec | None = None
    cascade: bool = False


@dataclass(frozen=True, slots=True)
class AlterType(Utility):
    """``kind``: type or domain, as written."""

    name: Name
    actions: tuple[AlterTypeAction, ...]
    kind: str = "type"
