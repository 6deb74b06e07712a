"""The whole cluster at a glance: what every node says of its own replicas, joined by range.

``Surveyor`` answers for its node (``SurveyRequest`` → ``NodeSurvey``) and asks all others that are alive.  A node that does
not answer in time is left out; its replicas are then known from the others' descriptors only.

    survey = await surveyor.survey()
    for each in survey.ranges(): print(each.range_id, each.leader, each.keys, each.requests_per_second)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from pydistdb.kv.api import KVError
from pydistdb.kv.descriptor import NodeId, RangeId
from pydistdb.kv.load import LoadMeter
from pydistdb.kv.range_local import RangeLocal
from pydistdb.kv.sizes import RangeSizes
from pydistdb.kv.status import NodeStatus, RangeStatus, StoreStatus
from pydistdb.kv.store import Store
from pydistdb.kv.transport import Message, register
from pydistdb.kv.versions import Supported
from pydistdb.tasks import Completion, gather, with_deadline

QUICK_TIMEOUT_NS = 700_000_000
ANSWER_TIMEOUT_NS = 3_000_000_000
SIZES_TIMEOUT_NS = 1_500_000_000
EXACT_SIZES_TIMEOUT_NS = 30_000_000_000
EXACT_TIMEOUT_NS = EXACT_SIZES_TIMEOUT_NS + 15_000_000_000
"""Whoever is asked tells what it knows by then before whoever asks gives it up, busy as either may be."""


LOOK_NS = 1_000_000_000
"""How often whoever waits for an answer looks whether it can still come."""


class NoAnswer(KVError):
    """Nothing has come yet."""


class SurveyRequest(Message):
    """``exact``: measure every replica anew if anything was applied to it, however long that takes.  ``quick``: answer at
    once with the sizes that are known, and bring them up to date afterwards."""

    exact: bool = False
    quick: bool = False


class ReplicaMeasure(msgspec.Struct, array_like=True):
    """A replica's size (-1: not known yet) and, on the leaseholder, its load."""

    range_id: RangeId
    requests_per_second: float = 0.0
    keys: int = -1
    size_bytes: int = -1
    checksum: int | None = None
    applied_index: int = 0
    middle: bytes = b""
    hot_key: bytes = b""
    """What gets most of the requests, where that is too much for one range and cannot be divided."""
    cpu_share: float = 0.0
    """Processor time per second, of one core."""


class NodeSurvey(Message):
    status: StoreStatus
    measures: list[ReplicaMeasure]
    disk_free: int
    disk_total: int
    version: str
    """Its release."""
    supported: Supported = Supported()
    """The cluster versions that the release knows."""
    cluster_version: int = 1


register(SurveyRequest, NodeSurvey)


@dataclass(frozen=True, slots=True)
class RangeReport:
    """One range of the cluster."""

    status: RangeStatus
    """In its leader's words if that answered."""
    leader: NodeId
    lag: int
    """Entries that the slowest follower has not acknowledged."""
    requests_per_second: float
    keys: int | None
    size_bytes: int | None
    middle: bytes
    hot_key: bytes = b""
    cpu_share: float = 0.0

    @property
    def range_id(self) -> RangeId:
        return self.status.range_id

    @property
    def nodes(self) -> tuple[NodeId, ...]:
        return tuple(node_id for node_id, _, _ in self.status.replicas)


@dataclass(frozen=True, slots=True)
class Survey:
    """What the nodes said, by node; ``own`` is the asking one."""

    own: NodeId
    answers: dict[NodeId, NodeSurvey]
    downgrade_preserved: bool = False
    """``cluster.preserve_downgrade``."""

    @property
    def nodes(self) -> list[NodeStatus]:
        """The nodes as the asking one sees them."""
        return self.answers[self.own].status.nodes

    @property
    def replication_factor(self) -> int:
        return self.answers[self.own].status.replication_factor

    @property
    def cluster_version(self) -> int:
        """What the cluster is at, as far as anybody has heard."""
        return max(answer.cluster_version for answer in self.answers.values())

    def replicas(self) -> dict[RangeId, list[tuple[NodeId, RangeStatus, ReplicaMeasure]]]:
        """Every replica that was told of, by range."""
        found: dict[RangeId, list[tuple[NodeId, RangeStatus, ReplicaMeasure]]] = {}
        for node_id, answer in self.answers.items():
            measures = {measure.range_id: measure for measure in answer.measures}
            for status in answer.status.ranges:
                measure = measures.get(status.range_id) or ReplicaMeasure(status.range_id)
                found.setdefault(status.range_id, []).append((node_id, status, measure))
        return found

    def ranges(self) -> list[RangeReport]:
        """Every range, in key order."""
        return sorted(map(_joined, self.replicas().values()), key=lambda report: report.status.start)


