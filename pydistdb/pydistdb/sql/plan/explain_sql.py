"""What a shard is asked to do, as SQL: a line of EXPLAIN below Gather.

::

    Shard Query: SELECT u.city, count(*) AS partial_count, sum(o.amount) AS partial_sum FROM users u JOIN orders o
                 ON (u.user_id = o.user_id) WHERE (o.amount > 5) GROUP BY u.city

The text is for people: what is sent is the typed tree (exec/fragment.py, exec/part.py).  States of aggregates are shown by the
aggregates that make them up, and how the gateway puts them together by ``final_functions``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pydistdb.sql.plan.explain_text import ExpressionText
from pydistdb.sql.plan.expressions import conjuncts
from pydistdb.sql.plan.physical import AtShards, Exchange, HashJoin, Repartitioned, TableScan, TopN
from pydistdb.sql.tree import (
    Aggregate,
    AggregateCall,
    Delete,
    Distinct,
    Expr,
    Filter,
    FirstRows,
    Limit,
    Project,
    Rel,
    Update,
)

MOST_CHARACTERS = 2_000


@dataclass(slots=True)
class _Select:
    columns: list[str]
    source: str
    where: list[str] = field(default_factory=list)
    groups: list[str] | None = None
    having: list[str] = field(default_factory=list)
    distinct: bool = False
    ending: str = ""

    @property
    def is_plain(self) -> bool:
        return self.groups is None and not self.distinct

    def __str__(self) -> str:
        text = f"SELECT {'DISTINCT ' if self.distinct else ''}{', '.join(self.columns) or '1'} FROM {self.source}"
        if self.where:
            text += f" WHERE {' AND '.join(self.where)}"
        if self.groups:
            text += f" GROUP BY {', '.join(self.groups)}"
        if self.having:
            text += f" HAVING {' AND '.join(self.having)}"
        return text + self.ending


def shard_query(relation: Rel, step: Rel | None, text: ExpressionText) -> str:
    """``relation`` as a query, with the half of ``step``, which stands on it, that is done at the shards too."""
    if isinstance(relation, Update | Delete):
        return _shortened(_change(relation, text))
    select = _select(relation, text)
    match step:
        case Aggregate():
            if not select.is_plain:
                select = _Select([], f"({select}) s")
            groups = list(map(text.text, step.groups))
            select.columns = [*groups, *_partials(step.calls, text)]
            select.groups = groups
        case TopN():
            select.ending = f" ORDER BY {', '.join(text.keys(step.keys))}{_limit(step.limit, step.offset, text)}"
        case Limit():
            select.ending = _limit(step.limit, step.offset, text)
        case FirstRows():
            select = _first_rows(step, select, text)
        case Distinct():
            select.distinct = True
    return _shortened(str(select))


def _first_rows(step: FirstRows, select: _Select, text: ExpressionText) -> _Select:
    over = f"PARTITION BY {text.list(step.groups)} " if step.groups else ""
    over += f"ORDER BY {', '.join(text.keys(step.keys))}" if step.keys else ""
    place = f"{step.counting}() OVER ({over.strip()}) AS place"
    if not select.is_plain:
        select = replace(_Select([], f"({select}) s"), columns=select.columns)
    names = [column.rpartition(".")[2] for column in select.columns]
    numbered = replace(select, columns=[*select.columns, place])
    return _Select(names, f"({numbered}) s", [f"(place <= {text.text(step.limit)})"])


def _shortened(whole: str) -> str:
    return whole if len(whole) <= MOST_CHARACTERS else f"{whole[:MOST_CHARACTERS]} …"


def _change(relation: Update | Delete, text: ExpressionText) -> str:
    """An UPDATE or DELETE by a condition."""
    found = _select(relation.source, text)
    where = f" WHERE {' AND '.join(found.where)}" if found.where else ""
    if isinstance(relation, Delete):
        return f"DELETE FROM {found.source}{where}"
    names = {column.number: column.name for column in relation.table.columns}
    assigned = [f"{names[number]} = {text.text(value)}" for number, value in relation.assignments]
    return f"UPDATE {found.source} SET {', '.join(assigned)}{where}"


def _limit(limit: Expr | None, offset: Expr | None, text: ExpressionText) -> str:
    parts = [text.text(part) for part in (limit, offset) if part is not None]
    return f" LIMIT {' + '.join(parts)}" if parts else ""


def _select(relation: Rel, text: ExpressionText) -> _Select:
    columns = [text.names[column.id] for column in relation.columns]
    match relation:
        case TableScan():
            name = relation.table.name
            source = name if relation.alias in ("", name) else f"{name} {relation.alias}"
            terms = (
                [*relation.access.terms, *conjuncts(relation.condition)]
                if relation.condition
                else relation.access.terms
            )
            return _Select(columns, source, list(map(text.text, terms)))
        case AtShards() | Repartitioned() | Exchange():
            return _select(relation.input, text)
        case Project():
            below = _select(relation.input, text)
            return replace(below, columns=list(map(text.text, relation.expressions)))
        case Filter():
            below = _select(relation.input, text)
            terms_text = list(map(text.text, conjuncts(relation.condition)))
            if below.groups is not None:
                return replace(below, having=below.having + terms_text)
            return replace(below, where=below.where + terms_text)
        case HashJoin():
            return _join(relation, columns, text)
        case Aggregate():
            below = _select(relation.input, text)
            groups = list(map(text.text, relation.groups))
            calls = [text.call_text(call.function.name, call.arguments, call.distinct) for call in relation.calls]
            if not below.is_plain:
                below = _Select([], f"({below}) s")
            return replace(below, columns=[*groups, *calls], groups=groups)
        case Distinct():
            return replace(_select(relation.input, text), distinct=True)
    return _Select(columns, "(…) s")


def _join(join: HashJoin, columns: list[str], text: ExpressionText) -> _Select:
    left, right = _select(join.left, text), _select(join.right, text)
    terms = [*map(text.text, join.condition), *([text.text(join.residual)] if join.residual is not None else [])]
    if not left.is_plain:
        left = _Select(left.columns, f"({left}) s")
    if join.kind in ("semi", "anti"):
        word = "NOT EXISTS" if join.kind == "anti" else "EXISTS"
        inner = _Select(["1"], right.source if right.is_plain else f"({right}) s", [*right.where, *terms])
        return _Select(columns, left.source, [*left.where, f"{word} ({inner})"])
    if not right.is_plain or (right.where and join.kind != "inner"):
        right = _Select(right.columns, f"({right}) s")
    if left.where and join.kind == "full":
        left = _Select(left.columns, f"({left}) s")
    word = {"inner": "JOIN", "left": "LEFT JOIN", "full": "FULL JOIN"}[join.kind]
    other = f"({right.source})" if " JOIN " in right.source and not right.source.startswith("(") else right.source
    source = f"{left.source} {word} {other} ON {' AND '.join(terms) or 'true'}"
    return _Select(columns, source, [*left.where, *right.where])


# ------------------------------------------------------------------------------------------------ aggregates

_SAME = frozenset({"sum", "min", "max", "bool_and", "bool_or", "every", "bit_and", "bit_or", "bit_xor"})


def _states(calls: Sequence[AggregateCall]) -> list[list[str]]:
    """The names of what each call's state is made of; of several that would be called alike, the later ones are numbered."""
    seen: dict[str, int] = {}
    names: list[list[str]] = []
    for call in calls:
        parts = ["sum", "count"] if call.function.name == "avg" else [call.function.name]
        names.append([])
        for part in parts:
            seen[part] = number = seen.get(part, 0) + 1
            names[-1].append(f"partial_{part}" if number == 1 else f"partial_{part}_{number}")
    return names


