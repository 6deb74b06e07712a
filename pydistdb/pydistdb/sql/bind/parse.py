"""SQL text to statements: the only place that runs the parser, and the shape in which its tree is read.

The parser is Postgres's own grammar (libpg_query through pglast).  It can hand its tree over in several forms; taken
is the JSON one, decoded by msgspec into plain dictionaries, because that costs about 4 µs for a pgbench statement where
building node objects costs 28 µs, because it keeps the locations of constants, and because its C code checks the stack
depth.  A node is ``{"ColumnRef": {"fields": […], "location": 7}}``: a dictionary with the node's name as its only key
wherever the grammar allows several kinds of node, and the bare inside where it allows just one.  Fields that are zero,
false or empty are left out.

Locations are byte offsets into the text, while clients are told characters: ``ParsedStatement.position_at`` converts.

>>> [statement.kind for statement in parse("begin; select 1")]
['BEGIN', 'SELECT']
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from pglast import parser

from pydistdb.sql.bind.as_of import lift_as_of
from pydistdb.sql.bind.sharding import lift_shard_clauses
from pydistdb.sql.consistency import AsOf
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, InvalidSyntax
from pydistdb.sql.schema_statements import ShardBy

if TYPE_CHECKING:
    from pydistdb.sql.catalog.view import CatalogView

Node = dict[str, Any]

MOST_TEXT_BYTES = 256 * 1024 * 1024
"""Longer statements are refused; the parser needs some forty times their size."""

_decode = msgspec.json.Decoder(Node).decode

QUERIES = frozenset({"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
"""What ``analyze`` makes bound statements of."""

KINDS = {
    "SelectStmt": "SELECT",
    "InsertStmt": "INSERT",
    "UpdateStmt": "UPDATE",
    "DeleteStmt": "DELETE",
    "MergeStmt": "MERGE",
    "CreateStmt": "CREATE TABLE",
    "CreateTableAsStmt": "CREATE TABLE AS",
    "ViewStmt": "CREATE VIEW",
    "IndexStmt": "CREATE INDEX",
    "AlterTableStmt": "ALTER TABLE",
    "CreatedbStmt": "CREATE DATABASE",
    "DropdbStmt": "DROP DATABASE",
    "CreateSchemaStmt": "CREATE SCHEMA",
    "CreateSeqStmt": "CREATE SEQUENCE",
    "AlterSeqStmt": "ALTER SEQUENCE",
    "TruncateStmt": "TRUNCATE TABLE",
    "CopyStmt": "COPY",
    "VariableShowStmt": "SHOW",
    "ExplainStmt": "EXPLAIN",
    "PrepareStmt": "PREPARE",
    "ExecuteStmt": "EXECUTE",
    "LockStmt": "LOCK TABLE",
    "CommentStmt": "COMMENT",
    "CheckPointStmt": "CHECKPOINT",
    "ListenStmt": "LISTEN",
    "UnlistenStmt": "UNLISTEN",
    "NotifyStmt": "NOTIFY",
    "GrantStmt": "GRANT",
    "GrantRoleStmt": "GRANT ROLE",
    "CreateRoleStmt": "CREATE ROLE",
    "AlterRoleStmt": "ALTER ROLE",
    "AlterRoleSetStmt": "ALTER ROLE",
    "DropRoleStmt": "DROP ROLE",
    "CreateFunctionStmt": "CREATE FUNCTION",
    "CreateEnumStmt": "CREATE TYPE",
    "CompositeTypeStmt": "CREATE TYPE",
    "CreateRangeStmt": "CREATE TYPE",
    "CreateCastStmt": "CREATE CAST",
    "CreateEventTrigStmt": "CREATE EVENT TRIGGER",
    "CreateForeignServerStmt": "CREATE SERVER",
    "CreateFdwStmt": "CREATE FOREIGN DATA WRAPPER",
    "CreateDomainStmt": "CREATE DOMAIN",
    "CreateTrigStmt": "CREATE TRIGGER",
    "RuleStmt": "CREATE RULE",
    "CreateExtensionStmt": "CREATE EXTENSION",
    "DoStmt": "DO",
    "CallStmt": "CALL",
    "DeclareCursorStmt": "DECLARE CURSOR",
    "FetchStmt": "FETCH",
    "ClosePortalStmt": "CLOSE CURSOR",
    "RefreshMatViewStmt": "REFRESH MATERIALIZED VIEW",
    "AlterDatabaseSetStmt": "ALTER DATABASE",
    "AlterDatabaseStmt": "ALTER DATABASE",
    "AlterOwnerStmt": "ALTER OWNER",
    "AlterSystemStmt": "ALTER SYSTEM",
    "ReindexStmt": "REINDEX",
    "ClusterStmt": "CLUSTER",
    "LoadStmt": "LOAD",
    "ConstraintsSetStmt": "SET CONSTRAINTS",
    "SecLabelStmt": "SECURITY LABEL",
    "ReassignOwnedStmt": "REASSIGN OWNED",
    "CreatePolicyStmt": "CREATE POLICY",
    "CreateStatsStmt": "CREATE STATISTICS",
    "CreatePublicationStmt": "CREATE PUBLICATION",
    "CreateSubscriptionStmt": "CREATE SUBSCRIPTION",
    "CreateTableSpaceStmt": "CREATE TABLESPACE",
    "CreateForeignTableStmt": "CREATE FOREIGN TABLE",
    "AlterEnumStmt": "ALTER TYPE",
    "AlterDefaultPrivilegesStmt": "ALTER DEFAULT PRIVILEGES",
}
_TRANSACTION_KINDS = {
    "TRANS_STMT_BEGIN": "BEGIN",
    "TRANS_STMT_START": "START TRANSACTION",
    "TRANS_STMT_COMMIT": "COMMIT",
    "TRANS_STMT_ROLLBACK": "ROLLBACK",
    "TRANS_STMT_SAVEPOINT": "SAVEPOINT",
    "TRANS_STMT_RELEASE": "RELEASE",
    "TRANS_STMT_ROLLBACK_TO": "ROLLBACK",
    "TRANS_STMT_PREPARE": "PREPARE TRANSACTION",
    "TRANS_STMT_COMMIT_PREPARED": "COMMIT PREPARED",
    "TRANS_STMT_ROLLBACK_PREPARED": "ROLLBACK PREPARED",
}


@dataclass(frozen=True, slots=True)
class ParsedStatement:
    """One statement of a text; ``kind`` is its command tag without counts, such as "SELECT" or "CREATE TABLE"."""

    text: str
    """The statement itself, without the semicolon."""
    position: int
    """Where ``text`` starts in ``source``, in characters from 0."""
    kind: str
    name: str
    """The parser's name of the node."""
    node: Node
    source: str
    """The whole text that was parsed: error positions count in it."""
    shard_by: ShardBy | None = None
    as_of: AsOf | None = None
    """AS OF SYSTEM TIME: when it reads."""
    catalog: CatalogView | None = None
    """Where a utility statement's type names are looked up."""

    def position_at(self, location: int) -> int | None:
        """Convert the parser's byte offset to the character position (from 1) that clients are told."""
        if location < 0:
            return None
        if self.source.isascii():
            return location + 1
        return len(self.source.encode()[:location].decode(errors="ignore")) + 1

    @property
    def is_query(self) -> bool:
        """Tell whether ``analyze`` makes a BoundStatement of it (rather than a Utility)."""
        return self.name in QUERIES and into_clause(self.node) is None


