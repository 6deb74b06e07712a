"""Node-to-node calls over real sockets: answers, errors, broken and silent connections, strangers, clocks."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydistdb.kv.hlc import MICROSECOND, HybridClock
from pydistdb.kv.transport import (
    Message,
    NodeUnreachable,
    RaftEnvelope,
    RemoteError,
    ReplicaRemoved,
    encode_message,
    register,
)
from pydistdb.kv.versions import Supported
from pydistdb.tasks import Completion, sleep
from pydistdb_server import rpc_frames as frames
from pydistdb_server.listener import Listener
from pydistdb_server.loop import ServingLoop
from pydistdb_server.rpc import MAX_RUNNING, RpcTransport
from pydistdb_server.rpc_frames import BadFrame, Frame, FrameReader
from pydistdb_server.rpc_peer import RpcIdentity


class EchoForTest(Message):
    text: str
    delay_ns: int = 0


class SilenceForTest(Message):
    pass


register(EchoForTest, SilenceForTest)


class Peer:
    """A node with nothing but a transport."""

    def __init__(self, loop: ServingLoop, node_id: int, cluster: bytes = b"c", skew_us: int = 0) -> None:
        self.loop = loop
        self.clock = HybridClock(lambda: time.time_ns() // 1000 + skew_us, 250_000_000)
        self.transport = RpcTransport(loop, self.clock, RpcIdentity(cluster, node_id, f"n{node_id}"))
        self.transport.handler = self.handle
        self.raft: list[tuple[int, list[RaftEnvelope]]] = []
        self.transport.receive_raft = lambda sender, envelopes: self.raft.append((sender, envelopes))
        self.listener = Listener(loop, "127.0.0.1", 0, self.transport.accept)
        self.address = f"127.0.0.1:{self.listener.port}"
        self.running = 0

    async def handle(self, sender: int, request: Any) -> Message:
        if isinstance(request, SilenceForTest):
            await Completion[None]()
        if request.text == "fail":
            raise ValueError("no such thing")
        if request.delay_ns:
            self.running += 1
            await sleep(self.loop, request.delay_ns)
            self.running -= 1
        return EchoForTest(f"{sender}: {request.text}")

    def close(self) -> None:
        self.listener.close()
        self.transport.close()


@contextmanager
def peers(count: int = 2) -> Iterator[list[Peer]]:
    loop = ServingLoop()
    found = [Peer(loop, number) for number in range(1, count + 1)]
    for peer in found:
        for other in found:
            peer.transport.set_address(other.transport.identity.node_id, other.address)
    yield found
    for peer in found:
        peer.close()
    loop.run_once()
    loop.close()


def wait(loop: ServingLoop, completion: Completion[Any], seconds: float = 10) -> Any:
    run_until(loop, lambda: completion.done, seconds)
    return completion.result()


def run_until(loop: ServingLoop, condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        if not loop.run_once():
            time.sleep(0.0005)


def test_calls_are_answered_in_any_order() -> None:
    with peers() as (one, two):
        slow = one.transport.call(2, EchoForTest("slow", 20_000_000))
        quick = one.transport.call(2, EchoForTest("quick"))
        assert wait(one.loop, quick).text == "1: quick"
        assert not slow.done
        assert wait(one.loop, slow).text == "1: slow"
        assert wait(two.loop, two.transport.call(1, EchoForTest("back"))).text == "2: back"
        assert wait(one.loop, one.transport.call(1, EchoForTest("self"))).text == "1: self"


def test_errors_come_back() -> None:
    with peers() as (one, _):
        with pytest.raises(RemoteError, match="no such thing"):
            wait(one.loop, one.transport.call(2, EchoForTest("fail")))
        with pytest.raises(NodeUnreachable, match="not known"):
            wait(one.loop, one.transport.call(9, EchoForTest("nobody")))


def test_raft_messages_arrive_in_order_in_one_batch() -> None:
    with peers() as (one, two):
        for number in range(50):
            one.transport.send_raft(2, [RaftEnvelope(number, 0, ReplicaRemoved(number, 1))])
        wait(one.loop, one.transport.call(2, EchoForTest("fence")))
        received = [envelope.range_id for _, envelopes in two.raft for envelope in envelopes]
        assert received == list(range(50))
        assert len(two.raft) <= 2
        assert two.raft[0][0] == 1


def test_a_dead_address_fails_at_once_and_is_tried_again() -> None:
    with peers() as (one, two):
        address = two.address
        two.close()
        with pytest.raises(NodeUnreachable):
            wait(one.loop, one.transport.call(2, EchoForTest("x")))
        with pytest.raises(NodeUnreachable):  # it backs off
            wait(one.loop, one.transport.call(2, EchoForTest("x")))
        two.listener = Listener(two.loop, "127.0.0.1", int(address.rpartition(":")[2]), two.transport.accept)
        deadline = time.monotonic() + 5
        while True:
            try:
                assert wait(one.loop, one.transport.call(2, EchoForTest("again"))).text == "1: again"
                break
            except NodeUnreachable:
                assert time.monotonic() < deadline
                time.sleep(0.01)


def test_calls_fail_when_the_connection_breaks() -> None:
    with peers() as (one, two):
        call = one.transport.call(2, SilenceForTest())
        wait(one.loop, one.transport.call(2, EchoForTest("fence")))
        for stream in list(two.transport.incoming):
            stream.close("broken")
        with pytest.raises(NodeUnreachable, match="closed the connection"):
            wait(one.loop, call)


def test_a_peer_that_does_not_answer_at_all_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydistdb_server.rpc_peer.SILENCE_NS", 50_000_000)
    monkeypatch.setattr("pydistdb_server.rpc_peer.PING_INTERVAL_NS", 10_000_000)
    with peers(1) as (one,), socket.create_server(("127.0.0.1", 0)) as deaf:  # accepts, and never says a word
        one.transport.set_address(7, f"127.0.0.1:{deaf.getsockname()[1]}")
        with pytest.raises(NodeUnreachable, match="does not answer"):
            wait(one.loop, one.transport.call(7, EchoForTest("hello?")))


def greeting(sender: int, incarnation: int, dialled: int) -> bytes:
    identity = RpcIdentity(b"c", sender, f"n{sender}", incarnation=incarnation)
    return frames.frame(frames.HELLO, 0, 1, frames.encode_hello(identity.hello(dialled)))


def asked(text: str) -> bytes:
    return frames.frame(frames.REQUEST, 1, 1, encode_message(EchoForTest(text)))


@pytest.mark.parametrize("greeted", [True, False], ids=["greeted before", "greets now"])
def test_what_comes_late_over_a_connection_that_was_given_up_is_not_done(greeted: bool) -> None:
    """A request was given up and made again over a new connection; the old one's bytes come when that is done."""
    with peers(1) as (one,):
        done: list[str] = []

        async def handle(_: int, request: Any) -> Message:
            done.append(request.text)
            return EchoForTest("done")

        one.transport.handler = handle
        address = ("127.0.0.1", one.listener.port)
        with socket.create_connection(address) as old, socket.create_connection(address) as new:
            if greeted:
                old.sendall(greeting(7, 3, 1) + asked("first"))
                run_until(one.loop, lambda: done == ["first"])
            new.sendall(greeting(7, 3, 2) + asked("again"))
            run_until(one.loop, lambda: done[-1:] == ["again"])
            try:
                old.sendall(b"" if greeted else greeting(7, 3, 1))
                old.sendall(asked("late"))
            except OSError:
                pass  # it is closed already
            new.sendall(asked("more"))
            run_until(one.loop, lambda: done[-1:] == ["more"] and len(one.transport.incoming) == 1)
            assert "late" not in done


