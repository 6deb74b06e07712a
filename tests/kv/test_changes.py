"""Changes that leaseholders make by themselves, on a simulated cluster: each row once, whatever happens meanwhile.

Every statement adds one to all balances, so that in any snapshot they are equal; and how many statements were acknowledged,
or may have got through, says what they are in the end.  Transactions that lock a balance and write it back make rows that
have changed since the snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydistdb.kv.api import (
    DeadlockDetected,
    LockStrength,
    OutcomeUnknown,
    RangeUnavailable,
    ReadRestart,
    SerializationConflict,
    Transaction,
    TransactionAborted,
)
from pydistdb.kv.changes import Change
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.store import Store
from pydistdb.kv.transport import NodeUnreachable
from pydistdb_storage.engine import Picks

from tests.kv.test_txn_cluster import (
    ACCOUNTS,
    RC,
    RR,
    START_BALANCE,
    World,
    account,
    everything,
    splits,
)

NO_KEY_UPDATE = LockStrength.NO_KEY_UPDATE


class Raising:
    """Adds ``arguments`` to every balance."""

    def __init__(self, fragment: bytes, arguments: bytes) -> None:
        if fragment != b"raise":
            raise ValueError(fragment)
        self.by = int(arguments)
        self.picks: Picks | None = None
        self.keys: list[bytes] = []
        self.values: list[bytes] = []
        self.more: list[tuple[bytes, bytes | None]] = []
        self.size_bytes = 0

    def take(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        self.keys += keys
        self.values += values

    def changes(self, first: int, newest: Sequence[tuple[bytes | None, bool]]) -> list[tuple[int, bytes | None]]:
        found: list[tuple[int, bytes | None]] = []
        for number, (value, changed) in enumerate(newest, first):
            before = value if changed else self.values[number]
            if before is not None:
                found.append((number, b"%d" % (int(before) + self.by)))
        return found


async def raise_all(txn: Transaction, *, lays_down: bool, most: int = 1_000, by: int = 1) -> int:
    """One statement over all balances; returns how many it has changed."""
    start, end = account(0), account(999)
    count = 0
    writes: dict[bytes, bytes | None] = {}
    while start < end:
        answer = await txn.change(b"raise", b"%d" % by, start, end, NO_KEY_UPDATE, most=most, lays_down=lays_down)
        assert answer is not None
        count += answer.changed
        writes |= answer.writes
        if answer.resume is None:
            break
        start = answer.resume
    for key, value in writes.items():
        assert value is not None
        txn.put(key, value)
    return count


class ChangeWorld(World):
    """A world whose transfers are statements over all balances."""

    def __init__(self, seed: int, skews_us: tuple[int, int, int] = (0, 0, 0)) -> None:
        self.raised = self.perhaps = 0
        super().__init__(seed, skews_us)

    def _open(self, store: Store) -> None:
        super()._open(store)
        self.gateways[store.node_id].server.changes.start = Raising

    async def transfer(self, gateway: Gateway) -> None:
        txn = gateway.begin(self.rand.choice((RC, RC, RR)))
        committing = False
        try:
            txn.begin_statement()
            lays_down = self.rand.random() < 0.7
            assert await raise_all(txn, lays_down=lays_down, most=self.rand.choice((1, 3, 100))) == ACCOUNTS
            committing = True
            await txn.commit()
            if self.alive(gateway):
                self.raised += 1
            else:
                self.perhaps += 1
        except OutcomeUnknown:
            self.perhaps += 1
        except (SerializationConflict, DeadlockDetected, TransactionAborted, RangeUnavailable, ReadRestart):
            if committing and not self.alive(gateway):
                self.perhaps += 1
            txn.rollback()

    async def read_all(self, gateway: Gateway) -> None:
        txn = gateway.begin(RR)
        txn.begin_statement()
        floor = self.raised
        try:
            batch = await txn.scan(account(0), account(999), limit=1_000)
        except (ReadRestart, RangeUnavailable, SerializationConflict):
            return
        self.snapshots += 1
        values = set(batch.values)
        if self.alive(gateway) and (len(values) != 1 or int(batch.values[0]) < START_BALANCE + floor):
            self.failures.append(f"balances {values} after {floor} statements")

    def check(self) -> None:
        gateway = self.gateway()

        async def even_out() -> set[bytes]:
            """What the balances are; then they are put back, for the checks that come."""
            txn = gateway.begin(RR)
            txn.begin_statement()
            found = set((await txn.scan(account(0), account(999), limit=1_000)).values)
            for number in range(ACCOUNTS):
                txn.put(account(number), b"%d" % START_BALANCE)
            await txn.commit()
            return found

        values = self.cluster.run(even_out())
        assert len(values) == 1, f"some rows were changed more often than others: {values}"
        times = int(values.pop()) - START_BALANCE
        assert self.raised <= times <= self.raised + self.perhaps, f"{times}, {self.raised} and {self.perhaps} perhaps"
        self.cluster.advance(20)
        super().check()


@pytest.mark.parametrize(("seed", "trouble"), [(2, splits), (3, everything)], ids=["splits", "everything"])
def test_every_row_once(seed: int, trouble: object) -> None:
    world = ChangeWorld(seed, (0, 40_000, -60_000))
    world.run_clients(4, trouble, 3)
    world.check()
    assert world.raised > 10 and world.snapshots > 10


def balances(world: ChangeWorld) -> set[bytes]:
    async def read() -> set[bytes]:
        txn = world.gateways[1].begin(RR)
        while True:
            try:
                txn.begin_statement()
                return set((await txn.scan(account(0), account(999), limit=1_000)).values)
            except ReadRestart:
                txn = world.gateways[1].begin(RR)

    return world.cluster.run(read())


def test_a_request_that_comes_twice_changes_nothing_twice() -> None:
    """While the transaction is open its own intents tell; when it is over, its record."""
    world = ChangeWorld(11)
    cluster, gateway = world.cluster, world.gateways[2]
    sent: list[Change] = []
    send = gateway.router.send

    async def noting(request: object, **options: object) -> object:
        answer = await send(request, **options)  # type: ignore[arg-type]
        if isinstance(request, Change):
            sent.append(request)  # and was not too wide for its range
        return answer

    gateway.router.send = noting  # type: ignore[method-assign]

    async def history() -> None:
        txn = gateway.begin(RC)
        txn.begin_statement()
        assert await raise_all(txn, lays_down=True) == ACCOUNTS
        for request in list(sent):
            again = await send(request)
            assert (again.count, again.refused) == (0, False)
        await txn.commit()

    cluster.run(history())
    cluster.advance(1)
    assert balances(world) == {b"%d" % (START_BALANCE + 1)}
    for request in sent:
        request.uncertainty_limit = request.read_timestamp
        with pytest.raises(TransactionAborted):
            cluster.run(send(request))
    assert balances(world) == {b"%d" % (START_BALANCE + 1)}


def test_a_lost_answer_takes_the_transaction_along() -> None:
    """The intents of a request whose answer did not come are dropped, and the same statement can be run again."""
    world = ChangeWorld(12)
    cluster, gateway = world.cluster, world.gateways[2]
    call = gateway.router._transport.call
    lost: list[object] = []

    async def losing(node_id: int, request: object) -> object:
        answer = await call(node_id, request)  # type: ignore[arg-type]
        if isinstance(request, Change) and not lost:
            lost.append(answer)
            raise NodeUnreachable(node_id)
        return answer

    gateway.router._transport.call = losing  # type: ignore[method-assign, assignment]

    async def statement() -> None:
        txn = gateway.begin(RC)
        txn.begin_statement()
        try:
            await raise_all(txn, lays_down=True)
            await txn.commit()
        except TransactionAborted:
            txn.rollback()
            raise

    with pytest.raises(TransactionAborted):
        cluster.run(statement())
    assert lost, "no range of another node was changed"
    assert balances(world) == {b"%d" % START_BALANCE}
    cluster.run(statement())
    world.raised = 1
    world.check()


def test_rows_that_come_back_are_the_transactions_own_writes() -> None:
    """Without laying down, savepoints take a statement back like any other."""
    world = ChangeWorld(13)
    cluster, gateway = world.cluster, world.gateways[3]

    async def history() -> None:
        txn = gateway.begin(RC)
        txn.begin_statement()
        mark = txn.savepoint()
        assert await raise_all(txn, lays_down=False, by=5) == ACCOUNTS
        # Under its own writes the transaction reads the rows itself.
        assert await txn.change(b"raise", b"1", account(0), account(3), NO_KEY_UPDATE, most=9) is None
        txn.rollback_to(mark, release_locks=True)
        txn.begin_statement()
        assert await raise_all(txn, lays_down=False, by=2) == ACCOUNTS
        await txn.commit()

    cluster.run(history())
    assert balances(world) == {b"%d" % (START_BALANCE + 2)}


def test_refusals() -> None:
    world = ChangeWorld(14)
    txn = world.gateways[2].begin(RC)
    txn.begin_statement()
    for fragment, by in ((b"unknown", b"1"), (b"raise", b"x")):
        change = txn.change(fragment, by, account(0), account(999), NO_KEY_UPDATE, most=9, lays_down=True)
        assert world.cluster.run(change) is None
    world.cluster.run(txn.commit())
    assert balances(world) == {b"%d" % START_BALANCE}


def test_what_a_transaction_left_behind_is_cleared_away_together() -> None:
    """The next statement that wants the rows resolves them range by range, not row by row."""
    world = ChangeWorld(15)
    cluster, gateway = world.cluster, world.gateways[2]
    resolved: list[int] = []
    for each in world.gateways.values():
        resolver = each.server.resolver

        async def counting(*given: Any, resolve: Any = resolver.resolve_keys) -> None:
            resolved.append(len(given[2]))
            await resolve(*given)

        resolver.resolve_keys = counting  # type: ignore[method-assign, assignment]

    async def history() -> None:
        left = gateway.begin(RC)
        left.begin_statement()
        assert await raise_all(left, lays_down=True) == ACCOUNTS
        assert left.known_id is not None
        gateway.active.pop(left.known_id)  # its coordinator is dead
        txn = gateway.begin(RC)
        txn.begin_statement()
        assert await raise_all(txn, lays_down=True) == ACCOUNTS
        await txn.commit()

    cluster.run(history())
    assert balances(world) == {b"%d" % (START_BALANCE + 1)}
    assert sum(resolved) >= ACCOUNTS and len(resolved) <= 6, resolved
