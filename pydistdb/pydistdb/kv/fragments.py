"""Work at the data: a leaseholder scans a span and sends back what a fragment makes of the entries.

What a fragment is, this layer does not know: it is bytes that the layer above understands.  It registers a function at
every node that makes a ``FragmentRun`` of them (``FragmentServer.start``); the run is fed the live entries of the span at
the reader's snapshot, by the very code that answers plain scans, so that pending writes, intents, uncertainty and the
lease are seen to in the same way::

    gateway                                leaseholder of [a, m)
    Evaluate([a, m), at T, fragment)  ->   run = start(fragment, arguments)
                                           scan chunk, run.take(keys, values)      until the end, until the run is full,
                                           scan chunk, run.take(keys, values)      or until TURN_NS have passed
    Evaluated(output, resume=f)       <-   run.finish()
    Evaluate([f, m), at T, fragment)  ->   …

One answer speaks for the span up to its ``resume`` and for nothing else.  So an answer that is lost is asked for again,
and where a range was split or has moved in between, the rest is asked of its new leaseholders at the same timestamp.  A run
that cannot go on (it does not know a function, a row raises an error) makes the node refuse: the gateway then reads the
entries themselves, and meets the error where it can be shown.  Only what the run itself raises counts as that: a task that is
told to stop while it waits for entries stops.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from pydistdb_storage.engine import Picks

from pydistdb.kv.answers import Entries
from pydistdb.kv.api import KVError, Timestamp
from pydistdb.kv.leases import Leases
from pydistdb.kv.names import NO_TRANSACTION, TransactionId
from pydistdb.kv.reads import Reader
from pydistdb.kv.requests import Scan
from pydistdb.kv.transport import Message, register
from pydistdb.tasks import gather, pause

CHUNK_ENTRIES = 1_024
LONGEST_NS = 1_000_000_000
"""A chunk that keeps a run busy for longer is left to the gateway, which can be interrupted at any time."""
TURN_NS = 100_000_000
"""How long one request is worked on: then the gateway hears of it, and asks for the rest unless it has been cancelled."""
PAUSE_NS = 3_000_000


class Evaluate(Message):
    """Make of [start, end) what ``fragment`` says; ``arguments`` are its values in this run."""

    start: bytes
    end: bytes
    reverse: bool
    read_timestamp: Timestamp
    uncertainty_limit: Timestamp
    fragment: bytes
    arguments: bytes
    transaction_id: TransactionId = NO_TRANSACTION
    observed: Timestamp = 0

    @property
    def routing_key(self) -> bytes:
        return self.start


class Evaluated(Message):
    """What came of the span up to ``resume`` (None: all of it), out of so many ``entries``."""

    output: bytes
    resume: bytes | None
    entries: int = 0
    observed: Timestamp = 0
    refused: bool = False
    lacking: bool = False
    """The arguments name data that this node has not been given, or not any more: send it along."""
    node: int = 0
    """Who answers: the leaseholder, or a node with a copy (follower.py)."""
    memory_bytes: int = 0
    disk_bytes: int = 0
    """What the run has held at most."""


class Lacking(Exception):
    """Raised by a run whose data is not here."""


class TooLong(Exception):
    """A run is not done with a chunk after LONGEST_NS."""


class Refused(Exception):
    """A run cannot go on here, or takes too long: the gateway finds out why on the entries themselves."""


@contextmanager
def refusing() -> Iterator[None]:
    """Around what a run does: whatever it raises but KVError and Lacking becomes Refused."""
    try:
        yield
    except (KVError, Lacking):
        raise
    except Exception as error:
        raise Refused from error


class FragmentRun(Protocol):
    """One evaluation of a fragment."""

    @property
    def is_upkeep(self) -> bool:
        """Tell whether this is the database's own work, which makes no range a busy one: splitting it would not help."""

    @property
    def picks(self) -> Picks | None:
        """Tell which entries there is a use for (Scan)."""

    def take(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Take a chunk of entries in."""

    def step(self) -> bool:
        """Do a piece of the work that there is; tell whether more is left."""

    def close(self, resume: bytes | None, end: bytes) -> bytes | None:
        """Told up to where entries have come (``resume``; None: up to ``end``), give where the output's span ends, likewise."""

    @property
    def is_full(self) -> bool:
        """Tell whether there is enough output for one answer."""

    def outgoing(self) -> Sequence[tuple[int, bytes]]:
        """Tell which nodes are to be sent what, before the output is given: it says so."""

    def finish(self) -> bytes:
        """Give the output."""

    @property
    def peaks_bytes(self) -> tuple[int, int]:
        """Tell how much it has held at most, in memory and in temporary files."""

    def release(self) -> None:
        """Give everything back; it is over, whatever way."""


class FragmentServer:
    """Evaluates fragments over the ranges that are leased here."""

    def __init__(self, leases: Leases, reader: Reader) -> None:
        self._leases = leases
        self._reader = reader
        self.start: Callable[[bytes, bytes], FragmentRun] | None = None
        """Begins a run from a fragment and its arguments."""
        self.deliver: Callable[[int, bytes], Awaitable[object]] | None = None
        """Has another node take what a run sends it (the gateway); raises ExchangeLost."""

    async def evaluate(self, request: Evaluate, scan: Callable[[Scan], Awaitable[Entries]] | None = None) -> Evaluated:
        """Answer a request; ``scan`` is where the entries come from, if not from a leaseholder's reader."""
        try:
            if self.start is None:
                raise Refused
            with refusing():
                run = self.start(request.fragment, request.arguments)
            try:
                return await self._evaluate(run, request, scan)
            finally:
                run.release()
        except Lacking:
            return Evaluated(b"", request.start, 0, request.observed, lacking=True)
        except Refused:
            return Evaluated(b"", request.start, 0, request.observed, True)

    async def _evaluate(
        self, run: FragmentRun, request: Evaluate, scan: Callable[[Scan], Awaitable[Entries]] | None
    ) -> Evaluated:
        scheduler = self._leases.scheduler
        begun_ns = turn_ns = scheduler.now_ns()
        start, end, reverse = request.start, request.end, request.reverse
        entries = 0
        if scan is None:
            scan = partial(self._reader.scan, counts=not run.is_upkeep)
        while True:
            chunk = await scan(
                Scan(
                    start,
                    end,
                    CHUNK_ENTRIES,
                    reverse,
                    request.read_timestamp,
                    request.uncertainty_limit,
                    request.transaction_id,
                    request.observed,
                    run.picks,
                )
            )
            request.observed = chunk.observed
            entries += len(chunk.keys)
            with refusing():
                run.take(chunk.keys, chunk.values)
            await self._work(run)
            now_ns = scheduler.now_ns()
            if chunk.resume is None or run.is_full or now_ns - begun_ns > TURN_NS:
                return await self._answer(run, chunk, end, entries)
            if reverse:
                end = chunk.resume
            else:
                start = chunk.resume
            if now_ns - turn_ns > PAUSE_NS:
                await pause(scheduler)
                turn_ns = scheduler.now_ns()

    async def _answer(self, run: FragmentRun, chunk: Entries, end: bytes, entries: int) -> Evaluated:
        """What has come of the span up to where its last chunk ends, after other nodes have been sent their parts of it."""
        with refusing():
            resume = run.close(chunk.resume, end)
        await self._work(run)
        with refusing():
            outgoing = run.outgoing()
        if outgoing and self.deliver is not None:
            await gather(self._leases.scheduler, [_delivered(self.deliver, *each) for each in outgoing])
        with refusing():
            output, peaks = run.finish(), run.peaks_bytes
        node = self._leases.node_id
        return Evaluated(output, resume, entries, chunk.observed, False, False, node, *peaks)

    async def _work(self, run: FragmentRun) -> None:
        """Have a run do all that its chunk calls for, with pauses."""
        scheduler = self._leases.scheduler
        begun_ns = turn_ns = scheduler.now_ns()
        while _stepped(run):
            now_ns = scheduler.now_ns()
            if now_ns - begun_ns > LONGEST_NS:
                raise Refused from TooLong()
            if now_ns - turn_ns > PAUSE_NS:
                await pause(scheduler)
                turn_ns = scheduler.now_ns()


def _stepped(run: FragmentRun) -> bool:
    with refusing():
        return run.step()


async def _delivered(deliver: Callable[[int, bytes], Awaitable[object]], node: int, data: bytes) -> None:
    await deliver(node, data)


register(Evaluate, Evaluated)
