"""The long form: ``python -m tests.faults --seed S [--kills 300] [--zombies 30] [--minutes 30] [--resume FILE]``.

Rounds of kills at named points and anywhere, zombies, the materializer's and the broker's deaths, broken links; leaders
that move in a cluster of three nodes; each defence switched off once; and simulated seeds beside all of it. Prints one
JSON document; the exit code is 0 only when all of it was done and nothing was amiss.
"""

import argparse
import asyncio
import json
import logging
import platform
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tests.faults import leaders
from tests.faults.broker import FaultBroker, fault_broker
from tests.faults.cluster import FaultCluster, fault_cluster
from tests.faults.defences import RECIPES, Tried, as_they_should, try_with_all, try_without
from tests.faults.progress import OtherRunError, Progress
from tests.faults.report import with_earlier
from tests.faults.rounds import Round, run_round, summary
from tests.faults.simulated import Chunk, Simulated, Simulating
from turnlog_workers.base.json_file import read_json

MAX_ROUNDS = 60
RESULT_HELP = "write the document here, too (docs/results/faults.json); the figures of what was left out stay there"


def main() -> int:
    """The command line."""
    options = _options()
    deadline = time.monotonic() + options.minutes * 60
    try:
        progress = Progress(options.resume, options.seed)
    except OtherRunError as error:
        raise SystemExit(f"{error.path} holds a run of seed {error.seed}, not of {options.seed}") from error
    simulating = Simulating(options.first_seed, options.seeds, progress.of(Chunk), deadline=deadline, add=progress.add)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that the broker is away is one of the faults
    simulating.start()
    asyncio.run(_real_parts(options, progress, deadline))
    _say("nobody is killed any more; the simulation goes on")
    simulating.wait()
    report = _report(options, progress)
    print(json.dumps(report), flush=True)
    if options.result:
        options.result.parent.mkdir(parents=True, exist_ok=True)
        kept = with_earlier(report, read_json(options.result))
        options.result.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0 if report["ok"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--zombies", type=int, default=30)
    parser.add_argument("--broker-restarts", type=int, default=20)
    parser.add_argument("--link-faults", type=int, default=10, help="of each kind")
    parser.add_argument("--leaders", type=int, default=10, help="that go away, in each way")
    parser.add_argument("--seed", default="1", help="of the faults and of the load")
    parser.add_argument("--minutes", type=float, default=30.0, help="nothing new begins after that")
    parser.add_argument("--resume", type=Path, help="what is done is written here, and what is here is not done again")
    parser.add_argument("--seeds", type=int, default=100_000, help="simulated; 0: none")
    parser.add_argument("--first-seed", type=int, default=1_000_000, help="of the simulation")
    parser.add_argument("--defences", action=argparse.BooleanOptionalAction, default=True, help="switch each off once")
    parser.add_argument(
        "--result",
        type=Path,
        help=RESULT_HELP,
    )
    parser.add_argument("--keep", type=Path, help="keep files of rounds with findings here")
    return parser.parse_args()


async def _real_parts(options: argparse.Namespace, progress: Progress, deadline: float) -> None:
    with tempfile.TemporaryDirectory(prefix="turnlog-faults-") as name:
        folder = Path(name)
        wanted = options.defences or not _enough(options, summary(progress.of(Round)))
        if wanted and time.monotonic() < deadline:
            async with fault_broker(folder) as broker:
                await _rounds(options, progress, deadline, broker, folder)
                if options.defences:
                    await _defences(options, progress, deadline, broker, folder)
        if not _enough_leaders(options, leaders.summary(progress.of(leaders.Moved))) and time.monotonic() < deadline:
            async with fault_cluster(folder) as cluster:
                await _leaders(options, progress, deadline, cluster, folder)


async def _rounds(
    options: argparse.Namespace, progress: Progress, deadline: float, broker: FaultBroker, folder: Path
) -> None:
    """Rounds until there are enough kills and zombies."""
    for number in range(len(progress.of(Round)), MAX_ROUNDS):
        found = summary(progress.of(Round))
        if _enough(options, found) or time.monotonic() > deadline:
            break
        here = folder / f"round-{number}"
        one = await run_round(broker, here, options.seed, number)
        progress.add(one)
        _say(
            f"round {number}: {one.kills} kills, {one.zombies} zombies, "
            f"{sum(one.link_faults.values())} link faults, {one.turns} turns, "
            f"{one.seconds:.0f} s, {one.late_frames} late frames, {len(one.bad)} anomalies"
        )
        _put_away(options, here, one.bad)


async def _leaders(
    options: argparse.Namespace, progress: Progress, deadline: float, cluster: FaultCluster, folder: Path
) -> None:
    """Rounds until enough leaders have moved."""
    for number in range(len(progress.of(leaders.Moved)), MAX_ROUNDS):
        found = leaders.summary(progress.of(leaders.Moved))
        if _enough_leaders(options, found) or time.monotonic() > deadline:
            break
        here = folder / f"leaders-{number}"
        one = await leaders.run_moves(cluster, here, options.seed, number)
        progress.add(one)
        _say(
            f"leaders {number}: {sum(one.faults.values())} faults, {one.elections} elections, "
            f"{one.partitions_moved} partitions moved, {one.turns} turns, {one.seconds:.0f} s, "
            f"{one.late_frames} late frames, {len(one.bad)} anomalies"
        )
        _put_away(options, here, one.bad)


def _put_away(options: argparse.Namespace, here: Path, bad: list[str]) -> None:
    """Keep the files of a round with findings, if somebody wants them."""
    for text in bad[:10]:
        _say(f"  {text[:2000]}")
    if bad and options.keep:
        shutil.copytree(here, options.keep / here.name, dirs_exist_ok=True)
    shutil.rmtree(here, ignore_errors=True)


def _enough(options: argparse.Namespace, found: dict[str, Any]) -> bool:
    return bool(
        found["kills"] >= options.kills
        and found["zombies"] >= options.zombies
        and found["broker_restarts"] >= options.broker_restarts
        and min(found["link_faults"].values()) >= options.link_faults
    )


def _enough_leaders(options: argparse.Namespace, found: dict[str, Any]) -> bool:
    return bool(min(found["faults"].values()) >= options.leaders)


async def _defences(
    options: argparse.Namespace, progress: Progress, deadline: float, broker: FaultBroker, folder: Path
) -> None:
    """Each defence that was not switched off yet, then all of them up."""
    known = {one.defence for one in progress.of(Tried)}
    for number, recipe in enumerate([*RECIPES, None]):
        if (recipe.defence if recipe else "") in known or time.monotonic() > deadline:
            continue
        here = folder / f"without-{number}"
        if recipe is not None:
            one = await try_without(broker, here, options.seed, recipe)
        else:
            one = await try_with_all(broker, here, options.seed)
        progress.add(one)
        _say(str(one))
        shutil.rmtree(here, ignore_errors=True)


def _report(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    found = summary(progress.of(Round))
    moved = leaders.summary(progress.of(leaders.Moved))
    tried = progress.of(Tried)
    simulated = Simulated.of(progress.of(Chunk))
    amiss = [one for one in tried if not as_they_should(one)]
    done = (
        _enough(options, found)
        and _enough_leaders(options, moved)
        and simulated.seeds >= options.seeds
        and (len(tried) > len(RECIPES) or not options.defences)
    )
    return {
        "ok": done and not found["anomalies"] and not moved["anomalies"] and not amiss and not simulated.failing,
        "date": datetime.now(UTC).date().isoformat(),
        "version": version("turnlog"),
        "machine": f"{psutil.cpu_count()} cores, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}, load average {psutil.getloadavg()[1]:.1f}",
        "runs": [
            *_rows_of_rounds(options, found),
            *_rows_of_leaders(options, moved),
            *_rows_of_defences(options, tried),
            *_rows_of_seeds(simulated),
        ],
        "faults": found,
        "leaders": moved,
        "defences": {one.defence or "all of them": one.found for one in tried},
        "simulation": simulated.as_json(),
    }


def _rows_of_rounds(options: argparse.Namespace, found: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [
        {"what": "workers killed (at every named point, and anywhere)", "count": found["kills"]},
        {"what": "workers paused past their session timeout (zombies)", "count": found["zombies"]},
        {"what": "materializers killed in the middle of a commit", "count": found["materializer_kills"]},
        {"what": "brokers killed and started again under load", "count": found["broker_restarts"]},
        {"what": "workers that joined and left, one after the other (rebalances)", "count": found["guests"]},
        *(
            {"what": f"links between a process and the broker: {fault}", "count": count}
            for fault, count in found["link_faults"].items()
        ),
    ]
    same = {"anomalies": found["anomalies"], "seeds": f"{options.seed}", "seconds": found["seconds"]}
    return [row | same for row in rows]


def _rows_of_leaders(options: argparse.Namespace, moved: dict[str, Any]) -> list[dict[str, Any]]:
    if not moved["rounds"]:
        return []
    same = {"anomalies": moved["anomalies"], "seeds": f"{options.seed}", "seconds": moved["seconds"]}
    rows = [
        {"what": f"nodes of three that lead partitions, {fault} and back", "count": count}
        for fault, count in moved["faults"].items()
    ]
    rows.append({"what": "partitions whose leader became another one by that", "count": moved["partitions_moved"]})
    return [row | same for row in rows]


def _rows_of_defences(options: argparse.Namespace, tried: list[Tried]) -> list[dict[str, Any]]:
    if not tried:
        return []
    row = {
        "what": "defences switched off on real parts, each of them noticed",
        "count": sum(bool(one.defence) for one in tried),
        "anomalies": sum(not as_they_should(one) for one in tried),
        "seeds": f"{options.seed}",
        "seconds": round(sum(one.seconds for one in tried), 1),
    }
    return [row]


def _rows_of_seeds(simulated: Simulated) -> list[dict[str, Any]]:
    if not simulated.ranges:
        return []
    row = {
        "what": "simulated runs",
        "count": simulated.seeds,
        "anomalies": simulated.failing,
        "seeds": ", ".join(f"{low}-{high - 1}" for low, high in simulated.ranges),
        "seconds": simulated.seconds,
    }
    return [row]


def _say(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
