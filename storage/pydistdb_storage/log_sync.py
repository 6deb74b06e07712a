"""Syncing the log in a process of its own, for the many small commits.

A thread that makes a commit durable needs the interpreter's lock before and after its system call, and the serving thread
gives it away each time: that, and the cold caches behind it, were a sixth of what an eight-client TPC-B costs.  So small
records are written by the owner's thread, which only fills the page cache, and synced by this child, which has a lock of
its own (docs/decisions/014-log-sync.md)::

    owner                                 child
    pwrite(log, record)
    b"f" + the log's descriptor  ───────► takes the descriptor (once per segment)
    b"s"                         ───────► fdatasync
      ◄─────────────────────────────────  0, or the error number (2 bytes)

The child holds no data and writes none.  If it ends, the owner syncs by itself: nothing is lost, and a store that is
opened again need not wait for it.  It shares the owner's open file, so an error of the disk that the kernel notices
between the write and the sync reaches it.  It ends when the socket does: with the owner, however that ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys

COMMAND = [sys.executable, "-I", "-S", __file__]
"""The child; its standard input is the socket."""

_ANSWER_BYTES = 2


class LogSync:
    """The owner's end; one request at a time."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._child = subprocess.Popen(COMMAND, stdin=theirs.fileno())
        theirs.close()
        self._known = -1
        """The file that the child has."""

    def fileno(self) -> int:
        """Readable when an answer is there, or the child has ended."""
        return self._socket.fileno()

    def request(self, file: int, number: int) -> None:
        """Ask for a sync of an open file, told from others by ``number``; raises OSError if the child has ended."""
        if number != self._known:
            socket.send_fds(self._socket, [b"f"], [file])
            self._known = number
        self._socket.send(b"s")

    def answer(self) -> int:
        """The error number of the sync asked for, 0 if it is done; raises OSError if the child has ended."""
        data = self._socket.recv(_ANSWER_BYTES)
        if len(data) < _ANSWER_BYTES:
            raise ConnectionError("the process that syncs the log has ended")
        return int.from_bytes(data, "big")

    def close(self) -> None:
        """End the child."""
        self._socket.close()
        self._child.wait()


def main() -> None:
    """Serve the socket that is standard input."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the owner decides when this ends
    # An owner that ends without having read an answer resets the connection: no end is of any interest here.
    with socket.socket(fileno=0) as requests, contextlib.suppress(ConnectionError):
        file = -1
        while True:
            kind, files, _, _ = socket.recv_fds(requests, 1, 1)
            if kind == b"f":
                if file >= 0:
                    os.close(file)
                file = files[0]
            elif kind == b"s":
                requests.sendall(_sync(file).to_bytes(_ANSWER_BYTES, "big"))
            else:
                return


def _sync(file: int) -> int:
    try:
        os.fdatasync(file)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


if __name__ == "__main__":
    main()
