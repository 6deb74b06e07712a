"""Copies that come in from other nodes, taken in at a pace that leaves room for everybody else's commits.

Whatever is to become durable goes through one round at a time (commit.py).  A node that gets many replicas at once, because
another one leaves, would put tens of megabytes into each, and every commit would wait for several such rounds; and what its
tree cannot follow fills the log until all writers wait.  So::

    chunks come in  ──►  wait here  ──►  Raft stages them: ROUND_BYTES between two ends of rounds     nothing at all while
    installations   ──►  take turns ──►  one batch under way, of whatever range                      the tree is behind

A chunk is acknowledged when it is durable, as ever, so the senders' windows bound what waits here, and the senders slow down to
what this node can do.  What does not fit all the same (``MOST_WAITING_BYTES``) is dropped, and is sent again.

Example: eleven ranges of 2 MB come at the same time from four nodes, with a window of 1 MB each.  Without this module a round
has up to 11 MB, and a transaction of four rounds waits for 44 MB to be synced; with it for 8 MB at most.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from pydistdb_storage.engine import Engine

from pydistdb.kv.descriptor import NodeId
from pydistdb.kv.transport import RaftEnvelope
from pydistdb.raft.messages import InstallSnapshot
from pydistdb.tasks import Completion, Scheduler, sleep

ROUND_BYTES = 1 << 20
MOST_WAITING_BYTES = 64 << 20
LOOK_AGAIN_NS = 20_000_000
"""While the tree is behind, and where no round comes."""

_Key = tuple[int, int, int, int]


class SnapshotIntake:
    """One node's."""

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        deliver: Callable[[NodeId, RaftEnvelope], None],
        is_idle: Callable[[], bool],
    ) -> None:
        """``deliver`` hands a chunk to its range; ``is_idle`` tells whether no round is under way or about to be."""
        self._engine = engine
        self._scheduler = scheduler
        self._deliver = deliver
        self._is_idle = is_idle
        self._waiting: OrderedDict[_Key, tuple[NodeId, RaftEnvelope, int]] = OrderedDict()
        self.waiting_bytes = 0
        self._released_bytes = 0
        """Since a round ended."""
        self._looks_again = False
        self._turn: Completion[None] | None = None
        """Done when the last installation that has asked for its turn gives it back."""

    # ---------------------------------------------------------------------------------------------------------- chunks

    def offer(self, from_node: NodeId, envelope: RaftEnvelope) -> None:
        """Deliver a chunk as soon as that is its turn."""
        chunk = envelope.message
        assert isinstance(chunk, InstallSnapshot)
        key, size = (envelope.range_id, chunk.sender, chunk.stream, chunk.number), len(chunk.data)
        if key in self._waiting or self.waiting_bytes + size > MOST_WAITING_BYTES:
            return
        self._waiting[key] = (from_node, envelope, size)
        self.waiting_bytes += size
        self._release()

    def round_ended(self) -> None:
        self._released_bytes = 0
        if self._waiting:
            self._release()

    def _release(self) -> None:
        while self._waiting and self._released_bytes < ROUND_BYTES and not self._engine.is_behind():
            _, (from_node, envelope, size) = self._waiting.popitem(last=False)
            self.waiting_bytes -= size
            self._released_bytes += size
            self._deliver(from_node, envelope)
        if self._waiting and not self._looks_again:
            self._looks_again = True
            self._scheduler.call_at(self._scheduler.now_ns() + LOOK_AGAIN_NS, self._look_again)

    def _look_again(self) -> None:
        self._looks_again = False
        if self._is_idle():
            self._released_bytes = 0  # the chunks were not wanted any more: no round will tell
        self._release()

    # --------------------------------------------------------------------------------------------------- installations

    async def take_turn(self) -> Completion[None]:
        """Wait for the turn of one batch of an installation; whoever gets it sets what is returned."""
        before, mine = self._turn, Completion[None]()
        self._turn = mine
        if before is not None:
            await before
        while self._engine.is_behind():
            await sleep(self._scheduler, LOOK_AGAIN_NS)
        return mine
