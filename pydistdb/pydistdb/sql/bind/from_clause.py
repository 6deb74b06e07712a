"""FROM: tables, views, WITH names, functions, subqueries and joins to relations and visible names.

The items of a FROM list are joined left to right with TRUE.  A subquery marked LATERAL and every function sees the items
before it; if it uses them, the join is marked ``lateral``.  What a name means is in ``scope.py``.

Source: PostgreSQL 15 manual, 7.2; parse_clause.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import pydistdb.sql.bind.joins as joins
import pydistdb.sql.bind.query as queries
import pydistdb.sql.bind.table_functions as table_functions
from pydistdb.sql.bind.binder import MOST_VIEW_DEPTH, Binder, Mention
from pydistdb.sql.bind.locking import pushed_down
from pydistdb.sql.bind.naming import strings
from pydistdb.sql.bind.needs import note_relation
from pydistdb.sql.bind.parse import Node, ParsedStatement, parse
from pydistdb.sql.bind.scope import NO_ROWS_OF_NOTHING, FromItem, Scope, ScopeColumn, Source
from pydistdb.sql.bind.search_cycle import hidden_name
from pydistdb.sql.bind.system_columns import mentions_system_columns, wants_system_columns
from pydistdb.sql.bind.table_samples import bind_sample
from pydistdb.sql.catalog.acl import SELECT, UPDATE
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.view import Relation, VirtualTable
from pydistdb.sql.errors import (
    DatabaseError,
    FeatureNotSupported,
    InsufficientPrivilege,
    InvalidColumnReference,
    InvalidSyntax,
    UndefinedTable,
)
from pydistdb.sql.tree import (
    KEY_NUMBER,
    VERSION_NUMBER,
    Const,
    CteScan,
    Expr,
    Join,
    OutputColumn,
    Rel,
    Scan,
    SequenceScan,
    VirtualScan,
)
from pydistdb.sql.types import registry
from pydistdb.sql.types.registry import BOOL, BYTEA, XID

TRUE = Const(BOOL, True)


def bind_from(b: Binder, scope: Scope, nodes: Sequence[Node]) -> Rel:
    """Bind a FROM list, making its names visible in ``scope``."""
    rel: Rel | None = None
    items: list[FromItem] = []
    for node in nodes:
        item, lateral = tracked_item(b, scope, node, items)
        scope.add(item)
        rel = item.rel if rel is None else make_join("inner", rel, item.rel, TRUE, lateral)
        items.append(item)
    return NO_ROWS_OF_NOTHING if rel is None else rel


def make_join(kind: str, left: Rel, right: Rel, condition: Expr, lateral: bool = False) -> Join:
    return Join(left.columns + right.columns, kind, left, right, condition, lateral)


def tracked_item(b: Binder, scope: Scope, node: Node, items: list[FromItem]) -> tuple[FromItem, bool]:
    """Bind an item; tell whether it refers to those before it."""
    if "RangeVar" in node:
        return bind_item(b, scope, node, items), False
    tracker: list[Scope] = []
    b.references.append(tracker)
    try:
        item = bind_item(b, scope, node, items)
    finally:
        b.references.pop()
    return item, any(seen.clause == "LATERAL" and seen.parent is scope.parent for seen in tracker)


def bind_item(b: Binder, scope: Scope, wrapper: Node, items: list[FromItem]) -> FromItem:
    """Bind one FROM item; ``items`` are those before it, for LATERAL."""
    for kind, node in wrapper.items():
        match kind:
            case "RangeVar":
                return range_variable(b, scope, node)
            case "JoinExpr":
                return joins.join_item(b, scope, node, items)
            case "RangeSubselect":
                return _subselect(b, scope, node, items)
            case "RangeFunction":
                item = table_functions.bind_function(b, scope, node, items)
                item.sources[0].words = "a function"
                return item
            case "RangeTableSample":
                return bind_sample(b, scope, node, items)
        words = {"RangeTableFunc": "XMLTABLE", "JsonTable": "JSON_TABLE"}
        raise FeatureNotSupported(
            f"{words.get(kind, kind)} is not supported", position=b.position(node.get("location", -1))
        )
    raise FeatureNotSupported("empty FROM item")


# ------------------------------------------------------------------------------------------------ tables, views, WITH


def find_relation(b: Binder, node: Node) -> Relation:
    """Look a RangeVar up in the catalog."""
    name, schema = node["relname"], node.get("schemaname")
    catalog = node.get("catalogname")
    if catalog is not None and catalog != b.catalog.database.name:
        raise FeatureNotSupported(
            f'cross-database references are not implemented: "{catalog}.{schema}.{name}"',
            position=b.position(node.get("location", -1)),
        )
    try:
        found = b.catalog.relation(name, schema)
    except InsufficientPrivilege as error:
        error.position = b.position(node.get("location", -1))
        raise
    if found is None:
        label = f"{schema}.{name}" if schema else name
        position = b.position(node.get("location", -1))
        raise UndefinedTable(f'relation "{label}" does not exist', position=position)
    if schema is not None and isinstance(found, Table) and found.persistence == "t":
        own = b.catalog.schema_named("pg_temp")
        if own is None or own.oid != found.schema:
            raise FeatureNotSupported("cannot access temporary tables of other sessions")
    return found


def range_variable(b: Binder, scope: Scope, node: Node) -> FromItem:
    """A table, view, virtual table or WITH query by name."""
    item = _range_variable(b, scope, node)
    if (
        b.mentions is not None
        and not b.text_depth
        and ("schemaname" in node or scope.find_cte(node["relname"]) is None)
    ):
        relation = find_relation(b, node)
        if not isinstance(relation, VirtualTable):
            source, alias = item.sources[0], node.get("alias", {})
            if "colnames" not in alias:
                source.relation = relation, bool(alias)
            parts = 1 + ("schemaname" in node) + ("catalogname" in node)
            b.mentions.append(Mention("relation", node.get("location", -1), parts, relation.oid))
    return item


def _range_variable(b: Binder, scope: Scope, node: Node) -> FromItem:
    alias = node.get("alias")
    name = alias["aliasname"] if alias else node["relname"]
    if "schemaname" not in node:
        entry = scope.find_cte(node["relname"])
        rel: Rel
        if entry is not None:
            if entry.problem is not None:
                entry.problem.position = b.position(node.get("location", -1))
                raise entry.problem
            entry.used += 1
            scope.reads_itself = scope.reads_itself or entry.is_recursive
            columns = [ScopeColumn(label, b.new_id(), sql_type) for label, sql_type in entry.columns]
            for own, column in zip(entry.ids, columns, strict=False):
                if own in b.record_fields:
                    b.record_fields[column.id] = b.record_fields[own]
            rel = CteScan(outputs(columns), entry.id)
            item = source_item(rel, name, columns[: len(columns) - entry.hidden], alias)
            item.sources[0].words = "a WITH query"
            if entry.hidden:
                item.sources.append(Source(hidden_name(entry.name), columns[-entry.hidden :]))
            return item
    try:
        relation = find_relation(b, node)
    except UndefinedTable as error:
        if any(node["relname"] in level.pending_ctes for level in scope.levels()) and "schemaname" not in node:
            error.detail = (
                f'There is a WITH item named "{node["relname"]}", '
                "but it cannot be referenced from this part of the query."
            )
            error.hint = "Use WITH RECURSIVE, or re-order the WITH items to remove forward references."
        raise
    schema = qualifier(b, node, relation)
    if isinstance(relation, VirtualTable):
        columns = [ScopeColumn(label, b.new_id(), sql_type) for label, sql_type in relation.columns]
        rel = VirtualScan(outputs(columns), relation, tuple(range(len(columns))), name)
        note_relation(b, relation, SELECT)
        item = source_item(rel, name, columns, alias, schema=schema)
        item.sources[0].catalog_oid = relation.oid
        return item
    if relation.kind == "v":
        return _view(b, scope, relation, name, alias, schema)
    if relation.kind == "S":
        b.tables.add(relation.oid)
        columns = [ScopeColumn(c.name, b.new_id(), registry.type_by_oid(c.type_oid), False) for c in relation.columns]
        rel = SequenceScan(outputs(columns), relation, tuple(c.number for c in relation.columns))
        note_relation(b, relation, SELECT)
        return source_item(rel, name, columns, alias, schema=schema)
    if relation.kind == "m" and not relation.populated:
        raise DatabaseError.of(
            "55000",
            f'materialized view "{relation.name}" has not been populated',
            hint="Use the REFRESH MATERIALIZED VIEW command.",
        )
    if relation.kind not in ("r", "m"):
        raise FeatureNotSupported(
            f'"{relation.name}" is not a table that can be read', position=b.position(node.get("location", -1))
        )
    item = table_item(b, relation, name, alias, schema, scope.wants_keys)
    note_relation(b, relation, SELECT).read(item.sources[0].columns)
    return item


def table_item(b: Binder, table: Table, name: str, alias: Node | None, schema: str | None, with_key: bool) -> FromItem:
    """A scan of a stored table, with the row's key as its first column and its version as the last one, if wanted."""
    b.tables.add(table.oid)
    new_id = b.new_id
    type_by_oid = registry.type_by_oid
    columns = [
        ScopeColumn(
            column.name,
            new_id(),
            type_by_oid(column.type_oid).with_modifier(column.modifier),
            not column.not_null,
            column.number,
        )
        for column in table.columns
        if not column.dropped
    ]
    made = outputs(columns)
    numbers = tuple([column.number for column in columns])
    key_id = None
    wants_all = wants_system_columns(b)
    if with_key or wants_all:
        key_id = new_id()
        made = (OutputColumn(key_id, "", BYTEA), *made)
        numbers = (KEY_NUMBER, *numbers)
    version_id = None
    if wants_all:
        version_id = new_id()
        made = (*made, OutputColumn(version_id, "", XID))
        numbers = (*numbers, VERSION_NUMBER)
    item = source_item(Scan(made, table, numbers, name), name, columns, alias, table, schema, key_id)
    item.sources[0].version_id = version_id
    return item


