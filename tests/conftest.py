"""Options of the whole test suite."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import golden

# The same examples in every run: a change is judged by what it changed.  --hypothesis-profile=default explores.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

# Where Python may write no bytecode beside its source, all clusters of all tests share one cache (tools/local_cluster.py):
# compiling everything takes a node four seconds of processor time.
if os.environ.get("PYTHONDONTWRITEBYTECODE"):
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(tempfile.gettempdir(), f"pydistdb-bytecode-{os.getuid()}")))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="write the actual output into the golden scripts")


def pytest_configure(config: pytest.Config) -> None:
    golden.rewrite = config.getoption("--rewrite")
