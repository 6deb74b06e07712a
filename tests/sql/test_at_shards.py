"""Parts of plans done at the shards, joins included: the same answers as where all rows are, whatever is split how."""

from __future__ import annotations

import random
from typing import Any

import pytest
from msgspec import structs
from pydistdb.kv.fragments import Lacking, TooLong
from pydistdb.sql.exec import compiler, kept, key_filter, last_answers, part, part_run
from pydistdb.sql.exec.fragment import Arguments
from pydistdb.sql.exec.last_answers import SAME
from pydistdb.sql.exec.spill import RowCodec
from pydistdb.sql.plan import cut
from pydistdb.sql.types.known import INT4
from pydistdb_storage.keys import prefix_end

from tests.sql.laboratory import Laboratory
from tests.sql.test_fragments import answer, explained

DDL = """create table users (user_id int8 primary key, name text, city int4) shard by hash (user_id);
create table orders (id int8, user_id int8, amount numeric(10,2), primary key (user_id, id)) shard by hash (user_id);
create table items (user_id int8, id int8, n int8 not null, what text, primary key (user_id, id, n)) shard by hash (user_id);
create table pairs (a int4, b text, v int4) shard by hash (a, b);
create table others (a int4, b text, w int4) shard by hash (a, b);
create table visits (id int8 primary key, user_id int8, city int4);
create table nation (city int4 primary key, label text);
create table region (city int4 primary key, name text) shard by reference"""
FILL = """insert into users select g, 'user ' || g, case when g % 11 = 0 then null else g % 7 end from generate_series(1, 60) g;
insert into orders select g, g % 70 + 1, g * 3.25 from generate_series(1, 300) g;
insert into items select g % 50 + 1, g % 9, g, 'w' || g % 5 from generate_series(1, 200) g;
insert into pairs select nullif(g % 6, 5), 'b' || g % 4, g from generate_series(1, 40) g;
insert into others select nullif(g % 6, 5), nullif('b' || g % 4, 'b3'), g from generate_series(1, 30) g;
insert into visits select g, g % 90, g % 9 from generate_series(1, 200) g;
insert into nation select g, 'city ' || g from generate_series(0, 6) g;
insert into region select g, 'region ' || g % 3 from generate_series(0, 8) g"""


def laboratory(**options: Any) -> Laboratory:
    return Laboratory(DDL, FILL, **options)


def cut_up(lab: Laboratory, seed: int = 1) -> None:
    """Split at the beginnings of buckets, and within them."""
    rand = random.Random(seed)
    keys = [key for key in lab.database.versions if key[:1] == b"\x05"]
    chosen = [key[:7] if rand.random() < 0.5 else key for key in rand.sample(keys, 12)]
    lab.scheduler.run(lab.database.split(chosen))


@pytest.fixture(autouse=True)
def small_tables_count_as_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut, "BROADCAST_RATIO", 0.1)


