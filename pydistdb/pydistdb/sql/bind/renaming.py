"""A stored query after a relation or column that it names has got another name: the same query, in the new words.

The query is bound once more under observation: the binder notes where in the text it found which relation and which column
(``Mention``), and the words there are exchanged.  What a query calls its own columns stays, so nothing around notices::

    t(a) becomes t(aa)      SELECT a, max(x.b) FROM t x GROUP BY a       ->  SELECT aa AS a, max(x.b) FROM t x GROUP BY aa
    t becomes u             SELECT t.a FROM s.t JOIN v USING (k)         ->  SELECT u.a FROM s.u JOIN v USING (k)

Whether the result means the same is judged by ``same_query``: both are bound, the one under the old names, the other under
the new ones, and must be the same tree but for names.  Where they are not (a column of JOIN … USING, a star within a
subquery) there is no such text.

Source: PostgreSQL 15 manual, ALTER TABLE … RENAME (views follow, since they hold trees there).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from pydistdb.sql.bind.binder import Binder, Mention, Parameters, RoutineArguments
from pydistdb.sql.bind.cutting import Tokens
from pydistdb.sql.bind.dispatch import STATEMENT_BINDERS
from pydistdb.sql.bind.parse import Node, ParsedStatement, parse
from pydistdb.sql.bind.query import bind_statement_query
from pydistdb.sql.bind.routines import body_statements
from pydistdb.sql.catalog.dependencies import quoted
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.view import CatalogView, VirtualTable
from pydistdb.sql.routines import RoutineFunction
from pydistdb.sql.tree import Rel
from pydistdb.sql.types.base import AggregateFunction, EvalContext, Function


class Renaming(NamedTuple):
    """What is called otherwise from now on: relation ``oid``, or its column ``number``."""

    oid: int
    number: int
    name: str
    schema: str
    """Of the relation, from now on."""
    moved: bool = False
    """It was another schema before."""


def bound_with_mentions(
    text: str, catalog: CatalogView, context: EvalContext
) -> tuple[Rel, list[Mention], ParsedStatement]:
    """A query's tree, and what its text mentions where."""
    [parsed] = parse(text)
    b = Binder(parsed, catalog, context, Parameters(()))
    b.mentions = []
    return bind_statement_query(b, None, parsed.node), b.mentions, parsed


def renamed_query(text: str, catalog: CatalogView, context: EvalContext, renaming: Renaming) -> str:
    """The query in the new words; ``catalog`` has the old ones."""
    _, mentions, parsed = bound_with_mentions(text, catalog, context)
    return _exchanged(parsed, mentions, renaming)


def renamed_body(function: RoutineFunction, catalog: CatalogView, context: EvalContext, renaming: Renaming) -> str:
    """The same for the body of a function, of the standard's forms."""
    bound = bound_body(function, catalog, context)
    texts = [_exchanged(parsed, mentions, renaming) for parsed, _, mentions in bound]
    if texts == [parsed.text for parsed, _, _ in bound]:
        return function.routine.body
    text = "; ".join(texts)
    return text.removeprefix("SELECT ") if function.routine.form == "return" else text + ";"


def bound_body(
    function: RoutineFunction, catalog: CatalogView, context: EvalContext
) -> list[tuple[ParsedStatement, Rel, list[Mention]]]:
    """The statements of a function, their trees, and what they mention where."""
    found = []
    for parsed in body_statements(function):
        b = Binder(parsed, catalog, context, Parameters([each.oid for each in function.argument_types]))
        b.arguments = RoutineArguments(function.name, function.argument_names)
        b.mentions = []
        found.append((parsed, STATEMENT_BINDERS[parsed.name](b, None, parsed.node), b.mentions))
    return found


def _exchanged(parsed: ParsedStatement, mentions: Sequence[Mention], renaming: Renaming) -> str:
    text = parsed.text
    tokens = Tokens(text)
    labels = set(_unlabelled(parsed.node))
    changes: dict[int, tuple[int, str]] = {}
    for mention in mentions:
        if mention.oid != renaming.oid or mention.location < 0:
            continue
        place = parsed.position_at(mention.location)
        assert place is not None
        first = tokens.index_at(place - 1 - parsed.position)
        name = first + 2 * (mention.parts - 1)  # the last of the words, with a dot between any two
        if renaming.number:
            if mention.kind == "column" and mention.number == renaming.number:
                label = f" AS {text[tokens.starts[name] : tokens.ends[name]]}" if mention.location in labels else ""
                changes[tokens.starts[name]] = (tokens.ends[name], quoted(renaming.name) + label)
            continue
        relation = name if mention.kind in ("relation", "row") else name - 2
        if relation < first or (mention.aliased and mention.kind != "relation"):
            continue
        label = ""
        if mention.kind == "row" and mention.location in labels:
            label = f" AS {text[tokens.starts[name] : tokens.ends[name]]}"
        word = quoted(renaming.name) + label
        if renaming.moved and mention.kind == "relation" and relation == first:
            word = f"{quoted(renaming.schema)}.{word}"
        changes[tokens.starts[relation]] = (tokens.ends[relation], word)
        if relation > first:
            changes[tokens.starts[relation - 2]] = (tokens.ends[relation - 2], quoted(renaming.schema))
    pieces: list[str] = []
    position = 0
    for start, (end, word) in sorted(changes.items()):
        pieces += [text[position:start], word]
        position = end
    return "".join(pieces) + text[position:]


def _unlabelled(node: Any) -> Iterator[int]:
    """Where column references stand that give output columns their names."""
    if isinstance(node, list | tuple):
        for item in node:
            yield from _unlabelled(item)
    elif isinstance(node, dict):
        for target in node.get("targetList", ()):
            found: Node = target.get("ResTarget", {})
            if "name" not in found and "ColumnRef" in found.get("val", {}):
                yield found["val"]["ColumnRef"]["location"]
        for value in node.values():
            yield from _unlabelled(value)


def same_query(one: Any, other: Any) -> bool:
    """Whether two trees are the same but for the names in them."""
    if isinstance(one, Table | VirtualTable | Function | AggregateFunction):
        return type(one) is type(other) and one.oid == other.oid
    if is_dataclass(one):
        return type(one) is type(other) and all(
            same_query(getattr(one, field.name), getattr(other, field.name))
            for field in fields(one)
            if field.name not in ("name", "alias", "names")
        )
    if isinstance(one, list | tuple) and type(one) is type(other):
        return len(one) == len(other) and all(map(same_query, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return same_query(list(one.items()), list(other.items()))
    return bool(one == other)
