"""Typed expressions as SQL text, as Postgres's ruleutils.c writes them (pg_get_indexdef, pg_get_expr).

Two manners: the plain one puts every operator into parentheses, so that the text cannot be misread; the pretty one
(psql's \\d) leaves out those that precedence or the surroundings make superfluous::

    plain    ((a IS NOT NULL) AND ((c)::text <> 'y'::text))
    pretty   a IS NOT NULL AND c::text <> 'y'::text

What has no form here raises ``Undeparsable``: the caller then keeps the text as the user wrote it.

Source: PostgreSQL 15, ruleutils.c (get_rule_expr, isSimpleNode).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql.catalog.descriptors import Table
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
    InList,
    IsDistinct,
    IsNull,
    MinMax,
    Not,
    Or,
    Subscript,
)
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.reg import quote_identifier

_LOW, _HIGH = frozenset("+-"), frozenset("*/%")
_TESTS = {True: "TRUE", False: "FALSE", None: "UNKNOWN"}


class Undeparsable(Exception):
    """There is no text for this expression here."""


def deparse(expression: Expr, table: Table, *, pretty: bool = False) -> str:
    """The text of an expression over the table's row (ids of ColumnRefs are column numbers)."""
    return _Writer(table, pretty).text(expression)


def is_function_like(expression: Expr) -> bool:
    """Whether an index key needs no parentheses of its own: ``lower(a)``, but not ``a + 1`` or a cast."""
    if isinstance(expression, Coalesce | MinMax):
        return True
    if not isinstance(expression, Call):
        return False
    return written_operator(expression.function) is None and cast_target(expression) is None


def index_key(expression: Expr, table: Table, *, pretty: bool = False) -> str:
    """An expression as a key in CREATE INDEX."""
    text = deparse(expression, table, pretty=pretty)
    return text if is_function_like(expression) else f"({text})"


