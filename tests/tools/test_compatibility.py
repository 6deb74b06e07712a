"""What compatibility.py reads from the output of test runners."""

from __future__ import annotations

from pydistdb_tools.compatibility import Outcome, causes, page, totals

PYTEST = """
E   psycopg.errors.FeatureNotSupported: DO is not supported
E   sqlalchemy.exc.NotSupportedError: (psycopg.errors.FeatureNotSupported) DO is not supported
E   pg8000.exceptions.DatabaseError: {'S': 'ERROR', 'V': 'ERROR', 'C': '42704', 'M': 'type "point" does not exist', 'P': '19'}
E   psycopg.errors.FeatureNotSupported: DO is not supported
== 46 failed, 265 passed, 63 skipped, 5 errors, 518 subtests passed in 45.34s ==
"""
UNITTEST = """
django.db.utils.NotSupportedError: DO is not supported
Ran 1511 tests in 226.397s

FAILED (failures=2, errors=10, skipped=121)
"""


def test_totals() -> None:
    assert totals(PYTEST) == (265, 51, 63)
    assert totals(UNITTEST) == (1378, 12, 121)
    assert totals("Ran 1200 tests in 43.323s\n\nOK (skipped=26, expected failures=2)") == (1174, 0, 26)
    assert totals("no tests here") == (0, 0, 0)


def test_causes_are_counted_once() -> None:
    assert causes(PYTEST) == [("DO is not supported", 2), ('type "point" does not exist', 1)]
    assert causes(UNITTEST) == []


def test_page() -> None:
    text = page({"one": Outcome(3, 1, 0, (("why", 1),)), "two": Outcome(5, 0, 2, ())})
    assert "| one | 3 | 1 | 0 |\n| two | 5 | 0 | 2 |\n" in text
    assert "\n## one\n\nWhat failed tests ended with:\n\n* 1 × why\n" in text
