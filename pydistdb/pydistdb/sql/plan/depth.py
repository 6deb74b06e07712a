"""Recursion over trees that the binder lets through, which are a few hundred levels deep at most.

A rule needs some six Python frames per level of an expression; the interpreter's default limit of 1000 would stop it at
depths that Postgres takes.  Frames of Python functions calling each other cost no C stack (since 3.11), so the limit may be
higher for a while.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pydistdb.sql.errors import DatabaseError

MORE_FRAMES = 6_000


@contextmanager
def deep_stack() -> Iterator[None]:
    """Allow more frames than usual; past that, the error of Postgres."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + MORE_FRAMES)
    try:
        yield
    except RecursionError as error:
        raise DatabaseError.of(
            "54001",
            "stack depth limit exceeded",
            hint='Increase the configuration parameter "max_stack_depth" (currently 2048kB), after ensuring the '
            "platform's stack depth limit is adequate.",
        ) from error
    finally:
        sys.setrecursionlimit(limit)
