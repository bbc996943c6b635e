"""A harness that cannot fail proves nothing: each defence is taken out once, and the checker must see it."""

import contextlib
import inspect

import pytest

from tests.simulation import faults
from tests.simulation.run import Plan, simulate, stale_claims
from tests.simulation.weakened import WEAKNESSES, Weakness, no_generation_hint, weakened

MOST_SEEDS = 250
MIX = Plan(faults=(faults.news_is_slow, faults.pause), min_faults=2, max_faults=4)


def _first_red(weakness: Weakness) -> int | None:
    """The first seed that catches it."""
    for seed in range(MOST_SEEDS):
        with weakened(weakness.name):
            if simulate(seed, weakness.plan).anomalies:
                return seed
    return None


def test_the_generation_in_a_claim_keeps_owners_from_answering_newer_ones() -> None:
    """With the pace as it is: fewer answers to newer claims, although a seed alone does not show it."""

    def answers() -> int:
        logs = [log for seed in range(40) for log in simulate(seed, MIX).history.log.values()]
        return sum(sum(stale_claims(log).values()) for log in logs)

    with_hint = answers()
    with contextlib.ExitStack() as stack:
        for change in no_generation_hint():
            stack.enter_context(change)
        without = answers()
    assert without > 3 * with_hint


@pytest.mark.parametrize("name", WEAKNESSES)
def test_a_weakness_takes_what_it_stands_for_takes(name: str) -> None:
    """Else it fails on its own account, and whatever is found then says nothing of the defence."""
    for change in WEAKNESSES[name].patches():
        original = getattr(change.getter(), change.attribute)
        if inspect.isfunction(original) and inspect.isfunction(change.new):
            taken, wanted = (inspect.signature(each).parameters for each in (change.new, original))
            if not any(parameter.kind is parameter.VAR_POSITIONAL for parameter in taken.values()):
                named = [name if at.startswith("_") else at for at, name in zip(taken, wanted, strict=False)]
                assert (len(taken), named) == (len(wanted), list(wanted)), change.attribute


@pytest.mark.parametrize("name", WEAKNESSES)
def test_every_weakness_is_caught(name: str) -> None:
    weakness = WEAKNESSES[name]
    seed = _first_red(weakness)
    assert seed is not None, f"{name}: {MOST_SEEDS} seeds, no anomaly"
    assert simulate(seed, weakness.plan).anomalies == [], f"seed {seed} is red with all defences up"
