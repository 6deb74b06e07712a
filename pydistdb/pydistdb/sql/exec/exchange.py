"""A node's part in exchanges: what it is dealt, and what it makes of that.

The gateway of a query drives everything; a node only answers::

    gateway                                        node k of the exchange
    Open(id, part of the plan, arguments)      ->  an empty inbox for each input
    (leaseholders)  Deliver(id, input, block)  ->  into the inbox; answered when it is in memory or on disk
    Draw(id, the attempts that count)          ->  runs the part over its inboxes
                                              <-  rows; or "still at work" after TURN_NS; or "that was all"
    Close(id)                                  ->  everything is given back

Between two Draws nothing runs but the batch that was being made, and no more is made than fits into one answer: who does not
draw is not flooded.  The rows of an answer may be dealt on to another exchange (joins of joins); then the answer is a receipt.

Memory and files are the query's, by its own work_mem, temp_file_limit and proddb.max_query_memory, and the node's.  A gateway
that dies closes nothing: a node that has not heard of an exchange for IDLE_NS asks whether it still runs, and lets go of it if
it does not, or if nobody answers MOST_SILENCES times in a row.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import msgspec

from pydistdb.kv.api import Database, ExchangeLost, KVError
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.exec.dealing import TOPIC, Deliver, Inbox, Sending
from pydistdb.sql.exec.fragment import decode_arguments
from pydistdb.sql.exec.operator import Batch
from pydistdb.sql.exec.part_run import CompiledPart, compiled_part
from pydistdb.sql.exec.tail_run import GroupsTail, RowsTail
from pydistdb.sql.exec.values import batch_bytes
from pydistdb.sql.resources import NodeResources
from pydistdb.tasks import Completion, Scheduler, Task, gather, sleep, with_deadline

TURN_NS = 50_000_000
"""How long a Draw is worked on before the gateway hears of it: it may have been cancelled."""
IDLE_NS = 10_000_000_000
MOST_SILENCES = 2
"""One answer may be lost: the gateway, or the way to it, is busy."""
MOST_OPEN = 1_000
"""Exchanges at one node; a query that would open one more does without."""


class Open(msgspec.Struct, array_like=True, tag="open"):
    exchange: bytes
    part: bytes
    arguments: bytes


class Draw(msgspec.Struct, array_like=True, tag="draw"):
    """``counted``: of every input the attempts that count."""

    exchange: bytes
    counted: list[list[bytes]]


class Close(msgspec.Struct, array_like=True, tag="close"):
    exchange: bytes


class StillRuns(msgspec.Struct, array_like=True, tag="runs"):
    """A node asks the gateway."""

    exchange: bytes


class Drawn(msgspec.Struct, array_like=True):
    output: bytes = b""
    """Rows or a receipt; empty: still at work."""
    done: bool = False
    error: tuple[str, str, str, str] | None = None
    """SQLSTATE, message, detail and hint of what a statement of this kind ends with."""
    memory_bytes: int = 0
    disk_bytes: int = 0
    """What the node has held for the exchange at most."""


encode = msgspec.msgpack.Encoder().encode
decode_message = msgspec.msgpack.Decoder(Open | Deliver | Draw | Close | StillRuns).decode
decode_drawn = msgspec.msgpack.Decoder(Drawn).decode
TAKEN = b"\xc3"
GONE = b"\xc2"
running: set[bytes] = set()
"""The exchanges that queries of this process have under way."""


class _Closed(Exception):
    """The gateway wants no more."""


class _AtWork(Exception):
    """The turn is over."""


def _refuse() -> NoReturn:
    raise _Closed


class Work:
    """This node's part in one exchange."""

    def __init__(self, message: Open, gateway: int, scheduler: Scheduler, node: NodeResources) -> None:
        arguments = decode_arguments(message.arguments)
        self.gateway = gateway
        self.heard_ns = scheduler.now_ns()
        self.silences = 0
        self._scheduler = scheduler
        self.part: CompiledPart = compiled_part(message.part)
        self._most = arguments.wanted
        self.sending: Sending | None = None
        self._to = arguments.deal
        state = self.state = self.part.state(arguments, node, scheduler)
        self._source: AsyncIterator[Batch] | None = None
        self._pending: Task[Batch | None] | None = None
        self.inboxes = [Inbox(codec, state.hold()) for codec in self.part.inputs]
        try:
            held = state.hold()
            for table in (given := self.part.decode_given(arguments.blocks)):
                held.take(table.rows)
            self.part.set_given(given, state)
            self.part.set_inputs(self.inboxes, state)
            self._begin_answer()
        except BaseException:
            self.close()
            raise

    def _begin_answer(self) -> None:
        self.tail: RowsTail = self.part.make(self.part, self.state, self._most)
        self.sending = None if self._to is None else Sending(self._to)

    async def draw(self, message: Draw, deliver: Callable[[int, bytes], Any]) -> Drawn:
        """Go on for a turn, or until an answer is full."""
        scheduler = self._scheduler
        if self._source is None:
            for inbox, counted in zip(self.inboxes, message.counted, strict=True):
                inbox.count(counted)
            self._source = self.part.scan.batches(self.state)
        deadline_ns = scheduler.now_ns() + TURN_NS
        done = False
        while not done and not self.tail.is_full:
            if self._pending is None:
                self._pending = scheduler.spawn(_next(self._source), "part of an exchange")
            within: Completion[Batch | None] = with_deadline(
                scheduler, self._pending.completion, deadline_ns, _AtWork()
            )
            try:
                batch = await within
            except _AtWork:
                return Drawn()
            self.state.run.check_interrupt()
            self._pending = None
            if batch is None:
                done = True
            else:
                self.tail.bytes += batch_bytes(batch)
                self.tail.add(batch)
        output = await self._answer(deliver)
        return Drawn(output, done, None, *self.state.resources.peaks_bytes)

    async def _answer(self, deliver: Callable[[int, bytes], Any]) -> bytes:
        tail, sending = self.tail, self.sending
        self._begin_answer()
        with tail.held:
            if sending is None:
                return tail.finish()
            outgoing = sending.pack(tail.dealt(len(sending.to.nodes)), partial=isinstance(tail, GroupsTail))
        await gather(self._scheduler, [deliver(node, data) for node, data in outgoing])
        return sending.receipt()

    def close(self) -> None:
        """Give everything back, whatever is still at work on it; rows that come from now on are not kept."""
        self.state.run.check_interrupt = _refuse
        if self._pending is not None:
            self._pending.cancel(_Closed())
        self._pending = self._source = None
        for inbox in self.inboxes:
            inbox.close()
        self.state.shared.clear()
        self.state.close()


