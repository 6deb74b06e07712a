"""The shape of every running operator, and the ones with nothing to remember: filter, project, limit, values, functions.

An operator yields batches (lists of row tuples, never empty) and keeps nothing of a run in itself: all that belongs to a
run is in local variables of ``batches`` or in the State, so one compiled query serves any number of runs at a time.
Functions are generated when they are first needed (``cached_property``), since many a branch of a plan never runs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import cached_property
from typing import Any

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.exec.codegen import Code, evaluator, scope, tuple_source
from pydistdb.sql.exec.memory import Holding
from pydistdb.sql.exec.run import BATCH_ROWS, State
from pydistdb.sql.exec.spill import RowCodec, in_batches
from pydistdb.sql.exec.waiting import may_wait, once, row_by_row
from pydistdb.sql.plan.explain_formats import Actual
from pydistdb.sql.plan.expressions import columns_of, conjoin, conjuncts, is_volatile
from pydistdb.sql.tree import Const, Expr, FunctionScan, Limit, OutputColumn, Param, ProjectSet, SetCall, Values
from pydistdb.sql.types.base import SqlType

Row = tuple[Any, ...]
Batch = list[Row]


class Operator:
    """One step of a plan.  ``columns`` describes its rows; ``not_null`` names the columns that are never NULL."""

    actual: Actual | None = None
    """Where EXPLAIN ANALYZE counts (the compiler sets it)."""

    def __init__(self, columns: Sequence[OutputColumn], not_null: frozenset[int] = frozenset()) -> None:
        self.columns = tuple(columns)
        self.ids = tuple(column.id for column in columns)
        self.types: tuple[SqlType, ...] = tuple(column.type for column in columns)
        self.not_null = not_null

    def observe(self, actual: Actual) -> None:
        """Have EXPLAIN ANALYZE told."""
        self.actual = actual

    def batches(self, state: State) -> AsyncIterator[Batch]:
        """Compute the rows."""
        raise NotImplementedError

    def scope(self, row: str = "r") -> dict[int, tuple[str, bool]]:
        return scope(self.ids, self.not_null, row)

    def code(self) -> Code:
        """A generator of functions over this operator's rows."""
        return Code(self.scope())

    @cached_property
    def codec(self) -> RowCodec:
        return RowCodec(self.types)

    def position(self, column_id: int) -> int:
        return self.ids.index(column_id)


async def collect(operator: Operator, state: State, held: Holding) -> Batch:
    """All rows of an operator in one list."""
    rows: Batch = []
    async for batch in operator.batches(state):
        held.take(batch)
        rows.extend(batch)
    return rows


def row_function(code: Code, expressions: Sequence[Expr]) -> Callable[[Row, State], Row]:
    """``f(r, S)`` giving the values of ``expressions`` for one row."""
    source = tuple_source([code.value(expression) for expression in expressions])
    function: Callable[[Row, State], Row] = code.build("f(r, S)", f"return {source}")
    return function


def batch_function(
    code: Code, expressions: Sequence[Expr], condition: Expr | None = None
) -> Callable[[Batch, State], Batch]:
    """``f(batch, S)`` giving a row of ``expressions`` for every row that meets ``condition``."""
    source = tuple_source([code.value(expression) for expression in expressions])
    test = "" if condition is None else f" if {code.truth(condition)}"
    function: Callable[[Batch, State], Batch] = code.build("f(batch, S)", f"return [{source} for r in batch{test}]")
    return function


class FilterOperator(Operator):
    """The rows that pass.  What the condition says of no row at all, ``$1 = 0``, is asked once, before the input runs."""

    def __init__(self, source: Operator, condition: Expr) -> None:
        super().__init__(source.columns, source.not_null)
        self.source = source
        terms = conjuncts(condition)
        ids = set(source.ids)
        self.once = tuple(term for term in terms if not columns_of(term) & ids and not is_volatile(term))
        rest = [term for term in terms if term not in self.once]
        if may_wait(rest):  # what takes locks or draws numbers does so for rows that pass otherwise
            rest.sort(key=lambda term: may_wait([term]))
        self.condition = conjoin(rest)

    @cached_property
    def function(self) -> Callable[[Batch, State], Batch]:
        code = self.source.code()
        test = code.truth(self.condition)
        function: Callable[[Batch, State], Batch] = code.build("f(batch, S)", f"return [r for r in batch if {test}]")
        return function

    @cached_property
    def may_pass(self) -> Callable[[State], tuple[Any, ...]]:
        return evaluator(self.once)

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        if self.once and not all(self.may_pass(state)):
            return
        function = self.function
        draws = may_wait([self.condition])
        async for batch in self.source.batches(state):
            if draws:
                # A LIMIT above must not make more effects happen than it lets rows through.
                for row in batch:
                    (passed,) = await row_by_row(lambda row, state: function([row], state), [row], state)
                    if passed:
                        yield passed
                continue
            rows = function(batch, state)
            if rows:
                yield rows


