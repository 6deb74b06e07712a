"""Projection, with set-returning functions in the select list.

``SELECT id, generate_series(1, 3) + 1`` becomes a ProjectSet that passes the input's columns through and adds one column
per call, under a Project that computes the rest.  A call inside another's arguments needs a ProjectSet of its own below.

Source: PostgreSQL 15 manual, 38.5.9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pydistdb.sql.bind.routines as routines
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.composites import is_composite
from pydistdb.sql.bind.rewrite import has_set_call, transform
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.bind.targets import Target
from pydistdb.sql.tree import Call, ColumnRef, Expr, OutputColumn, Project, ProjectSet, Rel, RowExpr, SetCall, Subquery


def project(b: Binder, scope: Scope, rel: Rel, targets: Sequence[Target]) -> Rel:
    """Compute a select list over a relation, giving every target the id of its column."""
    expressions = [target.expr for target in targets]
    if scope.set_calls:
        rel, expressions = expand(b, rel, expressions)
    columns = []
    for target, expr in zip(targets, expressions, strict=True):
        target.id = b.new_id()
        columns.append(OutputColumn(target.id, target.name, expr.type))
        scan = routines.called(target.expr)
        if scan is not None and scan.function.returns_row:
            b.record_fields[target.id] = scan.function.out_columns
        elif isinstance(target.expr, Call | SetCall) and target.expr.function.out_columns:
            b.record_fields[target.id] = target.expr.function.out_columns
        elif isinstance(target.expr, ColumnRef) and target.expr.id in b.record_fields:
            b.record_fields[target.id] = b.record_fields[target.expr.id]
        elif isinstance(target.expr, RowExpr) and not is_composite(target.expr.type):
            names = target.expr.names or tuple(f"f{index}" for index in range(1, len(target.expr.items) + 1))
            types = [item.type for item in target.expr.items]
            b.record_fields[target.id] = tuple(zip(names, types, strict=True))
    return Project(tuple(columns), rel, tuple(expressions))


def expand(b: Binder, rel: Rel, expressions: list[Expr]) -> tuple[Rel, list[Expr]]:
    """Move all set-returning calls into ProjectSets below."""
    while any(has_set_call(expr) for expr in expressions):
        rel, expressions = _expand(b, rel, expressions)
    return rel, expressions


def _expand(b: Binder, rel: Rel, expressions: list[Expr]) -> tuple[Rel, list[Expr]]:
    """Move the innermost set-returning calls into a ProjectSet below."""
    found: list[tuple[int, SetCall]] = []

    def visit(expr: Expr) -> Expr | None:
        if isinstance(expr, Subquery):  # what is left of it alone is of this query
            return expr if expr.test is None else replace(expr, test=transform(expr.test, visit))
        if not isinstance(expr, SetCall) or any(has_set_call(argument) for argument in expr.arguments):
            return None
        for id, call in found:
            if call is expr:
                return ColumnRef(expr.type, id, expr.function.name)
        id = b.new_id()
        found.append((id, expr))
        return ColumnRef(expr.type, id, expr.function.name)

    rewritten = [transform(expr, visit) for expr in expressions]
    passed = tuple(ColumnRef(column.type, column.id, column.name) for column in rel.columns)
    columns = rel.columns + tuple(OutputColumn(id, call.function.name, call.type) for id, call in found)
    return ProjectSet(columns, rel, passed + tuple(call for _, call in found)), rewritten
