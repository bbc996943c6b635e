"""Every case of the benchmark, with its sizes."""

import argparse
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import (
    analysts,
    channels,
    hosts,
    http_first_delta,
    http_streams,
    latency,
    long_sessions,
    memory,
    neighbours,
    open_turns,
    rebuild,
    restarts,
    rolling,
    starts,
    steady,
    streams,
    takeover,
    throughput,
)
from benchmarks.builds import Build, build_of, this_build
from benchmarks.deployment import Deployment

SCALE, HTTP = "scale", "http"
WITH_BARS = (SCALE, HTTP)
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


def jobs_of(options: argparse.Namespace, sizes: Path) -> list[Job]:
    """Those that the options ask for; ``sizes``: where a worker's case leaves for the bare ones what it sent."""
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
    jobs.append(
        Job(
            kind="latency",
            name="latency-bare",
            what="the bare agent, records sent and confirmed in batches",
            run=lambda deployment: latency.measure_bare(pace, deployment, "batched", sizes),
        )
    )
    jobs += [*_scale_jobs(options.quick, options.against, options.kills), *_side_by_side_jobs(options)]
    jobs += [
        *_lost_worker_jobs(options.quick),
        *_table_jobs(options.quick, options.sessions),
        *_http_jobs(options.quick),
    ]
    if options.quick:
        jobs = [replace(job, partitions=min(job.partitions or _QUICK_PARTITIONS, _QUICK_PARTITIONS)) for job in jobs]
    return _chosen(jobs, options.cases)


def _chosen(jobs: list[Job], cases: str | None) -> list[Job]:
    if cases:
        wanted = set(cases.split(","))
        unknown = wanted - {job.name for job in jobs}.union(WITH_BARS)
        if unknown:
            names = ", ".join(job.name for job in jobs)
            raise SystemExit(
                f"no such case: {', '.join(sorted(unknown))}; there are {names}; or a kind: {', '.join(WITH_BARS)}"
            )
        jobs = [job for job in jobs if job.name in wanted or (job.kind in WITH_BARS and job.kind in wanted)]
    names = [job.name for job in jobs]  # in their order here: a worker's come first
    if any("bare" in name.split("-") for name in names) and not any(name.startswith("worker") for name in names):
        raise SystemExit(
            "a bare agent sends records of the sizes that a worker's case of throughput found: add one, such as worker"
        )
    return jobs


def _table_jobs(quick: bool, sessions: int | None) -> list[Job]:
    events, messages = (600, 2_000) if quick else (1_000_000, 1_000_000)
    log = rebuild.many_sessions(sessions) if sessions else rebuild.Log(events=events)
    return [
        Job(
            kind=SCALE,
            name="rebuild",
            what="the analysts' file made anew",
            run=lambda to: rebuild.measure(log, to, rounds=1 if quick or sessions else 2, say=say),
            partitions=3 if quick else 12,
            sizes={"events": log.events, **({"wanted_sessions": sessions} if sessions else {})},
        ),
        Job(
            kind=SCALE,
            name="analysts",
            what="questions to the analysts' file, and its snapshots",
            run=lambda to: analysts.measure(messages, to, commits=2 if quick else 40, say=say),
            partitions=1,
            sizes={"messages": messages},
        ),
    ]


def _scale_jobs(quick: bool, against: str | None, kills: int) -> list[Job]:
    before = build_of(against, say) if against else None
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
    events, idle, kills = (2_000, 200, 1) if quick else (1_000_000, 100_000, kills)

    def job(name: str, what: str, run: Callable[[Deployment], Any], *, partitions: int | None = 1, **sizes: int) -> Job:
        return Job(kind=SCALE, name=name, what=what, run=run, partitions=partitions, sizes=sizes)

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
            lambda to: takeover.measure(events, to, rounds=1 if quick else 2, before=before, say=say),
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
            lambda to: steady.measure(builds, to, seconds=2 if quick else 60, rounds=1 if quick else 2, say=say),
        ),
        job(
            "start",
            "from a command line to work",
            lambda to: starts.measure(builds, to, rounds=1 if quick else 3, say=say),
        ),
        job(
            "restart",
            "workers that are killed and started again",
            lambda to: restarts.measure(kills, to, sessions=12 if quick else 24, say=say),
            partitions=None,
            kills=kills,
        ),
    ]


def _side_by_side_jobs(options: argparse.Namespace) -> list[Job]:
    few = options.quick
    words, delta_ms = options.words or (20 if few else 600), options.delta_ms or 33

    def of(count: int) -> streams.Streams:
        return streams.Streams(streams=count, words=words, delta_ms=delta_ms, start_s=0.2 if few else 5.0)

    def side_by_side(name: str, load: streams.Streams) -> Job:
        what = "slow answers side by side"
        return Job(kind=SCALE, name=name, what=what, run=lambda to: streams.measure(load, to), sizes=asdict(load))

    many = streams.Streams(
        streams=20 if few else 9_900,
        words=6 if few else 75,
        delta_ms=1_000 if few else 2_000,
        start_s=0.2 if few else 40.0,
    )
    beside = neighbours.Neighbours(
        **(
            {"rounds": 1, "chats": 10, "sessions": 5, "long_ms": 4_000}
            if few
            else {"rounds": 3, "chats": 500, "sessions": 50, "long_ms": 60_000}
        )
    )
    return [
        side_by_side("streams", of(options.streams or (10 if few else 2_000))),
        side_by_side("streams-3000", of(15 if few else 3_000)),
        side_by_side("streams-5000", of(20 if few else 5_000)),
        Job(
            kind=SCALE,
            name="open-turns",
            what="as many open turns as there may be",
            run=lambda to: open_turns.measure(many, 5 if few else 200, to),
            sizes=asdict(many),
        ),
        Job(
            kind=SCALE,
            name="neighbours",
            what="short turns beside a long one",
            run=lambda to: neighbours.measure(beside, to, say=say),
            partitions=1,
            sizes=asdict(beside),
        ),
    ]


def _lost_worker_jobs(quick: bool) -> list[Job]:
    kills, rounds, sessions = (1, 1, 12) if quick else (6, 3, 24)
    return [
        Job(
            kind=SCALE,
            name="host",
            what="a host that is gone",
            run=lambda to: hosts.measure(kills, to, sessions=sessions, say=say),
            sizes={"kills": kills},
        ),
        Job(
            kind=SCALE,
            name="rolling",
            what="three workers restarted one after the other",
            run=lambda to: rolling.measure(rounds, to, rate_per_s=5 if quick else 30, say=say),
        ),
    ]


def _http_jobs(quick: bool) -> list[Job]:
    load = http_streams.Streams(streams=20 if quick else 2_000, rate=10 if quick else 2, seconds=1 if quick else 30)
    pairs = 3 if quick else 200
    return [
        Job(
            kind=HTTP,
            name="http-streams",
            what="open event streams on one gateway",
            run=lambda to: http_streams.measure(load, to),
            sizes=asdict(load),
        ),
        Job(
            kind=HTTP,
            name="http-first-delta",
            what="first delta over HTTP, beside the Kafka client",
            run=lambda to: http_first_delta.measure(pairs, to),
            sizes={"pairs": pairs},
        ),
    ]


def say(line: str) -> None:
    """What happens meanwhile, for people."""
    print(line, file=sys.stderr, flush=True)
