"""``python -m benchmarks``: measure, print the figures, write them down."""

import argparse
import asyncio
import contextlib
import datetime
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import latency, meter, report, throughput
from benchmarks.deployment import Deployment
from turnlog_workers.base.config import Settings
from turnlog_workers.devstack.broker import DevBroker

_HERE = Path(__file__).parent
_RESULT = _HERE / "results" / "latest.json"
_PAGE = _HERE.parent / "docs" / "benchmarks.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One case of one kind, to be run several times."""

    kind: str
    name: str
    what: str
    run: Callable[[Deployment], Coroutine[Any, Any, dict[str, Any]]]


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small run of each: does everything work?")
    parser.add_argument("--runs", type=int, help="of each case, one case after the other (default: 5)")
    parser.add_argument("--turns", type=int, help="of a throughput run (default: 6000)")
    parser.add_argument("--seconds", type=float, help="of a latency run (default: 20)")
    parser.add_argument("--cases", help="comma-separated, of those in the result; the bare ones need a worker's")
    parser.add_argument("--bootstrap-server", help="measure on this broker (default: starts one of its own)")
    parser.add_argument("--output", type=Path, default=_RESULT, help=f"default: {_RESULT.relative_to(_HERE.parent)}")
    parser.add_argument("--docs", action="store_true", help=f"write the tables into {_PAGE.relative_to(_HERE.parent)}")
    return parser.parse_args(argv)


def _jobs(options: argparse.Namespace, sizes: Path) -> list[Job]:
    load = throughput.Load(
        turns=options.turns or (300 if options.quick else 6000),
        sessions=50 if options.quick else 500,
        store_interval_s=0.5 if options.quick else Settings().store_commit_interval_s,
    )
    pace = latency.Pace(
        rate_per_s=50,
        seconds=options.seconds or (2 if options.quick else 20),
        warm_up_s=1 if options.quick else 4,
        sessions=load.sessions,
    )
    jobs = [
        Job(
            kind="throughput",
            name=case.name,
            what=case.what,
            run=lambda deployment, case=case: throughput.measure(case, load, deployment, sizes),  # type: ignore[misc]
        )
        for case in throughput.CASES
    ]
    jobs += [
        Job(
            kind="latency",
            name=f"latency-{framing}",
            what=f"{pace.rate_per_s:g} requests/s, {framing}",
            run=lambda deployment, framing=framing: latency.measure(  # type: ignore[misc]
                pace, deployment, framing=framing
            ),
        )
        for framing in ("avro", "json")
    ]
    if options.cases:
        wanted = options.cases.split(",")
        unknown = set(wanted) - {job.name for job in jobs}
        if unknown:
            raise SystemExit(f"no such case: {', '.join(unknown)}; there are {', '.join(job.name for job in jobs)}")
        jobs = [job for job in jobs if job.name in wanted]
    if jobs[0].name.startswith("bare"):
        raise SystemExit("a bare agent sends what a worker sent before it: put a worker's case first")
    return jobs


@contextlib.contextmanager
def _broker(options: argparse.Namespace, directory: Path) -> Iterator[tuple[str, int | None]]:
    """Address and process id of the broker to measure on."""
    if options.bootstrap_server:
        yield options.bootstrap_server, None
        return
    with DevBroker(directory / "broker", preferred_port=None, say=_say) as broker:
        yield broker.bootstrap_server, broker.pid


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _measure(jobs: list[Job], runs: int, broker: tuple[str, int | None], directory: Path) -> list[dict[str, Any]]:
    """Every case once, then again: what changes on the machine meanwhile meets all of them."""
    address, pid = broker
    found: dict[str, list[dict[str, Any]]] = {job.name: [] for job in jobs}
    for number in range(1, runs + 1):
        for job in jobs:
            deployment = Deployment(address, directory / f"{number}-{job.name}", pid)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                result = runner.run(job.run(deployment))
            found[job.name].append(result)
            shown = {name: round(value, 2) if isinstance(value, float) else value for name, value in result.items()}
            _say(f"run {number} of {runs}, {job.name}: {json.dumps(shown)}")
    return [
        {
            "kind": job.kind,
            "name": job.name,
            "what": job.what,
            "summary": report.summary(found[job.name]),
            "runs": found[job.name],
        }
        for job in jobs
    ]


def main(argv: list[str]) -> int:
    """Run the benchmark; the exit code."""
    options = _arguments(argv)
    runs = options.runs or (1 if options.quick else 5)
    with tempfile.TemporaryDirectory(prefix="turnlog-bench-") as temporary:
        directory = Path(temporary)
        jobs = _jobs(options, directory / "sizes.json")
        with _broker(options, directory) as broker:
            cases = _measure(jobs, runs, broker, directory)
    result = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "command": shlex.join(["python", "-m", "benchmarks", *argv]),
        "commit": meter.commit(),
        "machine": meter.machine(),
        "runs": runs,
        "cases": cases,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    figures = report.tables(result)
    print(figures)
    if options.docs:
        report.write_into(_PAGE, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
