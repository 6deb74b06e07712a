"""Joins in FROM: kinds, conditions, USING and NATURAL with their merged columns.

Source: PostgreSQL 15 manual, 7.2.1.1; parse_clause.c (transformFromClauseItem).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pydistdb.sql.bind.from_clause as from_clause
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import coerce, coerce_to_boolean, common_type, type_named
from pydistdb.sql.bind.comparisons import compare
from pydistdb.sql.bind.dispatch import bind_condition
from pydistdb.sql.bind.naming import strings
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import FromItem, Scope, ScopeColumn, Source
from pydistdb.sql.errors import (
    AmbiguousColumn,
    DatabaseError,
    DatatypeMismatch,
    DuplicateAlias,
    InvalidColumnReference,
    UndefinedColumn,
)
from pydistdb.sql.tree import (
    And,
    Coalesce,
    ColumnRef,
    Expr,
    OutputColumn,
    Project,
    Rel,
)
from pydistdb.sql.types.registry import BOOL

_JOIN_KINDS = {"JOIN_INNER": "inner", "JOIN_LEFT": "left", "JOIN_RIGHT": "right", "JOIN_FULL": "full"}


def _fill_up(b: Binder, scope: Scope, item: FromItem) -> Rel:
    """The columns of an outer join's other side may be NULL from here on.

    A row of NULLs is not the same as no row: where the query names a relation as a whole and none of its columns tells
    the two apart, a column TRUE goes with the rows that are there."""
    unmarked = [source for source in item.sources if source.presence_id is None and _has_only_nullable(source)]
    rel = item.rel
    if unmarked and _names_a_row(scope, {source.name for source in unmarked}):
        presence = OutputColumn(b.new_id(), "", BOOL)
        kept = [ColumnRef(column.type, column.id, column.name) for column in rel.columns]
        rel = Project((*rel.columns, presence), rel, (*kept, from_clause.TRUE))
        for source in unmarked:
            source.presence_id = presence.id
    _set_nullable(item)
    return rel


def _has_only_nullable(source: Source) -> bool:
    return source.table is None or not any(column.not_null and not column.dropped for column in source.table.columns)


def _names_a_row(scope: Scope, names: set[str]) -> bool:
    """Whether the SELECT has something that may mean one of the relations as a whole: ``t`` alone, or ``f(t.*)``."""
    if scope.node is None:
        return True
    waiting: list[object] = [scope.node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list | tuple):
            waiting += part
        elif isinstance(part, dict):
            fields: Sequence[Node] = part.get("fields", ())
            if len(fields) == 1 and fields[0].get("String", {}).get("sval") in names:
                return True
            if len(fields) > 1 and "A_Star" in fields[-1] and fields[-2]["String"]["sval"] in names:
                return True
            target = part.get("ResTarget", {}).get("val", {}).get("ColumnRef")
            if target is None or "A_Star" not in target["fields"][-1]:
                waiting += part.values()
    return False


def _set_nullable(item: FromItem) -> None:
    for source in item.sources:
        source.nullable = True
        for column in source.columns:
            column.nullable = True
    for column in item.columns:
        column.nullable = True


def join_item(b: Binder, scope: Scope, node: Node, items: list[FromItem]) -> FromItem:
    kind = _JOIN_KINDS[node["jointype"]]
    left = from_clause.bind_item(b, scope, node["larg"], items)
    if kind in ("right", "full"):
        _forbid(left)
    right, lateral = from_clause.tracked_item(b, scope, node["rarg"], [*items, left])
    _allow(left)
    both = Scope(scope.parent, "JOIN conditions")
    both.ctes = scope.ctes
    both.add(left)
    both.add(right)
    both.hidden = [source for item in items for source in item.sources]
    names = _using_names(left, right, node)
    merged: list[ScopeColumn] = []
    if names is not None:
        condition, merged = _using(b, left, right, names, kind)
    elif "quals" in node:
        condition = bind_condition(b, both, node["quals"], "JOIN conditions")
    else:
        condition = from_clause.TRUE
    left_rel, right_rel = left.rel, right.rel
    if kind in ("left", "full"):
        right_rel = _fill_up(b, scope, right)
    if kind in ("right", "full"):
        left_rel = _fill_up(b, scope, left)
    sources = both.sources
    columns = left.columns + right.columns
    if names is not None:
        taken = set(names)
        columns = merged + [column for column in columns if column.name not in taken]
        if "join_using_alias" in node:
            name = node["join_using_alias"]["aliasname"]
            if any(source.name == name for source in sources):
                raise DuplicateAlias(f'table name "{name}" specified more than once')
            sources = [*sources, Source(name, merged)]
            sources[-1].words = "a join"
    rel = from_clause.make_join(kind, left_rel, right_rel, condition, lateral)
    alias = node.get("alias")
    if alias is not None:
        item = from_clause.source_item(rel, alias["aliasname"], columns, alias)
        item.sources[0].words = "a join"
        return item
    return FromItem(rel, sources, columns)


def _forbid(item: FromItem) -> None:
    for source in item.sources:
        name = source.name
        source.problem = lambda position, name=name: InvalidColumnReference(
            f'invalid reference to FROM-clause entry for table "{name}"',
            detail="The combining JOIN type must be INNER or LEFT for a LATERAL reference.",
            position=position,
        )


def _allow(item: FromItem) -> None:
    for source in item.sources:
        source.problem = None


def _using_names(left: FromItem, right: FromItem, node: Node) -> list[str] | None:
    if node.get("isNatural"):
        others = {column.name for column in right.columns}
        return [column.name for column in left.columns if column.name in others]
    if "usingClause" in node:
        return list(strings(node["usingClause"]))
    return None


def _using_column(item: FromItem, name: str, side: str) -> ScopeColumn:
    found = [column for column in item.columns if column.name == name]
    if not found:
        raise UndefinedColumn(f'column "{name}" specified in USING clause does not exist in {side} table')
    if len(found) > 1:
        raise AmbiguousColumn(f'common column name "{name}" appears more than once in {side} table')
    return found[0]


def _using(
    b: Binder, left: FromItem, right: FromItem, names: Sequence[str], kind: str
) -> tuple[Expr, list[ScopeColumn]]:
    """The condition and the merged columns of JOIN … USING."""
    tests: list[Expr] = []
    merged: list[ScopeColumn] = []
    for index, name in enumerate(names):
        if name in names[:index]:
            raise DatabaseError.of("42701", f'column name "{name}" appears more than once in USING clause')
        one = _using_column(left, name, "left")
        other = _using_column(right, name, "right")
        one_expr, other_expr = one.ref(), other.ref()
        b.used_columns |= {one.id, other.id}
        common = common_type(b, (one_expr, other_expr), None)
        if common is None:
            raise DatatypeMismatch(
                f"JOIN/USING types {type_named(one.type.oid)} and {type_named(other.type.oid)} cannot be matched"
            )
        tests.append(coerce_to_boolean(b, compare(b, "=", one_expr, other_expr, -1), "JOIN/USING", -1))
        preferred = other if kind == "right" else one
        if kind != "full" and preferred.type.oid == common.oid:
            merged.append(preferred)
            continue
        column = ScopeColumn(name, b.new_id(), common)
        if kind == "full":
            nullable = [replace(e, nullable=True) if isinstance(e, ColumnRef) else e for e in (one_expr, other_expr)]
            column.expression = Coalesce(common, tuple(coerce(b, e, common, "i") for e in nullable))
        else:
            column.expression = coerce(b, preferred.ref(), common, "i")
        merged.append(column)
    if not tests:
        return from_clause.TRUE, merged
    return (tests[0] if len(tests) == 1 else And(BOOL, tuple(tests))), merged
