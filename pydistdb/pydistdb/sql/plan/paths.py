"""What a way to read a table promises, and what the terms that lead there say.

A ``Path`` is an access with what it is expected to find, and what that costs.  It is made column by column: an equality or a list
of values as far as there are any (``equality``), then a pair of bounds (``bound``), each with its share of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.node import node
from pydistdb.sql.plan.estimate import RANGE_SELECTIVITY, TWO_SIDED_SELECTIVITY, Estimator, array_length
from pydistdb.sql.plan.matching import Keys, Match
from pydistdb.sql.plan.physical import Access, Term
from pydistdb.sql.tree import Const, Expr

MOST_POINTS = 20_000
"""An IN list that spans more keys than this is checked row by row."""

OrderKey = tuple[int, bool, bool]
"""(column id, descending, nulls first)"""


@node
class Path:
    access: Access
    rows: float
    cost: float
    order: tuple[OrderKey, ...]
    constant: frozenset[int]
    """Columns that have one value in all of the path's rows."""


@node
class Search:
    """A table, and what is known of its rows and of those that are looked for."""

    table: Table
    keys: Keys
    found: dict[int, list[Match]]
    """What the condition's terms say, by the number of the key that they speak of."""
    total: float
    """How many rows the table has."""
    estimator: Estimator


def equal_share(match: Match, column: Expr, count: float, total: float, estimator: Estimator) -> float:
    """The share of rows with one of the values that a term asks for."""
    if estimator.facts(column) is not None and all(isinstance(value, Const) for value in match.values):
        return estimator.selectivity(match.term, total)
    return min(count / estimator.distinct(column, total, unfiltered=True), 1.0)


def range_share(
    terms: Sequence[Expr], bounds: Sequence[tuple[Expr, bool]], column: Expr, total: float, estimator: Estimator
) -> float:
    known = estimator.facts(column) is not None
    if known and all(isinstance(value, Const) for value, _ in bounds):
        return estimator.combined(terms, total)
    return (1.0, RANGE_SELECTIVITY, TWO_SIDED_SELECTIVITY)[len(bounds)]


def equality(candidates: Sequence[Match], points: float) -> Match | None:
    for kinds in (("=",), ("null",), ("in", "any")):
        for match in candidates:
            if match.kind in kinds:
                if match.kind == "in" and points * len(match.values) > MOST_POINTS:
                    continue
                return match
    return None


def term_of(match: Match) -> tuple[Term, float]:
    match match.kind:
        case "null":
            return Term(is_null=True), 1.0
        case "any":
            return Term(array=match.values[0]), max(array_length(match.values[0]), 1.0)
    return Term(match.values), float(len(match.values))


def bound(candidates: Sequence[Match], kinds: tuple[str, str]) -> tuple[tuple[tuple[Expr, bool], ...], Expr | None]:
    for match in candidates:
        if match.kind in kinds:
            return ((match.values[0], match.kind.endswith("=")),), match.term
    return (), None
