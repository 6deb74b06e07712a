"""What a query uses, found by binding it under observation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.view import CatalogView, Relation
from pydistdb.sql.routines import RoutineFunction


class RecordingView:
    """A CatalogView that remembers which relations were asked for."""

    def __init__(self, inner: CatalogView) -> None:
        self._inner = inner
        self.found: dict[tuple[str, str | None], Relation] = {}
        self.routine_oids: dict[int, None] = {}
        """The functions of the names that were asked for: more than are used where they are overloaded."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def relation(self, name: str, schema: str | None = None) -> Relation | None:
        relation = self._inner.relation(name, schema)
        if relation is not None:
            self.found[name, schema] = relation
        return relation

    def routines(self, name: str, schema: str | None = None) -> Sequence[RoutineFunction]:
        found = self._inner.routines(name, schema)
        self.routine_oids.update(dict.fromkeys(function.oid for function in found))
        return found

    def tables_found(self) -> list[Table]:
        return list({table.oid: table for table in self.found.values() if isinstance(table, Table)}.values())


def direct_uses(found: Sequence[Table]) -> list[int]:
    """The relations that a query names itself: binding a view asks for what lies below it as well."""
    below = {oid for table in found if table.kind == "v" for oid in table.depends_on}
    return [table.oid for table in found if table.oid not in below]
