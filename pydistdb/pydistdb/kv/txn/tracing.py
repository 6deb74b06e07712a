"""A transaction that tells what it does: SET proddb.trace_txn = on.

    UPDATE accounts … WHERE id = 1        tx-4294967300: locks in range 5 at node 1
    UPDATE accounts … WHERE id = 20       tx-4294967300: locks in range 7 at node 2
    COMMIT                                tx-4294967300: two phases, PREPARE
                                            range 5: VOTE YES
                                            range 7: VOTE YES
                                          tx-4294967300: COMMITTED

The same transactions with a few methods that tell before or after they do the usual, in classes of their own: whoever does
not trace pays nothing.  A range is named once per statement for each kind of use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pydistdb.kv.api import Isolation, LockedValue, LockStrength, Timestamp, WaitPolicy
from pydistdb.kv.descriptor import NodeId, RangeId
from pydistdb.kv.names import shown_id
from pydistdb.kv.overlay import Chunk
from pydistdb.kv.txn.coordinator import Coordinator
from pydistdb.kv.txn.serializable import SerializableCoordinator

if TYPE_CHECKING:
    from pydistdb.kv.api import ScanBatch
    from pydistdb.kv.gateway import Gateway

Tell = Callable[[str], None]


class _TracingPart(Coordinator):
    """See the module's docstring."""

    __slots__ = ()

    def _tell(self, text: str) -> None:
        self._trace[0](f"tx-{shown_id(self.transaction_id)}: {text}")

    def _tell_route(self, key: bytes, use: str) -> None:
        range_id, node_id = self._place_of(key)
        if not range_id:
            return
        route = f"{use} in range {range_id}" + (f" at node {node_id}" if node_id else "")
        told = self._trace[1]
        if route not in told:
            told.add(route)
            self._tell(route)

    def _place_of(self, key: bytes) -> tuple[RangeId, NodeId]:
        """The range around ``key`` and who leads it, as far as is known (0: it is not).

        What the router remembers may be older than a split: a request goes by its key, and is answered all the same by a
        node that leads both parts.  Where a lock is held its lease tells; else this node's own copy, if there is one."""
        local = self._leases.find(key)
        if local is not None:
            return local.range_id, self._leases.node_id
        router = self._gateway.router
        held = self._locked.get(key)
        known = self._leases.find_replica(key) or router.cache.find(key)
        range_id = held[2].range_id if held is not None else known.descriptor.range_id if known is not None else 0
        return range_id, router.leader_of(key)

    # ---------------------------------------------------------------------------------------------------- statements

    def begin_statement(self, at_least: Timestamp = 0) -> None:
        self._trace[1].clear()
        super().begin_statement(at_least)

    def try_get(self, key: bytes) -> bytes | None:
        value = super().try_get(key)
        self._tell_route(key, "reads")
        return value

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        values = await super().get_many(keys)
        for key in keys:
            self._tell_route(key, "reads")
        return values

    def _finish_chunk(
        self, chunk: Chunk, start: bytes, end: bytes, first: bytes, last: bytes, limit: int, reverse: bool
    ) -> ScanBatch:
        self._tell_route(first, "scans")
        return super()._finish_chunk(chunk, start, end, first, last, limit, reverse)

    def _note_evaluated(self, first: bytes, last: bytes, entries: int) -> None:
        self._tell_route(first, "has a part of the query done")
        super()._note_evaluated(first, last, entries)

    def try_lock(self, key: bytes, strength: LockStrength) -> LockedValue:
        found = super().try_lock(key, strength)
        self._tell_route(key, "locks")
        return found

    async def _lock_general(self, keys: Sequence[bytes], strength: LockStrength, wait: WaitPolicy) -> list[LockedValue]:
        found = await super()._lock_general(keys, strength, wait)
        for key in keys:
            self._tell_route(key, "locks")
        return found

    # ----------------------------------------------------------------------------------------------------------- ends

    async def _commit_buffer(self) -> Timestamp:
        key = next(iter(self._buffer.entries))
        timestamp = await super()._commit_buffer()
        if self._two_phase is None:
            self._tell_route(key, "one phase, checks and writes")
            self._tell("COMMITTED")
        return timestamp

    async def _commit_two_phase(self) -> Timestamp:
        self._tell("two phases, PREPARE")
        timestamp = await super()._commit_two_phase()
        self._tell_votes()
        self._tell("COMMITTED")
        return timestamp

    async def prepare(self, name: str, facts: bytes) -> None:
        self._tell("PREPARE")
        await super().prepare(name, facts)
        self._tell_votes()
        self._tell(f"PREPARED as {name!r}")

    def _tell_votes(self) -> None:
        for participant in self._two_phase.listed() if self._two_phase is not None else ():
            self._tell(f"  range {participant.range_id}: VOTE {participant.vote.upper()}")

    def rollback(self, reason: str = "") -> None:
        if not self._over and (self.has_writes or self._lock_starts):
            self._tell_votes()
            self._tell(f"ABORTED ({reason})" if reason else "rolled back")
        super().rollback(reason)


class TracedCoordinator(_TracingPart):
    """READ COMMITTED and REPEATABLE READ."""

    __slots__ = ()


class TracedSerializable(_TracingPart, SerializableCoordinator):
    """SERIALIZABLE."""

    __slots__ = ()


def begin_traced(gateway: Gateway, isolation: Isolation, read_only: bool, tell: Tell) -> Coordinator:
    transaction: Coordinator
    if isolation is Isolation.SERIALIZABLE:
        transaction = TracedSerializable(gateway, read_only)
    else:
        transaction = TracedCoordinator(gateway, isolation, read_only)
    transaction._trace = (tell, set())
    return transaction
