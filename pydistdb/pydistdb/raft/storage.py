"""What a node reads back from disk: its log, its first state, snapshots.  All writing goes through ``Ready``.

Starting a group
----------------
The founding members start with equal states and an equal membership, none of which is in the log.  A newcomer must not
replay the log onto nothing: so the founders' log begins *behind* index 1.  Their storage says

    initial_state() == (HardState(), membership, 1)       first_index() == 2, last_index() == 1, term(1) == 0

and a newcomer's says ``(HardState(), Membership(), 0)``, 1, 0, term(0) == 0: it will be sent a snapshot.  A hard state of
term 0 also tells that this node has never promised anything to a leader (election.py).
"""

from __future__ import annotations

from typing import Protocol

from .messages import Entry, HardState, Membership, PeerId, SnapshotMeta


class SnapshotReader(Protocol):
    """A consistent copy of the state machine, read once from front to back."""

    @property
    def meta(self) -> SnapshotMeta:
        """Tell the index, term and membership that the copy stands for."""

    def may_read(self) -> bool:
        """Tell whether the next chunk may be read now; if not, the node asks again with its next tick."""

    def read(self, max_bytes: int) -> tuple[bytes, bool]:
        """Return the next chunk (about ``max_bytes``), and whether it was the last one."""

    def close(self) -> None:
        """Let go of the copy."""


class LogStorage(Protocol):
    """The durable log of one node, as of the writes it has been handed.

    Reads may come at any time; they only concern entries that have been reported as persisted.
    """

    def initial_state(self) -> tuple[HardState, Membership, int]:
        """Return the hard state, the membership as of the applied index, and the applied index."""

    def first_index(self) -> int:
        """Return the index of the first entry that can be read; the term of the one before must be known too."""

    def last_index(self) -> int:
        """Return the index of the last entry; ``first_index() - 1`` if there is none."""

    def term(self, index: int) -> int:
        """Return the term of an entry at ``first_index() - 1`` or above; raises Compacted below."""

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        """Return entries in [low, high): at least one, then within ``max_bytes``; raises Compacted."""

    def snapshot(self, to: PeerId) -> SnapshotReader | None:
        """Open a copy of the applied state for ``to``; None if that is not possible now (the node asks again).

        What the receiver gets must know of the entry that made it a member."""
