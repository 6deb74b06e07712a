"""How proddb admin and proddb node write what schema proddb tells them."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from pydistdb_tools import admin
from pydistdb_tools.admin import balance_report, hotspots_report, human_size, jobs_report, nodes_report, shards_report
from pydistdb_tools.cli import main
from pydistdb_tools.failover import Writer

NAMES = {1: "node1", 2: "node2", 3: "node3"}


def _range(number: int, start: str, leader: int | None, qps: float, **more: object) -> dict[str, object]:
    row: dict[str, object] = {
        "range_id": number,
        "start_pretty": start,
        "tables": "users",
        "leaseholder": leader,
        "replicas": [1, 2, 3],
        "term": 5,
        "keys": 333_412,
        "bytes": 25_000_000,
        "qps": qps,
        "cpu": qps / 10_000,
        "share": qps / 10_000,
        "heat": None,
        "recommendation": None,
    }
    return row | more


RANGES = [
    _range(1, "<min>", 1, 8500.0, heat="hot", recommendation="split"),
    _range(2, "group 16387/5555", 2, 750.4, heat="warm", recommendation="move its lease to node 3"),
    _range(3, "group 16387/aaaa", None, 0.0, keys=None, bytes=None),
]


def test_shards() -> None:
    assert shards_report(RANGES, NAMES).splitlines() == [
        "shard  from              tables  leader  followers            term     keys   size    qps  cpu  heat",
        "-----  ----------------  ------  ------  -------------------  ----  -------  -----  -----  ---  ----",
        "    1  <min>             users   node1   node2, node3            5  333,412  24 MB  8,500  85%  HOT",
        "    2  group 16387/5555  users   node2   node1, node3            5  333,412  24 MB    750   8%  warm",
        "    3  group 16387/aaaa  users   (none)  node1, node2, node3     5        ?      ?      0   0%",
    ]


def test_the_balance_names_what_would_help() -> None:
    assert balance_report(RANGES, NAMES).splitlines() == [
        "Shard Balance Analysis",
        "======================",
        "shard  tables  leader     keys   size    qps  cpu  load  heat",
        "-----  ------  ------  -------  -----  -----  ---  ----  --------------",
        "    1  users   node1   333,412  24 MB  8,500  85%   85%  ← hot",
        "    2  users   node2   333,412  24 MB    750   8%    8%  ← slightly hot",
        "    3  users   (none)        ?      ?      0   0%    0%",
        "",
        "Recommendations",
        "  Shard 1: split",
        "  Shard 2: move its lease to node3",
    ]
    assert balance_report(RANGES[2:], NAMES).splitlines()[-1] == "Recommendation: none needed"


def test_hotspots() -> None:
    assert hotspots_report([], NAMES) == "no shard gets requests"
    assert hotspots_report(RANGES[:2], NAMES).splitlines() == [
        "shard  from              tables  leader     keys   size    qps  cpu  load  heat  recommendation",
        "-----  ----------------  ------  ------  -------  -----  -----  ---  ----  ----  -----------------------",
        "    1  <min>             users   node1   333,412  24 MB  8,500  85%   85%  HOT   split",
        "    2  group 16387/5555  users   node2   333,412  24 MB    750   8%    8%  warm  move its lease to node3",
    ]


def test_nodes_and_jobs() -> None:
    node = {
        "node_id": 4,
        "node_name": "node4",
        "state": "live",
        "mode": "draining",
        "sql_address": "h:1",
        "locality": "region=eu",
        "replicas": 7,
        "leases": 0,
        "qps": None,
        "disk_free_bytes": 10 << 30,
        "version": "0.1.0",
        "oldest_cluster_version": 1,
        "newest_cluster_version": 2,
    }
    assert nodes_report([node]).splitlines()[2] == (
        " 4  node4  live, draining  h:1  region=eu         7       0    ?      10 GB    0.1.0  1-2"
    )
    job = {"kind": "create index", "subject": "i", "state": "building", "progress": 0.254, "details": "25 of 100 rows"}
    assert jobs_report([job]).splitlines()[2] == "create index  i        building       25%  25 of 100 rows"
    assert jobs_report([]) == "no jobs"


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "?"), (0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (140_000, "137 kB"), (5 << 40, "5.0 TB")],
)
def test_sizes_for_people(size: int | None, text: str) -> None:
    assert human_size(size) == text


def test_the_gap_is_the_longest_wait_from_the_failure_on() -> None:
    writer = Writer("")
    now = time.monotonic()
    writer.acknowledged = {n: now + t for n, t in enumerate((0.0, 5.0, 5.1, 5.2, 7.0, 7.1, 7.9))}
    assert round(writer.gap_seconds(now + 5.15), 3) == 1.8
    assert round(writer.gap_seconds(now + 7.05), 3) == 0.8
    assert Writer("").gap_seconds(now) == 0


def test_who_stops_waiting_is_told_that_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {
        "AS count": [{"count": 1}],
        "node_name": [{"node_id": 4, "node_name": "node4", "state": "live"}],
        "proddb.jobs": [{"state": "moving replicas", "progress": 0.75}],
    }

    def rows_of(_connection: object, text: str, *_values: object) -> list[dict[str, object]]:
        return next((rows for part, rows in answers.items() if part in text), [])

    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(admin, "connect", lambda _url: nullcontext())
    monkeypatch.setattr(admin, "rows_of", rows_of)
    monkeypatch.setattr(admin.time, "sleep", interrupted)
    assert main(["node", "decommission", "node4"]) == 130
    assert capsys.readouterr().err.splitlines() == [
        "node4: 1 replica left, moving replicas, 75% done",
        "node4: decommission goes on (see proddb admin jobs); proddb node recommission node4 takes the node back",
    ]
    assert main(["node", "decommission", "node4", "--format", "json"]) == 130
    assert capsys.readouterr().err.startswith('{"error": {"code": "interrupted"')


def test_a_failover_needs_a_cluster_of_our_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["admin", "failover", "--simulate", "--node", "n1", "--url", "postgresql://h/d"]) == 1
    assert "give its folder by --dir" in capsys.readouterr().err
    assert main(["admin", "failover", "--simulate", "--node", "n1", "--dir", str(tmp_path)]) == 1
    assert "there is no cluster.json" in capsys.readouterr().err
