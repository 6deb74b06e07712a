"""Statistics objects by name and oid, in words, and what goes with one: the parts that DROP of other things needs too.

A statistics object lives in its table's descriptor, but has a schema, an owner and comments of its own::

    CREATE STATISTICS sc.s ON a, b FROM public.t        t's descriptor; named s in sc; dropped with t or with sc
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from msgspec.structs import replace

from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.access import PG_STATISTIC_EXT
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import StatisticsObject, Table
from pydistdb.sql.catalog.state import Change, DatabaseState
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.errors import UndefinedObject
from pydistdb.sql.statements import Name
from pydistdb.sql.types.reg import quote_identifier

Found = tuple[Table, StatisticsObject]


def everything_of(state: DatabaseState) -> Iterator[Found]:
    """All statistics objects of a database, with their tables."""
    for oid in sorted(state.statistics_objects):
        found = state.statistics_object(oid)
        if found is not None:
            yield found


def look_up(view: StateView, name: Name) -> Found | None:
    """The object of a name; a name without schema is looked for along the search path."""
    if name.schema is not None:
        schema = view.schema_named(name.schema)
        return None if schema is None else view.state.statistics_named(schema.oid, name.name)
    for each in view.search_path:
        schema = view.schema_named(each)
        found = None if schema is None else view.state.statistics_named(schema.oid, name.name)
        if found is not None:
            return found
    return None


def named(ddl: DdlContext, name: Name) -> Found:
    """The object of that name; raises 3F000 or 42704."""
    if name.schema is not None:
        ddl.schema(name.schema)
    found = look_up(ddl.view, name)
    if found is None:
        raise UndefinedObject(f'statistics object "{ddl.written(name)}" does not exist')
    return found


def is_statistics_visible(view: StateView, statistics: StatisticsObject) -> bool:
    """Whether the search path finds it by its name alone."""
    found = look_up(view, Name(statistics.name))
    return found is not None and found[1].oid == statistics.oid


def described_statistics(view: StateView, statistics: StatisticsObject) -> str:
    """``statistics object sc.s``, with the schema if the search path would not find it."""
    name = quote_identifier(statistics.name)
    if is_statistics_visible(view, statistics):
        return f"statistics object {name}"
    schema = view.schema_by_oid(statistics.schema)
    return f"statistics object {quote_identifier(schema.name)}.{name}" if schema is not None else name


def without_statistics(table: Table, oids: Collection[int]) -> Table:
    """The table without some of its statistics objects."""
    return replace(table, statistics_objects=tuple(each for each in table.statistics_objects if each.oid not in oids))


def forget_comments(ddl: DdlContext, oids: Collection[int]) -> list[Change]:
    """The changes that remove the comments of statistics objects."""
    return [
        (keys.comment_key(ddl.database_oid, PG_STATISTIC_EXT, oid, 0), None)
        for oid in oids
        if ddl.view.comment(PG_STATISTIC_EXT, oid) is not None
    ]
