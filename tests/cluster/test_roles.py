"""Roles hold on every node: what one grants, all know at once."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from pydistdb_tools.local_cluster import LocalCluster


def _as(url: str, user: str) -> str:
    return url.replace("postgres@", f"{user}@", 1)


def test_roles_are_the_clusters(three_nodes: LocalCluster) -> None:
    first, second, third = (node.url for node in three_nodes.nodes)
    with psycopg.connect(first, autocommit=True) as admin:
        admin.execute("CREATE ROLE alice LOGIN CONNECTION LIMIT 2; CREATE TABLE secrets (a int PRIMARY KEY)")
        with psycopg.connect(_as(second, "alice"), autocommit=True) as alice:
            with pytest.raises(InsufficientPrivilege, match="permission denied for table secrets"):
                alice.execute("SELECT * FROM secrets")
            admin.execute("GRANT SELECT ON secrets TO alice")
            assert alice.execute("SELECT * FROM secrets").fetchall() == []
            with psycopg.connect(third, autocommit=True) as other:
                other.execute("REVOKE SELECT ON secrets FROM alice")
            with pytest.raises(InsufficientPrivilege):
                alice.execute("SELECT * FROM secrets")
            with psycopg.connect(_as(third, "alice")) as more:
                with pytest.raises(psycopg.OperationalError, match='too many connections for role "alice"'):
                    psycopg.connect(_as(first, "alice"))
                assert more.execute("SELECT current_user").fetchone() == ("alice",)
        admin.execute("DROP TABLE secrets; DROP ROLE alice")
