"""The last hour of a node, in its memory: what the console draws.

Every ``INTERVAL_NS`` a sample is taken of the counters, and of which ranges get requests.  ``History`` answers for its node, and
asks all others, so that any node draws the whole cluster:

* ``loads``: per sample, statements, errors, sessions, CPU seconds and the latency histogram, since the sample before;
* ``heat``: per column of time, the requests per second of each span of keys, as it was cut then.

A node that has been restarted begins anew.  Nothing here is needed for anything else.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from pydistdb.tasks import pause

if TYPE_CHECKING:
    from pydistdb_server.node import Node

INTERVAL_SECONDS = 5
SAMPLES = 720
MOST_SPANS = 300
"""The busiest ranges of a sample; the others of that moment are not drawn."""
LEAST_RATE = 0.2
LOADS_TOPIC = "console.loads"
HEAT_TOPIC = "console.heat"
ANSWER_TIMEOUT_NS = 700_000_000

Span = tuple[bytes, bytes, float]


class Load(NamedTuple):
    """What happened between two samples; ``slot`` numbers the intervals since 1970, the same on every node."""

    slot: int
    statements: int
    errors: int
    sessions: int
    cpu_seconds: float
    latencies: list[int]
    latency_total_us: int


class HeatColumn(NamedTuple):
    """Requests per second by span, on average over the column's time."""

    slot: int
    spans: list[Span]


_encode = msgspec.msgpack.Encoder().encode
_decode_loads = msgspec.msgpack.Decoder(list[tuple[int, int, int, int, float, list[int], int]]).decode
_decode_heat = msgspec.msgpack.Decoder(list[tuple[int, list[tuple[bytes, bytes, float]]]]).decode


class History:
    """See the module's introduction."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._loads: deque[Load] = deque(maxlen=SAMPLES)
        self._heat: deque[HeatColumn] = deque(maxlen=SAMPLES)
        self._before = self._counters()
        gateway = node.gateway
        gateway.on_broadcast(LOADS_TOPIC, self._on_loads)
        gateway.on_broadcast(HEAT_TOPIC, self._on_heat)
        self._later()

    def _later(self) -> None:
        loop = self._node.loop
        loop.call_at(loop.now_ns() + INTERVAL_SECONDS * 1_000_000_000, self._sample)

    def _counters(self) -> tuple[int, int, float, list[int], int]:
        environment = self._node.environment
        histograms = environment.statements.histograms.values()
        return (
            sum(environment.statements.calls().values()),
            environment.statistics.errors,
            time.process_time(),
            [sum(counts) for counts in zip(*(histogram.counts for histogram in histograms), strict=True)],
            sum(histogram.total_us for histogram in histograms),
        )

    def _sample(self) -> None:
        if self._node.stopping:
            return
        slot = int(time.time()) // INTERVAL_SECONDS
        before, now = self._before, self._counters()
        self._before = now
        self._loads.append(
            Load(
                slot,
                now[0] - before[0],
                now[1] - before[1],
                len(self._node.clients.clients),
                now[2] - before[2],
                [count - old for count, old in zip(now[3], before[3], strict=True)],
                now[4] - before[4],
            )
        )
        busy = [
            (local.start, local.end, local.request_rate)
            for local in self._node.gateway.load.busy()
            if local.request_rate >= LEAST_RATE
        ]
        if len(busy) > MOST_SPANS:
            busy = sorted(busy, key=lambda span: -span[2])[:MOST_SPANS]
        if busy:
            self._heat.append(HeatColumn(slot, busy))
        self._later()

    # ------------------------------------------------------------------------------------------ for the cluster

    async def loads(self, since: int) -> dict[int, list[Load]]:
        """The samples of every node that answers, from slot ``since`` on."""
        answers = await self._node.gateway.broadcast(LOADS_TOPIC, _encode(since), ANSWER_TIMEOUT_NS)
        return {
            node_id: [Load(*fields) for fields in _decode_loads(answer)]
            for node_id, answer in sorted(answers.items())
            if answer
        }

    async def heat(self, since: int, slots_per_column: int) -> list[HeatColumn]:
        """The columns of all nodes, by time; several nodes have one of the same slot."""
        question = _encode((since, slots_per_column))
        answers = await self._node.gateway.broadcast(HEAT_TOPIC, question, ANSWER_TIMEOUT_NS)
        found = [HeatColumn(*fields) for answer in answers.values() if answer for fields in _decode_heat(answer)]
        return sorted(found, key=lambda column: column.slot)

    async def _on_loads(self, sender: int, payload: bytes) -> bytes:
        since = msgspec.msgpack.decode(payload, type=int)
        return _encode([load for load in self._loads if load.slot >= since])

    async def _on_heat(self, sender: int, payload: bytes) -> bytes:
        since, width = msgspec.msgpack.decode(payload, type=tuple[int, int])
        width = max(width, 1)
        columns: dict[int, dict[tuple[bytes, bytes], float]] = {}
        for number, sample in enumerate(self._heat):
            if sample.slot >= since:
                add_spans(columns.setdefault(sample.slot // width * width, {}), sample.spans, 1 / width)
            if number % 50 == 49:
                await pause(self._node.loop)
        return _encode([(slot, _busiest(spans)) for slot, spans in columns.items()])


def add_spans(into: dict[tuple[bytes, bytes], float], spans: Iterable[Span], weight: float) -> None:
    """Add up what spans got, each times ``weight``."""
    for start, end, rate in spans:
        into[start, end] = into.get((start, end), 0.0) + rate * weight


def _busiest(spans: dict[tuple[bytes, bytes], float]) -> list[Span]:
    found = [(start, end, round(rate, 2)) for (start, end), rate in spans.items()]
    return sorted(found, key=lambda span: -span[2])[:MOST_SPANS]
