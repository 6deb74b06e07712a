"""A mapping that changes by making another one, which shares what is large: a dictionary under a small one.

    tables = Layered({1: "a", 2: "b"})
    draft = tables.draft()                  # a MutableMapping; ``tables`` stays as it is
    draft[3] = "c"; del draft[1]
    later = draft.finish()                  # base {1: a, 2: b}, delta {3: c, 1: gone}

A catalog state has a dozen mappings with an entry per table, and every schema statement makes a new state.  A copy of
10,000 entries takes 0.1 ms or more, of a dozen of them as long as all the rest of CREATE TABLE.  Here a change costs a
copy of the delta, which is laid into a new base once it has grown to a fraction of it.  A look-up costs 0.2 µs, a
dictionary's four times; planning makes some dozens.  Whoever iterates makes a whole dictionary, which then serves as the base.

The order is that of a dictionary, and what is set anew goes to the end.  (A persistent trie, as the ``immutables`` package
has it, would do but for that: system tables list objects in the order of their making.)
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from typing import Any, TypeVar, overload

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

LEAST_DELTA = 64
"""Deltas up to this size are kept apart whatever the size of the base."""
DELTA_SHARE = 32
"""Larger ones up to this fraction of it."""

_GONE: Any = object()
_UNKNOWN: Any = object()


class Layered(Mapping[K, V]):
    """See the module's docstring."""

    __slots__ = ("_base", "_delta")

    def __init__(self, base: dict[K, V] | None = None, delta: dict[K, V] | None = None) -> None:
        self._base: dict[K, V] = {} if base is None else base
        self._delta: dict[K, V] = {} if delta is None else delta

    def __getitem__(self, key: K) -> V:
        value: V = self._delta.get(key, _UNKNOWN)
        if value is _UNKNOWN:
            return self._base[key]
        if value is _GONE:
            raise KeyError(key)
        return value

    @overload
    def get(self, key: K, /) -> V | None: ...
    @overload
    def get(self, key: K, default: V | T, /) -> V | T: ...
    def get(self, key: K, default: Any = None, /) -> Any:
        value = self._delta.get(key, _UNKNOWN)
        if value is _UNKNOWN:
            return self._base.get(key, default)
        return default if value is _GONE else value

    def __contains__(self, key: object) -> bool:
        value = self._delta.get(key, _UNKNOWN)  # type: ignore[arg-type]
        return key in self._base if value is _UNKNOWN else value is not _GONE

    def _whole(self) -> dict[K, V]:
        delta = self._delta
        if delta:
            base = self._base
            whole = (
                {key: value for key, value in base.items() if key not in delta} if delta.keys() & base else base | {}
            )
            whole.update((key, value) for key, value in delta.items() if value is not _GONE)
            self._base, self._delta = whole, {}
        return self._base

    def __iter__(self) -> Iterator[K]:
        return iter(self._whole())

    def __len__(self) -> int:
        return len(self._whole())

    def __bool__(self) -> bool:
        return len(self._base) > len(self._delta) or bool(self._whole())

    def keys(self) -> KeysView[K]:
        return self._whole().keys()

    def values(self) -> ValuesView[V]:
        return self._whole().values()

    def items(self) -> ItemsView[K, V]:
        return self._whole().items()

    def draft(self) -> Draft[K, V]:
        """A changeable copy."""
        return Draft(self._base, dict(self._delta))

    def differing(self, newer: Layered[K, V]) -> Iterator[K]:
        """The keys that have another value, or none, in one of the mappings; quick where the base is shared."""
        if self._base is newer._base:
            candidates = self._delta.keys() | newer._delta.keys()
        else:
            candidates = self.keys() | newer.keys()
        for key in candidates:
            before, after = self.get(key, _GONE), newer.get(key, _GONE)
            if before is not after and before != after:
                yield key


class Draft(MutableMapping[K, V]):
    """Changes a copy of a ``Layered``; not to be used after ``finish``."""

    __slots__ = ("_base", "_delta")

    def __init__(self, base: dict[K, V], delta: dict[K, V]) -> None:
        self._base = base
        self._delta = delta

    def __getitem__(self, key: K) -> V:
        value: V = self._delta.get(key, _UNKNOWN)
        if value is _UNKNOWN:
            return self._base[key]
        if value is _GONE:
            raise KeyError(key)
        return value

    def __setitem__(self, key: K, value: V) -> None:
        self._delta.pop(key, None)  # to the end
        self._delta[key] = value

    def __delitem__(self, key: K) -> None:
        self[key]
        if key in self._base:
            self._delta[key] = _GONE
        else:
            del self._delta[key]

    def __iter__(self) -> Iterator[K]:
        return iter(Layered(self._base, self._delta))

    def __len__(self) -> int:
        return len(Layered(self._base, self._delta))

    def finish(self) -> Layered[K, V]:
        found = Layered(self._base, self._delta)
        if len(self._delta) > max(LEAST_DELTA, len(self._base) // DELTA_SHARE):
            found._whole()
        return found
