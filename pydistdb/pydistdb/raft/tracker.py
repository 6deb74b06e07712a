"""What a leader knows of one follower, and how much it may send to it.

Theory of operation
-------------------
``match`` is the last entry known to be durable at the follower, ``next`` the first one to send.  Three states decide how
freely the leader sends:

* PROBE: the follower's log is not known.  One append at a time; a rejection moves ``next`` back, success leads to
* REPLICATE: ``next`` runs ahead of the acknowledgements, as long as fewer than ``max_inflight_messages`` appends and
  ``max_inflight_bytes`` are under way.  A rejection (an append was lost) leads back to PROBE.
* SNAPSHOT: what the follower needs is compacted; chunks of a snapshot flow, and no appends, until it is installed.

Example: match=5, next=9 in REPLICATE says that 6, 7 and 8 are on their way.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum

from .messages import PeerId
from .storage import SnapshotReader


class PeerState(IntEnum):
    PROBE = 0
    REPLICATE = 1
    SNAPSHOT = 2


class SnapshotSender:
    """One snapshot on its way to one follower: a window of chunks read but not acknowledged."""

    __slots__ = (
        "all_read",
        "idle_periods",
        "idle_ticks",
        "next_number",
        "reader",
        "resent_number",
        "seems_lost",
        "stream",
        "unacked",
    )

    def __init__(self, reader: SnapshotReader, stream: int) -> None:
        self.reader = reader
        self.stream = stream
        self.next_number = 0
        self.all_read = False
        self.idle_periods = 0
        self.unacked: deque[tuple[int, bytes, bool]] = deque()
        self.idle_ticks = 0
        self.resent_number = -1
        self.seems_lost = False


class Progress:
    """The leader's record of one member (itself included: its ``match`` is what is stable on its own disk)."""

    __slots__ = (
        "acked_round",
        "applied",
        "commit_sent",
        "inflight",
        "inflight_bytes",
        "is_learner",
        "match",
        "next",
        "paused",
        "peer",
        "poke",
        "recent_active",
        "sender",
        "state",
    )

    def __init__(self, peer: PeerId, next_index: int, is_learner: bool) -> None:
        self.peer = peer
        self.match = 0
        self.next = next_index
        self.state = PeerState.PROBE
        self.inflight: deque[tuple[int, int]] = deque()
        """(last index, bytes) of each append under way."""
        self.inflight_bytes = 0
        self.paused = False
        """In PROBE: an append is out; wait for its answer or the next heartbeat's."""
        self.poke = True
        """Send an append even if there is nothing new: its answer tells where the follower stands."""
        self.recent_active = True
        self.acked_round = 0
        self.applied = 0
        """What this member has said that it has applied."""
        self.commit_sent = 0
        self.is_learner = is_learner
        self.sender: SnapshotSender | None = None

    def become_probe(self) -> None:
        self._clear()
        self.state = PeerState.PROBE
        self.next = self.match + 1

    def become_replicate(self) -> None:
        self._clear()
        self.state = PeerState.REPLICATE
        self.next = self.match + 1

    def become_snapshot(self, sender: SnapshotSender) -> None:
        self._clear()
        self.state = PeerState.SNAPSHOT
        self.sender = sender

    def _clear(self) -> None:
        self.paused = False
        self.inflight.clear()
        self.inflight_bytes = 0
        self.close()

    def close(self) -> None:
        """Let go of the snapshot that is being sent, if any."""
        if self.sender is not None:
            self.sender.reader.close()
            self.sender = None

    def sent(self, last_index: int, size_bytes: int) -> None:
        """Count an append of entries up to ``last_index`` that is now on its way."""
        self.next = last_index + 1
        self.inflight.append((last_index, size_bytes))
        self.inflight_bytes += size_bytes

    def acknowledged(self, index: int) -> bool:
        """Take an acknowledgement; returns whether it was news."""
        inflight = self.inflight
        while inflight and inflight[0][0] <= index:
            self.inflight_bytes -= inflight.popleft()[1]
        if index <= self.match:
            return False
        self.match = index
        if self.next <= index:
            self.next = index + 1
        return True

    def free_oldest(self) -> None:
        """Forget the oldest append under way: its answer is overdue, and a full window would never send again."""
        if self.inflight:
            self.inflight_bytes -= self.inflight.popleft()[1]

    def rejected(self, index: int, hint: int) -> bool:
        """Take a rejection of the append behind ``index``; returns False if it is an old one."""
        if self.state is PeerState.REPLICATE:
            if index <= self.match:
                return False
            self.become_probe()
            return True
        if self.state is PeerState.SNAPSHOT or self.next - 1 != index:
            return False
        self.next = max(min(index, hint + 1), self.match + 1)
        self.paused = False
        return True
