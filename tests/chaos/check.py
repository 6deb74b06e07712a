"""``python -m tests.chaos.check HISTORY...``: is anything wrong with what clients saw?  Exit status 1 if so.

The history's first line names the workload, and that the check (history.py has the format):

    bank            every read of all accounts adds up to the same, and none is below zero
    list-append     no cycle of dependencies, no lost or dirty value (lists.py)
    register        per key an order that explains all answers, each within its time (registers.py)
    set             what was acknowledged is there for every read that begins later; nothing failed or doubled is
    unique-insert   of the inserts of a key one wins: two acknowledged, or another in the table, are violations
    sequential      who sees a client's later insert sees its earlier ones
    long-fork       no two snapshots disagree about which of two inserts came first
    write-skew      of two transactions that each insert unless the other has, one commits

Each check is a function of the history that returns what is wrong, in words.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

from tests.chaos import lists
from tests.chaos.history import FAILED, OK, UNKNOWN, History, Operation
from tests.chaos.registers import check_registers

MOST_REPORTED = 20


def check_bank(history: History) -> list[str]:
    """read: {"balances": {account: balance}}."""
    accounts, total = history.header["accounts"], history.header["total"]
    problems = []
    for op in history.of("read", OK):
        balances = op.value["balances"]
        if len(balances) != accounts:
            problems.append(f"accounts: {_who(op)} saw {len(balances)} of {accounts} accounts")
        if sum(balances.values()) != total:
            problems.append(f"total: {_who(op)} saw {sum(balances.values())} instead of {total}: {balances}")
        if min(balances.values(), default=0) < 0:
            problems.append(f"negative: {_who(op)} saw {balances}")
    return problems


def check_lists(history: History) -> list[str]:
    """txn: {"steps": [["r", key, list], ["append", key, value], …]}, final: {"lists": {key: list}}."""
    finals = history.of("final", OK)
    if not finals:
        return ["incomplete: the lists were not read in the end"]
    problems: list[str] = []
    transactions = []
    outcomes = {OK: lists.COMMITTED, FAILED: lists.ABORTED, UNKNOWN: lists.UNKNOWN}
    for number, op in enumerate(history.of("txn")):
        transaction = lists.Transaction(f"T{number}", outcome=outcomes[op.outcome], error=op.error)
        own: dict[str, list[int]] = defaultdict(list)
        for step, key, value in op.value["steps"]:
            if step == "append":
                transaction.appends.append((key, value))
                own[key].append(value)
            elif own[key]:
                if value[-len(own[key]) :] != own[key]:
                    problems.append(f"internal: {_who(op)} does not see its own {own[key]} in {value}")
            else:
                transaction.reads.append((key, value))
        transactions.append(transaction)
    return problems + lists.check(transactions, finals[-1].value["lists"])


def check_register(history: History) -> list[str]:
    return check_registers(history.of("read") + history.of("write") + history.of("cas"))


def check_set(history: History) -> list[str]:
    """add: {"element"}, read: {"elements": […]}."""
    problems = []
    adds = {op.value["element"]: op for op in history.of("add")}
    reads = history.of("read", OK)
    if not reads:
        return ["incomplete: the set was never read"]
    for read in reads:
        counts = Counter(read.value["elements"])
        for element, count in counts.items():
            add = adds.get(element)
            if count > 1:
                problems.append(f"doubled: {_who(read)} saw {element} {count} times")
            if add is None or add.outcome == FAILED:
                problems.append(f"invented: {_who(read)} saw {element}, which {add.error if add else 'nobody added'}")
        for element, add in adds.items():
            if add.outcome == OK and add.end < read.start and element not in counts:
                problems.append(f"lost: {_who(read)} does not see {element}, acknowledged at {add.end:.3f}")
    return problems


def check_unique(history: History) -> list[str]:
    """insert: {"key", "owner"}, final: {"rows": [[key, owner], …]}."""
    problems = []
    finals = history.of("final", OK)
    if not finals:
        return ["incomplete: the table was not read in the end"]
    rows: dict[Any, list[Any]] = defaultdict(list)
    for key, owner in finals[-1].value["rows"]:
        rows[key].append(owner)
    tried: dict[Any, list[Operation]] = defaultdict(list)
    for op in history.of("insert"):
        tried[op.value["key"]].append(op)
    for key, ops in tried.items():
        winners = [op.value["owner"] for op in ops if op.outcome == OK]
        possible = [op.value["owner"] for op in ops if op.outcome != FAILED]
        if len(winners) > 1:
            problems.append(f"doubled: inserts of {key} by {winners} were both acknowledged")
        if len(rows[key]) > 1:
            problems.append(f"doubled: {key} is there for {rows[key]}")
        problems += [f"lost: {key} of {winner} is not there" for winner in winners if winner not in rows[key]]
    for key, owners in rows.items():
        possible = [op.value["owner"] for op in tried.get(key, ()) if op.outcome != FAILED]
        problems += [f"invented: {key} of {owner} is there" for owner in owners if owner not in possible]
    return problems


def check_sequential(history: History) -> list[str]:
    """read: {"client", "newest_first": [found?, …]}: the client's inserts, looked for from the last to the first."""
    problems = []
    for op in history.of("read", OK):
        found = op.value["newest_first"]
        if True in found and False in found[found.index(True) :]:
            problems.append(f"not sequential: {_who(op)} saw {found} of client {op.value['client']}, newest first")
    return problems


