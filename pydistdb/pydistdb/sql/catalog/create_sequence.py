"""CREATE SEQUENCE and ALTER SEQUENCE: checking and merging the options."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from pydistdb.sql.catalog.constraints import column_named
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.create_table import already_exists
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.garbage import table_garbage
from pydistdb.sql.catalog.naming import clip
from pydistdb.sql.catalog.rewrite import with_new_storage
from pydistdb.sql.catalog.sequence_numbers import (
    TYPE_LIMITS,
    SequenceDefinition,
    definition_of,
    encode_definition,
    forget_blocks,
    new_sequence,
)
from pydistdb.sql.catalog.temporary import is_temporary, place
from pydistdb.sql.errors import (
    DatabaseError,
    InvalidParameterValue,
    UndefinedColumn,
)
from pydistdb.sql.statements import AlterSequence, CreateSequence, Name
from pydistdb.sql.types import registry

Options = tuple[tuple[str, int | str | bool | None], ...]


async def create_sequence(ddl: DdlContext, statement: CreateSequence) -> str:
    await ddl.ddl.open()
    schema = await place(ddl, statement.name, statement.temporary)
    if already_exists(ddl, schema, statement.name, statement.if_not_exists):
        return "CREATE SEQUENCE"
    definition = apply_options(ddl, None, statement.options)
    oid = await ddl.store.allocate_oids()
    sequence = new_sequence(oid, clip(statement.name.name), schema.oid, ddl.database_oid, definition)
    if is_temporary(schema):
        sequence = replace(sequence, persistence="t")
    for garbage in table_garbage(sequence):
        ddl.ddl.made_storage(garbage, sequence.storage_id)
    ddl.put_table(sequence)
    return "CREATE SEQUENCE"


async def alter_sequence(ddl: DdlContext, statement: AlterSequence) -> str:
    await ddl.ddl.open()
    sequence = ddl.find(statement.name, "S")
    if sequence is None:
        if not statement.missing_ok:
            ddl.table(statement.name, "S")
        ddl.tell(f'relation "{statement.name.name}" does not exist, skipping', "00000")
        return "ALTER SEQUENCE"
    await ddl.ddl.lock_tables([sequence.oid])
    options = dict(statement.options)
    restart = "restart" in options
    definition = apply_options(ddl, definition_of(sequence), tuple(o for o in statement.options if o[0] != "restart"))
    if restart:
        # Numbers restart with the transaction: the sequence gets new, empty storage whose first number is the start.
        value = options["restart"]
        first = definition.start if value is None else int(value)
        _check_start(definition, first, "RESTART")
        sequence = await with_new_storage(ddl, sequence)
        definition = replace(definition, restart=first)
    elif definition_of(sequence) != definition:
        sequence = await _keep_position(ddl, sequence, definition)
    ddl.put_table(replace(sequence, definition=encode_definition(definition), version=sequence.version + 1))
    return "ALTER SEQUENCE"


async def _keep_position(ddl: DdlContext, sequence: Table, definition: SequenceDefinition) -> Table:
    """Numbers that nodes hold in memory follow the old definition: make them take new ones."""
    await forget_blocks(ddl.store.database, sequence, give_back=True)
    return sequence


def apply_options(ddl: DdlContext, old: SequenceDefinition | None, options: Options) -> SequenceDefinition:
    """The definition after CREATE (``old`` None) or ALTER SEQUENCE's options."""
    given: dict[str, Any] = {}
    for name, value in options:
        if name in given:
            raise DatabaseError.of("42601", "conflicting or redundant options")
        given[name] = value
    base = old or SequenceDefinition()
    type_oid = _type(given["as"]) if "as" in given else base.type_oid
    increment = int(given.get("increment", base.increment))
    if increment == 0:
        raise InvalidParameterValue("INCREMENT must not be zero")
    limit = TYPE_LIMITS[type_oid]
    retype = old is None or type_oid != base.type_oid
    lowest = 1 if increment > 0 else -limit - 1
    highest = limit if increment > 0 else -1
    minimum = given.get("minvalue") if "minvalue" in given else (None if retype else base.minimum)
    maximum = given.get("maxvalue") if "maxvalue" in given else (None if retype else base.maximum)
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
        base, type_oid=type_oid, start=int(start), increment=increment, minimum=minimum, maximum=maximum, cycle=cycle
    )
    _check_start(definition, definition.start, "START")
    if "owned_by" in given:
        definition = _owned(ddl, definition, str(given["owned_by"]))
    return definition


def _type(name: object) -> int:
    sql_type = registry.type_by_name(str(name))
    if sql_type is None or sql_type.oid not in TYPE_LIMITS:
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


def _check_start(definition: SequenceDefinition, value: int, word: str) -> None:
    if value < definition.minimum:
        raise InvalidParameterValue(f"{word} value ({value}) cannot be less than MINVALUE ({definition.minimum})")
    if value > definition.maximum:
        raise InvalidParameterValue(f"{word} value ({value}) cannot be greater than MAXVALUE ({definition.maximum})")


def _owned(ddl: DdlContext, definition: SequenceDefinition, owner: str) -> SequenceDefinition:
    parts = owner.split(".")
    if parts == ["none"]:
        return replace(definition, owner_table=0, owner_column=0)
    if len(parts) < 2:
        raise DatabaseError.of(
            "42601", "invalid OWNED BY option", hint="Specify OWNED BY table.column or OWNED BY NONE."
        )
    table = ddl.table(Name(parts[-2], parts[-3] if len(parts) > 2 else None))
    column = column_named(table, parts[-1])
    if column is None:
        raise UndefinedColumn(f'column "{parts[-1]}" of relation "{table.name}" does not exist')
    return replace(definition, owner_table=table.oid, owner_column=column.number)
