"""What a caller can do wrong, or must do again elsewhere."""

from __future__ import annotations


class RaftError(Exception):
    """Base of what this package raises on purpose."""


class NotLeader(RaftError):
    """Ask ``leader`` instead (0: not known yet)."""

    def __init__(self, leader: int) -> None:
        super().__init__(f"not the leader; the leader is {leader}" if leader else "not the leader; no leader is known")
        self.leader = leader


class ProposalDropped(RaftError):
    """Certainly not in the log: try again later (overload, a transfer or another membership change is under way)."""


class InvalidChange(RaftError):
    """A membership change that makes no sense from the present configuration."""


class Compacted(RaftError):
    """That part of the log is gone; only a snapshot can stand in."""
