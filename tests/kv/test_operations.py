"""What operators do to ranges and nodes: splits, moves, draining, leaving; and what they are shown."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from pydistdb.kv import sizes
from pydistdb.kv.api import Isolation
from pydistdb.kv.command import AddedReplica
from pydistdb.kv.descriptor import FIRST_RANGE_ID, NodeState
from pydistdb.kv.doctor import diagnose, examine
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.operations import OperationRefused, Operations, SetDraining
from pydistdb.kv.placement.allocator import AddLearner, Promote, next_step
from pydistdb.kv.placement.directory import Directory
from pydistdb.kv.placement.hotspots import assess
from pydistdb.kv.store import Store, StoreConfig
from pydistdb.kv.survey import RangeReport, Survey
from pydistdb.kv.transport import Message, NodeUnreachable, RaftEnvelope, ReplicaRemoved
from pydistdb.tasks import Scheduler, sleep
from pydistdb_storage import mvcc
from pydistdb_storage.engine import Space, WriteBatch

from pydistdb import raft
from tests.support.cluster import SECOND, Cluster


class Operated:
    """A cluster with a gateway and operations on every node."""

    def __init__(self, nodes: int, replication_factor: int = 3, seed: int = 3) -> None:
        self.cluster = Cluster(seed=seed, config=StoreConfig(dead_after_ns=5 * SECOND))
        self.gateways: dict[int, Gateway] = {}
        self.operations: dict[int, Operations] = {}
        self.cluster.on_open.append(self._open)
        self.cluster.start(nodes, replication_factor)
        self.run = self.cluster.run
        self.run(self.gateways[1].ingest([(b"\x04k%04d" % number, b"v" * 100) for number in range(1000)]))

    def _open(self, store: Store) -> None:
        gateway = self.gateways[store.node_id] = Gateway(store)
        gateway.start()
        self.operations[store.node_id] = Operations(store, gateway, "1")

    def survey(self, node: int = 1) -> Survey:
        return self.run(self.operations[node].surveyor.survey())

    def report(self, range_id: int) -> RangeReport:
        return next(report for report in self.survey().ranges() if report.range_id == range_id)


def test_a_range_is_split_in_its_middle_and_sized() -> None:
    world = Operated(3)
    (whole,) = world.survey().ranges()
    assert whole.keys is not None and whole.keys >= 1000
    right = world.run(world.operations[2].split(1))
    report = world.report(right)
    assert report.keys is not None and 400 < report.keys < 600
    assert report.status.start.startswith(b"\x04k")
    left = world.report(1)
    assert left.keys is not None and left.keys + report.keys >= whole.keys
    with pytest.raises(OperationRefused, match="there is no range 77"):
        world.run(world.operations[1].split(77))


def test_neighbours_are_merged_wherever_they_lie() -> None:
    """From any node; replicas and lease are brought together first."""
    world = Operated(4)
    right = world.run(world.operations[2].split_at(b"\x04k0500"))
    world.cluster.advance(10)
    report = world.report(right)
    (free,) = {1, 2, 3, 4} - set(report.nodes)
    away = next(node for node in report.nodes if node != report.leader)
    world.run(world.operations[2].move_replica(right, away, free))
    assert set(world.report(right).nodes) != set(world.report(1).nodes)
    assert world.run(world.operations[3].merge(1)) == 1
    world.cluster.advance(15)  # a replica that was left behind finds out
    (whole,) = world.survey().ranges()
    assert whole.range_id == 1 and whole.keys is not None and whole.keys >= 1000
    assert len(set(whole.nodes)) == 3
    with pytest.raises(OperationRefused, match=r"no range begins there: the key is within range 1$"):
        world.run(world.operations[1].merge_at(b"\x04k0500"))
    with pytest.raises(OperationRefused, match="no right neighbour"):
        world.run(world.operations[1].merge(1))


def test_rows_that_are_colocated_stay_together() -> None:
    world = Operated(1, 1)
    operations = world.operations[1]
    world.run(operations.split_at(b"\x05"))
    head = b"\x05\x00\x00\x00\x07"
    rows = [head + bytes((hash_byte, 0)) + table + b"key" for hash_byte in (1, 2, 3, 4) for table in (b"A", b"B")]
    world.run(world.gateways[1].ingest([(row, b"v" * 50) for row in rows]))
    hashed = world.survey().ranges()[-1]
    world.run(operations.split(hashed.range_id))
    boundary = world.survey().ranges()[-1].status.start
    assert len(boundary) == 7 and boundary[5] in (2, 3, 4)
    # One hash value cannot be cut.
    only = world.run(operations.split_at(head + b"\x04\x00"))
    with pytest.raises(OperationRefused, match="no row boundary"):
        world.run(operations.split(only))


def test_a_lease_moves_where_it_is_sent() -> None:
    world = Operated(3)
    target = next(node for node in (1, 2, 3) if node != world.report(1).leader)
    world.run(world.operations[3].move_lease(1, target))
    assert world.report(1).leader == target
    with pytest.raises(OperationRefused, match="there is no node 9"):
        world.run(world.operations[3].move_lease(1, 9))


def test_a_lease_waits_for_a_replica_that_does_not_vote_yet() -> None:
    world = Operated(1)
    cluster = world.cluster
    cluster.add("n2")
    cluster.add("n3")
    first = world.report(1).status

    def role() -> str:
        return {node_id: role for node_id, _, role in world.report(1).status.replicas}.get(2, "none")

    assert first.leaseholder and role() != "voter"
    cluster.wait_until(lambda: role() == "learner", step=0.001)
    world.run(world.operations[1].move_lease(1, 2))
    assert world.report(1).leader == 2
    cluster.wait_until(lambda: cluster.replicated(3))
    right = world.run(world.operations[1].split_at(b"\x04k0500"))
    cluster.add("n4")
    free = next(node for node in (1, 2, 3, 4) if node not in world.report(right).nodes)
    with pytest.raises(
        OperationRefused, match=rf"node {free} has no replica of range {right}, which is on nodes \d, \d, \d"
    ):
        world.run(world.operations[1].move_lease(right, free))


def test_a_replica_moves_even_from_under_the_leaseholder() -> None:
    world = Operated(4)
    right = world.run(world.operations[1].split_at(b"\x04k0500"))
    world.cluster.advance(10)
    report = world.report(right)
    (free,) = {1, 2, 3, 4} - set(report.nodes)
    away = report.leader
    world.run(world.operations[2].move_replica(right, away, free))
    after = world.report(right)
    assert set(after.nodes) == set(report.nodes) - {away} | {free}
    assert after.keys == 500
    with pytest.raises(OperationRefused, match="has no replica"):
        world.run(world.operations[2].move_replica(right, away, free))


def test_a_move_whose_newcomer_is_used_for_a_dead_node_ends() -> None:
    """The leaseholder dies when the newcomer has begun to learn; whoever leads next replaces the dead one by it."""
    world = Operated(4)
    cluster = world.cluster
    right = world.run(world.operations[1].split_at(b"\x04k0500"))
    cluster.advance(10)
    report = world.report(right)
    (free,) = {1, 2, 3, 4} - set(report.nodes)
    away, bystander = sorted(set(report.nodes) - {report.leader})
    task = cluster.scheduler.spawn(world.operations[bystander].move_replica(right, away, free), "move")
    stores = {store.node_id: store for store in cluster.stores()}
    replica = stores[bystander].replicas[right]
    cluster.wait_until(lambda: replica.descriptor.replica_on(free) is not None, step=0.001)
    next(node for node in cluster.nodes.values() if node.node_id == report.leader).crash()
    cluster.wait_until(lambda: task.completion.done, 30)
    with pytest.raises(OperationRefused, match="in place of another node's"):
        task.completion.result()
    assert {voter.node_id for voter in replica.descriptor.voters()} == {away, bystander, free}


def test_a_node_to_which_the_connection_breaks_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by nodes that came back under another number: `recommission` said that the peer had closed the connection."""
    world = Operated(3)
    call, broken = Store.call, [True, True]

    async def breaks(self: Store, node_id: int, request: Message, *options: Any) -> Any:
        if isinstance(request, SetDraining) and broken:
            broken.pop()
            raise NodeUnreachable(node_id, "the peer closed the connection")
        return await call(self, node_id, request, *options)

    monkeypatch.setattr(Store, "call", breaks)
    world.run(world.operations[2].drain(1))
    world.run(world.operations[2].recommission(1))
    assert not broken
    broken += [True] * 100
    with pytest.raises(OperationRefused, match="node 1 does not answer"):
        world.run(world.operations[2].drain(1))


