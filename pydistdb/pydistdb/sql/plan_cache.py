"""Plans kept for the next time, shared by all sessions of a node.

Theory of operation
-------------------
Parsing, binding, planning and compiling a point select costs some 2 ms, running it 20 µs.  A plan is found by

1. the exact text (0.1 µs), which serves prepared statements and texts without literals; 2. the *normalised* text, in
which literals have become parameters (about 10 µs): ``… WHERE id = 7`` and ``… WHERE id = 8``
   share one plan.

What a plan depends on besides its text is in the key too: the *environment* (database, search_path, the settings that
decide what a literal means: TimeZone, DateStyle, IntervalStyle, the ``enable_`` settings,
the role), interned as a small number, and the
parameters' types.  A plan belongs to one state of the catalog, privileges included; after any DDL it is made again when
it is next asked for.  So privileges are checked when a plan is made, and never again.  Plans made inside a transaction
with uncommitted DDL are never put here.

The cache holds ``MAX_PLANS`` plans and ``MAX_TEXT_BYTES`` of text; the least recently used go first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from pydistdb.sql.api import Field
from pydistdb.sql.bind import CursorQuery, Normalized, ParsedStatement
from pydistdb.sql.catalog.auto_analyze import TableChanges
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.exec import CompiledQuery
from pydistdb.sql.plan.expressions import all_relations
from pydistdb.sql.statement_statistics import StatementCounts
from pydistdb.sql.statements import Begin, Utility
from pydistdb.sql.tree import BoundStatement, Delete, Insert, LockRows, Merge, Rel, Update
from pydistdb.sql.types.base import SqlType

MAX_PLANS = 5_000
MAX_TEXT_BYTES = 16 << 20
MAX_CACHED_TEXT_BYTES = 100_000
"""Longer texts (bulk inserts) are planned each time: they hardly come twice."""
MAX_ENVIRONMENTS = 1_000

Decoder = Callable[[bytes], Any]


_LOCKING_TAGS = {
    1: "SELECT FOR KEY SHARE",
    2: "SELECT FOR SHARE",
    3: "SELECT FOR NO KEY UPDATE",
    4: "SELECT FOR UPDATE",
}


def locking_tag(query: Rel) -> str:
    """SELECT FOR UPDATE and the like; empty for a query that locks nothing."""
    return next((_LOCKING_TAGS[part.strength] for part in all_relations(query) if isinstance(part, LockRows)), "")


def _changes_nothing(query: Rel) -> bool:
    """MERGE whose every action is DO NOTHING, and nothing else that changes rows."""
    return all(
        isinstance(part, Merge) and all(action.kind == "nothing" for action in part.actions)
        for part in all_relations(query)
        if isinstance(part, Insert | Update | Delete | Merge)
    )


class CachedPlan:
    """One statement made ready: either ``compiled`` (with ``bound``) or ``utility`` is there; both None: no statement."""

    __slots__ = (
        "__weakref__",
        "as_of",
        "bound",
        "catalog_state",
        "changes",
        "compiled",
        "counts",
        "cursor",
        "declared_oids",
        "denied",
        "environment",
        "fields",
        "gains_by_values",
        "is_fast",
        "is_plain_begin",
        "kind",
        "normalized",
        "parameter_oids",
        "parameter_types",
        "parsed",
        "retries_duplicates",
        "tables",
        "tag",
        "text",
        "utility",
        "writes",
        "writing_tag",
    )

    def __init__(
        self,
        text: str,
        parsed: ParsedStatement | None,
        environment: int,
        catalog_state: object,
        *,
        bound: BoundStatement | None = None,
        compiled: CompiledQuery | None = None,
        utility: Utility | None = None,
        fields: tuple[Field, ...] | None = None,
        parameter_types: tuple[SqlType, ...] = (),
        normalized: Normalized | None = None,
        cursor: tuple[CursorQuery, CachedPlan] | None = None,
        denied: DatabaseError | None = None,
        changes: TableChanges | None = None,
    ) -> None:
        self.text = text
        self.parsed = parsed
        self.environment = environment
        self.catalog_state = catalog_state
        """What it was made against; good for as long as the session sees that very state."""
        self.bound = bound
        self.compiled = compiled
        self.utility = utility
        self.cursor = cursor
        """DECLARE: the cursor's query, and the plan of it."""
        self.normalized = normalized
        """Turns the literals of a text with this normalised form into parameters."""
        self.fields = fields
        self.parameter_types = parameter_types
        self.parameter_oids = tuple(parameter.oid for parameter in parameter_types)
        self.declared_oids = self.parameter_oids
        """The same, but domains where such were declared: what the statement is planned anew with."""
        self.kind = parsed.kind if parsed is not None else ""
        self.tag = bound.tag if bound is not None else self.kind
        self.tables: frozenset[int] = bound.tables if bound is not None else frozenset()
        self.writes = compiled is not None and compiled.plan.changed_table is not None
        self.writing_tag = ""
        """What a read-only transaction refuses to execute, as it calls it; empty for what it does."""
        if bound is not None:
            refused = self.writes and not _changes_nothing(bound.query)
            self.writing_tag = self.tag if refused else locking_tag(bound.query)
        self.retries_duplicates = (
            bound is not None and isinstance(bound.query, Insert) and bound.query.on_conflict is not None
        )
        """ON CONFLICT: a duplicate found only at commit means to run again, and to see it then."""
        self.as_of = parsed.as_of if parsed is not None else None
        self.is_plain_begin = utility == Begin(None, None, None)
        self.denied = denied
        """What whoever runs it is told, where the role may not: privileges are checked once, here."""
        self.is_fast = compiled is not None and denied is None and self.as_of is None
        """May be worth a ``try_run``; cleared by the first that is not of that kind."""
        self.changes = changes or TableChanges()
        """Where the rows that it changes are counted."""
        self.gains_by_values = compiled is not None and bool(parameter_types)
        """Whether to plan anew for the values of its parameters; decided by who makes it."""
        self.counts: StatementCounts | None = None
        """What its executions add to; None until the first."""