QUERIES = [
    "select u.name, count(o.id) from users u join orders o on u.user_id = o.user_id group by u.user_id",
    "select u.city, count(*), sum(o.amount), avg(o.id) from users u join orders o using (user_id) group by 1",
    "select u.name, o.id from users u left join orders o on u.user_id = o.user_id and o.id > 20",
    "select o.id, u.name from users u right join orders o on u.user_id = o.user_id where o.amount > 50",
    "select u.name, o.id from users u full join orders o on u.user_id = o.user_id",
    "select id from orders o where not exists (select 1 from users u where u.user_id = o.user_id)",
    "select id from orders o where exists (select 1 from users u where u.user_id = o.user_id and u.city = 3)",
    "select count(*) from users join orders o using (user_id) join items i using (user_id) where i.id = o.id % 9",
    "select n.label, count(*) from users u join orders o using (user_id) join nation n using (city) group by 1",
    "select n.label, o.id from orders o join users u using (user_id) left join nation n on n.city = u.city + 1",
    "select u.user_id from users u where u.city not in (select city from nation where city > 3)",
    "select u.user_id from users u where u.city not in (select nullif(city, 2) from nation)",
    "select user_id, count(*) from orders group by 1 having count(*) > 4",
    "select a.user_id, count(*) from orders a join orders b on a.user_id = b.user_id and a.id < b.id group by 1",
    "select p.v, o.w from pairs p join others o on p.a = o.a and p.b = o.b",
    "select p.v, o.w from pairs p left join others o on p.a = o.a and p.b = o.b",
    "select p.v, o.w from pairs p join others o on p.a = o.a",
    "select a, b, count(*), max(v) from pairs group by a, b having max(v) > 30",
    "select distinct u.user_id, u.city from users u join orders o using (user_id)",
    "select distinct u.city from users u join orders o using (user_id)",
    "select v.id, n.label from visits v join nation n using (city) where v.id > 100",
    "select n.label, count(*), max(v.id) from visits v join nation n using (city) group by 1",
    "select count(*) from visits v join users u using (user_id)",
    "select r.name, count(*) from visits v join region r using (city) group by 1",
    "select v.id, r.name from visits v left join region r on r.city = v.city and r.name < 'region 2'",
    "select o.id, r.name, n.label from users u join orders o using (user_id) join region r using (city)"
    " join nation n using (city)",
    "select r.name, count(distinct v.user_id) from visits v join region r using (city) group by 1",
    "select u.city, (select max(o.amount) from orders o where o.user_id = u.user_id) from users u",
    "select user_id, c from (select user_id, count(*) c from orders group by 1) g join users using (user_id) where c > 3",
    "select city, sum(c) from (select user_id, count(*) c from orders group by 1) g join users using (user_id) group by 1",
]
ORDERED = [
    "select u.name, count(o.id) c from users u join orders o using (user_id) group by u.user_id order by c desc, 1 limit 5",
    "select u.city, count(o.id) c from users u join orders o using (user_id) group by u.city order by c desc, 1 limit 2",
    "select u.name, o.id from users u join orders o using (user_id) order by o.id desc limit 7 offset 3",
    "select user_id, count(*) from orders group by 1 order by 2 desc, 1 limit 4",
    "select v.id, n.label from visits v join nation n using (city) order by v.id limit 9",
]


@pytest.mark.parametrize("query", QUERIES + ORDERED)
def test_same_answers(near: Laboratory, far: Laboratory, query: str) -> None:
    ordered = query in ORDERED
    assert answer(far, query, ordered) == answer(near, query, ordered)
    assert answer(near, query, ordered) or "nullif" in query


def some_join(rand: random.Random) -> str:
    """A join of tables of the group, and of one that is none, on what may or may not be the shard columns."""
    tables = {"users": ["city"], "orders": ["id", "amount"], "items": ["id", "n"], "visits": ["id", "city"]}
    names = [rand.choice(list(tables)) for _ in range(rand.randrange(2, 5))]
    text = f"{names[0]} t0"
    for number, name in enumerate(names[1:], 1):
        other = rand.randrange(number)
        word = rand.choice(["join", "join", "left join", "full join"])
        left, right = f"t{other}.user_id", f"t{number}.user_id"
        extra = ""
        if rand.random() < 0.3:
            left = f"t{other}.{rand.choice(tables[names[other]])}"
        if word != "full join" and rand.random() < 0.4:
            extra = f" and t{number}.{rand.choice(tables[name])} > {rand.randrange(90)}"
        text += f" {word} {name} t{number} on {left} = {right}{extra}"
    where = f" where t0.user_id {rand.choice(['<', '>', '<>'])} {rand.randrange(60)}" if rand.random() < 0.6 else ""
    key = f"t{rand.randrange(len(names))}.user_id"
    match rand.randrange(4):
        case 0:
            return f"select {key}, count(*), sum(t0.user_id) from {text}{where} group by {key}"
        case 1:
            return f"select {key}, count(*) from {text}{where} group by {key} having count(*) > 3"
        case 2:
            return f"select count(*), min({key}), max(t0.{tables[names[0]][0]}) from {text}{where}"
    return f"select distinct {key}, t0.{tables[names[0]][0]} from {text}{where}"


@pytest.mark.parametrize("seed", range(4))
def test_generated_joins(near: Laboratory, seed: int) -> None:
    rand = random.Random(seed)
    far = laboratory(distant=True)
    cut_up(far, seed)
    for _ in range(25):
        query = some_join(rand)
        assert answer(far, query, False) == answer(near, query, False), query


def strategy_of(lab: Laboratory, query: str) -> list[str]:
    return [line.strip() for line in explained(lab, query).splitlines() if "Strategy" in line]


