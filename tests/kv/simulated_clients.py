"""The clients of the simulation (simulate.py) that keep a history of their own, each with what must hold of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydistdb.kv.api import Isolation, KVError, LockStrength, OutcomeUnknown, ReadRestart
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.hlc import COUNTER_BITS
from pydistdb.kv.txn.coordinator import Coordinator
from pydistdb_storage import mvcc

from tests.chaos import lists
from tests.chaos.history import FAILED, OK, UNKNOWN, Operation
from tests.chaos.lists import ABORTED, COMMITTED, Transaction
from tests.kv.trouble import Canceled

if TYPE_CHECKING:
    from tests.kv.simulate import Simulation

LISTS = 8
ACCOUNTS = 8
REGISTERS = 3


def list_key(number: int) -> bytes:
    return b"\x04list%03d" % number


def account(number: int) -> bytes:
    return b"\x04acc%03d" % number


def mark(name: str) -> bytes:
    return b"\x04mark" + name.encode()


def register(number: int) -> bytes:
    return b"\x04reg%03d" % number


def parsed(value: bytes | None) -> list[int]:
    return [int(item) for item in value.split(b",")] if value else []


class Lists:
    """SERIALIZABLE transactions of one to five reads of lists and appends to them (tests/chaos/lists.py judges them)."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.history: list[Transaction] = []

    async def step(self, gateway: Gateway) -> None:
        """A transaction of one to five reads and appends."""
        me = Transaction(f"T{len(self.history)}", outcome=ABORTED)
        self.history.append(me)
        txn = gateway.begin(Isolation.SERIALIZABLE)
        own: dict[str, list[int]] = {}
        committing = False
        try:
            txn.begin_statement()
            for step in range(self.simulation.rand.randint(1, 5)):
                if self.simulation.wide and self.simulation.rand.random() < 0.2:
                    await self._step_back(txn, me, own, step)
                await self._step(txn, me, own, step)
                if self.simulation.rand.random() < 0.2:
                    await self.simulation.pause(30)
            committing = txn.has_writes
            await txn.commit()
            me.outcome = COMMITTED if self.simulation.is_alive(gateway) else lists.UNKNOWN
        except OutcomeUnknown:
            me.outcome = lists.UNKNOWN
        except Canceled:
            me.outcome = lists.UNKNOWN if committing else ABORTED
            txn.rollback()
        except (KVError, ReadRestart) as error:
            me.error = f"{type(error).__name__} at node {gateway.node_id}: {error}"
            if committing and not self.simulation.is_alive(gateway):
                me.outcome = lists.UNKNOWN
            txn.rollback()

    async def _step_back(self, txn: Coordinator, me: Transaction, own: dict[str, list[int]], step: int) -> None:
        """Append something that nobody may ever see, and return to a savepoint."""
        rand, number = self.simulation.rand, self.simulation.rand.randrange(LISTS)
        mark = txn.savepoint()
        if rand.random() < 0.5:
            await txn.lock([list_key(number)], rand.choice(list(LockStrength)))
        [value] = await txn.get_many([list_key(number)])
        self._note_read(me, own, number, value)
        unseen = int(me.name[1:]) * 10 + 5 + step
        txn.put(list_key(number), b"%s,%d" % (value, unseen) if value else b"%d" % unseen)
        txn.rollback_to(mark, release_locks=rand.random() < 0.5)

    async def _step(self, txn: Coordinator, me: Transaction, own: dict[str, list[int]], step: int) -> None:
        number = self.simulation.rand.randrange(LISTS)
        choice = self.simulation.rand.random()
        if choice < 0.2:
            last = self.simulation.rand.randint(number, LISTS)
            reverse = self.simulation.rand.random() < 0.5
            batch = await txn.scan(list_key(number), list_key(last), limit=100, reverse=reverse)
            found = dict(zip(batch.keys, batch.values, strict=True))
            for read in range(number, last):
                self._note_read(me, own, read, found.get(list_key(read)))
            return
        [value] = await txn.get_many([list_key(number)])
        self._note_read(me, own, number, value)
        if choice < 0.6:
            return
        if self.simulation.rand.random() < 0.3:
            await txn.lock([list_key(number)], LockStrength.UPDATE)
        name = f"x{number}"
        appended = int(me.name[1:]) * 10 + step
        me.appends.append((name, appended))
        own.setdefault(name, []).append(appended)
        txn.put(list_key(number), b"%s,%d" % (value, appended) if value else b"%d" % appended)

    def _note_read(self, me: Transaction, own: dict[str, list[int]], number: int, value: bytes | None) -> None:
        name = f"x{number}"
        values = parsed(value)
        mine = own.get(name, [])
        if mine:
            if values[-len(mine) :] != mine:
                self.simulation.problems.append(f"{me.name} does not see its own {mine} in {values}")
            return
        me.reads.append((name, values))


