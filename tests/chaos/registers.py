"""Is there an order of the operations on one register that explains their answers, each within its time? (linearizability)

A search, after Wing & Gong (1993) with Lowe's memory of what has been tried (2017): an operation may come next if no other
one ended before it began; reads must show the value, compare-and-set must find it.  What has been tried is remembered as
(set of operations done, value), so that the search is fast while few operations overlap.

Operations: ``read`` {"value"}, ``write`` {"to"}, ``cas`` {"from", "to"}, each with "key".  An operation of unknown outcome may
take effect at any later time, or never; if nobody ever saw its value, it can be left out.

Example: write 1 from 0 to 2 s, and two reads one after the other at 0.5 s and 1 s, which see 1 and then nothing: impossible.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from tests.chaos.history import FAILED, OK, Operation

MOST_STATES = 2_000_000


def check_registers(operations: Sequence[Operation], initial: Any = None) -> list[str]:
    """What is wrong, per key."""

    def key_of(op: Operation) -> Any:
        return op.value["key"]

    problems = []
    for key, group in groupby(sorted(operations, key=key_of), key_of):
        mine = list(group)
        if not is_linearizable(mine, initial):
            problems.append(f"not linearizable: register {key}, {_around(mine, initial)}")
    return problems


def is_linearizable(operations: Sequence[Operation], initial: Any = None) -> bool:
    """Search for an order; raises RuntimeError when too many operations overlap to tell."""
    ops = _that_matter(operations)
    needed = sum(1 << i for i, op in enumerate(ops) if op.outcome == OK)
    tried: set[tuple[int, Any]] = set()
    stack: list[tuple[int, int, Any]] = [(0, 0, initial)]
    while stack:
        done, first, value = stack.pop()
        if done & needed == needed:
            return True
        while done >> first & 1:
            first += 1
        deadline = min(op.latest for i, op in enumerate(ops[first:], first) if not done >> i & 1)
        for i in range(first, len(ops)):
            op = ops[i]
            if op.start > deadline:
                break
            if done >> i & 1 or not _fits(op, value):
                continue
            state = (done | 1 << i, value if op.kind == "read" else op.value["to"])
            if state not in tried:
                tried.add(state)
                stack.append((state[0], first, state[1]))
        if len(tried) > MOST_STATES:
            raise RuntimeError("too many operations overlap to find an order")
    return False


def _that_matter(operations: Sequence[Operation]) -> list[Operation]:
    """Without failed operations, reads without an answer, and writes of unknown outcome whose value nobody saw."""
    seen = {op.value["value"] for op in operations if op.kind == "read" and op.outcome == OK}
    seen |= {op.value["from"] for op in operations if op.kind == "cas" and op.outcome != FAILED}
    kept = [
        op
        for op in operations
        if op.outcome == OK or (op.outcome != FAILED and op.kind != "read" and op.value["to"] in seen)
    ]
    return sorted(kept, key=lambda op: op.start)


def _fits(op: Operation, value: Any) -> bool:
    match op.kind:
        case "read":
            return bool(op.value["value"] == value)
        case "cas":
            return bool(op.value["from"] == value)
        case _:
            return True


def _around(operations: Sequence[Operation], initial: Any) -> str:
    """The shortest beginning of the history that is wrong already: its last operations."""
    ordered = sorted(operations, key=lambda op: op.latest)
    low, high = 0, len(ordered)
    while low < high:
        middle = (low + high) // 2
        cut = ordered[middle - 1].latest if middle else 0.0
        # What had not ended by then may have taken effect.
        part = [op if op.latest <= cut else _unanswered(op) for op in operations if op.start <= cut]
        if is_linearizable(part, initial):
            low = middle + 1
        else:
            high = middle
    last = ordered[max(0, low - 4) : low]
    return "up to: " + "; ".join(f"{op.kind} {op.value} by {op.process} at {op.start:.3f}-{op.end:.3f}" for op in last)


def _unanswered(op: Operation) -> Operation:
    outcome = FAILED if op.kind == "read" else "unknown"
    return Operation(op.process, op.kind, op.value, outcome, op.start, op.end, op.node)
