"""Which releases may be together in a cluster, and when its version is raised."""

from __future__ import annotations

import pytest
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.joining import JoinFailed
from pydistdb.kv.operations import Operations
from pydistdb.kv.settings import SettingRefused
from pydistdb.kv.store import Store
from pydistdb.kv.survey import Survey
from pydistdb.kv.version_report import version_report
from pydistdb.kv.versions import (
    FIRST_VERSION,
    SINCE,
    THIS_RELEASE,
    ClusterVersion,
    Feature,
    Supported,
    VersionConflict,
    VersionRecord,
    decode_record,
    encode_record,
    parse_supported,
)
from pydistdb_storage.engine import Space, WriteBatch
from pydistdb_storage.memory_engine import MemoryEngine

from tests.support.cluster import Cluster

OLD, NEW, LATER = Supported(1, 1), Supported(1, 2), Supported(2, 3)


def at(active: int, promised: int = 0, supported: Supported = NEW) -> ClusterVersion:
    versions = ClusterVersion(supported)
    versions.active, versions.promised = active, promised or active
    return versions


# ------------------------------------------------------------------------------------------------ the rules


def test_what_waits_for_a_version() -> None:
    assert all(FIRST_VERSION < SINCE[feature] <= THIS_RELEASE.newest for feature in Feature)
    assert not at(1).is_active(Feature.LOOSE_RANGES) and at(1).knows(Feature.LOOSE_RANGES)
    assert at(2).is_active(Feature.LOOSE_RANGES)
    assert not at(1, supported=OLD).knows(Feature.LOOSE_RANGES)
    assert not ClusterVersion().is_active(Feature.LOOSE_RANGES), "nothing is known before the store is read"


@pytest.mark.parametrize(
    ("cluster", "release", "problem"),
    [
        (at(1), OLD, ""),
        (at(1), NEW, ""),
        (at(1), LATER, "too new"),
        (at(2), OLD, "too old"),
        (at(2), NEW, ""),
        (at(2), LATER, ""),
        (at(1, promised=2), OLD, "too old"),
        (at(1, promised=2), LATER, "too new"),
        (ClusterVersion(), OLD, ""),
        (ClusterVersion(), LATER, ""),
    ],
)
def test_who_may_be_together(cluster: ClusterVersion, release: Supported, problem: str) -> None:
    found = cluster.conflict(release, "node4")
    assert (problem in found) if problem else (found == "")


def test_the_store_remembers() -> None:
    engine = MemoryEngine()
    versions = ClusterVersion(NEW)
    versions.load(engine)
    assert (versions.active, versions.promised) == (1, 1), "stores of before there were versions"
    assert versions.raise_to(2) and not versions.raise_to(2) and not versions.raise_to(1)
    batch = WriteBatch()
    batch.put(Space.STATE, b"cluster version", versions.record())
    engine.apply([batch])
    with pytest.raises(VersionConflict, match=r"too old.*version 2.*knows version 1;"):
        ClusterVersion(OLD).load(engine)
    ClusterVersion(LATER).load(engine)
    with pytest.raises(VersionConflict, match=r"too new.*version 2.*knows versions 3 to 4;"):
        ClusterVersion(Supported(3, 4)).load(engine)


def test_releases_that_tests_play() -> None:
    assert parse_supported("1-2") == Supported(1, 2)
    assert parse_supported("3") == Supported(3, 3)
    for text in ("2-1", "0-1", "a-b", ""):
        with pytest.raises(ValueError):
            parse_supported(text)


# ------------------------------------------------------------------------------------------------ clusters


def versions(cluster: Cluster) -> dict[str, int]:
    return {node.name: node.store.versions.active for node in cluster.nodes.values() if node.store and node.running}


def old_cluster(nodes: int = 3) -> Cluster:
    cluster = Cluster(seed=4)
    cluster.releases = {f"n{number}": OLD for number in range(1, nodes + 1)}
    cluster.start(nodes)
    return cluster


def upgrade(cluster: Cluster, name: str, release: Supported = NEW) -> None:
    cluster.crash(name)
    cluster.releases[name] = release
    cluster.restart(name)
    cluster.wait_until(lambda: cluster.leaseholder(b"\x04") is not None)


def test_a_new_cluster_begins_at_the_newest_version() -> None:
    cluster = Cluster(seed=1)
    cluster.start(3)
    assert versions(cluster) == dict.fromkeys(("n1", "n2", "n3"), THIS_RELEASE.newest)


def test_a_node_alone_is_upgraded_by_its_start() -> None:
    cluster = old_cluster(1)
    assert versions(cluster) == {"n1": 1}
    upgrade(cluster, "n1")
    cluster.wait_until(lambda: versions(cluster) == {"n1": 2})


