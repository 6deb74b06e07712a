"""Foreign keys, both directions, at the end of a statement.

* A new reference: the parent row is locked FOR KEY SHARE, so that it can neither go nor change its key before this
  transaction ends, and must be there.
* A parent that went away or changed its key (its lock has kept new references out since): the children that refer to the old
  key are looked up, by an index on the referring columns if there is one, and dealt with by the constraint's action.  NO
  ACTION asks only after all other actions, and lets a parent pass whose key exists again.

The look for children must see the newest committed rows.  Under READ COMMITTED that is a fresh snapshot of the transaction;
above it, a snapshot of its own beside the transaction: a child there that the transaction cannot see means that it would
decide on outdated data, a serialization failure (as in Postgres's crosscheck snapshot).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from pydistdb.kv.api import Isolation, LockStrength, ReadRestart, SerializationConflict, Transaction
from pydistdb.sql.catalog.descriptors import ForeignKey, Table
from pydistdb.sql.errors import FeatureNotSupported, ForeignKeyViolation, UniqueViolation
from pydistdb.sql.exec import violations
from pydistdb.sql.exec.defaults import default_values
from pydistdb.sql.exec.deferred import Check, ChildCheck, ParentCheck, UniqueCheck
from pydistdb.sql.exec.foreign_values import KeyMatch, NoSuchKey
from pydistdb.sql.exec.parents import check_parents, full_key, referenced_index, table_of
from pydistdb.sql.exec.run import BATCH_ROWS, RunContext, State
from pydistdb.sql.exec.scan import get_many, of_identity, present
from pydistdb.sql.exec.unique_checks import check_unique
from pydistdb.sql.exec.writer import TableWriter, hold_given_up, settle_released
from pydistdb.sql.exec.writes import ChildEvent, ParentEvent
from pydistdb.sql.layout import IndexLayout, TableLayout

FLUSHED_AT_ONCE = 2_000
MOST_ROUNDS = 1_000
"""Cascades deeper than this are taken for a cycle."""

Row = list[Any]


async def finish_statement(state: State) -> None:
    """Write out what a statement gathered, and see its foreign keys through."""
    writes = state.writes
    if writes.has_missed:
        raise ReadRestart(state.transaction.read_timestamp)
    if writes.released:
        await settle_released(state)
    if not writes.child_events and not writes.parent_events and not writes.unique_checks:
        await _flush(state)
        return
    absent = list(writes.absent)
    try:
        await _settle(state)
    except (ForeignKeyViolation, UniqueViolation):
        await check_absent(absent, state)
        raise


async def _flush(state: State) -> None:
    """Hand the statement's writes to the transaction; very many of them as fast as they can be passed on from there."""
    writes = state.writes
    if writes.given_up:
        await hold_given_up(state)
    if len(writes.pending) > FLUSHED_AT_ONCE:
        entries = iter(writes.pending.items())
        while part := list(islice(entries, FLUSHED_AT_ONCE)):
            writes.flush_part(part, state.transaction)
            await state.transaction.relieve()
            await state.breathe()
        writes.pending = {}
    writes.flush(state.transaction)


async def check_absent(keys: Sequence[bytes], state: State) -> None:
    """Before another error is raised: a duplicate that the commit would find takes precedence, as in Postgres."""
    if not keys:
        return
    beside = state.run.database.begin(Isolation.READ_COMMITTED, read_only=True)
    beside.begin_statement()
    try:
        for key, value in zip(keys, await beside.get_many(keys), strict=True):
            if value is not None:
                raise violations.unique_violation(state.run.catalog, key, state.context)
    finally:
        beside.rollback()


async def _settle(state: State) -> None:
    writes = state.writes
    unsettled: list[tuple[ParentEvent, ForeignKey, Table]] = []
    for _ in range(MOST_ROUNDS):
        if writes.released:
            await settle_released(state)
        await _flush(state)
        if writes.parent_events:
            if state.transaction.isolation is Isolation.READ_COMMITTED:
                state.transaction.begin_statement()
            events, writes.parent_events = writes.parent_events, []
            for event in events:
                unsettled += await _act(event, state)
            continue
        if writes.unique_checks:
            unique_checks, writes.unique_checks = writes.unique_checks, {}
            await _check_unique(unique_checks, state)
            continue
        if writes.child_events:
            child_events, writes.child_events = writes.child_events, []
            await check_parents(_without_deferred(child_events, state), state)
            continue
        break
    else:
        raise FeatureNotSupported("foreign key actions are nested too deeply")
    for event, key, child in unsettled:
        await _check_settled(event.table, _old_key(event, key), key, child, state)


# ------------------------------------------------------------------------------------------------ deferred


