"""A seeded simulation of a Raft group under everything that can go wrong: ``python -m tests.raft.simulate --seed 7``.

Theory of operation
-------------------
One heap of events under one virtual clock: ticks, deliveries, finished disk writes, client requests, faults.  All
randomness comes from one generator, so a seed replays exactly.  Every seed draws its own group size, limits, timeouts,
fault rates and clock rates (5 % fast to 5 % slow, within the drift that the lease allows for).  Faults:

* messages are lost, delayed, duplicated and so reordered; links are cut in both or in one direction;
* nodes crash: what was not synced is gone, except for a prefix of the queued writes, which may just have made it;
* nodes stall: nothing is processed for a while, then messages and ticks come in a bunch;
* disks are slow now and then; logs are compacted, so that snapshots are needed;
* membership changes, single and joint, and leadership transfers are under way all the time.

After every event the node that it concerned is checked (tests/raft/checkers.py).  At the end everything is healed, and
the group has to elect a leader, commit, serve a read, and bring every member up to date: nothing may be stuck.

    python -m tests.raft.simulate --seeds 0..200 --steps 5000
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import msgspec
from pydistdb.raft import (
    ADD_LEARNER,
    ADD_VOTER,
    REMOVE,
    Change,
    ConfChange,
    Config,
    InvalidChange,
    Membership,
    Message,
    NotLeader,
    PeerId,
    ProposalDropped,
    Role,
)

from tests.raft.checkers import Checkers, Violation
from tests.raft.cluster import Member, show_message
from tests.raft.disk import Disk, Write

MS = 1_000_000
TICK_NS = 100 * MS
MAX_PEERS = 7
MAX_WRITES_UNDER_WAY = 6
TRACE_LINES = 60
FINAL_NS = 120_000 * MS

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


class SimulatedMember(Member):
    """A member with a clock of its own, and what its clients wait for."""

    def __init__(self, simulation: Simulation, peer: PeerId, disk: Disk) -> None:
        rand = simulation.random
        self.rate = rand.uniform(0.95, 1.05)
        self.offset_ns = rand.randrange(10**12)
        self.simulation = simulation
        self.peer = peer
        self.incarnation = 0
        self.stalled_until_ns = 0
        self.writes: dict[int, int] = {}
        """Index → term of the proposals made here."""
        self.reads: dict[int, int] = {}
        """Context → what the read must see."""
        self.waiting_reads: list[tuple[int, int]] = []
        """(index to be applied, what the read must see)."""
        super().__init__(simulation.config_of(peer), disk, rand.randint, self.clock())

    def clock(self) -> int:
        return self.offset_ns + int(self.simulation.now_ns * self.rate)

    def forget_clients(self) -> None:
        self.writes.clear()
        self.reads.clear()
        self.waiting_reads.clear()


class Simulation:
    """``contested``: five voters, short timeouts, no pre-vote and no leases, crashes all the time: many elections."""

    def __init__(
        self, seed: int, make_disk: Callable[[Membership, bool], Disk] = Disk, contested: bool = False
    ) -> None:
        self.seed = seed
        self.random = rand = random.Random(seed)
        self.now_ns = 0
        self.events: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self.sequence = itertools.count()
        self.trace: deque[tuple[int, Any]] = deque(maxlen=TRACE_LINES)
        self.checkers = Checkers()
        self.members: dict[PeerId, SimulatedMember] = {}
        self.cut: set[tuple[PeerId, PeerId]] = set()
        self.make_disk = make_disk
        self.ack_before_persist = False
        """A mutation: break the order that Ready asks for."""
        self.values = itertools.count(1)
        self.calm = False
        self.loss = rand.choice((0.0, 0.02, 0.1, 0.25))
        self.duplication = rand.choice((0.0, 0.05))
        self.long_delay = rand.choice((0.0, 0.01, 0.05))
        self.idle = rand.choice((0.0, 0.01, 0.1))
        """How often the clients pause for seconds, so that the group can go quiet."""
        self.slow_disk = rand.choice((0.0, 0.02, 0.1))
        self.faults_every_ms = rand.choice((200, 1000, 5000))
        self.changes_every_ms = rand.choice((500, 2000, 20_000))
        self.skip_log = rand.random() < 0.5
        lease = rand.random() < 0.9
        self.config = Config(
            peer=1,
            tick_interval_ns=TICK_NS,
            heartbeat_ticks=rand.choice((1, 2, 3)),
            pre_vote=rand.random() < 0.8,
            check_quorum=lease,
            lease=lease,
            eager_commit=rand.random() < 0.3,
            quiesce_after_ticks=rand.choice((0, 0, 3)),
            max_message_bytes=rand.choice((10, 100, 10_000)),
            max_inflight_messages=rand.choice((1, 3, 64)),
            max_committed_bytes=rand.choice((10, 10_000)),
            max_cached_bytes=rand.choice((0, 500, 100_000)),
            snapshot_chunk_bytes=rand.choice((100, 2000, 100_000)),
            max_snapshot_chunks_inflight=rand.choice((1, 4)),
        )
        count = rand.choice((1, 2, 3, 3, 3, 4, 5, 5))
        self.restart_delays_ms: tuple[int, ...] = (20, 300, 900, 5000)
        if contested:
            count = 5
            self.faults_every_ms = 100
            self.changes_every_ms = 1_000_000
            self.restart_delays_ms = (20, 50, 300)
            self.config = replace(
                self.config,
                pre_vote=False,
                lease=False,
                check_quorum=False,
                election_timeout_ticks=3,
                heartbeat_ticks=1,
                quiesce_after_ticks=0,
            )
        voters = tuple(range(1, count + 1))
        for peer in voters:
            self.add_member(peer, Membership(voters))
        self.after(10 * MS, self.client)
        self.after(500 * MS, self.fault)
        self.after(1000 * MS, self.change)

    # ---- the machinery

    def config_of(self, peer: PeerId) -> Config:
        return replace(self.config, peer=peer)

    def after(self, delay_ns: int, function: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self.events, (self.now_ns + delay_ns, next(self.sequence), function, arguments))

    def note(self, what: Any) -> None:
        self.trace.append((self.now_ns, what))

    def step(self) -> None:
        self.now_ns, _, function, arguments = heapq.heappop(self.events)
        function(*arguments)

    def add_member(self, peer: PeerId, membership: Membership) -> None:
        member = SimulatedMember(self, peer, self.make_disk(membership, self.skip_log))
        self.members[peer] = member
        self.after(self.random.randrange(TICK_NS), self.tick, peer, 0)

    def tick(self, peer: PeerId, incarnation: int) -> None:
        member = self.members[peer]
        if not member.alive or member.incarnation != incarnation:
            return
        if member.stalled_until_ns > self.now_ns:
            # The timer falls behind; the ticks that were missed come all at once.
            missed = (member.stalled_until_ns - self.now_ns) // TICK_NS
            for _ in range(missed):
                self.after(member.stalled_until_ns - self.now_ns, self.tick_once, peer, incarnation)
            self.after(member.stalled_until_ns - self.now_ns, self.tick, peer, incarnation)
            return
        self.tick_once(peer, incarnation)
        self.after(int(TICK_NS / member.rate), self.tick, peer, incarnation)

    def tick_once(self, peer: PeerId, incarnation: int) -> None:
        member = self.members[peer]
        if member.alive and member.incarnation == incarnation:
            member.node.tick(member.clock())
            self.drain(member)

    def send(self, message: Message) -> None:
        rand = self.random
        self.checkers.sent(message)
        if not self.calm and rand.random() < self.loss:
            self.note(("LOST", message))
            return
        copies = 2 if not self.calm and rand.random() < self.duplication else 1
        for _ in range(copies):
            delay = rand.randrange(1 * MS, 30 * MS)
            if not self.calm and rand.random() < self.long_delay:
                delay = rand.randrange(30 * MS, 3000 * MS)
            self.after(delay, self.deliver, _encode(message))

    def deliver(self, data: bytes) -> None:
        message = _decode(data)
        member = self.members.get(message.to)
        if member is None or not member.alive or (message.sender, message.to) in self.cut:
            return
        if member.stalled_until_ns > self.now_ns:
            self.after(member.stalled_until_ns - self.now_ns, self.deliver, data)
            return
        self.note(message)
        member.node.step(message, member.clock())
        self.drain(member)

    def drain(self, member: SimulatedMember) -> None:
        """Carry Readys out, as far as the disk has room, and check."""
        node = member.node
        self.checkers.observe(node)
        while node.has_ready and len(member.disk.queue) < MAX_WRITES_UNDER_WAY:
            before = len(member.disk.queue)
            ready = member.take()
            self.checkers.handed_out(node, ready)
            for message in ready.messages:
                self.send(message)
            if self.ack_before_persist:
                for message in ready.messages_after_persist:
                    self.send(message)
                ready.messages_after_persist = []
            for read in ready.read_states:
                must_see = member.reads.pop(read.context, None)
                if must_see is not None:
                    member.waiting_reads.append((read.index, must_see))
            for context in ready.dropped_reads:
                member.reads.pop(context, None)
            if before == 0:
                self.start_write(member)
        self.finish_reads(member)
        self.checkers.observe(node)
        if node.role is Role.LEADER:
            alive = [(other.node, other.clock()) for other in self.members.values() if other.alive]
            self.checkers.leases_exclude(alive)

    def start_write(self, member: SimulatedMember) -> None:
        delay = self.random.randrange(MS // 10, 10 * MS)
        if not self.calm and self.random.random() < self.slow_disk:
            delay = self.random.randrange(10 * MS, 800 * MS)
        self.after(delay, self.synced, member.peer, member.incarnation)

    def synced(self, peer: PeerId, incarnation: int) -> None:
        member = self.members[peer]
        if not member.alive or member.incarnation != incarnation:
            return
        if member.stalled_until_ns > self.now_ns:
            self.after(member.stalled_until_ns - self.now_ns, self.synced, peer, incarnation)
            return
        write = member.sync()
        self.checkers.written(write)
        if member.disk.queue:
            self.start_write(member)
        self.note((peer, "synced", write))
        for message in write.ready.messages_after_persist:
            self.send(message)
        for entry in write.ready.committed:
            if member.writes.pop(entry.index, None) == entry.term:
                self.checkers.write_acknowledged(entry.index)
        self.drain(member)

    def finish_reads(self, member: SimulatedMember) -> None:
        if member.waiting_reads:
            applied = member.disk.applied
            done = [read for read in member.waiting_reads if read[0] <= applied]
            member.waiting_reads = [read for read in member.waiting_reads if read[0] > applied]
            for _, must_see in done:
                self.checkers.read_ends(member.peer, must_see, applied, "read-index")

    # ---- clients

    def running(self) -> list[SimulatedMember]:
        return [m for m in self.members.values() if m.alive and m.stalled_until_ns <= self.now_ns]

    def client(self) -> None:
        rand = self.random
        idle = 5000 if not self.calm and rand.random() < self.idle else 60
        self.after(rand.randrange(1 * MS, idle * MS), self.client)
        for member in self.running():
            self.lease_read(member)
        running = self.running()
        if not running:
            return
        member = rand.choice(running)
        if rand.random() < 0.7:
            self.propose(member, rand.choice((1, 1, 1, 5)))
        else:
            context = next(self.values)
            try:
                member.node.read_index(context)
                member.reads[context] = self.checkers.read_begins()
            except (NotLeader, ProposalDropped):
                pass
        self.drain(member)

    def propose(self, member: SimulatedMember, count: int) -> None:
        for _ in range(count):
            try:
                index, term = member.node.propose(b"%d" % next(self.values) * self.random.choice((1, 1, 20)))
                member.writes[index] = term
            except NotLeader as error:
                leader = self.members.get(error.leader)
                if leader is None or leader is member or leader.stalled_until_ns > self.now_ns or not leader.alive:
                    return
                if leader.node.role is Role.LEADER:
                    self.propose(leader, 1)
                    self.drain(leader)
            except ProposalDropped:
                return

    def lease_read(self, member: SimulatedMember) -> None:
        node = member.node
        if node.role is Role.LEADER and node.lease_valid(member.clock()):
            applied = member.disk.applied
            if applied >= node.commit_index:
                self.checkers.read_ends(member.peer, self.checkers.read_begins(), applied, "lease")

    # ---- faults

    def fault(self) -> None:
        if self.calm:
            return
        rand = self.random
        self.after(rand.randrange(self.faults_every_ms * MS), self.fault)
        peers = list(self.members)
        peer = rand.choice(peers)
        member = self.members[peer]
        match rand.randrange(8):
            case 0:
                self.crash(member)
            case 1:
                self.cut = {(a, b) for a in peers for b in peers if a != b and rand.random() < 0.3}
                self.note(("cut", sorted(self.cut)))
            case 2:
                side = {p for p in peers if rand.random() < 0.5}
                self.cut = {(a, b) for a in peers for b in peers if (a in side) != (b in side)}
                self.note(("cut", sorted(self.cut)))
            case 3 | 4:
                self.cut.clear()
                self.note("healed")
            case 5:
                member.stalled_until_ns = self.now_ns + rand.randrange(3000 * MS)
                self.note((peer, "stalls", member.stalled_until_ns))
                if rand.random() < 0.5:
                    member.node.wake(member.clock())
            case 6:
                if member.disk.applied:
                    member.disk.compact(max(member.disk.first - 1, member.disk.applied - rand.randrange(5)))
                    if member.alive:
                        member.node._state.log.trim(0)
                member.disk.snapshots_allowed = rand.random() < 0.8
            case _:
                if member.alive:
                    member.node.wake(member.clock())
                    other = rand.choice(peers)
                    member.node.report_unreachable(other)
                    self.drain(member)

    def crash(self, member: SimulatedMember) -> None:
        if not member.alive:
            return
        self.note((member.peer, "crashes"))
        for _ in range(self.random.randrange(len(member.disk.queue) + 1)):
            self.checkers.written(member.disk.sync())
        member.crash()
        member.forget_clients()
        member.incarnation += 1
        self.checkers.restarted(member.peer)
        self.after(self.random.choice(self.restart_delays_ms) * MS, self.restart, member.peer)

    def restart(self, peer: PeerId) -> None:
        member = self.members[peer]
        if member.alive:
            return
        self.note((peer, "restarts"))
        member.stalled_until_ns = 0
        member.restart(member.clock())
        self.after(self.random.randrange(TICK_NS), self.tick, peer, member.incarnation)

    def change(self) -> None:
        """A membership change or a transfer, at whoever thinks that it leads."""
        if self.calm:
            return
        rand = self.random
        self.after(rand.randrange(self.changes_every_ms * MS), self.change)
        leaders = [member for member in self.running() if member.node.role is Role.LEADER]
        if not leaders:
            return
        leader = rand.choice(leaders)
        node = leader.node
        try:
            if rand.random() < 0.3:
                node.transfer_leadership(rand.choice(node.membership.voters))
            elif node.membership.is_joint:
                node.propose_membership(ConfChange())
            else:
                peers = rand.sample(range(1, MAX_PEERS + 1), rand.choice((1, 1, 2, 3)))
                changes = tuple(
                    Change(rand.choice((ADD_VOTER, ADD_VOTER, ADD_LEARNER, REMOVE)), peer) for peer in peers
                )
                node.propose_membership(ConfChange(changes, b"", rand.random() < 0.3, rand.random() < 0.8))
                self.note((leader.peer, "proposes", changes))
                for peer in peers:
                    if peer not in self.members:
                        self.add_member(peer, Membership())
        except (NotLeader, ProposalDropped, InvalidChange):
            pass
        self.drain(leader)

    # ---- the end

    def finish(self) -> None:
        """Heal everything; the group has to get going and every member to catch up."""
        self.calm = True
        self.cut.clear()
        self.note("everything is healed")
        for member in self.members.values():
            member.stalled_until_ns = 0
            member.disk.snapshots_allowed = True
            if not member.alive:
                self.restart(member.peer)
            member.node.wake(member.clock())
            self.drain(member)
        deadline = self.now_ns + FINAL_NS
        reads_before = self.checkers.reads_checked
        while self.now_ns < deadline:
            for _ in range(200):
                self.step()
            if not (self.config.pre_vote or self.config.check_quorum):
                self._stop_the_removed()
            if self.checkers.reads_checked > reads_before + 5 and self._caught_up():
                return
        raise Violation("liveness: after everything was healed the group did not recover")

    def _stop_the_removed(self) -> None:
        """End those that missed their removal: without pre-votes and with leaders that anybody can unseat they would go on
        asking for votes for ever, and the host has to tell them (kv: ReplicaRemoved)."""
        newest = max((member.node for member in self.members.values()), key=lambda node: node.commit_index)
        for peer, member in self.members.items():
            if peer in newest.membership.peers():
                self.restart(peer)  # it may have been added again
            elif member.alive:
                self.note((peer, "is told that it was removed"))
                member.crash()
                member.incarnation += 1

    def _caught_up(self) -> bool:
        leaders = [member for member in self.members.values() if member.node.role is Role.LEADER]
        if not leaders:
            return False
        leader = max(leaders, key=lambda member: member.node.term).node
        if leader.commit_index < leader.term_start_index or leader.membership.auto_leave:
            return False
        return all(
            self.members[peer].disk.applied >= leader.term_start_index
            and self.members[peer].node.membership == leader.membership
            for peer in leader.membership.peers()
        )

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()
        self.finish()

    def show_trace(self) -> Iterable[str]:
        for at_ns, what in self.trace:
            if isinstance(what, tuple) and len(what) == 3 and isinstance(what[2], Write):
                ready = what[2].ready
                text = f"{what[0]} synced {ready.hard_state or ''} entries"
                text += f" {[(e.index, e.term) for e in ready.entries]} committed {[e.index for e in ready.committed]}"
            elif isinstance(what, tuple) and what[0] == "LOST":
                text = "LOST " + show_message(what[1])
            else:
                text = show_message(what) if hasattr(what, "sender") else str(what)
            yield f"{at_ns / MS:12.3f} ms  {text}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.raft.simulate", description="Simulate a Raft group.")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--seeds", help="A..B: all of these, both ends included")
    parser.add_argument("--steps", type=int, default=5000, help="events before everything is healed")
    options = parser.parse_args(arguments)
    if options.seeds:
        first, _, last = options.seeds.partition("..")
        seeds = range(int(first), int(last) + 1)
    else:
        seeds = range(options.seed, options.seed + 1)
    reads = lease_reads = entries = 0
    for seed in seeds:
        simulation = Simulation(seed)
        try:
            simulation.run(options.steps)
        except Exception as error:
            traceback.print_exc()
            print("\n".join(simulation.show_trace()))
            print(f"seed {seed} failed at {simulation.now_ns / MS:.3f} ms: {type(error).__name__}: {error}")
            print(f"replay: python -m tests.raft.simulate --seed {seed} --steps {options.steps}")
            return 1
        reads += simulation.checkers.reads_checked
        lease_reads += simulation.checkers.lease_reads_checked
        entries += len(simulation.checkers.committed)
    print(f"{len(seeds)} seeds passed: {entries} entries committed, {reads} reads checked, {lease_reads} under a lease")
    return 0


if __name__ == "__main__":
    sys.exit(main())
