"""pg_stat_statements: what is counted, what is timed, what is forgotten; the slow log."""

from __future__ import annotations

import logging

import pytest
from pydistdb.sql.bind.fingerprint import query_id, without_constants
from pydistdb.sql.clock import now_us
from pydistdb.sql.statement_statistics import (
    BUCKETS_US,
    SAMPLE_EVERY,
    StatementCounts,
    StatementStatistics,
    joined,
    quantile_us,
)

from tests.support.sql_client import SqlClient, SqlServer


@pytest.fixture
def server() -> SqlServer:
    return SqlServer()


def _shown(client: SqlClient, where: str = "true") -> list[str]:
    return client.execute(f"SELECT query, calls, rows FROM pg_stat_statements WHERE {where} ORDER BY query")


def _calls(server: SqlServer) -> dict[str, tuple[int, int]]:
    return {report.text: (report.calls, report.rows) for report in server.environment.statements.reports()}


def test_statements_that_differ_in_values_are_one(server: SqlServer) -> None:
    client = server.connect()
    client.execute("CREATE TABLE t (id int PRIMARY KEY, n int)")
    client.execute("INSERT INTO t SELECT g, g FROM generate_series(1, 50) g")
    client.execute("SELECT pg_stat_statements_reset()")
    for number in range(40):
        client.execute(f"SELECT n FROM t WHERE id = {number + 1}")
    client.execute("UPDATE t SET n = 0 WHERE id < 11; UPDATE t SET n = 0 WHERE id < 21")
    client.execute("BEGIN")
    client.execute("COMMIT")
    client.execute("SELECT nonsense")
    client.execute("PREPARE p (int) AS SELECT id FROM t WHERE n = $1")
    client.execute("EXECUTE p (0)")
    assert _calls(server) == {
        "SELECT pg_stat_statements_reset()": (1, 1),
        "SELECT n FROM t WHERE id = $1": (40, 40),
        "UPDATE t SET n = $1 WHERE id < $2": (2, 30),
        "BEGIN": (1, 0),
        "COMMIT": (1, 0),
        "SELECT id FROM t WHERE n = $1": (1, 20),
    }
    kinds = server.environment.statements.calls()
    assert (kinds["transaction"], kinds["update"], kinds["insert"]) == (2, 2, 1)


def test_users_are_apart_and_do_not_see_each_other(server: SqlServer) -> None:
    client = server.connect()
    client.execute("CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN SUPERUSER")
    for user in ("alice", "bob", "postgres"):
        server.connect(user).execute("SELECT 1 AS mine")
    client.execute("SET ROLE bob")
    client.execute("SELECT 1 AS mine")
    reports = [report for report in server.environment.statements.reports() if "mine" in report.text]
    assert sorted(report.calls for report in reports) == [1, 1, 2]
    alice = server.connect("alice")
    hidden = alice.execute("SELECT DISTINCT query, queryid FROM pg_stat_statements WHERE query NOT LIKE '%mine%'")
    assert any("insufficient privilege" in line for line in hidden)
    assert not any("ROLE" in line for line in hidden)
    assert any("42501" in line for line in alice.execute("SELECT pg_stat_statements_reset()"))


def test_the_fast_path_times_one_in_sixteen() -> None:
    statistics = StatementStatistics()
    counts = statistics.counts((1, 1, 1), "SELECT 1", "SELECT")
    for _ in range(SAMPLE_EVERY * 2 + 1):
        counts.count_fast(1, now_us() - 40)
    report = counts.report()
    assert (report.calls, report.rows) == (33, 33)
    assert report.timed == 33  # the first for itself, the 17th and the 33rd for sixteen each
    assert report.shortest_us >= 40
    assert sum(statistics.histograms["select"].counts) == 33
    assert statistics.histograms["select"].counts[BUCKETS_US.index(25)] == 0


