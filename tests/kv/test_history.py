"""The checker of histories finds every kind of anomaly, and nothing where there is none."""

from __future__ import annotations

import pytest

from tests.kv.history import ABORTED, UNKNOWN, Transaction, check

T = Transaction
CASES: list[tuple[str, list[Transaction], dict[str, list[int]]]] = [
    ("", [T("A", [], [("x", 1)]), T("B", [("x", [1])], [("x", 2)]), T("C", [("x", [1, 2])])], {"x": [1, 2]}),
    ("", [T("A", [("x", [])], [("x", 1)], UNKNOWN)], {"x": []}),
    ("", [T("A", [("x", [])], [("x", 1)], UNKNOWN), T("B", [("x", [1])])], {"x": [1]}),
    ("", [T("A", [("x", [9])], [("x", 1)], ABORTED)], {"x": []}),
    ("G0", [T("A", [], [("x", 1), ("y", 1)]), T("B", [], [("x", 2), ("y", 2)])], {"x": [1, 2], "y": [2, 1]}),
    ("G1a", [T("A", [], [("x", 1)], ABORTED)], {"x": [1]}),
    ("G1b", [T("A", [], [("x", 1), ("x", 2)]), T("B", [("x", [1])])], {"x": [1, 2]}),
    ("G1c", [T("A", [("y", [2])], [("x", 1)]), T("B", [("x", [1])], [("y", 2)])], {"x": [1], "y": [2]}),
    ("G-single", [T("A", [("x", []), ("y", [2])]), T("B", [], [("x", 1), ("y", 2)])], {"x": [1], "y": [2]}),
    ("G2", [T("A", [("x", [])], [("y", 1)]), T("B", [("y", [])], [("x", 2)])], {"x": [2], "y": [1]}),
    (
        "G2",
        [
            T("A", [("x", [1]), ("y", [])]),
            T("B", [("x", []), ("y", [2])]),
            T("C", [], [("x", 1)]),
            T("D", [], [("y", 2)]),
        ],
        {"x": [1], "y": [2]},
    ),
    ("not a prefix", [T("A", [], [("x", 1)]), T("B", [], [("x", 2)]), T("C", [("x", [2])])], {"x": [1, 2]}),
    ("lost", [T("A", [], [("x", 1)])], {"x": []}),
    ("doubled", [T("A", [], [("x", 1)])], {"x": [1, 1]}),
]


@pytest.mark.parametrize(("expected", "history", "final"), CASES)
def test_anomalies(expected: str, history: list[Transaction], final: dict[str, list[int]]) -> None:
    problems = check(history, final)
    assert [problem.partition(":")[0] for problem in problems[:1]] == ([expected] if expected else []), problems
