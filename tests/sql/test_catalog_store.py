"""The catalog store: bootstrap, refreshing, leases, identities, uncommitted DDL."""

from __future__ import annotations

from typing import Any

import pytest
from pydistdb.kv.api import Isolation, KeyExists
from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.catalog.garbage import table_garbage
from pydistdb.sql.catalog.overlay import Overlay
from pydistdb.sql.catalog.state import FIRST_USER_OID, CatalogState
from pydistdb.sql.catalog.store import (
    IDLE_AFTER_RENEWALS,
    IDLE_RENEWAL_INTERVAL_NS,
    LEASE_NS,
    RENEWAL_INTERVAL_NS,
    CatalogStore,
)
from pydistdb.sql.catalog.transaction import DdlTransaction
from pydistdb.sql.errors import DependentObjectsStillExist, InvalidCatalogName, SerializationFailure

from tests.sql.catalog_nodes import Nodes


def table(oid: int, name: str) -> Table:
    return Table(oid, name, 2200, 5, (Column(1, "a", 23),), ())


def test_bootstrap_makes_databases_and_schemas() -> None:
    nodes = Nodes(1)
    view = nodes.stores[0].view("postgres", ("public",))
    assert sorted(database.name for database in view.databases()) == ["postgres", "template0", "template1"]
    assert {"public", "pg_catalog", "information_schema"} <= {schema.name for schema in view.schemas()}
    assert view.search_path == ("pg_catalog", "public")
    with pytest.raises(InvalidCatalogName, match='database "nope" does not exist'):
        nodes.stores[0].view("nope", ("public",))


def test_a_second_start_changes_nothing() -> None:
    nodes = Nodes(1)
    again = CatalogStore(nodes.databases[0], nodes.scheduler)
    nodes.run(again.start(renew=False))
    assert again.version == nodes.stores[0].version == 1


def test_other_nodes_learn_of_ddl_at_once() -> None:
    nodes = Nodes(3)
    nodes.ddl(0, "create table t (a int primary key)")
    assert [nodes.table_names(node) for node in range(3)] == [["t"]] * 3
    assert len({store.version for store in nodes.stores}) == 1


def test_a_node_that_missed_the_news_catches_up_by_history() -> None:
    nodes = Nodes(2)
    nodes.databases[1].up = False
    nodes.ddl(0, "create table t (a int)")
    nodes.ddl(0, "create table u (a int)", "drop table t")
    assert nodes.table_names(1) == []
    nodes.run(nodes.stores[1].refresh())
    assert nodes.table_names(1) == ["u"]


def test_a_node_too_far_behind_reads_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "HISTORY_LIMIT", 2)
    nodes = Nodes(2)
    nodes.databases[1].up = False
    for number in range(5):
        nodes.ddl(0, f"create table t{number} (a int)")
    nodes.ddl(0, "drop table t0")
    nodes.run(nodes.stores[1].refresh())
    assert nodes.table_names(1) == nodes.table_names(0) == ["t1", "t2", "t3", "t4"]


def test_the_lease_runs_out_without_renewal() -> None:
    nodes = Nodes(1)
    store = nodes.stores[0]
    assert store.is_fresh
    nodes.scheduler.advance(LEASE_NS + 1)
    assert not store.is_fresh
    nodes.run(store.ensure_fresh())
    assert store.is_fresh


def test_a_node_that_slept_through_ddl_does_not_commit_what_it_planned_before() -> None:
    nodes = Nodes(2)
    nodes.ddl(0, "create table t (a int)")
    nodes.ddl(0, "create table u (a int)")
    oids = {table.name: table.oid for table in nodes.stores[1].view("postgres", ("public",)).tables()}
    store = nodes.stores[1]
    transactions = [nodes.databases[1].begin(Isolation.READ_COMMITTED) for _ in range(2)]
    for transaction, name in zip(transactions, ("t", "u"), strict=True):
        assert store.gate.try_enter(transaction, frozenset({oids[name]}), True)
    nodes.run(store.check_commit(transactions[0]))
    nodes.databases[1].up = False
    nodes.ddl(0, "alter table t add column b int")
    nodes.scheduler.advance(LEASE_NS + 1)
    with pytest.raises(SerializationFailure):
        nodes.run(store.check_commit(transactions[0]))
    nodes.run(store.check_commit(transactions[1]))


