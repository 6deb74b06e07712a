"""What compatibility.py reads from the output of test runners."""

from __future__ import annotations

from pydistdb_tools.compatibility import Outcome, failures, page, totals

PYTEST = """
FAILED tests/test_a.py::TestA::test_do - psycopg.errors.FeatureNotSupported: DO is not supported
FAILED test/test_b.py::B_postgresql+psycopg_15_0::test_f[x-y] - sqlalchemy.exc.Error: (psycopg.Error) no
ERROR tests/test_c.py::test_point - pg8000.DatabaseError: {'C': '42704', 'M': 'type "point" does not exist', 'P': '19'}
FAILED tests/test_d.py::test_assert - assert 1 == 2
== 46 failed, 265 passed, 63 skipped, 5 errors, 518 subtests passed in 45.34s ==
"""
LINE = "=" * 70
UNITTEST = f"""
{LINE}
ERROR: test_call (backends.tests.Call.test_call)
{LINE.replace("=", "-")}
Traceback (most recent call last):
psycopg.errors.FeatureNotSupported: DO is not supported

The above exception was the direct cause of the following exception:

django.db.utils.NotSupportedError: DO is not supported

{LINE}
FAIL: test_less (basic.tests.Less.test_less)
It tells what it is for.
{LINE.replace("=", "-")}
AssertionError: 1 != 2

{LINE.replace("=", "-")}
Ran 1511 tests in 226.397s

FAILED (failures=2, errors=10, skipped=121)
"""


def test_totals() -> None:
    assert totals(PYTEST) == (265, 51, 63)
    assert totals(UNITTEST) == (1378, 12, 121)
    assert totals("Ran 1200 tests in 43.323s\n\nOK (skipped=26, expected failures=2)") == (1174, 0, 26)
    assert totals("no tests here") == (0, 0, 0)


def test_failures_by_name() -> None:
    assert failures(PYTEST) == {
        "TestA::test_do": "DO is not supported",
        "B_postgresql+psycopg::test_f[x-y]": "(psycopg.Error) no",
        "test_point": 'type "point" does not exist',
        "test_assert": "assert 1 == 2",
    }
    assert failures(UNITTEST) == {
        "test_call (backends.tests.Call.test_call)": "DO is not supported",
        "test_less (basic.tests.Less.test_less)": "1 != 2",
    }


def test_page() -> None:
    here = Outcome(3, 3, 0, {"A::x": "why", "A::y": "why", "z (m.Z.z)": "how"})
    text = page({"one": (here, Outcome(5, 1, 0, {"z (m.Z.z)": "how"})), "two": (Outcome(5, 0, 2, {}), None)})
    assert "| one | 3 | 2 | 1 | 0 |\n| two | 5 | 0 | 0 | 2 |\n" in text
    assert "\n## one\n\nFailed here only:\n\n* 2 × why (x, y)\n" in text
    assert "z (m" not in text