async def _next(source: AsyncIterator[Batch]) -> Batch | None:
    return await anext(source, None)


class ExchangeServer:
    """All exchanges that a node takes part in; ``handle`` is what it answers with under TOPIC."""

    def __init__(self, database: Database, scheduler: Scheduler, resources: NodeResources) -> None:
        self._database = database
        self._scheduler = scheduler
        self._resources = resources
        self.works: dict[bytes, Work] = {}
        self._is_sweeping = False

    async def handle(self, sender: int, payload: bytes) -> bytes:
        """Answer a message; raises ExchangeLost if the exchange is not, or no more, known here."""
        message = decode_message(payload)
        if isinstance(message, StillRuns):
            return TAKEN if message.exchange in running else GONE
        if isinstance(message, Open):
            return self._open(message, sender)
        work = self.works.get(message.exchange)
        if isinstance(message, Close):
            self.works.pop(message.exchange, None)
            if work is not None:
                work.close()
            return TAKEN
        if work is None:
            raise ExchangeLost("an exchange is not known here any more")
        work.heard_ns = self._scheduler.now_ns()
        try:
            if isinstance(message, Draw):
                return encode(await work.draw(message, self._deliver))
            work.inboxes[message.input].take(message)
            return TAKEN
        except KVError:
            raise
        except DatabaseError as error:
            if isinstance(message, Draw):
                return encode(Drawn(error=(error.sqlstate, error.message, error.detail or "", error.hint or "")))
            raise ExchangeLost(str(error)) from error
        except Exception as error:  # the gateway does without, and meets it where it can be shown
            raise ExchangeLost(f"{type(error).__name__}: {error}") from error

    def _open(self, message: Open, sender: int) -> bytes:
        if len(self.works) >= MOST_OPEN:
            raise ExchangeLost("too many exchanges")
        try:
            self.works[message.exchange] = Work(message, sender, self._scheduler, self._resources)
        except Exception as error:  # what this node does not know is done by one that does
            raise ExchangeLost(f"{type(error).__name__}: {error}") from error
        if not self._is_sweeping:
            self._is_sweeping = True
            self._scheduler.spawn(self._sweep(), "sweeping exchanges")
        return TAKEN

    async def _deliver(self, node: int, data: bytes) -> None:
        await self._database.ask(node, TOPIC, data)

    async def _sweep(self) -> None:
        """Close what gateways have left behind, as long as anything is open."""
        try:
            while self.works:
                await sleep(self._scheduler, IDLE_NS)
                for exchange, work in list(self.works.items()):
                    if self._scheduler.now_ns() - work.heard_ns >= IDLE_NS and not await self._is_wanted(
                        exchange, work
                    ):
                        if self.works.get(exchange) is work:
                            del self.works[exchange]
                        work.close()
        finally:
            self._is_sweeping = False

    async def _is_wanted(self, exchange: bytes, work: Work) -> bool:
        try:
            answer = await self._database.ask(work.gateway, TOPIC, encode(StillRuns(exchange)))
        except KVError:
            work.silences += 1
            return work.silences < MOST_SILENCES
        work.silences = 0
        return answer != GONE
