"""Rules that bind ranges to places: the steps that they lead to, taken one after the other until nothing is left to do."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from pydistdb.kv.descriptor import NodeRecord, RangeDescriptor, ReplicaDescriptor, ReplicaRole
from pydistdb.kv.placement.allocator import AddLearner, NodeView, Promote, Remove
from pydistdb.kv.placement.residency import Residency, Rule, is_at

START, END = b"\x06\0\0\0\x01\0\0", b"\x06\0\0\0\x01\0\x01"
EU = Rule(START, END, (("region", "eu"),))
EVERYWHERE = Rule(START, END, everywhere=True)


class Cluster:
    """Nodes at places, one range; carries steps out at once."""

    def __init__(self, places: list[str], voters: list[int], rule: Rule, factor: int = 3) -> None:
        self.views = {
            number: NodeView(number, live=True, locality=(("region", place),)) for number, place in enumerate(places, 1)
        }
        self.records = {
            number: NodeRecord(number, f"node{number}", "", locality=view.locality)
            for number, view in self.views.items()
        }
        self.residency = Residency([rule])
        self.factor = factor
        self.leader = voters[0]
        replicas = tuple(ReplicaDescriptor(node, 10 + node) for node in voters)
        self.range = RangeDescriptor(7, START, END, 1, replicas, 100)
        self.least_voters = len(voters)

    def settle(self) -> RangeDescriptor:
        for _ in range(40):
            step = self.residency.step(self.range, self.leader, self.views, self.records, self.factor)
            if step is None:
                return self.range
            self._take(step)
        raise AssertionError("the range never comes to rest")

    def _take(self, step: AddLearner | Promote | Remove) -> None:
        replicas = list(self.range.replicas)
        removed: list[ReplicaDescriptor] = []
        match step:
            case AddLearner(node_id):
                assert self.range.replica_on(node_id) is None
                replicas.append(ReplicaDescriptor(node_id, self.range.next_replica_id, ReplicaRole.LEARNER))
            case Promote(learners, remove):
                for learner in learners:
                    replicas.remove(learner)
                    replicas.append(ReplicaDescriptor(learner.node_id, learner.replica_id))
                removed = [remove] if remove is not None else []
                if remove is not None and remove.node_id == self.leader and len(self.range.voters()) == 1:
                    removed = []  # as the queue does
            case Remove(gone):
                removed = list(gone)
        if any(former.node_id == self.leader for former in removed):
            views = self.residency.views(self.range, self.views, self.records)
            self.leader = min(v.node_id for v in self.range.voters() if views[v.node_id].takes_replicas)
            return  # it hands the lease over, and is asked again
        kept = tuple(replica for replica in replicas if replica not in removed)
        assert any(replica.role is ReplicaRole.VOTER for replica in kept)
        self.range = RangeDescriptor(
            7, START, END, self.range.generation + 1, kept, self.range.next_replica_id + isinstance(step, AddLearner)
        )

    def nodes(self, role: ReplicaRole = ReplicaRole.VOTER) -> set[int]:
        return {replica.node_id for replica in self.range.replicas if replica.role is role}


def test_voters_move_to_the_place_and_are_as_many_as_it_has_nodes_for() -> None:
    one = Cluster(["us", "us", "us", "eu"], [1, 2, 3], EU)
    one.settle()
    assert (one.nodes(), one.leader) == ({4}, 4)
    three = Cluster(["us", "eu", "eu", "eu", "us"], [1, 2, 5], EU)
    three.settle()
    assert three.nodes() == {2, 3, 4} and three.leader in three.nodes()


def test_a_dead_node_is_replaced_within_the_place_only() -> None:
    cluster = Cluster(["eu", "eu", "eu", "us"], [1, 2, 3], EU)
    cluster.views[3] = replace(cluster.views[3], live=False)
    assert len(cluster.settle().replicas) == 3, "a node that is only silent is waited for"
    cluster.views[3] = replace(cluster.views[3], gone=True)
    cluster.settle()
    assert cluster.nodes() <= {1, 2}
    cluster.views = {number: replace(view, gone=number != 4) for number, view in cluster.views.items()}
    before = cluster.nodes()
    cluster.settle()
    assert cluster.nodes() == before, "with nobody left at the place the data stays where it is"


def test_every_node_gets_a_copy_and_a_lost_voter_is_replaced_by_one_of_them() -> None:
    cluster = Cluster(["a", "b", "c", "d", "e"], [1], EVERYWHERE)
    cluster.settle()
    assert (len(cluster.nodes()), len(cluster.nodes(ReplicaRole.LEARNER))) == (3, 2)
    lost = max(cluster.nodes() - {cluster.leader})
    cluster.views[lost] = replace(cluster.views[lost], live=False, gone=True)
    cluster.settle()
    assert (len(cluster.nodes()), len(cluster.nodes(ReplicaRole.LEARNER))) == (3, 1)
    cluster.views[6] = NodeView(6, live=True)
    cluster.settle()
    assert 6 in cluster.nodes(ReplicaRole.LEARNER)


@given(st.lists(st.sampled_from(["eu", "us", "asia"]), min_size=3, max_size=7), st.data())
def test_whatever_held_it_a_placed_range_ends_at_its_place(places: list[str], data: st.DataObject) -> None:
    voters = data.draw(st.permutations(range(1, len(places) + 1)))[: data.draw(st.sampled_from([1, 3]))]
    cluster = Cluster(places, voters, EU)
    cluster.settle()
    there = {number for number, place in enumerate(places, 1) if place == "eu"}
    assert cluster.nodes(ReplicaRole.LEARNER) == set()
    if there:
        assert cluster.nodes() <= there
        assert len(cluster.nodes()) == (3 if len(there) >= 3 else 1)
    else:
        assert cluster.nodes() == set(voters)


def test_rules_are_found_by_where_a_range_begins() -> None:
    residency = Residency([EU])
    inside = RangeDescriptor(1, START + b"\0\x01", END, 1, (), 1)
    behind = RangeDescriptor(2, END, b"\x07", 1, (), 1)
    before = RangeDescriptor(3, b"\x05", START, 1, (), 1)
    assert [residency.rule(each) for each in (inside, behind, before)] == [EU, None, None]
    assert (residency.parts(START), residency.parts(END), residency.parts(inside.start)) == (True, True, False)


def test_places_are_tiers_names_and_numbers() -> None:
    locality = (("region", "eu"), ("zone", "a"))
    assert is_at((("region", "eu"), ("zone", "a")), 3, "node3", locality)
    assert not is_at((("region", "eu"), ("zone", "b")), 3, "node3", locality)
    assert is_at((("node", "node3"),), 3, "node3", locality) and is_at((("node", "3"),), 3, "node3", locality)
    assert not is_at((("rack", "r1"),), 3, "node3", locality)
