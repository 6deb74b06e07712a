"""CREATE VIEW: a view is the text of its query, made safe against what may change around it.

Before it is stored, the query is rewritten so that it goes on meaning the same: every star becomes the columns it
stands for (bind/stars.py), and table names get their schema, whatever the search_path of whoever reads the view later::

    CREATE VIEW v AS SELECT * FROM t          ->  SELECT a, b FROM public.t

The rewriting works on the scanner's tokens and is checked by binding the result: it must have the same columns, or the
text stays as it was.  The descriptor lists the relations that the query uses (``depends_on``), for DROP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from pydistdb.sql import bind
from pydistdb.sql.bind.cutting import Tokens
from pydistdb.sql.bind.stars import without_stars
from pydistdb.sql.bind.view_targets import not_updatable
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.create_table import new_table
from pydistdb.sql.catalog.dependencies import quoted
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.catalog.naming import clip
from pydistdb.sql.catalog.qualify import qualified_text
from pydistdb.sql.catalog.queries import bind_query
from pydistdb.sql.catalog.recording import RecordingView, direct_uses
from pydistdb.sql.catalog.temporary import has_temporary, place
from pydistdb.sql.catalog.type_names import refuse_type_of_that_name
from pydistdb.sql.errors import (
    DatabaseError,
    DuplicateColumn,
    DuplicateTable,
    FeatureNotSupported,
    InvalidParameterValue,
    InvalidTableDefinition,
)
from pydistdb.sql.schema_statements import AlterTableAction, ColumnSpec, CreateView
from pydistdb.sql.tree import OutputColumn
from pydistdb.sql.types import registry

_BEFORE_RELATION = frozenset({"FROM", "JOIN", "ASCII_44", "ASCII_40", "ONLY"})


async def create_view(ddl: DdlContext, statement: CreateView) -> str:
    recording = RecordingView(ddl.view)
    query = bind_query(ddl, statement.query, recording, statement.position)
    is_temporary = statement.temporary
    if not is_temporary and has_temporary(ddl, recording.tables_found()):
        is_temporary = statement.name.schema is None
        if is_temporary and not ddl.view.creates_temporary:
            ddl.tell(f'view "{statement.name.name}" will be a temporary view')
    schema = await place(ddl, statement.name, is_temporary)
    name = clip(statement.name.name)
    old = None
    if ddl.view.is_name_taken(schema.oid, name):
        old = ddl.view.state.relations.get((schema.oid, name))
        if not statement.replace or old is None:
            raise DuplicateTable(f'relation "{name}" already exists')
        if old.kind != "v":
            raise ddl.wrong_kind(statement.name, "v")
    if old is None:
        refuse_type_of_that_name(ddl, schema.oid, name)
    else:
        ddl.require_table_owner(old)
    names = _column_names(query.columns, statement.columns)
    options = view_options(statement)
    definition = stable_text(ddl, statement.query, recording, query.columns)
    specs = [ColumnSpec(n, _storable(column)) for n, column in zip(names, query.columns, strict=True)]
    uses = (*direct_uses(recording.tables_found()), *recording.routine_oids)
    if old is not None:
        await ddl.ddl.lock_tables([old.oid])
        ddl.put_table(replace(_replaced(old, specs, definition, uses), options=options))
    else:
        table = await new_table(ddl, schema, name, specs, kind="v")
        ddl.put_table(replace(table, definition=definition, depends_on=uses, options=options))
    return "CREATE VIEW"


_OPTIONS = {"security_barrier", "security_invoker", "check_option"}


def view_options(statement: CreateView) -> tuple[str, ...]:
    """The options as pg_class.reloptions has them."""
    return tuple(f"{name}={_checked_option(name, value, statement.query)}" for name, value in statement.options)


def _checked_option(name: str, value: str, query: str) -> str:
    if name not in _OPTIONS:
        raise InvalidParameterValue(f'unrecognized parameter "{name}"')
    if name == "check_option":
        if value not in ("local", "cascaded"):
            raise InvalidParameterValue(
                f'invalid value for enum option "check_option": {value}',
                detail='Valid values are "local" and "cascaded".',
            )
        _check_updatable(query)
    elif value in ("none", "on", "true", "1"):
        value = "true"
    elif value in ("off", "false", "0"):
        value = "false"
    else:
        raise InvalidParameterValue(f'invalid value for boolean option "{name}": {value}')
    if name == "security_invoker" and value == "true":
        raise FeatureNotSupported("views with security_invoker are not supported")
    return value


def set_view_options(ddl: DdlContext, view: Table, action: AlterTableAction) -> None:
    """ALTER VIEW … SET (…) and RESET (…)."""
    options = dict(option.split("=", 1) for option in view.options)
    for name, value in action.options:
        if name not in _OPTIONS:
            raise InvalidParameterValue(f'unrecognized parameter "{name}"')
        options.pop(name, None)
        if value is not None:
            options[name] = _checked_option(name, str(value).lower(), view.definition)
    ddl.put_table(replace(view, options=tuple(map("=".join, options.items())), version=view.version + 1))


def _check_updatable(query: str) -> None:
    reason = not_updatable(bind.parse(query)[0].node)
    if reason is not None:
        raise FeatureNotSupported("WITH CHECK OPTION is supported only on automatically updatable views", hint=reason)


def _storable(column: OutputColumn) -> Any:
    """An untyped literal becomes text, as in Postgres."""
    return registry.TEXT if column.type.oid == registry.UNKNOWN.oid else column.type


def _column_names(columns: Sequence[OutputColumn], given: Sequence[str]) -> list[str]:
    if len(given) > len(columns):
        raise DatabaseError.of("42601", "CREATE VIEW specifies more column names than columns")
    names = [*given, *(column.name for column in columns[len(given) :])]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise DuplicateColumn(f'column "{name}" specified more than once')
    return names


def _replaced(old: Table, specs: Sequence[ColumnSpec], definition: str, uses: tuple[int, ...]) -> Table:
    """The old view with a new query: it may only gain columns at the end."""
    if len(specs) < len(old.columns):
        raise InvalidTableDefinition("cannot drop columns from view")
    for column, spec in zip(old.columns, specs, strict=False):
        if column.name != spec.name:
            raise InvalidTableDefinition(
                f'cannot change name of view column "{column.name}" to "{spec.name}"',
                hint="Use ALTER VIEW ... RENAME COLUMN ... to change name of view column instead.",
            )
        if (column.type_oid, column.modifier) != (spec.type.oid, spec.type.modifier):
            raise InvalidTableDefinition(
                f'cannot change data type of view column "{column.name}" from '
                f"{registry.format_type(column.type_oid, column.modifier)} to "
                f"{registry.format_type(spec.type.oid, spec.type.modifier)}"
            )
    defaults = [column.default for column in old.columns] + [None] * len(specs)
    columns = tuple(
        Column(i, spec.name, spec.type.oid, spec.type.modifier, default=default)
        for i, (spec, default) in enumerate(zip(specs, defaults, strict=False), 1)
    )
    return replace(old, columns=columns, definition=definition, depends_on=uses, version=old.version + 1)


# ---------------------------------------------------------------------------------------------------- the text


def stable_text(ddl: DdlContext, text: str, recording: RecordingView, columns: Sequence[OutputColumn]) -> str:
    """The query with its star and its table names spelt out, as far as that leaves it the same query."""
    text = qualified_text(ddl.view, text.strip().rstrip(";").strip())
    without = without_stars(text, ddl.view, ddl.context)
    for candidate in (_qualified(ddl, without, recording), without, _qualified(ddl, text, recording)):
        if candidate != text and _has_columns(ddl, candidate, columns):
            return candidate
    return text


def _has_columns(ddl: DdlContext, text: str, columns: Sequence[OutputColumn]) -> bool:
    try:
        bound = bind_query(ddl, text).columns
    except DatabaseError:
        return False
    return [(c.name, c.type) for c in bound] == [(c.name, c.type) for c in columns]


def _qualified(ddl: DdlContext, text: str, recording: RecordingView) -> str:
    """The query with a schema before every unqualified table name."""
    schemas = ddl.view.state.schemas
    known = {
        name: schemas[relation.schema].name
        for (name, schema), relation in recording.found.items()
        if schema is None and isinstance(relation, Table)
    }
    tokens = Tokens(text)
    pieces: list[str] = []
    position = 0
    for index, (start, end) in enumerate(zip(tokens.starts, tokens.ends, strict=True)):
        written = text[start:end]
        name = written[1:-1].replace('""', '"') if written.startswith('"') else written.lower()
        if name not in known or not index or tokens.names[index - 1] not in _BEFORE_RELATION:
            continue
        following = tokens.names[index + 1] if index + 1 < len(tokens.names) else ""
        if following in ("ASCII_40", "ASCII_46") or not _in_from(tokens, index):
            continue
        pieces += [text[position:start], f"{quoted(known[name])}.{written}"]
        position = end
    pieces.append(text[position:])
    return "".join(pieces)


_CLAUSES = frozenset(
    {"SELECT", "FROM", "WHERE", "GROUP_P", "HAVING", "ORDER", "LIMIT", "ON", "USING", "WINDOW", "JOIN"}
)


def _in_from(tokens: Tokens, index: int) -> bool:
    """Whether the token stands in a FROM list: the nearest clause keyword before it, on its level or above, is FROM."""
    depth = tokens.depths[index]
    for before in range(index - 1, -1, -1):
        if tokens.depths[before] <= depth and tokens.names[before] in _CLAUSES:
            return tokens.names[before] in ("FROM", "JOIN")
    return False
