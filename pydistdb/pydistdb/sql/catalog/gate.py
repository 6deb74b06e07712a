"""Table locks of the whole cluster, cheap for statements and dear for DDL.

A statement *pins* the tables it touches, on its own node, in two dictionary operations; the pins go when its transaction
ends.  DDL on an existing table *blocks* it: every node lets no new statement in (``SHARE`` mode: no writing one) and
answers once the conflicting pins are gone.  So when the DDL transaction goes on, nobody anywhere works with the old
descriptor, and nobody will before the new one is there.

    node 1                                     node 2
    ALTER TABLE t: block(t) --------------->   a transaction has t pinned: wait
                                               it commits: leave, answer "clear"
    change, commit, announce -------------->   refresh the catalog
    release(t) ---------------------------->   statements on t go on, are planned anew

What can go wrong:

* A node dies: the cluster stops counting it, and ``broadcast`` leaves it out.  Its catalog lease (store.py) is shorter
  than the time after which it counts as dead, so if it is only asleep it reads the catalog again before it commits.
  (Not covered: a node that this one no longer hears but that still reaches the catalog's range.  It learns of the DDL
  within one renewal, and until then works with the old descriptor.)
* The blocking node dies: blocks carry a lease, renewed every few seconds; once it lapses, a node reads the catalog anew
  (the DDL may have been committed) and lifts the block.  ``confirm`` makes sure, right before the DDL commits, that no
  block has lapsed.
* Two DDLs wait for one another: there is one lock for all DDL, the catalog version key.  A transaction that waits for it
  says so here (``waiting_for_catalog``): a DDL that waits for that transaction's pins gives up as the deadlock's victim.

A transaction with one snapshot for all its statements (REPEATABLE READ) that comes to a table changed since then fails with
40001: an index made after its snapshot has no entries as old as that, so it would miss rows.

Whatever identifies a transaction must be hashable by identity; sessions pass their kv transaction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from pydistdb.kv.api import Database, Isolation
from pydistdb.sql.catalog.state import CatalogState
from pydistdb.sql.errors import DeadlockDetected, LockNotAvailable, SerializationFailure
from pydistdb.tasks import Completion, Scheduler, sleep

BLOCK_TOPIC = "gate.block"
DRAIN_TOPIC = "gate.drain"
RELEASE_TOPIC = "gate.release"
BLOCK_LEASE_NS = 10_000_000_000
RENEWAL_INTERVAL_NS = 3_000_000_000
CONFIRMATION_NS = 6_000_000_000
"""A block confirmed by all nodes less than this ago cannot have lapsed anywhere."""
ROUND_NS = 500_000_000
"""How long a node waits for its pins before it answers "not yet"."""
ROUND_TIMEOUT_NS = 3_000_000_000
RETRY_NS = 50_000_000
MOST_DRAINS = 1_000

_NOTHING: frozenset[int] = frozenset()


class BlockRequest(msgspec.Struct, array_like=True):
    owner: int
    tables: list[int]
    exclusive: bool
    wait_ns: int


class BlockAnswer(msgspec.Struct, array_like=True):
    clear: bool
    deadlock: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(BlockRequest).decode
_decode_answer = msgspec.msgpack.Decoder(BlockAnswer).decode


@dataclass(slots=True, eq=False)
class _Block:
    owner: tuple[int, int]
    exclusive: bool
    expires_ns: int


@dataclass(slots=True, eq=False)
class _Held:
    """What a transaction of this node has blocked everywhere."""

    token: int
    tables: dict[int, bool]
    confirmed_ns: int = 0
    renewing: bool = False


class TableGate:
    """See the module's docstring."""

    def __init__(
        self,
        database: Database,
        scheduler: Scheduler,
        catalog_state: Callable[[], CatalogState],
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._database = database
        self._scheduler = scheduler
        self._refresh = refresh
        self._catalog_state = catalog_state
        self._snapshot_versions: dict[Any, int] = {}
        """The catalog version when a transaction with one snapshot for all statements took it."""
        self._readers: dict[Any, frozenset[int]] = {}
        self._writers: dict[Any, frozenset[int]] = {}
        self._blocks: dict[int, _Block] = {}
        self._held: dict[Any, _Held] = {}
        self._next_token = 1
        self._waiting_to_enter: dict[Any, frozenset[int]] = {}
        self._waiting_for_catalog: set[Any] = set()
        self._changed: Completion[None] | None = None
        self._drains: dict[tuple[int, int, int], set[Any]] = {}
        """Writers that somebody waits for, by (node, table, catalog version)."""
        database.on_broadcast(BLOCK_TOPIC, self._on_block)
        database.on_broadcast(DRAIN_TOPIC, self._on_drain)
        database.on_broadcast(RELEASE_TOPIC, self._on_release)

    # ------------------------------------------------------------------------------------------ statements

    def try_enter(self, transaction: Any, tables: frozenset[int], writes: bool) -> bool:
        """Pin ``tables`` until ``leave``; False if one is blocked.  Costs about 0.3 µs when nothing is."""
        if self._blocks and self._blockers(transaction, tables, writes):
            return False
        pins = self._writers if writes else self._readers
        held = pins.get(transaction)
        if held is None:
            if getattr(transaction, "isolation", Isolation.READ_COMMITTED) is not Isolation.READ_COMMITTED:
                self._check_snapshot(transaction, tables)
            pins[transaction] = tables
        elif held is not tables:
            if transaction in self._snapshot_versions:
                self._check_snapshot(transaction, tables)
            pins[transaction] = held | tables
        return True

    def admits(self, tables: frozenset[int]) -> bool:
        """Whether a read that is a transaction of its own and never waits may go ahead: it needs no pins."""
        return not self._blocks or not self._blockers(None, tables, False)

    def locks_of(self, transaction: Any) -> list[tuple[int, str, bool]]:
        """What pg_locks shows of a transaction: (table, mode, granted)."""
        found = [(oid, "AccessShareLock", True) for oid in self._readers.get(transaction, _NOTHING)]
        found += [(oid, "RowExclusiveLock", True) for oid in self._writers.get(transaction, _NOTHING)]
        held = self._held.get(transaction)
        if held is not None:
            found += [
                (oid, "AccessExclusiveLock" if exclusive else "ShareLock", True)
                for oid, exclusive in held.tables.items()
            ]
        found += [(oid, "AccessShareLock", False) for oid in self._waiting_to_enter.get(transaction, _NOTHING)]
        return sorted(found)

    def is_waiting(self, transaction: Any) -> bool:
        """Whether the transaction waits for a table."""
        return transaction in self._waiting_to_enter

    def _check_snapshot(self, transaction: Any, tables: frozenset[int]) -> None:
        """A table that changed after the transaction's snapshot may have indexes or storage without older versions."""
        state = self._catalog_state()
        version = self._snapshot_versions.setdefault(transaction, state.version)
        if version != state.version and state.reshaped_since(version, tables):
            raise SerializationFailure(
                "could not serialize access due to concurrent change of a table's definition",
                hint="The transaction might succeed if retried.",
            )

    async def enter(
        self, transaction: Any, tables: frozenset[int], writes: bool, deadline_ns: int | None = None
    ) -> None:
        """Pin ``tables``, waiting while they are blocked: afterwards look whether the catalog version has changed."""
        while not self.try_enter(transaction, tables, writes):
            self._waiting_to_enter[transaction] = tables
            try:
                await self._wait(deadline_ns)
            finally:
                self._waiting_to_enter.pop(transaction, None)

    def leave(self, transaction: Any) -> None:
        """Drop the pins of a transaction that ended."""
        self._readers.pop(transaction, None)
        self._writers.pop(transaction, None)
        if self._snapshot_versions:
            self._snapshot_versions.pop(transaction, None)
        if self._changed is not None:
            self._notify()

    def pinned(self, transaction: Any) -> frozenset[int]:
        """The tables that the transaction has touched."""
        return self._readers.get(transaction, _NOTHING) | self._writers.get(transaction, _NOTHING)

    # ------------------------------------------------------------------------------------------ DDL

    def waiting_for_catalog(self, transaction: Any, waiting: bool) -> None:
        """Note that a transaction waits for the lock that serialises DDL (or does so no longer)."""
        if waiting:
            self._waiting_for_catalog.add(transaction)
            self._notify()
        else:
            self._waiting_for_catalog.discard(transaction)

    async def block(
        self,
        transaction: Any,
        tables: Iterable[int],
        *,
        exclusive: bool = True,
        deadline_ns: int | None = None,
        check_interrupt: Callable[[], None] | None = None,
    ) -> None:
        """Keep every other transaction of the cluster off ``tables`` (off writing them) until ``release``.

        Raises LockNotAvailable past ``deadline_ns`` and DeadlockDetected."""
        held = self._held.get(transaction)
        if held is None:
            held = self._held[transaction] = _Held(self._next_token, {})
            self._next_token += 1
        wanted = {
            table: exclusive for table in tables if table not in held.tables or (exclusive and not held.tables[table])
        }
        if not wanted:
            return
        held.tables.update(wanted)
        self._start_renewal(transaction, held)
        while not await self._round(held, list(wanted), exclusive, ROUND_NS):
            if check_interrupt is not None:
                check_interrupt()
            if deadline_ns is not None and self._scheduler.now_ns() >= deadline_ns:
                raise LockNotAvailable("canceling statement due to lock timeout")
            await sleep(self._scheduler, RETRY_NS)

    async def drain(self, table: int, version: int, check: Callable[[], None] | None = None) -> None:
        """Wait until every writer of the table, on any node, knows catalog version ``version``.

        Nobody is kept from anything: those who come meanwhile know it anyway."""
        payload = msgspec.msgpack.encode((table, version, ROUND_NS))
        while True:
            answers = await self._database.broadcast(DRAIN_TOPIC, payload, ROUND_TIMEOUT_NS)
            if all(answer == b"\x01" for answer in answers.values()):
                return
            if check is not None:
                check()
            await sleep(self._scheduler, RETRY_NS)

    async def _on_drain(self, sender: int, payload: bytes) -> bytes:
        table, version, wait_ns = msgspec.msgpack.decode(payload)
        if self._catalog_state().version < version and self._refresh is not None:
            await self._refresh()
        key = (sender, table, version)
        if key not in self._drains and len(self._drains) >= MOST_DRAINS:
            self._drains.clear()  # whoever still waits asks again, and waits a little longer
        waiting = self._drains.setdefault(
            key, {transaction for transaction, pinned in self._writers.items() if table in pinned}
        )
        deadline_ns = self._scheduler.now_ns() + wait_ns
        while waiting := {transaction for transaction in waiting if table in self._writers.get(transaction, _NOTHING)}:
            self._drains[key] = waiting
            if self._scheduler.now_ns() >= deadline_ns:
                return b"\x00"
            await self._wait_until(deadline_ns)
        self._drains.pop(key, None)
        return b"\x01"

    async def confirm(self, transaction: Any) -> None:
        """Make sure that no block of the transaction has lapsed; call right before its commit."""
        held = self._held.get(transaction)
        if held is None or self._scheduler.now_ns() - held.confirmed_ns < CONFIRMATION_NS:
            return
        if not await self._renew_blocks(held):
            raise SerializationFailure(
                "could not keep the table locked on every node", hint="The transaction might succeed if retried."
            )

    async def release(self, transaction: Any) -> None:
        """Lift the blocks of a transaction that ended, on every node."""
        held = self._held.pop(transaction, None)
        if held is not None:
            await self._database.broadcast(RELEASE_TOPIC, _encode(held.token), ROUND_TIMEOUT_NS)

    def holds(self, transaction: Any) -> bool:
        """Tell whether ``release`` has anything to do."""
        return transaction in self._held

    async def _round(self, held: _Held, tables: list[int], exclusive: bool, wait_ns: int) -> bool:
        """Ask every node to block; True once none of them has a conflicting pin left."""
        started_ns = self._scheduler.now_ns()
        request = BlockRequest(held.token, tables, exclusive, wait_ns)
        answers = await self._database.broadcast(BLOCK_TOPIC, _encode(request), ROUND_TIMEOUT_NS)
        decoded = [None if answer is None else _decode_answer(answer) for answer in answers.values()]
        if any(answer is not None and answer.deadlock for answer in decoded):
            raise DeadlockDetected(
                "deadlock detected", hint="A transaction that uses the table waits for this one to end."
            )
        if all(answer is not None and answer.clear for answer in decoded):
            held.confirmed_ns = started_ns
            return True
        return False

    async def _renew_blocks(self, held: _Held) -> bool:
        started_ns = self._scheduler.now_ns()
        clear = True
        for exclusive in (True, False):
            tables = [table for table, mode in held.tables.items() if mode is exclusive]
            if tables:
                clear = await self._round(held, tables, exclusive, 0) and clear
        if clear:
            held.confirmed_ns = started_ns
        return clear

    def _start_renewal(self, transaction: Any, held: _Held) -> None:
        if held.renewing:
            return
        held.renewing = True

        async def renew() -> None:
            try:
                if self._held.get(transaction) is held:
                    await self._renew_blocks(held)
            except DeadlockDetected:
                pass  # the statement that waits finds out by itself
            finally:
                schedule()

        def tick() -> None:
            if self._held.get(transaction) is held:
                self._scheduler.spawn(renew(), "table lock renewal")

        def schedule() -> None:
            if self._held.get(transaction) is held:
                self._scheduler.call_at(self._scheduler.now_ns() + RENEWAL_INTERVAL_NS, tick)

        schedule()

    # ------------------------------------------------------------------------------------------ this node's part

    async def _on_block(self, sender: int, payload: bytes) -> bytes:
        request = _decode_request(payload)
        owner = (sender, request.owner)
        now_ns = self._scheduler.now_ns()
        deadline_ns = now_ns + request.wait_ns
        for table in request.tables:
            block = self._blocks.get(table)
            while block is not None and block.owner != owner:
                if self._scheduler.now_ns() >= deadline_ns:
                    return _encode(BlockAnswer(False))
                await self._wait_until(deadline_ns)
                block = self._blocks.get(table)
            exclusive = request.exclusive or (block is not None and block.exclusive)
            self._set_block(table, _Block(owner, exclusive, now_ns + BLOCK_LEASE_NS))
        while conflicts := self._conflicts(owner, request):
            if any(self._waits_for(transaction, owner) for transaction in conflicts):
                return _encode(BlockAnswer(False, deadlock=True))
            if self._scheduler.now_ns() >= deadline_ns:
                return _encode(BlockAnswer(False))
            await self._wait_until(deadline_ns)
        return _encode(BlockAnswer(True))

    async def _on_release(self, sender: int, payload: bytes) -> bytes:
        owner = (sender, int(msgspec.msgpack.decode(payload)))
        for table in [table for table, block in self._blocks.items() if block.owner == owner]:
            del self._blocks[table]
        self._notify()
        return b"\x01"

    def _is_own(self, transaction: Any, owner: tuple[int, int]) -> bool:
        held = self._held.get(transaction)
        return held is not None and owner == (self._database.node_id, held.token)

    def _blockers(self, transaction: Any, tables: frozenset[int], writes: bool) -> list[_Block]:
        blocks = self._blocks
        return [
            block
            for block in (blocks[table] for table in tables if table in blocks)
            if (writes or block.exclusive) and not self._is_own(transaction, block.owner)
        ]

    def _conflicts(self, owner: tuple[int, int], request: BlockRequest) -> list[Any]:
        """This node's transactions whose pins keep the request waiting."""
        tables = frozenset(request.tables)
        pins = list(self._writers.items())
        if request.exclusive:
            pins += self._readers.items()
        return [
            transaction
            for transaction, pinned in pins
            if not pinned.isdisjoint(tables) and not self._is_own(transaction, owner)
        ]

    def _waits_for(self, transaction: Any, owner: tuple[int, int]) -> bool:
        """Whether the transaction itself waits for something that the owner of the blocks holds."""
        if transaction in self._waiting_for_catalog:
            return True
        tables = self._waiting_to_enter.get(transaction, _NOTHING)
        return any(table in self._blocks and self._blocks[table].owner == owner for table in tables)

    def _set_block(self, table: int, block: _Block) -> None:
        self._blocks[table] = block
        self._scheduler.call_at(block.expires_ns, lambda: self._expire(table, block))

    def _expire(self, table: int, block: _Block) -> None:
        if self._blocks.get(table) is block:
            self._scheduler.spawn(self._lift(table, block), "lapsed table lock")

    async def _lift(self, table: int, block: _Block) -> None:
        """The owner is gone: its DDL may have been committed all the same, so look before letting anybody in."""
        try:
            if self._refresh is not None:
                await self._refresh()
        except Exception:
            again = _Block(block.owner, block.exclusive, self._scheduler.now_ns() + RENEWAL_INTERVAL_NS)
            if self._blocks.get(table) is block:
                self._set_block(table, again)
            return
        if self._blocks.get(table) is block:
            del self._blocks[table]
            self._notify()

    # ------------------------------------------------------------------------------------------ waiting

    def _notify(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set(None)

    def _next_change(self) -> Completion[None]:
        if self._changed is None:
            self._changed = Completion()
        return self._changed

    async def _wait(self, deadline_ns: int | None) -> None:
        if deadline_ns is None:
            await self._next_change()
            return
        if self._scheduler.now_ns() >= deadline_ns:
            raise LockNotAvailable("canceling statement due to lock timeout")
        await self._wait_until(deadline_ns)

    async def _wait_until(self, deadline_ns: int) -> None:
        """Wait for the next change, at most until the deadline."""
        woken: Completion[None] = Completion()
        timer = self._scheduler.call_at(deadline_ns, lambda: woken.set(None))
        self._next_change().on_done(lambda _: woken.set(None))
        try:
            await woken
        finally:
            timer.cancel()
