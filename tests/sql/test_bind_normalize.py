"""Lifting literals out of a statement must never change what it means."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydistdb.sql import tree
from pydistdb.sql.bind import analyze, bind_normalized, normalize, parse, shape_decides, split_integers
from pydistdb.sql.bind.rewrite import transform
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.tree import BoundStatement
from pydistdb.sql.tree_printer import print_statement
from pydistdb.sql.types.base import EvalContext

from tests.sql.bind_answers import SCHEMA
from tests.support.fake_catalog import FakeCatalog

CATALOG = FakeCatalog(SCHEMA)
CONTEXT = EvalContext()


def _folded(expr: tree.Expr, values: list[Any]) -> tree.Expr:
    """Put the parameters' values in and compute casts of constants, as the binder does for literals."""

    def visit(part: tree.Expr) -> tree.Expr | None:
        if isinstance(part, tree.Param):
            return tree.Const(part.type, values[part.index])
        if isinstance(part, tree.Call):
            arguments = tuple(transform(argument, visit) for argument in part.arguments)
            is_cast = part.function.name in ("int8", "int4", "int2", "numeric", "float8", "varchar", "bpchar", "text")
            if is_cast and all(isinstance(argument, tree.Const) for argument in arguments):
                constants = [argument.value for argument in arguments if isinstance(argument, tree.Const)]
                if part.function.volatility == "i" and not part.function.needs_context:
                    try:
                        return tree.Const(part.type, part.function.implementation(*constants))
                    except DatabaseError:
                        pass
            return tree.Call(part.type, part.function, arguments)
        return None

    return transform(expr, visit)


def _as_written(text: str) -> str:
    try:
        bound = analyze(parse(text)[0], CATALOG, CONTEXT)
    except DatabaseError as error:
        return f"error {error.sqlstate}"
    assert isinstance(bound, BoundStatement)
    return print_statement(bound)


def _through_key(text: str) -> str | None:
    """The tree made from the key, with the literals put back; None where the caller would bind the text as written."""
    lifted = normalize(text)
    if lifted is None:
        return None
    normalized = bind_normalized(lifted.key, CATALOG, CONTEXT)
    if normalized is None:
        return None
    values = normalized.values(lifted.literals, CONTEXT)
    if values is None:
        return None
    statement = normalized.statement
    query = transform(statement.query, lambda expr: _folded(expr, values))
    return print_statement(
        BoundStatement(query, (), statement.tag, statement.has_rows, statement.tables, statement.volatile)
    )


STATEMENTS = """
select name from users where id = 7
select name from users where id = -7 and age = - 8 and balance > 1.50
select name from users where id = 99999999999 and age = -2147483648 and age < 2147483648
select name from users where age = 5 - 3 and age = 5 - -3 and age = age + -2147483648
select name from users where name = 'it''s' and created >= '2020-01-01' and active = 't' limit 10 offset 5
select name from users where created = timestamp '2020-01-01' and created > '2020-01-02'
select name from users where name like 'a%' and name = E'a\\nb' and email in ('a', 'b')
select 'a', 5, name from users where id = 5 order by 1, 2
select age + 1, count(*) from users where age > 3 group by age + 1 having count(*) > 5
select age + 1, count(*) from users where age + 1 > 3 group by 1
select id from users where id in (select user_id from orders where amount > 5.5 limit 1) and id between 1 and 9
select id from users where (select count(*) from orders where orders.id > 5 group by orders.id + 1) > 3
select id from users where id = '5' and balance = '7.50' and tags = '{a,b}' and 'x' = any(tags)
select id from users where id = any('{1,2}') and age in (1, '2', 3)
select id from users where age = 'x'
select id from users where upper(name) = 'X' and substr(name, 1, 2) = 'ab' and round(balance, 1) > 1
select id from users where age::text = '5' and '5'::int = age and 'a'::varchar(3) = name
select id from users where id = 5 -- comment
select id from users where id = 5; select 1
select id from users where id = $1
select id from users where name = 'a' 'b'
select id from users where name = 'a'
 'b'
select id from users where 5 = id and '5' between age and 9
select id from users u join orders o on o.id = 5 where u.id = 6 for update
select id from users where tags[1] = 'x' and array[1, 2, 3] = array[1, 2, 3]
select id from users where case when age > 5 then 1 else 2 end = 1
select id from users where age is distinct from 5 and name = 'x'
select id from users where interval '1 day' * 2 > interval '3 hours'
select id from users where created > now() - '1 day'::interval
select 1 union select 2 where 1 = 1 order by 1
insert into users (id, name, balance, active) values (1, 'a', 1.555, 'yes'), (2, 'b', -3, null)
insert into users (id, name) values (1, 'a') on conflict (id) do update set age = 5, name = 'x' where users.age < 6 returning 5
insert into items values (1, 2, 'abc', 1.5)
insert into users (id, name) values (1, 'much too long for a name of twenty characters')
insert into users (id, tags) values (1, '{a,b}')
insert into users (id, name) select 1, 'x' from orders where id = 5
update users set age = age + 5, name = 'x', balance = balance - 1.5 where id = 5 returning age, 7
update users set (age, name) = (1, 'x') where id = 5
delete from users where id = 5 and name = 'x'
with x as (select 1) select * from x where 1 = 1
values (1, 'a')
"""


@pytest.mark.parametrize("text", [line for line in STATEMENTS.strip().split("\n") if not line.startswith(" ")])
def test_the_key_means_what_the_text_means(text: str) -> None:
    through = _through_key(text)
    assert through is None or through == _as_written(text)