def test_a_node_whose_store_was_made_anew_is_let_in() -> None:
    with peers(1) as (one,):
        address = ("127.0.0.1", one.listener.port)
        with socket.create_connection(address) as before:
            before.sendall(greeting(7, 3, 9))
            run_until(one.loop, lambda: len(one.transport.incoming) == 1)
        run_until(one.loop, lambda: not one.transport.incoming)
        with socket.create_connection(address) as after:
            after.sendall(greeting(7, 1, 1) + asked("hello"))
            run_until(one.loop, lambda: len(one.transport.incoming) == 1)
            after.setblocking(False)
            answers: list[bytes] = []

            def answered() -> bool:
                try:
                    answers.append(after.recv(1 << 16))
                except BlockingIOError:
                    pass
                return b"hello" in b"".join(answers)

            run_until(one.loop, answered)


def test_a_slow_request_does_not_count_as_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydistdb_server.rpc_peer.SILENCE_NS", 60_000_000)
    monkeypatch.setattr("pydistdb_server.rpc_peer.PING_INTERVAL_NS", 10_000_000)
    with peers() as (one, _):
        assert wait(one.loop, one.transport.call(2, EchoForTest("slow", 200_000_000))).text == "1: slow"


def test_another_cluster_is_refused() -> None:
    with peers(1) as (one,):
        stranger = Peer(one.loop, 2, b"another")
        stranger.transport.set_address(1, one.address)
        with pytest.raises(NodeUnreachable, match="another cluster"):
            wait(one.loop, stranger.transport.call(1, EchoForTest("x")))
        newcomer = Peer(one.loop, 0, b"")  # it has not joined anything yet
        assert wait(one.loop, newcomer.transport.call_address(one.address, EchoForTest("x"))).text == "0: x"
        stranger.close()
        newcomer.close()


