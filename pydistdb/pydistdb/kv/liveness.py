"""Which nodes are alive, and the support that they give each other.

Every node sends one ping to every other node every ``ping_interval`` and is answered, whatever number of ranges they
share.  On this rests the lease of ranges that are idle (their Raft groups say nothing at all), in the manner of
CockroachDB's store liveness:

**Support.**  While node B hears from node A, B supports A: in no range where B follows A's leadership will B campaign or
vote for anybody else.  When B has heard nothing for ``support_duration`` it withdraws, and what it may do next (vote for
C) ends whatever A relied on.  Should A come back, B supports it again, under a new *epoch*; epochs never repeat, not
even over restarts::

    A  ──ping(sent 10.0)──►  B        B hears A at 10.1: supports A under epoch 7 until at least 10.1 + 1.0
    A  ◄──pong(10.0, 7)────  B        A: "B supports me under 7 until 10.0 + 0.9" (less the clocks' possible drift)

**The lease.**  B's support counts for a range only if B follows A *there*.  Whatever B's replica answers to A carries B's
epoch, provided that at that moment it follows A in the term of the answer.  As long as B's newest pong names the same
epoch, B has been bound since, so A holds its lease if this is so for a majority (``Replica._supported_until``).  If
the epoch has moved on, A has to hear from B's replica anew.

**Its own pauses.**  A process that was held up itself (a stall of the disk or the machine, thousands of messages at once) finds
everybody silent, though what they sent lies unread in its sockets.  To withdraw support then is what must not happen: the
elections that follow hold it up further, and so on without end.  So support ends only by ``check``, never by the mere
passing of time, and a check that comes late itself leaves judgement to the next one, after the sockets have been read.
Support that lasts longer than it might is always safe: it only binds B::

    B checks at 10.0 ─ stalled ─ 11.7 (late: no judgement) ─ reads A's pings ─ 11.9: A was heard at 11.7

A restarted process has forgotten what it supported; Raft keeps it from voting for one election timeout after the start
(pydistdb.raft.election), and its epochs begin above all earlier ones because they start with its incarnation.
"""

from __future__ import annotations

from collections.abc import Callable

from pydistdb.kv.descriptor import NodeId
from pydistdb.kv.transport import Ping, Pong

EPOCH_BITS = 24
LATE_PART = 2
"""A check that comes after this part of the support's duration is late."""
MOST_DURATIONS = 5
"""Whoever was silent for so many durations is given up even by a node that is never in time."""


class Peer:
    """What this node knows of another one's life."""

    __slots__ = ("acked_epoch", "acked_since_ns", "epoch", "incarnation", "last_heard_ns", "ping", "supported")

    def __init__(self, now_ns: int) -> None:
        self.last_heard_ns = now_ns
        """Any message counts.  A node never heard of counts from the time it became known."""
        self.supported = False
        self.epoch = 0
        """Under which this node supports the peer."""
        self.incarnation = 0
        self.acked_epoch = 0
        """Under which the peer supports this node, and since when (this node's clock)."""
        self.acked_since_ns = 0
        self.ping: Ping | None = None
        """The newest ping: what the peer says about itself."""


class Liveness:
    """Support given and received.  ``lost`` is called when support for a node is withdrawn, ``found`` when it begins."""

    def __init__(
        self,
        incarnation: int,
        support_duration_ns: int,
        now_ns: Callable[[], int],
        lost: Callable[[NodeId], None],
        found: Callable[[NodeId], None],
    ) -> None:
        self.peers: dict[NodeId, Peer] = {}
        self._support_duration_ns = support_duration_ns
        self._now_ns = now_ns
        self._lost = lost
        self._found = found
        self._next_epoch = (incarnation << EPOCH_BITS) + 1
        self._checked_ns = now_ns()

    def peer(self, node_id: NodeId) -> Peer:
        found = self.peers.get(node_id)
        if found is None:
            found = self.peers[node_id] = Peer(self._now_ns())
        return found

    # ---------------------------------------------------------------------------------------------------------- giving

    def heard(self, node_id: NodeId) -> Peer:
        """Something arrived from ``node_id``: support it (again)."""
        peer = self.peer(node_id)
        peer.last_heard_ns = self._now_ns()
        if not peer.supported:
            peer.supported = True
            peer.epoch = self._next_epoch
            self._next_epoch += 1
            self._found(node_id)
        return peer

    def pinged(self, node_id: NodeId, ping: Ping) -> int:
        """Take a ping; returns the epoch to answer with."""
        peer = self.peer(node_id)
        if peer.incarnation != ping.incarnation:
            # Another process: the old one's leases died with it, so nothing binds us to it any more.
            if peer.incarnation and peer.supported:
                self._withdraw(node_id, peer)
            peer.incarnation = ping.incarnation
        peer.ping = ping
        return self.heard(node_id).epoch

    def check(self) -> None:
        """Withdraw support from whoever has been silent for too long; to be called every ping or so."""
        now, duration_ns = self._now_ns(), self._support_duration_ns
        is_late = now - self._checked_ns > duration_ns // LATE_PART
        self._checked_ns = now
        most_ns = duration_ns * (MOST_DURATIONS if is_late else 1)
        for node_id, peer in list(self.peers.items()):
            if peer.supported and now - peer.last_heard_ns >= most_ns:
                self._withdraw(node_id, peer)

    def _withdraw(self, node_id: NodeId, peer: Peer) -> None:
        peer.supported = False
        peer.epoch = 0
        self._lost(node_id)

    def supports(self, node_id: NodeId) -> bool:
        """Whether this node is bound to ``node_id`` right now."""
        peer = self.peers.get(node_id)
        return peer is not None and peer.supported

    def epoch_for(self, node_id: NodeId) -> int:
        """Under which epoch this node supports ``node_id``; 0 if it does not."""
        peer = self.peers.get(node_id)
        return peer.epoch if peer is not None and peer.supported else 0

    # ------------------------------------------------------------------------------------------------------- receiving

    def ponged(self, node_id: NodeId, pong: Pong) -> bool:
        """Take an answer; returns whether the epoch is another one than before."""
        peer = self.heard(node_id)
        if pong.epoch < peer.acked_epoch:
            return False
        changed = pong.epoch != peer.acked_epoch
        if changed:
            peer.acked_epoch = pong.epoch
            peer.acked_since_ns = pong.sent_ns
        elif pong.sent_ns > peer.acked_since_ns:
            peer.acked_since_ns = pong.sent_ns
        return changed

    def supported_since_ns(self, node_id: NodeId, epoch: int) -> int:
        """The send time of the newest ping that ``node_id`` answered under ``epoch``; 0 if it answers under another."""
        peer = self.peers.get(node_id)
        if peer is None or peer.acked_epoch != epoch:
            return 0
        return peer.acked_since_ns

    # -------------------------------------------------------------------------------------------------------- for others

    def is_live(self, node_id: NodeId) -> bool:
        """Whether the node has been heard of lately."""
        peer = self.peers.get(node_id)
        return peer is not None and peer.supported and self._now_ns() - peer.last_heard_ns < self._support_duration_ns

    def silent_ns(self, node_id: NodeId) -> int:
        """How long nothing has been heard of a node."""
        return self._now_ns() - self.peer(node_id).last_heard_ns