def parse(text: str) -> list[ParsedStatement]:
    """Parse a string of statements; raises InvalidSyntax as Postgres words it."""
    shards: list[tuple[int, ShardBy]] = []
    times: list[tuple[int, AsOf]] = []
    plain = text
    folded = text.casefold()
    if "shard" in folded:
        plain, shards = lift_shard_clauses(text)
    if "system" in folded:
        plain, times = lift_as_of(plain)
    try:
        statements = _parse_json(plain)
    except InvalidSyntax as error:
        for offset, _ in shards:
            if error.position == offset + 1:  # the clause itself, not what stands in for it
                error.message = f'syntax error at or near "{text[offset:].split()[0]}"'
        raise
    if len(statements) == 1 and not shards and not times:
        (name, node), *_ = statements[0]["stmt"].items()
        start = statements[0].get("stmt_location", 0)
        length = statements[0].get("stmt_len", 0)
        if not start and not length:
            return [ParsedStatement(text, 0, _kind(name, node), name, node, text)]
    data = text.encode()
    return [_statement(text, data, statement, shards, times) for statement in statements]


def stack_depth_exceeded() -> DatabaseError:
    """The error for what is nested too deeply, worded as Postgres does."""
    return DatabaseError.of(
        "54001",
        "stack depth limit exceeded",
        hint='Increase the configuration parameter "max_stack_depth" (currently 2048kB), '
        "after ensuring the platform's stack depth limit is adequate.",
    )


def _parse_json(text: str) -> list[Node]:
    if len(text) > MOST_TEXT_BYTES:
        raise DatabaseError.of("54000", f"statement is longer than {MOST_TEXT_BYTES} bytes")
    try:
        with without_collector(len(text)):
            statements: list[Node] = _decode(parser.parse_sql_json(text))["stmts"]
    except parser.ParseError as error:
        message, index = (error.args + (None,))[:2]
        if message.startswith("stack depth"):
            raise stack_depth_exceeded() from None
        position = len(text) + 1 if index is None else index + 1
        if message.startswith("role name "):
            raise DatabaseError.of("42939", message, position=position) from None
        if message == "invalid Unicode escape":
            is_plain = text[position - 1 : position + 1] in ("\\u", "\\U")  # E'\uXXXX', not U&'\XXXX'
            forms = "\\uXXXX or \\UXXXXXXXX" if is_plain else "\\XXXX or \\+XXXXXX"
            hint = f"Unicode escapes must be {forms}."
            raise InvalidSyntax(message, hint=hint, position=position) from None
        if message.startswith("frame "):
            raise DatabaseError.of("42P20", message, position=position) from None
        if any(words in message for words in _NOT_SUPPORTED):
            raise FeatureNotSupported(message, position=position) from None
        if "WITH TIES" in message:
            raise InvalidSyntax(message) from None
        raise InvalidSyntax(message, position=position) from None
    except RecursionError:
        raise stack_depth_exceeded() from None
    except UnicodeEncodeError:
        raise DatabaseError.of("22021", 'invalid byte sequence for encoding "UTF8"') from None
    return statements


