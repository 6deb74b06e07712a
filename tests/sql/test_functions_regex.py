"""Regular expressions that would take forever one way after the other, and that both engines find the same."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions import strings
from pydistdb.sql.functions.patterns import like_predicate, regexp_replace
from pydistdb.sql.functions.regex import compile_regex
from pydistdb.sql.functions.regex_extent import Spanning
from pydistdb.sql.functions.regex_linear import Expression


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("(a+)+b", "a" * 40),
        ("(a|a)*b", "a" * 40),
        ("(a|ab|b)*c", "ab" * 3_000),
        ("(a?){50}a{50}b", "a" * 60),
        ("(a?a?)*b", "a" * 60),
        ("a?" * 30 + "a" * 30 + "b", "a" * 31),
        ("(a|a)" * 30 + "b", "a" * 40),
        (".*.*.*.*.*=x", "a" * 2_000),
        (r"\s+$", " " * 100_000 + "x"),
        ("(x+x+)+y", "x" * 30_000),
        (r"([[:alnum:]]+[[:alpha:]]*)+!", "é1" * 500),
    ],
)
def test_nothing_takes_long(pattern: str, text: str) -> None:
    started = time.perf_counter()
    assert compile_regex(pattern).search(text) is None
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(("pattern", "text"), [(r"(a+)+\1b", "a" * 40), ("(?=(a+)+b)a", "a" * 40)])
def test_what_no_engine_can_do_is_refused(pattern: str, text: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        compile_regex(pattern).search(text)
    assert caught.value.sqlstate == "2201B"


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(DatabaseError):
        compile_regex("(" * 20_000 + ")" * 20_000)


ATOMS = st.sampled_from(
    ["a", "b", ".", r"\d", r"\w", r"\s", "[^a]", "[[:alpha:]]", "[^[:space:]]", "[a-c1]", r"\D", r"\W", r"\S", "é", "_"]
)
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("({0[0]}|{0[1]})".format),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{1,3}", "*?"])).map("({0[0]}){0[1]}".format),
    ),
    max_leaves=6,
)
TEXTS = st.text(st.sampled_from("abc1 _é\n\u00a0中٣Ⅷ"), max_size=8)


@given(PATTERNS, TEXTS, st.sampled_from(["", "i", "n"]), st.sampled_from(["", "^", "$"]))
def test_both_engines_find_the_same(pattern: str, text: str, options: str, anchor: str) -> None:
    pattern = anchor + pattern if anchor != "$" else pattern + anchor
    compiled = compile_regex(pattern, options)
    expression: Expression = compiled._inner if isinstance(compiled, Spanning) else compiled
    linear: Any = expression.compile_linear()
    assert linear is not None
    # What a group holds that was gone through several times is a matter of taste; the whole match is not.
    found = expression.backtracking.search(text)
    assert (found and found.span()) == ((other := linear.search(text)) and other.span())


GREEDY = st.recursive(
    st.sampled_from(["a", "b", "ab", "c", "."]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("({0[0]}|{0[1]})".format),
        st.tuples(inner, st.sampled_from(["?", "{1,3}"])).map("({0[0]}){0[1]}".format),
    ),
    max_leaves=6,
)


@given(GREEDY, GREEDY, st.text(st.sampled_from("abcd"), max_size=8))
def test_a_choice_takes_the_longest_match(left: str, right: str, text: str) -> None:
    pattern = f"{left}|({right})"
    plain = re.compile(pattern)
    spans = [
        (first, -last)
        for first in range(len(text) + 1)
        for last in range(first, len(text) + 1)
        if plain.fullmatch(text, first, last)
    ]
    found = compile_regex(pattern).search(text)
    expected = min(spans, default=None)
    assert (found and found.span()) == (expected and (expected[0], -expected[1]))


@given(st.text(st.sampled_from("ab%_"), max_size=8), st.text(st.sampled_from("ab\n"), max_size=12), st.booleans())
def test_like_finds_what_the_plain_expression_finds(pattern: str, text: str, fold_case: bool) -> None:
    plain = re.compile(pattern.replace("%", ".*").replace("_", "."), re.DOTALL)
    assert like_predicate(pattern, fold_case)(text) == (plain.fullmatch(text) is not None)


def test_like_with_many_wildcards() -> None:
    started = time.perf_counter()
    assert not like_predicate("%a_%" * 12 + "b", False)("a" * 20_000)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: strings.repeat("ab", 200_000_000),
        lambda: strings.lpad("a", 2_000_000_000),
        lambda: strings.rpad("a", 300_000_000, "xy"),
        lambda: strings.replace("a" * 1_000_000, "a", "b" * 1_000),
        lambda: regexp_replace("a" * 1_000_000, "a", "b" * 1_000, "g"),
    ],
)
def test_no_function_makes_a_text_of_any_length(call: Callable[[], str]) -> None:
    with pytest.raises(DatabaseError) as caught:
        call()
    assert caught.value.sqlstate == "54000"
    assert caught.value.message == "requested length too large"
