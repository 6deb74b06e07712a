"""The select list: its expressions, their names, and what ``*`` stands for.

Source: PostgreSQL 15, parse_target.c (the names that columns get when there is no AS).
"""

from __future__ import annotations

from collections.abc import Sequence

import pydistdb.sql.bind.routines as routines
from pydistdb.sql.bind import scope as scopes
from pydistdb.sql.bind.binder import Binder, StarMention
from pydistdb.sql.bind.columns import mention, reference
from pydistdb.sql.bind.composites import field_of
from pydistdb.sql.bind.dispatch import bind
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.rows import row_fields
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.errors import FeatureNotSupported, InvalidSyntax, ProgramLimitExceeded
from pydistdb.sql.tree import Expr

MOST_TARGETS = 1664


class Target:
    """One column of a select list; ``hidden`` ones are only sorted or locked by."""

    __slots__ = ("expr", "hidden", "id", "location", "name", "needs")

    def __init__(self, name: str, expr: Expr, location: int = -1, hidden: bool = False) -> None:
        self.name = name
        self.expr = expr
        self.location = location
        self.hidden = hidden
        self.id = 0
        self.needs: dict[int, Target] = {}
        """By column: the hidden targets that an expression computed late is made of (late_targets.py)."""


def bind_targets(b: Binder, scope: Scope, nodes: Sequence[Node]) -> list[Target]:
    """Bind a select list, expanding stars."""
    targets: list[Target] = []
    for wrapper in nodes:
        node = wrapper["ResTarget"]
        value = node.get("val")
        if value is None:
            raise InvalidSyntax("empty select list item", position=b.position(node.get("location", -1)))
        location = node.get("location", -1)
        column = value.get("ColumnRef")
        if column is not None and "A_Star" in column["fields"][-1]:
            targets += _star(b, scope, column)
            continue
        indirection = value.get("A_Indirection")
        if indirection is not None and "A_Star" in indirection["indirection"][-1]:
            targets += _row_star(b, scope, indirection, location)
            continue
        name = node.get("name")
        targets.append(Target(name if name is not None else column_label(value), bind(b, scope, value), location))
        if len(targets) > MOST_TARGETS:
            raise ProgramLimitExceeded(f"target lists can have at most {MOST_TARGETS} entries")
    return targets


def _star(b: Binder, scope: Scope, node: Node) -> list[Target]:
    location = node["location"]
    fields = node["fields"]
    if len(fields) == 1:
        if not scope.sources:
            raise InvalidSyntax("SELECT * with no tables specified is not valid", position=b.position(location))
        if b.stars is not None and not b.text_depth:
            words = []
            for column in scope.all_columns:
                of = scope.source_of(column.id)
                words.append(("" if of is None or column not in of.columns else of.name, column.name))
            b.stars[location] = StarMention(1, tuple(words))
        return [Target(c.name, reference(b, c, scope, location), location) for c in scope.all_columns]
    names = [part["String"]["sval"] for part in fields[:-1]]
    if len(names) > 3:
        raise InvalidSyntax(
            f"improper qualified name (too many dotted names): {'.'.join(names)}.*", position=b.position(location)
        )
    if len(names) == 3 and names[0] != b.catalog.database.name:
        raise FeatureNotSupported(
            f"cross-database references are not implemented: {'.'.join(names)}.*", position=b.position(location)
        )
    found = scope.find_source(names[-1], names[-2] if len(names) > 1 else None, b.position(location))
    if found is None:
        fields_of_argument = routines.argument_fields(b, names)
        if fields_of_argument is not None:
            return [Target(name, expr, location) for name, expr in fields_of_argument]
        raise scopes.missing_from_entry(scope, names[-1], b.position(location))
    source, owner = found
    if b.mentions is not None:
        mention(b, "star", source, location, len(fields))
    if b.stars is not None and not b.text_depth:
        b.stars[location] = StarMention(len(fields), tuple([(source.name, c.name) for c in source.columns]))
    return [Target(c.name, reference(b, c, owner, location), location) for c in source.columns]


def _row_star(b: Binder, scope: Scope, node: Node, location: int) -> list[Target]:
    """``(row).*``."""
    steps = node["indirection"][:-1]
    inner = {"A_Indirection": {**node, "indirection": steps}} if steps else node["arg"]
    expr = bind(b, scope, inner)
    fields = row_fields(b, scope, inner, expr)
    if fields is None:
        raise FeatureNotSupported("row expansion of this expression is not supported", position=b.position(location))
    if b.stars is not None and not b.text_depth:
        b.stars[location] = StarMention(1, tuple([("", each.name) for each in fields]), True)
    return [Target(each.name, field_of(expr, each), location) for each in fields]


# ------------------------------------------------------------------------------------------------ names


def column_label(wrapper: Node) -> str:
    """The name of an output column without AS."""
    return _label(wrapper)[0] or "?column?"


def _last_name(fields: Sequence[Node]) -> str | None:
    for part in reversed(fields):
        if "String" in part:
            return str(part["String"]["sval"])
    return None


def _label(wrapper: Node) -> tuple[str | None, int]:
    """A name and how good it is: 2 the user's own, 1 that of a construct, 0 none."""
    for kind, node in wrapper.items():
        match kind:
            case "ColumnRef":
                name = _last_name(node["fields"])
                return name, 2 if name else 0
            case "A_Indirection":
                name = _last_name(node["indirection"])
                return (name, 2) if name else _label(node["arg"])
            case "FuncCall":
                return _last_name(node["funcname"]), 2
            case "A_Expr":
                return ("nullif", 2) if node["kind"] == "AEXPR_NULLIF" else (None, 0)
            case "TypeCast":
                name, strength = _label(node["arg"])
                if strength <= 1:
                    return _last_name(node["typeName"]["names"]), 1
                return name, strength
            case "CollateClause":
                return _label(node["arg"])
            case "CaseExpr":
                name, strength = _label(node["defresult"]) if "defresult" in node else (None, 0)
                return (name, strength) if strength > 1 else ("case", 1)
            case "SubLink":
                return _sublink_label(node)
            case "MinMaxExpr":
                return ("greatest" if node.get("op") == "IS_GREATEST" else "least"), 2
            case "SQLValueFunction":
                return node["op"].removeprefix("SVFOP_").removesuffix("_N").lower(), 2
        fixed = {
            "A_ArrayExpr": "array",
            "RowExpr": "row",
            "CoalesceExpr": "coalesce",
            "GroupingFunc": "grouping",
        }.get(kind)
        return fixed, 2 if fixed else 0
    return None, 0


def _sublink_label(node: Node) -> tuple[str | None, int]:
    match node["subLinkType"]:
        case "EXISTS_SUBLINK":
            return "exists", 2
        case "ARRAY_SUBLINK":
            return "array", 2
        case "EXPR_SUBLINK":
            query = node["subselect"].get("SelectStmt", {})
            while "larg" in query:
                query = query["larg"]
            targets = query.get("targetList")
            if targets:
                target = targets[0]["ResTarget"]
                if "name" in target:
                    return target["name"], 2
                return _label(target["val"])
            if "valuesLists" in query:
                return "column1", 2
    return None, 0