def _partials(calls: Sequence[AggregateCall], text: ExpressionText) -> list[str]:
    """What a shard computes for calls, as output columns."""
    columns: list[str] = []
    for call, names in zip(calls, _states(calls), strict=True):
        name = call.function.name
        shown = text.list(call.arguments)
        where = "" if call.filter is None else f" FILTER (WHERE {text.text(call.filter)})"
        if name == "count":
            columns.append(f"count({shown or '*'}){where} AS {names[0]}")
        elif name == "avg":
            columns += [f"sum({shown}){where} AS {names[0]}", f"count({shown}){where} AS {names[1]}"]
        else:
            columns.append(f"{name if name in _SAME else f'{name}_state'}({shown}){where} AS {names[0]}")
    return columns


def final_functions(calls: Sequence[AggregateCall]) -> list[str]:
    """How the gateway makes the values of calls from the shards' states."""
    functions: list[str] = []
    for call, names in zip(calls, _states(calls), strict=True):
        name = call.function.name
        if name == "count":
            functions.append(f"sum({names[0]})")
        elif name == "avg":
            functions.append(f"sum({names[0]}) / sum({names[1]})")
        elif name in _SAME:
            functions.append(f"{name}({names[0]})")
        else:
            functions.append(f"{name}(combined {names[0]})")
    return functions
