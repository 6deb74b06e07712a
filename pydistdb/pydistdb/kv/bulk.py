"""Writes that need neither locks nor checks, on the leaseholder: rows loaded into a place that nobody else knows of yet, spans
that nobody can see any more, and the question what became of a load.

All of it may be done twice without harm, so an outcome that is not known is told as ``ProposalLost``: ask again.
"""

from __future__ import annotations

from itertools import islice

from pydistdb_storage.engine import Space
from pydistdb_storage.keys import prefix_end
from pydistdb_storage.mvcc import versioned

from pydistdb.kv.answers import TOO_LATE, Applied, Number, WrongRange
from pydistdb.kv.api import OutcomeUnknown
from pydistdb.kv.command import ProposalLost
from pydistdb.kv.command import Write as EngineWrite
from pydistdb.kv.descriptor import FIRST_SPLIT_KEY
from pydistdb.kv.leases import Leases
from pydistdb.kv.requests import ClearRange, Ingest, QueryVersion
from pydistdb.kv.versions import Feature
from pydistdb.tasks import Completion

_VERSIONS = int(Space.VERSIONS)
_INTENTS = int(Space.INTENTS)

CLEARED_VERSIONS = 4_000
"""What one proposal clears at the most: some ten milliseconds of the commit thread."""


class BulkWriter:
    """Evaluates Ingest, ClearRange and QueryVersion."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    async def ingest(self, request: Ingest) -> Applied:
        leases = self._leases
        leases.hear(request.timestamp)
        entries = request.entries
        local = leases.need(entries[0][0])
        keys = [key for key, _ in entries]
        local.check_span(min(keys), max(keys))
        timestamp = request.timestamp
        if timestamp <= leases.closed() or timestamp <= local.lease_start:
            # Followers may have read at a later one already (closed.py).
            return Applied(0, TOO_LATE)
        effect: list[EngineWrite] = [(_VERSIONS, versioned(key, timestamp), value) for key, value in entries]
        await _repeatable(local.propose(effect, timestamp))
        return Applied(timestamp)

    async def clear_range(self, request: ClearRange) -> Applied:
        """Clear the first CLEARED_VERSIONS of the span, or so many intents: more would hold up everybody's commits.

        A range that begins in the span was cut off for what is cleared: that may be merged again."""
        leases = self._leases
        local = leases.need(request.start)
        if not (local.start <= request.start and request.end <= local.end):
            raise WrongRange(local.described)
        local.check_lease()
        snapshot = leases.latest()
        ends = []
        for space, suffix_bytes in ((Space.VERSIONS, 8), (Space.INTENTS, 0)):
            beyond = next(islice(snapshot.scan(space, request.start, request.end), CLEARED_VERSIONS, None), None)
            if beyond is not None:
                ends.append(beyond[0][: len(beyond[0]) - suffix_bytes])
        resume = min(ends, default=b"")
        if resume == request.start:  # a single row with that many versions
            resume = prefix_end(resume)
        span = (request.start, resume or request.end)
        clears = [(_VERSIONS, *span), (_INTENTS, *span)]
        cleared = local.propose([], leases.clock.now(), clears)

        def forget(done: Completion[None]) -> None:
            if done.error() is None:
                local.intents.forget(*span)

        cleared.on_done(forget)
        is_cut_off = request.start == local.start > FIRST_SPLIT_KEY and not local.replica.descriptor.automatic
        if is_cut_off and leases.is_active(Feature.LOOSE_RANGES):
            await _repeatable(local.loosen())
        await _repeatable(cleared)
        return Applied(0, resume)

    async def query_version(self, request: QueryVersion) -> Number:
        """1 if the version is there, 0 if it is not and never will be."""
        leases = self._leases
        while True:
            local = leases.need(request.key)
            group = local.pending.of_key(request.key, request.timestamp)
            if group is None:
                break
            await group.done
        local.check_lease()
        data = leases.latest().get(Space.VERSIONS, versioned(request.key, request.timestamp))
        return Number(0 if data is None else 1)


async def _repeatable(proposed: Completion[None]) -> None:
    """Wait for a proposal that may be made twice without harm."""
    try:
        await proposed
    except OutcomeUnknown as error:
        raise ProposalLost("the outcome of a proposal is not known yet") from error
