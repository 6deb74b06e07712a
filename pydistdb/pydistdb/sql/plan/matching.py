"""Which terms of a condition speak of which key of an index.

A key is a column or an expression; a term speaks of it if it compares it with something that the scan does not produce::

    t(a, b), index (a, lower(b)):      lower(b) = 'x' AND 5 < a AND a = b     ->    lower(b): = 'x'    a: > 5
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydistdb.sql.catalog.descriptors import Index
from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.index_expressions import BoundIndex, bound_index
from pydistdb.sql.node import node
from pydistdb.sql.plan.comparisons import MIRRORED, comparison, family
from pydistdb.sql.plan.expressions import (
    columns_of,
    has_subquery,
    is_volatile,
    substitute,
)
from pydistdb.sql.plan.implication import same
from pydistdb.sql.tree import AnyAll, Call, ColumnRef, Expr, InList, IsNull, Scan
from pydistdb.sql.types import registry as types


@node
class Match:
    """What one term of the condition says about one column."""

    term: Expr
    kind: str
    """=, in, any, null, <, <=, >, >="""
    values: tuple[Expr, ...] = ()


class Keys:
    """What the indexes of a scanned table are over, in terms of the scan's columns.

    A key is named by a number: a column's own, or a negative one for an expression."""

    def __init__(self, scan: Scan, catalog: CatalogView | None) -> None:
        self.ids = {number: column.id for column, number in zip(scan.columns, scan.numbers, strict=True)}
        self.types = {column.id: column.type.oid for column in scan.columns}
        self.numbers = {column.id: number for column, number in zip(scan.columns, scan.numbers, strict=True)}
        self.expressions: list[Expr] = []
        self._matches: dict[int, tuple[Expr, list[tuple[int, Match]]]] = {}
        self.predicates: dict[int, tuple[Expr, ...]] = {}
        self.of_index: dict[int, tuple[int, ...]] = {}
        """The numbers of the keys of every index that can be read, by storage id."""
        for index in scan.table.indexes:
            if not index.is_readable:
                continue
            if index.is_plain:
                self.of_index[index.storage_id] = tuple(column.column for column in index.columns)
            elif catalog is not None:
                self._note(scan, index, bound_index(scan.table, index, catalog))

    def _note(self, scan: Scan, index: Index, bound: BoundIndex) -> None:
        columns = {column.number: column for column in scan.table.columns}
        here = {
            number: ColumnRef(types.type_by_oid(columns[number].type_oid), column, columns[number].name)
            for number, column in self.ids.items()
            if number > 0
        }
        predicate = tuple(_translated(term, here) for term in bound.predicate)
        if any(term is None for term in predicate):
            return  # the condition does not even mention what the predicate is about
        self.predicates[index.storage_id] = tuple(term for term in predicate if term is not None)
        numbers = []
        for column, key in zip(index.columns, bound.keys, strict=True):
            number = column.column
            if key is not None:
                translated = _translated(key, here)
                number = NO_KEY if translated is None else self._number(translated)
            numbers.append(number)
        self.of_index[index.storage_id] = tuple(numbers)

    def _number(self, expression: Expr) -> int:
        for position, known in enumerate(self.expressions):
            if same(known, expression):
                return FIRST_EXPRESSION - position
        self.expressions.append(expression)
        return FIRST_EXPRESSION + 1 - len(self.expressions)

    def expression(self, number: int) -> Expr:
        """What the key ``number`` is."""
        if FIRST_EXPRESSION >= number > NO_KEY:
            return self.expressions[FIRST_EXPRESSION - number]
        return ColumnRef(types.INT8, self.ids.get(number, -1))

    def find(self, expression: Expr) -> tuple[int, int] | None:
        """(number, type) of the key that the expression is."""
        if isinstance(expression, ColumnRef):
            number = self.numbers.get(expression.id, 0)
            return (number, self.types[expression.id]) if number > 0 else None
        for position, known in enumerate(self.expressions):
            if same(known, expression):
                return FIRST_EXPRESSION - position, known.type.oid
        return None

    def matches(self, term: Expr) -> list[tuple[int, Match]]:
        """What a term says of which keys.  Joins ask for the same terms in many combinations, so it is remembered."""
        known = self._matches.get(id(term))
        if known is None:
            # With the term itself, so that its id is not given away meanwhile.
            known = self._matches[id(term)] = (term, list(self._find_matches(term)))
        return known[1]

    def _find_matches(self, term: Expr) -> Iterator[tuple[int, Match]]:
        match term:
            case Call(arguments=(left, right)):
                name = comparison(term.function)
                if name is not None and name != "<>":
                    yield from self._match(left, term, name, (right,))
                    yield from self._match(right, term, MIRRORED[name], (left,))
            case InList(negated=False) if comparison(term.equality) == "=":
                yield from self._match(term.argument, term, "in", term.items)
            case AnyAll(all=False) if comparison(term.function) == "=" and term.array.type.element_oid:
                yield from self._match(term.left, term, "any", (term.array,), term.array.type.element_oid)
            case IsNull(argument=argument, negated=False) if (
                argument.type.category != "C"
            ):  # a row of NULLs is NULL, too
                yield from self._match(argument, term, "null", ())

    def _match(
        self, expression: Expr, term: Expr, kind: str, values: tuple[Expr, ...], element: int = 0
    ) -> Iterator[tuple[int, Match]]:
        key = self.find(expression)
        if key is None:
            return
        oids = [element] if element else [value.type.oid for value in values]
        if any(family(oid) != family(key[1]) for oid in oids):
            return
        if not any(columns_of(value) & self.numbers.keys() or is_unusable(value) for value in values):
            yield key[0], Match(term, kind, values)


FIRST_EXPRESSION = -1_000
"""Expressions count down from here; above are system columns."""
NO_KEY = -1_000_000
"""The number of a key that the query cannot speak of."""


def _translated(expression: Expr, columns: dict[int, ColumnRef]) -> Expr | None:
    """An index's expression over the scan's columns; None if the scan lacks one."""
    if not columns_of(expression) <= columns.keys():
        return None
    return substitute(expression, dict(columns))


def matches(keys: Keys, terms: Sequence[Expr]) -> dict[int, list[Match]]:
    """The terms that speak of a single key, by its number."""
    found: dict[int, list[Match]] = {}
    for term in terms:
        for number, match in keys.matches(term):
            found.setdefault(number, []).append(match)
    return found


def is_unusable(value: Expr) -> bool:
    return is_volatile(value) or has_subquery(value)
