"""SHARD BY: the one clause of ours that Postgres's grammar does not know.

It is read from the scanner's tokens (so comments, quoting and strings that merely look like it are no trouble) and then
blanked out: what is left is Postgres's grammar, and every error position still refers to the text that the user wrote::

    clause    SHARD BY HASH (column, …) [SHARDS n] [COLOCATE WITH table]
            | SHARD BY RANGE (column) {[(SPLIT AT VALUES (literal, …))] [COLOCATE IN GROUP name] | COLOCATE WITH table}
            | SHARD BY LIST (column) {[(shard, …)] [COLOCATE IN GROUP name] | COLOCATE WITH table}
            | SHARD BY DIRECTORY (column) [SHARDS n] [(SHARD number VALUES (literal, …), …)]
            | SHARD BY REFERENCE | SHARD BY NONE
    shard     SHARD name {VALUES (literal, …) | DEFAULT} [PLACED IN (place, …)]
    place     {REGION | ZONE | NODE | any other tier} [=] 'value'

It stands behind CREATE TABLE, and alone in ALTER TABLE, where SET LOGGED takes its place for Postgres's grammar.

>>> lift_shard_clauses("create table t (a int) shard by hash (a) shards 4")[0]
'create table t (a int)                           '
"""

from __future__ import annotations

from typing import Any, NoReturn

from pglast import parser

from pydistdb.sql.errors import FeatureNotSupported, InvalidParameterValue, InvalidSyntax
from pydistdb.sql.schema_statements import ShardBy, ShardSpec
from pydistdb.sql.statements import Name

MOST_SHARDS = 65536
"""hash16 has no more values."""
MOST_LITERALS = 10_000
STAND_IN = "SET LOGGED"
"""What ALTER TABLE … SHARD BY becomes for Postgres's grammar; no clause is shorter."""

_OPEN, _CLOSE, _COMMA, _DOT, _SEMICOLON = "ASCII_40", "ASCII_41", "ASCII_44", "ASCII_46", "ASCII_59"


def lift_shard_clauses(text: str) -> tuple[str, list[tuple[int, ShardBy]]]:
    """Return the text with its SHARD BY clauses blanked, and each clause with the offset where it stood."""
    tokens = _tokens(text)
    found: list[tuple[int, ShardBy]] = []
    plain = text
    index = 0
    kind = ""
    depth = 0
    while index < len(tokens):
        name = tokens[index].name
        if index == 0 or tokens[index - 1].name == _SEMICOLON:
            kind = name if any(token.name == "TABLE" for token in tokens[index + 1 : index + 4]) else ""
            depth = 0
        depth += (name == _OPEN) - (name == _CLOSE)
        if kind in ("CREATE", "ALTER") and not depth and _starts_clause(text, tokens, index):
            reader = _Reader(text, tokens, index)
            clause = reader.clause()
            start, end = tokens[index].start, tokens[reader.index - 1].end + 1
            stand_in = STAND_IN if kind == "ALTER" else ""
            plain = plain[:start] + stand_in.ljust(end - start) + plain[end:]
            found.append((start, clause))
            index = reader.index
            continue
        index += 1
    return plain, found


def shard_clause(text: str) -> ShardBy:
    """The clause that a storage parameter holds (without SHARD BY), as pg_dump writes it."""
    try:
        whole = "SHARD BY " + text
        reader = _Reader(whole, _tokens(whole), 0)
        clause = reader.clause()
        if reader.current() is not None:
            reader.fail()
    except InvalidSyntax:
        raise InvalidParameterValue(f'invalid value for parameter "shard_by": "{text}"') from None
    return clause


