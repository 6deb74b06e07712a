"""A change at the leaseholder (change.py): the executor's own UPDATE or DELETE, fed from the scan there.

The rows that meet the condition are gathered, then, once they are locked, become what the statement makes of them, with the
entries of secondary indexes that follow from that (``more``)::

    take([k1, k2, k3], [...])              keys = [k1, k3]                  w < 5 holds for these
    changes(0, [(old, False), (new, True)])
                                           [(0, v + 1 of k1)]               k3 has changed since: not to be changed any more

Source: the gateway's side of the same, modify.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pydistdb.sql.exec.fragment import Arguments, decode_arguments, decode_text
from pydistdb.sql.exec.modify import ChangeOperator, DeleteOperator, UpdateOperator
from pydistdb.sql.exec.scan import of_identity
from pydistdb.sql.exec.tail_run import Compiled, leaf_of
from pydistdb.sql.exec.tree_codec import load
from pydistdb.sql.layout import picks_of
from pydistdb.sql.tree import Delete, Update
from pydistdb.tasks import run_inline

MOST_COMPILED = 256


class CompiledChange(Compiled):
    """A statement's operator; shared by all runs."""

    def __init__(self, data: bytes) -> None:
        text = decode_text(data)
        columns, condition, key_id, old_ids, recheck, assignments, *rest = load(text.tree)
        new_ids, checks, generated, self.outer, self.parameters = rest
        self.rows = self.scan = leaf_of(text, columns, condition)
        test = recheck[0] if recheck else None
        self.change: ChangeOperator
        if text.kind == "update":
            update = Update(
                *((), text.table, self.rows.node, key_id, dict(old_ids), assignments, dict(new_ids), checks, test),
                generated=generated,
            )
            self.change = UpdateOperator(update, self.rows)
        else:
            self.change = DeleteOperator(Delete((), text.table, self.rows.node, key_id, dict(old_ids), test), self.rows)


compiled = lru_cache(maxsize=MOST_COMPILED)(CompiledChange)


class ChangeRun:
    """One evaluation: see kv/changes.py."""

    def __init__(self, text: bytes, arguments: Arguments) -> None:
        change = compiled(text)
        self.state = change.state(arguments)
        self.identity = arguments.identity
        self.picks = picks_of(self.identity)
        self.decode = change.rows.decode
        self.operator = change.change
        self.rows: list[tuple[Any, ...]] = []
        self.keys: list[bytes] = []
        self.more: list[tuple[bytes, bytes | None]] = []
        """What is to be written beside the rows themselves."""
        self.size_bytes = 0

    def take(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        if self.identity:
            keys, values = of_identity(keys, values, self.identity)
        if not keys:
            return
        found = self.decode(keys, values, self.state)
        position = self.operator.key_position
        self.rows += found
        self.keys += [row[position] for row in found]
        self.size_bytes += len(found) * (sum(map(len, values)) // len(values) + len(keys[0]))

    def changes(self, first: int, newest: Sequence[tuple[bytes | None, bool]]) -> list[tuple[int, bytes | None]]:
        state, operator = self.state, self.operator
        result: list[tuple[int, bytes | None]] = []
        for number, (value, changed) in enumerate(newest, first):
            row = self.rows[number]
            if changed:
                if value is None:
                    if operator.rows_move:
                        raise LookupError("the gateway looks for rows that are gone")
                    continue
                row = operator.patched(row, value)
                if not operator.recheck(row, state):
                    continue
            key = self.keys[number]
            run_inline(operator.change(row, state))
            pending, state.writes.pending = state.writes.pending, {}
            result.append((number, pending.pop(key)))
            self.more += pending.items()
        return result


def run_change(text: bytes, arguments: bytes) -> ChangeRun:
    """Begin a run; raises whatever is wrong with the change.  A node registers it: ``server.changes.start = run_change``."""
    return ChangeRun(text, decode_arguments(arguments))
