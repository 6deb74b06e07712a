"""The options of sequences, of identity columns too: checked against one another and against the type's limits.

Source: PostgreSQL 15 manual, CREATE SEQUENCE and ALTER SEQUENCE; sequence.c (init_params).
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from pydistdb.sql.catalog.constraints import column_named
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.sequence_numbers import TYPE_LIMITS, SequenceDefinition
from pydistdb.sql.errors import (
    DatabaseError,
    FeatureNotSupported,
    InvalidParameterValue,
    UndefinedColumn,
    UndefinedObject,
)
from pydistdb.sql.statements import Name
from pydistdb.sql.types import registry

Options = tuple[tuple[str, int | str | bool | None], ...]


def apply_options(
    ddl: DdlContext,
    old: SequenceDefinition | None,
    options: Options,
    sequence: Table | None = None,
    base: SequenceDefinition | None = None,
) -> SequenceDefinition:
    """The definition after CREATE (``old`` None; ``base``: what is not said) or ALTER SEQUENCE's options."""
    given: dict[str, Any] = {}
    for name, value in options:
        if name in given:
            raise DatabaseError.of("42601", "conflicting or redundant options")
        given[name] = value
    base = old or base or SequenceDefinition()
    type_oid = _type(given["as"]) if "as" in given else base.type_oid
    increment = int(given.get("increment", base.increment))
    if increment == 0:
        raise InvalidParameterValue("INCREMENT must not be zero")
    limit = TYPE_LIMITS[type_oid]
    old_limit = TYPE_LIMITS[base.type_oid]
    # Limits that were those of the old type become those of the new one; others stay.
    new_type = old is not None and type_oid != base.type_oid
    follows_low = new_type and base.minimum == -old_limit - 1
    follows_high = new_type and base.maximum == old_limit
    lowest = 1 if increment > 0 and not follows_low else -limit - 1
    highest = limit if increment > 0 or follows_high else -1
    minimum = None if old is None or follows_low else base.minimum
    maximum = None if old is None or follows_high else base.maximum
    minimum = given.get("minvalue") if "minvalue" in given else minimum
    maximum = given.get("maxvalue") if "maxvalue" in given else maximum
    minimum = lowest if minimum is None else int(minimum)
    maximum = highest if maximum is None else int(maximum)
    _check_limits(minimum, maximum, limit, type_oid)
    start = given.get("start")
    if start is None:
        start = (minimum if increment > 0 else maximum) if old is None else base.start
    cache = given.get("cache")
    if cache is not None and int(cache) <= 0:
        raise InvalidParameterValue(f"CACHE ({cache}) must be greater than zero")
    cycle = bool(given["cycle"]) if given.get("cycle") is not None else base.cycle
    definition = replace(
        base,
        type_oid=type_oid,
        start=int(start),
        increment=increment,
        minimum=minimum,
        maximum=maximum,
        cycle=cycle,
        cache=base.cache if cache is None else int(cache),
    )
    check_start(definition, definition.start, "START")
    if "owned_by" in given:
        definition = _owned(ddl, definition, str(given["owned_by"]), sequence)
    return definition


def _type(name: object) -> int:
    sql_type = registry.type_by_name(str(name))
    if sql_type is None:
        raise UndefinedObject(f'type "{name}" does not exist')
    if sql_type.oid not in TYPE_LIMITS:
        raise InvalidParameterValue("sequence type must be smallint, integer, or bigint")
    return sql_type.oid


def _check_limits(minimum: int, maximum: int, limit: int, type_oid: int) -> None:
    name = registry.format_type(type_oid, -1)
    if maximum > limit or maximum < -limit - 1:
        raise InvalidParameterValue(f"MAXVALUE ({maximum}) is out of range for sequence data type {name}")
    if minimum > limit or minimum < -limit - 1:
        raise InvalidParameterValue(f"MINVALUE ({minimum}) is out of range for sequence data type {name}")
    if minimum >= maximum:
        raise InvalidParameterValue(f"MINVALUE ({minimum}) must be less than MAXVALUE ({maximum})")


def check_start(definition: SequenceDefinition, value: int, word: str) -> None:
    if value < definition.minimum:
        raise InvalidParameterValue(f"{word} value ({value}) cannot be less than MINVALUE ({definition.minimum})")
    if value > definition.maximum:
        raise InvalidParameterValue(f"{word} value ({value}) cannot be greater than MAXVALUE ({definition.maximum})")


def _owned(ddl: DdlContext, definition: SequenceDefinition, owner: str, sequence: Table | None) -> SequenceDefinition:
    parts = owner.split(".")
    if definition.identity and sequence is not None:
        table = ddl.view.state.tables[definition.owner_table]
        raise FeatureNotSupported(
            "cannot change ownership of identity sequence",
            detail=f'Sequence "{sequence.name}" is linked to table "{table.name}".',
        )
    if parts == ["none"]:
        return replace(definition, owner_table=0, owner_column=0)
    if len(parts) < 2:
        raise DatabaseError.of(
            "42601", "invalid OWNED BY option", hint="Specify OWNED BY table.column or OWNED BY NONE."
        )
    table = ddl.table(Name(parts[-2], parts[-3] if len(parts) > 2 else None))
    if sequence is not None and sequence.schema != table.schema:
        raise DatabaseError.of("55000", "sequence must be in same schema as table it is linked to")
    if (ddl.role if sequence is None else sequence.owner) != table.owner:
        raise DatabaseError.of("55000", "sequence must have same owner as table it is linked to")
    column = column_named(table, parts[-1])
    if column is None:
        raise UndefinedColumn(f'column "{parts[-1]}" of relation "{table.name}" does not exist')
    return replace(definition, owner_table=table.oid, owner_column=column.number)
