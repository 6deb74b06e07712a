"""CREATE SEQUENCE and ALTER SEQUENCE; their options are checked and merged in sequence_options.py."""

from __future__ import annotations

from msgspec.structs import replace

from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.create_table import already_exists
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.garbage import table_garbage
from pydistdb.sql.catalog.naming import clip
from pydistdb.sql.catalog.rewrite import with_new_storage
from pydistdb.sql.catalog.sequence_numbers import definition_of, encode_definition, forget_blocks, new_sequence
from pydistdb.sql.catalog.sequence_options import Options, apply_options, check_start
from pydistdb.sql.catalog.temporary import is_temporary, place
from pydistdb.sql.errors import UndefinedTable
from pydistdb.sql.schema_statements import AlterSequence, CreateSequence


async def create_sequence(ddl: DdlContext, statement: CreateSequence) -> str:
    schema = await place(ddl, statement.name, statement.temporary)
    if already_exists(ddl, schema, statement.name, statement.if_not_exists):
        return "CREATE SEQUENCE"
    definition = apply_options(ddl, None, statement.options)
    oid = await ddl.store.allocate_oids()
    sequence = new_sequence(oid, clip(statement.name.name), schema.oid, ddl.database_oid, definition)
    sequence = replace(sequence, owner=ddl.role)
    if is_temporary(schema):
        sequence = replace(sequence, persistence="t")
    for garbage in table_garbage(sequence):
        ddl.ddl.made_storage(garbage, sequence.storage_id)
    ddl.put_table(sequence)
    return "CREATE SEQUENCE"


async def alter_sequence(ddl: DdlContext, statement: AlterSequence) -> str:
    sequence = ddl.find(statement.name, "S")
    if sequence is None:
        if not statement.missing_ok:
            raise UndefinedTable(f'relation "{ddl.written(statement.name)}" does not exist')
        ddl.tell(f'relation "{statement.name.name}" does not exist, skipping', "00000")
        return "ALTER SEQUENCE"
    ddl.require_table_owner(sequence)
    await ddl.ddl.lock_tables([sequence.oid])
    ddl.put_table(await changed_sequence(ddl, sequence, statement.options))
    return "ALTER SEQUENCE"


async def changed_sequence(ddl: DdlContext, sequence: Table, given: Options) -> Table:
    """The sequence after ALTER SEQUENCE's options."""
    options = dict(given)
    restart = "restart" in options
    old = definition_of(sequence)
    definition = apply_options(ddl, old, tuple(o for o in given if o[0] != "restart"), sequence)
    if restart:
        # Numbers restart with the transaction: the sequence gets new, empty storage whose first number is the start.
        value = options["restart"]
        first = definition.start if value is None else int(value)
        check_start(definition, first, "RESTART")
        sequence = await with_new_storage(ddl, sequence)
        definition = replace(definition, restart=first)
    elif old != definition:
        await forget_blocks(ddl.store.database, sequence, give_back=True)
        last, _ = await ddl.store.sequences.state(sequence)
        check_start(definition, last, "RESTART")
    return replace(sequence, definition=encode_definition(definition), version=sequence.version + 1)