def test_renewal_keeps_the_lease_and_notices_changes() -> None:
    nodes = Nodes(2)
    nodes.run(nodes.stores[1].start())
    nodes.databases[1].up = False
    nodes.ddl(0, "create table t (a int)")
    nodes.scheduler.advance(2 * RENEWAL_INTERVAL_NS)
    assert nodes.stores[1].is_fresh and nodes.table_names(1) == ["t"]
    nodes.stores[1].stop()


def test_a_node_that_executes_nothing_lets_the_lease_run_out_until_it_does() -> None:
    nodes = Nodes(2)
    store = nodes.stores[1]
    nodes.run(store.start())
    nodes.databases[1].up = False
    nodes.scheduler.advance((IDLE_AFTER_RENEWALS + 1) * RENEWAL_INTERVAL_NS + LEASE_NS)
    nodes.ddl(0, "create table t (a int)")
    nodes.scheduler.advance(RENEWAL_INTERVAL_NS)
    assert nodes.table_names(1) == []
    assert not store.is_fresh
    nodes.run(store.ensure_fresh())
    assert nodes.table_names(1) == ["t"]
    for _ in range(3 * IDLE_AFTER_RENEWALS):  # in use: the lease is renewed before it runs out
        nodes.scheduler.advance(RENEWAL_INTERVAL_NS)
        assert store.is_fresh
    nodes.ddl(0, "create table u (a int)")
    nodes.scheduler.advance(2 * IDLE_RENEWAL_INTERVAL_NS + IDLE_AFTER_RENEWALS * RENEWAL_INTERVAL_NS)
    assert nodes.table_names(1) == ["t", "u"]
    store.stop()


def test_oids_are_never_given_out_twice() -> None:
    nodes = Nodes(2)
    taken = [nodes.run(nodes.stores[number % 2].allocate_oids(1 + number % 5)) for number in range(40)]
    counts = [1 + number % 5 for number in range(40)]
    every = [oid + i for oid, count in zip(taken, counts, strict=True) for i in range(count)]
    assert len(set(every)) == len(every) and min(every) == FIRST_USER_OID


def test_views_are_kept_until_the_catalog_changes() -> None:
    nodes = Nodes(1)
    store = nodes.stores[0]
    view = store.view("postgres", ("public",))
    assert store.view("postgres", ("public",)) is view
    nodes.ddl(0, "create table t (a int)")
    assert store.view("postgres", ("public",)) is not view
    assert view.relation("t") is None, "a view is immutable"


def test_state_apply_follows_renames_and_drops() -> None:
    state = CatalogState.EMPTY.apply([(keys.database_key(5), Nodes(1).stores[0].state.databases[5].descriptor)], 1)
    first = state.apply([(keys.table_key(5, 20000), table(20000, "a"))], 2)
    renamed = first.apply([(keys.table_key(5, 20000), table(20000, "b"))], 3)
    reused = renamed.apply([(keys.table_key(5, 20001), table(20001, "a"))], 4)
    dropped = reused.apply([(keys.table_key(5, 20000), None)], 5)
    assert first.databases[5].relations[2200, "a"].oid == 20000
    assert (2200, "a") not in renamed.databases[5].relations
    assert {name for _, name in reused.databases[5].relations} == {"a", "b"}
    assert dropped.databases[5].relations[2200, "a"].oid == 20001
    assert first.databases[5].relations[2200, "a"].oid == 20000, "an older state stays as it was"


def test_overlay_savepoints() -> None:
    overlay = Overlay()
    nothing = overlay.savepoint()
    base = Nodes(1).stores[0].state
    overlay.open(base)
    overlay.apply([(keys.table_key(5, 20000), table(20000, "a"))])
    overlay.private_storage.add(20000)
    mark = overlay.savepoint()
    assert not overlay.private_storage, "older content could come back: no writing on the side any more"
    overlay.apply([(keys.table_key(5, 20000), None)])
    assert 20000 not in overlay.state.databases[5].tables
    overlay.rollback_to(mark)
    assert overlay.state.databases[5].tables[20000].name == "a"
    overlay.rollback_to(nothing)
    assert overlay.state is base and not overlay.has_changes


