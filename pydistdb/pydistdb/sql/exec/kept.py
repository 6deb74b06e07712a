"""What a node was sent along with fragments, kept by its digest so that it need not be sent again.

A gateway sends the whole the first time that it asks a node, and the digest after that, in this query and in others; a node that
has let go of it since says so (kv/fragments.py, Lacking), and is sent the whole again::

    Evaluate([a, m), part 5 kB, tables 80 kB)  ->  kept     Evaluate([f, m), name, name)  ->  found
                                                            Evaluate([f, m), name, name)  ->  lacking
"""

from __future__ import annotations

from collections import OrderedDict

from pydistdb.kv.fragments import Lacking

MOST_KEPT_BYTES = 64 << 20
"""Parts, given tables and key filters, as they came."""
MOST_NAMES = 1_024


class Kept:
    """What this node was sent, by its digest; what was asked for last stays longest."""

    def __init__(self) -> None:
        self._items: OrderedDict[bytes, list[bytes]] = OrderedDict()
        self._size_bytes = 0

    def put(self, name: bytes, blocks: list[bytes]) -> None:
        if name not in self._items:
            self._items[name] = blocks
            self._size_bytes += sum(map(len, blocks))
            while self._size_bytes > MOST_KEPT_BYTES and len(self._items) > 1:
                _, gone = self._items.popitem(last=False)
                self._size_bytes -= sum(map(len, gone))

    def get(self, name: bytes) -> list[bytes]:
        """Raises Lacking."""
        if name not in self._items:
            raise Lacking
        self._items.move_to_end(name)
        return self._items[name]

    def clear(self) -> None:
        self._items.clear()
        self._size_bytes = 0


class Holders:
    """Which nodes were sent what, by its digest.  They may have let go of it."""

    def __init__(self) -> None:
        self._nodes: OrderedDict[bytes, set[int]] = OrderedDict()

    def of(self, name: bytes) -> set[int]:
        """The nodes, to be added to."""
        found = self._nodes.setdefault(name, set())
        self._nodes.move_to_end(name)
        if len(self._nodes) > MOST_NAMES:
            self._nodes.popitem(last=False)
        return found


kept = Kept()
holders = Holders()
