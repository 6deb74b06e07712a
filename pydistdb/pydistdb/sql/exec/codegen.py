"""Expressions to Python source.

A ``Code`` collects one generated function: the namespace of its constants and functions, the set-up lines that fetch
parameters and outer columns once per batch, and the temporaries.  Three forms of an expression:

* ``value``: the SQL value, None for NULL;
* ``truth``: truthy iff the expression is TRUE (what WHERE asks; NULL counts as not true, so no three-valued logic);
* ``falsity``: truthy iff it is FALSE (what NOT turns ``truth`` into).

NULL is tested only where a column or function can give one.  ``b < $1 AND NOT a`` over nullable columns a, b::

    ((t1 := r[1]) is not None and p0 is not None and t1 < p0) and r[0] is False

A subexpression that is deep moves into a function of its own, since Python's parser allows about 100 nested brackets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, assert_never

from pydistdb.sql.errors import DatabaseError, FeatureNotSupported
from pydistdb.sql.exec import support
from pydistdb.sql.exec.values import is_native, never_null
from pydistdb.sql.generate import build
from pydistdb.sql.plan.comparisons import comparison, family
from pydistdb.sql.plan.expressions import direct_parts
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
    Subquery,
    Subscript,
)
from pydistdb.sql.types.base import Function
from pydistdb.sql.types.known import RECORD

RECORD_OID = RECORD.oid
DEEPEST = 12
"""Nested expressions per generated function."""

Columns = Mapping[int, tuple[str, bool]]
"""Column id -> (source, whether it can be NULL)."""


class Code:
    """One generated function in the making.  ``variables``: the names of its row variables."""

    def __init__(self, columns: Columns, variables: Sequence[str] = ("r",)) -> None:
        self.columns = columns
        self.variables = tuple(variables)
        self.namespace: dict[str, Any] = {}
        self.setup: dict[str, str] = {}
        """Name -> set-up line, in order of first use."""
        self._temporaries = 0
        self._constants = 0
        self._depth = 0
        self._levels = 0
        self._prepared: dict[int, str] = {}
        """Calls that stand for the deep parts of an expression, by their id."""
        self._functions: dict[int, str] = {}

    # ------------------------------------------------------------------------------------------ building blocks

    def constant(self, value: Any) -> str:
        """A name for a constant."""
        if value is None or value is True or value is False:
            return repr(value)
        name = f"k{self._constants}"
        self._constants += 1
        self.namespace[name] = value
        return name

    def temporary(self) -> str:
        self._temporaries += 1
        return f"t{self._temporaries}"

    def helper(self, function: Callable[..., Any]) -> str:
        """A name for one of our own helpers."""
        name = function.__name__
        self.namespace[name] = function
        return name

    def context(self) -> str:
        self.setup["X"] = "X = S.context"
        return "X"

    def _function(self, function: Function) -> str:
        name = self._functions.get(id(function))
        if name is None:
            name = self._functions[id(function)] = f"f{len(self._functions)}"
            self.namespace[name] = function.implementation
        return name

    def build(self, header: str, body: str, name: str = "f") -> Any:
        """Compile ``def header: set-up; body``; ``body`` is lines with their own relative indentation."""
        lines = [f"def {header}:"]
        for line in self.setup.values():
            lines.extend(f"    {part}" for part in line.split("\n"))
        lines.extend(f"    {line}" for line in body.split("\n"))
        return build("\n".join(lines) + "\n", self.namespace, name)

    # ------------------------------------------------------------------------------------------ nullability

    def nullable(self, expression: Expr, levels: int = 3 * DEEPEST) -> bool:
        """Whether the value can be NULL (further down than ``levels``: taken for granted)."""
        if levels == 0 or id(expression) in self._prepared:
            return True

        def any_nullable(expressions: Iterable[Expr]) -> bool:
            return any(self.nullable(part, levels - 1) for part in expressions)

        match expression:
            case Const():
                return expression.value is None
            case ColumnRef():
                known = self.columns.get(expression.id)
                return known is None or known[1]
            case IsNull() | BooleanTest() | IsDistinct() | ArrayLiteral() | RowExpr():
                return False
            case Call():
                return not never_null(expression.function) or any_nullable(expression.arguments)
            case And() | Or():
                return any_nullable(expression.arguments)
            case Not():
                return self.nullable(expression.argument, levels - 1)
            case Coalesce():
                return all(self.nullable(part, levels - 1) for part in expression.arguments)
            case Case():
                return any_nullable([expression.default, *(result for _, result in expression.branches)])
            case _:
                return True

    # ------------------------------------------------------------------------------------------ value

    def value(self, expression: Expr) -> str:
        """Source of the value."""
        return self._nested(expression, self._value)

    def truth(self, expression: Expr) -> str:
        """Source that is truthy iff the expression is TRUE."""
        return self._nested(expression, self._truth)

    def falsity(self, expression: Expr) -> str:
        """Source that is truthy iff the expression is FALSE."""
        return self._nested(expression, self._falsity)

    def _nested(self, expression: Expr, form: Callable[[Expr], str]) -> str:
        if isinstance(expression, ColumnRef | Const | Param):
            return form(expression)
        if self._levels >= 3 * DEEPEST:
            self._prepare(expression)
        prepared = self._prepared.get(id(expression))
        if prepared is not None:
            return {"_truth": f"({prepared} is True)", "_falsity": f"({prepared} is False)"}.get(
                form.__name__, prepared
            )
        self._levels += 1
        try:
            if self._depth < DEEPEST:
                self._depth += 1
                source = form(expression)
                self._depth -= 1
                return source
            depth, self._depth = self._depth, 0
            source = form(expression)
            self._depth = depth
        finally:
            self._levels -= 1
        return self._helper_function(source)

    def _helper_function(self, source: str) -> str:
        """Put source into a function of its own; returns the call."""
        name = f"h{self._temporaries}"
        self._temporaries += 1
        arguments = ", ".join(self.variables)
        self.setup[name] = f"def {name}({arguments}):\n    return {source}"
        return f"{name}({arguments})"

    def _prepare(self, expression: Expr) -> None:
        """Make functions of what lies deep in a very deep expression, from below, so that no recursion goes all the way."""
        if id(expression) in self._prepared:
            return
        heights: dict[int, int] = {}
        stack: list[tuple[Expr, bool]] = [(expression, False)]
        while stack:
            node, is_open = stack.pop()
            parts = direct_parts(node)[0]
            if not is_open:
                stack.append((node, True))
                stack.extend((part, False) for part in parts)
                continue
            height = heights[id(node)] = 1 + max([heights[id(part)] for part in parts], default=0)
            if height % DEEPEST == 0:
                levels, depth = self._levels, self._depth
                self._levels = self._depth = 0
                self._prepared[id(node)] = self._helper_function(self._value(node))
                self._levels, self._depth = levels, depth

    def _value(self, expression: Expr) -> str:
        match expression:
            case Const():
                return self.constant(expression.value)
            case Param():
                self.setup[f"p{expression.index}"] = f"p{expression.index} = S.parameters[{expression.index}]"
                return f"p{expression.index}"
            case ColumnRef():
                return self._column(expression)
            case Call():
                return self._call(expression, "value")
            case And():
                return self._connective(expression.arguments, "False", "True")
            case Or():
                return self._connective(expression.arguments, "True", "False")
            case Not():
                if not self.nullable(expression.argument):
                    return f"(not {self.value(expression.argument)})"
                name = self.temporary()
                return f"(None if ({name} := {self.value(expression.argument)}) is None else not {name})"
            case IsNull() | BooleanTest() | IsDistinct():
                return f"(True if {self.truth(expression)} else False)"
            case Case():
                source = self.value(expression.default)
                for condition, result in reversed(expression.branches):
                    source = f"{self.value(result)} if {self.truth(condition)} else {source}"
                return f"({source})"
            case Coalesce():
                return self._coalesce(expression.arguments)
            case MinMax():
                items = ", ".join(map(self.value, expression.arguments))
                less = self.plain_function(expression.less)
                return f"{self.helper(support.extreme)}({less}, {expression.greatest}, ({items},))"
            case InList():
                return self._in_list_value(expression)
            case AnyAll():
                return self._any_all(expression)
            case ArrayLiteral():
                items = ", ".join(map(self.value, expression.items))
                is_nested = bool(expression.items) and expression.items[0].type.is_array
                maker = support.nested_array if is_nested else support.flat_array
                return f"{self.helper(maker)}(({items}{',' if expression.items else ''}))"
            case Subscript():
                return self._subscript(expression)
            case RowExpr():
                items = ", ".join(map(self.value, expression.items))
                source = f"({items}{',' if expression.items else ''})"
                if expression.type.oid != RECORD_OID:
                    return source
                shape = self.constant((tuple([item.type for item in expression.items]), expression.names))
                return f"{self.helper(support.record)}({source}, {shape})"
            case FieldAccess():
                row = self.value(expression.row)
                return f"{self.helper(support.record_field)}({row}, {expression.position})"
            case SetCall():
                raise DatabaseError.of("0A000", "set-valued function called in context that cannot accept a set")
            case Subquery():
                raise FeatureNotSupported("subqueries are not supported in this place")
            case _:
                raise FeatureNotSupported(f"expression {type(expression).__name__} is not supported")

    def _column(self, expression: ColumnRef) -> str:
        known = self.columns.get(expression.id)
        if known is not None:
            return known[0]
        name = f"o{expression.id}"
        self.setup[name] = f"{name} = S.outer[{expression.id}]"
        return name

    def _connective(self, arguments: Sequence[Expr], decisive: str, neutral: str) -> str:
        """AND (decisive False) or OR (decisive True) as a value."""
        if not any(map(self.nullable, arguments)):
            word = " and " if decisive == "False" else " or "
            return f"({word.join(map(self.value, arguments))})"
        names: list[str] = []
        tests: list[str] = []
        for argument in arguments:
            name = self.temporary()
            names.append(name)
            tests.append(f"({name} := {self.value(argument)}) is {decisive}")
        nulls = " or ".join(f"{name} is None" for name in names)
        return f"({decisive} if {' or '.join(tests)} else None if {nulls} else {neutral})"

    def _coalesce(self, arguments: Sequence[Expr]) -> str:
        source = self.value(arguments[-1])
        for argument in reversed(arguments[:-1]):
            name = self.temporary()
            source = f"({name} if ({name} := {self.value(argument)}) is not None else {source})"
        return source

    def plain_function(self, function: Function) -> str:
        """A name for a function of the arguments alone (the context is bound)."""
        name = self._function(function)
        if not function.needs_context:
            return name
        context = self.context()
        bound = f"{name}x"
        self.setup[bound] = f"def {bound}(*arguments):\n    return {name}({context}, *arguments)"
        return bound

    def _subscript(self, expression: Subscript) -> str:
        array = self.value(expression.array)
        if expression.slices:
            pairs = ", ".join(
                f"({'None' if low is None else self.value(low)}, {'None' if high is None else self.value(high)}, "
                f"{low is not None}, {high is not None})"
                for low, high in expression.slices
            )
            return f"{self.helper(support.array_slice)}({array}, ({pairs},))"
        indexes = ", ".join(map(self.value, expression.indexes))
        return f"{self.helper(support.array_item)}({array}, ({indexes},))"

    # ------------------------------------------------------------------------------------------ calls

    def _call(self, expression: Call, form: str) -> str:
        """A call in one of the three forms.  Arguments that can be NULL, or that a template repeats, get a temporary."""
        function = expression.function
        if not function.strict:
            return self._formed(self._invoke(function, list(map(self.value, expression.arguments))), form, True)
        guards: list[str] = []
        sources: list[str] = []
        for position, argument in enumerate(expression.arguments):
            source = self.value(argument)
            repeated = function.inline is not None and function.inline.count(f"{{{position}}}") > 1
            if self.nullable(argument):
                if source.isidentifier() and source != "None":
                    guards.append(source)
                else:
                    name = self.temporary()
                    guards.append(f"({name} := {source})")
                    source = name
            elif repeated and not source.isidentifier():
                name = self.temporary()
                guards.append(f"({name} := {source})")
                source = name
            sources.append(source)
        body = self._invoke(function, sources)
        if form == "value":
            if not guards:
                return body
            return f"(None if {' or '.join(f'{guard} is None' for guard in guards)} else {body})"
        body = self._formed(body, form, not never_null(function))
        if not guards:
            return body
        return f"({' and '.join(f'{guard} is not None' for guard in guards)} and {body})"

    @staticmethod
    def _formed(body: str, form: str, nullable: bool) -> str:
        if form == "falsity":
            return f"({body} is False)" if nullable else f"(not {body})"
        return body

    def _invoke(self, function: Function, sources: list[str]) -> str:
        if function.inline is not None:
            return f"({function.inline.format(*sources)})"
        if function.needs_context:
            sources = [self.context(), *sources]
        return f"{self._function(function)}({', '.join(sources)})"

    # ------------------------------------------------------------------------------------------ truth and falsity

    def _truth(self, expression: Expr) -> str:
        match expression:
            case And():
                return f"({' and '.join(map(self.truth, expression.arguments))})"
            case Or():
                return f"({' or '.join(map(self.truth, expression.arguments))})"
            case Not():
                return self.falsity(expression.argument)
            case Call():
                return self._call(expression, "truth")
            case IsNull():
                if isinstance(expression.argument, RowExpr):
                    return self._row_is_null(expression.argument, expression.negated)
                if expression.argument.type.category == "P" and expression.argument.type.name == "record":
                    test = f"{self.helper(support.record_is_null)}({self.value(expression.argument)}, "
                    return f"{test}{expression.negated})"
                test = "is not" if expression.negated else "is"
                return f"({self.value(expression.argument)} {test} None)"
            case BooleanTest():
                return self._boolean_test(expression)
            case IsDistinct():
                return self._is_distinct(expression)
            case InList():
                return self._in_list(expression, expression.negated)
            case Const():
                return "True" if expression.value is True else "False"
            case _:
                return f"({self.value(expression)} is True)"

    def _falsity(self, expression: Expr) -> str:
        match expression:
            case And():
                return f"({' or '.join(map(self.falsity, expression.arguments))})"
            case Or():
                return f"({' and '.join(map(self.falsity, expression.arguments))})"
            case Not():
                return self.truth(expression.argument)
            case Call():
                return self._call(expression, "falsity")
            case IsNull() | BooleanTest() | IsDistinct():
                return f"(not {self.truth(expression)})"
            case InList():
                return self._in_list(expression, not expression.negated)
            case Const():
                return "True" if expression.value is False else "False"
            case _:
                return f"({self.value(expression)} is False)"

    def _row_is_null(self, row: RowExpr, negated: bool) -> str:
        """ROW(…) IS NULL: all fields are; IS NOT NULL: none is."""
        test = "is not" if negated else "is"
        tests = [f"{self.value(item)} {test} None" for item in row.items]
        return f"({' and '.join(tests)})" if tests else "True"

    def _boolean_test(self, expression: BooleanTest) -> str:
        match expression.value:
            case True:
                source = self.truth(expression.argument)
            case False:
                source = self.falsity(expression.argument)
            case None:
                source = f"({self.value(expression.argument)} is None)"
            case _:
                assert_never(expression.value)
        return f"(not {source})" if expression.negated else source

    def _is_distinct(self, expression: IsDistinct) -> str:
        left, right = self.temporary(), self.temporary()
        equal = self._invoke(expression.equality, [left, right])
        source = (
            f"(({left} := {self.value(expression.left)}) is None) is not "
            f"(({right} := {self.value(expression.right)}) is None) or ({left} is not None and not {equal})"
        )
        return f"(not ({source}))" if expression.negated else f"({source})"

    # ------------------------------------------------------------------------------------------ IN and ANY

    def _constant_items(self, expression: InList) -> tuple[str, str] | None:
        """Names of the set of items and of whether one is NULL, made once per batch, if they allow hashing."""
        if comparison(expression.equality) != "=" or not is_native(expression.argument.type):
            return None
        if not all(isinstance(item, Const | Param) and is_native(item.type) for item in expression.items):
            return None
        key = f"s{self.temporary()}"
        items = ", ".join(map(self.value, expression.items))
        if all(isinstance(item, Const) for item in expression.items):
            values = [item.value for item in expression.items if isinstance(item, Const)]
            self.namespace[key] = frozenset(values) - {None}
            return key, repr(None in values)
        self.setup[key] = f"{key} = {{{items}}}\n{key}n = None in {key}\n{key}.discard(None)"
        return key, f"{key}n"

    def _in_list(self, expression: InList, negated: bool) -> str:
        """``argument IN (…)`` is TRUE (or, ``negated``, is FALSE)."""
        constant = self._constant_items(expression)
        argument = self.value(expression.argument)
        if constant is None:
            wanted = "False" if negated else "True"
            return f"({self._in_list_general(expression)} is {wanted})"
        items, has_null = constant
        if not negated:
            return f"({argument} in {items})"
        name = self.temporary()
        return f"(({name} := {argument}) is not None and not {has_null} and {name} not in {items})"

    def _in_list_general(self, expression: InList) -> str:
        items = ", ".join(map(self.value, expression.items))
        equal = self.plain_function(expression.equality)
        return f"{self.helper(support.in_list)}({equal}, {self.value(expression.argument)}, ({items},))"

    def _in_list_value(self, expression: InList) -> str:
        constant = self._constant_items(expression)
        name = self.temporary()
        if constant is None:
            source = self._in_list_general(expression)
            return f"(None if ({name} := {source}) is None else not {name})" if expression.negated else source
        items, has_null = constant
        found, other = ("False", "True") if expression.negated else ("True", "False")
        argument = self.value(expression.argument)
        missing = other if has_null == "False" else f"(None if {has_null} else {other})"
        return f"(None if ({name} := {argument}) is None else {found} if {name} in {items} else {missing})"

    def _any_all(self, expression: AnyAll) -> str:
        left, array = self.value(expression.left), self.value(expression.array)
        hashed = (
            not expression.all
            and isinstance(expression.array, Const | Param)
            and comparison(expression.function) == "="
            and is_native(expression.left.type)
            and family(expression.array.type.element_oid) == family(expression.left.type.oid)
        )
        if hashed:
            key = f"a{self.temporary()}"
            self.setup[key] = f"{key} = {self.helper(support.array_set)}({array})"
            return f"{self.helper(support.in_array_set)}({left}, {key})"
        function = self.plain_function(expression.function)
        return f"{self.helper(support.any_all)}({function}, {expression.function.strict}, {expression.all}, {left}, {array})"


def scope(ids: Sequence[int], not_null: frozenset[int] | set[int], row: str = "r") -> dict[int, tuple[str, bool]]:
    """The columns of a row variable: ``r[0]``, ``r[1]`` …"""
    return {column: (f"{row}[{position}]", column not in not_null) for position, column in enumerate(ids)}


def tuple_source(sources: Sequence[str]) -> str:
    return f"({', '.join(sources)}{',' if len(sources) == 1 else ''})"


def evaluator(expressions: Sequence[Expr]) -> Callable[[Any], tuple[Any, ...]]:
    """A function of the State giving the values of expressions that refer to no row."""
    code = Code({}, ())
    source = tuple_source(list(map(code.value, expressions)))
    function: Callable[[Any], tuple[Any, ...]] = code.build("f(S)", f"return {source}")
    return function