SETUP = (
    "create schema s",
    "create type mood as enum ('sad')",
    "create table t (a int primary key, b int)",
    "create table u (a int primary key)",
    "create role r",
)
COLLISIONS = [
    ("create table x (a int)", "create table x (b int)"),
    ("create table x (a int)", "create index x on t (b)"),
    ("create table x (a int)", "create type x as enum ()"),
    ("create function f(int) returns int language sql as 'select 1'",) * 2,
    ("create role q", "create role q"),
    ("create database d", "create database d"),
    ("create schema q", "create schema q"),
    ("drop schema s", "create table s.x (a int)"),
    ("create table s.x (a int)", "drop schema s"),
    ("drop type mood", "create table x (a mood[])"),
    ("create table x (a mood)", "drop type mood"),
    ("drop table t", "create view v as select * from t"),
    ("create view v as select * from t", "drop table t"),
    ("drop table t", "create table x (a t)"),
    ("drop table t", "comment on table t is 'gone'"),
    ("drop table t", "analyze t"),
    ("drop role r", "grant select on t to r"),
    ("grant select on t to r", "grant insert on t to r"),
    ("create table x (a int) shard by hash (a)", "create table y (a int) shard by hash (a)"),
]
SIDE_BY_SIDE = [
    ("create table x (a int)", "create table y (a int)"),
    ("alter table t add column c int", "alter table u add column c int"),
    ("drop table t", "create table x (a int)"),
    ("create table s.x (a int)", "create table x (a mood)"),
    ("create index on t (b)", "create view v as select * from u"),
    ("create view v as select * from t", "create view w as select * from t"),
    (
        "create function f(int) returns int language sql as 'select 1'",
        "create function f(text) returns int language sql as 'select 1'",
    ),
    ("grant select on t to r", "grant select on u to r"),
    ("alter type mood add value 'glad'", "create table x (a int)"),
]


@pytest.mark.parametrize(("first", "second"), COLLISIONS)
def test_what_collides_is_found_at_the_commit_even_if_no_lock_did_its_work(first: str, second: str) -> None:
    """The in-memory database's locks keep nobody waiting."""
    nodes = Nodes(2)
    nodes.ddl(0, *SETUP)
    one, other = nodes.begin(0), nodes.begin(1)
    nodes.run(one.execute(first))
    nodes.run(other.execute(second))
    nodes.run(one.commit())
    known = nodes.stores[0].state
    with pytest.raises(SerializationFailure):
        nodes.run(other.commit())
    for store in nodes.stores:
        nodes.run(store.refresh())
        assert store.state.version == known.version and not store.state.difference(known)


@pytest.mark.parametrize(("first", "second"), SIDE_BY_SIDE)
def test_what_does_not_collide_is_united(first: str, second: str) -> None:
    nodes, alone = Nodes(2), Nodes(1)
    nodes.ddl(0, *SETUP)
    alone.ddl(0, *SETUP)
    one, other = nodes.begin(0), nodes.begin(1)
    nodes.run(one.execute(first))
    nodes.run(other.execute(second))
    nodes.run(one.commit())
    nodes.run(other.commit())
    alone.ddl(0, first)
    alone.ddl(0, second)
    expected = alone.stores[0].state.databases[5]
    for store in nodes.stores:
        found = store.state.databases[5]
        assert store.state.version == 4
        assert found.relations.keys() == expected.relations.keys()
        assert [len(table.columns) for table in found.tables.values()] == [
            len(found.relations[table.schema, table.name].columns) for table in found.tables.values()
        ]
        assert {f.name for f in found.routines.values()} == {f.name for f in expected.routines.values()}
        assert len(found.acls) == len(expected.acls)
    reloaded = CatalogStore(nodes.databases[0], nodes.scheduler)
    nodes.run(reloaded.refresh())
    assert not reloaded.state.difference(nodes.stores[0].state)


