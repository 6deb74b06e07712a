"""The CHECK conditions of domains as functions of a value.

The condition is bound with VALUE as its only column and compiled like any expression; the domain's definition keeps the
functions (types/domains.py), so this happens once per definition and node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydistdb.sql import bind
from pydistdb.sql.exec.codegen import Code
from pydistdb.sql.types import domains
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.user import TypeEntry


class _Surroundings:
    """What generated code asks of its State: nothing but the context."""

    __slots__ = ("context", "outer", "parameters")

    def __init__(self, context: EvalContext) -> None:
        self.context = context
        self.parameters: tuple[Any, ...] = ()
        self.outer: dict[int, Any] = {}


def compile_checks(entry: TypeEntry, context: EvalContext) -> tuple[domains.Check, ...]:
    definition = entry.definition
    base = domains.base_type(definition.oid)
    return tuple(
        (check.name, _function(bind.bind_domain_check(check.expression, base, context.catalog, context)))
        for check in sorted(definition.checks, key=lambda check: check.name)
    )


def _function(condition: Any) -> Callable[[EvalContext, Any], Any]:
    code = Code({bind.DOMAIN_VALUE_ID: ("v", True)}, ("v",))
    source = code.value(condition)
    compiled = code.build("f(S, v)", f"return {source}")

    def test(context: EvalContext, value: Any) -> Any:
        return compiled(_Surroundings(context), value)

    return test


domains.set_compiler(compile_checks)
