"""Golden scripts of SQL: what the commands mean.

::

    ddl create table t (id int8 primary key, v int4)     start over with these tables (continue with `more`)
    sql insert into t values (1, 2) returning *          run, print rows, or ERROR with its parts
    explain select * from t where id = 1                 print the plan
    rule push_down select …                              print the tree before and after one rule
    begin / commit / set work_mem 64kB
"""

from __future__ import annotations

from typing import Any

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.plan.explain import Explainer
from pydistdb.sql.plan.expressions import direct_parts
from pydistdb.sql.plan.planner import RULES
from pydistdb.sql.tree import Aggregate, Cte, Filter, FirstRows, Join, Limit, Project, Rel, Scan, SetOperation, Sort

from tests.sql.laboratory import Laboratory
from tests.support.golden import Command


class Script:
    """State between the commands of one script."""

    def __init__(self, **database_options: Any) -> None:
        self.options = database_options
        self.lab = Laboratory(**self.options)
        self.ddl = ""

    def execute(self, command: Command) -> str:
        text = command.text
        match command.name:
            case "ddl":
                self.ddl = text
                self.lab = Laboratory(self.ddl, **self.options)
            case "more":
                self.ddl += ";" + text
                self.lab = Laboratory(self.ddl, **self.options)
            case "sql":
                return self._run(text)
            case "explain":
                return "\n".join(self.lab.explain(text))
            case "rule":
                name, _, sql = text.partition(" ")
                return self._rule(name, sql)
            case "begin":
                self.lab.begin()
            case "commit":
                self.lab.commit()
            case "set":
                name, _, value = text.partition(" ")
                self.lab.context.settings[name] = value
            case _:
                raise AssertionError(f"unknown command {command.name}")
        return ""

    def _run(self, text: str) -> str:
        try:
            output = self.lab.text(text)
        except DatabaseError as error:
            parts = [f"ERROR {error.sqlstate}: {error.message}"]
            if error.detail:
                parts.append(f"DETAIL: {error.detail}")
            if error.hint:
                parts.append(f"HINT: {error.hint}")
            return "\n".join(parts)
        return output or f"({self.lab.affected_rows} rows)"

    def _rule(self, name: str, sql: str) -> str:
        """The tree as the rule finds it (after those before it) and as it leaves it."""
        tree = self.lab.bound(sql).query
        for rule in RULES:
            if rule.__name__ == name:
                return f"{tree_text(tree)}\n=>\n{tree_text(rule(tree))}"
            tree = rule(tree)
        raise AssertionError(f"there is no rule {name}")


def tree_text(relation: Rel) -> str:
    explainer = Explainer()
    _name(explainer, relation)
    lines: list[str] = []
    _write(explainer, relation, 0, lines)
    return "\n".join(lines)


def _name(explainer: Explainer, relation: Rel) -> None:
    for part in direct_parts(relation)[1]:
        _name(explainer, part)
    if isinstance(relation, Scan):
        for column in relation.columns:
            explainer.names[column.id] = f"{relation.alias or relation.table.name}.{column.name}"
    else:
        for column in relation.columns:
            explainer.names.setdefault(column.id, column.name or f"#{column.id}")


def _write(explainer: Explainer, relation: Rel, depth: int, lines: list[str]) -> None:
    text = explainer.text
    shown = ", ".join(explainer.names[column.id] for column in relation.columns)
    match relation:
        case Scan():
            title = f"Scan {relation.alias or relation.table.name} [{shown}]"
        case Filter():
            title = f"Filter {text(relation.condition)}"
        case Project():
            title = f"Project {', '.join(map(text, relation.expressions))}"
        case Join():
            title = f"Join {relation.kind}{' lateral' if relation.lateral else ''} on {text(relation.condition)}"
        case Aggregate():
            calls = [explainer.call_text(call.function.name, call.arguments, call.distinct) for call in relation.calls]
            title = f"Aggregate by ({', '.join(map(text, relation.groups))}) of {', '.join(calls)}"
        case FirstRows():
            title = f"FirstRows {relation.counting} <= {text(relation.limit)}"
            title += f" by ({', '.join(map(text, relation.groups))})" if relation.groups else ""
            title += f" order {', '.join(explainer.keys(relation.keys))}" if relation.keys else ""
        case Sort():
            title = f"Sort {', '.join(explainer.keys(relation.keys))}"
        case SetOperation():
            title = f"SetOperation {relation.kind}{' all' if relation.all else ''}"
        case Limit() | Cte():
            title = type(relation).__name__
        case _:
            title = f"{type(relation).__name__} [{shown}]"
    lines.append("  " * depth + title)
    for part in direct_parts(relation)[1]:
        _write(explainer, part, depth + 1, lines)
