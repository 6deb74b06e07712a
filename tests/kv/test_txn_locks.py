"""The lock table: Postgres's conflict table, order of the queue, upgrades, releases (golden script), and a model check."""

from __future__ import annotations

import random
from pathlib import Path

from pydistdb.kv.locks import LockTable, Waiter, conflicts

from tests.support import golden

STRENGTHS = {"key-share": 1, "share": 2, "no-key-update": 3, "update": 4}


class Script:
    """Runs the commands of golden/locks.txt."""

    def __init__(self) -> None:
        self.table = LockTable()
        self.waiters: dict[str, Waiter] = {}
        self.events: list[str] = []

    def run(self, command: golden.Command) -> str:
        words = command.arguments
        match command.name:
            case "lock":
                name, key, strength = words
                if self.table.try_acquire(name.encode(), key.encode(), STRENGTHS[strength]):
                    return "granted"
                waiter = self.waiters[name] = self.table.enqueue(name.encode(), key.encode(), STRENGTHS[strength])
                waiter.granted.on_done(lambda done, name=name: self._note(name, done.error()))  # type: ignore[misc]
                return "waits for " + " ".join(sorted(b.decode() for b in self.table.blockers(waiter)))
            case "release":
                self.events = []
                self.table.release(words[0].encode())
                return " ".join(self.events) or "nobody waited"
            case "cancel":
                self.events = []
                self.table.cancel(self.waiters.pop(words[0]))
                return " ".join(self.events) or "nobody waited"
            case "free":
                name, key, strength = words
                return "yes" if self.table.is_free(name.encode(), key.encode(), STRENGTHS[strength]) else "no"
            case "size":
                return f"{len(self.table)} keys, {self.table.owner_count} owners, {len(self.table.queued)} waiting"
        raise AssertionError(command.name)

    def _note(self, name: str, error: BaseException | None) -> None:
        self.events.append(f"{name} granted" if error is None else f"{name} withdrawn")


def test_golden() -> None:
    golden.run(Script().run, Path(__file__).parent / "golden" / "locks.txt")


def test_conflict_table_is_symmetric_and_postgres() -> None:
    table = [[conflicts(a, b) for b in range(1, 5)] for a in range(1, 5)]
    assert table == [
        [False, False, False, True],
        [False, False, True, True],
        [False, True, True, True],
        [True, True, True, True],
    ]


def test_random_locks_against_the_rules() -> None:
    """Never two conflicting holders; nobody waits for nothing; an empty table at the end."""
    rand = random.Random(5)
    for _ in range(200):
        table = LockTable()
        held: dict[tuple[bytes, bytes], int] = {}
        waiting: list[Waiter] = []
        names = [b"t%d" % n for n in range(5)]
        for _ in range(60):
            name, key, strength = rand.choice(names), rand.choice((b"x", b"y")), rand.randint(1, 4)
            if any(w.transaction_id == name for w in waiting):
                name = b""
            if rand.random() < 0.3:
                victim = rand.choice(names)
                table.release(victim)
                waiting = [w for w in waiting if w.transaction_id != victim]
                held = {pair: s for pair, s in held.items() if pair[0] != victim}
            elif name:
                if table.try_acquire(name, key, strength):
                    held[name, key] = max(strength, held.get((name, key), 0))
                else:
                    waiting.append(table.enqueue(name, key, strength))
            for waiter in list(waiting):
                if waiter.granted.done:
                    waiting.remove(waiter)
                    pair = (waiter.transaction_id, waiter.key)
                    held[pair] = max(waiter.strength, held.get(pair, 0))
                else:
                    assert table.blockers(waiter), "somebody waits for nobody"
            for (a, key_a), strength_a in held.items():
                assert table.holds(a, key_a) == strength_a
                for (b, key_b), strength_b in held.items():
                    assert a == b or key_a != key_b or not conflicts(strength_a, strength_b)
        for name in names:
            table.release(name)
        assert len(table) == 0 and not table.queued and table.owner_count == 0
