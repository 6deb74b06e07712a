"""The fuzzer itself: its statements parse and bind, the same seed gives the same ones, and shrinking keeps what matters."""

from __future__ import annotations

from random import Random

import pytest
from pydistdb.sql.bind import parse
from pydistdb.sql.errors import DatabaseError

from tests.fuzz.compare import Answer, differ, same_numbers
from tests.fuzz.grammar import SCHEMA, Grammar
from tests.fuzz.shrink import shrink
from tests.fuzz.tree import Node
from tests.support.sql_client import SqlServer

COUNT = 60


def statements(seed: int) -> list[str]:
    return [Grammar(Random(seed + number)).statement().sql() for number in range(COUNT)]


def test_a_seed_names_its_statements() -> None:
    assert statements(5) == statements(5)
    assert len(set(statements(5))) > COUNT / 2


@pytest.mark.parametrize("seed", [100, 200])
def test_statements_run_without_internal_errors(seed: int) -> None:
    client = SqlServer().connect()
    client.execute(SCHEMA)
    for text in statements(seed):
        try:
            assert len(parse(text)) == 1
        except DatabaseError as error:
            pytest.fail(f"{error}: {text}")
        lines = client.execute(f"BEGIN; {text}; ROLLBACK")
        client.execute("ROLLBACK")
        assert not any("XX000" in line for line in lines), text


def test_a_statement_shrinks_to_what_differs() -> None:
    inner = Node("int", ["(", Node("int", ["b"]), " % 3)"])
    where = Node("optional", [" WHERE ", Node("bool", ["(", Node("int", ["a"]), " = 1)"])])
    statement = Node("query", ["SELECT ", Node("int", ["abs(", inner, ")"]), " FROM t1", where])
    assert shrink(statement, lambda text: "%" in text) == "SELECT (1 % 3) FROM t1"


def test_rows_count_as_a_multiset_and_data_errors_are_passed_over() -> None:
    two = Answer("", (("1",), ("2",)), "SELECT 2")
    assert not differ(two, Answer("", (("2",), ("1",)), "SELECT 2"), ordered=False)
    assert differ(two, Answer("", (("2",), ("1",)), "SELECT 2"), ordered=True)
    assert differ(two, Answer("", (("1",), ("1",)), "SELECT 2"), ordered=False)
    assert differ(two, Answer("42703"), ordered=False)
    assert not differ(two, Answer("22012"), ordered=False)
    assert differ(Answer("42703"), Answer("XX000"), ordered=False)


def test_equal_numbers_may_be_written_differently() -> None:
    one = Answer("", (("1.50", "a"), ('{"a": [2.0, 10]}', None)), "SELECT 2")
    assert same_numbers(one, Answer("", (('{"a": [2, 10.00]}', None), ("1.5", "a")), "SELECT 2"))
    assert not same_numbers(one, Answer("", (("1.05", "a"), ('{"a": [2.0, 10]}', None)), "SELECT 2"))
    assert not same_numbers(one, Answer("", (("1.50", "a"), ('{"a": [2.0, 1]}', None)), "SELECT 2"))
    assert not same_numbers(one, Answer("22012"))
