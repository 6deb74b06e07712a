"""AS OF SYSTEM TIME: a read as of a time in the past, which Postgres's grammar does not know.

The clause stands behind the FROM list of a statement's outermost SELECT (or at its end), or behind BEGIN and SET TRANSACTION.
It is read from the scanner's tokens and blanked out with spaces, as SHARD BY is (sharding.py); a transaction becomes READ
ONLY::

    select * from t as of system time '-10s' where a = 1
    select * from t as of system time follower_read_timestamp()
    select * from t as of system time with_max_staleness('10s')
    begin as of system time '2026-11-22 08:00:00+00'

>>> lift_as_of("select a from t as of system time '-10s'")
("select a from t                          ", [(16, AsOf(text='-10s', kind='exact'))])
"""

from __future__ import annotations

from typing import Any, NoReturn

from pglast import parser

from pydistdb.sql.consistency import AsOf
from pydistdb.sql.errors import InvalidSyntax

_OPEN, _CLOSE, _COMMENTS = "ASCII_40", "ASCII_41", ("SQL_COMMENT", "C_COMMENT")
_CLAUSE = ("as", "of", "system", "time")
_FUNCTIONS = {"follower_read_timestamp": "follower", "with_max_staleness": "staleness"}


def lift_as_of(text: str) -> tuple[str, list[tuple[int, AsOf]]]:
    """Return the text with its clauses blanked, and each clause with the offset where it stood."""
    try:
        tokens = [token for token in parser.scan(text) if token.name not in _COMMENTS]
    except parser.ParseError:
        return text, []  # the parser proper will say what is wrong
    words = [text[token.start : token.end + 1].lower() for token in tokens]
    found: list[tuple[int, AsOf]] = []
    plain = text
    depth = index = 0
    while index < len(tokens):
        depth += (tokens[index].name == _OPEN) - (tokens[index].name == _CLOSE)
        if depth or tuple(words[index : index + 4]) != _CLAUSE:
            index += 1
            continue
        time, after = _read_time(text, tokens, words, index + 4)
        start, end = tokens[index].start, tokens[after - 1].end + 1
        plain = plain[:start] + _substitute(words, index).ljust(end - start) + plain[end:]
        found.append((start, time))
        index = after
    return plain, found


def _substitute(words: list[str], index: int) -> str:
    """What a transaction that reads in the past is besides; nothing in a query."""
    first = len(words[:index]) - words[:index][::-1].index(";") if ";" in words[:index] else 0
    return "read only" if words[first] in ("begin", "start", "set") else ""


def _read_time(text: str, tokens: list[Any], words: list[str], index: int) -> tuple[AsOf, int]:
    """The time behind the clause's words, and the index behind it."""
    if index >= len(tokens):
        _fail(text, tokens, index)
    word = words[index]
    function = _FUNCTIONS.get(word)
    if function is not None:
        arguments = 1 if function == "staleness" else 0
        if words[index + 1 : index + 2] != ["("] or words[index + 2 + arguments : index + 3 + arguments] != [")"]:
            _fail(text, tokens, index + 1)
        argument = _string(words, text, tokens, index + 2) if arguments else ""
        return AsOf(argument, function), index + 3 + arguments
    if tokens[index].name in ("FCONST", "ICONST"):
        return AsOf(word), index + 1
    return AsOf(_string(words, text, tokens, index)), index + 1


def _string(words: list[str], text: str, tokens: list[Any], index: int) -> str:
    if index >= len(tokens) or tokens[index].name != "SCONST" or not words[index].startswith("'"):
        _fail(text, tokens, index)
    token = tokens[index]
    return text[token.start + 1 : token.end].replace("''", "'")


def _fail(text: str, tokens: list[Any], index: int) -> NoReturn:
    if index >= len(tokens):
        raise InvalidSyntax("syntax error at end of input", position=len(text) + 1)
    token = tokens[index]
    raise InvalidSyntax(f'syntax error at or near "{text[token.start : token.end + 1]}"', position=token.start + 1)
