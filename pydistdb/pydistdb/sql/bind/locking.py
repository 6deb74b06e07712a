"""FOR UPDATE, FOR SHARE and their weaker kin: which tables' rows are locked, how strongly, and what to do if they are
already.

Source: PostgreSQL 15 manual, SELECT, "The Locking Clause".
"""

from __future__ import annotations

from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.needs import note_relation
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import Scope, Source
from pydistdb.sql.catalog.acl import UPDATE
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.errors import FeatureNotSupported, UndefinedTable, WrongObjectType
from pydistdb.sql.tree import ColumnId
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.registry import BYTEA

LockTarget = tuple[Table, ColumnId, SqlType]

_STRENGTHS = {"LCS_FORKEYSHARE": 1, "LCS_FORSHARE": 2, "LCS_FORNOKEYUPDATE": 3, "LCS_FORUPDATE": 4}
_WORDS = {1: "FOR KEY SHARE", 2: "FOR SHARE", 3: "FOR NO KEY UPDATE", 4: "FOR UPDATE"}
_WAITS = {"LockWaitBlock": 1, "LockWaitError": 2, "LockWaitSkip": 3}


def wants_lock(node: Node) -> bool:
    return "lockingClause" in node


def strength_and_wait(node: Node) -> tuple[int, int]:
    """The strongest lock asked for, and the least patient wait: kv's LockStrength and WaitPolicy numbers."""
    clauses = [item["LockingClause"] for item in node["lockingClause"]]
    strength = max(_STRENGTHS[clause["strength"]] for clause in clauses)
    waits = {_WAITS[clause.get("waitPolicy", "LockWaitBlock")] for clause in clauses}
    return strength, 2 if 2 in waits else max(waits)


def pushed_down(scope: Scope, name: str, query: Node) -> Node:
    """A subquery of FROM with the locking clauses that are meant for it too: they lock the rows of its tables."""
    clauses = [
        {key: value for key, value in item["LockingClause"].items() if key != "lockedRels"}
        for item in scope.locking
        if any(r["RangeVar"]["relname"] == name for r in item["LockingClause"].get("lockedRels", ()))
        or "lockedRels" not in item["LockingClause"]
    ]
    if not clauses or "valuesLists" in query:
        return query
    own = query.get("lockingClause", [])
    return {**query, "lockingClause": [*own, *({"LockingClause": clause} for clause in clauses)]}


def check_no_locking(node: Node, what: str) -> None:
    """Refuse a locking clause on VALUES or a set operation."""
    if "lockingClause" in node:
        words = _WORDS[strength_and_wait(node)[0]]
        raise FeatureNotSupported(
            f"{words} cannot be applied to VALUES" if what == "VALUES" else f"{words} is not allowed with {what}"
        )


def lock_targets(b: Binder, scope: Scope, node: Node) -> list[LockTarget]:
    """The tables to lock with the ids of their key columns."""
    targets: list[Source] = []
    for item in node["lockingClause"]:
        clause = item["LockingClause"]
        words = _WORDS[_STRENGTHS[clause["strength"]]]
        if "lockedRels" in clause:
            for relation in clause["lockedRels"]:
                name = relation["RangeVar"]["relname"]
                source = next((s for s in scope.sources if s.name == name), None)
                position = b.position(relation["RangeVar"].get("location", -1))
                if source is None:
                    raise UndefinedTable(
                        f'relation "{name}" in {words} clause not found in FROM clause', position=position
                    )
                if source.is_query:
                    continue
                if source.table is None:
                    raise FeatureNotSupported(f"{words} cannot be applied to {source.words}", position=position)
                targets.append(source)
        else:
            targets += [source for source in scope.sources if source.table is not None]
    found: list[LockTarget] = []
    for source in targets:
        if source.nullable:
            words = _WORDS[strength_and_wait(node)[0]]
            raise FeatureNotSupported(f"{words} cannot be applied to the nullable side of an outer join")
        if source.table is not None and source.table.kind == "m":
            raise WrongObjectType(f'cannot lock rows in materialized view "{source.table.name}"')
        if source.table is not None and source.key_id is not None:
            note_relation(b, source.table, UPDATE)
            entry = (source.table, source.key_id, BYTEA)
            if entry not in found:
                found.append(entry)
    return found


def check_locking(b: Binder, node: Node, scope: Scope, grouped: bool) -> None:
    """Refuse locking where output rows are not rows of the tables."""
    words = _WORDS[strength_and_wait(node)[0]]
    problem = None
    if "distinctClause" in node:
        problem = "DISTINCT clause"
    elif grouped:
        problem = "GROUP BY clause"
    elif "havingClause" in node:
        problem = "HAVING clause"
    elif scope.aggregates:
        problem = "aggregate functions"
    elif scope.windows:
        problem = "window functions"
    elif scope.set_calls:
        problem = "set-returning functions in the target list"
    if problem is not None:
        raise FeatureNotSupported(f"{words} is not allowed with {problem}")
