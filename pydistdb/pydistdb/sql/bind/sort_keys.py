"""ORDER BY items as sort keys, and which types can be sorted at all.

    ORDER BY x DESC            SortKey(x, descending, nulls_first): NULL counts as larger than everything
    ORDER BY x USING <         an operator says the direction; only "<" and ">" are ordering operators
    ORDER BY document (json)   42883: could not identify an ordering operator for type json

``sort_keys`` is for aggregates and windows, where a key is always an expression; a query's own ORDER BY, which knows
positions and output names, is in query.py and comes here with the expression found.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import resolve_unknown, type_named
from pydistdb.sql.bind.dispatch import bind
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.operators import ordering
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.errors import UndefinedFunction, WrongObjectType
from pydistdb.sql.tree import Expr, RowExpr, SortKey
from pydistdb.sql.types import registry


def sort_keys(b: Binder, scope: Scope, items: Sequence[Node]) -> list[SortKey]:
    """ORDER BY inside an aggregate or a window: expressions only, no positions or aliases."""
    keys = []
    for item in items:
        node = item["SortBy"]
        expression = resolve_unknown(b, bind(b, scope, node["node"]))
        keys.append(sort_key(b, expression, node, location_of(node["node"])))
    return keys


def sort_key(b: Binder, expression: Expr, node: Node, location: int) -> SortKey:
    """Give an expression the direction that a SortBy node asks for."""
    check_sortable(b, expression, location, "ordering")
    descending = node.get("sortby_dir") == "SORTBY_DESC"
    if node.get("sortby_dir") == "SORTBY_USING":
        name = node["useOp"][-1]["String"]["sval"]
        if name not in ("<", ">"):
            raise WrongObjectType(
                f"operator {name} is not a valid ordering operator",
                hint='Ordering operators must be "<" or ">" members of btree operator families.',
                position=b.position(location),
            )
        descending = name == ">"
    nulls = node.get("sortby_nulls", "SORTBY_NULLS_DEFAULT")
    nulls_first = descending if nulls == "SORTBY_NULLS_DEFAULT" else nulls == "SORTBY_NULLS_FIRST"
    return SortKey(expression, descending, nulls_first)


_sortable: dict[int, bool] = {}
_ONLY_EQUAL = frozenset({registry.XID.oid, registry.CID.oid})
"""Types that have an equality and no order."""


def is_sortable(oid: int) -> bool:
    """Tell whether values of a type have an order (and so an equality)."""
    answer = _sortable.get(oid)
    if answer is None:
        sql_type = registry.type_by_oid(oid)
        if sql_type.is_array:
            answer = is_sortable(sql_type.element_oid)
        else:
            answer = ordering(oid) is not None or sql_type.name == "record"
        _sortable[oid] = answer
    return answer


def check_sortable(b: Binder, expression: Expr, location: int, what: str, may_hash: bool = True) -> None:
    """Refuse json and the like; ``what``: "ordering" or "equality", for which a hash may do."""
    if is_sortable(expression.type.oid) or (what == "equality" and may_hash and expression.type.oid in _ONLY_EQUAL):
        return
    if isinstance(expression, RowExpr):
        for item in expression.items:
            check_sortable(b, item, location, what, may_hash)
        return
    hint = "Use an explicit ordering operator or modify the query." if what == "ordering" else None
    raise UndefinedFunction(
        f"could not identify an {what} operator for type {type_named(expression.type.oid)}",
        hint=hint,
        position=b.position(location),
    )
