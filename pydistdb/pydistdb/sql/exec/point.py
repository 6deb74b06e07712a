"""The hot path: reading one row by its primary key, without a coroutine, a batch or an operator.

For ``SELECT v FROM t WHERE id = $1`` this generates one function, which reads straight from the transaction (or, for an
autocommit statement, from the database)::

    def read(run):
        S = run
        p0 = S.parameters[0]
        if p0 is None:
            return []
        value = get(head + encode((p0,)))
        if value is None:
            return []
        r = decode(value)
        return [(r[2],)]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pydistdb.sql.exec.codegen import Code, tuple_source
from pydistdb.sql.exec.run import RunContext
from pydistdb.sql.exec.scan import TableScanOperator
from pydistdb.sql.layout import MOST_KEY_BYTES
from pydistdb.sql.plan.expressions import is_constant, walk
from pydistdb.sql.plan.physical import TableScan
from pydistdb.sql.plan.planner import PhysicalPlan
from pydistdb.sql.tree import KEY_NUMBER, Call, ColumnRef, Const, Expr, Param, Project, Rel

PointRead = Callable[[RunContext], list[tuple[Any, ...]]]


def key_source(code: Code, scan: TableScan, operator: TableScanOperator) -> tuple[list[str], str] | None:
    """Set-up lines that fetch the key's parts (and return if one is NULL), and the source of the key; None if the scan is
    not one for a single primary key."""
    access = scan.access
    if not access.is_point or operator.bounds.index is not operator.layout.primary:
        return None
    parts: list[str] = []
    lines: list[str] = []
    for term in access.equal:
        if term.array is not None or len(term.alternatives) != 1 or not is_constant(term.alternatives[0]):
            return None
        value = term.alternatives[0]
        source = code.value(value)
        if not isinstance(value, Const | Param):
            name = code.temporary()
            lines.append(f"{name} = {source}")
            source = name
        if code.nullable(value):
            lines += [f"if {source} is None:", "    return NOTHING"]
        parts.append(source)
    index, layout = operator.bounds.index, operator.layout
    if index.hashed:
        code.namespace["key_of"] = lambda values: layout.point_key(index, values)
        return lines, f"key_of({tuple_source(parts)})"
    code.namespace.update(encode=index.encode, head=index.head)
    return lines, f"head + encode({tuple_source(parts)})"


def point_read(plan: PhysicalPlan) -> Callable[[], PointRead] | None:
    """What generates the function if the plan is a projection of one row by primary key; else None."""
    node: Rel = plan.root
    expressions: tuple[Expr, ...] | None = None
    if isinstance(node, Project):
        expressions = node.expressions
        node = node.input
    if not isinstance(node, TableScan) or not node.access.is_point or node.access.index is not node.table.indexes[0]:
        return None
    if expressions is None:
        expressions = tuple(ColumnRef(column.type, column.id) for column in node.columns)
    if min(node.numbers, default=1) <= KEY_NUMBER or not all(map(_is_immediate, expressions)):
        return None
    for term in node.access.equal:
        if term.array is not None or len(term.alternatives) != 1 or not is_constant(term.alternatives[0]):
            return None
    return partial(_generate, node, expressions)


def single_key(operator: TableScanOperator) -> Callable[[Any], list[bytes]] | None:
    """``f(S)``: the one key (or none) of a scan for a single primary key; None if it is not such a scan."""
    code = operator.row_code()
    key = key_source(code, operator.node, operator)
    if key is None:
        return None
    lines, source = key
    code.namespace.update(NOTHING=[], MOST_KEY_BYTES=MOST_KEY_BYTES)
    body = [*lines, f"key = {source}", "return [key] if len(key) <= MOST_KEY_BYTES else NOTHING"]
    function: Callable[[Any], list[bytes]] = code.build("f(S)", "\n".join(body))
    return function


def _is_immediate(expression: Expr) -> bool:
    return not any(isinstance(part, Call) and part.function.volatility == "v" for part in walk(expression))


def _generate(scan: TableScan, expressions: tuple[Expr, ...]) -> PointRead:
    operator = TableScanOperator(scan)
    code = operator.row_code()
    key = key_source(code, scan, operator)
    assert key is not None
    lines, source = key
    sources = tuple_source(list(map(code.value, expressions)))
    test = None if scan.condition is None else code.truth(scan.condition)
    code.namespace.update(decode=operator.storage_decode, NOTHING=[], MOST_KEY_BYTES=MOST_KEY_BYTES)
    body = [
        *lines,
        f"key = {source}",
        "if len(key) > MOST_KEY_BYTES:",
        "    return NOTHING",
        "transaction = S.transaction",
        "value = (S.database if transaction is None else transaction).try_get(key)",
        "if value is None:",
        "    return NOTHING",
        "r = decode(value)",
    ]
    if test is not None:
        body += [f"if not {test}:", "    return NOTHING"]
    body.append(f"return [{sources}]")
    function: PointRead = code.build("f(S)", "\n".join(body))
    return function
