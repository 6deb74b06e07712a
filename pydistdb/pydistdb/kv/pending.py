"""Writes that were proposed but are not applied yet, with their timestamps.

A leaseholder picks a commit timestamp, then needs a round trip to a majority until the write can be seen.  A read above
that timestamp must not overlook it, and a read below must not wait for it::

    ts 10  commit of k proposed            (a group: keys {k}, timestamp 10)
    ts  9  read k at 9     → goes on, sees the version before
    ts 11  read k at 11    → waits for the group, then reads again
           applied         → the group is taken out, its waiters go on

A group that fails is taken out as well.  One whose outcome is not known stays until the lease goes, and the table with
it: only the next leaseholder can tell.

A hot row would be written once per round trip if the next writer waited for the group.  So a group may *offer* what it
writes (controlled lock violation: Graefe and others, SIGMOD 2013)::

    T1  proposes k = 5 at 10, offers it, and lets its lock go at once
    T2  locks k, finds 5 at 10, proposes k = 6 at 14: a second group of k, behind the first
    T3  locks k, finds 6 at 14, ...                                      all of them in one round trip

T2's entry stands behind T1's in one log, proposed under one lease and one generation: where the first is refused or
lost, so is the second.  Whoever has seen an offer must not tell anybody before it is durable; who may ask for one, and
why they can begin anew if it comes to nothing, is in kv.api.Transaction.starts_anew.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

from pydistdb.kv.api import Timestamp
from pydistdb.kv.names import TransactionId
from pydistdb.kv.requests import Write
from pydistdb.tasks import Completion, completed

_FINISHED: Completion[None] = completed(None)


class Offer(NamedTuple):
    """A row version that is proposed, but not durable yet."""

    value: bytes | None
    version: Timestamp


class PendingGroup:
    """The keys of one proposal; ``done`` once it is applied or lost."""

    __slots__ = (
        "_done",
        "_offered",
        "fresh",
        "generation",
        "is_behind",
        "is_offered",
        "keys",
        "timestamp",
        "transaction_id",
    )

    def __init__(
        self, transaction_id: TransactionId, keys: list[bytes], timestamp: Timestamp, fresh: bool = False
    ) -> None:
        self.fresh = fresh
        """Nobody else can know the keys: they are not in ``PendingWrites.by_key``."""
        self.transaction_id = transaction_id
        self.keys = keys
        self.timestamp = timestamp
        self.generation = 0
        """Of the range, when it was proposed: set with an offer."""
        self.is_behind = False
        """Some of its keys were pending already."""
        self.is_offered = False
        self._offered: list[Write] = []
        self._done: Completion[None] | None = None

    def offer(self, writes: list[Write], generation: int) -> None:
        """Let others see what these few writes are to leave."""
        self.is_offered, self._offered, self.generation = True, writes, generation

    def offered(self, key: bytes) -> Offer | None:
        """What is to be at ``key``, if that is offered."""
        for written, value, _ in self._offered:
            if written == key:
                return Offer(value, self.timestamp)
        return None

    def bears(self, version: int, generation: int) -> bool:
        """Whether a write over ``version`` may be proposed behind this group."""
        return self.timestamp == version and self.is_offered and self.generation == generation

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
        """Register a proposal; ``keys`` are sorted, and none is pending already but in groups that bear it."""
        group = PendingGroup(transaction_id, keys, timestamp)
        by_key = self.by_key
        if len(keys) == 1:
            group.is_behind = keys[0] in by_key
            by_key[keys[0]] = group
        else:
            group.is_behind = bool(by_key) and not by_key.keys().isdisjoint(keys)
            by_key.update(dict.fromkeys(keys, group))
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
                before = self._newest(key) if group.is_behind else None
                if before is None:
                    del by_key[key]
                else:
                    by_key[key] = before
        group.finish()

    def _newest(self, key: bytes) -> PendingGroup | None:
        return next((group for group in reversed(self._groups) if not group.fresh and key in group.keys), None)

    def of_key(self, key: bytes, timestamp: Timestamp) -> PendingGroup | None:
        """A proposal at or below ``timestamp`` that writes the key (fresh keys: ``in_span``)."""
        group = self.by_key.get(key)
        if group is None or group.timestamp <= timestamp:
            return group
        return self.in_span(key, key + b"\0", timestamp) if group.is_behind else None

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
