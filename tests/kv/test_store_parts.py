"""The store's deterministic parts: clock, support, snapshot chunks, key order of the meta range, descriptors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydistdb.kv import api
from pydistdb.kv.answers import failure_of, raise_failure
from pydistdb.kv.api import ClockOutOfBounds
from pydistdb.kv.command import Command, SplitTrigger, decode_command, encode_command, moved_records, transaction_prefix
from pydistdb.kv.descriptor import RangeDescriptor, ReplicaDescriptor, ReplicaRole, meta_key
from pydistdb.kv.hlc import MICROSECOND, ClockOffsetExceeded, HybridClock, OffsetMonitor
from pydistdb.kv.liveness import Liveness
from pydistdb.kv.range_log import descriptor_for, membership_of
from pydistdb.kv.snapshot import SnapshotChunk, SnapshotDamaged, decode_chunk, encode_chunk
from pydistdb.kv.transport import Ping, Pong
from pydistdb_storage import mvcc
from pydistdb_storage.rows import encode

from pydistdb import raft

MILLISECOND = 1_000_000


class Physical:
    def __init__(self) -> None:
        self.now_us = 1_000_000

    def __call__(self) -> int:
        return self.now_us


def test_the_clock_only_goes_forward() -> None:
    physical = Physical()
    clock = HybridClock(physical)
    first = clock.now()
    assert first == 1_000_000 * MICROSECOND
    assert clock.now() == first + 1
    physical.now_us -= 500
    assert clock.now() == first + 2
    physical.now_us += 1_000
    assert clock.now() == physical.now_us * MICROSECOND


def test_the_clock_hears_of_others() -> None:
    physical = Physical()
    clock = HybridClock(physical, max_offset_ns=100 * MILLISECOND)
    remote = (physical.now_us + 90_000) * MICROSECOND + 7
    clock.update(remote)
    assert clock.now() == remote + 1
    with pytest.raises(ClockOffsetExceeded):
        clock.update((physical.now_us + 100_001) * MICROSECOND)
    assert clock.last() == remote + 1


def test_the_odd_one_out_stops_serving() -> None:
    physical = Physical()
    clock = HybridClock(physical, max_offset_ns=100 * MILLISECOND)
    monitor = OffsetMonitor(clock)
    monitor.record(2, 1_000_000, 1_200_000, 1_001_000)
    assert clock.out_of_bounds, "one of one disagrees"
    monitor.record(3, 1_000_000, 1_000_500, 1_001_000)
    clock.check()
    monitor.record(4, 1_000_000, 1_200_000, 1_001_000)
    with pytest.raises(ClockOutOfBounds):
        clock.check()
    assert monitor.offsets_us() == {2: 199_500, 3: 0, 4: 199_500}
    monitor.record(4, 1_000_000, 1_200_000, 1_400_000)
    clock.check()  # within the error of a slow round trip
    monitor.forget(2)
    clock.check()


def test_readings_that_come_by_themselves_count_when_nothing_is_answered() -> None:
    clock = HybridClock(Physical(), max_offset_ns=100 * MILLISECOND)
    monitor = OffsetMonitor(clock)
    for i in range(4):
        monitor.record_one_way(2, 500_000 + i * 200_000, 1_000_000 + i * 200_000)
    assert clock.out_of_bounds
    monitor.record(2, 2_000_000, 2_000_000, 2_000_100)
    assert not clock.out_of_bounds
    monitor.record_one_way(2, 1_500_000, 2_100_000)
    assert not clock.out_of_bounds


def test_readings_that_waited_while_this_node_was_busy_do_not_count() -> None:
    clock = HybridClock(Physical(), max_offset_ns=100 * MILLISECOND)
    monitor = OffsetMonitor(clock)
    monitor.record(2, 1_000_000, 1_000_500, 1_001_000)
    for i in range(20):  # sent four times a second, received when five seconds of work were over
        monitor.record_one_way(2, 1_250_000 + i * 250_000, 6_250_000 + i * 100)
        assert not clock.out_of_bounds
    monitor.record(2, 6_300_000, 6_300_500, 6_301_000)
    for i in range(20):  # and again
        monitor.record_one_way(2, 6_500_000 + i * 250_000, 11_500_000 + i * 100)
        assert not clock.out_of_bounds


class Pair:
    """Two nodes' view of each other: 1 pings 2."""

    def __init__(self) -> None:
        self.now = 0
        self.log: list[str] = []
        self.nodes = [
            Liveness(
                5,
                1_000 * MILLISECOND,
                lambda: self.now,
                lambda node, me=me: self.log.append(f"{me} lost {node}"),  # type: ignore[misc]
                lambda node, me=me: self.log.append(f"{me} found {node}"),  # type: ignore[misc]
            )
            for me in (1, 2)
        ]

    def ping(self, incarnation: int = 5, lose_answer: bool = False) -> int:
        ping = Ping(incarnation, self.now, 0, 0, 0, 3, 0, 0)
        self.now += 50 * MILLISECOND
        epoch = self.nodes[1].pinged(1, ping)
        self.now += 50 * MILLISECOND
        if not lose_answer:
            self.nodes[0].ponged(2, Pong(epoch, ping.sent_ns, 0, 0))
        return epoch


