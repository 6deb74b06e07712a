"""Expressions as Postgres writes them: one method per kind of the parser's nodes (deparse.py says what for)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.tree import And, AnyAll, ArrayLiteral, Call, Expr, InList, Or
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.bits import digits_of
from pydistdb.sql.types.known import BIT
from pydistdb.sql.types.reg import quote_identifier, user_type_name
from pydistdb.sql.types.registry import UNKNOWN

VisibleName = Callable[[str | None, str], str]
"""(schema, name) as it must be written."""
_COMPARISONS = {"AEXPR_LIKE": "~~", "AEXPR_ILIKE": "~~*"}
_VALUE_FUNCTIONS = {
    "SVFOP_CURRENT_DATE": "CURRENT_DATE",
    "SVFOP_CURRENT_TIMESTAMP": "CURRENT_TIMESTAMP",
    "SVFOP_CURRENT_TIME": "CURRENT_TIME",
    "SVFOP_LOCALTIME": "LOCALTIME",
    "SVFOP_LOCALTIMESTAMP": "LOCALTIMESTAMP",
    "SVFOP_CURRENT_USER": "CURRENT_USER",
    "SVFOP_USER": "USER",
    "SVFOP_SESSION_USER": "SESSION_USER",
    "SVFOP_CURRENT_ROLE": "CURRENT_ROLE",
}
LINE = "\n"
_PRECEDENCE = {"*": 2, "/": 2, "%": 2, "+": 1, "-": 1}


class CannotDeparse(Exception):
    """The text has something in it that this module does not write."""


class ExpressionWriter:
    """Writes expressions, given what their parts were bound to."""

    def __init__(self, b: Binder, visible: VisibleName, pretty: bool, qualified: bool) -> None:
        assert b.trace is not None and b.trace_sources is not None
        self.trace, self.sources = b.trace, b.trace_sources
        self.context = b.context
        self.visible = visible
        self.pretty = pretty
        self.qualified = qualified
        self.indent = 0

    def _nested(self, node: Node, indent: int) -> str:
        """A query in brackets."""
        raise CannotDeparse

    def _type(self, wrapper: Node) -> SqlType | None:
        found = self.trace.get(id(wrapper))
        return None if found is None else found.type

    def type_text(self, sql_type: SqlType, modifier: int = -1) -> str:
        name = user_type_name(sql_type.oid, self.context)
        return name or registry.format_type(sql_type.oid, modifier)

    def cast(self, text: str, sql_type: SqlType, is_simple: bool) -> str:
        return f"{text if self.pretty and is_simple else f'({text})'}::{self.type_text(sql_type, sql_type.modifier)}"

    def converted(self, wrapper: Node, target: Expr | None) -> str:
        """An operand, with the cast to what the operator or function takes."""
        text = self.expression(wrapper)
        own = self._type(wrapper)
        if target is None or own is None or own.oid == target.type.oid:
            return text
        if own.oid == UNKNOWN.oid:
            return text if text.endswith(")") else f"{text}::{self.type_text(target.type)}"
        simple = bool(wrapper.keys() & {"ColumnRef", "A_Const", "FuncCall"})
        return self.cast(text, target.type.with_modifier(-1), simple)

    def expression(self, wrapper: Node, parent: str = "") -> str:
        for kind, node in wrapper.items():
            method = getattr(self, "_write_" + kind, None)
            if method is None:
                raise CannotDeparse
            return str(method(wrapper, node, parent))
        raise CannotDeparse

    def _write_ColumnRef(self, wrapper: Node, node: Node, parent: str) -> str:
        parts = [part["String"]["sval"] for part in node["fields"] if "String" in part]
        if len(parts) != len(node["fields"]):
            raise CannotDeparse
        if not self.qualified:
            return quote_identifier(parts[-1])
        source = parts[-2] if len(parts) > 1 else self.sources.get(id(node))
        if source is None:
            raise CannotDeparse
        return f"{quote_identifier(source)}.{quote_identifier(parts[-1])}"

    def _write_A_Const(self, wrapper: Node, node: Node, parent: str) -> str:
        if node.get("isnull"):
            return "NULL"
        if "ival" in node:
            return str(node["ival"].get("ival", 0))
        if "fval" in node:
            return str(node["fval"]["fval"])
        if "boolval" in node:
            return "true" if node["boolval"].get("boolval") else "false"
        if "sval" in node:
            text = node["sval"].get("sval", "")
            if "\\" in text:
                raise CannotDeparse
            return str("'" + text.replace("'", "''") + "'")
        if "bsval" in node:
            digits = f"'{digits_of(node['bsval'].get('bsval', ''))}'"
            # A cast names the type anyway.
            return digits if parent == "::" else f'{digits}::"bit"'
        raise CannotDeparse

    def _write_A_Expr(self, wrapper: Node, node: Node, parent: str) -> str:
        kind = node["kind"]
        bound = self.trace.get(id(wrapper))
        name = node["name"][-1]["String"]["sval"]
        if kind in ("AEXPR_LIKE", "AEXPR_ILIKE"):
            name = _COMPARISONS[kind] if name in ("~~", "~~*") else "!" + _COMPARISONS[kind]
            if "FuncCall" in node["rexpr"]:
                raise CannotDeparse
        elif kind == "AEXPR_IN" and isinstance(bound, InList):
            return self._in_list(node, bound, name, parent)
        elif kind in ("AEXPR_OP_ANY", "AEXPR_OP_ALL") and isinstance(bound, AnyAll):
            word = "ALL" if bound.all else "ANY"
            left = self.converted(node["lexpr"], bound.left)
            return self._array_test(f"{left} {name} {word} ({self.converted(node['rexpr'], bound.array)})", parent)
        elif kind in ("AEXPR_BETWEEN", "AEXPR_NOT_BETWEEN") and isinstance(bound, And | Or):
            return self._between(node, bound, parent)
        elif kind != "AEXPR_OP":
            raise CannotDeparse
        if not isinstance(bound, Call):
            raise CannotDeparse
        if "lexpr" not in node:
            return self._outer(f"{name} {self.converted(node['rexpr'], bound.arguments[0])}", parent, name)
        if len(bound.arguments) != 2:
            raise CannotDeparse
        left = self._operand(node["lexpr"], bound.arguments[0], name, False)
        right = self._operand(node["rexpr"], bound.arguments[1], name, True)
        return self._outer(f"{left} {name} {right}", parent, name)

    def _operand(self, wrapper: Node, target: Expr, operator: str, is_right: bool) -> str:
        text = self.converted(wrapper, target)
        inner = wrapper.get("A_Expr")
        if not self.pretty or inner is None or inner["kind"] != "AEXPR_OP" or text.endswith("::" + str(target.type)):
            return text
        own = _PRECEDENCE.get(inner["name"][-1]["String"]["sval"], 0)
        outer = _PRECEDENCE.get(operator, 0)
        return text if own and outer and (own > outer or (own == outer and not is_right)) else f"({text})"

    def _outer(self, text: str, parent: str, operator: str) -> str:
        return text if self.pretty else f"({text})"

    def _array_test(self, text: str, parent: str) -> str:
        return f"({text})" if not self.pretty or parent else text

    def _between(self, node: Node, bound: And | Or, parent: str) -> str:
        low, high = node["rexpr"]["List"]["items"]
        words = ("AND", ">=", "<=") if isinstance(bound, And) else ("OR", "<", ">")
        texts = []
        for operator, wrapper, call in zip(words[1:], (low, high), bound.arguments, strict=True):
            if not isinstance(call, Call):
                raise CannotDeparse
            left = self.converted(node["lexpr"], call.arguments[0])
            texts.append(self._outer(f"{left} {operator} {self.converted(wrapper, call.arguments[1])}", "", operator))
        text = f" {words[0]} ".join(texts)
        return f"({text})" if self._needs_brackets(words[0], parent) else text

    def _needs_brackets(self, word: str, parent: str) -> bool:
        """Whether AND or OR stands in brackets inside ``parent``."""
        return not self.pretty or parent == "NOT" or (word == "OR" and parent == "AND")

    def _in_list(self, node: Node, bound: InList, name: str, parent: str) -> str:
        items = [
            self.converted(item, target)
            for item, target in zip(node["rexpr"]["List"]["items"], bound.items, strict=True)
        ]
        left = self.converted(node["lexpr"], bound.argument)
        if len(items) == 1:
            return self._outer(f"{left} {name} {items[0]}", "", name)
        word = "ANY" if name == "=" else "ALL"
        return self._array_test(f"{left} {name} {word} (ARRAY[{', '.join(items)}])", parent)

    def _write_BoolExpr(self, wrapper: Node, node: Node, parent: str) -> str:
        word = node["boolop"].removesuffix("_EXPR")
        if word == "NOT":
            inner = self.expression(node["args"][0], "NOT")
            if self.pretty and "ColumnRef" not in node["args"][0]:
                inner = f"({inner})" if not inner.startswith("(") else inner
            return self._outer(f"NOT {inner}", parent, word)
        text = f" {word} ".join(self.expression(each, word) for each in node["args"])
        return f"({text})" if self._needs_brackets(word, parent) else text

    def _write_NullTest(self, wrapper: Node, node: Node, parent: str) -> str:
        word = "IS NULL" if node["nulltesttype"] == "IS_NULL" else "IS NOT NULL"
        return self._outer(f"{self.expression(node['arg'])} {word}", parent, word)

    def _write_BooleanTest(self, wrapper: Node, node: Node, parent: str) -> str:
        word = node["booltesttype"].replace("_", " ")
        return self._outer(f"{self.expression(node['arg'])} {word}", parent, word)

    def _write_TypeCast(self, wrapper: Node, node: Node, parent: str) -> str:
        bound = self.trace.get(id(wrapper))
        if bound is None:
            raise CannotDeparse
        inner = node["arg"]
        if "A_Const" in inner and "sval" in inner["A_Const"]:
            return f"{self.expression(inner)}::{self.type_text(bound.type, bound.type.modifier)}"
        if bound.type.oid == BIT.oid and "A_Const" in inner and "bsval" in inner["A_Const"]:
            return f"{self.expression(inner, '::')}::{self.type_text(bound.type, bound.type.modifier)}"
        own = self._type(inner)
        if own is not None and own.oid == bound.type.oid and own.modifier == bound.type.modifier == -1:
            return self.expression(inner, parent)
        return self.cast(self.expression(inner), bound.type, bool(inner.keys() & {"ColumnRef", "A_Const", "FuncCall"}))

    def _write_SQLValueFunction(self, wrapper: Node, node: Node, parent: str) -> str:
        text = _VALUE_FUNCTIONS.get(node["op"])
        if text is None:
            raise CannotDeparse
        return text

    def _write_FuncCall(self, wrapper: Node, node: Node, parent: str) -> str:
        if any(node.get(key) for key in ("over", "agg_within_group", "func_variadic", "agg_order")):
            raise CannotDeparse
        parts = [part["String"]["sval"] for part in node["funcname"]]
        if parts[0] == "pg_catalog" and node.get("funcformat") == "COERCE_SQL_SYNTAX":
            raise CannotDeparse
        schema = parts[-2] if len(parts) > 1 and parts[-2] != "pg_catalog" else None
        name = self.visible(schema, parts[-1]) if schema else quote_identifier(parts[-1])
        bound = self.trace.get(id(wrapper))
        targets: Sequence[Expr | None] = bound.arguments if isinstance(bound, Call) else ()
        arguments = node.get("args", [])
        if any("NamedArgExpr" in each for each in arguments):
            raise CannotDeparse
        if len(targets) != len(arguments):
            targets = [None] * len(arguments)
        if any(t is None and self._is_unknown(a) for a, t in zip(arguments, targets, strict=True)):
            raise CannotDeparse
        texts = [self.converted(each, target) for each, target in zip(arguments, targets, strict=True)]
        inner = "*" if node.get("agg_star") else ", ".join(texts)
        text = f"{name}({'DISTINCT ' if node.get('agg_distinct') else ''}{inner})"
        if "agg_filter" in node:
            text += f" FILTER (WHERE {self.expression(node['agg_filter'])})"
        return text

    def _is_unknown(self, wrapper: Node) -> bool:
        own = self._type(wrapper)
        return own is None or own.oid == UNKNOWN.oid

    def _write_CoalesceExpr(self, wrapper: Node, node: Node, parent: str) -> str:
        bound = self.trace.get(id(wrapper))
        return f"COALESCE({', '.join(self.converted(each, bound) for each in node['args'])})"

    def _write_A_ArrayExpr(self, wrapper: Node, node: Node, parent: str) -> str:
        bound = self.trace.get(id(wrapper))
        elements = node.get("elements", [])
        if not isinstance(bound, ArrayLiteral) or not elements or len(elements) != len(bound.items):
            raise CannotDeparse
        items = [self.converted(each, target) for each, target in zip(elements, bound.items, strict=True)]
        return f"ARRAY[{', '.join(items)}]"

    def _write_CaseExpr(self, wrapper: Node, node: Node, parent: str) -> str:
        bound = self.trace.get(id(wrapper))
        if "arg" in node or bound is None or parent != "target":
            raise CannotDeparse
        pad = " " * (self.indent + 8)
        lines = [f"{LINE}{pad}CASE"]
        for each in node["args"]:
            when = each["CaseWhen"]
            value = self.converted(when["result"], bound)
            lines.append(f"{pad}    WHEN {self.expression(when['expr'])} THEN {value}")
        default = self.converted(node["defresult"], bound) if "defresult" in node else "NULL"
        if default == "NULL":
            default += f"::{self.type_text(bound.type)}"
        lines.append(f"{pad}    ELSE {default}")
        return "\n".join([*lines, f"{pad}END"])

    def _write_SubLink(self, wrapper: Node, node: Node, parent: str) -> str:
        if "SelectStmt" not in node["subselect"]:
            raise CannotDeparse
        match node["subLinkType"]:
            case "EXISTS_SUBLINK":
                return f"(EXISTS {self._nested(node['subselect']['SelectStmt'], self.indent)})"
            case "EXPR_SUBLINK":
                return self._nested(node["subselect"]["SelectStmt"], self.indent)
        raise CannotDeparse
