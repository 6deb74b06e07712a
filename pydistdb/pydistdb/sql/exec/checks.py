"""NOT NULL and CHECK constraints of rows that are being written, as generated statements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.exec import violations
from pydistdb.sql.exec.codegen import Code
from pydistdb.sql.exec.run import State
from pydistdb.sql.tree import KEY_NUMBER, VIEW_CHECK, Expr

Row = list[Any]


def row_scope(
    ids: dict[int, int], row: str, not_null: frozenset[int] | set[int] = frozenset()
) -> dict[int, tuple[str, bool]]:
    """Columns of a row list, by the ids given to column numbers."""
    return {
        column: (f"{row}[{number - 1}]", number not in not_null)
        for number, column in ids.items()
        if number > KEY_NUMBER
    }


def own_checks(checks: Sequence[tuple[str, Expr]]) -> tuple[tuple[str, Expr], ...]:
    """The table's constraints, without the conditions of views: those hold for rows that are really written, not for
    one that ON CONFLICT leaves out."""
    return tuple(check for check in checks if not check[0].startswith(VIEW_CHECK))


class Checker:
    """NOT NULL and CHECK constraints as generated statements over a row ``r``."""

    def __init__(self, table: Table, checks: Sequence[tuple[str, Expr]]) -> None:
        self.table = table
        self.checks = tuple(checks)

    def null_failed(self, row: Row, number: int, state: State) -> DatabaseError:
        return violations.null_in_column(state.run.catalog, self.table, number, row, state.context)

    def check_failed(self, row: Row, name: str, state: State) -> DatabaseError:
        if name.startswith(VIEW_CHECK):
            return violations.view_check_failed(
                state.run.catalog, self.table, name.removeprefix(VIEW_CHECK), row, state.context
            )
        return violations.check_failed(state.run.catalog, self.table, name, row, state.context)

    def lines(self, code: Code, numbers: Sequence[int] | None = None) -> list[str]:
        """Statements that raise if ``r`` breaks a constraint; ``numbers``: only these columns may have changed."""
        lines: list[str] = []
        for column in self.table.columns:
            if column.not_null and not column.dropped and (numbers is None or column.number in numbers):
                code.namespace["null_failed"] = self.null_failed
                lines += [f"if r[{column.number - 1}] is None:", f"    raise null_failed(r, {column.number}, S)"]
        for name, expression in self.checks:
            code.namespace["check_failed"] = self.check_failed
            lines += [f"if {code.falsity(expression)}:", f"    raise check_failed(r, {code.constant(name)}, S)"]
        return lines
