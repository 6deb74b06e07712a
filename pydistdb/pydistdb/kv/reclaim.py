"""Row locks whose leaseholder has died, taken anew by the next one before it grants any.

Theory of operation
-------------------
Row locks live in the memory of the leaseholder (locks.py).  Those of a leaseholder that dies are known all the same, to the
gateways of the transactions that hold them.  So a new leaseholder asks every live node which locks of its range the node's
transactions have, before it locks, prepares or commits anything there; the transactions find their locks unbroken, and their
clients notice nothing::

    lease of term 5   t1 of node B: FOR UPDATE k      B notes: k under (range 7, term 5, generation 3)
                      (the leaseholder dies)
    lease of term 6   t2: FOR UPDATE k                "what did you hold in range 7 under term 5, generation 3?"   → B: k
                                                      k is t1's again; t2 stands behind it

A claim is good only if the lock was held until the lease of term 5 had ended, and nobody else had a lease since:

* The last entry in the log before the new leaseholder's own is of term 5.  Every leaseholder has committed an entry of its term
  (but for the first one of a split's right part: where the log is empty the last lease, if there was one, is of term 1).
* The generation is the same: neither a split nor a merge has moved the key from one lock table to another.
* The lock was not let go behind the transaction's back.  A leaseholder does so for a gateway that it cannot hear.  Before it
  does, it writes a record ABORTED (``Records.forsake``), which the next leaseholder finds; commits find it, too.  Transactions
  so old that it may be gone again claim nothing.
* The transaction does not let go of locks before its commit is durable (``starts_anew``): it would not know whose they are.

What a node does not tell within ANSWERS_NS is lost, and those transactions fail when they commit.  The asking waits for the
first request that needs locks, so ranges that nobody writes to ask nobody.

The idea: a file server's grace period after its restart (NFS version 4, RFC 7530, 9.6.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from pydistdb.kv.answers import StillWaiting
from pydistdb.kv.api import KVError
from pydistdb.kv.descriptor import NodeId
from pydistdb.kv.leases import Leases, bounded
from pydistdb.kv.locks import HeldLocks, conflicts
from pydistdb.kv.names import LeaseName, TransactionId
from pydistdb.kv.range_local import RangeLocal
from pydistdb.kv.records import Records, RecordState
from pydistdb.kv.transport import Message, NodeUnreachable, register
from pydistdb.kv.versions import Feature
from pydistdb.tasks import Completion, gather, with_deadline

ANSWERS_NS = (200_000_000, 1_000_000_000)
"""How long a new leaseholder waits for what a live node has to say, and, since messages get lost, the second time."""

MAX_CLAIMED = 10_000
"""Locks that one node tells of for one range; a transaction's locks go together."""


class ClaimLocks(Message):
    """Asked of every node by a new leaseholder: what do your transactions hold under this earlier lease?"""

    lease: LeaseName


class ClaimedLocks(Message):
    locks: HeldLocks


register(ClaimLocks, ClaimedLocks)


@runtime_checkable
class LockHolder(Protocol):
    """A transaction at its gateway."""

    @property
    def known_id(self) -> TransactionId:
        """Tell its id."""

    def locked_under(self, lease: LeaseName) -> dict[bytes, int]:
        """Tell what it locked under a lease and may claim: key → strength."""


class Reclaimer:
    """Takes the locks of earlier leases anew, for the ranges whose leases this node holds."""

    def __init__(self, leases: Leases, records: Records) -> None:
        self._leases = leases
        self._records = records

    async def settle(self, local: RangeLocal, call_deadline_ns: int = 0) -> None:
        """Wait until the locks of the lease before are known, as far as they ever will be."""
        reclaim = local.reclaim
        if reclaim is None:
            reclaim = local.reclaim = Completion()
            self._leases.scheduler.spawn(self._reclaim(local, reclaim), "reclaim row locks")
        if not call_deadline_ns:
            await reclaim
            return
        left_ns = call_deadline_ns - self._leases.scheduler.now_ns()
        if not await bounded(self._leases.scheduler, reclaim, max(left_ns, 1)):
            raise StillWaiting("row locks are being reclaimed")

    async def _reclaim(self, local: RangeLocal, reclaim: Completion[None]) -> None:
        leases = self._leases
        try:
            sender, generation = leases.sender, local.replica.descriptor.generation
            if sender is not None and leases.is_active(Feature.RECLAIMED_LOCKS):
                request = ClaimLocks(LeaseName(local.range_id, local.replica.previous_epoch, generation))
                answers = await gather(leases.scheduler, [self._ask(node, request) for node in sender.node_ids()])
                if not local.detached and local.replica.descriptor.generation == generation:
                    for claimed in answers:
                        self._take(local, claimed)
        finally:
            local.locks_known = True
            reclaim.set(None)
        if len(local.locks):
            leases.locks_taken(local)

    async def _ask(self, node: NodeId, request: ClaimLocks) -> HeldLocks:
        sender, scheduler = self._leases.sender, self._leases.scheduler
        assert sender is not None
        for answer_ns in ANSWERS_NS:
            asking = scheduler.spawn(sender.ask_node(node, request), "ask what a node holds")
            late = NodeUnreachable(node, "it did not answer in time")
            answer: Completion[Any] = with_deadline(scheduler, asking.completion, scheduler.now_ns() + answer_ns, late)
            try:
                found: HeldLocks = (await answer).locks
                return found
            except KVError:
                continue
        return {}

    def _take(self, local: RangeLocal, claimed: HeldLocks) -> None:
        """Hold what a node has told of."""
        for transaction_id in list(claimed):
            record = self._records.find(local, transaction_id)
            if record is not None and record.state == RecordState.ABORTED:
                del claimed[transaction_id]
        for keys in claimed.values():
            for key in keys:
                # Two claims that exclude each other cannot both be right: neither is heeded.
                for holder in local.locks.holders(key):
                    if conflicts(keys[key], local.locks.holds(holder, key)):
                        local.locks.release_keys(holder, [key])
                        keys[key] = 0
        local.locks.take({owner: {k: s for k, s in keys.items() if s} for owner, keys in claimed.items()})


def claims_of(holders: Iterable[object], lease: LeaseName) -> HeldLocks:
    """What this node's transactions hold under a lease; ``holders`` may be of other kinds, too."""
    found: HeldLocks = {}
    count = 0
    for holder in holders:
        if isinstance(holder, LockHolder):
            keys = holder.locked_under(lease)
            if keys and count + len(keys) <= MAX_CLAIMED:
                found[holder.known_id] = keys
                count += len(keys)
    return found
