"""Inverted indexes: after random changes, questions get the same rows through the index as from the whole table."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from pydistdb.sql.exec import inverted_scan
from pydistdb.sql.inverted import MOST_TOKENS_ASKED, token_class

from tests.support.sql_client import SqlClient, SqlServer

WORDS = ("a", "b", "tags", "x" * 80, "é", "1")
INDEXES = (
    "using gin (j)",
    "using gin (j jsonb_path_ops)",
    "using gin (a, t)",
    "using gin (t, j, f) where id % 3 > 0",
    "using gin ((j -> 'tags'))",
    "using gin (dd)",
)


def document(generator: random.Random, depth: int = 0) -> Any:
    kind = generator.randrange(9 if depth < 3 else 6)
    match kind:
        case 0:
            return None
        case 1:
            return generator.random() < 0.5
        case 2:
            return generator.choice((0, 1, 1.0, -1.50, 100, 1e2, 12345678901234567890))
        case 3 | 4 | 5:
            return generator.choice(WORDS)
        case 6:
            return [document(generator, depth + 1) for _ in range(generator.randrange(4))]
    return {generator.choice(WORDS): document(generator, depth + 1) for _ in range(generator.randrange(4))}


def literal(value: Any) -> str:
    if value is None:
        return "null"
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return "'" + text.replace("'", "''") + "'"


def array(generator: random.Random, items: tuple[str, ...], nulls: bool = True) -> str:
    chosen = [generator.choice(items) for _ in range(generator.randrange(4))]
    if nulls and generator.random() < 0.2:
        chosen.append("null")
    return "'{" + ",".join(chosen) + "}'"


def row(generator: random.Random) -> str:
    values = (
        "null" if generator.random() < 0.1 else literal(json.dumps(document(generator), ensure_ascii=False)),
        "null" if generator.random() < 0.1 else array(generator, ("1", "2", "3", "4")),
        array(generator, ("a", "b", '"A b"', '""')),
        array(generator, ("1.0", "1", "NaN", "-0", "0")),
        f"array[{literal(json.dumps(document(generator)))}, {literal(json.dumps(document(generator)))}]::jsonb[]",
    )
    return ", ".join(values)


def change(generator: random.Random, number: int) -> str:
    one = generator.randrange(1, 60)
    return generator.choice(
        (
            f"insert into indexed values ({100 + number}, {row(generator)})",
            f"insert into indexed values ({one}, {row(generator)}) on conflict (id) do update set j = excluded.j, a = '{{1}}'",
            f"update indexed set (j, a, t, f, dd) = ({row(generator)}) where id = {one}",
            f"update indexed set j = jsonb_set(j, '{{tags}}', '[\"a\"]') where id = {one} and jsonb_typeof(j) = 'object'",
            f"update indexed set id = id + 1000 where id = {one}",
            f"update indexed set a = a || 2 where id < {one}",
            f"delete from indexed where id = {one}",
            "begin; update indexed set t = '{b}'; rollback",
        )
    )


def questions(generator: random.Random) -> list[str]:
    wanted = literal(json.dumps(document(generator), ensure_ascii=False))
    numbers, words = array(generator, ("1", "2", "3", "9")), array(generator, ("a", "b", '"A b"', "zz"))
    floats = array(generator, ("1", "NaN", "0"))
    word = literal(generator.choice(WORDS))
    return [
        f"j @> {wanted}",
        f"{wanted}::jsonb <@ j",
        f"j ? {word}",
        f"j ?| {words}",
        f"j ?& {words}",
        f"j -> 'tags' ? {word}",
        f"j @> {wanted} and t && {words}",
        f"a && {numbers}",
        f"a @> {numbers}",
        f"a <@ {numbers}",
        f"a = {numbers}",
        f"{numbers}::int[] @> a and t @> {words}",
        f"{generator.randrange(1, 6)} = any (a)",
        f"t @> {words} and id % 3 > 0 and f && {floats}",
        f"f @> {floats} and id % 3 > 0",
        f"dd @> array[{wanted}]::jsonb[]",
        "a @> null",
        f"j @> {wanted} or a @> {numbers}",
    ]


def compare(client: SqlClient, generator: random.Random, rounds: int) -> None:
    assert "Bitmap" in client.execute("explain select id from indexed where j @> '1'")[0]
    assert "Bitmap" not in client.execute("explain select id from indexed where (j @> '1') is true")[0]
    for _ in range(rounds):
        for question in questions(generator):
            # "is true" hides the operators from the planner.
            hidden = f"select id from indexed where ({question}) is true order by id"
            assert client.rows(f"select id from indexed where {question} order by id") == client.rows(hidden), question


@pytest.mark.parametrize("seed", range(4))
def test_same_answers_with_and_without(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverted_scan, "FIRST_CHUNK", 2)
    monkeypatch.setattr(inverted_scan, "BATCH_ROWS", 8)
    generator = random.Random(seed)
    client = SqlServer(must_wait=seed % 2 == 1).connect()
    client.execute("create table indexed (id int primary key, j jsonb, a int[], t text[], f float8[], dd jsonb[])")
    for number in range(1, 60):
        (answer,) = client.execute(f"insert into indexed values ({number}, {row(generator)})")
        assert answer == "INSERT 0 1"
    for number, text in enumerate(INDEXES):
        concurrently = "concurrently " if (number + seed) % 2 else ""
        assert client.execute(f"create index {concurrently}on indexed {text}") == ["CREATE INDEX"]
    compare(client, generator, 2)
    for number in range(60):
        assert not client.execute(change(generator, number))[-1].startswith("ERROR")
    compare(client, generator, 4)
    client.execute("begin")
    client.execute(
        "insert into indexed select id + 5000, j, a, t, f, dd from indexed; delete from indexed where id < 20"
    )
    compare(client, generator, 1)
    client.execute("commit; delete from indexed")
    view = client.server.catalog.view("postgres", ("public",))
    table = view.relation("indexed")
    assert table is not None
    database = client.server.database
    left = database.versions.irange(b"\x04" + table.storage_id.to_bytes(4, "big"), b"\x05")
    assert all(database.read(key, database.now())[0] is None for key in left)


def test_it_is_used_and_narrows() -> None:
    client = SqlServer().connect()
    client.execute("create table t (id int primary key, a int[]); create index on t using gin (a)")
    client.execute("insert into t select g, array[g % 2, g % 50, g] from generate_series(1, 3000) g")
    plan = client.execute("explain (costs off) select id from t where a @> '{1, 7, 1507}'")
    assert plan[0].strip() == "Bitmap Heap Scan on t" and "Bitmap Index Scan on t_a_idx" in plan[-3]
    assert client.rows("select id from t where a @> '{1, 7, 1507}'") == ["1507"]
    assert client.rows("select count(*) from t where a && '{0, 7}'") == ["1560"]
    assert client.rows(
        "select v, id from (values (7), (9)) v (v) join t on a @> array[v] and id < 60 order by 1, 2"
    ) == [
        "7|7",
        "7|57",
        "9|9",
        "9|59",
    ]


def test_questions_that_no_token_narrows() -> None:
    kind = token_class(3802, "")
    assert kind is not None
    assert kind.question("@>", "{}") is None and kind.question("@>", '{"a": [[]]}') is not None
    numbers = token_class(1007, "")
    assert numbers is not None
    many = type("Many", (), {"items": range(MOST_TOKENS_ASKED + 1)})()
    assert numbers.question("&&", many) is None
    asked = numbers.question("@>", many)
    assert asked is not None and len(asked.tokens) == MOST_TOKENS_ASKED
