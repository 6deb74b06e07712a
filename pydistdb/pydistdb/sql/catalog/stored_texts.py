"""Stored texts follow what is called otherwise from now on, wherever that can be found by binding them.

Conditions, defaults, generated columns, index expressions, domains and views are kept as SQL text.  Whoever renames what such
a text may name (a function, an enum's label, an attribute of a row) puts the change first and calls ``follow``: every text
that holds the word and does not bind any more gets the first of its variants that does; if none does, the renaming is refused::

    check (f(a) > 0)      f is renamed to g         check (g(a) > 0)
    check (e <> 'b')      'b' is renamed to 'c'     check (e <> 'c')

Source: PostgreSQL 15 manual, 5.14 (there, stored expressions are trees, which names do not touch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations

from msgspec.structs import replace

from pydistdb.sql import bind
from pydistdb.sql.bind.cutting import Tokens
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.dependencies import described, quoted
from pydistdb.sql.catalog.descriptors import Index, Table
from pydistdb.sql.catalog.queries import bind_query
from pydistdb.sql.catalog.type_names import put_type
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported
from pydistdb.sql.types import registry
from pydistdb.sql.types.user import UserType

MOST_PLACES = 8
"""In so many places of one text the word is looked for."""

Variants = Callable[[str], Iterable[str]]


async def follow(ddl: DdlContext, word: str, variants: Variants, what: str) -> None:
    """Have the stored texts follow; ``what``: what is done, for the message if one cannot."""
    for table in list(ddl.view.tables()):
        if table.kind in "vm":
            if word in table.definition:
                await _follow_view(ddl, table, variants, what)
        else:
            changed = _followed_table(ddl, table, word, variants, what)
            if changed != table:
                await ddl.ddl.lock_tables([table.oid])
                ddl.put_table(replace(changed, version=table.version + 1))
    for entry in list(ddl.view.state.types.values()):
        if entry.definition.kind == "d":
            domain = _followed_domain(ddl, entry.definition, word, variants, what)
            if domain != entry.definition:
                put_type(ddl, domain)


async def _follow_view(ddl: DdlContext, view: Table, variants: Variants, what: str) -> None:
    def binds(text: str) -> bool:
        columns = bind_query(ddl, text, ddl.view.unrestricted()).columns
        return [c.type.oid for c in columns] == [c.type_oid for c in view.columns]

    text = _followed(view.definition, variants, binds, f"{what} while {described(ddl, view)} uses it")
    if text != view.definition:
        await ddl.ddl.lock_tables([view.oid])
        ddl.put_table(replace(view, definition=text, version=view.version + 1))


def _followed_table(ddl: DdlContext, table: Table, word: str, variants: Variants, what: str) -> Table:
    where = described(ddl, table)

    def follows(text: str, name: str) -> str:
        def binds(candidate: str) -> bool:
            bind.bind_expression(candidate, table, ddl.view, ddl.context)
            return True

        return _followed(text, variants, binds, f"{what} while {name} uses it") if word in text else text

    def index(each: Index) -> Index:
        name = f"index {each.name}"
        columns = tuple(replace(part, expression=follows(part.expression, name)) for part in each.columns)
        return replace(each, columns=columns, predicate=follows(each.predicate, name))

    return replace(
        table,
        checks=tuple(
            replace(each, expression=follows(each.expression, f"constraint {each.name} on {where}"))
            for each in table.checks
        ),
        columns=tuple(
            each
            if each.default is None or each.dropped
            else replace(each, default=follows(each.default, f"column {each.name} of {where}"))
            for each in table.columns
        ),
        indexes=tuple(each if each.is_plain else index(each) for each in table.indexes),
    )


def _followed_domain(ddl: DdlContext, domain: UserType, word: str, variants: Variants, what: str) -> UserType:
    base = registry.type_by_oid(domain.base_oid)

    def follows(text: str, name: str) -> str:
        def binds(candidate: str) -> bool:
            bind.bind_domain_check(candidate, base, ddl.view, ddl.context)
            return True

        return _followed(text, variants, binds, f"{what} while {name} uses it") if word in text else text

    checks = tuple(
        replace(each, expression=follows(each.expression, f"constraint {each.name}")) for each in domain.checks
    )
    return replace(domain, checks=checks)


def _followed(text: str, variants: Variants, binds: Callable[[str], bool], refusal: str) -> str:
    for candidate in (text, *variants(text)):
        try:
            if binds(candidate):
                return candidate
        except DatabaseError:
            continue
    raise FeatureNotSupported(f"cannot {refusal}")


# ---------------------------------------------------------------------------------------------------- variants


def _exchanged(text: str, places: list[tuple[int, int]], word: str) -> Iterator[str]:
    """The text with the word in some of the places: as few as possible."""
    places = places[:MOST_PLACES]
    for count in range(1, len(places) + 1):
        for chosen in combinations(places, count):
            pieces, position = [], 0
            for start, end in chosen:
                pieces += [text[position:start], word]
                position = end
            yield "".join(pieces) + text[position:]


def _plain(word: str) -> str:
    return word[1:-1].replace('""', '"') if word.startswith('"') else word.lower()


def calls_renamed(schema: str, name: str, new_schema: str, new_name: str) -> Variants:
    """``schema.name(…)`` and ``name(…)`` under the new name; all places first."""

    def variants(text: str) -> Iterator[str]:
        tokens = Tokens(text)
        words = [_plain(text[start:end]) for start, end in zip(tokens.starts, tokens.ends, strict=True)]
        places = []
        for index, word in enumerate(words[:-1]):
            if word != name or tokens.names[index + 1] != "ASCII_40":
                continue
            qualified = index > 1 and tokens.names[index - 1] == "ASCII_46"
            if qualified and words[index - 2] != schema:
                continue
            places.append((tokens.starts[index - 2 if qualified else index], tokens.ends[index]))
        full = f"{quoted(new_schema)}.{quoted(new_name)}"
        return _exchanged(text, places, full)

    return variants


def label_renamed(label: str, new_label: str) -> Variants:
    """``'label'`` under the new name."""
    written, new = (f"'{each.replace(chr(39), chr(39) * 2)}'" for each in (label, new_label))

    def variants(text: str) -> Iterator[str]:
        tokens = Tokens(text)
        spans = zip(tokens.starts, tokens.ends, strict=True)
        return _exchanged(text, [(start, end) for start, end in spans if text[start:end] == written], new)

    return variants


def field_renamed(name: str, new_name: str) -> Variants:
    """``(row).name`` under the new name."""

    def variants(text: str) -> Iterator[str]:
        tokens = Tokens(text)
        places = [
            (tokens.starts[index], tokens.ends[index])
            for index in range(2, len(tokens.names))
            if tokens.names[index - 1] == "ASCII_46"
            and tokens.names[index - 2] in ("ASCII_41", "ASCII_93", "IDENT")
            and _plain(text[tokens.starts[index] : tokens.ends[index]]) == name
        ]
        return _exchanged(text, places, quoted(new_name))

    return variants
