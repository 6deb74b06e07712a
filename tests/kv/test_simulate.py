"""A few seeds of the simulation of transactions (simulate.py), and that a seed gives one history."""

from __future__ import annotations

import pytest
from pydistdb.kv import closed, follower, validation
from pydistdb.kv.api import PreparedTransaction
from pydistdb.kv.intents import IntentSet
from pydistdb.kv.txn.prepared import PreparedTransactions
from pydistdb.kv.txn.two_phase import TwoPhase
from pydistdb.kv.txn.writing import WritingPart

from tests.kv.simulate import Simulation


@pytest.mark.parametrize("seed", [0, 4, 8])
def test_seeds(seed: int) -> None:
    """4: a lock whose coordinator died, and that nobody waits for, is released."""
    simulation = Simulation(seed, looks_back=False)
    simulation.run(20)
    assert len(simulation.lists.history) > 50


@pytest.mark.parametrize("seed", [5, 6])
def test_reads_in_the_past(seed: int) -> None:
    simulation = Simulation(seed)
    simulation.run(20)
    assert len(simulation.past.reads) > 50


@pytest.mark.parametrize("seed", [46, 47])
def test_ranges_are_cut_and_merged(seed: int) -> None:
    simulation = Simulation(seed, reshapes=True)
    simulation.run(20)
    assert simulation.trouble.merges > 3


def test_a_copy_that_is_not_complete_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By most seeds: any change of what a simulated second holds gives each another story."""
    monkeypatch.setattr(follower, "_check_intent", lambda *_: None)
    monkeypatch.setattr(closed._Range, "usable", lambda known, _, timestamp: timestamp if known.sender else known.ready)
    with pytest.raises(AssertionError, match="a copy showed"):
        for seed in (1, 4, 6, 7, 8, 9):
            Simulation(seed).run(20)


@pytest.mark.parametrize("seed", [1, 2])
def test_large_loads(seed: int) -> None:
    simulation = Simulation(seed, looks_back=False, loads=True)
    simulation.run(20)
    assert simulation.loads is not None and simulation.loads.acknowledged


def test_a_load_that_is_overlooked_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IntentSet, "add_fresh", lambda *_: None)
    with pytest.raises(AssertionError, match=r"are gone|does not see its own rows"):
        Simulation(1, looks_back=False, loads=True).run(20)


@pytest.mark.parametrize("seed", [13, 16, 20])
def test_prepared_transactions(seed: int) -> None:
    """13, 16: the answer to the one who finishes it comes after another has; 20: one is finished before it is prepared."""
    simulation = Simulation(seed, looks_back=False, prepares=True)
    simulation.run(10)
    assert simulation.finished


def test_a_seed_that_left_a_learner_behind() -> None:
    """30052: what a node kept of the first range after its removal was its only way to it (test_operations.py has it by hand)."""
    simulation = Simulation(30052, harsh=True, prepares=True, loads=True)
    simulation.run(20)
    assert simulation.finished


def test_a_prepared_transaction_without_a_record_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def keep_nothing(two_phase: TwoPhase) -> None:
        pass

    monkeypatch.setattr(TwoPhase, "keep", keep_nothing)
    with pytest.raises(AssertionError, match="is lost"):
        for seed in (13, 15, 17):
            Simulation(seed, looks_back=False, prepares=True).run(5)


def test_a_prepared_transaction_that_nobody_finishes_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def find_none(_: PreparedTransactions) -> list[PreparedTransaction]:
        return []

    monkeypatch.setattr(PreparedTransactions, "all", find_none)
    with pytest.raises((TimeoutError, AssertionError)):  # it is missed, or whoever waits for it never ends
        for seed in (13, 14, 15):
            Simulation(seed, looks_back=False, prepares=True).run(5)


@pytest.mark.parametrize(("seed", "reshapes"), [(20003, True), (20014, True), (10196, False)])
def test_seeds_that_missed_rows(seed: int, reshapes: bool) -> None:
    """20003, 10196: a transaction was known to be open, and had been acknowledged since; 20014: a range lay in a hole of what
    is published (test_txn_outdated.py has both, made by hand)."""
    simulation = Simulation(seed, harsh=True, reshapes=reshapes, loads=True)
    simulation.run(4)
    assert simulation.loads is not None and simulation.loads.acknowledged


@pytest.mark.parametrize("seed", [19, 64, 235])
def test_harsh_seeds(seed: int) -> None:
    simulation = Simulation(seed, harsh=True)
    simulation.run(20)
    assert sum(simulation.counts().values()) > 100


def test_a_seed_gives_one_history() -> None:
    digests = set()
    for _ in range(2):
        simulation = Simulation(5)
        simulation.run(5)
        digests.add(simulation.digest())
    assert len(digests) == 1


def test_write_skew_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a look at what is still under way two transactions can validate past each other: one of a few seeds shows it."""
    monkeypatch.setattr(validation, "_foreign_intents", lambda *_: [])
    monkeypatch.setattr(validation, "_check_pending", lambda *_: None)
    with pytest.raises(AssertionError, match="G2"):
        for seed in range(1006, 1014):
            Simulation(seed, looks_back=False).run(15)


@pytest.mark.parametrize("seed", [7])
def test_wide_seeds(seed: int) -> None:
    simulation = Simulation(seed, wide=True)
    simulation.run(20)
    assert simulation.trouble.canceled > 10
    assert simulation.rows is not None and sum(simulation.rows.counts.values()) > 100


def test_an_effect_before_a_savepoint_that_was_returned_to_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WritingPart, "rollback_to", lambda *_, **__: None)
    with pytest.raises(AssertionError):
        Simulation(2, wide=True).run(4)