def test_what_is_done_where(far: Laboratory) -> None:
    join = "users u join orders o on u.user_id = o.user_id"
    assert strategy_of(far, f"select u.name, count(o.id) from {join} group by u.user_id") == [
        "Strategy: collocated join, whole groups"
    ]
    assert strategy_of(far, f"select u.user_id, count(*) c from {join} group by 1 order by c limit 5") == [
        "Strategy: collocated join, whole groups, top-N"
    ]
    # Groups that are spread over the shards are counted there, but only the gateway knows which are the greatest.
    assert strategy_of(far, f"select u.city, count(*) c from {join} group by 1 order by c limit 5") == [
        "Strategy: collocated join, partial aggregate"
    ]
    assert strategy_of(far, "select * from users u join orders o on u.user_id = o.id") == [
        "Strategy: broadcast join",
        "Strategy: scan",
    ]
    assert strategy_of(far, "select p.v from pairs p join others o on p.a = o.a")[0] == "Strategy: broadcast join"
    assert strategy_of(far, "select p.v from pairs p join others o on p.a = o.a and p.b = o.b") == [
        "Strategy: collocated join"
    ]
    assert (
        strategy_of(far, "select u.name from users u join orders o on u.user_id = o.user_id where u.user_id = 5") == []
    )
    query = "select n.label, count(*) from visits v join nation n using (city) group by 1"
    assert "Strategy: broadcast join, partial aggregate" in strategy_of(far, query)
    assert "collocated" not in explained(far, "select * from users u join orders o on u.user_id + 1 = o.user_id")
    text = explained(far, f"select u.city, count(*), avg(o.id) from {join} group by 1")
    states = "count(*) AS partial_count, sum(o.id) AS partial_sum, count(o.id) AS partial_count_2"
    assert (
        f"Shard Query: SELECT u.city, {states} FROM users AS u JOIN orders AS o ON u.user_id = o.user_id GROUP BY u.city"
        in text
    )
    assert "Functions: sum(partial_count), sum(partial_sum) / sum(partial_count_2)" in text


def test_every_entry_is_scanned_once(far: Laboratory) -> None:
    text = explained(far, QUERIES[1], analyze=True)
    scanned = [int(line.split("scanned=")[1].split()[0]) for line in text.splitlines() if "scanned=" in line]
    stored = sum(key[:5] == b"\x05\x00\x00\x00\x01" for key in far.database.versions)
    # What came of a bucket that a range's end, or the end of an answer, cut through is thrown away and read again.
    assert stored <= sum(scanned) <= 4 * stored
    assert sum("scanned=" in line for line in text.splitlines()) > 5


def test_explain_analyze_tells_whether_a_node_knew_what_to_do(far: Laboratory) -> None:
    def told() -> list[bool]:
        query = "select o.id, u.name, 17 from users u join orders o on u.user_id = o.user_id"
        lines = explained(far, query, analyze=True).splitlines()
        return [" cached=yes" in line for line in lines if "(node 1)" in line and " calls=0 " not in line]

    first, second = told(), told()
    assert first and not first[0], "whoever is asked first is sent the whole of it"
    assert second and all(second)


def test_own_writes_are_seen(near: Laboratory) -> None:
    changes = [
        "insert into users values (1000, 'new', 4)",
        "insert into orders values (1, 1000, 5), (2, 1000, 6)",
        "delete from orders where user_id = 3",
        "update users set city = 99 where user_id = 7",
    ]
    answers = []
    for lab in (laboratory(), laboratory(distant=True)):
        lab.begin()
        for change in changes:
            lab.run(change)
        answers.append([answer(lab, query, False) for query in QUERIES])
    assert answers[0] == answers[1]


