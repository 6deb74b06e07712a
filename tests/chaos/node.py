"""A node process whose clock and disk can be made to misbehave from outside: ``python -m tests.chaos.node FAULTS OPTIONS...``.

FAULTS is a file of three numbers that the node maps into its memory, and that whoever started it may change at any time:
microseconds to add to the wall clock, microseconds that every sync of the log takes longer, and whether syncs fail (EIO).
Nothing else differs from ``proddb start``; the monotonic clock stays true, as it does when an operator sets a clock.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydistdb_storage import log_sync

SYNC = "--sync"
_LAYOUT = struct.Struct("<qqq")


class Faults:
    """The file, from both sides."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_LAYOUT.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _LAYOUT.size)

    def set(self, clock_us: int = 0, sync_us: int = 0, sync_fails: bool = False) -> None:
        _LAYOUT.pack_into(self._memory, 0, clock_us, sync_us, sync_fails)

    @property
    def clock_us(self) -> int:
        return int(_LAYOUT.unpack_from(self._memory)[0])

    @property
    def sync_us(self) -> int:
        return int(_LAYOUT.unpack_from(self._memory)[1])

    @property
    def sync_fails(self) -> bool:
        return bool(_LAYOUT.unpack_from(self._memory)[2])


def install(path: Path) -> None:
    """Put the faults between this process, and the one that syncs its log, and the operating system."""
    faults = Faults(path)
    true_ns: Callable[[], int] = time.time_ns
    true_write: Callable[..., int] = os.pwritev

    def write(file: int, buffers: Any, position: int, flags: int = 0) -> int:
        if flags & os.RWF_DSYNC:
            _suffer(faults)
        return true_write(file, buffers, position, flags)

    time.time_ns = lambda: true_ns() + faults.clock_us * 1_000
    time.time = lambda: time.time_ns() / 1e9
    os.pwritev = write
    log_sync.COMMAND = [sys.executable, "-m", "tests.chaos.node", SYNC, str(path)]


def install_in_sync(path: Path) -> None:
    """The same for the process that syncs the log."""
    faults = Faults(path)
    true_sync: Callable[[int], None] = os.fdatasync

    def sync(file: int) -> None:
        _suffer(faults)
        true_sync(file)

    os.fdatasync = sync  # type: ignore[assignment]


def _suffer(faults: Faults) -> None:
    if faults.sync_us:
        time.sleep(faults.sync_us / 1e6)
    if faults.sync_fails:
        raise OSError(errno.EIO, "injected: the disk fails")


def main() -> int:
    if sys.argv[1] == SYNC:
        install_in_sync(Path(sys.argv[2]))
        log_sync.main()
        return 0
    install(Path(sys.argv[1]))
    from pydistdb_server.__main__ import main as serve

    return serve(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
