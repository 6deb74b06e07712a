"""Options of the whole test suite."""

from __future__ import annotations

import pytest

from tests.support import golden


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="write the actual output into the golden scripts")


def pytest_configure(config: pytest.Config) -> None:
    golden.rewrite = config.getoption("--rewrite")
