"""The hot path of writes: changing or inserting one row inside a transaction, without a coroutine or a batch.

``UPDATE t SET v = v + $1 WHERE id = $2`` locks its row, which also reads it, computes the new one and hands it to the
transaction's buffer; ``INSERT INTO t VALUES (…)`` locks the unique keys that must be free.  When the lock is free and its
range is led by this node, nothing of that waits, and it is done here by plain calls of the operators' own generated
functions.  Whatever else comes up (a lock that is taken, another node, numbers that have run out) raises MustWait before
anything has been written, and the statement runs again as a task: a lock taken twice by its owner does no harm.

Only statements of which nothing else follows are run this way: no RETURNING, no foreign keys to check, no index that the
update would have to change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pydistdb.kv.api import LockStrength, MustWait, SerializationConflict
from pydistdb.sql.exec.modify import InsertOperator, UpdateOperator
from pydistdb.sql.exec.operator import Operator, ValuesOperator
from pydistdb.sql.exec.point import single_key
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.scan import TableScanOperator
from pydistdb.sql.exec.waiting import may_wait
from pydistdb.sql.exec.writer import RowIds
from pydistdb.sql.functions.effects import Effects
from pydistdb.sql.plan.expressions import walk
from pydistdb.sql.tree import Call, Expr

_HARMLESS = frozenset({"random", "gen_random_uuid", "clock_timestamp", "timeofday"})
"""Volatile functions that may be called again when the statement is run again; so may a single nextval: what it gave is
lost only if the row's key then turns out to be locked."""

PointWrite = Callable[[State], int]
"""Does it and returns the number of rows changed; raises MustWait if it cannot."""


def point_write(operator: Operator) -> PointWrite | None:
    """The way to run a statement at once, if it is of that kind."""
    match operator:
        case UpdateOperator():
            return _point_update(operator)
        case InsertOperator():
            return _point_insert(operator)
    return None


def _point_update(operator: UpdateOperator) -> PointWrite | None:
    source = operator.source
    if operator.returning or operator.point_keys is None or not isinstance(source, TableScanOperator):
        return None
    numbers = {*operator.assigned, *(number for number, _ in operator.node.generated)}
    find = single_key(source)
    if not _may_run_twice([value for _, value in (*operator.node.assignments, *operator.node.generated)]):
        return None
    if find is None or not operator.writer.changes_row_only(numbers):
        return None
    decode, new_row, check = source.decode, operator.new_row, operator.check
    row_value, strength = operator.layout.row_value, operator.strength

    def update(state: State) -> int:
        keys = find(state)
        if not keys:
            return 0
        [key] = keys
        transaction = state.transaction
        value = transaction.try_lock(key, strength).value
        if value is None:
            return 0
        rows = decode(keys, [value], state)
        if not rows:
            return 0
        new = new_row(rows[0], state)
        check(new, state)
        transaction.put(key, row_value(new))
        return 1

    return update


def _point_insert(operator: InsertOperator) -> PointWrite | None:
    source, table = operator.source, operator.table
    if (
        operator.returning
        or operator.conflict is not None
        or not operator.writer.inserts_row_only()
        or not isinstance(source, ValuesOperator)
        or len(source.rows) != 1
    ):
        return None
    if not _may_run_twice([*source.rows[0], *operator.node.defaults.values()]):
        return None
    draws = may_wait([*source.rows[0], *operator.node.defaults.values()])
    [make] = source.makers
    prepare, writer, layout = operator.prepare, operator.writer, operator.layout

    def insert(state: State) -> int:
        if not layout.is_bound:
            writer.bind(state)
        row_id = RowIds.try_take(state.run.database, table) if layout.has_row_id else None
        rows: list[list[object]] = []
        if draws:
            state.context.effects = Effects()
        try:
            prepare([make(state)], rows, state)
        finally:
            state.context.effects = None
        [row] = rows
        key = layout.primary_key(row, row_id)
        transaction = state.transaction
        for index, unique_key in writer.unique_keys(row, key):
            try:
                taken = transaction.try_lock(unique_key, LockStrength.UPDATE).value
            except SerializationConflict:
                raise MustWait from None  # it may have been a duplicate
            if taken is not None:
                raise writer.duplicate(index, row, state)
        writer.write_new(row, key, state)
        state.writes.flush(transaction)
        return 1

    return insert


def _may_run_twice(expressions: Iterable[Expr]) -> bool:
    calls = [part.function for expression in expressions for part in walk(expression) if isinstance(part, Call)]
    volatile = [function.name for function in calls if function.volatility == "v" and function.name not in _HARMLESS]
    return volatile in ([], ["nextval"])
