"""Stored expressions name users' functions and types with their schemas, so that no search_path changes their meaning.

    DEFAULT twice(2)             ->  app.twice(2)
    CHECK (m > 'sad'::mood)      ->  m > 'sad'::app.mood

It works on the scanner's tokens: a name before ``(`` that is a user's function, a name behind ``::`` or CAST's AS that is a
user's type.  What is built in, or qualified already, stays as it was written.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydistdb.sql.bind.cutting import Tokens
from pydistdb.sql.catalog.dependencies import quoted
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.functions import registry as functions

_NOT_NAMES = frozenset({"ICONST", "FCONST", "SCONST", "PARAM", "Op"})


def qualified_text(view: StateView, text: str) -> str:
    """The expression (or query) with its users' functions and types named in full."""
    if not view.state.routines_by_name and not view.state.types_by_name:
        return str(text)
    pieces: list[str] = []
    position = 0
    for start, end, schema in _changes(view, Tokens(text)):
        pieces += [text[position:start], f"{quoted(schema)}.", text[start:end]]
        position = end
    pieces.append(text[position:])
    return "".join(pieces)


def _changes(view: StateView, tokens: Tokens) -> Iterator[tuple[int, int, str]]:
    """Where a schema belongs before a name: start and end of the name, and the schema."""
    names = tokens.names
    for index, (start, end) in enumerate(zip(tokens.starts, tokens.ends, strict=True)):
        before = names[index - 1] if index else ""
        after = names[index + 1] if index + 1 < len(names) else ""
        written = tokens.text[start:end]
        if names[index] in _NOT_NAMES or before == "ASCII_46" or not (written[0].isalpha() or written[0] in '"_'):
            continue
        name = written[1:-1].replace('""', '"') if written.startswith('"') else written.lower()
        is_type = before == "TYPECAST" or (before == "AS" and is_cast(tokens, index - 1))
        if is_type and after != "ASCII_46":
            schema = _schema_of_type(view, name)
        elif after == "ASCII_40":
            schema = _schema_of_function(view, name)
        else:
            continue
        if schema is not None:
            yield start, end, schema


def is_cast(tokens: Tokens, at: int) -> bool:
    """Whether the AS at this token is that of CAST(… AS …), not one before an alias."""
    depth = tokens.depths[at]
    opening = at
    while opening > 0 and not (tokens.names[opening] == "ASCII_40" and tokens.depths[opening] == depth - 1):
        opening -= 1
    return opening > 0 and tokens.names[opening - 1] in ("CAST", "TREAT")


def _schema_of_type(view: StateView, name: str) -> str | None:
    found = view.type_named(name)
    definition = None if found is None else view.type_definition(found.oid)
    schema = None if definition is None else view.schema_by_oid(definition.schema)
    return None if schema is None else schema.name


def _schema_of_function(view: StateView, name: str) -> str | None:
    if functions.functions(name):
        return None  # which one is meant depends on the arguments
    found = view.routines(name)
    return found[0].schema if found else None
