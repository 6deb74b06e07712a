"""Consistent hashing: keys to nodes, so that a node that comes or goes moves only its own share of the keys.

Theory of operation
-------------------
Nodes and keys are hashed to places on one circle of 2⁶⁴ points; a key belongs to the first node clockwise from it.  Each
node stands at many places (*virtual nodes*, in proportion to its weight), so that shares are even: with v places per node a
share deviates by about 1/√v of itself.  A new node takes keys only from those clockwise before its places, a node that
leaves gives its keys to those behind; nothing else moves::

    places   10:A  40:B  70:A  90:C           key at 35 → B;  at 75 → C;  at 95 → A (around the end)
    + D at 60                                 only keys in (40, 60] move: from A to D

* ``replicas`` goes on clockwise to further *distinct* nodes.
* ``assign`` keeps every node below ``factor`` times its fair share, by going on clockwise from a node that is full
  (consistent hashing with bounded loads).

Example::

    ring = Ring({"A": 1.0, "B": 1.0, "C": 2.0})
    ring.lookup("user:12345")            # "C"
    ring.replicas("user:12345", 2)       # ["C", "A"]
    ring.with_node("D").moved(ring, keys)

After Karger et al., "Consistent Hashing and Random Trees" (1997); bounded loads after Mirrokni, Thorup and Zadimoghaddam,
"Consistent Hashing with Bounded Loads" (2016).  The hash is XXH3 with 64 bits.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import xxhash

DEFAULT_VIRTUAL_NODES = 100
"""Places of a node of weight 1: a share is within some 10 % of fair."""

MAX_PLACES = 1_000_000
CIRCLE = 1 << 64

Key = str | bytes


class RingError(ValueError):
    """A ring that cannot be made, or a node that is not (or is already) on it."""


class Distribution(NamedTuple):
    """How keys lie on nodes; ``deviation`` is the standard deviation of the nodes' shares from their fair ones."""

    keys: dict[str, int]
    deviation: float

    @property
    def total(self) -> int:
        return sum(self.keys.values())

    def share(self, node: str) -> float:
        """The node's part of the keys, 0 to 1."""
        return self.keys[node] / self.total if self.total else 0.0


class Movement(NamedTuple):
    """Keys that belong to another node on another ring: (from, to) → how many."""

    moves: dict[tuple[str, str], int]
    total_keys: int

    @property
    def moved_keys(self) -> int:
        return sum(self.moves.values())

    @property
    def fraction(self) -> float:
        return self.moved_keys / self.total_keys if self.total_keys else 0.0


