"""Expressions in SQL's words, for EXPLAIN: ``(a = 5)``, ``count(*)``, ``'x'::text``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.plan.comparisons import written_operator
from pydistdb.sql.tree import (
    And,
    AnyAll,
    ArrayLiteral,
    BooleanTest,
    Call,
    Case,
    Coalesce,
    ColumnRef,
    Const,
    Expr,
    FieldAccess,
    InList,
    IsDistinct,
    IsNull,
    MinMax,
    Not,
    Or,
    Param,
    RowExpr,
    SetCall,
    SortKey,
    Subquery,
    Subscript,
)
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.base import EvalContext, Function
from pydistdb.sql.types.known import BOOL

Texts = list[str]


class Names(dict[int, str]):
    """Column names by id, as far as they are known."""

    def __missing__(self, key: int) -> str:
        return f"#{key}"


class ExpressionText:
    """Writes expressions, calling columns by their names."""

    def __init__(self, catalog: CatalogView | None = None) -> None:
        self.names = Names()
        self.catalog = catalog

    def condition(self, terms: Iterable[Expr]) -> str:
        texts = list(map(self.text, terms))
        return texts[0] if len(texts) == 1 else f"({' AND '.join(texts)})"

    def keys(self, keys: Sequence[SortKey]) -> Texts:
        texts: Texts = []
        for key in keys:
            text = self.text(key.expression) + (" DESC" if key.descending else "")
            if key.nulls_first != key.descending:
                text += " NULLS FIRST" if key.nulls_first else " NULLS LAST"
            texts.append(text)
        return texts

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
                operator = written_operator(expression.function) or "="
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
        operator = written_operator(function)
        if operator is not None and len(arguments) == 2:
            return f"({self.text(arguments[0])} {operator} {self.text(arguments[1])})"
        if operator is not None and len(arguments) == 1:
            return f"({operator} {self.text(arguments[0])})"
        if len(arguments) == 1 and function.name == function.return_type.name:
            name = types.format_type(function.return_type.oid, -1)
            return f"({self.text(arguments[0])})::{name}"
        return f"{function.name}({self.list(arguments)})"


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
