"""Connections to a cluster for the command line: libpq through psycopg, results as the server's own text."""

from __future__ import annotations

import re
import select
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import pq

from pydistdb_tools.errors import CANNOT_CONNECT, ClusterError
from pydistdb_tools.local_cluster import fetch_status

CONNECT_SECONDS = 10
REFUSALS = (
    ('database ".*" does not exist', "3D000"),
    ('role ".*" (does not exist|is not permitted to log in)', "28000"),
    ("password authentication failed", "28P01"),
    ('permission denied for database ".*"', "42501"),
    ('database ".*" is not currently accepting connections', "55000"),
    ("(sorry, )?too many (clients|connections)", "53300"),
    ("the database system is ", "57P03"),
)
"""What a server says to a client that it does not take, and the SQLSTATE of that."""


def connect(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    """Connect in autocommit mode; raises ClusterError with the server's words."""
    if "://" in url and not url.startswith(("postgresql://", "postgres://")):
        raise ClusterError(f"--url: {url!r} is no Postgres URL (postgresql://USER@HOST:PORT/DATABASE)")
    try:
        return psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_SECONDS, application_name="proddb")
    except psycopg.errors.ConnectionTimeout:
        raise ClusterError(
            f"cannot connect to {without_password(url)}: no answer within {CONNECT_SECONDS} s;"
            " the node may still be starting, or be very busy",
            code=CANNOT_CONNECT,
        ) from None
    except psycopg.Error as error:
        words = str(error).strip()
        code = error.sqlstate or refusal_code(words)
        raise ClusterError(f"cannot connect to {without_password(url)}: {words}", code=code) from None


def without_password(url: str) -> str:
    """The URL as messages show it.

    >>> without_password("postgresql://ann:secret@127.0.0.1:5433/shop")
    'postgresql://ann@127.0.0.1:5433/shop'
    """
    url = re.sub(r"(://[^:@/]*):[^/]*@", r"\1@", url)
    return re.sub(r"(password\s*=\s*)('(\\.|[^'])*'|[^\s&]+)", r"\1…", url)


def refusal_code(words: str) -> str:
    """The SQLSTATE with which a server turns a client away; libpq keeps only what it says.

    >>> refusal_code('FATAL:  database "shop" does not exist')
    '3D000'
    """
    return next((code for pattern, code in REFUSALS if re.search(f"FATAL:  {pattern}", words)), CANNOT_CONNECT)


def status_of(url: str) -> dict[str, Any]:
    """The cluster's status as seen by the node behind ``url``, or by any other that it knows of."""
    try:
        with connect(url) as connection:
            rows = connection.execute(
                "SELECT http_address FROM pydistdb_internal.nodes ORDER BY is_live DESC"
            ).fetchall()
    except psycopg.Error as error:
        message = f"the node does not tell of its cluster: {str(error).strip()}"
        raise ClusterError(message, code=error.sqlstate or CANNOT_CONNECT) from None
    for (address,) in rows:
        if address and (found := fetch_status(str(address))) is not None:
            return found
    raise ClusterError("no node answers over HTTP")


@dataclass(frozen=True, slots=True)
class Result:
    """One statement's outcome: rows as text (None for NULL) under ``names``, or just a command tag, or an error."""

    tag: str
    names: tuple[str, ...] = ()
    type_oids: tuple[int, ...] = ()
    rows: tuple[tuple[str | None, ...], ...] = ()
    error: str | None = None


def run_text(connection: psycopg.Connection[Any], text: str) -> Iterator[Result]:
    """Send ``text`` by the simple protocol and yield each statement's result.

    Ctrl-C cancels the statement at the server (57014) and goes on."""
    raw = connection.pgconn
    raw.send_query(text.encode())
    while (result := _next_result(raw)) is not None:
        if result.status == pq.ExecStatus.COPY_IN:
            raw.put_copy_end(b"COPY FROM STDIN needs psql or a driver")
        elif result.status == pq.ExecStatus.COPY_OUT:
            yield Result("", rows=tuple(_copied(raw)))
        else:
            yield _converted(result)


def _next_result(raw: pq.abc.PGconn) -> pq.abc.PGresult | None:
    while True:
        try:
            while raw.flush():
                select.select([], [raw.socket], [])
            while raw.is_busy():
                select.select([raw.socket], [], [])
                raw.consume_input()
            return raw.get_result()
        except KeyboardInterrupt:
            raw.get_cancel().cancel()


def _copied(raw: pq.abc.PGconn) -> Iterator[tuple[str]]:
    while True:
        size, data = raw.get_copy_data(0)
        if size <= 0:
            return
        yield (bytes(data).decode(errors="replace").rstrip("\n"),)


def _converted(result: pq.abc.PGresult) -> Result:
    if result.status == pq.ExecStatus.TUPLES_OK:
        columns = range(result.nfields)
        names = tuple((result.fname(i) or b"").decode() for i in columns)
        oids = tuple(result.ftype(i) for i in columns)
        rows = tuple(tuple(_text(result.get_value(row, i)) for i in columns) for row in range(result.ntuples))
        return Result((result.command_status or b"").decode(), names, oids, rows)
    if result.status in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY):
        return Result((result.command_status or b"").decode())
    return Result("", error=_error_text(result))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


def _error_text(result: pq.abc.PGresult) -> str:
    field = pq.DiagnosticField

    def get(which: pq.DiagnosticField) -> str | None:
        return _text(result.error_field(which))

    text = f"{get(field.SEVERITY)}:  {get(field.MESSAGE_PRIMARY)}"
    if code := get(field.SQLSTATE):
        text += f" ({code})"
    for label, which in (("DETAIL", field.MESSAGE_DETAIL), ("HINT", field.MESSAGE_HINT), ("CONTEXT", field.CONTEXT)):
        if value := get(which):
            text += f"\n{label}:  {value}"
    return text
