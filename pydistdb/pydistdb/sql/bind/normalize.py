"""Statement texts without their literals, so that one plan serves ``WHERE id = 7`` and ``WHERE id = 8``.

Theory of operation
-------------------
``normalize`` scans a text's tokens (no parsing) and lifts literals out where a parameter of the literal's type means the
same::

    SELECT name FROM users WHERE id = 7 AND city = 'Ulm'
    key       SELECT name FROM users WHERE id = $1 AND city = $2 /*4s*/
    literals  (7, "Ulm")

The kinds of the literals (4 int4, 8 int8, n numeric, s string) are part of the key.  ``bind_normalized`` binds the key's
text with parameters that start out with the literals' types: a string is *unknown*, takes the type its place asks for,
and its text is read as that type by ``Normalized.values`` for each execution, exactly as the literal would have been.

What makes this safe:

* Only literals in WHERE, LIMIT/OFFSET, SET and an INSERT's VALUES are lifted, so select lists, GROUP BY, ORDER BY (where
  a number is a position) and output column names stay as written.
* Strings are lifted only behind a comparison, an arithmetic operator, a bracket or a comma: the rest may belong to the
  grammar (``interval '1 day'``, ``E'…'``, ``LIKE 'a%' ESCAPE '!'``).
* A sign in front of a number belongs to the literal (``-2147483648`` is an int4, which 2147483648 is not).
* Where anything at all goes wrong with the key (it cannot be bound, a string cannot be read), the caller falls back to
  the statement as written, whose error positions are the right ones.

Measured: about 12 µs for a pgbench statement, half of it the scanner's.  So there is a short cut.  A text's *shape* is
what ``split_integers`` leaves of it without its plain integers::

    UPDATE t SET v = v + -4 WHERE id = 7      ("UPDATE t SET v = v +", " ", " WHERE id =", " ", "")      [-4, 7]

If those integers were all the literals that ``normalize`` lifted from one text, the key is the same for every text of
that shape (``shape_decides``): integers of at most nine digits are all int4, and no token depends on their digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from pglast import parser

from pydistdb.sql.bind.analyze import bind_query
from pydistdb.sql.bind.binder import Parameters
from pydistdb.sql.bind.parse import ParsedStatement, parse
from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.tree import BoundStatement
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.registry import INT4, INT8, NUMERIC, TEXT, UNKNOWN, VARCHAR

MOST_TEXT = 4096
"""Longer texts are bound as they are: scanning would cost more than it saves."""
MOST_LITERALS = 64

_STATEMENTS = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE_P"})
_ON = frozenset({"WHERE", "LIMIT", "OFFSET", "SET"})
_OFF = frozenset(
    {"SELECT", "FROM", "GROUP_P", "ORDER", "HAVING", "RETURNING", "WINDOW", "FETCH", "FOR", "ON", "UNION", "INTERSECT"}
    | {"EXCEPT", "USING", "INTO", "CASE"}
)
_REFUSED = frozenset({"PARAM", "WITH", "WITH_LA", "INTERVAL", "TABLESAMPLE", "OVER", "SYSTEM_P"})
"""Statements with these stay as they are."""
_COMMENTS = frozenset({"SQL_COMMENT", "C_COMMENT"})
_OPENING, _CLOSING, _COMMA, _SEMICOLON, _MINUS, _PLUS = (
    "ASCII_40",
    "ASCII_41",
    "ASCII_44",
    "ASCII_59",
    "ASCII_45",
    "ASCII_43",
)
_COMPARISONS = frozenset({"ASCII_60", "ASCII_61", "ASCII_62", "LESS_EQUALS", "GREATER_EQUALS", "NOT_EQUALS"})
_BEFORE_STRING = _COMPARISONS | {_OPENING, _COMMA, "BETWEEN", "AND", "OR"}
_BEFORE_NUMBER = _BEFORE_STRING | {_MINUS, _PLUS, "ASCII_42", "ASCII_47", "ASCII_37", "LIMIT", "OFFSET", "NOT"}
_BEFORE_SIGN = _BEFORE_STRING | {"LIMIT", "OFFSET", "WHERE", _MINUS, _PLUS, "ASCII_42", "ASCII_47", "ASCII_37"}
_AFTER_REFUSED = frozenset(
    {"TYPECAST", "ASCII_91", "COLLATE", "SCONST", "UESCAPE", "AT", "ESCAPE", "SIMILAR", "LIKE", "ILIKE", "IDENT"}
    | {"ASCII_94", "Op", "IN_P", "IS", "ISNULL", "NOTNULL"}
)
_INT4_MOST = 2**31 - 1
_INT8_MOST = 2**63 - 1

_TYPES = {"4": INT4.oid, "8": INT8.oid, "n": NUMERIC.oid, "s": 0}


_INTEGERS = re.compile(r"([ (,=])(-?[0-9]{1,9})(?![\w.])")
_NOT_IN_SHAPES = ("'", '"', "$", "\\", "--", "/*")
"""Where these are, digits may belong to a string, a name or a comment."""

Shape = tuple[str, ...]


class Lifted(NamedTuple):
    """A text without its literals: plans are cached by ``key``."""

    key: str
    literals: tuple[Any, ...]


def normalize(text: str) -> Lifted | None:
    """Lift the literals out of a statement; None where that could change its meaning or is not worth while."""
    if len(text) > MOST_TEXT:
        return None
    try:
        tokens = parser.scan(text)
    except parser.ParseError:
        return None
    if not tokens or tokens[0].name not in _STATEMENTS:
        return None
    return _Lifter(text, tokens).run()


def split_integers(text: str) -> tuple[Shape, list[int]]:
    """The text's shape and its plain integers; about 2 µs for a pgbench statement."""
    pieces = _INTEGERS.split(text)
    integers = list(map(int, pieces[2::3]))
    del pieces[2::3]
    return tuple(pieces), integers


