"""What ends with a session's transaction besides its data: the interface by which the transaction tells it (transaction.py)."""

from __future__ import annotations

from typing import Protocol


class Participant(Protocol):
    """What ends with the transaction, besides data, settings and DDL: cursors, notifications, advisory locks.

    It joins (``SessionTransaction.join``) when the transaction first uses it, and is forgotten at its end."""

    def mark(self) -> int:
        """Return a mark for ``rollback_to``; 0 stands for the moment before it joined."""

    def rollback_to(self, mark: int) -> None:
        """Undo what came after a savepoint."""

    async def before_commit(self) -> None:
        """Do what may still fail, and fail the commit."""

    async def before_prepare(self) -> None:
        """Do the same before PREPARE TRANSACTION, and refuse what cannot be kept for later."""

    async def after_commit(self) -> None:
        """Do what follows from the commit, before the client hears of it."""

    def ended(self, committed: bool) -> None:
        """Forget the transaction."""
