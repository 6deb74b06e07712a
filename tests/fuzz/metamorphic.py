"""``python -m tests.fuzz.metamorphic``: queries that must agree with themselves, whatever the plan.

No second database is needed; what is compared are two ways of asking one thing of one node, in process:

* plans: the same query with ways to join, scan and sort ruled out at random (``enable_`` settings);
* memory: the same with next to no work_mem, so that every step that can go to disk does;
* changes: the same of UPDATE, DELETE, INSERT and MERGE, and what they leave;
* norec: ``count(*) … WHERE p`` against counting where ``p`` is true over all rows, which leaves the optimiser nothing to do;
* indexes: conditions that may contradict each other, distinct values and the least of groups, of tables with indexes;
* keys: joins with tables that a foreign key refers to, against those with tables without one;
* numbered: the first rows of each group, against numbering all rows before they are picked;
* tlp: the rows are those where ``p`` is true, those where it is false, and those where it is NULL.

Errors of values (classes 21 and 22) are passed over, as which rows an expression is computed for is up to the planner.

Sources: Rigger and Su, "Detecting Optimization Bugs in Database Engines via Non-optimizing Reference Engine Construction"
and "Finding Bugs in Database Systems via Query Partitioning" (both 2020).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from random import Random

from pydistdb.sql.exec import run as run_module
from pydistdb.sql.plan import several_indexes
from pydistdb.sql.plan.cost import SWITCHES

from tests.fuzz.grammar import SCHEMA, Grammar, Scope
from tests.support.sql_client import SqlClient, SqlServer

Difference = tuple[str, str, list[str], list[str]]
PASSED_OVER = ("57014", "42803", "42804")
"""Cancelled; and what the grammar sometimes gets wrong: aggregates of an outer query, literals of no type."""
INDEXES = (
    "CREATE INDEX ON t1 (e); CREATE INDEX ON t2 (a) INCLUDE (c); CREATE INDEX ON t3 (c, d); CREATE INDEX ON t2 (s)"
)


def connect(random: Random) -> SqlClient:
    """A session on the fuzzer's tables, with statistics or without."""
    client = SqlServer().connect()
    for text in (
        SCHEMA,
        *([INDEXES] if random.random() < 0.5 else []),
        *(["ANALYZE"] if random.random() < 0.6 else []),
    ):
        lines = client.execute(text)
        assert not any(line.startswith("ERROR") for line in lines), lines
    client.execute("SET statement_timeout = '5s'")
    return client


def rows(client: SqlClient, text: str) -> list[str] | None:
    """The rows of a query, sorted; the line of an error, or None where it may come and go with the plan."""
    lines = list(client.execute(text))
    for line in lines:
        if line.startswith("ERROR"):
            code = line.split(": ")[1]
            return None if code[:2] in ("21", "22") or code in PASSED_OVER else [line.partition("; at ")[0]]
    return sorted(line for line in lines[:-1])


def plans(client: SqlClient, random: Random) -> Difference | None:
    text = Grammar(random).query([])[0].sql() if random.random() < 0.5 else joins(random)
    return _with_switches(client, random, text)


def changes(client: SqlClient, random: Random) -> Difference | None:
    """What a change returns, and what the table is then."""
    text = Grammar(random).change().sql()
    found = _with_switches(client, random, f"BEGIN; {text}; SELECT * FROM t1 ORDER BY a")
    client.execute("ROLLBACK")
    return found


def memory(client: SqlClient, random: Random) -> Difference | None:
    text = Grammar(random).query([])[0].sql() if random.random() < 0.5 else joins(random)
    expected = rows(client, text)
    client.execute("ROLLBACK")
    if expected is None:
        return None
    limit_bytes = random.choice((0, 200, 1_000))  # less than work_mem can be set to: the tables are small
    ample, run_module.work_memory_bytes = run_module.work_memory_bytes, lambda context: limit_bytes
    try:
        got = rows(client, text)
    finally:
        run_module.work_memory_bytes = ample
    client.execute("ROLLBACK")
    resources = client.session.environment.resources
    left = [f"{resources.files} files and {resources.memory_bytes} bytes are left"]
    if resources.files or resources.memory_bytes:
        return text, "what it leaves", [], left
    return (text, f"with {limit_bytes} bytes", expected, got) if got is not None and got != expected else None


