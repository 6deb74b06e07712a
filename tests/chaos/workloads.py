"""What the clients of a chaos run do; check.py says for each what must hold.

A workload makes its tables, gives every client a step to repeat, and reads everything in the end.  Tables are cut into several
ranges from the start, so that most transactions take part in several.
"""

from __future__ import annotations

import itertools
import threading
from typing import Any

from psycopg.errors import UniqueViolation

from tests.chaos.client import Attempt, Client, Connection, NotDone

SERIALIZABLE, REPEATABLE_READ, READ_COMMITTED = "SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED"
LEVELS = (SERIALIZABLE, REPEATABLE_READ, READ_COMMITTED)


class Workload:
    """One kind of clients; ``name`` is the key in check.CHECKS."""

    name = ""
    tables: tuple[str, ...] = ()

    def header(self) -> dict[str, Any]:
        return {"workload": self.name}

    def set_up(self, connection: Connection) -> None:
        for table in self.tables:
            connection.execute(f"CREATE TABLE {table}")  # type: ignore[arg-type]

    def step(self, client: Client) -> None:
        """Make one operation."""
        raise NotImplementedError

    def final(self, client: Client) -> None:
        """Read what the check needs at the end."""


class Bank(Workload):
    """Transfers between accounts, and reads of all of them."""

    name = "bank"
    accounts = 8
    balance = 50
    tables = ("bank (id int PRIMARY KEY, balance int NOT NULL)",)

    def header(self) -> dict[str, Any]:
        return {"workload": self.name, "accounts": self.accounts, "total": self.accounts * self.balance}

    def set_up(self, connection: Connection) -> None:
        super().set_up(connection)
        for account in range(self.accounts):
            query = f"INSERT INTO {self.table(account)} VALUES (%s, %s)"
            connection.execute(query, (self.row(account), self.balance))  # type: ignore[arg-type]

    def table(self, account: int) -> str:
        return "bank"

    def row(self, account: int) -> int:
        return account

    def read_all(self, attempt: Attempt) -> dict[str, int]:
        return {str(account): balance for account, balance in attempt.rows("SELECT id, balance FROM bank")}

    def step(self, client: Client) -> None:
        if client.rand.random() < 0.35:
            self.final(client)
            return
        source, target = client.rand.sample(range(self.accounts), 2)
        amount, level = client.rand.randint(1, 20), client.rand.choice(LEVELS)
        with client.operation("transfer", {"from": source, "to": target, "amount": amount, "level": level}) as attempt:
            attempt.begin(level)
            self._transfer(attempt, source, target, amount, level)
            attempt.commit()

    def _transfer(self, attempt: Attempt, source: int, target: int, amount: int, level: str) -> None:
        if level == READ_COMMITTED:
            take = f"UPDATE {self.table(source)} SET balance = balance - %s WHERE id = %s AND balance >= %s"
            if attempt.execute(take, (amount, self.row(source), amount)) == 0:
                raise NotDone("not enough")
            give = f"UPDATE {self.table(target)} SET balance = balance + %s WHERE id = %s"
            attempt.execute(give, (amount, self.row(target)))
            return
        balances = []
        for account in (source, target):
            query = f"SELECT balance FROM {self.table(account)} WHERE id = %s"
            balances.append(attempt.rows(query, (self.row(account),))[0][0])
        if balances[0] < amount:
            raise NotDone("not enough")
        for account, balance in ((source, balances[0] - amount), (target, balances[1] + amount)):
            attempt.execute(
                f"UPDATE {self.table(account)} SET balance = %s WHERE id = %s", (balance, self.row(account))
            )

    def final(self, client: Client) -> None:
        with client.operation("read", {"balances": {}}) as attempt:
            attempt.value["balances"] = self.read_all(attempt)


class BankOfManyTables(Bank):
    """The same with a table per account."""

    name = "bank-multitable"
    accounts = 5
    tables = tuple(f"bank_{n} (id int PRIMARY KEY, balance int NOT NULL)" for n in range(accounts))

    def table(self, account: int) -> str:
        return f"bank_{account}"

    def row(self, account: int) -> int:
        return 1

    def read_all(self, attempt: Attempt) -> dict[str, int]:
        queries = (f"SELECT {n}, balance FROM bank_{n}" for n in range(self.accounts))
        return {str(account): balance for account, balance in attempt.rows(" UNION ALL ".join(queries))}


