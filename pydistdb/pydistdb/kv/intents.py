r"""Provisional writes of prepared transactions, and what a leaseholder remembers of them.

An intent lies in ``Space.INTENTS`` and says: "transaction T writes this key, at a timestamp not below P; the record
beside anchor key A decides".  There is one per key, since a second writer waits::

    key            →  kind 1 ‖ T (16) ‖ P (8) ‖ sequence (4) ‖ length of A (2) ‖ A ‖ value        empty value: a delete

A condition is a key that a transaction locked without writing it, for example the parent row that a foreign key points
at.  It must stay as it is until the transaction commits, even if the leaseholder changes meanwhile.  Several
transactions may hold conditions on one key, so the transaction id is part of theirs (no key is a prefix of another, so
no other key can look like it)::

    key ‖ T        →  kind 0x10 + lock strength ‖ T ‖ P ‖ sequence ‖ length of A ‖ A

The leaseholder keeps all of its range's keys with an intent in a dictionary, built from the store when it gets the
lease: the usual read pays one look-up.  Intents of one proposal share one ``IntentInfo``.  Of *fresh* intents, on keys
that nobody else can know before the commit (rows of a large COPY), only the span is kept, one for each transaction::

    fresh     T → (first key, last key, info)      whoever comes near asks the store
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from pydistdb_storage.engine import Snapshot, Space

from pydistdb.kv.api import Timestamp
from pydistdb.kv.locks import conflicts
from pydistdb.kv.names import TransactionId

_WRITE = 1
_CONDITION = 0x10
_HEADER_BYTES = 31


class IntentInfo(NamedTuple):
    """What an intent says besides its value."""

    transaction_id: TransactionId
    timestamp: Timestamp
    sequence: int
    anchor: bytes


class ConditionInfo(NamedTuple):
    intent: IntentInfo
    strength: int


def intent_header(info: IntentInfo) -> bytes:
    """The bytes before the value of a write intent."""
    return _header(_WRITE, info)


def _header(kind: int, info: IntentInfo) -> bytes:
    return b"".join(
        (
            bytes((kind,)),
            info.transaction_id,
            info.timestamp.to_bytes(8, "big"),
            info.sequence.to_bytes(4, "big"),
            len(info.anchor).to_bytes(2, "big"),
            info.anchor,
        )
    )


def condition_entry(key: bytes, info: IntentInfo, strength: int) -> tuple[bytes, bytes]:
    """The entry of a condition in ``Space.INTENTS``."""
    return key + info.transaction_id, _header(_CONDITION + strength, info)


def intent_value(data: bytes) -> bytes | None:
    """The value of a write intent; None: a delete."""
    return data[_HEADER_BYTES + int.from_bytes(data[29:31], "big") :] or None


def intent_head(data: bytes) -> bytes:
    """All of an intent but its value: the same for all writes of one proposal."""
    return data[: _HEADER_BYTES + int.from_bytes(data[29:31], "big")]


def intent_transaction(data: bytes) -> TransactionId:
    return data[1:17]


def is_condition(data: bytes) -> bool:
    return data[0] != _WRITE


def intent_info(data: bytes) -> IntentInfo:
    """Everything but the value."""
    end = _HEADER_BYTES + int.from_bytes(data[29:31], "big")
    return IntentInfo(
        data[1:17], int.from_bytes(data[17:25], "big"), int.from_bytes(data[25:29], "big"), data[_HEADER_BYTES:end]
    )


class FreshSpan(NamedTuple):
    """Where the fresh intents of a transaction lie; ``info`` has their least timestamp."""

    first: bytes
    last: bytes
    info: IntentInfo


class IntentSet:
    """The keys of one range that carry intents or conditions; ``latest`` gives the store."""

    __slots__ = ("_latest", "conditions", "fresh", "writes")

    def __init__(self, latest: Callable[[], Snapshot]) -> None:
        self._latest = latest
        self.writes: dict[bytes, IntentInfo] = {}
        self.conditions: dict[bytes, dict[TransactionId, ConditionInfo]] = {}
        self.fresh: dict[TransactionId, FreshSpan] = {}

    def __bool__(self) -> bool:
        return bool(self.writes or self.conditions or self.fresh)

    @classmethod
    def load(cls, latest: Callable[[], Snapshot], start: bytes, end: bytes) -> IntentSet:
        """Read what the store holds of [start, end); about 1 µs an intent."""
        loaded = cls(latest)
        shared: dict[bytes, IntentInfo] = {}
        for key, data in latest().scan(Space.INTENTS, start, end):
            head = intent_head(data)
            info = shared.get(head)
            if info is None:
                info = shared[head] = intent_info(data)
            if is_condition(data):
                loaded.add_condition(key[:-16], info, data[0] - _CONDITION)
            else:
                loaded.writes[key] = info
        return loaded

    def add_writes(self, keys: Iterable[bytes], info: IntentInfo) -> None:
        self.writes.update(dict.fromkeys(keys, info))

    def add_fresh(self, first: bytes, last: bytes, info: IntentInfo) -> None:
        """Note that the transaction has intents on keys from ``first`` to ``last`` that are nobody else's business."""
        known = self.fresh.get(info.transaction_id)
        if known is not None:
            first, last, info = min(first, known.first), max(last, known.last), known.info
        self.fresh[info.transaction_id] = FreshSpan(first, last, info)

    def drop_fresh(self, transaction_id: TransactionId, start: bytes, end: bytes) -> None:
        """All intents of the transaction in [start, end) are gone."""
        span = self.fresh.get(transaction_id)
        if span is None or span.first < start:
            return
        if span.last < end:
            del self.fresh[transaction_id]
        elif span.first < end:
            self.fresh[transaction_id] = span._replace(first=end)

    def may_hold(self, key: bytes) -> bool:
        """Whether there may be a write intent on ``key``: the store knows for sure."""
        return key in self.writes or (bool(self.fresh) and self._is_near_fresh(key))

    def _is_near_fresh(self, key: bytes) -> bool:
        return any(first <= key <= last for first, last, _ in self.fresh.values())

    def _fresh_at(self, key: bytes) -> IntentInfo | None:
        if not self._is_near_fresh(key):
            return None
        data = self._latest().get(Space.INTENTS, key)
        return None if data is None or is_condition(data) else intent_info(data)

    def add_condition(self, key: bytes, info: IntentInfo, strength: int) -> None:
        self.conditions.setdefault(key, {})[info.transaction_id] = ConditionInfo(info, strength)

    def remove(self, key: bytes, transaction_id: TransactionId) -> None:
        """Forget the transaction's intent on ``key``, if that is what stands there."""
        info = self.writes.get(key)
        if info is not None and info.transaction_id == transaction_id:
            del self.writes[key]

    def remove_condition(self, key: bytes, transaction_id: TransactionId) -> None:
        conditions = self.conditions.get(key)
        if conditions is not None:
            conditions.pop(transaction_id, None)
            if not conditions:
                del self.conditions[key]

    def blocking_write(self, key: bytes, transaction_id: TransactionId, strength: int) -> IntentInfo | None:
        """The intent or condition of another transaction that a lock of ``strength`` on ``key`` must wait for."""
        info = self.writes.get(key)
        if info is None and self.fresh:
            info = self._fresh_at(key)
        if info is not None and info.transaction_id != transaction_id:
            return info
        if self.conditions:
            for condition in self.conditions.get(key, {}).values():
                if condition.intent.transaction_id != transaction_id and conflicts(condition.strength, strength):
                    return condition.intent
        return None

    def forget(self, start: bytes, end: bytes) -> None:
        """Forget what stands in [start, end), whosever it is: it was cleared."""
        for key in [key for key in self.writes if start <= key < end]:
            del self.writes[key]
        for key in [key for key in self.conditions if start <= key < end]:
            del self.conditions[key]
        for transaction_id in list(self.fresh):
            self.drop_fresh(transaction_id, start, end)

    def trim(self, start: bytes, end: bytes) -> None:
        """Forget what lies outside [start, end)."""
        for key in [key for key in self.writes if not start <= key < end]:
            del self.writes[key]
        for key in [key for key in self.conditions if not start <= key < end]:
            del self.conditions[key]
        for transaction_id, (first, last, info) in list(self.fresh.items()):
            if last < start or end <= first:
                del self.fresh[transaction_id]
            else:
                self.fresh[transaction_id] = FreshSpan(max(first, start), min(last, end), info)
