"""WITH: named queries, plain and recursive, and those that change rows.

A WITH query that is referred to becomes a ``Cte`` around the statement and a ``CteScan`` per reference; one that only
reads and is never referred to is left out, as Postgres does.  A recursive one is split at its UNION: the left side is
the definition, the right side the step.

Source: PostgreSQL 15 manual, 7.8; parse_cte.c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pydistdb.sql.bind.query as queries
import pydistdb.sql.bind.search_cycle as search_cycle
import pydistdb.sql.bind.set_operations as set_operations
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import common_type
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.naming import strings
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.recursion import check_recursive_term
from pydistdb.sql.bind.scope import CteEntry, Scope
from pydistdb.sql.bind.sort_keys import check_sortable
from pydistdb.sql.errors import (
    DatabaseError,
    DatatypeMismatch,
    DuplicateAlias,
    FeatureNotSupported,
    InvalidColumnReference,
    InvalidSyntax,
)
from pydistdb.sql.functions.hashing import is_hashable
from pydistdb.sql.tree import Const, Cte, Rel
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import SqlType

Wrap = Callable[[Rel], Rel]

_MATERIALIZED = {"CTEMaterializeAlways": True, "CTEMaterializeNever": False}


class _Definition:
    def __init__(self, entry: CteEntry, rel: Rel, materialized: bool | None, changes_rows: bool) -> None:
        self.entry = entry
        self.rel = rel
        self.materialized = materialized
        self.changes_rows = changes_rows
        self.step: Rel | None = None
        self.union_all = True


def bind_with(b: Binder, scope: Scope, clause: Node) -> Wrap:
    """Bind the WITH queries, entering their names into ``scope``; returns what puts them around the statement."""
    definitions: list[_Definition] = []
    recursive = clause.get("recursive", False)
    nodes: list[Node] = [wrapper["CommonTableExpr"] for wrapper in clause["ctes"]]
    if recursive and len(nodes) > 1:
        nodes = _in_order(b, nodes)
    names = [node["ctename"] for node in nodes]
    for index, node in enumerate(nodes):
        name = node["ctename"]
        scope.pending_ctes = frozenset(names[index:])
        if name in scope.ctes:
            raise DuplicateAlias(
                f'WITH query name "{name}" specified more than once', position=b.position(node["location"])
            )
        if "MergeStmt" in node["ctequery"]:
            raise FeatureNotSupported("MERGE not supported in WITH query", position=b.position(node["location"]))
        if "SelectStmt" not in node["ctequery"] and scope.parent is not None:
            raise FeatureNotSupported(
                "WITH clause containing a data-modifying statement must be at the top level",
                position=b.position(node["location"]),
            )
        if search_cycle.wants_rewriting(node) and not (recursive and _mentions(node["ctequery"], name)):
            raise InvalidSyntax("WITH query is not recursive", position=b.position(node["location"]))
        if recursive and _mentions(node["ctequery"], name):
            definitions.append(_recursive(b, scope, node))
        else:
            definitions.append(_plain(b, scope, node))

    scope.pending_ctes = frozenset()

    def wrap(body: Rel) -> Rel:
        for definition in reversed(definitions):
            if definition.entry.used or definition.changes_rows:
                body = Cte(
                    body.columns,
                    definition.entry.id,
                    definition.rel,
                    body,
                    definition.step,
                    definition.union_all,
                    definition.materialized,
                )
        return body

    return wrap


def _in_order(b: Binder, nodes: Sequence[Node]) -> list[Node]:
    """WITH RECURSIVE queries may refer to later ones: bind each after those that it needs."""
    ordered: list[Node] = []
    rest = list(nodes)
    while rest:
        for node in rest:
            if not any(other is not node and _mentions(node["ctequery"], other["ctename"]) for other in rest):
                break
        else:
            raise FeatureNotSupported(
                "mutual recursion between WITH items is not implemented", position=b.position(rest[0]["location"])
            )
        ordered.append(node)
        rest.remove(node)
    return ordered


def _mentions(tree: Any, name: str) -> bool:
    """Tell whether a relation of this name is referred to anywhere in a node."""
    return _reference(tree, name) is not None


def _reference(tree: Any, name: str) -> Node | None:
    """The first reference to this name in a node that means it from outside: an inner WITH may give it to another query."""
    if isinstance(tree, list):
        return next((found for child in tree if (found := _reference(child, name)) is not None), None)
    if not isinstance(tree, dict):
        return None
    relation: Node | None = tree.get("RangeVar")
    if relation is not None and relation.get("relname") == name and "schemaname" not in relation:
        return relation
    clause = tree.get("withClause")
    inner = [wrapper["CommonTableExpr"] for wrapper in clause["ctes"]] if clause is not None else []
    names = [query["ctename"] for query in inner]
    if clause is None or name not in names:
        return _reference(list(tree.values()), name)
    seeing = 0 if clause.get("recursive") else names.index(name) + 1
    return _reference([query["ctequery"] for query in inner[:seeing]], name)


def _names(node: Node, columns: Sequence[tuple[str, SqlType]], b: Binder) -> list[tuple[str, SqlType]]:
    """The columns under the names of the WITH query's column list."""
    given = strings(node.get("aliascolnames", ()))
    if len(given) > len(columns):
        raise InvalidColumnReference(
            f'WITH query "{node["ctename"]}" has {len(columns)} columns available but {len(given)} columns specified',
            position=b.position(node["location"]),
        )
    return [(given[index] if index < len(given) else name, sql_type) for index, (name, sql_type) in enumerate(columns)]


