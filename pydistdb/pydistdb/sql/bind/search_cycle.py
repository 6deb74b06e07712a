"""SEARCH and CYCLE of recursive WITH queries, by rewriting both sides of the UNION as Postgres does.

Each side becomes a subquery, so that its columns can be named, and columns are added: for ``SEARCH DEPTH FIRST BY a SET o``
the path of rows so far, for BREADTH FIRST the depth and the row, for ``CYCLE a SET m USING p`` a mark and the path::

    SELECT s.a, ARRAY[ROW(s.a)] FROM (left) AS s(a)
    UNION ALL
    SELECT n.a, n.o || ARRAY[ROW(n.a)] FROM (SELECT …, r.o FROM r …) AS n(a, o)

Inside the right side the added columns are known by a name that nobody can write, so ``*`` does not bring them in.

Source: PostgreSQL 15 manual, 7.8.2.1 and 7.8.2.2; rewriteSearchCycle.c, parse_cte.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import common_type
from pydistdb.sql.bind.dispatch import BINDERS, bind, bind_list
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.naming import strings
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, InvalidSyntax
from pydistdb.sql.tree import Expr, FieldAccess
from pydistdb.sql.types.known import INT8

START, STEP = "*start*", "*step*"
_FALSE: Node = {"A_Const": {"boolval": {}, "location": -1}}


def wants_rewriting(node: Node) -> bool:
    return "search_clause" in node or "cycle_clause" in node


def hidden_name(cte_name: str) -> str:
    """The qualifier of the added columns inside the recursive term."""
    return f"*{cte_name}*"


def added_columns(node: Node) -> list[str]:
    """The names of the columns that the clauses add, in order."""
    search, cycle = node.get("search_clause"), node.get("cycle_clause")
    names = [search["search_seq_column"]] if search else []
    return names + ([cycle["cycle_mark_column"], cycle["cycle_path_column"]] if cycle else [])


def rewritten(b: Binder, node: Node, query: Node, names: Sequence[str]) -> Node:
    """The UNION with the added columns; ``names`` are those of the WITH query itself."""
    _check(b, node, names)
    left, right = query["larg"], query["rarg"]
    for side, words in ((left, "left"), (right, "right")):
        if side.get("op", "SETOP_NONE") != "SETOP_NONE":
            raise FeatureNotSupported(f"with a SEARCH or CYCLE clause, the {words} side of the UNION must be a SELECT")
    inner_names = [each["CommonTableExpr"]["ctename"] for each in right.get("withClause", {}).get("ctes", ())]
    if node["ctename"] in inner_names or not _reads(right.get("fromClause", ()), node["ctename"]):
        raise FeatureNotSupported(
            f'with a SEARCH or CYCLE clause, the recursive reference to WITH query "{node["ctename"]}" '
            "must be at the top level of its right-hand SELECT"
        )
    added = added_columns(node)
    hidden = hidden_name(node["ctename"])
    inner: dict[str, Any] = {
        **right,
        "targetList": [*right.get("targetList", []), *[_target(_column(hidden, name), name) for name in added]],
    }
    cycle = node.get("cycle_clause")
    if cycle:
        going_on = _operator("<>", _column(hidden, cycle["cycle_mark_column"]), cycle["cycle_mark_value"])
        if "whereClause" in right:
            going_on = {"BoolExpr": {"boolop": "AND_EXPR", "args": [right["whereClause"], going_on], "location": -1}}
        inner["whereClause"] = going_on
    first = _select(left, START, names, names, _first_values(node))
    step = _select(inner, STEP, [*names, *added], names, _step_values(node))
    return {**query, "larg": first, "rarg": step}


def _select(query: Node, alias: str, columns: Sequence[str], shown: Sequence[str], more: Sequence[Node]) -> Node:
    """``SELECT alias.shown, …, more FROM (query) AS alias (columns)``."""
    return {
        "targetList": [*[_target(_column(alias, name), name) for name in shown], *more],
        "fromClause": [
            {
                "RangeSubselect": {
                    "subquery": {"SelectStmt": query},
                    "alias": {"aliasname": alias, "colnames": [_string(name) for name in columns]},
                }
            }
        ],
        "limitOption": "LIMIT_OPTION_DEFAULT",
        "op": "SETOP_NONE",
    }


def _first_values(node: Node) -> list[Node]:
    search, cycle = node.get("search_clause"), node.get("cycle_clause")
    values: list[Node] = []
    if search:
        columns = strings(search["search_col_list"])
        row = _row(START, columns)
        if search.get("search_breadth_first"):
            depth = {"TypeCast": {"arg": _integer(0), "typeName": {"names": [_string("int8")]}, "location": -1}}
            row = {"RowExpr": {**row["RowExpr"], "args": [depth, *row["RowExpr"]["args"]]}}
            values.append(_target(row, search["search_seq_column"]))
        else:
            values.append(_target(_array(row), search["search_seq_column"]))
    if cycle:
        values.append(_target(_mark(cycle, _FALSE), cycle["cycle_mark_column"]))
        values.append(_target(_array(_row(START, strings(cycle["cycle_col_list"]))), cycle["cycle_path_column"]))
    return values


def _step_values(node: Node) -> list[Node]:
    search, cycle = node.get("search_clause"), node.get("cycle_clause")
    values: list[Node] = []
    if search:
        name = search["search_seq_column"]
        row = _row(STEP, strings(search["search_col_list"]))
        if search.get("search_breadth_first"):
            depth = _operator("+", {"SearchDepth": {"row": _column(STEP, name)}}, _integer(1))
            values.append(_target({"RowExpr": {**row["RowExpr"], "args": [depth, *row["RowExpr"]["args"]]}}, name))
        else:
            values.append(_target(_operator("||", _column(STEP, name), _array(row)), name))
    if cycle:
        path = _column(STEP, cycle["cycle_path_column"])
        row = _row(STEP, strings(cycle["cycle_col_list"]))
        seen = {"A_Expr": {"kind": "AEXPR_OP_ANY", "name": [_string("=")], "lexpr": row, "rexpr": path, "location": -1}}
        values.append(_target(_mark(cycle, seen), cycle["cycle_mark_column"]))
        values.append(_target(_operator("||", path, _array(row)), cycle["cycle_path_column"]))
    return values


# ------------------------------------------------------------------------------------------------ nodes


def _string(text: str) -> Node:
    return {"String": {"sval": text}}


def _column(qualifier: str, name: str) -> Node:
    return {"ColumnRef": {"fields": [_string(qualifier), _string(name)], "location": -1}}


def _target(value: Node, name: str) -> Node:
    return {"ResTarget": {"name": name, "val": value, "location": -1}}


def _integer(value: int) -> Node:
    return {"A_Const": {"ival": {"ival": value}, "location": -1}}


def _operator(name: str, left: Node, right: Node) -> Node:
    return {"A_Expr": {"kind": "AEXPR_OP", "name": [_string(name)], "lexpr": left, "rexpr": right, "location": -1}}


def _row(alias: str, columns: Sequence[str]) -> Node:
    return {
        "RowExpr": {
            "args": [_column(alias, name) for name in columns],
            "row_format": "COERCE_EXPLICIT_CALL",
            "location": -1,
        }
    }


def _array(item: Node) -> Node:
    return {"A_ArrayExpr": {"elements": [item], "location": -1}}


def _mark(cycle: Node, seen: Node) -> Node:
    when = {"CaseWhen": {"expr": seen, "result": cycle["cycle_mark_value"], "location": -1}}
    return {"CaseExpr": {"args": [when], "defresult": cycle["cycle_mark_default"], "location": -1}}


def _search_depth(b: Binder, scope: Scope, node: Node) -> Expr:
    """The first field of a BREADTH FIRST column."""
    return FieldAccess(INT8, bind(b, scope, node["row"]), 0)


BINDERS["SearchDepth"] = _search_depth


# ------------------------------------------------------------------------------------------------ checks


def _reads(items: Sequence[Node], name: str) -> bool:
    """Whether one of these FROM items is the relation of this name, or a join with it."""
    for item in items:
        if item.get("RangeVar", {}).get("relname") == name and "schemaname" not in item["RangeVar"]:
            return True
        join = item.get("JoinExpr")
        if join is not None and _reads((join["larg"], join["rarg"]), name):
            return True
    return False


def _check(b: Binder, node: Node, names: Sequence[str]) -> None:
    taken: dict[str, tuple[str, int | None]] = {}
    search, cycle = node.get("search_clause"), node.get("cycle_clause")
    if search:
        position = b.position(search["location"])
        _check_listed(b, search["search_col_list"], names, "search", position)
        _check_new(search["search_seq_column"], "search sequence column", names, taken, position)
    if cycle:
        position = b.position(cycle["location"])
        _check_listed(b, cycle["cycle_col_list"], names, "cycle", position)
        _check_new(cycle["cycle_mark_column"], "cycle mark column", names, taken, position)
        _check_new(cycle["cycle_path_column"], "cycle path column", names, taken, position)
        marks = (cycle["cycle_mark_value"], cycle["cycle_mark_default"])
        common_type(b, bind_list(b, Scope(None), marks), "CYCLE", [location_of(mark) for mark in marks])


def _check_listed(b: Binder, columns: Sequence[Node], names: Sequence[str], what: str, position: int | None) -> None:
    seen: set[str] = set()
    for name in strings(columns):
        if name not in names:
            raise InvalidSyntax(f'{what} column "{name}" not in WITH query column list', position=position)
        if name in seen:
            raise DatabaseError.of("42701", f'{what} column "{name}" specified more than once', position=position)
        seen.add(name)


def _check_new(
    name: str, what: str, names: Sequence[str], taken: dict[str, tuple[str, int | None]], position: int | None
) -> None:
    if name in names:
        raise InvalidSyntax(f'{what} name "{name}" already used in WITH query column list', position=position)
    if name in taken:
        other, place = taken[name]
        raise InvalidSyntax(f"{other} name and {what} name are the same", position=place)
    taken[name] = what, position
