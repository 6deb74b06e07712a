"""Ways to read a table by an inverted index (sql/inverted.py): which terms of a condition ask it something.

    t(tags text[], doc jsonb), gin (tags, doc):

    tags && '{a,b}' AND doc @> $1 AND n = 3   ->   probes (0, &&, '{a,b}'), (1, @>, $1)
    'a' = ANY (tags)                          ->   probe (0, any, 'a')
    '{"x": 1}' <@ doc                         ->   probe (1, @>, '{"x": 1}')

What the index finds are candidates, so all terms stay in the scan's condition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pydistdb.sql.catalog.descriptors import Index
from pydistdb.sql.inverted import TokenClass, token_class
from pydistdb.sql.plan.comparisons import comparison, written_operator
from pydistdb.sql.plan.physical import Access, Probe
from pydistdb.sql.tree import AnyAll, Call, Expr

_COMMUTED = {"@>": "<@", "<@": "@>", "&&": "&&", "=": "="}

FindKey = Callable[[Expr], "tuple[int, int] | None"]
"""(number, type) of the index key that an expression is."""


def inverted_access(
    index: Index, numbers: Sequence[int], find: FindKey, may_be_asked: Callable[[Expr], bool], terms: Sequence[Expr]
) -> Access | None:
    """The access by what the terms ask of the index; None if they ask nothing."""
    probes: list[Probe] = []
    used: list[Expr] = []
    for term in terms:
        for key, operator, value in _questions(term):
            found = find(key)
            if found is None or found[0] not in numbers or not may_be_asked(value):
                continue
            position = numbers.index(found[0])
            kind = token_class(found[1], index.columns[position].operator_class)
            if kind is not None and operator in kind.operators and _fits(kind, found[1], operator, value, term):
                probes.append(Probe(position, operator, value))
                used.append(term)
                break
    if not probes:
        return None
    return Access(index, terms=tuple(dict.fromkeys(used)), probes=tuple(probes))


def _questions(term: Expr) -> Iterator[tuple[Expr, str, Expr]]:
    """(indexed value, operator, asked value): both ways round where the operator has a commutator."""
    match term:
        case Call(arguments=(left, right)):
            name = written_operator(term.function)
            if name is not None:
                yield left, name, right
                if name in _COMMUTED:
                    yield right, _COMMUTED[name], left
        case AnyAll(all=False) if comparison(term.function) == "=":
            yield term.array, "any", term.left


def _fits(kind: TokenClass, type_oid: int, operator: str, value: Expr, term: Expr) -> bool:
    """Whether the asked value is of the type that the tokens were made of."""
    if "any" in kind.operators:  # an array's
        if operator == "any":
            assert isinstance(term, AnyAll)
            return term.array.type.element_oid == value.type.oid
        return value.type.oid == type_oid
    return True
