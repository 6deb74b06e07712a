"""The checker of histories finds every anomaly it is for, and nothing in a clean history."""

from __future__ import annotations

import subprocess
import sys
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.check import CHECKS, check
from tests.chaos.history import FAILED, OK, UNKNOWN, History, Operation
from tests.chaos.registers import is_linearizable

BANK = {"workload": "bank", "accounts": 2, "total": 20}


def op(kind: str, value: Any, outcome: str = OK, start: float = 0.0, end: float = 1.0) -> Operation:
    return Operation(1, kind, value, outcome, start, end)


def write(value: int, start: float, end: float, outcome: str = OK) -> Operation:
    return op("write", {"key": 1, "to": value}, outcome, start, end)


def read(value: int | None, start: float, end: float) -> Operation:
    return op("read", {"key": 1, "value": value}, OK, start, end)


def cas(before: int, after: int, start: float, end: float, outcome: str = OK) -> Operation:
    return op("cas", {"key": 1, "from": before, "to": after}, outcome, start, end)


def balances(*amounts: int) -> Operation:
    return op("read", {"balances": {str(n): amount for n, amount in enumerate(amounts)}})


def txn(*steps: list[Any], outcome: str = OK) -> Operation:
    return op("txn", {"steps": list(steps)}, outcome)


def add(element: int, start: float, end: float, outcome: str = OK) -> Operation:
    return op("add", {"element": element}, outcome, start, end)


def elements(found: list[int], start: float) -> Operation:
    return op("read", {"elements": found}, OK, start, start + 1)


def insert(key: int, owner: int, outcome: str = OK) -> Operation:
    return op("insert", {"key": key, "owner": owner}, outcome)


def rows(*found: list[Any]) -> Operation:
    return op("final", {"rows": list(found)})


def side(pair: int, which: str, outcome: str = OK) -> Operation:
    return op("insert", {"pair": pair, "side": which}, outcome)


def seen(*newest_first: bool) -> Operation:
    return op("read", {"client": 1, "newest_first": list(newest_first)})


def snapshot(*found: int) -> Operation:
    return op("read", {"group": 1, "found": list(found)})


FINAL_LISTS = op("final", {"lists": {"x": [1, 2], "y": []}})
CASES: list[tuple[str, dict[str, Any] | str, list[Operation]]] = [
    ("", BANK, [balances(10, 10), balances(0, 20), op("transfer", {}, UNKNOWN)]),
    ("total", BANK, [balances(10, 11)]),
    ("negative", BANK, [balances(-1, 21)]),
    ("accounts", BANK, [balances(20)]),
    ("total", {**BANK, "workload": "bank-multitable"}, [balances(1, 1)]),
    ("hung", {**BANK, "longest_seconds": 10}, [op("transfer", {}, FAILED, 1, 20), balances(10, 10)]),
    ("", "list-append", [txn(["append", "x", 1], ["r", "x", [1]]), txn(["append", "x", 2]), FINAL_LISTS]),
    ("internal", "list-append", [txn(["append", "x", 1], ["r", "x", []]), txn(["append", "x", 2]), FINAL_LISTS]),
    ("lost", "list-append", [txn(["append", "x", 3]), txn(["append", "x", 1], ["append", "x", 2]), FINAL_LISTS]),
    ("G1a", "list-append", [txn(["append", "x", 1], outcome=FAILED), txn(["append", "x", 2]), FINAL_LISTS]),
    ("G-single", "list-append", [txn(["r", "x", []], ["append", "x", n]) for n in (1, 2)] + [FINAL_LISTS]),
    ("incomplete", "list-append", [txn(["append", "x", 1])]),
    ("", "register", [write(1, 0, 2), read(None, 0, 1), read(1, 1.5, 3), cas(1, 2, 3, 4), read(2, 5, 6)]),
    ("", "register", [write(1, 0, 1), write(2, 0, 1, UNKNOWN), read(1, 5, 6), read(2, 7, 8)]),
    ("", "register", [write(1, 0, 1), write(2, 0, 1, FAILED), cas(7, 8, 0, 1, FAILED), read(1, 5, 6)]),
    ("not linearizable", "register", [write(1, 0, 1), read(None, 2, 3)]),
    ("not linearizable", "register", [write(1, 0, 10), read(1, 1, 2), read(None, 3, 4)]),
    ("not linearizable", "register", [write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)]),
    ("not linearizable", "register", [write(1, 0, 1), cas(1, 2, 2, 3), cas(1, 3, 2, 3)]),
    ("not linearizable", "register", [write(1, 0, 1), write(2, 2, 3, UNKNOWN), read(2, 4, 5), read(1, 6, 7)]),
    ("not linearizable", "register", [write(1, 0, 1, FAILED), read(1, 2, 3)]),
    ("", "set", [add(1, 0, 1), add(2, 0, 1, UNKNOWN), add(3, 2, 9), elements([1], 2), elements([1, 2, 3], 3)]),
    ("lost", "set", [add(1, 0, 1), elements([1], 2), elements([], 3)]),
    ("doubled", "set", [add(1, 0, 1), elements([1, 1], 2)]),
    ("invented", "set", [add(1, 0, 1, FAILED), elements([1], 2)]),
    ("invented", "set", [elements([1], 2)]),
    ("incomplete", "set", [add(1, 0, 1)]),
    ("", "unique-insert", [insert(1, 7), insert(1, 8, FAILED), insert(2, 7, UNKNOWN), rows([1, 7])]),
    ("", "unique-insert", [insert(2, 7, UNKNOWN), insert(2, 8, FAILED), rows([2, 7])]),
    ("doubled", "unique-insert", [insert(1, 7), insert(1, 8), rows([1, 7], [1, 8])]),
    ("doubled", "unique-insert", [insert(1, 7, UNKNOWN), insert(1, 8, UNKNOWN), rows([1, 7], [1, 8])]),
    ("lost", "unique-insert", [insert(1, 7), rows()]),
    ("invented", "unique-insert", [insert(1, 7, FAILED), rows([1, 7])]),
    ("incomplete", "unique-insert", [insert(1, 7)]),
    ("", "sequential", [seen(False, True, True), seen(False), seen(True, True)]),
    ("not sequential", "sequential", [seen(True, False)]),
    ("not sequential", "sequential", [seen(False, True, True, False)]),
    ("", "long-fork", [snapshot(), snapshot(1), snapshot(1, 2), snapshot(1, 2, 3)]),
    ("long fork", "long-fork", [snapshot(1), snapshot(2)]),
    ("long fork", "long-fork", [snapshot(1, 3), snapshot(1), snapshot(2, 1)]),
    ("", "write-skew", [side(1, "a"), side(1, "b", FAILED), side(2, "b", UNKNOWN), rows([1, "a"])]),
    ("G2", "write-skew", [side(1, "a"), side(1, "b"), rows([1, "a"], [1, "b"])]),
    ("G2", "write-skew", [side(1, "a"), side(1, "b", UNKNOWN), rows([1, "a"], [1, "b"])]),
    ("lost", "write-skew", [side(1, "a"), rows()]),
    ("incomplete", "write-skew", [side(1, "a")]),
]


