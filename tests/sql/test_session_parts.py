"""Settings, plan cache and COPY formats on their own."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydistdb.sql.copy.binary import CopyColumn
from pydistdb.sql.copy.formats import BINARY_HEADER, BINARY_TRAILER, CopyOptions, header_line, row_writer
from pydistdb.sql.copy.reader import copy_reader
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.plan_cache import CachedPlan, PlanCache
from pydistdb.sql.session.settings import SessionSettings
from pydistdb.sql.settings import SETTINGS, base_value, canonical, find, join_identifiers, parse_bool, split_identifiers
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.known import BOOL, BYTEA, INT4, INT8, NUMERIC, TEXT

from tests.support.sql_client import SqlServer

CONTEXT = EvalContext()

# ---------------------------------------------------------------------------------------------- settings


def test_every_default_is_what_show_gives() -> None:
    for setting in SETTINGS.values():
        if setting.context not in ("internal", "postmaster"):
            assert canonical(setting, setting.default) == setting.default or setting.key == "timezone", setting.name


@pytest.mark.parametrize(
    ("name", "text", "shown", "base"),
    [
        ("work_mem", "4096", "4MB", "4096"),
        ("work_mem", "1.5MB", "1536kB", "1536"),
        ("work_mem", " 2 GB ", "2GB", "2097152"),
        ("statement_timeout", "60000", "1min", "60000"),
        ("statement_timeout", "90s", "90s", "90000"),
        ("statement_timeout", "0", "0", "0"),
        ("effective_cache_size", "1GB", "1GB", "131072"),
        ("random_page_cost", "1.10", "1.1", "1.1"),
        ("jit", "t", "on", "on"),
        ("synchronous_commit", "yes", "on", "on"),
        ("extra_float_digits", "-3", "-3", "-3"),
        ("log_min_duration_statement", "-1", "-1", "-1"),
    ],
)
def test_values_are_shown_in_their_best_unit(name: str, text: str, shown: str, base: str) -> None:
    setting = find(name)
    assert canonical(setting, text) == shown
    assert base_value(setting, shown) == base


@given(st.sampled_from(sorted(SETTINGS)), st.text(max_size=12))
def test_any_text_is_a_value_or_refused(key: str, text: str) -> None:
    try:
        shown = canonical(SETTINGS[key], text)
    except DatabaseError as error:
        assert error.sqlstate in ("22023", "0A000")
    else:
        assert canonical(SETTINGS[key], shown) == shown


def test_booleans_are_unique_prefixes() -> None:
    assert [parse_bool(text) for text in ("t", "TRUE", "y", "on", "1")] == [True] * 5
    assert [parse_bool(text) for text in ("f", "no", "of", "off", "0")] == [False] * 5
    assert [parse_bool(text) for text in ("o", "", "2", "truest", "10")] == [None] * 5


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_identifier_lists_come_back(names: list[str]) -> None:
    assert split_identifiers("search_path", join_identifiers(tuple(names))) == names


class Model:
    """Settings in the plainest way: a stack of whole dictionaries."""

    def __init__(self) -> None:
        self.session = 0
        self.committed = 0
        self.local: int | None = None

    @property
    def value(self) -> int:
        return self.session if self.local is None else self.local


@given(st.lists(st.tuples(st.sampled_from(["set", "local", "commit", "rollback"]), st.integers(1, 9))))
def test_settings_follow_their_transaction(steps: list[tuple[str, int]]) -> None:
    model = Model()
    changes: list[str] = []
    settings = SessionSettings({"statement_timeout": "0"}, "u", lambda setting, value: changes.append(value))
    setting = find("statement_timeout")
    for action, number in steps:
        if action == "set":
            settings.set(setting, f"{number}s", local=False)
            model.session, model.local = number, None
        elif action == "local":
            settings.set(setting, f"{number}s", local=True)
            model.local = number
        elif action == "commit":
            settings.commit()
            model.committed, model.local = model.session, None
        else:
            settings.rollback()
            model.session, model.local = model.committed, None
        assert settings.values[setting.key] == (f"{model.value}s" if model.value else "0")
    if changes:
        assert changes[-1] == settings.values[setting.key]


# ---------------------------------------------------------------------------------------------- plan cache


def plan(text: str, state: object) -> CachedPlan:
    return CachedPlan(text, None, 1, state)


def test_plans_belong_to_a_state_of_the_catalog() -> None:
    cache = PlanCache()
    old, new = object(), object()
    kept = plan("a", old)
    cache.put("a", kept)
    assert cache.get("a", old) is kept
    assert cache.get("a", new) is None
    assert cache.get("b", old) is None
    assert (cache.hits, cache.misses) == (1, 2)


def test_the_cache_is_bounded_in_plans_and_in_text() -> None:
    state = object()
    cache = PlanCache(max_plans=3, max_text_bytes=100)
    for name in "abc":
        cache.put(name, plan(name, state))
    cache.get("a", state)
    cache.put("d", plan("d", state))
    assert [cache.get(name, state) is not None for name in "abcd"] == [True, False, True, True]
    cache.put("long", plan("x" * 99, state))
    assert len(cache) == 2
    cache.put("too long", plan("x" * 200_000, state))
    assert cache.get("too long", state) is None


def test_environments_are_told_apart() -> None:
    cache = PlanCache()
    assert cache.environment("db", "UTC") == cache.environment("db", "UTC")
    assert cache.environment("db", "UTC") != cache.environment("db", "CET")


# ---------------------------------------------------------------------------------------------- COPY

COLUMNS = [CopyColumn("a", INT4), CopyColumn("b", TEXT), CopyColumn("c", NUMERIC), CopyColumn("d", BYTEA)]
TYPES = [column.type for column in COLUMNS]
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8) | st.text(
    '\\\t\n\r",|N.x', max_size=8
)
ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(-(2**31), 2**31 - 1),
        st.none() | TEXTS,
        st.none() | st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-999, max_value=999),
        st.none() | st.binary(max_size=4),
    ),
    max_size=6,
)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"delimiter": "|", "null": "nothing"},
    {"format": "csv"},
    {"format": "csv", "header": "true", "delimiter": ";"},
    {"format": "csv", "quote": "'", "escape": "\\"},
    {"format": "csv", "force_quote": ("*",)},
    {"format": "binary"},
]


@given(ROWS, st.sampled_from(OPTIONS), st.integers(1, 40))
def test_rows_survive_copying_out_and_in(rows: list[tuple[Any, ...]], given_: dict[str, Any], step: int) -> None:
    options = CopyOptions.of(given_, is_from=False)
    names = [column.name for column in COLUMNS]
    data = b"".join(row_writer(options, TYPES, CONTEXT, names)(rows))
    if options.binary:
        data = BINARY_HEADER + data + BINARY_TRAILER
    elif options.header:
        data = header_line(options, names) + data
    if options.csv and any(row[1] is not None and "\r" in row[1] for row in rows):
        return  # a carriage return inside quotes cannot be told from the file's own line ends, in Postgres neither
    reader_options = CopyOptions.of({k: v for k, v in given_.items() if k != "force_quote"}, is_from=True)
    reader = copy_reader(reader_options, "t", COLUMNS, CONTEXT)
    read: list[list[Any]] = []
    for start in range(0, len(data), step):
        read += reader.feed(data[start : start + step]).rows
    read += reader.finish().rows
    assert [[row[0], row[1], None if row[2] is None else Decimal(row[2]), row[3]] for row in read] == [
        list(row) for row in rows
    ]


@given(st.binary(max_size=200), st.sampled_from(OPTIONS), st.integers(1, 50))
def test_any_bytes_are_rows_or_an_error(data: bytes, given_: dict[str, Any], step: int) -> None:
    options = CopyOptions.of({k: v for k, v in given_.items() if k != "force_quote"}, is_from=True)
    reader = copy_reader(options, "t", COLUMNS, CONTEXT)
    try:
        for start in range(0, len(data), step):
            reader.feed(data[start : start + step])
        reader.finish()
    except DatabaseError as error:
        assert error.sqlstate[:2] in ("22", "54")


def test_unusual_integers_are_refused_as_postgres_does() -> None:
    for text, sqlstate in (("1_000", "22P02"), ("٣", "22P02"), ("3000000000", "22003"), ("", "22P02")):
        reader = copy_reader(CopyOptions(), "t", [CopyColumn("a", INT4)], CONTEXT)
        with pytest.raises(DatabaseError) as caught:
            reader.feed(f"7\n{text}\n".encode())
        assert caught.value.sqlstate == sqlstate
        assert caught.value.where == f'COPY t, line 2, column a: "{text}"'
    reader = copy_reader(CopyOptions(), "t", [CopyColumn("a", INT8), CopyColumn("b", BOOL)], CONTEXT)
    assert reader.feed(b" 12 \tt\n-9223372036854775808\tf\n").rows == [[12, True], [-(2**63), False]]


def test_prepared_statements_that_read_much_are_planned_for_their_values() -> None:
    client = SqlServer().connect()
    client.execute("create table t (id int primary key, kind int, v int); create index on t (kind)")
    client.execute("insert into t select i, case when i % 10 < 9 then 1 else i end, i from generate_series(1, 12000) i")
    client.execute("analyze t; prepare p (int) as select count(*), sum(v) from t where kind = $1 or v < 0")
    session = client.session
    plan = session.names.statement("p").plan

    def lines(value: int) -> str:
        chosen = session.plans.for_values(plan, (value,))
        assert chosen.compiled is not None
        return "\n".join(chosen.compiled.explain())

    assert "$1" not in lines(1) and plan.gains_by_values and not session.plans.for_values(plan, (1,)).gains_by_values
    assert client.rows("execute p (1)") == ["10800|64801200"]
    assert client.rows("execute p (19)") == ["1|19"] and client.rows("execute p (null)") == ["0|NULL"]
    client.execute("prepare o (int) as select id, v from t where v > $1")
    client.execute("prepare other (int) as select id, v from t where v > $1 or kind = 3")
    assert not session.names.statement("o").plan.gains_by_values, "there is nothing to choose"
    assert session.names.statement("other").plan.gains_by_values, "there is another index"
    client.execute(
        "set plan_cache_mode = force_generic_plan; prepare q (int) as select count(*) from t where v + $1 = 5"
    )
    assert not session.names.statement("q").plan.gains_by_values and client.rows("execute q (1)") == ["1"]
    client.execute("set plan_cache_mode = force_custom_plan; prepare r (int) as select v from t where id = $1")
    assert session.names.statement("r").plan.gains_by_values and client.rows("execute r (7)") == ["7"]
