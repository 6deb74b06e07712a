"""Running compiled statements: the hot path, waiting, concurrency, sequences, COPY's door."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydistdb.kv.api import (
    Isolation,
    LockedValue,
    LockStrength,
    MustWait,
    ReadRestart,
    SerializationConflict,
    WaitPolicy,
)
from pydistdb.sql.errors import CheckViolation, ForeignKeyViolation, QueryCanceled, UniqueViolation
from pydistdb.sql.exec import BulkInsert, compile_plan
from pydistdb.sql.plan.expressions import rewrite_relation_expressions
from pydistdb.sql.tree import Call, Expr

from tests.sql.laboratory import Laboratory
from tests.support.memory_database import MemoryTransaction

T = "create table t (id int8 primary key, v int4, name text)"


def test_a_read_by_key_runs_without_waiting() -> None:
    lab = Laboratory(T)
    lab.run("insert into t values (1, 10, 'a')")
    query = lab.compile("select v + 1, name from t where id = $1 and v < 50", (20,))
    assert query.try_run(lab.context_of(None, (1,), True)) == [(11, "a")]
    assert query.try_run(lab.context_of(None, (2,), True)) == []
    assert query.try_run(lab.context_of(None, (None,), True)) == []
    assert lab.compile("select v from t where id > 1").try_run(lab.context_of(None, (), True)) is None
    lab.begin()
    assert lab.transaction is not None
    lab.transaction.begin_statement()
    lab.run("update t set v = 20 where id = 1")
    assert query.try_run(lab.context_of(lab.transaction, (1,), False)) == [(21, "a")]
    waiting = Laboratory(T, must_wait=True)
    with pytest.raises(MustWait):
        waiting.compile("select v from t where id = 1").try_run(waiting.context_of(None, (), True))


def test_everything_works_through_the_awaitable_calls_too() -> None:
    lab = Laboratory(f"{T}; create index t_v on t (v)", must_wait=True)
    lab.run("insert into t select x, x % 3, 'n' || x from generate_series(1, 50) x")
    assert lab.run("select count(*), sum(v) from t where id < 40") == [(39, 39)]
    assert lab.run("select name from t where v = 2 order by id limit 1") == [("n2",)]


class _Overtaken(MemoryTransaction):
    """A transaction that another one overtakes just before its first lock."""

    def interfere(self, lab: Laboratory, text: str) -> None:
        self.lab = lab
        self.text: str | None = text

    async def lock(self, keys: Any, strength: LockStrength, wait: WaitPolicy = WaitPolicy.WAIT) -> list[LockedValue]:
        if self.text is not None:
            text, self.text = self.text, None
            lab = Laboratory()
            lab.catalog, lab.database, lab.scheduler = self.lab.catalog, self.lab.database, type(self.lab.scheduler)()
            lab.run(text)
        return await super().lock(keys, strength, wait)


def overtaken(lab: Laboratory, interference: str, isolation: Isolation = Isolation.READ_COMMITTED) -> None:
    transaction = _Overtaken(lab.database, isolation)
    transaction.interfere(lab, interference)
    transaction.begin_statement()
    lab.transaction = transaction


@pytest.mark.parametrize(
    ("statement", "interference", "rows", "left"),
    [
        ("update t set v = v + 1 where v < 15 returning id, v", "update t set v = 12 where id = 1", [(1, 13)], 13),
        ("update t set v = v + 1 where v < 15 returning id, v", "update t set v = 90 where id = 1", [], 90),
        ("delete from t where v < 15 returning id", "update t set v = 90 where id = 1", [], 90),
        ("update t set v = v + 1 where id = 1 returning v", "update t set v = 50 where id = 1", [(51,)], 51),
        ("select v from t where v < 15 for update", "update t set v = 14 where id = 1", [(14,)], 14),
        ("select v from t where v < 15 for update", "update t set v = 20 where id = 1", [], 20),
    ],
)
def test_a_row_changed_before_its_lock_is_looked_at_again(
    statement: str, interference: str, rows: list[Any], left: int
) -> None:
    lab = Laboratory(T)
    lab.run("insert into t values (1, 10, 'a'), (2, 99, 'b')")
    overtaken(lab, interference)
    assert lab.run(statement) == rows
    lab.commit()
    assert lab.run("select v from t where id = 1") == [(left,)]


@pytest.mark.parametrize("statement", ["update t set v = v + 1 where v < 15", "delete from t where v < 15"])
def test_a_row_that_is_gone_at_its_lock_has_the_statement_run_again(statement: str) -> None:
    lab = Laboratory(T)
    lab.run("insert into t values (1, 10, 'a'), (2, 99, 'b')")
    overtaken(lab, "update t set id = 3 where id = 1")
    with pytest.raises(ReadRestart):
        lab.run(statement)


def test_above_read_committed_a_changed_row_is_a_conflict() -> None:
    lab = Laboratory(T)
    lab.run("insert into t values (1, 10, 'a')")
    overtaken(lab, "update t set v = 12 where id = 1", Isolation.REPEATABLE_READ)
    with pytest.raises(SerializationConflict):
        lab.run("update t set v = v + 1 where v < 15")


def test_a_child_that_a_snapshot_cannot_see_still_keeps_its_parent() -> None:
    lab = Laboratory("create table p (id int4 primary key); create table c (id int4 primary key, p int4 references p)")
    lab.run("insert into p values (1)")
    overtaken(lab, "insert into c values (1, 1)")
    with pytest.raises(ForeignKeyViolation):
        lab.run("delete from p where id = 1")
    overtaken(lab, "insert into c values (2, 1)", Isolation.REPEATABLE_READ)
    with pytest.raises((ForeignKeyViolation, SerializationConflict)):
        lab.run("delete from p where id = 1")


def test_long_loops_pause_and_can_be_interrupted() -> None:
    lab = Laboratory()
    query = lab.compile("select count(*) from generate_series(1, 100000) a, generate_series(1, 100000) b")
    transaction = lab.database.begin(Isolation.READ_COMMITTED)
    transaction.begin_statement()
    run = lab.context_of(transaction, (), True)
    calls = 0

    def interrupt() -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise QueryCanceled("canceling statement due to user request")

    run.check_interrupt = interrupt
    ticks = iter(range(0, 10**15, 4_000_000))
    lab.scheduler.now_ns = lambda: next(ticks)  # type: ignore[method-assign]

    async def drain() -> None:
        async for _ in query.run(run):
            pass

    with pytest.raises(QueryCanceled):
        lab.scheduler.run(drain())


def test_rows_of_a_changing_statement_come_after_all_its_checks() -> None:
    lab = Laboratory(
        "create table t2 (id int4 primary key); create table t (id int4 primary key, p int4 references t2)"
    )
    query = lab.compile("insert into t values (1, 5) returning id")
    seen: list[Any] = []
    transaction = lab.database.begin(Isolation.READ_COMMITTED)
    transaction.begin_statement()

    async def drain() -> None:
        async for batch in query.run(lab.context_of(transaction, (), True)):
            seen.extend(batch)

    with pytest.raises(ForeignKeyViolation):
        lab.scheduler.run(drain())
    assert seen == []


def test_copy_inserts_rows_with_all_checks() -> None:
    lab = Laboratory("create table t (id int4 primary key, v int4 check (v > 0))")
    table = lab.catalog.relation("t")

    def copy(rows: list[list[Any]]) -> int:
        transaction = lab.database.begin(Isolation.READ_COMMITTED)
        transaction.begin_statement()
        run = lab.context_of(transaction, (), False)
        lab.scheduler.run(BulkInsert(run, table).insert(rows))  # type: ignore[arg-type]
        lab.scheduler.run(transaction.commit())
        return run.affected_rows

    assert copy([[1, 5], [2, None]]) == 2
    with pytest.raises(CheckViolation):
        copy([[3, 0]])
    with pytest.raises(UniqueViolation, match="t_pkey"):
        copy([[4, 1], [1, 1]])
    assert lab.run("select count(*) from t") == [(2,)]


class _Empty(MustWait):
    """What nextval raises when its block of numbers is used up."""

    def __init__(self, numbers: _Numbers) -> None:
        super().__init__()
        self.numbers = numbers

    async def fill(self, count: int) -> None:
        self.numbers.left = 7
        self.numbers.fills += 1


class _Numbers:
    def __init__(self) -> None:
        self.next = self.left = self.fills = 0

    def draw(self, name: str) -> int:
        if not self.left:
            raise _Empty(self)
        self.left -= 1
        self.next += 1
        return self.next


def test_no_number_is_lost_when_a_sequence_has_to_be_filled() -> None:
    lab = Laboratory(T)
    lab.run("insert into t select -x, 1, 'n' from generate_series(1, 20) x")
    plan = lab.plan("insert into t select ascii(name), 1, 'n' from t x returning id")
    numbers = _Numbers()

    def use_numbers(node: Expr) -> Expr:
        if not isinstance(node, Call) or node.function.name != "ascii":
            return node
        return replace(node, function=replace(node.function, name="nextval", implementation=numbers.draw, inline=None))

    numbered = replace(plan, root=rewrite_relation_expressions(plan.root, use_numbers))
    assert lab.execute(compile_plan(numbered)) == [(number,) for number in range(1, 21)]
    assert numbers.fills == 3