def _with_switches(client: SqlClient, random: Random, text: str) -> Difference | None:
    expected = rows(client, text)
    client.execute("ROLLBACK")
    if expected is None:
        return None
    off = [name for name in SWITCHES if random.random() < 0.5]
    for name in off:
        client.execute(f"SET enable_{name} = off")
    usual = several_indexes.SKIP_COST, several_indexes.ENTRY_COST
    if random.random() < 0.5:  # the tables are too small for these ways to pay
        several_indexes.SKIP_COST = several_indexes.ENTRY_COST = 0.0
    try:
        got = rows(client, text)
    finally:
        several_indexes.SKIP_COST, several_indexes.ENTRY_COST = usual
    client.execute("ROLLBACK")
    for name in off:
        client.execute(f"RESET enable_{name}")
    return (text, f"without {', '.join(off)}", expected, got) if got is not None and got != expected else None


def norec(client: SqlClient, random: Random) -> Difference | None:
    grammar = Grammar(random)
    source, scope = grammar.from_clause([], 1)
    condition = grammar.expression("bool", scope, 1).sql()
    optimised = f"SELECT count(*) FROM {source.sql()} WHERE {condition}"
    reference = f"SELECT count(CASE WHEN ({condition}) IS TRUE THEN 1 END) FROM {source.sql()}"
    return _same(client, reference, optimised)


def tlp(client: SqlClient, random: Random) -> Difference | None:
    grammar = Grammar(random)
    source, scope = grammar.from_clause([], 1)
    condition = grammar.expression("bool", scope, 1).sql()
    shown = ", ".join(name for name, _ in scope) or "1"
    whole = f"SELECT {shown} FROM {source.sql()}"
    parts = [f"{whole} WHERE {test}" for test in (condition, f"NOT ({condition})", f"({condition}) IS NULL")]
    return _same(client, whole, " UNION ALL ".join(parts))


def _same(client: SqlClient, reference: str, other: str) -> Difference | None:
    expected, got = rows(client, reference), rows(client, other)
    if expected is None or got is None or expected == got:
        return None
    return reference, other, expected, got


def joins(random: Random) -> str:
    """Two to six tables joined on integers and texts, in every way there is; some with a correlated query."""
    grammar = Grammar(random)
    scope: Scope = []
    text = ""
    conditions: list[str] = []
    for number in range(random.randint(2, 6)):
        table, columns = grammar.table()
        kind = random.choice(("int", "int", "int", "text"))
        pair = _pair(random, scope, columns, kind)
        if not number:
            text = table.sql()
        elif pair is None or random.random() < 0.5:
            text += f", {table.sql()}" if " JOIN " not in text else f" CROSS JOIN {table.sql()}"
            if pair is not None:
                conditions.append(pair)
        else:
            word = random.choice(("JOIN", "LEFT JOIN", "JOIN"))
            if ", " in text:
                text += f" CROSS JOIN {table.sql()}"
                conditions.append(pair)
            else:
                text += f" {word} {table.sql()} ON {pair}"
        scope = [*scope, *columns]
    for _ in range(random.randint(0, 2)):
        conditions.append(grammar.expression("bool", scope, 2).sql())
    if random.random() < 0.6:
        conditions.append(_subquery(random, grammar, scope))
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    name = random.choice(scope)[0]
    match random.randrange(3):
        case 0:
            return (
                f"SELECT count(*), min({random.choice([n for n, kind in scope if kind == 'int'])}) FROM {text}{where}"
            )
        case 1:
            return f"SELECT {name}, count(*) FROM {text}{where} GROUP BY {name}"
    return f"SELECT {', '.join(random.choice(scope)[0] for _ in range(3))} FROM {text}{where} ORDER BY 1, 2, 3 LIMIT 50"


def _pair(random: Random, scope: Scope, columns: Scope, kind: str) -> str | None:
    left = [name for name, column_kind in scope if column_kind == kind]
    right = [name for name, column_kind in columns if column_kind == kind]
    return f"{random.choice(left)} = {random.choice(right)}" if left and right else None