def test_a_statement_that_was_overtaken_is_carried_out_against_what_is_there_now() -> None:
    nodes = Nodes(2)
    nodes.ddl(0, *SETUP)
    one, other = nodes.begin(0), nodes.begin(1)
    nodes.run(one.execute("create view v as select * from t"))
    taking_locks = other.transaction.lock

    async def lock(*arguments: Any) -> Any:
        if not one.over:
            await one.commit()
        return await taking_locks(*arguments)

    other.transaction.lock = lock  # type: ignore[method-assign]
    with pytest.raises(DependentObjectsStillExist):
        nodes.run(other.execute("drop table t"))


def test_a_transaction_sees_what_others_commit_beside_its_own_changes() -> None:
    nodes = Nodes(2)
    nodes.ddl(0, *SETUP)
    one = nodes.begin(0)
    nodes.run(one.execute("create table x (a int)"))
    mark = one.ddl.savepoint()
    nodes.run(one.execute("create table y (a int)"))
    nodes.ddl(1, "create table z (a int)")
    names = {name for _, name in one.ddl.state.databases[5].relations}
    assert {"x", "y", "z"} <= names
    one.ddl.rollback_to(mark)
    assert {name for _, name in one.ddl.state.databases[5].relations} == names - {"y"}
    nodes.run(one.commit())
    assert nodes.table_names(1) == ["t", "u", "x", "z"]


def test_two_that_make_the_same_version_do_not_both_commit() -> None:
    """The lock that orders commits does nothing here either."""
    nodes = Nodes(1)
    one, other = nodes.begin(0), nodes.begin(0)
    nodes.run(one.execute("create table x (a int)"))
    nodes.run(other.execute("create table y (a int)"))
    nodes.run(one.ddl.prepare_commit())
    nodes.run(other.ddl.prepare_commit())
    nodes.run(one.transaction.commit())
    nodes.run(one.ddl.committed())
    with pytest.raises(KeyExists):
        nodes.run(other.transaction.commit())
    assert nodes.table_names(0) == ["x"]


def test_changed_since() -> None:
    nodes = Nodes(1)
    store = nodes.stores[0]
    nodes.ddl(0, "create table t (a int)")
    nodes.ddl(0, "create table u (a int)")
    before = store.version
    nodes.ddl(0, "create index on t (a)")
    view = store.view("postgres", ("public",))
    oids = {table.name: table.oid for table in view.tables()}
    assert store.state.changed_since(before, [oids["t"]])
    assert not store.state.changed_since(before, [oids["u"]])


def test_storage_that_an_earlier_process_left_is_cleared() -> None:
    nodes = Nodes(1)
    database = nodes.databases[0]
    nodes.ddl(0, "create table t (a int)")
    storage_id = nodes.stores[0].view("postgres", ("public",)).tables()[0].storage_id
    key = b"\x04" + storage_id.to_bytes(4, "big") + b"\x00\x01x"
    nodes.run(database.ingest([(key, b"v")]))

    async def drop_and_die() -> None:
        transaction = database.begin(Isolation.READ_COMMITTED)
        transaction.begin_statement()
        ddl = DdlTransaction(nodes.stores[0], transaction)

        async def drop() -> None:
            for garbage in table_garbage(ddl.overlay.state.databases[5].tables[storage_id]):
                ddl.dropped_storage(garbage)
            ddl.apply([(keys.table_key(5, storage_id), None)])

        await ddl.statement(drop)
        await ddl.prepare_commit()
        await transaction.commit()

    nodes.run(drop_and_die())
    assert key in database.versions
    successor = CatalogStore(database, nodes.scheduler)
    nodes.run(successor.start())
    nodes.scheduler.advance(1_000_000)
    successor.stop()
    assert key not in database.versions
    now = database.now()
    left = [k for k in database.versions if k.startswith(keys.GARBAGE_PREFIX) and database.read(k, now)[0]]
    assert not left
