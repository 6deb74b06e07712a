"""Fixtures of the tests that ask for the same answers wherever the rows are.

A module that uses them says what its tables are and where they are cut::

    def laboratory(**options: Any) -> Laboratory: ...
    def cut_up(lab: Laboratory) -> None: ...
"""

from __future__ import annotations

import pytest

from tests.sql.laboratory import Laboratory


@pytest.fixture(scope="module")
def near(request: pytest.FixtureRequest) -> Laboratory:
    """The module's tables with all rows at hand."""
    made: Laboratory = request.module.laboratory()
    return made


@pytest.fixture(scope="module")
def far(request: pytest.FixtureRequest) -> Laboratory:
    """The same tables in ranges of other nodes."""
    made: Laboratory = request.module.laboratory(distant=True)
    request.module.cut_up(made)
    return made
