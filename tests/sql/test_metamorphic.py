"""Generated queries agree with themselves whatever the plan (tests/fuzz/metamorphic.py); and the check would notice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random

import pytest
from pydistdb.sql.exec.first_rows import Picker
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.skip_scan import SkipBounds
from pydistdb.sql.plan import joins as plan_joins
from pydistdb.sql.plan import partners

from tests.fuzz.metamorphic import CHECKS, check, connect, joins, rows

SEEDS = 50


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("first", [0, 1000])
def test_queries_agree_with_themselves(name: str, first: int) -> None:
    client = connect(Random(first))
    for seed in range(first, first + SEEDS):
        assert check(name, client, seed) is None, (
            f"python -m tests.fuzz.metamorphic --only {name} --seed {seed} --count 1"
        )


def test_generated_joins_mostly_run_and_find_rows() -> None:
    client = connect(Random(1))
    found = [rows(client, joins(Random(seed))) for seed in range(60)]
    assert sum(answer is not None and not any(line.startswith("ERROR") for line in answer) for answer in found) > 40
    assert sum(bool(answer) and answer != ["0|NULL"] for answer in found) > 20


def test_a_wrong_join_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = plan_joins._index_loop

    def wrong(*arguments, **options):  # type: ignore[no-untyped-def]
        candidate = right(*arguments, **options)
        other = {"inner": "left", "left": "inner"}
        if candidate is not None and candidate.relation.kind in other:
            object.__setattr__(candidate.relation, "kind", other[candidate.relation.kind])
        return candidate

    client = connect(Random(2))
    monkeypatch.setattr(plan_joins, "_index_loop", wrong)
    assert any(check("plans", client, seed) for seed in range(200))


def test_values_that_a_skip_scan_misses_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = SkipBounds._seek

    async def first_only(self: SkipBounds, state: State) -> AsyncIterator[tuple[bytes, bytes, bytes]]:
        async for found in right(self, state):
            yield found
            return

    client = connect(Random(3))
    assert client.execute("ANALYZE")[-1] == "ANALYZE"
    monkeypatch.setattr(SkipBounds, "_seek", first_only)
    assert any(check("indexes", client, seed) for seed in range(200))


def test_a_foreign_key_taken_for_not_null_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partners, "_never_null", lambda table: {column.number for column in table.columns})
    client = connect(Random(4))
    assert any(check("keys", client, seed) for seed in range(100))


def test_first_rows_that_are_not_kept_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Picker.pick
    monkeypatch.setattr(Picker, "pick", lambda self, rows, most, state: right(self, rows, most, state)[1:])
    client = connect(Random(5))
    assert any(check("numbered", client, seed) for seed in range(100))
