"""CPU cost of the core, in µs: ``python -m tests.raft.benchmark``.

No disk and no network: what is measured is propose, ready, step, persisted and applied.
"""

from __future__ import annotations

import time

from pydistdb.raft import Config, Entry, HardState, Membership, Message, RaftNode, SnapshotReader

ROUNDS = 20_000


class NoDisk:
    """A log that is never read back; it only has to exist."""

    def __init__(self, voters: tuple[int, ...]) -> None:
        self._voters = voters

    def initial_state(self) -> tuple[HardState, Membership, int]:
        return HardState(), Membership(self._voters), 0

    def first_index(self) -> int:
        return 1

    def last_index(self) -> int:
        return 0

    def term(self, index: int) -> int:
        return 0

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        raise NotImplementedError

    def snapshot(self, to: int) -> SnapshotReader | None:
        return None


def single_voter(batch: int) -> float:
    node = RaftNode(Config(peer=1), NoDisk((1,)), lambda low, high: low, 0)
    node.campaign()
    while node.has_ready:
        node.advance(node.ready())
    data = b"x" * 200
    start = time.perf_counter()
    for _ in range(ROUNDS):
        for _ in range(batch):
            node.propose(data)
        node.advance(node.ready())
    return (time.perf_counter() - start) / ROUNDS * 1e6


def three_voters(batch: int) -> tuple[float, float]:
    """CPU per batch of the leader, and of one follower."""
    nodes = {peer: RaftNode(Config(peer=peer), NoDisk((1, 2, 3)), lambda low, high: low, 0) for peer in (1, 2, 3)}
    spent = dict.fromkeys(nodes, 0.0)
    inbox: dict[int, list[Message]] = {peer: [] for peer in nodes}

    def work(peer: int) -> None:
        node = nodes[peer]
        messages, inbox[peer] = inbox[peer], []
        out: list[Message] = []
        start = time.perf_counter()
        for message in messages:
            node.step(message, 0)
        while node.has_ready:
            ready = node.ready()
            node.advance(ready)
            out += ready.messages
            out += ready.messages_after_persist
        spent[peer] += time.perf_counter() - start
        for message in out:
            inbox[message.to].append(message)

    def settle() -> None:
        work(1)
        while any(inbox.values()):
            for peer in nodes:
                if inbox[peer]:
                    work(peer)

    nodes[1].campaign()
    settle()
    spent = dict.fromkeys(nodes, 0.0)
    data = b"x" * 200
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(batch):
            nodes[1].propose(data)
        spent[1] += time.perf_counter() - start
        settle()
    return spent[1] / ROUNDS * 1e6, spent[2] / ROUNDS * 1e6


def main() -> None:
    for batch in (1, 10, 100):
        leader, follower = three_voters(batch)
        print(
            f"batch of {batch:3}: single voter {single_voter(batch):6.1f} µs;"
            f" three voters: leader {leader:6.1f} µs, follower {follower:6.1f} µs"
        )


if __name__ == "__main__":
    main()
