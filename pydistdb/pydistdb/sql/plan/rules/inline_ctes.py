"""A WITH query that is read once and has no side effects is put where it is read, so that filters reach into it.

As in Postgres 12 and later; one that is read several times is computed once, one that is not read at all is dropped.
"""

from __future__ import annotations

from pydistdb.sql.plan.expressions import (
    all_relations,
    map_parts,
    map_queries,
    relation_is_volatile,
    rewrite_deep,
)
from pydistdb.sql.tree import ColumnRef, Cte, CteScan, Delete, Expr, Insert, Merge, Project, Rel, Subquery, Update


def changes_data(relation: Rel) -> bool:
    return any(isinstance(part, Insert | Update | Delete | Merge) for part in all_relations(relation))


def inline_ctes(relation: Rel) -> Rel:
    relation = map_parts(map_queries(relation, inline_ctes), on_relation=inline_ctes)
    if not isinstance(relation, Cte) or changes_data(relation.definition):
        return relation
    readers = [
        part for part in all_relations(relation.body) if isinstance(part, CteScan) and part.cte_id == relation.cte_id
    ]
    if not readers:
        return relation.body
    if relation.step is not None or relation.materialized or relation_is_volatile(relation.definition):
        return relation
    if len(readers) > 1:
        # NOT MATERIALIZED asks for copies; their column ids would have to be made anew.
        return relation
    return _replace(relation.body, relation.cte_id, relation.definition)


def _replace(relation: Rel, cte_id: int, definition: Rel) -> Rel:
    if isinstance(relation, CteScan) and relation.cte_id == cte_id:
        columns = definition.columns
        expressions = tuple(ColumnRef(column.type, column.id, column.name) for column in columns)
        return Project(relation.columns, definition, expressions)

    def in_expression(expression: Expr) -> Expr:
        if isinstance(expression, Subquery):
            return map_parts(expression, on_relation=lambda query: _replace(query, cte_id, definition))
        return expression

    def on_expression(expression: Expr) -> Expr:
        return rewrite_deep(expression, in_expression)

    return map_parts(relation, on_expression, lambda part: _replace(part, cte_id, definition))
