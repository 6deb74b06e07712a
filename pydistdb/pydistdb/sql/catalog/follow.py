"""Views and functions that go on meaning the same when what they name is renamed or moved: their text is written anew.

``bind/renaming.py`` finds the words to exchange.  A view or function whose query cannot be written in the new words keeps the
change from happening, with 0A000.  Of functions only bodies of
the standard's forms follow: strings are strings, in Postgres as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from pydistdb.sql.bind.renaming import (
    NewWords,
    Renaming,
    TypeWords,
    bound_body,
    bound_with_mentions,
    renamed_body,
    renamed_query,
    same_query,
    with_new_names,
)
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.dependencies import depending_views
from pydistdb.sql.catalog.descriptors import Routine, Schema, Table
from pydistdb.sql.catalog.keys import routine_key, schema_key, table_key, type_key
from pydistdb.sql.catalog.state import Change
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported
from pydistdb.sql.routines import routine_function
from pydistdb.sql.types.user import UserType

User = Table | Routine


async def put_renamed(ddl: DdlContext, old: Table, new: Table, what: str, number: int = 0) -> None:
    """Put a renamed relation (or one whose column ``number`` is) in the place of the old one, and have its users follow."""
    name = next(column.name for column in new.columns if column.number == number) if number else new.name
    schema = ddl.view.state.schemas[new.schema].name
    old_name = next(column.name for column in old.columns if column.number == number) if number else ""
    renaming = Renaming(old.oid, number, name, schema, new.schema != old.schema, old_name)
    columns = [column.name for column in old.columns if not column.dropped]
    words = NewWords({old.oid: renaming})
    aliases = words._replace(old_columns=columns) if number else None
    views, changes = await followers(ddl, words, [(table_key(new.database, new.oid), new)], what, aliases)
    ddl.put_table(new, *views)
    ddl.apply(changes)


async def put_renamed_schema(ddl: DdlContext, schema: Schema, name: str) -> None:
    """Rename a schema, and have those follow whose texts name it."""
    relations = {
        table.oid: Renaming(table.oid, 0, table.name, name) for table in ddl.view.tables() if table.schema == schema.oid
    }
    renamed: Change = (schema_key(schema.database, schema.oid), replace(schema, name=name))
    words = NewWords(relations, (schema.name, name))
    await _put_with_texts(ddl, [renamed], words, f'rename schema "{schema.name}"')


async def put_renamed_type(ddl: DdlContext, old: UserType, new: UserType) -> None:
    """Put a renamed or moved type in the place of the old one, and have those follow whose texts name it."""
    old_schema, schema = (ddl.view.state.schemas[each.schema].name for each in (old, new))
    words = NewWords({}, type=TypeWords(old_schema, old.name, schema, new.name))
    verb = "rename" if old.schema == new.schema else "move"
    await _put_with_texts(ddl, [(type_key(new.database, new.oid), new)], words, f'{verb} type "{old.name}"')


async def _put_with_texts(ddl: DdlContext, renamed: list[Change], words: NewWords, what: str) -> None:
    """What is renamed, with all defaults, conditions, expressions, views and bodies that name it."""
    changed_tables = [
        replace(each, version=table.version + 1)
        for table in ddl.view.tables()
        if table.kind not in "vm" and (each := _table_with(table, words)) != table
    ]
    await ddl.ddl.lock_tables([table.oid for table in changed_tables])
    renamed += [(table_key(table.database, table.oid), table) for table in changed_tables]
    for entry in ddl.view.state.types.values():
        definition = _type_with(entry.definition, words)
        if definition != entry.definition:
            renamed.append((type_key(definition.database, definition.oid), definition))
    views, changes = await followers(ddl, words, renamed, what)
    ddl.apply(renamed)
    ddl.put_table(*views)
    ddl.apply(changes)


async def followers(
    ddl: DdlContext, words: NewWords, renamed: list[Change], what: str, aliases: NewWords | None = None
) -> tuple[list[Table], list[Change]]:
    """The views, and the changes of functions, that say in the new words what they said; raises 0A000 if one cannot.

    ``aliases``: what may be tried where ``words`` do not do."""
    views, routines = _users(ddl, words), _routines_using(ddl, words)
    if not views and not routines:
        return [], []
    await ddl.ddl.lock_tables([view.oid for view in views])
    users: list[User] = [*views, *routines]
    changed = [_renamed(ddl, user, words, what) for user in users]
    wrong = _misread(ddl, users, changed, renamed)
    if any(wrong) and aliases is not None:
        changed = [
            _renamed(ddl, user, aliases, what) if is_wrong else then
            for user, then, is_wrong in zip(users, changed, wrong, strict=True)
        ]
        wrong = _misread(ddl, users, changed, renamed)
    if any(wrong):
        raise _refusal(what, users[wrong.index(True)])
    different = [then for user, then in zip(users, changed, strict=True) if then is not user]
    return (
        [each for each in different if isinstance(each, Table)],
        [(routine_key(each.database, each.oid), each) for each in different if isinstance(each, Routine)],
    )


def _misread(ddl: DdlContext, users: Sequence[User], changed: Sequence[User], renamed: Sequence[Change]) -> list[bool]:
    """Which of the users would not mean the same any more."""
    changes: list[Change] = [*renamed]
    for each in changed:
        key = table_key(each.database, each.oid) if isinstance(each, Table) else routine_key(each.database, each.oid)
        changes.append((key, each))
    state = ddl.view.catalog_state
    after = StateView(state.apply(changes, state.version), ddl.database_name, ddl.search_path, overlaid=True)
    return [
        not (
            _is_same_view(ddl, user, then, after)
            if isinstance(user, Table) and isinstance(then, Table)
            else isinstance(user, Routine) and isinstance(then, Routine) and _is_same_routine(ddl, user, then, after)
        )
        for user, then in zip(users, changed, strict=True)
    ]


def _renamed(ddl: DdlContext, user: User, words: NewWords, what: str) -> User:
    try:
        if isinstance(user, Table):
            return _renamed_view(ddl, user, words)
        return _renamed_routine(ddl, user, words)
    except DatabaseError:
        raise _refusal(what, user) from None


def _users(ddl: DdlContext, words: NewWords) -> list[Table]:
    """The views that name one of the relations, or the schema, themselves or through other views."""
    found: dict[int, Table] = {}
    if words.schema is not None or words.type is not None:
        found = {each.oid: each for each in ddl.view.tables() if each.kind in "vm" and _has(words, each.definition)}
    todo = [*words.relations, *found]
    while todo:
        for view in depending_views(ddl, todo.pop()):
            if view.oid not in found:
                found[view.oid] = view
                todo.append(view.oid)
    return list(found.values())


def _routines_using(ddl: DdlContext, words: NewWords) -> list[Routine]:
    """The functions whose body, or a default of an argument, may have to be written anew."""
    return [
        routine
        for routine in ddl.view.state.routines.values()
        if not words.relations.keys().isdisjoint(routine.depends_on)
        or (routine.form and _has(words, routine.body))
        or any(_has(words, argument.default) for argument in routine.arguments)
    ]


def _has(words: NewWords, text: str | None) -> bool:
    """Whether the schema or type may stand in a text."""
    name = words.schema[0] if words.schema is not None else words.type.old_name if words.type is not None else None
    return name is not None and text is not None and name in text


def _refusal(what: str, user: User) -> FeatureNotSupported:
    kind = "view" if isinstance(user, Table) else "function"
    return FeatureNotSupported(
        f"cannot {what} while a {kind} uses it", detail=f"{kind.capitalize()} {user.name} uses it."
    )


def _renamed_view(ddl: DdlContext, view: Table, words: NewWords) -> Table:
    text = renamed_query(view.definition, ddl.view, ddl.context, words)
    return view if text == view.definition else replace(view, definition=text, version=view.version + 1)


def _renamed_routine(ddl: DdlContext, routine: Routine, words: NewWords) -> Routine:
    arguments = tuple(replace(each, default=_written(each.default, words)) for each in routine.arguments)
    changed = replace(routine, arguments=arguments)
    if routine.form:
        text = renamed_body(routine_function(routine, "", None), ddl.view, ddl.context, words)
        changed = replace(changed, body=text)
    return routine if changed == routine else replace(changed, version=routine.version + 1)


def _is_same_view(ddl: DdlContext, view: Table, then: Table, after: StateView) -> bool:
    try:
        return same_query(
            bound_with_mentions(view.definition, ddl.view, ddl.context)[0],
            bound_with_mentions(then.definition, after, ddl.context)[0],
        )
    except DatabaseError:
        return False


def _is_same_routine(ddl: DdlContext, routine: Routine, then: Routine, after: StateView) -> bool:
    if not routine.form:
        return True
    try:
        before = bound_body(routine_function(routine, "", None), ddl.view, ddl.context)
        changed = bound_body(routine_function(then, "", None), after, ddl.context)
    except DatabaseError:
        return False
    return same_query([rel for _, rel, _ in before], [rel for _, rel, _ in changed])


# ---------------------------------------------------------------------------------------------------- expressions


def _written(text: str | None, words: NewWords) -> str | None:
    return with_new_names(text, words) if text and _has(words, text) else text


def _table_with(table: Table, words: NewWords) -> Table:
    """A table whose defaults, conditions and expressions name functions and types in the new words."""

    def written(text: str) -> str:
        return _written(text, words) or ""

    return replace(
        table,
        columns=tuple(replace(each, default=_written(each.default, words)) for each in table.columns),
        checks=tuple(replace(each, expression=written(each.expression)) for each in table.checks),
        indexes=tuple(
            replace(
                index,
                predicate=written(index.predicate),
                columns=tuple(replace(each, expression=written(each.expression)) for each in index.columns),
            )
            for index in table.indexes
        ),
        statistics_objects=tuple(
            replace(each, expressions=tuple(replace(part, text=written(part.text)) for part in each.expressions))
            for each in table.statistics_objects
        ),
    )


def _type_with(definition: UserType, words: NewWords) -> UserType:
    """The same for the default and the conditions of a domain."""
    checks = tuple(replace(each, expression=_written(each.expression, words) or "") for each in definition.checks)
    return replace(definition, default=_written(definition.default, words), checks=checks)
