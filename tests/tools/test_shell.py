"""The shell's own parts: when an input is complete, and how rows look."""

from __future__ import annotations

import pytest
from pydistdb_tools.remote import Result
from pydistdb_tools.shell import format_rows, is_complete


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("", True),
        ("SELECT 1;", True),
        ("SELECT 1", False),
        ("SELECT ';'", False),
        ("SELECT ';';", True),
        ("SELECT 1; -- done;", False),
        ("SELECT 1 /* ; */", False),
        ("\\d users", True),
        ("SELECT\n1\n;\n", True),
    ],
)
def test_when_enter_runs_the_input(text: str, complete: bool) -> None:
    assert is_complete(text) == complete


def test_rows_look_as_in_psql() -> None:
    result = Result("SELECT 2", ("id", "name"), (23, 25), (("1", "Alice"), ("20", None)))
    assert format_rows(result) == " id | name  \n----+-------\n  1 | Alice\n 20 | \n(2 rows)\n"


def test_values_with_line_breaks_take_several_lines() -> None:
    result = Result("SELECT 1", ("a", "b"), (25, 23), (("one\ntwo", "5"),))
    assert format_rows(result) == "  a  | b \n-----+---\n one+| 5\n two | \n(1 row)\n"


def test_expanded_rows() -> None:
    result = Result("SELECT 1", ("id", "name"), (23, 25), (("1", "Alice"),))
    assert format_rows(result, expanded=True) == "-[ RECORD 1 ]-----------\nid   | 1\nname | Alice\n"
