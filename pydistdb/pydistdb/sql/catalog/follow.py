"""Views and functions that go on meaning the same when what they name is renamed or moved: their text is written anew.

``bind/renaming.py`` finds the words to exchange.  A view whose query cannot be written in the new words (the column stands in
JOIN … USING, or comes through a star of a subquery) keeps the change from happening, with 0A000.  Of functions only bodies of
the standard's forms follow: strings are strings, in Postgres as well.
"""

from __future__ import annotations

from msgspec.structs import replace

from pydistdb.sql.bind.renaming import (
    Renaming,
    bound_body,
    bound_with_mentions,
    renamed_body,
    renamed_query,
    same_query,
)
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.dependencies import depending_views
from pydistdb.sql.catalog.descriptors import Routine, Table
from pydistdb.sql.catalog.keys import routine_key, table_key
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported
from pydistdb.sql.routines import routine_function


async def put_renamed(ddl: DdlContext, old: Table, new: Table, what: str, number: int = 0) -> None:
    """Put a renamed relation (or one whose column ``number`` is) in the place of the old one, and have its users follow."""
    views = _users(ddl, old.oid)
    routines = [routine for routine in ddl.view.state.routines.values() if old.oid in routine.depends_on]
    if not views and not routines:
        ddl.put_table(new)
        return
    await ddl.ddl.lock_tables([view.oid for view in views])
    name = next(column.name for column in new.columns if column.number == number) if number else new.name
    schema = ddl.view.state.schemas[new.schema].name
    renaming = Renaming(old.oid, number, name, schema, new.schema != old.schema)
    changed_views = [_renamed_view(ddl, view, renaming, what) for view in views]
    changed_routines = [_renamed_routine(ddl, routine, renaming, what) for routine in routines]
    state = ddl.view.catalog_state
    changes = [(table_key(each.database, each.oid), each) for each in (new, *changed_views)]
    after = StateView(state.apply(changes, state.version), ddl.database_name, ddl.search_path, overlaid=True)
    for view, then in zip(views, changed_views, strict=True):
        if not _is_same_view(ddl, view, then, after):
            raise _refusal(what, view)
    for routine, follower in zip(routines, changed_routines, strict=True):
        if not _is_same_routine(ddl, routine, follower, after):
            raise _refusal(what, routine)
    ddl.put_table(new, *(then for view, then in zip(views, changed_views, strict=True) if then is not view))
    for routine, follower in zip(routines, changed_routines, strict=True):
        if follower is not routine:
            ddl.apply([(routine_key(routine.database, routine.oid), follower)])


def _users(ddl: DdlContext, oid: int) -> list[Table]:
    """The views that name a relation, themselves or through other views."""
    found: dict[int, Table] = {}
    todo = [oid]
    while todo:
        for view in depending_views(ddl, todo.pop()):
            if view.oid not in found:
                found[view.oid] = view
                todo.append(view.oid)
    return list(found.values())


def _refusal(what: str, user: Table | Routine) -> FeatureNotSupported:
    kind = "view" if isinstance(user, Table) else "function"
    return FeatureNotSupported(
        f"cannot {what} while a {kind} uses it", detail=f"{kind.capitalize()} {user.name} uses it."
    )


def _renamed_view(ddl: DdlContext, view: Table, renaming: Renaming, what: str) -> Table:
    try:
        text = renamed_query(view.definition, ddl.view, ddl.context, renaming)
    except DatabaseError:
        raise _refusal(what, view) from None
    return view if text == view.definition else replace(view, definition=text, version=view.version + 1)


def _renamed_routine(ddl: DdlContext, routine: Routine, renaming: Renaming, what: str) -> Routine:
    try:
        text = renamed_body(routine_function(routine, "", None), ddl.view, ddl.context, renaming)
    except DatabaseError:
        raise _refusal(what, routine) from None
    return routine if text == routine.body else replace(routine, body=text, version=routine.version + 1)


def _is_same_view(ddl: DdlContext, view: Table, then: Table, after: StateView) -> bool:
    try:
        return same_query(
            bound_with_mentions(view.definition, ddl.view, ddl.context)[0],
            bound_with_mentions(then.definition, after, ddl.context)[0],
        )
    except DatabaseError:
        return False


def _is_same_routine(ddl: DdlContext, routine: Routine, then: Routine, after: StateView) -> bool:
    try:
        before = bound_body(routine_function(routine, "", None), ddl.view, ddl.context)
        changed = bound_body(routine_function(then, "", None), after, ddl.context)
    except DatabaseError:
        return False
    return same_query([rel for _, rel, _ in before], [rel for _, rel, _ in changed])
