"""Whatever is sent, the binder answers: with a tree, or with an error, and in reasonable time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydistdb.sql.bind import analyze, bind_expression, bind_scalar, normalize, parse
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.tree import BoundStatement, ColumnRef
from pydistdb.sql.tree_printer import expression
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext

from tests.support.fake_catalog import FakeCatalog

CATALOG = FakeCatalog("create table t (a int primary key, b text, c numeric(5,2) default 1.5)")
CONTEXT = EvalContext()


def answer(text: str) -> str:
    """ "ok" or the SQLSTATE."""
    try:
        for parsed in parse(text):
            analyze(parsed, CATALOG, CONTEXT)
    except DatabaseError as error:
        return error.sqlstate
    return "ok"


NESTED = {
    "brackets": lambda n: "select " + "(" * n + "1" + ")" * n,
    "sums": lambda n: "select " + "+".join(["1"] * n),
    "negations": lambda n: "select " + "not " * n + "true",
    "subqueries": lambda n: "select * from " + "(select * from " * n + "t" + ") x" * n,
    "scalars": lambda n: "select " + "(select " * n + "1" + ")" * n,
    "cases": lambda n: "select " + "case when true then " * n + "1" + " end" * n,
    "calls": lambda n: "select " + "abs(" * n + "1" + ")" * n,
    "unions": lambda n: " union all ".join(["select 1"] * n),
    "arrays": lambda n: "select " + "array[" * n + "1" + "]" * n,
    "casts": lambda n: "select 1" + "::int" * n,
    "joins": lambda n: "select 1 from t t0" + "".join(f" join t t{i} on true" for i in range(1, n)),
}


@pytest.mark.parametrize("shape", NESTED)
def test_deep_nesting_is_an_error_not_a_crash(shape: str) -> None:
    assert answer(NESTED[shape](50)) == "ok"
    for depth in (300, 3_000, 30_000):
        assert answer(NESTED[shape](depth)) in ("ok", "54001", "42601")


@pytest.mark.parametrize(
    "text",
    [
        "select * from t where " + " and ".join(["a = 1"] * 20_000),
        "insert into t values " + ",".join(f"({i}, 'text {i}')" for i in range(50_000)),
        "select * from t where a in (" + ",".join(map(str, range(150_000))) + ")",
        "select '" + "x" * 1_000_000 + "'",
        "select 1 /* " + "x" * 1_000_000 + " */",
        "select " + "x" * 1_000_000,
        "select " + ",".join(["a"] * 300_000) + " from t",
        "select 1;" * 100_000,
    ],
    ids=["and", "insert", "in", "string", "comment", "name", "targets", "statements"],
)
def test_a_million_bytes(text: str) -> None:
    start = time.process_time()
    answer(text)
    normalize(text)
    assert time.process_time() - start < 30


WORDS = """
select insert into update delete from where t a b c ( ) , * = + - 'x' 1 1.5 null and or not in values set order by group
having limit union all join on true using as case when then end :: int text [ ] $1 count max distinct exists any create table
shard hash colocate with returning default ; lateral over
"""


@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    answer(text)
    normalize(text)


@given(
    st.lists(
        st.sampled_from(WORDS.split()),
        max_size=14,
    )
)
def test_any_words(words: list[str]) -> None:
    text = " ".join(words)
    answer(text)
    normalize(text)


def test_stored_expressions() -> None:
    table = CATALOG.relation("t")
    assert table is not None and not hasattr(table, "rows")
    check = bind_expression("a > 5 and b <> 'x'", table, CATALOG, CONTEXT, registry.BOOL)  # type: ignore[arg-type]
    assert expression(check) == "(int4gt(#1, 5) and textne(#2, 'x'))"
    column = bind_expression("a", table, CATALOG, CONTEXT)  # type: ignore[arg-type]
    assert isinstance(column, ColumnRef) and column.id == 1
    default = bind_scalar("1 + 2 -- three", CATALOG, CONTEXT, registry.INT8)
    assert expression(default) == "int8(int4pl(1, 2))"
    with pytest.raises(DatabaseError, match='column "a" does not exist'):
        bind_scalar("a", CATALOG, CONTEXT)
    with pytest.raises(DatabaseError):
        bind_scalar("1), (2", CATALOG, CONTEXT)


def test_positions_count_characters_of_the_whole_text() -> None:
    with pytest.raises(DatabaseError) as caught:
        for parsed in parse("select 'é'; select 'ü', nosuch from t"):
            analyze(parsed, CATALOG, CONTEXT)
    assert caught.value.position == "select 'é'; select 'ü', nosuch from t".index("nosuch") + 1


def test_declared_parameter_types() -> None:
    (parsed,) = parse("select $1 + 1, $2 from t where a = $3")
    bound = analyze(parsed, CATALOG, CONTEXT, [registry.INT8.oid, 0, 0])
    assert isinstance(bound, BoundStatement)
    assert [t.name for t in bound.parameter_types] == ["int8", "text", "int4"]
    assert bound.tables == frozenset({CATALOG.relation("t").oid})  # type: ignore[union-attr]
