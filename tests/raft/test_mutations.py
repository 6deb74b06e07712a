"""The simulator must be able to fail: each mutation breaks one rule, and the checkers have to notice.

A mutation is installed with monkeypatch; seeds are tried in turn until one fails.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydistdb.raft import (
    Config,
    HardState,
    InvalidChange,
    Membership,
    Role,
    election,
    reads,
    reconfigure,
    replication,
    transfer,
)
from pydistdb.raft import node as node_module
from pydistdb.raft.dispatch import HANDLERS
from pydistdb.raft.log import RaftLog
from pydistdb.raft.messages import NOBODY, Entry, PeerId, Vote
from pydistdb.raft.quorum import majority_value
from pydistdb.raft.state import State
from pydistdb.raft.tracker import Progress

from tests.raft import cluster as cluster_module
from tests.raft.checkers import Violation
from tests.raft.cluster import Cluster
from tests.raft.disk import Disk, Write
from tests.raft.simulate import Simulation
from tests.support import golden

SEEDS = 80
STEPS = 8000

Mutation = Callable[[pytest.MonkeyPatch], None]


class ForgetfulDisk(Disk):
    """Loses the vote, not the term."""

    def sync(self) -> Write:
        write = super().sync()
        self.hard_state = HardState(self.hard_state.term, NOBODY, self.hard_state.commit)
        return write


def lose_vote_on_disk(patch: pytest.MonkeyPatch) -> None:
    """Forgets whom it voted for when it restarts."""
    patch.setattr(cluster_module, "Disk", ForgetfulDisk)


def vote_again(patch: pytest.MonkeyPatch) -> None:
    """Votes for everybody who asks, in one term."""

    def handle_vote(state: State, message: Vote) -> None:
        if state.role is not Role.LEADER:
            state.vote = state.leader = NOBODY
        election.handle_vote(state, message)

    for role in (Role.FOLLOWER, Role.CANDIDATE):
        patch.setitem(HANDLERS[role], Vote, handle_vote)


def commit_by_counting(patch: pytest.MonkeyPatch) -> None:
    """Commits whatever a majority has, of any term."""

    def maybe_commit(state: State) -> None:
        index = min(majority_value([progress.match for progress in half]) for half in state.halves)
        state.log.commit_to(index)

    for module in (replication, node_module, reconfigure):
        patch.setattr(module, "maybe_commit", maybe_commit)


def vote_for_anybody(patch: pytest.MonkeyPatch) -> None:
    """Votes without comparing logs."""
    patch.setattr(RaftLog, "is_behind", lambda self, index, term: True)


def cut_always(patch: pytest.MonkeyPatch) -> None:
    """Replaces the tail of the log on every append, even on an old one that brings nothing new."""
    accept = RaftLog.accept

    def cut_first(self: RaftLog, entries: list[Entry]) -> None:
        first = entries[0].index
        if self.committed < first <= self.last_index:
            self._cut(first)
        accept(self, entries)

    patch.setattr(RaftLog, "accept", cut_first)


def forget_promise(patch: pytest.MonkeyPatch) -> None:
    """A restarted node votes at once."""
    set_membership = State.set_membership

    def without_promise(self: State, membership: Membership) -> None:
        self.promise_until_ns = 0
        set_membership(self, membership)

    patch.setattr(State, "set_membership", without_promise)


def stretch_lease(patch: pytest.MonkeyPatch) -> None:
    """Takes the lease to last twice as long as the promise."""
    patch.setattr(Config, "lease_duration_ns", property(lambda self: 2 * self.election_timeout_ns))


def keep_lease(patch: pytest.MonkeyPatch) -> None:
    """Reads under the lease after leadership has been offered to another node."""
    progressed = transfer.transfer_progressed

    def with_lease(state: State, progress: Progress) -> None:
        progressed(state, progress)
        state.lease_given_up = False

    patch.setattr(transfer, "transfer_progressed", with_lease)


def read_unconfirmed(patch: pytest.MonkeyPatch) -> None:
    """Serves read-index at once, without asking whether this is still the leader."""

    def admit(state: State, context: int, requester: PeerId) -> None:
        reads._answer_read(state, state.log.committed, context, requester)

    patch.setattr(reads, "_admit_read", admit)


def change_any_time(patch: pytest.MonkeyPatch) -> None:
    """Starts a membership change while another one is under way."""
    patch.setattr(reconfigure, "_is_settled", lambda state: True)


MUTATIONS: list[tuple[Mutation, bool]] = [
    (vote_again, True),
    (commit_by_counting, True),
    (vote_for_anybody, True),
    (cut_always, False),
    (stretch_lease, False),
    (read_unconfirmed, False),
    (change_any_time, False),
]
"""With whether it takes a contested group to show."""


def find_failure(make: Callable[[int], Simulation]) -> str:
    for seed in range(SEEDS):
        simulation = make(seed)
        try:
            for _ in range(STEPS):
                simulation.step()
        except (AssertionError, InvalidChange) as error:
            return f"seed {seed}: {error}"
    pytest.fail("nothing was noticed")


@pytest.mark.parametrize(("mutation", "contested"), MUTATIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_mutation_is_noticed(mutation: Mutation, contested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    print(find_failure(lambda seed: Simulation(seed, contested=contested)))


def test_acknowledging_before_writing_is_noticed() -> None:
    def make(seed: int) -> Simulation:
        simulation = Simulation(seed)
        simulation.ack_before_persist = True
        return simulation

    print(find_failure(make))


@pytest.mark.parametrize(
    ("script", "mutation", "message"),
    [
        ("vote_once", lose_vote_on_disk, "election safety"),
        ("figure8", commit_by_counting, "leader completeness"),
        ("lease_restart", forget_promise, "lease"),
        ("transfer_cut", keep_lease, "lease"),
    ],
)
def test_script_catches_mutation(
    script: str, mutation: Mutation, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Situations that are rare by chance: the golden scripts lead right into them."""
    mutation(monkeypatch)
    cluster = Cluster()
    text = (Path(__file__).parent / "golden" / f"{script}.txt").read_text(encoding="utf-8")
    with pytest.raises(Violation, match=message):
        for block in golden.parse(text):
            for command in block.commands:
                cluster.execute(command)
