"""A scripted Raft cluster: every message and every write happens when the script says so.

``Cluster.execute`` is the command language of the golden scripts in tests/raft/golden (see ``COMMANDS`` for the list).
Messages wait in one queue, first in first out; ``settle`` delivers until nothing is left.  Clocks are all equal and move
by ticks.  Election timeouts are not random: node n campaigns n ticks after the election timeout, so node 1 comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pydistdb.raft import (
    ADD_LEARNER,
    ADD_VOTER,
    MEMBERSHIP,
    REMOVE,
    Change,
    Compacted,
    ConfChange,
    Config,
    HardState,
    InstallSnapshot,
    Membership,
    Message,
    PeerId,
    RaftNode,
    Ready,
    Role,
    decode_conf_change,
)
from pydistdb.raft.membership import describe

from tests.raft.checkers import Checkers
from tests.raft.disk import Disk, Write
from tests.support.golden import Command

TICK_NS = 100_000_000


class Member:
    """One node with its disk; carries Readys out."""

    def __init__(self, config: Config, disk: Disk, rand: Callable[[int, int], int], now_ns: int) -> None:
        self.config = config
        self.disk = disk
        self.rand = rand
        self.node = RaftNode(config, disk, rand, now_ns)
        self.alive = True
        self.held = False
        """Writes wait for ``sync``."""

    def restart(self, now_ns: int) -> None:
        self.node = RaftNode(self.config, self.disk, self.rand, now_ns)
        self.alive = True

    def crash(self) -> None:
        self.disk.crash()
        self.alive = False

    def take(self) -> Ready:
        """Take a Ready and queue its writes; its ``messages`` may go."""
        ready = self.node.ready()
        write = Write(ready)
        if ready.entries:
            try:
                write.before_term = self.node._state.log.term(ready.entries[0].index - 1)
            except Compacted:
                pass
        for entry in ready.committed:
            if entry.kind == MEMBERSHIP:
                write.memberships[entry.index] = self.node.apply_membership(decode_conf_change(entry.data))
        self.disk.submit(write)
        return ready

    def sync(self) -> Write:
        """Make the oldest write durable and tell the node; its ``messages_after_persist`` may go."""
        write = self.disk.sync()
        self.node.advance(write.ready)
        return write


def show_data(data: bytes) -> str:
    return data.decode() if len(data) <= 20 else f"({len(data)} bytes)"


def show_message(message: Message) -> str:
    """One line: ``1 -> 2 Append term 1, after 4/1: 5/1 "x", commit 4``."""
    name = type(message).__name__
    fields = {
        key: getattr(message, key)
        for key in message.__struct_fields__
        if key not in ("to", "sender", "term", "entries", "meta", "data", "log_term")
    }
    if "log_term" in message.__struct_fields__:
        fields["index"] = f"{message.index}/{message.log_term}"  # type: ignore[union-attr]
    if name == "AppendResponse" and not fields["reject"]:
        fields = {"index": fields["index"]}
    details = [f"{key}={value}" for key, value in fields.items() if value is not False]
    if name == "Append":
        entries = message.entries  # type: ignore[union-attr]
        if entries:
            first, last = entries[0], entries[-1]
            span = f"{first.index}/{first.term}" + (f"..{last.index}/{last.term}" if len(entries) > 1 else "")
            details.append(f"entries={span}")
    if isinstance(message, InstallSnapshot):
        details.insert(0, f"snapshot={message.meta.index}/{message.meta.term}")
    return " ".join([f"{message.sender} -> {message.to} {name} term={message.term}", *details])


class Cluster:
    def __init__(self) -> None:
        self.members: dict[PeerId, Member] = {}
        self.queue: list[Message] = []
        self.stashed: list[Message] = []
        self.cut: set[tuple[PeerId, PeerId]] = set()
        self.now_ns = 0
        self.output: list[str] = []
        self.seen: dict[PeerId, tuple[Role, int, PeerId]] = {}
        self.config = Config(peer=1, tick_interval_ns=TICK_NS)
        self.checkers = Checkers()
        self.show_messages = True

    # ---- the machinery

    def execute(self, command: Command) -> str:
        self.output = []
        method = COMMANDS.get(command.name)
        if method is None:
            raise KeyError(f"no such command: {command.name}")
        method(self, command)
        self.drain()
        return "\n".join(self.output)

    def drain(self) -> None:
        """Carry out every Ready; writes are durable at once, except where they are held."""
        for peer, member in self.members.items():
            while member.alive and (member.node.has_ready or (member.disk.queue and not member.held)):
                if member.node.has_ready:
                    self._carry_out(peer, member)
                if not member.held and member.disk.queue:
                    self.sync(peer)
            if member.alive:
                self._note_role(peer, member)
        self.checkers.leases_exclude((member.node, self.now_ns) for member in self.members.values() if member.alive)

    def _carry_out(self, peer: PeerId, member: Member) -> None:
        ready = member.take()
        self.checkers.handed_out(member.node, ready)
        self.checkers.observe(member.node)
        self._note_role(peer, member)
        self.queue += ready.messages
        for state in ready.read_states:
            self.output.append(f"{peer}: read {state.context} at {state.index}")
        for context in ready.dropped_reads:
            self.output.append(f"{peer}: read {context} dropped")
        if member.held and (ready.entries or ready.hard_state):
            span = f"{ready.entries[0].index}..{ready.entries[-1].index}" if ready.entries else "hard state"
            self.output.append(f"{peer}: writing {span}")

    def sync(self, peer: PeerId) -> None:
        member = self.members[peer]
        write = member.sync()
        self.checkers.written(write)
        self.checkers.observe(member.node)
        ready = write.ready
        self.queue += ready.messages_after_persist
        if ready.snapshot is not None:
            self.output.append(f"{peer}: installed snapshot {ready.snapshot.index}/{ready.snapshot.term}")
        for entry in ready.committed:
            what = show_data(entry.data) if entry.kind != MEMBERSHIP else describe(write.memberships[entry.index])
            how = " by writing it" if ready.committed_on_persist else ""
            self.output.append(f"{peer}: applied {entry.index}/{entry.term} {what or '(empty)'}{how}")

    def _note_role(self, peer: PeerId, member: Member) -> None:
        node = member.node
        now = (node.role, node.term, node.leader)
        if self.seen.get(peer) != now:
            self.seen[peer] = now
            text = node.role.name.lower().replace("_", "-")
            if node.role is Role.FOLLOWER:
                text = f"follows {node.leader}" if node.leader else "follows nobody"
            self.output.append(f"{peer}: {text}, term {node.term}")

    def deliver(self, message: Message) -> None:
        target = self.members.get(message.to)
        lost = target is None or not target.alive or (message.sender, message.to) in self.cut
        if self.show_messages:
            self.output.append(show_message(message) + ("  LOST" if lost else ""))
        if not lost and target is not None:
            self.checkers.sent(message)
            target.node.step(message, self.now_ns)

    def add(self, peer: PeerId, membership: Membership, skip_log: bool = False) -> Member:
        def rand(low: int, high: int) -> int:
            return low + peer

        member = Member(replace(self.config, peer=peer), Disk(membership, skip_log), rand, self.now_ns)
        self.members[peer] = member
        self.seen[peer] = (Role.FOLLOWER, 0, 0)
        return member

    # ---- commands

    def do_new(self, command: Command) -> None:
        """new 1 2 3 [learners=4,5] [key=value of Config …]: members with empty logs"""
        options = dict(command.options)
        learners = tuple(int(peer) for peer in options.pop("learners", "").split(",") if peer)
        skip_log = options.pop("skip_log", "no") == "yes"
        changes = {
            key: {"yes": True, "no": False}[value] if value in ("yes", "no") else int(value)
            for key, value in options.items()
        }
        self.config = replace(self.config, **changes)  # type: ignore[arg-type]
        voters = tuple(int(peer) for peer in command.arguments)
        for peer in voters + learners:
            self.add(peer, Membership(voters, (), learners), skip_log)

    def do_join(self, command: Command) -> None:
        """join 4: a node that knows nothing yet"""
        for peer in command.arguments:
            self.add(int(peer), Membership())

    def do_stored(self, command: Command) -> None:
        """stored 1 term=6 log=1,1,4 [commit=2] [vote=2]: start this node over with these entries on disk"""
        member = self.members[int(command.arguments[0])]
        terms = [int(term) for term in command.options["log"].split(",") if term]
        member.disk.set_log(terms)
        member.disk.hard_state = HardState(
            command.integer("term", max(terms, default=0)), command.integer("vote", 0), command.integer("commit", 0)
        )
        member.restart(self.now_ns - 10 * self.config.election_timeout_ns)
        member.node.wake(self.now_ns)
        self.seen[int(command.arguments[0])] = (Role.FOLLOWER, member.node.term, 0)

    def do_campaign(self, command: Command) -> None:
        """campaign 1 [pre_vote=no]"""
        node = self.members[int(command.arguments[0])].node
        node.campaign(pre_vote=command.options.get("pre_vote") != "no")

    def do_born(self, command: Command) -> None:
        """born 1 2 3 led=1: they begin with 1 elected, which takes over (unless it is not named)"""
        leader = command.integer("led", 0)
        for word in command.arguments:
            self.members[int(word)].node.begin_led(leader, takes_over=int(word) == leader)
        self.drain()

    def do_ask(self, command: Command) -> None:
        """ask 1: once more for the votes of those that have not answered"""
        self.members[int(command.arguments[0])].node.ask_again()

    def do_heartbeats(self, command: Command) -> None:
        """heartbeats 1: now"""
        self.members[int(command.arguments[0])].node.send_heartbeats()

    def do_tick(self, command: Command) -> None:
        """tick [1 2] [n=10] [bunch=yes]: ticks, of all nodes or some; messages stay queued"""
        peers = [int(peer) for peer in command.arguments] or list(self.members)
        for _ in range(command.integer("n", 1)):
            if "bunch" not in command.options:
                self.now_ns += TICK_NS
            for peer in peers:
                if self.members[peer].alive:
                    self.members[peer].node.tick(self.now_ns)
            self.drain()

    def do_run(self, command: Command) -> None:
        """run [1 2] [n=10]: ticks of all nodes or some, with everything delivered in between"""
        for _ in range(command.integer("n", 1)):
            self.do_tick(Command("tick", "", 0, arguments=command.arguments))
            self.do_settle(Command("settle", "", 0))

    def do_propose(self, command: Command) -> None:
        """propose 1 a b c: proposals of one batch"""
        peer = int(command.arguments[0])
        for data in command.arguments[1:]:
            index, term = self.members[peer].node.propose(data.encode())
            self.output.append(f"{peer}: proposed {index}/{term}")

    def do_fill(self, command: Command) -> None:
        """fill 1 n=10 bytes=100: that many proposals of that size"""
        node = self.members[int(command.arguments[0])].node
        for _ in range(command.integer("n", 1)):
            node.propose(b"x" * command.integer("bytes", 100))

    def do_change(self, command: Command) -> None:
        """change 1 +4 -3 ~5 [joint=yes] [leave=explicit]: propose voters, removals, learners; none: leave joint"""
        kinds = {"+": ADD_VOTER, "-": REMOVE, "~": ADD_LEARNER}
        changes = tuple(Change(kinds[word[0]], int(word[1:])) for word in command.arguments[1:])
        change = ConfChange(
            changes, b"", command.options.get("joint") == "yes", command.options.get("leave") != "explicit"
        )
        index, term = self.members[int(command.arguments[0])].node.propose_membership(change)
        self.output.append(f"{command.arguments[0]}: proposed {index}/{term}")

    def do_read(self, command: Command) -> None:
        """read 1 7 8: read-index with contexts 7 and 8, in one batch"""
        for context in command.arguments[1:]:
            self.members[int(command.arguments[0])].node.read_index(int(context))

    def do_transfer(self, command: Command) -> None:
        """transfer 1 2: from 1 to 2"""
        self.members[int(command.arguments[0])].node.transfer_leadership(int(command.arguments[1]))

    def do_deliver(self, command: Command) -> None:
        """deliver [n=1]: the oldest messages, one at a time, as long as there are any"""
        for _ in range(command.integer("n", 1)):
            if self.queue:
                self.deliver(self.queue.pop(0))
                self.drain()

    def do_settle(self, command: Command) -> None:
        """settle: deliver until no message is left"""
        self.drain()
        count = 0
        while self.queue:
            count += 1
            assert count < 10_000, "the messages do not come to an end"
            self.do_deliver(Command("deliver", "", 0))

    def do_drop(self, command: Command) -> None:
        """drop [to=2] [kind=Append]: lose queued messages"""
        kept = []
        for message in self.queue:
            if ("to" in command.options and message.to != int(command.options["to"])) or (
                "kind" in command.options and type(message).__name__ != command.options["kind"]
            ):
                kept.append(message)
            else:
                self.output.append(show_message(message) + "  LOST")
        self.queue = kept

    def do_stash(self, command: Command) -> None:
        """stash: put all queued messages aside"""
        self.stashed, self.queue = self.queue, []

    def do_unstash(self, command: Command) -> None:
        """unstash: put them back, in front"""
        self.queue = self.stashed + self.queue

    def do_queue(self, command: Command) -> None:
        """queue: show what is under way"""
        self.output += [show_message(message) for message in self.queue]

    def do_cut(self, command: Command) -> None:
        """cut 1-2 | cut 1>2 | cut 3: lose messages between two, in one direction, or with everybody"""
        for word in command.arguments:
            if "-" in word or ">" in word:
                one, other = (int(part) for part in word.replace(">", "-").split("-"))
                pairs = {(one, other)} if ">" in word else {(one, other), (other, one)}
            else:
                peer = int(word)
                pairs = {pair for other in self.members for pair in ((peer, other), (other, peer)) if other != peer}
            self.cut |= pairs

    def do_heal(self, command: Command) -> None:
        """heal: no more losses"""
        self.cut.clear()

    def do_crash(self, command: Command) -> None:
        """crash 1: forget what is not on disk"""
        self.members[int(command.arguments[0])].crash()

    def do_restart(self, command: Command) -> None:
        """restart 1: from what is on disk"""
        peer = int(command.arguments[0])
        self.members[peer].restart(self.now_ns)
        self.checkers.restarted(peer)
        self.seen[peer] = (Role.FOLLOWER, self.members[peer].node.term, 0)

    def do_hold(self, command: Command) -> None:
        """hold 1: its writes wait for `sync`"""
        self.members[int(command.arguments[0])].held = True

    def do_release(self, command: Command) -> None:
        """release 1: writes are durable at once again"""
        self.members[int(command.arguments[0])].held = False

    def do_sync(self, command: Command) -> None:
        """sync 1 [n=1]: make the oldest writes durable, as long as there are any"""
        peer = int(command.arguments[0])
        for _ in range(command.integer("n", 1)):
            if self.members[peer].disk.queue:
                self.sync(peer)
            self.drain()

    def do_compact(self, command: Command) -> None:
        """compact 1 [index=5]: forget the log up to there, or all that is applied"""
        member = self.members[int(command.arguments[0])]
        member.disk.compact(command.integer("index", member.disk.applied))
        member.node._state.log.trim(0)

    def do_snapshots(self, command: Command) -> None:
        """snapshots 1 no: whether this node's store can open snapshots now"""
        self.members[int(command.arguments[0])].disk.snapshots_allowed = command.arguments[1] == "yes"

    def do_unreachable(self, command: Command) -> None:
        """unreachable 1 2: tell 1 that 2 can't be reached"""
        self.members[int(command.arguments[0])].node.report_unreachable(int(command.arguments[1]))

    def do_undelivered(self, command: Command) -> None:
        """undelivered 1 3: tell 1 that its snapshot for 3 did not get there"""
        self.members[int(command.arguments[0])].node.report_snapshot(int(command.arguments[1]), False)

    def do_idle(self, command: Command) -> None:
        """idle 1: tells whether it has nothing to do"""
        for word in command.arguments:
            self.output.append(f"{word}: {'something to do' if self.members[int(word)].node.has_ready else 'idle'}")

    def do_wake(self, command: Command) -> None:
        """wake 1"""
        self.members[int(command.arguments[0])].node.wake(self.now_ns)

    def do_messages(self, command: Command) -> None:
        """messages off | on: whether messages are shown as they are delivered"""
        self.show_messages = command.arguments[0] == "on"

    def do_status(self, command: Command) -> None:
        """status [1 2]: role, term, log, commit and applied index, lease"""
        for peer in [int(peer) for peer in command.arguments] or list(self.members):
            member = self.members[peer]
            if not member.alive:
                self.output.append(f"{peer}: down")
                continue
            node = member.node
            lease = node.lease_expiry_ns
            text = f"{peer}: {node.role.name.lower()} term={node.term} last={node.last_index}"
            text += f" commit={node.commit_index} applied={node.applied_index}"
            if lease:
                left = (lease - self.now_ns) // 1_000_000
                text += " lease=forever" if left > 10**9 else f" lease={left}ms"
            if node.quiescent:
                text += " quiescent"
            self.output.append(text)

    def do_log(self, command: Command) -> None:
        """log [1 2]: the terms of the entries on disk"""
        for peer in [int(peer) for peer in command.arguments] or list(self.members):
            disk = self.members[peer].disk
            before = f"(from {disk.first}) " if disk.first > 1 else ""
            self.output.append(f"{peer}: {before}{' '.join(str(entry.term) for entry in disk.log)}")

    def do_members(self, command: Command) -> None:
        """members 1: what a leader knows of the others"""
        node = self.members[int(command.arguments[0])].node
        self.output.append(describe(node.membership))
        for member in node.members():
            kind = " learner" if member.is_learner else ""
            self.output.append(f"{member.peer}: {member.state} match={member.match} next={member.next}{kind}")


COMMANDS: dict[str, Callable[[Cluster, Command], None]] = {
    name.removeprefix("do_"): method for name, method in vars(Cluster).items() if name.startswith("do_")
}
