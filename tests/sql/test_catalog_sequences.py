"""Sequences over several nodes: no number twice, blocks, setval, ends and cycles."""

from __future__ import annotations

import pytest
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.sequence_numbers import BLOCK_NUMBERS, NeedsBlock
from pydistdb.sql.errors import DatabaseError

from tests.sql.catalog_nodes import Nodes
from tests.support.sql_client import SqlServer


def draw(nodes: Nodes, node: int, sequence: Table, count: int = 1) -> list[int]:
    numbers = nodes.stores[node].sequences
    drawn: list[int] = []
    while len(drawn) < count:
        try:
            drawn.append(numbers.try_next(sequence))
        except NeedsBlock as need:
            nodes.run(need.fill(count - len(drawn)))
    return drawn


def sequence(nodes: Nodes, options: str = "") -> Table:
    nodes.ddl(0, "create sequence s " + options)
    found = nodes.stores[0].view("postgres", ("public",)).relation("s")
    assert isinstance(found, Table)
    return found


def test_one_node_counts_without_gaps() -> None:
    nodes = Nodes(1)
    assert draw(nodes, 0, sequence(nodes), 100) == list(range(1, 101))


def test_two_nodes_never_draw_the_same_number() -> None:
    nodes = Nodes(2)
    s = sequence(nodes)
    drawn = [number for round_ in range(50) for number in draw(nodes, round_ % 2, s, 1 + round_ % 7)]
    assert len(set(drawn)) == len(drawn)
    assert max(drawn) <= len(drawn) + 2 * BLOCK_NUMBERS


def test_setval_reaches_every_node() -> None:
    nodes = Nodes(2)
    s = sequence(nodes)
    draw(nodes, 0, s), draw(nodes, 1, s)
    nodes.run(nodes.stores[0].sequences.set_value(s, 1000, True))
    assert draw(nodes, 1, s) == [1001]
    nodes.run(nodes.stores[1].sequences.set_value(s, 7, False))
    assert draw(nodes, 0, s) == [7]
    with pytest.raises(DatabaseError, match=r'setval: value 0 is out of bounds for sequence "s"'):
        nodes.run(nodes.stores[0].sequences.set_value(s, 0, True))


def test_a_sequence_ends() -> None:
    nodes = Nodes(1)
    s = sequence(nodes, "maxvalue 40")
    assert draw(nodes, 0, s, 40) == list(range(1, 41))
    with pytest.raises(DatabaseError, match=r'reached maximum value of sequence "s" \(40\)') as caught:
        draw(nodes, 0, s)
    assert caught.value.sqlstate == "2200H"


def test_a_sequence_cycles_and_counts_down() -> None:
    nodes = Nodes(1)
    assert draw(nodes, 0, sequence(nodes, "increment -3 minvalue -7 maxvalue 0 start 0 cycle"), 5) == [0, -3, -6, 0, -3]


def test_numbers_are_not_taken_back_by_a_rollback() -> None:
    client = SqlServer().connect()
    client.execute("create sequence s; create table t (id serial, x int unique)")
    assert client.rows("select nextval('s')") == ["1"]
    client.execute("begin; select nextval('s'); rollback")
    assert client.rows("select nextval('s'), currval('s'), lastval()") == ["3|3|3"]
    client.execute("insert into t (x) values (1), (2)")
    client.execute("insert into t (x) values (1)")
    client.execute("insert into t (x) values (3)")
    assert client.rows("select id from t order by 1") == ["1", "2", "4"]


def test_sequences_of_one_table_are_drawn_from_in_step() -> None:
    client = SqlServer().connect()
    client.execute("create table t (a serial, b bigserial, c int generated always as identity, d int)")
    client.execute("insert into t (d) select g from generate_series(1, 100) g")
    assert client.rows("select count(*), max(a), max(b), max(c) from t where a = b and b = c and c = d") == [
        "100|100|100|100"
    ]


def test_errors_of_the_functions() -> None:
    client = SqlServer().connect()
    client.execute("create table t (a int)")
    assert client.execute("select nextval('t')") == ['ERROR: 42809: "t" is not a sequence']
    client.execute("create sequence s")
    assert client.execute("select currval('s')") == [
        'ERROR: 55000: currval of sequence "s" is not yet defined in this session'
    ]
    assert client.execute("select lastval()") == ["ERROR: 55000: lastval is not yet defined in this session"]


def test_setval_as_a_function() -> None:
    client = SqlServer().connect()
    client.execute("create sequence s")
    assert client.rows("select setval('s', 10)") == ["10"]
    assert client.rows("select nextval('s'), currval('s')") == ["11|11"]
    assert client.rows("select setval('s', 10, false), nextval('s')") == ["10|10"]
    assert client.rows("select setval('s', 10)") == ["10"]
    assert client.rows("select nextval('s')") == ["11"]
    client.execute("create table t (id serial, x int); insert into t (id) values (7)")
    assert client.rows("select setval(pg_get_serial_sequence('t', 'id'), max(id)) from t") == ["7"]
    assert client.execute("insert into t (x) values (1) returning id")[0] == "8"
