r"""Inverted indexes (``USING gin``): the tokens that a value is found by, and the tokens that a question asks for.

A row has one entry per *token* of its indexed value; an entry's key is the token and then the row's primary key, so that
the rows with a token stand side by side in the order of their primary keys.  A question (``j @> …``) becomes a set of
tokens of which a row that answers it must have every one, or any one.  What is found that way are candidates: every one is
checked against the condition itself.  So tokens may say less than the value does (long ones are hashed, jsonb_path_ops
always hashes), but a row that meets the condition must have the tokens::

    jsonb_ops        {"tags": ["a", 1], "x": {"y": "z"}}    k:tags k:a n:1 k:x k:y s:z
    jsonb_path_ops   the same                               #(tags, "a") #(tags, 1) #(x, y, "z")
    array_ops        {7,NULL,8}                             e:7 z e:8          {}   0

    j @> '{"x": {"y": "z"}}'   every of k:x k:y s:z         j ? 'a'         k:a
    a && '{7,9}'               any of e:7 e:9               a <@ '{7,9}'    any of e:7 e:9 0

Strings in arrays count as keys, since ``?`` finds them.  Questions that no token narrows (``j @> '{}'``) have no answer
here: the whole table is read.

Source: PostgreSQL 15 manual, chapter 70 and 8.14.4; jsonb_gin.c, ginarrayproc.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

from pydistdb_storage import keys

from pydistdb.sql.types import registry
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.domains import base_oid
from pydistdb.sql.types.json import document_key, load

JSONB_OID, BPCHAR_OID = 3802, 1042
PATH_CLASS = "jsonb_path_ops"
MOST_TOKEN_BYTES = 64
"""Longer ones are hashed."""
MOST_TOKENS_ASKED = 1_000
"""A question with more of them reads the table instead (or asks for that many, if a row must have them all)."""

_encode_decimal = keys.key_encoder(("decimal",))
encode_token: Callable[[tuple[bytes]], bytes] = keys.key_encoder(("bytes",))
"""A token as it stands in a key: self-delimiting."""


class Question(NamedTuple):
    """A row that answers it has every one of the tokens, or any one."""

    every: bool
    tokens: tuple[bytes, ...]


class TokenClass(Protocol):
    """An operator class: how values are cut into tokens."""

    operators: frozenset[str]
    """The operators, with the indexed value on the left, that can be asked."""

    def tokens(self, value: Any) -> set[bytes]:
        """Give the tokens of an indexed value."""
        ...

    def question(self, operator: str, value: Any) -> Question | None:
        """Give what ``operator value`` asks for; None: no token narrows it."""
        ...


def _short(token: bytes) -> bytes:
    if len(token) <= MOST_TOKEN_BYTES:
        return token
    return token[:1] + blake2b(token, digest_size=16).digest()


def _every(tokens: Iterable[bytes]) -> Question | None:
    wanted = sorted(tokens)[:MOST_TOKENS_ASKED]
    return Question(True, tuple(wanted)) if wanted else None


def _any(tokens: Iterable[bytes]) -> Question | None:
    wanted = sorted(tokens)
    return Question(False, tuple(wanted)) if len(wanted) <= MOST_TOKENS_ASKED else None


# ------------------------------------------------------------------------------------------------ jsonb


def _string(kind: bytes, text: str) -> bytes:
    return _short(kind + text.encode())


def _scalar(value: Any) -> bytes:
    """A null, boolean or number; equal numbers have equal tokens, however they are written."""
    if value is None:
        return b"z"
    if isinstance(value, bool):
        return b"t" if value else b"f"
    return _short(b"n" + _encode_decimal((Decimal(value),)))


class JsonbTokens:
    """jsonb_ops: keys and values, each on its own."""

    operators = frozenset({"@>", "?", "?|", "?&"})

    def tokens(self, value: str) -> set[bytes]:
        found: set[bytes] = set()
        # A scalar at the top counts as the array of itself.
        pending: list[tuple[Any, bool]] = [(load(value), True)]
        while pending:
            document, in_array = pending.pop()
            if isinstance(document, dict):
                found.update(_string(b"k", key) for key in document)
                pending.extend((item, False) for item in document.values())
            elif isinstance(document, list):
                pending.extend((item, True) for item in document)
            elif isinstance(document, str):
                found.add(_string(b"k" if in_array else b"s", document))
            else:
                found.add(_scalar(document))
        return found

    def question(self, operator: str, value: Any) -> Question | None:
        match operator:
            case "@>":
                return _every(self.tokens(value))
            case "?":
                return Question(True, (_string(b"k", value),))
        wanted = {_string(b"k", item) for item in value.items if item is not None}
        return _every(wanted) if operator == "?&" else _any(wanted)


class JsonbPathTokens:
    """jsonb_path_ops: each value with the keys that lead to it; arrays on the way do not count."""

    operators = frozenset({"@>"})

    def tokens(self, value: str) -> set[bytes]:
        found: set[bytes] = set()
        pending: list[tuple[Any, bytes]] = [(load(value), b"")]
        while pending:
            document, path = pending.pop()
            if isinstance(document, dict):
                for key, item in document.items():
                    pending.append((item, blake2b(path + b"k" + key.encode(), digest_size=8).digest()))
            elif isinstance(document, list):
                pending.extend((item, path) for item in document)
            else:
                leaf = b"s" + document.encode() if isinstance(document, str) else _scalar(document)
                found.add(blake2b(path + leaf, digest_size=8).digest())
        return found

    def question(self, operator: str, value: Any) -> Question | None:
        return _every(self.tokens(value))


# ------------------------------------------------------------------------------------------------ arrays

_NULL_ITEM, _NO_ITEMS = b"z", b"0"


class ArrayTokens:
    """array_ops: the items; an empty array has a token of its own."""

    operators = frozenset({"@>", "<@", "&&", "=", "any"})

    def __init__(self, element_oid: int) -> None:
        kind = registry.io(element_oid).key_kind
        encode = None if element_oid == JSONB_OID or kind is None else keys.key_encoder((kind,))

        def token(item: Any) -> bytes:
            if encode is None:
                return _short(b"e" + repr(_comparable(document_key(load(item)))).encode())
            return _short(b"e" + encode((item.rstrip(" ") if element_oid == BPCHAR_OID else item,)))

        self._token = token

    def tokens(self, value: PgArray) -> set[bytes]:
        if not value.items:
            return {_NO_ITEMS}
        return {_NULL_ITEM if item is None else self._token(item) for item in value.items}

    def question(self, operator: str, value: Any) -> Question | None:
        if operator == "any":
            return Question(True, (self._token(value),))
        items = {self._token(item) for item in value.items if item is not None}
        match operator:
            case "&&":
                return _any(items)
            case "<@":
                return _any({*items, _NO_ITEMS})
            case "@>":
                return _every(items)
        return _every(self.tokens(value))


def _comparable(key: Any) -> Any:
    """A document's key in which equal numbers look the same."""
    if isinstance(key, tuple):
        return tuple(map(_comparable, key))
    if isinstance(key, int | Decimal) and not isinstance(key, bool):
        return _encode_decimal((Decimal(key),))
    return key


@lru_cache(maxsize=256)
def token_class(type_oid: int, operator_class: str) -> TokenClass | None:
    """The operator class for a column of this type; None if there is none."""
    name = operator_class.removeprefix("pg_catalog.")
    type_oid = base_oid(type_oid)
    if type_oid == JSONB_OID:
        return JsonbPathTokens() if name == PATH_CLASS else JsonbTokens()
    sql_type = registry.type_by_oid(type_oid)
    if not sql_type.is_array:
        return None
    element = sql_type.element_oid
    return ArrayTokens(element) if element == JSONB_OID or registry.io(element).key_kind is not None else None


def tokens_of(classes: Iterable[TokenClass], values: Iterable[Any]) -> list[bytes]:
    """The tokens of a row, as they stand in keys: a column's token begins with its number in the index."""
    return sorted(
        encode_token((bytes((number,)) + token,))
        for number, (kind, value) in enumerate(zip(classes, values, strict=True))
        if value is not None
        for token in kind.tokens(value)
    )
