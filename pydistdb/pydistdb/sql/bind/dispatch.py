"""The table of expression binders, and the way in to them.

Modules that bind a kind of node enter their functions into ``BINDERS`` when imported; so a function call may hold a
subquery that holds a function call, without the modules importing one another in circles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import coerce_to_boolean
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.tree import Expr, Rel

ExpressionBinder = Callable[[Binder, Scope, Node], Expr]

BINDERS: dict[str, ExpressionBinder] = {}

StatementBinder = Callable[[Binder, Scope | None, Node], Rel]
STATEMENT_BINDERS: dict[str, StatementBinder] = {}
"""Binders of whole statements by the parser's name of them, for statements that expressions bring in (functions)."""

_WORDS = {"XmlExpr": "XML", "CurrentOfExpr": "WHERE CURRENT OF", "XmlSerialize": "XMLSERIALIZE"}


COPY_CONDITIONS = "COPY FROM WHERE conditions"
_CONDITIONS = {"JOIN conditions": "JOIN/ON", "MERGE WHEN conditions": "WHEN", COPY_CONDITIONS: "WHERE"}
"""What the type errors of conditions call them."""


def bind(b: Binder, scope: Scope, wrapper: Node) -> Expr:
    """Bind one expression."""
    for kind, node in wrapper.items():
        binder = BINDERS.get(kind)
        if binder is not None:
            expr = binder(b, scope, node)
            if b.trace is not None:
                b.trace[id(wrapper)] = expr
            return expr
        words = _WORDS.get(kind, kind)
        raise FeatureNotSupported(f"{words} is not supported", position=b.position(location_of(wrapper)))
    raise FeatureNotSupported("empty expression")


def bind_list(b: Binder, scope: Scope, nodes: Sequence[Node]) -> list[Expr]:
    return [bind(b, scope, node) for node in nodes]


def bind_condition(b: Binder, scope: Scope, wrapper: Node, what: str) -> Expr:
    """Bind a condition; ``what`` is the clause in the words of the error messages."""
    before = scope.clause
    scope.clause = what
    expr = coerce_to_boolean(b, bind(b, scope, wrapper), _CONDITIONS.get(what, what), location_of(wrapper))
    scope.clause = before
    return expr