def test_what_is_lifted() -> None:
    lifted = normalize("SELECT name FROM users WHERE id = 7 AND city = 'Ulm' LIMIT 5")
    assert lifted == ("SELECT name FROM users WHERE id =  $1 AND city =  $2 LIMIT  $3/*4s4*/", (7, "Ulm", 5))
    same_plan = normalize("SELECT name FROM users WHERE id = 8 AND city = 'Rom' LIMIT 9")
    assert same_plan is not None and same_plan.key == lifted.key
    other_plan = normalize("SELECT name FROM users WHERE id = 99999999999 AND city = 'Rom' LIMIT 9")
    assert other_plan is not None and other_plan.key != lifted.key


@pytest.mark.parametrize(
    "text",
    [
        "select 1",
        "select name from users order by 1",
        "begin",
        "select $1 from users where id = 5",
        "select 1 where x = 'a",
        "select name from users where created > interval '1 day'",
        "with x as (select 1) select 1 where 1 = 2",
        "",
        "select 1 from users where id = 5)",
    ],
)
def test_what_is_not_lifted(text: str) -> None:
    assert normalize(text) is None


def test_strings_are_read_as_the_type_of_their_place() -> None:
    lifted = normalize("select id from users where age = '42' and name = '42' and balance = '4.20'")
    assert lifted is not None
    normalized = bind_normalized(lifted.key, CATALOG, CONTEXT)
    assert normalized is not None
    values = normalized.values(lifted.literals, CONTEXT)
    assert values is not None and [str(value) for value in values] == ["42", "42", "4.20"]
    assert [type(value).__name__ for value in values] == ["int", "str", "Decimal"]
    assert normalized.values(("forty-two", "x", "1"), CONTEXT) is None


_LITERAL = st.one_of(
    st.integers(-(2**64), 2**64).map(str),
    st.sampled_from(
        ["-2147483648", "2147483648", "-9223372036854775808", "9223372036854775808", "0", "-0", "1.50", "-.5"]
    ),
    st.decimals(-1000, 1000, places=2).map(str),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=5).map(
        lambda text: "'" + text.replace("'", "''") + "'"
    ),
)
_COLUMN = st.sampled_from(["id", "age", "balance", "name", "email", "created", "active"])
_OPERATOR = st.sampled_from(["=", "<>", "<", ">=", "+ 1 =", "- 2 >", "|| 'x' =", "between 1 and", "* -3 <"])


@given(st.lists(st.tuples(_COLUMN, _OPERATOR, _LITERAL), min_size=1, max_size=4))
def test_any_condition(conditions: list[tuple[str, str, str]]) -> None:
    text = "select id from users where " + " and ".join(" ".join(condition) for condition in conditions)
    through = _through_key(text)
    assert through is None or through == _as_written(text)


def test_a_shape() -> None:
    text = "UPDATE t SET v = v + -4 WHERE id = 7"
    shape, integers = split_integers(text)
    assert shape == ("UPDATE t SET v = v +", " ", " WHERE id =", " ", "") and integers == [-4, 7]
    lifted = normalize(text)
    assert lifted is not None and shape_decides(shape, integers, lifted)


@pytest.mark.parametrize(
    "text",
    [
        "select id from users where id = 5 and name = 'a 7 b'",  # digits of a string
        'select id from users where id = 5 and "a 7 b" = 1',
        "select id from users where id = 5 and age = 1.5",
        "select id from users where id = 5 and balance = 12345678901",
        "select 5 from users where id = 5",  # the first is not lifted
        "select id from users where id = 5 - 3 -4",  # a sign that is none
    ],
)
def test_a_shape_that_does_not_tell(text: str) -> None:
    lifted = normalize(text)
    assert lifted is None or not shape_decides(*split_integers(text), lifted)


_TOKENS = st.sampled_from(
    [
        "where",
        "id",
        "age",
        "=",
        "<",
        "%",
        "@",
        "-",
        "+",
        "*",
        "(",
        ")",
        ",",
        "and",
        "between",
        "limit",
        "select",
        "--",
        "in",
    ]
    + [
        "case",
        "1.5",
        "x1",
        "$1",
        "[",
        "]",
        "::",
        "interval",
        "set",
        "is",
        "or",
        ";",
        "any",
        "'a 3'",
        '"b 4"',
        "/*",
        "*/",
    ]
)
_SPACES = st.sampled_from(["", " ", "  ", "\n"])
_INTEGERS = st.integers(-(10**9), 10**9)


@given(
    st.lists(st.tuples(st.one_of(_TOKENS, st.none()), _SPACES), min_size=1, max_size=14),
    st.lists(_INTEGERS, min_size=14, max_size=14),
    st.lists(_INTEGERS, min_size=14, max_size=14),
)
def test_texts_of_one_shape_have_one_key(
    tokens: list[tuple[str | None, str]], ones: list[int], others: list[int]
) -> None:
    """Whatever the tokens: if the shape of one text decides, each text of that shape has its key and its own integers."""

    def text_with(integers: list[int]) -> str:
        numbers = iter(integers)
        return "select id from users where id = 5 and " + "".join(
            (str(next(numbers)) if token is None else token) + space for token, space in tokens
        )

    one, other = text_with(ones), text_with(others)
    shape, integers = split_integers(one)
    lifted = normalize(one)
    other_shape, other_integers = split_integers(other)
    if lifted is None or shape != other_shape or not shape_decides(shape, integers, lifted):
        return
    assert normalize(other) == (lifted.key, tuple(other_integers))
