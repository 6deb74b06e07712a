"""A sequence read as a table: ``SELECT last_value, is_called FROM counter`` (pg_dump asks so)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.exec.operator import Batch, Operator
from pydistdb.sql.exec.run import State
from pydistdb.sql.tree import SequenceScan


class SequenceScanOperator(Operator):
    def __init__(self, node: SequenceScan) -> None:
        super().__init__(node.columns)
        self.node = node

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        numbers = getattr(state.run.catalog, "numbers", None)
        if numbers is None:
            raise FeatureNotSupported("sequences need a session")
        last_value, is_called = await numbers.state(self.node.table)
        row = (last_value, 0, is_called)  # log_cnt: nothing is logged ahead
        yield [tuple(row[number - 1] for number in self.node.numbers)]