def _tokens(text: str) -> list[Any]:
    try:
        return [token for token in parser.scan(text) if token.name not in ("SQL_COMMENT", "C_COMMENT")]
    except parser.ParseError:
        return []  # the parser proper will say what is wrong


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
        position = self.position()
        self.expect("shard")
        self.expect("by")
        for strategy in ("hash", "range", "list", "directory", "reference", "none"):
            if self.accept(strategy):
                break
        else:
            self.fail()
        if strategy in ("reference", "none"):
            return ShardBy((), strategy=strategy, position=position)
        columns = tuple(self.listed(self.identifier))
        if strategy in ("range", "list"):
            return self.numbered(columns, strategy, position)
        shards: int | None = None
        colocate_with: Name | None = None
        while True:
            if shards is None and self.accept("shards"):
                shards = self.number()
            elif self.is_colocated() and colocate_with is None:
                if strategy == "directory":
                    raise FeatureNotSupported(
                        "COLOCATE WITH is not supported for SHARD BY DIRECTORY",
                        detail="Each table has a directory of its own.",
                        position=self.position(),
                    )
                colocate_with = self.colocated()
            else:
                assigned = strategy == "directory" and self.current() == "("
                pieces = tuple(self.listed(self.assignment)) if assigned else ()
                return ShardBy(columns, shards, colocate_with, strategy, pieces=pieces, position=position)

    def numbered(self, columns: tuple[str, ...], strategy: str, position: int | None) -> ShardBy:
        """What follows RANGE or LIST (column)."""
        values: tuple[str, ...] = ()
        pieces: tuple[ShardSpec, ...] = ()
        is_bare = self.is_colocated()
        if not is_bare and strategy == "range":
            values = self.split_values()
        elif not is_bare:
            pieces = tuple(self.listed(self.piece))
        at, group = self.position(), None
        if self.accept("colocate"):
            if self.accept("in"):
                self.expect("group")
                group = self.identifier()
            elif is_bare:
                self.expect("with")
                return ShardBy(columns, colocate_with=self.name(), strategy=strategy, position=position)
            else:
                raise InvalidSyntax(
                    "COLOCATE WITH takes the shards of the other table: leave out your own", position=at
                )
        return ShardBy(
            columns,
            strategy=strategy,
            split_values=values,
            pieces=pieces,
            position=position,
            colocation_group=group,
        )

    def is_colocated(self) -> bool:
        return (self.current() or "").lower() == "colocate"

    def colocated(self) -> Name:
        """``COLOCATE WITH table``"""
        self.expect("colocate")
        self.expect("with")
        return self.name()

    def split_values(self) -> tuple[str, ...]:
        """``(SPLIT AT VALUES (10, 20))``; also ``VALUES (10), (20)``."""
        self.expect("(")
        for word in ("split", "at", "values"):
            self.expect(word)
        values = self.listed(self.literal)
        while self.accept(","):
            values += self.listed(self.literal)
        self.expect(")")
        if None in values:
            raise InvalidSyntax("a shard cannot begin with NULL", position=self.position())
        return tuple(value for value in values if value is not None)

    def piece(self) -> ShardSpec:
        self.expect("shard")
        name = self.identifier()
        values: list[str | None] = []
        is_default = self.accept("default")
        if not is_default:
            self.expect("values")
            self.accept("in")
            values = self.listed(self.literal)
        placement: list[tuple[str, str]] = []
        if self.accept("placed"):
            self.expect("in")
            placement = self.listed(self.place)
        return ShardSpec(name, tuple(values), is_default, tuple(placement))

    def assignment(self) -> ShardSpec:
        """``SHARD 2 VALUES ('7', '9')``"""
        self.expect("shard")
        number = self.number()
        self.expect("values")
        return ShardSpec(str(number), tuple(self.listed(self.literal)))

    def place(self) -> tuple[str, str]:
        tier = self.identifier()
        self.accept("=")
        value = self.literal() if self.is_literal() else self.identifier()
        if value is None:
            self.fail()
        return tier, value

    def listed(self, item: Any) -> list[Any]:
        """``(item, …)``"""
        self.expect("(")
        found = [item()]
        while self.accept(","):
            if len(found) >= MOST_LITERALS:
                raise InvalidSyntax(f"a list of SHARD BY has at most {MOST_LITERALS} items", position=self.position())
            found.append(item())
        self.expect(")")
        return found

    def is_literal(self) -> bool:
        return self.index < len(self.tokens) and self.tokens[self.index].name in ("SCONST", "ICONST", "FCONST")

    def literal(self) -> str | None:
        """The text of a constant; None for NULL."""
        for word in ("true", "false", "null"):
            if self.accept(word):
                return None if word == "null" else word
        sign = "-" if self.accept("-") else ""
        if not self.is_literal():
            self.fail()
        written = self.current() or ""
        if self.tokens[self.index].name == "SCONST":
            if sign or not written.startswith("'"):
                self.fail()
            written = written[1:-1].replace("''", "'")
        self.index += 1
        return sign + written

    def current(self) -> str | None:
        if self.index >= len(self.tokens):
            return None
        token = self.tokens[self.index]
        return self.text[token.start : token.end + 1]

    def position(self) -> int | None:
        return self.tokens[self.index].start + 1 if self.index < len(self.tokens) else None

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
        position = self.position()
        first = self.identifier()
        if self.accept("."):
            return Name(self.identifier(), first, position=position)
        return Name(first, position=position)

    def number(self) -> int:
        current = self.current()
        if current is None or not current.isdigit():
            self.fail()
        if not 1 <= int(current) <= MOST_SHARDS:
            raise InvalidSyntax(f"number of shards must be between 1 and {MOST_SHARDS}", position=self.position())
        self.index += 1
        return int(current)

    def fail(self) -> NoReturn:
        current = self.current()
        if current is None or current == ";":
            raise InvalidSyntax(
                "syntax error at end of input" if current is None else 'syntax error at or near ";"',
                position=len(self.text) + 1 if current is None else self.position(),
            )
        raise InvalidSyntax(f'syntax error at or near "{current}"', position=self.position())
