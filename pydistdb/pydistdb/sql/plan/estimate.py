"""How many rows a relation has, and which share of them a condition lets through.

Statistics come from the catalog where it has them (ANALYZE; ``column_facts.py`` reads them); otherwise a table counts as
DEFAULT_ROWS and a condition by its kind, with Postgres's default selectivities.  Conditions count as independent, with
four exceptions: statistics objects know better (together.py), two bounds of one column are a range, equalities that cover
a unique key find one row each, and a column has no more distinct values than its table's filtered rows::

    lineitem ⋈ partsupp on both columns of its key:   60,000 * 8,000 / 8,000, not / (2,000 * 100)

Source: PostgreSQL 15 manual, 76.1 "Row Estimation Examples"; Selinger et al. (1979).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import inf
from typing import Any

from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.plan.column_facts import ColumnFacts
from pydistdb.sql.plan.comparisons import MIRRORED, operator_name, written_operator
from pydistdb.sql.plan.cost import NOTHING_DISABLED, Disabled
from pydistdb.sql.plan.expressions import columns_of, output_ids, said_of
from pydistdb.sql.plan.implication import same
from pydistdb.sql.plan.known import DEFAULT_ROWS, Known
from pydistdb.sql.plan.physical import (
    Apply,
    AtShards,
    Exchange,
    HashJoin,
    IncrementalSort,
    LockedRows,
    LookupJoin,
    MergeJoin,
    NestedLoop,
    Repartitioned,
    TableScan,
    TopN,
    VirtualTableScan,
)
from pydistdb.sql.plan.together import Subject, common_share, dependent_share, distinct_combinations, subjects
from pydistdb.sql.tree import (
    Aggregate,
    And,
    AnyAll,
    ArrayLiteral,
    BooleanTest,
    Call,
    ColumnRef,
    Const,
    Cte,
    CteScan,
    Distinct,
    Expr,
    Filter,
    FirstRows,
    FunctionScan,
    InList,
    IsNull,
    Join,
    Limit,
    Not,
    Or,
    Project,
    ProjectSet,
    Rel,
    RoutineScan,
    Scan,
    SequenceScan,
    SetOperation,
    Sort,
    Subquery,
    Values,
    Window,
)
from pydistdb.sql.types.arrays import PgArray

RANGE_SELECTIVITY = 1 / 3
TWO_SIDED_SELECTIVITY = 0.05
OTHER_SELECTIVITY = 1 / 3
CONTAINMENT_SELECTIVITY = 0.01
_CONTAINMENT = frozenset({"@>", "<@", "&&", "?", "?|", "?&"})
NULL_SELECTIVITY = 0.01
LONELY_SHARE = 0.01
"""Of rows that all seem to have partners: some have none, or nobody would ask for them."""
RECURSION_GROWTH = 10.0


class Estimator(Known):
    """Estimates for the relations of one statement."""

    def __init__(self, catalog: CatalogView | None, disabled: Disabled = NOTHING_DISABLED) -> None:
        super().__init__(catalog, disabled)
        self._cte_rows: dict[int, float] = {}

    # ------------------------------------------------------------------------------------------ conditions

    def selectivity(self, term: Expr, rows: float) -> float:
        """The share of rows for which a term is true."""
        match term:
            case Const():
                return 1.0 if term.value is True else 0.0
            case And():
                return self.combined(term.arguments, rows)
            case Or():
                missed = 1.0
                for argument in term.arguments:
                    missed *= 1 - self.selectivity(argument, rows)
                return 1 - missed
            case Not():
                return 1 - self.selectivity(term.argument, rows)
            case Call():
                return self._call_selectivity(term, rows)
            case InList():
                return self._list_selectivity(term, rows)
            case AnyAll():
                return min(array_length(term.array) / self.distinct(term.left, rows), 0.9)
            case IsNull():
                facts = self.facts(term.argument)
                share = NULL_SELECTIVITY if facts is None else facts.nulls
                return 1 - share if term.negated else share
            case BooleanTest(value=True):
                share = self.selectivity(term.argument, rows)
                return 1 - share if term.negated else share
            case Subquery():
                return 0.5
        return OTHER_SELECTIVITY

    def _call_selectivity(self, call: Call, rows: float) -> float:
        name = operator_name(call.function)
        found = _with_constant(call, name)
        facts = None if found is None else self.facts(found[0])
        if name in ("=", "<>"):
            if found is not None and facts is not None:
                share = 0.0 if found[1].value is None else facts.equal(found[1].value, found[1].type.oid)
                share = min(share, 1.0)
            else:
                share = 1 / max(self.distinct(argument, rows) for argument in call.arguments)
            return share if name == "=" else max(1 - share - (0.0 if facts is None else facts.nulls), 0.0)
        if name is not None:
            share_below = None if found is None or facts is None else self._bound(facts, found[2], found[1])
            return RANGE_SELECTIVITY if share_below is None else share_below
        tried = self._tried(call)
        if tried is not None:
            return min(max(tried, 0.0), 1.0)
        return CONTAINMENT_SELECTIVITY if written_operator(call.function) in _CONTAINMENT else OTHER_SELECTIVITY

    @staticmethod
    def _bound(facts: ColumnFacts, name: str, constant: Const) -> float | None:
        """The share of ``column name constant``."""
        if constant.value is None:
            return 0.0
        below = facts.below(constant.value, constant.type.oid, name in ("<=", ">"))
        if below is None:
            return None
        share = below if name in ("<", "<=") else 1 - facts.nulls - below
        return min(max(share, min(1 / facts.distinct, 1e-4)), 1.0)

    def _tried(self, call: Call) -> float | None:
        """Patterns and the like: what the function says of the values that statistics know."""
        function = call.function
        columns = [argument for argument in call.arguments if not isinstance(argument, Const)]
        if function.volatility != "i" or function.needs_context or function.returns_set or len(columns) != 1:
            return None
        facts = self.facts(columns[0])
        if facts is None:
            return None
        place = call.arguments.index(columns[0])
        values: list[Any] = [argument.value if isinstance(argument, Const) else None for argument in call.arguments]

        def test(value: Any) -> Any:
            values[place] = value
            return function.implementation(*values)

        return facts.tried(test)

    def _list_selectivity(self, term: InList, rows: float) -> float:
        facts = self.facts(term.argument)
        share = 0.0
        for item in term.items:
            if facts is not None and isinstance(item, Const):
                share += 0.0 if item.value is None else facts.equal(item.value, item.type.oid)
            else:
                share += 1 / self.distinct(term.argument, rows)
        share = min(share, 0.9 if facts is None else 1.0)
        return max(1 - share, 0.0) if term.negated else share

    def combined(self, terms: Iterable[Expr], rows: float) -> float:
        """The share of rows that meet all terms."""
        if not self.has_joint:
            return self._apart(terms, rows)
        share, rest = self._together(list(terms), rows)
        return share * self._apart(rest, rows)

    def _together(self, terms: list[Expr], rows: float) -> tuple[float, list[Expr]]:
        """What statistics objects say of some of the terms, and the others."""
        by_table: dict[int, list[Subject]] = {}
        for subject in subjects(terms, self.origin):
            by_table.setdefault(subject.source.oid, []).append(subject)
        share = 1.0
        weighed: list[Subject] = []

        def alone(some: Sequence[Expr]) -> float:
            return self._apart(some, rows)

        for found in by_table.values():
            table = found[0].source
            known = self.joint(table)
            common = common_share(found, known, table, self.origin, alone)
            if common is not None:
                share *= common[0]
                weighed += common[1]
            left = [each for each in found if not any(each is done for done in weighed)]
            dependent = dependent_share(left, known, alone)
            if dependent is not None:
                share *= dependent[0]
                weighed += dependent[1]
        done = [subject.term for subject in weighed]
        return share, [term for term in terms if not any(term is each for each in done)]

    def _apart(self, terms: Iterable[Expr], rows: float) -> float:
        """The share of rows that meet all terms, if they have nothing to do with one another."""
        share = 1.0
        ranges: list[tuple[Expr, list[tuple[bool, float, ColumnFacts]]]] = []
        for term in terms:
            found = _with_constant(term, operator_name(term.function)) if isinstance(term, Call) else None
            facts = None if found is None or found[2] not in MIRRORED else self.facts(found[0])
            if found is None or facts is None or found[2] in ("=", "<>"):
                share *= self.selectivity(term, rows)
                continue
            bound = self._bound(facts, found[2], found[1])
            if bound is None:
                share *= self.selectivity(term, rows)
            else:
                known = next((bounds for each, bounds in ranges if same(each, found[0])), None)
                if known is None:
                    known = []
                    ranges.append((found[0], known))
                known.append((found[2] in ("<", "<="), bound, facts))
        for _, bounds in ranges:
            share *= _range_share(bounds)
        return share

    # ------------------------------------------------------------------------------------------ relations

    def note_cte(self, cte: Cte, definition: Rel) -> None:
        self._cte_rows[cte.cte_id] = self.rows(definition) * (RECURSION_GROWTH if cte.step is not None else 1.0)

    def rows(self, relation: Rel) -> float:
        """How many rows a relation has."""
        match relation:
            case TableScan() | VirtualTableScan() | HashJoin() | MergeJoin() | LookupJoin() | NestedLoop():
                return relation.rows
            case Scan():
                return self.table_rows(relation.table)
            case Values():
                return float(len(relation.rows))
            case SequenceScan():
                return 1.0
            case FunctionScan() | RoutineScan():
                return 1000.0 if relation.function.returns_set else 1.0
            case Filter():
                rows = self.rows(relation.input)
                return max(rows * self.selectivity(relation.condition, rows), 1.0)
            case Project() | Window() | Sort() | LockedRows() | Apply() | IncrementalSort():
                return self.rows(relation.input)
            case AtShards() | Exchange() | Repartitioned():
                return self.rows(relation.input)
            case ProjectSet():
                return self.rows(relation.input) * 10
            case Aggregate():
                return self.group_rows(relation.groups, self.rows(relation.input))
            case Distinct():
                return self._distinct_rows(relation)
            case FirstRows():
                return self._first_rows(relation)
            case Limit() | TopN():
                return self._limited(relation)
            case SetOperation():
                left, right = self.rows(relation.left), self.rows(relation.right)
                return left + right if relation.kind == "union" else left
            case Join():
                return self.join_rows(
                    relation.kind,
                    self.rows(relation.left),
                    self.rows(relation.right),
                    relation.condition,
                    output_ids(relation.right),
                )
            case Cte():
                return self.rows(relation.body)
            case CteScan():
                return self._cte_rows.get(relation.cte_id, DEFAULT_ROWS)
        return DEFAULT_ROWS

    def _limited(self, relation: Limit | TopN) -> float:
        rows = self.rows(relation.input)
        if isinstance(relation.limit, Const) and relation.limit.value is not None:
            return max(min(rows, float(relation.limit.value)), 1.0)
        return max(rows / 10, 1.0)

    def _first_rows(self, relation: FirstRows) -> float:
        rows, limit = self.rows(relation.input), relation.limit
        of_each = float(limit.value) if isinstance(limit, Const) and limit.value is not None else 10.0
        return min(rows, self.group_rows(relation.groups, rows) * of_each)

    def _distinct_rows(self, relation: Distinct) -> float:
        rows = self.rows(relation.input)
        keys = relation.on or tuple([ColumnRef(column.type, column.id) for column in relation.input.columns])
        if not any(self.facts(key) for key in keys):
            return max(rows / 2, 1.0)
        return self.group_rows(keys, rows)

    def group_rows(self, groups: tuple[Expr, ...], rows: float) -> float:
        """Distinct combinations: those of columns of one table are no more than the rows of it that pass."""
        by_table: dict[int, tuple[float, float]] = {}
        count = 1.0
        if self.has_joint:
            groups = self._joint_groups(groups, by_table)
        for group in groups:
            origin = self.origin(group)
            if origin is None or self.facts(group) is None:
                count *= self.distinct(group, rows)
                continue
            so_far, most = by_table.get(origin[0].oid, (1.0, float("inf")))
            by_table[origin[0].oid] = (so_far * self.distinct(group, rows), min(most, self._most(group)))
        for combinations, most in by_table.values():
            count *= min(combinations, most)
        return max(min(count, rows), 1.0)

    def _joint_groups(self, groups: tuple[Expr, ...], by_table: dict[int, tuple[float, float]]) -> tuple[Expr, ...]:
        """Note the combinations that statistics objects know of; the groups that are left."""
        places = [(group, origin) for group in groups if (origin := self.origin(group)) is not None]
        done: list[Expr] = []
        for table in {origin[0].oid: origin[0] for _, origin in places}.values():
            of_table = {origin[1]: group for group, origin in places if origin[0].oid == table.oid}
            for numbers, count in distinct_combinations(of_table, self.joint(table)):
                members = [of_table[number] for number in numbers]
                so_far, most = by_table.get(table.oid, (1.0, float("inf")))
                by_table[table.oid] = (so_far * count, min([most, *map(self._most, members)]))
                done += members
        return tuple(group for group in groups if not any(group is each for each in done))

    def join_rows(self, kind: str, left: float, right: float, condition: Expr, right_ids: Collection[int]) -> float:
        """The rows of a join.  ``left`` and ``right``: the rows of its sides; ``right_ids``: the columns of the right one."""
        terms = condition.arguments if isinstance(condition, And) else (condition,)
        if kind in ("semi", "anti"):
            share = self.partner_share(terms, right, right_ids)
            return max(left * (share if kind == "semi" else max(1 - share, LONELY_SHARE)), 1.0)
        share = self.join_share(terms, left, right)
        match kind:
            case "left":
                return max(left * right * share, left)
            case "full":
                return max(left * right * share, left + right)
        return max(left * right * share, 1.0)

    def join_share(self, terms: Sequence[Expr], left: float, right: float) -> float:
        """The share of pairs that meet the terms of a join."""
        share = 1.0
        equalities: list[tuple[Call, float]] = []
        rest: list[Expr] = []
        for term in terms:
            if isinstance(term, Call) and operator_name(term.function) == "=":
                equalities.append((term, self.equality_share(term, left, right)))
            else:
                rest.append(term)
                share /= self._passed(term, left * right)
        share *= self.key_share(equalities)
        return min(share * self.combined(rest, left * right), 1.0) if rest else share

    def _passed(self, term: Expr, rows: float) -> float:
        """The share of pairs that what an OR says of single columns lets through: it is checked below the join already."""
        share = 1.0
        if not isinstance(term, Or):
            return share
        for column in columns_of(term):
            said = said_of(term, {column})
            if said is not None:
                share *= max(self.selectivity(said, rows), 1 / rows)
        return share

    def equality_share(self, term: Call, left: float, right: float) -> float:
        return 1 / max(self.distinct(argument, max(left, right)) for argument in term.arguments)

    def key_share(self, equalities: Sequence[tuple[Call, float]]) -> float:
        """The share of pairs that meet several equalities: where they cover a unique key, a row has one partner there."""
        share = 1.0
        for _, each in equalities:
            share *= each
        if len(equalities) < 2:
            return share
        bound: dict[int, tuple[Table, set[int]]] = {}
        for call, _ in equalities:
            for argument in call.arguments:
                origin = self.origin(argument)
                if origin is not None:
                    bound.setdefault(origin[0].oid, (origin[0], set()))[1].add(origin[1])
        for table, numbers in bound.values():
            for index in table.indexes:
                if index.unique and index.is_plain and numbers >= {column.column for column in index.columns}:
                    share = max(share, 1 / self.table_rows(table))
        return share

    def partner_share(self, terms: Sequence[Expr], right: float, right_ids: Collection[int]) -> float:
        """The share of left rows with a partner: of all values that there may be, how many there are on the right."""
        share = 0.5
        for term in terms:
            if isinstance(term, Call) and operator_name(term.function) == "=" and len(term.arguments) == 2:
                mine, theirs = term.arguments
                if columns_of(mine) & set(right_ids):
                    mine, theirs = theirs, mine
                if self.facts(mine) is None and self.facts(theirs) is None:
                    continue
                every = max(self.distinct(each, inf, unfiltered=True) for each in (mine, theirs))
                known_share = min(self.distinct(theirs, right) / every, 1.0)
                share = min(share, known_share) if share < 0.5 else known_share
        return share


def _with_constant(call: Call, name: str | None) -> tuple[Expr, Const, str] | None:
    """A comparison of a column, or an expression, with a constant, the column first."""
    if name is None or len(call.arguments) != 2:
        return None
    left, right = call.arguments
    if isinstance(right, Const) and not isinstance(left, Const):
        return left, right, name
    if isinstance(left, Const) and not isinstance(right, Const):
        return right, left, MIRRORED[name]
    return None


def _range_share(bounds: Sequence[tuple[bool, float, ColumnFacts]]) -> float:
    """Bounds of one column: what is below the upper one and above the lower one."""
    upper = min([share for is_upper, share, _ in bounds if is_upper], default=None)
    lower = min([share for is_upper, share, _ in bounds if not is_upper], default=None)
    facts = bounds[0][2]
    if upper is None or lower is None:
        return upper if upper is not None else lower if lower is not None else 1.0
    return max(upper + lower - (1 - facts.nulls), min(1 / facts.distinct, 1e-4))


def array_length(array: Expr) -> float:
    if isinstance(array, Const) and isinstance(array.value, PgArray):
        return float(len(array.value.items))
    return float(len(array.items)) if isinstance(array, ArrayLiteral) else 10.0