class Ring:
    """A circle of weighted nodes; immutable: ``with_node`` and ``without_node`` return others.

    Raises RingError for no places, too many, or a weight that is not positive."""

    def __init__(self, nodes: Mapping[str, float] | Iterable[str], virtual_nodes: int = DEFAULT_VIRTUAL_NODES) -> None:
        self.weights: dict[str, float] = dict(nodes) if isinstance(nodes, Mapping) else dict.fromkeys(nodes, 1.0)
        self.virtual_nodes = virtual_nodes
        if virtual_nodes < 1:
            raise RingError("a node needs at least one virtual node")
        for node, weight in self.weights.items():
            if not (weight > 0 and math.isfinite(weight)):
                raise RingError(f"the weight of node {node} must be positive")
        if sum(map(self._places_of, self.weights)) > MAX_PLACES:
            raise RingError(f"a ring can have at most {MAX_PLACES} places")
        # Two nodes at one place: the lesser name stands first, whatever the order they came in.
        self._places = sorted(
            (hash_of(f"{node}#{number}"), node) for node in self.weights for number in range(self._places_of(node))
        )
        self._hashes = [place for place, _ in self._places]

    def _places_of(self, node: str) -> int:
        return max(1, round(self.weights[node] * self.virtual_nodes))

    def with_node(self, node: str, weight: float = 1.0) -> Ring:
        """This ring and one node more."""
        if node in self.weights:
            raise RingError(f"node {node} is on the ring already")
        return Ring({**self.weights, node: weight}, self.virtual_nodes)

    def without_node(self, node: str) -> Ring:
        """This ring and one node less."""
        if node not in self.weights:
            raise RingError(f"node {node} is not on the ring")
        return Ring({name: weight for name, weight in self.weights.items() if name != node}, self.virtual_nodes)

    # ------------------------------------------------------------------------------------------ where keys belong

    def lookup(self, key: Key) -> str:
        """The node that a key belongs to; about 1 µs."""
        return self._places[self._first_place(hash_of(key))][1]

    def replicas(self, key: Key, count: int) -> list[str]:
        """The first ``count`` distinct nodes clockwise from a key, fewer if there are not as many."""
        found: dict[str, None] = {}
        for node in self._clockwise(hash_of(key)):
            if len(found) >= count:
                break
            found[node] = None
        return list(found)

    def assign(self, keys: Iterable[Key], factor: float = 1.25) -> dict[Key, str]:
        """All of ``keys`` to nodes, none of which gets more than ``factor`` times its fair share (rounded up)."""
        if factor < 1:
            raise RingError("the bound cannot be below a node's fair share")
        wanted = list(dict.fromkeys(keys))
        total_weight = sum(self.weights.values())
        room = {node: math.ceil(factor * len(wanted) * weight / total_weight) for node, weight in self.weights.items()}
        assigned: dict[Key, str] = {}
        for key in wanted:
            for node in self._clockwise(hash_of(key)):
                if room[node] > 0:
                    room[node] -= 1
                    assigned[key] = node
                    break
        return assigned

    def _first_place(self, position: int) -> int:
        if not self._places:
            raise RingError("the ring has no nodes")
        place = bisect_left(self._hashes, position)
        return place if place < len(self._hashes) else 0

    def _clockwise(self, position: int) -> Iterator[str]:
        first = self._first_place(position)
        for number in range(len(self._places)):
            yield self._places[(first + number) % len(self._places)][1]

    # ------------------------------------------------------------------------------------------ statistics

    def places(self) -> list[tuple[float, str]]:
        """Every virtual node: degrees clockwise, and whose it is."""
        return [(degrees(place), node) for place, node in self._places]

    def shares(self) -> dict[str, float]:
        """The part of the circle that each node has, 0 to 1."""
        owned = dict.fromkeys(self.weights, 0)
        previous = self._hashes[-1] - CIRCLE if self._hashes else 0
        for place, node in self._places:
            owned[node] += place - previous
            previous = place
        return {node: part / CIRCLE for node, part in owned.items()}

    def distribution(self, keys: Iterable[Key]) -> Distribution:
        """How many of ``keys`` each node has."""
        counts = Counter(map(self.lookup, keys))
        found = {node: counts[node] for node in self.weights}
        total, total_weight = sum(found.values()), sum(self.weights.values())
        if not total:
            return Distribution(found, 0.0)
        squares = [(found[node] / total - weight / total_weight) ** 2 for node, weight in self.weights.items()]
        return Distribution(found, math.sqrt(sum(squares) / len(squares)))

    def moved(self, before: Ring, keys: Iterable[Key]) -> Movement:
        """Which of ``keys`` had another node on the ring ``before``."""
        moves: Counter[tuple[str, str]] = Counter()
        total = 0
        for key in keys:
            total += 1
            old, new = before.lookup(key), self.lookup(key)
            if old != new:
                moves[old, new] += 1
        return Movement(dict(moves), total)


def hash_of(key: Key) -> int:
    """A key's place on the circle, 0 to 2⁶⁴ - 1; text is hashed as UTF-8."""
    return xxhash.xxh3_64_intdigest(key.encode() if isinstance(key, str) else key)


def degrees(position: int) -> float:
    """A place on the circle, 0 to 360 degrees."""
    return position / CIRCLE * 360
