"""What goes wrong for the user of ``proddb``: errors, and how they are written.

On a terminal an error is a line, or a few.  Where ``--format json`` was given it is one object, alone on standard error::

    {"error": {"code": "42704", "message": "there is no node node9", "detail": null, "hint": "there are node1 (1)"}}

``code`` is the server's SQLSTATE, or one of its own kind here: ``usage`` (a wrong command line), ``cluster`` (something about the
cluster or its folder), ``interrupted`` (Ctrl-C).  The exit status is the same in either form.
"""

from __future__ import annotations

import json
import sys

UNDEFINED_OBJECT = "42704"
CANNOT_CONNECT = "08001"


class ClusterError(Exception):
    """Something the user can mend; the message says what, and ``hint`` how."""

    status = 1
    """The exit status."""

    def __init__(self, message: str, *, code: str = "cluster", detail: str | None = None, hint: str | None = None):
        super().__init__(message)
        self.code = code
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        return "\n".join(text for text in (self.args[0], self.detail, self.hint) if text)

    @property
    def text(self) -> str:
        """As a terminal shows it."""
        return f"proddb: {self}"


class UsageError(ClusterError):
    """A wrong command line, as argparse words it; ``prog`` is the command and ``usage`` how it is called."""

    status = 2

    def __init__(self, message: str, prog: str, usage: str):
        super().__init__(message, code="usage", hint=" ".join(usage.split()))
        self._lines = f"{usage}{prog}: error: {message}"

    @property
    def text(self) -> str:
        return self._lines


class Interrupted(ClusterError):
    """Ctrl-C, after so many seconds."""

    status = 130

    def __init__(self, seconds: float):
        super().__init__(f"interrupted after {seconds:.0f} s", code="interrupted")


def complain(error: ClusterError, *, as_json: bool) -> int:
    """Write an error to standard error; returns the exit status."""
    if as_json:
        fields = {"code": error.code, "message": error.args[0], "detail": error.detail, "hint": error.hint}
        print(json.dumps({"error": fields}), file=sys.stderr)
    else:
        print(error.text, file=sys.stderr)
    return error.status
