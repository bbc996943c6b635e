"""``python -m benchmarks``: measure, print the figures, write them down."""

import argparse
import asyncio
import contextlib
import datetime
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import (
    analysts,
    channels,
    http_first_delta,
    http_streams,
    latency,
    long_sessions,
    memory,
    meter,
    rebuild,
    report,
    restarts,
    scale,
    starts,
    steady,
    streams,
    takeover,
    throughput,
)
from benchmarks.builds import Build, build_of, this_build
from benchmarks.deployment import Deployment
from turnlog_workers.devstack.broker import DevBroker

_HERE = Path(__file__).parent
_RESULT = _HERE / "results" / "latest.json"
_PAGE = _HERE.parent / "docs" / "benchmarks.md"
_SCALE, _HTTP = "scale", "http"
#: Kinds of cases with bars: what each takes turns with is inside it, so each goes once.
_BARS = {_SCALE: scale.BARS, _HTTP: http_streams.BARS}
_CHARTS = {_SCALE: scale.CHARTS, _HTTP: http_streams.CHARTS}
_QUICK_PARTITIONS = 2  #: each is a file of the worker and a directory of the broker, times three
_CHANNELS = {"many": 200_000, "few": 200, "rounds": 5, "each_round": 20, "chats": 20}
_LONG_SESSIONS = {"long_turns": 20_000, "short_turns": 20, "of_each": 3, "warm_chats": 150, "cold_chats": 20}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One case of one kind, to be run several times."""

    kind: str
    name: str
    what: str
    run: Callable[[Deployment], Coroutine[Any, Any, dict[str, Any]]]
    partitions: int | None = None  #: absent: the default
    sizes: Mapping[str, int] = field(default_factory=dict)  #: of a case with bars


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small run of each: does everything work?")
    parser.add_argument("--runs", type=int, help="of each case, one case after the other (default: 5)")
    parser.add_argument("--turns", type=int, help="of a throughput run (default: 6000)")
    parser.add_argument("--streams", type=int, help="of the case streams (default: 2000)")
    parser.add_argument("--words", type=int, help="of each of its answers (default: 600)")
    parser.add_argument("--delta-ms", type=int, help="from one of their words to the next (default: 33)")
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
    parser.add_argument("--docs", action="store_true", help=f"write the tables into {_PAGE.relative_to(_HERE.parent)}")
    return parser.parse_args(argv)


def _jobs(options: argparse.Namespace, sizes: Path) -> list[Job]:
    load = throughput.Load(
        turns=options.turns or (300 if options.quick else 6000), sessions=50 if options.quick else 500
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
    jobs += [*_scale_jobs(options.quick, options.against), _streams_job(options)]
    jobs += [*_table_jobs(options.quick), *_http_jobs(options.quick)]
    if options.quick:
        jobs = [replace(job, partitions=min(job.partitions or _QUICK_PARTITIONS, _QUICK_PARTITIONS)) for job in jobs]
    return _chosen(jobs, options.cases)


def _chosen(jobs: list[Job], cases: str | None) -> list[Job]:
    if cases:
        wanted = set(cases.split(","))
        unknown = wanted - {job.name for job in jobs} - _BARS.keys()
        if unknown:
            names = ", ".join(job.name for job in jobs)
            raise SystemExit(
                f"no such case: {', '.join(sorted(unknown))}; there are {names}; or a kind: {', '.join(_BARS)}"
            )
        jobs = [job for job in jobs if job.name in wanted or (job.kind in _BARS and job.kind in wanted)]
    if jobs[0].name.startswith("bare"):
        raise SystemExit("a bare agent sends what a worker sent before it: put a worker's case first")
    return jobs


def _table_jobs(quick: bool) -> list[Job]:
    events, messages = (600, 2_000) if quick else (1_000_000, 1_000_000)
    return [
        Job(
            kind=_SCALE,
            name="rebuild",
            what="the analysts' file made anew",
            run=lambda to: rebuild.measure(events, to, rounds=1 if quick else 2, say=_say),
            partitions=3 if quick else 12,
            sizes={"events": events},
        ),
        Job(
            kind=_SCALE,
            name="analysts",
            what="questions to the analysts' file, and its snapshots",
            run=lambda to: analysts.measure(messages, to, commits=2 if quick else 40, say=_say),
            partitions=1,
            sizes={"messages": messages},
        ),
    ]


def _scale_jobs(quick: bool, against: str | None) -> list[Job]:
    before = build_of(against, _say) if against else None
    builds: list[Build] = [this_build(), *([before] if before is not None else [])]
    channel = channels.Channels(
        **({"many": 300, "few": 20, "rounds": 1, "each_round": 2, "chats": 2} if quick else _CHANNELS)
    )
    session = long_sessions.Sessions(
        **(
            {"long_turns": 60, "short_turns": 5, "of_each": 1, "warm_chats": 2, "cold_chats": 1}
            if quick
            else _LONG_SESSIONS
        )
    )
    events, idle, kills = (2_000, 200, 1) if quick else (1_000_000, 100_000, 12)

    def job(name: str, what: str, run: Callable[[Deployment], Any], *, partitions: int | None = 1, **sizes: int) -> Job:
        return Job(kind=_SCALE, name=name, what=what, run=run, partitions=partitions, sizes=sizes)

    return [
        job("channel", "channels of any size", lambda to: channels.measure(channel, to), **asdict(channel)),
        job(
            "long-session",
            "sessions of any length",
            lambda to: long_sessions.measure(session, to),
            **{**asdict(session), "seen": session.seen},
        ),
        job(
            "takeover",
            "a partition never owned",
            lambda to: takeover.measure(events, to, rounds=1 if quick else 2, before=before, say=_say),
            events=events,
        ),
        job(
            "idle",
            "sessions at rest",
            lambda to: memory.measure(to, idle, passes=1 if quick else 2, idle_s=0.2 if quick else memory.IDLE_S),
            partitions=None,
            sessions=idle,
        ),
        job(
            "steady",
            "50 turns a second",
            lambda to: steady.measure(builds, to, seconds=2 if quick else 60, rounds=1 if quick else 2, say=_say),
        ),
        job(
            "start",
            "from a command line to work",
            lambda to: starts.measure(builds, to, rounds=1 if quick else 3, say=_say),
        ),
        job(
            "restart",
            "workers that are killed and started again",
            lambda to: restarts.measure(kills, to, sessions=12 if quick else 24, say=_say),
            partitions=None,
            kills=kills,
        ),
    ]


def _streams_job(options: argparse.Namespace) -> Job:
    few = options.quick
    load = streams.Streams(
        streams=options.streams or (10 if few else 2_000),
        words=options.words or (20 if few else 600),
        delta_ms=options.delta_ms or 33,
        start_s=0.2 if few else 5.0,
    )
    return Job(
        kind=_SCALE,
        name="streams",
        what="slow answers side by side",
        run=lambda to: streams.measure(load, to),
        sizes=asdict(load),
    )


def _http_jobs(quick: bool) -> list[Job]:
    load = http_streams.Streams(streams=20 if quick else 2_000, rate=10 if quick else 2, seconds=1 if quick else 30)
    pairs = 3 if quick else 200
    return [
        Job(
            kind=_HTTP,
            name="http-streams",
            what="open event streams on one gateway",
            run=lambda to: http_streams.measure(load, to),
            sizes=asdict(load),
        ),
        Job(
            kind=_HTTP,
            name="http-first-delta",
            what="first delta over HTTP, beside the Kafka client",
            run=lambda to: http_first_delta.measure(pairs, to),
            sizes={"pairs": pairs},
        ),
    ]


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
            _say(f"run {number} of {runs}, {job.name}: {json.dumps(shown)}")
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
        jobs = _jobs(options, directory / "sizes.json")
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
        figures = report.tables(result)
        print(figures)
        if options.docs:
            report.write_into(_PAGE, figures)
    for line in missed:
        _say(line)
    return int(bool(missed) and not options.quick)


def _again(case: Mapping[str, Any]) -> str:
    """The command that measures one case as it was measured, on anybody's machine."""
    against = case["runs"][0].get("against")
    return f"python -m benchmarks --cases {case['name']}" + (f" --against {against}" if against else "")


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
