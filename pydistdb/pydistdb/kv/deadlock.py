"""Waiting for other transactions, and finding out when that can never end.

Every wait of one transaction for others on this node's ranges is an edge of the wait-for graph.  A wait that has lasted
``DEADLOCK_TIMEOUT_NS`` (Postgres's deadlock_timeout) looks for a cycle through itself: first among the waits of this
node, then among those of all nodes.  The youngest transaction of the cycle, and nobody else, gives up::

    A holds x, waits for y      edges A → B, B → A      B began later: B gets DeadlockDetected,
    B holds y, waits for x                              its locks go, A goes on

Edges of different nodes are not read at the same moment, so a cycle that spans nodes counts only if a second reading
shows it again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from pydistdb.kv.answers import Edges, StillWaiting
from pydistdb.kv.api import DeadlockDetected, LockNotAvailable, LockWait
from pydistdb.kv.leases import Leases, bounded
from pydistdb.kv.names import TransactionId, gateway_of
from pydistdb.kv.requests import QuerySession, WaitEdges
from pydistdb.kv.transport import NodeUnreachable, RemoteError
from pydistdb.tasks import Completion

DEADLOCK_TIMEOUT_NS = 1_000_000_000
MAX_EDGES = 100_000

Edge = tuple[TransactionId, TransactionId]


def find_cycle(edges: Iterable[Edge], member: TransactionId) -> list[TransactionId] | None:
    """The transactions of a cycle through ``member``, if there is one."""
    waits_for: dict[TransactionId, list[TransactionId]] = {}
    for waiter, holder in edges:
        waits_for.setdefault(waiter, []).append(holder)
    came_from: dict[TransactionId, TransactionId] = {}
    frontier = [member]
    while frontier:
        waiter = frontier.pop()
        for holder in waits_for.get(waiter, ()):
            if holder == member:
                cycle = [waiter]
                while waiter != member:
                    waiter = came_from[waiter]
                    cycle.append(waiter)
                return cycle
            if holder not in came_from:
                came_from[holder] = waiter
                frontier.append(holder)
    return None


def merged(edges: Iterable[Edge], links: dict[TransactionId, TransactionId]) -> list[Edge]:
    """The edges with every transaction under its session's id, if that holds locks as well."""
    if not links:
        return list(edges)
    return [(links.get(waiter, waiter), links.get(holder, holder)) for waiter, holder in edges]


class WaitGraph:
    """Who waits for whom on this node."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._waits: dict[int, tuple[TransactionId, Callable[[], Iterable[TransactionId]], bytes, int]] = {}
        """The waiter, whom it waits for, and for what: a key and the strength of its lock, if it is a key."""
        self._tokens = itertools.count()
        self.links: Callable[[], list[Edge]] = list
        """Gives (a transaction, its session's id) for sessions of this node that hold locks of their own."""

    def edges(self) -> list[Edge]:
        return list(
            itertools.islice(
                ((waiter, holder) for waiter, blockers, _, _ in self._waits.values() for holder in blockers()),
                MAX_EDGES,
            )
        )

    def waits(self) -> list[LockWait]:
        """The same by wait, for those who watch."""
        return [
            LockWait(waiter, list(blockers()), key, strength)
            for waiter, blockers, key, strength in itertools.islice(self._waits.values(), MAX_EDGES)
        ]

    async def wait(
        self,
        completion: Completion[None],
        transaction_id: TransactionId,
        blockers: Callable[[], Iterable[TransactionId]],
        key: bytes = b"",
        strength: int = 0,
        *,
        since_ns: int = 0,
        until_ns: int = 0,
        lock_deadline_ns: int = 0,
        call_deadline_ns: int = 0,
    ) -> bool:
        """Wait for ``completion``, at most until ``until_ns`` (tells whether it is done).

        ``since_ns``: when the transaction began to wait, if this is not the first call for the same wait.
        Raises DeadlockDetected, LockNotAvailable past ``lock_deadline_ns``, StillWaiting past ``call_deadline_ns``."""
        if completion.done:
            completion.result()
            return True
        scheduler = self._leases.scheduler
        token = next(self._tokens)
        self._waits[token] = (transaction_id, blockers, key, strength)
        now = scheduler.now_ns()
        since_ns = since_ns or now
        check_ns = since_ns + DEADLOCK_TIMEOUT_NS * ((now - since_ns) // DEADLOCK_TIMEOUT_NS + 1)
        try:
            while True:
                limits = [limit for limit in (check_ns, until_ns, lock_deadline_ns, call_deadline_ns) if limit]
                if await bounded(scheduler, completion, max(1, min(limits) - scheduler.now_ns())):
                    return True
                now = scheduler.now_ns()
                if now >= check_ns:
                    cycle = await self._lost_cycle(transaction_id)
                    if cycle is not None:
                        raise DeadlockDetected(await self._describe(cycle))
                    check_ns = scheduler.now_ns() + DEADLOCK_TIMEOUT_NS
                if lock_deadline_ns and now >= lock_deadline_ns:
                    raise LockNotAvailable("canceling statement due to lock timeout")
                if call_deadline_ns and now >= call_deadline_ns:
                    raise StillWaiting("the request waits for another transaction")
                if until_ns and now >= until_ns:
                    return False
        finally:
            del self._waits[token]

    async def _lost_cycle(self, transaction_id: TransactionId) -> list[TransactionId] | None:
        """The cycle that the transaction is in, if it is the one to give up: each waits for the next, the last for it."""
        links = dict(self.links())
        member = links.get(transaction_id, transaction_id)
        cycle = find_cycle(merged(self.edges(), links), member)
        if cycle is None:
            cycle, member = await self._cluster_cycle(transaction_id)
            if cycle is not None:
                again, _ = await self._cluster_cycle(transaction_id)
                cycle = cycle if again is not None and set(again) == set(cycle) else None
        if cycle is None or member != max(cycle):
            return None
        return [member, *reversed(cycle[:-1])]

    async def _describe(self, cycle: list[TransactionId]) -> str:
        """The cycle in Postgres's words."""
        sessions = [await self._session_of(transaction_id) for transaction_id in cycle]
        return "\n".join(
            f"Process {process} waits for ShareLock on transaction {transaction}; blocked by process {blocker}."
            for (process, _), (blocker, transaction) in zip(sessions, [*sessions[1:], sessions[0]], strict=True)
        )

    async def _session_of(self, transaction_id: TransactionId) -> tuple[int, int]:
        """The process id of the session whose transaction it is, and the transaction's xid; 0 if its node does not tell."""
        if self._leases.sender is None:
            return 0, 0
        try:
            answer = await self._leases.sender.ask_node(gateway_of(transaction_id), QuerySession(transaction_id))
        except (NodeUnreachable, RemoteError):
            return 0, 0
        return int(answer.value), int(answer.xid)

    async def _cluster_cycle(self, transaction_id: TransactionId) -> tuple[list[TransactionId] | None, TransactionId]:
        """A cycle through the transaction among the waits of all nodes, and the id it goes by there."""
        edges, links = self.edges(), dict(self.links())
        sender = self._leases.sender
        if sender is not None:
            for node_id in sender.node_ids():
                if node_id != self._leases.node_id and len(edges) < MAX_EDGES:
                    try:
                        answer = await sender.ask_node(node_id, WaitEdges())
                    except (NodeUnreachable, RemoteError):
                        continue
                    if isinstance(answer, Edges):
                        edges.extend(answer.edges)
                        links.update(answer.links)
        member = links.get(transaction_id, transaction_id)
        return find_cycle(merged(edges, links), member), member