class ListAppend(Workload):
    """SERIALIZABLE transactions of one to four reads of lists and appends to them."""

    name = "list-append"
    tables = ("lists (key int PRIMARY KEY, items int[] NOT NULL)",)
    active = 5
    steps_per_key = 80

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def step(self, client: Client) -> None:
        with client.operation("txn", {"steps": []}) as attempt:
            attempt.begin(SERIALIZABLE)
            for _ in range(client.rand.randint(1, 4)):
                number = next(self._count)
                key = number // self.steps_per_key + client.rand.randrange(self.active)
                if client.rand.random() < 0.5:
                    attempt.value["steps"].append(["append", str(key), number])
                    attempt.execute(
                        "INSERT INTO lists VALUES (%s, ARRAY[%s::int]) "
                        "ON CONFLICT (key) DO UPDATE SET items = lists.items || EXCLUDED.items",
                        (key, number),
                    )
                else:
                    found = attempt.rows("SELECT items FROM lists WHERE key = %s", (key,))
                    attempt.value["steps"].append(["r", str(key), found[0][0] if found else []])
            attempt.commit()

    def final(self, client: Client) -> None:
        with client.operation("final", {"lists": {}}) as attempt:
            attempt.value["lists"] = {str(key): items for key, items in attempt.rows("SELECT key, items FROM lists")}


class Register(Workload):
    """Reads, writes and compare-and-set of single rows, one statement each."""

    name = "register"
    tables = ("registers (key int PRIMARY KEY, value int NOT NULL)",)
    active = 3
    operations_per_key = 60

    def __init__(self) -> None:
        self._count = itertools.count(1)
        self._last_seen: dict[int, int] = {}

    def step(self, client: Client) -> None:
        number = next(self._count)
        key = number // self.operations_per_key * self.active + client.rand.randrange(self.active)
        kind = client.rand.choice(("read", "read", "write", "cas"))
        if kind == "read":
            with client.operation("read", {"key": key, "value": None}) as attempt:
                found = attempt.rows("SELECT value FROM registers WHERE key = %s", (key,))
                if found:
                    attempt.value["value"] = self._last_seen[key] = found[0][0]
        elif kind == "write":
            with client.operation("write", {"key": key, "to": number}) as attempt:
                attempt.execute(
                    "INSERT INTO registers VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value",
                    (key, number),
                )
        elif key in self._last_seen:
            with client.operation("cas", {"key": key, "from": self._last_seen[key], "to": number}) as attempt:
                update = "UPDATE registers SET value = %s WHERE key = %s AND value = %s"
                if attempt.execute(update, (number, key, attempt.value["from"])) == 0:
                    raise NotDone("another value")


class Set(Workload):
    """Inserts of different numbers into a table without a key, and reads of all."""

    name = "set"
    tables = ("elements (element int NOT NULL)",)

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def step(self, client: Client) -> None:
        if client.rand.random() < 0.2:
            self.final(client)
            return
        number = next(self._count)
        with client.operation("add", {"element": number}) as attempt:
            attempt.execute("INSERT INTO elements VALUES (%s)", (number,))

    def final(self, client: Client) -> None:
        with client.operation("read", {"elements": []}) as attempt:
            attempt.value["elements"] = [element for (element,) in attempt.rows("SELECT element FROM elements")]


class UniqueInsert(Workload):
    """Several clients insert the same key at the same time."""

    name = "unique-insert"
    tables = ("unique_keys (owner bigint PRIMARY KEY, key int NOT NULL UNIQUE)",)
    keys_per_second = 3

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def step(self, client: Client) -> None:
        key = int(client.clock.now() * self.keys_per_second)
        owner = next(self._count)
        with client.operation("insert", {"key": key, "owner": owner}) as attempt:
            try:
                attempt.execute("INSERT INTO unique_keys VALUES (%s, %s)", (owner, key))
            except UniqueViolation as error:
                raise NotDone(str(error)) from None

    def final(self, client: Client) -> None:
        with client.operation("final", {"rows": []}) as attempt:
            attempt.value["rows"] = [[key, owner] for owner, key in attempt.rows("SELECT owner, key FROM unique_keys")]