def _subquery(random: Random, grammar: Grammar, scope: Scope) -> str:
    table, columns = grammar.table()
    pair = _pair(random, scope, columns, "int") or _pair(random, scope, columns, "text") or "true"
    more = grammar.expression("bool", [*columns, *scope], 3).sql() if random.random() < 0.4 else "true"
    outer = random.choice([name for name, kind in scope if kind == "int"] or ["1"])
    inner = random.choice([name for name, kind in columns if kind == "int"])
    body = f"FROM {table.sql()} WHERE {pair} AND {more}"
    match random.randrange(5):
        case 0:
            return f"{random.choice(('', 'NOT '))}EXISTS (SELECT 1 {body})"
        case 1:
            return f"{outer} {random.choice(('IN', 'NOT IN'))} (SELECT {inner} {body})"
        case 2:
            function = random.choice(("max", "min", "sum", "count"))
            return f"{outer} {random.choice(('<', '=', '>='))} (SELECT {function}({inner}) {body})"
        case 3:
            return f"(EXISTS (SELECT 1 {body}) OR {outer} > 2)"
    return f"(SELECT count(*) + coalesce(sum({inner}), 0) {body}) > 1"


def indexes(client: SqlClient, random: Random) -> Difference | None:
    """Conditions on columns with indexes, which may contradict each other; distinct values, and the least of groups."""
    table = random.choice(("t1", "t2"))
    texts = ("'a'", "'b'", "'bb'", "'x'")
    values = {"a": ("1", "2", "5", "9"), "b": ("0", "1", "2", "4"), "c": texts}

    def term() -> str:
        column = random.choice("abbcc")
        match random.randrange(6):
            case 0:
                return f"{column} IN ({', '.join(random.choices(values[column], k=random.randint(1, 3)))})"
            case 1:
                return f"{column} IS {random.choice(('', 'NOT '))}NULL"
            case 2:
                return f"a = b AND {random.choice(('a', 'b'))} {random.choice(('=', '<', '>='))} {random.choice(values['b'])}"
        return f"{column} {random.choice(('=', '=', '<', '<=', '>', '>='))} {random.choice(values[column])}"

    terms = [term() for _ in range(random.choice((0, 1, 1, 2, 2, 3)))]
    condition = " AND ".join(terms) or "true"
    match random.randrange(5):
        case 0:
            reference = f"SELECT count(CASE WHEN ({condition}) IS TRUE THEN 1 END) FROM {table}"
            return _same(client, reference, f"SELECT count(*) FROM {table} WHERE {condition}")
        case 1:
            return _with_switches(client, random, f"SELECT DISTINCT b FROM {table} WHERE {condition}")
        case 2:
            text = f"SELECT b, min(c) FROM {table} WHERE {condition} GROUP BY b"
            return _with_switches(client, random, text)
    order = random.choice(("b, c DESC", "b DESC, c", "c, b"))
    return _with_switches(client, random, f"SELECT b, c FROM {table} WHERE {condition} ORDER BY {order} LIMIT 9")


KEYS = """
CREATE TABLE parent (id int PRIMARY KEY, v int); CREATE TABLE pair (a int, b text, PRIMARY KEY (a, b));
CREATE TABLE child (id int PRIMARY KEY, one int REFERENCES parent, must int NOT NULL REFERENCES parent, a int, b text,
  FOREIGN KEY (a, b) REFERENCES pair);
INSERT INTO parent SELECT i, i % 3 FROM generate_series(1, 6) i;
INSERT INTO pair SELECT i % 3, chr(97 + i % 2) FROM generate_series(1, 6) i;
INSERT INTO child SELECT i, nullif(i % 6, 0), i % 5 + 1, nullif(i % 3, 2), nullif(chr(97 + i % 2), 'b')
  FROM generate_series(1, 20) i;
CREATE TABLE stray AS TABLE child
"""


