"""Where a recursive WITH query may refer to itself: once, in FROM, and not where earlier rows could take back later ones.

Source: PostgreSQL 15, parse_cte.c (checkWellFormedRecursion).
"""

from __future__ import annotations

from typing import Any

from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.errors import DatabaseError

SUBQUERY, OUTER_JOIN, INTERSECT, EXCEPT = "a subquery", "an outer join", "INTERSECT", "EXCEPT"
_NULLABLE_SIDES = {
    "JOIN_LEFT": ("rarg",),
    "JOIN_RIGHT": ("larg",),
    "JOIN_FULL": ("larg", "rarg"),
}


def check_recursive_term(b: Binder, query: Node, name: str) -> None:
    """Refuse references that Postgres refuses; ``query`` is the right side of the UNION."""
    _Walk(b, name).visit({"SelectStmt": query}, None)


class _Walk:
    def __init__(self, b: Binder, name: str) -> None:
        self.b = b
        self.name = name
        self.found = False

    def visit(self, tree: Any, inside: str | None) -> None:
        """``inside``: the first construct around ``tree`` in which there must be no reference."""
        if isinstance(tree, list):
            for item in tree:
                self.visit(item, inside)
        elif isinstance(tree, dict):
            for kind, node in tree.items():
                match kind:
                    case "RangeVar":
                        self._relation(node, inside)
                    case "SelectStmt":
                        self._select(node, inside)
                    case "SubLink":
                        self.visit(node.get("testexpr"), inside)
                        self.visit(node["subselect"], inside or SUBQUERY)
                    case "JoinExpr":
                        nullable = _NULLABLE_SIDES.get(node.get("jointype", ""), ())
                        for part in ("larg", "rarg"):
                            self.visit(node[part], inside or (OUTER_JOIN if part in nullable else None))
                        self.visit(node.get("quals"), inside)
                    case _:
                        self.visit(node, inside)

    def _select(self, node: Node, inside: str | None) -> None:
        clause = node.get("withClause")
        if clause is not None and any(w["CommonTableExpr"]["ctename"] == self.name for w in clause["ctes"]):
            return
        operation = node.get("op", "SETOP_NONE")
        rest = {key: value for key, value in node.items() if key not in ("larg", "rarg")}
        if operation != "SETOP_NONE":
            left = right = inside
            if operation == "SETOP_INTERSECT" and node.get("all"):
                left = right = inside or INTERSECT
            elif operation == "SETOP_EXCEPT":
                left, right = inside or (EXCEPT if node.get("all") else None), inside or EXCEPT
            self._select(node["larg"], left)
            self._select(node["rarg"], right)
        self.visit(list(rest.values()), inside)

    def _relation(self, node: Node, inside: str | None) -> None:
        if node["relname"] != self.name or "schemaname" in node:
            return
        if inside is not None:
            words = f"within {inside}"
        elif self.found:
            words = "more than once"
        else:
            self.found = True
            return
        raise DatabaseError.of(
            "42P19",
            f'recursive reference to query "{self.name}" must not appear {words}',
            position=self.b.position(node.get("location", -1)),
        )
