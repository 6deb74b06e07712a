"""What planning and answering cost in CPU time, in one process and without sockets: ``python -m tests.sql.costs``.

The database is a gateway over one in-memory store (tests/support/one_node.py), so what is timed is the session, the planner,
the executor, the read path and the encoding of the answer.  Every figure is the least of some rounds of
``time.process_time``, with the garbage collector off: what others on the machine do to the caches only ever adds.
docs/benchmarks.md quotes it; nothing here decides a test.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from typing import Any

from pydistdb.sql.bind import parse
from pydistdb.sql.catalog.store import CatalogStore
from pydistdb.sql.session.environment import Environment
from pydistdb_server.pgwire import WireProtocol
from pydistdb_server.rows import row_encoder
from pydistdb_server.sink import ClientSink

from tests.support.one_node import OneNode
from tests.support.sql_client import SqlClient

SETUP = """
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, city text, joined timestamptz DEFAULT now());
CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, amount numeric(10, 2), status text, day date);
CREATE TABLE products (id int PRIMARY KEY, label text NOT NULL, price numeric(8, 2));
CREATE TABLE lines (order_id int REFERENCES orders, line int, product int REFERENCES products, n int,
PRIMARY KEY (order_id, line));
CREATE TABLE cities (city text PRIMARY KEY, region text NOT NULL);
CREATE INDEX ON orders (customer);
CREATE INDEX ON orders (status, day);
CREATE TABLE facts (a int PRIMARY KEY, b bigint, c float8, d text, e timestamptz);
CREATE VIEW open_orders AS SELECT o.id, o.amount, o.day, c.name, c.city FROM orders o JOIN customers c ON c.id = o.customer
WHERE o.status = 'open';
INSERT INTO customers SELECT g, 'name ' || g, 'city ' || g % 20 FROM generate_series(1, 500) g;
INSERT INTO orders SELECT g, 1 + g % 500, g * 1.5, 'open', date '2024-01-01' + g % 300 FROM generate_series(1, 2000) g;
INSERT INTO products SELECT g, 'product ' || g, g FROM generate_series(1, 100) g;
INSERT INTO lines SELECT g, n, 1 + g % 100, n FROM generate_series(1, 2000) g, generate_series(1, 2) n;
INSERT INTO cities SELECT 'city ' || g, 'region ' || g % 3 FROM generate_series(0, 19) g;
INSERT INTO facts SELECT g, g * 1000000007::bigint, g / 7.0, 'text of row ' || g, timestamptz '2024-01-01' + g * interval '1 min'
FROM generate_series(1, 1000) g
"""
STATEMENTS = {
    "point select": "SELECT name, city FROM customers WHERE id = {n}",
    "update by key": "UPDATE customers SET city = 'x' WHERE id = {n}",
    "insert": "INSERT INTO customers (id, name) VALUES ({n}, 'n') ON CONFLICT DO NOTHING",
    "upsert": (
        "INSERT INTO customers (id, name, city) VALUES ({n}, 'n', 'y') ON CONFLICT (id) "
        "DO UPDATE SET name = excluded.name, city = excluded.city WHERE customers.city <> excluded.city RETURNING id, name"
    ),
    "update from": (
        "UPDATE orders SET status = 'open', amount = o.amount + 0 FROM orders o, customers c "
        "WHERE orders.id = o.id AND o.customer = c.id AND c.id = {n} RETURNING orders.id"
    ),
    "range and order": "SELECT id, amount FROM orders WHERE status = 'open' AND day > '2024-05-0{d}' ORDER BY day LIMIT 10",
    "join of two": "SELECT c.name, o.amount FROM customers c JOIN orders o ON o.customer = c.id WHERE c.id = {n}",
    "join and group": (
        "SELECT c.city, count(*), sum(o.amount) FROM customers c JOIN orders o ON o.customer = c.id "
        "WHERE o.day >= '2024-02-0{d}' GROUP BY c.city HAVING count(*) > {n} ORDER BY 2 DESC"
    ),
    "correlated": (
        "SELECT name FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.id AND o.amount > {n})"
    ),
    "window": (
        "SELECT id, amount, row_number() OVER w, sum(amount) OVER (PARTITION BY customer ORDER BY day ROWS 2 PRECEDING) "
        "FROM orders WHERE customer = {n} WINDOW w AS (PARTITION BY customer ORDER BY amount DESC)"
    ),
    "view": "SELECT city, max(amount) FROM open_orders WHERE name = 'name {n}' AND day < '2024-09-0{d}' GROUP BY city",
    "join of five": (
        "SELECT c.name, o.day, p.label, l.n * p.price AS worth, r.region FROM customers c JOIN orders o ON o.customer = c.id "
        "JOIN lines l ON l.order_id = o.id JOIN products p ON p.id = l.product LEFT JOIN cities r ON r.city = c.city "
        "WHERE c.id = {n} AND p.price > {d} ORDER BY worth DESC LIMIT 5"
    ),
}
ROUNDS = 60


class _Server:
    """What SqlClient wants of a server."""

    def __init__(self) -> None:
        self.node = OneNode()
        self.scheduler = self.node.scheduler
        catalog = CatalogStore(self.node.gateway, self.scheduler)
        self.node.run(catalog.start(renew=False))
        self.environment = Environment(self.node.gateway, self.scheduler, catalog)


def least_us(work: Callable[[int], object], rounds: int = ROUNDS, repeated: int = 1) -> float:
    """The least CPU time of ``work(round)`` in microseconds; ``repeated``: how often each call does its thing."""
    for number in range(3):
        work(number)
    taken = []
    for number in range(3, 3 + rounds):
        started = time.process_time_ns()
        work(number)
        taken.append(time.process_time_ns() - started)
    return min(taken) / 1_000 / repeated


def planning(client: SqlClient) -> None:
    """Parse, bind, plan and compile a text never seen before; then find it again."""
    plans: Any = client.session.plans
    for name, text in STATEMENTS.items():
        fresh = least_us(lambda n, text=text: plans.make(parse(text.format(n=n, d=1 + n % 9))[0], ()))
        known = text.format(n=7, d=1)

        def first_run(number: int, text: str = known) -> None:
            client.session.environment.plans.clear()
            client.execute(text)

        first = least_us(first_run)
        client.execute(known)
        again = least_us(lambda n, known=known: client.execute(known))
        found = least_us(lambda n, known=known: [plans.try_find(known) for _ in range(100)], 20, 100)
        other = [text.format(n=n, d=1 + n % 9) for n in range(100)]
        for each in other:
            client.execute(each)
        lifted = least_us(lambda n, other=other: [plans.try_find(each) for each in other], 20, 100)
        print(
            f"{name:18} planned {fresh / 1000:5.2f} ms  first run {first / 1000:6.2f}, again {again / 1000:6.2f} ms  "
            f"found by text {found:5.1f} µs, with other literals {lifted:5.1f} µs"
        )


def many_joins(client: SqlClient) -> None:
    """Queries of the shape of the Join Order Benchmark: facts around one table, each with names of its own."""
    plans: Any = client.session.plans
    client.execute("CREATE TABLE title (id int PRIMARY KEY, name text, kind int, year int)")
    client.execute("INSERT INTO title SELECT g, 'title ' || g, g % 7, 1950 + g % 70 FROM generate_series(1, 2000) g")
    for number in range(8):
        client.execute(f"CREATE TABLE name_{number} (id int PRIMARY KEY, name text)")
        client.execute(
            f"INSERT INTO name_{number} SELECT g, 'name ' || g FROM generate_series(1, {50 * number + 10}) g"
        )
        client.execute(f"CREATE TABLE fact_{number} (id int PRIMARY KEY, title int, name int, note text)")
        client.execute(f"CREATE INDEX ON fact_{number} (title)")
        client.execute(f"CREATE INDEX ON fact_{number} (name)")
        rows = f"SELECT g, 1 + g % 2000, 1 + g % {50 * number + 10}, 'note ' || g % 9 FROM generate_series(1, 3000) g"
        client.execute(f"INSERT INTO fact_{number} {rows}")
    client.execute("ANALYZE")
    for count in (5, 9, 13, 17):
        numbers = range((count - 1) // 2)
        tables = ["title t", *(f"fact_{n} f{n}, name_{n} n{n}" for n in numbers)]
        terms = [f"f{n}.title = t.id AND n{n}.id = f{n}.name AND n{n}.name LIKE 'name {n}%'" for n in numbers]
        # As the benchmark's queries do, the facts are made equal to one another as well.
        terms += [f"f{n}.title = f{n + 1}.title" for n in numbers[:-1]]
        text = (
            f"SELECT min(t.name), min(f0.note) FROM {', '.join(tables)} WHERE t.year > 1990 AND {' AND '.join(terms)}"
        )
        taken = least_us(lambda n, text=text: plans.make(parse(text)[0], ()), 10)
        print(f"join of {count:2} tables, all connected: planned {taken / 1000:6.2f} ms")


def result(client: SqlClient) -> None:
    """A thousand rows of five columns by Bind and Execute, in binary, up to the bytes that a socket would get."""
    session: Any = client.session
    sent = 0

    def send(data: bytes | memoryview) -> int:
        nonlocal sent
        sent += len(data)
        return len(data)

    sink = ClientSink(WireProtocol(), send, lambda on: None)
    sink.context = session.context
    run = client.server.scheduler.run
    run(session.prepare("s", "SELECT * FROM facts WHERE b > $1", ()))

    def once(number: int) -> None:
        portal = run(session.bind("", "s", (b"5",), (0,), (1,)))
        sink.encoder = row_encoder(tuple([field.type_oid for field in portal.fields]), portal.result_formats)
        run(session.execute("", 0, sink, True))
        run(session.sync())
        sink.flush()

    taken = least_us(once, 30)
    print(f"1,000 rows of five columns, extended protocol, binary: {taken / 1000:.2f} ms, {sent // 33} bytes")


def main() -> None:
    sys.setrecursionlimit(10_000)
    server: Any = _Server()
    client = SqlClient(server, "postgres", "postgres", {}, 1)
    for statement in SETUP.split(";"):
        print(client.execute(statement)[-1])
    client.execute("ANALYZE")
    gc.collect()
    gc.disable()
    planning(client)
    many_joins(client)
    result(client)


if __name__ == "__main__":
    main()
