"""How a catalog function gets its body: by its signature in Postgres, whose oid and result the functions' table has.

    @provides("pg_get_userbyid(oid)")
    def pg_get_userbyid(context, oid):
        return name_of(view_of(context), oid)

The body's first argument is the evaluation context, and ``view_of`` gives the catalog that the session sees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.functions.define import define, facts
from pydistdb.sql.types.base import EvalContext


def provides(*signatures: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate the body of a catalog function (its first argument is the EvalContext), unless it is there already."""

    def decorate(body: Callable[..., Any]) -> Callable[..., Any]:
        for signature in signatures:
            if functions.function_by_oid(facts(signature).oid) is None:
                define(signature, body, context=True)
        return body

    return decorate


def view_of(context: EvalContext) -> StateView:
    """The session's catalog."""
    if context.catalog is None:
        raise FeatureNotSupported("catalog functions need a session")
    return cast(StateView, context.catalog)
