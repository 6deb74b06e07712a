"""The state of binding one statement: ids given out, parameters, what was touched on the way.

A ``Binder`` is made per statement and passed to every function of this package as ``b``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydistdb.sql.bind.coerce import name_types_by
from pydistdb.sql.bind.needs import RelationNote
from pydistdb.sql.bind.parse import ParsedStatement
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.errors import AmbiguousParameter, IndeterminateDatatype, UndefinedParameter
from pydistdb.sql.tree import ColumnId, Expr, Param
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.domains import base_oid, is_domain
from pydistdb.sql.types.registry import UNKNOWN

MOST_PARAMETERS = 65535
MOST_VIEW_DEPTH = 100


class Parameters:
    """The types of $1, $2 …: declared by the client, or taken from the first place that asks for one."""

    def __init__(self, declared: Sequence[int]) -> None:
        self.types: list[SqlType] = [
            registry.type_by_oid(base_oid(oid)) if oid and oid != UNKNOWN.oid else UNKNOWN for oid in declared
        ]
        self.domains = {number: registry.type_by_oid(oid) for number, oid in enumerate(declared) if is_domain(oid)}
        """Parameters declared as domains: values of the base type, to be held against the domain's constraints."""
        self.positions: dict[int, int | None] = {}

    def reference(self, number: int, position: int | None) -> Param:
        """``$number`` somewhere in the text."""
        if not 1 <= number <= MOST_PARAMETERS:
            raise UndefinedParameter(f"there is no parameter ${number}", position=position)
        while len(self.types) < number:
            self.types.append(UNKNOWN)
        self.positions.setdefault(number - 1, position)
        return Param(self.types[number - 1], number - 1)

    def resolve(self, index: int, target: SqlType, position: int | None) -> Param:
        """Give a parameter of unknown type the type that its place asks for."""
        current = self.types[index]
        if current.oid == UNKNOWN.oid:
            self.types[index] = current = target
        elif current.oid != target.oid:
            raise AmbiguousParameter(
                f"inconsistent types deduced for parameter ${index + 1}",
                detail=f"{registry.format_type(current.oid)} versus {registry.format_type(target.oid)}",
                position=self.positions.get(index) or position,
            )
        return Param(current, index)

    def finish(self) -> tuple[SqlType, ...]:
        """All types, now that the statement has been seen; raises IndeterminateDatatype (42P18) if one is open."""
        for index, sql_type in enumerate(self.types):
            if sql_type.oid == UNKNOWN.oid:
                raise IndeterminateDatatype(f"could not determine data type of parameter ${index + 1}")
        return tuple(self.types)


class RoutineArguments(NamedTuple):
    """What names mean inside a function's body: arguments by name, and the function's own name as their qualifier."""

    routine_name: str
    names: tuple[str, ...]


class Mention(NamedTuple):
    """A place in the statement's own text that names a relation, or a column of one (renaming.py)."""

    kind: str
    """relation (in FROM), column, row (the relation's name for its whole row) or star (t.*)."""
    location: int
    parts: int
    """How many words there are, with dots between them."""
    oid: int
    number: int = 0
    aliased: bool = False
    """The relation is named by an alias."""


class StarMention(NamedTuple):
    """A star in a select list of the statement's own text, with what it stands for (stars.py)."""

    parts: int
    """How many words there are, with dots between them."""
    columns: tuple[tuple[str, str], ...]
    """Relation (empty where a column belongs to a join) and name."""
    is_row: bool = False
    """``(row).*``"""


class Binder:
    """One statement's state."""

    __slots__ = (
        "_next_cte",
        "_next_id",
        "acting_role",
        "aggregate_types",
        "arguments",
        "called",
        "catalog",
        "context",
        "inlining",
        "locations",
        "mentions",
        "notes",
        "parameters",
        "parsed",
        "reads_keys",
        "record_fields",
        "references",
        "stars",
        "tables",
        "text_depth",
        "trace",
        "trace_sources",
        "used_columns",
        "view_depth",
        "volatile",
    )

    def __init__(
        self, parsed: ParsedStatement, catalog: CatalogView, context: EvalContext, parameters: Parameters
    ) -> None:
        self.parsed = parsed
        self.catalog = catalog
        name_types_by(catalog)
        self.context = context
        self.parameters = parameters
        self.tables: set[int] = set()
        self.volatile = False
        self.trace: dict[int, Expr] | None = None
        """What the parser's nodes were bound to, by identity, if anybody wants to know (deparse.py)."""
        self.trace_sources: dict[int, str] | None = None
        """The relation's name behind an unqualified column reference."""
        self.mentions: list[Mention] | None = None
        """What the text names, if anybody wants to know (renaming.py)."""
        self.stars: dict[int, StarMention] | None = None
        """What the stars in the text stand for, by their places, if anybody wants to know (stars.py)."""
        self.arguments: RoutineArguments | None = None
        """Inside the body of a function."""
        self.inlining: frozenset[int] = frozenset()
        """The functions whose bodies are being put in the place of their calls."""
        self.locations: dict[int, tuple[Expr, int]] = {}
        """Where a ColumnRef stood, by its identity (for errors found later)."""
        self.references: list[list[Scope]] = []
        """While an aggregate's arguments are bound: the query levels whose columns they refer to."""
        self.reads_keys: bool | None = None
        """Tables are read with their rows' keys, since the text mentions a system column; None: not looked yet."""
        self.text_depth = 0
        """Above 0 while stored text (a view, a default) is bound: its locations mean nothing to the client."""
        self.view_depth = 0
        self.aggregate_types: dict[ColumnId, SqlType] = {}
        """Result types of the aggregate and window calls, by the ids of their results."""
        self.record_fields: dict[ColumnId, tuple[tuple[str, SqlType], ...]] = {}
        """Names and types of the fields of columns that hold what a function with several results returned."""
        self.notes: list[RelationNote] = []
        """The relations named so far, with what is done with them (needs.py)."""
        self.used_columns: set[ColumnId] = set()
        self.called: dict[int, str] = {}
        """The functions called, by oid."""
        self.acting_role: int | None = None
        """The owner of the view whose query is being bound."""
        self._next_id = 0
        self._next_cte = 0

    def new_id(self) -> ColumnId:
        self._next_id += 1
        return self._next_id

    def new_cte(self) -> int:
        self._next_cte += 1
        return self._next_cte

    def position(self, location: int) -> int | None:
        """A location as the client is told it: characters from 1."""
        if location < 0 or self.text_depth:
            return None
        return self.parsed.position_at(location)

    def location_of_id(self, id: ColumnId) -> int:
        """Where the first reference to a column stood (-1: unknown)."""
        places = [location for expr, location in self.locations.values() if getattr(expr, "id", None) == id]
        return min(places, default=-1)

    def location_of(self, expr: Expr) -> int:
        """Where a column reference stood (-1: unknown)."""
        found = self.locations.get(id(expr))
        return found[1] if found is not None and found[0] is expr else -1
