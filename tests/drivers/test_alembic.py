"""Alembic: migrations up and down, what autogenerate finds, and that it finds nothing afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata, produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import Operations, ops
from pydistdb_tools.local_cluster import LocalCluster


@pytest.fixture
def engine(one_node: LocalCluster) -> Iterator[sa.Engine]:
    url = one_node.nodes[0].url
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS moving CASCADE")
        connection.execute("CREATE SCHEMA moving")
    engine = sa.create_engine(
        url.replace("postgresql://", "postgresql+psycopg://"), connect_args={"options": "-csearch_path=moving"}
    )
    yield engine
    engine.dispose()


def _metadata() -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table(
        "account",
        metadata,
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("name", sa.String(40), nullable=False, index=True),
        sa.Column("balance", sa.Numeric(12, 2), server_default="0", nullable=False),
        sa.Column("kind", sa.Enum("open", "closed", name="account_kind"), nullable=False),
        sa.UniqueConstraint("name", "kind", name="uq_account"),
        sa.CheckConstraint("balance >= 0", name="ck_balance"),
    )
    sa.Table(
        "entry",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("account_id", sa.ForeignKey("account.id", ondelete="CASCADE"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.func.now()),
        sa.Column("data", sa.dialects.postgresql.JSONB),
        sa.Index("ix_entry_late", "at", postgresql_where=sa.text("account_id > 10")),
    )
    return metadata


def _context(connection: sa.Connection) -> MigrationContext:
    return MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})


def _apply(connection: sa.Connection, script: ops.OpContainer) -> None:
    operations = Operations(_context(connection))
    for operation in script.ops:
        if isinstance(operation, ops.OpContainer):
            _apply(connection, operation)
        else:
            operations.invoke(operation)


def test_autogenerate_up_and_down(engine: sa.Engine) -> None:
    metadata = _metadata()
    with engine.begin() as connection:
        up = produce_migrations(_context(connection), metadata)
        assert up.upgrade_ops is not None and up.downgrade_ops is not None
        _apply(connection, up.upgrade_ops)
    with engine.begin() as connection:
        assert compare_metadata(_context(connection), metadata) == []
        connection.execute(sa.insert(metadata.tables["account"]).values(name="a", kind="open"))
        _apply(connection, up.downgrade_ops)
        assert sa.inspect(connection).get_table_names() == []


def test_changes_one_by_one(engine: sa.Engine) -> None:
    metadata = _metadata()
    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(sa.insert(metadata.tables["account"]).values(name="7", kind="open"))
        do = Operations(_context(connection))
        do.add_column("account", sa.Column("note", sa.Text, server_default="none"))
        do.alter_column("account", "note", new_column_name="remark", nullable=False)
        do.alter_column("account", "name", type_=sa.Integer, postgresql_using="name::integer")
        do.drop_constraint("ck_balance", "account")
        do.create_check_constraint("ck_balance", "account", "balance > -100")
        do.create_index("ix_remark", "account", ["remark"], unique=True)
        do.drop_index("ix_remark", "account")
        do.rename_table("entry", "posting")
        do.create_foreign_key("fk_self", "posting", "posting", ["id"], ["id"])
        do.execute("UPDATE account SET balance = -5")
    with engine.connect() as connection:
        columns = {column["name"]: column for column in sa.inspect(connection).get_columns("account")}
        assert isinstance(columns["name"]["type"], sa.Integer) and columns["remark"]["nullable"] is False
        assert connection.execute(sa.text("SELECT name, remark, balance FROM account")).fetchall() == [(7, "none", -5)]
        assert {key["name"] for key in sa.inspect(connection).get_foreign_keys("posting")} >= {"fk_self"}


def test_a_migration_that_fails_leaves_nothing(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        with pytest.raises(sa.exc.ProgrammingError), connection.begin():
            do = Operations(_context(connection))
            do.create_table("half", sa.Column("id", sa.Integer, primary_key=True))
            do.add_column("no_such_table", sa.Column("x", sa.Integer))
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == []
