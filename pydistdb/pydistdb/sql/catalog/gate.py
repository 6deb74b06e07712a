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
* Transactions wait for one another: who waits here says for which transactions, and the wait is an edge of the kv
  layer's wait-for graph as waits for row locks are.  So one search finds cycles through both, on all nodes.
* Two want to block the same table: the second waits for the first.  That they seldom meet here, and wait in one queue,
  is the doing of the lock that stands for the table (transaction.py), which is taken first.  Blocks in SHARE mode go
  together.
* A transaction that has a table pinned comes to it again while somebody waits for that very pin: it goes on.

A rollback to a savepoint drops the pins and lifts the blocks made since.  For that a transaction's blocks form groups, one
between two savepoints, each of which is an owner of its own to the other nodes.

A prepared transaction has no pins any more, but keeps what it has touched (prepared.py): who has waited for the pins waits for
those transactions too.

A transaction with one snapshot for all its statements (REPEATABLE READ) that comes to a table changed since then fails with
40001: an index made after its snapshot has no entries as old as that, so it would miss rows.

Whatever identifies a transaction must be hashable by identity; sessions pass their kv transaction, whose
``transaction_id`` is what other nodes know it by.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec

from pydistdb.kv import api as kv
from pydistdb.kv.api import Database, Isolation
from pydistdb.sql.catalog.prepared import holders
from pydistdb.sql.catalog.state import CatalogState
from pydistdb.sql.errors import LockNotAvailable, SerializationFailure
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
MOST_RELEASED = 1_000

_NOTHING: frozenset[int] = frozenset()


class BlockRequest(msgspec.Struct, array_like=True):
    owner: int
    tables: list[int]
    exclusive: bool
    wait_ns: int
    transaction_id: bytes = b""


class BlockAnswer(msgspec.Struct, array_like=True):
    clear: bool
    holders: list[bytes] = []
    """The ids of the transactions that are in the way."""


_encode = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(BlockRequest).decode
_decode_answer = msgspec.msgpack.Decoder(BlockAnswer).decode


@dataclass(slots=True, eq=False)
class _Block:
    owner: tuple[int, int]
    exclusive: bool
    expires_ns: int
    transaction_id: bytes


class GateMark(NamedTuple):
    """What ``TableGate.rollback_to`` goes back to: the pins, and how many groups of blocks there were."""

    readers: frozenset[int] | None
    writers: frozenset[int] | None
    groups: int


