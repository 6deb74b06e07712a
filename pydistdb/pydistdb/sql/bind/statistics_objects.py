"""CREATE and ALTER STATISTICS.

Expressions are kept as SQL text, cut out of the statement as written::

    CREATE STATISTICS s (mcv) ON a, (b + 1) FROM t      CreateStatistics(Name("s"), …, ("mcv",), (("a", "a"), (None, "b + 1")))
"""

from __future__ import annotations

from pydistdb.sql import schema_statements, statements
from pydistdb.sql.bind.cutting import Tokens
from pydistdb.sql.bind.naming import constant_value, name_of, name_of_parts, strings
from pydistdb.sql.bind.parse import Node, ParsedStatement
from pydistdb.sql.errors import FeatureNotSupported

STATISTICS = "OBJECT_STATISTIC_EXT"


def create_statistics(parsed: ParsedStatement, node: Node) -> statements.Utility:
    """CREATE STATISTICS; a name that is left out is chosen."""
    if any("RangeVar" not in item for item in node["relations"]):
        raise FeatureNotSupported("CREATE STATISTICS only supports relation names in the FROM clause")
    return schema_statements.CreateStatistics(
        name_of_parts(strings(node["defnames"])) if "defnames" in node else None,
        node.get("if_not_exists", False),
        strings(node.get("stat_types", [])),
        tuple(_elements(parsed, node)),
        tuple(name_of(item["RangeVar"]) for item in node["relations"]),
    )


def _elements(parsed: ParsedStatement, node: Node) -> list[tuple[str | None, str]]:
    """What stands between ON and FROM, at the commas outside brackets."""
    tokens = Tokens(parsed.text, parsed.position)
    first = tokens.find("ON", depth=0) + 1
    elements: list[tuple[str | None, str]] = []
    for wrapper in node["exprs"]:
        element = wrapper["StatsElem"]
        last = first
        while tokens.depths[last] > 0 or tokens.names[last] not in ("ASCII_44", "FROM"):
            last += 1
        name = element.get("name")
        if name is not None:
            elements.append((name, name))
        elif tokens.names[first] == "ASCII_40" and tokens.closing(first) == last - 1:
            elements.append((None, tokens.between(first + 1, last - 1)))
        else:
            elements.append((None, tokens.between(first, last)))
        first = last + 1
    return elements


def alter_statistics(parsed: ParsedStatement, node: Node) -> statements.Utility:
    """ALTER STATISTICS … SET STATISTICS."""
    target = constant_value(node["stxstattarget"]) if "stxstattarget" in node else -1
    name = name_of_parts(strings(node["defnames"]))
    return schema_statements.AlterStatistics(name, target=int(target), missing_ok=node.get("missing_ok", False))


def rename_statistics(parsed: ParsedStatement, node: Node) -> statements.Utility:
    """ALTER STATISTICS … RENAME TO."""
    return schema_statements.AlterStatistics(_object_name(node), new_name=node["newname"])


def move_statistics(parsed: ParsedStatement, node: Node) -> statements.Utility:
    """ALTER STATISTICS … SET SCHEMA."""
    return schema_statements.AlterStatistics(_object_name(node), new_schema=node["newschema"])


def _object_name(node: Node) -> statements.Name:
    return name_of_parts(strings(node["object"]["List"]["items"]))