def _joined(replicas: list[tuple[NodeId, RangeStatus, ReplicaMeasure]]) -> RangeReport:
    """The newest generation speaks for the range, and the leader before any other."""
    node_id, best, measure = max(replicas, key=lambda r: (r[1].generation, r[1].leaseholder, r[1].term))
    return RangeReport(
        best,
        node_id if best.leaseholder else best.leader,
        max((follower.lag for follower in best.followers), default=0),
        measure.requests_per_second,
        measure.keys if measure.keys >= 0 else None,
        measure.size_bytes if measure.size_bytes >= 0 else None,
        measure.middle,
        measure.hot_key,
        measure.cpu_share,
    )


class Surveyor:
    """One node's answers, and its questions to all."""

    def __init__(self, store: Store, load: LoadMeter, version: str, disk: Callable[[], tuple[int, int]]) -> None:
        self._store = store
        self._load = load
        self._version = version
        self._disk = disk
        """Tells the bytes that are free and all there are."""
        self.sizes = RangeSizes(store)
        store.register(SurveyRequest, self._on_request)

    async def survey(self, *, exact: bool = False, quick: bool = False) -> Survey:
        """Ask every node."""
        store = self._store
        own = store.node_id
        node_ids = [own, *(node_id for node_id in store.live_nodes() if node_id != own)]
        answers = await gather(
            store.scheduler, [self._ask(node_id, SurveyRequest(exact, quick)) for node_id in node_ids]
        )
        told = {node_id: answer for node_id, answer in zip(node_ids, answers, strict=True) if answer is not None}
        if len(told) < len(node_ids):
            told[own] = self._answer()  # whoever has not answered may be known to be dead by now
        return Survey(own, told, bool(store.membership.settings.value("cluster.preserve_downgrade")))

    async def _ask(self, node_id: NodeId, request: SurveyRequest) -> NodeSurvey | None:
        store = self._store
        try:
            completion: Completion[Any] = store.call(node_id, request)
            timeout_ns = QUICK_TIMEOUT_NS if request.quick else EXACT_TIMEOUT_NS if request.exact else ANSWER_TIMEOUT_NS
            now_ns = store.scheduler.now_ns()
            deadline_ns = now_ns + timeout_ns
            while True:
                look_ns = min(now_ns + LOOK_NS, deadline_ns)
                with suppress(NoAnswer):
                    answer = await with_deadline(store.scheduler, completion, look_ns, NoAnswer("no answer in time"))
                    return answer if isinstance(answer, NodeSurvey) else None
                now_ns = store.scheduler.now_ns()
                if now_ns >= deadline_ns or node_id not in store.live_nodes():
                    return None
        except KVError:
            return None

    async def _on_request(self, from_node: NodeId, request: SurveyRequest) -> Message:
        store = self._store
        replicas = list(store.replicas.values()) if request.exact else store.leased_replicas()
        task = store.scheduler.spawn(self.sizes.refresh(replicas, exact=request.exact), "range sizes")
        if request.quick:
            return self._answer()
        deadline_ns = store.scheduler.now_ns() + (EXACT_SIZES_TIMEOUT_NS if request.exact else SIZES_TIMEOUT_NS)
        try:
            await with_deadline(store.scheduler, task.completion, deadline_ns, KVError("sizes take longer"))
        except KVError:
            pass  # the work goes on; what is not known yet is shown as such
        return self._answer()

    def _answer(self) -> NodeSurvey:
        busy = {local.range_id: local for local in self._load.busy()}
        free, total = self._disk()
        status = self._store.status()
        measures = [self._measure(item.range_id, busy.get(item.range_id)) for item in status.ranges]
        versions = self._store.versions
        return NodeSurvey(status, measures, free, total, self._version, versions.supported, versions.active)

    def _measure(self, range_id: RangeId, local: RangeLocal | None) -> ReplicaMeasure:
        measure = ReplicaMeasure(range_id)
        if local is not None:
            measure.requests_per_second, measure.hot_key = local.request_rate, local.hot_key
            measure.cpu_share = local.cpu_share
        size = self.sizes.known(range_id)
        if size is not None:
            measure.keys, measure.size_bytes, measure.checksum = size.keys, size.size_bytes, size.checksum
            measure.applied_index, measure.middle = size.applied_index, size.middle
        return measure
