"""One client of a chaos run: a thread with a connection through one node, that notes every operation it makes.

``operation`` is the frame around each: its time, and what is known of its outcome when it fails::

    failed    the server said no, or the transaction had not come to its COMMIT
    unknown   the connection broke, or the server says that it does not know (40003, 08…, 57P01, 57P02)
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.chaos.history import FAILED, OK, UNKNOWN, Operation, Recorder

CONNECT_SECONDS = 4
_UNKNOWN_STATES = ("40003", "57P01", "57P02")

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass
class Clock:
    """Seconds since the run began."""

    began: float

    def now(self) -> float:
        return time.monotonic() - self.began


class NotDone(Exception):
    """The client decided against it; nothing has happened."""


class Attempt:
    """An operation under way."""

    def __init__(self, connection: Connection, operation: Operation) -> None:
        self.connection = connection
        self.operation = operation
        self.may_commit = True

    @property
    def value(self) -> Any:
        return self.operation.value

    def rows(self, query: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        return self.connection.execute(query, parameters).fetchall()  # type: ignore[arg-type]

    def execute(self, query: str, parameters: Any = None) -> int:
        return self.connection.execute(query, parameters).rowcount  # type: ignore[arg-type]

    def begin(self, isolation: str) -> None:
        self.may_commit = False
        self.connection.execute(f"BEGIN ISOLATION LEVEL {isolation}")  # type: ignore[arg-type]

    def commit(self) -> None:
        self.may_commit = True
        done = self.connection.execute("COMMIT")
        if done.statusmessage != "COMMIT":
            self.may_commit = False
            raise NotDone(f"COMMIT answered {done.statusmessage}")


class Client(threading.Thread):
    """Calls ``step`` again and again until it is told to stop."""

    def __init__(
        self, process: int, url: str, node: str, recorder: Recorder, clock: Clock, rate: float, seed: int
    ) -> None:
        super().__init__(daemon=True, name=f"client {process}")
        self.process = process
        self.node = node
        self.rand = random.Random(seed * 1_000 + process)
        self.stopping = False
        self.busy_since = 0.0
        """When its operation under way began; 0: none."""
        self.last_ok = 0.0
        """Start of the latest operation that succeeded."""
        self.surprises: list[str] = []
        self.step: Any = None
        self.clock = clock
        self._url = url
        self._recorder = recorder
        self._rate = rate
        self._connection: Connection | None = None

    def run(self) -> None:
        while not self.stopping:
            try:
                self.step(self)
            except psycopg.Error:
                time.sleep(0.1)  # could not connect
            except Exception as error:
                self.surprises.append(f"{type(error).__name__}: {error}")
                time.sleep(0.5)
            time.sleep(self.rand.uniform(0, 2 / self._rate))
        self._drop()

    @contextmanager
    def operation(self, kind: str, value: Any) -> Iterator[Attempt]:
        """Make one operation; its errors of the expected kinds end here, in the history."""
        operation = Operation(self.process, kind, value, OK, node=self.node)
        attempt = Attempt(self._connected(), operation)
        operation.start = self.busy_since = self.clock.now()
        try:
            yield attempt
            self.last_ok = operation.start
        except NotDone as refusal:
            operation.outcome, operation.error = FAILED, str(refusal)
            self._roll_back()
        except psycopg.Error as error:
            state = error.sqlstate or ""
            answered = state and state not in _UNKNOWN_STATES and not state.startswith("08")
            operation.outcome = FAILED if answered or not attempt.may_commit else UNKNOWN
            operation.error = f"{state} {str(error).strip()[:200]}"
            if state.startswith(("XX", "42", "22")):
                self.surprises.append(operation.error)
            self._roll_back()
        finally:
            operation.end = self.clock.now()
            self.busy_since = 0.0
            self._recorder.note(operation)

    def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = None
            self._connection = psycopg.connect(
                self._url, autocommit=True, connect_timeout=CONNECT_SECONDS, tcp_user_timeout=10_000
            )
        return self._connection

    def _roll_back(self) -> None:
        connection = self._connection
        if connection is None or connection.closed or connection.broken:
            self._drop()
            return
        try:
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.execute("ROLLBACK")
        except psycopg.Error:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