def test_what_is_called_least_is_forgotten_and_comes_back() -> None:
    statistics = StatementStatistics(most=20)
    held: list[StatementCounts] = []
    for number in range(20):
        counts = statistics.counts((1, 1, number), f"SELECT {number}", "SELECT")
        held.append(counts)
        for _ in range(number + 1):
            counts.count(1, 10)
    newcomer = statistics.counts((1, 1, 99), "SELECT 99", "SELECT")
    newcomer.count(1, 10)
    assert (len(statistics), statistics.deallocations, held[0].is_kept) == (20, 1, False)
    assert statistics.calls()["select"] == sum(range(1, 21)) + 1
    held[0].count_fast(5, now_us())  # a plan still points to it
    assert held[0].is_kept and held[0].report().rows == 5
    assert statistics.counts((1, 1, 0), "SELECT 0", "SELECT") is held[0]
    statistics.reset(query_id=0)
    assert (len(statistics), statistics.deallocations) == (0, 0)


def test_nodes_are_added_up() -> None:
    one, two = StatementStatistics(), StatementStatistics()
    one.counts((1, 1, 7), "SELECT $1", "SELECT").count(1, 1_000)
    two.counts((1, 1, 7), "SELECT $1", "SELECT").count(3, 3_000)
    (both,) = joined([*one.reports(), *two.reports()])
    assert (both.calls, both.rows, both.total_ms, both.mean_ms, both.deviation_ms) == (2, 4, 4.0, 2.0, 1.0)
    assert (both.shortest_us, both.longest_us) == (1_000, 3_000)


def test_quantiles_lie_in_their_bucket() -> None:
    statistics = StatementStatistics()
    histogram, counts = statistics.histograms["other"], statistics.counts((1, 1, 1), "VACUUM", "VACUUM")
    assert quantile_us(histogram.counts, 0.5) == 0
    for _ in range(99):
        counts.count(1, 80)
    counts.count(1, 99_000_000)
    assert 50 <= quantile_us(histogram.counts, 0.5) <= 100
    assert quantile_us(histogram.counts, 1.0) == BUCKETS_US[-1]


def test_texts_without_constants() -> None:
    assert without_constants("SELECT 'a', b FROM t WHERE c IN (1, 2);") == "SELECT $1, b FROM t WHERE c IN ($2, $3)"
    assert without_constants("CREATE ROLE x PASSWORD 'secret'") == "CREATE ROLE x PASSWORD $1"
    bulk = "INSERT INTO t VALUES " + ", ".join(f"({n}, 'x')" for n in range(5_000))
    assert without_constants(bulk) == "INSERT INTO t VALUES ( …"
    assert query_id("SELECT $1") == query_id("SELECT\n  $1") != query_id("SELECT $2")
    assert query_id("SELECT A FROM t WHERE v=$1 -- x") == query_id("select a /* y */ from T where v = $1")
    assert query_id('SELECT "A" FROM t') != query_id("SELECT a FROM t") != query_id("SELECT a FROM tt")
    assert query_id("SELECT 'A' …") != query_id("SELECT 'a' …")
    assert query_id("'not") == query_id(" 'not") != 0


def test_slow_statements_are_logged(server: SqlServer, caplog: pytest.LogCaptureFixture) -> None:
    client = server.connect()
    client.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with caplog.at_level(logging.WARNING, "pydistdb.sql.slow"):
        client.execute("SELECT id FROM t")
        assert not caplog.records
        client.execute("SET log_min_duration_statement = 0")
        client.execute("SELECT id FROM t WHERE id = 1")
        client.execute("SELECT id FROM t WHERE id = 1")
        assert [_fields(record)["statement"] for record in caplog.records][-2:] == ["SELECT id FROM t WHERE id = 1"] * 2
        caplog.clear()
        client.execute("SELECT 1 / 0")
        assert [_fields(record)["statement"] for record in caplog.records] == ["SELECT 1 / 0"]
        client.execute("SET log_min_duration_statement = '1h'; SET auto_explain.log_min_duration = 0")
        caplog.clear()
        client.execute("SELECT id FROM t")
        client.execute("SELECT 1")  # lets the task that writes the plan run
        logged = _fields(caplog.records[0])
        assert logged["statement"] == "SELECT id FROM t" and "Seq Scan on t" in str(logged["plan"])
        client.execute("SET auto_explain.log_min_duration = '1h'")
        caplog.clear()
        client.execute("SELECT id FROM t")
        assert not caplog.records


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = record.__dict__["fields"]
    assert isinstance(fields, dict)
    return fields
