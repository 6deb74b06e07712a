"""Utility statements: the parser's nodes to the plain dataclasses of ``sql/statements.py``.

One small function per statement, found by the node's name in ``_CONVERTERS``.  No catalog is needed here: names stay as
written, and whoever executes the statement resolves them.  What has no function becomes ``Unsupported``.

Tables and columns have functions of their own in ``definitions.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydistdb.sql import statements
from pydistdb.sql.bind import roles, routine_statements
from pydistdb.sql.bind.alterations import alter_table, cluster, move_schema, reindex, rename
from pydistdb.sql.bind.cursors import close_cursor, declare_cursor, fetch, listen, notify, unlisten
from pydistdb.sql.bind.cutting import Tokens
from pydistdb.sql.bind.definitions import create_table, on_commit_action, storage_options
from pydistdb.sql.bind.indexes import create_index
from pydistdb.sql.bind.naming import constant_value, name_of, name_of_parts, strings
from pydistdb.sql.bind.options import option_value, sequence_options
from pydistdb.sql.bind.parse import Node, ParsedStatement, object_kind
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
from pydistdb.sql.bind.typenames import resolve_type
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, InternalError, InvalidSyntax


def to_utility(parsed: ParsedStatement) -> statements.Utility:
    """Convert a parsed utility statement."""
    converter = _CONVERTERS.get(parsed.name)
    if converter is None:
        return statements.Unsupported(parsed.kind)
    return converter(parsed, parsed.node)


def _tokens(parsed: ParsedStatement) -> Tokens:
    return Tokens(parsed.text)


# ---------------------------------------------------------------------------------------------- transactions, settings


def _transaction_modes(options: list[Node]) -> dict[str, Any]:
    return {option["DefElem"]["defname"]: constant_value(option["DefElem"]["arg"]) for option in options}


def _flag(value: Any) -> bool | None:
    return None if value is None else bool(value)


def _transaction(parsed: ParsedStatement, node: Node) -> statements.Utility:
    match node["kind"]:
        case "TRANS_STMT_BEGIN" | "TRANS_STMT_START":
            modes = _transaction_modes(node.get("options", []))
            return statements.Begin(
                modes.get("transaction_isolation"),
                _flag(modes.get("transaction_read_only")),
                _flag(modes.get("transaction_deferrable")),
            )
        case "TRANS_STMT_COMMIT":
            return statements.Commit(node.get("chain", False))
        case "TRANS_STMT_ROLLBACK":
            return statements.Rollback(node.get("chain", False))
        case "TRANS_STMT_SAVEPOINT":
            return statements.Savepoint("savepoint", node["savepoint_name"])
        case "TRANS_STMT_RELEASE":
            return statements.Savepoint("release", node["savepoint_name"])
        case "TRANS_STMT_ROLLBACK_TO":
            return statements.Savepoint("rollback_to", node["savepoint_name"])
    return statements.Unsupported(parsed.kind)


def _setting_text(wrapper: Node) -> str:
    if "TypeCast" in wrapper:  # SET TIME ZONE INTERVAL '-8' HOUR TO MINUTE
        wrapper = wrapper["TypeCast"]["arg"]
    value = constant_value(wrapper)
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _set_variable(parsed: ParsedStatement, node: Node) -> statements.Utility:
    name = node.get("name", "")
    match node["kind"]:
        case "VAR_SET_VALUE":
            values = tuple(_setting_text(argument) for argument in node.get("args", []))
            return statements.SetVariable(name, values, node.get("is_local", False))
        case "VAR_SET_DEFAULT":
            return statements.SetVariable(name, None, node.get("is_local", False))
        case "VAR_RESET":
            return statements.SetVariable(name, None)
        case "VAR_RESET_ALL":
            return statements.SetVariable("all", None)
        case "VAR_SET_MULTI" if name in ("TRANSACTION", "SESSION CHARACTERISTICS"):
            modes = _transaction_modes(node.get("args", []))
            return statements.SetTransaction(
                modes.get("transaction_isolation"),
                _flag(modes.get("transaction_read_only")),
                name == "SESSION CHARACTERISTICS",
                _flag(modes.get("transaction_deferrable")),
            )
    return statements.Unsupported("SET " + name)


def _set_constraints(parsed: ParsedStatement, node: Node) -> statements.Utility:
    names = None
    if "constraints" in node:
        names = tuple(name_of(wrapper["RangeVar"], parsed) for wrapper in node["constraints"])
    return statements.SetConstraints(names, node.get("deferred", False))


def _show(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return statements.ShowVariable(node["name"])


def _discard(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return statements.Discard(node["target"].removeprefix("DISCARD_").lower())


# ------------------------------------------------------------------------------------------------ statements and plans


def _option_text(element: Node) -> str:
    value = option_value(element)
    return "on" if value in (None, True) else "off" if value is False else str(value).lower()


def _is_on(text: str) -> bool:
    return text in ("on", "true", "1", "yes")


_QUERY_WORDS = frozenset(
    {"SELECT", "INSERT", "UPDATE", "DELETE_P", "WITH", "WITH_LA", "VALUES", "TABLE", "CREATE", "EXECUTE"}
    | {"DECLARE", "MERGE", "REFRESH", "ASCII_40"}
)


def _explain(parsed: ParsedStatement, node: Node) -> statements.Utility:
    options = tuple(
        (element["DefElem"]["defname"], _option_text(element["DefElem"])) for element in node.get("options", [])
    )
    given = dict(options)
    tokens = _tokens(parsed)
    first = 1
    if len(tokens.names) > 2 and tokens.names[1] == "ASCII_40" and tokens.names[2] not in _QUERY_WORDS:
        first = tokens.closing(1) + 1
    while first < len(tokens.names) and tokens.names[first] not in _QUERY_WORDS:
        first += 1
    known = {"analyze", "verbose", "costs", "format", "settings", "buffers", "wal", "timing", "summary"}
    for element in node.get("options", []):
        name = element["DefElem"]["defname"]
        if name not in known:
            position = parsed.position_at(element["DefElem"].get("location", -1))
            raise InvalidSyntax(f'unrecognized EXPLAIN option "{name}"', position=position)
    return statements.Explain(
        tokens.rest(first),
        _is_on(given.get("analyze", "off")),
        _is_on(given.get("verbose", "off")),
        _is_on(given.get("costs", "on")),
        given.get("format", "text"),
        options,
        parsed.position + (tokens.starts[first] if first < len(tokens.starts) else 0),
    )


def _prepare(parsed: ParsedStatement, node: Node) -> statements.Utility:
    tokens = _tokens(parsed)
    types = tuple(
        resolve_type(each["TypeName"], parsed.position_at, parsed.catalog) for each in node.get("argtypes", [])
    )
    return statements.Prepare(node["name"], types, tokens.rest(tokens.find("AS", depth=0) + 1))


def _execute(parsed: ParsedStatement, node: Node) -> statements.Utility:
    if not node.get("params"):
        return statements.Execute(node["name"], ())
    tokens = _tokens(parsed)
    opening = tokens.find("ASCII_40")
    return statements.Execute(node["name"], tuple(tokens.phrase(first) for first in tokens.items(opening)))


def _deallocate(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return statements.Deallocate(node.get("name"))


def _copy(parsed: ParsedStatement, node: Node) -> statements.Utility:
    options: dict[str, str | tuple[str, ...]] = {}
    for wrapper in node.get("options", []):
        element = wrapper["DefElem"]
        name = element["defname"]
        if name in options:
            position = parsed.position_at(element.get("location", -1))
            raise InvalidSyntax("conflicting or redundant options", position=position)
        value = option_value(element)
        if value is None or isinstance(value, bool):
            options[name] = "false" if value is False else "true"
        else:
            options[name] = value if isinstance(value, tuple) else str(value)
    if node.get("is_program"):
        raise FeatureNotSupported("COPY TO or FROM PROGRAM is not supported")
    tokens = _tokens(parsed)
    query = None
    if "query" in node:
        opening = tokens.find("ASCII_40")
        query = tokens.between(opening + 1, tokens.closing(opening))
    where = tokens.rest(tokens.find("WHERE", depth=0) + 1) if "whereClause" in node else None
    return statements.Copy(
        name_of(node["relation"], parsed) if "relation" in node else None,
        query,
        strings(node.get("attlist", [])),
        node.get("is_from", False),
        node.get("filename"),
        options,
        where,
    )


def _vacuum(parsed: ParsedStatement, node: Node) -> statements.Utility:
    given = {
        element["DefElem"]["defname"]: _is_on(_option_text(element["DefElem"])) for element in node.get("options", [])
    }
    vacuum = node.get("is_vacuumcmd", False)
    tables = tuple(name_of(each["VacuumRelation"]["relation"], parsed) for each in node.get("rels", []))
    return statements.Vacuum(
        tables,
        given.get("analyze", False) if vacuum else True,
        vacuum,
        given.get("verbose", False),
        given.get("full", False),
    )


def _lock(parsed: ParsedStatement, node: Node) -> statements.Utility:
    tables = tuple(name_of(each["RangeVar"], parsed) for each in node["relations"])
    return statements.LockTable(tables, node["mode"], node.get("nowait", False))


def _checkpoint(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return statements.Checkpoint()


# ------------------------------------------------------------------------------------------------ schema


def _create_database(parsed: ParsedStatement, node: Node) -> statements.Utility:
    options = {
        element["DefElem"]["defname"]: str(option_value(element["DefElem"])) for element in node.get("options", [])
    }
    return statements.CreateDatabase(node["dbname"], options)


def _drop_database(parsed: ParsedStatement, node: Node) -> statements.Utility:
    force = any(element["DefElem"]["defname"] == "force" for element in node.get("options", []))
    return statements.DropDatabase(node["dbname"], node.get("missing_ok", False), force)


def _create_schema(parsed: ParsedStatement, node: Node) -> statements.Utility:
    owner = roles.role_spec(node["authrole"]) if "authrole" in node else None
    name = node.get("schemaname", "")
    elements: tuple[str, ...] = ()
    if node.get("schemaElts"):
        tokens = _tokens(parsed)
        starts = [
            index
            for index, token in enumerate(tokens.names)
            if index and token in ("CREATE", "GRANT") and tokens.depths[index] == 0
        ]
        ends = [*starts[1:], len(tokens.names)]
        elements = tuple(tokens.between(first, last) for first, last in zip(starts, ends, strict=True))
        _check_element_schemas(node["schemaElts"], name)
    return statements.CreateSchema(name, node.get("if_not_exists", False), owner, elements)


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
    return statements.CreateExtension(node["extname"], node.get("if_not_exists", False))


def _cut_query(parsed: ParsedStatement, trailing: tuple[tuple[str, ...], ...]) -> str:
    """The query after AS, without the trailing clause (a sequence of token names) if one of these stands there."""
    tokens = _tokens(parsed)
    first = tokens.find("AS", depth=0) + 1
    last = len(tokens.names)
    for clause in trailing:
        if tuple(tokens.names[last - len(clause) : last]) == clause:
            last -= len(clause)
            break
    return tokens.between(first, last)


def _query_start(parsed: ParsedStatement) -> int:
    """Where the query after AS starts in the client's text."""
    tokens = _tokens(parsed)
    return parsed.position + tokens.starts[tokens.find("AS", depth=0) + 1]


