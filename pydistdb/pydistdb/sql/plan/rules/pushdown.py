"""Predicate pushdown: every term of a condition is checked as far down as its columns go.

Through projections (its columns replaced by their expressions), into the sides of joins, below aggregates where it speaks of
groups only, into both arms of a set operation.  Terms that join two relations end up in the join's condition, and a
comparison of a column with constants (a value, bounds, a list) is repeated for every column that conditions make equal to it::

    Filter(a.x = b.x AND b.x = 5, a × b)   ->   Join(a.x = b.x, Filter(a.x = 5, a), Filter(b.x = 5, b))

An OR over both sides of an inner join stays above it, but what it says of one side alone is checked there too.

Never moved: volatile terms; and across the edge where a row may be NULL-extended or cut off (outer join, LIMIT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydistdb.sql.plan.comparisons import comparison, comparison_terms
from pydistdb.sql.plan.expressions import (
    columns_of,
    conjoin,
    conjuncts,
    has_subquery,
    is_volatile,
    map_parts,
    map_queries,
    output_ids,
    said_of,
    substitute,
)
from pydistdb.sql.plan.implication import same
from pydistdb.sql.tree import (
    Aggregate,
    AnyAll,
    Call,
    ColumnRef,
    Const,
    Cte,
    Distinct,
    Expr,
    Filter,
    InList,
    Join,
    LockRows,
    Or,
    Param,
    Project,
    Rel,
    SetOperation,
    Sort,
    Window,
)


def push_down(relation: Rel) -> Rel:
    return _push(relation, [])


def _above(relation: Rel, terms: Sequence[Expr]) -> Rel:
    return Filter(relation.columns, relation, conjoin(terms)) if terms else relation


def _push(relation: Rel, terms: list[Expr]) -> Rel:
    """``relation`` with ``terms`` checked in it or above it."""
    relation = map_queries(relation, push_down)
    match relation:
        case Filter():
            return _push(relation.input, [*conjuncts(relation.condition), *terms])
        case Project():
            return _push_project(relation, terms)
        case Join():
            return _push_join(relation, terms)
        case Aggregate():
            groups = {column.id: group for column, group in zip(relation.columns, relation.groups, strict=False)}
            may_pass = not relation.grouping_sets and bool(groups)
            below = [term for term in terms if may_pass and columns_of(term) <= groups.keys() and _movable(term)]
            source = _push(relation.input, [substitute(term, groups) for term in below])
            return _above(replace(relation, input=source), [term for term in terms if term not in below])
        case SetOperation():
            return _push_set_operation(relation, terms)
        case Sort() | Distinct(on=()):
            below = [term for term in terms if _movable(term)]
            source = _push(relation.input, below)
            return _above(replace(relation, input=source, columns=source.columns), [t for t in terms if t not in below])
        case LockRows():
            # The rows to lock are those that pass.
            return replace(relation, input=_push(relation.input, terms))
        case Window():
            shared = set.intersection(
                *({part.id for part in call.partition_by if isinstance(part, ColumnRef)} for call in relation.calls)
            )
            below = [term for term in terms if shared and columns_of(term) <= shared and _movable(term)]
            return _above(replace(relation, input=_push(relation.input, below)), [t for t in terms if t not in below])
        case Cte():
            body = _push(relation.body, terms)
            step = None if relation.step is None else push_down(relation.step)
            return replace(
                relation, definition=push_down(relation.definition), step=step, body=body, columns=body.columns
            )
    return _above(map_parts(relation, on_relation=push_down), terms)


def _movable(term: Expr) -> bool:
    return not is_volatile(term)


def _push_project(relation: Project, terms: list[Expr]) -> Rel:
    replacements = dict(zip([column.id for column in relation.columns], relation.expressions, strict=True))
    costly = {
        column for column, expression in replacements.items() if is_volatile(expression) or has_subquery(expression)
    }
    below = [term for term in terms if _movable(term) and not columns_of(term) & costly]
    source = _push(relation.input, [substitute(term, replacements) for term in below])
    return _above(replace(relation, input=source), [term for term in terms if term not in below])


def _push_set_operation(relation: SetOperation, terms: list[Expr]) -> Rel:
    below = [term for term in terms if _movable(term) and not has_subquery(term)]

    def side(arm: Rel) -> Rel:
        references: dict[int, Expr] = {
            column.id: ColumnRef(inner.type, inner.id, inner.name)
            for column, inner in zip(relation.columns, arm.columns, strict=True)
        }
        return _push(arm, [substitute(term, references) for term in below])

    pushed = replace(relation, left=side(relation.left), right=side(relation.right))
    return _above(pushed, [term for term in terms if term not in below])


def _push_join(join: Join, terms: list[Expr]) -> Rel:
    left_ids, right_ids = output_ids(join.left), output_ids(join.right)
    own = conjuncts(join.condition)
    kept: list[Expr] = []
    left: list[Expr] = []
    right: list[Expr] = []
    condition: list[Expr] = []
    inner = join.kind == "inner"
    if inner:
        terms = [*terms, *own]
        terms.extend(_implied(terms))
        terms.extend(_restrictions(terms, left_ids, right_ids))
        own = []
    elif join.kind in ("left", "semi", "anti") and not join.null_aware and terms:
        # Of the right side only those rows matter that a row of the left which passes may find.
        own = [*own, *(term for term in _implied([*terms, *own]) if columns_of(term) <= right_ids)]
    for term in terms:
        used = columns_of(term)
        if not _movable(term):
            kept.append(term)
        elif not used & right_ids and join.kind in ("inner", "left", "semi", "anti"):
            left.append(term)
        elif not used & left_ids and (inner or join.kind == "right"):
            right.append(term)
        elif inner and not has_subquery(term):
            condition.append(term)
        else:
            kept.append(term)
    for term in own:
        used = columns_of(term)
        if not _movable(term) or has_subquery(term):
            condition.append(term)
        elif not used & left_ids and join.kind in ("left", "semi", "anti") and not join.null_aware:
            right.append(term)
        elif not used & right_ids and used and join.kind in ("right", "semi"):
            left.append(term)
        else:
            condition.append(term)
    pushed = replace(join, left=_push(join.left, left), right=_push(join.right, right), condition=conjoin(condition))
    return _above(pushed, kept)


def _restrictions(terms: list[Expr], left_ids: set[int], right_ids: set[int]) -> list[Expr]:
    """What an OR over both sides says of one of them: (l.a = 1 AND r.b = 2) OR (l.a = 3 AND r.b = 4) lets l.a be 1 or 3."""
    found: list[Expr] = []
    for term in terms:
        used = columns_of(term) if isinstance(term, Or) else set()
        if not isinstance(term, Or) or not used & left_ids or not used & right_ids:
            continue
        if has_subquery(term) or not _movable(term):
            continue
        for ids in (left_ids, right_ids):
            said = said_of(term, ids)
            if said is not None:
                found.append(said)
    return found


def _implied(terms: list[Expr]) -> list[Expr]:
    """What terms say of a column and constants, for every column that other terms make equal to it."""
    equal: list[tuple[ColumnRef, ColumnRef]] = []
    said: list[tuple[ColumnRef, Expr]] = []
    fixed: set[int] = set()
    for term in terms:
        found = comparison_terms(term)
        if (
            found is not None
            and found[0] == "="
            and isinstance(found[1], ColumnRef)
            and isinstance(found[2], ColumnRef)
        ):
            equal.append((found[1], found[2]))
            continue
        column = _compared(term)
        if column is not None:
            said.append((column, term))
            if found is not None and found[0] == "=":
                fixed.add(column.id)
    implied: list[Expr] = []
    for column, term in said if equal else ():
        is_equality = isinstance(term, Call) and comparison(term.function) == "="
        reached = [column]
        known = {column.id}
        for current in reached:
            for pair in equal:
                for here, there in (pair, pair[::-1]):
                    if here.id != current.id or there.id in known or there.type != column.type:
                        continue
                    known.add(there.id)
                    reached.append(there)
                    if there.id in fixed:
                        continue
                    if is_equality:
                        fixed.add(there.id)
                    follows = substitute(term, {column.id: there})
                    if is_equality or not any(same(follows, other) for other in (*terms, *implied)):
                        implied.append(follows)
    return implied


def _compared(term: Expr) -> ColumnRef | None:
    """The column that a term compares with constants."""
    match term:
        case Call(arguments=(ColumnRef() as column, Const() | Param()) | (Const() | Param(), ColumnRef() as column)):
            return column if comparison(term.function) is not None else None
        case InList(argument=ColumnRef() as column, negated=False):
            plain = comparison(term.equality) == "=" and all(isinstance(item, Const | Param) for item in term.items)
            return column if plain else None
        case AnyAll(left=ColumnRef() as column, array=Const() | Param(), all=False):
            return column if comparison(term.function) == "=" else None
    return None
