"""Writes that were proposed but are not applied yet, with their timestamps.

A leaseholder picks a commit timestamp, then needs a round trip to a majority until the write can be seen.  A read above
that timestamp must not overlook it, and a read below must not wait for it::

    ts 10  commit of k proposed            (a group: keys {k}, timestamp 10)
    ts  9  read k at 9     → goes on, sees the version before
    ts 11  read k at 11    → waits for the group, then reads again
           applied         → the group is taken out, its waiters go on

A group that fails is taken out as well.  One whose outcome is not known stays until the lease goes, and the table with
it: only the next leaseholder can tell.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from pydistdb.kv.api import Timestamp
from pydistdb.kv.requests import TransactionId
from pydistdb.tasks import Completion, completed

_FINISHED: Completion[None] = completed(None)


class PendingGroup:
    """The keys of one proposal; ``done`` once it is applied or lost."""

    __slots__ = ("_done", "fresh", "keys", "timestamp", "transaction_id")

    def __init__(
        self, transaction_id: TransactionId, keys: list[bytes], timestamp: Timestamp, fresh: bool = False
    ) -> None:
        self.fresh = fresh
        """Nobody else can know the keys: they are not in ``PendingWrites.by_key``."""
        self.transaction_id = transaction_id
        self.keys = keys
        self.timestamp = timestamp
        self._done: Completion[None] | None = None

    @property
    def done(self) -> Completion[None]:
        """Made when somebody waits: mostly nobody does."""
        if self._done is None:
            self._done = Completion()
        return self._done

    def finish(self, error: Exception | None = None) -> None:
        """Let those go on who wait."""
        if error is not None:
            self.done.fail(error)
        elif self._done is None:
            self._done = _FINISHED
        else:
            self._done.set(None)


class PendingWrites:
    """The proposals of one range that are under way."""

    __slots__ = ("_groups", "by_key")

    def __init__(self) -> None:
        self.by_key: dict[bytes, PendingGroup] = {}
        self._groups: dict[PendingGroup, None] = {}  # ordered, so that a simulation can be replayed

    def add(self, transaction_id: TransactionId, keys: list[bytes], timestamp: Timestamp) -> PendingGroup:
        """Register a proposal; ``keys`` are sorted, and none of them is pending already."""
        group = PendingGroup(transaction_id, keys, timestamp)
        if len(keys) == 1:
            self.by_key[keys[0]] = group
        else:
            self.by_key.update(dict.fromkeys(keys, group))
        self._groups[group] = None
        return group

    def add_fresh(self, transaction_id: TransactionId, keys: list[bytes], timestamp: Timestamp) -> PendingGroup:
        """Register a proposal of fresh keys (intents.py)."""
        group = PendingGroup(transaction_id, keys, timestamp, True)
        self._groups[group] = None
        return group

    def remove(self, group: PendingGroup) -> None:
        """Take out a proposal that is applied or lost, and let its waiters go on."""
        self._groups.pop(group, None)
        by_key = self.by_key
        for key in () if group.fresh else group.keys:
            if by_key.get(key) is group:
                del by_key[key]
        group.finish()

    def in_span(self, start: bytes, end: bytes, timestamp: Timestamp) -> PendingGroup | None:
        """A proposal at or below ``timestamp`` with a key in [start, end)."""
        for group in self._groups:
            if group.timestamp <= timestamp:
                keys = group.keys
                position = bisect_left(keys, start)
                if position < len(keys) and keys[position] < end:
                    return group
        return None

    def groups(self) -> Iterable[PendingGroup]:
        return tuple(self._groups)
