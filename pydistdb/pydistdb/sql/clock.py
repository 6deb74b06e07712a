"""The wall clock as Postgres counts: microseconds since 2000-01-01."""

from __future__ import annotations

import time

POSTGRES_EPOCH_US = 946_684_800_000_000
"""2000-01-01 in microseconds since 1970: the zero of timestamps."""


def now_us() -> int:
    """The time of now as a timestamptz."""
    return time.time_ns() // 1_000 - POSTGRES_EPOCH_US