async def _check_unique(checks: dict[UniqueCheck, bool], state: State) -> None:
    now = []
    deferred = state.run.deferred
    for check, initially in checks.items():
        if deferred is not None and deferred.is_deferred(check.constraint, initially):
            deferred.add(check)
        else:
            now.append(check)
    if now:
        await check_unique(now, state)


def _without_deferred(events: Sequence[ChildEvent], state: State) -> Sequence[ChildEvent]:
    """The events to look at now; the others go to the transaction."""
    deferred = state.run.deferred
    if deferred is None or not any(event.key.deferrable for event in events):
        return events
    now = []
    for event in events:
        key = event.key
        if key.deferrable and deferred.is_deferred(key.oid, key.deferred):
            deferred.add(ChildCheck(key.oid, event.table.oid, event.row_key, event.values))
        else:
            now.append(event)
    return now


async def check_deferred(checks: Iterable[Check], run: RunContext) -> None:
    """Make up for checks that have waited."""
    state = State(run)
    if state.transaction.isolation is Isolation.READ_COMMITTED:
        state.transaction.begin_statement()
    children: list[ChildEvent] = []
    for check in checks:
        table = table_of(check.table, state)
        match check:
            case UniqueCheck():
                await check_unique([check], state)
            case ChildCheck():
                key = _key(table, check.constraint)
                if key is not None and await _still_refers(table, key, check, state):
                    children.append(ChildEvent(table, key, check.values, check.row_key))
            case ParentCheck():
                child = table_of(check.child, state)
                key = _key(child, check.constraint)
                if key is not None:
                    await _check_settled(table, check.values, key, child, state)
        await state.breathe()
    await check_parents(children, state)


def _key(table: Table, oid: int) -> ForeignKey | None:
    return next((key for key in table.foreign_keys if key.oid == oid), None)


async def _still_refers(table: Table, key: ForeignKey, check: ChildCheck, state: State) -> bool:
    value = (await get_many(state.transaction, [check.row_key]))[0]
    if value is None:
        return False
    row = TableLayout.of(table).decode(value)
    return tuple([row[number - 1] for number in key.columns]) == check.values


# ------------------------------------------------------------------------------------------------ parent -> children


async def _act(event: ParentEvent, state: State) -> list[tuple[ParentEvent, ForeignKey, Table]]:
    """Carry out the actions of the keys that refer to a changed parent; returns those left to NO ACTION."""
    unsettled: list[tuple[ParentEvent, ForeignKey, Table]] = []
    for child_oid in event.table.referenced_by:
        child = table_of(child_oid, state)
        for key in child.foreign_keys:
            if key.referenced_table != event.table.oid:
                continue
            old = _old_key(event, key)
            if None in old:
                continue
            if event.new is not None and old == [event.new[number - 1] for number in key.referenced_columns]:
                continue
            action = key.on_delete if event.new is None else key.on_update
            if action == "a":
                deferred = state.run.deferred
                if key.deferrable and deferred is not None and deferred.is_deferred(key.oid, key.deferred):
                    deferred.add(ParentCheck(key.oid, event.table.oid, child.oid, tuple(old)))
                else:
                    unsettled.append((event, key, child))
            elif action == "r":
                await _check_childless(event.table, old, key, child, state)
            else:
                await _change_children(event, key, child, old, action, state)
                if action == "d":
                    # The default may be the very key that went away.
                    state.writes.flush(state.transaction)
                    await _check_settled(event.table, old, key, child, state)
    return unsettled


def _old_key(event: ParentEvent, key: ForeignKey) -> list[Any]:
    return [event.old[number - 1] for number in key.referenced_columns]


async def _check_settled(table: Table, old: Sequence[Any], key: ForeignKey, child: Table, state: State) -> None:
    """No row of ``child`` may refer to what was a key of ``table``, unless it is one again."""
    layout = TableLayout.of(table)
    index = referenced_index(layout, key)
    by_column = dict(zip(key.referenced_columns, old, strict=True))
    settled = full_key(layout, index, [by_column[column] for column in index.columns])
    if (await get_many(state.transaction, [settled]))[0] is not None:
        return
    await _check_childless(table, old, key, child, state)


async def _check_childless(table: Table, old: Sequence[Any], key: ForeignKey, child: Table, state: State) -> None:
    """No row of ``child`` may refer to ``old``.  Those that do are waited for: somebody may be deleting them."""
    async for keys, _ in _children(child, key, old, state):
        refers = _still_referring(child, key, old, state)
        for answer in await state.transaction.lock(keys, LockStrength.KEY_SHARE):
            if answer.value is not None and refers(answer.value):
                raise violations.still_referenced(state.run.catalog, table, key, child, old, state.context)


