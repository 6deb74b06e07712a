"""A join that adds nothing goes.

A LEFT JOIN does, if nobody reads the right side's columns, and it has at most one row for each left one::

    SELECT o.id FROM orders o LEFT JOIN users u ON u.id = o.user_id        SELECT id FROM orders: users.id is unique

An inner or semi join does, if a foreign key sees to the one partner, and no more than its key is read of that::

    SELECT o.id, u.id FROM orders o JOIN users u ON u.id = o.user_id       SELECT id, user_id FROM orders
                                                                           WHERE user_id IS NOT NULL

Views and object-relational mappers write such joins all day long.  Within the side that goes only filters and projections may
stand above the table; which foreign keys count is told in partners.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydistdb.sql.plan.comparisons import comparison_terms
from pydistdb.sql.plan.expressions import (
    columns_of,
    conjoin,
    conjuncts,
    direct_parts,
    flatten_joins,
    free_columns,
    is_volatile,
    map_parts,
    map_queries,
    output_ids,
    substitute,
)
from pydistdb.sql.plan.implication import same
from pydistdb.sql.plan.partners import Parent, Partner, parent_of, partner
from pydistdb.sql.tree import (
    Aggregate,
    ColumnRef,
    Expr,
    Filter,
    IsNull,
    Join,
    Limit,
    Project,
    Rel,
    Scan,
    Sort,
)
from pydistdb.sql.types.known import BOOL

Replaced = dict[int, Expr]
"""Columns of sides that are gone, and what is equal to them."""


def drop_joins(relation: Rel) -> Rel:
    return _drop(relation, output_ids(relation), output_ids(relation), {})


def _drop(relation: Rel, needed: set[int], fixed: set[int], replaced: Replaced, *, is_top: bool = True) -> Rel:
    """``needed``: the columns that somebody above reads; ``fixed``: those that another one can't stand in for.  ``is_top``:
    it is not a side of an inner join, with which it makes one cluster."""
    relation = map_queries(relation, drop_joins)
    own = set().union(*map(columns_of, direct_parts(relation)[0]), set())
    match relation:
        case Join(kind="left", lateral=False) if not needed & output_ids(relation.right) and _adds_nothing(relation):
            return _drop(relation.left, needed, fixed, replaced, is_top=is_top)
        case Join(kind="semi", lateral=False, null_aware=False) if (certain := _certain_partner(relation)) is not None:
            kept = _drop(relation.left, needed | own, fixed, replaced)
            return _filtered(kept, [_is_not_null(column, replaced) for column in certain.nullable])
        case Join():
            inner = relation.kind == "inner" and not relation.lateral
            wanted, taken = needed | own, free_columns(relation.right) if relation.lateral else set()
            right = _drop(relation.right, wanted, fixed, replaced, is_top=not inner)
            left = _drop(relation.left, wanted | taken, fixed | taken, replaced, is_top=not inner)
            relation = _substituted(_joined(relation, left, right, replaced), replaced)
            return _without_parents(relation, needed, fixed, replaced) if inner and is_top else relation
        case Project() | Aggregate():
            return _substituted(replace(relation, input=_drop(relation.input, own, set(), replaced)), replaced)
        case Filter() | Sort() | Limit():
            source = _drop(relation.input, needed | own, fixed, replaced)
            return _substituted(replace(relation, input=source, columns=source.columns), replaced)
    return map_parts(relation, on_relation=drop_joins)


def _joined(join: Join, left: Rel, right: Rel, replaced: Replaced) -> Join:
    available = left.columns if join.kind in ("semi", "anti") else left.columns + right.columns
    kept = output_ids(join).union(*map(columns_of, replaced.values()))
    columns = tuple([column for column in available if column.id in kept])
    return replace(join, left=left, right=right, columns=columns)


def _substituted(relation: Rel, replaced: Replaced) -> Rel:
    """The relation's own expressions in terms of what is still there."""
    return map_parts(relation, lambda part: substitute(part, replaced)) if replaced else relation


# ------------------------------------------------------------------------------------------------ foreign keys


def _certain_partner(join: Join) -> Partner | None:
    """For a semi join that lets every row pass whose foreign key is not NULL."""
    parent = parent_of(join.right)
    terms = conjuncts(join.condition)
    if parent is None or parent.terms:
        return None
    found = partner(parent, terms, [join.left])
    return found if found is not None and len(found.terms) == len(terms) else None