def test_a_drained_node_holds_no_leases_until_it_is_taken_back() -> None:
    world = Operated(3)
    for key in (b"\x04k0200", b"\x04k0400", b"\x04k0600", b"\x04k0800"):
        world.run(world.operations[1].split_at(key))
    world.cluster.advance(10)
    had = world.survey(2).nodes[0].lease_count
    assert had > 0
    world.run(world.operations[2].drain(1))
    world.cluster.advance(10)
    node = world.survey(2).nodes[0]
    assert (node.lease_count, node.mode, node.emptying_from) == (0, "draining", had)
    assert node.replica_count == 5
    world.run(world.operations[2].recommission(1))
    world.cluster.advance(20)
    node = world.survey(2).nodes[0]
    assert (node.lease_count > 0, node.emptying_from) == (True, 0)


def test_of_a_node_that_came_back_under_another_number_nobody_says_that_it_is_being_drained() -> None:
    """The doctor went by what it had said last, when it was emptied."""
    world = Operated(4)
    cluster = world.cluster
    cluster.advance(10)
    gone = next(node.node_id for node in world.survey().nodes if node.node_id != 1)
    world.run(world.operations[1].decommission(gone))
    cluster.wait_until(lambda: not cluster.store(f"n{gone}").replicas)
    cluster.advance(2)
    cluster.wipe(f"n{gone}")
    cluster.advance(5)
    nodes = {node.node_id: (node.state, node.mode) for node in world.survey().nodes}
    assert nodes[gone] == ("replaced", "") and nodes[5] == ("live", "")


