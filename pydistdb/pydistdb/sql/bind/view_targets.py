"""INSERT, UPDATE and DELETE through views: a simple view's rows are rows of one table, and so are changed there.

A view can be changed through if it selects from one table (or such a view) and does nothing but pick columns and rows::

    CREATE VIEW cheap AS SELECT id, price AS cost, price * 2 AS double FROM goods WHERE price < 10
    UPDATE cheap SET cost = 5 WHERE id = 1    ->  UPDATE goods SET price = 5 WHERE price < 10 AND id = 1

The statement is bound against the table; ``exposed`` gives its columns the names that they have in the view (``double`` is
there to be read, not to be written) and the view's conditions over them.  WITH CHECK OPTION makes those conditions
checks of the new row.

Source: PostgreSQL 15 manual, CREATE VIEW (Updatable Views); rewriteHandler.c (view_query_is_auto_updatable).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

import pydistdb.sql.bind.from_clause as from_clause
from pydistdb.sql.bind.binder import MOST_VIEW_DEPTH, Binder
from pydistdb.sql.bind.dispatch import bind_condition
from pydistdb.sql.bind.needs import RelationNote, note_relation
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import NO_ROWS_OF_NOTHING, FromItem, Scope, ScopeColumn, Source
from pydistdb.sql.bind.targets import bind_targets
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.catalog.view import CatalogView, VirtualTable
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, InvalidSyntax
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.tree import VIEW_CHECK, BooleanTest, ColumnRef, Expr
from pydistdb.sql.types.base import AggregateFunction
from pydistdb.sql.types.registry import BOOL

_ING = {"INSERT": "inserting into", "UPDATE": "updating", "DELETE": "deleting from"}
_TO = {"INSERT": "insert into", "UPDATE": "update", "DELETE": "delete from"}
_WHAT_FOR = {"INSERT": "INSERT", "UPDATE": "UPDATE", "DELETE": "DELETE"}


@dataclass(frozen=True, slots=True)
class ViewTarget:
    """The views between the statement and the table, the outermost first."""

    views: tuple[Table, ...]
    table: Table

    def exposed(self, b: Binder, columns: Sequence[ScopeColumn]) -> tuple[list[ScopeColumn], list[tuple[Table, Expr]]]:
        """A row of the table as the outermost view shows it, and the views' conditions over it."""
        conditions: list[tuple[Table, Expr]] = []
        current = list(columns)
        below = self.table
        for view in reversed(self.views):
            current, condition = _through(b, view, below, current)
            if condition is not None:
                conditions.append((view, condition))
            below = view
        return current, conditions

    def shown(
        self, b: Binder, columns: Sequence[ScopeColumn], note: RelationNote, base: RelationNote
    ) -> tuple[list[ScopeColumn], list[tuple[Table, Expr]]]:
        """As ``exposed``, with privileges noted: whoever changes rows needs those on the view for what the statement
        refers to; if that reads anything, the view's owner needs SELECT on all that the view's query names."""
        before, b.used_columns = b.used_columns, set()
        exposed, conditions = self.exposed(b, columns)
        base.view = note
        base.read_by_view.update(column.number for column in columns if column.id in b.used_columns)
        b.used_columns = before
        note.columns += [(column.id, number) for column, number in zip(exposed, self._numbers(), strict=False)]
        return exposed, conditions

    def _numbers(self) -> list[int]:
        """The numbers of the outermost view's columns, in order."""
        return [column.number for column in self.views[0].columns if not column.dropped]

    def numbers_in_view(self, exposed: Sequence[ScopeColumn], numbers: Iterable[int]) -> list[int]:
        """The view's numbers of columns of the table."""
        wanted = set(numbers)
        pairs = zip(exposed, self._numbers(), strict=False)
        return [number for column, number in pairs if column.number in wanted]

    def names(self, exposed: Sequence[ScopeColumn]) -> Table:
        """The table's columns under the names, and in the order, of the view: for whoever looks them up by name.

        Columns that the view computes have the number 0."""
        by_number = {column.number: column for column in self.table.columns}
        shown = tuple(
            replace(by_number[c.number], name=c.name) if c.number else Column(0, c.name, c.type.oid) for c in exposed
        )
        return replace(self.table, name=self.views[0].name, columns=shown)

    def with_own_defaults(self, exposed: Sequence[ScopeColumn]) -> ViewTarget:
        """For UPDATE: DEFAULT is what the outermost view says, and NULL where it says nothing."""
        live = [column.default for column in self.views[0].columns if not column.dropped]
        defaults = {column.number: default for column, default in zip(exposed, live, strict=False)}
        columns = tuple(
            replace(each, default=defaults.get(each.number)) if each.number in defaults and not each.generated else each
            for each in self.table.columns
        )
        return ViewTarget(self.views, replace(self.table, columns=columns))

    def with_defaults(self, b: Binder, columns: Sequence[ScopeColumn]) -> ViewTarget:
        """For INSERT: the views' defaults for columns of the table; the outermost's come first, the table's own last."""
        if not any(column.default is not None for view in self.views for column in view.columns):
            return self
        current, below = list(columns), self.table
        defaults: dict[int, str] = {}
        for view in reversed(self.views):
            current, _ = _through(b, view, below, current)
            live = [column for column in view.columns if not column.dropped]
            for column, shown in zip(live, current, strict=False):
                if column.default is not None:
                    defaults[shown.number] = column.default
            below = view
        table = replace(
            self.table,
            columns=tuple(
                replace(each, default=defaults[each.number], identity="")
                if each.number in defaults and not each.generated
                else each
                for each in self.table.columns
            ),
        )
        return ViewTarget(self.views, table)

    def checks(self, conditions: Sequence[tuple[Table, Expr]]) -> tuple[tuple[str, Expr], ...]:
        """WITH CHECK OPTION: LOCAL checks a view's own condition, CASCADED all below as well."""
        by_view = {view.oid: condition for view, condition in conditions}
        found: list[tuple[str, Expr]] = []
        cascaded = False
        for view in self.views:
            option = check_option(view)
            if (cascaded or option) and view.oid in by_view:
                found.append((VIEW_CHECK + view.name, BooleanTest(BOOL, by_view[view.oid], True)))
            cascaded = cascaded or option == "cascaded"
        return tuple(reversed(found))

    def refuse_repeated(self, numbers: Sequence[int]) -> None:
        """Raise if a column of the table is given two values, under two names that it has in the view."""
        for column in self.table.columns:
            if numbers.count(column.number) > 1:
                raise InvalidSyntax(f'multiple assignments to same column "{column.name}"')

    def refuse_computed(self, exposed: Sequence[ScopeColumn], name: str, command: str) -> None:
        """Raise if the column of that name is no column of the table."""
        if any(column.name == name and not column.number for column in exposed):
            raise FeatureNotSupported(
                f'cannot {_TO[command]} column "{name}" of view "{self.views[0].name}"',
                detail="View columns that are not columns of their base relation are not updatable.",
            )


