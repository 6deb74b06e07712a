"""Turning the intents of a finished transaction into versions, or dropping them.

A commit is decided by its record; what remains is housekeeping, and may be done by anyone, any number of times, in any
order: each step moves some intents of one range in one proposal, and an intent that is gone already is passed over.

    intents   k1 (T, "x")   k2 (T, "y")   k3 (U, "z")        T committed at 20
    versions  k1@20 = "x"   k2@20 = "y"                      after resolving T over the span; U's intent stays

A huge transaction is resolved by walking the range's intents through its span, in chunks of bounded size with a pause
in between, so that nobody has to remember a million keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydistdb_storage.engine import Space
from pydistdb_storage.mvcc import versioned

from pydistdb.kv.answers import Resolved
from pydistdb.kv.api import OutcomeUnknown, Timestamp
from pydistdb.kv.command import ProposalLost
from pydistdb.kv.command import Write as EngineWrite
from pydistdb.kv.intents import intent_head, intent_transaction, is_condition
from pydistdb.kv.leases import Leases
from pydistdb.kv.names import TransactionId
from pydistdb.kv.range_local import RangeLocal
from pydistdb.kv.requests import ResolveIntents
from pydistdb.tasks import Completion, give_way

CHUNK_BYTES = 512 << 10
MAX_CHUNK_INTENTS = 2_000
INTENT_NS = 4_000
"""What it takes to resolve one, roughly."""
CALL_NS = 1_000_000_000
"""After this time one call gives what it has done so far."""

_VERSIONS = int(Space.VERSIONS)
_INTENTS = int(Space.INTENTS)

_Chunk = tuple[list[EngineWrite], list[bytes], list[bytes]]
"""Writes of a proposal; keys whose intents, and keys whose conditions it removes."""


class Resolver:
    """Evaluates ResolveIntents."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    async def resolve(self, request: ResolveIntents) -> Resolved:
        """Resolve what lies in this range, for about a second."""
        leases = self._leases
        leases.hear(request.commit_timestamp)
        local = leases.need(request.start)
        transaction_id = request.transaction_id
        if request.keys:
            local.check_span(min(request.keys), max(request.keys))
            await self.resolve_keys(local, transaction_id, request.keys, request.commit_timestamp)
        else:
            stop_ns = leases.scheduler.now_ns() + CALL_NS
            position: bytes | None = request.start
            while position is not None:
                local.check_lease()
                first, remembered = position, local.intents.fresh.get(transaction_id)
                entries = leases.latest().scan(Space.INTENTS, first, min(request.end, local.end))
                resolved, position = _chunk(entries, transaction_id, request.commit_timestamp)
                await self._apply(local, transaction_id, resolved, request.commit_timestamp)
                if local.intents.fresh.get(transaction_id) is remembered:
                    local.intents.drop_fresh(transaction_id, request.start, position or request.end)
                else:
                    position = first  # more of them have come meanwhile
                if position is not None:
                    if leases.scheduler.now_ns() > stop_ns:
                        return Resolved(position)
                    await give_way(leases.scheduler, len(resolved[0]) // 2 * INTENT_NS)
        local.locks.release(transaction_id)
        local.note_settled(transaction_id)
        local.unstage(transaction_id)
        return Resolved(local.end if local.end < request.end else None)

    async def resolve_keys(
        self, local: RangeLocal, transaction_id: TransactionId, keys: Iterable[bytes], commit_timestamp: Timestamp
    ) -> None:
        """Resolve the transaction's intents and conditions on these keys."""
        snapshot = self._leases.latest()
        entries: list[tuple[bytes, bytes]] = []
        for key in keys:
            if not local.start <= key < local.end:
                raise local.lost()  # the range was split meanwhile
            found = [
                (k, data) for k in (key, key + transaction_id) if (data := snapshot.get(Space.INTENTS, k)) is not None
            ]
            if not found:
                # Memory is behind the store: what removed the intent is applied, and its callback has yet to run.  Whoever
                # met it in memory looks again after this, and must not meet it there for ever.
                local.intents.remove(key, transaction_id)
                local.intents.remove_condition(key, transaction_id)
            entries += found
        remaining = iter(entries)
        more: bytes | None = b""
        while more is not None:
            resolved, more = _chunk(remaining, transaction_id, commit_timestamp)
            await self._apply(local, transaction_id, resolved, commit_timestamp)

    async def _apply(
        self, local: RangeLocal, transaction_id: TransactionId, resolved: _Chunk, commit_timestamp: Timestamp
    ) -> None:
        writes, keys, condition_keys = resolved
        if not writes:
            return
        if commit_timestamp > local.lease_start:
            infos = local.intents.writes
            if infos and any((info := infos.get(key)) and info.timestamp < local.lease_start for key in keys):
                # Prepared under an earlier lease: a read that began here before may not have been told of the commit.
                local.lease_start = commit_timestamp
        proposed = local.propose(writes, commit_timestamp)

        def forget(done: Completion[None]) -> None:
            # At once, not when this task runs again: whoever meets an intent in memory expects it in the store.
            if done.error() is None:
                for key in keys if local.intents.writes else ():
                    local.intents.remove(key, transaction_id)
                for key in condition_keys:
                    local.intents.remove_condition(key, transaction_id)
                local.note_settled(transaction_id)

        proposed.on_done(forget)
        try:
            await proposed
        except OutcomeUnknown as error:
            raise ProposalLost("intents may not have been resolved yet") from error


def _chunk(
    entries: Iterator[tuple[bytes, bytes]], transaction_id: TransactionId, commit_timestamp: Timestamp
) -> tuple[_Chunk, bytes | None]:
    """What one proposal resolves of ``entries``, and the key to go on from; about 0.8 µs an intent."""
    writes: list[EngineWrite] = []
    keys: list[bytes] = []
    condition_keys: list[bytes] = []
    size = 0
    head = b"?"
    for engine_key, data in entries:
        if not data.startswith(head):
            if intent_transaction(data) != transaction_id:
                continue
            if is_condition(data):
                writes.append((_INTENTS, engine_key, None))
                condition_keys.append(engine_key[:-16])
                size += len(engine_key)
                continue
            head = intent_head(data)
        writes.append((_INTENTS, engine_key, None))
        keys.append(engine_key)
        if commit_timestamp:
            writes.append((_VERSIONS, versioned(engine_key, commit_timestamp), data[len(head) :]))
        size += len(engine_key) * 2 + len(data)
        if size >= CHUNK_BYTES or len(writes) >= 2 * MAX_CHUNK_INTENTS:
            return (writes, keys, condition_keys), engine_key + b"\0"
    return (writes, keys, condition_keys), None


async def resolve_span(
    leases: Leases, transaction_id: TransactionId, commit_timestamp: Timestamp, start: bytes, end: bytes
) -> None:
    """Resolve the transaction's intents in [start, end), whatever ranges that touches."""
    position: bytes | None = start
    while position is not None and position < end:
        answer = await leases.send(ResolveIntents(transaction_id, commit_timestamp, position, end))
        assert isinstance(answer, Resolved)
        position = answer.resume
