"""Checks what clients saw of lists that transactions append to: is there an order that explains it?

Every value is appended once, so a list names the transactions that made it, in order.  From lists that were read follows
what must have come before what (Kingsbury & Alvaro, "Elle", 2020, after Adya, "Weak Consistency", 1999)::

    ww   T1 appended the value before T2's                     wr   T2 read a list that ends with T1's value
    rw   T1 read a list, and T2 appended the next value to it

A cycle of these is an anomaly: of ww alone G0, with wr G1c, with one rw G-single, with more G2.  Besides: values of aborted
transactions (G1a), lists that end in the middle of a transaction (G1b), lists that are not prefixes of each other (a lost
or doubled update), and acknowledged values that are not there in the end (lost).

Example::

    history = [Transaction("A", reads=[("x", [])], appends=[("y", 1)]), Transaction("B", reads=[("y", [])], appends=[("x", 2)])]
    check(history, {"x": [2], "y": [1]})  ->  ["G2: A -rw-> B -rw-> A"]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
        if transaction.outcome == COMMITTED:
            problems += [
                f"lost: {transaction.name} appended {value} to {key}, which has it no more"
                for key, value in transaction.appends
                if (key, value) not in seen
            ]
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
            if order[: len(values)] != values:
                problems.append(f"not a prefix: {transaction.name} read {key} as {values}, it became {order}")
            elif values:
                writer = writers[key, values[-1]]
                last = [value for other, value in writer.appends if other == key][-1]
                if last != values[-1] and writer is not transaction:
                    problems.append(f"G1b: {transaction.name} read {key} as {values} in the middle of {writer.name}")
    if problems:
        return problems
    return _cycles(readers, orders, writers)


_Edges = dict[str, dict[str, str]]


def _cycles(
    readers: Iterable[Transaction], orders: Mapping[str, list[int]], writers: Mapping[tuple[str, int], Transaction]
) -> list[str]:
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
    for name in sorted(edges):
        cycle = _cycle_through(name, edges)
        if cycle:
            kinds = [edges[left][right] for left, right in zip(cycle, [*cycle[1:], cycle[0]], strict=True)]
            return [
                f"{_name_of(kinds)}: " + " ".join(f"{t} -{k}->" for t, k in zip(cycle, kinds, strict=True)) + f" {name}"
            ]
    return []


def _cycle_through(name: str, edges: _Edges) -> list[str]:
    """A shortest cycle through a transaction."""
    came_from: dict[str, str] = {}
    frontier = [name]
    while frontier:
        following: list[str] = []
        for node in frontier:
            for after in edges.get(node, {}):
                if after == name:
                    cycle = [node]
                    while cycle[-1] != name:
                        cycle.append(came_from[cycle[-1]])
                    return cycle[::-1]
                if after not in came_from:
                    came_from[after] = node
                    following.append(after)
        frontier = following
    return []


def _name_of(kinds: list[str]) -> str:
    if "rw" in kinds:
        return "G-single" if kinds.count("rw") == 1 else "G2"
    return "G1c" if "wr" in kinds else "G0"
