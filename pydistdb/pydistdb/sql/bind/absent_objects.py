"""DROP of kinds of objects that there are none of (catalog/drop_absent.py): what the statement names."""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql import schema_statements
from pydistdb.sql.bind.naming import name_of_parts, strings
from pydistdb.sql.bind.parse import Node, ParsedStatement
from pydistdb.sql.statements import Name, Utility

_OF_RELATIONS = {"trigger": "trigger", "rule": "rule", "policy": "policy"}
_OF_METHODS = {"opclass": "operator class", "opfamily": "operator family"}
_NAMED = {
    "collation": "collation",
    "event trigger": "event trigger",
    "access method": "access method",
    "language": "language",
    "extension": "extension",
    "foreign server": "server",
    "fdw": "foreign-data wrapper",
    "publication": "publication",
    "tsconfiguration": "text search configuration",
    "tsdictionary": "text search dictionary",
    "tsparser": "text search parser",
    "tstemplate": "text search template",
    "conversion": "conversion",
    "foreign table": "foreign table",
}
ABSENT = frozenset({*_OF_RELATIONS, *_OF_METHODS, *_NAMED})
"""By what the parser calls them, in words."""
_TAGS = {"foreign-data wrapper": "FOREIGN DATA WRAPPER"}


def drop_absent(kind: str, node: Node) -> Utility:
    """DROP of objects of one of these kinds."""
    parts = [
        strings(item["List"]["items"]) if "List" in item else (item["String"]["sval"],) for item in node["objects"]
    ]
    missing_ok = node.get("missing_ok", False)
    if kind in _OF_RELATIONS:
        *relation, name = parts[0]
        return _statement(kind, [Name(name)], missing_ok, relation=name_of_parts(tuple(relation)))
    if kind in _OF_METHODS:
        method, *name = parts[0]
        return _statement(_OF_METHODS[kind], [name_of_parts(tuple(name))], missing_ok, method=method)
    return _statement(_NAMED[kind], [name_of_parts(tuple(each)) for each in parts], missing_ok)


def drop_subscription(parsed: ParsedStatement, node: Node) -> Utility:
    return _statement("subscription", [Name(node["subname"])], node.get("missing_ok", False))


def drop_tablespace(parsed: ParsedStatement, node: Node) -> Utility:
    return _statement("tablespace", [Name(node["tablespacename"])], node.get("missing_ok", False))


def _statement(
    kind: str, names: Sequence[Name], missing_ok: bool, relation: Name | None = None, method: str = ""
) -> schema_statements.DropAbsent:
    tag = f"DROP {_TAGS.get(kind, kind).upper()}"
    return schema_statements.DropAbsent(kind, tuple(names), missing_ok, tag, relation, method)
