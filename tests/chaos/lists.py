"""Checks what clients saw of lists that transactions append to: is there an order that explains it?

Every value is appended once, so a list names the transactions that made it, in order.  From lists that were read follows
what must have come before what (Kingsbury & Alvaro, "Elle", 2020, after Adya, "Weak Consistency", 1999)::

    ww   T1 appended the value before T2's                     wr   T2 read a list that ends with T1's value
    rw   T1 read a list, and T2 appended the next value to it

A cycle of these is an anomaly, the worse the fewer rw it needs:

    G0          ww alone: two transactions overwrite each other
    G1c         ww and wr: each has seen the other
    G-single    one rw: a reader has seen half of another (read skew, lost update)
    long fork   several rw, no two in a row: two readers disagree which of two writers came first
    G2          rw in a row: write skew; snapshot isolation allows it, SERIALIZABLE does not

Besides: values of aborted transactions (G1a), lists that end in the middle of a transaction (G1b), transactions that took
effect in part (torn) or saw what they had yet to write (internal), lists that are not prefixes of each
other (a lost or doubled update), and acknowledged values that are not there in the end (lost).

Example::

    history = [Transaction("A", reads=[("x", [])], appends=[("y", 1)]), Transaction("B", reads=[("y", [])], appends=[("x", 2)])]
    check(history, {"x": [2], "y": [1]})  ->  ["G2: A -rw-> B -rw-> A"]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

COMMITTED, ABORTED, UNKNOWN = "committed", "aborted", "unknown"


@dataclass(slots=True)
class Transaction:
    """One transaction: lists as it read them before its own appends to them, and its appends in order."""

    name: str
    reads: list[tuple[str, list[int]]] = field(default_factory=list)
    appends: list[tuple[str, int]] = field(default_factory=list)
    outcome: str = COMMITTED
    error: str = ""


def check(history: Sequence[Transaction], final: Mapping[str, list[int]]) -> list[str]:
    """Everything that is wrong, in words; ``final``: the lists as they are in the end."""
    problems: list[str] = []
    writers = {(key, value): transaction for transaction in history for key, value in transaction.appends}
    orders = {key: list(values) for key, values in final.items()}
    seen = {(key, value) for key, values in orders.items() for value in values}
    for transaction in history:
        missing = [append for append in transaction.appends if append not in seen]
        if transaction.outcome == COMMITTED:
            problems += [
                f"lost: {transaction.name} appended {value} to {key}, which has it no more" for key, value in missing
            ]
        elif missing and len(missing) < len(transaction.appends) and transaction.outcome == UNKNOWN:
            problems.append(f"torn: of {transaction.name} {missing} are missing, its other appends are there")
    for key, values in orders.items():
        if len(set(values)) != len(values):
            problems.append(f"doubled: {key} is {values}")
        for value in values:
            writer = writers.get((key, value))
            if writer is None or writer.outcome == ABORTED:
                problems.append(
                    f"G1a: {key} has {value} of {f'{writer.name} ({writer.error})' if writer else 'nobody'}"
                )
    readers = [t for t in history if t.outcome == COMMITTED or any(append in seen for append in t.appends)]
    for transaction in readers:
        for key, values in transaction.reads:
            order = orders.get(key, [])
            if any(writers.get((key, value)) is transaction for value in values):
                problems.append(f"internal: {transaction.name} read {key} as {values} before its own append to it")
            if order[: len(values)] != values:
                problems.append(f"not a prefix: {transaction.name} read {key} as {values}, it became {order}")
            elif values and (writer := writers.get((key, values[-1]))) is not None:
                last = [value for other, value in writer.appends if other == key][-1]
                if last != values[-1] and writer is not transaction:
                    problems.append(f"G1b: {transaction.name} read {key} as {values} in the middle of {writer.name}")
    return problems or _cycles(readers, orders, writers)


_Edges = dict[str, dict[str, str]]


def _cycles(
    readers: Iterable[Transaction], orders: Mapping[str, list[int]], writers: Mapping[tuple[str, int], Transaction]
) -> list[str]:
    """One anomaly per knot of transactions that depend on each other."""
    edges: _Edges = {}

    def note(before: Transaction, after: Transaction, kind: str) -> None:
        if before is not after:
            kinds = edges.setdefault(before.name, {})
            known = kinds.get(after.name, "rw")
            kinds[after.name] = min(known, kind, key=("ww", "wr", "rw").index)

    for key, order in orders.items():
        for left, right in pairwise(order):
            note(writers[key, left], writers[key, right], "ww")
    for reader in readers:
        for key, values in reader.reads:
            order = orders.get(key, [])
            if values:
                note(writers[key, values[-1]], reader, "wr")
            if len(values) < len(order):
                note(reader, writers[key, order[len(values)]], "rw")
    return [_anomaly(knot, edges) for knot in _knots(edges)]


def _knots(edges: _Edges) -> list[set[str]]:
    """The strongly connected components of more than one transaction (Kosaraju)."""
    order: list[str] = []
    visited: set[str] = set()
    backward: dict[str, list[str]] = {}
    for root in edges:
        stack = [(root, iter(edges.get(root, ())))] if root not in visited else []
        visited.add(root)
        while stack:
            name, afters = stack[-1]
            after = next(afters, None)
            if after is None:
                order.append(name)
                stack.pop()
                continue
            backward.setdefault(after, []).append(name)
            if after not in visited:
                visited.add(after)
                stack.append((after, iter(edges.get(after, ()))))
    knots: list[set[str]] = []
    visited.clear()
    for root in reversed(order):
        knot: set[str] = set()
        frontier = [root]
        while frontier:
            name = frontier.pop()
            if name not in visited:
                visited.add(name)
                knot.add(name)
                frontier += backward.get(name, ())
        if len(knot) > 1:
            knots.append(knot)
    return knots


def _anomaly(knot: set[str], edges: _Edges) -> str:
    """The worst kind of cycle in a knot, a short one."""
    inside = [(before, after, edges[before][after]) for before in sorted(knot) for after in edges[before]]
    inside = [edge for edge in inside if edge[1] in knot]
    kinds: tuple[tuple[str, str, Callable[[str, str], bool]], ...] = (
        ("G0", "ww", lambda _, kind: kind == "ww"),
        ("G1c", "wr", lambda _, kind: kind != "rw"),
        ("G-single", "rw", lambda _, kind: kind != "rw"),
        ("long fork", "rw", lambda last, kind: not last == kind == "rw"),
        ("G2", "rw", lambda _, __: True),
    )
    for name, first, allowed in kinds:
        cycles = [
            cycle for edge in inside if edge[2] == first and (cycle := _cycle_through(edge, knot, edges, allowed))
        ]
        if cycles:
            path = min(cycles, key=len)
            return f"{name}: " + " ".join(f"{t} -{edges[t][after]}->" for t, after in pairwise(path)) + f" {path[-1]}"
    raise AssertionError("a knot without a cycle")


def _cycle_through(
    edge: tuple[str, str, str], knot: set[str], edges: _Edges, allowed: Callable[[str, str], bool]
) -> list[str]:
    """A shortest way from an edge's end to its start, every step being allowed after the one before, and the edge too."""
    goal, start, kind = edge
    came_from: dict[tuple[str, str], tuple[str, str] | None] = {(start, kind): None}
    frontier = deque(came_from)
    while frontier:
        state = frontier.popleft()
        name, last = state
        if name == goal and (last != "rw" or allowed(last, kind)):
            path = [name]
            at: tuple[str, str] | None = state
            while (at := came_from[at]) is not None:
                path.append(at[0])
            return [goal, *reversed(path)]
        for after, step in edges.get(name, {}).items():
            if after in knot and allowed(last, step) and (after, step) not in came_from:
                came_from[after, step] = state
                frontier.append((after, step))
    return []
