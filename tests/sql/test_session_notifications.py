"""Notifications between nodes: order, and what happens to listeners of a node that has missed some."""

from __future__ import annotations

from pydistdb.kv.gateway import Gateway
from pydistdb.kv.store import Store
from pydistdb.sql.api import Notification
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.session.notifications import NotificationHub

from tests.support.cluster import Cluster


class Listener:
    """What the hub sees of a session that listens."""

    def __init__(self, process_id: int) -> None:
        self.process_id = process_id
        self.queued_bytes = 0
        self.heard: list[str] = []
        self.ended = ""

    def receive(self, notification: Notification) -> None:
        self.heard.append(notification.payload)

    def end(self, error: DatabaseError) -> None:
        self.ended = error.sqlstate


class World:
    def __init__(self) -> None:
        self.cluster = Cluster(seed=3)
        self.hubs: dict[int, NotificationHub] = {}
        self.listeners: dict[int, Listener] = {}
        self.cluster.on_open.append(self._open)
        self.cluster.start(3)

    def _open(self, store: Store) -> None:
        gateway = Gateway(store)
        gateway.start()
        hub = self.hubs[store.node_id] = NotificationHub(gateway, self.cluster.scheduler)
        listener = self.listeners[store.node_id] = Listener(store.node_id)
        hub.listen(listener, "d", "c")  # type: ignore[arg-type]

    def publish(self, node: int, *payloads: str) -> None:
        self.cluster.run(self.hubs[node].publish([("d", node, "c", payload) for payload in payloads]))


def test_every_node_hears_everything_in_order() -> None:
    world = World()
    world.publish(1, "a", "b")
    world.publish(2, "c")
    tasks = [world.hubs[3].publish([("d", 3, "c", str(number))]) for number in range(20)]
    for task in [world.cluster.scheduler.spawn(task) for task in tasks]:
        world.cluster.scheduler.run_until(task.completion)
    expected = ["a", "b", "c", *map(str, range(20))]
    assert [listener.heard for listener in world.listeners.values()] == [expected] * 3


def test_a_node_that_has_missed_something_hangs_up_on_its_listeners() -> None:
    world = World()
    world.publish(1, "a")
    world.cluster.network.partition(["n3"], ["n1", "n2"])
    world.publish(1, "b")
    world.cluster.advance(20)
    assert world.listeners[2].heard == ["a", "b"]
    assert (world.listeners[3].heard, world.listeners[3].ended) == (["a"], "")
    world.cluster.network.heal()
    world.cluster.advance(40)
    assert world.listeners[3].ended == "57P01"
    assert not world.listeners[1].ended and not world.listeners[2].ended


def test_a_node_that_was_restarted_has_missed_nothing() -> None:
    world = World()
    world.publish(1, "a")
    world.cluster.crash("n3")
    world.publish(1, "b")
    world.cluster.restart("n3")
    world.cluster.advance(40)
    assert not world.listeners[3].ended
    world.publish(1, "c")
    assert world.listeners[3].heard == ["c"]
