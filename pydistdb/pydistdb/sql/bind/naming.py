"""Small readers of the parser's tree that several modules need: names, constants, string lists.

>>> strings([{"String": {"sval": "a"}}, {"String": {"sval": "b"}}])
('a', 'b')
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydistdb.sql.bind.parse import Node, ParsedStatement
from pydistdb.sql.errors import InvalidSyntax
from pydistdb.sql.statements import Name


def strings(items: Sequence[Node]) -> tuple[str, ...]:
    """The texts of a list of String nodes (an empty string has no field)."""
    return tuple(item["String"].get("sval", "") for item in items)


def name_of(node: Node) -> Name:
    """The name in a RangeVar; errors about it do not point at it."""
    return Name(node["relname"], node.get("schemaname"), node.get("catalogname"))


def located_name_of(node: Node, parsed: ParsedStatement) -> Name:
    """The name in a RangeVar of CREATE TABLE: of all utility statements, only there errors point at names."""
    return replace(name_of(node), position=parsed.position_at(node.get("location", -1)))


def name_of_parts(parts: tuple[str, ...]) -> Name:
    """A dotted name of up to three parts."""
    if len(parts) > 3:
        raise InvalidSyntax(f"improper relation name (too many dotted names): {'.'.join(parts)}")
    schema = parts[-2] if len(parts) > 1 else None
    return Name(parts[-1], schema, parts[0] if len(parts) > 2 else None)


def constant_value(wrapper: Node) -> Any:
    """The Python value of an A_Const or of a bare value node (String, Integer, Float, Boolean); None for NULL."""
    node = wrapper.get("A_Const")
    if node is not None:
        if "ival" in node:
            return node["ival"].get("ival", 0)
        if "sval" in node:
            return node["sval"].get("sval", "")
        if "fval" in node:
            return node["fval"]["fval"]
        if "boolval" in node:
            return node["boolval"].get("boolval", False)
        return None
    for kind, value in wrapper.items():
        if kind == "String":
            return value.get("sval", "")
        if kind == "Integer":
            return value.get("ival", 0)
        if kind == "Float":
            return int(value["fval"]) if value["fval"].lstrip("-").isdigit() else value["fval"]
        if kind == "Boolean":
            return value.get("boolval", False)
    return None
