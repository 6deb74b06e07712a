"""Typed expressions as trees of sqlglot, which writes them as SQL that Postgres reads (explain_sql.py says what for).

::

    Call(int8 +, v, 1) > 5      ->  GT(Paren(Add(v, 1)), 5)      ->  (v + 1) > 5
    InList(g, [1, 2])           ->  In(g, [1, 2])                ->  g IN (1, 2)
    Call(numeric, n, 655366)    ->  Cast(n, numeric(10,2))       ->  CAST(n AS numeric(10,2))

Operators that sqlglot has no node for are written ``a OPERATOR(-|-) b``.  This is a module apart because sqlglot takes
a tenth of a second to import: it is, when the first query is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from sqlglot import exp

from pydistdb.sql.deparse import cast_target
from pydistdb.sql.plan.comparisons import written_operator
from pydistdb.sql.tree import (
    AggregateCall,
    And,
    AnyAll,
    ArrayLiteral,
    BooleanTest,
    Call,
    Case,
    Coalesce,
    ColumnId,
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
    SortKey,
    Subscript,
    WindowCall,
)
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.reg import quote_identifier

_BINARY: dict[str, type[exp.Binary]] = {
    "=": exp.EQ,
    "<>": exp.NEQ,
    "<": exp.LT,
    "<=": exp.LTE,
    ">": exp.GT,
    ">=": exp.GTE,
    "+": exp.Add,
    "-": exp.Sub,
    "*": exp.Mul,
    "%": exp.Mod,
    "||": exp.DPipe,
    "~~": exp.Like,
    "~~*": exp.ILike,
    "&": exp.BitwiseAnd,
    "|": exp.BitwiseOr,
    "#": exp.BitwiseXor,
    "@>": exp.ArrayContainsAll,
    "&&": exp.ArrayOverlaps,
}
_NEGATED = {"!~~": "~~", "!~~*": "~~*"}
_PREFIX: dict[str, type[exp.Unary]] = {"-": exp.Neg, "~": exp.BitwiseNot}
_CLOSED = (
    exp.Column,
    exp.Literal,
    exp.Cast,
    exp.Func,
    exp.Paren,
    exp.Parameter,
    exp.Boolean,
    exp.Null,
    exp.Dot,
    exp.Tuple,
)
"""What needs no parentheses within an operator."""


class Unwritable(Exception):
    """There is no SQL for this."""


def name(text: str) -> exp.Identifier:
    """A name, in quotes where Postgres wants them."""
    return exp.Identifier(this=text, quoted=quote_identifier(text) != text)


def closed(node: exp.Expression) -> exp.Expression:
    """An expression as an operand."""
    is_closed = isinstance(node, _CLOSED) and not isinstance(node, exp.Case | exp.Binary | exp.Connector)
    return node if is_closed else exp.Paren(this=node)


def conjunction(terms: Sequence[exp.Expression]) -> exp.Expression:
    """Terms joined with AND; true if there are none."""
    whole: exp.Expression | None = None
    for term in terms:
        term = exp.Paren(this=term) if isinstance(term, exp.Or) and len(terms) > 1 else term
        whole = term if whole is None else exp.And(this=whole, expression=term)
    return exp.true() if whole is None else whole


def type_node(sql_type: SqlType, modifier: int = -1) -> exp.DataType:
    text = types.format_type(sql_type.oid, modifier)
    if text == "???":
        raise Unwritable(f"type {sql_type.oid}")
    return exp.DataType(this=exp.DataType.Type.USERDEFINED, kind=text)


def constant(value: Const) -> exp.Expression:
    if value.value is None:
        return exp.Cast(this=exp.Null(), to=type_node(value.type, value.type.modifier))
    if value.type.oid == types.BOOL.oid:
        return exp.Boolean(this=bool(value.value))
    if isinstance(value.value, int) and value.type.category == "N":
        number = exp.Literal.number(abs(value.value))
        return exp.Paren(this=exp.Neg(this=number)) if value.value < 0 else number
    text = exp.Literal.string(types.io(value.type.oid).format(value.value, EvalContext()))
    if value.type.oid == types.UNKNOWN.oid:
        return text
    return exp.Cast(this=text, to=type_node(value.type, value.type.modifier))


class SqlExpressions:
    """Writes expressions; ``columns`` says what columns are, ``names`` what those are called that come from outside."""

    def __init__(self, names: dict[ColumnId, str]) -> None:
        self.columns: dict[ColumnId, exp.Expression] = {}
        self._names = names

    def all(self, expressions: Iterable[Expr]) -> list[exp.Expression]:
        return [self.of(each) for each in expressions]

    def key(self, expression: Expr) -> exp.Expression:
        """To group or order by: a bare number would mean a column."""
        node = self.of(expression)
        if isinstance(node.unnest(), exp.Literal | exp.Neg):
            return exp.Cast(this=node, to=type_node(expression.type))
        return node

    def order(self, keys: Sequence[SortKey]) -> list[exp.Expression]:
        return [
            exp.Ordered(this=self.key(key.expression), desc=key.descending, nulls_first=key.nulls_first) for key in keys
        ]

    def of(self, expression: Expr) -> exp.Expression:
        match expression:
            case Const():
                return constant(expression)
            case Param():
                return exp.Parameter(this=exp.Literal.number(expression.index + 1))
            case ColumnRef():
                return self._column(expression.id)
            case Call():
                return self._call(expression)
            case And(arguments=parts):
                return conjunction(self.all(parts))
            case Or(arguments=parts):
                whole, *rest = (closed(self.of(part)) for part in parts)
                for part in rest:
                    whole = exp.Or(this=whole, expression=part)
                return whole
            case Not(argument=part):
                return exp.Not(this=closed(self.of(part)))
            case IsNull(argument=part, negated=negated):
                return self._is(part, exp.Null(), negated)
            case BooleanTest(argument=part, value=value, negated=negated):
                return self._is(part, exp.Var(this="UNKNOWN") if value is None else exp.Boolean(this=value), negated)
            case IsDistinct(left=left, right=right, negated=negated):
                kind = exp.NullSafeEQ if negated else exp.NullSafeNEQ
                return kind(this=closed(self.of(left)), expression=closed(self.of(right)))
            case InList(argument=part, items=items, negated=negated):
                found = exp.In(this=closed(self.of(part)), expressions=self.all(items))
                return exp.Not(this=exp.Paren(this=found)) if negated else found
            case AnyAll():
                word = exp.All if expression.all else exp.Any
                array = word(this=exp.Paren(this=self.of(expression.array)))
                return self._binary(written_operator(expression.function) or "=", self.of(expression.left), array)
        return self._rare(expression)

    def _is(self, argument: Expr, what: exp.Expression, negated: bool) -> exp.Expression:
        found = exp.Is(this=closed(self.of(argument)), expression=what)
        return exp.Not(this=exp.Paren(this=found)) if negated else found

    def _rare(self, expression: Expr) -> exp.Expression:
        match expression:
            case Case():
                branches = [exp.If(this=self.of(test), true=self.of(result)) for test, result in expression.branches]
                return exp.Case(ifs=branches, default=self.of(expression.default))
            case Coalesce(arguments=parts):
                return self.function("coalesce", parts)
            case MinMax(arguments=parts):
                return self.function("greatest" if expression.greatest else "least", parts)
            case ArrayLiteral(items=items):
                return exp.Cast(this=exp.Array(expressions=self.all(items)), to=type_node(expression.type))
            case RowExpr(items=items):
                return self.function("ROW", items)
            case Subscript(array=array, indexes=indexes, slices=()):
                # sqlglot counts from nought, and writes the number that Postgres counts by
                whole = closed(self.of(array))
                for index in indexes:
                    whole = exp.Bracket(this=whole, expressions=[self.of(index)], offset=1)
                return exp.Paren(this=whole)
            case FieldAccess(row=RowExpr(items=items), position=position):
                return self.of(items[position])
        raise Unwritable(type(expression).__name__)

    def _column(self, number: ColumnId) -> exp.Expression:
        found = self.columns.get(number)
        if found is not None:
            return found.copy()
        outside = self._names.get(number, "")
        if not outside.replace(".", "").replace("_", "").isalnum():
            raise Unwritable(f"column {number}")
        table, _, column = outside.rpartition(".")
        return exp.Column(this=name(column), table=name(table) if table else None)

    def _call(self, call: Call) -> exp.Expression:
        function, arguments = call.function, call.arguments
        target = cast_target(call)
        if target is not None:
            to = exp.DataType(this=exp.DataType.Type.USERDEFINED, kind=target)
            return exp.Cast(this=self.of(arguments[0]), to=to)
        operator = written_operator(function)
        if operator is not None and len(arguments) == 2:
            return self._binary(operator, *self.all(arguments))
        if operator in _PREFIX and len(arguments) == 1:
            return _PREFIX[operator](this=exp.Paren(this=self.of(arguments[0])))
        if function.name == "extract" and isinstance(arguments[0], Const):
            return exp.Extract(this=exp.Var(this=str(arguments[0].value)), expression=self.of(arguments[1]))
        if function.returns_set or function.window:
            raise Unwritable(function.name)
        found = self.function(name(function.name), arguments)
        return found if function.schema in ("pg_catalog", "") else exp.Dot(this=name(function.schema), expression=found)

    def function(self, called: str | exp.Identifier, arguments: Sequence[Expr]) -> exp.Expression:
        return exp.Anonymous(this=called, expressions=self.all(arguments))

    # ------------------------------------------------------------------------------------------ aggregates and windows

    def aggregate(self, function: str, call: AggregateCall | WindowCall) -> exp.Expression:
        """A call with ``function`` in place of its own."""
        if call.function.schema != "pg_catalog":
            raise Unwritable(function)
        arguments = self.all(call.arguments) or ([exp.Star()] if function == "count" else [])
        node: exp.Expression
        if isinstance(call, AggregateCall) and call.function.ordered_set:
            count = len(call.order_by) if call.function.hypothetical else call.function.direct_count
            node = exp.WithinGroup(
                this=exp.Anonymous(this=function, expressions=arguments[:count]),
                expression=exp.Order(expressions=self.order(call.order_by)),
            )
        else:
            if isinstance(call, AggregateCall) and call.distinct:
                arguments[0] = exp.Distinct(expressions=arguments[:1])  # of several, sqlglot would make a row
            if isinstance(call, AggregateCall) and call.order_by:
                arguments[-1] = exp.Order(this=arguments[-1], expressions=self.order(call.order_by))
            node = exp.Anonymous(this=function, expressions=arguments)
        if call.filter is not None:
            node = exp.Filter(this=node, expression=exp.Where(this=self.of(call.filter)))
        return node

    def window(self, call: WindowCall) -> exp.Expression:
        over = exp.Window(this=self.aggregate(call.function.name, call), partition_by=self.all(call.partition_by))
        if call.order_by:
            over.set("order", exp.Order(expressions=self.order(call.order_by)))
        if call.frame:
            unit, start, end, exclusion = call.frame
            spec = exp.WindowSpec(kind=unit.upper(), exclude=exp.Var(this=exclusion.upper()) if exclusion else None)
            for place, (words, offset) in (("start", start), ("end", end)):
                *what, side = words.upper().replace("CURRENT ROW", "CURRENT_ROW").split()
                spec.set(place, closed(self.of(offset)) if offset is not None else what[0] if what else "CURRENT ROW")
                spec.set(f"{place}_side", None if side == "CURRENT_ROW" else side)
            over.set("spec", spec)
        return over

    def _binary(self, operator: str, left: exp.Expression, right: exp.Expression) -> exp.Expression:
        operands: dict[str, exp.Expression] = {
            "this": closed(left),
            "expression": right if isinstance(right, exp.SubqueryPredicate) else closed(right),
        }
        if operator in _NEGATED:
            return exp.Not(this=exp.Paren(this=_BINARY[_NEGATED[operator]](**operands)))
        if operator == "/":
            return exp.Div(**operands, typed=True, safe=False)
        if operator in _BINARY:
            return cast(exp.Expression, _BINARY[operator](**operands))
        return exp.Operator(**operands, operator=operator)
