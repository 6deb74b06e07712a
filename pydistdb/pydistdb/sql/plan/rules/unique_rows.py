"""DISTINCT of rows that are all different goes, and so do sort keys behind those that settle the order, and any order of one row.

::

    SELECT DISTINCT id, name FROM t            id is t's primary key: the rows of t
    SELECT DISTINCT g, count(*) … GROUP BY g   one row per group as it is
    ORDER BY id, name                          ORDER BY id, which the primary key gives
    … WHERE id = 4 ORDER BY v                  nothing to be sorted

What tells rows apart is found out in keys.py.
"""

from __future__ import annotations

from dataclasses import replace

from pydistdb.sql.plan.expressions import map_parts, map_queries
from pydistdb.sql.plan.keys import AT_MOST_ONE_ROW, keys_of, settling
from pydistdb.sql.tree import Distinct, FirstRows, Limit, Rel, Sort


def unique_rows(relation: Rel) -> Rel:
    relation = map_parts(map_queries(relation, unique_rows), on_relation=unique_rows)
    match relation:
        case Distinct(on=on) if (keys := keys_of(relation.input)) and (not on or AT_MOST_ONE_ROW in keys):
            return relation.input
        case FirstRows() if AT_MOST_ONE_ROW in keys_of(relation.input):
            return relation.input
        case Sort():
            count = settling(relation.keys, keys_of(relation.input))
            if count == 0:
                return relation.input
            return relation if count is None else replace(relation, keys=relation.keys[:count])
        case Limit(with_ties=True) if AT_MOST_ONE_ROW in keys_of(relation.input):
            return replace(relation, with_ties=False)  # which asks for a Sort
    return relation
