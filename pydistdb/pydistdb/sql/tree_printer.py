"""Prints typed trees compactly, for golden scripts and for people: one line per relation, expressions as near to SQL.

``SELECT name FROM users WHERE id = 5`` prints as::

    Project #3:name = #2
      Filter int84eq(#1, 5)
        Scan users (#1:id, #2:name)

``#n`` is a column by its id; casts and operators print as calls of their functions, because that is what they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydistdb.sql import tree
from pydistdb.sql.tree import Expr, OutputColumn, Rel, SortKey
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext, SqlType


def print_statement(statement: tree.BoundStatement) -> str:
    """A bound statement: its relations and what the session is told about it."""
    lines = relation_lines(statement.query)
    if statement.has_rows:
        columns = ", ".join(f"{column.name} {type_name(column.type)}" for column in statement.query.columns)
        lines.append(f"=> {columns}" if columns else "=>")
    if statement.parameter_types:
        names = ", ".join(type_name(parameter) for parameter in statement.parameter_types)
        lines.append(f"parameters: {names}")
    return "\n".join(lines)


def type_name(sql_type: SqlType) -> str:
    return registry.format_type(sql_type.oid, sql_type.modifier)


# ------------------------------------------------------------------------------------------------ expressions


def _list(items: Iterable[Expr]) -> str:
    return ", ".join(expression(item) for item in items)


def _constant(expr: tree.Const) -> str:
    value = expr.value
    if value is None:
        return f"null:{expr.type.name}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if expr.type.name in ("int4", "int8", "int2") and isinstance(value, int):
        return str(value) if expr.type.name == "int4" else f"{value}:{expr.type.name}"
    text = registry.io(expr.type.oid).format(value, EvalContext()) if expr.type.name != "unknown" else str(value)
    quoted = "'" + text.replace("'", "''") + "'"
    return quoted if expr.type.name == "text" else f"{quoted}:{expr.type.name}"


def expression(expr: Expr) -> str:
    """One expression on one line (subqueries in braces)."""
    match expr:
        case tree.Const():
            return _constant(expr)
        case tree.Param():
            return f"${expr.index + 1}:{expr.type.name}"
        case tree.ColumnRef():
            return f"#{expr.id}"
        case tree.Call():
            return f"{expr.function.name}({_list(expr.arguments)})"
        case tree.SetCall():
            return f"set {expr.function.name}({_list(expr.arguments)})"
        case tree.And():
            return "(" + " and ".join(map(expression, expr.arguments)) + ")"
        case tree.Or():
            return "(" + " or ".join(map(expression, expr.arguments)) + ")"
        case tree.Not():
            return f"not {expression(expr.argument)}"
        case tree.IsNull():
            return f"({expression(expr.argument)} is {'not ' if expr.negated else ''}null)"
        case tree.BooleanTest():
            word = "unknown" if expr.value is None else str(expr.value).lower()
            return f"({expression(expr.argument)} is {'not ' if expr.negated else ''}{word})"
        case tree.IsDistinct():
            words = "is not distinct from" if expr.negated else "is distinct from"
            return f"({expression(expr.left)} {words} {expression(expr.right)} by {expr.equality.name})"
        case tree.Case():
            branches = "".join(f" when {expression(c)} then {expression(r)}" for c, r in expr.branches)
            return f"case{branches} else {expression(expr.default)} end"
        case tree.Coalesce():
            return f"coalesce({_list(expr.arguments)})"
        case tree.MinMax():
            return f"{'greatest' if expr.greatest else 'least'}({_list(expr.arguments)})"
        case tree.InList():
            word = "not in" if expr.negated else "in"
            return f"({expression(expr.argument)} {word} [{_list(expr.items)}] by {expr.equality.name})"
        case tree.AnyAll():
            word = "all" if expr.all else "any"
            return f"{expr.function.name}({expression(expr.left)}, {word} {expression(expr.array)})"
        case tree.ArrayLiteral():
            return f"array[{_list(expr.items)}]:{expr.type.name}"
        case tree.Subscript():
            return expression(expr.array) + _subscripts(expr)
        case tree.RowExpr():
            return f"row({_list(expr.items)})"
        case tree.FieldAccess():
            return f"{expression(expr.row)}.{expr.position + 1}"
        case tree.Subquery():
            test = f" test {expression(expr.test)}" if expr.test is not None else ""
            return f"{expr.kind}{test} {{{'; '.join(line.strip() for line in relation_lines(expr.query))}}}"
    raise AssertionError(f"no printer for {expr!r}")


def _subscripts(expr: tree.Subscript) -> str:
    def bound(part: Expr | None) -> str:
        return "" if part is None else expression(part)

    if expr.slices:
        return "".join(f"[{bound(lower)}:{bound(upper)}]" for lower, upper in expr.slices)
    return "".join(f"[{expression(index)}]" for index in expr.indexes)


def sort_keys(keys: Sequence[SortKey]) -> str:
    parts = []
    for key in keys:
        words = expression(key.expression) + (" desc" if key.descending else "")
        if key.nulls_first != key.descending:
            words += " nulls first" if key.nulls_first else " nulls last"
        parts.append(words)
    return ", ".join(parts)


# ------------------------------------------------------------------------------------------------ relations


def _columns(columns: Sequence[OutputColumn]) -> str:
    return ", ".join(f"#{column.id}:{column.name}" if column.name else f"#{column.id}" for column in columns)


def _computed(columns: Sequence[OutputColumn], expressions: Sequence[Expr]) -> str:
    parts = []
    for column, expr in zip(columns, expressions, strict=True):
        if isinstance(expr, tree.ColumnRef) and expr.id == column.id:
            continue
        label = f"#{column.id}:{column.name}" if column.name else f"#{column.id}"
        parts.append(f"{label} = {expression(expr)}")
    return ", ".join(parts)


def _aggregate_call(call: tree.AggregateCall) -> str:
    words = f"{call.function.name}({'distinct ' if call.distinct else ''}{_list(call.arguments)}"
    words += f" order by {sort_keys(call.order_by)})" if call.order_by else ")"
    return words + (f" filter {expression(call.filter)}" if call.filter is not None else "")


def _bound(part: tuple[str, Expr | None]) -> str:
    return part[0] if part[1] is None else f"{expression(part[1])} {part[0]}"


def _window_call(call: tree.WindowCall) -> str:
    words = [f"{call.function.name}({_list(call.arguments)})"]
    if call.filter is not None:
        words.append(f"filter {expression(call.filter)}")
    words.append("over")
    if call.partition_by:
        words.append(f"partition {_list(call.partition_by)}")
    if call.order_by:
        words.append(f"order {sort_keys(call.order_by)}")
    if call.frame:
        unit, start, end, exclusion = call.frame
        words.append(f"{unit} {_bound(start)} to {_bound(end)}" + (f" exclude {exclusion}" if exclusion else ""))
    return " ".join(words)


def relation_lines(rel: Rel, depth: int = 0) -> list[str]:
    """A relation and its inputs, each line indented under its reader."""
    head, inputs = _relation(rel)
    lines = ["  " * depth + head]
    for child in inputs:
        lines += relation_lines(child, depth + 1)
    return lines


def _relation(rel: Rel) -> tuple[str, tuple[Rel, ...]]:
    match rel:
        case tree.Scan():
            alias = f" {rel.alias}" if rel.alias and rel.alias != rel.table.name else ""
            return f"Scan {rel.table.name}{alias} ({_columns(rel.columns)})", ()
        case tree.VirtualScan():
            return f"VirtualScan {rel.table.schema}.{rel.table.name} ({_columns(rel.columns)})", ()
        case tree.FunctionScan():
            words = f"{rel.function.name}({_list(rel.arguments)}){' with ordinality' if rel.ordinality else ''}"
            return f"FunctionScan {words} ({_columns(rel.columns)})", ()
        case tree.Values():
            rows = ", ".join(f"({_list(row)})" for row in rel.rows)
            return f"Values {rows}" + (f" as {_columns(rel.columns)}" if rel.columns else ""), ()
        case tree.Filter():
            return f"Filter {expression(rel.condition)}", (rel.input,)
        case tree.Project():
            return f"Project {_computed(rel.columns, rel.expressions)}", (rel.input,)
        case tree.ProjectSet():
            return f"ProjectSet {_computed(rel.columns, rel.expressions)}", (rel.input,)
        case tree.Join():
            words = rel.kind + (" lateral" if rel.lateral else "") + (" null-aware" if rel.null_aware else "")
            return f"Join {words} on {expression(rel.condition)}", (rel.left, rel.right)
        case tree.Aggregate():
            return _aggregate(rel), (rel.input,)
        case tree.Window():
            added = rel.columns[len(rel.columns) - len(rel.calls) :]
            calls = ", ".join(f"#{c.id} = {_window_call(call)}" for c, call in zip(added, rel.calls, strict=True))
            return f"Window {calls}", (rel.input,)
        case tree.FirstRows():
            words = f"FirstRows {rel.counting} <= {expression(rel.limit)}"
            words += f" by {_list(rel.groups)}" if rel.groups else ""
            return f"{words} order {sort_keys(rel.keys)}" if rel.keys else words, (rel.input,)
        case tree.Sort():
            return f"Sort {sort_keys(rel.keys)}", (rel.input,)
        case tree.Limit():
            words = f" {expression(rel.limit)}" if rel.limit is not None else ""
            words += f" offset {expression(rel.offset)}" if rel.offset is not None else ""
            return f"Limit{words}{' with ties' if rel.with_ties else ''}", (rel.input,)
        case tree.Distinct():
            return f"Distinct on {_list(rel.on)}" if rel.on else "Distinct", (rel.input,)
        case tree.SetOperation():
            words = rel.kind + (" all" if rel.all else "")
            return f"SetOperation {words} ({_columns(rel.columns)})", (rel.left, rel.right)
        case tree.Cte():
            words = f"Cte {rel.cte_id}"
            if rel.step is not None:
                words += " recursive" + ("" if rel.union_all else " distinct")
            return words, tuple(part for part in (rel.definition, rel.step, rel.body) if part is not None)
        case tree.CteScan():
            return f"CteScan {rel.cte_id} ({_columns(rel.columns)})", ()
        case tree.LockRows():
            targets = ", ".join(f"{table.name} by #{id}" for table, id in rel.targets)
            return f"LockRows {targets} strength {rel.strength} wait {rel.wait}", (rel.input,)
        case tree.Insert() | tree.Update() | tree.Delete():
            return _change(rel), (rel.source,)
        case tree.Merge():
            return _merge(rel), (rel.source,)
    raise AssertionError(f"no printer for {rel!r}")


def _aggregate(rel: tree.Aggregate) -> str:
    groups = _computed(rel.columns[: len(rel.groups)], rel.groups)
    outputs = rel.columns[len(rel.groups) :]
    calls = ", ".join(f"#{c.id} = {_aggregate_call(call)}" for c, call in zip(outputs, rel.calls, strict=False))
    words = "Aggregate"
    if groups:
        words += f" by {groups}"
    if rel.grouping_sets:
        words += " sets " + " ".join("(" + ",".join(map(str, each)) + ")" for each in rel.grouping_sets)
    for column, positions in zip(outputs[len(rel.calls) :], rel.groupings, strict=True):
        words += f" #{column.id} = grouping({','.join(map(str, positions))})"
    return words + (f": {calls}" if calls else "")


def _ids(ids: dict[int, int]) -> str:
    return "(" + ", ".join(f"{number}:#{id}" for number, id in ids.items()) + ")"


def _assignments(assignments: Iterable[tuple[int, Expr]]) -> str:
    return ", ".join(f"{number} = {expression(expr)}" for number, expr in assignments)


def _merge(rel: tree.Merge) -> str:
    parts = [f"Merge {rel.table.name} by #{rel.key_id} row {_ids(rel.row_ids)}"]
    for action in rel.actions:
        test = "" if action.condition is None else f" and {expression(action.condition)}"
        values = f" {_assignments(action.values)}" if action.values else ""
        parts.append(f"when {'' if action.matched else 'not '}matched{test} {action.kind}{values}")
    if rel.generated:
        parts.append(f"generated {_assignments(rel.generated)}")
    if rel.checks:
        parts.append("checks " + ", ".join(f"{name}: {expression(check)}" for name, check in rel.checks))
    return "; ".join(parts)


def _change(rel: tree.Insert | tree.Update | tree.Delete) -> str:
    parts: list[str] = []
    match rel:
        case tree.Insert():
            parts.append(f"Insert {rel.table.name} ({', '.join(map(str, rel.target_numbers))})")
            if rel.defaults:
                parts.append(f"defaults {_assignments(rel.defaults.items())}")
            if rel.checks or rel.returning or rel.on_conflict or rel.generated:
                parts.append(f"row {_ids(rel.row_ids)}")
            if rel.on_conflict is not None:
                conflict = rel.on_conflict
                words = f"on conflict {'any' if conflict.indexes is None else ', '.join(map(str, conflict.indexes))}"
                if conflict.assignments:
                    words += f" excluded {_ids(conflict.excluded_ids)} set {_assignments(conflict.assignments)}"
                if conflict.condition is not None:
                    words += f" where {expression(conflict.condition)}"
                parts.append(words)
        case tree.Update():
            parts.append(f"Update {rel.table.name} by #{rel.key_id} set {_assignments(rel.assignments)}")
            if rel.checks or rel.returning or rel.generated:
                parts.append(f"row {_ids(rel.new_ids)}")
        case tree.Delete():
            parts.append(f"Delete {rel.table.name} by #{rel.key_id}")
    if not isinstance(rel, tree.Delete):
        if rel.generated:
            parts.append(f"generated {_assignments(rel.generated)}")
        if rel.checks:
            parts.append("checks " + ", ".join(f"{name}: {expression(check)}" for name, check in rel.checks))
    if not isinstance(rel, tree.Insert) and rel.recheck is not None:
        parts.append(f"recheck {expression(rel.recheck)}")
    if rel.returning:
        parts.append(f"returning {_computed(rel.columns, rel.returning)}")
    return "; ".join(parts)