def shape_decides(shape: Shape, integers: Sequence[int], lifted: Lifted) -> bool:
    """Whether what was lifted from a text of this shape tells what ``normalize`` lifts from all of them."""
    return lifted.literals == tuple(integers) and not any(mark in piece for piece in shape for mark in _NOT_IN_SHAPES)


class _Lifter:
    """One pass over the tokens."""

    def __init__(self, text: str, tokens: Sequence[Any]) -> None:
        self.text = text
        self.tokens = tokens
        self.pieces: list[str] = []
        self.literals: list[Any] = []
        self.kinds: list[str] = []
        self.copied = 0

    def run(self) -> Lifted | None:
        lifting = False
        saved: list[bool] = []
        previous = before = ""
        previous_start = 0
        is_insert = self.tokens[0].name == "INSERT"
        last = len(self.tokens) - 1
        for index, token in enumerate(self.tokens):
            start, end, name, _ = token
            if name in ("ICONST", "FCONST", "SCONST"):
                if lifting:
                    following = self.tokens[index + 1].name if index < last else ""
                    if following not in _AFTER_REFUSED:
                        signed = previous == _MINUS and before in _BEFORE_SIGN
                        self._lift(name, start, end + 1, previous, previous_start if signed else -1)
            elif name == _OPENING:
                saved.append(lifting)
            elif name == _CLOSING:
                if not saved:
                    return None
                lifting = saved.pop()
            elif name in _ON:
                lifting = True
            elif name in _OFF:
                lifting = False
            elif name == "VALUES":
                lifting = is_insert and not saved
            elif name in _REFUSED or name in _COMMENTS or (name == _SEMICOLON and index < last):
                return None
            before, previous, previous_start = previous, name, start
        if not self.literals or len(self.literals) > MOST_LITERALS:
            return None
        self.pieces.append(self.text[self.copied :])
        return Lifted(f"{''.join(self.pieces)}/*{''.join(self.kinds)}*/", tuple(self.literals))

    def _lift(self, name: str, start: int, end: int, previous: str, sign_start: int) -> None:
        text = self.text[start:end]
        if name == "SCONST":
            if previous not in _BEFORE_STRING or text[0] != "'" or "\\" in text:
                return
            value: Any = text[1:-1].replace("''", "'")
            kind = "s"
        else:
            if previous not in _BEFORE_NUMBER:
                return
            if sign_start >= 0:
                text = "-" + text
            if text.lstrip("-").isdigit():
                value = int(text)
                kind = "4" if -_INT4_MOST - 1 <= value <= _INT4_MOST else "8"
                if not -_INT8_MOST - 1 <= value <= _INT8_MOST:
                    return
                if sign_start < 0 and previous == _MINUS and value in (_INT4_MOST + 1, _INT8_MOST + 1):
                    return  # with a sign it would be of a smaller type
            elif all(character in "-.0123456789" for character in text):
                value = Decimal(text)
                if not value:
                    value = abs(value)  # SQL's numeric has no negative zero
                kind = "n"
            else:
                return
            if sign_start >= 0:
                start = sign_start
        self.pieces.append(self.text[self.copied : start])
        # A space, because the literal may have followed a word directly.
        self.pieces.append(f" ${len(self.literals) + 1}")
        self.copied = end
        self.literals.append(value)
        self.kinds.append(kind)


Reader = Callable[[Any, EvalContext], Any]


@dataclass(frozen=True, slots=True)
class Normalized:
    """A bound key: ``values`` turns the literals of one text into the parameters of one execution."""

    statement: BoundStatement
    readers: tuple[Callable[[str, int, EvalContext], Any] | None, ...]

    def values(self, literals: Sequence[Any], context: EvalContext) -> list[Any] | None:
        """The parameters; None if a literal cannot be read as its type (bind the text as written for the error)."""
        try:
            return [
                literal if read is None else read(literal, -1, context)
                for literal, read in zip(literals, self.readers, strict=True)
            ]
        except DatabaseError:
            return None


def bind_normalized(key: str, catalog: CatalogView, context: EvalContext) -> Normalized | None:
    """Bind a key made by ``normalize``; None if it cannot be bound (bind the text as written instead)."""
    text, _, kinds = key[:-2].rpartition("/*")
    oids = [_TYPES[kind] for kind in kinds]
    try:
        statements: list[ParsedStatement] = parse(text)
        if len(statements) != 1 or not statements[0].is_query:
            return None
        statement = bind_query(statements[0], catalog, context, Parameters(oids))
    except DatabaseError:
        return None
    if len(statement.parameter_types) != len(kinds):
        return None
    readers: list[Callable[[str, int, EvalContext], Any] | None] = []
    for kind, sql_type in zip(kinds, statement.parameter_types, strict=True):
        if kind != "s" or sql_type.oid in (TEXT.oid, VARCHAR.oid):
            readers.append(None)
        elif sql_type.category == "P" or sql_type.oid in registry.REG_TYPES or sql_type.oid == UNKNOWN.oid:
            return None
        else:
            readers.append(registry.io(sql_type.oid).parse)
    return Normalized(statement, tuple(readers))
