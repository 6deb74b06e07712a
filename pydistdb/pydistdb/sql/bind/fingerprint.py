"""A statement's text with every constant replaced: what statements that differ only in values have in common.

    SELECT name FROM users WHERE id IN (1, 2)  -- me     →     SELECT name FROM users WHERE id IN ($1, $2)  -- me

Other than ``normalize`` this is for people and statistics, so all constants go, and nothing needs to be run from it.
Source: PostgreSQL 15, pg_stat_statements.c (generate_normalized_query); libpg_query does the same.
"""

from __future__ import annotations

import re

import xxhash
from pglast import parser

MOST_TEXT = 20_000
"""Longer texts are hardly anything but values (bulk inserts): what stands before the first of them must do."""
_BEFORE_VALUES = re.compile(r"[^'\d$]{0,1000}")

_COMMENTS = ("SQL_COMMENT", "C_COMMENT")


def without_constants(text: str) -> str:
    """The statement for people to read; where it cannot be parsed, as far as its first constant."""
    if len(text) <= MOST_TEXT:
        try:
            return parser.normalize(text).strip().rstrip(";").rstrip()
        except parser.ParseError:
            pass
    found = _BEFORE_VALUES.match(text)
    return (found.group() if found else "").strip() + " …"


def _word(text: str, token: parser.Token) -> str:
    word = text[token.start : token.end + 1]
    return word.lower() if word.isidentifier() else word  # what is in quotes is not


def query_id(text: str) -> int:
    """What stands for a normalised text, however it is spaced, capitalised and commented: 64 bits with a sign, never 0, the
    same on every node."""
    try:
        words = [_word(text, token) for token in parser.scan(text) if token.name not in _COMMENTS]
    except parser.ParseError:
        words = text.split()
    number = xxhash.xxh3_64_intdigest(" ".join(words).encode())
    return (number - (1 << 64) if number >= 1 << 63 else number) or 1