def test_support_lasts_as_long_as_pings_come() -> None:
    pair = Pair()
    first, second = pair.nodes
    epoch = pair.ping()
    assert first.supported_since_ns(2, epoch) == 0 and first.peer(2).acked_epoch == epoch
    pair.now += 800 * MILLISECOND
    assert pair.ping() == epoch
    assert first.supported_since_ns(2, epoch) == 900 * MILLISECOND
    assert second.supports(1)
    for _ in range(5):
        second.check()
        assert second.supports(1)
        pair.now += 190 * MILLISECOND
    second.check()
    assert not second.supports(1), "bound for just as long as promised"


def test_a_node_that_was_held_up_itself_reads_before_it_judges() -> None:
    pair = Pair()
    _, second = pair.nodes
    epoch = pair.ping()
    pair.now += 1_700 * MILLISECOND
    second.check()
    assert second.supports(1), "what node 1 said meanwhile lies unread"
    assert pair.ping() == epoch
    pair.now += 150 * MILLISECOND
    second.check()
    assert second.supports(1) and "2 lost 1" not in pair.log
    # Silence is found out by the first check in time; a node that never is in time finds it out in the end.
    pair.now += 1_700 * MILLISECOND
    second.check()
    pair.now += 200 * MILLISECOND
    second.check()
    assert not second.supports(1)
    pair.ping()
    for late in range(5):
        assert second.supports(1), late
        pair.now += 1_100 * MILLISECOND
        second.check()
    assert not second.supports(1)


def test_support_that_lapsed_begins_again_under_a_new_epoch() -> None:
    pair = Pair()
    first, second = pair.nodes
    old = pair.ping()
    for _ in range(4):
        pair.now += 400 * MILLISECOND
        second.check()
    assert pair.log == ["2 found 1", "1 found 2", "2 lost 1"]
    assert second.epoch_for(1) == 0
    new = pair.ping()
    assert new > old
    assert first.supported_since_ns(2, old) == 0
    first.ponged(2, Pong(old, pair.now, 0, 0))  # a late answer
    assert first.peer(2).acked_epoch == new
    # When nobody looked in between, nobody has been anything else but bound.
    pair.now += 1_500 * MILLISECOND
    assert pair.ping() == new


def test_another_incarnation_is_not_bound_by_nor_to_the_old_one() -> None:
    pair = Pair()
    old = pair.ping()
    assert pair.ping(incarnation=6) > old
    assert "2 lost 1" in pair.log
    later = Liveness(6, 1_000 * MILLISECOND, lambda: 0, lambda node: None, lambda node: None)
    assert later.heard(1).epoch > pair.nodes[1].epoch_for(1), "epochs never repeat over restarts"


