"""Temporary schemas whose session is gone without having dropped them."""

from __future__ import annotations

from pydistdb.sql.catalog.temporary import Sweeper, temporary_schemas

from tests.support.sql_client import SqlServer


def _names(server: SqlServer) -> list[str]:
    return [schema.name for _, schema in temporary_schemas(server.catalog.state)]


def test_a_sweep_drops_what_no_session_uses() -> None:
    server = SqlServer()
    lost, alive = server.connect(), server.connect()
    assert lost.execute("create temp table t as select 1 as a") == ["SELECT 1"]
    assert alive.execute("create temp table t as select 2 as a") == ["SELECT 1"]
    del server.environment.sessions[lost.session.process_id]  # it died before it could drop anything
    assert _names(server) == [f"pg_temp_{client.session.process_id}" for client in (lost, alive)]
    server.scheduler.run(server.environment.sweeper.sweep())
    assert _names(server) == [f"pg_temp_{alive.session.process_id}"]
    assert alive.rows("select * from t") == ["2"]


def test_a_node_that_starts_drops_what_it_left() -> None:
    server = SqlServer()
    client = server.connect()
    assert client.execute("create temp table t (a int)") == ["CREATE TABLE"]
    sweeper = Sweeper(server.catalog, lambda: ())
    sweeper.start()
    server.scheduler.advance(1_000_000_000)
    sweeper.stop()
    assert _names(server) == []
