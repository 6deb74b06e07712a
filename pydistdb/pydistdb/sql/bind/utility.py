"""Utility statements: the parser's nodes to the plain dataclasses of ``sql/statements.py``.

One small function per statement, found by the node's name in ``_CONVERTERS``; the larger groups bring tables of their own.
No catalog is needed here: names stay as written, and whoever executes the statement resolves them.  What has no function
becomes ``Unsupported``.

Here is the table, and what creates, drops and names databases, schemas and sequences.  Larger groups stand apart:
settings, transactions and statements about statements in ``session_statements.py``, objects made of a query in
``stored_queries.py``, tables and columns in ``definitions.py``, ALTER in ``alterations.py``, types, roles and routines in
``type_definitions.py``, ``roles.py`` and ``routine_statements.py``.

    DROP TABLE IF EXISTS a, s.b CASCADE        DropObjects("table", (Name("a"), Name("b", "s")), missing_ok, cascade)
"""

from __future__ import annotations

from collections.abc import Callable

from pydistdb.sql import schema_statements, statements
from pydistdb.sql.bind import roles, routine_statements, session_statements, stored_queries
from pydistdb.sql.bind.absent_objects import ABSENT, drop_absent, drop_subscription, drop_tablespace
from pydistdb.sql.bind.alterations import alter_table, cluster, move_schema, reindex, rename
from pydistdb.sql.bind.cursors import close_cursor, declare_cursor, fetch, listen, notify, unlisten
from pydistdb.sql.bind.cutting import Tokens
from pydistdb.sql.bind.definitions import create_table
from pydistdb.sql.bind.indexes import create_index
from pydistdb.sql.bind.naming import name_of, name_of_parts, strings
from pydistdb.sql.bind.options import option_value, sequence_options
from pydistdb.sql.bind.parse import Node, ParsedStatement, object_kind
from pydistdb.sql.bind.statistics_objects import (
    STATISTICS,
    alter_statistics,
    create_statistics,
    move_statistics,
    rename_statistics,
)
from pydistdb.sql.bind.type_definitions import (
    TYPE_RENAMES,
    alter_composite,
    alter_domain,
    alter_enum,
    create_composite,
    create_domain,
    create_enum,
    move_type,
    rename_type,
)
from pydistdb.sql.errors import DatabaseError


def to_utility(parsed: ParsedStatement) -> statements.Utility:
    """Convert a parsed utility statement."""
    converter = _CONVERTERS.get(parsed.name)
    if converter is None:
        return statements.Unsupported(parsed.kind)
    return converter(parsed, parsed.node)


def _create_database(parsed: ParsedStatement, node: Node) -> statements.Utility:
    options = {
        element["DefElem"]["defname"]: str(option_value(element["DefElem"])) for element in node.get("options", [])
    }
    return schema_statements.CreateDatabase(node["dbname"], options)


def _drop_database(parsed: ParsedStatement, node: Node) -> statements.Utility:
    force = any(element["DefElem"]["defname"] == "force" for element in node.get("options", []))
    return schema_statements.DropDatabase(node["dbname"], node.get("missing_ok", False), force)


def _create_schema(parsed: ParsedStatement, node: Node) -> statements.Utility:
    owner = roles.role_spec(node["authrole"]) if "authrole" in node else None
    name = node.get("schemaname", "")
    elements: tuple[str, ...] = ()
    if node.get("schemaElts"):
        tokens = Tokens(parsed.text)
        starts = [
            index
            for index, token in enumerate(tokens.names)
            if index and token in ("CREATE", "GRANT") and tokens.depths[index] == 0
        ]
        ends = [*starts[1:], len(tokens.names)]
        elements = tuple(tokens.between(first, last) for first, last in zip(starts, ends, strict=True))
        _check_element_schemas(node["schemaElts"], name)
    return schema_statements.CreateSchema(name, node.get("if_not_exists", False), owner, elements)


def _check_element_schemas(elements: list[Node], name: str) -> None:
    for element in elements:
        for kind, inner in element.items():
            relation = inner.get("relation") or inner.get("view") or inner.get("sequence") or {}
            schema = relation.get("schemaname") if kind != "IndexStmt" else None
            if schema is not None and name and schema != name:
                raise DatabaseError.of(
                    "42P15", f"CREATE specifies a schema ({schema}) different from the one being created ({name})"
                )


