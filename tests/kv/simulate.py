"""Transactions on a simulated cluster under every kind of trouble at once, and checkers of what clients saw.

    python -m tests.kv.simulate --seed 7          replays one history exactly (make sim SEED=7)
    python -m tests.kv.simulate --seeds 0..200    many; a failed one is named, with the way to replay it

Clients, each through some node's gateway:

* append: SERIALIZABLE transactions that read lists, by key and by span, and append to some (tests/chaos/lists.py
  looks for cycles);
* transfer: between accounts, at all levels; what any snapshot shows must add up to the same, also read by parallel scans;
* stale: reads in the past, at the nearest copy: by session token, within a bound, at an exact time, or at any.  Each must
  show what the leaseholders' stores show at its timestamp in the end, so nothing may have been written below it since;
* prepare (``--prepares``): transfers that are prepared by name, and later committed or rolled back through some other node;
* load (tests/kv/loads.py): rows laid down early on keys that nobody else knows; whoever scans them sees all or none;
* register: single reads and writes at READ COMMITTED; each key must be linearizable (tests/chaos/registers.py);
* rows (tests/kv/row_clients.py, ``--wide``): row locks of all strengths, foreign keys, unique keys, queues, ``write_ack = all``;
* trouble (tests/kv/trouble.py): crashes, partitions of both and of one direction, loss and delay, disks that are slow, full or
  fail, clocks that jump, splits, replicas and leases that move; with ``--wide``, statements that are cancelled on their way.

In the end everything is mended; then no intent, record of a coordinator, or acknowledged write may be missing or left.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any

from pydistdb.kv import names
from pydistdb.kv.api import Isolation, KVError, LockStrength, OutcomeUnknown, PreparedMissing, ReadRestart
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.operations import Operations
from pydistdb.kv.store import Store
from pydistdb.kv.txn.coordinator import Coordinator
from pydistdb.sql.exec.scatter import scatter
from pydistdb.tasks import Task, sleep
from pydistdb_storage.engine import Space

from tests.chaos.history import OK
from tests.chaos.lists import COMMITTED, check
from tests.chaos.registers import check_registers
from tests.kv.loads import MIDDLE_ROW, Loads
from tests.kv.row_clients import BOUNDARIES, Rows
from tests.kv.simulated_clients import ACCOUNTS, LISTS, Lists, Past, Registers, account, list_key, mark, parsed
from tests.kv.simulated_tallies import TALLIES, Tallies, tally
from tests.kv.trouble import HARSH, Canceled, InjectedFailure, Trouble
from tests.support.cluster import SECOND, Cluster

BALANCE = 100
CLIENTS = 8
RESTARTS = 20
LEVELS = (Isolation.READ_COMMITTED, Isolation.REPEATABLE_READ, Isolation.SERIALIZABLE)


class ConnectionBroken(KVError):
    """What the clients of a node that dies notice at once."""


class Simulation:
    """One cluster, its clients, and what they know for sure.

    ``harsh``: three to five nodes, short logs, and all kinds of trouble; otherwise three nodes and the milder kinds.
    ``wide``: harsh, and all the rest: every client, every fault, clocks that begin anywhere and go fast or slow."""

    def __init__(
        self,
        seed: int,
        *,
        looks_back: bool = True,
        prepares: bool = False,
        harsh: bool = False,
        reshapes: bool = False,
        loads: bool = False,
        crowds: bool = False,
        wide: bool = False,
    ) -> None:
        names._counter = itertools.count(1)  # part of every transaction's id: the history must not depend on it
        self.rand = random.Random(seed)
        if wide:
            harsh = reshapes = loads = prepares = True
        self.wide = wide
        self.harsh = harsh
        self.reshapes = reshapes
        self.cluster = Cluster(seed, config=HARSH if harsh else None)
        self.cluster.clocks_drift = wide
        self.gateways: dict[int, Gateway] = {}
        self.operations: dict[int, Operations] = {}
        self.cluster.on_open.append(self._open)
        self.cluster.on_crash.append(self._crashed)
        self.under_way: dict[Task[None], Gateway] = {}
        """What clients do just now, and through which node."""
        self.trouble = Trouble(self)
        self.cluster.start(3 + seed % 3 if harsh else 3)
        self.lists = Lists(self)
        self.past = Past(self)
        self.registers = Registers(self)
        self.problems: list[str] = []
        self.looks_back = looks_back
        self.transfers = 0
        self.snapshots = 0
        self.clients = 0
        self.stopping = False
        self.prepares = prepares
        self.loads = Loads(self) if loads else None
        self.tallies = Tallies(self) if crowds else None
        self.rows = Rows(self) if wide else None
        self.names = 0
        self.prepared: dict[str, bool] = {}
        """Transfers that somebody is to finish by name, and whether it is certain that they are prepared now."""
        self.attempts: dict[str, int] = {}
        """How often somebody has tried to finish one."""
        self.finished: dict[str, bool] = {}
        """Whether a prepared transfer was committed, where that was acknowledged."""
        gateway = self.gateways[1]
        self.cluster.run(gateway.ingest([(account(n), b"%d" % BALANCE) for n in range(ACCOUNTS)]))
        splits = [account(3), list_key(0), list_key(3), list_key(6)]
        if loads:
            splits.append(MIDDLE_ROW)
        if wide:
            splits += BOUNDARIES
        self.cluster.run(gateway.split(splits))

    def _open(self, store: Store) -> None:
        old = self.gateways.get(store.node_id)
        if old is not None:
            old.stop()
        gateway = self.gateways[store.node_id] = Gateway(store)
        gateway.start()
        self.operations[store.node_id] = Operations(store, gateway)

    def gateway(self) -> Gateway | None:
        running = [node.node_id for node in self.cluster.nodes.values() if node.running and not node.scheduler.stopped]
        return self.gateways[self.rand.choice(running)] if running else None

    def is_alive(self, gateway: Gateway) -> bool:
        return any(node.running and self.gateways[node.node_id] is gateway for node in self.cluster.nodes.values())

    async def pause(self, most_ms: int) -> None:
        await sleep(self.cluster.scheduler, self.rand.randint(1, most_ms) * 1_000_000)

    # ---------------------------------------------------------------------------------------------------- clients

    async def transfer(self, gateway: Gateway, name: str = "") -> None:
        """Move money from one account to another; with a name, prepare that and leave a mark."""
        txn = gateway.begin(self.rand.choice(LEVELS))
        keys = [account(n) for n in self.rand.sample(range(ACCOUNTS), 2)]
        amount = self.rand.randint(1, 20)
        try:
            txn.begin_statement()
            if txn.isolation is Isolation.SERIALIZABLE and self.rand.random() < 0.7:
                values = await txn.get_many(keys)
            else:
                values = [(await txn.lock([key], LockStrength.NO_KEY_UPDATE))[0].value for key in keys]
            for key, value, sign in zip(keys, values, (-1, 1), strict=True):
                assert value is not None
                txn.put(key, b"%d" % (int(value) + sign * amount))
            if name:
                txn.insert(mark(name), b"here")
                self.prepared[name] = False
                await txn.prepare(name, b"")
                if name in self.prepared and name not in self.attempts:
                    self.prepared[name] = self.is_alive(gateway)
            else:
                await txn.commit()
            self.transfers += 1
        except (KVError, ReadRestart, Canceled) as error:
            if self.is_alive(gateway) and not isinstance(error, OutcomeUnknown | Canceled):
                self.prepared.pop(name, None)
            txn.rollback()

    async def finish(self) -> None:
        """Commit or roll back what was prepared, sometimes while it is still being prepared, or by two at once."""
        self.clients += 1
        while not self.stopping:
            await self.pause(200)
            gateway = self.gateway()
            if gateway is not None and self.prepared:
                await self._through(gateway, self._finish(gateway, self.rand.choice(list(self.prepared))))
        self.clients -= 1

    async def _finish(self, gateway: Gateway, name: str) -> None:
        commit = self.rand.random() < 0.6
        certain, self.prepared[name] = self.prepared.get(name, False), False  # from here on it may be finished
        self.attempts[name] = self.attempts.get(name, 0) + 1
        try:
            await gateway.finish_prepared(name, commit, lambda found: None)
        except PreparedMissing:
            if certain and self.attempts[name] == 1:
                self.problems.append(f"{name} is lost")
        except KVError:
            return
        else:
            if self.is_alive(gateway) and self.finished.setdefault(name, commit) is not commit:
                self.problems.append(f"{name} was both committed and rolled back")
            self.prepared.pop(name, None)

    async def add_up(self, gateway: Gateway) -> None:
        txn = gateway.begin(self.rand.choice(LEVELS[1:]))
        restarted = 0
        for _ in range(RESTARTS):
            try:
                txn.begin_statement(restarted)
                batch = await txn.scan(account(0), account(999), limit=100, reverse=self.rand.random() < 0.5)
                break
            except ReadRestart as restart:
                restarted = restart.timestamp
            except KVError:
                return
        else:
            self.problems.append("a read is restarted for ever")
            return
        self._check_total(gateway, txn, map(int, batch.values))

    def _check_total(self, gateway: Gateway, txn: Coordinator, balances: Iterable[int]) -> None:
        if self.is_alive(gateway):
            self.snapshots += 1
            total = sum(balances)
            if total != ACCOUNTS * BALANCE:
                self.problems.append(f"the accounts add up to {total} at {txn.read_timestamp}")

    async def add_up_in_lanes(self, gateway: Gateway) -> None:
        """The same by a parallel scan, which may have enough before its end: then, and after an error, its lanes are stopped."""
        txn = gateway.begin(self.rand.choice(LEVELS))
        most = self.rand.choice((ACCOUNTS, self.rand.randrange(ACCOUNTS)))
        found: list[int] = []

        async def lane(number: int) -> AsyncIterator[int]:
            batch = await txn.scan(account(number), account(number + 1), limit=100)
            for value in batch.values:
                yield int(value)

        async def lanes() -> AsyncIterator[AsyncIterator[int]]:
            for number in range(ACCOUNTS):
                yield lane(number)

        stream = scatter(gateway.leases.scheduler, lanes(), ordered=self.rand.random() < 0.5)
        try:
            txn.begin_statement()
            while len(found) < most:
                found.append(await anext(stream))
        except (KVError, ReadRestart):
            return
        finally:
            await stream.aclose()
        if most == ACCOUNTS:
            self._check_total(gateway, txn, found)

    def seconds(self) -> float:
        return self.cluster.scheduler.now_ns() / SECOND

    async def client(self) -> None:
        self.clients += 1
        try:
            while not self.stopping:
                gateway = self.gateway()
                if gateway is not None:
                    actions = [self.lists.step, self.lists.step, self.transfer, self.add_up]
                    if self.looks_back:
                        actions.append(self.past.step)
                    if self.harsh:
                        actions.append(self.registers.step)
                    if self.loads is not None:
                        actions += [self.loads.load, self.loads.look]
                    if self.tallies is not None:
                        actions += [self.tallies.step] * 2 * len(actions)
                    if self.rows is not None:
                        actions += [self.add_up_in_lanes, *self.rows.actions()]
                    action = self.rand.choice(actions)
                    name = ""
                    if self.prepares and action == self.transfer and self.rand.random() < 0.5:
                        self.names += 1
                        name = f"p{self.names}"
                    await self._through(gateway, self.transfer(gateway, name) if name else action(gateway))
                await self.pause(20)
        except Exception as error:
            self.problems.append("".join(traceback.format_exception(error)))
        finally:
            self.clients -= 1

    async def _through(self, gateway: Gateway, work: Coroutine[Any, None, None]) -> None:
        """Have something done through a node, until it dies."""
        task = gateway.leases.scheduler.spawn(work, "client")
        self.under_way[task] = gateway
        self.trouble.cancel_some_time(task)
        try:
            await task.completion
        except (ConnectionBroken, Canceled):
            pass
        finally:
            del self.under_way[task]

    def _crashed(self, node_id: int) -> None:
        for task, gateway in self.under_way.items():
            if gateway.node_id == node_id:
                task.cancel(ConnectionBroken("the node has died"))

    # ---------------------------------------------------------------------------------------------------- running

    def run(self, seconds: float) -> None:
        cluster = self.cluster
        for _ in range(CLIENTS):
            cluster.scheduler.spawn(self.client(), "client")
        if self.prepares:
            for _ in range(2):
                cluster.scheduler.spawn(self.finish(), "finisher")
        end = cluster.scheduler.now_ns() + int(seconds * SECOND)
        while cluster.scheduler.now_ns() < end and not self.problems:
            self.trouble.hurt()
            cluster.advance(self.rand.choice((0.01, 0.1, 0.5, 1.5)) * self.rand.random())
        self._mend()
        self._check()

    def _mend(self) -> None:
        cluster = self.cluster
        self.trouble.end()
        cluster.advance(5)
        self.stopping = True
        if self.prepares:
            cluster.run(self._finish_rest(), 120)
        cluster.wait_until(lambda: self.clients == 0, 120)
        cluster.advance(60)

    async def _finish_rest(self) -> None:
        """What is still prepared must be there, and goes; until a look that began after all clients had ended finds nothing."""
        while True:
            nobody_prepares = self.clients == 0
            gateway = self.gateway()
            assert gateway is not None
            certain = [name for name, is_certain in self.prepared.items() if is_certain]
            names = {found.name for found in await gateway.prepared_transactions()}
            self.problems += [f"{name} is lost" for name in certain if self.prepared.get(name) and name not in names]
            if nobody_prepares and not names:
                return
            for name in sorted(names):
                await self._finish(gateway, name)
            await sleep(self.cluster.scheduler, SECOND)

    async def _check_marks(self) -> None:
        gateway = self.gateway()
        assert gateway is not None
        txn = gateway.begin(Isolation.READ_COMMITTED)
        txn.begin_statement()
        names = list(self.finished)
        for name, value in zip(names, await txn.get_many([mark(name) for name in names]), strict=True):
            if (value is not None) is not self.finished[name]:
                self.problems.append(f"{name} was {'committed' if self.finished[name] else 'rolled back'}, but is not")
        if await gateway.prepared_transactions():
            self.problems.append("something is still prepared")

    def _check(self) -> None:
        problems = self.problems
        if self.prepares:
            self.cluster.run(self._check_marks())
        problems += [
            f"a node stopped: {error!r}"
            for error in self.cluster.fatal_errors
            if not isinstance(error, InjectedFailure)
        ]
        balances, lists, tallies = self.cluster.run(self._final())
        self.past.check()
        if self.loads is not None and (known := self.gateway()):
            self.cluster.run(self.loads.look(known))
        if self.rows is not None and (known := self.gateway()):
            self.cluster.run(self.rows.check(known))
        if sum(map(int, balances)) != ACCOUNTS * BALANCE:
            problems.append(f"in the end the accounts are {balances}")
        problems += check(self.lists.history, {f"x{n}": parsed(value) for n, value in enumerate(lists)})
        problems += check_registers(self.registers.history)
        if self.tallies is not None:
            problems += self.tallies.check([parsed(value) for value in tallies])
        for store in self.cluster.stores():
            left = sum(1 for _ in store.engine.latest().scan(Space.INTENTS, b"", b"\xff\xff"))
            if left:
                problems.append(f"node {store.node_id} has {left} intents left")
        for gateway in self.gateways.values():
            if gateway.active:
                problems.append(f"node {gateway.node_id} has not forgotten {len(gateway.active)} transactions")
            problems += [f"a lock is left in {local.start!r}" for local in gateway.leases.all() if len(local.locks)]
        if problems:
            raise AssertionError("\n".join(problems[:10]))

    async def _final(self) -> tuple[list[bytes], list[bytes | None], list[bytes | None]]:
        gateway = self.gateway()
        assert gateway is not None
        txn = gateway.begin(Isolation.REPEATABLE_READ)
        txn.begin_statement()
        while True:
            try:
                batch = await txn.scan(account(0), account(999), limit=100)
                lists = await txn.get_many([list_key(n) for n in range(LISTS)])
                return batch.values, lists, await txn.get_many([tally(n) for n in range(TALLIES)])
            except ReadRestart as restart:
                txn.begin_statement(restart.timestamp)

    def counts(self) -> dict[str, int]:
        """What was done, for a summary."""
        return {
            "seeds": 1,
            "SERIALIZABLE transactions": sum(transaction.outcome == COMMITTED for transaction in self.lists.history),
            "transfers": self.transfers,
            "snapshots of all accounts": self.snapshots,
            "reads in the past": len(self.past.reads),
            "prepared": len(self.finished),
            "reads and writes of registers": sum(operation.outcome == OK for operation in self.registers.history),
            "additions to hot lists": sum(e.outcome == OK for e in self.tallies.history) if self.tallies else 0,
            "faults": self.trouble.faults,
            "statements cancelled": self.trouble.canceled,
            **(self.rows.counts if self.rows is not None else {}),
        }

    def digest(self) -> str:
        """Tells two histories apart."""
        crowd = self.tallies.history if self.tallies is not None else None
        return hashlib.sha256(repr((self.lists.history, self.registers.history, crowd)).encode()).hexdigest()[:12]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kv.simulate", description="Simulate transactions.")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--seeds", help="A..B: all of these, both ends included")
    parser.add_argument("--prepares", action="store_true", help="prepare half of the transfers by name")
    parser.add_argument("--seconds", type=float, default=20.0, help="simulated time before everything is mended")
    parser.add_argument("--mild", action="store_true", help="three nodes, no failing disks, clocks within the bound")
    parser.add_argument("--go-on", action="store_true", help="with the next seed when one has failed")
    parser.add_argument("--reshape", action="store_true", help="with many splits and merges")
    parser.add_argument("--crowd", action="store_true", help="with many clients on two keys")
    parser.add_argument("--wide", action="store_true", help="every client and every fault that there is")
    parser.add_argument("--rest", type=float, default=0.0, help="seconds of real time to pause between seeds")
    options = parser.parse_args(arguments)
    first, _, last = (options.seeds or f"{options.seed}..{options.seed}").partition("..")
    failed: list[int] = []
    totals: Counter[str] = Counter()
    for seed in range(int(first), int(last) + 1):
        try:
            simulation = Simulation(
                seed,
                prepares=options.prepares,
                harsh=not options.mild,
                reshapes=options.reshape,
                loads=True,
                crowds=options.crowd,
                wide=options.wide,
            )
            simulation.run(options.seconds)
        except Exception:
            traceback.print_exc()
            flags = f"--seconds {options.seconds:g}{' --mild' * options.mild}{' --prepares' * options.prepares}"
            flags += " --reshape" * options.reshape + " --crowd" * options.crowd + " --wide" * options.wide
            print(f"seed {seed} failed; replay: python -m tests.kv.simulate --seed {seed} {flags}", flush=True)
            failed.append(seed)
            if not options.go_on:
                break
            continue
        totals.update(simulation.counts())
        if options.seeds and totals["seeds"] % 10 == 0:
            print(f"{totals['seeds']} seeds", flush=True)
        if not options.seeds:
            print(f"history {simulation.digest()}")
        time.sleep(options.rest)
    print(
        ", ".join(f"{count} {what}" for what, count in totals.items()) + f"; {len(failed)} seeds failed {failed or ''}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
