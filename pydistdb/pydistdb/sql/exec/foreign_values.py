"""Foreign keys between columns of different types: which values are the same key, by Postgres's operators.

A referring value is looked up as a value of the referenced type.  Where there is an implicit cast that is what Postgres
compares by; else the types have an operator in common (date = timestamp), and the value that the other cast gives must come
back to be equal::

    FOREIGN KEY (n integer) REFERENCES t (x numeric)      7 is looked up as 7.0
    FOREIGN KEY (at timestamp) REFERENCES days (d date)   2026-01-02 00:00 as 2026-01-02; 2026-01-02 10:30 finds nothing

The other way, from a key that has changed to the rows that refer to it, an index helps only if a single referring value can
be meant.  That is so for 7.0 (7), not for the float8 1e300 (many integers): then every row is compared.

Source: PostgreSQL 15, tablecmds.c (ATAddForeignKeyConstraint) and ri_triggers.c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from pydistdb.sql.catalog.descriptors import ForeignKey, Table
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions.registry import cast, length_coercion
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.domains import base_oid
from pydistdb.sql.types.known import BPCHAR, DATE, FLOAT4, FLOAT8, INT2, INT4, INT8, NUMERIC, TIMESTAMP, TIMESTAMPTZ
from pydistdb.sql.types.ordering import sort_key

Values = Sequence[Any]
Convert = Callable[[Any, EvalContext], Any]

_MOMENTS = frozenset({DATE.oid, TIMESTAMP.oid, TIMESTAMPTZ.oid})
_INTEGERS = frozenset({INT2.oid, INT4.oid, INT8.oid})
_EXACT_BELOW = {FLOAT4.oid: 1 << 24, FLOAT8.oid: 1 << 53}
"""Integers that no other integer is rounded to the same float with."""


class NoSuchKey(Exception):
    """No value of the other type can be equal."""


class _Pair:
    """A referring column and the one it refers to."""

    def __init__(self, child: int, parent: int, modifier: int) -> None:
        self.child, self.parent = child, parent
        self.plain = _stored_alike(child, parent)
        self.key = sort_key(parent)
        if self.plain:
            return
        self.up, self.down = _conversion(child, parent), _conversion(parent, child)
        forth = cast(child, parent)
        self.is_implicit = forth is not None and forth.context == "i"
        target = registry.type_by_oid(child)
        length = length_coercion(target) if modifier >= 0 else None
        self.fit: Convert = lambda value, context: value
        if length is not None:
            fit = length.implementation
            self.fit = (
                (lambda value, context: fit(context, value, modifier, False))
                if length.needs_context
                else (lambda value, context: fit(value, modifier, False))
            )

    def to_parent(self, value: Any, context: EvalContext) -> Any:
        """The value of the referenced type that is equal; raises NoSuchKey."""
        if self.plain:
            return value
        if self.child not in _MOMENTS:
            return self.up(value, context)
        try:
            found = self.up(value, context)
            if not self.is_implicit and self.down(found, context) != value:
                raise NoSuchKey
        except DatabaseError as error:  # beyond what the other type reaches
            raise NoSuchKey from error
        return found

    def to_child(self, value: Any, context: EvalContext) -> Any:
        """The one referring value that can be equal; None: there may be several.  Raises NoSuchKey."""
        if self.plain:
            return value
        if not self._has_one(value):
            return None
        try:
            found = self.down(value, context)
            if self.up(found, context) != value:
                raise NoSuchKey
        except DatabaseError as error:
            raise NoSuchKey from error
        return found

    def _has_one(self, value: Any) -> bool:
        if self.parent in _EXACT_BELOW:
            return self.child in _INTEGERS and abs(value) < _EXACT_BELOW[self.parent]
        if self.child in _MOMENTS:
            # Clocks that are put forward or back make several local times one instant.
            return self.parent == TIMESTAMP.oid or (self.parent == DATE.oid and self.child == TIMESTAMP.oid)
        return self.child in _INTEGERS and self.parent == NUMERIC.oid


@lru_cache(maxsize=1_000)
def _pair(child: int, parent: int, modifier: int) -> _Pair:
    return _Pair(base_oid(child), base_oid(parent), modifier)


def _stored_alike(child: int, parent: int) -> bool:
    """Whether values of the one can be taken for values of the other."""
    if child == parent:
        return True
    kinds = registry.io(child).key_kind, registry.io(parent).key_kind
    return kinds[0] == kinds[1] and not {child, parent} <= _MOMENTS and BPCHAR.oid not in (child, parent)


def _conversion(source: int, target: int) -> Convert:
    found = cast(source, target)
    if found is None or found.function is None:
        return lambda value, context: value
    convert = found.function.implementation
    if found.function.needs_context:
        return lambda value, context: convert(context, value)
    return lambda value, context: convert(value)


class KeyMatch:
    """How values of a foreign key compare with those of the key that it refers to, in the order of its columns."""

    def __init__(self, child: Table, parent: Table, key: ForeignKey) -> None:
        own = {column.number: column for column in child.columns}
        types = {column.number: column.type_oid for column in parent.columns}
        self.pairs = [
            _pair(own[number].type_oid, types[other], own[number].modifier)
            for number, other in zip(key.columns, key.referenced_columns, strict=True)
        ]
        self.plain = all(pair.plain for pair in self.pairs)

    def to_parent(self, values: Values, context: EvalContext) -> Values | None:
        """What referring values (no NULLs) are looked up as; None if nothing can be equal."""
        if self.plain:
            return values
        try:
            return [pair.to_parent(value, context) for pair, value in zip(self.pairs, values, strict=True)]
        except NoSuchKey:
            return None

    def to_child(self, values: Values, context: EvalContext) -> Values | None:
        """The referring values that a key's (no NULLs) can be found by; None: look at every row.  Raises NoSuchKey."""
        if self.plain:
            return values
        found = [pair.to_child(value, context) for pair, value in zip(self.pairs, values, strict=True)]
        return None if None in found else found

    def refers_to(self, values: Values, context: EvalContext) -> Callable[[Values], bool]:
        """A test whether referring values mean the key with these."""
        if self.plain and not any(pair.key for pair in self.pairs):
            wanted = list(values)
            return lambda own: own == wanted
        keys = self._keys(values)

        def refers(own: Values) -> bool:
            if None in own:
                return False
            theirs = self.to_parent(own, context)
            return theirs is not None and self._keys(theirs) == keys

        return refers

    def _keys(self, values: Values) -> list[Any]:
        """Equal if the values are equal in SQL."""
        return [value if pair.key is None else pair.key(value) for pair, value in zip(self.pairs, values, strict=True)]

    def assigned(self, values: Values, context: EvalContext) -> list[Any]:
        """A key's values as ON UPDATE CASCADE stores them in referring rows."""
        return [
            value if pair.plain or value is None else pair.fit(pair.down(value, context), context)
            for pair, value in zip(self.pairs, values, strict=True)
        ]
