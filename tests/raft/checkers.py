"""The properties of the Raft paper (figure 3), checked as a cluster runs, and linearizability of reads.

* **Election safety**: at most one leader per term.
* **Log matching**: entries with equal index and term are equal, and so are their predecessors (which by induction makes
  the whole logs up to there equal).
* **Leader completeness**: whoever leads a term has every entry committed in earlier terms.
* **State machine safety**: no two nodes commit or apply different entries at one index.
* **Lease exclusion**: nobody holds a lease while somebody else leads a newer term.
* **Linearizability**: a read sees everything that was acknowledged to anybody, as written or as read, before it began.
  The state is a prefix of the log, so it is enough to compare indexes.

``observe`` is called with a node after every step, ``handed_out`` with every Ready, ``written`` with every write that
has become durable, ``sent`` with every message.  Entries count once they are durable or sent: what a crash undoes before
that has never existed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydistdb.raft import Compacted, Entry, Message, PeerId, RaftNode, Ready, Role
from pydistdb.raft.messages import Append

if TYPE_CHECKING:
    from tests.raft.disk import Write


class Violation(AssertionError):
    """One of the properties does not hold."""


class Checkers:
    def __init__(self) -> None:
        self.leaders: dict[int, PeerId] = {}
        self.entries: dict[tuple[int, int], tuple[int, Entry]] = {}
        """(index, term) → term of the predecessor, entry."""
        self.committed: dict[int, Entry] = {}
        self.committed_in: dict[int, int] = {}
        """Index → the term in which it was (first seen to be) committed, which may be later than the entry's own."""
        self.commit_seen: dict[PeerId, int] = {}
        self.acknowledged = 0
        """The largest index that any client knows of."""
        self.reads_checked = 0
        self.lease_reads_checked = 0

    def restarted(self, peer: PeerId) -> None:
        self.commit_seen.pop(peer, None)

    def handed_out(self, node: RaftNode, ready: Ready) -> None:
        """Check a Ready: what it applies is decided, except for what it only decides by being written."""
        if not ready.committed_on_persist:
            for entry in ready.committed:
                self._decided(node._state.peer, node.term, entry)

    def written(self, write: Write) -> None:
        """Check what has become durable."""
        self._matching(write.before_term, write.ready.entries)
        for entry in write.ready.committed:
            self._decided(0, write.ready.term, entry)

    def sent(self, message: Message) -> None:
        """Check what others get to see."""
        if isinstance(message, Append):
            self._matching(message.log_term, message.entries)

    def _matching(self, before: int, entries: list[Entry]) -> None:
        for entry in entries:
            known = self.entries.setdefault((entry.index, entry.term), (before, entry))
            if known[1] != entry or (before >= 0 <= known[0] != before):
                raise Violation(f"log matching: {entry} after term {before}, elsewhere it is {known}")
            before = entry.term

    def observe(self, node: RaftNode) -> None:
        """Check a node after something happened to it."""
        peer = node._state.peer
        if node.role is Role.LEADER:
            first = self.leaders.setdefault(node.term, peer)
            if first != peer:
                raise Violation(f"election safety: {first} and {peer} lead term {node.term}")
        commit = node.commit_index
        seen = self.commit_seen.get(peer, -1)
        if commit != seen or node.role is Role.LEADER:
            log = node._state.log
            for index in range(max(seen + 1, 1), commit + 1):
                try:
                    entry = log.slice(index, index + 1, 1)[0]
                except (Compacted, IndexError):
                    continue  # came in a snapshot, whose content is compared when it is applied
                self._decided(peer, node.term, entry)
            self.commit_seen[peer] = commit
        if node.role is Role.LEADER:
            self._complete(node)

    def _decided(self, peer: PeerId, term: int, entry: Entry) -> None:
        known = self.committed.setdefault(entry.index, entry)
        self.committed_in.setdefault(entry.index, term)
        if known != entry:
            raise Violation(f"state machine safety: {peer} commits {entry}, elsewhere it is {known}")

    def _complete(self, leader: RaftNode) -> None:
        """Leader completeness, for committed entries near the end of the log (the others were looked at before)."""
        log = leader._state.log
        for index in range(max(1, max(self.committed, default=0) - 50), max(self.committed, default=0) + 1):
            entry = self.committed.get(index)
            if entry is None or self.committed_in[index] >= leader.term or index <= leader.commit_index:
                continue
            try:
                if index > log.last_index or log.term(index) != entry.term:
                    raise Violation(
                        f"leader completeness: {leader._state.peer} leads term {leader.term} without {index}/{entry.term}"
                    )
            except Compacted:
                continue

    def leases_exclude(self, nodes: Iterable[tuple[RaftNode, int]]) -> None:
        """Check nodes, each with its clock: nobody holds a lease while somebody leads a newer term."""
        leaders = [(node.term, node, now_ns) for node, now_ns in nodes if node.role is Role.LEADER]
        if len(leaders) > 1:
            newest = max(term for term, _, _ in leaders)
            for term, node, now_ns in leaders:
                if term < newest and node.lease_valid(now_ns):
                    raise Violation(f"lease: {node._state.peer} holds one in term {term}, in spite of term {newest}")

    # ---- reads

    def write_acknowledged(self, index: int) -> None:
        self.acknowledged = max(self.acknowledged, index)

    def read_begins(self) -> int:
        """What the read that begins now must see."""
        return self.acknowledged

    def read_ends(self, peer: PeerId, must_see: int, saw: int, how: str) -> None:
        if saw < must_see:
            raise Violation(f"linearizability: a {how} read on {peer} saw {saw}, though {must_see} was known before")
        self.acknowledged = max(self.acknowledged, saw)
        self.reads_checked += 1
        if how == "lease":
            self.lease_reads_checked += 1