def _create_extension(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return schema_statements.CreateExtension(node["extname"], node.get("if_not_exists", False))


def _create_sequence(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return schema_statements.CreateSequence(
        name_of(node["sequence"]),
        sequence_options(node.get("options", [])),
        node.get("if_not_exists", False),
        node["sequence"]["relpersistence"] == "t",
    )


def _alter_sequence(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return schema_statements.AlterSequence(
        name_of(node["sequence"]),
        sequence_options(node.get("options", [])),
        node.get("missing_ok", False),
    )


_DROPPED = frozenset(
    {"table", "index", "view", "materialized view", "schema", "sequence", "type", "domain", "statistics"}
)


def _drop(parsed: ParsedStatement, node: Node) -> statements.Utility:
    kind = object_kind(node["removeType"])
    if kind in ("function", "procedure", "routine"):
        return routine_statements.drop_routines(parsed, node)
    if kind in ABSENT:
        return drop_absent(kind, node)
    if kind not in _DROPPED:
        return statements.Unsupported(parsed.kind)
    names = []
    for item in node["objects"]:
        if "List" in item:
            names.append(name_of_parts(strings(item["List"]["items"])))
        elif "TypeName" in item:
            names.append(name_of_parts(strings(item["TypeName"]["names"])))
        else:
            names.append(statements.Name(item["String"]["sval"]))
    return schema_statements.DropObjects(
        kind,
        tuple(names),
        node.get("missing_ok", False),
        node.get("behavior") == "DROP_CASCADE",
        node.get("concurrent", False),
    )


def _alter_table(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return (alter_composite if node.get("objtype") == "OBJECT_TYPE" else alter_table)(parsed, node)


def _truncate(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return schema_statements.Truncate(
        tuple(name_of(each["RangeVar"]) for each in node["relations"]),
        node.get("behavior") == "DROP_CASCADE",
        node.get("restart_seqs", False),
    )


def _comment(parsed: ParsedStatement, node: Node) -> statements.Utility:
    kind = node["objtype"].removeprefix("OBJECT_").replace("_", " ").lower().replace("matview", "materialized view")
    kind = kind.replace("statistic ext", "statistics object")
    target = node["object"]
    if "List" in target and all("String" in item for item in target["List"]["items"]):
        name = strings(target["List"]["items"])
    elif "String" in target:
        name = (target["String"]["sval"],)
    elif "TypeName" in target:
        name = strings(target["TypeName"]["names"])
    elif kind == "domconstraint":
        domain, constraint = target["List"]["items"]
        name = (*strings(domain["TypeName"]["names"]), constraint["String"]["sval"])
    elif "ObjectWithArgs" in target and kind in ("function", "procedure", "routine"):
        routine = routine_statements.routine_name(parsed, target["ObjectWithArgs"])
        return schema_statements.Comment(kind, (routine.name.name,), node.get("comment"), routine)
    else:
        return statements.Unsupported("COMMENT ON " + kind.upper())
    return schema_statements.Comment(kind, name, node.get("comment"))


_ROUTINES = frozenset({"OBJECT_FUNCTION", "OBJECT_PROCEDURE", "OBJECT_ROUTINE"})


def _rename(parsed: ParsedStatement, node: Node) -> statements.Utility:
    if node["renameType"] == "OBJECT_SCHEMA":
        return schema_statements.AlterSchema(node["subname"], new_name=node["newname"])
    if node["renameType"] in _ROUTINES:
        kind = node["renameType"]
        return routine_statements.change_routine(parsed, kind, node["object"], new_name=node["newname"])
    if node["renameType"] == STATISTICS:
        return rename_statistics(parsed, node)
    return (rename_type if node["renameType"] in TYPE_RENAMES else rename)(parsed, node)


def _move(parsed: ParsedStatement, node: Node) -> statements.Utility:
    if node["objectType"] in _ROUTINES:
        kind = node["objectType"]
        return routine_statements.change_routine(parsed, kind, node["object"], new_schema=node["newschema"])
    if node["objectType"] == STATISTICS:
        return move_statistics(parsed, node)
    return (move_type if node["objectType"] in TYPE_RENAMES else move_schema)(parsed, node)


_CONVERTERS: dict[str, Callable[[ParsedStatement, Node], statements.Utility]] = {
    **roles.CONVERTERS,
    **session_statements.CONVERTERS,
    **stored_queries.CONVERTERS,
    "DeclareCursorStmt": declare_cursor,
    "FetchStmt": fetch,
    "ClosePortalStmt": close_cursor,
    "ListenStmt": listen,
    "UnlistenStmt": unlisten,
    "NotifyStmt": notify,
    "CreatedbStmt": _create_database,
    "DropdbStmt": _drop_database,
    "CreateSchemaStmt": _create_schema,
    "CreateStmt": create_table,
    "ClusterStmt": cluster,
    "ReindexStmt": reindex,
    "CreateSeqStmt": _create_sequence,
    "AlterSeqStmt": _alter_sequence,
    "AlterTableStmt": _alter_table,
    "RenameStmt": _rename,
    "AlterObjectSchemaStmt": _move,
    "CreateExtensionStmt": _create_extension,
    "CreateFunctionStmt": routine_statements.create_routine,
    "AlterFunctionStmt": routine_statements.alter_routine,
    "CallStmt": routine_statements.call,
    "IndexStmt": create_index,
    "DropStmt": _drop,
    "DropSubscriptionStmt": drop_subscription,
    "DropTableSpaceStmt": drop_tablespace,
    "CreateEnumStmt": create_enum,
    "CompositeTypeStmt": create_composite,
    "CreateDomainStmt": create_domain,
    "AlterEnumStmt": alter_enum,
    "AlterDomainStmt": alter_domain,
    "TruncateStmt": _truncate,
    "CommentStmt": _comment,
    "CreateStatsStmt": create_statistics,
    "AlterStatsStmt": alter_statistics,
}
