"""The replicate queue: each leaseholder keeps its ranges where they should be.

Once a second (and as soon as something relevant changes) the queue asks the allocator for the next step of ranges leased
here and carries it out: a few ranges at a time, so that a node that joins is not flooded with snapshots.  A range for
which there is nothing to do is not looked at again before nodes, settings or its descriptor have changed: thousands of
settled ranges cost one comparison each in the round of a second, and nothing when one of them changes (a split looks at
its two halves).

Leases spread the same way: a node that leads more ranges than another voter's node hands some over, a bounded number
per second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pydistdb import raft
from pydistdb.kv.api import KVError
from pydistdb.kv.command import AddedReplica
from pydistdb.kv.descriptor import NodeId, NodeState, RangeDescriptor, RangeId, ReplicaRole
from pydistdb.kv.membership import Membership
from pydistdb.kv.multiraft import MultiRaft
from pydistdb.kv.placement.allocator import (
    REBALANCE_DIFFERENCE,
    AddLearner,
    NodeView,
    Promote,
    Remove,
    Step,
    lease_target,
    rebalance_step,
)
from pydistdb.kv.placement.residency import Residency, Rule
from pydistdb.kv.replica import Replica

MAX_CHANGES_AT_ONCE = 4
MAX_LEASES_MOVED = 8
"""Leases handed over per round of the queue."""
NEW_LEASE_NS = 6_000_000_000
"""What a range that has just come here gets is not known for so long: it would pass for a quiet one."""
NO_LOAD = 8
"""A range with less than this part of ``range.split_qps`` is quiet: nobody moves it for its load (evening.py)."""
MAX_LEARNERS_AT_ONCE = 4
"""Ranges led here that are being copied to a new replica at a time."""
TURNS_OF_A_NODE = 3
"""Of what is uneven, each node begins to move one part in so many times the number of nodes."""
MOST_MOVE_NS = 60_000_000_000
"""How long a move that was asked for is pursued without being asked for again."""
KEPT_MOVE_NS = 3_000_000_000
"""A move that was asked for again so lately goes before another one of the same range."""
CAUGHT_UP_ENTRIES = 100
"""A learner that lags no more than this may vote."""


class Move(NamedTuple):
    """A replica that goes from one node to another by order."""

    away: NodeId
    to: NodeId
    deadline_ns: int
    kept_until_ns: int


class ReplicateQueue:
    """See the module's docstring."""

    def __init__(self, store: MultiRaft, membership: Membership) -> None:
        self._store = store
        self._membership = membership
        self._settled: dict[RangeId, tuple[int, int]] = {}
        """range → (its generation, version of the surroundings) when there was nothing to do."""
        self._balanced: dict[RangeId, tuple[int, int]] = {}
        """The same for rebalancing."""
        self._due: set[RangeId] = set()
        """Ranges that may have something to do: those that changed, or had to wait."""
        self._version = 0
        self._seen_version = 0
        self._views: dict[NodeId, NodeView] = {}
        self._changing: set[RangeId] = set()
        self._moves: dict[RangeId, Move] = {}
        """Replicas that an operator moves, or evening.py."""
        self.rules: Callable[[], Sequence[Rule]] = tuple
        """What binds spans of keys to places (residency.py); the same object as long as nothing has changed."""
        self._rules: Sequence[Rule] = ()
        self.residency = Residency()
        self.swept: Callable[[], Mapping[RangeId, Replica]] = dict
        """Tells which ranges led here are about to be merged (sweeping.py): their leases stay."""
        self._soon = False
        self._is_all_due = True
        """The surroundings have changed."""
        membership.changed = self._surroundings_changed

    def start(self) -> None:
        self._later()

    def _surroundings_changed(self) -> None:
        # Heeded in the next round: of two nodes that are to leave one is told first, and must not give to the other.
        self._version += 1

    def look_at(self, replica: Replica) -> None:
        """Something about this range has changed."""
        self._settled.pop(replica.range_id, None)
        self._due.add(replica.range_id)
        self._run_soon()

    def move(self, replica: Replica, away: NodeId, to: NodeId, *, asked_again: bool = False) -> Move | None:
        """Move the replica on node ``away`` of a range leased here to node ``to``, as soon as nothing more urgent is due.

        Returns the other move of the range, if there is one that somebody waits for and keeps asking for: two of them would
        take each other's learners away."""
        now_ns = self._store.scheduler.now_ns()
        other = self._moves.get(replica.range_id)
        is_kept = other is not None and now_ns < other.kept_until_ns and replica.descriptor.replica_on(other.away)
        if other is not None and is_kept and (other.away, other.to) != (away, to):
            return other
        kept_until_ns = now_ns + KEPT_MOVE_NS if asked_again else 0
        self._moves[replica.range_id] = Move(away, to, now_ns + MOST_MOVE_NS, kept_until_ns)
        self.look_at(replica)
        return None

    def _directed(self, descriptor: RangeDescriptor, step: Step | None) -> Step | None:
        """The next step of a range that somebody moves: repairs come first, what only evens out gives way."""
        away, to, deadline_ns, _ = self._moves[descriptor.range_id]
        leaving = descriptor.replica_on(away)
        views = self.residency.views(descriptor, self._views, self._membership.nodes)
        node = views.get(to)
        if leaving is None or node is None or not node.takes_replicas or self._store.scheduler.now_ns() > deadline_ns:
            del self._moves[descriptor.range_id]
            return step
        newcomer = descriptor.replica_on(to)
        if newcomer is None:
            if step is None and not descriptor.is_changing:
                return AddLearner(to)
            if isinstance(step, Promote) and step.remove is not None and not views[step.remove.node_id].gone:
                return Remove(step.learners)  # else it might be the replica on ``away`` that leaves, for another node
        elif newcomer.role is ReplicaRole.LEARNER:
            if step is None or isinstance(step, Promote):
                return Promote((newcomer,), leaving)
        elif isinstance(step, Remove) and len(step.replicas) == 1:
            return Remove((leaving,))
        return step

    def _run_soon(self) -> None:
        if not self._soon:
            self._soon = True
            self._store.scheduler.call_soon(self._run_once)

    def _run_once(self) -> None:
        self._soon = False
        self._run()

    def _later(self) -> None:
        store = self._store
        if not store.stopped:
            store.scheduler.call_at(store.scheduler.now_ns() + store.config.replicate_ns, self._periodic)

    def _periodic(self) -> None:
        self._refresh()
        self._is_all_due = self._is_all_due or self._version != self._seen_version
        self._seen_version = self._version
        self._run()
        if not self._store.stopped:
            if self._membership.settings.value("rebalance.enabled"):
                self._rebalance()
            self._spread_leases()
        self._later()

    # --------------------------------------------------------------------------------------------------------- replicas

    def _run(self) -> None:
        store = self._store
        if store.stopped or store.write_error() is not None:
            return
        if self._is_all_due:
            self._is_all_due = False
            self._refresh()
            self._due.update(
                replica.range_id
                for replica in store.leased_replicas()
                if self._settled.get(replica.range_id) != (replica.descriptor.generation, self._version)
            )
        learning: int | None = None
        for range_id in sorted(self._due - self._changing):
            replica = store.replicas.get(range_id)
            if replica is None or not replica.leased:
                self._due.discard(range_id)
                continue
            if len(self._changing) >= MAX_CHANGES_AT_ONCE:
                break
            step = self.residency.step(
                replica.descriptor,
                store.node_id,
                self._views,
                self._membership.nodes,
                self._membership.replication_factor,
            )
            if range_id in self._moves:
                step = self._directed(replica.descriptor, step)
            if step is None:
                self._settled[range_id] = (replica.descriptor.generation, self._version)
                self._due.discard(range_id)
                continue
            if isinstance(step, AddLearner) and not replica.log.membership.learners:
                if learning is None:
                    learning = sum(1 for each in store.leased_replicas() if self._is_growing(each))
                if learning >= MAX_LEARNERS_AT_ONCE:
                    continue
                learning += 1
            self._take(replica, step)

    def _rebalance(self) -> None:
        """Now and then, begin to move replicas to better places.

        All leaseholders see the same empty node, and none sees what the others have begun.  So the moves under way are never
        more than a part of what is uneven: the more even the nodes are, the fewer moves each leaseholder begins, and in the
        end they take turns by chance."""
        store = self._store
        nodes = sum(1 for view in self._views.values() if view.takes_replicas)
        if nodes < 2 or store.write_error() is not None:
            return
        shares = TURNS_OF_A_NODE * nodes
        excess = max(_imbalance(self._views) - 1, TURNS_OF_A_NODE)
        allowed = min(MAX_LEARNERS_AT_ONCE, (excess + store.rand(0, shares - 1)) // shares)
        leased = store.leased_replicas() if allowed else []
        moving = sum(1 for each in leased if self._is_growing(each) or each.descriptor.is_joint)
        for replica in leased:
            if moving >= allowed:
                return
            state = (replica.descriptor.generation, self._version)
            if replica.range_id in self._changing or self._settled.get(replica.range_id) != state:
                continue
            if self._balanced.get(replica.range_id) == state or not replica.is_leaseholder():
                continue
            step = rebalance_step(replica.descriptor, store.node_id, self.views_for(replica))
            if step is not None:
                view = self._views[step.node_id]
                self._views[step.node_id] = dataclasses.replace(view, replica_count=view.replica_count + 1)
                self._take(replica, step)
                moving += 1
                continue
            self._balanced[replica.range_id] = state

    def _is_growing(self, replica: Replica) -> bool:
        """Whether the range has a learner that is to become more."""
        return bool(replica.log.membership.learners) and not self.residency.is_everywhere(replica.descriptor)

    def views_for(self, replica: Replica) -> Mapping[NodeId, NodeView]:
        """The nodes as this range may use them: those outside of where it must stay take nothing."""
        return self.residency.views(replica.descriptor, self._views, self._membership.nodes)

    def _refresh(self) -> None:
        """Bring the view of the nodes up to date; a change of more than load counts as new surroundings."""
        views = self.node_views()
        rules = self.rules()
        if rules is not self._rules:
            self._rules = rules
            self.residency = Residency(rules)
            self._version += 1
        if {i: _situation(v) for i, v in views.items()} != {
            i: _situation(v) for i, v in self._views.items()
        } or _imbalance(views) != _imbalance(self._views):
            self._version += 1
        self._views = views

    def node_views(self) -> dict[NodeId, NodeView]:
        """The nodes as placement sees them."""
        store = self._store
        views: dict[NodeId, NodeView] = {}
        for record in self._membership.records():
            node_id = record.node_id
            if node_id == store.node_id:
                leases = len(store.leased)
                draining = self._membership.sheds_leases
                leaving = not record.is_member or record.state is NodeState.LEAVING
                count = len(store.replicas)
                load = sum(store.range_rates().values())
                views[node_id] = NodeView(node_id, True, leaving, draining, record.locality, count, leases, load)
                continue
            if not record.is_member:
                views[node_id] = NodeView(node_id, False, True, False, record.locality)
                continue
            peer = store.liveness.peer(node_id)
            ping = peer.ping
            views[node_id] = NodeView(
                node_id,
                live=store.liveness.is_live(node_id),
                gone=record.state is NodeState.LEAVING
                or store.liveness.silent_ns(node_id) > self._membership.dead_after_ns,
                draining=ping is not None and ping.draining,
                locality=record.locality,
                replica_count=ping.replica_count if ping is not None else 0,
                lease_count=ping.lease_count if ping is not None else 0,
                load=ping.load if ping is not None else 0.0,
            )
        return views

    def _take(self, replica: Replica, step: Step) -> None:
        descriptor = replica.descriptor
        added: tuple[AddedReplica, ...] = ()
        match step:
            case AddLearner(node_id):
                replica_id = descriptor.next_replica_id
                added = (AddedReplica(node_id, replica_id),)
                changes: tuple[raft.Change, ...] = (raft.Change(raft.ADD_LEARNER, replica_id),)
            case Promote(learners, remove):
                if not all(self._has_caught_up(replica, learner.replica_id) for learner in learners):
                    return
                if remove is not None and len(descriptor.voters()) == 1:
                    remove = None  # there is nobody to hand over to before the newcomer votes
                changes = tuple(raft.Change(raft.ADD_VOTER, learner.replica_id) for learner in learners)
                if remove is not None:
                    changes = (*changes, raft.Change(raft.REMOVE, remove.replica_id))
                    if self._leaves_first(replica, remove.node_id):
                        return
            case Remove(gone):
                changes = tuple(raft.Change(raft.REMOVE, former.replica_id) for former in gone)
                if any(self._leaves_first(replica, former.node_id) for former in gone):
                    return
        self._store.background(self._change(replica, changes, added), "change replicas")

    def _leaves_first(self, replica: Replica, node_id: NodeId) -> bool:
        """A leader does not remove itself: it hands over first."""
        if node_id != self._store.node_id:
            return False
        target = lease_target(replica.descriptor, node_id, self.views_for(replica), must_leave=True)
        if target is not None:
            self._store.transfer_lease(replica, target)
        return True

    def _has_caught_up(self, replica: Replica, replica_id: int) -> bool:
        node = replica.raft
        for member in node.members():
            if member.peer == replica_id:
                return member.state == "REPLICATE" and member.match + CAUGHT_UP_ENTRIES >= node.last_index
        return False

    async def _change(
        self, replica: Replica, changes: tuple[raft.Change, ...], added: tuple[AddedReplica, ...]
    ) -> None:
        self._changing.add(replica.range_id)
        try:
            await replica.propose_membership(changes, added)
        except KVError:
            return  # tried again in the next round
        finally:
            self._changing.discard(replica.range_id)
        self._run_soon()

    # ----------------------------------------------------------------------------------------------------------- leases

    def _spread_leases(self) -> None:
        if self._membership.sheds_leases or self._store.write_error() is not None:
            self.shed_leases()
            return
        if not self._membership.settings.value("rebalance.enabled"):
            return
        views = self.node_views()
        me = self._store.node_id
        others = [view.lease_count for view in views.values() if view.takes_replicas and view.node_id != me]
        if not others:
            return
        swept = self.swept()
        views[me] = dataclasses.replace(views[me], lease_count=views[me].lease_count - len(swept))
        if views[me].lease_count - min(others) < REBALANCE_DIFFERENCE:
            return
        moved, rates, now_ns = 0, self._store.range_rates(), self._store.scheduler.now_ns()
        # The quiet ones: those with load are evened out by their load (evening.py), and would be sent back and forth.
        busy = self._membership.settings.value("range.split_qps") / NO_LOAD
        for replica in sorted(self._store.leased_replicas(), key=lambda replica: rates.get(replica.range_id, 0.0)):
            if moved >= MAX_LEASES_MOVED or rates.get(replica.range_id, 0.0) > busy:
                break
            if now_ns - replica.leased_since_ns < NEW_LEASE_NS:
                continue  # its load is not known yet
            if replica.range_id in self._changing or replica.descriptor.is_changing or replica.raft.transfer_target:
                continue
            if replica.range_id in swept:
                continue
            target = lease_target(replica.descriptor, me, views, must_leave=False)
            if target is not None and self._store.transfer_lease(replica, target):
                moved += 1
                views[me] = dataclasses.replace(views[me], lease_count=views[me].lease_count - 1)
                views[target] = dataclasses.replace(views[target], lease_count=views[target].lease_count + 1)

    def shed_leases(self) -> None:
        """Hand over every lease that another node can take."""
        views = self.node_views()
        me = self._store.node_id
        for replica in self._store.leased_replicas():
            target = lease_target(replica.descriptor, me, views, must_leave=True)
            if target is not None and self._store.transfer_lease(replica, target):
                views[target] = dataclasses.replace(views[target], lease_count=views[target].lease_count + 1)


def _situation(view: NodeView) -> tuple[bool, bool, bool, object]:
    return view.live, view.gone, view.draining, view.locality


def _imbalance(views: dict[NodeId, NodeView]) -> int:
    counts = [view.replica_count for view in views.values() if view.takes_replicas]
    return max(counts) - min(counts) if counts else 0