class Sequential(Workload):
    """Each client inserts its numbers in order into several tables; others look for them from the last to the first."""

    name = "sequential"
    table_count = 4
    depth = 5
    tables = tuple(f"sequence_{n} (client int, number int, PRIMARY KEY (client, number))" for n in range(table_count))

    def __init__(self) -> None:
        self._newest: dict[int, int] = {}

    def step(self, client: Client) -> None:
        if self._newest and client.rand.random() < 0.5:
            self._read(client, client.rand.choice(list(self._newest)))
            return
        number = self._newest.get(client.process, 0)
        done = False
        with client.operation("insert", {"client": client.process, "number": number}) as attempt:
            try:
                query = f"INSERT INTO sequence_{number % self.table_count} VALUES (%s, %s)"
                attempt.execute(query, (client.process, number))
            except UniqueViolation:
                pass  # an insert whose answer was lost
            done = True
        if done:
            self._newest[client.process] = number + 1

    def _read(self, client: Client, other: int) -> None:
        newest = self._newest[other]
        with client.operation("read", {"client": other, "newest_first": []}) as attempt:
            for number in range(newest, max(newest - self.depth, -1), -1):
                query = f"SELECT 1 FROM sequence_{number % self.table_count} WHERE client = %s AND number = %s"
                attempt.value["newest_first"].append(bool(attempt.rows(query, (other, number))))


class LongFork(Workload):
    """Inserts of single keys, and snapshots of the groups they are of."""

    name = "long-fork"
    tables = ("forks (key int PRIMARY KEY)",)
    group_size = 4

    def __init__(self) -> None:
        self._count = itertools.count(0)
        self._lock = threading.Lock()
        self._newest = 0

    def step(self, client: Client) -> None:
        if client.rand.random() < 0.3:
            self._newest = number = next(self._count)
            with client.operation("insert", {"key": self._key(number)}) as attempt:
                attempt.execute("INSERT INTO forks VALUES (%s)", (self._key(number),))
            return
        group = max(0, self._newest // self.group_size - client.rand.randrange(2))
        keys = [self._key(group * self.group_size + n) for n in range(self.group_size)]
        client.rand.shuffle(keys)
        with client.operation("read", {"group": group, "found": []}) as attempt:
            attempt.begin(client.rand.choice(LEVELS[:2]))
            for key in keys:
                if attempt.rows("SELECT key FROM forks WHERE key = %s", (key,)):
                    attempt.value["found"].append(key)
            attempt.commit()

    def _key(self, number: int) -> int:
        """Neighbours lie in different ranges."""
        return number // self.group_size + number % self.group_size * 10_000


class WriteSkew(Workload):
    """Two transactions per pair look whether the other one is there, and insert if not."""

    name = "write-skew"
    tables = (
        "skew_a (id bigserial PRIMARY KEY, pair int NOT NULL)",
        "skew_b (id bigserial PRIMARY KEY, pair int NOT NULL)",
    )
    pairs_per_second = 2

    def set_up(self, connection: Connection) -> None:
        super().set_up(connection)
        connection.execute("CREATE INDEX skew_a_pair ON skew_a (pair)")

    def step(self, client: Client) -> None:
        pair = int(client.clock.now() * self.pairs_per_second)
        side = client.rand.choice("ab")
        with client.operation("insert", {"pair": pair, "side": side}) as attempt:
            attempt.begin(SERIALIZABLE)
            for table in client.rand.sample(("skew_a", "skew_b"), 2):
                if attempt.rows(f"SELECT id FROM {table} WHERE pair = %s", (pair,)):
                    raise NotDone("somebody was first")
            attempt.execute(f"INSERT INTO skew_{side} (pair) VALUES (%s)", (pair,))
            attempt.commit()

    def final(self, client: Client) -> None:
        with client.operation("final", {"rows": []}) as attempt:
            found = attempt.rows("SELECT pair, 'a' FROM skew_a UNION ALL SELECT pair, 'b' FROM skew_b")
            attempt.value["rows"] = [list(row) for row in found]


WORKLOADS: dict[str, type[Workload]] = {
    workload.name: workload
    for workload in (
        Bank,
        BankOfManyTables,
        ListAppend,
        Register,
        Set,
        UniqueInsert,
        Sequential,
        LongFork,
        WriteSkew,
    )
}
