"""GROUP BY: building the Aggregate of a query level and checking that nothing ungrouped is left above it.

Select list, HAVING and window definitions were bound as if there were no grouping.  Here every part of them that equals
a GROUP BY expression becomes a reference to the group's output column; a column of this level that remains is an error
(42803), unless its table's primary key is grouped by: then it depends on the groups, and joins them.

    SELECT a + 1, count(*) FROM t GROUP BY a      Project(#3 + 1, #4) over Aggregate(groups: #3 = a, calls: #4 = count)

Source: PostgreSQL 15 manual, 7.2.3 to 7.2.5; parse_agg.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import TYPE_CHECKING

from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import resolve_unknown
from pydistdb.sql.bind.dispatch import bind
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.rewrite import same_expression, transform, walk
from pydistdb.sql.bind.scope import Scope, Source
from pydistdb.sql.bind.set_calls import expand
from pydistdb.sql.bind.sort_keys import check_sortable
from pydistdb.sql.errors import DatabaseError, GroupingError, InvalidColumnReference, InvalidSyntax
from pydistdb.sql.tree import (
    Aggregate,
    AggregateCall,
    ColumnId,
    ColumnRef,
    Const,
    Expr,
    OutputColumn,
    Rel,
    Subquery,
    WindowCall,
)
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.registry import INT4

if TYPE_CHECKING:
    from pydistdb.sql.bind.targets import Target

MOST_GROUPING_SETS = 4096

Sets = list[tuple[int, ...]]


class Groups:
    """The GROUP BY expressions of a level; ``sets`` is None for plain grouping."""

    def __init__(self) -> None:
        self.expressions: list[Expr] = []
        self.sets: Sets | None = None
        self.targets: dict[int, Target] = {}
        """The entries of the select list that groups stand for."""

    def index_of(self, expr: Expr, target: Target | None = None) -> int:
        """``target``: the entry that the item names.  Two entries are two groups, be they the same expression."""
        for index, other in enumerate(self.expressions):
            if same_expression(other, expr) and (target is None or self.targets.setdefault(index, target) is target):
                return index
        index = len(self.expressions)
        self.expressions.append(expr)
        if target is not None:
            self.targets[index] = target
        return index


def bind_groups(
    b: Binder, scope: Scope, clause: Sequence[Node], targets: Sequence[Target], distinct: bool = False
) -> Groups:
    """Bind a GROUP BY clause; ``distinct``: equal grouping sets count once."""
    groups = Groups()
    parts: list[Sets] = []
    has_sets = False
    before, scope.clause = scope.clause, "GROUP BY"
    for item in clause:
        if "GroupingSet" in item:
            has_sets = True
            parts.append(_grouping_set(b, scope, item["GroupingSet"], targets, groups))
        elif "RowExpr" in item and item["RowExpr"].get("row_format") == "COERCE_IMPLICIT_CAST":
            parts.append([tuple(_group(b, scope, part, targets, groups) for part in item["RowExpr"].get("args", []))])
        else:
            parts.append([(_group(b, scope, item, targets, groups),)])
    scope.clause = before
    if has_sets:
        sets: Sets = []
        for combination in product(*parts):
            merged: list[int] = []
            for part in combination:
                merged += [index for index in part if index not in merged]
            sets.append(tuple(merged))
            if len(sets) > MOST_GROUPING_SETS:
                raise DatabaseError.of("54001", f"too many grouping sets present (maximum {MOST_GROUPING_SETS})")
        groups.sets = list({frozenset(chosen): chosen for chosen in sets}.values()) if distinct else sets
    return groups


def _group(b: Binder, scope: Scope, node: Node, targets: Sequence[Target], groups: Groups) -> int:
    return groups.index_of(*_group_expression(b, scope, node, targets))


def _group_expression(b: Binder, scope: Scope, node: Node, targets: Sequence[Target]) -> tuple[Expr, Target | None]:
    """A GROUP BY item: an input column if there is one of the name, else an output name, a position, an expression."""
    location = location_of(node)
    named: Target | None = None
    if "ColumnRef" in node and len(node["ColumnRef"]["fields"]) == 1:
        name = node["ColumnRef"]["fields"][0].get("String", {}).get("sval")
        if name is not None and name not in scope.by_name:
            matching = [target for target in targets if target.name == name and not target.hidden]
            if any(target.expr != matching[0].expr for target in matching[1:]):
                raise DatabaseError.of("42702", f'GROUP BY "{name}" is ambiguous', position=b.position(location))
            if matching:
                named = matching[0]
    elif "A_Const" in node:
        named = position_target(b, node["A_Const"], targets, "GROUP BY")
    expr = resolve_unknown(b, bind(b, scope, node) if named is None else named.expr)
    for part in walk(expr):
        if isinstance(part, ColumnRef) and any(part.id == id for id, _ in scope.aggregates):
            raise GroupingError("aggregate functions are not allowed in GROUP BY", position=b.position(location))
        if isinstance(part, ColumnRef) and any(part.id == id for id, _ in scope.windows):
            raise DatabaseError.of(
                "42P20", "window functions are not allowed in GROUP BY", position=b.position(location)
            )
    check_sortable(b, expr, location, "equality")
    return expr, named


def position_target(b: Binder, constant: Node, targets: Sequence[Target], clause: str) -> Target:
    """The output column that a number in ORDER BY or GROUP BY means."""
    position = b.position(constant["location"])
    if "ival" not in constant:
        raise InvalidSyntax(f"non-integer constant in {clause}", position=position)
    number: int = constant["ival"].get("ival", 0)
    visible = [target for target in targets if not target.hidden]
    if not 1 <= number <= len(visible):
        raise InvalidColumnReference(f"{clause} position {number} is not in select list", position=position)
    return visible[number - 1]


def _grouping_set(b: Binder, scope: Scope, node: Node, targets: Sequence[Target], groups: Groups) -> Sets:
    """The sets that ROLLUP, CUBE, GROUPING SETS and () stand for."""
    kind = node.get("kind", "GROUPING_SET_EMPTY")
    if kind == "GROUPING_SET_EMPTY":
        return [()]
    content = node.get("content", [])
    if kind == "GROUPING_SET_SETS":
        sets: Sets = []
        for item in content:
            if "GroupingSet" in item:
                sets += _grouping_set(b, scope, item["GroupingSet"], targets, groups)
            else:
                sets.append(_set_element(b, scope, item, targets, groups))
        return sets
    elements = [_set_element(b, scope, item, targets, groups) for item in content]
    if kind == "GROUPING_SET_ROLLUP":
        return [sum(elements[:count], ()) for count in range(len(elements), -1, -1)]
    if len(elements) > 12:
        raise DatabaseError.of("54011", "CUBE is limited to 12 elements", position=b.position(node["location"]))
    return [sum(chosen, ()) for count in range(len(elements), -1, -1) for chosen in combinations(elements, count)]


def _set_element(b: Binder, scope: Scope, item: Node, targets: Sequence[Target], groups: Groups) -> tuple[int, ...]:
    if "RowExpr" in item and item["RowExpr"].get("row_format") == "COERCE_IMPLICIT_CAST":
        return tuple(_group(b, scope, part, targets, groups) for part in item["RowExpr"].get("args", []))
    return (_group(b, scope, item, targets, groups),)


# ------------------------------------------------------------------------------------------------ building


class Aggregation:
    """The Aggregate of a level, and the rewriting of what stands above it."""

    def __init__(self, b: Binder, scope: Scope, groups: Groups) -> None:
        self.b = b
        self.scope = scope
        self.groups = list(groups.expressions)
        self.sets = groups.sets
        self.group_ids = [b.new_id() for _ in self.groups]
        self.plain: dict[ColumnId, int] = {}
        for index, group in enumerate(self.groups):
            if isinstance(group, ColumnRef):
                self.plain.setdefault(group.id, index)
        # Where all rows are grouped alike, an entry is what its expression is: a constant stays one.
        self.by_target = {id(target): index for index, target in groups.targets.items()} if self.sets else {}
        self.complex = [(group, index) for index, group in enumerate(self.groups) if not isinstance(group, ColumnRef)]
        self.own_ids = {column.id for source in scope.sources for column in source.columns}
        self.own_ids |= {column.id for column in scope.all_columns}
        self.own_ids |= {source.key_id for source in scope.sources if source.key_id is not None}
        self.own_ids |= {source.version_id for source in scope.sources if source.version_id is not None}
        self.own_ids |= {source.presence_id for source in scope.sources if source.presence_id is not None}
        self.depth = 0

    def target(self, target: Target) -> Expr:
        """Rewrite an entry of the select list."""
        index = self.by_target.get(id(target))
        return self.above(target.expr) if index is None else self._group_ref(index, target.expr)

    def above(self, expr: Expr) -> Expr:
        """Rewrite an expression that stands above the Aggregate."""
        return transform(expr, self._visit)

    def window(self, call: WindowCall) -> WindowCall:
        return transform(call, self._visit)

    def _group_ref(self, index: int, expr: Expr) -> Expr:
        name = expr.name if isinstance(expr, ColumnRef) else ""
        nullable = self.sets is not None or not (isinstance(expr, ColumnRef) and not expr.nullable)
        return ColumnRef(expr.type, self.group_ids[index], name, nullable)

    def _visit(self, expr: Expr) -> Expr | None:
        if isinstance(expr, ColumnRef):
            index = self.plain.get(expr.id)
            if index is not None:
                return self._group_ref(index, expr)
            if expr.id in self.own_ids:
                return self._dependent(expr)
            return expr
        if isinstance(expr, Const):
            return expr
        # As in Postgres, what stands in a subquery is matched column by column.
        for group, index in () if self.depth else self.complex:
            if same_expression(group, expr) or (
                group.__class__ is expr.__class__ and replace(group, type=expr.type) == expr
            ):
                return self._group_ref(index, expr)
        if isinstance(expr, Subquery):
            test = transform(expr.test, self._visit)
            self.depth += 1
            query = transform(expr.query, self._visit)
            self.depth -= 1
            return replace(expr, query=query, test=test)
        return None

    def _dependent(self, expr: ColumnRef) -> Expr:
        """A column that is not grouped by: right if it depends on a primary key that is."""
        source = self.scope.source_of(expr.id)
        if source is not None and self._key_is_grouped(source):
            self.groups.append(expr)
            if self.sets is not None:
                self.sets = [(*chosen, len(self.groups) - 1) for chosen in self.sets]
            self.group_ids.append(self.b.new_id())
            self.plain[expr.id] = len(self.groups) - 1
            return self._group_ref(len(self.groups) - 1, expr)
        label = f"{source.name}.{expr.name}" if source is not None and source.name else expr.name
        position = self.b.position(self.b.location_of(expr))
        if self.depth:
            raise GroupingError(f'subquery uses ungrouped column "{label}" from outer query', position=position)
        raise GroupingError(
            f'column "{label}" must appear in the GROUP BY clause or be used in an aggregate function',
            position=position,
        )

    def _key_is_grouped(self, source: Source) -> bool:
        table = source.table
        if table is None or not table.indexes or not table.indexes[0].primary:
            return False
        ids = {column.number: column.id for column in source.columns}
        positions = [self.plain.get(ids.get(part.column, 0)) for part in table.indexes[0].columns]
        return all(
            position is not None and all(position in chosen for chosen in self.sets or ()) for position in positions
        )

    def build(self, rel: Rel) -> Aggregate:
        """Make the Aggregate; to be called when everything above has been rewritten."""
        for _, call in self.scope.aggregates:
            self._check_direct(call)
        names = [group.name if isinstance(group, ColumnRef) else "" for group in self.groups]
        columns = [
            OutputColumn(id, name, group.type)
            for id, name, group in zip(self.group_ids, names, self.groups, strict=True)
        ]
        columns += [OutputColumn(id, call.function.name, self._result_type(id)) for id, call in self.scope.aggregates]
        calls = tuple(call for _, call in self.scope.aggregates)
        columns += [OutputColumn(id, "grouping", INT4) for id, _, _ in self.scope.groupings]
        groupings = tuple(self._grouping(arguments, places) for _, arguments, places in self.scope.groupings)
        expressions = self.groups
        if self.scope.set_calls:
            rel, expressions = expand(self.b, rel, self.groups)
        return Aggregate(tuple(columns), rel, tuple(expressions), calls, tuple(self.sets or ()), groupings)

    def _check_direct(self, call: AggregateCall) -> None:
        """Direct arguments are the same for a whole group."""
        function = call.function
        if function.ordered_set:
            for argument in call.arguments[: len(call.order_by) if function.hypothetical else function.direct_count]:
                try:
                    self.above(argument)
                except GroupingError as error:
                    error.detail = "Direct arguments of an ordered-set aggregate must use only grouped columns."
                    raise

    def _grouping(self, arguments: Sequence[Expr], locations: Sequence[int]) -> tuple[int, ...]:
        """GROUPING's arguments as positions into the groups."""
        positions = []
        for argument, location in zip(arguments, locations, strict=True):
            index = next((i for i, group in enumerate(self.groups) if same_expression(group, argument)), None)
            if index is None:
                raise GroupingError(
                    "arguments to GROUPING must be grouping expressions of the associated query level",
                    position=self.b.position(location),
                )
            positions.append(index)
        return tuple(positions)

    def _result_type(self, id: ColumnId) -> SqlType:
        return self.b.aggregate_types[id]