def history_of(header: dict[str, Any] | str, operations: list[Operation]) -> History:
    return History({"workload": header} if isinstance(header, str) else header, operations)


@pytest.mark.parametrize(("expected", "header", "operations"), CASES)
def test_anomalies(expected: str, header: dict[str, Any] | str, operations: list[Operation]) -> None:
    problems = check(history_of(header, operations))
    kinds = {problem.partition(":")[0] for problem in problems}
    assert (expected in kinds) if expected else not problems, problems


def test_every_check_is_tested_with_a_clean_history_and_others() -> None:
    for workload in CHECKS.keys() - {"bank-multitable"}:
        cases = [expected for expected, header, _ in CASES if history_of(header, []).workload == workload]
        assert "" in cases and len(cases) > 1, workload


def test_a_file_is_checked_by_the_command(tmp_path: Path) -> None:
    clean, wrong, damaged = tmp_path / "clean.jsonl", tmp_path / "wrong.jsonl", tmp_path / "damaged.jsonl"
    history_of("register", [write(1, 0, 1), read(1, 2, 3)]).save(clean)
    history_of("register", [write(1, 0, 1), read(None, 2, 3)]).save(wrong)
    damaged.write_text("{}\n{")
    for arguments, status, said in (([clean], 0, ": valid"), ([clean, wrong], 1, "INVALID"), ([damaged], 2, "")):
        command = [sys.executable, "-m", "tests.chaos.check", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, said in done.stdout) == (status, True), done


def possible(operations: list[Operation]) -> bool:
    """By trying all orders."""
    return any(_runs(order) for chosen in _choices(operations) for order in permutations(chosen))


def _choices(operations: list[Operation]) -> list[list[Operation]]:
    """With and without those whose outcome is unknown."""
    sure = [op for op in operations if op.outcome == OK]
    unsure = [op for op in operations if op.outcome == UNKNOWN]
    return [sure + [op for i, op in enumerate(unsure) if mask >> i & 1] for mask in range(1 << len(unsure))]


def _runs(order: tuple[Operation, ...]) -> bool:
    value: Any = None
    for position, operation in enumerate(order):
        if any(later.latest < operation.start for later in order[position + 1 :]):
            return False
        if operation.kind != "write" and operation.value["value" if operation.kind == "read" else "from"] != value:
            return False
        if operation.kind != "read":
            value = operation.value["to"]
    return True


@st.composite
def register_histories(draw: st.DrawFn) -> list[Operation]:
    operations = []
    for number in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, 8))
        end = start + draw(st.integers(1, 5)) + 0.5
        seen_value = draw(st.sampled_from([None, 0, 1, 2, 3, 4]))
        match draw(st.sampled_from(["read", "write", "write", "cas"])):
            case "read":
                operations.append(read(seen_value, start, end))
            case "write":
                operations.append(write(number, start, end, draw(st.sampled_from([OK, OK, UNKNOWN]))))
            case "cas":
                outcome = draw(st.sampled_from([OK, UNKNOWN, FAILED]))
                operations.append(cas(seen_value or 0, number, start, end, outcome))
    return operations


@given(register_histories())
def test_registers_are_judged_as_by_trying_all_orders(operations: list[Operation]) -> None:
    assert is_linearizable(operations) == possible(operations)