def _create_view(parsed: ParsedStatement, node: Node) -> statements.Utility:
    query = next(iter(node["query"]))
    if query != "SelectStmt":
        return statements.Unsupported("CREATE VIEW over " + query)
    option = node.get("withCheckOption", "NO_CHECK_OPTION").removesuffix("_CHECK_OPTION").lower()
    option = "" if option == "no" else option
    given = {name: str(value).lower() for name, value in storage_options(node.get("options", [])).items()}
    return statements.CreateView(
        name_of(node["view"], parsed),
        strings(node.get("aliases", [])),
        _cut_query(parsed, _CHECK_OPTIONS if option else ()),
        node.get("replace", False),
        node["view"]["relpersistence"] == "t",
        (*given.items(), *([("check_option", option)] if option else [])),
        _query_start(parsed),
    )


_CHECK_OPTIONS = tuple(
    ("WITH_LA" if la else "WITH", *middle, "CHECK", "OPTION")
    for la in (False, True)
    for middle in (("LOCAL",), ("CASCADED",), ())
)
"""How WITH CHECK OPTION may end a statement."""


def _create_table_as(parsed: ParsedStatement, node: Node) -> statements.Utility:
    if "ExecuteStmt" in node["query"]:
        return statements.Unsupported("CREATE TABLE AS EXECUTE")
    into = node["into"]
    trailing = (("WITH", "NO", "DATA_P"), ("WITH", "DATA_P"))
    return statements.CreateTableAs(
        name_of(into["rel"], parsed),
        strings(into.get("colNames", [])),
        _cut_query(parsed, trailing),
        not into.get("skipData", False),
        node.get("if_not_exists", False),
        into["rel"]["relpersistence"] == "t",
        on_commit_action(into, into["rel"]["relpersistence"]),
        into["rel"]["relpersistence"] == "u",
        storage_options(into.get("options", [])),
        node.get("objtype") == "OBJECT_MATVIEW",
        _query_start(parsed),
    )