@given(st.binary(max_size=12), st.binary(max_size=12))
def test_meta_keys_keep_the_order_of_boundaries(a: bytes, b: bytes) -> None:
    if a == b:
        return
    low, high = min(a, b), max(a, b)
    assert meta_key(low) < meta_key(high)
    assert not meta_key(high).startswith(meta_key(low))
    assert mvcc.versioned(meta_key(low), 1) < mvcc.versioned(meta_key(high), 1 << 62)


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(), st.binary())), st.integers(0), st.integers(0, 7))
def test_a_damaged_chunk_is_noticed(rows: list[tuple[int, bytes, bytes]], position: int, bit: int) -> None:
    data = encode_chunk(SnapshotChunk(None, rows))
    assert decode_chunk(data).rows == rows
    damaged = bytearray(data)
    damaged[position % len(data)] ^= 1 << bit
    with pytest.raises(SnapshotDamaged):
        decode_chunk(bytes(damaged))
    with pytest.raises(SnapshotDamaged):
        decode_chunk(data[:3])


writes = st.tuples(st.integers(0, 3), st.binary(), st.none() | st.binary())
splits = st.none() | st.builds(SplitTrigger, st.binary(), st.integers(0, 1 << 40))


@given(
    st.builds(
        Command,
        st.integers(0, 1 << 60),
        st.integers(-1, 1 << 60),
        st.integers(0, (1 << 63) - 1),
        st.lists(writes),
        st.lists(st.tuples(st.integers(0, 3), st.binary(), st.binary())),
        splits,
    )
)
def test_commands_survive_the_wire(command: Command) -> None:
    assert decode_command(encode_command(command)) == command


def test_a_split_takes_the_records_of_the_right_part() -> None:
    left, right = transaction_prefix(3), transaction_prefix(9)
    records = [(left + bytes([i]) * 16, encode([key, 1])) for i, key in enumerate([b"a", b"m", b"z"])]
    assert moved_records(records, 3, 9, b"m") == [
        (left + b"\x01" * 16, right + b"\x01" * 16, records[1][1]),
        (left + b"\x02" * 16, right + b"\x02" * 16, records[2][1]),
    ]


def test_descriptors_and_raft_memberships_say_the_same() -> None:
    start = RangeDescriptor(1, b"a", b"z", 7, tuple(ReplicaDescriptor(i, i) for i in (1, 2, 3)), 4)
    joint = raft.Membership(voters=(1, 2, 4), outgoing=(1, 2, 3), auto_leave=True)
    during = descriptor_for(start, joint, {4: 44})
    roles = {(r.node_id, r.replica_id): r.role for r in during.replicas}
    assert roles == {
        (1, 1): ReplicaRole.VOTER,
        (2, 2): ReplicaRole.VOTER,
        (3, 3): ReplicaRole.OUTGOING,
        (44, 4): ReplicaRole.INCOMING,
    }
    assert (during.generation, during.next_replica_id, during.is_joint) == (8, 5, True)
    assert membership_of(during) == joint
    after = descriptor_for(during, raft.Membership(voters=(1, 2, 4)), {})
    assert [r.node_id for r in after.voters()] == [1, 2, 44]
    assert membership_of(after) == raft.Membership(voters=(1, 2, 4))
    learning = raft.Membership(voters=(1, 2, 4), learners=(5,))
    assert membership_of(descriptor_for(after, learning, {5: 55})) == learning


AT_THE_GATEWAY_ONLY = {
    api.PreparedExists,
    api.PreparedMissing,
    api.PreparedBusy,
    api.TooManyPrepared,
    api.CannotPrepare,
    api.PastIsReadOnly,
}
"""What a leaseholder never answers another node with."""


def _errors() -> list[api.KVError]:
    found: list[api.KVError] = []
    for error in vars(api).values():
        if isinstance(error, type) and issubclass(error, api.KVError) and error not in AT_THE_GATEWAY_ONLY:
            with_time = error in (api.NotClosed, api.SnapshotTooOld, api.ReadRestart)
            found.append(error(7) if with_time else error(b"key") if error is api.KeyExists else error("why"))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("error", _errors(), ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_at_the_node_that_asked(error: api.KVError) -> None:
    with pytest.raises(api.KVError) as raised:
        raise_failure(failure_of(error))
    assert type(raised.value) is type(error)
    if type(error) is not api.KVError:
        assert str(raised.value) == str(error)
