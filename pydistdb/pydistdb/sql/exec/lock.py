"""SELECT … FOR UPDATE / SHARE: lock the rows that come up, and make sure they are still what they were.

Under READ COMMITTED a row may have changed between the statement's snapshot and the lock.  The statement then takes a new
snapshot and computes its rows again: those locked already cannot change any more, so this ends as soon as one round
meets nothing new.  Rows go out only after the last lock they needed, so no row is ever sent twice.  (Postgres re-checks the
one row instead; the rows that come out are the same as if the statement had started a little later.)  Other parts of the
statement may have read at the older snapshot by then (the UPDATE around a subquery that locks), so the transaction keeps that
in mind, and tells whoever locks a row next that it has changed since.

With a LIMIT above, only as many rows are locked as are asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import cached_property
from typing import Any

from pydistdb.kv import api as kv
from pydistdb.kv.api import Isolation, LockStrength, WaitPolicy
from pydistdb.sql.errors import LockNotAvailable, SerializationFailure
from pydistdb.sql.exec.codegen import evaluator
from pydistdb.sql.exec.operator import Batch, Operator
from pydistdb.sql.exec.run import State
from pydistdb.sql.plan.physical import LockedRows

MOST_ROUNDS = 100


class LockRowsOperator(Operator):
    def __init__(self, source: Operator, node: LockedRows) -> None:
        super().__init__(source.columns, source.not_null)
        self.source = source
        self.node = node
        self.positions = [source.position(column) for _, column in node.targets]

    @cached_property
    def most_rows(self) -> Callable[[State], tuple[Any, ...]]:
        return evaluator(self.node.most_rows)

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        most: int | None = None
        if self.node.most_rows:
            most = max(sum(value for value in self.most_rows(state) if value is not None), 0)
        transaction = state.transaction
        oldest = 0
        for _ in range(MOST_ROUNDS):
            locked = await self._round(most, state)
            if locked is not None:
                if oldest:
                    transaction.oldest_read = oldest
                for batch in locked:
                    yield batch
                return
            oldest = oldest or transaction.oldest_read or transaction.read_timestamp
            transaction.begin_statement()
        raise SerializationFailure("could not serialize access due to concurrent update")

    async def _round(self, most: int | None, state: State) -> list[Batch] | None:
        """Lock rows until there are ``most``; None if one had changed since the snapshot."""
        locked: list[Batch] = []
        left = most
        changed = False
        async for batch in self.source.batches(state):
            while batch and left != 0:
                part = batch if left is None else batch[:left]
                batch = batch[len(part) :]
                kept = await self._lock(part, state)
                if kept is None:
                    changed = True
                    continue
                locked.append(kept)
                if left is not None:
                    left -= len(kept)
            if left == 0:
                break
            await state.breathe()
        return None if changed else [batch for batch in locked if batch]

    async def _lock(self, batch: Batch, state: State) -> Batch | None:
        """Lock the rows of a batch; returns those not skipped, or None if one has changed since the snapshot."""
        node = self.node
        skipped: set[int] = set()
        for (table, _), position in zip(node.targets, self.positions, strict=True):
            numbers = [number for number, row in enumerate(batch) if row[position] is not None]
            keys = [batch[number][position] for number in numbers]
            try:
                answers = await state.transaction.lock(keys, LockStrength(node.strength), WaitPolicy(node.wait))
            except kv.LockNotAvailable as error:
                if node.wait != WaitPolicy.NOWAIT:
                    raise
                raise LockNotAvailable(f'could not obtain lock on row in relation "{table.name}"') from error
            for number, answer in zip(numbers, answers, strict=True):
                if answer.skipped:
                    skipped.add(number)
                elif answer.changed and state.transaction.isolation is Isolation.READ_COMMITTED:
                    return None
        return [row for number, row in enumerate(batch) if number not in skipped] if skipped else batch