class Past:
    """Reads in the past, at the nearest copy, which must show what the leaseholders have for that time in the end."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.reads: list[tuple[int, bytes, dict[bytes, bytes]]] = []
        """The timestamp, where they began, and all that they found."""
        self.tokens: dict[int, int] = {}
        """Of sessions: no read of theirs may be older."""
        self.served = 0

    async def step(self, gateway: Gateway) -> None:
        """Read accounts or lists as they were a while ago."""
        rand = self.simulation.rand
        session = rand.randrange(3)
        token = self.tokens.get(session, 0)
        ago = rand.randint(0, rand.choice((1_000, 100_000, 3_000_000))) << COUNTER_BITS
        kind = rand.choice(("exact", "bounded", "session", "eventual"))
        match kind:
            case "exact":
                at = gateway.now() - ago
                txn = gateway.begin_stale(Isolation.REPEATABLE_READ, lambda: at, exact=True)
            case "bounded":
                txn = gateway.begin_stale(Isolation.REPEATABLE_READ, lambda: gateway.now() - ago)
            case "session":
                txn = gateway.begin_stale(Isolation.REPEATABLE_READ, lambda: token)
            case _:
                txn = gateway.begin_stale(Isolation.REPEATABLE_READ, lambda: 0)
        name = rand.choice((account, list_key))
        found: dict[bytes, bytes] = {}
        try:
            txn.begin_statement()
            txn.schema_checked = True
            if rand.random() < 0.5:
                batch = await txn.scan(name(0), name(999), limit=100, reverse=rand.random() < 0.5)
                found.update(zip(batch.keys, batch.values, strict=True))
            else:
                keys = [name(number) for number in range(ACCOUNTS)]
                values = await txn.get_many(keys)
                found.update({key: value for key, value in zip(keys, values, strict=True) if value is not None})
        except KVError:
            return
        if not self.simulation.is_alive(gateway):
            return
        self.reads.append((txn.read_timestamp, name(0), found))
        self.served += sum(txn.served.values())
        if kind == "session":
            if txn.read_timestamp < token:
                self.simulation.problems.append(f"a session that has seen {token} reads at {txn.read_timestamp}")
            self.tokens[session] = max(txn.read_timestamp, self.tokens.get(session, 0))

    def check(self) -> None:
        """Compare what was read in the past with what the leaseholders have for that time now."""
        for timestamp, first, found in self.reads:
            last = first[:-3] + b"999"
            expected: dict[bytes, bytes] = {}
            for store in self.simulation.cluster.stores():
                for replica in store.leased_replicas():
                    start, end = max(first, replica.descriptor.start), min(last, replica.descriptor.end)
                    if start < end:
                        part = mvcc.scan(store.engine.latest(), start, end, timestamp, 100)
                        expected.update(zip(part.keys, part.values, strict=True))
            if found != expected:
                self.simulation.problems.append(f"at {timestamp} a copy showed {found}, in the end it is {expected}")


class Registers:
    """Reads and writes of single keys, one statement each; every key must be linearizable (tests/chaos/registers.py)."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.history: list[Operation] = []

    async def step(self, gateway: Gateway) -> None:
        """One read or write of a single key, as one statement."""
        number, me = self.simulation.rand.randrange(REGISTERS), len(self.history)
        writes = self.simulation.rand.random() < 0.5
        value: dict[str, Any] = {"key": number, "to": me} if writes else {"key": number, "value": None}
        operation = Operation(
            me, "write" if writes else "read", value, OK, self.simulation.seconds(), node=str(gateway.node_id)
        )
        self.history.append(operation)
        txn = gateway.begin(Isolation.READ_COMMITTED)
        try:
            at_least = 0
            while True:
                try:
                    txn.begin_statement(at_least)
                    if writes:
                        txn.put(register(number), b"%d" % me)
                    else:
                        [found] = await txn.get_many([register(number)])
                        value["value"] = None if found is None else int(found)
                    await txn.commit()
                    break
                except ReadRestart as restart:
                    at_least = restart.timestamp
        except OutcomeUnknown:
            operation.outcome = UNKNOWN
        except Canceled:
            operation.outcome = UNKNOWN
            txn.rollback()
        except KVError as error:
            operation.outcome, operation.error = FAILED, repr(error)
            txn.rollback()
        if not self.simulation.is_alive(gateway):  # nobody has heard its answer
            operation.outcome = UNKNOWN
        operation.end = self.simulation.seconds()
