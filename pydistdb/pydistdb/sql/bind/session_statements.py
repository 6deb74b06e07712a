"""Settings, transactions and what a session does with its statements: the parser's nodes to ``sql/statements.py``.

    BEGIN ISOLATION LEVEL SERIALIZABLE  Begin("serializable", None, None)
    SET TIME ZONE INTERVAL '-8' HOUR    SetVariable("timezone", ("-8",), local=False)
    EXPLAIN (ANALYZE) SELECT 1          Explain("SELECT 1", analyze=True): the query stays text, cut out by its tokens

EXPLAIN, PREPARE, EXECUTE and COPY carry a query; whoever executes them parses it again, with its place in the client's text.
Source: PostgreSQL manual, part VI.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydistdb.sql import statements
from pydistdb.sql.bind.cutting import Tokens
from pydistdb.sql.bind.naming import constant_value, name_of, strings
from pydistdb.sql.bind.options import option_value, setting_text
from pydistdb.sql.bind.parse import Node, ParsedStatement
from pydistdb.sql.bind.typenames import resolve_type
from pydistdb.sql.errors import FeatureNotSupported, InvalidParameterValue, InvalidSyntax


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
        case "TRANS_STMT_PREPARE":
            return statements.PrepareTransaction(node.get("gid", ""))
        case "TRANS_STMT_COMMIT_PREPARED" | "TRANS_STMT_ROLLBACK_PREPARED" as kind:
            return statements.FinishPrepared(node.get("gid", ""), kind == "TRANS_STMT_COMMIT_PREPARED")
    return statements.Unsupported(parsed.kind)


def _set_variable(parsed: ParsedStatement, node: Node) -> statements.Utility:
    name = node.get("name", "")
    match node["kind"]:
        case "VAR_SET_VALUE":
            values = tuple(setting_text(argument) for argument in node.get("args", []))
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
        case "VAR_SET_MULTI" if name == "TRANSACTION SNAPSHOT":
            return statements.SetTransaction(snapshot=constant_value(node["args"][0]))
    return statements.Unsupported("SET " + name)


def _set_constraints(parsed: ParsedStatement, node: Node) -> statements.Utility:
    names = None
    if "constraints" in node:
        names = tuple(name_of(wrapper["RangeVar"]) for wrapper in node["constraints"])
    return statements.SetConstraints(names, node.get("deferred", False))


def _show(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return statements.ShowVariable(node["name"])


def _discard(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return statements.Discard(node["target"].removeprefix("DISCARD_").lower())


def _option_text(element: Node) -> str:
    value = option_value(element)
    return "on" if value in (None, True) else "off" if value is False else str(value).lower()


def _is_on(text: str) -> bool:
    return text in ("on", "true", "1", "yes")


_QUERY_WORDS = frozenset(
    {"SELECT", "INSERT", "UPDATE", "DELETE_P", "WITH", "WITH_LA", "VALUES", "TABLE", "CREATE", "EXECUTE"}
    | {"DECLARE", "MERGE", "REFRESH", "ASCII_40"}
)


_EXPLAIN_FLAGS = frozenset(
    {"analyze", "verbose", "costs", "settings", "buffers", "wal", "timing", "summary"} | {"distributed"}  # ours
)
_EXPLAIN_FORMATS = ("text", "json", "xml", "yaml")


def _explain_option(parsed: ParsedStatement, element: Node) -> tuple[str, str]:
    """A flag as "on" or "off", or the format.  Source: explain.c, ExplainQuery; define.c, defGetBoolean."""
    name, value = element["defname"], option_value(element)
    position = parsed.position_at(element.get("location", -1))
    if name == "format":
        if value is None:
            raise InvalidSyntax("format requires a parameter")
        if value not in _EXPLAIN_FORMATS:
            text = f'unrecognized value for EXPLAIN option "format": "{value}"'
            raise InvalidParameterValue(text, position=position)
        return name, str(value)
    if name not in _EXPLAIN_FLAGS:
        raise InvalidSyntax(f'unrecognized EXPLAIN option "{name}"', position=position)
    if value is None or value in (True, 1):
        return name, "on"
    if value in (False, 0):
        return name, "off"
    word = str(value).lower()
    if word not in ("true", "false", "on", "off"):
        raise InvalidSyntax(f"{name} requires a Boolean value")
    return name, "on" if word in ("true", "on") else "off"


def _explain(parsed: ParsedStatement, node: Node) -> statements.Utility:
    options = tuple([_explain_option(parsed, element["DefElem"]) for element in node.get("options", [])])
    given = dict(options)
    tokens = Tokens(parsed.text)
    first = 1
    if len(tokens.names) > 2 and tokens.names[1] == "ASCII_40" and tokens.names[2] not in _QUERY_WORDS:
        first = tokens.closing(1) + 1
    while first < len(tokens.names) and tokens.names[first] not in _QUERY_WORDS:
        first += 1
    return statements.Explain(
        tokens.rest(first),
        given.get("analyze") == "on",
        given.get("verbose") == "on",
        given.get("costs", "on") == "on",
        given.get("format", "text"),
        options,
        parsed.position + (tokens.starts[first] if first < len(tokens.starts) else 0),
    )


def _prepare(parsed: ParsedStatement, node: Node) -> statements.Utility:
    tokens = Tokens(parsed.text)
    types = tuple(
        resolve_type(each["TypeName"], parsed.position_at, parsed.catalog) for each in node.get("argtypes", [])
    )
    return statements.Prepare(node["name"], types, tokens.rest(tokens.find("AS", depth=0) + 1))


def executed_statement(parsed: ParsedStatement, node: Node) -> statements.Execute:
    """EXECUTE, by itself or behind CREATE TABLE … AS."""
    if not node.get("params"):
        return statements.Execute(node["name"], ())
    tokens = Tokens(parsed.text)
    opening = tokens.find("ASCII_40", max(tokens.find("EXECUTE"), 0))
    return statements.Execute(node["name"], tuple(tokens.phrase(first) for first in tokens.items(opening)))


def _deallocate(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return statements.Deallocate(node.get("name"))


def _copy(parsed: ParsedStatement, node: Node) -> statements.Utility:
    options: dict[str, str | tuple[str, ...] | None] = {}
    positions: dict[str, int | None] = {}
    for wrapper in node.get("options", []):
        element = wrapper["DefElem"]
        name = element["defname"]
        location = element.get("location", -1)
        position = positions[name] = parsed.position_at(location) if location >= 0 else None
        if name in options:
            raise InvalidSyntax("conflicting or redundant options", position=position)
        value = option_value(element)
        if isinstance(value, bool):
            options[name] = "true" if value else "false"
        else:
            options[name] = value if value is None or isinstance(value, tuple) else str(value)
    if node.get("is_program"):
        raise FeatureNotSupported("COPY TO or FROM PROGRAM is not supported")
    tokens = Tokens(parsed.text)
    query = None
    if "query" in node:
        opening = tokens.find("ASCII_40")
        query = tokens.between(opening + 1, tokens.closing(opening))
    return statements.Copy(
        name_of(node["relation"]) if "relation" in node else None,
        query,
        strings(node.get("attlist", [])),
        node.get("is_from", False),
        node.get("filename"),
        options,
        positions,
        "whereClause" in node,
    )


_ANALYZE_OPTIONS = frozenset({"verbose", "skip_locked"})
_VACUUM_OPTIONS = _ANALYZE_OPTIONS | {
    *("analyze", "freeze", "full", "disable_page_skipping", "index_cleanup", "process_toast", "truncate", "parallel")
}


def _vacuum(parsed: ParsedStatement, node: Node) -> statements.Utility:
    given = {
        element["DefElem"]["defname"]: _is_on(_option_text(element["DefElem"])) for element in node.get("options", [])
    }
    vacuum = node.get("is_vacuumcmd", False)
    for element in node.get("options", []):
        name = element["DefElem"]["defname"]
        if name not in (_VACUUM_OPTIONS if vacuum else _ANALYZE_OPTIONS):
            position = parsed.position_at(element["DefElem"].get("location", -1))
            command = "VACUUM" if vacuum else "ANALYZE"
            raise InvalidSyntax(f'unrecognized {command} option "{name}"', position=position)
    relations = [each["VacuumRelation"] for each in node.get("rels", [])]
    tables = tuple(name_of(each["relation"]) for each in relations)
    return statements.Vacuum(
        tables,
        given.get("analyze", False) if vacuum else True,
        vacuum,
        given.get("verbose", False),
        given.get("full", False),
        tuple(strings(each.get("va_cols", [])) for each in relations),
    )


def _lock(parsed: ParsedStatement, node: Node) -> statements.Utility:
    tables = tuple(name_of(each["RangeVar"]) for each in node["relations"])
    return statements.LockTable(tables, node["mode"], node.get("nowait", False))


def _checkpoint(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return statements.Checkpoint()


CONVERTERS: dict[str, Callable[[ParsedStatement, Node], statements.Utility]] = {
    "TransactionStmt": _transaction,
    "VariableSetStmt": _set_variable,
    "ConstraintsSetStmt": _set_constraints,
    "VariableShowStmt": _show,
    "DiscardStmt": _discard,
    "ExplainStmt": _explain,
    "PrepareStmt": _prepare,
    "ExecuteStmt": executed_statement,
    "DeallocateStmt": _deallocate,
    "CopyStmt": _copy,
    "VacuumStmt": _vacuum,
    "LockStmt": _lock,
    "CheckPointStmt": _checkpoint,
}
