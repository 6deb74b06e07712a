"""Clients of the simulation (simulate.py, ``wide``) that do what SQL does with rows: locks, unique keys, foreign keys, queues.

Each has a rule that must hold at every snapshot, and facts that were acknowledged and must be found in the end::

    families   children lock their parent FOR KEY SHARE; who deletes a parent locks it FOR UPDATE, and looks for children
               at a snapshot taken after that (READ COMMITTED) or validated with the commit (SERIALIZABLE): no orphans
    jobs       workers take what is free, by SKIP LOCKED and NOWAIT, delete it and note who did it: once each
    uniques    many insert the same key: one wins
    copies     ``write_ack = all``: what was waited for is on every disk that is to have it
    numbers    sequences: no number is given out twice
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from pydistdb.kv.api import Isolation, KVError, LockStrength, ReadRestart, WaitPolicy
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.range_log import log_span
from pydistdb.kv.txn.coordinator import Coordinator
from pydistdb_storage import mvcc
from pydistdb_storage.engine import Space

from tests.kv.trouble import Canceled

if TYPE_CHECKING:
    from tests.kv.simulate import Simulation

PARENTS = 4
RESTARTS = 20
SECOND = 1_000_000_000


def parent(number: int) -> bytes:
    return b"\x04par%03d" % number


def child(of: int, number: int) -> bytes:
    return b"\x04chi%03d-%05d" % (of, number)


def job(number: int) -> bytes:
    return b"\x04job%05d" % number


def done(number: int) -> bytes:
    return b"\x04don%05d" % number


def unique(number: int) -> bytes:
    return b"\x04uni%05d" % number


BOUNDARIES = [child(2, 0), done(0), job(0), parent(0), parent(2), unique(0)]
"""Children, jobs, what became of them and parents lie in ranges of their own."""


class Rows:
    """All of these clients of one simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._rand = simulation.rand
        self._next = 0
        self.children: dict[bytes, int] = {}
        """Those that were acknowledged, and that nobody has tried to remove; when each began."""
        self.removed: set[bytes] = set()
        """Those that somebody has tried to remove."""
        self.workers: dict[int, int] = {}
        """Job → who did it, acknowledged."""
        self.winners: dict[bytes, int] = {}
        self.numbers: set[int] = set()
        self.copies = 0
        self.counts = {"families": 0, "jobs": 0, "uniques": 0, "copies": 0, "numbers": 0}

    def actions(self) -> list[Callable[[Gateway], Coroutine[Any, None, None]]]:
        families = [self.add_child, self.add_child, self.remove_parent, self.add_parent, self.census]
        return [*families, self.add_job, self.work, self.claim, self.write_to_all, self.draw]

    def _number(self) -> int:
        self._next += 1
        return self._next

    async def _begun(self, txn: Coordinator, gateway: Gateway, first: bytes, last: bytes) -> dict[bytes, bytes] | None:
        """Take a snapshot, and read a span at it."""
        at_least = 0
        for _ in range(RESTARTS):
            try:
                txn.begin_statement(at_least)
                found: dict[bytes, bytes] = {}
                start: bytes | None = first
                while start is not None:
                    batch = await txn.scan(start, last, limit=100)
                    found.update(zip(batch.keys, batch.values, strict=True))
                    start = batch.resume
                return found
            except ReadRestart as restart:
                at_least = restart.timestamp
        self._simulation.problems.append("a read is restarted for ever")
        return None

    # ----------------------------------------------------------------------------------------------------- families

    async def add_parent(self, gateway: Gateway) -> None:
        txn = gateway.begin(self._rand.choice(list(Isolation)))
        try:
            txn.begin_statement()
            txn.insert(parent(self._rand.randrange(PARENTS)), b"here")
            await txn.commit()
        except (KVError, ReadRestart, Canceled):
            txn.rollback()

    async def add_child(self, gateway: Gateway) -> None:
        rand, of = self._rand, self._rand.randrange(PARENTS)
        txn = gateway.begin(rand.choice(list(Isolation)))
        key = child(of, self._number())
        began_ns = self._simulation.cluster.scheduler.now_ns()
        try:
            txn.begin_statement()
            strength = rand.choice((LockStrength.KEY_SHARE, LockStrength.SHARE))
            [locked] = await txn.lock([parent(of)], strength)
            if locked.value is None:
                txn.rollback()
                return
            if rand.random() < 0.3:
                await self._simulation.pause(200)
            txn.insert(key, b"here")
            await txn.commit()
            if self._simulation.is_alive(gateway):
                if key not in self.removed:
                    self.children[key] = began_ns
                self.counts["families"] += 1
        except (KVError, ReadRestart, Canceled):
            txn.rollback()

    async def remove_parent(self, gateway: Gateway) -> None:
        """As a foreign key does: without children (NO ACTION), or with them (CASCADE)."""
        rand, of = self._rand, self._rand.randrange(PARENTS)
        txn = gateway.begin(rand.choice((Isolation.READ_COMMITTED, Isolation.SERIALIZABLE)))
        cascades = rand.random() < 0.7
        try:
            txn.begin_statement()
            [locked] = await txn.lock([parent(of)], LockStrength.UPDATE)
            if rand.random() < 0.3:
                await self._simulation.pause(200)
            if locked.value is not None:
                found = await self._begun(txn, gateway, child(of, 0), child(of, 99_999))
                if found is None or (found and not cascades):
                    txn.rollback()
                    return
                removed = list(found)
                if removed:
                    await txn.lock(removed, LockStrength.UPDATE)
                self.removed.update(removed)
                for key in removed:
                    self.children.pop(key, None)
                    txn.delete(key)
                txn.delete(parent(of))
            await txn.commit()
        except (KVError, ReadRestart, Canceled):
            txn.rollback()

    async def census(self, gateway: Gateway) -> None:
        """No child without its parent, at any snapshot; and all that nobody has removed."""
        txn = gateway.begin(Isolation.REPEATABLE_READ)
        known = dict(self.children)
        clocks_are_right = self._simulation.trouble.clocks_are_right
        try:
            found = await self._begun(txn, gateway, b"\x04chi", b"\x04chj")
            if found is None:
                return
            parents = await txn.get_many([parent(number) for number in range(PARENTS)])
        except (KVError, ReadRestart):
            return
        if not self._simulation.is_alive(gateway):
            return
        problems = self._simulation.problems
        problems += [f"{key!r} has no parent" for key in found if parents[int(key[4:7])] is None]
        missing = [
            key
            for key, began_ns in known.items()
            if key in self.children and key not in found and clocks_are_right(began_ns)
        ]
        if missing:
            problems.append(f"children {missing[:3]} are gone, and nobody has removed them")

    # --------------------------------------------------------------------------------------------------------- jobs

    async def add_job(self, gateway: Gateway) -> None:
        txn = gateway.begin(Isolation.READ_COMMITTED)
        try:
            txn.begin_statement()
            for _ in range(self._rand.randint(1, 3)):
                txn.insert(job(self._number()), b"to do")
            await txn.commit()
        except (KVError, ReadRestart, Canceled):
            txn.rollback()

    async def work(self, gateway: Gateway) -> None:
        """Take a job that nobody works at; sometimes give it back at a savepoint, and take another."""
        rand, me = self._rand, self._number()
        txn = gateway.begin(Isolation.READ_COMMITTED)
        taken: list[int] = []
        try:
            found = await self._begun(txn, gateway, job(0), job(99_999))
            policy = rand.choice((WaitPolicy.SKIP_LOCKED, WaitPolicy.SKIP_LOCKED, WaitPolicy.NOWAIT))
            for key in list(found or ())[:5]:
                mark = txn.savepoint()
                [locked] = await txn.lock([key], LockStrength.UPDATE, policy)
                if locked.skipped or locked.value is None:
                    continue
                txn.delete(key)
                txn.insert(done(int(key[4:])), b"%d" % me)
                if rand.random() < 0.3:
                    txn.rollback_to(mark, release_locks=rand.random() < 0.5)
                    continue
                taken.append(int(key[4:]))
                if rand.random() < 0.7:
                    break
            if rand.random() < 0.3:
                await self._simulation.pause(100)
            await txn.commit()
            if self._simulation.is_alive(gateway):
                for number in taken:
                    if self.workers.setdefault(number, me) != me:
                        self._simulation.problems.append(f"job {number} was done twice")
                    self.counts["jobs"] += 1
        except (KVError, ReadRestart, Canceled):
            txn.rollback()

    # ------------------------------------------------------------------------------------------------------ uniques

    async def claim(self, gateway: Gateway) -> None:
        key = unique(max(0, len(self.winners) + self._rand.randint(-2, 1)))
        me = self._number()
        txn = gateway.begin(self._rand.choice(list(Isolation)))
        try:
            txn.begin_statement()
            if self._rand.random() < 0.5:
                [locked] = await txn.lock([key], LockStrength.UPDATE)
                if locked.value is not None:
                    txn.rollback()
                    return
            txn.insert(key, b"%d" % me)
            if self._rand.random() < 0.3:
                txn.put(done(90_000 + me), b"%d" % me)  # so that it needs two ranges
            await txn.commit()
        except (KVError, ReadRestart, Canceled):
            txn.rollback()
            return
        if self._simulation.is_alive(gateway):
            self.counts["uniques"] += 1
            if self.winners.setdefault(key, me) != me:
                self._simulation.problems.append(f"{key!r} was inserted by two")

    # ------------------------------------------------------------------------------------------- copies and numbers

    async def write_to_all(self, gateway: Gateway) -> None:
        me = self._number()
        key, value = b"\x04cop%03d" % (me % 3), b"copy-%05d" % me
        txn = gateway.begin(Isolation.READ_COMMITTED)
        try:
            txn.begin_statement()
            txn.put(key, value)
            timestamp = await txn.commit()
            missing = await gateway.await_copies([(key, key + b"\0")], 2 * SECOND)
        except (KVError, ReadRestart, Canceled):
            txn.rollback()
            return
        if missing or not self._simulation.is_alive(gateway):
            return
        self.counts["copies"] += 1
        cluster = self._simulation.cluster
        leader = cluster.leaseholder(key)
        if leader is None:
            return
        voters = {replica.node_id for replica in leader.descriptor.voters()}
        for node in cluster.nodes.values():
            if node.node_id not in voters:
                continue
            view = node.engine.latest()
            known = mvcc.get(view, key, mvcc.MAX_TIMESTAMP)
            logged = any(value in data for _, data in view.scan(Space.LOG, *log_span(leader.range_id)))
            if not logged and (known is None or known[1] < timestamp):
                self._simulation.problems.append(f"{value!r} is not on the disk of {node.name}, which was waited for")

    async def draw(self, gateway: Gateway) -> None:
        count = self._rand.randint(1, 5)
        try:
            first = await gateway.allocate_ids(b"numbers", count)
        except KVError:
            return
        if self._simulation.is_alive(gateway):
            self.counts["numbers"] += count
            for number in range(first, first + count):
                if number in self.numbers:
                    self._simulation.problems.append(f"number {number} was given out twice")
                self.numbers.add(number)

    # ------------------------------------------------------------------------------------------------------ the end

    async def check(self, gateway: Gateway) -> None:
        """Everything is mended: what was acknowledged must be there."""
        await self.census(gateway)
        problems = self._simulation.problems
        txn = gateway.begin(Isolation.READ_COMMITTED)
        jobs = await self._begun(txn, gateway, job(0), job(99_999)) or {}
        finished = await self._begun(txn, gateway, done(0), done(80_000)) or {}
        winners = await self._begun(txn, gateway, unique(0), unique(99_999)) or {}
        problems += [f"job {int(key[4:])} is done, and still there" for key in finished if job(int(key[4:])) in jobs]
        for number, worker in self.workers.items():
            if finished.get(done(number)) != b"%d" % worker:
                problems.append(f"job {number} was done by {worker}, not by {finished.get(done(number))!r}")
        for key, winner in self.winners.items():
            if winners.get(key) != b"%d" % winner:
                problems.append(f"{key!r} was won by {winner}, and is {winners.get(key)!r}")