def qualifier(b: Binder, node: Node, relation: Relation) -> str | None:
    """The schema with which columns of a RangeVar may be named; None if it has an alias."""
    return None if "alias" in node else node.get("schemaname") or _schema_of(b, relation)


def _schema_of(b: Binder, relation: Relation) -> str | None:
    if isinstance(relation, VirtualTable):
        return relation.schema
    schema = b.catalog.schema_by_oid(relation.schema)
    return None if schema is None else schema.name


def outputs(columns: Sequence[ScopeColumn]) -> tuple[OutputColumn, ...]:
    return tuple([OutputColumn(column.id, column.name, column.type) for column in columns])


def source_item(
    rel: Rel,
    name: str,
    columns: list[ScopeColumn],
    alias: Node | None,
    table: Table | None = None,
    schema: str | None = None,
    key_id: int | None = None,
) -> FromItem:
    """A FROM item of one source; a column alias list renames its first columns."""
    if alias is not None and "colnames" in alias:
        columns = _renamed(columns, strings(alias["colnames"]), name)
    return FromItem(rel, [Source(name, columns, schema, table, key_id)], columns)


def _renamed(columns: list[ScopeColumn], names: Sequence[str], label: str) -> list[ScopeColumn]:
    if len(names) > len(columns):
        raise InvalidColumnReference(
            f'table "{label}" has {len(columns)} columns available but {len(names)} columns specified'
        )
    renamed = []
    for index, column in enumerate(columns):
        if index < len(names):
            other = ScopeColumn(names[index], column.id, column.type, column.nullable, column.number)
            other.expression = column.expression
            column = other
        renamed.append(column)
    return renamed


