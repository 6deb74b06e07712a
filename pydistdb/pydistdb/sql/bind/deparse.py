"""Queries and expressions as Postgres writes them: what pg_get_viewdef, pg_get_expr and \\d show.

    select name, score from users where score > 0
    ->   SELECT users.name,
            users.score
           FROM users
          WHERE (users.score > (0)::numeric);

The text is parsed, and bound under observation (``Binder.trace``): so each part's type is known, and with it every cast that
Postgres would show.  Names are qualified where the session's search_path would not find them.  What this module does not
know raises ``CannotDeparse``: then the text is shown as it was written.

Source: PostgreSQL 15, ruleutils.c.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql.bind.binder import Binder, Parameters
from pydistdb.sql.bind.deparse_expressions import LINE, CannotDeparse, ExpressionWriter, VisibleName
from pydistdb.sql.bind.dispatch import STATEMENT_BINDERS, bind
from pydistdb.sql.bind.parse import Node, ParsedStatement, parse
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.bind.stored import parsed_expression, row_scope
from pydistdb.sql.bind.targets import column_label
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.reg import quote_identifier
from pydistdb.sql.types.registry import UNKNOWN


def deparse_query(
    text: str, catalog: CatalogView, context: EvalContext, visible: VisibleName, names: Sequence[str], pretty: bool
) -> str:
    """A view's query, with the view's column names; without the semicolon."""
    (parsed,) = parse(text)
    b = Binder(parsed, catalog, context, Parameters(()))
    b.trace, b.trace_sources = {}, {}
    STATEMENT_BINDERS["SelectStmt"](b, None, parsed.node)
    return Writer(b, visible, pretty, True).select(parsed.node, 0, names)


def deparse_expression(
    text: str, table: Table | None, catalog: CatalogView, context: EvalContext, visible: VisibleName, pretty: bool
) -> str:
    """An expression over a table's row (or over none)."""
    b = Binder(ParsedStatement(text, 0, "", "", {}, text), catalog, context, Parameters(()))
    b.trace, b.trace_sources = {}, {}
    b.text_depth = 1
    scope = Scope(None, "DEFAULT")
    if table is not None:
        scope = row_scope(table, {column.number: b.new_id() for column in table.columns}, "CHECK")
    node = parsed_expression(text)
    bind(b, scope, node)
    return Writer(b, visible, pretty, False).expression(node)


