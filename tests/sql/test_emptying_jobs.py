"""What proddb.jobs tells of a node that gives away what it has."""

from __future__ import annotations

import msgspec
import pytest
from pydistdb.kv.descriptor import NodeId
from pydistdb.kv.status import NodeStatus
from pydistdb.sql.pg_catalog.operations import emptying_job

NODE = NodeStatus(NodeId(4), "node4", 4, "", "", "", "live", 12, 3, 0, 0, (), "decommissioning", 16)


@pytest.mark.parametrize(
    ("changes", "kind", "state", "progress"),
    [
        ({}, "decommission", "handing leases over", 0.25),
        ({"lease_count": 0, "replica_count": 4}, "decommission", "moving replicas", 0.75),
        ({"replica_count": 20}, "decommission", "handing leases over", 0.0),
        ({"state": "dead", "emptying_from": 0}, "decommission", "dead", None),
        ({"mode": "draining", "emptying_from": 4}, "drain", "handing leases over", 0.25),
    ],
)
def test_phase_and_progress(changes: dict[str, object], kind: str, state: str, progress: float | None) -> None:
    job = emptying_job(msgspec.structs.replace(NODE, **changes))
    assert (job["kind"], job["state"], job["progress"]) == (kind, state, progress)
    assert job["subject"] == "node 4"