def keys(client: SqlClient, random: Random) -> Difference | None:
    """Joins that a foreign key may make needless, against the same with a table that has none."""
    if "parent" not in " ".join(client.execute("SELECT relname FROM pg_class WHERE relname = 'parent'")):
        lines = client.execute(KEYS)
        assert not any(line.startswith("ERROR") for line in lines), lines
    joins = [
        "p.id = c.one",
        "p.id = c.must",
        "r.id = c.must",
        "q.a = c.a AND c.b = q.b",
        "d.one = p.id",
        "d.id = c.must",
    ]
    terms = [each for each in joins if random.random() < 0.5] + random.choices(
        ("p.id > 2", "r.id IN (1, 4)", "q.a = 1", "c.one = 3", "p.v = 1", "r.id = p.id", "d.must < 4", "c.a IS NULL"),
        k=random.randint(0, 2),
    )
    names = {"p": "parent", "r": "parent", "q": "pair", "d": "child"}
    tables = ["child c", *(f"{names[name]} {name}" for name in names if any(f"{name}." in term for term in terms))]
    shown = random.choice(("count(*)", "c.id", "c.id, c.one", *(f"{table.split()[1]}.*" for table in tables)))
    text = f"SELECT {shown} FROM {', '.join(tables)} WHERE {' AND '.join(terms) or 'true'}"
    if random.random() < 0.3:
        text = f"SELECT id FROM child c WHERE {random.choice(('one', 'must'))} IN (SELECT id FROM parent)"
    return _same(client, text.replace("child", "stray"), text)


def numbered(client: SqlClient, random: Random) -> Difference | None:
    """The first rows of each group, by their numbers or by DISTINCT ON; ``place + 0`` is no number that the planner knows."""
    grammar = Grammar(random)
    source, scope = grammar.from_clause([], 1)
    names = [name for name, kind in scope if kind in ("int", "text")]
    if not names:
        return None
    columns = ", ".join([f"{random.choice(names)} AS {name}" for name in "gor"])
    where = f" WHERE {grammar.expression('bool', scope, 2).sql()}" if random.random() < 0.5 else ""
    query = f"(SELECT {columns} FROM {source.sql()}{where}) AS q"
    keys = f"o{random.choice(('', ' DESC', ' NULLS FIRST'))}, r"
    match random.randrange(4):
        case 0:
            reference = f"SELECT g, o, r, row_number() OVER (PARTITION BY g ORDER BY {keys}) AS place FROM {query}"
            first = f"SELECT DISTINCT ON (g) g, o, r FROM {query} ORDER BY g, {keys}"
            return _same(client, f"SELECT g, o, r FROM ({reference}) AS n WHERE place + 0 = 1", first)
        case 1:
            shown, over = "g, r", "PARTITION BY g, r"  # what differs among rows that tie is anybody's guess
        case 2:
            shown, over = "o, r", f"ORDER BY {keys}"
        case _:
            shown, over = "g, o, r", f"PARTITION BY g ORDER BY {keys}"
    number = random.choice(("row_number()", "rank()", "dense_rank()"))
    every = f"SELECT {shown}, place FROM (SELECT *, {number} OVER ({over}) AS place FROM {query}) AS n WHERE"
    condition = f"{random.choice(('<=', '<', '='))} {random.randint(0, 4)}"
    return _same(client, f"{every} place + 0 {condition}", f"{every} place {condition}")


CHECKS: dict[str, Callable[[SqlClient, Random], Difference | None]] = {
    "plans": plans,
    "memory": memory,
    "changes": changes,
    "norec": norec,
    "tlp": tlp,
    "indexes": indexes,
    "keys": keys,
    "numbered": numbered,
}


def check(name: str, client: SqlClient, seed: int) -> Difference | None:
    return CHECKS[name](client, Random(f"{name} {seed}"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.metamorphic", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--only", choices=tuple(CHECKS))
    given = parser.parse_args()
    found = 0
    client = connect(Random(given.seed))
    for seed in range(given.seed, given.seed + given.count):
        if seed % 200 == 0:
            client = connect(Random(seed))
        for name in [given.only] if given.only else CHECKS:
            difference = check(name, client, seed)
            if difference is not None:
                found += 1
                reference, other, expected, got = difference
                print(
                    f"--- {name} {seed}\n{reference}\n{other}\n  {len(expected)}: {expected[:5]}\n  {len(got)}: {got[:5]}"
                )
    print(f"{given.count} seeds, {found} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
