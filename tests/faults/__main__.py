"""The long form: ``python -m tests.faults --kills 100 --zombies 10 --seed S [--minutes 30] [--resume FILE]``.

Rounds of kills at named points, zombies, the materializer's and the broker's deaths; then simulated seeds. Prints one
JSON document; the exit code is 0 only when all of it was done and nothing was amiss.
"""

import argparse
import asyncio
import json
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

from tests.faults.rounds import Round, as_json, run_round, summary
from tests.faults.simulated import Simulated, simulate_seeds
from tests.faults.stack import fault_broker

MAX_ROUNDS = 60


def main() -> int:
    """The command line."""
    options = _options()
    deadline = time.monotonic() + options.minutes * 60
    rounds = asyncio.run(_rounds(options, deadline))
    found = summary(rounds)
    _say(f"{found['kills']} kills, {found['zombies']} zombies, {found['anomalies']} anomalies; now the simulation")
    simulated = simulate_seeds(
        options.first_seed, options.seeds, seconds=max(deadline - time.monotonic(), 1.0) if options.seeds else 0.0
    )
    report = _report(options, found, simulated)
    print(json.dumps(report), flush=True)
    if options.result:
        options.result.parent.mkdir(parents=True, exist_ok=True)
        options.result.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0 if report["ok"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--zombies", type=int, default=10)
    parser.add_argument("--seed", default="1", help="of the faults and of the load")
    parser.add_argument("--minutes", type=float, default=30.0, help="no round and no chunk of seeds begins after that")
    parser.add_argument(
        "--resume", type=Path, help="rounds are written here, and those that are here are not run again"
    )
    parser.add_argument("--seeds", type=int, default=100_000, help="simulated; 0: none")
    parser.add_argument("--first-seed", type=int, default=1_000_000, help="of the simulation")
    parser.add_argument("--result", type=Path, help="write the JSON document here, too (docs/results/faults.json)")
    parser.add_argument("--keep", type=Path, help="keep files of rounds with findings here")
    return parser.parse_args()


async def _rounds(options: argparse.Namespace, deadline: float) -> list[Round]:
    """Rounds until there are enough kills and zombies."""
    rounds = _read(options.resume, options.seed)
    with tempfile.TemporaryDirectory(prefix="turnlog-faults-") as name:
        folder = Path(name)
        async with fault_broker(folder) as broker:
            for number in range(len(rounds), MAX_ROUNDS):
                found = summary(rounds)
                if found["kills"] >= options.kills and found["zombies"] >= options.zombies:
                    break
                if time.monotonic() > deadline:
                    break
                here = folder / f"round-{number}"
                one = await run_round(broker, here, options.seed, number)
                rounds.append(one)
                _write(options.resume, one)
                _say(
                    f"round {number}: {one.kills} kills, {one.zombies} zombies, {one.turns} turns, "
                    f"{one.seconds:.0f} s, {len(one.bad)} anomalies"
                )
                for text in one.bad[:10]:
                    _say(f"  {text[:2000]}")
                if one.bad and options.keep:
                    shutil.copytree(here, options.keep / here.name, dirs_exist_ok=True)
                shutil.rmtree(here, ignore_errors=True)
    return rounds


def _read(path: Path | None, seed: str) -> list[Round]:
    if path is None or not path.exists():
        return []
    rounds = [Round(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    if any(each.seed != f"{seed}/{each.number}" for each in rounds):
        raise SystemExit(f"{path} holds rounds of another seed than {seed}")
    return rounds


def _write(path: Path | None, one: Round) -> None:
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(as_json(one)) + "\n")


def _report(options: argparse.Namespace, found: dict[str, Any], simulated: Simulated) -> dict[str, Any]:
    seeds = ", ".join(f"{low}-{high - 1}" for low, high in simulated.ranges)
    enough = (
        found["kills"] >= options.kills and found["zombies"] >= options.zombies and simulated.seeds >= options.seeds
    )
    runs = [
        {"what": "workers killed (at every named point, and anywhere)", "count": found["kills"]},
        {"what": "workers paused past their session timeout (zombies)", "count": found["zombies"]},
        {"what": "materializers killed in the middle of a commit", "count": found["materializer_kills"]},
        {"what": "brokers killed and started again under load", "count": found["broker_restarts"]},
    ]
    for run in runs:
        run |= {"anomalies": found["anomalies"], "seeds": f"{options.seed}", "seconds": found["seconds"]}
    if simulated.seeds or simulated.said:
        runs.append(
            {
                "what": "simulated runs",
                "count": simulated.seeds,
                "anomalies": simulated.failing,
                "seeds": seeds,
                "seconds": simulated.seconds,
            }
        )
    return {
        "ok": enough and not found["anomalies"] and not simulated.failing,
        "date": datetime.now(UTC).date().isoformat(),
        "version": version("turnlog"),
        "machine": f"{psutil.cpu_count()} cores, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}, load average {psutil.getloadavg()[1]:.1f}",
        "runs": runs,
        "faults": found,
        "simulation": {"seeds": simulated.seeds, "failing": simulated.failing, "said": simulated.said},
    }


def _say(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
