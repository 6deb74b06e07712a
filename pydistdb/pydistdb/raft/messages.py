"""What Raft nodes store and say: entries, hard state, membership, messages.

Theory of operation
-------------------
Every message is a struct of its own, in one tagged union (``Message``): msgspec writes ``[tag, to, sender, term, …]``.
Measured against one flat struct with an integer kind, the union is smaller (a heartbeat is 8 bytes, not 17) and is
encoded and decoded 1.1 to 1.6 times as fast (an append with one 200-byte entry: 0.10 µs and 0.18 µs), and
``type(message)`` dispatches with one dictionary look-up.  Nothing here has behaviour.

* ``term`` is the sender's term, except in a pre-vote request and its grant, where it is the term that the candidate
  would campaign in.
* ``Append.index`` and ``log_term`` name the entry just before ``entries`` (consistency check, Raft paper §5.3).
* ``AppendResponse.index`` is the last index known to match; in a rejection it is the ``Append.index`` that failed, and
  ``hint_index``/``hint_term`` say how far the leader can safely jump back (see follower.py).
* ``Heartbeat.round`` counts the leader's heartbeat rounds.  The answer repeats it; a quorum of answers confirms
  everything that depended on that round: reads (reads.py) and the lease (lease.py).

Example::

    Append(to=2, sender=1, term=3, index=7, log_term=2, commit=6, entries=[Entry(8, 3, NORMAL, b"x")])

Peers are plain positive integers; 0 means nobody.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

PeerId: TypeAlias = int

NOBODY: Final = 0

NORMAL: Final = 0
"""Entry kind: opaque data for the state machine; a leader's first entry of its term has empty data."""
MEMBERSHIP: Final = 1
"""Entry kind: an encoded ``ConfChange``."""

ADD_VOTER: Final = 0
ADD_LEARNER: Final = 1
REMOVE: Final = 2


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One slot of the replicated log."""

    index: int
    term: int
    kind: int
    data: bytes


class HardState(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a node must not forget: the newest term it has seen and whom it voted for in it.

    ``commit`` may be older than what the node had reached; it is written along with membership entries, for the reason
    given in membership.py.
    """

    term: int = 0
    vote: PeerId = NOBODY
    commit: int = 0


class Membership(msgspec.Struct, array_like=True, frozen=True):
    """Who takes part: in joint consensus ``outgoing`` holds the voters of the configuration that is being left.

    ``learners_next`` are voters of the outgoing half that become learners once the joint configuration is left.
    """

    voters: tuple[PeerId, ...] = ()
    outgoing: tuple[PeerId, ...] = ()
    learners: tuple[PeerId, ...] = ()
    learners_next: tuple[PeerId, ...] = ()
    auto_leave: bool = False

    @property
    def is_joint(self) -> bool:
        return bool(self.outgoing)

    def peers(self) -> frozenset[PeerId]:
        """Everyone who gets the log."""
        return frozenset(self.voters + self.outgoing + self.learners + self.learners_next)

    def is_voter(self, peer: PeerId) -> bool:
        return peer in self.voters or peer in self.outgoing


class Change(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One step of a membership change; ``kind`` is ADD_VOTER, ADD_LEARNER or REMOVE."""

    kind: int
    peer: PeerId


class ConfChange(msgspec.Struct, array_like=True, frozen=True):
    """A membership change, as proposed and as logged.

    One change of one voter takes effect at once; anything more (or ``joint``) goes through a joint configuration, which
    the leader leaves by itself if ``auto_leave``, else when an empty ConfChange is proposed.  ``context`` is for the
    caller.
    """

    changes: tuple[Change, ...] = ()
    context: bytes = b""
    joint: bool = False
    auto_leave: bool = True

    @property
    def leaves_joint(self) -> bool:
        return not self.changes


class SnapshotMeta(msgspec.Struct, array_like=True, frozen=True):
    """What a snapshot stands for: the whole log up to ``index``, and the membership as of it."""

    index: int
    term: int
    membership: Membership


class Envelope(msgspec.Struct, array_like=True):
    """The head that all messages share."""

    to: PeerId
    sender: PeerId
    term: int


class Append(Envelope, array_like=True, tag=1):
    index: int
    log_term: int
    commit: int
    entries: list[Entry]


class AppendResponse(Envelope, array_like=True, tag=2):
    index: int
    reject: bool = False
    hint_index: int = 0
    hint_term: int = 0


class Heartbeat(Envelope, array_like=True, tag=3, gc=False):
    commit: int
    round: int


class HeartbeatResponse(Envelope, array_like=True, tag=4, gc=False):
    """``applied`` is what this follower has applied, durably."""

    round: int
    applied: int = 0


class Vote(Envelope, array_like=True, tag=5, gc=False):
    """Asks for a vote (or, with ``pre``, whether one would be given).

    ``force`` is set in an election that the old leader has asked for: it overrides the promise not to vote while a
    leader is alive.
    """

    index: int
    log_term: int
    pre: bool = False
    force: bool = False


class VoteResponse(Envelope, array_like=True, tag=6, gc=False):
    reject: bool
    pre: bool = False


class InstallSnapshot(Envelope, array_like=True, tag=7):
    """Chunk ``number`` (from 0) of a snapshot; ``stream`` tells one attempt of this leader from another."""

    stream: int
    meta: SnapshotMeta
    number: int
    data: bytes
    done: bool


class SnapshotResponse(Envelope, array_like=True, tag=8, gc=False):
    """Chunks below ``expected`` of this stream have arrived; 0 asks to start over."""

    stream: int
    expected: int


class TimeoutNow(Envelope, array_like=True, tag=9, gc=False):
    """Tells the receiver to campaign at once: the leader hands over."""


class ReadIndex(Envelope, array_like=True, tag=10, gc=False):
    """A follower asks the leader for an index at which a read is linearizable."""

    context: int


class ReadIndexResponse(Envelope, array_like=True, tag=11, gc=False):
    context: int
    index: int


class Quiesce(Envelope, array_like=True, tag=12, gc=False):
    """All is committed and replicated up to ``index``: stop ticking until something happens."""

    index: int
    log_term: int


class Wake(Envelope, array_like=True, tag=13, gc=False):
    """Ends quiescence; otherwise empty."""


Message: TypeAlias = (
    Append
    | AppendResponse
    | Heartbeat
    | HeartbeatResponse
    | Vote
    | VoteResponse
    | InstallSnapshot
    | SnapshotResponse
    | TimeoutNow
    | ReadIndex
    | ReadIndexResponse
    | Quiesce
    | Wake
)

encode_conf_change = msgspec.msgpack.Encoder().encode
decode_conf_change = msgspec.msgpack.Decoder(ConfChange).decode
