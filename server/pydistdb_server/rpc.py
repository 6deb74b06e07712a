"""Node-to-node calls: many at once over one TCP connection per direction, and one-way batches of Raft messages.

Theory of operation
-------------------
A node dials each peer it has something to say to, and keeps that connection: its requests and Raft messages go out
there, and the answers come back.  What the peer has to say comes in over a connection that the peer
dialled.  Everything is frames (rpc_frames.py), gathered and sent once per loop pass.

    node 1 ──HELLO, REQUEST 7, RAFT, REQUEST 8 ──▶ node 2
           ◀─WELCOME, RESPONSE 8, RESPONSE 7 ─────

* A connection that breaks, cannot be made, or is silent for ``SILENCE_NS`` while calls wait for it, fails its calls
with
  NodeUnreachable; the next one is tried after a pause that doubles up to a second (a message from that peer resets it).
* Raft messages wait in a bounded queue; the oldest go first when it is full (Raft sends again).  Calls beyond
  ``MAX_CALLS`` fail at once.
* A peer with ``MAX_RUNNING`` requests in work, or that does not take its answers, is not read from until that changes.
* HELLO names cluster and version: a stranger is refused, and told why.

Every frame carries the sender's hybrid clock; a reading that is too far ahead is not believed: the message is dropped.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from pydistdb.kv.descriptor import NodeId
from pydistdb.kv.hlc import ClockOffsetExceeded, HybridClock
from pydistdb.kv.transport import (
    MAX_ENVELOPES,
    Message,
    NodeUnreachable,
    RaftEnvelope,
    RemoteError,
    decode_envelopes,
    decode_message,
    encode_envelopes,
    encode_message,
)
from pydistdb.tasks import Completion, Timer

from pydistdb_server import rpc_frames as frames
from pydistdb_server.loop import HANGUP, PEER_CLOSED, READABLE, WRITABLE, ServingLoop
from pydistdb_server.rpc_frames import BadFrame, Frame, FrameReader, Hello

MAX_CALLS = 20_000
"""Calls that may wait for one peer."""
MAX_RUNNING = 2_000
"""Requests of one peer in work here."""
MAX_QUEUED_BYTES = 256 << 20
"""Bytes that may wait for one peer."""
READ_BYTES = 1 << 20
CONNECT_TIMEOUT_NS = 3_000_000_000
SILENCE_NS = 6_000_000_000
PING_INTERVAL_NS = 1_000_000_000
FIRST_BACKOFF_NS = 50_000_000
LONGEST_BACKOFF_NS = 1_000_000_000

log = logging.getLogger("pydistdb.server.rpc")

RequestHandler = Callable[[NodeId, Any], Awaitable[Message]]
RaftHandler = Callable[[NodeId, list[RaftEnvelope]], None]


@dataclass(slots=True)
class RpcIdentity:
    """Who this node is; it learns its cluster and node id when it joins."""

    cluster_id: bytes = b""
    node_id: NodeId = 0
    name: str = ""


class _Stream:
    """A socket on the loop: frames in, bytes gathered and out."""

    def __init__(self, loop: ServingLoop, sock: socket.socket, connecting: bool) -> None:
        self.loop = loop
        self.heard_ns = loop.now_ns()
        self.closed = False
        self._socket = sock
        self._descriptor = sock.fileno()
        self._reader = FrameReader()
        self._parts: list[bytes] = []
        self._unsent = memoryview(b"")
        self._connecting = connecting
        self._flush_queued = False
        self._paused = False
        self.queued_bytes = 0
        self._events = WRITABLE if connecting else READABLE | PEER_CLOSED
        loop.register(self._descriptor, self._on_events, self._events)

    # What the two kinds of connection do differently.

    def on_connected(self) -> None:
        """The outgoing connection stands."""

    def on_frame(self, received: Frame) -> None:
        raise NotImplementedError

    def on_closed(self, reason: str) -> None:
        """The connection is gone."""

    def write(self, data: bytes) -> None:
        """Send with everything else of this loop pass."""
        if self.closed:
            return
        self._parts.append(data)
        self.queued_bytes += len(data)
        if not self._flush_queued and not self._connecting and not self._unsent:
            self._flush_queued = True
            self.loop.call_soon(self._flush)

    def pause_reading(self, paused: bool) -> None:
        if paused != self._paused and not self.closed and not self._connecting:
            self._paused = paused
            self._watch(self._events & ~READABLE if paused else self._events | READABLE)

    def close(self, reason: str) -> None:
        if self.closed:
            return
        self.closed = True
        self.loop.unregister(self._descriptor)
        self._socket.close()
        self._parts.clear()
        self._unsent = memoryview(b"")
        self.on_closed(reason)

    def _watch(self, events: int) -> None:
        if events != self._events:
            self._events = events
            self.loop.modify(self._descriptor, events)

    def _on_events(self, events: int) -> None:
        if self._connecting:
            self._finish_connecting()
            return
        if events & WRITABLE:
            self._flush()
        if not self.closed and events & (READABLE | HANGUP | PEER_CLOSED):
            self._read()

    def _finish_connecting(self) -> None:
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.close(os.strerror(code))
            return
        self._connecting = False
        self.heard_ns = self.loop.now_ns()
        self._watch(READABLE | PEER_CLOSED)
        self.on_connected()
        self._flush()

    def _read(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.close(str(error))
            return
        if not data:
            self.close("the peer closed the connection")
            return
        self.heard_ns = self.loop.now_ns()
        try:
            for received in self._reader.feed(data):
                self.on_frame(received)
                if self.closed:
                    return
        except (BadFrame, msgspec.MsgspecError) as error:
            self.close(f"it sent something unreadable: {error}")

    def _flush(self) -> None:
        self._flush_queued = False
        if self.closed:
            return
        parts = self._parts
        while self._unsent or parts:
            if not self._unsent:
                self._unsent = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))
                parts.clear()
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                self._watch(self._events | WRITABLE)
                return
            except OSError as error:
                self.close(str(error))
                return
            self._unsent = self._unsent[sent:]
            self.queued_bytes -= sent
        self._watch(self._events & ~WRITABLE)


class _Outgoing(_Stream):
    """A connection that this node dialled: requests out, answers in."""

    def __init__(self, peer: _Peer, sock: socket.socket) -> None:
        super().__init__(peer.transport.loop, sock, connecting=True)
        self._peer = peer
        self.welcome: Hello | None = None

    def on_connected(self) -> None:
        self._peer.connected(self)

    def on_frame(self, received: Frame) -> None:
        transport = self._peer.transport
        if not transport.hear_clock(received.clock):
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
            self.close("refused: " + received.body.decode(errors="replace"))
        elif received.kind != frames.PONG:
            raise BadFrame(f"kind {received.kind} from the answering side")

    def on_closed(self, reason: str) -> None:
        self._peer.disconnected(self, reason)


class _Peer:
    """What this node keeps of one that it talks to."""

    def __init__(self, transport: RpcTransport, address: str, node_id: NodeId) -> None:
        self.transport = transport
        self.address = address
        self.node_id = node_id
        self._stream: _Outgoing | None = None
        self._standing = False
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
        identity = self.transport.identity
        hello = Hello(frames.PROTOCOL_VERSION, identity.cluster_id, identity.node_id, identity.name)
        stream.write(frames.frame(frames.HELLO, 0, clock.now(), frames.encode_hello(hello)))
        for number, body in self._waiting:
            stream.write(frames.frame(frames.REQUEST, number, clock.now(), body))
        self._waiting.clear()
        self._flush_raft()

    def welcomed(self, hello: Hello) -> None:
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


class _Incoming(_Stream):
    """A connection that a peer dialled: its requests in, our answers out."""

    def __init__(self, transport: RpcTransport, sock: socket.socket, address: str) -> None:
        super().__init__(transport.loop, sock, connecting=False)
        self._transport = transport
        self._address = address
        self._node_id: NodeId = 0
        self._greeted = False
        self._running = 0

    def on_frame(self, received: Frame) -> None:
        transport = self._transport
        if received.kind == frames.HELLO:
            self._greet(frames.decode_hello(received.body))
            return
        if not self._greeted:
            raise BadFrame("no greeting")
        believed = transport.hear_clock(received.clock)
        if received.kind == frames.RAFT:
            if believed:
                transport.receive_raft(self._node_id, decode_envelopes(received.body))
        elif received.kind == frames.REQUEST:
            if believed:
                self._serve(received.call, received.body)
            else:
                self._answer(received.call, frames.ERROR, b"your clock is too far ahead")
        elif received.kind == frames.PING:
            self.write(frames.frame(frames.PONG, 0, transport.clock.now(), b""))
        else:
            raise BadFrame(f"kind {received.kind} from the calling side")

    def _greet(self, hello: Hello) -> None:
        transport = self._transport
        identity = transport.identity
        problem = ""
        if hello.version != frames.PROTOCOL_VERSION:
            problem = f"protocol version {hello.version}, this node speaks {frames.PROTOCOL_VERSION}"
        elif hello.cluster_id and identity.cluster_id and hello.cluster_id != identity.cluster_id:
            problem = "this node belongs to another cluster"
        if problem:
            log.warning("%s (%s): refused: %s", hello.name or hello.node_id, self._address, problem)
            self.write(frames.frame(frames.REFUSED, 0, transport.clock.now(), problem.encode()))
            self._flush()
            self.close(problem)
            return
        self._node_id = hello.node_id
        self._greeted = True
        mine = Hello(frames.PROTOCOL_VERSION, identity.cluster_id, identity.node_id, identity.name)
        self.write(frames.frame(frames.WELCOME, 0, transport.clock.now(), frames.encode_hello(mine)))
        transport.heard_from(hello.node_id)

    def _serve(self, call: int, body: bytes) -> None:
        try:
            request = decode_message(body)
        except msgspec.MsgspecError as error:
            self._answer(call, frames.ERROR, f"unknown request: {error}".encode())
            return
        self._running += 1
        if self._running >= MAX_RUNNING:
            self.pause_reading(True)
        task = self.loop.spawn(_ask(self._transport.handler, self._node_id, request), "rpc")
        task.completion.on_done(lambda done: self._served(call, done))

    def _served(self, call: int, done: Completion[Message]) -> None:
        self._running -= 1
        error = done.error()
        if error is None:
            self._answer(call, frames.RESPONSE, encode_message(done.result()))
        else:
            if not isinstance(error, (RemoteError, NodeUnreachable)):
                log.error("a request failed", exc_info=(type(error), error, error.__traceback__))
            self._answer(call, frames.ERROR, f"{type(error).__name__}: {error}".encode())
        if self._running < MAX_RUNNING // 2 and self.queued_bytes < MAX_QUEUED_BYTES:
            self.pause_reading(False)

    def _answer(self, call: int, kind: int, body: bytes) -> None:
        self.write(frames.frame(kind, call, self._transport.clock.now(), body))
        if self.queued_bytes > MAX_QUEUED_BYTES:
            self.close("it does not take its answers")

    def on_closed(self, reason: str) -> None:
        self._transport.incoming.discard(self)


async def _ask(handler: RequestHandler, node_id: NodeId, request: Any) -> Message:
    return await handler(node_id, request)


async def _not_ready(node_id: NodeId, request: Any) -> Message:
    raise RemoteError("this node is still starting")


class RpcTransport:
    """This node's side of the network (pydistdb.kv.transport.Transport)."""

    def __init__(self, loop: ServingLoop, clock: HybridClock, identity: RpcIdentity) -> None:
        self.loop = loop
        self.clock = clock
        self.identity = identity
        self.handler: RequestHandler = _not_ready
        """Answers requests; set once the store is there."""
        self.receive_raft: RaftHandler = lambda node_id, envelopes: None
        self.incoming: set[_Incoming] = set()
        self._by_node: dict[NodeId, _Peer] = {}
        self._by_address: dict[str, _Peer] = {}
        self._last_call = 0
        self.refused_clocks = 0

    # ------------------------------------------------------------------------------------------ Transport

    def send_raft(self, node_id: NodeId, envelopes: list[RaftEnvelope]) -> None:
        peer = self._by_node.get(node_id)
        if peer is not None:
            peer.send_raft(envelopes)

    def call(self, node_id: NodeId, request: Message) -> Completion[Any]:
        if node_id == self.identity.node_id:
            return self.loop.spawn(_ask(self.handler, node_id, request), "local call").completion
        peer = self._by_node.get(node_id)
        if peer is None:
            completion: Completion[Any] = Completion()
            completion.fail(NodeUnreachable(node_id, "its address is not known"))
            return completion
        return peer.call(request)

    def call_address(self, address: str, request: Message) -> Completion[Any]:
        peer = self._by_address.get(address)
        if peer is None:
            peer = self._by_address[address] = _Peer(self, address, 0)
        return peer.call(request)

    def set_address(self, node_id: NodeId, address: str) -> None:
        peer = self._by_node.get(node_id)
        if peer is not None and peer.address == address:
            return
        if peer is not None:
            peer.close()
        if node_id != self.identity.node_id:
            self._by_node[node_id] = _Peer(self, address, node_id)

    # ------------------------------------------------------------------------------------------ connections

    def accept(self, sock: socket.socket, address: str) -> None:
        """A peer has dialled this node."""
        self.incoming.add(_Incoming(self, sock, address))

    def hear_clock(self, reading: int) -> bool:
        """Take in a peer's clock; False if it cannot be believed."""
        try:
            self.clock.update(reading)
        except ClockOffsetExceeded:
            self.refused_clocks += 1
            return False
        return True

    def heard_from(self, node_id: NodeId) -> None:
        peer = self._by_node.get(node_id)
        if peer is not None:
            peer.heard_from()

    def next_call(self) -> int:
        self._last_call += 1
        return self._last_call

    def close(self) -> None:
        """Hang up everywhere."""
        for peer in (*self._by_node.values(), *self._by_address.values()):
            peer.close()
        for stream in list(self.incoming):
            stream.close("this node stops")