class Writer(ExpressionWriter):
    """Writes the nodes of one statement."""

    # ------------------------------------------------------------------------------------------ queries

    def select(self, node: Node, indent: int, names: Sequence[str] = ()) -> str:
        if any(key in node for key in ("withClause", "windowClause", "valuesLists", "lockingClause", "intoClause")):
            raise CannotDeparse
        pad = " " * indent
        if node.get("op", "SETOP_NONE") != "SETOP_NONE":
            return self._set_operation(node, indent, names)
        targets = f"{self._distinct(node)}{self._targets(node, indent, names)}"
        lines = [f"{pad} SELECT{targets if targets.startswith(LINE) else ' ' + targets}"]
        if "fromClause" in node:
            items = f",\n{pad}    ".join(self._source(each, indent) for each in node["fromClause"])
            lines.append(f"{pad}   FROM {items}")
        if "whereClause" in node:
            lines.append(f"{pad}  WHERE {self.expression(node['whereClause'])}")
        if "groupClause" in node:
            if any("GroupingSet" in each for each in node["groupClause"]):
                raise CannotDeparse
            groups = ", ".join(self._group(each, node) for each in node["groupClause"])
            lines.append(f"{pad}  GROUP BY {groups}")
        if "havingClause" in node:
            lines.append(f"{pad} HAVING {self.expression(node['havingClause'])}")
        return "\n".join([*lines, *self._tail(node, indent)])

    def _tail(self, node: Node, indent: int) -> list[str]:
        pad = " " * indent
        lines = []
        if "sortClause" in node:
            keys = ", ".join(self._sort(each["SortBy"], node) for each in node["sortClause"])
            lines.append(f"{pad}  ORDER BY {keys}")
        if "limitOffset" in node:
            lines.append(f"{pad} OFFSET {self.expression(node['limitOffset'])}")
        if "limitCount" in node:
            if node.get("limitOption") != "LIMIT_OPTION_COUNT":
                raise CannotDeparse
            lines.append(f"{pad} LIMIT {self.expression(node['limitCount'])}")
        return lines

    def _set_operation(self, node: Node, indent: int, names: Sequence[str]) -> str:
        for side in ("larg", "rarg"):
            if any(key in node[side] for key in ("sortClause", "limitCount", "limitOffset")):
                raise CannotDeparse
        if node["rarg"].get("op", "SETOP_NONE") != "SETOP_NONE" or "sortClause" in node:
            raise CannotDeparse
        word = node["op"].removeprefix("SETOP_") + (" ALL" if node.get("all") else "")
        left, right = self.select(node["larg"], indent, names), self.select(node["rarg"], indent, names)
        return "\n".join([left, f"{' ' * indent}{word}", right, *self._tail(node, indent)])

    def _nested(self, node: Node, indent: int) -> str:
        """A query in brackets."""
        before, self.indent = self.indent, indent + 8
        text = f"( {self.select(node, indent + 8).lstrip()})"
        self.indent = before
        return text

    def _distinct(self, node: Node) -> str:
        clause = node.get("distinctClause")
        if clause is None:
            return ""
        if clause and clause[0]:
            return f"DISTINCT ON ({', '.join(map(self.expression, clause))}) "
        return "DISTINCT "

    def _targets(self, node: Node, indent: int, names: Sequence[str]) -> str:
        items = []
        for index, wrapper in enumerate(node["targetList"]):
            target = wrapper["ResTarget"]
            value = target["val"]
            if "A_Star" in value.get("ColumnRef", {}).get("fields", [{}])[-1]:
                raise CannotDeparse
            text = self.expression(value, "target")
            while "TypeCast" in value and text == self.expression(value["TypeCast"]["arg"]):
                value = value["TypeCast"]["arg"]  # a cast that changes nothing is not written
            column = value["ColumnRef"]["fields"][-1]["String"]["sval"] if "ColumnRef" in value else None
            name = names[index] if index < len(names) else target.get("name", column)
            if self._type(value) is not None and self._type(value).oid == UNKNOWN.oid:  # type: ignore[union-attr]
                text += "::text"
            if name is None:
                name = column_label(value)
            items.append(text if name in (column, "?column?") else f"{text} AS {quote_identifier(name)}")
        separator = f",\n{' ' * indent}    "
        return separator.join(items).replace(separator + LINE, "," + LINE)

    def _numbered(self, wrapper: Node, node: Node) -> str | None:
        """``GROUP BY 1``: the expression that the number means; a bare output name likewise."""
        if "A_Const" in wrapper and "ival" in wrapper["A_Const"]:
            number = wrapper["A_Const"]["ival"].get("ival", 0)
            return self.expression(node["targetList"][number - 1]["ResTarget"]["val"])
        return None

    def _group(self, wrapper: Node, node: Node) -> str:
        return self._numbered(wrapper, node) or self._named(wrapper, node) or self.expression(wrapper)

    def _named(self, wrapper: Node, node: Node) -> str | None:
        fields = wrapper.get("ColumnRef", {}).get("fields", ())
        if len(fields) != 1 or id(wrapper["ColumnRef"]) in self.sources:
            return None
        for target in node["targetList"]:
            if target["ResTarget"].get("name") == fields[0].get("String", {}).get("sval"):
                return self.expression(target["ResTarget"]["val"])
        return None

    def _sort(self, key: Node, node: Node) -> str:
        if key.get("sortby_dir") == "SORTBY_USING":
            raise CannotDeparse
        text = self._group(key["node"], node)
        descending = key.get("sortby_dir") == "SORTBY_DESC"
        nulls = key.get("sortby_nulls", "SORTBY_NULLS_DEFAULT")
        text += " DESC" if descending else ""
        if nulls == "SORTBY_NULLS_FIRST" and not descending:
            text += " NULLS FIRST"
        elif nulls == "SORTBY_NULLS_LAST" and descending:
            text += " NULLS LAST"
        return text

    # ------------------------------------------------------------------------------------------ FROM

    def _source(self, wrapper: Node, indent: int) -> str:
        if "RangeVar" in wrapper:
            node = wrapper["RangeVar"]
            text = self.visible(node.get("schemaname"), node["relname"])
            alias = node.get("alias")
            if alias is not None:
                if "colnames" in alias:
                    raise CannotDeparse
                text += "" if alias["aliasname"] == node["relname"] else f" {quote_identifier(alias['aliasname'])}"
            return text
        if "RangeSubselect" in wrapper and not wrapper["RangeSubselect"].get("lateral"):
            node = wrapper["RangeSubselect"]
            if "colnames" in node.get("alias", {}) or "SelectStmt" not in node["subquery"]:
                raise CannotDeparse
            inner = self._nested(node["subquery"]["SelectStmt"], indent)
            return f"{inner} {quote_identifier(node['alias']['aliasname'])}"
        if "JoinExpr" in wrapper:
            return self._join(wrapper["JoinExpr"], indent)
        raise CannotDeparse

    def _join(self, node: Node, indent: int) -> str:
        if node.get("isNatural") or "usingClause" in node or "alias" in node:
            raise CannotDeparse
        words = {"JOIN_INNER": "JOIN", "JOIN_LEFT": "LEFT JOIN", "JOIN_RIGHT": "RIGHT JOIN", "JOIN_FULL": "FULL JOIN"}
        word = words[node.get("jointype", "JOIN_INNER")]
        left = self._source(node["larg"], indent)
        right = self._source(node["rarg"], indent)
        if "JoinExpr" in node["rarg"] and self.pretty:
            right = f"({right})"
        condition = ""
        if "quals" in node:
            text = self.expression(node["quals"])
            condition = f" ON {text}" if self.pretty else f" ON ({text})"
        elif word == "JOIN":
            word = "CROSS JOIN"
        text = f"{left}\n{' ' * indent}     {word} {right}{condition}"
        return text if self.pretty else f"({text})"
