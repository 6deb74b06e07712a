"""A stored query goes on returning the columns it had: every star in it is spelt out, wherever it stands.

    SELECT *, a + 1 AS y FROM t                    ->  SELECT a, b, a + 1 AS y FROM t
    SELECT x.*, u.k FROM t x JOIN u USING (a)      ->  SELECT x.a, x.b, u.k FROM t x JOIN u USING (a)
    SELECT (q.r).* FROM q                          ->  SELECT (q.r).a, (q.r).b FROM q

The query is bound under observation: the binder notes where a select list has a star and which columns it stood for
(``Binder.stars``), and the words are put there.  Column names get their relation's only where there are several.

Source: PostgreSQL 15 manual, CREATE VIEW (stars are expanded when the view is made); parse_target.c (ExpandColumnRefStar).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql.bind.binder import Binder, Parameters, StarMention
from pydistdb.sql.bind.cutting import Tokens
from pydistdb.sql.bind.parse import parse
from pydistdb.sql.bind.query import bind_statement_query
from pydistdb.sql.catalog.dependencies import quoted
from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.types.base import EvalContext


def without_stars(text: str, catalog: CatalogView, context: EvalContext) -> str:
    """The query with the columns' names for its stars."""
    [parsed] = parse(text)
    b = Binder(parsed, catalog, context, Parameters(()))
    b.stars = {}
    bind_statement_query(b, None, parsed.node)
    if not b.stars:
        return text
    tokens = Tokens(text)
    pieces: list[str] = []
    position = 0
    for location, star in sorted(b.stars.items()):
        place = parsed.position_at(location)
        if place is None or not star.columns:
            continue
        first = tokens.index_at(place - 1 - parsed.position)
        last = _star_token(tokens, first, star)
        row = tokens.between(first, last - 1) if star.is_row else ""
        pieces += [text[position : tokens.starts[first]], _spelt_out(star, row)]
        position = tokens.ends[last]
    return "".join(pieces) + text[position:]


def _star_token(tokens: Tokens, first: int, star: StarMention) -> int:
    if not star.is_row:
        return first + 2 * (star.parts - 1)
    last = tokens.find("ASCII_42", first + 1, tokens.depths[first])
    while tokens.names[last - 1] != "ASCII_46":
        last = tokens.find("ASCII_42", last + 1, tokens.depths[first])
    return last


def _spelt_out(star: StarMention, row: str) -> str:
    if star.is_row:
        return ", ".join(f"{row}.{quoted(name)}" for _, name in star.columns)
    qualify = star.parts > 1 or _several(star.columns)
    return ", ".join(
        f"{quoted(relation)}.{quoted(name)}" if qualify and relation else quoted(name)
        for relation, name in star.columns
    )


def _several(columns: Sequence[tuple[str, str]]) -> bool:
    return len({relation for relation, _ in columns}) > 1
