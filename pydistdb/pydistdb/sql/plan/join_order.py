"""In which order a cluster of inner joins is done: dynamic programming over sets of relations, by numbers alone.

A set of relations is a bit mask.  How many rows its join has does not depend on the order, so it is estimated once per set;
the cheapest way to make it is the best of all pairs of disjoint, connected sets that make it up (bushy trees included)::

    nation(1) ⋈ supplier(100) ⋈ lineitem(60,000) ⋈ orders(2,000)
    {s n}: 4 rows    {l o}: 8,000    {l o s}: 8,000    {l o s n}: 320   =   (s ⋈ n) built into a table, (l ⋈ o) streamed past

Equalities of columns form classes (a = b, b = c: a = c holds too): two sets that have members of a class are connected by one
equality, written in the query or not, and the others follow from it.  Clusters of more than MOST_RELATIONS relations, and
those with more than MOST_PAIRS pairs to look at (many relations joined on one column), are joined greedily: always the
pair whose join costs least.

Source: Selinger et al. (1979); Moerkotte and Neumann, "Analysis of Two Existing and One New Dynamic Programming Algorithm
for the Generation of Optimal Bushy Join Trees without Cross Products" (2006).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pydistdb.sql.plan.comparisons import comparison_terms
from pydistdb.sql.plan.cost import HASH_ROW_COST, ROW_COST
from pydistdb.sql.plan.estimate import Estimator
from pydistdb.sql.plan.expressions import columns_of, is_volatile
from pydistdb.sql.tree import Call, ColumnRef, Expr

MOST_RELATIONS = 10
MOST_PAIRS = 4_000
"""Some 40 ms."""

Mask = int


@dataclass(slots=True)
class EqualColumns:
    """Columns that the cluster's terms make equal: one for each relation, by its number."""

    members: dict[int, ColumnRef]
    template: Call
    terms: list[Call]
    distinct: dict[int, float] = field(default_factory=dict)
    mask: Mask = field(init=False)

    def __post_init__(self) -> None:
        self.mask = sum(1 << number for number in self.members)

    def share(self, mask: Mask) -> float:
        """The share of combinations whose members in ``mask`` are equal: all but the least distinct pay."""
        counts = sorted(self.distinct[number] for number in self.members if mask >> number & 1)
        share = 1.0
        for count in counts[1:]:
            share /= count
        return share

    def first(self, mask: Mask) -> ColumnRef:
        """The column that speaks for a set."""
        return self.members[min(number for number in self.members if mask >> number & 1)]

    def equality(self, left: Mask, right: Mask) -> Call:
        """The equality that connects two sets, as it is written in the query if it is."""
        pair = {self.first(left).id, self.first(right).id}
        for term in self.terms:
            if columns_of(term) == pair:
                return term
        return Call(self.template.type, self.template.function, (self.first(left), self.first(right)))


class Probe(NamedTuple):
    """A way to look a relation up by an index: which relations must be there (all of ``needs``, and one at least of each of
    ``needs_any``), and what it costs a row."""

    needs: Mask
    needs_any: tuple[Mask, ...]
    row_cost: float

    def serves(self, outer: Mask) -> bool:
        return self.needs & outer == self.needs and all(mask & outer for mask in self.needs_any)


class Plan(NamedTuple):
    cost: float
    mask: Mask
    left: Plan | None = None
    right: Plan | None = None
    """Both None: a single relation."""


