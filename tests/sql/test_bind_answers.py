"""The binder answers as PostgreSQL 15 did: result types, parameter types, and errors with code, position and hint."""

from __future__ import annotations

import pytest

from tests.sql.bind_answers import OurAnswers, blocks, scripts

_STATEMENTS = [
    pytest.param(statement, answer, id=f"{path.stem.removeprefix('answers_')}-{statement[:60]}")
    for path in scripts()
    for statement, answer in blocks(path)
]


@pytest.fixture(scope="module")
def ours() -> OurAnswers:
    return OurAnswers()


@pytest.mark.parametrize(("statement", "answer"), _STATEMENTS)
def test_answers_as_postgres_does(ours: OurAnswers, statement: str, answer: str) -> None:
    assert ours(statement) == answer
