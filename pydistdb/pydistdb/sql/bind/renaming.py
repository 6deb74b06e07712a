"""A stored query after a relation or column that it names has got another name: the same query, in the new words.

The query is bound once more under observation: the binder notes where in the text it found which relation and which column
(``Mention``), and the words there are exchanged.  What a query calls its own columns stays, so nothing around notices::

    t(a) becomes t(aa)      SELECT a, max(x.b) FROM t x GROUP BY a       ->  SELECT aa AS a, max(x.b) FROM t x GROUP BY aa
    t becomes u             SELECT t.a FROM s.t JOIN v USING (k)         ->  SELECT u.a FROM s.u JOIN v USING (k)

Whether the result means the same is judged by ``same_query``: both are bound, the one under the old names, the other under
the new ones, and must be the same tree but for names.  Where they are not (a column of JOIN … USING, a star within a
subquery) the relation gets an alias with the old names of its columns, as Postgres shows such views::

    t(a) becomes t(aa)      SELECT a FROM t JOIN v USING (a)             ->  SELECT a FROM t AS t(a) JOIN v USING (a)

Source: PostgreSQL 15 manual, ALTER TABLE … RENAME (views follow, since they hold trees there).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from pydistdb.sql.catalog.qualify import is_cast
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
    old_name: str = ""
    """Of the column."""


def bound_with_mentions(
    text: str, catalog: CatalogView, context: EvalContext
) -> tuple[Rel, list[Mention], ParsedStatement]:
    """A query's tree, and what its text mentions where."""
    [parsed] = parse(text)
    b = Binder(parsed, catalog, context, Parameters(()))
    b.mentions = []
    return bind_statement_query(b, None, parsed.node), b.mentions, parsed


class TypeWords(NamedTuple):
    """A type that is renamed or moved: where it was, and where it is from now on."""

    old_schema: str
    old_name: str
    schema: str
    name: str


class NewWords(NamedTuple):
    """What to exchange in a text."""

    relations: Mapping[int, Renaming]
    """By oid."""
    schema: tuple[str, str] | None = None
    """A schema that is renamed, with its new name: for functions and types, whose mentions are not noted."""
    type: TypeWords | None = None
    old_columns: Sequence[str] = ()
    """Leave all words as they are, and give the relation these names of columns: FROM t AS t(a, b)."""


def renamed_query(text: str, catalog: CatalogView, context: EvalContext, words: NewWords) -> str:
    """The query in the new words; ``catalog`` has the old ones."""
    _, mentions, parsed = bound_with_mentions(text, catalog, context)
    return _exchanged(parsed, mentions, words)


def renamed_body(function: RoutineFunction, catalog: CatalogView, context: EvalContext, words: NewWords) -> str:
    """The same for the body of a function, of the standard's forms."""
    bound = bound_body(function, catalog, context)
    texts = [_exchanged(parsed, mentions, words) for parsed, _, mentions in bound]
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


def _exchanged(parsed: ParsedStatement, mentions: Sequence[Mention], words: NewWords) -> str:
    text = parsed.text
    tokens = Tokens(text)
    labels, field_labels = (set(_unlabelled(parsed.node, kind)) for kind in ("ColumnRef", "A_Indirection"))
    with_alias = set(_with_alias(parsed.node))
    changes = _name_changes(tokens, words)
    for mention in mentions:
        renaming = words.relations.get(mention.oid)
        if renaming is None or mention.location < 0:
            continue
        place = parsed.position_at(mention.location)
        assert place is not None
        first = tokens.index_at(place - 1 - parsed.position)
        name = first + 2 * (mention.parts - 1)  # the last of the words, with a dot between any two
        if words.old_columns:
            _name_columns(tokens, mention, mention.location in with_alias, first, name, words.old_columns, changes)
            continue
        if renaming.number:
            field = _field_behind(tokens, name) if mention.kind == "row" else None
            if field is not None and _identifier(tokens, field) == renaming.old_name:
                label = f" AS {quoted(renaming.old_name)}" if mention.location in field_labels else ""
                changes[tokens.starts[field]] = (tokens.ends[field], quoted(renaming.name) + label)
            if mention.kind == "column" and mention.number == renaming.number:
                label = f" AS {text[tokens.starts[name] : tokens.ends[name]]}" if mention.location in labels else ""
                changes[tokens.starts[name]] = (tokens.ends[name], quoted(renaming.name) + label)
            continue
        relation = name if mention.kind in ("relation", "row") else name - 2
        if relation < first or (mention.aliased and mention.kind != "relation"):
            continue
        label = ""
        before = text[tokens.starts[name] : tokens.ends[name]]
        if mention.kind == "row" and mention.location in labels and before != quoted(renaming.name):
            label = f" AS {before}"
        word = quoted(renaming.name) + label
        if renaming.moved and mention.kind == "relation" and relation == first:
            word = f"{quoted(renaming.schema)}.{word}"
        changes[tokens.starts[relation]] = (tokens.ends[relation], word)
        if relation > first:
            changes[tokens.starts[relation - 2]] = (tokens.ends[relation - 2], quoted(renaming.schema))
    return _replaced(text, changes)


