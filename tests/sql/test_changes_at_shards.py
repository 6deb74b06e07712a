"""UPDATE and DELETE done where the rows are: what they leave behind is what they leave behind at the gateway."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from pydistdb.kv.api import Isolation, RangeWaits, ReadRestart, SerializationConflict
from pydistdb.sql.exec import CompiledQuery
from pydistdb.sql.exec.change_shards import FEW_ROWS
from pydistdb.sql.exec.modify import ChangeOperator
from pydistdb.sql.layout import TableLayout
from pydistdb.sql.plan.explain_formats import Actual, PlanNode, ShardActual, Style, structured, text_lines
from pydistdb.sql.plan.explain_gather import lock_waits

from tests.sql.laboratory import Laboratory

DDL = """create table t (id int8 primary key, g int4, v int8, s text not null, w int8 generated always as (v * 2) stored,
check (v < 1000000));
create index on t (g);
create unique index on t (s);
create table plain (id int8 primary key, g int4, v int8)"""


def laboratory(distant: bool) -> Laboratory:
    lab = Laboratory(DDL, distant=distant)
    rand = random.Random(3)
    for number in range(90):
        lab.run(f"insert into t values ({number}, {rand.randrange(5)}, {rand.randrange(100)}, 'row {number}')")
        lab.run(f"insert into plain values ({number}, {rand.randrange(5)}, {rand.choice(['null', '7', '20'])})")
    if distant:
        for name in ("t", "plain"):
            layout = next(TableLayout.of(table) for table in lab.catalog._tables.values() if table.name == name)
            keys = [layout.primary.head + layout.primary.encode([key]) for key in range(9, 90, 17)]
            lab.scheduler.run(lab.database.split(keys))
    return lab


def contents(lab: Laboratory) -> list[list[tuple[Any, ...]]]:
    """The tables by their rows, and by their indexes."""
    return [
        lab.run("select * from t order by id"),
        lab.run("select * from plain order by id"),
        lab.run("select id from t where g = 2 order by id"),
        lab.run("select g, s from t where g between 1 and 3 order by g, id"),
        *(lab.run(f"select id from t where s = 'row {number}'") for number in range(0, 90, 7)),
    ]


@pytest.mark.parametrize(
    ("statement", "travels"),
    [
        ("update t set v = v + 1 where w < 90", True),
        ("update t set v = v + 1", True),
        ("update t set g = g + 1, v = v * 2 where id between 20 and 60", True),
        ("update t set g = (id % 3)::int4 where s like '%4'", True),
        ("update plain set v = null where v = 7 and g > 1", True),
        ("update plain set v = coalesce(v, 0) + g where id > 80", True),
        ("delete from t where v > 50", True),
        ("delete from plain", True),
        ("update t set s = s || 'x' where id < 30", False),
        ("update t set v = v + 1 where g = 2", False),
        ("update plain set id = id + 1000 where v = 7", False),
        ("update plain set v = (select max(v) from t)", False),
        ("update plain set v = t.v from t where t.id = plain.id", False),
        ("update plain set v = v + 1 where v = 7 returning id, v", False),
        ("update plain set v = (random() * 0)::int8 where v = 7", False),
        ("delete from plain using t where t.id = plain.id and t.g = 2", False),
        ("with d as (delete from plain where g = 1 returning v) select count(*) from d", False),
        ("with d as (delete from plain where g = 1) update plain set v = 0 where g < 3", False),
    ],
)
@pytest.mark.parametrize("in_block", [False, True], ids=["alone", "in a block"])
def test_far_is_near(statement: str, travels: bool, in_block: bool) -> None:
    near, far = laboratory(False), laboratory(True)
    answers = []
    for lab in (near, far):
        if in_block:
            lab.begin()
        answers.append(sorted(lab.run(statement), key=repr))
        answers.append([lab.affected_rows])
        if in_block:
            lab.commit()
    assert answers[:2] == answers[2:]
    assert contents(near) == contents(far)
    changes = far.database.changes
    assert bool(changes) is travels, changes
    if in_block:
        assert not any(lays_down for _, lays_down in changes)


@pytest.mark.parametrize(
    "statement",
    [
        "update t set v = 1000000 + id where id > 40",
        "update t set v = 1 / (v - v) where id > 40",
        "update t set s = null where id > 60",
        "update plain set g = 2147483647 + g where id > 60",
    ],
)
def test_errors_are_those_of_the_gateway(statement: str) -> None:
    found = []
    for lab in (laboratory(False), laboratory(True)):
        before = contents(lab)
        with pytest.raises(Exception) as raised:
            lab.run(statement)
        found.append((type(raised.value), str(raised.value), getattr(raised.value, "detail", None)))
        assert contents(lab) == before
    assert found[0] == found[1]


def test_many_rows_are_written_by_the_shards() -> None:
    """Once FEW_ROWS have come, or are expected, rows do not come to the gateway any more."""
    lab = Laboratory("create table t (id int8 primary key, v int8)", distant=True)
    count = FEW_ROWS * 2
    lab.run(f"insert into t select g, 0 from generate_series(1, {count}) g")
    lab.run("update t set v = v + 1")
    assert lab.affected_rows == count
    assert any(lays_down for _, lays_down in lab.database.changes)
    assert sum(changed for changed, _ in lab.database.changes) == count
    assert lab.run("select v, count(*) from t group by v") == [(1, count)]


@pytest.mark.parametrize("distant", [False, True])
def test_unique_keys_that_rows_leave_are_held(distant: bool) -> None:
    lab = laboratory(distant)
    lab.begin()
    lab.run("delete from t where id between 20 and 60")
    assert bool(lab.database.changes) is distant
    [table] = [table for table in lab.catalog._tables.values() if table.name == "t"]
    layout = TableLayout.of(table)
    [index] = [index for index in layout.secondary if index.index.unique]
    transaction: Any = lab.transaction
    left = [key for key in transaction.expected if key.startswith(index.head)]
    assert lab.affected_rows == len(left) > 5


def test_rows_that_have_changed_are_looked_at_again() -> None:
    lab = laboratory(True)
    lab.run("update plain set g = 1, v = 7")
    for isolation in (Isolation.READ_COMMITTED, Isolation.REPEATABLE_READ):
        old = lab.database.begin(isolation)
        old.begin_statement()
        lab.run("update plain set g = 2 where id in (3, 50)")
        lab.run("update plain set v = 8 where id = 20")
        lab.transaction = old
        old.begin_statement = lambda at_least=0: None  # type: ignore[method-assign, misc]  # it goes on with its snapshot
        if isolation is Isolation.REPEATABLE_READ:
            with pytest.raises(SerializationConflict):
                lab.run("update plain set v = v + 100 where g = 1")
            lab.transaction = None
            continue
        lab.run("update plain set v = v + 100 where g = 1")
        lab.commit()
        assert lab.affected_rows == 88
        rows = dict(lab.run("select id, v from plain"))
        assert (rows[3], rows[50], rows[20], rows[21]) == (7, 7, 108, 107)
        lab.run("update plain set g = 1, v = 7")


def test_a_row_that_is_gone_has_the_statement_run_again() -> None:
    """It may have another key now."""
    lab = laboratory(True)
    old = lab.database.begin(Isolation.READ_COMMITTED)
    old.begin_statement()
    lab.run("delete from plain where id = 70")
    lab.transaction = old
    old.begin_statement = lambda at_least=0: None  # type: ignore[method-assign, misc]  # it goes on with its snapshot
    with pytest.raises(ReadRestart):
        lab.run("update plain set v = 0")


def explained(lab: Laboratory, statement: str, analyze: bool = False) -> list[str]:
    actuals: dict[int, Actual] = {}
    compiled = CompiledQuery(lab.plan(statement), actuals if analyze else None)
    if analyze:
        lab.execute(compiled)
    root = lab.scheduler.run(compiled.explain_tree(lab.context_of(None, (), True)))
    return text_lines(root, Style("none", analyze, timing=False))


def test_explain_says_where() -> None:
    near, far = laboratory(False), laboratory(True)
    ranges = ", ".join([f"Range {number} (node {1 + number % 2})" for number in range(6, 12)])
    assert explained(far, "update plain set v = v + 1 where g < 3") == [
        "Gather",
        "  Shards Planned: 6",
        "  Strategy: update",
        f"  Shards: {ranges}",
        "  Shard Query: UPDATE plain SET v = v + 1 WHERE g < 3",
        "  ->  Update on plain",
        "        ->  Seq Scan on plain",
        "              Filter: (g < 3)",
        "              Ranges: 6 of 6 (leaders: node 1, node 2)",
    ]
    assert explained(far, "delete from plain")[4] == "  Shard Query: DELETE FROM plain"
    assert explained(near, "update plain set v = v + 1")[0] == "Update on plain"
    assert explained(far, "update plain set id = id + 100")[0] == "Update on plain"
    lines = explained(far, "delete from plain where id >= 40", analyze=True)
    assert sum(int(line.split("rows=")[1].split()[0]) for line in lines if "scanned=" in line) == 50


def test_other_operators_stay_at_the_gateway() -> None:
    lab = laboratory(True)
    for statement, is_root in (("delete from plain", True), ("delete from plain returning id", False)):
        compiled = CompiledQuery(lab.plan(statement))
        root = compiled.root
        assert isinstance(root, ChangeOperator)
        assert (root.fragment is not None) is is_root


def test_explain_analyze_shows_waits_for_locks() -> None:
    """In the line of the range, beside what was done there; of a step that only locks, for that alone."""
    waited = Actual(0.0, 0.5, 4, 1, lock_waits={7: RangeWaits(2, 1, 0.25)})
    assert [(name, each.lock_waits) for name, each in lock_waits(waited)] == [("Range 7 (node 2)", 1)]
    worked = ShardActual(9, 4, 60, 1, 0.5, {2}, lock_waits=1, lock_wait_seconds=0.25)
    quiet = ShardActual(3, 3, 0, 0, 0.125)
    node = PlanNode("LockRows", [("Node Type", "LockRows")], actual=waited)
    node.shards = [*lock_waits(waited), ("Range 8 (node 1)", worked), ("Range 9 (node 1)", quiet)]
    assert text_lines(node, Style("none", True))[1:] == [
        "  Range 7 (node 2): lock waits=1 lock wait time=250.000",
        "  Range 8 (node 1): scanned=9 rows=4 bytes=60 calls=1 time=500.000 lock waits=1 lock wait time=250.000",
        "  Range 9 (node 1): scanned=3 rows=3 bytes=0 calls=0 time=125.000",
    ]
    assert text_lines(node, Style("none", True, timing=False))[1] == "  Range 7 (node 2): lock waits=1"
    [plan] = json.loads(structured("json", node, Style("none", True), []))
    assert plan["Plan"]["Shards"][1] == {
        "Shard": "Range 8 (node 1)",
        "Rows Scanned": 9,
        "Rows": 4,
        "Bytes": 60,
        "Calls": 1,
        "Time": 500.0,
        "Peak Memory Usage": 0,
        "Disk Usage": 0,
        "Lock Waits": 1,
        "Lock Wait Time": 250.0,
        "Replicas": [],
    }
    assert [shard["Lock Waits"] for shard in plan["Plan"]["Shards"]] == [1, 1, 0]
