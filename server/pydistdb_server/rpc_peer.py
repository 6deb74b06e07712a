"""What a node keeps of a peer that it talks to: the connection it dialled, the calls that wait, the back-off.  See rpc.py."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydistdb.kv.api import Timestamp
from pydistdb.kv.descriptor import NodeId
from pydistdb.kv.hlc import HybridClock
from pydistdb.kv.transport import (
    MAX_ENVELOPES,
    Message,
    NodeUnreachable,
    RaftEnvelope,
    RemoteError,
    decode_message,
    encode_envelopes,
    encode_message,
)
from pydistdb.kv.versions import ClusterVersion
from pydistdb.tasks import Completion, Timer

from pydistdb_server import rpc_frames as frames
from pydistdb_server.loop import ServingLoop
from pydistdb_server.rpc_frames import BadFrame, Frame, Hello
from pydistdb_server.rpc_stream import RpcStream

MAX_CALLS = 20_000
"""Calls that may wait for one peer."""
MAX_QUEUED_BYTES = 256 << 20
"""Bytes that may wait for one peer."""
CONNECT_TIMEOUT_NS = 3_000_000_000
SILENCE_NS = 2_500_000_000
PING_INTERVAL_NS = 500_000_000
FIRST_BACKOFF_NS = 50_000_000
LONGEST_BACKOFF_NS = 1_000_000_000

log = logging.getLogger("pydistdb.server.rpc")


@dataclass(slots=True)
class RpcIdentity:
    """Who this node is; it learns its cluster and node id when it joins."""

    cluster_id: bytes = b""
    node_id: NodeId = 0
    name: str = ""
    versions: ClusterVersion = field(default_factory=ClusterVersion)
    incarnation: int = 0

    def hello(self, dialled: int = 0) -> Hello:
        """What a node tells another one first."""
        versions = self.versions
        return Hello(
            frames.PROTOCOL_VERSION,
            self.cluster_id,
            self.node_id,
            self.name,
            versions.supported,
            versions.promised,
            self.incarnation,
            dialled,
        )


class Network(Protocol):
    """What a peer needs of the transport."""

    loop: ServingLoop
    clock: HybridClock
    identity: RpcIdentity

    def hear_clock(self, reading: Timestamp, node_id: NodeId) -> bool:
        """Take in a peer's clock; False if it cannot be believed."""

    def next_call(self) -> int:
        """Number a call."""

    def turned_away(self, reason: str) -> None:
        """Take note that this node cannot be part of the cluster."""


class _Outgoing(RpcStream):
    """A connection that this node dialled: requests out, answers in."""

    def __init__(self, peer: Peer, sock: socket.socket) -> None:
        super().__init__(peer.transport.loop, sock, connecting=True)
        self._peer = peer
        self.welcome: Hello | None = None

    def on_connected(self) -> None:
        self._peer.connected(self)

    def on_frame(self, received: Frame) -> None:
        transport = self._peer.transport
        if not transport.hear_clock(received.clock, self._peer.node_id):
            self._peer.answer(received.call, RemoteError("the peer's clock is too far ahead"))
            return
        if received.kind == frames.RESPONSE:
            self._peer.answer(received.call, decode_message(received.body))
        elif received.kind == frames.ERROR:
            self._peer.answer(received.call, RemoteError(received.body.decode(errors="replace")))
        elif received.kind == frames.WELCOME:
            self.welcome = frames.decode_hello(received.body)
            self._peer.welcomed(self.welcome)
        elif received.kind == frames.REFUSED:
            reason = received.body.decode(errors="replace")
            self.close(f"refused: {reason}")
            if received.call == frames.FOR_GOOD:
                transport.turned_away(reason)
        elif received.kind != frames.PONG:
            raise BadFrame(f"kind {received.kind} from the answering side")

    def on_closed(self, reason: str) -> None:
        self._peer.disconnected(self, reason)


