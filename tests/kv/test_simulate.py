"""A few seeds of the simulation of transactions (simulate.py), and that a seed gives one history."""

from __future__ import annotations

import pytest

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
