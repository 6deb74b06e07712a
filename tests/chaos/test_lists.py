"""The checker of lists finds every kind of anomaly, and nothing where there is none."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.lists import ABORTED, UNKNOWN, Transaction, check

T = Transaction
CASES: list[tuple[str, list[Transaction], dict[str, list[int]]]] = [
    ("", [T("A", [], [("x", 1)]), T("B", [("x", [1])], [("x", 2)]), T("C", [("x", [1, 2])])], {"x": [1, 2]}),
    ("", [T("A", [("x", [])], [("x", 1)], UNKNOWN)], {"x": []}),
    ("", [T("A", [("x", [])], [("x", 1)], UNKNOWN), T("B", [("x", [1])])], {"x": [1]}),
    ("", [T("A", [("x", [9])], [("x", 1)], ABORTED)], {"x": []}),
    ("", [T("A", [("x", []), ("y", [])]), T("B", [], [("x", 1), ("y", 2)])], {"x": [1], "y": [2]}),
    ("G0", [T("A", [], [("x", 1), ("y", 1)]), T("B", [], [("x", 2), ("y", 2)])], {"x": [1, 2], "y": [2, 1]}),
    ("G1a", [T("A", [], [("x", 1)], ABORTED)], {"x": [1]}),
    ("G1a", [T("A", [], [("x", 1)], ABORTED), T("B", [("x", [1])])], {"x": [1]}),
    ("G1b", [T("A", [], [("x", 1), ("x", 2)]), T("B", [("x", [1])])], {"x": [1, 2]}),
    ("torn", [T("A", [], [("x", 1), ("y", 2)], UNKNOWN)], {"x": [1], "y": []}),
    ("G1c", [T("A", [("y", [2])], [("x", 1)]), T("B", [("x", [1])], [("y", 2)])], {"x": [1], "y": [2]}),
    ("G-single", [T("A", [("x", []), ("y", [2])]), T("B", [], [("x", 1), ("y", 2)])], {"x": [1], "y": [2]}),
    ("G-single", [T("A", [("x", [])], [("x", 1)]), T("B", [("x", [])], [("x", 2)])], {"x": [1, 2]}),
    ("G2", [T("A", [("x", [])], [("y", 1)]), T("B", [("y", [])], [("x", 2)])], {"x": [2], "y": [1]}),
    (
        "G2",
        [
            T("A", [("x", [])], [("y", 1)]),
            T("B", [("y", [])], [("z", 2)]),
            T("C", [("z", [])], [("x", 3)]),
        ],
        {"x": [3], "y": [1], "z": [2]},
    ),
    (
        "long fork",
        [
            T("A", [("x", [1]), ("y", [])]),
            T("B", [("x", []), ("y", [2])]),
            T("C", [], [("x", 1)]),
            T("D", [], [("y", 2)]),
        ],
        {"x": [1], "y": [2]},
    ),
    ("not a prefix", [T("A", [], [("x", 1)]), T("B", [], [("x", 2)]), T("C", [("x", [2])])], {"x": [1, 2]}),
    ("internal", [T("A", [("x", [1])], [("x", 1)])], {"x": [1]}),
    ("lost", [T("A", [], [("x", 1)])], {"x": []}),
    ("doubled", [T("A", [], [("x", 1)])], {"x": [1, 1]}),
]


@pytest.mark.parametrize(("expected", "history", "final"), CASES)
def test_anomalies(expected: str, history: list[Transaction], final: dict[str, list[int]]) -> None:
    problems = check(history, final)
    assert [problem.partition(":")[0] for problem in problems[:1]] == ([expected] if expected else []), problems


def explains(order: Iterable[Transaction], final: dict[str, list[int]]) -> bool:
    """Whether running the transactions one after the other gives these reads and this end."""
    state: dict[str, list[int]] = {"x": [], "y": []}
    for transaction in order:
        if any(state[key] != values for key, values in transaction.reads):
            return False
        for key, value in transaction.appends:
            state[key].append(value)
    return state == final


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Transaction], dict[str, list[int]]]:
    """Up to four transactions that all committed, with final lists, and reads of any beginning of those."""
    transactions = [Transaction(name) for name in "ABCD"[: draw(st.integers(1, 4))]]
    final: dict[str, list[int]] = {"x": [], "y": []}
    for number, transaction in enumerate(transactions):
        transaction.appends = [(key, number) for key in draw(st.sets(st.sampled_from("xy")))]
    for key in final:
        final[key] = draw(st.permutations([n for n, t in enumerate(transactions) if (key, n) in t.appends]))
    for transaction in transactions:
        for key in draw(st.sets(st.sampled_from("xy"))):
            transaction.reads.append((key, final[key][: draw(st.integers(0, len(final[key])))]))
    return transactions, final


@given(histories())
def test_a_problem_is_found_just_where_no_serial_order_explains_it(
    case: tuple[list[Transaction], dict[str, list[int]]],
) -> None:
    history, final = case
    possible = any(explains(order, final) for order in permutations(history))
    assert (not check(history, final)) == possible
