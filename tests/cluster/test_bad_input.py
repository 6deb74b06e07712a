"""Garbage on the socket: that connection gets an error, the server and the others live on."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from pydistdb_tools.local_cluster import LocalCluster

STARTUP = struct.pack("!II", 0, 196608) + b"user\0postgres\0database\0postgres\0\0"
STARTUP = struct.pack("!I", len(STARTUP)) + STARTUP[4:]


@contextmanager
def _raw(cluster: LocalCluster, start: bool = True) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", cluster.nodes[0].sql_port), timeout=15) as raw:
        if start:
            raw.sendall(STARTUP)
            answer = b""
            while not answer.endswith(b"Z\0\0\0\5I"):
                part = raw.recv(65536)
                assert part, answer
                answer += part
        yield raw


def _read_to_end(raw: socket.socket) -> bytes:
    answer = b""
    try:
        while part := raw.recv(65536):
            answer += part
    except ConnectionResetError:
        pass
    return answer


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


@pytest.fixture
def witness(one_node: LocalCluster) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Another client; it must notice nothing."""
    with psycopg.connect(one_node.nodes[0].url, autocommit=True) as connection:
        connection.execute("BEGIN")
        yield connection
        assert connection.execute("SELECT 42").fetchone() == (42,)
        connection.execute("COMMIT")


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 64,
        b"\xff" * 64,
        struct.pack("!I", 0x7FFFFFFF) + b"x" * 100,
        struct.pack("!II", 8, 0x00090000),
        struct.pack("!II", 12, 196608) + b"user",
        os.urandom(1000),
    ],
)
def test_garbage_instead_of_a_startup_message(
    one_node: LocalCluster, witness: psycopg.Connection[object], garbage: bytes
) -> None:
    with _raw(one_node, start=False) as raw:
        raw.sendall(garbage)
        raw.shutdown(socket.SHUT_WR)
        _read_to_end(raw)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\x03\x04\x05\x06\x07",
        b"Q" + struct.pack("!I", 0x7FFFFFFF) + b"x",
        b"Q" + struct.pack("!i", -5),
        b"Q" + struct.pack("!I", 3),
        b"?" + struct.pack("!I", 4),
        _message(b"B", b"\0\0\xff\xff"),
        _message(b"P", b"no terminator"),
        _message(b"Q", b"SELECT 1 no terminator"),
        _message(b"D", b"X\0"),
    ],
)
def test_garbage_after_startup(one_node: LocalCluster, witness: psycopg.Connection[object], garbage: bytes) -> None:
    with _raw(one_node) as raw:
        raw.sendall(garbage + _message(b"S", b""))
        raw.shutdown(socket.SHUT_WR)
        answer = _read_to_end(raw)
    assert answer[:1] == b"E"
    assert b"C08P01\0" in answer or b"C42601\0" in answer or b"C0A000\0" in answer, answer


def test_half_a_message_and_silence(one_node: LocalCluster, witness: psycopg.Connection[object]) -> None:
    with _raw(one_node) as raw:
        raw.sendall(b"Q" + struct.pack("!I", 1000) + b"SELECT")


def test_a_million_bytes_of_sql(one_node: LocalCluster, witness: psycopg.Connection[object]) -> None:
    with psycopg.connect(one_node.nodes[0].url, autocommit=True) as connection:
        text = "x" * 1_000_000
        assert connection.execute(f"SELECT length('{text}')").fetchone() == (1_000_000,)
        with pytest.raises(psycopg.errors.SyntaxError):
            connection.execute("SELECT " + "(" * 500_000)
    with psycopg.connect(one_node.nodes[0].url, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.SyntaxError, match="memory exhausted"):
            connection.execute("SELECT " + "(" * 100_000 + "1" + ")" * 100_000)
        with pytest.raises(psycopg.Error):
            connection.execute("SELECT " + "+".join(["1"] * 200_000))
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_too_many_connections_are_refused_clearly(one_node: LocalCluster) -> None:
    opened = []
    try:
        with pytest.raises(psycopg.OperationalError, match="too many"):
            for _ in range(600):
                opened.append(psycopg.connect(one_node.nodes[0].url))
    finally:
        for connection in opened:
            connection.close()
    with psycopg.connect(one_node.nodes[0].url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
