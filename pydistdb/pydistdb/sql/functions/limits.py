"""How long a text or bytea may be that a function makes: 256 MB, since several copies of it may be alive at a time.

Postgres's limit is 1 GB; both answer with 54000.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql.errors import DatabaseError, ProgramLimitExceeded

MOST_BYTES = 256 << 20
"""A character counts as one, except where text is padded."""


def too_long() -> DatabaseError:
    return ProgramLimitExceeded("requested length too large")


def check_length(length: int) -> None:
    """Raise 54000 for a value that is not to be made."""
    if length > MOST_BYTES:
        raise too_long()


def joined(parts: Sequence[str], separator: str = "") -> str:
    """``separator.join(parts)``, if it is not too long."""
    if sum(map(len, parts)) + len(separator) * len(parts) > MOST_BYTES:
        raise too_long()
    return separator.join(parts)


def added(left: str, right: str) -> str:
    """``left || right``."""
    if len(left) + len(right) > MOST_BYTES:
        raise too_long()
    return left + right


def added_bytes(left: bytes, right: bytes) -> bytes:
    if len(left) + len(right) > MOST_BYTES:
        raise too_long()
    return left + right