@lru_cache(maxsize=256)
def parsed_view(definition: str) -> ParsedStatement:
    return parse(definition)[0]


def _view(b: Binder, scope: Scope, view: Table, name: str, alias: Node | None, schema: str | None) -> FromItem:
    """Expand a view: bind its definition as a subquery of its own, and give the columns their names."""
    b.tables.add(view.oid)
    note = note_relation(b, view, SELECT)
    inner = len(b.notes)
    if b.view_depth >= MOST_VIEW_DEPTH:
        raise DatabaseError.of("42P17", f'infinite recursion detected in rules for relation "{view.name}"')
    b.view_depth += 1
    b.text_depth += 1
    saved = b.references, b.acting_role, b.catalog, b.reads_keys
    b.references, b.acting_role, b.catalog = [], view.owner, b.catalog.unrestricted()
    b.reads_keys = mentions_system_columns(view.definition)
    try:
        query = parsed_view(view.definition).node
        if scope.locking:
            locked = pushed_down(scope, name, query)
            if locked is not query:
                note.privileges |= UPDATE
                query = locked
        rel = queries.bind_statement_query(b, None, query)
    finally:
        b.view_depth -= 1
        b.text_depth -= 1
        b.references, b.acting_role, b.catalog, b.reads_keys = saved
    shown = [column for column in view.columns if not column.dropped]
    columns = [ScopeColumn(c.name, output.id, output.type) for c, output in zip(shown, rel.columns, strict=False)]
    # What its query has referred to counts below the view; what is referred to from here on counts for the view.
    for below in b.notes[inner:]:
        below.settle(b.used_columns)
    b.used_columns.difference_update([column.id for column in columns])
    note.columns = [(column.id, shown_column.number) for column, shown_column in zip(columns, shown, strict=False)]
    item = source_item(rel, name, columns, alias, schema=schema)
    item.sources[0].is_query = True
    return item


