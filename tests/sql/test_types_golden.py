"""Every line of the golden files gives what a real PostgreSQL 15 gave (differential.py wrote them)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sql.calls import evaluate

GOLDEN = Path(__file__).parent / "golden_types"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.txt")), ids=lambda path: path.stem)
def test_results_and_errors_are_those_of_postgres(path: Path) -> None:
    wrong = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        call, _, expected = line.partition(" -> ")
        actual = evaluate(call)
        if actual != expected:
            wrong.append(f"{call}\n  is     {actual}\n  should {expected}")
    assert not wrong, "\n".join(wrong)