def test_the_version_is_raised_when_the_last_node_is_upgraded() -> None:
    cluster = old_cluster()
    for name in ("n1", "n2"):
        upgrade(cluster, name)
        cluster.advance(10)
        assert set(versions(cluster).values()) == {1}
    upgrade(cluster, "n1", OLD)  # still possible
    upgrade(cluster, "n1")
    upgrade(cluster, "n3")
    cluster.wait_until(lambda: set(versions(cluster).values()) == {2})
    cluster.advance(2)
    for name in ("n1", "n2", "n3"):
        cluster.crash(name)
        cluster.releases[name] = OLD
        with pytest.raises(VersionConflict, match="too old"):
            cluster.restart(name)
        cluster.releases[name] = NEW
        cluster.restart(name)
    assert not cluster.fatal_errors


def test_of_several_releases_the_oldest_counts() -> None:
    cluster = old_cluster()
    for name, release in (("n1", Supported(1, 4)), ("n2", Supported(1, 3)), ("n3", Supported(1, 4))):
        upgrade(cluster, name, release)
    cluster.wait_until(lambda: set(versions(cluster).values()) == {3})
    cluster.advance(10)
    assert {store.versions.promised for store in cluster.stores()} == {3}, "nobody promises more than is to be used"
    upgrade(cluster, "n2", Supported(2, 4))
    cluster.wait_until(lambda: set(versions(cluster).values()) == {4})


def test_a_dead_node_is_waited_for_until_it_is_given_up() -> None:
    cluster = old_cluster(4)
    given_up_seconds = cluster.config.dead_after_ns / 1e9
    cluster.crash("n4")
    for name in ("n1", "n2", "n3"):
        upgrade(cluster, name)
    cluster.advance(given_up_seconds / 2)
    assert set(versions(cluster).values()) == {1}
    cluster.wait_until(lambda: set(versions(cluster).values()) == {2}, given_up_seconds)
    cluster.releases["n4"] = NEW
    cluster.restart("n4")
    cluster.wait_until(lambda: versions(cluster)["n4"] == 2)


def test_a_node_that_was_given_up_and_comes_back_with_its_old_release_stops() -> None:
    cluster = old_cluster(4)
    cluster.crash("n4")
    for name in ("n1", "n2", "n3"):
        upgrade(cluster, name)
    cluster.wait_until(lambda: set(versions(cluster).values()) == {2}, 600)
    cluster.restart(
        "n4"
    )  # over a real network it is turned away before it hears of anything (tests/server/test_rpc.py)
    cluster.wait_until(lambda: not cluster.nodes["n4"].running)
    assert "too old" in str(cluster.fatal_errors)


def test_downgrades_are_kept_possible_on_demand() -> None:
    cluster = old_cluster()
    made: list[Operations] = []
    cluster.on_open.append(lambda store: made.append(Operations(store, Gateway(store))))
    upgrade(cluster, "n1")
    operations = made[0]
    cluster.run(operations.set("cluster.preserve_downgrade", "on"))
    with pytest.raises(SettingRefused):
        cluster.run(operations.set("cluster.version", "7"))
    upgrade(cluster, "n2")
    upgrade(cluster, "n3")
    cluster.advance(20)
    assert set(versions(cluster).values()) == {1}
    survey: Survey = cluster.run(operations.surveyor.survey())
    assert version_report(survey)[:3] == (1, 2, "held back")
    cluster.run(operations.set("cluster.preserve_downgrade", "off"))
    cluster.wait_until(lambda: set(versions(cluster).values()) == {2})
    assert version_report(cluster.run(operations.surveyor.survey()))[:3] == (2, 2, "current")


def test_newcomers() -> None:
    cluster = old_cluster()
    cluster.releases["n4"] = NEW
    cluster.add("n4")
    assert versions(cluster)["n4"] == 1
    for name in ("n1", "n2", "n3"):
        upgrade(cluster, name)
    cluster.wait_until(lambda: set(versions(cluster).values()) == {2})
    for name, release, problem in (("n5", OLD, "n5 is too old"), ("n6", Supported(3, 4), "n6 is too new")):
        cluster.releases[name] = release
        with pytest.raises(JoinFailed, match=problem):
            cluster.add(name)
    cluster.add("n7")
    assert versions(cluster)["n7"] == 2


def test_promises_are_kept_even_if_the_version_is_not_raised() -> None:
    """A node dies between its promise and the record: it may have received what the others write under the new version."""
    cluster = old_cluster()
    for name in ("n1", "n2"):
        upgrade(cluster, name)
    cluster.store("n2").versions.promised = 2
    cluster.run(_written(cluster.store("n2")))
    cluster.crash("n2")
    cluster.releases["n2"] = OLD
    with pytest.raises(VersionConflict):
        cluster.restart("n2")


async def _written(store: Store) -> None:
    batch = WriteBatch()
    batch.put(Space.STATE, b"cluster version", store.versions.record())
    await store.write(batch)


def test_records_of_later_releases_are_read() -> None:
    assert decode_record(encode_record([2, 3, "more"])) == VersionRecord(2, 3)
