"""What a node wants done: the effects of everything since the last ``ready()``, in the order its fields imply.

Theory of operation
-------------------
The owner of a node carries a Ready out like this::

    1. send ready.messages at once (nothing in them promises anything about the disk)
    2. write, in one durable batch, and in the order of the Readys:
           stage ready.snapshot_chunks; if ready.snapshot: install it (state from the staged chunks, log reset)
           ready.entries (first deleting every stored entry at or above entries[0].index), ready.hard_state
           and the effects of ready.committed, in order (this may as well be a later batch)
    3. once that batch *and those of all earlier Readys* are durable:
           node.persisted(index, term) for the last of ready.entries or the snapshot, then send messages_after_persist
    4. once the effects are visible: node.applied(index of the last of ready.committed, or of the snapshot)

A Ready with a snapshot has no entries and nothing committed.  For MEMBERSHIP entries among ``committed`` call
``node.apply_membership`` as soon as the Ready is taken, in order and before the node gets any other input; what it
returns is written along with the rest.

``ready()`` may be called again, and its result worked on, while an earlier Ready is still at step 2.  That is how a
leader's followers write in parallel with its own disk (Raft thesis §10.2.1).  ``node.advance(ready)`` does steps 3 and
4 for an owner that writes synchronously.

``committed_on_persist``: this node is the only voter, so the entries in ``committed`` become committed by the very
write of step 2.  Apply them in the same batch, and show or acknowledge nothing before it is durable.  Entries that are
both in ``entries`` and ``committed`` and are applied in the same batch need not be written to the log at all, if the
store then reports its log as beginning behind them.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from .messages import Entry, HardState, InstallSnapshot, Message, PeerId, SnapshotMeta


class Role(IntEnum):
    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


class ReadState(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The read that was asked for with ``context`` is linearizable once ``index`` is applied."""

    context: int
    index: int


class MemberStatus(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the leader knows of a member; ``state`` is PROBE, REPLICATE or SNAPSHOT."""

    peer: PeerId
    match: int
    next: int
    state: str
    is_learner: bool
    recent_active: bool
    applied: int = 0


class Ready:
    """See the module's docstring."""

    __slots__ = (
        "committed",
        "committed_on_persist",
        "dropped_reads",
        "entries",
        "hard_state",
        "leader",
        "messages",
        "messages_after_persist",
        "read_states",
        "role",
        "snapshot",
        "snapshot_chunks",
        "term",
    )

    def __init__(
        self,
        role: Role,
        leader: PeerId,
        term: int,
        hard_state: HardState | None,
        entries: list[Entry],
        committed: list[Entry],
        committed_on_persist: bool,
        messages: list[Message],
        messages_after_persist: list[Message],
        read_states: list[ReadState],
        dropped_reads: list[int],
        snapshot: SnapshotMeta | None,
        snapshot_chunks: list[InstallSnapshot],
    ) -> None:
        self.role = role
        self.leader = leader
        self.term = term
        self.hard_state = hard_state
        self.entries = entries
        self.committed = committed
        self.committed_on_persist = committed_on_persist
        self.messages = messages
        self.messages_after_persist = messages_after_persist
        self.read_states = read_states
        self.dropped_reads = dropped_reads
        self.snapshot = snapshot
        self.snapshot_chunks = snapshot_chunks
