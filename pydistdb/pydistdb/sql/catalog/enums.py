"""CREATE TYPE … AS ENUM, ALTER TYPE … ADD VALUE and RENAME VALUE.

A label gets its rank once: the first ``RANK_GAP``, the next twice that, and one put between two others the middle of
theirs.  The middle can be taken some thirty times over in the same place before there is no number left.

Source: PostgreSQL 15 manual, CREATE TYPE, ALTER TYPE.
"""

from __future__ import annotations

from msgspec.structs import replace

from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.stored_texts import follow, label_renamed
from pydistdb.sql.catalog.type_names import put_type, shown
from pydistdb.sql.errors import (
    DatabaseError,
    DuplicateObject,
    InvalidParameterValue,
    ProgramLimitExceeded,
    WrongObjectType,
)
from pydistdb.sql.type_statements import AlterTypeAction
from pydistdb.sql.types.user import RANK_GAP, EnumLabel, TypeEntry, UserType

MOST_LABEL_BYTES = 63
MOST_LABELS = 1 << 20


async def labels_of(ddl: DdlContext, names: tuple[str, ...], type_oid: int) -> tuple[EnumLabel, ...]:
    """The labels of a new enum."""
    if not names:
        return ()
    if len(names) > MOST_LABELS:
        raise ProgramLimitExceeded(f"an enum can have at most {MOST_LABELS} labels")
    seen: set[str] = set()
    for name in names:
        _check_label(name)
        if name in seen:
            error = DatabaseError.of(
                "23505",
                'duplicate key value violates unique constraint "pg_enum_typid_label_index"',
                detail=f"Key (enumtypid, enumlabel)=({type_oid}, {name}) already exists.",
                schema="pg_catalog",
                table="pg_enum",
                constraint="pg_enum_typid_label_index",
            )
            raise error
        seen.add(name)
    first_oid = await ddl.store.allocate_oids(len(names))
    return tuple(EnumLabel(first_oid + i, (i + 1) * RANK_GAP, name) for i, name in enumerate(names))


def _check_label(name: str) -> None:
    if len(name.encode()) > MOST_LABEL_BYTES:
        raise DatabaseError.of(
            "42602", f'invalid enum label "{name}"', detail=f"Labels must be {MOST_LABEL_BYTES} bytes or less."
        )


def _enum(ddl: DdlContext, entry: TypeEntry) -> UserType:
    if entry.definition.kind != "e":
        raise WrongObjectType(f"{shown(ddl, entry.definition.oid)} is not an enum")
    return entry.definition


async def add_value(ddl: DdlContext, entry: TypeEntry, action: AlterTypeAction) -> None:
    definition = _enum(ddl, entry)
    _check_label(action.name)
    if action.name in entry.ranks:
        message = f'enum label "{action.name}" already exists'
        if not action.if_exists:
            raise DuplicateObject(message)
        ddl.tell(message + ", skipping", "42710")
        return
    if len(definition.labels) >= MOST_LABELS:
        raise ProgramLimitExceeded(f"an enum can have at most {MOST_LABELS} labels")
    position, rank = _place(definition.labels, action)
    label = EnumLabel(await ddl.store.allocate_oids(), rank, action.name)
    labels = (*definition.labels[:position], label, *definition.labels[position:])
    unsafe = () if entry.is_committed else definition.unsafe
    put_type(ddl, replace(definition, labels=labels, unsafe=(*unsafe, rank)))


def _place(labels: tuple[EnumLabel, ...], action: AlterTypeAction) -> tuple[int, int]:
    """Where a new label goes, and its rank."""
    position = len(labels)
    if action.neighbor is not None:
        found = [index for index, label in enumerate(labels) if label.name == action.neighbor]
        if not found:
            raise InvalidParameterValue(f'"{action.neighbor}" is not an existing enum label')
        position = found[0] + (1 if action.after else 0)
    if not labels:
        return 0, RANK_GAP
    if position == len(labels):
        return position, labels[-1].rank + RANK_GAP
    if position == 0:
        return 0, labels[0].rank - RANK_GAP
    below, above = labels[position - 1].rank, labels[position].rank
    if above - below < 2:
        raise ProgramLimitExceeded(
            f'there is no room for another enum label between "{labels[position - 1].name}" and '
            f'"{labels[position].name}"'
        )
    return position, (below + above) // 2


async def rename_value(ddl: DdlContext, entry: TypeEntry, action: AlterTypeAction) -> None:
    definition = _enum(ddl, entry)
    _check_label(action.new_name)
    if action.name not in entry.ranks:
        raise InvalidParameterValue(f'"{action.name}" is not an existing enum label')
    if action.new_name in entry.ranks:
        raise DuplicateObject(f'enum label "{action.new_name}" already exists')
    labels = tuple(
        replace(label, name=action.new_name) if label.name == action.name else label for label in definition.labels
    )
    put_type(ddl, replace(definition, labels=labels))
    variants = label_renamed(action.name, action.new_name)
    await follow(ddl, action.name.replace("'", "''"), variants, f'rename label "{action.name}"')