def _still_referring(child: Table, key: ForeignKey, values: Sequence[Any], state: State) -> Callable[[bytes], bool]:
    """Tells of a row of ``child``, as it is stored, whether it refers to ``values``."""
    layout = TableLayout.of(child)
    refers = KeyMatch(child, table_of(key.referenced_table, state), key).refers_to(values, state.context)
    positions = [number - 1 for number in key.columns]

    def still(value: bytes) -> bool:
        row = layout.decode(value)
        return refers([row[position] for position in positions])

    return still


async def _change_children(
    event: ParentEvent, key: ForeignKey, child: Table, old: Sequence[Any], action: str, state: State
) -> None:
    # What other actions did to the same rows must be seen.
    state.writes.flush(state.transaction)
    writer = TableWriter(child)
    columns = key.delete_columns if event.new is None and key.delete_columns else key.columns
    numbers = [number - 1 for number in columns]
    replacement: Sequence[Any] = [None] * len(numbers)
    if action == "d":
        replacement = default_values(child, columns, state)
    elif action == "c" and event.new is not None:
        new = [event.new[number - 1] for number in key.referenced_columns]
        replacement = KeyMatch(child, event.table, key).assigned(new, state.context)
    refers = _still_referring(child, key, old, state)
    async for keys, rows in _children(child, key, old, state):
        answers = await state.transaction.lock(keys, LockStrength.UPDATE)
        for row_key, row, answer in zip(keys, rows, answers, strict=True):
            if answer.value is None or (answer.changed and not refers(answer.value)):
                continue
            current = writer.layout.decode(answer.value) if answer.changed else row
            if action == "c" and event.new is None:
                writer.delete(current, row_key, state)
                continue
            changed = list(current)
            for number, value in zip(numbers, replacement, strict=True):
                changed[number] = value
            for column in child.columns:
                if column.not_null and not column.dropped and changed[column.number - 1] is None:
                    raise violations.null_in_column(state.run.catalog, child, column.number, changed, state.context)
            await writer.update(current, changed, row_key, state)
        await state.breathe()


async def _children(
    child: Table, key: ForeignKey, values: Sequence[Any], state: State
) -> AsyncIterator[tuple[list[bytes], list[Row]]]:
    """Rows of ``child`` that refer to ``values``: their keys and themselves."""
    async for found in _referring(child, key, values, state.transaction, state):
        yield found
    if state.transaction.isolation is Isolation.READ_COMMITTED:
        return
    beside = state.run.database.begin(Isolation.READ_COMMITTED, read_only=True)
    beside.begin_statement()
    try:
        async for keys, _ in _referring(child, key, values, beside, state):
            if None not in await state.transaction.get_many(keys):
                continue
            # Deleted by this transaction, or committed since its snapshot; a lock tells the one from the other.
            if any(answer.changed for answer in await state.transaction.lock(keys, LockStrength.KEY_SHARE)):
                raise SerializationConflict("could not serialize access due to concurrent update")
    finally:
        beside.rollback()


async def _referring(
    child: Table, key: ForeignKey, values: Sequence[Any], transaction: Transaction, state: State
) -> AsyncIterator[tuple[list[bytes], list[Row]]]:
    layout = TableLayout.of(child)
    match = KeyMatch(child, table_of(key.referenced_table, state), key)
    index = _child_index(layout, key)
    try:
        own = match.to_child(values, state.context)
    except NoSuchKey:
        return
    if index is None or own is None:
        spans = [layout.table_span()]
        index = layout.primary
    else:
        by_column = dict(zip(key.columns, own, strict=True))
        span = layout.bounds(index, [by_column[column] for column in index.columns[: len(own)]])
        spans = [span] if span is not None else []
    positions = [number - 1 for number in key.columns]
    refers = match.refers_to(values, state.context)
    for start, end, identity in spans:
        resume: bytes | None = start
        while resume is not None:
            keys, found, resume = await transaction.scan(resume, end, limit=BATCH_ROWS)
            if identity is not None:
                keys, found = of_identity(keys, found, identity)
            if index is not layout.primary:
                primary_keys = index.row_keys(found)
                keys, found = present(primary_keys, await get_many(transaction, primary_keys))
            rows = list(map(layout.decode, found))
            matching = [
                (row_key, row)
                for row_key, row in zip(keys, rows, strict=True)
                if refers([row[position] for position in positions])
            ]
            if matching:
                yield [row_key for row_key, _ in matching], [row for _, row in matching]
            await state.breathe()


def _child_index(layout: TableLayout, key: ForeignKey) -> IndexLayout | None:
    """An index whose leading columns are the referring ones."""
    wanted = set(key.columns)
    count = len(key.columns)
    for index in layout.indexes:
        placed = not index.hashed or (index.shard_positions is not None and max(index.shard_positions) < count)
        usable = placed and index.index.is_readable and not index.is_computed and not index.is_row_id
        usable = usable and not index.token_classes
        if usable and set(index.columns[:count]) == wanted:
            return index
    return None
