"""``python -m benchmarks``: measure, print the figures, write them down."""

import argparse
import asyncio
import contextlib
import datetime
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import http_streams, meter, report, scale
from benchmarks.deployment import Deployment
from benchmarks.jobs import HTTP, SCALE, Job, jobs_of, say
from turnlog_workers.devstack.broker import DevBroker

_HERE = Path(__file__).parent
_RESULT = _HERE / "results" / "latest.json"
_PAGE = _HERE.parent / "docs" / "benchmarks.md"
#: Kinds of cases with bars: what each takes turns with is inside it, so each goes once.
_BARS = {SCALE: scale.BARS, HTTP: http_streams.BARS}
_CHARTS = {SCALE: scale.CHARTS, HTTP: http_streams.CHARTS}


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small run of each: does everything work?")
    parser.add_argument("--runs", type=int, help="of each case, one case after the other (default: 5)")
    parser.add_argument("--turns", type=int, help="of a throughput run (default: 6000)")
    parser.add_argument("--streams", type=int, help="of the case streams (default: 2000)")
    parser.add_argument("--words", type=int, help="of each of its answers (default: 600)")
    parser.add_argument("--delta-ms", type=int, help="from one of their words to the next (default: 33)")
    parser.add_argument(
        "--sessions", type=int, help="of the case rebuild: so many with ten messages each (default: 1,000,000 events)"
    )
    parser.add_argument("--kills", type=int, default=12, help="of the case restart (default: 12)")
    parser.add_argument("--seconds", type=float, help="of a latency run (default: 20)")
    parser.add_argument(
        "--cases",
        help="comma-separated; the bare ones need a worker's; scale: those of streams of any size; http: the gateway's",
    )
    parser.add_argument(
        "--against",
        metavar="COMMIT",
        help="a build before, or a checkout of it with a .venv: steady, start and takeover compare",
    )
    parser.add_argument("--bootstrap-server", help="measure on this broker (default: starts one of its own)")
    parser.add_argument("--output", type=Path, default=_RESULT, help=f"default: {_RESULT.relative_to(_HERE.parent)}")
    parser.add_argument(
        "--docs",
        action="store_true",
        help=f"write the tables of what is measured into {_PAGE.relative_to(_HERE.parent)}",
    )
    return parser.parse_args(argv)


@contextlib.contextmanager
def _broker(options: argparse.Namespace, directory: Path) -> Iterator[tuple[str, int | None]]:
    """Address and process id of the broker to measure on."""
    if options.bootstrap_server:
        yield options.bootstrap_server, None
        return
    with DevBroker(directory / "broker", preferred_port=None, say=say) as broker:
        yield broker.bootstrap_server, broker.pid


def _measure(jobs: list[Job], runs: int, broker: tuple[str, int | None], directory: Path) -> list[dict[str, Any]]:
    """Every case once, then again: what changes on the machine meanwhile meets all of them.

    Cases with bars go once: what they compare takes turns inside them.
    """
    address, pid = broker
    found: dict[str, list[dict[str, Any]]] = {job.name: [] for job in jobs}
    for number in range(1, runs + 1):
        for job in jobs:
            if job.kind in _BARS and number > 1:
                continue
            deployment = Deployment(address, directory / f"{number}-{job.name}", pid, partitions=job.partitions)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                result = runner.run(job.run(deployment))
            found[job.name].append(result)
            shown = {name: round(value, 2) if isinstance(value, float) else value for name, value in result.items()}
            say(f"run {number} of {runs}, {job.name}: {json.dumps(shown)}")
    return [
        {
            "kind": job.kind,
            "name": job.name,
            "what": job.what,
            "sizes": dict(job.sizes),
            "summary": report.summary(found[job.name]),
            "runs": found[job.name],
        }
        for job in jobs
    ]


def main(argv: list[str]) -> int:
    """Run the benchmark; the exit code: 1 when a bar is missed."""
    options = _arguments(argv)
    runs = options.runs or (1 if options.quick else 5)
    with tempfile.TemporaryDirectory(prefix="turnlog-bench-") as temporary:
        directory = Path(temporary)
        jobs = jobs_of(options, directory / "sizes.json")
        with _broker(options, directory) as broker:
            cases = _measure(jobs, runs, broker, directory)
    measured = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "command": shlex.join(["python", "-m", "benchmarks", *argv]),
        "commit": meter.commit(),
        "machine": meter.machine(),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    missed = [
        line
        for kind in _BARS
        for line in _report_bars(options, kind, [case for case in cases if case["kind"] == kind], measured)
    ]
    others = [case for case in cases if case["kind"] not in _BARS]
    if others:
        result = {**measured, "runs": runs, "cases": others}
        options.output.write_text(json.dumps(result, indent=1) + "\n")
        for kind, figures in report.tables(result).items():
            print(figures)
            if options.docs:  # a table of which nothing was measured stays as it is
                report.write_into(_PAGE, figures, name=kind)
    for line in missed:
        say(line)
    return int(bool(missed) and not options.quick)


def _again(case: Mapping[str, Any]) -> str:
    """The command that measures one case as it was measured, on anybody's machine."""
    against, wanted = case["runs"][0].get("against"), case["sizes"].get("wanted_sessions")
    return (
        f"python -m benchmarks --cases {case['name']}"
        + (f" --against {against}" if against else "")
        + (f" --sessions {wanted}" if wanted else "")
    )


def _report_bars(
    options: argparse.Namespace, kind: str, cases: list[dict[str, Any]], measured: dict[str, Any]
) -> list[str]:
    """Write each case's newest run, the table and the charts; the bars that are missed."""
    if not cases:
        return []
    for case in cases:
        about = {**measured, "command": _again(case), "sizes": case["sizes"]}
        known = scale.keep(options.output.with_name(f"{kind}.json"), case, about)
    figures = scale.table(known, _BARS[kind])
    print(figures)
    folder = _PAGE.parent / "results" if options.docs else options.output.parent
    drawn = scale.charts(known, folder, _CHARTS[kind])
    if options.docs:
        report.write_into(_PAGE, figures + "\n" + "\n".join(drawn) + "\n", name=kind)
    return list(scale.missed(known, [case["name"] for case in cases], _BARS[kind]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
