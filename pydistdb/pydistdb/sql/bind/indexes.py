"""CREATE INDEX: keys, their order, operator classes and collations; the predicate.

Expressions and the predicate are kept as SQL text, cut out of the statement as written.
"""

from __future__ import annotations

from pydistdb.sql import schema_statements, statements
from pydistdb.sql.bind.definitions import Definitions, storage_options
from pydistdb.sql.bind.naming import name_of, strings
from pydistdb.sql.bind.parse import Node, ParsedStatement
from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.schema_statements import IndexElement

_NULLS_FIRST = {"SORTBY_NULLS_FIRST": True, "SORTBY_NULLS_LAST": False}


def create_index(parsed: ParsedStatement, node: Node) -> statements.Utility:
    """CREATE INDEX."""
    definitions = Definitions(parsed, points=True)
    tokens = definitions.tokens
    where = None
    if "whereClause" in node:
        where = tokens.rest(tokens.find("WHERE", depth=0) + 1)
    included = [wrapper["IndexElem"] for wrapper in node.get("indexIncludingParams", [])]
    if any("name" not in element for element in included):
        raise FeatureNotSupported("expressions are not supported in included columns")
    return schema_statements.CreateIndex(
        node.get("idxname"),
        name_of(node["relation"]),
        tuple(_elements(definitions, node)),
        node.get("unique", False),
        node.get("if_not_exists", False),
        node.get("concurrent", False),
        where,
        tuple(element["name"] for element in included),
        node.get("accessMethod", "btree"),
        node.get("nulls_not_distinct", False),
        storage_options(node.get("options", [])),
        node.get("tableSpace"),
    )


def _elements(definitions: Definitions, node: Node) -> list[IndexElement]:
    elements = []
    firsts: list[int] = []
    tokens = definitions.tokens
    for position, wrapper in enumerate(node["indexParams"]):
        element = wrapper["IndexElem"]
        name = element.get("name")
        text = name
        if name is None:
            if not firsts:
                at = tokens.index_at(definitions.offset(node["relation"]["location"]))
                firsts = tokens.items(tokens.find("ASCII_40", at))
            first = firsts[position]
            opening = tokens.find("ASCII_40", first)
            closing = tokens.closing(opening)
            text = tokens.between(first + 1, closing) if opening == first else tokens.between(first, closing + 1)
        elements.append(
            IndexElement(
                name,
                text or "",
                element.get("ordering") == "SORTBY_DESC",
                _NULLS_FIRST.get(element.get("nulls_ordering", "")),
                ".".join(strings(element.get("opclass", []))),
                ".".join(strings(element.get("collation", []))),
            )
        )
    return elements
