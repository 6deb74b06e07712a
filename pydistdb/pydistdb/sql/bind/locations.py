"""Where an expression starts in the text: the leftmost location in its node, as Postgres points at it.

>>> location_of({"A_Expr": {"lexpr": {"ColumnRef": {"location": 7}}, "location": 9}})
7
"""

from __future__ import annotations

from pydistdb.sql.bind.parse import Node

_LEFT_PARTS = {
    "A_Expr": "lexpr",
    "SubLink": "testexpr",
    "NullTest": "arg",
    "BooleanTest": "arg",
    "CollateClause": "arg",
}


def location_of(wrapper: Node) -> int:
    """The byte offset of an expression's first token (brackets not counted); -1 if unknown."""
    for kind, node in wrapper.items():
        own = int(node.get("location", -1))
        inner: Node | None = None
        if kind == "TypeCast":
            inner = node["arg"]
            own = own if own >= 0 else int(node["typeName"].get("location", -1))
        elif kind == "A_Indirection":
            inner = node["arg"]
        elif kind == "BoolExpr":
            inner = node["args"][0]
        elif kind == "FuncCall":
            inner = node["args"][0] if node.get("funcformat") == "COERCE_SQL_SYNTAX" and node.get("args") else None
        elif kind in _LEFT_PARTS:
            inner = node.get(_LEFT_PARTS[kind])
        if inner is None:
            return own
        start = location_of(inner)
        if start < 0 or 0 <= own < start:
            return own
        return start
    return -1
