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
* A node has one connection to a peer.  When it dials anew it has given up what it asked over the last one, and asked again:
  what still comes over that one is not read any more, for it would be done a second time, and too late.
* HELLO names cluster and versions: a stranger is refused, and told why; so is a release that does not know what the
  cluster uses (pydistdb.kv.versions), and its node ends.

Every frame carries the sender's hybrid clock; a reading that is too far ahead is not believed: the message is dropped.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from pydistdb.kv.api import KVError, Timestamp
from pydistdb.kv.descriptor import NodeId
from pydistdb.kv.hlc import ClockOffsetExceeded, HybridClock
from pydistdb.kv.transport import (
    Message,
    NodeUnreachable,
    RaftEnvelope,
    RemoteError,
    decode_envelopes,
    decode_message,
    encode_message,
)
from pydistdb.tasks import Completion

from pydistdb_server import rpc_frames as frames
from pydistdb_server.loop import ServingLoop
from pydistdb_server.rpc_frames import BadFrame, Frame, Hello
from pydistdb_server.rpc_peer import MAX_QUEUED_BYTES, Peer, RpcIdentity
from pydistdb_server.rpc_stream import RpcStream

MAX_RUNNING = 2_000
"""Requests of one peer in work here."""

log = logging.getLogger("pydistdb.server.rpc")

RequestHandler = Callable[[NodeId, Any], Awaitable[Message]]
RaftHandler = Callable[[NodeId, list[RaftEnvelope]], None]


class _Incoming(RpcStream):
    """A connection that a peer dialled: its requests in, our answers out."""

    def __init__(self, transport: RpcTransport, sock: socket.socket, address: str) -> None:
        super().__init__(transport.loop, sock, connecting=False)
        self._transport = transport
        self._address = address
        self.node_id: NodeId = 0
        """Who dialled; 0 before the greeting, and for who has not joined yet."""
        self._greeted = False
        self.line = (0, 0)
        """The incarnation of the node that dialled, and its how manieth connection this is."""
        self._running = 0

    def on_frame(self, received: Frame) -> None:
        transport = self._transport
        if received.kind == frames.HELLO:
            self._greet(frames.decode_hello(received.body))
            return
        if not self._greeted:
            raise BadFrame("no greeting")
        believed = transport.hear_clock(received.clock, self.node_id)
        if received.kind == frames.RAFT:
            if believed:
                transport.receive_raft(self.node_id, decode_envelopes(received.body))
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
        problem, for_good = "", False
        if hello.version != frames.PROTOCOL_VERSION:
            problem = f"protocol version {hello.version}, this node speaks {frames.PROTOCOL_VERSION}"
        elif hello.cluster_id and identity.cluster_id and hello.cluster_id != identity.cluster_id:
            problem = "this node belongs to another cluster"
        elif conflict := self._conflict(hello):
            problem = conflict
            # Who has not joined yet gains nothing by waiting, and who is too old does not get any younger.
            for_good = not hello.cluster_id or hello.supported.newest < identity.versions.promised
        if problem:
            log.warning("%s (%s): refused: %s", hello.name or hello.node_id, self._address, problem)
            mark = frames.FOR_GOOD if for_good else 0
            self.write(frames.frame(frames.REFUSED, mark, transport.clock.now(), problem.encode()))
            self._flush()
            self.close(problem)
            return
        self.node_id = hello.node_id
        self.line = hello.incarnation, hello.dialled
        if hello.dialled and not transport.take_line(self):
            self.close("its node has dialled again since")
            return
        self._greeted = True
        self.write(frames.frame(frames.WELCOME, 0, transport.clock.now(), frames.encode_hello(identity.hello())))
        transport.heard_from(hello.node_id)

    def _conflict(self, hello: Hello) -> str:
        """Why the two releases cannot work together."""
        identity = self._transport.identity
        versions = identity.versions
        if hello.promised > versions.supported.newest:
            return (
                f"{identity.name} is too old: the cluster is at version {hello.promised}, it knows {versions.supported}"
            )
        return versions.conflict(hello.supported, hello.name or "the node")

    def _serve(self, call: int, body: bytes) -> None:
        try:
            request = decode_message(body)
        except msgspec.MsgspecError as error:
            self._answer(call, frames.ERROR, f"unknown request: {error}".encode())
            return
        self._running += 1
        if self._running >= MAX_RUNNING:
            self.pause_reading(True)
        task = self.loop.spawn(_ask(self._transport.handler, self.node_id, request), "rpc")
        task.completion.on_done(lambda done: self._served(call, done))

    def _served(self, call: int, done: Completion[Message]) -> None:
        self._running -= 1
        error = done.error()
        if error is None:
            self._answer(call, frames.RESPONSE, encode_message(done.result()))
        else:
            if not isinstance(error, KVError):
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
        self._by_node: dict[NodeId, Peer] = {}
        self._by_address: dict[str, Peer] = {}
        self._lines: dict[NodeId, tuple[int, int]] = {}
        """The newest connection that each node has dialled."""
        self._last_call = 0
        self.refused_clocks = 0
        self.clock_refused: Callable[[NodeId, Timestamp], None] = lambda node_id, reading: None
        self.turned_away: Callable[[str], None] = lambda reason: None
        """Called when a peer says for good that this node cannot be part of the cluster."""

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
            peer = self._by_address[address] = Peer(self, address, 0)
        return peer.call(request)

    def set_address(self, node_id: NodeId, address: str) -> None:
        peer = self._by_node.get(node_id)
        if peer is not None and peer.address == address:
            return
        if peer is not None:
            peer.close()
        if node_id != self.identity.node_id:
            self._by_node[node_id] = Peer(self, address, node_id)

    # ------------------------------------------------------------------------------------------ connections

    def accept(self, sock: socket.socket, address: str) -> None:
        """A peer has dialled this node."""
        self.incoming.add(_Incoming(self, sock, address))

    def take_line(self, stream: _Incoming) -> bool:
        """Let a connection take the place of the one that its node had before; False if it is itself the older one."""
        node_id = stream.node_id
        others = [
            other for other in self.incoming if other.node_id == node_id and other is not stream and other.line[1]
        ]
        newest = self._lines.get(node_id, (0, 0))
        # A process of before may be the newer one where the node's store was made anew: unless the other is here, too.
        if stream.line < newest and (others or stream.line[0] == newest[0]):
            return False
        self._lines[node_id] = stream.line
        for other in others:
            other.close("its node has dialled again")
        return True

    def hear_clock(self, reading: Timestamp, node_id: NodeId) -> bool:
        """Take in a peer's clock (0: of a node not known yet); False if it cannot be believed."""
        try:
            self.clock.update(reading)
        except ClockOffsetExceeded:
            self.refused_clocks += 1
            if node_id:
                self.clock_refused(node_id, reading)
            return False
        return True

    def heard_from(self, node_id: NodeId) -> None:
        peer = self._by_node.get(node_id)
        if peer is not None:
            peer.heard_from()

    def next_call(self) -> int:
        self._last_call += 1
        return self._last_call

    @property
    def calls(self) -> int:
        """How many requests were sent so far."""
        return self._last_call

    def peers(self) -> list[Peer]:
        """The other nodes."""
        return list(self._by_node.values())

    def close(self) -> None:
        """Hang up everywhere."""
        for peer in (*self._by_node.values(), *self._by_address.values()):
            peer.close()
        for stream in list(self.incoming):
            stream.close("this node stops")