def test_a_node_that_leaves_gives_its_replicas_away_and_is_forgotten() -> None:
    world = Operated(4)
    world.run(world.operations[1].split_at(b"\x04k0500"))
    world.cluster.advance(10)
    with_replicas = next(node.node_id for node in world.survey().nodes if node.replica_count and node.node_id != 1)
    had = len(world.cluster.store(f"n{with_replicas}").replicas)
    world.run(world.operations[1].decommission(with_replicas))

    def is_empty() -> bool:
        return not world.cluster.store(f"n{with_replicas}").replicas

    world.cluster.wait_until(is_empty)
    world.cluster.advance(2)
    survey = world.survey()
    assert all(len(report.nodes) == 3 and with_replicas not in report.nodes for report in survey.ranges())
    left = next(n for n in survey.nodes if n.node_id == with_replicas)
    assert (left.mode, left.emptying_from) == ("decommissioned", had)
    # It is in no range, but a restart does not make it forget.
    world.cluster.crash(f"n{with_replicas}")
    world.cluster.restart(f"n{with_replicas}")
    world.cluster.advance(5)
    assert not world.cluster.store(f"n{with_replicas}").replicas
    world.cluster.crash(f"n{with_replicas}")
    world.cluster.advance(15)
    assert world.cluster.store("n1").membership.nodes[with_replicas].state is NodeState.DRAINED
    with pytest.raises(OperationRefused, match="cannot leave: 2 nodes would remain"):
        world.run(world.operations[1].decommission(next(n for n in (2, 3, 4) if n != with_replicas)))


def test_load_is_counted_where_the_lease_is() -> None:
    world = Operated(1, 1)
    right = world.run(world.operations[1].split_at(b"\x04k0500"))
    gateway = world.gateways[1]

    async def read() -> None:
        for _ in range(1_000):
            transaction = gateway.begin(Isolation.READ_COMMITTED)
            transaction.begin_statement()
            assert transaction.try_get(b"\x04k0700") is not None
            await sleep(world.cluster.scheduler, 10_000_000)

    world.run(read())
    assert 60 < world.report(right).requests_per_second <= 100
    assert world.report(1).requests_per_second < 5
    judged = assess(world.survey().ranges(), [1])
    assert (judged[right].heat, judged[right].recommendation) == ("hot", "split")
    world.cluster.advance(60)
    assert world.report(right).requests_per_second < 1