class Peer:
    """What this node keeps of one that it talks to."""

    def __init__(self, transport: Network, address: str, node_id: NodeId) -> None:
        self.transport = transport
        self.address = address
        self.node_id = node_id
        self._stream: _Outgoing | None = None
        self._standing = False
        self._dialled = 0
        self._calls: dict[int, Completion[Any]] = {}
        self._waiting: list[tuple[int, bytes]] = []
        """Requests that wait for the connection."""
        self._raft: deque[RaftEnvelope] = deque(maxlen=MAX_ENVELOPES)
        self._raft_queued = False
        self._backoff_ns = 0
        self._retry_at_ns = 0
        self._timer: Timer | None = None
        self.last_error = ""

    @property
    def name(self) -> NodeId | str:
        return self.node_id or self.address

    @property
    def waiting_calls(self) -> int:
        """Calls that have not been answered."""
        return len(self._calls)

    @property
    def is_connected(self) -> bool:
        return self._standing

    def call(self, request: Message) -> Completion[Any]:
        completion: Completion[Any] = Completion()
        stream = self._ready_stream()
        if stream is None or len(self._calls) >= MAX_CALLS or stream.queued_bytes > MAX_QUEUED_BYTES:
            reason = self.last_error or "no connection" if stream is None else "too many calls are waiting for it"
            completion.fail(NodeUnreachable(self.name, reason))
            return completion
        number = self.transport.next_call()
        self._calls[number] = completion
        body = encode_message(request)
        if self._standing:
            stream.write(frames.frame(frames.REQUEST, number, self.transport.clock.now(), body))
        else:
            self._waiting.append((number, body))
        self._watch_silence()
        return completion

    def send_raft(self, envelopes: list[RaftEnvelope]) -> None:
        stream = self._ready_stream()
        if stream is None or stream.queued_bytes > MAX_QUEUED_BYTES:
            return
        self._raft.extend(envelopes)
        if self._standing and not self._raft_queued:
            self._raft_queued = True
            self.transport.loop.call_soon(self._flush_raft)

    def _flush_raft(self) -> None:
        self._raft_queued = False
        if self._raft and self._stream is not None and self._standing:
            body = encode_envelopes(list(self._raft))
            self._raft.clear()
            self._stream.write(frames.frame(frames.RAFT, 0, self.transport.clock.now(), body))

    def _ready_stream(self) -> _Outgoing | None:
        """The connection, dialled if it is time; None while backing off."""
        if self._stream is None and self.transport.loop.now_ns() >= self._retry_at_ns:
            self._dial()
        return self._stream

    def _dial(self) -> None:
        host, _, port = self.address.rpartition(":")
        try:
            family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
            sock = socket.socket(family, socket.SOCK_STREAM)
        except (OSError, ValueError) as error:
            self._failed(str(error))
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            self._failed(os.strerror(code))
            return
        stream = self._stream = _Outgoing(self, sock)
        self._standing = False

        def expire() -> None:
            if self._stream is stream and not self._standing:
                stream.close("the connection could not be made in time")

        self.transport.loop.call_at(self.transport.loop.now_ns() + CONNECT_TIMEOUT_NS, expire)

    def connected(self, stream: _Outgoing) -> None:
        self._standing = True
        clock = self.transport.clock
        self._dialled += 1
        hello = frames.encode_hello(self.transport.identity.hello(self._dialled if self.node_id else 0))
        stream.write(frames.frame(frames.HELLO, 0, clock.now(), hello))
        for number, body in self._waiting:
            stream.write(frames.frame(frames.REQUEST, number, clock.now(), body))
        self._waiting.clear()
        self._flush_raft()

    def welcomed(self, hello: Hello) -> None:
        problem = self.transport.identity.versions.conflict(hello.supported, hello.name)
        if problem and self._stream is not None:
            self._stream.close(problem)
            return
        self._backoff_ns = 0
        if self.node_id and hello.node_id and hello.node_id != self.node_id:
            assert self._stream is not None
            self._stream.close(f"node {hello.node_id} answers there")

    def disconnected(self, stream: _Outgoing, reason: str) -> None:
        if self._stream is stream:
            self._stream = None
            self._standing = False
            self._failed(reason)

    def _failed(self, reason: str) -> None:
        """No connection: back off, and let everyone who waits know."""
        if reason != self.last_error:
            log.info("node %s (%s): %s", self.name, self.address, reason)
        self.last_error = reason
        self._backoff_ns = min(max(FIRST_BACKOFF_NS, self._backoff_ns * 2), LONGEST_BACKOFF_NS)
        self._retry_at_ns = self.transport.loop.now_ns() + self._backoff_ns
        self._raft.clear()
        self._waiting.clear()
        calls, self._calls = self._calls, {}
        for completion in calls.values():
            completion.fail(NodeUnreachable(self.name, reason))

    def heard_from(self) -> None:
        """The peer has dialled this node, so it is worth trying it now."""
        self._retry_at_ns = 0
        self._backoff_ns = 0

    def answer(self, number: int, outcome: Message | Exception) -> None:
        completion = self._calls.pop(number, None)
        if completion is None:
            return
        if isinstance(outcome, Exception):
            completion.fail(outcome)
        else:
            completion.set(outcome)

    def _watch_silence(self) -> None:
        """While calls wait, look now and then whether the peer still lives."""
        if self._timer is not None:
            return

        def look() -> None:
            self._timer = None
            stream = self._stream
            if not self._calls or stream is None:
                return
            silent_ns = self.transport.loop.now_ns() - stream.heard_ns
            if silent_ns > SILENCE_NS:
                stream.close("it does not answer")
                return
            if self._standing and silent_ns > PING_INTERVAL_NS:
                stream.write(frames.frame(frames.PING, 0, self.transport.clock.now(), b""))
            self._watch_silence()

        self._timer = self.transport.loop.call_at(self.transport.loop.now_ns() + PING_INTERVAL_NS, look)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close("this node stops")