class ProjectOperator(Operator):
    """A projection, with the filter below it (if any) in the same loop."""

    def __init__(self, source: Operator, columns: Sequence[OutputColumn], expressions: Sequence[Expr]) -> None:
        self.condition: Expr | None = None
        if isinstance(source, FilterOperator) and not source.once:
            self.condition = source.condition
            source = source.source
        code = source.code()
        not_null = frozenset(
            column.id for column, expression in zip(columns, expressions, strict=True) if not code.nullable(expression)
        )
        super().__init__(columns, not_null)
        self.source = source
        self.expressions = tuple(expressions)

    @cached_property
    def function(self) -> Callable[[Batch, State], Batch]:
        return batch_function(self.source.code(), self.expressions, self.condition)

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        function = self.function
        draws = may_wait(self.expressions)
        condition_draws = self.condition is not None and may_wait([self.condition])
        async for batch in self.source.batches(state):
            if condition_draws:
                for row in batch:
                    (passed,) = await row_by_row(lambda row, state: function([row], state), [row], state)
                    if passed:
                        yield passed
                continue
            if draws:
                parts = await row_by_row(lambda row, state: function([row], state), batch, state)
                rows = [row for part in parts for row in part]
            else:
                rows = function(batch, state)
            if rows:
                yield rows


class ValuesOperator(Operator):
    """Rows of expressions.  Constants and parameters, the usual case, need no generated code."""

    def __init__(self, node: Values) -> None:
        rows = node.rows
        not_null = frozenset(
            column.id
            for position, column in enumerate(node.columns)
            if rows and all(isinstance(cell := row[position], Const) and cell.value is not None for row in rows)
        )
        super().__init__(node.columns, not_null)
        self.rows = rows
        self.is_constant = all(isinstance(cell, Const) for row in rows for cell in row)

    @cached_property
    def constants(self) -> Batch:
        return [tuple([cell.value for cell in row if isinstance(cell, Const)]) for row in self.rows]

    @cached_property
    def makers(self) -> list[Callable[[State], Row]]:
        return [_row_maker(row) for row in self.rows]

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        if self.is_constant:
            for batch in in_batches(self.constants):
                yield batch
            return
        makers = self.makers
        for start in range(0, len(makers), BATCH_ROWS):
            yield await row_by_row(lambda maker, state: maker(state), makers[start : start + BATCH_ROWS], state)
            await state.breathe()


def _row_maker(row: Sequence[Expr]) -> Callable[[State], Row]:
    if all(isinstance(cell, Const | Param) for cell in row):
        cells = [(cell.value, -1) if isinstance(cell, Const) else (None, getattr(cell, "index", -1)) for cell in row]

        def from_cells(state: State) -> Row:
            parameters = state.parameters
            return tuple([value if index < 0 else parameters[index] for value, index in cells])

        return from_cells
    code = Code({}, ())
    source = tuple_source([code.value(cell) for cell in row])
    maker: Callable[[State], Row] = code.build("f(S)", f"return {source}")
    return maker


class FunctionScanOperator(Operator):
    """Rows of a function in FROM."""

    def __init__(self, node: FunctionScan) -> None:
        super().__init__(node.columns)
        self.node = node
        self.width = len(node.columns) - node.ordinality

    @cached_property
    def call(self) -> Callable[[State], Any]:
        return call_maker(Code({}, ()), self.node.function, self.node.arguments, "S")

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        result = await once(self.call, state)
        function = self.node.function
        is_tuple = len(function.out_columns) > 1 or self.width > 1
        if not function.returns_set:
            rows = [result if is_tuple and result is not None else ((None,) * self.width if is_tuple else (result,))]
            yield [(*rows[0], 1)] if self.node.ordinality else rows
            return
        if result is None:
            return
        batch: Batch = []
        for number, item in enumerate(result, 1):
            row = tuple(item) if is_tuple else (item,)
            batch.append((*row, number) if self.node.ordinality else row)
            if len(batch) >= BATCH_ROWS:
                yield batch
                batch = []
                await state.breathe()
        if batch:
            yield batch


