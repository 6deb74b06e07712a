"""TABLESAMPLE: some of a table's rows, each chosen by chance with the same probability.

A sample is a filter on the row's key and a seed: REPEATABLE's, or one drawn when the statement starts.  BERNOULLI and SYSTEM
do the same here: SYSTEM's block is a single row. ::

    FROM t TABLESAMPLE BERNOULLI (10)      Filter(tablesample(key, 10, (SELECT random())), Scan(t, key, …))

Source: PostgreSQL 15 manual, SELECT; tsm_bernoulli.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pydistdb.sql.bind.from_clause as from_clause
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.calls import call_by_name
from pydistdb.sql.bind.coerce import UNKNOWN_OID, coerce, coerce_to_target, type_named
from pydistdb.sql.bind.dispatch import bind
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.naming import strings
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import NO_ROWS_OF_NOTHING, Scope
from pydistdb.sql.errors import DatabaseError, DatatypeMismatch, FeatureNotSupported, UndefinedObject
from pydistdb.sql.functions.row_keys import SAMPLED
from pydistdb.sql.tree import Call, ColumnRef, Expr, Filter, OutputColumn, Project, Subquery
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.known import BOOL, BYTEA, FLOAT4, FLOAT8

if TYPE_CHECKING:
    from pydistdb.sql.bind.scope import FromItem


def bind_sample(b: Binder, scope: Scope, node: Node, items: list[FromItem]) -> FromItem:
    """A RangeTableSample node."""
    position = b.position(node.get("location", -1))
    method = strings(node["method"])[-1]
    wanted, scope.wants_keys = scope.wants_keys, True
    item = from_clause.bind_item(b, scope, node["relation"], items)
    scope.wants_keys = wanted
    source = item.sources[0]
    if source.table is None or source.key_id is None:
        raise FeatureNotSupported(
            "TABLESAMPLE clause can only be applied to tables and materialized views",
            position=b.position(node["relation"].get("RangeVar", {}).get("location", -1)),
        )
    if method not in ("bernoulli", "system"):
        raise UndefinedObject(f"tablesample method {method} does not exist", position=position)
    if len(node["args"]) != 1:
        raise DatabaseError.of(
            "2202H", f"tablesample method {method} requires 1 argument, not {len(node['args'])}", position=position
        )
    inside = Scope(from_clause.lateral_scope(scope, items, True), "FROM")
    percentage = _argument(b, inside, node["args"][0], FLOAT4)
    if "repeatable" in node:
        seed = _argument(b, inside, node["repeatable"], FLOAT8)
    else:
        made = call_by_name(b, "random", (), -1)
        drawn = Project((OutputColumn(b.new_id(), "", FLOAT8),), NO_ROWS_OF_NOTHING, (made,))
        seed = Subquery(FLOAT8, "scalar", drawn)
    condition = Call(BOOL, SAMPLED, (ColumnRef(BYTEA, source.key_id, "ctid", False), percentage, seed))
    item.rel = Filter(item.rel.columns, item.rel, condition)
    return item


def _argument(b: Binder, scope: Scope, node: Node, target: SqlType) -> Expr:
    expr = bind(b, scope, node)
    if expr.type.oid == UNKNOWN_OID:
        return coerce(b, expr, target, "i", location_of(node))
    converted = coerce_to_target(b, expr, target, "a", location_of(node))
    if converted is None:
        raise DatatypeMismatch(
            f"TABLESAMPLE argument must be type {type_named(target.oid)}, not type {type_named(expr.type.oid)}",
            position=b.position(location_of(node)),
        )
    return converted