def _plain(b: Binder, scope: Scope, node: Node) -> _Definition:
    query = node["ctequery"]
    changes_rows = "SelectStmt" not in query
    if changes_rows:
        from pydistdb.sql.bind.changes import bind_change

        rel = bind_change(b, scope, query)
    else:
        rel = queries.bind_query_node(b, scope, query)
    columns = _names(node, [(column.name, column.type) for column in rel.columns], b)
    entry = CteEntry(node["ctename"], b.new_cte(), columns)
    entry.ids = [column.id for column in rel.columns]
    if changes_rows and not rel.columns:
        entry.problem = FeatureNotSupported(f'WITH query "{node["ctename"]}" does not have a RETURNING clause')
    scope.ctes[entry.name] = entry
    return _Definition(entry, rel, _MATERIALIZED.get(node.get("ctematerialized", "")), changes_rows)


def _recursive(b: Binder, scope: Scope, node: Node) -> _Definition:
    name = node["ctename"]
    position = b.position(node["location"])
    query = node["ctequery"].get("SelectStmt")
    if query is None:
        raise DatabaseError.of(
            "42P19", f'recursive query "{name}" must not contain data-modifying statements', position=position
        )
    if query.get("op") != "SETOP_UNION":
        message = f'recursive query "{name}" does not have the form non-recursive-term UNION [ALL] recursive-term'
        raise DatabaseError.of("42P19", message, position=position)
    for part, words in (("withClause", "a subquery"), ("larg", "its non-recursive term")):
        found = _reference(query.get(part), name)
        if found is not None:
            message = f'recursive reference to query "{name}" must not appear within {words}'
            raise DatabaseError.of("42P19", message, position=b.position(found.get("location", -1)))
    check_recursive_term(b, query["rarg"], name)
    if "lockingClause" in query:
        raise FeatureNotSupported("FOR UPDATE/SHARE in a recursive query is not implemented")
    for key, words in (("sortClause", "ORDER BY"), ("limitOffset", "OFFSET"), ("limitCount", "LIMIT")):
        if key in query:
            first = query[key][0] if isinstance(query[key], list) else query[key]
            where = b.position(location_of(first.get("SortBy", {}).get("node", first)))
            raise FeatureNotSupported(f"{words} in a recursive query is not implemented", position=where)
    inner = scope
    wrap: Wrap | None = None
    if "withClause" in query:
        inner = Scope(scope)
        wrap = bind_with(b, inner, query["withClause"])
    left = queries.bind_statement_query(b, inner, query["larg"])
    hidden = 0
    if search_cycle.wants_rewriting(node):
        names = [column for column, _ in _names(node, [(column.name, column.type) for column in left.columns], b)]
        hidden = len(search_cycle.added_columns(node))
        query = search_cycle.rewritten(b, node, query, names)
        node = {key: value for key, value in node.items() if key != "aliascolnames"}
        left = queries.bind_statement_query(b, inner, query["larg"])
    columns = _names(node, [(column.name, column.type) for column in left.columns], b)
    entry = CteEntry(name, b.new_cte(), columns)
    entry.hidden = hidden
    entry.is_recursive = True
    scope.ctes[name] = entry
    right = queries.bind_statement_query(b, inner, query["rarg"], keep_unknown=True)
    entry.used = entry.hidden = 0
    entry.is_recursive = False
    if len(right.columns) != len(left.columns):
        raise DatabaseError.of("42601", "each UNION query must have the same number of columns", position=position)
    places = set_operations.locations_of(query["larg"])
    step_places = set_operations.locations_of(query["rarg"])
    types = _step_types(b, name, left, right, places, step_places)
    definition = _Definition(entry, left if wrap is None else wrap(left), None, False)
    definition.step = set_operations.with_types(b, right, types, step_places)
    if wrap is not None:
        definition.step = wrap(definition.step)
    definition.union_all = query.get("all", False)
    if not definition.union_all:
        for place, sql_type in zip(places, types, strict=False):
            check_sortable(b, Const(sql_type, None), place, "equality")
        if not all(map(is_hashable, types)):
            detail = "All column datatypes must be hashable."
            raise FeatureNotSupported("could not implement recursive UNION", detail=detail)
    return definition


def _step_types(
    b: Binder, name: str, left: Rel, right: Rel, locations: Sequence[int], step_locations: Sequence[int]
) -> list[SqlType]:
    def at(index: int, places: Sequence[int] = step_locations) -> int:
        return places[index] if index < len(places) else -1

    types = [column.type for column in left.columns]
    expressions = set_operations.column_expressions(right)
    for index, (mine, theirs) in enumerate(zip(types, expressions, strict=True)):
        overall = common_type(b, (Const(mine, None), theirs), "UNION", (-1, at(index)))
        if overall is not None and (overall.oid, overall.modifier) != (mine.oid, mine.modifier):
            had, has = (registry.format_type(sql_type.oid, sql_type.modifier) for sql_type in (mine, overall))
            raise DatatypeMismatch(
                f'recursive query "{name}" column {index + 1} has type {had} in non-recursive term '
                f"but type {has} overall",
                hint="Cast the output of the non-recursive term to the correct type.",
                position=b.position(at(index, locations)),
            )
    return types
