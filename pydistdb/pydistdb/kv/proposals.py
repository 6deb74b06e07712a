"""What a replica works with: its owner, the commands under way, and what follows once a round is durable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pydistdb_storage.engine import Engine

from pydistdb import raft
from pydistdb.kv.api import KVError
from pydistdb.kv.command import (
    Command,
    MergeStep,
    ProposalLost,
)
from pydistdb.kv.descriptor import (
    NodeId,
    RangeDescriptor,
    ReplicaDescriptor,
)
from pydistdb.kv.versions import ClusterVersion
from pydistdb.tasks import Completion

if TYPE_CHECKING:
    from pydistdb.kv.commit import Round
    from pydistdb.kv.garbage import GarbageCollector
    from pydistdb.kv.hlc import HybridClock
    from pydistdb.kv.replica import Replica
    from pydistdb.tasks import Scheduler


class NonDeterministicApply(Exception):
    """An entry could not be applied as every other replica applies it: the node must stop."""


class ReplicaOwner(Protocol):
    """What a replica needs of its store."""

    node_id: NodeId
    engine: Engine
    scheduler: Scheduler
    clock: HybridClock
    garbage: GarbageCollector
    versions: ClusterVersion

    def wake(self, replica: Replica) -> None:
        """Have ``replica.process`` called soon."""

    def send(self, replica: Replica, messages: list[Any]) -> None:
        """Send Raft messages to the replicas they name."""

    def supported_since_ns(self, node_id: NodeId, epoch: int) -> int:
        """Tell since when a node supports this one under ``epoch``; 0 if it does not."""

    def lease_duration_ns(self) -> int:
        """Tell how long support holds."""

    def split_applied(self, left: Replica, old: RangeDescriptor, command: Command, round: Round) -> None:
        """Bring the right part of a split into being."""

    def merge_applied(self, left: Replica, step: MergeStep, round: Round) -> None:
        """End this node's replica of the range that a merge takes in, and keep its data for ``left``."""

    def descriptor_changed(self, replica: Replica) -> None:
        """Take note of a new descriptor."""

    def removed(self, replica: Replica) -> None:
        """Delete a replica that is no longer part of its range."""

    def replicas_left(self, replica: Replica, gone: list[ReplicaDescriptor]) -> None:
        """Tell former replicas (of a range led here) that they are no longer part of it."""

    def leadership_changed(self, replica: Replica) -> None:
        """Take note of a new role or leader."""

    def lease_changed(self, replica: Replica, acquired: bool) -> None:
        """Tell the observers."""

    def lease_needs_wait(self, replica: Replica) -> bool:
        """Tell whether another node may have served reads of this range."""

    def install(self, replica: Replica, meta: raft.SnapshotMeta) -> None:
        """Install the snapshot staged for ``replica``; ends in ``replica.installed``."""

    def write_error(self) -> KVError | None:
        """Return why this node refuses writes at present."""

    def fatal(self, error: BaseException) -> None:
        """Stop the node."""


class Proposal:
    """A command on its way through the log."""

    __slots__ = ("command", "completion", "deadline_ns", "term")

    def __init__(self, term: int, command: Command | None, deadline_ns: int) -> None:
        self.term = term
        self.command = command
        self.completion: Completion[None] = Completion()
        self.deadline_ns = deadline_ns


class Written:
    """What follows once a round is durable, for one Ready of one replica."""

    __slots__ = ("_elided", "_outcomes", "applied_index", "messages", "persisted", "replica", "snapshot")

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.persisted: tuple[int, int] | None = None
        self.messages: list[Any] = []
        self.applied_index = 0
        self.snapshot: raft.SnapshotMeta | None = None
        self._outcomes: list[tuple[Completion[None], BaseException | None]] = []
        self._elided: list[tuple[Proposal, Command]] = []

    def add_outcome(self, proposal: Proposal, error: BaseException | None) -> None:
        self._outcomes.append((proposal.completion, error))

    def add_elided(self, proposal: Proposal, command: Command) -> None:
        """A plain command of a sole voter that exists nowhere but in this round."""
        self._elided.append((proposal, command))

    def finish(self) -> None:
        self.replica.written(self)
        for completion, error in self._outcomes:
            if error is None:
                completion.set(None)
            else:
                completion.fail(error)

    def abandon(self, error: BaseException) -> None:
        for completion, _ in self._outcomes:
            completion.fail(error)

    def voided(self) -> list[object]:
        gone: list[object] = []
        error = self.replica.owner.write_error() or ProposalLost("the store could not be written")
        for proposal, command in self._elided:
            gone.extend(command.writes)
            gone.extend(command.clears)
            proposal.completion.fail(error)
        self._elided.clear()
        return gone
