"""A harness that cannot fail proves nothing: each defence is taken out once, and the checker must see it."""

import pytest

from tests.simulation.run import simulate
from tests.simulation.weakened import WEAKNESSES, Weakness, weakened

MOST_SEEDS = 250


def _first_red(weakness: Weakness) -> int | None:
    """The first seed that catches it."""
    for seed in range(MOST_SEEDS):
        with weakened(weakness.name):
            if simulate(seed, weakness.plan).anomalies:
                return seed
    return None


@pytest.mark.parametrize("name", WEAKNESSES)
def test_every_weakness_is_caught(name: str) -> None:
    weakness = WEAKNESSES[name]
    seed = _first_red(weakness)
    assert seed is not None, f"{name}: {MOST_SEEDS} seeds, no anomaly"
    assert simulate(seed, weakness.plan).anomalies == [], f"seed {seed} is red with all defences up"
