"""Statements that make an object of a query: CREATE VIEW, CREATE TABLE AS, SELECT INTO, REFRESH MATERIALIZED VIEW.

The query stays text, since the catalog keeps it so: it is cut out of the statement by its tokens, without what may stand
behind it.

    CREATE VIEW v AS SELECT a FROM t WITH LOCAL CHECK OPTION        query "SELECT a FROM t", option local
    CREATE TABLE c AS SELECT 1 WITH NO DATA                         query "SELECT 1", no rows
    SELECT a INTO c FROM t                                          query "SELECT a FROM t"
"""

from __future__ import annotations

from collections.abc import Callable

from pydistdb.sql import schema_statements, statements
from pydistdb.sql.bind.cutting import Tokens
from pydistdb.sql.bind.definitions import check_tablespace, on_commit_action, storage_options
from pydistdb.sql.bind.naming import name_of, strings
from pydistdb.sql.bind.parse import Node, ParsedStatement, into_clause
from pydistdb.sql.bind.session_statements import executed_statement
from pydistdb.sql.catalog.dependencies import quoted
from pydistdb.sql.errors import FeatureNotSupported, InternalError


def _cut_query(parsed: ParsedStatement, trailing: tuple[tuple[str, ...], ...]) -> str:
    """The query after AS, without the trailing clause (a sequence of token names) if one of these stands there."""
    tokens = Tokens(parsed.text)
    first = tokens.find("AS", depth=0) + 1
    last = len(tokens.names)
    for clause in trailing:
        if tuple(tokens.names[last - len(clause) : last]) == clause:
            last -= len(clause)
            break
    return tokens.between(first, last)


def _query_start(parsed: ParsedStatement) -> int:
    """Where the query after AS starts in the client's text."""
    tokens = Tokens(parsed.text)
    return parsed.position + tokens.starts[tokens.find("AS", depth=0) + 1]


def _create_view(parsed: ParsedStatement, node: Node) -> statements.Utility:
    query = next(iter(node["query"]))
    if query != "SelectStmt":
        return statements.Unsupported("CREATE VIEW over " + query)
    if into_clause(node["query"]["SelectStmt"]) is not None:
        raise FeatureNotSupported("views must not contain SELECT INTO")
    option = node.get("withCheckOption", "NO_CHECK_OPTION").removesuffix("_CHECK_OPTION").lower()
    option = "" if option == "no" else option
    given = {name: str(value).lower() for name, value in storage_options(node.get("options", [])).items()}
    text, start = _cut_query(parsed, _CHECK_OPTIONS if option else ()), _query_start(parsed)
    if "RECURSIVE" in Tokens(parsed.text[: start - parsed.position]).names:
        # What the parser has made of CREATE RECURSIVE VIEW name (columns) AS query.
        columns = ", ".join(map(quoted, strings(node["aliases"])))
        name = quoted(node["view"]["relname"])
        before = f"WITH RECURSIVE {name}({columns}) AS ("
        text, start = f"{before}{text}) SELECT {columns} FROM {name}", start - len(before)
    return schema_statements.CreateView(
        name_of(node["view"]),
        strings(node.get("aliases", [])),
        text,
        node.get("replace", False),
        node["view"]["relpersistence"] == "t",
        (*given.items(), *([("check_option", option)] if option else [])),
        start,
    )


_CHECK_OPTIONS = tuple(
    ("WITH_LA" if la else "WITH", *middle, "CHECK", "OPTION")
    for la in (False, True)
    for middle in (("LOCAL",), ("CASCADED",), ())
)
"""How WITH CHECK OPTION may end a statement."""


def _create_table_as(parsed: ParsedStatement, node: Node) -> statements.Utility:
    into = node["into"]
    check_tablespace(into.get("tableSpaceName"))
    executed = node["query"].get("ExecuteStmt")
    trailing = (("WITH", "NO", "DATA_P"), ("WITH", "DATA_P"))
    return schema_statements.CreateTableAs(
        name_of(into["rel"]),
        strings(into.get("colNames", [])),
        "" if executed is not None else _cut_query(parsed, trailing),
        not into.get("skipData", False),
        node.get("if_not_exists", False),
        into["rel"]["relpersistence"] == "t",
        on_commit_action(into, into["rel"]["relpersistence"]),
        into["rel"]["relpersistence"] == "u",
        storage_options(into.get("options", [])),
        node.get("objtype") == "OBJECT_MATVIEW",
        0 if executed is not None else _query_start(parsed),
        None if executed is None else executed_statement(parsed, executed),
    )


def _refresh_view(parsed: ParsedStatement, node: Node) -> statements.Utility:
    return schema_statements.RefreshView(
        name_of(node["relation"]), node.get("concurrent", False), not node.get("skipData", False)
    )


def _select_into(parsed: ParsedStatement, node: Node) -> statements.Utility:
    into = into_clause(node)
    if into is None:
        raise InternalError("a query is no utility statement")
    tokens = Tokens(parsed.text)
    first = tokens.find("INTO", depth=0)
    last = tokens.index_at((parsed.position_at(into["rel"]["location"]) or 1) - 1 - parsed.position) + 1
    while last + 1 < len(tokens.names) and tokens.names[last] == "ASCII_46":
        last += 2
    query = parsed.text[: tokens.starts[first]] + parsed.text[tokens.ends[last - 1] :]
    return schema_statements.CreateTableAs(
        name_of(into["rel"]),
        (),
        query.strip(),
        temporary=into["rel"]["relpersistence"] == "t",
        unlogged=into["rel"]["relpersistence"] == "u",
    )


CONVERTERS: dict[str, Callable[[ParsedStatement, Node], statements.Utility]] = {
    "ViewStmt": _create_view,
    "CreateTableAsStmt": _create_table_as,
    "RefreshMatViewStmt": _refresh_view,
    "SelectStmt": _select_into,
}