def test_lost_parts_and_tables_are_sent_again(
    far: Laboratory, near: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = QUERIES[8]
    expected = answer(near, query, False)
    put = kept.Kept.put

    def forgetful(self: kept.Kept, name: bytes, blocks: list[bytes]) -> None:
        self.clear()
        put(self, name, blocks)

    monkeypatch.setattr(kept.Kept, "put", forgetful)
    assert answer(far, query, False) == expected
    monkeypatch.setattr(kept.Kept, "put", lambda *_: None)
    far.database.answers.clear()
    assert answer(far, query, False) == expected


def test_reference_tables_are_read_at_the_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the proportion; their rows go to a node once, and come from one once, until they change."""
    monkeypatch.setattr(cut, "BROADCAST_RATIO", 1000.0)
    far, near = laboratory(distant=True), laboratory()
    cut_up(far, 3)
    query = "select r.name, count(*) from orders o join region r on r.city = o.user_id % 9 group by 1"
    assert strategy_of(far, query) == ["Strategy: reference join, partial aggregate", "Strategy: scan"]
    joined = "orders AS o JOIN region AS r ON r.city = (o.user_id % 9)"
    text = f"SELECT r.name, count(*) AS partial_count FROM {joined} GROUP BY r.name"
    assert f"Shard Query: {text}" in explained(far, query)
    assert "reference" not in explained(far, query.replace("region r", "nation r").replace("r.name", "r.label"))
    sent: list[bytes] = []
    put = kept.Kept.put
    monkeypatch.setattr(kept.Kept, "put", lambda self, name, blocks: (sent.append(name), put(self, name, blocks))[1])

    def read() -> list[bytes]:
        """What the table's ranges said."""
        sent.clear()
        far.database.answers.clear()
        assert answer(far, query, False) == answer(near, query, False)
        return [given.output for given in far.database.answers if given.output.count(b"region") > 5]

    kept.kept.clear()
    last_answers.last_answers.clear()
    assert read() and sent
    for _ in range(2):
        assert not read() and not sent
        assert SAME in [given.output for given in far.database.answers]
    for change in ("update region set name = 'region 7' where city = 3", "delete from region where city = 1"):
        for lab in (far, near):
            lab.run(change)
        assert read() and sent, "the rows as they are now"
        assert not read() and not sent
    kept.kept.clear()
    assert not read() and sent, "a node has lost them"


def test_what_is_too_much_for_the_shards_is_done_here(
    far: Laboratory, near: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [answer(near, query, False) for query in QUERIES]
    monkeypatch.setattr(part, "MOST_GIVEN_BYTES", 10)
    monkeypatch.setattr(part, "MOST_REFERENCE_BYTES", 10)
    monkeypatch.setattr(part_run, "MOST_CHUNK_ROWS", 3)
    monkeypatch.setattr(part_run, "MOST_HELD_ENTRIES", 5)
    assert [answer(far, query, False) for query in QUERIES] == expected


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("select o.id, v.id from visits v join orders o on v.user_id = o.id where o.id < 4", 9),
        ("select v.id from visits v where user_id in (select id from orders where id < 4)", 9),
        ("select i.n from items i join (select distinct what from items where n < 2) w on i.what = w.what", 40),
        ("select i.n from items i join users u on i.what = u.name and i.id = u.city", 0),
    ],
)
def test_keys_are_sent_ahead(query: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut, "MOST_BROADCAST_ROWS", 0)
    monkeypatch.setattr(compiler, "MOST_PARTNERS", 100)
    far = laboratory(distant=True)
    near = laboratory()
    assert "Strategy: key filter" in strategy_of(far, query)
    assert answer(far, query, False) == answer(near, query, False)
    assert len(far.run(query)) == rows
    text = explained(far, query, analyze=True)
    filtered = text[text.index("Strategy: key filter") :]
    sent = [int(line.split(" rows=")[1].split()[0]) for line in filtered.splitlines() if "scanned=" in line]
    assert sent and sent[0] <= rows + 20
    monkeypatch.setattr(kept.Kept, "put", lambda *_: None)
    kept.kept.clear()
    assert answer(far, query, False) == answer(near, query, False)
    far.context.settings["enable_shardjoin"] = "off"
    assert answer(far, query, False) == answer(near, query, False)


class PartOfRows:
    given = (RowCodec([INT4]),)


def test_given_tables_are_read_once_in_a_run() -> None:
    """A run takes many answers; another one, of other values, has hash tables of its own."""
    tables = part_run.GivenTables()
    block = RowCodec([INT4]).encode([(1,)])
    rows: Any = PartOfRows()
    first = Arguments([], [5], 0, b"", 0, 0, "UTC", {}, b"name of the table", [block])
    given = tables.of(rows, first)
    assert tables.of(rows, structs.replace(first, blocks=[])) is given
    for other in (structs.replace(first, parameters=[6]), structs.replace(first, statement_timestamp=1)):
        assert tables.of(rows, structs.replace(other, blocks=[])) is not given
    for number in range(part_run.MOST_RUNS_KEPT):
        tables.of(rows, structs.replace(first, outer=[number]))
    assert tables.of(rows, first) is not given
    with pytest.raises(Lacking):
        tables.of(rows, structs.replace(first, tables=b"not known here", blocks=[]))


