"""Reads in the past by SQL, on a simulated cluster of three nodes; texts of levels, tokens and times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydistdb.kv.store_config import StoreConfig
from pydistdb.sql.bind.as_of import lift_as_of
from pydistdb.sql.consistency import (
    AsOf,
    Level,
    duration_us,
    parse_level,
    parse_timestamp,
    resolve_time,
    timestamp_text,
)
from pydistdb.sql.errors import DatabaseError, InvalidParameterValue

from tests.sql.isolation import ClusterBackend

NOW_US = 1_700_000_000_000_000


class Cluster:
    """Sessions "1", "2" and "3", each through another node; what they show."""

    def __init__(self) -> None:
        self.backend = ClusterBackend(StoreConfig(closed_ns=3_000_000_000))
        for number in ("1", "2", "3"):
            self.run(number, "SELECT 1")
        self.run("1", "CREATE TABLE t (a int PRIMARY KEY, b text)")
        self.run("1", "INSERT INTO t VALUES (1, 'old'), (2, 'old')")
        self.settle()

    def settle(self) -> None:
        """Let everything be closed on all nodes, just now: nothing more will be for more than two seconds."""
        node = self.backend.node
        for _ in range(2):
            known = [store.closed.last for store in node.stores()]
            node.wait_until(
                lambda known=known: all(s.closed.last > old for s, old in zip(node.stores(), known, strict=True))
            )
        node.advance(0.1)

    def run(self, session: str, text: str) -> list[str]:
        self.backend.start(session, text)
        node = self.backend.node
        for _ in range(400):
            lines = self.backend.finished(session)
            if lines is not None:
                return lines
            node.advance(0.01)
        raise AssertionError(f"{text} does not end")

    def served(self, session: str, query: str) -> str:
        """Who answered, as EXPLAIN ANALYZE tells; empty where that is no matter of the past."""
        lines = self.run(session, f"EXPLAIN (ANALYZE, TIMING OFF) {query}")
        return next((line.partition(": ")[2] for line in lines if line.startswith("Reads Served By")), "")

    def node_of(self, session: str) -> str:
        return self.run(session, "SELECT proddb.node_id()")[0]


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster()


def followers(cluster: Cluster) -> list[str]:
    """The sessions whose nodes do not lead the table."""
    backend = cluster.backend.node
    replica = backend.leaseholder(b"\x04\x00")
    assert replica is not None
    names = sorted(backend.nodes)
    leader = next(n for n in names if backend.nodes[n].node_id == replica.owner.node_id)
    return [str(number) for number, name in enumerate(names, 1) if name != leader]


def test_weak_reads_stay_at_home(cluster: Cluster) -> None:
    for session in followers(cluster):
        for level in ("eventual", "bounded(10s)", "session"):
            cluster.run(session, f"SET proddb.read_consistency = '{level}'")
            cluster.settle()
            assert cluster.run(session, "SELECT b FROM t WHERE a = 1") == ["old", "SELECT 1"]
            assert cluster.run(session, "SELECT count(*) FROM t") == ["2", "SELECT 1"]
            assert cluster.served(session, "SELECT count(*) FROM t") == f"node {session} (1)"
        cluster.run(session, "RESET proddb.read_consistency")
        assert cluster.served(session, "SELECT b FROM t WHERE a = 1") == ""


def test_a_token_carries_what_was_written(cluster: Cluster) -> None:
    reader, other = followers(cluster)[:2]
    cluster.run("1", "UPDATE t SET b = 'new' WHERE a = 2")
    [token, _] = cluster.run("1", "SHOW proddb.session_token")
    cluster.run(reader, "SET proddb.read_consistency = 'eventual'")
    cluster.run(other, "SET proddb.read_consistency = 'session'")
    cluster.run(other, f"SET proddb.session_token = '{token}'")
    assert cluster.run(reader, "SELECT b FROM t WHERE a = 2") == ["old", "SELECT 1"], "it is allowed to be late"
    assert cluster.run(other, "SELECT b FROM t WHERE a = 2") == ["new", "SELECT 1"]
    [seen, _] = cluster.run(other, "SHOW proddb.session_token")
    first, second = parse_timestamp(seen), parse_timestamp(token)
    assert first is not None and second is not None and first >= second
    cluster.run(other, "UPDATE t SET b = 'newer' WHERE a = 2")
    assert cluster.run(other, "SELECT b FROM t WHERE a = 2") == ["newer", "SELECT 1"], "it reads its own writes"
    cluster.settle()
    assert cluster.run(reader, "SELECT b FROM t WHERE a = 2") == ["newer", "SELECT 1"]
    assert cluster.served(other, "SELECT b FROM t WHERE a = 2") == f"node {other} (1)"
    for session in (reader, other):
        cluster.run(session, "UPDATE t SET b = 'old' WHERE a = 2")
        cluster.run(session, "RESET ALL")


def test_what_writes_reads_the_present(cluster: Cluster) -> None:
    session = followers(cluster)[0]
    cluster.run(session, "SET proddb.read_consistency = 'eventual'")
    cluster.run("1", "UPDATE t SET b = 'now' WHERE a = 1")
    assert cluster.run(session, "SELECT b FROM t WHERE a = 1") == ["old", "SELECT 1"]
    assert cluster.run(session, "SELECT b FROM t WHERE a = 1 FOR UPDATE") == ["now", "SELECT 1"]
    cluster.run(session, "BEGIN")
    assert cluster.run(session, "SELECT b FROM t WHERE a = 1") == ["now", "SELECT 1"]
    cluster.run(session, "COMMIT")
    cluster.run(session, "BEGIN READ ONLY")
    assert cluster.run(session, "SELECT b FROM t WHERE a = 1") == ["old", "SELECT 1"]
    [error] = cluster.run(session, "SET LOCAL proddb.read_consistency = 'strong'")
    assert "25001" in error
    cluster.run(session, "ROLLBACK")
    cluster.run(session, "BEGIN READ ONLY")
    cluster.run(session, "SET LOCAL proddb.read_consistency = 'strong'")
    assert cluster.run(session, "SELECT b FROM t WHERE a = 1") == ["now", "SELECT 1"]
    cluster.run(session, "COMMIT")
    assert cluster.run(session, "SHOW proddb.read_consistency") == ["eventual", "SHOW"]
    cluster.run(session, "CREATE FUNCTION w() RETURNS text LANGUAGE sql AS $$ UPDATE t SET b = 'old' RETURNING b $$")
    assert cluster.run(session, "SELECT w()") == ["old", "SELECT 1"]
    cluster.run(session, "CREATE SEQUENCE s")
    assert cluster.run(session, "SELECT nextval('s')") == ["1", "SELECT 1"]
    cluster.run(session, "DROP SEQUENCE s")
    cluster.run(session, "DROP FUNCTION w")
    cluster.run(session, "RESET ALL")
    cluster.settle()


def test_as_of_system_time(cluster: Cluster) -> None:
    session = followers(cluster)[0]
    [token, _] = cluster.run(session, "SHOW proddb.session_token")
    cluster.run("1", "UPDATE t SET b = 'later'")
    cluster.settle()
    past = f"AS OF SYSTEM TIME {token}"
    assert cluster.run(session, "SELECT b FROM t WHERE a = 1") == ["later", "SELECT 1"]
    assert cluster.run(session, f"SELECT b FROM t {past} WHERE a = 1") == ["old", "SELECT 1"]
    assert cluster.run(session, f"SELECT b FROM t AS OF SYSTEM TIME '{token}' WHERE a = 1") == ["old", "SELECT 1"]
    assert cluster.served(session, f"SELECT b FROM t {past} WHERE a = 1") == f"node {session} (1)"
    assert cluster.run(session, "SELECT b FROM t AS OF SYSTEM TIME '-1s' WHERE a = 1") == ["later", "SELECT 1"]
    staleness = "AS OF SYSTEM TIME with_max_staleness('10s')"
    assert cluster.run(session, f"SELECT b FROM t {staleness} WHERE a = 1") == ["later", "SELECT 1"]
    follower = "AS OF SYSTEM TIME follower_read_timestamp()"
    assert cluster.run(session, f"SELECT b FROM t {follower} WHERE a = 1") == ["later", "SELECT 1"]
    for begin in (f"BEGIN {past}", f"START TRANSACTION {past}", f"BEGIN; SET TRANSACTION {past}"):
        for statement in begin.split("; "):
            cluster.run(session, statement)
        assert cluster.run(session, "SELECT b FROM t WHERE a = 1") == ["old", "SELECT 1"]
        assert cluster.run(session, "SELECT count(*) FROM t WHERE b = 'old'") == ["2", "SELECT 1"]
        assert "25006" in cluster.run(session, "UPDATE t SET b = 'x'")[0]
        cluster.run(session, "ROLLBACK")
    assert cluster.run(session, "SELECT b FROM t WHERE a = 1") == ["later", "SELECT 1"]
    assert "0A000" in cluster.run(session, f"SELECT b FROM t {past} FOR UPDATE")[0]
    assert "0A000" in cluster.run(session, f"DELETE FROM t {past}")[0]
    assert "72000" in cluster.run(session, "SELECT b FROM t AS OF SYSTEM TIME '-1h'")[0]
    assert "22023" in cluster.run(session, "SELECT b FROM t AS OF SYSTEM TIME '2999-01-01'")[0]
    cluster.run(session, "BEGIN AS OF SYSTEM TIME '-1h'")
    assert "72000" in cluster.run(session, "SELECT b FROM t WHERE a = 1")[0]
    cluster.run(session, "ROLLBACK")
    cluster.run(session, "BEGIN")
    assert "0A000" in cluster.run(session, f"SELECT b FROM t {past}")[0]
    cluster.run(session, "ROLLBACK")
    cluster.run("1", "UPDATE t SET b = 'old'")
    cluster.settle()


def test_a_deferrable_transaction_waits_for_a_snapshot_that_cannot_fail(cluster: Cluster) -> None:
    """The writer's clock is ahead: other transactions of the reader's may be restarted, and fail in their second query."""
    session = followers(cluster)[0]
    node = cluster.backend.node
    ahead = next(n for n in node.nodes.values() if n.node_id == node.leaseholder(b"\x04\x00").owner.node_id)
    ahead.skew_us = 150_000
    try:
        cluster.run("1", "UPDATE t SET b = 'safe'")
        cluster.run(session, "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE")
        before = node.scheduler.now_ns()
        assert cluster.run(session, "SELECT 1") == ["1", "SELECT 1"]
        assert node.scheduler.now_ns() - before >= 250_000_000
        cluster.run("1", "UPDATE t SET b = 'unsafe'")
        assert cluster.run(session, "SELECT b FROM t") == ["safe", "safe", "SELECT 2"]
        assert cluster.run(session, "SELECT count(*) FROM t WHERE b = 'safe'") == ["2", "SELECT 1"]
        assert cluster.run(session, "COMMIT") == ["COMMIT"]
        assert cluster.run(session, "SELECT b FROM t WHERE a = 1") == ["unsafe", "SELECT 1"]
    finally:
        ahead.skew_us = 0
    cluster.run("1", "UPDATE t SET b = 'old'")
    cluster.settle()


def test_a_table_is_not_read_by_another_definition(cluster: Cluster) -> None:
    session = followers(cluster)[0]
    cluster.run(
        "1", "CREATE FUNCTION r() RETURNS SETOF int LANGUAGE sql AS 'SELECT a FROM t WHERE b = ''old'' ORDER BY a'"
    )
    cluster.settle()
    [token, _] = cluster.run(session, "SHOW proddb.session_token")
    cluster.settle()
    cluster.run(session, "SET proddb.read_consistency = 'eventual'")
    cluster.run("1", "ALTER TABLE t ADD COLUMN c int DEFAULT 7")
    cluster.run("1", "CREATE INDEX by_b ON t (b)")
    assert cluster.run(session, "SELECT a, c FROM t WHERE b = 'old' ORDER BY a") == ["1|7", "2|7", "SELECT 2"]
    assert "0A000" in cluster.run(session, f"SELECT * FROM t AS OF SYSTEM TIME {token}")[0]
    assert cluster.run(session, "SELECT array(SELECT r())") == ["{1,2}", "SELECT 1"]
    assert "0A000" in cluster.run(session, f"SELECT r() AS OF SYSTEM TIME {token}")[0]
    cluster.run("1", "DROP FUNCTION r")
    assert cluster.run(session, f"SELECT 1 AS OF SYSTEM TIME {token}") == ["1", "SELECT 1"]
    cluster.settle()
    assert cluster.served(session, "SELECT c FROM t WHERE b = 'old'").startswith(f"node {session}")
    cluster.run("1", "DROP INDEX by_b")
    cluster.run("1", "ALTER TABLE t DROP COLUMN c")
    cluster.run(session, "RESET ALL")
    cluster.settle()


# ----------------------------------------------------------------------------------------------------------------- texts


@given(st.integers(0, (1 << 62) - 1))
def test_timestamps_round_trip(timestamp: int) -> None:
    assert parse_timestamp(timestamp_text(timestamp)) == timestamp


@pytest.mark.parametrize(
    ("text", "level", "shown"),
    [
        ("Strong", Level(), "strong"),
        ("bounded", Level("bounded", 10_000_000), "bounded(10s)"),
        ("bounded( 1.5 min )", Level("bounded", 90_000_000), "bounded(1.5 min)"),
        ("bounded(interval '00:00:03')", Level("bounded", 3_000_000), "bounded(00:00:03)"),
        ("session", Level("session"), "session"),
    ],
)
def test_levels(text: str, level: Level, shown: str) -> None:
    assert parse_level("x", text) == (level, shown)


@pytest.mark.parametrize(
    "text", ["", "weak", "strong(1s)", "bounded(-1s)", "bounded(1 moon)", "bounded(1s", "bounded()", "eventual()"]
)
def test_levels_that_do_not_exist(text: str) -> None:
    with pytest.raises(InvalidParameterValue):
        parse_level("x", text)


def test_times() -> None:
    def at(text: str, kind: str = "exact") -> int:
        return resolve_time(AsOf(text, kind), NOW_US, "Europe/Berlin") >> 12

    assert duration_us("-00:00:10") == -10_000_000
    assert at("-10s") == at("-10 seconds") == at("10s", "staleness") == NOW_US - 10_000_000
    assert at("2023-11-14 23:13:20") == at("2023-11-14 22:13:20+00") == NOW_US
    assert at(f"{NOW_US}.17") == NOW_US
    for text in ("", "10s", "yesterday", "-1 moon", "12", "0001-01-01"):
        with pytest.raises(InvalidParameterValue):
            at(text)


@pytest.mark.parametrize(
    ("text", "plain", "time"),
    [
        ("select 'as of system time' from t", None, None),
        ("select (select 1 as of system time '-1s')", None, None),
        (
            "select a from t /* x */ as of -- y\n system time '-1s' where a",
            "select a from t /* x */  where a",
            AsOf("-1s"),
        ),
        ("BEGIN AS OF SYSTEM TIME '-1s'", "BEGIN read only", AsOf("-1s")),
        ("select 1; start transaction as of system time 5.3", "select 1; start transaction read only", AsOf("5.3")),
    ],
)
def test_the_clause_is_lifted(text: str, plain: str | None, time: AsOf | None) -> None:
    lifted, found = lift_as_of(text)
    assert len(lifted) == len(text)
    assert [asked for _, asked in found] == ([] if time is None else [time])
    assert lifted.split() == (text if plain is None else plain).split()


@pytest.mark.parametrize("time", ["", "foo", "5 + 5", "e'-1s'", "with_max_staleness()", "follower_read_timestamp"])
def test_times_that_are_not_constants(time: str) -> None:
    try:
        plain, _ = lift_as_of(f"select 1 as of system time {time}")
    except DatabaseError as error:
        assert error.sqlstate == "42601"
    else:
        assert plain.rstrip().endswith("+ 5")  # the grammar will not have it