def _refresh_view(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return statements.RefreshView(
        name_of(node["relation"], parsed), node.get("concurrent", False), not node.get("skipData", False)
    )


def _select_into(parsed: ParsedStatement, node: Node) -> statements.Utility:
    into = node.get("intoClause")
    if into is None:
        raise InternalError("a query is no utility statement")
    tokens = _tokens(parsed)
    first = tokens.find("INTO", depth=0)
    last = tokens.index_at((parsed.position_at(into["rel"]["location"]) or 1) - 1 - parsed.position) + 1
    while last + 1 < len(tokens.names) and tokens.names[last] == "ASCII_46":
        last += 2
    query = parsed.text[: tokens.starts[first]] + parsed.text[tokens.ends[last - 1] :]
    return statements.CreateTableAs(
        name_of(into["rel"], parsed),
        (),
        query.strip(),
        temporary=into["rel"]["relpersistence"] == "t",
        unlogged=into["rel"]["relpersistence"] == "u",
    )


def _create_sequence(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return statements.CreateSequence(
        name_of(node["sequence"], parsed),
        sequence_options(node.get("options", [])),
        node.get("if_not_exists", False),
        node["sequence"]["relpersistence"] == "t",
    )


def _alter_sequence(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return statements.AlterSequence(
        name_of(node["sequence"], parsed),
        sequence_options(node.get("options", [])),
        node.get("missing_ok", False),
    )


def _drop(parsed: ParsedStatement, node: Node) -> statements.Utility:
    kind = object_kind(node["removeType"])
    if kind in ("function", "procedure", "routine"):
        return routine_statements.drop_routines(parsed, node)
    if kind not in ("table", "index", "view", "materialized view", "schema", "sequence", "type", "domain"):
        return statements.Unsupported(parsed.kind)
    names = []
    for item in node["objects"]:
        if "List" in item:
            names.append(name_of_parts(strings(item["List"]["items"])))
        elif "TypeName" in item:
            names.append(name_of_parts(strings(item["TypeName"]["names"])))
        else:
            names.append(statements.Name(item["String"]["sval"]))
    return statements.DropObjects(
        kind,
        tuple(names),
        node.get("missing_ok", False),
        node.get("behavior") == "DROP_CASCADE",
        node.get("concurrent", False),
    )


def _alter_table(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return (alter_composite if node.get("objtype") == "OBJECT_TYPE" else alter_table)(parsed, node)


def _truncate(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return statements.Truncate(
        tuple(name_of(each["RangeVar"], parsed) for each in node["relations"]),
        node.get("behavior") == "DROP_CASCADE",
        node.get("restart_seqs", False),
    )


def _comment(parsed: ParsedStatement, node: Node) -> statements.Utility:
    kind = node["objtype"].removeprefix("OBJECT_").replace("_", " ").lower().replace("matview", "materialized view")
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
        return statements.Comment(kind, (routine.name.name,), node.get("comment"), routine)
    else:
        return statements.Unsupported("COMMENT ON " + kind.upper())
    return statements.Comment(kind, name, node.get("comment"))


_ROUTINES = frozenset({"OBJECT_FUNCTION", "OBJECT_PROCEDURE", "OBJECT_ROUTINE"})


def _rename(parsed: ParsedStatement, node: Node) -> statements.Utility:
    if node["renameType"] == "OBJECT_SCHEMA":
        return statements.AlterSchema(node["subname"], new_name=node["newname"])
    if node["renameType"] in _ROUTINES:
        kind = node["renameType"]
        return routine_statements.change_routine(parsed, kind, node["object"], new_name=node["newname"])
    return (rename_type if node["renameType"] in TYPE_RENAMES else rename)(parsed, node)


def _move(parsed: ParsedStatement, node: Node) -> statements.Utility:
    if node["objectType"] in _ROUTINES:
        kind = node["objectType"]
        return routine_statements.change_routine(parsed, kind, node["object"], new_schema=node["newschema"])
    return (move_type if node["objectType"] in TYPE_RENAMES else move_schema)(parsed, node)


_CONVERTERS: dict[str, Callable[[ParsedStatement, Node], statements.Utility]] = {
    **roles.CONVERTERS,
    "DeclareCursorStmt": declare_cursor,
    "FetchStmt": fetch,
    "ClosePortalStmt": close_cursor,
    "ListenStmt": listen,
    "UnlistenStmt": unlisten,
    "NotifyStmt": notify,
    "TransactionStmt": _transaction,
    "VariableSetStmt": _set_variable,
    "VariableShowStmt": _show,
    "DiscardStmt": _discard,
    "ExplainStmt": _explain,
    "PrepareStmt": _prepare,
    "ExecuteStmt": _execute,
    "DeallocateStmt": _deallocate,
    "CopyStmt": _copy,
    "VacuumStmt": _vacuum,
    "LockStmt": _lock,
    "CheckPointStmt": _checkpoint,
    "CreatedbStmt": _create_database,
    "DropdbStmt": _drop_database,
    "CreateSchemaStmt": _create_schema,
    "CreateStmt": create_table,
    "CreateTableAsStmt": _create_table_as,
    "SelectStmt": _select_into,
    "ViewStmt": _create_view,
    "RefreshMatViewStmt": _refresh_view,
    "ClusterStmt": cluster,
    "ReindexStmt": reindex,
    "ConstraintsSetStmt": _set_constraints,
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
    "CreateEnumStmt": create_enum,
    "CompositeTypeStmt": create_composite,
    "CreateDomainStmt": create_domain,
    "AlterEnumStmt": alter_enum,
    "AlterDomainStmt": alter_domain,
    "TruncateStmt": _truncate,
    "CommentStmt": _comment,
}
