"""EXPLAIN: the steps of a physical plan, as Postgres would call them.

::

    Limit  (cost=0.00..5.00 rows=1 width=4)
      ->  Index Scan using t_pkey on t  (cost=0.00..5.00 rows=1 width=4)
            Index Cond: (id = $1)
            Filter: (v > 5)

Costs are in the planner's own unit, a row read by key order, and add up from the leaves (``total.py``).  The formats are in
``explain_formats.py``, expressions in ``explain_text.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.plan.depth import deep_stack
from pydistdb.sql.plan.empty import is_empty
from pydistdb.sql.plan.estimate import Estimator
from pydistdb.sql.plan.explain_formats import Actual, PlanNode, Style, Value, text_lines
from pydistdb.sql.plan.explain_gather import Gathered, dealt, lock_waits, with_gather
from pydistdb.sql.plan.explain_shards import shards_note
from pydistdb.sql.plan.explain_text import ExpressionText
from pydistdb.sql.plan.explain_usage import usage_group, usage_text
from pydistdb.sql.plan.expressions import all_relations, conjuncts, free_columns, inputs
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
    RightHashJoin,
    SubPlan,
    TableScan,
    TopN,
    VirtualTableScan,
)
from pydistdb.sql.plan.planner import PhysicalPlan
from pydistdb.sql.plan.total import total_cost
from pydistdb.sql.tree import (
    Aggregate,
    Cte,
    CteScan,
    Delete,
    Distinct,
    Expr,
    Filter,
    FirstRows,
    FunctionScan,
    Insert,
    Limit,
    Merge,
    Project,
    ProjectSet,
    Rel,
    RoutineScan,
    SequenceScan,
    SetOperation,
    Sort,
    Update,
    Values,
    Window,
)

_JOIN_TYPES: dict[type[Rel], str] = {
    HashJoin: "Hash Join",
    RightHashJoin: "Hash Join",
    MergeJoin: "Merge Join",
    LookupJoin: "Lookup Join",
}
JOIN_WORDS = {"inner": "", "left": " Left", "full": " Full", "semi": " Semi", "anti": " Anti"}
TEXT_WIDTH = 32
"""What a value of varying length is taken to be, in bytes."""
Properties = list[tuple[str, Value]]


def explain(plan: PhysicalPlan) -> list[str]:
    """The lines of a plan, with estimates of rows only."""
    return text_lines(explain_tree(plan), Style("rows"))


def explain_tree(
    plan: PhysicalPlan,
    notes: Mapping[int, str] | None = None,
    actuals: Mapping[int, Actual] | None = None,
    gathered: Mapping[int, Gathered] | None = None,
    catalog: CatalogView | None = None,
    *,
    verbose: bool = False,
) -> PlanNode:
    """The steps of a plan.  By ``id(node)``: ``notes``, a property more, what ANALYZE measured, and which scans are done
    on other nodes."""
    with deep_stack():
        return Explainer(notes, actuals, verbose, gathered, catalog).tree(plan.root)


class Explainer(ExpressionText):
    def __init__(
        self,
        notes: Mapping[int, str] | None = None,
        actuals: Mapping[int, Actual] | None = None,
        verbose: bool = False,
        gathered: Mapping[int, Gathered] | None = None,
        catalog: CatalogView | None = None,
    ) -> None:
        super().__init__(catalog)
        self.notes = notes or {}
        self.actuals = actuals or {}
        self.gathered = gathered or {}
        self.verbose = verbose
        self.estimator = Estimator(catalog)
        self.subplans = 0
        self.qualifies = False
        """Columns are shown with their table, since there are several."""

    def tree(self, root: Rel) -> PlanNode:
        self.qualifies = (
            self.verbose or sum(isinstance(part, TableScan | VirtualTableScan) for part in all_relations(root)) > 1
        )
        self._name(root)
        return self._node(root)

    # ------------------------------------------------------------------------------------------ names

    def _name(self, relation: Rel) -> None:
        """Learn what columns are called, from the leaves up."""
        for part in inputs(relation):
            self._name(part)
        match relation:
            case TableScan():
                self.estimator.note_scan(relation)
                if not free_columns(relation):
                    self.estimator.note_filtered(relation)
                by_number = {column.number: column.name for column in relation.table.columns}
                for column, number in zip(relation.columns, relation.numbers, strict=True):
                    prefix = f"{relation.alias or relation.table.name}." if self.qualifies else ""
                    self.names[column.id] = prefix + by_number.get(number, "ctid")
            case Project() | ProjectSet():
                if isinstance(relation, Project):
                    self.estimator.note_renamed(relation)
                for column, expression in zip(relation.columns, relation.expressions, strict=True):
                    self.names.setdefault(column.id, self.text(expression))
            case Aggregate():
                self.estimator.note_renamed(relation)
                count = len(relation.groups)
                for column, group in zip(relation.columns, relation.groups, strict=False):
                    self.names.setdefault(column.id, self.text(group))
                for column, call in zip(relation.columns[count:], relation.calls, strict=False):
                    self.names[column.id] = self.call_text(call.function.name, call.arguments, call.distinct)
            case Apply():
                for plan in relation.subplans:
                    self.subplans += 1
                    self.names[plan.id] = f"(SubPlan {self.subplans})"
            case Window():
                for column, window in zip(relation.columns[-len(relation.calls) :], relation.calls, strict=True):
                    self.names[column.id] = self.call_text(window.function.name, window.arguments) + " OVER (?)"
            case _:
                if isinstance(relation, Cte):
                    self.estimator.note_cte(relation, relation.definition)
                for column in relation.columns:
                    self.names.setdefault(column.id, column.name or f"#{column.id}")

    # ------------------------------------------------------------------------------------------ nodes

    def _node(self, relation: Rel, relationship: str = "Outer", label: str = "") -> PlanNode:
        """One step with its inputs.  Projections and filters are left out, as Postgres does."""
        filters: list[Expr] = []
        top = relation
        actual = None
        marked: Rel | None = None
        while True:
            actual = actual or self.actuals.get(id(relation))
            match relation:
                case Project():
                    relation = relation.input
                case AtShards() | Repartitioned():
                    marked, relation = relation, relation.input
                case Exchange() if id(relation) not in self.gathered:
                    relation = relation.input
                case Exchange():
                    return self._exchange(relation, relationship, label)
                case Filter() if not isinstance(relation.input, Values):
                    filters += conjuncts(relation.condition)
                    relation = relation.input
                case _:
                    break
        title, properties = self._describe(relation)
        if filters:
            properties.append(("Filter", self.condition(filters)))
        if id(relation) in self.notes:
            name, _, value = self.notes[id(relation)].partition(": ")
            properties.append((name, value))
        if self.verbose and top.columns:
            properties.insert(0, ("Output", self._output(top)))
        node = PlanNode(title, self._head(relation, title), properties, relationship=relationship, label=label)
        node.changes_data = isinstance(relation, Insert | Update | Delete | Merge)
        has_none = node.changes_data or is_empty(relation)
        node.rows = 0 if has_none else max(1, round(self.estimator.rows(relation)))
        node.width = sum(c.type.length if c.type.length > 0 else TEXT_WIDTH for c in top.columns)
        node.actual = actual
        own = self.actuals.get(id(relation))
        if own is not None and own.usage is not None:
            kind = str(node.head[0][1])
            node.usage_text, node.usage = usage_text(kind, own.usage), usage_group(kind, own.usage)
        if own is not None and own.lock_waits:
            waited = lock_waits(own)
            node.shards = [] if id(relation) in self.gathered else waited
        node.children = self._children(relation)
        for child in node.children:
            if node.changes_data and child.actual is not None and not child.actual.loops:
                child.actual = None  # rows named by their keys are locked and read in one request, without the scan
        node.startup_cost, node.total_cost = total_cost(relation, self.estimator)
        return with_gather(marked or relation, node, self.gathered, self)

    def _exchange(self, exchange: Exchange, relationship: str, label: str) -> PlanNode:
        below = self._node(exchange.input, relationship, label)
        keys = [self.text(key) for key in exchange.keys]
        return dealt(exchange, below, self.gathered[id(exchange)], self.actuals.get(id(exchange)), keys)

    def _children(self, relation: Rel) -> list[PlanNode]:
        if isinstance(relation, Cte):
            parts = [self._node(relation.definition, "InitPlan", f"CTE {relation.cte_id}")]
            if relation.step is not None:
                parts.append(self._node(relation.step, "InitPlan", f"CTE {relation.cte_id}: recursive term"))
            return [*parts, self._node(relation.body)]
        if isinstance(relation, TableScan) and relation.access.probes:
            return [self._inverted_scan(relation)]
        if isinstance(relation, TableScan) and relation.access.also:
            return [self._merged_scans(relation)]
        if isinstance(relation, Apply):
            plans = [self._node(plan.query, "SubPlan", self._subplan_title(plan)) for plan in relation.subplans]
            return [self._node(relation.input), *plans]
        below = inputs(relation)
        words = ["Member"] * len(below) if isinstance(relation, SetOperation) else ["Outer", "Inner"]
        return [self._node(part, word) for part, word in zip(below, words, strict=False)]

    def _inverted_scan(self, scan: TableScan) -> PlanNode:
        """What an inverted index finds for a scan, in the words that Postgres has for it."""
        name = scan.access.index.name
        head: list[tuple[str, Any]] = [("Node Type", "Bitmap Index Scan"), ("Index Name", name)]
        node = PlanNode(f"Bitmap Index Scan on {name}", head, [("Index Cond", self.condition(scan.access.terms))])
        node.rows = max(1, round(scan.rows))
        node.total_cost = total_cost(scan, self.estimator).total / 2
        return node

    def _merged_scans(self, scan: TableScan) -> PlanNode:
        """What several indexes find for a scan, likewise."""
        above = PlanNode("BitmapAnd", [("Node Type", "BitmapAnd")], [])
        for access in (scan.access, *scan.access.also):
            name = access.index.name
            own = [term for term in scan.access.terms if not any(term in each.terms for each in scan.access.also)]
            terms = access.terms if access is not scan.access else own
            head: list[tuple[str, Any]] = [("Node Type", "Bitmap Index Scan"), ("Index Name", name)]
            node = PlanNode(f"Bitmap Index Scan on {name}", head, [("Index Cond", self.condition(terms))])
            node.relationship = "Member"
            node.rows = max(1, round(scan.rows))
            above.children.append(node)
        above.rows = max(1, round(scan.rows))
        above.total_cost = total_cost(scan, self.estimator).total / 2
        return above

    def _output(self, relation: Rel) -> list[str]:
        if isinstance(relation, Project):
            return [self.text(expression) for expression in relation.expressions]
        return [self.names[column.id] for column in relation.columns]

    def _subplan_title(self, plan: SubPlan) -> str:
        name = self.names[plan.id].strip("()")
        if plan.outer_ids:
            return f"{name} (depends on {', '.join(self.names[column] for column in plan.outer_ids)})"
        return name

    def _head(self, relation: Rel, title: str) -> list[tuple[str, Any]]:
        """The step's kind and what it reads, a value each."""
        match relation:
            case TableScan():
                kind = title.partition(" using ")[0].partition(" on ")[0].replace(" Backward", "")
                head: list[tuple[str, Any]] = [("Node Type", kind)]
                if kind not in ("Seq Scan", "Bitmap Heap Scan"):
                    direction = "Backward" if relation.access.reverse else "Forward"
                    head += [("Scan Direction", direction), ("Index Name", relation.access.index.name)]
                return [
                    *head,
                    ("Relation Name", relation.table.name),
                    ("Alias", relation.alias or relation.table.name),
                ]
            case VirtualTableScan():
                kind = title.partition(" on ")[0]
                name = relation.table.name
                return [("Node Type", kind), ("Relation Name", name), ("Alias", relation.alias or name)]
            case FunctionScan() | RoutineScan():
                name = relation.function.name
                return [("Node Type", "Function Scan"), ("Function Name", name), ("Alias", relation.alias or name)]
            case CteScan():
                return [("Node Type", "CTE Scan"), ("CTE Name", str(relation.cte_id))]
            case HashJoin() | MergeJoin() | LookupJoin() | NestedLoop():
                kind = _JOIN_TYPES.get(type(relation), "Nested Loop")
                return [("Node Type", kind), ("Join Type", relation.kind.capitalize())]
            case Insert() | Update() | Delete() | Merge():
                name = relation.table.name
                operation = type(relation).__name__
                return [
                    ("Node Type", "ModifyTable"),
                    ("Operation", operation),
                    ("Relation Name", name),
                    ("Alias", name),
                ]
            case TopN():
                return [("Node Type", "Sort")]
            case Aggregate():
                return [("Node Type", "Aggregate"), ("Strategy", "Hashed" if relation.groups else "Plain")]
        return [("Node Type", title)]

    def _describe(self, relation: Rel) -> tuple[str, Properties]:
        match relation:
            case TableScan():
                return self._scan(relation)
            case VirtualTableScan():
                name = _aliased(relation.table.name, relation.alias)
                if relation.lookup_value is not None:
                    lookup = f"({relation.lookup_column} = {self.text(relation.lookup_value)})"
                    return f"Index Scan on {name}", [("Index Cond", lookup)]
                return f"Seq Scan on {name}", []
            case SequenceScan():
                return f"Seq Scan on {relation.table.name}", []
            case FunctionScan() | RoutineScan():
                return f"Function Scan on {_aliased(relation.function.name, relation.alias)}", []
            case Values(rows=()):
                return "Result", [("One-Time Filter", "false")]
            case Values():
                return ("Result" if not relation.columns else "Values Scan"), []
            case CteScan():
                return f"CTE Scan on {relation.cte_id}", []
            case HashJoin():
                properties: Properties = [("Hash Cond", self.condition(relation.condition))]
                if relation.residual is not None:
                    properties.append(("Join Filter", self.text(relation.residual)))
                turned = " Right" if isinstance(relation, RightHashJoin) else ""
                kind = JOIN_WORDS["inner" if turned and relation.kind == "left" else relation.kind]
                return f"Hash{turned}{kind} Join", properties
            case MergeJoin():
                merged: Properties = [("Merge Cond", self.condition(relation.condition))]
                if relation.residual is not None:
                    merged.append(("Join Filter", self.text(relation.residual)))
                return f"Merge{JOIN_WORDS[relation.kind]} Join", merged
            case LookupJoin():
                residual: Properties = []
                if relation.residual is not None:
                    residual.append(("Join Filter", self.text(relation.residual)))
                return f"Lookup{JOIN_WORDS[relation.kind]} Join", residual
            case NestedLoop():
                condition: Properties = []
                if relation.condition is not None:
                    condition.append(("Join Filter", self.text(relation.condition)))
                suffix = "" if relation.kind == "inner" else f"{JOIN_WORDS[relation.kind]} Join"
                return f"Nested Loop{suffix}", condition
            case Sort() | TopN():
                return "Sort" if isinstance(relation, Sort) else "Top-N Sort", [("Sort Key", self.keys(relation.keys))]
            case IncrementalSort():
                return "Incremental Sort", [("Sort Key", self.keys(relation.keys))]
            case Insert() | Update() | Delete() | Merge():
                return f"{type(relation).__name__} on {relation.table.name}", []
            case Aggregate():
                if not relation.groups:
                    return "Aggregate", []
                return "HashAggregate", [("Group Key", list(map(self.text, relation.groups)))]
            case SetOperation():
                return self._set_operation(relation)
            case Distinct():
                return "Unique", [("On", list(map(self.text, relation.on)))] if relation.on else []
            case FirstRows():
                return "Top-N Per Group", self._first_rows(relation)
            case Window():
                return "WindowAgg", []
        words = {Limit: "Limit", LockedRows: "LockRows", ProjectSet: "ProjectSet", Apply: "Result"}
        return words.get(type(relation), type(relation).__name__), []

    def _first_rows(self, relation: FirstRows) -> Properties:
        properties: Properties = [("Group Key", list(map(self.text, relation.groups)))] if relation.groups else []
        if relation.keys:
            properties.append(("Sort Key", self.keys(relation.keys)))
        return [*properties, ("Run Condition", f"({relation.counting}() <= {self.text(relation.limit)})")]

    @staticmethod
    def _set_operation(relation: SetOperation) -> tuple[str, Properties]:
        if relation.kind == "union":
            return ("Append" if relation.all else "HashAggregate over Append"), []
        return f"HashSetOp {relation.kind.capitalize()}{' All' if relation.all else ''}", []

    def _scan(self, scan: TableScan) -> tuple[str, Properties]:
        access, table = scan.access, scan.table
        name = _aliased(table.name, scan.alias)
        bounded = bool(access.equal or access.lower or access.upper)
        primary = access.index is table.indexes[0]
        backward = " Backward" if access.reverse else ""
        if primary and not bounded and not backward:
            title = f"Seq Scan on {name}"
        else:
            only = " Only" if scan.index_only else ""
            title = f"Index{only} Scan{backward} using {access.index.name or 'row id'} on {name}"
        properties: Properties = []
        filters = [] if scan.condition is None else conjuncts(scan.condition)
        if access.skip is not None:
            names = {column.number: column.name for column in table.columns}
            skipped = [names.get(column.column, "") for column in access.index.columns[: access.skip.columns]]
            title = f"Index Scan{backward} using {access.index.name} on {name}"
            if access.terms:
                properties.append(("Index Cond", self.condition(access.terms)))
            properties.append(("First Entry Of Each" if access.skip.first else "Skip", ", ".join(skipped)))
            bounded = False
        if access.also:
            title = f"Bitmap Heap Scan on {name}"
            properties.append(("Recheck Cond", self.condition(access.terms)))
        elif access.probes:
            title = f"Bitmap Heap Scan on {name}"
            properties.append(("Recheck Cond", self.condition(access.terms)))
            filters = access.others(filters)
        elif bounded:
            properties.append(("Index Cond", self.condition(access.terms)))
        if filters:
            properties.append(("Filter", self.condition(filters)))
        if access.gate:
            properties.append(("One-Time Filter", self.condition(access.gate)))
        if table.sharding is not None:
            properties.append(("Shards", shards_note(access, table)))
        return title, properties


def _aliased(name: str, alias: str) -> str:
    return name if not alias or alias == name else f"{name} {alias}"
