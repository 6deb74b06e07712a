"""SHARD BY HASH: the one clause of ours that Postgres's grammar does not know.

``CREATE TABLE t (…) SHARD BY HASH (columns) [SHARDS n] [COLOCATE WITH table]`` is read from the scanner's tokens (so
comments, quoting and strings that merely look like it are no trouble) and then blanked out with spaces: what is left is
Postgres's grammar, and every error position still refers to the text that the user wrote.

>>> lift_shard_clauses("create table t (a int) shard by hash (a) shards 4")[0]
'create table t (a int)                           '
"""

from __future__ import annotations

from typing import Any, NoReturn

from pglast import parser

from pydistdb.sql.errors import InvalidSyntax
from pydistdb.sql.schema_statements import ShardBy
from pydistdb.sql.statements import Name

MOST_SHARDS = 65536
"""hash16 has no more values."""

_OPEN, _CLOSE, _COMMA, _DOT, _SEMICOLON = "ASCII_40", "ASCII_41", "ASCII_44", "ASCII_46", "ASCII_59"


def lift_shard_clauses(text: str) -> tuple[str, list[tuple[int, ShardBy]]]:
    """Return the text with its SHARD BY clauses blanked, and each clause with the offset where it stood."""
    try:
        tokens = [token for token in parser.scan(text) if token.name not in ("SQL_COMMENT", "C_COMMENT")]
    except parser.ParseError:
        return text, []  # the parser proper will say what is wrong
    found: list[tuple[int, ShardBy]] = []
    plain = text
    index = 0
    in_create_table = False
    depth = 0
    while index < len(tokens):
        name = tokens[index].name
        if index == 0 or tokens[index - 1].name == _SEMICOLON:
            in_create_table = name == "CREATE" and any(token.name == "TABLE" for token in tokens[index + 1 : index + 4])
            depth = 0
        depth += (name == _OPEN) - (name == _CLOSE)
        if in_create_table and not depth and _starts_clause(text, tokens, index):
            reader = _Reader(text, tokens, index)
            clause = reader.clause()
            start, end = tokens[index].start, tokens[reader.index - 1].end + 1
            plain = plain[:start] + " " * (end - start) + plain[end:]
            found.append((start, clause))
            index = reader.index
            continue
        index += 1
    return plain, found


def _starts_clause(text: str, tokens: list[Any], index: int) -> bool:
    followed = index + 1 < len(tokens) and tokens[index + 1].name == "BY"
    return followed and tokens[index].name == "IDENT" and _word(text, tokens[index]) == "shard"


def _word(text: str, token: Any) -> str:
    """Read an identifier as the grammar does: folded to lower case unless quoted."""
    word = text[token.start : token.end + 1]
    if word.startswith('"'):
        return word[1:-1].replace('""', '"')
    return word.lower()


class _Reader:
    """A recursive-descent reader for one clause."""

    def __init__(self, text: str, tokens: list[Any], index: int) -> None:
        self.text = text
        self.tokens = tokens
        self.index = index

    def clause(self) -> ShardBy:
        self.expect("shard")
        self.expect("by")
        self.expect("hash")
        self.expect("(")
        columns = [self.identifier()]
        while self.accept(","):
            columns.append(self.identifier())
        self.expect(")")
        shards: int | None = None
        colocate_with: Name | None = None
        while True:
            if shards is None and self.accept("shards"):
                shards = self.number()
            elif colocate_with is None and self.accept("colocate"):
                self.expect("with")
                colocate_with = self.name()
            else:
                return ShardBy(tuple(columns), shards, colocate_with)

    def current(self) -> str | None:
        if self.index >= len(self.tokens):
            return None
        token = self.tokens[self.index]
        return self.text[token.start : token.end + 1]

    def accept(self, word: str) -> bool:
        current = self.current()
        if current is None or current.lower() != word:
            return False
        self.index += 1
        return True

    def expect(self, word: str) -> None:
        if not self.accept(word):
            self.fail()

    def identifier(self) -> str:
        if self.index < len(self.tokens):
            token = self.tokens[self.index]
            if token.name == "IDENT" or token.kind in ("UNRESERVED_KEYWORD", "COL_NAME_KEYWORD"):
                self.index += 1
                return _word(self.text, token)
        self.fail()

    def name(self) -> Name:
        position = self.tokens[self.index].start + 1 if self.index < len(self.tokens) else None
        first = self.identifier()
        if self.accept("."):
            return Name(self.identifier(), first, position=position)
        return Name(first, position=position)

    def number(self) -> int:
        current = self.current()
        if current is None or not current.isdigit():
            self.fail()
        if not 1 <= int(current) <= MOST_SHARDS:
            raise InvalidSyntax(
                f"number of shards must be between 1 and {MOST_SHARDS}",
                position=self.tokens[self.index].start + 1,
            )
        self.index += 1
        return int(current)

    def fail(self) -> NoReturn:
        current = self.current()
        if current is None or current == ";":
            raise InvalidSyntax(
                "syntax error at end of input" if current is None else 'syntax error at or near ";"',
                position=len(self.text) + 1 if current is None else self.tokens[self.index].start + 1,
            )
        raise InvalidSyntax(f'syntax error at or near "{current}"', position=self.tokens[self.index].start + 1)
