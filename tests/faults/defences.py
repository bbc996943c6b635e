"""Defences switched off on real parts, one at a time: the recipe that provokes what each is there for must go red."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.stack import Outcome, Stack, run_stack
from tests.faults.weakened_worker import ROWS_APART
from workers.broker import DevBroker


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to do to workers that lack a defence, and what the checker then must find at the least."""

    weakness: str
    scenario: Callable[[Stack], Awaitable[None]]
    finds: frozenset[str]  #: kinds of anomalies, any of them


async def _some_load(stack: Stack) -> None:
    await stack.turns_end(60)


async def _foreign_claims(stack: Stack) -> None:
    for _ in range(4):
        await stack.claim_all_partitions()
        await stack.turns_end(10)


async def _killed_around_a_tool(stack: Stack) -> None:
    await stack.crash(0, ["script.after_tool_end"] * 3)
    await stack.turns_end(20)


async def _killed_in_a_commit(stack: Stack) -> None:
    await stack.crash(0, ["store.mid_commit"] * 2)
    await stack.turns_end(20)


RECIPES = (
    Recipe(weakness="no look-up of request ids", scenario=_some_load, finds=frozenset({"request decided twice"})),
    Recipe(
        weakness="acknowledged is confirmed",
        scenario=_foreign_claims,
        finds=frozenset({"effect without its event", "request lost", "tool before its call", "accepted too early"}),
    ),
    Recipe(
        weakness="calls with an unknown outcome are repeated",
        scenario=_killed_around_a_tool,
        finds=frozenset({"tool run twice"}),
    ),
    Recipe(weakness=ROWS_APART, scenario=_killed_in_a_commit, finds=frozenset({"store is not the fold"})),
)


async def tried(broker: DevBroker, folder: Path, seed: str, recipe: Recipe) -> tuple[bool, Outcome]:
    """Was the lack of the defence noticed? The outcome tells by what."""
    outcome, _ = await run_stack(broker, folder, seed, recipe.scenario, weaken=recipe.weakness)
    found = {anomaly.kind for anomaly in outcome.anomalies}
    return bool(found & recipe.finds), outcome


async def try_all(broker: DevBroker, folder: Path, seed: str) -> dict[str, list[str]]:
    """By weakness the kinds of anomalies that it led to; an empty list is a harness that cannot fail."""
    found: dict[str, list[str]] = {}
    for number, recipe in enumerate(RECIPES):
        caught, outcome = await tried(broker, folder / f"weak-{number}", seed, recipe)
        kinds = sorted({anomaly.kind for anomaly in outcome.anomalies})
        found[recipe.weakness] = kinds if caught else []
    return found
