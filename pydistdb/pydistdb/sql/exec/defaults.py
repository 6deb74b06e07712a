"""Stored expressions (column defaults, CHECK constraints) for code that has no bound statement: COPY, SET DEFAULT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydistdb.sql import bind
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.exec.codegen import evaluator
from pydistdb.sql.exec.run import State
from pydistdb.sql.tree import Expr
from pydistdb.sql.types import registry as types


def default_values(table: Table, numbers: Sequence[int], state: State) -> list[Any]:
    """The defaults of columns, evaluated now."""
    by_number = {column.number: column for column in table.columns}
    values: list[Any] = []
    for number in numbers:
        column = by_number[number]
        text = bind.default_text(state.run.catalog, column)
        if text is None:
            values.append(None)
            continue
        target = types.type_by_oid(column.type_oid).with_modifier(column.modifier)
        expression = bind.bind_scalar(text, state.run.catalog, state.context, target)
        values.append(evaluator([expression])(state)[0])
    return values


def bound_generated(table: Table, state: State) -> list[tuple[int, Expr]]:
    """What a table's generated columns are computed as, by number; its columns' ids are their numbers."""
    return [
        (
            column.number,
            bind.bind_expression(
                column.default or "NULL",
                table,
                state.run.catalog,
                state.context,
                types.type_by_oid(column.type_oid).with_modifier(column.modifier),
            ),
        )
        for column in table.columns
        if column.generated and not column.dropped
    ]


def bound_checks(table: Table, state: State) -> list[tuple[str, Expr]]:
    """A table's CHECK constraints; its columns' ids are their numbers."""
    return [
        (check.name, bind.bind_expression(check.expression, table, state.run.catalog, state.context, types.BOOL))
        for check in table.checks
    ]