_NOT_SUPPORTED = (
    "constraints cannot be marked",
    "MATCH PARTIAL not yet implemented",
    "is only supported for ON DELETE actions",
    "is not yet implemented",
)
"""Errors of the grammar that are not about syntax."""

LARGE_TEXT = 64 * 1024


@contextmanager
def without_collector(size: int) -> Iterator[None]:
    """Hold the garbage collector while a large statement is read: it would look again and again at the million objects
    just made, none of which is garbage (a factor of four for an INSERT of 50,000 rows)."""
    if size < LARGE_TEXT or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _statement(
    text: str, data: bytes, statement: Node, shards: list[tuple[int, ShardBy]], times: list[tuple[int, AsOf]]
) -> ParsedStatement:
    (name, node), *_ = statement["stmt"].items()
    start = statement.get("stmt_location", 0)
    length = statement.get("stmt_len", 0)
    piece = data[start : start + length] if length else data[start:]
    own = piece.lstrip()
    start += len(piece) - len(own)
    position = len(data[:start].decode())
    own_text = own.decode()
    shard_by = None
    for offset, clause in shards:
        if position <= offset < position + len(own_text):
            shard_by = clause
    own_times = [time for offset, time in times if position <= offset < position + len(own_text)]
    kind = _kind(name, node)
    if own_times and name not in ("SelectStmt", "TransactionStmt", "VariableSetStmt", "ExplainStmt"):
        raise FeatureNotSupported(f"AS OF SYSTEM TIME is not supported in {kind}")
    if shard_by is not None and name not in ("CreateStmt", "AlterTableStmt"):
        raise FeatureNotSupported(f"SHARD BY is not supported in {kind}", position=shard_by.position)
    if len(own_times) > 1:
        raise InvalidSyntax("a statement can have only one AS OF SYSTEM TIME")
    return ParsedStatement(own_text, position, kind, name, node, text, shard_by, own_times[0] if own_times else None)


def _kind(name: str, node: Node) -> str:
    if name == "TransactionStmt":
        return _TRANSACTION_KINDS.get(node["kind"], "TRANSACTION")
    if name == "VariableSetStmt":
        return "RESET" if node["kind"] in ("VAR_RESET", "VAR_RESET_ALL") else "SET"
    if name == "VacuumStmt":
        return "VACUUM" if node.get("is_vacuumcmd") else "ANALYZE"
    if name == "DefineStmt":
        return "CREATE " + object_kind(node["kind"]).upper()
    if name == "DropStmt":
        return "DROP " + object_kind(node["removeType"]).upper()
    if name in ("RenameStmt", "AlterObjectSchemaStmt"):
        return "ALTER " + object_kind(node.get("renameType") or node["objectType"]).upper()
    if name == "CreateFunctionStmt" and node.get("is_procedure"):
        return "CREATE PROCEDURE"
    if name == "CreateTableAsStmt" and node.get("objtype") == "OBJECT_MATVIEW":
        return "CREATE MATERIALIZED VIEW"
    if name == "AlterFunctionStmt":
        return "ALTER " + object_kind(node["objtype"]).upper()
    if name == "AlterOwnerStmt":
        return "ALTER " + object_kind(node["objectType"]).upper()
    if name == "DiscardStmt":
        return str(node["target"]).replace("_", " ")
    if name == "DeallocateStmt":
        return "DEALLOCATE ALL" if node.get("isall") else "DEALLOCATE"
    if name == "SelectStmt" and into_clause(node) is not None:
        return "SELECT INTO"
    return KINDS.get(name) or name.removesuffix("Stmt").upper()


def into_clause(select: Node) -> Node | None:
    """INTO of a query, which stands in the first of those that UNION and its kind combine."""
    while "larg" in select:
        select = select["larg"]
    found: Node | None = select.get("intoClause")
    return found


def object_kind(constant: str) -> str:
    """Turn the parser's OBJECT_FOREIGN_TABLE into words."""
    words = constant.removeprefix("OBJECT_").replace("_", " ").lower()
    return {
        "matview": "materialized view",
        "tabconstraint": "table",
        "column": "table",
        "statistic ext": "statistics",
    }.get(words, words)
