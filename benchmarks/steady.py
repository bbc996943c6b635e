"""Worker CPU for a turn at a steady pace, and how long its first text takes, of this build and of one before.

Each by its own latency case, in turns.
"""

import asyncio
import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.builds import Build
from benchmarks.deployment import Deployment
from benchmarks.meter import load_average

RATE_PER_S = 50
_RATIOS = {
    "cpu_ms_per_turn": "cpu_ratio",
    "first_delta_p50_ms": "first_delta_p50_ratio",
    "first_delta_p99_ms": "first_delta_p99_ratio",
}


async def measure(
    builds: Sequence[Build], deployment: Deployment, *, seconds: float, rounds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Every build once, then again in the opposite order: what changes on the machine meanwhile meets all of them."""
    load_before = load_average()
    found: dict[str, list[dict[str, float]]] = {build.name: [] for build in builds}
    for number in range(rounds):
        for build in list(builds)[:: 1 if number % 2 == 0 else -1]:
            output = deployment.directory / f"steady-{number}-{build.folder.name}.json"
            await asyncio.to_thread(
                build.module,
                "benchmarks",
                *("--cases", "latency-avro", "--runs", "1", "--seconds", f"{seconds:g}"),
                *("--bootstrap-server", deployment.settings.bootstrap_server, "--output", str(output)),
            )
            (case,) = json.loads(output.read_text())["cases"]
            found[build.name].append({name: figure["median"] for name, figure in case["summary"].items()})
            say(f"steady, round {number + 1} of {rounds}, {build.name}: {found[build.name][-1]['cpu_ms_per_turn']} ms")
    medians = {
        name: {figure: statistics.median(run[figure] for run in runs) for figure in _RATIOS}
        for name, runs in found.items()
    }
    foreign = [run["foreign_cores"] for runs in found.values() for run in runs]
    this, *before = (build.name for build in builds)
    result: dict[str, Any] = {"seconds": seconds, "rounds": rounds, **medians[this]}
    for name in before:
        result |= {"against": name, **{f"{figure}_before": value for figure, value in medians[name].items()}}
        result |= {ratio: medians[this][figure] / medians[name][figure] for figure, ratio in _RATIOS.items()}
    return result | {
        "runs_cpu_ms": {name: [run["cpu_ms_per_turn"] for run in runs] for name, runs in found.items()},
        "foreign_cores": statistics.median(foreign),
        "load_average": [round(load_before, 2), round(load_average(), 2)],
    }
