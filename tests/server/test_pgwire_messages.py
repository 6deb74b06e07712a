"""Frames and bodies of the wire protocol: exact values, every cut of the stream, and whatever else may arrive."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydistdb.sql.errors import DatabaseError
from pydistdb_server.pgwire import ServerStep, State, WireProtocol, encode
from pydistdb_server.pgwire import messages as m
from pydistdb_server.pgwire.protocol import DESCRIBE_EXECUTE_SYNC, MAX_MESSAGE_BYTES, plain_bind
from pydistdb_server.pgwire.states import CLIENT, SERVER

from tests.server import packets as p

EXAMPLES: list[tuple[bytes, m.Message]] = [
    (p.query("SELECT 1"), m.Query("SELECT 1")),
    (p.query("grüße"), m.Query("grüße")),
    (p.parse("s", "SELECT $1", [23, 25]), m.Parse("s", "SELECT $1", (23, 25))),
    (p.bind("p", "s", [b"1", None, b""], [0, 1, 0], [1]), m.Bind("p", "s", (0, 1, 0), (b"1", None, b""), (1,))),
    (p.bind(), m.Bind("", "", (), (), ())),
    (p.describe(b"S", "s"), m.Describe(b"S", "s")),
    (p.describe(b"P"), m.Describe(b"P", "")),
    (p.execute("p", 7), m.Execute("p", 7)),
    (p.close(b"P", "p"), m.Close(b"P", "p")),
    (p.FLUSH, m.Flush()),
    (p.copy_data(b"1\t2\n"), m.CopyData(b"1\t2\n")),
    (p.COPY_DONE, m.CopyDone()),
    (p.copy_fail("no"), m.CopyFail("no")),
]


def ready() -> WireProtocol:
    wire = WireProtocol()
    wire.receive(p.startup(user="u"))
    assert wire.next_message() == m.Startup(0, {"user": "u"}, ())
    wire.server(ServerStep.READY)
    return wire


def take(wire: WireProtocol) -> list[m.Message]:
    """All messages, each answered at once."""
    taken = []
    while (message := wire.next_message()) is not None:
        taken.append(message)
        if wire.state in (State.SIMPLE, State.SYNCING):
            wire.server(ServerStep.READY)
    return taken


@pytest.mark.parametrize(("data", "expected"), EXAMPLES)
def test_a_message_is_read(data: bytes, expected: m.Message) -> None:
    wire = ready()
    wire.receive(data)
    assert take(wire) == [expected]
    assert wire.buffered_bytes == 0


@given(st.lists(st.integers(1, 40), max_size=60))
def test_any_cut_of_the_stream_gives_the_same_messages(cuts: list[int]) -> None:
    stream = b"".join(data for data, _ in EXAMPLES) + p.SYNC
    wire = ready()
    taken = []
    for size in cuts:
        wire.receive(stream[:size])
        stream = stream[size:]
        taken += take(wire)
    wire.receive(stream)
    taken += take(wire)
    assert taken == [expected for _, expected in EXAMPLES] + [m.Sync()]


def test_a_long_message_in_small_pieces() -> None:
    wire = ready()
    stream = p.query("x" * 1_000_000) + p.query("SELECT 2")
    for start in range(0, len(stream), 1000):
        wire.receive(stream[start : start + 1000])
        if start == 500_000:
            assert wire.next_message() is None
    assert take(wire) == [m.Query("x" * 1_000_000), m.Query("SELECT 2")]


@given(st.binary(max_size=300))
def test_whatever_arrives_is_a_message_or_an_error(data: bytes) -> None:
    for wire in (WireProtocol(), ready()):
        wire.receive(data)
        for _ in range(100):
            try:
                if wire.next_message() is None:
                    break
            except DatabaseError as error:
                assert error.sqlstate in ("08P01", "0A000", "22021")
                if error.severity == "FATAL":
                    break
            if wire.state in (State.SIMPLE, State.SYNCING):
                wire.server(ServerStep.READY)


@example(ord("B"), b"\x80\x00")
@given(st.sampled_from(b"QPBDECHSdcfpF"), st.binary(max_size=60))
def test_any_body_is_a_message_or_a_plain_error(kind: int, body: bytes) -> None:
    try:
        m.DECODERS[kind](body)
    except DatabaseError as error:
        assert error.severity == "ERROR"
        assert error.sqlstate in ("08P01", "22021")


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.lists(st.none() | st.binary(max_size=20), max_size=5),
    st.lists(st.integers(0, 1), max_size=3),
)
def test_bind_carries_everything(name: str, parameters: list[bytes | None], formats: list[int]) -> None:
    wire = ready()
    wire.receive(p.bind(name, name, parameters, formats, formats))
    assert wire.next_message() == m.Bind(name, name, tuple(formats), tuple(parameters), tuple(formats))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"Q\0\0\0\x03", "invalid message length"),
        (b"Q" + struct.pack("!i", -1), "invalid message length"),
        (b"Q" + struct.pack("!i", MAX_MESSAGE_BYTES + 1), "invalid message length"),
        (b"S" + struct.pack("!i", 1_000_000), "invalid message length"),
        (b"?\0\0\0\x04", "invalid frontend message type 63"),
    ],
)
def test_a_broken_frame_is_fatal(data: bytes, text: str) -> None:
    wire = ready()
    wire.receive(data)
    with pytest.raises(DatabaseError, match=text) as caught:
        wire.next_message()
    assert caught.value.severity == "FATAL"
    assert wire.buffered_bytes == 0


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"SELECT 1", "invalid string in message"),
        (b"SELECT 1\0x", "invalid message format"),
        (b"\xff\0", 'invalid byte sequence for encoding "UTF8": 0xff'),
        (b"\xe2\x28\xa1\0", 'invalid byte sequence for encoding "UTF8": 0xe2 0x28 0xa1'),
    ],
)
def test_a_bad_body_leaves_the_framing_intact(body: bytes, text: str) -> None:
    wire = ready()
    wire.receive(p.message(b"Q", body) + p.query("SELECT 1"))
    with pytest.raises(DatabaseError, match=text) as caught:
        wire.next_message()
    assert caught.value.severity == "ERROR"
    wire.server(ServerStep.ERROR)
    wire.server(ServerStep.READY)
    assert wire.next_message() == m.Query("SELECT 1")


def test_many_parameters_are_described() -> None:
    assert struct.unpack_from("!cIH", encode.parameter_description([23] * 40_000)) == (b"t", 160_006, 40_000)


def test_startup_packets() -> None:
    assert m.decode_startup(struct.pack("!I", 80877103)) == m.SslRequest()
    assert m.decode_startup(struct.pack("!I", 80877104)) == m.GssRequest()
    assert m.decode_startup(struct.pack("!III", 80877102, 5, 6)) == m.CancelRequest(5, 6)
    wanted = m.Startup(2, {"user": "u"}, ("_pq_.x",))
    assert m.decode_startup(p.startup(2, **{"user": "u", "_pq_.x": "1"})[4:]) == wanted
    with pytest.raises(DatabaseError, match=r"unsupported frontend protocol 2.0: server supports 3.0 to 3.0"):
        m.decode_startup(struct.pack("!I", 2 << 16))
    with pytest.raises(DatabaseError, match="expected terminator as last byte"):
        m.decode_startup(struct.pack("!I", 3 << 16) + b"user\0u\0")


def test_the_usual_tail_is_recognised_whole() -> None:
    wire = ready()
    wire.receive(p.bind() + p.describe(b"P") + p.execute() + p.SYNC + p.query("SELECT 1"))
    wire.next_message()
    assert wire.take(DESCRIBE_EXECUTE_SYNC)
    assert not wire.take(DESCRIBE_EXECUTE_SYNC)
    wire.state = State.READY
    assert wire.next_message() == m.Query("SELECT 1")


def test_the_tables_are_whole() -> None:
    assert set(CLIENT) == set(SERVER) == set(State)
    for table in CLIENT.values():
        assert set(table.values()) <= set(State)
    for transitions in SERVER.values():
        assert transitions.get(ServerStep.FATAL) in (State.CLOSED, None)


@pytest.mark.parametrize("result_formats", [[], [0]])
@pytest.mark.parametrize("parameters", [[], [b"7"], [b"", None, b"x" * 300], [b"\0\1\0\0"], [b"\0\1", b"\0\0"]])
def test_a_plain_bind_is_recognised(result_formats: list[int], parameters: list[bytes | None]) -> None:
    """With no result format, and with the one that libpq sends."""
    data = p.bind("", "P0_1", parameters, [], result_formats) + DESCRIBE_EXECUTE_SYNC
    assert plain_bind(data) == (b"P0_1", parameters)


@pytest.mark.parametrize(
    "data",
    [
        p.bind("", "s", [b"7"], [], [1]) + DESCRIBE_EXECUTE_SYNC,
        p.bind("", "s", [b"7"], [1], [0]) + DESCRIBE_EXECUTE_SYNC,
        p.bind("p", "s", [b"7"], [], [0]) + DESCRIBE_EXECUTE_SYNC,
        p.bind("", "s", [b"7"], [], [0, 0]) + DESCRIBE_EXECUTE_SYNC,
        p.bind("", "s", [b"7"], [], [0]) + DESCRIBE_EXECUTE_SYNC + p.query("SELECT 1"),
        p.query("SELECT 1") + DESCRIBE_EXECUTE_SYNC,
        DESCRIBE_EXECUTE_SYNC,
        b"B\0\0\0\6\0s" + DESCRIBE_EXECUTE_SYNC,
    ],
)
def test_what_is_no_plain_bind(data: bytes) -> None:
    assert plain_bind(data) is None


@given(st.binary(max_size=40))
def test_garbage_is_no_plain_bind_or_decodes_to_the_same(data: bytes) -> None:
    whole = b"B" + struct.pack("!i", len(data) + 4) + data
    found = plain_bind(whole + DESCRIBE_EXECUTE_SYNC)
    if found is not None:
        wire = ready()
        wire.receive(whole)
        [message] = take(wire)
        assert isinstance(message, m.Bind)
        assert (message.statement.encode(), list(message.parameters)) == found and not any(message.result_formats)
