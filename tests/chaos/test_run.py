"""A short run of ``make chaos`` with real processes, and that one whose clients see anomalies is called invalid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos import workloads
from tests.chaos.history import History
from tests.chaos.run import main


@pytest.mark.timeout(180)
def test_all_workloads_are_valid_while_faults_come_and_go(tmp_path: Path) -> None:
    """Without the right to make namespaces the faults of the network are left out, and the verdict says so."""
    nemeses = "leader-alone+kill"
    status = main(["--nemesis", nemeses, "--seconds", "8", "--clients", "2", "--folder", str(tmp_path)])
    folder = tmp_path / nemeses
    verdict = json.loads((folder / "verdict.json").read_text())
    assert status == 0 and verdict["valid"], (folder / "report.md").read_text()
    assert verdict["faults"] > 0
    assert all(found["operations"]["ok"] > 10 for found in verdict["workloads"])
    assert (folder / "timeline.svg").read_text().startswith("<svg")
    assert History.load(folder / "bank.jsonl").of("read")


@pytest.mark.timeout(120)
def test_anomalies_of_a_weaker_level_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write skew is what REPEATABLE READ allows and SERIALIZABLE forbids."""
    monkeypatch.setattr(workloads, "SERIALIZABLE", workloads.REPEATABLE_READ)
    options = ["--nemesis", "none", "--workloads", "write-skew", "--nodes", "1", "--rate", "30", "--clients", "6"]
    assert main([*options, "--seconds", "4", "--folder", str(tmp_path)]) == 1
    verdict = json.loads((tmp_path / "none" / "verdict.json").read_text())
    assert "G2" in verdict["workloads"][0]["problems"][0]
