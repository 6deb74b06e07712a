"""SELECT … FOR UPDATE / SHARE: lock the rows that come up, and make sure they are still what they were.

Under READ COMMITTED a row may have changed between the statement's snapshot and the lock.  The statement then takes a new
snapshot and computes its rows again: those locked already cannot change any more, so this ends as soon as one round
meets nothing new.  Rows go out only after the last lock they needed, so no row is ever sent twice.  (Postgres re-checks the
one row instead; the rows that come out are the same as if the statement had started a little later.)

With a LIMIT above, only as many rows are locked as are asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from pydistdb.kv.api import LockStrength, WaitPolicy
from pydistdb.sql.errors import SerializationFailure
from pydistdb.sql.exec.operator import Batch, Operator
from pydistdb.sql.exec.run import State
from pydistdb.sql.tree import LockRows

MOST_ROUNDS = 100


class LockRowsOperator(Operator):
    def __init__(self, source: Operator, node: LockRows) -> None:
        super().__init__(source.columns, source.not_null)
        self.source = source
        self.node = node
        self.positions = [source.position(column) for _, column in node.targets]

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        for _ in range(MOST_ROUNDS):
            locked: list[Batch] = []
            changed = False
            async for batch in self.source.batches(state):
                kept = await self._lock(batch, state)
                if kept is None:
                    changed = True
                elif kept:
                    locked.append(kept)
                await state.breathe()
            if not changed:
                for batch in locked:
                    yield batch
                return
            state.transaction.begin_statement()
        raise SerializationFailure("could not serialize access due to concurrent update")

    async def _lock(self, batch: Batch, state: State) -> Batch | None:
        """Lock the rows of a batch; returns those not skipped, or None if one has changed since the snapshot."""
        node = self.node
        skipped: set[int] = set()
        for position in self.positions:
            numbers = [number for number, row in enumerate(batch) if row[position] is not None]
            keys = [batch[number][position] for number in numbers]
            answers = await state.transaction.lock(keys, LockStrength(node.strength), WaitPolicy(node.wait))
            for number, answer in zip(numbers, answers, strict=True):
                if answer.skipped:
                    skipped.add(number)
                elif answer.changed:
                    return None
        return [row for number, row in enumerate(batch) if number not in skipped] if skipped else batch