def _without_parents(cluster: Rel, needed: set[int], fixed: set[int], replaced: Replaced) -> Rel:
    """A cluster of inner joins without the relations that foreign keys make sure of."""
    sides: list[Rel] = []
    terms: list[Expr] = []
    flatten_joins(cluster, sides, terms)
    count = len(sides)
    for side in list(sides):
        parent = parent_of(side)
        ids = output_ids(side)
        if (
            parent is None
            or not fixed.isdisjoint(ids)
            or _is_read(parent, needed)
            or any(map(is_volatile, parent.terms))
        ):
            continue
        others = [other for other in sides if other is not side]
        found = partner(parent, terms, others)
        if found is None:
            continue
        rest = [*(term for term in terms if term not in found.terms), *parent.terms]
        used = needed.union(*map(columns_of, rest)) & parent.numbers.keys()
        if not all(id in found.equals and found.equals[id].type == _type_of(side, parent.scan, id) for id in used):
            continue
        replaced.update(found.equals)
        sides = others
        terms = [term for term in (substitute(term, replaced) for term in rest) if not _is_trivial(term)]
        not_null = [_is_not_null(column, replaced) for column in found.nullable]
        terms += [term for term in not_null if not any(same(term, other) for other in terms)]
    return cluster if len(sides) == count else _cluster_of(sides, terms)


def _is_read(parent: Parent, needed: set[int]) -> bool:
    """Whether more of a relation is read than keys that others may refer to."""
    numbers = {parent.numbers[id] for id in needed & parent.numbers.keys()}
    return bool(numbers) and not numbers <= {
        column.column for index in parent.scan.table.indexes if index.unique for column in index.columns
    }


def _type_of(side: Rel, scan: Scan, id: int) -> object:
    return next(column.type for column in (*side.columns, *scan.columns) if column.id == id)


def _is_trivial(term: Expr) -> bool:
    """``c.pid = c.pid``: of a column that is not NULL, as is seen to elsewhere."""
    found = comparison_terms(term)
    return found is not None and found[0] == "=" and isinstance(found[1], ColumnRef) and same(found[1], found[2])


def _is_not_null(column: ColumnRef, replaced: Replaced) -> Expr:
    return IsNull(BOOL, substitute(column, replaced), True)


def _filtered(relation: Rel, terms: Sequence[Expr]) -> Rel:
    if isinstance(relation, Filter):
        own = conjuncts(relation.condition)
        added = [term for term in terms if not any(same(term, other) for other in own)]
        return replace(relation, condition=conjoin([*own, *added])) if added else relation
    if not terms:
        return relation
    return Filter(relation.columns, relation, conjoin(terms))


def _cluster_of(sides: Sequence[Rel], terms: list[Expr]) -> Rel:
    """The sides joined one after the other, every term where its columns first are together."""
    result: Rel | None = None
    for side in sides:
        own = output_ids(side)
        here = [term for term in terms if columns_of(term) <= own]  # of no column at all: with the first side
        terms = [term for term in terms if term not in here]
        side = _filtered(side, here)
        if result is None:
            result = side
            continue
        columns = result.columns + side.columns
        both = {column.id for column in columns}
        here = [term for term in terms if columns_of(term) <= both]
        terms = [term for term in terms if term not in here]
        result = Join(columns, "inner", result, side, conjoin(here))
    assert result is not None and not terms, "all columns are those of the sides"
    return result


# ------------------------------------------------------------------------------------------------ unique keys


def _adds_nothing(join: Join) -> bool:
    scan = join.right
    terms = conjuncts(join.condition)
    while isinstance(scan, Filter | Project):
        if isinstance(scan, Filter):
            terms.extend(conjuncts(scan.condition))
        else:
            if any(map(is_volatile, scan.expressions)):
                return False
            replacements = dict(zip([column.id for column in scan.columns], scan.expressions, strict=True))
            terms = [substitute(term, replacements) for term in terms]
        scan = scan.input
    if not isinstance(scan, Scan) or any(map(is_volatile, terms)):
        return False
    numbers = {column.id: number for column, number in zip(scan.columns, scan.numbers, strict=True)}
    bound: set[int] = set()
    for term in terms:
        found = comparison_terms(term)
        if found is None or found[0] != "=":
            continue
        for column, value in ((found[1], found[2]), (found[2], found[1])):
            if isinstance(column, ColumnRef) and column.id in numbers and not columns_of(value) & numbers.keys():
                bound.add(numbers[column.id])
    return any(
        index.unique
        and index.is_plain
        and index.is_readable
        and not index.deferrable
        and bound >= {column.column for column in index.columns}
        for index in scan.table.indexes
    )