def check_option(view: Table) -> str:
    """'local', 'cascaded' or '' of a view."""
    return next((o.removeprefix("check_option=") for o in view.options if o.startswith("check_option=")), "")


def view_target(b: Binder, view: Table, command: str, privilege: int) -> ViewTarget:
    """Find the table behind a view; raises 55000 if the view cannot be changed through."""
    views: list[Table] = []
    relation = view
    saved = b.acting_role, b.catalog
    try:
        while relation.kind == "v":
            b.tables.add(relation.oid)
            if len(views) >= MOST_VIEW_DEPTH:
                raise DatabaseError.of("42P17", f'infinite recursion detected in rules for relation "{view.name}"')
            views.append(relation)
            if len(views) > 1:
                note_relation(b, relation, privilege)
            node = from_clause.parsed_view(relation.definition).node
            reason = not_updatable(node)
            if reason is not None:
                raise cannot_change(view, command, reason)
            b.acting_role, b.catalog = relation.owner, b.catalog.unrestricted()
            below = from_clause.find_relation(b, node["fromClause"][0]["RangeVar"])
            if isinstance(below, VirtualTable) or below.kind not in "rv":
                raise cannot_change(view, command, _NOT_A_TABLE)
            relation = below
        note_relation(b, relation, privilege)
    finally:
        b.acting_role, b.catalog = saved
    b.tables.add(relation.oid)
    return ViewTarget(tuple(views), relation)


_NOT_A_TABLE = "Views that do not select from a single table or view are not automatically updatable."


def not_updatable(node: Node) -> str | None:
    """Why a view's query cannot be changed through; None if it can."""
    if node.get("op", "SETOP_NONE") != "SETOP_NONE":
        return "Views containing UNION, INTERSECT, or EXCEPT are not automatically updatable."
    for key, words in (
        ("distinctClause", "DISTINCT"),
        ("groupClause", "GROUP BY"),
        ("havingClause", "HAVING"),
        ("withClause", "WITH"),
    ):
        if key in node:
            return f"Views containing {words} are not automatically updatable."
    if "limitCount" in node or "limitOffset" in node:
        return "Views containing LIMIT or OFFSET are not automatically updatable."
    what = _calls_of(node.get("targetList", ()))
    if what is not None:
        return f"Views that return {what} are not automatically updatable."
    sources = node.get("fromClause", ())
    if len(sources) != 1 or "RangeVar" not in sources[0] or "valuesLists" in node:
        return _NOT_A_TABLE
    return None