def test_a_size_that_others_delayed_is_not_kept_the_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Operated(1, 1)

    async def dawdle(scheduler: Scheduler, work_ns: int) -> None:
        await sleep(scheduler, 20_000_000_000)

    monkeypatch.setattr(sizes, "give_way", dawdle)
    measured = world.operations[1].surveyor.sizes
    (replica,) = world.cluster.stores()[0].replicas.values()
    world.run(measured.refresh([replica]))
    before = measured.known(1)
    world.run(world.gateways[1].ingest([(b"\x04new", b"v")]))
    world.cluster.advance(5)
    world.run(measured.refresh([replica]))
    after = measured.known(1)
    assert before is not None and after is not None and after.keys == before.keys + 1


def test_the_doctor_finds_a_replica_that_differs() -> None:
    world = Operated(3)
    world.cluster.advance(5)

    def findings() -> dict[str, tuple[str, str]]:
        found = world.run(examine(world.operations[1].surveyor, world.cluster.scheduler))
        return {finding.area: (finding.status, finding.detail) for finding in found}

    assert {status for status, _ in findings().values()} == {"ok"}
    assert findings()["checksums"][1] == "the replicas of 1 ranges are equal"
    batch = WriteBatch()
    batch.put(Space.VERSIONS, mvcc.versioned(b"\x04k0003", mvcc.MAX_TIMESTAMP - 1), b"rotten")
    world.cluster.nodes["n2"].engine.apply([batch])
    # Nothing was applied since, so what is known of the replica would still do.
    world.operations[2].surveyor.sizes._known.clear()
    assert findings()["checksums"] == ("error", "its replicas differ")


@pytest.mark.parametrize(
    ("dead", "status", "detail"),
    [
        (["n3"], "warning", "replicas on these nodes are dead: 3"),
        (["n2", "n3"], "error", "1 of 3 voters are alive: no majority"),
    ],
)
def test_the_doctor_tells_what_dead_nodes_cost(dead: list[str], status: str, detail: str) -> None:
    world = Operated(3)
    world.cluster.crash(*dead)
    world.cluster.advance(3)
    found = diagnose(world.survey(), {})
    assert [(f.status, f.detail) for f in found if f.area == "ranges"] == [(status, detail)]
    assert ("nodes", "node 3 (n3)", "error", "it is dead") in found


def test_the_doctor_waits_for_no_node_that_has_just_died() -> None:
    """It counts as alive for a little while."""
    world = Operated(3)
    world.cluster.advance(5)
    world.cluster.crash("n3")
    begun_ns = world.cluster.scheduler.now_ns()
    found = world.run(examine(world.operations[1].surveyor, world.cluster.scheduler))
    assert ("nodes", "node 3 (n3)", "error", "it is dead") in found
    assert world.cluster.scheduler.now_ns() - begun_ns < 15 * SECOND


def test_the_doctor_says_once_what_is_wrong_with_many_ranges() -> None:
    world = Operated(3)
    for number in range(8):
        world.cluster.run(world.cluster.split(b"\x04%03d" % number))
    world.cluster.advance(3)
    world.cluster.crash("n3")
    world.cluster.advance(3)
    (found,) = (f for f in diagnose(world.survey(), {}) if f.area == "ranges")
    assert (found.subject, found.status) == ("9 ranges", "warning")
    assert re.fullmatch(r"replicas on these nodes are dead: 3 \(ranges \d+, \d+, \d+ and 6 more\)", found.detail)