class _Writer:
    def __init__(self, table: Table, pretty: bool) -> None:
        self.columns = {column.number: column for column in table.columns}
        self.pretty = pretty

    def wrapped(self, text: str) -> str:
        return text if self.pretty else f"({text})"

    def within(self, expression: Expr, parent: Expr, left: bool = False) -> str:
        """A part of ``parent``, in parentheses where it needs them."""
        text = self.text(expression)
        return f"({text})" if self.pretty and not self._is_simple(expression, parent, left) else text

    def list(self, expressions: Sequence[Expr]) -> str:
        return ", ".join(map(self.text, expressions))

    def text(self, expression: Expr) -> str:
        match expression:
            case ColumnRef():
                return self._column(expression)
            case Const():
                return self._constant(expression)
            case Call():
                return self._call(expression)
            case And(arguments=parts) | Or(arguments=parts):
                word = " AND " if isinstance(expression, And) else " OR "
                return self.wrapped(word.join(self.within(part, expression) for part in parts))
            case Not(argument=part):
                return self.wrapped(f"NOT {self.within(part, expression)}")
            case IsNull(argument=part, negated=negated):
                return self.wrapped(f"{self.within(part, expression)} IS {'NOT ' if negated else ''}NULL")
            case BooleanTest(argument=part, value=value, negated=negated):
                return self.wrapped(f"{self.within(part, expression)} IS {'NOT ' if negated else ''}{_TESTS[value]}")
            case IsDistinct(left=left, right=right, negated=negated):
                text = f"{self.within(left, expression)} IS DISTINCT FROM {self.within(right, expression)}"
                return f"(NOT ({text}))" if negated and not self.pretty else f"NOT {text}" if negated else f"({text})"
            case Coalesce(arguments=parts):
                return f"COALESCE({self.list(parts)})"
            case MinMax(arguments=parts, greatest=greatest):
                return f"{'GREATEST' if greatest else 'LEAST'}({self.list(parts)})"
            case ArrayLiteral(items=items):
                return f"ARRAY[{self.list(items)}]"
            case InList(argument=part, items=items, negated=negated):
                word = "<> ALL" if negated else "= ANY"
                return self.wrapped(f"{self.within(part, expression)} {word} (ARRAY[{self.list(items)}])")
            case AnyAll():
                return self._any_all(expression)
            case Case():
                return self._case(expression)
            case Subscript(array=array, indexes=indexes) if indexes and not expression.slices:
                return f"{self.within(array, expression)}{''.join(f'[{self.text(index)}]' for index in indexes)}"
        raise Undeparsable(type(expression).__name__)

    def _column(self, reference: ColumnRef) -> str:
        """A column; where a varchar passes for text, its cast is shown."""
        column = self.columns[reference.id]
        name = quote_identifier(column.name)
        if column.type_oid == reference.type.oid or reference.type.oid != types.TEXT.oid:
            return name
        return f"{name}::text" if self.pretty else f"({name})::text"

    def _constant(self, constant: Const) -> str:
        text = _constant(constant)
        if constant.type.oid == types.NUMERIC.oid and text.isdigit():
            return f"{text}::numeric" if self.pretty else f"({text})::numeric"
        return text

    def _any_all(self, expression: AnyAll) -> str:
        operator = written_operator(expression.function)
        if operator is None:
            raise Undeparsable(expression.function.name)
        left = self.within(expression.left, expression)
        word = "ALL" if expression.all else "ANY"
        return self.wrapped(f"{left} {operator} {word} ({self.within(expression.array, expression)})")

    def _case(self, expression: Case) -> str:
        branches = [
            f"    WHEN {self.text(condition)} THEN {self.text(result)}" for condition, result in expression.branches
        ]
        return "\n".join(["\nCASE", *branches, f"    ELSE {self.text(expression.default)}", "END"])

    def _call(self, call: Call) -> str:
        function, arguments = call.function, call.arguments
        target = cast_target(call)
        if target is not None:
            return self._cast(arguments[0], target, call)
        operator = written_operator(function)
        if operator is not None and len(arguments) == 2:
            left = self._argument(call, 0, left=True)
            return self.wrapped(f"{left} {operator} {self._argument(call, 1)}")
        if operator is not None and len(arguments) == 1:
            return self.wrapped(f"{operator} {self._argument(call, 0)}")
        if function.name == "timezone" and len(arguments) == 2:
            return f"({self.text(arguments[1])} AT TIME ZONE {self.text(arguments[0])})"
        if function.name == "extract" and isinstance(arguments[0], Const):
            return f"EXTRACT({arguments[0].value} FROM {self.text(arguments[1])})"
        if function.returns_set or function.window:
            raise Undeparsable(function.name)
        parts = [self._argument(call, position) for position in range(len(arguments))]
        name = quote_identifier(function.name)
        if function.schema not in ("pg_catalog", ""):
            name = f"{quote_identifier(function.schema)}.{name}"
        return f"{name}({', '.join(parts)})"

    def _argument(self, call: Call, position: int, left: bool = False) -> str:
        argument = call.arguments[position]
        if written_operator(call.function) is None:
            return self.text(argument)
        return self.within(argument, call, left)

    def _cast(self, argument: Expr, target: str, parent: Expr) -> str:
        if self.pretty:
            return f"{self.within(argument, _CAST)}::{target}"
        return f"({self.text(argument)})::{target}"

    def _is_simple(self, node: Expr, parent: Expr, left: bool) -> bool:
        match node:
            case Call():
                if cast_target(node) is not None or written_operator(node.function) is None:
                    return True
                if isinstance(parent, Call) and written_operator(parent.function) is not None:
                    return _binds_tighter(written_operator(node.function), written_operator(parent.function), left)
                return isinstance(parent, And | Or | Not)
            case And():
                return isinstance(parent, And | Or)
            case Or():
                return isinstance(parent, Or)
            case IsNull() | BooleanTest() | IsDistinct():
                return isinstance(parent, And | Or | Not)
            case Not():
                return isinstance(parent, And | Or)
            case AnyAll() | InList():
                return False
        return True


_CAST = Const(types.UNKNOWN, None)
"""Stands for a cast around an expression."""


def _binds_tighter(inner: str | None, outer: str | None, left: bool) -> bool:
    if inner in _HIGH:
        return outer in _LOW or (left and outer in _HIGH)
    return inner in _LOW and left and outer in _LOW


def _constant(constant: Const) -> str:
    value = constant.value
    name = types.format_type(constant.type.oid, constant.type.modifier)
    if value is None:
        return f"NULL::{name}"
    if constant.type.oid == types.BOOL.oid:
        return "true" if value else "false"
    if isinstance(value, PgArray) and constant.type.element_oid and value.items:
        item_type = types.type_by_oid(constant.type.element_oid)
        return f"ARRAY[{', '.join(_constant(Const(item_type, item)) for item in value.items)}]"
    text = types.io(constant.type.oid).format(value, EvalContext()).replace("'", "''")
    if constant.type.oid in (types.INT4.oid, types.NUMERIC.oid) and text.replace(".", "", 1).isdigit():
        return text
    return f"'{text}'::{name}"


def cast_target(call: Call) -> str | None:
    """The type's name if the call is a cast."""
    function, arguments = call.function, call.arguments
    if not arguments or (function.name != function.return_type.name and function.name != "bpchar"):
        return None
    modifier = -1
    if len(arguments) > 1:
        if not isinstance(arguments[1], Const) or not isinstance(arguments[1].value, int):
            return None
        modifier = arguments[1].value
    return types.format_type(function.return_type.oid, modifier)