@dataclass(slots=True, eq=False)
class _Held:
    """What a transaction of this node has blocked everywhere, between two of its savepoints."""

    token: int
    transaction_id: bytes
    tables: dict[int, bool]
    waits_for: dict[int, bool] = field(default_factory=dict)
    """Those of them that somebody still works with."""
    waits_since_ns: int = 0
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
        self._blocks: dict[int, list[_Block]] = {}
        self._held: dict[Any, list[_Held]] = {}
        self._next_token = 0
        self._waiting_to_enter: dict[Any, tuple[frozenset[int], bool, int]] = {}
        """Tables, whether to write, and since when."""
        self._released: deque[tuple[int, int]] = deque(maxlen=MOST_RELEASED)
        """Owners whose requests may still be under way here."""
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
        for held in self._held.get(transaction, ()):
            found += [
                (oid, "AccessExclusiveLock" if exclusive else "ShareLock", oid not in held.waits_for)
                for oid, exclusive in held.tables.items()
            ]
        tables, writes, _ = self._waiting_to_enter.get(transaction, (_NOTHING, False, 0))
        found += [(oid, "RowExclusiveLock" if writes else "AccessShareLock", False) for oid in tables]
        return sorted(found)

    def waits_since_ns(self, transaction: Any) -> int:
        """Since when the transaction waits for a table, by the scheduler's clock; 0: it does not."""
        for held in self._held.get(transaction, ()):
            if held.waits_for:
                return held.waits_since_ns
        return self._waiting_to_enter.get(transaction, (_NOTHING, False, 0))[2]

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
        since_ns = self._scheduler.now_ns()
        while not self.try_enter(transaction, tables, writes):
            self._waiting_to_enter[transaction] = (tables, writes, since_ns)
            try:
                await self._database.wait_for(
                    self._next_change(),
                    transaction,
                    lambda: [block.transaction_id for block in self._blockers(transaction, tables, writes)],
                    since_ns=since_ns,
                    deadline_ns=deadline_ns or 0,
                )
            except kv.LockNotAvailable as error:
                raise LockNotAvailable(str(error)) from None
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

    def savepoint(self, transaction: Any) -> GateMark:
        """What the transaction has pinned and blocked by now; what it blocks from here on can be lifted by itself."""
        groups = self._held.get(transaction)
        if groups is not None and groups[-1].tables:
            groups.append(self._new_group(transaction))
        return GateMark(
            self._readers.get(transaction), self._writers.get(transaction), 0 if groups is None else len(groups) - 1
        )

    def rollback_to(self, transaction: Any, mark: GateMark) -> None:
        """Drop the pins made since ``mark``, and lift the blocks: here at once, elsewhere in the background."""
        for pins, before in ((self._readers, mark.readers), (self._writers, mark.writers)):
            if before is not None:
                pins[transaction] = before
            else:
                pins.pop(transaction, None)
        groups = self._held.get(transaction, [])
        undone = groups[mark.groups :]
        groups[mark.groups :] = [self._new_group(transaction)] if mark.groups else []
        if not groups:
            self._held.pop(transaction, None)
        for held in undone:
            if held.tables:
                self._scheduler.spawn(self._lift_everywhere(held), "table locks given back")
        if self._changed is not None:
            self._notify()

    def pinned(self, transaction: Any) -> frozenset[int]:
        """The tables that the transaction has touched."""
        return self.read_by(transaction) | self.written_by(transaction)

    def read_by(self, transaction: Any) -> frozenset[int]:
        return self._readers.get(transaction, _NOTHING)

    def written_by(self, transaction: Any) -> frozenset[int]:
        return self._writers.get(transaction, _NOTHING)

    # ------------------------------------------------------------------------------------------ DDL

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

        Raises LockNotAvailable past ``deadline_ns``; DeadlockDetected."""
        groups = self._held.get(transaction)
        if groups is None:
            groups = self._held[transaction] = [self._new_group(transaction)]
        wanted = {
            table: exclusive
            for table in tables
            if not any(held.tables.get(table) in (True, exclusive) for held in groups)
        }
        if not wanted:
            return
        held = groups[-1]
        before = dict(held.tables)
        held.tables.update(wanted)
        held.waits_for, held.waits_since_ns = wanted, self._scheduler.now_ns()
        self._start_renewal(transaction, held)
        try:
            await self._block(transaction, held, list(wanted), exclusive, deadline_ns, check_interrupt)
        except BaseException:
            held.tables = before  # what was asked for lapses; a savepoint may let the transaction ask again
            raise
        finally:
            held.waits_for = {}

    async def _block(
        self,
        transaction: Any,
        held: _Held,
        wanted: list[int],
        exclusive: bool,
        deadline_ns: int | None,
        check_interrupt: Callable[[], None] | None,
    ) -> None:
        since_ns = self._scheduler.now_ns()
        in_the_way: list[bytes] = []
        while True:
            asking = self._scheduler.spawn(self._round(held, wanted, exclusive, ROUND_NS), "table lock")
            found = asking.completion
            if not found.done:
                done: Completion[None] = Completion()
                found.on_done(lambda _, done=done: done.set(None))  # type: ignore[misc]
                try:
                    await self._database.wait_for(
                        done, transaction, lambda: in_the_way, since_ns=since_ns, deadline_ns=deadline_ns or 0
                    )
                except kv.LockNotAvailable as error:
                    raise LockNotAvailable(str(error)) from None
            in_the_way[:] = found.result() or ()
            if found.result() is None and not await holders(self._database, wanted, exclusive=exclusive):
                return
            if check_interrupt is not None:
                check_interrupt()
            if deadline_ns is not None and self._scheduler.now_ns() >= deadline_ns:
                raise LockNotAvailable("canceling statement due to lock timeout")
            await sleep(self._scheduler, RETRY_NS)

    async def drain(self, table: int, version: int, check: Callable[[], None] | None = None) -> None:
        """Wait until every writer of the table, on any node, knows catalog version ``version``.

        Nobody is kept from anything: those who come meanwhile know it anyway."""
        payload = msgspec.msgpack.encode((table, version, ROUND_NS))
        left: set[bytes] | None = None
        """Of the writers that were prepared: those that come after this do know the version."""
        while left is None or left:
            if left is None:
                answers = await self._database.broadcast(DRAIN_TOPIC, payload, ROUND_TIMEOUT_NS)
                if all(answer == b"\x01" for answer in answers.values()):
                    left = await holders(self._database, [table], exclusive=False)
                    continue
            else:
                left &= await holders(self._database, [table], exclusive=False)
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
        for held in self._held.get(transaction, ()):
            if not held.tables or self._scheduler.now_ns() - held.confirmed_ns < CONFIRMATION_NS:
                continue
            if not await self._renew_blocks(held):
                raise SerializationFailure(
                    "could not keep the table locked on every node", hint="The transaction might succeed if retried."
                )

    async def release(self, transaction: Any) -> None:
        """Lift the blocks of a transaction that ended, on every node."""
        for held in self._held.pop(transaction, ()):
            await self._lift_everywhere(held)

    async def _lift_everywhere(self, held: _Held) -> None:
        await self._database.broadcast(RELEASE_TOPIC, _encode(held.token), ROUND_TIMEOUT_NS)

    def _new_group(self, transaction: Any) -> _Held:
        self._next_token += 1
        return _Held(self._next_token, transaction.transaction_id, {})

    async def _round(self, held: _Held, tables: list[int], exclusive: bool, wait_ns: int) -> list[bytes] | None:
        """Ask every node to block; who is in the way, or None once none of them has a conflicting pin left."""
        started_ns = self._scheduler.now_ns()
        request = BlockRequest(held.token, tables, exclusive, wait_ns, held.transaction_id)
        answers = await self._database.broadcast(BLOCK_TOPIC, _encode(request), ROUND_TIMEOUT_NS)
        decoded = [None if answer is None else _decode_answer(answer) for answer in answers.values()]
        if all(answer is not None and answer.clear for answer in decoded):
            held.confirmed_ns = started_ns
            return None
        return [holder for answer in decoded if answer is not None for holder in answer.holders]

    async def _renew_blocks(self, held: _Held) -> bool:
        started_ns = self._scheduler.now_ns()
        clear = True
        for exclusive in (True, False):
            tables = [table for table, mode in held.tables.items() if mode is exclusive]
            if tables:
                clear = await self._round(held, tables, exclusive, 0) is None and clear
        if clear:
            held.confirmed_ns = started_ns
        return clear

    def _start_renewal(self, transaction: Any, held: _Held) -> None:
        if held.renewing:
            return
        held.renewing = True

        async def renew() -> None:
            try:
                if is_held():
                    await self._renew_blocks(held)
            finally:
                schedule()

        def is_held() -> bool:
            return held in self._held.get(transaction, ())

        def tick() -> None:
            if is_held():
                self._scheduler.spawn(renew(), "table lock renewal")

        def schedule() -> None:
            if is_held():
                self._scheduler.call_at(self._scheduler.now_ns() + RENEWAL_INTERVAL_NS, tick)

        schedule()

    # ------------------------------------------------------------------------------------------ this node's part

    async def _on_block(self, sender: int, payload: bytes) -> bytes:
        request = _decode_request(payload)
        owner = (sender, request.owner)
        now_ns = self._scheduler.now_ns()
        deadline_ns = now_ns + request.wait_ns
        for table in request.tables:
            while others := self._rivals(table, owner, request):
                if self._scheduler.now_ns() >= deadline_ns or owner in self._released:
                    return _encode(BlockAnswer(False, [block.transaction_id for block in others]))
                await self._wait_until(deadline_ns)
            exclusive = request.exclusive or any(
                block.exclusive for block in self._blocks.get(table, ()) if block.owner == owner
            )
            self._set_block(table, _Block(owner, exclusive, now_ns + BLOCK_LEASE_NS, request.transaction_id))
        while conflicts := self._conflicts(owner, request):
            if self._scheduler.now_ns() >= deadline_ns:
                return _encode(BlockAnswer(False, [transaction.transaction_id for transaction in conflicts]))
            await self._wait_until(deadline_ns)
        return _encode(BlockAnswer(True))

    async def _on_release(self, sender: int, payload: bytes) -> bytes:
        owner = (sender, int(msgspec.msgpack.decode(payload)))
        for table in list(self._blocks):
            self._remove_block(table, owner)
        self._released.append(owner)
        self._notify()
        return b"\x01"

    def _rivals(self, table: int, owner: tuple[int, int], request: BlockRequest) -> list[_Block]:
        """Other transactions' blocks of the table that do not go with the one asked for."""
        return [
            block
            for block in self._blocks.get(table, ())
            if block.owner != owner
            and block.transaction_id != request.transaction_id
            and (request.exclusive or block.exclusive)
        ]

    def _is_own(self, transaction: Any, owner: tuple[int, int]) -> bool:
        node, token = owner
        return node == self._database.node_id and any(held.token == token for held in self._held.get(transaction, ()))

    def _blockers(self, transaction: Any, tables: frozenset[int], writes: bool) -> list[_Block]:
        blocks = self._blocks
        pinned = self._writers.get(transaction, _NOTHING)
        if not writes:
            pinned |= self._readers.get(transaction, _NOTHING)
        return [
            block
            for table in tables
            if table in blocks and table not in pinned
            for block in blocks[table]
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

    def _set_block(self, table: int, block: _Block) -> None:
        self._remove_block(table, block.owner)
        self._blocks.setdefault(table, []).append(block)
        self._scheduler.call_at(block.expires_ns, lambda: self._expire(table, block))

    def _remove_block(self, table: int, owner: tuple[int, int]) -> None:
        left = [block for block in self._blocks.get(table, ()) if block.owner != owner]
        if left:
            self._blocks[table] = left
        else:
            self._blocks.pop(table, None)

    def _expire(self, table: int, block: _Block) -> None:
        if block in self._blocks.get(table, ()):
            self._scheduler.spawn(self._lift(table, block), "lapsed table lock")

    async def _lift(self, table: int, block: _Block) -> None:
        """The owner is gone: its DDL may have been committed all the same, so look before letting anybody in."""
        try:
            if self._refresh is not None:
                await self._refresh()
        except Exception:
            if block in self._blocks.get(table, ()):
                self._set_block(table, replace(block, expires_ns=self._scheduler.now_ns() + RENEWAL_INTERVAL_NS))
            return
        if block in self._blocks.get(table, ()):
            self._remove_block(table, block.owner)
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

    async def _wait_until(self, deadline_ns: int) -> None:
        """Wait for the next change, at most until the deadline."""
        woken: Completion[None] = Completion()
        timer = self._scheduler.call_at(deadline_ns, lambda: woken.set(None))
        self._next_change().on_done(lambda _: woken.set(None))
        try:
            await woken
        finally:
            timer.cancel()
