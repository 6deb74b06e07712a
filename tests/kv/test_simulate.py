"""A few seeds of the simulation of transactions (simulate.py), and that a seed gives one history."""

from __future__ import annotations

import pytest
from pydistdb.kv import validation

from tests.kv.simulate import Simulation


@pytest.mark.parametrize("seed", [0, 3, 4])
def test_seeds(seed: int) -> None:
    """4: a lock whose coordinator died, and that nobody waits for, is released."""
    simulation = Simulation(seed)
    simulation.run(20)
    assert len(simulation.history) > 50


def test_a_seed_gives_one_history() -> None:
    digests = set()
    for _ in range(2):
        simulation = Simulation(5)
        simulation.run(5)
        digests.add(simulation.digest())
    assert len(digests) == 1


@pytest.mark.parametrize("seed", [1000, 1001])
def test_write_skew_would_be_found(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a look at what is still under way two transactions can validate past each other."""
    monkeypatch.setattr(validation, "_foreign_intents", lambda *_: [])
    monkeypatch.setattr(validation, "_check_pending", lambda *_: None)
    with pytest.raises(AssertionError, match="G2"):
        Simulation(seed).run(15)
