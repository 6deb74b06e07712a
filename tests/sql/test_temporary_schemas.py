"""Temporary schemas whose session is gone without having dropped them."""

from __future__ import annotations

import pytest
from pydistdb.sql.catalog import transaction
from pydistdb.sql.catalog.garbage import recorded_garbage
from pydistdb.sql.catalog.temporary import SWEEP_INTERVAL_NS, Sweeper, temporary_schemas

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


def test_storage_that_a_dead_node_was_to_clear_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    server = SqlServer()
    client = server.connect()
    client.execute("create table t (a int); insert into t select generate_series(1, 100)")

    async def die(*_: object) -> None:
        pass

    with monkeypatch.context() as dying:
        dying.setattr(transaction, "forget_garbage", die)
        assert client.execute("drop table t") == ["DROP TABLE"]

    def recorded() -> int:
        return len(server.scheduler.run(recorded_garbage(server.database)))

    sweeper = Sweeper(server.catalog, lambda: ())
    sweeper.start()
    server.scheduler.advance(SWEEP_INTERVAL_NS + 1_000_000_000)
    assert recorded() == 1, "whoever dropped it has time to clear it"
    server.scheduler.advance(SWEEP_INTERVAL_NS + 1_000_000_000)
    assert recorded() == 0
    sweeper.stop()
