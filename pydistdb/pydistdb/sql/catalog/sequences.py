"""The sequences behind serial and identity columns: made with the column, gone with it."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

from msgspec.structs import replace

from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.catalog.garbage import table_garbage
from pydistdb.sql.catalog.naming import choose, clip
from pydistdb.sql.catalog.sequence_numbers import (
    TYPE_LIMITS,
    SequenceDefinition,
    definition_of,
    new_sequence,
)
from pydistdb.sql.catalog.sequence_options import Options, apply_options
from pydistdb.sql.errors import DatabaseError, DuplicateTable

__all__ = ["SequenceDefinition", "definition_of", "next_value_expression", "owned_sequence"]


def _given_name(ddl: DdlContext, table: Table, written: str, taken: set[str]) -> str:
    """What SEQUENCE NAME (which pg_dump writes) asks for; the sequence stands in the table's schema."""
    schema, _, name = written.rpartition(".")
    if schema and ddl.schema(schema).oid != table.schema:
        raise DatabaseError.of("55000", "sequence must be in same schema as table it is linked to")
    name = clip(name)
    if name in taken or ddl.view.is_name_taken(table.schema, name):
        raise DuplicateTable(f'relation "{name}" already exists')
    return name


def check_identity_type(type_oid: int) -> None:
    if type_oid not in TYPE_LIMITS:
        raise DatabaseError.of("22023", "identity column type must be smallint, integer, or bigint")


async def owned_sequence(
    ddl: DdlContext,
    table: Table,
    column: Column,
    pending: SequenceOf[Table],
    identity: bool,
    options: Options = (),
) -> Table:
    """The sequence behind a serial or identity column."""
    check_identity_type(column.type_oid)
    taken = {sequence.name for sequence in pending}
    name = choose([table.name, column.name], "seq", lambda n: n in taken or ddl.view.is_name_taken(table.schema, n))
    oid = await ddl.store.allocate_oids()
    definition = SequenceDefinition(
        column.type_oid,
        maximum=TYPE_LIMITS[column.type_oid],
        owner_table=table.oid,
        owner_column=column.number,
        identity=identity,
    )
    if options:
        named = dict(options).get("sequence_name")
        if named is not None:
            name = _given_name(ddl, table, str(named), taken)
        rest = tuple(pair for pair in options if pair[0] != "sequence_name")
        definition = apply_options(ddl, None, rest, base=definition)
    sequence = new_sequence(oid, name, table.schema, table.database, definition)
    sequence = replace(sequence, persistence=table.persistence, owner=table.owner)
    for garbage in table_garbage(sequence):
        ddl.ddl.made_storage(garbage, sequence.storage_id)
    return sequence


def next_value_expression(ddl: DdlContext, sequence: Table) -> str:
    """The default of a column that takes its numbers from ``sequence``: by oid, so that renaming it does no harm."""
    return f"nextval({sequence.oid}::regclass)"