def check_long_fork(history: History) -> list[str]:
    """read: {"group", "found": [key, …]}: what one snapshot has of a group of keys that are inserted one by one."""
    snapshots: dict[Any, dict[frozenset[Any], Operation]] = defaultdict(dict)
    for op in history.of("read", OK):
        snapshots[op.value["group"]].setdefault(frozenset(op.value["found"]), op)
    return [
        f"long fork: {_who(one)} saw {sorted(left)}, {_who(other)} saw {sorted(right)}"
        for found in snapshots.values()
        for (left, one), (right, other) in combinations(found.items(), 2)
        if not left <= right and not right <= left
    ]


def check_write_skew(history: History) -> list[str]:
    """insert: {"pair", "side"}: acknowledged if the other side was not there; final: {"rows": [[pair, side], …]}."""
    winners: dict[Any, set[Any]] = defaultdict(set)
    for op in history.of("insert", OK):
        winners[op.value["pair"]].add(op.value["side"])
    finals = history.of("final", OK)
    if not finals:
        return ["incomplete: the tables were not read in the end"]
    rows: dict[Any, set[Any]] = defaultdict(set)
    for pair, side in finals[-1].value["rows"]:
        rows[pair].add(side)
    problems = [f"G2: both sides of pair {pair} committed" for pair, sides in winners.items() if len(sides) > 1]
    problems += [
        f"G2: both sides of pair {pair} are there" for pair, sides in rows.items() if len(sides | winners[pair]) > 1
    ]
    for pair, sides in winners.items():
        problems += [f"lost: side {side} of pair {pair} is not there" for side in sides - rows[pair]]
    return sorted(set(problems))


CHECKS: dict[str, Callable[[History], list[str]]] = {
    "bank": check_bank,
    "bank-multitable": check_bank,
    "list-append": check_lists,
    "register": check_register,
    "set": check_set,
    "unique-insert": check_unique,
    "sequential": check_sequential,
    "long-fork": check_long_fork,
    "write-skew": check_write_skew,
}


def _who(op: Operation) -> str:
    return f"{op.process}@{op.node or '?'} at {op.start:.3f}"


def check(history: History) -> list[str]:
    """Everything that is wrong with a history."""
    problems = CHECKS[history.workload](history)
    longest = history.header.get("longest_seconds")
    if longest is not None:
        problems += [
            f"hung: {_who(op)} waited {op.end - op.start:.1f} s for {op.kind}"
            for op in history.operations
            if op.end - op.start > longest
        ]
    return problems


def verdict(history: History) -> dict[str, Any]:
    """The outcome for programs: counts, and what is wrong."""
    problems = check(history)
    counts = Counter(op.outcome for op in history.operations)
    return {
        "workload": history.workload,
        "valid": not problems,
        "operations": {outcome: counts[outcome] for outcome in (OK, FAILED, UNKNOWN)},
        "problems": problems[:MOST_REPORTED],
        "problem_count": len(problems),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.check", description="Check histories.")
    parser.add_argument("histories", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true", help="one JSON object per history")
    given = parser.parse_args(arguments)
    valid = True
    for path in given.histories:
        try:
            found = verdict(History.load(path))
        except (OSError, ValueError, KeyError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 2
        valid = valid and found["valid"]
        if given.json:
            print(json.dumps({"history": str(path), **found}))
        else:
            counts = ", ".join(f"{count} {outcome}" for outcome, count in found["operations"].items())
            print(f"{path}: {'valid' if found['valid'] else 'INVALID'} ({found['workload']}: {counts})")
            for problem in found["problems"]:
                print(f"    {problem}")
    return 0 if valid else 1


if __name__ == "__main__":
    sys.exit(main())