def call_maker(code: Code, function: Any, arguments: Sequence[Expr], header: str) -> Callable[..., Any]:
    """``f(header)`` calling a function on the values of ``arguments``; None if it is strict and one of them is NULL."""
    values = [code.value(argument) for argument in arguments]
    name = "set_function"
    code.namespace[name] = function.implementation
    names = [f"v{position}" for position in range(len(values))]
    lines = [f"{name_} = {value}" for name_, value in zip(names, values, strict=True)]
    if function.strict and names:
        lines.append(f"if {' or '.join(f'{name_} is None' for name_ in names)}:")
        lines.append("    return None")
    passed = [code.context(), *names] if function.needs_context else names
    lines.append(f"return {name}({', '.join(passed)})")
    maker: Callable[..., Any] = code.build(f"f({header})", "\n".join(lines))
    return maker


class ProjectSetOperator(Operator):
    """A select list with set-returning functions: they advance in step, the shorter ones padded with NULL."""

    def __init__(self, source: Operator, node: ProjectSet) -> None:
        super().__init__(node.columns)
        self.source = source
        self.node = node

    @cached_property
    def set_functions(self) -> list[Callable[[Row, State], Any] | None]:
        return [
            call_maker(self.source.code(), expression.function, expression.arguments, "r, S")
            if isinstance(expression, SetCall)
            else None
            for expression in self.node.expressions
        ]

    @cached_property
    def plain(self) -> Callable[[Row, State], Row]:
        null = Const(self.types[0], None)
        plain = [null if isinstance(expression, SetCall) else expression for expression in self.node.expressions]
        return row_function(self.source.code(), plain)

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        plain, set_functions = self.plain, self.set_functions
        done = object()
        output: Batch = []
        async for batch in self.source.batches(state):
            for row in batch:
                values = list(plain(row, state))
                sets = [
                    (position, iter(function(row, state) or ()))
                    for position, function in enumerate(set_functions)
                    if function is not None
                ]
                while True:
                    live = False
                    for position, items in sets:
                        item = next(items, done)
                        live = live or item is not done
                        values[position] = None if item is done else item
                    if not live:
                        break
                    output.append(tuple(values))
                    if len(output) >= BATCH_ROWS:
                        yield output
                        output = []
                        await state.breathe()
        if output:
            yield output


class LimitOperator(Operator):
    def __init__(self, source: Operator, node: Limit, tie_key: Callable[[Row, State], Any] | None = None) -> None:
        super().__init__(source.columns, source.not_null)
        self.source = source
        self.node = node
        self.tie_key = tie_key

    @cached_property
    def bounds(self) -> Callable[[State], tuple[int, int | None]]:
        return limit_bounds(self.node.limit, self.node.offset)

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        offset, limit = await once(self.bounds, state)
        if limit == 0:
            return
        last: Any = None
        async for batch in self.source.batches(state):
            if offset:
                skipped = batch[:offset]
                batch = batch[offset:]
                offset -= len(skipped)
            if not batch:
                continue
            if limit is None:
                yield batch
                continue
            if limit > 0:
                taken = batch[:limit]
                limit -= len(taken)
                rest = batch[len(taken) :]
                yield taken
                if limit > 0:
                    continue
                if self.tie_key is None:
                    return
                last = self.tie_key(taken[-1], state)
            else:
                rest = batch
            assert self.tie_key is not None
            ties = 0
            while ties < len(rest) and self.tie_key(rest[ties], state) == last:
                ties += 1
            if ties:
                yield rest[:ties]
            if ties < len(rest):
                return


def limit_bounds(limit: Expr | None, offset: Expr | None) -> Callable[[State], tuple[int, int | None]]:
    """A function giving (offset, limit) of a run; NULL counts as absent."""
    code = Code({}, ())
    sources = ["None" if expression is None else code.value(expression) for expression in (offset, limit)]
    values = code.build("f(S)", f"return {tuple_source(sources)}")

    def bounds(state: State) -> tuple[int, int | None]:
        skip, most = values(state)
        if most is not None and most < 0:
            raise DatabaseError.of("2201W", "LIMIT must not be negative")
        if skip is not None and skip < 0:
            raise DatabaseError.of("2201X", "OFFSET must not be negative")
        return skip or 0, most

    return bounds