def test_another_node_at_the_address_is_noticed() -> None:
    with peers() as (one, two):
        one.transport.set_address(5, two.address)
        call = one.transport.call(5, SilenceForTest())
        with pytest.raises(NodeUnreachable, match="node 2 answers there"):
            wait(one.loop, call)


def test_clocks_travel_and_lies_are_not_believed() -> None:
    with peers() as (one, two):
        two.clock.raise_to(two.clock.now() + 100_000 * MICROSECOND)
        wait(one.loop, one.transport.call(2, EchoForTest("x")))
        assert one.clock.now() > two.clock.last() - 100_000 * MICROSECOND
        assert one.clock.last() + 1000 * MICROSECOND > two.clock.last()
        liar = Peer(one.loop, 3, skew_us=10_000_000)
        liar.transport.set_address(1, one.address)
        with pytest.raises(RemoteError, match="too far ahead"):
            wait(one.loop, liar.transport.call(1, EchoForTest("x")))
        assert one.transport.refused_clocks > 0
        liar.close()


def test_one_peer_cannot_have_everything_at_work() -> None:
    with peers() as (one, two):
        calls = [one.transport.call(2, EchoForTest("x", 50_000_000)) for _ in range(MAX_RUNNING + 500)]
        most = 0
        while not calls[0].done:
            one.loop.run_once()
            most = max(most, two.running)
        for call in calls:
            wait(one.loop, call)
        assert most <= MAX_RUNNING + 500
        assert two.running == 0


def test_garbage_closes_that_connection_only() -> None:
    with peers() as (one, two):
        with socket.create_connection(("127.0.0.1", two.listener.port)) as raw:
            raw.sendall(b"GET / HTTP/1.0\r\n\r\n" * 10)
            raw.setblocking(False)
            deadline = time.monotonic() + 5
            while True:
                one.loop.run_once()
                try:
                    assert raw.recv(100) == b""
                    break
                except BlockingIOError:
                    assert time.monotonic() < deadline
                except ConnectionResetError:
                    break
        assert wait(one.loop, one.transport.call(2, EchoForTest("x"))).text == "1: x"


def test_a_large_answer_arrives_whole() -> None:
    with peers() as (one, _):
        text = "x" * 20_000_000
        assert wait(one.loop, one.transport.call(2, EchoForTest(text))).text == "1: " + text


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2**63), st.binary(max_size=50))), st.integers(1, 30))
def test_frames_survive_any_cut(parts: list[tuple[int, int, bytes]], step: int) -> None:
    stream = b"".join(frames.frame(kind, call, call, body) for kind, call, body in parts)
    reader = FrameReader()
    found: list[Frame] = []
    for start in range(0, len(stream), step):
        found += reader.feed(stream[start : start + step])
    assert found == [Frame(kind, call, call, body) for kind, call, body in parts]


@given(st.binary(max_size=100))
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    reader = FrameReader()
    try:
        for _ in reader.feed(data):
            pass
    except BadFrame:
        pass


def test_releases_that_cannot_work_together_are_told_so() -> None:
    with peers(3) as (one, two, three):
        for peer, supported, promised in ((one, (1, 2), 2), (two, (1, 1), 1), (three, (3, 4), 0)):
            versions = peer.transport.identity.versions
            versions.supported, versions.active, versions.promised = Supported(*supported), promised, promised
        told: dict[int, str] = {}
        for peer in (one, two, three):
            peer.transport.turned_away = partial(told.__setitem__, peer.transport.identity.node_id)
        with pytest.raises(NodeUnreachable, match="refused: n2 is too old: the cluster is at version 2"):
            wait(two.loop, two.transport.call(1, EchoForTest("x")))
        assert "too old" in told.pop(2), "no use in trying again"
        with pytest.raises(NodeUnreachable, match="refused: n2 is too old"):
            wait(one.loop, one.transport.call(2, EchoForTest("x")))
        with pytest.raises(NodeUnreachable, match="refused: n3 is too new: the cluster is at version 2"):
            wait(three.loop, three.transport.call(1, EchoForTest("x")))
        assert not told, "the other one may learn of a newer version yet"
        three.transport.identity.cluster_id = b""
        with pytest.raises(NodeUnreachable, match="too new"):
            wait(three.loop, three.transport.call_address(one.address, EchoForTest("x")))
        assert "too new" in told[3], "who has not joined yet waits for nothing"
        two.transport.identity.cluster_id = b"another"
        with pytest.raises(NodeUnreachable):
            wait(two.loop, two.transport.call_address(one.address, EchoForTest("x")))
        assert 2 not in told, "another cluster's version is nothing to end for"
        # A peer without any versions is of the first release that had none.
        assert frames.decode_hello(frames.encode_hello([1, b"c", 7, "old"])).supported == Supported(1, 1)
