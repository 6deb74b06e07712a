"""Long loops let themselves be interrupted: between two breaths no more work is done than ``MOST_PAIRS`` or so.

Work is counted where it is done (pairs of rows, rows of frames), not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import pytest
from pydistdb.sql.errors import QueryCanceled
from pydistdb.sql.exec.apply import SubPlanRunner
from pydistdb.sql.exec.foreign_keys import FLUSHED_AT_ONCE
from pydistdb.sql.exec.hash_join import HashJoinOperator
from pydistdb.sql.exec.join import NestedLoopOperator
from pydistdb.sql.exec.run import BATCH_ROWS, MOST_PAIRS, State
from pydistdb.sql.exec.window_partition import AggregateRun
from pydistdb.tasks import run_inline

from tests.support.memory_database import MemoryTransaction
from tests.support.sql_client import SqlClient, SqlServer

ROWS = 1_500


class Meter:
    """What was done since the last breath, at most, and altogether."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done = self.most = self.total = self.breaths = 0
        self.monkeypatch = monkeypatch
        breathe = State.breathe

        async def counted(state: State) -> None:
            self.breaths += 1
            self.done = 0
            await breathe(state)

        monkeypatch.setattr(State, "breathe", counted)

    def add(self, work: int) -> None:
        self.done += work
        self.total += work
        self.most = max(self.most, self.done)

    def watch(self, owner: type, name: str, work: Callable[..., int]) -> None:
        """Count the work of every call of the function that ``owner.name`` makes."""
        make: Any = vars(owner)[name]
        assert isinstance(make, cached_property)

        def watched(operator: Any) -> Any:
            function = make.func(operator)

            def call(*arguments: Any) -> Any:
                result = function(*arguments)
                self.add(work(*arguments, result))
                return result

            return None if function is None else call

        self.monkeypatch.setattr(owner, name, property(watched))


@pytest.fixture
def client() -> SqlClient:
    client = SqlServer().connect()
    client.execute("create table t (a int, b int)")
    client.execute(f"insert into t select g, g % 2 from generate_series(1, {ROWS}) g")
    return client


def test_a_hash_join_on_a_value_that_many_rows_share(client: SqlClient, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(monkeypatch)
    meter.watch(HashJoinOperator, "probe", lambda batch, table, matched, state, output: len(output))
    pairs = ROWS * ROWS // 2
    assert client.rows("select count(x.a + y.a) from t x join t y on x.b = y.b") == [str(pairs)]
    assert meter.total >= pairs > 10 * MOST_PAIRS
    assert meter.most <= MOST_PAIRS


@pytest.mark.parametrize(("condition", "found"), [("exists", ROWS), ("not exists", 0)], ids=["semi", "anti"])
def test_a_nested_loop_that_finds_its_match_in_the_first_batch(
    condition: str, found: int, client: SqlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Meter(monkeypatch)
    meter.watch(NestedLoopOperator, "pairs", lambda left, rows, state, output: len(rows))
    query = f"select count(*) from t x where {condition} (select 1 from t y where y.a > x.a - 5000)"
    assert client.rows(query) == [str(found)]
    assert meter.total > 10 * MOST_PAIRS // 2
    assert meter.most <= 4 * BATCH_ROWS


def test_all_values_of_a_query_are_compared_with_every_row(client: SqlClient, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(monkeypatch)
    meter.watch(SubPlanRunner, "judge", lambda row, result, state, truth: len(result))
    assert client.rows("select count(*) from t where a + 5000 > all (select a from t)") == [str(ROWS)]
    assert meter.total >= ROWS * ROWS > 10 * MOST_PAIRS
    assert meter.most <= MOST_PAIRS


def test_window_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(monkeypatch)

    class Count:
        strict = needs_context = False

        @staticmethod
        def initial() -> int:
            return 0

        @staticmethod
        def accumulate(value: int, argument: int) -> int:
            meter.add(1)
            return value + 1

        @staticmethod
        def finish(value: int) -> int:
            return value

    class Breathing:
        context = None

        async def breathe(self) -> None:
            meter.breaths += 1
            meter.done = 0

    rows = [(1,)] * (3 * MOST_PAIRS)
    chosen = [range(0, len(rows)), *(range(first, first + BATCH_ROWS) for first in range(300))]
    run = AggregateRun(Count, rows, None, iter(chosen), Breathing())  # type: ignore[arg-type]
    found = run_inline(run.take(200)) + run_inline(run.take(len(chosen)))
    assert found == [len(frame) for frame in chosen]
    assert meter.most <= 2 * MOST_PAIRS and meter.breaths >= 300 * BATCH_ROWS // MOST_PAIRS


@pytest.mark.parametrize(
    "query",
    [
        "select count(x.a + y.a) from t x join t y on x.b = y.b",
        "select count(*) from t x, t y where x.a < y.a and x.b + y.b > 5",
        "select count(*) from t where a + 5000 > all (select a from t)",
        "select sum(a) over (order by a rows between 700 preceding and 700 following) from t",
        "select lag(a) over (order by a), rank() over (order by a) from t",
    ],
)
def test_a_cancel_is_noticed_at_the_next_breath(query: str, client: SqlClient, monkeypatch: pytest.MonkeyPatch) -> None:
    breaths = 0

    async def breathe(state: State) -> None:
        nonlocal breaths
        breaths += 1
        if breaths >= 5:
            raise QueryCanceled("canceling statement due to user request")

    monkeypatch.setattr(State, "breathe", breathe)
    [line] = client.execute(query)
    assert "57014" in line and breaths == 5


def test_many_writes_are_handed_over_a_part_at_a_time(client: SqlClient, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(monkeypatch)
    insert = MemoryTransaction.insert

    def counted(transaction: MemoryTransaction, key: bytes, value: bytes) -> None:
        meter.add(1)
        insert(transaction, key, value)

    monkeypatch.setattr(MemoryTransaction, "insert", counted)
    client.execute("create table u (a int primary key)")
    meter.total = 0
    assert client.execute("insert into u select generate_series(1, 9999)") == ["INSERT 0 9999"]
    assert meter.total == 9_999 and meter.most <= FLUSHED_AT_ONCE
    assert client.rows("select count(*) from u") == ["9999"]


@pytest.mark.parametrize(
    ("query", "way"),
    [("select a from t where b = 1 and c = 1", "BitmapAnd"), ("select a from t where b < 9 and c = 5", "Skip: b")],
)
def test_indexes_that_find_nothing(client: SqlClient, monkeypatch: pytest.MonkeyPatch, query: str, way: str) -> None:
    client.execute("alter table t add c int; update t set c = 1 - b")
    client.execute("create index on t (b, c)" if "Skip" in way else "create index on t (b); create index on t (c)")
    client.execute("analyze t; set enable_seqscan = off; set enable_indexscan = off")
    assert way in "\n".join(line.strip() for line in client.execute(f"explain {query}"))
    assert client.execute(query) == ["SELECT 0"]

    async def cancelled(state: State) -> None:
        raise QueryCanceled("canceling statement due to user request")

    monkeypatch.setattr(State, "breathe", cancelled)
    assert client.execute(query)[0].startswith("ERROR: 57014")
