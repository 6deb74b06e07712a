"""Histories: what clients did and what they were told, kept as a file that checkers read.

A file has one JSON object per line: first what the workload says of itself, then one operation per line, as it ended::

    {"workload": "register", "nodes": 3}
    {"process": 4, "node": "n1", "kind": "write", "start": 1.204, "end": 1.211, "outcome": "ok", "value": {"key": 3, "to": 17}}

``outcome``: ok (it took effect), failed (it did not), unknown (the answer was lost: either).  An operation took effect, if it
did, between its start and its end; one of unknown outcome, at any time after its start.
"""

from __future__ import annotations

import json
import math
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

OK, FAILED, UNKNOWN = "ok", "failed", "unknown"


@dataclass(slots=True)
class Operation:
    """One call of a client; times in seconds of one monotonic clock."""

    process: int
    kind: str
    value: Any
    outcome: str = OK
    start: float = 0.0
    end: float = 0.0
    node: str = ""
    error: str = ""

    @property
    def latest(self) -> float:
        """When it has surely taken effect, if it ever does."""
        return self.end if self.outcome == OK else math.inf


@dataclass(slots=True)
class History:
    """All operations of one workload."""

    header: dict[str, Any]
    operations: list[Operation] = field(default_factory=list)

    @property
    def workload(self) -> str:
        return str(self.header["workload"])

    def of(self, kind: str, *outcomes: str) -> list[Operation]:
        """The operations of one kind, with one of these outcomes (none given: all)."""
        return [op for op in self.operations if op.kind == kind and (not outcomes or op.outcome in outcomes)]

    @classmethod
    def load(cls, path: Path) -> History:
        """Read a file; raises ValueError where it is no history."""
        lines = path.read_text().splitlines()
        try:
            header = json.loads(lines[0])
            return cls(header, [Operation(**json.loads(line)) for line in lines[1:]])
        except (IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a history: {error}") from error

    def save(self, path: Path) -> None:
        with Recorder(path, self.header) as recorder:
            for operation in self.operations:
                recorder.note(operation)


class Recorder:
    """Writes a history as it happens; many threads may note."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self._file: TextIO = path.open("w")
        self._lock = threading.Lock()
        self._file.write(json.dumps(header) + "\n")

    def note(self, operation: Operation) -> None:
        line = json.dumps(asdict(operation)) + "\n"
        with self._lock:
            self._file.write(line)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
