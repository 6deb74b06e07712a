"""The order of joins: dynamic programming finds the cheapest tree there is, and the work it does is bounded."""

from __future__ import annotations

from functools import cache
from random import Random

import pytest
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.plan import join_order
from pydistdb.sql.plan.estimate import Estimator
from pydistdb.sql.plan.join_order import Cluster, Plan, Probe
from pydistdb.sql.tree import Call, ColumnRef, Expr
from pydistdb.sql.types.known import BOOL, INT8

EQUAL = next(
    operator.function
    for operator in functions.operators("=")
    if operator.left is not None and [t.oid for t in operator.function.argument_types] == [INT8.oid, INT8.oid]
)


def equality(left: int, right: int) -> Expr:
    return Call(BOOL, EQUAL, (ColumnRef(INT8, left), ColumnRef(INT8, right)))


def random_cluster(random: Random, count: int) -> Cluster:
    """Relation i has the columns 10 i … 10 i + 3; every relation is connected with one before it, some with more."""
    ids = [set(range(10 * number, 10 * number + 4)) for number in range(count)]
    terms: list[Expr] = []
    for number in range(1, count + random.randrange(3)):
        right = number if number < count else random.randrange(1, count)
        left = random.randrange(right)
        terms.append(equality(10 * left + random.randrange(4), 10 * right + random.randrange(4)))
    rows = [float(10 ** random.randrange(5)) for _ in range(count)]
    cluster = Cluster(ids, rows, [float(3 * each) for each in rows], terms, Estimator(None))
    for number in range(count):
        if random.random() < 0.3:
            needs = tuple(mask for _, mask, is_any in cluster.connecting(number) if is_any)[:1]
            if needs:
                cluster.probes[number].append(Probe(0, needs, 4.0))
    return cluster


def cheapest(cluster: Cluster, count: int) -> float:
    """The cost of the best tree without cross products, by looking at them all."""

    @cache
    def best(mask: int) -> Plan | None:
        if not mask & (mask - 1):
            return Plan(cluster.costs[mask.bit_length() - 1], mask)
        found: Plan | None = None
        left_mask = (mask - 1) & mask
        while left_mask:
            left, right = best(left_mask), best(mask & ~left_mask)
            if left is not None and right is not None and cluster.neighbours(left_mask) & right.mask:
                plan = cluster.joined(left, right)
                if found is None or plan.cost < found.cost:
                    found = plan
            left_mask = (left_mask - 1) & mask
        return found

    plan = best((1 << count) - 1)
    assert plan is not None
    return plan.cost


@pytest.mark.parametrize("seed", range(40))
def test_the_cheapest_order_is_found(seed: int) -> None:
    random = Random(seed)
    count = random.randrange(2, 7)
    cluster = random_cluster(random, count)
    assert cluster.best().cost == pytest.approx(cheapest(cluster, count))


def test_every_term_is_checked_or_follows() -> None:
    cluster = random_cluster(Random(3), 6)
    parents = {column: column for number in range(6) for column in range(10 * number, 10 * number + 4)}

    def root(column: int) -> int:
        return column if parents[column] == column else root(parents[column])

    def visit(plan: Plan) -> None:
        if plan.left is not None and plan.right is not None:
            visit(plan.left)
            visit(plan.right)
            for term in cluster.between(plan.left.mask, plan.right.mask):
                assert isinstance(term, Call)
                left, right = term.arguments
                assert isinstance(left, ColumnRef) and isinstance(right, ColumnRef)
                parents[root(left.id)] = root(right.id)

    visit(cluster.best())
    written = [*(term for equal in cluster.classes for term in equal.terms), *(term for _, term in cluster.others)]
    for term in written:
        assert isinstance(term, Call)
        left, right = term.arguments
        assert isinstance(left, ColumnRef) and isinstance(right, ColumnRef)
        assert root(left.id) == root(right.id)


def test_many_relations_on_one_column_are_joined_greedily(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 12
    terms = [equality(10 * number, 10 * number + 10) for number in range(count - 1)]
    ids = [{10 * number} for number in range(count)]
    joins = 0
    joined = Cluster.joined

    def counted(cluster: Cluster, left: Plan, right: Plan) -> Plan:
        nonlocal joins
        joins += 1
        return joined(cluster, left, right)

    monkeypatch.setattr(Cluster, "joined", counted)
    plan = Cluster(ids, [1000.0] * count, [1000.0] * count, terms, Estimator(None)).best()
    assert plan.mask == (1 << count) - 1 and joins < count * count
    monkeypatch.setattr(join_order, "MOST_RELATIONS", count)
    joins = 0
    plan = Cluster(ids, [1000.0] * count, [1000.0] * count, terms, Estimator(None)).best()
    assert plan.mask == (1 << count) - 1 and joins < join_order.MOST_PAIRS + count * count
