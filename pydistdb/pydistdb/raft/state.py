"""All that one node knows, in one record; the modules beside this one are functions over it.

Which module does what:

    roles.py         becoming follower, candidate, leader; what a change of role resets
    election.py      campaigns and votes, the promise not to vote
    replication.py   leader: appends, acknowledgements, the commit index, check-quorum
    follower.py      follower: accepting entries, heartbeats
    snapshots.py     both ends of a snapshot
    reads.py         heartbeat rounds: read-index and the lease
    reconfigure.py   membership changes
    transfer.py      handing leadership over
    quiescence.py    sleeping when there is nothing to do
    dispatch.py      which message does what, by role
    node.py          the public face: inputs, ready(), queries
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from .config import Config
from .log import RaftLog
from .messages import NOBODY, HardState, InstallSnapshot, Membership, Message, PeerId, SnapshotMeta
from .quorum import halves
from .ready import ReadState, Role
from .storage import LogStorage
from .tracker import Progress

NEVER_NS: Final = (1 << 63) - 1


class PendingRead(NamedTuple):
    """A read waiting for its round of heartbeats; ``requester`` is the follower that asked (NOBODY: local)."""

    round: int
    commit: int
    context: int
    requester: PeerId


class IncomingSnapshot:
    """A snapshot being received: chunks below ``expected`` have been handed out for staging."""

    __slots__ = ("expected", "sender", "stream", "term")

    def __init__(self, sender: PeerId, term: int, stream: int) -> None:
        self.sender = sender
        self.term = term
        self.stream = stream
        self.expected = 0

    def is_newer_than(self, message: InstallSnapshot) -> bool:
        """Whether ``message`` is of an attempt that the same leader has given up."""
        return (self.sender, self.term) == (message.sender, message.term) and self.stream > message.stream


class State:
    __slots__ = (
        "append_wanted",
        "campaign_when_applied",
        "complete_index",
        "config",
        "confirmed_round",
        "confirmed_start_ns",
        "dropped_reads",
        "early_reads",
        "election_elapsed",
        "election_timeout",
        "followers",
        "forwarded_reads",
        "halves",
        "hard_state",
        "heartbeat_elapsed",
        "hold_messages",
        "idle_ticks",
        "incoming",
        "is_sole_voter",
        "leader",
        "lease_given_up",
        "log",
        "membership",
        "messages",
        "messages_after_persist",
        "needed",
        "new_reads",
        "now_ns",
        "own_progress",
        "peer",
        "pending_membership_index",
        "pending_reads",
        "progress",
        "promise_until_ns",
        "quiescent",
        "rand",
        "read_states",
        "role",
        "round",
        "round_starts",
        "self_committed",
        "snapshot",
        "snapshot_chunks",
        "snapshot_refused",
        "snapshot_stream",
        "storage",
        "term",
        "term_start_index",
        "transfer_elapsed",
        "transfer_sent",
        "transfer_to",
        "uncommitted_bytes",
        "vote",
        "votes",
    )

    def __init__(self, config: Config, storage: LogStorage, rand: Callable[[int, int], int], now_ns: int) -> None:
        hard_state, membership, applied = storage.initial_state()
        self.config = config
        self.storage = storage
        self.rand = rand
        self.peer = config.peer
        self.log = RaftLog(storage, hard_state.commit, applied, config.max_cached_bytes)
        self.term = hard_state.term
        self.vote: PeerId = hard_state.vote
        self.hard_state = hard_state
        """The one last handed out."""
        self.role = Role.FOLLOWER
        self.leader: PeerId = NOBODY
        self.now_ns = now_ns
        self.promise_until_ns = 0
        """Until then this node votes for nobody (unless forced): a leader may hold a lease."""
        if config.lease and hard_state.term > 0:
            self.promise_until_ns = now_ns + config.election_timeout_ns

        self.election_elapsed = 0
        self.election_timeout = rand(config.election_timeout_ticks, 2 * config.election_timeout_ticks - 1)
        self.heartbeat_elapsed = 0
        self.votes: dict[PeerId, bool] = {}
        self.campaign_when_applied = 0
        """The term in which the leader told this node to campaign, which a membership change not yet applied delayed."""

        self.snapshot_refused = False
        """A follower needs a snapshot that the store could not give."""

        self.needed = False
        """No voter, but others can't elect anybody without what this node knows (election.py)."""

        # What a leader knows of the members.
        self.progress: dict[PeerId, Progress] = {}
        self.followers: list[Progress] = []
        self.halves: list[list[Progress]] = []
        self.own_progress = Progress(self.peer, 1, False)
        self.is_sole_voter = False
        self.term_start_index = 0
        self.complete_index = 0
        """As leader: once this is committed, so is here whatever earlier leaders have acknowledged."""
        self.pending_membership_index = 0
        """A membership entry may lie at or below this index: no other one before it is committed and applied."""
        self.uncommitted_bytes = 0
        self.self_committed = 0
        """Entries up to here were handed out as committed-on-persist."""
        self.append_wanted = False
        self.hold_messages = False
        """The only voter elects itself: nothing may be heard of its term before that is durable."""
        self.snapshot_stream = 0
        self.transfer_to: PeerId = NOBODY
        self.transfer_elapsed = 0
        self.transfer_sent = False
        self.idle_ticks = 0
        self.quiescent = False

        # Heartbeat rounds (reads.py).
        self.round = 0
        self.round_starts: deque[tuple[int, int]] = deque()
        self.confirmed_round = 0
        self.confirmed_start_ns = -1
        self.lease_given_up = False
        self.early_reads: list[tuple[int, PeerId]] = []
        self.new_reads: list[tuple[int, int, PeerId]] = []
        self.pending_reads: deque[PendingRead] = deque()
        self.forwarded_reads: dict[int, int] = {}
        """context → ticks that it still has."""

        # Effects for the next Ready.
        self.messages: list[Message] = []
        self.messages_after_persist: list[Message] = []
        self.read_states: list[ReadState] = []
        self.dropped_reads: list[int] = []
        self.incoming: IncomingSnapshot | None = None
        self.snapshot: SnapshotMeta | None = None
        self.snapshot_chunks: list[InstallSnapshot] = []

        self.membership = Membership()
        self.set_membership(membership)

    def set_membership(self, membership: Membership) -> None:
        """Take over a configuration: records of members that stay are kept."""
        self.membership = membership
        self.is_sole_voter = membership.voters == (self.peer,) and not membership.outgoing
        old = self.progress
        learners = {*membership.learners, *membership.learners_next}
        self.progress = {}
        for peer in sorted(membership.peers() | {self.peer}):
            progress = old.pop(peer, None)
            if progress is None:
                progress = self.own_progress if peer == self.peer else Progress(peer, self.log.last_index + 1, False)
            progress.is_learner = peer in learners and not membership.is_voter(peer)
            self.progress[peer] = progress
        for gone in old.values():
            gone.close()
        self.followers = [progress for peer, progress in self.progress.items() if peer != self.peer]
        self.halves = [[self.progress[peer] for peer in half] for half in halves(membership)]

    @property
    def is_promotable(self) -> bool:
        """Whether this node may campaign: it is a voter (or needed), has its snapshot and knows its configuration."""
        log = self.log
        if log.is_snapshot_pending or not (self.needed or self.membership.is_voter(self.peer)):
            return False
        return not log.has_membership_entry(log.applied + 1, log.committed + 1)

    def hard_state_now(self) -> HardState:
        return HardState(self.term, self.vote, self.log.committed)
