"""Subqueries as expressions: EXISTS, scalar, ARRAY, IN and ANY/ALL, with rows on the left too.

``x IN (SELECT y …)`` becomes ``Subquery("any", query, test)`` whose test is ``x = y`` over the subquery's output column.
"""

from __future__ import annotations

from collections.abc import Sequence

import pydistdb.sql.bind.query as queries
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import coerce_to_boolean
from pydistdb.sql.bind.comparisons import compare_rows, operator_name
from pydistdb.sql.bind.dispatch import BINDERS, COPY_CONDITIONS, bind
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.errors import FeatureNotSupported, InvalidSyntax
from pydistdb.sql.tree import ColumnRef, Expr, Not, RowExpr, Subquery
from pydistdb.sql.types import registry
from pydistdb.sql.types.registry import BOOL

_WITHOUT_QUERIES = {
    COPY_CONDITIONS: "COPY FROM WHERE condition",
    "CHECK": "check constraint",
    "GENERATED": "column generation expression",
    "INDEX": "index expression",
    "INDEX WHERE": "index predicate",
}


def bind_sublink(b: Binder, scope: Scope, node: Node) -> Expr:
    """A SubLink node."""
    kind = node["subLinkType"]
    location = node["location"]
    if scope.clause in _WITHOUT_QUERIES:
        words = _WITHOUT_QUERIES[scope.clause]
        raise FeatureNotSupported(f"cannot use subquery in {words}", position=b.position(location))
    rel = queries.bind_subquery(b, scope, node["subselect"])
    columns = rel.columns
    match kind:
        case "EXISTS_SUBLINK":
            return Subquery(BOOL, "exists", rel)
        case "EXPR_SUBLINK" | "ARRAY_SUBLINK":
            if len(columns) != 1:
                raise InvalidSyntax("subquery must return only one column", position=b.position(location))
            output = columns[0].type
            if kind == "EXPR_SUBLINK":
                return Subquery(output, "scalar", rel)
            return Subquery(output if output.is_array else registry.array_of(output), "array", rel)
    left = bind(b, scope, node["testexpr"])
    name = operator_name(b, node["operName"], location) if "operName" in node else "="
    left_items: Sequence[Expr] = left.items if isinstance(left, RowExpr) else (left,)
    if len(left_items) < len(columns):
        raise InvalidSyntax("subquery has too many columns", position=b.position(location))
    if len(left_items) > len(columns):
        raise InvalidSyntax("subquery has too few columns", position=b.position(location))
    outputs = [ColumnRef(column.type, column.id, column.name) for column in columns]
    if kind == "ROWCOMPARE_SUBLINK":
        # The comparison is the value: true or false of the one row, NULL if there is none.
        test = compare_rows(b, name, left_items, outputs, location)
        return Subquery(BOOL, "scalar", queries.single_projection(b, rel, test))
    is_all = kind == "ALL_SUBLINK"
    if name == "<>" and is_all and len(left_items) == 1:
        # NOT IN as written by hand: the same as NOT (x = ANY …), which the planner knows.
        test = compare_rows(b, "=", left_items, outputs, location)
        return Not(BOOL, Subquery(BOOL, "any", rel, test))
    test = coerce_to_boolean(b, compare_rows(b, name, left_items, outputs, location), "ANY/ALL", location)
    return Subquery(BOOL, "all" if is_all else "any", rel, test)


BINDERS["SubLink"] = bind_sublink
