"""Whatever a condition says of the shard columns, a sharded table answers as one without shards does."""

from __future__ import annotations

import random

import pytest

from tests.support.sql_client import SqlClient, SqlServer

ROWS = 300
CLAUSES = (
    "shard by hash (s)",
    "shard by hash (s, k)",
    "shard by hash (k, id)",
    "shard by range (s) (split at values (-5, 3, 9))",
    "shard by list (s) (shard few values (1, 2, null), shard more values (7), shard rest default)",
    "shard by directory (s) shards 4",
)
KEYS = ("id", "s, id", "id, s", "k, id")
QUERIES = 20


def some_value(generator: random.Random) -> str:
    return generator.choice(("null", *(str(generator.randrange(-8, 14)) for _ in range(9))))


def some_term(generator: random.Random) -> str:
    column = generator.choice(("s", "s", "s", "k", "id", "v"))
    value = some_value(generator)
    return generator.choice(
        (
            f"{column} = {value}",
            f"{column} = {value}",
            f"{column} {generator.choice(('<', '<=', '>', '>='))} {value}",
            f"{column} between {value} and {some_value(generator)}",
            f"{column} in ({', '.join(some_value(generator) for _ in range(3))})",
            f"{column} = any (array[{value}, {some_value(generator)}]::int[])",
            f"{column} is null",
            f"{column} is not null",
            f"({column} = {value} or s = {some_value(generator)})",
            f"{column} = (select {value}::int)",
        )
    )


def some_query(generator: random.Random) -> tuple[str, bool]:
    """A query with ``{t}`` for the table, and whether its rows come in order."""
    condition = " and ".join(some_term(generator) for _ in range(generator.randrange(1, 4)))
    order = generator.choice(("s, id", "s desc nulls last, id", "id", "k, id", "s"))
    return generator.choice(
        (
            (f"select * from {{t}} where {condition}", False),
            (f"select * from {{t}} where {condition} order by {order}, id limit {generator.randrange(1, 9)}", True),
            (f"select s, count(*), min(v), max(id) from {{t}} where {condition} group by s", False),
            (f"select a.id, b.id from {{t}} a join {{t}} b on a.s = b.k where a.{condition.lstrip('(')}", False)
            if condition.startswith(("k", "id", "v")) and " and " not in condition
            else (f"select max(s), min(s) from {{t}} where {condition}", False),
            (
                "select p.id, {t}.id from plain p join {t} on p.id = {t}.id and p.s = {t}.s where {t}.v < 5",
                False,
            ),
            ("select p.id, {t}.v from plain p left join {t} on p.k = {t}.s where p.id < 9", False),
        )
    )


def make(client: SqlClient, name: str, key: str, clause: str) -> None:
    client.execute(f"create table {name} (id int, s int, k int, v int, primary key ({key})) {clause}")
    client.execute(f"create index on {name} (s, v)")
    client.execute(f"create index on {name} (v)")
    client.execute(f"create unique index on {name} (id, k)")
    client.execute(f"insert into {name} select * from source")


@pytest.mark.parametrize("clause", CLAUSES)
@pytest.mark.parametrize("key", KEYS)
def test_conditions_find_the_same_rows(clause: str, key: str) -> None:
    generator = random.Random(f"{clause} {key}")
    client = SqlServer().connect()
    nulls = "nullif(g * 7 % 19 - 6, 5)" if key in ("id", "k, id") else "g * 7 % 19 - 6"
    client.execute(
        f"create table source as select g - 150 as id, {nulls} as s, g % 13 - 4 as k, g * 11 % 17 as v "
        f"from generate_series(1, {ROWS}) g"
    )
    make(client, "plain", "id", "")
    make(client, "sharded", key, clause)
    for number in range(QUERIES):
        if number == QUERIES // 2:
            client.execute("analyze plain, sharded, source")
        query, ordered = some_query(generator)
        wanted, found = (client.rows(query.format(t=name)) for name in ("plain", "sharded"))
        if not ordered:
            wanted, found = sorted(wanted), sorted(found)
        assert found == wanted, query
    changes = ("update {t} set s = s + 3 where s between -2 and 4", "delete from {t} where s > 8 or k = 2")
    for change in changes:
        assert client.execute(change.format(t="plain")) == client.execute(change.format(t="sharded")), change
        everything = "select * from {t} order by id"
        assert client.rows(everything.format(t="plain")) == client.rows(everything.format(t="sharded"))


EDGES = {
    "int2": ("-32768", "-32767", "0", "1", "5", "32766", "32767"),
    "int4": ("-2147483648", "-2147483647", "0", "1", "60", "2147483646", "2147483647"),
    "int8": ("-9223372036854775808", "-9223372036854775807", "0", "3", "9223372036854775806", "9223372036854775807"),
    "date": ("-infinity", "4713-01-01 BC", "2000-01-01", "2000-02-10", "5874897-12-31", "infinity"),
}


@pytest.mark.parametrize("type_name", EDGES)
@pytest.mark.parametrize("clause", ["hash (s)", "hash (k, s)", "directory (s) shards 3"])
def test_short_ranges_of_every_width(type_name: str, clause: str) -> None:
    client = SqlServer().connect()
    values = [f"'{value}'::{type_name}" for value in EDGES[type_name]]
    for name, tail in (("plain", ""), ("sharded", f"shard by {clause}")):
        client.execute(f"create table {name} (s {type_name}, k int, primary key (s, k)) {tail}")
        rows = ", ".join(f"({value}, {k})" for value in values for k in (1, 2))
        client.execute(f"insert into {name} values {rows}")
        client.execute(
            f"prepare {name}_between({type_name}, {type_name}) as select * from {name} where s between $1 and $2"
        )
        client.execute(
            f"prepare {name}_inside({type_name}, int8) as select * from {name} where s > $1 and s < $1 and k = $2"
        )
        client.execute(
            f"prepare {name}_both({type_name}, {type_name}, int) as "
            f"select * from {name} where $1 <= s and s < $2 and k >= $3 and k <= $3 + 1"
        )
    for least in (*values, "null"):
        for most in (*values, "null"):
            for text in (
                f"select * from {{t}} where s between {least} and {most}",
                f"select * from {{t}} where s > {least} and {most} > s and k in (1, 3)",
                f"select * from {{t}} where s >= {least} and s < {most} or k between 2 and 4",
                f"execute {{t}}_between({least}, {most})",
                f"execute {{t}}_inside({least}, 1)",
                f"execute {{t}}_both({least}, {most}, 1)",
            ):
                wanted, found = (sorted(client.rows(text.format(t=name))) for name in ("plain", "sharded"))
                assert found == wanted, text