def test_what_is_recommended() -> None:
    world = Operated(3)
    (template,) = world.survey().ranges()
    numbers = iter(range(1, 100))

    def make(rate: float, leader: int, size_bytes: int = 1000, keys: int = 10) -> RangeReport:
        status = msgspec.structs.replace(template.status, range_id=next(numbers))
        return RangeReport(status, leader, 0, rate, keys, size_bytes, b"")

    def recommended(*reports: RangeReport) -> list[tuple[str, str]]:
        return [(found.heat, found.recommendation) for found in assess(reports, [1, 2, 3]).values()]

    assert recommended(make(8500, 1), make(750, 2), make(750, 3)) == [("hot", "split"), ("", ""), ("", "")]
    assert recommended(make(40, 1), make(1, 2))[0] == ("", "")
    assert recommended(make(150, 1), make(100, 2))[0] == ("warm", "")
    even = [make(180, 1), make(180, 2), make(180, 3), make(0, 1), make(0, 2), make(0, 3)]
    assert recommended(*even)[0] == ("hot", ""), "no node would be relieved"
    busy = [make(1000, 1), make(400, 1), make(400, 1), make(300, 1), make(10, 2), make(20, 3)]
    assert recommended(*busy)[0] == ("hot", "move its lease to node 2")
    assert recommended(make(5000, 1, keys=1), make(10, 2))[0] == (
        "hot",
        "one key gets all of it: a split does not help",
    )
    assert recommended(make(0, 1, size_bytes=600 << 20), make(0, 2))[0] == ("", "split: it is large")


def test_a_sleeping_leader_finds_out_who_knows_of_a_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the node of the former replica would keep it for as long as nobody writes to the range."""
    world = Operated(3)
    cluster = world.cluster
    cluster.advance(10)
    leader = cluster.leaseholder(b"\x02")
    assert leader is not None and leader.raft.quiescent
    state = leader.raft._state
    state.pending_membership_index = state.log.applied
    for progress in state.followers:
        progress.applied = 0  # it fell asleep before it heard
    told: list[int] = []
    store = cluster.store(f"n{leader.owner.node_id}")
    original = store.send_envelope

    def send(to: int, envelope: RaftEnvelope) -> None:
        if isinstance(envelope.message, ReplicaRemoved):
            told.append(envelope.message.replica_id)
        else:
            original(to, envelope)

    monkeypatch.setattr(store, "send_envelope", send)
    for _ in range(3):
        store.tell_removed(leader, 77, 9)
    assert not told
    cluster.advance(3)
    assert told == [77]


def test_a_replica_that_has_applied_its_own_removal_goes_though_its_leader_died_before_saying_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Operated(4)
    cluster = world.cluster
    leading = cluster.leaseholder(b"\x02")
    assert leading is not None
    leader = leading.owner.node_id
    holders = [replica.node_id for replica in leading.descriptor.replicas]
    away = next(node for node in holders if node != leader)
    to = next(node for node in (1, 2, 3, 4) if node not in holders)
    with monkeypatch.context() as silent:
        silent.setattr(Store, "tell_removed", lambda *_: None)
        world.run(world.operations[leader].move_replica(1, away, to))
        cluster.advance(0.5)
        store = next(store for store in cluster.stores() if store.node_id == away)
        former = store.replicas[1]
        # Mostly it does not hear of the commit any more; here it has.
        former._descriptor = leading.descriptor
        assert former.knows_removed(former.replica_id)
        cluster.crash(*[name for name, node in cluster.nodes.items() if node.node_id == leader])
    cluster.advance(4.5)  # before the dead node is replaced
    assert former.destroyed


def test_an_audit_goes_on_where_it_finds_replicas_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node that holds the addresses of all ranges answers its own question at once."""
    world = Operated(3)
    cluster = world.cluster
    for number in range(3):
        world.run(world.operations[1].split_at(b"\x04k%04d" % number))
    monkeypatch.setattr(Directory, "check_soon", lambda directory, replica: directory._store.destroy(replica))
    cluster.network.partition(["n3"], ["n1", "n2"])
    cluster.advance(20)
    assert not cluster.store("n3").replicas


def test_a_learner_of_the_first_range_that_was_given_up_meanwhile_finds_out() -> None:
    """It knows no leader, nor does it campaign; what it knows of the first range must not be its node's way to it."""
    world = Operated(4)
    cluster = world.cluster
    leader = cluster.leaseholder(b"\x02")
    assert leader is not None
    to = next(node for node in (1, 2, 3, 4) if leader.descriptor.replica_on(node) is None)
    learner_id = leader.descriptor.next_replica_id
    added = AddedReplica(to, learner_id)
    cluster.scheduler.run_until(leader.propose_membership((raft.Change(raft.ADD_LEARNER, learner_id),), (added,)))

    def is_there() -> bool:
        replica = cluster.store(f"n{to}").replicas.get(FIRST_RANGE_ID)
        return replica is not None and replica.is_initialized and replica.descriptor.replica_on(to) is not None

    cluster.wait_until(is_there, step=0.001)
    cluster.crash(f"n{to}")
    if leader.descriptor.replica_on(to) is not None:
        cluster.scheduler.run_until(leader.propose_membership((raft.Change(raft.REMOVE, learner_id),), ()))
    cluster.advance(2)
    cluster.restart(f"n{to}")
    assert FIRST_RANGE_ID in cluster.store(f"n{to}").replicas
    assert cluster.run(cluster.store(f"n{to}").directory.allocate(b"test")) > 0
    cluster.advance(15)
    assert FIRST_RANGE_ID not in cluster.store(f"n{to}").replicas


