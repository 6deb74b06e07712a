"""Renaming a column in stored expression text: identifiers are found by the scanner, never inside strings or comments.

>>> rename_in_expression("price > 0 and price(name) = 'price'", "price", "cost")
'cost > 0 and price(name) = \\'price\\''
"""

from __future__ import annotations

from pydistdb.sql.bind.cutting import Tokens
from pydistdb.sql.catalog.dependencies import quoted


def rename_in_expression(text: str, old: str, new: str) -> str:
    """The expression with references to column ``old`` made to ``new``."""
    tokens = Tokens(text)
    pieces: list[str] = []
    position = 0
    for index, (start, end) in enumerate(zip(tokens.starts, tokens.ends, strict=True)):
        written = text[start:end]
        name = written[1:-1].replace('""', '"') if written.startswith('"') else written.lower()
        if name != old or tokens.names[index] in ("SCONST", "USCONST"):
            continue
        following = tokens.names[index + 1] if index + 1 < len(tokens.names) else ""
        if following in ("ASCII_40", "ASCII_46"):  # a function call, or the qualifier of something else
            continue
        if index and tokens.names[index - 1] == "TYPECAST":
            continue
        pieces += [text[position:start], quoted(new)]
        position = end
    pieces.append(text[position:])
    return "".join(pieces)
