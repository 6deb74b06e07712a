"""Placement decisions as a golden script: the nodes, the range, the next step."""

from __future__ import annotations

from pathlib import Path

from pydistdb.kv.descriptor import RangeDescriptor, ReplicaDescriptor, ReplicaRole
from pydistdb.kv.placement.allocator import (
    AddLearner,
    NodeView,
    Promote,
    Remove,
    lease_target,
    next_step,
    rebalance_step,
)

from tests.support import golden


class Placement:
    """Executes the script's commands; see golden/store_allocator.txt."""

    def __init__(self) -> None:
        self.nodes: dict[int, NodeView] = {}

    def execute(self, command: golden.Command) -> str:
        match command.name:
            case "nodes":
                return self._nodes(command)
            case "step":
                return self._step(command)
            case "rebalance":
                return self._rebalance(command)
            case "lease":
                return self._lease(command)
        raise ValueError(command.name)

    def _nodes(self, command: golden.Command) -> str:
        """``nodes 1 2:dead 3:gone zone=…``: each word is id[:state][@zone][#replicas][%leases]."""
        self.nodes = {}
        for word in command.arguments:
            word, _, leases = word.partition("%")
            word, _, count = word.partition("#")
            word, _, zone = word.partition("@")
            number, _, state = word.partition(":")
            self.nodes[int(number)] = NodeView(
                int(number),
                live=state in ("", "draining"),
                gone=state == "gone",
                draining=state == "draining",
                locality=(("zone", zone),) if zone else (),
                replica_count=int(count or 0),
                lease_count=int(leases or 0),
            )
        return ""

    def _descriptor(self, command: golden.Command) -> RangeDescriptor:
        replicas = []
        for word in command.arguments:
            role = {"+": ReplicaRole.LEARNER, "i": ReplicaRole.INCOMING, "o": ReplicaRole.OUTGOING}.get(
                word[-1], ReplicaRole.VOTER
            )
            node = int(word.rstrip("+io"))
            replicas.append(ReplicaDescriptor(node, node * 10, role))
        return RangeDescriptor(1, b"a", b"b", 1, tuple(replicas), 100)

    def _step(self, command: golden.Command) -> str:
        """``step 1 2 3+ factor=3 leader=1``: replicas by node, + for a learner, i and o while joint."""
        descriptor = self._descriptor(command)
        leader = command.integer("leader", descriptor.replicas[0].node_id)
        match next_step(descriptor, leader, self.nodes, command.integer("factor", 3)):
            case AddLearner(node_id):
                return f"add learner on {node_id}"
            case Promote(learners, remove):
                promoted = " ".join(str(learner.node_id) for learner in learners)
                return f"promote {promoted}" + (f", remove {remove.node_id}" if remove else "")
            case Remove(replicas):
                return "remove " + " ".join(str(replica.node_id) for replica in replicas)
        return "nothing"

    def _rebalance(self, command: golden.Command) -> str:
        descriptor = self._descriptor(command)
        leader = command.integer("leader", descriptor.replicas[0].node_id)
        step = rebalance_step(descriptor, leader, self.nodes)
        return f"add learner on {step.node_id}" if step is not None else "nothing"

    def _lease(self, command: golden.Command) -> str:
        descriptor = self._descriptor(command)
        leader = command.integer("leader", descriptor.replicas[0].node_id)
        target = lease_target(descriptor, leader, self.nodes, must_leave=command.integer("leave", 0) > 0)
        return f"to {target}" if target is not None else "stays"


def test_allocator() -> None:
    golden.run(Placement().execute, Path(__file__).parent / "golden" / "store_allocator.txt")