# ------------------------------------------------------------------------------------------------ subqueries, functions


def lateral_scope(scope: Scope, items: Sequence[FromItem], visible: bool) -> Scope:
    """What an item of a FROM list sees outside itself: the outer query and, if ``visible``, the items before it."""
    inner = Scope(scope.parent, "LATERAL")
    inner.ctes = scope.ctes
    if visible:
        for item in items:
            inner.add(item)
    else:
        inner.hidden = [source for item in items for source in item.sources]
    return inner


def _subselect(b: Binder, scope: Scope, node: Node, items: list[FromItem]) -> FromItem:
    outside = lateral_scope(scope, items, node.get("lateral", False))
    alias = node.get("alias")
    query = node["subquery"]
    if scope.locking and "SelectStmt" in query:
        query = {"SelectStmt": pushed_down(scope, alias["aliasname"] if alias else "", query["SelectStmt"])}
    rel = queries.bind_query_node(b, outside, query)
    if alias is None:
        select = node["subquery"].get("SelectStmt", {})
        kind, example = ("VALUES", "VALUES") if "valuesLists" in select else ("subquery", "SELECT")
        raise InvalidSyntax(
            f"{kind} in FROM must have an alias",
            hint=f"For example, FROM ({example} ...) [AS] foo.",
            position=_bracket_before(b, select),
        )
    columns = [ScopeColumn(column.name, column.id, column.type) for column in rel.columns]
    item = source_item(rel, alias["aliasname"] if alias else "", columns, alias)
    item.sources[0].is_query = True
    return item


def _bracket_before(b: Binder, select: Node) -> int | None:
    """Where the bracket around a subquery stands: the parser does not say."""
    places = [place for place in queries.locations_of(select) if place >= 0]
    inner = b.position(min(places)) if places else None
    if inner is None:
        return None
    found = b.parsed.source.rfind("(", 0, inner - 1)
    return found + 1 if found >= 0 else None