def _name_columns(
    tokens: Tokens,
    mention: Mention,
    has_alias: bool,
    first: int,
    name: int,
    columns: Sequence[str],
    changes: dict[int, tuple[int, str]],
) -> None:
    """An alias with the old names of the columns; behind it, the relation cannot be called by its schema."""
    if mention.kind != "relation":
        if mention.kind == "column" and mention.parts > 2 and not mention.aliased:
            changes[tokens.starts[first]] = (tokens.starts[name - 2], "")
        return
    listed = f"({', '.join(map(quoted, columns))})"
    last, names = name, [*tokens.names, "", "", ""]
    if has_alias:
        last += 2 if names[name + 1] == "AS" else 1
        if names[last + 1] == "ASCII_40":
            return
    else:
        listed = f" AS {tokens.text[tokens.starts[name] : tokens.ends[name]]}{listed}"
    changes[tokens.ends[last]] = (tokens.ends[last], listed)


def _replaced(text: str, changes: Mapping[int, tuple[int, str]]) -> str:
    pieces: list[str] = []
    position = 0
    for start, (end, word) in sorted(changes.items()):
        pieces += [text[position:start], word]
        position = end
    return "".join(pieces) + text[position:]


def _schema_words(tokens: Tokens, old: str, new: str) -> Iterator[tuple[int, tuple[int, str]]]:
    """Where the schema stands before the name of a function or type: ``s.f(``, ``::s.t``, ``AS s.t)``, ``s.t 'x'``."""
    names = [*tokens.names, "", "", ""]
    for index, (start, end) in enumerate(zip(tokens.starts, tokens.ends, strict=True)):
        if names[index + 1] != "ASCII_46" or (index and names[index - 1] == "ASCII_46"):
            continue
        is_named = names[index + 3] in ("ASCII_40", "SCONST") or (index and names[index - 1] in ("TYPECAST", "AS"))
        if is_named and _identifier(tokens, index) == old:
            yield start, (end, quoted(new))


def _type_words(tokens: Tokens, words: TypeWords) -> Iterator[tuple[int, tuple[int, str]]]:
    """Where the type is named: ``::t``, ``CAST(x AS s.t)``, ``t 'x'``."""
    names = ["", "", "", *tokens.names, ""]
    full = f"{quoted(words.schema)}.{quoted(words.name)}"
    for index in range(len(tokens.names)):
        at = index + 3  # in names
        if _identifier(tokens, index) != words.old_name:
            continue
        first = index
        if names[at - 1] == "ASCII_46":
            if names[at - 3] == "ASCII_46" or _identifier(tokens, index - 2) != words.old_schema:
                continue
            first = index - 2
        before = names[first + 2]
        if before == "TYPECAST" or names[at + 1] == "SCONST" or (before == "AS" and is_cast(tokens, first - 1)):
            yield tokens.starts[first], (tokens.ends[index], full)


def _name_changes(tokens: Tokens, words: NewWords) -> dict[int, tuple[int, str]]:
    changes = {} if words.schema is None else dict(_schema_words(tokens, *words.schema))
    if words.type is not None:
        changes |= _type_words(tokens, words.type)
    return changes


def with_new_names(text: str, words: NewWords) -> str:
    """A stored expression that names functions and types by a schema, or a type, of another name from now on."""
    return _replaced(text, _name_changes(Tokens(text), words))


def _identifier(tokens: Tokens, index: int) -> str:
    written = tokens.text[tokens.starts[index] : tokens.ends[index]]
    return written[1:-1].replace('""', '"') if written.startswith('"') else written.lower()


def _field_behind(tokens: Tokens, name: int) -> int | None:
    """Where the field stands in ``(t).field``, after the name of the row."""
    following = [*tokens.names[name + 1 : name + 4], "", "", ""]
    return name + 3 if following[:2] == ["ASCII_41", "ASCII_46"] and following[2] else None


def _unlabelled(node: Any, kind: str) -> Iterator[int]:
    """Where column references (or, with A_Indirection, rows before a field) stand that give output columns their names."""
    if isinstance(node, list | tuple):
        for item in node:
            yield from _unlabelled(item, kind)
    elif isinstance(node, dict):
        for target in node.get("targetList", ()):
            found: Node = target.get("ResTarget", {})
            value = found.get("val", {})
            if "name" not in found and kind in value:
                inner = value[kind].get("arg", {}) if kind == "A_Indirection" else value
                yield inner.get("ColumnRef", {}).get("location", -1)
        for value in node.values():
            yield from _unlabelled(value, kind)


def _with_alias(node: Any) -> Iterator[int]:
    """Where relations stand in FROM that have an alias."""
    if isinstance(node, list | tuple):
        for item in node:
            yield from _with_alias(item)
    elif isinstance(node, dict):
        relation = node.get("RangeVar")
        if relation is not None and "alias" in relation:
            yield relation.get("location", -1)
        for value in node.values():
            yield from _with_alias(value)


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
