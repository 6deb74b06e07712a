"""One member of one Raft group (interface first; see the package docstring)."""

from __future__ import annotations

from collections.abc import Callable

from .config import Config
from .messages import ConfChange, Membership, Message, PeerId
from .ready import Ready, Role
from .storage import LogStorage


class RaftNode:
    """Give it ticks, messages and proposals; carry out what ``ready()`` returns.

    ``now_ns`` is always the monotonic clock, read after the message had arrived.  ``rand(low, high)`` returns a random
    integer, both ends included.
    """

    def __init__(self, config: Config, log: LogStorage, rand: Callable[[int, int], int], now_ns: int = 0) -> None:
        raise NotImplementedError

    # ---- inputs

    def tick(self, now_ns: int) -> None:
        """Let one ``tick_interval_ns`` pass."""
        raise NotImplementedError

    def step(self, message: Message, now_ns: int) -> None:
        """Take a message that was addressed to this node."""
        raise NotImplementedError

    def propose(self, data: bytes) -> tuple[int, int]:
        """Append an entry and return its (index, term); raises NotLeader or ProposalDropped.

        The entry is decided once an entry with that index is committed: it is this one iff the terms are equal.
        """
        raise NotImplementedError

    def propose_membership(self, change: ConfChange) -> tuple[int, int]:
        """Like ``propose``, for a membership change; raises InvalidChange too. One at a time: else ProposalDropped."""
        raise NotImplementedError

    def apply_membership(self, change: ConfChange) -> Membership:
        """Call when applying a MEMBERSHIP entry (before ``applied``); returns the membership to be stored.

        An entry that the state machine rejects is simply not passed to this.
        """
        raise NotImplementedError

    def read_index(self, context: int) -> None:
        """Ask for a linearizable read; the answer is a ReadState (or a dropped read) in a later Ready.

        Raises NotLeader if no leader is known, ProposalDropped if too many reads are pending.
        """
        raise NotImplementedError

    def transfer_leadership(self, to: PeerId) -> None:
        """Hand leadership to ``to`` once it has caught up; proposals are dropped meanwhile. Raises NotLeader."""
        raise NotImplementedError

    def campaign(self) -> None:
        """Start an election now (with a pre-vote if configured), unless bound by a promise to a live leader."""
        raise NotImplementedError

    def report_unreachable(self, peer: PeerId) -> None:
        """Tell that a message to ``peer`` was probably lost."""
        raise NotImplementedError

    def report_snapshot(self, peer: PeerId, ok: bool) -> None:
        """Tell how a snapshot went that was carried outside of messages; not ok: start over."""
        raise NotImplementedError

    def wake(self, now_ns: int) -> None:
        """End quiescence."""
        raise NotImplementedError

    # ---- outputs

    @property
    def has_ready(self) -> bool:
        """Whether ``ready()`` would return anything new."""
        raise NotImplementedError

    def ready(self) -> Ready:
        """Return what is to be done since the last call; may be called before earlier Readys are carried out."""
        raise NotImplementedError

    def persisted(self, index: int, term: int) -> None:
        """Tell that the log is durable up to ``index`` (the last entry of a Ready, of ``term``)."""
        raise NotImplementedError

    def applied(self, index: int) -> None:
        """Tell that the state machine has applied everything up to ``index``."""
        raise NotImplementedError

    def advance(self, ready: Ready) -> None:
        """Tell that ``ready`` is written and applied: ``persisted`` and ``applied`` in one."""
        raise NotImplementedError

    # ---- state

    role: Role
    term: int
    leader: PeerId
    membership: Membership
    quiescent: bool

    @property
    def commit_index(self) -> int:
        raise NotImplementedError

    @property
    def applied_index(self) -> int:
        raise NotImplementedError

    @property
    def last_index(self) -> int:
        raise NotImplementedError

    @property
    def lease_expiry_ns(self) -> int:
        """Until when (monotonic clock) this node certainly is the only leader; 0 if it has no lease.

        It is non-zero only once an entry of this term is committed. The only voter's lease never ends.
        """
        raise NotImplementedError

    def lease_valid(self, now_ns: int) -> bool:
        """Whether ``now_ns`` lies within the lease."""
        return now_ns < self.lease_expiry_ns