def test_a_move_goes_before_what_placement_has_begun_to_even_things_out() -> None:
    world = Operated(5)
    cluster = world.cluster
    right = world.run(world.operations[1].split_at(b"\x04k0500"))
    cluster.advance(10)
    report = world.report(right)
    free, other = sorted({1, 2, 3, 4, 5} - set(report.nodes))
    stores = {store.node_id: store for store in cluster.stores()}
    queue = stores[report.leader].queue
    replica = stores[report.leader].replicas[right]
    queue._take(replica, AddLearner(other))
    cluster.wait_until(lambda: replica.descriptor.replica_on(other) is not None, step=0.001)
    step = next_step(replica.descriptor, report.leader, queue.node_views(), 3)
    assert isinstance(step, Promote) and step.remove is not None
    away = step.remove.node_id
    world.run(world.operations[report.leader].move_replica(right, away, free))
    assert set(world.report(right).nodes) == set(report.nodes) - {away} | {free}


def test_a_move_ends_when_placement_was_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Operated(5)
    cluster = world.cluster
    right = world.run(world.operations[1].split_at(b"\x04k0500"))
    cluster.advance(10)
    report = world.report(right)
    free, other = sorted({1, 2, 3, 4, 5} - set(report.nodes))
    queue = next(store.queue for store in cluster.stores() if store.node_id == report.leader)
    replica = queue._store.replicas[right]
    monkeypatch.setattr(queue, "move", lambda *_, **__: None)  # the leaseholder does not get round to it
    queue._take(replica, AddLearner(other))
    cluster.wait_until(lambda: replica.descriptor.replica_on(other) is not None, step=0.001)
    step = next_step(replica.descriptor, report.leader, queue.node_views(), 3)
    assert isinstance(step, Promote) and step.remove is not None
    away = step.remove.node_id
    task = cluster.scheduler.spawn(world.operations[report.leader].move_replica(right, away, free), "move")
    cluster.wait_until(lambda: task.completion.done, 20)
    with pytest.raises(OperationRefused, match=f"node {away} has no replica of range {right} any more"):
        task.completion.result()


def test_of_two_moves_of_a_range_the_second_is_refused() -> None:
    world = Operated(5)
    cluster = world.cluster
    right = world.run(world.operations[1].split_at(b"\x04k0500"))
    cluster.advance(10)
    report = world.report(right)
    free = sorted({1, 2, 3, 4, 5} - set(report.nodes))
    away = next(node for node in report.nodes if node != report.leader)
    tasks = [
        cluster.scheduler.spawn(world.operations[node].move_replica(right, away, to), "move")
        for node, to in zip((1, 2), free, strict=True)
    ]
    cluster.wait_until(lambda: all(task.completion.done for task in tasks), 20)
    errors = [str(task.completion._error) for task in tasks if task.completion._error is not None]
    assert len(errors) == 1
    under_way = rf"range {right} is being moved from node {away} to node \d already"
    done = rf"node {away} has no replica of range {right} any more: it has gone to another node meanwhile"
    assert re.fullmatch(f"{under_way}|{done}", errors[0])
    moved = set(world.report(right).nodes) - set(report.nodes)
    assert moved <= set(free) and len(moved) == 1


def test_the_only_replica_of_a_range_moves() -> None:
    world = Operated(2, 1)
    (only,) = world.report(1).nodes
    world.run(world.operations[2].move_replica(1, only, 3 - only))
    assert world.report(1).nodes == (3 - only,)
