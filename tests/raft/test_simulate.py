"""A few seeds of the simulator; many more run with ``make sim SEEDS=A..B``."""

from __future__ import annotations

import pytest

from tests.raft import simulate
from tests.raft.checkers import Checkers


@pytest.mark.parametrize("seed", range(24))
def test_seed(seed: int) -> None:
    simulate.Simulation(seed).run(4000)


@pytest.mark.parametrize("seed", [10511, 61678])
def test_seeds_that_failed_once(seed: int) -> None:
    """10511: a follower has what the snapshot brings, while the leader's log begins behind that.  61678: one that missed its
    removal asks for votes without end, where nothing keeps it from that."""
    simulate.Simulation(seed).run(5000)


@pytest.mark.parametrize("seed", range(4))
def test_contested(seed: int) -> None:
    simulate.Simulation(seed, contested=True).run(8000)


def test_replay_is_exact() -> None:
    runs = [simulate.Simulation(3), simulate.Simulation(3)]
    for run in runs:
        run.run(2000)
    assert list(runs[0].show_trace()) == list(runs[1].show_trace())


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate.main(["--seeds", "5..6", "--steps", "500"]) == 0
    assert "2 seeds passed" in capsys.readouterr().out


def test_failure_prints_seed_and_trace(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkers, "observe", lambda self, node: 1 / 0)
    assert simulate.main(["--seed", "5", "--steps", "500"]) == 1
    assert "replay: python -m tests.raft.simulate --seed 5 --steps 500" in capsys.readouterr().out
