"""The examples in the docstrings of types and functions are true."""

from __future__ import annotations

import doctest
import pkgutil
from importlib import import_module

import pydistdb.sql.functions
import pydistdb.sql.types
import pytest
from pydistdb.sql.types import calendar, known

PACKAGES = (pydistdb.sql.types, pydistdb.sql.functions)
MODULES = [
    f"{package.__name__}.{module.name}" for package in PACKAGES for module in pkgutil.iter_modules(package.__path__)
]
GLOBALS = {name: value for name, value in vars(known).items() if name.isupper()} | {"days_of": calendar.days_of}


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name: str) -> None:
    import_module("pydistdb.sql.functions.registry")
    assert doctest.testmod(import_module(name), extraglobs=GLOBALS).failed == 0
