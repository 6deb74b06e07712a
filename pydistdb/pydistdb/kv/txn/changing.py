"""Changes of one transaction that the leaseholders make themselves: UPDATE and DELETE by a condition (kv/changes.py).

::

    change([a, z), laid down or not)      part at a: range 7 [a, m), leader 2
        Change([a, m)) → node 2           laid down: the span is noted for the commit, then for the resolution
                                          else: what came back is locked from now on, and up to the caller to write
        resume, or the next range

What lies under the transaction's own buffered writes is left to the caller, as with fragments.
"""

from __future__ import annotations

from pydistdb.kv.answers import WrongRange
from pydistdb.kv.api import ChangeAnswer, Isolation, LockStrength, TransactionAborted, WaitPolicy
from pydistdb.kv.changes import Change, Changed, ChangedAfterWaits
from pydistdb.kv.descriptor import KEY_MAX
from pydistdb.kv.requests import RangeAround
from pydistdb.kv.txn.writing import WritingPart


class ChangingPart(WritingPart):
    """The changes of a transaction that are made where the rows are (kv.api.Transaction)."""

    __slots__ = ()

    async def change(
        self,
        fragment: bytes,
        arguments: bytes,
        start: bytes,
        end: bytes,
        strength: LockStrength,
        *,
        most: int,
        lays_down: bool = False,
        wait: WaitPolicy = WaitPolicy.WAIT,
    ) -> ChangeAnswer | None:
        router = self._gateway.router
        lower, upper = start, min(end, KEY_MAX)
        while True:
            self._check_open()
            if self._spilling_buffer is not None or (self._buffer.entries and self._buffer.span(start, end)):
                return None
            first, last, *_ = await self.part_at(lower, upper)
            descriptor = await router.locate(first)
            self._lock_starts[descriptor.start] = None
            request = Change(
                self.transaction_id,
                first,
                last,
                self.read_timestamp,
                self._limit(),
                fragment,
                arguments,
                int(strength),
                int(wait),
                self.isolation is Isolation.READ_COMMITTED,
                most,
                self.lock_timeout_ns,
            )
            if lays_down:
                two_phase = self._laying_down()
                request.lays_down = True
                request.sequence = two_phase.open_span(descriptor, first, last)
                request.anchor = two_phase.anchor
            self.waits_since_ns = self._leases.scheduler.now_ns()
            try:
                served = self._laying_down().served if lays_down else None
                answer: Changed = await router.send(request, observed=self._seen(), served=served)
            except WrongRange as wrong:
                lower, upper = self._narrowed(wrong, lower, upper, last, False)
                continue
            except TransactionAborted:
                # The statement will be run again: not before somebody answers for the range.
                await router.send(RangeAround(first))
                raise
            finally:
                self.waits_since_ns = 0
            if answer.refused:
                return None
            if isinstance(answer, ChangedAfterWaits):
                self._note_waits(descriptor.range_id, answer.node, answer.waits, answer.waited_ns)
            if lays_down:
                self._laying_down().note_changed(descriptor, answer.timestamp)
            for key, value, version in answer.writes:
                self._note_lock(key, value, version, strength, answer.lease)
            resume = answer.resume
            self._note_evaluated(first, last if resume is None else resume, answer.entries)
            if resume is None and last < min(end, KEY_MAX):
                resume = last
            writes = {**dict(answer.more), **{key: value for key, value, _ in answer.writes}}
            return ChangeAnswer(answer.count, resume, answer.entries, writes, answer.node)
