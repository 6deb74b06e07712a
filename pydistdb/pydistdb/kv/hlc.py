"""The hybrid logical clock: timestamps that follow cause and effect and stay close to physical time.

A reading is one int: physical microseconds since 1970 « 12 | counter.  ``now`` never returns a reading twice; a node
that receives a reading calls ``update``, so that whatever it writes afterwards is later than what it has heard of::

    node 1 (physical 100): now() → (100, 0), now() → (100, 1), sends (100, 1)
    node 2 (physical  97): update((100, 1)); now() → (100, 2)      later, although its own clock is behind

The price is trust in physical clocks: ``max_offset`` bounds how far two nodes may differ.  A reading further ahead of
this node's physical clock than that is refused (``ClockOffsetExceeded``), for it would drag the whole cluster into the
future; ``OffsetMonitor`` compares this node with each peer, and a node that disagrees with most of them stops serving
(it cannot know that it is right and they are wrong).

Kulkarni, Demirbas et al., "Logical Physical Clocks", OPODIS 2014; the offset rule is CockroachDB's.
"""

from __future__ import annotations

from collections.abc import Callable

from pydistdb.kv.api import ClockOutOfBounds, Timestamp

COUNTER_BITS = 12
MICROSECOND: Timestamp = 1 << COUNTER_BITS
"""One microsecond as a difference of timestamps."""

DEFAULT_MAX_OFFSET_NS = 250_000_000
ONE_WAY_US = 200_000
_ANSWER_FRESH_US = 1_500_000
_UNANSWERED_BELIEVED = 3
_UNANSWERED_APART_US = 150_000
"""Less than the pings' interval, and more than lies between messages that waited while this process was busy."""
_TOLERATED_OFFSET = 0.8
"""A node gives up at this share of the bound, before its peers refuse what it says."""


class ClockOffsetExceeded(Exception):
    """A remote reading lies further ahead than the clocks may differ."""

    def __init__(self, ahead_us: int, bound_us: int) -> None:
        super().__init__(f"a remote clock is {ahead_us} µs ahead; clocks may differ by {bound_us} µs")
        self.ahead_us = ahead_us


class HybridClock:
    """One node's clock.  ``physical_us`` reads microseconds since 1970."""

    __slots__ = ("_last", "_physical_us", "max_offset_us", "out_of_bounds")

    def __init__(self, physical_us: Callable[[], int], max_offset_ns: int = DEFAULT_MAX_OFFSET_NS) -> None:
        self._physical_us = physical_us
        self._last: Timestamp = 0
        self.max_offset_us = max_offset_ns // 1_000
        self.out_of_bounds = False
        """Set while this node must not serve because its physical clock disagrees with most others."""

    def now(self) -> Timestamp:
        """A reading greater than every earlier one and every one heard of."""
        physical = self._physical_us() << COUNTER_BITS
        self._last = last = physical if physical > self._last else self._last + 1
        return last

    def last(self) -> Timestamp:
        """The newest reading given out or heard of, without taking a new one."""
        return self._last

    def physical_us(self) -> int:
        """Read the physical clock."""
        return self._physical_us()

    def update(self, remote: Timestamp) -> None:
        """Hear of ``remote``; raises ClockOffsetExceeded if that is too far ahead to be true."""
        if remote > self._last:
            ahead_us = (remote >> COUNTER_BITS) - self._physical_us()
            if ahead_us > self.max_offset_us:
                raise ClockOffsetExceeded(ahead_us, self.max_offset_us)
            self._last = remote

    def raise_to(self, floor: Timestamp) -> None:
        """Make later readings exceed ``floor``, which this node's own store vouches for (no offset check)."""
        if floor > self._last:
            self._last = floor

    def check(self) -> None:
        """Raise ClockOutOfBounds while this node must not serve."""
        if self.out_of_bounds:
            raise ClockOutOfBounds("this node's clock is outside --max-clock-offset of most other nodes")


class OffsetMonitor:
    """Keeps what each peer's physical clock says against ours and tells when ours is the odd one out.

    A round trip brackets the peer's reading: sent at s, answered with r, received at e (all µs).  The truth lies within
    half the round trip of r - (s + e) / 2; only an offset that is too large whatever the network did counts.
    """

    def __init__(self, clock: HybridClock) -> None:
        self._clock = clock
        self.judged: Callable[[bool], None] = lambda out_of_bounds: None
        """Told when this node's clock leaves the bound (True), or is back within it."""
        self._offsets_us: dict[int, tuple[float, float]] = {}
        self._answered_us: dict[int, int] = {}
        self._unanswered: dict[int, tuple[int, int]] = {}
        """By peer: how many readings came by themselves since the last answer, and when the last that counted did."""

    def record(self, peer: int, sent_us: int, remote_us: int, received_us: int) -> None:
        """Take in one round trip with ``peer``."""
        self._answered_us[peer] = received_us
        self._unanswered.pop(peer, None)
        self._record(peer, sent_us, remote_us, received_us)

    def record_one_way(self, peer: int, remote_us: int, received_us: int) -> None:
        """Take in a reading that came by itself: all there is when the peers refuse what this node says.

        Counts only when it comes again and again without a round trip in between, and for what it says if the message
        took no more than ONE_WAY_US.  What was sent while this process was busy for seconds (a statement of megabytes) is
        received all at once, ahead of the answers to this node's next pings, and so counts as one."""
        # Less than nothing: this node's clock was set back meanwhile.
        if 0 <= received_us - self._answered_us.get(peer, received_us - 2 * _ANSWER_FRESH_US) < _ANSWER_FRESH_US:
            return
        count, last_us = self._unanswered.get(peer, (0, received_us - _UNANSWERED_APART_US))
        if 0 <= received_us - last_us < _UNANSWERED_APART_US:
            return
        self._unanswered[peer] = count + 1, received_us
        if count + 1 >= _UNANSWERED_BELIEVED:
            self._record(peer, received_us - ONE_WAY_US, remote_us, received_us)

    def _record(self, peer: int, sent_us: int, remote_us: int, received_us: int) -> None:
        self._offsets_us[peer] = (remote_us - (sent_us + received_us) / 2, (received_us - sent_us) / 2)
        self._judge()

    def forget(self, peer: int) -> None:
        """Leave out a peer that is gone."""
        if self._offsets_us.pop(peer, None) is not None:
            self._judge()

    def offsets_us(self) -> dict[int, int]:
        """The estimated offset of every peer, positive where the peer is ahead."""
        return {peer: round(offset) for peer, (offset, _) in self._offsets_us.items()}

    def round_trip_us(self, peer: int) -> int:
        """How long the last round trip to ``peer`` took; a second if there was none."""
        known = self._offsets_us.get(peer)
        return 1_000_000 if known is None else round(2 * known[1])

    def _judge(self) -> None:
        bound = self._clock.max_offset_us * _TOLERATED_OFFSET
        strange = sum(1 for offset, error in self._offsets_us.values() if abs(offset) - max(error, 0.0) > bound)
        out_of_bounds = strange * 2 > len(self._offsets_us)
        if out_of_bounds is not self._clock.out_of_bounds:
            self._clock.out_of_bounds = out_of_bounds
            self.judged(out_of_bounds)