def _calls_of(part: object) -> str | None:
    """Aggregates, window and set-returning functions in a select list, queries in it left out."""
    if isinstance(part, dict):
        call = part.get("FuncCall")
        if call is not None and (found := _kind_of_call(call)) is not None:
            return found
        part = [value for key, value in part.items() if key != "SubLink"]
    if isinstance(part, list | tuple):
        return next((found for each in part if (found := _calls_of(each)) is not None), None)
    return None


def _kind_of_call(call: Node) -> str | None:
    if "over" in call:
        return "window functions"
    for function in functions.functions(call["funcname"][-1]["String"]["sval"]):
        if isinstance(function, AggregateFunction):
            return "aggregate functions"
        if function.returns_set:
            return "set-returning functions"
    return None


def updatable_through(catalog: CatalogView, view: Table) -> bool:
    """Tell whether rows can be changed through a view."""
    for _ in range(MOST_VIEW_DEPTH):
        node = from_clause.parsed_view(view.definition).node
        if not_updatable(node) is not None:
            return False
        source = node["fromClause"][0]["RangeVar"]
        below = catalog.relation(source["relname"], source.get("schemaname"))
        if not isinstance(below, Table) or below.kind not in "rv":
            return False
        if below.kind == "r":
            return True
        view = below
    return False


def updatable_columns(catalog: CatalogView, view: Table) -> frozenset[str]:
    """The columns of a view (or table) that are columns of the table behind it, by name."""
    live = [column.name for column in view.columns if not column.dropped]
    if view.kind == "r":
        return frozenset(live)
    if not updatable_through(catalog, view):
        return frozenset()
    node = from_clause.parsed_view(view.definition).node
    source = node["fromClause"][0]["RangeVar"]
    below = catalog.relation(source["relname"], source.get("schemaname"))
    assert isinstance(below, Table)
    names = updatable_columns(catalog, below)
    shown: list[str] = []
    for target in node.get("targetList", ()):
        fields = target["ResTarget"]["val"].get("ColumnRef", {}).get("fields", ({},))
        if "A_Star" in fields[-1]:
            shown += [column.name for column in below.columns if not column.dropped]
        else:
            shown.append(fields[-1].get("String", {}).get("sval", ""))
    return frozenset(name for name, word in zip(live, shown, strict=False) if word in names)


def cannot_change(view: Table, command: str, reason: str) -> DatabaseError:
    return DatabaseError.of(
        "55000",
        f'cannot {_TO[command]} view "{view.name}"',
        detail=reason,
        hint=f"To enable {_ING[command]} the view, provide an INSTEAD OF {_WHAT_FOR[command]} trigger or an "
        f"unconditional ON {_WHAT_FOR[command]} DO INSTEAD rule.",
    )


def _through(b: Binder, view: Table, below: Table, columns: list[ScopeColumn]) -> tuple[list[ScopeColumn], Expr | None]:
    """The columns of a view over those of what it selects from, and its condition."""
    node = from_clause.parsed_view(view.definition).node
    source = node["fromClause"][0]["RangeVar"]
    alias = source.get("alias")
    name = alias["aliasname"] if alias else source["relname"]
    if alias is not None and "colnames" in alias:
        raise FeatureNotSupported("changing rows through a view with column aliases in FROM is not supported")
    saved = b.references, b.acting_role, b.catalog
    b.references, b.acting_role, b.catalog = [], view.owner, b.catalog.unrestricted()
    b.text_depth += 1
    try:
        scope = Scope(None)
        schema = None if alias else source.get("schemaname")
        scope.add(FromItem(NO_ROWS_OF_NOTHING, [Source(name, columns, schema, None)], columns))
        targets = bind_targets(b, scope, node["targetList"])
        condition = bind_condition(b, scope, node["whereClause"], "WHERE") if "whereClause" in node else None
    finally:
        b.text_depth -= 1
        b.references, b.acting_role, b.catalog = saved
    shown = [column for column in view.columns if not column.dropped]
    by_id = {column.id: column for column in columns if column.expression is None}
    exposed = []
    for column, target in zip(shown, targets, strict=False):
        below_column = by_id.get(target.expr.id) if isinstance(target.expr, ColumnRef) else None
        if below_column is not None:
            exposed.append(
                ScopeColumn(column.name, below_column.id, below_column.type, below_column.nullable, below_column.number)
            )
        else:
            computed = ScopeColumn(column.name, b.new_id(), target.expr.type)
            computed.expression = target.expr
            exposed.append(computed)
    return exposed, condition