class Cluster:
    """Relations to join, as numbers."""

    def __init__(
        self,
        ids: Sequence[set[int]],
        rows: Sequence[float],
        costs: Sequence[float],
        terms: Sequence[Expr],
        est: Estimator,
    ) -> None:
        self.rows = list(rows)
        self.costs = list(costs)
        self._estimator = est
        self._owner = {column: number for number, columns in enumerate(ids) for column in columns}
        self.probes: list[list[Probe]] = [[] for _ in rows]
        self.classes, others = self._classify(terms)
        self.others = [(self._mask_of(term), term) for term in others]
        """Terms that are not in a class."""
        for equal in self.classes:
            equal.distinct = {
                number: est.distinct(column, self.rows[number]) for number, column in equal.members.items()
            }
        self._shares = [(mask, self._share(term)) for mask, term in self.others]
        self._corrections = self._key_corrections()
        self._cardinality: dict[Mask, float] = {}
        self._neighbours = self._edges()

    def _mask_of(self, term: Expr) -> Mask:
        mask = 0
        for column in columns_of(term):
            if column in self._owner:
                mask |= 1 << self._owner[column]
        return mask

    def _share(self, term: Expr) -> float:
        return self._estimator.join_share([term], max(self.rows), max(self.rows))

    # ------------------------------------------------------------------------------------------ terms

    def _classify(self, terms: Sequence[Expr]) -> tuple[list[EqualColumns], list[Expr]]:
        """Column equalities as classes, and the other terms.  A class has one column of a relation at most."""
        classes: list[EqualColumns] = []
        others: list[Expr] = []
        for term in terms:
            found = comparison_terms(term)
            if found is None or found[0] != "=" or is_volatile(term) or not self._merge(classes, found[3]):
                others.append(term)
        return classes, others

    def _merge(self, classes: list[EqualColumns], call: Call) -> bool:
        left, right = call.arguments
        if not isinstance(left, ColumnRef) or not isinstance(right, ColumnRef) or left.type.oid != right.type.oid:
            return False
        if left.id not in self._owner or right.id not in self._owner:
            return False
        found = [self._class_of(classes, column, call) for column in (left, right)]
        members: dict[int, ColumnRef] = {}
        for equal, column in zip(found, (left, right), strict=True):
            known = {self._owner[column.id]: column} if equal is None else equal.members
            for number, member in known.items():
                if members.setdefault(number, member).id != member.id:
                    return False
        if len(members) < 2:
            return False
        merged = [equal for equal in classes if equal is found[0] or equal is found[1]]
        terms = [term for equal in merged for term in equal.terms]
        classes[:] = [equal for equal in classes if equal is not found[0] and equal is not found[1]]
        classes.append(EqualColumns(members, call, [*terms, call]))
        return True

    @staticmethod
    def _class_of(classes: list[EqualColumns], column: ColumnRef, call: Call) -> EqualColumns | None:
        for equal in classes:
            if equal.template.function is call.function and any(m.id == column.id for m in equal.members.values()):
                return equal
        return None

    def _key_corrections(self) -> list[tuple[Mask, float]]:
        """For pairs of relations that several classes connect: how much less selective they are together."""
        corrections: list[tuple[Mask, float]] = []
        for first in range(len(self.rows)):
            for second in range(first + 1, len(self.rows)):
                mask = 1 << first | 1 << second
                shared = [equal for equal in self.classes if equal.mask & mask == mask]
                if len(shared) < 2:
                    continue
                shares = [(equal.equality(1 << first, 1 << second), equal.share(mask)) for equal in shared]
                product = 1.0
                for _, share in shares:
                    product *= share
                together = self._estimator.key_share(shares)
                if together > product:
                    corrections.append((mask, together / product))
        return corrections

    def _edges(self) -> list[Mask]:
        neighbours = [0] * len(self.rows)
        for mask in [equal.mask for equal in self.classes] + [mask for mask, _ in self.others]:
            for number in range(len(self.rows)):
                if mask >> number & 1:
                    neighbours[number] |= mask & ~(1 << number)
        return neighbours

    # ------------------------------------------------------------------------------------------ numbers

    def cardinality(self, mask: Mask) -> float:
        """How many rows the join of a set has."""
        found = self._cardinality.get(mask)
        if found is not None:
            return found
        rows = 1.0
        for number, count in enumerate(self.rows):
            if mask >> number & 1:
                rows *= count
        for equal in self.classes:
            if mask & equal.mask:
                rows *= equal.share(mask)
        for needed, share in self._shares:
            if needed & mask == needed and needed & (needed - 1):
                rows *= share
        for pair, factor in self._corrections:
            if pair & mask == pair:
                rows *= factor
        rows = max(rows, 1.0)
        self._cardinality[mask] = rows
        return rows

    def joined(self, left: Plan, right: Plan) -> Plan:
        """The cheapest join of two sets; the side that streams past stands left."""
        mask = left.mask | right.mask
        left_rows, right_rows = self.cardinality(left.mask), self.cardinality(right.mask)
        best = float("inf")
        first, second = left, right
        if self._has_equality(left.mask, right.mask):
            if right_rows > left_rows:
                first, second = right, left
            hashed = (2 * min(left_rows, right_rows) + max(left_rows, right_rows)) * HASH_ROW_COST
            best = left.cost + right.cost + hashed + self._estimator.extra("hashjoin")
        for outer, inner, rows in ((left, right, left_rows), (right, left, right_rows)):
            if inner.left is None:
                for probe in self.probes[inner.mask.bit_length() - 1]:
                    cost = outer.cost + rows * probe.row_cost + self._estimator.extra("nestloop")
                    if cost < best and probe.serves(outer.mask):
                        best, first, second = cost, outer, inner
        if best == float("inf"):
            best = left.cost + right.cost + left_rows * right_rows * ROW_COST
        return Plan(best + self.cardinality(mask) * ROW_COST, mask, first, second)

    def _has_equality(self, left: Mask, right: Mask) -> bool:
        if any(equal.mask & left and equal.mask & right for equal in self.classes):
            return True
        both = left | right
        for mask, term in self.others:
            if mask & left and mask & right and mask & both == mask and comparison_terms(term) is not None:
                found = comparison_terms(term)
                if found is not None and found[0] == "=":
                    sides = [self._mask_of(found[1]), self._mask_of(found[2])]
                    if (sides[0] & ~left == 0 and sides[1] & ~right == 0) or (
                        sides[0] & ~right == 0 and sides[1] & ~left == 0
                    ):
                        return True
        return False

    def neighbours(self, mask: Mask) -> Mask:
        """The relations outside a set that a term connects with it."""
        found = 0
        for number, others in enumerate(self._neighbours):
            if mask >> number & 1:
                found |= others
        return found & ~mask

    # ------------------------------------------------------------------------------------------ orders

    def best(self) -> Plan:
        """The order to join in."""
        parts = [Plan(cost, 1 << number) for number, cost in enumerate(self.costs)]
        joined: list[Plan] = []
        for component in self._components():
            members = [part for part in parts if part.mask & component]
            plan = self._exact(members, component) if len(members) <= MOST_RELATIONS else None
            joined.append(plan or self._greedy(members))
        joined.sort(key=lambda plan: self.cardinality(plan.mask))
        result = joined[0]
        for plan in joined[1:]:
            result = self.joined(result, plan)
        return result

    def _components(self) -> Iterator[Mask]:
        left = (1 << len(self.rows)) - 1
        while left:
            component = left & -left
            while more := self.neighbours(component) & left:
                component |= more
            left &= ~component
            yield component

    def _exact(self, members: Sequence[Plan], component: Mask) -> Plan | None:
        """Dynamic programming by the size of sets; None if there are too many pairs to look at."""
        best: dict[Mask, Plan] = {part.mask: part for part in members}
        by_size: list[list[Mask]] = [[], [part.mask for part in members]]
        pairs = 0
        for size in range(2, len(members) + 1):
            made: list[Mask] = []
            for small in range(1, size // 2 + 1):
                for left in by_size[small]:
                    near = self.neighbours(left)
                    for right in by_size[size - small]:
                        if left & right or not near & right or (2 * small == size and left > right):
                            continue
                        pairs += 1
                        if pairs > MOST_PAIRS:
                            return None
                        plan = self.joined(best[left], best[right])
                        known = best.get(plan.mask)
                        if known is None:
                            made.append(plan.mask)
                        if known is None or plan.cost < known.cost:
                            best[plan.mask] = plan
            by_size.append(made)
        return best.get(component)

    def _greedy(self, members: Sequence[Plan]) -> Plan:
        """Join the pair whose join adds least, until one is left."""
        current = list(members)
        known: dict[tuple[Mask, Mask], Plan] = {}
        while len(current) > 1:
            choice: tuple[float, Plan, Plan, Plan] | None = None
            for place, left in enumerate(current):
                near = self.neighbours(left.mask)
                for right in current[place + 1 :]:
                    if not near & right.mask:
                        continue
                    plan = known.get((left.mask, right.mask))
                    if plan is None:
                        plan = known[left.mask, right.mask] = self.joined(left, right)
                    added = plan.cost - left.cost - right.cost
                    if choice is None or added < choice[0]:
                        choice = (added, plan, left, right)
            assert choice is not None, "the members are connected"
            current = [part for part in current if part is not choice[2] and part is not choice[3]]
            current.append(choice[1])
        return current[0]

    def connecting(self, number: int) -> list[tuple[Expr, Mask, bool]]:
        """The terms that connect a relation with others: which, and whether one of them is enough."""
        own = 1 << number
        found: list[tuple[Expr, Mask, bool]] = []
        for equal in self.classes:
            if equal.mask & own:
                others = equal.mask & ~own
                found.append((equal.equality(own, others), others, True))
        found.extend((term, mask & ~own, False) for mask, term in self.others if mask & own and mask & ~own)
        return found

    def between(self, left: Mask, right: Mask) -> list[Expr]:
        """The terms to check when two sets are joined."""
        both = left | right
        terms: list[Expr] = [
            equal.equality(left, right) for equal in self.classes if equal.mask & left and equal.mask & right
        ]
        terms.extend(
            term for mask, term in self.others if mask & both == mask and mask & ~left and mask & ~right and mask
        )
        return terms

    def needed_later(self, mask: Mask) -> set[int]:
        """The columns of a set that joins with the rest will look at."""
        needed: set[int] = set()
        for equal in self.classes:
            if equal.mask & mask and equal.mask & ~mask:
                needed.add(equal.first(mask).id)
        for term_mask, term in self.others:
            if term_mask & ~mask or not term_mask:
                needed |= columns_of(term)
        return needed
