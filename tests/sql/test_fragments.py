"""Fragments: the same answers as where the rows are, whatever is split how; and only what must crosses the network."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydistdb.kv.api import FragmentAnswer
from pydistdb.sql.exec import CompiledQuery
from pydistdb.sql.exec.fragment import Partials, pack_states, unpack_states
from pydistdb.sql.exec.fragment_run import run_fragment
from pydistdb.sql.exec.scatter import QUEUE_ITEMS, WIDTH, scatter
from pydistdb.sql.layout import TableLayout
from pydistdb.sql.plan.explain_formats import Actual, Style, text_lines
from pydistdb.sql.types.base import Interval
from pydistdb.sql.types.known import NUMERIC, TEXT
from pydistdb.tasks import SimulatedScheduler, sleep

from tests.sql.laboratory import Laboratory
from tests.sql.script import Script
from tests.support import golden
from tests.support.memory_database import MemoryTransaction
from tests.support.sql_client import SqlServer

FOLDER = Path(__file__).parent / "golden"
DDL = """create table t (id int8 primary key, g int4, v int8, n numeric(10,2), f float8, s text, d date, i interval, b bool);
create table u (a int4, k text collate "C", c int8, primary key (a, k))"""


def laboratory(**options: Any) -> Laboratory:
    lab = Laboratory(DDL, **options)
    rand = random.Random(5)
    for number in range(120):
        cells = [
            str(rand.randrange(6)),
            str(rand.randrange(-(1 << 62), 1 << 62)),
            f"{rand.randrange(-500, 500)}.{rand.randrange(100):02}",
            str(rand.randrange(-40, 40) / 8),
            f"'text {rand.randrange(9)}'",
            f"date '2020-01-01' + {rand.randrange(50)}",
            f"interval '{rand.randrange(5)} days {rand.randrange(3)} months'",
            rand.choice(["true", "false"]),
        ]
        cells = [cell if rand.random() < 0.85 else "null" for cell in cells]
        lab.run(f"insert into t values ({number}, {', '.join(cells)})")
        lab.run(f"insert into u values ({number % 10}, 'key {number}', {number % 7})")
    return lab


def cut_up(lab: Laboratory) -> None:
    for name, keys in (("t", range(9, 120, 17)), ("u", range(1, 10, 2))):
        layout = next(TableLayout.of(table) for table in lab.catalog._tables.values() if table.name == name)
        encoded = [layout.primary.head + layout.primary.encode([key]) for key in keys]
        lab.scheduler.run(lab.database.split(encoded))


def answer(lab: Laboratory, query: str, ordered: bool) -> Any:
    try:
        rows = lab.run(query)
    except Exception as error:
        return type(error), str(error)
    return rows if ordered else sorted(rows, key=repr)


def some_query(rand: random.Random) -> tuple[str, bool]:
    """A query whose answer is determined, and whether its order is."""
    terms = [
        *(
            "v > 0",
            "g = 3",
            "s like '%4'",
            "id between 20 and 90",
            "n < 100.5",
            "f is not null",
            "b",
            "d > '2020-01-20'",
        ),
        *("i > '2 days'", "s in ('text 1', 'text 5')", "g = any('{1,2}')", "coalesce(g, 9) > 4", "id > 55", "id < 33"),
        *("case when b then g > 2 else v is null end", "(g, id) > (2, 40)", "extract(day from d) < 20"),
    ]
    where = " and ".join(rand.sample(terms, rand.randrange(4)))
    where = f" where {where}" if where else ""
    calls = [
        *(
            "count(*)",
            "count(v)",
            "sum(v)",
            "avg(v)",
            "min(s)",
            "max(d)",
            "sum(n)",
            "avg(n)",
            "stddev(n)",
            "sum(f)",
            "max(i)",
        ),
        *("bool_or(b)", "bool_and(b)", "bit_or(g)", "variance(g)", "avg(f)", "min(n)", "count(distinct g)", "sum(i)"),
        *("sum(g) filter (where b)", "string_agg(s, ',' order by id)", "avg(i)", "max(v)", "sum(g * 2 + 1)"),
        *("stddev(f)", "var_pop(f)", "corr(f, v)", "regr_sxy(f, n)"),
        *("array_agg(distinct s)", "json_agg(d order by id desc)", "count(distinct v)", "array_agg(n order by n, id)"),
    ]
    chosen = ", ".join(rand.sample(calls, rand.randrange(1, 5)))
    group = rand.choice(["g", "s", "b, g", "d", "n", "i", "g % 2", "upper(s)"])
    match rand.randrange(12):
        case 0:
            return f"select {chosen} from t{where}", True
        case 1 | 2:
            return f"select {group}, {chosen} from t{where} group by {group}", False
        case 3:
            return (
                f"select id, s, v from t{where} order by id{rand.choice([' desc', ''])} limit {rand.randrange(30)}",
                True,
            )
        case 4:
            tail = f"limit {rand.randrange(20)} offset {rand.randrange(5)}"
            return f"select s, n, id from t{where} order by {rand.choice(['s', 'n desc', 'f', 'i'])}, id {tail}", True
        case 5:
            return f"select distinct {group} from t{where}", False
        case 6:
            return (
                f"select t.g, u.c, count(*) from t join u on t.g = u.a{where} group by 1, 2",
                False,
            )
        case 7:
            counting = rand.choice(["row_number", "rank", "dense_rank"])
            order = rand.choice(["v", "s desc", "n, d desc", "f nulls first", "i"])
            order += ", id" if counting == "row_number" else ""
            over = rand.choice([f"partition by {group} order by {order}", f"order by {order}"])
            numbered = f"select id, s, {counting}() over ({over}) as place from t{where}"
            return (
                f"select * from ({numbered}) x where place {rand.choice(['<=', '<', '='])} {rand.randrange(1, 5)}",
                False,
            )
        case 8:
            return f"select distinct on ({group}) id, s from t{where} order by {group}, v desc, id", True
        case 9:
            sets = rand.choice(
                ["rollup (g, s)", "cube (g, b)", "grouping sets ((g, b), (s), ())", "grouping sets (s, d, g)"]
            )
            return f"select grouping(g), {chosen} from t{where} group by {sets}", False
        case 10:
            over = rand.choice(
                ["partition by a order by c, k", "partition by c, a order by k", "partition by c order by k, a"]
            )
            call = rand.choice(["rank()", "lag(k)", "sum(a)", "string_agg(k, ',')", "count(*) filter (where c > 2)"])
            return f"select a, k, {call} over ({over}) from u", False
        case _:
            return f"select count(*) from (select id from t{where} limit {rand.randrange(50)}) as part", True


@pytest.mark.parametrize("seed", range(6))
def test_same_answers(near: Laboratory, far: Laboratory, seed: int) -> None:
    rand = random.Random(seed)
    for _ in range(60):
        query, ordered = some_query(rand)
        assert answer(far, query, ordered) == answer(near, query, ordered), query


def test_distinct_arguments_are_found_at_the_shards(
    near: Laboratory, far: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [
        "select count(distinct g) from t",
        "select b, count(distinct g), sum(distinct g), avg(distinct g) from t where id > 5 group by b",
        "select g % 2, d, count(distinct i), max(distinct i) from t group by 1, 2",
        "select u.c, count(distinct t.s) from t join u on t.g = u.a group by 1 having count(distinct t.s) > 2",
        "select count(distinct n + 1) from t",
    ]
    expected = [answer(near, query, False) for query in queries]
    monkeypatch.setattr("pydistdb.sql.plan.repartition.LEAST_REPETITIONS", 0.0)
    for query, rows in zip(queries, expected, strict=True):
        assert answer(far, query, False) == rows, query
        assert "Unique" in explained(far, query), query
        assert "join" in query or "Strategy: distinct" in explained(far, query), query
    assert "Unique" not in explained(far, "select count(distinct g), count(*) from t")
    assert "Unique" not in explained(far, "select count(distinct g) filter (where b) from t")
    assert "Unique" not in explained(far, "select count(distinct g * random()) from t")


@pytest.mark.parametrize("rows", [1, 7])
def test_first_rows_of_groups_in_many_answers(
    near: Laboratory, far: Laboratory, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr("pydistdb.sql.exec.tail_run.MOST_ROWS", rows)
    for counting, order in (("row_number", "v, id"), ("rank", "d"), ("dense_rank", "s")):
        numbered = f"select id, {counting}() over (partition by g order by {order}) as place from t"
        query = f"select * from ({numbered}) x where place <= 2"
        far.database.answers.clear()
        assert answer(far, query, False) == answer(near, query, False), query
        assert len(far.database.answers) > 8


def test_first_rows_of_groups_leave_the_shards(far: Laboratory) -> None:
    numbered = "select g, id, row_number() over (partition by g order by id) as place from t"
    text = explained(far, f"select * from ({numbered}) x where place <= 1", analyze=True)
    assert "Strategy: top-N per group" in text
    sent = [(int(rows), int(calls)) for rows, calls in re.findall(r"rows=(\d+) bytes=\d+ calls=(\d+)", text)]
    assert len(sent) == 8
    assert all(rows <= 7 * calls for rows, calls in sent)  # an answer has as many as there are groups
    assert sum(rows for rows, _ in sent) < 120


@pytest.mark.parametrize("path", sorted(FOLDER.glob("exec_*.txt")), ids=lambda path: path.stem)
def test_scripts_over_distant_ranges(path: Path) -> None:
    """Every statement of the executor's scripts gives the same over ranges of other nodes."""
    golden.run(Script(distant=True).execute, path)


