"""``python -m tests.faults.defences``: defences switched off on real parts, one at a time.

Each has a recipe that provokes what it is there for; the checker must go red. The same recipes one after the other,
with all defences up, must leave nothing to be found. Prints one JSON document; exits with 0 only if all of that is so.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tests.checker import History
from tests.faults.broker import FaultBroker, fault_broker
from tests.faults.stack import Outcome, Stack, run_stack
from tests.faults.weakened_worker import BETWEEN_APPENDS, ROWS_APART
from tests.simulation.run import claims_go_on

#: Every inbox overflows when its owner is held up.
SETTINGS = {"max_inbox_requests": "2"}
NEWER_GENERATION = 1_000_000
_CLAIMS = 7  #: more than an owner may answer in a generation: see ``claims_go_on``
MAX_ATTEMPTS = 3
_BETWEEN_CLAIMS_S = 1.0  #: an idle owner looks at the log twice a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to do to workers that lack a defence, and what the checker then must find at the least."""

    defence: str
    weakness: str
    scenario: Callable[[Stack], Awaitable[None]]
    finds: frozenset[str]  #: kinds of anomalies, any of them


async def _load(stack: Stack) -> None:
    await stack.turns_end(60)


async def _foreign_claims(stack: Stack) -> None:
    for _ in range(4):
        await stack.claim_all_partitions()
        await stack.turns_end(10)


async def _newer_claims(stack: Stack) -> None:
    """As if the group had gone on without us: an owner that sees this waits, and requests wait with it."""
    for _ in range(_CLAIMS):
        await stack.claim_all_partitions(NEWER_GENERATION)
        await asyncio.sleep(_BETWEEN_CLAIMS_S)
    await stack.turns_end(10)


async def _killed_around_a_tool(stack: Stack) -> None:
    await stack.crash(0, ["script.after_tool_end"] * 3)
    await stack.turns_end(10)


async def _killed_between_appends(stack: Stack) -> None:
    await stack.crash(0, [BETWEEN_APPENDS] * 2)
    await stack.turns_end(10)


async def _killed_in_a_commit(stack: Stack) -> None:
    await stack.crash(0, ["store.mid_commit"] * 2)
    await stack.turns_end(10)


RECIPES = (
    Recipe(
        defence="the reader's rule",
        weakness="no reader's rule",
        scenario=_foreign_claims,
        finds=frozenset({"version gap", "message of a fenced epoch", "store is not the fold", "n gap"}),
    ),
    Recipe(
        defence="an append is confirmed before its effects",
        weakness="acknowledged is confirmed",
        scenario=_foreign_claims,
        finds=frozenset({"effect without its event", "request lost", "tool before its call", "accepted too early"}),
    ),
    Recipe(
        defence="what is accepted is skipped",
        weakness="no skip of what is accepted",
        scenario=_foreign_claims,
        finds=frozenset({"request decided twice"}),
    ),
    Recipe(
        defence="acknowledgements in order, after the append",
        weakness="acknowledged before the append",
        scenario=_newer_claims,
        finds=frozenset({"commit past an open request"}),
    ),
    Recipe(
        defence="gaps in the deliveries are read",
        weakness="gaps are not read",
        scenario=_newer_claims,
        finds=frozenset({"request lost", "accepted too early"}),
    ),
    Recipe(
        defence="a decision is appended as a whole",
        weakness="decisions in pieces",
        scenario=_killed_between_appends,
        finds=frozenset({"accepted too early"}),
    ),
    Recipe(
        defence="the generation in a claim",
        weakness="claim again at once, whatever the generation",
        scenario=_newer_claims,
        finds=frozenset({"claims go on"}),
    ),
    Recipe(
        defence="the look-up of request ids",
        weakness="no look-up of request ids",
        scenario=_load,
        finds=frozenset({"request decided twice"}),
    ),
    Recipe(
        defence="rows and checkpoint in one transaction",
        weakness=ROWS_APART,
        scenario=_killed_in_a_commit,
        finds=frozenset({"store is not the fold"}),
    ),
    Recipe(
        defence="calls with an unknown outcome are closed",
        weakness="calls with an unknown outcome are repeated",
        scenario=_killed_around_a_tool,
        finds=frozenset({"tool run twice"}),
    ),
)


@dataclass(slots=True, kw_only=True)
class Tried:
    """What was found without a defence; ``defence`` is empty: with all of them."""

    defence: str
    caught: bool
    seconds: float
    found: list[str] = field(default_factory=list)  #: kinds
    bad: list[str] = field(default_factory=list)
    attempts: int = 1


async def try_without(broker: FaultBroker, folder: Path, seed: str, recipe: Recipe) -> Tried:
    """Was the lack of the defence noticed? It must hurt now and then, not each time: another seed gets its chance."""
    for attempt in range(MAX_ATTEMPTS):
        seed_of_it = f"{seed}/{attempt}" if attempt else seed
        tried = await _try_without(broker, folder / str(attempt), seed_of_it, recipe)
        if tried.caught:
            break
    return replace(tried, attempts=attempt + 1)


async def _try_without(broker: FaultBroker, folder: Path, seed: str, recipe: Recipe) -> Tried:
    began = time.monotonic()
    outcome, history = await run_stack(broker, folder, seed, recipe.scenario, weaken=recipe.weakness, **SETTINGS)
    found = _kinds(outcome, history)
    return Tried(
        defence=recipe.defence,
        caught=bool(found & recipe.finds),
        seconds=round(time.monotonic() - began, 1),
        found=sorted(found),
        bad=outcome.problems[:50],
    )


async def try_with_all(broker: FaultBroker, folder: Path, seed: str) -> Tried:
    """Every scenario, one after the other, on workers as they are."""
    began = time.monotonic()

    async def all_of_them(stack: Stack) -> None:
        # The newer generation stays in the log: whoever is fenced after it waits, so it comes last.
        scenarios = dict.fromkeys(recipe.scenario for recipe in RECIPES)
        for scenario in sorted(scenarios, key=lambda scenario: scenario is _newer_claims):
            await scenario(stack)

    outcome, history = await run_stack(broker, folder, seed, all_of_them, weaken="", **SETTINGS)
    bad = [*outcome.bad, *map(str, claims_go_on(history))]
    return Tried(
        defence="", caught=bool(bad), seconds=round(time.monotonic() - began, 1), found=sorted(bad), bad=bad[:50]
    )


def _kinds(outcome: Outcome, history: History) -> set[str]:
    return {anomaly.kind for anomaly in [*outcome.anomalies, *claims_go_on(history)]}


def as_they_should(one: Tried) -> bool:
    """Caught without a defence, silent with all of them."""
    return one.caught == bool(one.defence)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.defences", description=__doc__)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--only", help="a part of a defence's name")
    options = parser.parse_args()
    recipes = [recipe for recipe in RECIPES if (options.only or "") in recipe.defence]

    async def run(folder: Path) -> list[Tried]:
        async with fault_broker(folder) as broker:
            tried = [
                await try_without(broker, folder / f"without-{number}", options.seed, recipe)
                for number, recipe in enumerate(recipes)
            ]
            return [*tried, await try_with_all(broker, folder / "with-all", options.seed)]

    with tempfile.TemporaryDirectory(prefix="turnlog-defences-") as name:
        tried = asyncio.run(run(Path(name)))
    print(json.dumps([asdict(one) for one in tried]), flush=True)
    return 0 if all(map(as_they_should, tried)) else 1


if __name__ == "__main__":
    sys.exit(main())
