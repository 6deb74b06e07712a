"""How one Raft node behaves: timeouts, limits, switches.  Every limit of the package has its name here."""

from __future__ import annotations

from dataclasses import dataclass

from .messages import PeerId


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of a node; all members of a group must agree on the timeouts.

    Example: ``Config(peer=1)`` ticks every 100 ms, sends heartbeats every 2 ticks, and elects after 10 to 20.
    """

    peer: PeerId
    tick_interval_ns: int = 100_000_000
    election_timeout_ticks: int = 10
    """A follower campaigns after this many ticks without a leader, plus a random number below it."""
    heartbeat_ticks: int = 2
    clock_drift_percent: int = 10
    """Bound on how much faster one node's monotonic clock runs than another's; shortens the lease."""
    quiesce_after_ticks: int = 0
    """A leader with nothing to do for so long proposes quiescence; 0 never."""
    pre_vote: bool = True
    check_quorum: bool = True
    """A leader that does not hear from a quorum for an election timeout steps down; voters stick to a live leader."""
    lease: bool = True
    """Leaders may read under a lease: a restarted node then stays out of elections for one election timeout."""
    eager_commit: bool = False
    """Tell followers about each advance of the commit index at once, not with the next append or heartbeat."""

    max_message_bytes: int = 1 << 20
    """Entry bytes in one append (an entry larger than that travels alone)."""
    max_inflight_messages: int = 64
    max_inflight_bytes: int = 8 << 20
    max_uncommitted_bytes: int = 64 << 20
    max_committed_bytes: int = 8 << 20
    """Entry bytes handed out for apply in one Ready."""
    max_cached_bytes: int = 1 << 20
    """Stable, applied entries kept in memory for followers that are a little behind."""
    max_pending_reads: int = 10_000
    snapshot_chunk_bytes: int = 512 << 10
    max_snapshot_chunks_inflight: int = 4
    snapshot_resend_ticks: int = 10

    def __post_init__(self) -> None:
        if self.peer <= 0:
            raise ValueError("peer must be positive")
        if not 0 < self.heartbeat_ticks < self.election_timeout_ticks:
            raise ValueError("heartbeat_ticks must be positive and below election_timeout_ticks")
        if self.lease and not self.check_quorum:
            raise ValueError("a lease needs check_quorum: voters must stick to a live leader")
        if not 0 <= self.clock_drift_percent < 100:
            raise ValueError("clock_drift_percent must be in 0..99")

    @property
    def election_timeout_ns(self) -> int:
        return self.election_timeout_ticks * self.tick_interval_ns

    @property
    def lease_duration_ns(self) -> int:
        """How long after the start of a confirmed round no other leader can have been elected."""
        return self.election_timeout_ns * (100 - self.clock_drift_percent) // 100