@pytest.mark.parametrize(
    ("query", "most_bytes"),
    [
        ("select count(*) from t", 8),
        ("select sum(v), avg(n), max(s) from t where g > 1", 60),
        ("select id from t where s = 'text 3' limit 1", 30),
        ("select s from t order by n, id limit 1", 60),
    ],
)
def test_answers_are_small(far: Laboratory, query: str, most_bytes: int) -> None:
    far.database.answers.clear()
    far.run(query)
    assert far.database.answers
    assert max(len(given.output) for given in far.database.answers) <= most_bytes


def explained(lab: Laboratory, query: str, analyze: bool = False) -> str:
    actuals: dict[int, Actual] = {}
    compiled = CompiledQuery(lab.plan(query), actuals)
    if analyze:
        lab.execute(compiled)
    root = lab.scheduler.run(compiled.explain_tree(lab.context_of(None, (), True)))
    return "\n".join(text_lines(root, Style("none", analyze, timing=False)))


def test_explain_names_both_halves(far: Laboratory, near: Laboratory) -> None:
    query = "select g, count(*) from t where v > 0 group by g"
    scan = """Seq Scan on t
                    Filter: (v > 0)
                    Ranges: 8 of 8 (leaders: node 1, node 2)"""
    ranges = ", ".join([f"Range {number} (node {1 + number % 2})" for number in range(1, 9)])
    assert (
        explained(far, query).replace("'0'::int8", "0")
        == f"""Finalize HashAggregate
  Group Key: g
  Functions: sum(partial_count)
  ->  Gather
        Shards Planned: 8
        Strategy: partial aggregate
        Shards: {ranges}
        Shard Query: SELECT g, count(*) AS partial_count FROM t WHERE v > 0 GROUP BY g
        ->  Partial HashAggregate
              Group Key: g
              ->  {scan}"""
    )
    assert "Gather" not in explained(near, query)
    assert "Gather" not in explained(far, "select * from t where id = 3")
    assert explained(far, "select s from t order by v limit 3").startswith("Top-N Sort\n  Sort Key: v\n  ->  Gather\n")
    assert explained(far, "select s from t").startswith("Gather\n")


