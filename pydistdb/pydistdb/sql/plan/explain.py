"""EXPLAIN: a physical plan in Postgres's manner, a line per step and property.

::

    Limit
      ->  Index Scan using t_pkey on t  (rows=1)
            Index Cond: (id = $1)
            Filter: (v > 5)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.plan.comparisons import operator_name
from pydistdb.sql.plan.cost import Estimator
from pydistdb.sql.plan.depth import deep_stack
from pydistdb.sql.plan.expressions import all_relations, conjuncts, inputs
from pydistdb.sql.plan.physical import (
    Apply,
    HashJoin,
    IncrementalSort,
    LockedRows,
    LookupJoin,
    NestedLoop,
    SubPlan,
    TableScan,
    TopN,
    VirtualTableScan,
)
from pydistdb.sql.plan.planner import PhysicalPlan
from pydistdb.sql.tree import (
    Aggregate,
    And,
    AnyAll,
    ArrayLiteral,
    BooleanTest,
    Call,
    Case,
    Coalesce,
    ColumnRef,
    Const,
    Cte,
    CteScan,
    Delete,
    Distinct,
    Expr,
    FieldAccess,
    Filter,
    FunctionScan,
    InList,
    Insert,
    IsDistinct,
    IsNull,
    Limit,
    Merge,
    MinMax,
    Not,
    Or,
    Param,
    Project,
    ProjectSet,
    Rel,
    RoutineScan,
    RowExpr,
    SetCall,
    SetOperation,
    Sort,
    SortKey,
    Subquery,
    Subscript,
    Update,
    Values,
    Window,
)
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.base import EvalContext, Function
from pydistdb.sql.types.known import BOOL

JOIN_WORDS = {"inner": "", "left": " Left", "full": " Full", "semi": " Semi", "anti": " Anti"}


def explain(plan: PhysicalPlan, notes: Mapping[int, str] | None = None, *, costs: bool = True) -> list[str]:
    """The lines of a plan; ``notes``: a property more for some nodes, by ``id(node)``; ``costs``: show estimates."""
    with deep_stack():
        return Explainer(notes, costs).lines(plan.root)


class Names(dict[int, str]):
    """Column names by id, as far as they are known."""

    def __missing__(self, key: int) -> str:
        return f"#{key}"


class Explainer:
    def __init__(self, notes: Mapping[int, str] | None = None, costs: bool = True) -> None:
        self.notes = notes or {}
        self.costs = costs
        self.names = Names()
        self.estimator = Estimator(None)
        self.subplans = 0
        self.qualifies = False
        """Columns are shown with their table, since there are several."""

    def lines(self, root: Rel) -> list[str]:
        self.qualifies = sum(isinstance(part, TableScan | VirtualTableScan) for part in all_relations(root)) > 1
        self._name(root)
        output: list[str] = []
        self._node(root, "", "", output)
        return output

    # ------------------------------------------------------------------------------------------ names

    def _name(self, relation: Rel) -> None:
        """Learn what columns are called, from the leaves up."""
        for part in inputs(relation):
            self._name(part)
        match relation:
            case TableScan():
                by_number = {column.number: column.name for column in relation.table.columns}
                for column, number in zip(relation.columns, relation.numbers, strict=True):
                    prefix = f"{relation.alias or relation.table.name}." if self.qualifies else ""
                    self.names[column.id] = prefix + by_number.get(number, "ctid")
            case Project() | ProjectSet():
                for column, expression in zip(relation.columns, relation.expressions, strict=True):
                    self.names.setdefault(column.id, self.text(expression))
            case Aggregate():
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
                for column in relation.columns:
                    self.names.setdefault(column.id, column.name or f"#{column.id}")

    # ------------------------------------------------------------------------------------------ nodes

    def _node(self, relation: Rel, indent: str, arrow: str, output: list[str]) -> None:
        """One step and, indented, its properties and inputs.  Projections are left out, as Postgres does."""
        filters: list[Expr] = []
        while True:
            match relation:
                case Project():
                    relation = relation.input
                case Filter() if not isinstance(relation.input, Values):
                    filters += conjuncts(relation.condition)
                    relation = relation.input
                case _:
                    break
        title, properties = self._describe(relation)
        rows = max(1, round(self.estimator.rows(relation)))
        shown = "" if not self.costs or isinstance(relation, Insert | Update | Delete | Merge) else f"  (rows={rows})"
        output.append(f"{indent}{arrow}{title}{shown}")
        inner = indent + ("      " if arrow else "  ")
        if filters:
            properties.append(f"Filter: {self.condition(filters)}")
        if id(relation) in self.notes:
            properties.append(self.notes[id(relation)])
        output.extend(f"{inner}{line}" for line in properties)
        if isinstance(relation, Cte):
            output.append(f"{inner}CTE {relation.cte_id}")
            self._node(relation.definition, inner + "  ", "->  ", output)
            if relation.step is not None:
                self._node(relation.step, inner + "  ", "->  ", output)
            self._node(relation.body, inner, "->  ", output)
            return
        for part in inputs(relation):
            if not (isinstance(relation, Apply) and part is not relation.input):
                self._node(part, inner, "->  ", output)
        if isinstance(relation, Apply):
            for plan in relation.subplans:
                output.append(f"{inner}{self._subplan_title(plan)}")
                self._node(plan.query, inner + "  ", "->  ", output)

    def _subplan_title(self, plan: SubPlan) -> str:
        name = self.names[plan.id].strip("()")
        if plan.outer_ids:
            return f"{name} (depends on {', '.join(self.names[column] for column in plan.outer_ids)})"
        return name

    def _describe(self, relation: Rel) -> tuple[str, list[str]]:
        match relation:
            case TableScan():
                return self._scan(relation)
            case VirtualTableScan():
                name = _aliased(relation.table.name, relation.alias)
                if relation.lookup_value is not None:
                    lookup = f"({relation.lookup_column} = {self.text(relation.lookup_value)})"
                    return f"Index Scan on {name}", [f"Index Cond: {lookup}"]
                return f"Seq Scan on {name}", []
            case FunctionScan() | RoutineScan():
                return f"Function Scan on {_aliased(relation.function.name, relation.alias)}", []
            case Values():
                return ("Result" if not relation.columns else "Values Scan"), []
            case CteScan():
                return f"CTE Scan on {relation.cte_id}", []
            case HashJoin():
                properties = [f"Hash Cond: {self.condition(relation.condition)}"]
                if relation.residual is not None:
                    properties.append(f"Join Filter: {self.text(relation.residual)}")
                return f"Hash{JOIN_WORDS[relation.kind]} Join", properties
            case LookupJoin():
                residual = [] if relation.residual is None else [f"Join Filter: {self.text(relation.residual)}"]
                return f"Lookup{JOIN_WORDS[relation.kind]} Join", residual
            case NestedLoop():
                condition = [] if relation.condition is None else [f"Join Filter: {self.text(relation.condition)}"]
                suffix = "" if relation.kind == "inner" else f"{JOIN_WORDS[relation.kind]} Join"
                return f"Nested Loop{suffix}", condition
            case Sort() | TopN():
                return "Sort" if isinstance(relation, Sort) else "Top-N Sort", [f"Sort Key: {self.keys(relation.keys)}"]
            case IncrementalSort():
                return "Incremental Sort", [f"Sort Key: {self.keys(relation.keys)}"]
            case Insert() | Update() | Delete() | Merge():
                return f"{type(relation).__name__} on {relation.table.name}", []
            case Aggregate():
                if not relation.groups:
                    return "Aggregate", []
                return "HashAggregate", [f"Group Key: {', '.join(map(self.text, relation.groups))}"]
            case SetOperation():
                return self._set_operation(relation)
            case Distinct():
                return "Unique", [f"On: {', '.join(map(self.text, relation.on))}"] if relation.on else []
            case Window():
                return "WindowAgg", []
        words = {Limit: "Limit", LockedRows: "LockRows", ProjectSet: "ProjectSet", Apply: "Result"}
        return words.get(type(relation), type(relation).__name__), []

    @staticmethod
    def _set_operation(relation: SetOperation) -> tuple[str, list[str]]:
        if relation.kind == "union":
            return ("Append" if relation.all else "HashAggregate over Append"), []
        return f"HashSetOp {relation.kind.capitalize()}{' All' if relation.all else ''}", []

    def _scan(self, scan: TableScan) -> tuple[str, list[str]]:
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
        properties: list[str] = []
        if bounded:
            properties.append(f"Index Cond: {self.condition(access.terms)}")
        if scan.condition is not None:
            properties.append(f"Filter: {self.text(scan.condition)}")
        if table.sharding is not None:
            properties.append(f"Shards: {self._shards(scan, table)}")
        return title, properties

    def _shards(self, scan: TableScan, table: Table) -> str:
        assert table.sharding is not None
        access = scan.access
        if access.index.is_global and access.index is not table.indexes[0]:
            return "global index"
        numbers = [column.column for column in access.index.columns[: len(access.equal)]]
        if not set(numbers) >= set(table.sharding.columns):
            return "all"
        one = all(len(term.alternatives) == 1 for term in access.equal)
        return "one, by hash" if one else "by hash of each value"

    # ------------------------------------------------------------------------------------------ expressions

    def condition(self, terms: Iterable[Expr]) -> str:
        texts = list(map(self.text, terms))
        return texts[0] if len(texts) == 1 else f"({' AND '.join(texts)})"

    def keys(self, keys: Sequence[SortKey]) -> str:
        texts: list[str] = []
        for key in keys:
            text = self.text(key.expression) + (" DESC" if key.descending else "")
            if key.nulls_first != key.descending:
                text += " NULLS FIRST" if key.nulls_first else " NULLS LAST"
            texts.append(text)
        return ", ".join(texts)

    def list(self, expressions: Iterable[Expr]) -> str:
        return ", ".join(map(self.text, expressions))

    def call_text(self, name: str, arguments: Sequence[Expr], distinct: bool = False) -> str:
        if name == "count" and not arguments:
            return "count(*)"
        return f"{name}({'DISTINCT ' if distinct else ''}{self.list(arguments)})"

    def text(self, expression: Expr) -> str:
        """An expression in SQL's words."""
        match expression:
            case Const():
                return constant_text(expression)
            case Param():
                return f"${expression.index + 1}"
            case ColumnRef():
                return self.names[expression.id]
            case Call():
                return self._call(expression.function, expression.arguments)
            case And():
                return f"({' AND '.join(map(self.text, expression.arguments))})"
            case Or():
                return f"({' OR '.join(map(self.text, expression.arguments))})"
            case Not():
                return f"(NOT {self.text(expression.argument)})"
            case IsNull():
                return f"({self.text(expression.argument)} IS {'NOT ' if expression.negated else ''}NULL)"
            case BooleanTest():
                word = {True: "TRUE", False: "FALSE", None: "UNKNOWN"}[expression.value]
                return f"({self.text(expression.argument)} IS {'NOT ' if expression.negated else ''}{word})"
            case IsDistinct():
                word = "IS NOT DISTINCT FROM" if expression.negated else "IS DISTINCT FROM"
                return f"({self.text(expression.left)} {word} {self.text(expression.right)})"
            case InList():
                word = "<> ALL" if expression.negated else "= ANY"
                return f"({self.text(expression.argument)} {word} ({{{self.list(expression.items)}}}))"
            case AnyAll():
                operator = _operator_text(expression.function) or "="
                word = "ALL" if expression.all else "ANY"
                return f"({self.text(expression.left)} {operator} {word} ({self.text(expression.array)}))"
        return self._rare(expression)

    def _rare(self, expression: Expr) -> str:
        match expression:
            case Case():
                branches = " ".join(f"WHEN {self.text(c)} THEN {self.text(r)}" for c, r in expression.branches)
                return f"CASE {branches} ELSE {self.text(expression.default)} END"
            case Coalesce():
                return f"COALESCE({self.list(expression.arguments)})"
            case MinMax():
                return f"{'GREATEST' if expression.greatest else 'LEAST'}({self.list(expression.arguments)})"
            case ArrayLiteral():
                return f"ARRAY[{self.list(expression.items)}]"
            case RowExpr():
                return f"ROW({self.list(expression.items)})"
            case Subscript():
                return f"{self.text(expression.array)}[{self.list(expression.indexes)}]"
            case FieldAccess():
                return f"({self.text(expression.row)}).f{expression.position + 1}"
            case SetCall():
                return self.call_text(expression.function.name, expression.arguments)
            case Subquery():
                return f"({expression.kind.upper()} subquery)"
        return f"<{type(expression).__name__}>"

    def _call(self, function: Function, arguments: Sequence[Expr]) -> str:
        operator = _operator_text(function)
        if operator is not None and len(arguments) == 2:
            return f"({self.text(arguments[0])} {operator} {self.text(arguments[1])})"
        if operator is not None and len(arguments) == 1:
            return f"({operator} {self.text(arguments[0])})"
        if len(arguments) == 1 and function.name == function.return_type.name:
            name = types.format_type(function.return_type.oid, -1)
            return f"({self.text(arguments[0])})::{name}"
        return f"{function.name}({self.list(arguments)})"


_operators_by_function: dict[int, str] = {}


def _operator_text(function: Function) -> str | None:
    name = operator_name(function)
    if name is not None:
        return name
    if not _operators_by_function:
        for operator in functions.all_operators():
            _operators_by_function.setdefault(operator.function.oid, operator.name)
    return _operators_by_function.get(function.oid)


def constant_text(constant: Const) -> str:
    value: Any = constant.value
    name = types.format_type(constant.type.oid, constant.type.modifier)
    if value is None:
        return f"NULL::{name}"
    if constant.type.oid == BOOL.oid:
        return "true" if value else "false"
    if isinstance(value, int) and constant.type.category == "N":
        return str(value)
    text = types.io(constant.type.oid).format(value, EvalContext()).replace("'", "''")
    return f"'{text}'::{name}"


def _aliased(name: str, alias: str) -> str:
    return name if not alias or alias == name else f"{name} {alias}"