def test_keys_that_cannot_be_sent_are_not(far: Laboratory, near: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut, "MOST_BROADCAST_ROWS", 0)
    monkeypatch.setattr(compiler, "MOST_PARTNERS", 100)
    query = "select i.n from items i join users u on i.what || i.id = u.name || '1'"
    assert strategy_of(far, query) == ["Strategy: scan", "Strategy: scan"]
    query = "select count(*) from orders o join visits v on o.amount = v.id"
    assert answer(far, query, False) == answer(near, query, False)


def test_a_filter_holds_its_keys_and_few_others() -> None:
    rand = random.Random(7)
    for keys in (
        [rand.randrange(-(1 << 63), 1 << 63) for _ in range(3_000)],
        [number * 1_000 for number in range(3_000)],
        [f"key {number}" for number in range(3_000)],
        [(number, f"key {number % 7}") for number in range(3_000)],
        [5],
    ):
        bits = key_filter.make_filter(keys)
        assert bits is not None and len(bits) <= max(8, 4 * len(keys))
        held = key_filter.KeyFilter(bits)
        assert all(map(held.may_hold, keys))
        others = [number * 1_000 + 77 for number in range(10_000)]
        assert sum(map(held.may_hold, others)) < 900
        assert held.may_hold(1.5)
    assert key_filter.make_filter([1, 2.5]) is None
    assert key_filter.make_filter([]) is None


def test_an_empty_table_to_be_sent_ends_the_query(far: Laboratory, near: Laboratory) -> None:
    for query, empty in (
        ("select v.id from visits v join nation n using (city) where n.label = 'none'", True),
        ("select v.id, n.label from visits v left join (select * from nation where city > 99) n using (city)", False),
        ("select v.id from visits v where city not in (select city from nation where city > 99)", False),
        ("select count(*) from visits v join nation n using (city) where n.label = 'none'", True),
    ):
        far.database.answers.clear()
        assert answer(far, query, False) == answer(near, query, False)
        assert (sum(given.entries for given in far.database.answers) < 50) is empty


def test_errors_are_the_gateways(far: Laboratory, near: Laboratory) -> None:
    query = "select 1 / (u.city - 3) from users u join orders o using (user_id)"
    assert answer(far, query, False) == answer(near, query, False)
    assert answer(far, query, False)[1] == "division by zero"


def test_buckets_are_cut_at_their_beginnings() -> None:
    def entries(*buckets: int) -> tuple[list[bytes], list[bytes]]:
        keys = [b"\5\0\0\0\1" + bucket.to_bytes(2, "big") + bytes([number]) for number, bucket in enumerate(buckets)]
        return keys, list(keys)

    for cuts in ((1, 2), (3,), (2, 5), (4, 6), (6,), ()):
        keys, values = entries(1, 1, 1, 2, 3, 3, 4)
        buckets = part_run.Buckets(True, 100, 10_000)
        found: list[list[bytes]] = []
        for start, end in zip((0, *cuts), (*cuts, len(keys)), strict=True):
            ready = buckets.take(keys[start:end], values[start:end])
            found += [] if ready is None else [list(ready[0])]
        resume, rest = buckets.close(None, keys[-1][:6] + b"\xff")
        assert resume is None
        found += [] if rest is None else [list(rest[0])]
        assert [key for chunk in found for key in chunk] == keys
        assert len({key[:7] for chunk in found for key in chunk}) == sum(
            len({key[:7] for key in chunk}) for chunk in found
        )
    buckets = part_run.Buckets(True, 100, 10_000)
    buckets.take(*entries(1, 1, 2))
    assert buckets.size_bytes == part_run.entries_bytes(*entries(2))
    assert buckets.close(None, entries(1, 1, 2, 2)[0][3]) == (entries(2)[0][0][:7], None)
    assert buckets.close(prefix_end(b"\5\0\0\0\1\0\2\1"), b"\6") == (b"\5\0\0\0\1\0\2", None)
    assert not buckets.size_bytes
    for most in ((2, 10_000), (100, 250)):  # entries, bytes
        buckets = part_run.Buckets(True, *most)
        with pytest.raises(TooLong):
            buckets.take(*entries(1, 1, 1))
