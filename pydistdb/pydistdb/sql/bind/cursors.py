"""DECLARE, FETCH, MOVE, CLOSE, and LISTEN, NOTIFY: the parser's nodes to statements, and what a cursor's query needs.

UPDATE … WHERE CURRENT OF finds the row that a cursor is on by its key.  So a cursor's query yields, behind the columns
that clients see, the keys of the tables whose current row can be told::

    SELECT v FROM t WHERE v > 0                    Project([v, key], Filter(Scan(t: v, key)))
    SELECT a.v FROM a JOIN b … FOR UPDATE OF a     the key that is locked anyway, passed through the last Project

Without FOR UPDATE that is a plain scan of one table only; nothing else is "simply updatable".

Source: PostgreSQL 15 manual, DECLARE, FETCH, NOTIFY.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydistdb.sql import statements
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.locking import strength_and_wait
from pydistdb.sql.bind.parse import Node, ParsedStatement
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported
from pydistdb.sql.plan.expressions import all_relations, walk
from pydistdb.sql.tree import (
    BoundStatement,
    ColumnId,
    ColumnRef,
    Cte,
    CteScan,
    Delete,
    Expr,
    Filter,
    FunctionScan,
    Insert,
    Limit,
    LockRows,
    OutputColumn,
    Project,
    Rel,
    Scan,
    Sort,
    Subquery,
    Update,
    Values,
    VirtualScan,
)
from pydistdb.sql.types.registry import BYTEA

ALL_ROWS = (1 << 63) - 1
"""What the parser gives for ALL."""

_BINARY, _SCROLL, _NO_SCROLL, _INSENSITIVE, _ASENSITIVE, _HOLD = 1, 2, 4, 8, 16, 32

_LOCK_WORDS = {1: "FOR KEY SHARE", 2: "FOR SHARE", 3: "FOR NO KEY UPDATE", 4: "FOR UPDATE"}


# ------------------------------------------------------------------------------------------------ statements


def declare_cursor(parsed: ParsedStatement, node: Node) -> statements.DeclareCursor:
    options = node.get("options", 0)
    if options & _SCROLL and options & _NO_SCROLL:
        raise DatabaseError.of("42P11", "cannot specify both SCROLL and NO SCROLL")
    if options & _INSENSITIVE and options & _ASENSITIVE:
        raise DatabaseError.of("42P11", "cannot specify both ASENSITIVE and INSENSITIVE")
    return statements.DeclareCursor(
        node["portalname"],
        True if options & _SCROLL else False if options & _NO_SCROLL else None,
        bool(options & _BINARY),
        bool(options & _HOLD),
        bool(options & _INSENSITIVE),
    )


def fetch(parsed: ParsedStatement, node: Node) -> statements.Utility:
    direction = node.get("direction", "FETCH_FORWARD").removeprefix("FETCH_").lower()
    count = int(node.get("howMany", 0))
    return statements.Fetch(
        node["portalname"], direction, None if count == ALL_ROWS else count, node.get("ismove", False)
    )


def close_cursor(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return statements.CloseCursor(node.get("portalname"))


def listen(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return statements.Listen(node["conditionname"])


def unlisten(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return statements.Unlisten(node.get("conditionname"))


def notify(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return statements.Notify(node["conditionname"], node.get("payload", ""))


# ------------------------------------------------------------------------------------------------ the query


@dataclass(frozen=True, slots=True)
class CursorQuery:
    """A cursor's query: ``shown`` as the client sees it, ``bound`` with the keys behind.

    ``keys``: (oid of the table, position of its key in the rows)."""

    utility: statements.DeclareCursor
    shown: BoundStatement
    bound: BoundStatement
    keys: tuple[tuple[int, int], ...]
    locks: bool
    scrolls: bool
    """The query could be read backwards without being kept, which makes SCROLL the default."""


def check_cursor_query(utility: statements.DeclareCursor, node: Node, query: Rel) -> None:
    """Raise where the query does not go with the cursor's options."""
    if any(isinstance(part, Insert | Update | Delete) for part in all_relations(query)):
        raise FeatureNotSupported("DECLARE CURSOR must not contain data-modifying statements in WITH")
    if "lockingClause" not in node:
        return
    words = _LOCK_WORDS[strength_and_wait(node)[0]]
    if utility.hold:
        raise FeatureNotSupported(
            f"DECLARE CURSOR WITH HOLD ... {words} is not supported", detail="Holdable cursors must be READ ONLY."
        )
    if utility.scroll:
        raise FeatureNotSupported(
            f"DECLARE SCROLL CURSOR ... {words} is not supported", detail="Scrollable cursors must be READ ONLY."
        )
    if utility.insensitive:
        raise DatabaseError.of(
            "42P11",
            f"DECLARE INSENSITIVE CURSOR ... {words} is not valid",
            detail="Insensitive cursors must be READ ONLY.",
        )


def cursor_query(b: Binder, utility: statements.DeclareCursor, shown: BoundStatement) -> CursorQuery:
    """The query with its tables' keys behind the columns."""
    locks = any(isinstance(part, LockRows) for part in all_relations(shown.query))
    query: Rel = shown.query
    found: list[tuple[int, ColumnId]] = []
    if not utility.hold:
        query, found = _with_keys(b, shown.query)
    positions = {column.id: position for position, column in enumerate(query.columns)}
    keys = tuple((table, positions[column]) for table, column in found)
    return CursorQuery(
        utility, shown, replace(shown, query=query), keys, locks, not locks and reads_backwards(shown.query)
    )


def _with_keys(b: Binder, relation: Rel) -> tuple[Rel, list[tuple[int, ColumnId]]]:
    """The relation with the keys of its tables as further columns, and which those are; itself if there are none."""
    match relation:
        case Scan():
            key = b.new_id()
            column = OutputColumn(key, "", BYTEA)
            scan = replace(relation, columns=(*relation.columns, column), numbers=(*relation.numbers, 0))
            return scan, [(relation.table.oid, key)]
        case LockRows():
            return relation, [(table.oid, key) for table, key in relation.targets]
        case Cte():
            body, keys = _with_keys(b, relation.body)
            return replace(relation, columns=body.columns, body=body), keys
        case Filter() | Limit():
            source, keys = _with_keys(b, relation.input)
            return replace(relation, columns=source.columns, input=source), keys
        case Project():
            source, keys = _with_keys(b, relation.input)
            if not keys:
                return relation, []
            columns = tuple(OutputColumn(b.new_id(), "", BYTEA) for _ in keys)
            passed = tuple(ColumnRef(BYTEA, key) for _, key in keys)
            wider = replace(
                relation,
                columns=relation.columns + columns,
                input=source,
                expressions=relation.expressions + passed,
            )
            return wider, [(table, column.id) for (table, _), column in zip(keys, columns, strict=True)]
    return relation, []


def reads_backwards(relation: Rel) -> bool:
    """Whether Postgres's executor could run the query backwards as it is."""
    match relation:
        case Scan() | VirtualScan() | FunctionScan() | CteScan() | Sort():
            return True
        case Values():
            return len(relation.rows) > 1
        case Filter():
            return not _has_semi_join(relation.condition) and reads_backwards(relation.input)
        case Project() | Limit():
            return reads_backwards(relation.input)
        case Cte():
            return reads_backwards(relation.body)
    return False


def _has_semi_join(condition: Expr) -> bool:
    return any(isinstance(part, Subquery) and part.kind in ("exists", "any") for part in walk(condition))