def test_explain_analyze_tells_of_every_range(far: Laboratory) -> None:
    text = explained(far, "select count(*) from t", analyze=True)
    counted = re.findall(r"Range \d+ \(node \d\): scanned=(\d+) rows=(\d+) bytes=(\d+) calls=(\d+)", text)
    assert len(counted) == 8
    assert sum(int(scanned) for scanned, *_ in counted) == 120
    assert all(rows == calls != "0" for _, rows, _, calls in counted)  # each call gives one state


def test_explain_without_what_is_distributed() -> None:
    server = SqlServer()
    client = server.connect()
    client.execute("create table t (id int8 primary key, g int4)")
    server.database.distant = True

    def shown(options: str) -> list[str]:
        return client.execute(f"explain (costs off{options}) select g, count(*) from t group by g")[:-1]

    assert shown("") == shown(", distributed") and any("Gather" in line for line in shown(""))
    assert shown(", distributed off") == ["HashAggregate", "  Group Key: g", "  ->  Seq Scan on t"]


def test_explain_analyze_tells_of_replicas(far: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = MemoryTransaction.evaluate

    async def from_a_copy(self: MemoryTransaction, *given: Any, **options: Any) -> FragmentAnswer | None:
        found = await evaluate(self, *given, **options)
        return found and found._replace(node=2)

    monkeypatch.setattr(MemoryTransaction, "evaluate", from_a_copy)
    lines = [line for line in explained(far, "select count(*) from t", analyze=True).splitlines() if "scanned=" in line]
    assert [line.endswith(" replica=node 2") for line in lines] == ["(node 1)" in line for line in lines]
    assert "replica=node 2" in "".join(lines)


def test_what_is_not_portable_is_read_here(far: Laboratory, near: Laboratory) -> None:
    deep = " + ".join(["g"] * 1500)
    for query in (
        f"select count(*), max({deep}) from t",
        "select count(*) from t where g::regtype is null",
        "select count(*) from t where (g, s) = any (select g, s from t)",
        "select id, row(g, s) from t order by id",
        "select sum(1 / (g - 3)) from t",
    ):
        assert answer(far, query, True) == answer(near, query, True), query[:60]


def test_own_writes_are_seen() -> None:
    lab = laboratory(distant=True)
    lab.begin()
    lab.run("update t set g = 100 where id in (3, 70)")
    lab.run("insert into t values (1000, 100)")
    lab.run("delete from t where id = 5")
    assert lab.run("select count(*), count(*) filter (where g = 100), sum(id) from t") == [(120, 3, 7140 + 1000 - 5)]


def test_bad_fragments_are_errors() -> None:
    for data in (b"", b"\x91\x01", b"\xff" * 50):
        with pytest.raises(Exception):  # noqa: B017  # any: the leaseholder refuses, whatever it is
            run_fragment(data, data)


def test_states_survive() -> None:
    groups = [((Decimal("1.50"), None), 1 << 70, [3, Decimal("NaN")], Interval(1, 2, 3), (5, 6), None, 0.5)]
    found = unpack_states(pack_states(groups, (NUMERIC, TEXT)), (NUMERIC, TEXT))
    assert type(found) is Partials
    assert repr(list(found)) == repr([(*groups[0][0], *groups[0][1:])])


def _streams(scheduler: SimulatedScheduler, running: list[int], count: int) -> AsyncIterator[AsyncIterator[int]]:
    async def stream(number: int) -> AsyncIterator[int]:
        running.append(number)
        try:
            for item in range(5):
                await sleep(scheduler, (count - number) * 1_000)
                yield number * 10 + item
        finally:
            running.remove(number)

    async def streams() -> AsyncIterator[AsyncIterator[int]]:
        for number in range(count):
            yield stream(number)

    return streams()


@pytest.mark.parametrize("ordered", [True, False])
def test_scatter_runs_side_by_side(ordered: bool) -> None:
    scheduler = SimulatedScheduler()
    running: list[int] = []

    async def read() -> list[int]:
        found = []
        most = 0
        async for item in scatter(scheduler, _streams(scheduler, running, 20), ordered=ordered):
            most = max(most, len(running))
            found.append(item)
        assert most == WIDTH
        return found

    found = scheduler.run(read())
    expected = [number * 10 + item for number in range(20) for item in range(5)]
    assert sorted(found) == expected
    assert (found == expected) is ordered
    assert not running


def test_scatter_stops_and_holds_back() -> None:
    scheduler = SimulatedScheduler()
    running: list[int] = []

    async def read() -> None:
        source = scatter(scheduler, _streams(scheduler, running, 20), ordered=True)
        assert await anext(source) == 0
        scheduler.advance(10**9)
        assert len(running) == WIDTH  # each waits with a full queue
        await source.aclose()  # type: ignore[attr-defined]

    scheduler.spawn(read())
    assert QUEUE_ITEMS < 5
    scheduler.advance(2 * 10**9)
    assert not running