class PlanCache:
    """See the module's introduction.  Keys are any hashables that name environment, types and text."""

    def __init__(self, max_plans: int = MAX_PLANS, max_text_bytes: int = MAX_TEXT_BYTES) -> None:
        self._plans: OrderedDict[Any, CachedPlan] = OrderedDict()
        self._max_plans = max_plans
        self._max_text_bytes = max_text_bytes
        self._text_bytes = 0
        self._environments: dict[tuple[Any, ...], int] = {}
        self._next_environment = 1
        self._literal: dict[Any, object] = {}
        """Normalised texts whose plans are made for their literals, with the state of the catalog for which that was found."""
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._plans)

    def environment(self, *parts: Any) -> int:
        """The number that stands for these dependencies; never given to others later."""
        number = self._environments.get(parts)
        if number is None:
            if len(self._environments) >= MAX_ENVIRONMENTS:
                self._environments.clear()
            number = self._environments[parts] = self._next_environment
            self._next_environment += 1
        return number

    def get(self, key: Any, catalog_state: object) -> CachedPlan | None:
        """The plan, if there is one for this state of the catalog."""
        plan = self._plans.get(key)
        if plan is None or plan.catalog_state is not catalog_state:
            self.misses += 1
            return None
        self._plans.move_to_end(key)
        self.hits += 1
        return plan

    def put(self, key: Any, plan: CachedPlan) -> None:
        """Keep a plan, dropping the least recently used ones beyond the limits."""
        if len(plan.text) > MAX_CACHED_TEXT_BYTES:
            return
        old = self._plans.pop(key, None)
        if old is not None:
            self._text_bytes -= len(old.text)
        self._plans[key] = plan
        self._text_bytes += len(plan.text)
        while len(self._plans) > self._max_plans or self._text_bytes > self._max_text_bytes:
            _, dropped = self._plans.popitem(last=False)
            self._text_bytes -= len(dropped.text)

    def note_literal(self, key: Any, catalog_state: object) -> None:
        """The statements of this form are planned with their own literals."""
        if len(self._literal) >= MAX_PLANS:
            self._literal.clear()
        self._literal[key] = catalog_state

    def is_literal(self, key: Any, catalog_state: object) -> bool:
        return self._literal.get(key) is catalog_state

    def clear(self) -> None:
        self._literal.clear()
        self._plans.clear()
        self._text_bytes = 0
