"""``python -m benchmarks.crash_loop``: how long do chats wait while a second worker is killed again and again?

One worker runs all the time. A second one is killed some seconds after each start and started again at once. Chats
come at a steady rate, for sessions of all partitions, answered or not. Reported is how long they waited from when they
were due to the end of their turn: all, and those whose partition the first worker owned when they were due, as the
claims in the log say. The exit code is 1 when a chat was not answered, a turn ended twice or a limit was passed.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import meter
from benchmarks.deployment import Deployment
from benchmarks.latency import percentile
from benchmarks.load import Broker, Request, requests
from turnlog_schemas.codec import Codec
from turnlog_schemas.events import PartitionClaimed, TurnCancelled, TurnCompleted, TurnFailed
from turnlog_schemas.frames import TERMINAL_FRAMES
from turnlog_schemas.registry import EVENTS, FRAMES
from turnlog_streams.reader_rule import LogPosition, advance, is_accepted
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.devstack.launch import launch_argv

STEADY, DYING = "steady", "dying"
#: In seconds: of all chats, and of those that the steady worker owned.
LIMITS = {"all": {"p50_s": 0.1, "p90_s": 4.0, "max_s": 8.0}, STEADY: {"p99_s": 0.5}}
_MODEL = "echo:?deltas=3"
_ANSWER_TIMEOUT_S = 120.0
_MAX_SECONDS = 600.0
_POLL_S = 0.1
_SHOWN = 10
_TURN_ENDS = (TurnCompleted, TurnFailed, TurnCancelled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """What is done to whom, and for how long."""

    seconds: float
    rate_per_s: float
    sessions: int
    killed_after_s: float
    python: str  #: whose ``-m turnlog worker`` it is: that of another build, perhaps
    directory: str | None  #: where that build is


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A claim in the log."""

    partition: int
    at: float  #: wall clock, seconds
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What was seen from outside."""

    due: dict[str, tuple[float, int]]  #: by request id: wall clock, partition
    ended: dict[str, float]  #: the first terminal frame
    kills: int
    claims: list[Claimed]  #: in the order of each partition
    turns_ended: dict[str, int]  #: accepted terminal events by turn id


def main(argv: list[str]) -> int:
    """Measure; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash_loop", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--rate", type=float, default=20.0, help="chats a second")
    parser.add_argument("--sessions", type=int, default=120)
    parser.add_argument("--killed-after", type=float, default=7.0, help="seconds from a start to its kill")
    parser.add_argument("--python", default=sys.executable, help="of the build to measure (default: this one's)")
    parser.add_argument("--directory", help="where that build is")
    parser.add_argument("--bootstrap-server", help="measure on this broker (default: starts one of its own)")
    parser.add_argument("--output", type=Path, help="write the JSON document here, too")
    parser.add_argument("--logs", type=Path, help="keep the workers' logs in this folder")
    options = parser.parse_args(argv)
    loop = Loop(
        seconds=min(options.seconds, _MAX_SECONDS),
        rate_per_s=options.rate,
        sessions=options.sessions,
        killed_after_s=options.killed_after,
        python=options.python,
        directory=options.directory,
    )
    with tempfile.TemporaryDirectory(prefix="turnlog-crash-loop-") as temporary:
        folder = Path(temporary)
        with _broker(options.bootstrap_server, folder) as address:
            deployment = Deployment(address, folder / "deployment", None)
            load_before = meter.load_average()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                played = runner.run(_play(deployment, loop))
            for name in (STEADY, DYING) if options.logs else ():
                options.logs.mkdir(parents=True, exist_ok=True)
                shutil.copy(deployment.log_path(name), options.logs)
    result = verdict(played, opened=loop.sessions) | {
        "seconds": loop.seconds,
        "rate_per_s": loop.rate_per_s,
        "killed_after_s": loop.killed_after_s,
        "load_average": [round(load_before, 2), round(meter.load_average(), 2)],
        "commit": meter.commit(),
        "machine": meter.machine(),
    }
    document = json.dumps(result, indent=1)
    print(document)
    if options.output:
        options.output.write_text(document + "\n")
    return 1 if result["problems"] else 0


@contextlib.contextmanager
def _broker(address: str | None, folder: Path) -> Iterator[str]:
    if address:
        yield address
        return
    with DevBroker(folder / "broker", preferred_port=None, say=_say) as broker:
        yield broker.bootstrap_server


class _Worker:
    """A worker of the build that is measured; it does not outlive this process."""

    def __init__(self, deployment: Deployment, loop: Loop, name: str) -> None:
        self._deployment, self._loop, self.name = deployment, loop, name
        self.starts = 0

    def start(self) -> None:
        """Begin; it is not ready yet."""
        self.starts += 1
        settings = self._deployment.settings
        self.ready_file = settings.data_dir / f"{self.name}.{self.starts}.ready"
        settings.data_dir.mkdir(exist_ok=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TURNLOG_")} | {
            "TURNLOG_BOOTSTRAP_SERVER": settings.bootstrap_server,
            "TURNLOG_PREFIX": settings.prefix,
            "TURNLOG_DATA_DIR": str(settings.data_dir),
            "TURNLOG_WORKER_NAME": self.name,
            "TURNLOG_READY_FILE": str(self.ready_file),
        }
        with self._deployment.log_path(self.name).open("ab") as output:
            self.process = subprocess.Popen(
                launch_argv((self._loop.python, "-m", "turnlog", "worker")),
                env=environment,
                cwd=self._loop.directory,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    async def until_ready(self) -> None:
        """``TimeoutError`` when it takes a minute."""
        async with asyncio.timeout(60):
            while not self.ready_file.exists():
                if self.process.poll() is not None:
                    raise RuntimeError(
                        f"{self.name} ended:\n{self._deployment.log_path(self.name).read_text()[-2000:]}"
                    )
                await asyncio.sleep(_POLL_S)

    def end(self, how: signal.Signals) -> None:
        """A signal, and wait for what it leads to."""
        self.process.send_signal(how)
        self.process.wait(30)


async def _play(deployment: Deployment, loop: Loop) -> Played:
    workers = [_Worker(deployment, loop, name) for name in (STEADY, DYING)]
    try:
        for worker in workers:
            worker.start()
            await worker.until_ready()
        return await _under_load(deployment, loop, workers[1])
    finally:
        for worker in workers:
            worker.end(signal.SIGKILL)


async def _under_load(deployment: Deployment, loop: Loop, dying: _Worker) -> Played:
    settings = deployment.settings
    count = loop.sessions + int(loop.seconds * loop.rate_per_s)
    made = requests(
        uuid.uuid4().hex[:6],
        count,
        sessions=loop.sessions,
        framing="json",
        partitions=settings.partitions,
        model=_MODEL,
    )
    ended: dict[str, float] = {}
    async with Broker(settings) as broker:
        broker.consumer.assign(broker.tps(settings.topics.replies))
        await broker.consumer.seek_to_beginning()
        reading = asyncio.create_task(_read_replies(broker, ended))
        try:
            await broker.send_all(made[: loop.sessions])  # every session exists before the clock starts
            await _until_ended(ended, loop.sessions, reading)
            killing = asyncio.create_task(_kill_again_and_again(dying, loop.killed_after_s))
            due = await _send(broker, made[loop.sessions :], loop.rate_per_s)
            kills = dying.starts - 1
            if killing.done():
                killing.result()
            killing.cancel()
            with contextlib.suppress(TimeoutError):
                await _until_ended(ended, count, reading)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        claims, turns_ended = await _read_log(broker, settings.topics.events)
    return Played(due=due, ended=ended, kills=kills, claims=claims, turns_ended=turns_ended)


async def _kill_again_and_again(dying: _Worker, after_s: float) -> None:
    while True:
        await asyncio.sleep(after_s)
        dying.end(signal.SIGKILL)
        dying.start()


async def _send(broker: Broker, made: Sequence[Request], rate_per_s: float) -> dict[str, tuple[float, int]]:
    start, due = time.time(), dict[str, tuple[float, int]]()
    for index, request in enumerate(made):
        at = start + index / rate_per_s
        await asyncio.sleep(max(0.0, at - time.time()))
        due[request.request_id] = at, request.partition
        await broker.send(request)
    return due


async def _until_ended(ended: Mapping[str, object], count: int, reading: asyncio.Task[None]) -> None:
    async with asyncio.timeout(_ANSWER_TIMEOUT_S):
        while len(ended) < count:
            if reading.done():
                await reading
            await asyncio.sleep(_POLL_S)


async def _read_replies(broker: Broker, ended: dict[str, float]) -> None:
    codec = Codec(FRAMES)
    while True:
        found = await broker.consumer.getmany(timeout_ms=1000)
        now = time.time()
        for records in found.values():
            for record in records:
                header, frame = codec.from_json(record.value)
                if isinstance(frame, TERMINAL_FRAMES):
                    ended.setdefault(header.request_id, now)


async def _read_log(broker: Broker, topic: str) -> tuple[list[Claimed], dict[str, int]]:
    codec = Codec(EVENTS)
    tps = broker.tps(topic)
    claims, turns_ended = list[Claimed](), dict[str, int]()
    positions = dict.fromkeys(tps, LogPosition())
    broker.consumer.assign(tps)
    await broker.consumer.seek_to_beginning(*tps)
    ends = await broker.consumer.end_offsets(tps)
    async with asyncio.timeout(_ANSWER_TIMEOUT_S):
        while any(positions[tp].next_offset < ends[tp] for tp in tps):
            for tp, records in (await broker.consumer.getmany(timeout_ms=200)).items():
                for record in records:
                    header, payload = codec.decode(record.value)
                    if isinstance(payload, PartitionClaimed):
                        claims.append(Claimed(partition=tp.partition, at=record.timestamp / 1000, owner=payload.owner))
                    elif isinstance(payload, _TURN_ENDS) and is_accepted(positions[tp], header, payload):
                        turns_ended[header.turn_id or ""] = turns_ended.get(header.turn_id or "", 0) + 1
                    positions[tp] = advance(positions[tp], record.offset, header, payload)
    return claims, turns_ended


def verdict(played: Played, *, opened: int) -> dict[str, Any]:
    """The figures, and what is wrong with them. ``opened``: chats that went before the clock started."""
    waits: dict[str, list[float]] = {"all": [], STEADY: []}
    seen: list[tuple[float, float, int, str | None]] = []
    begin = min(due for due, _ in played.due.values())
    for request_id, (due, partition) in played.due.items():
        if request_id in played.ended:
            wait_s, owner = played.ended[request_id] - due, owner_at(played.claims, partition, due)
            seen.append((round(wait_s, 2), round(due - begin, 2), partition, owner))
            waits["all"].append(wait_s)
            if owner == STEADY:
                waits[STEADY].append(wait_s)
    figures = {name: _figures(sorted(found)) for name, found in waits.items() if found}
    problems = [
        f"{name} {figure}: {figures[name][figure]:.2f} s, the limit is {limit:g} s"
        for name, limits in LIMITS.items()
        for figure, limit in limits.items()
        if name in figures and figures[name][figure] > limit
    ]
    unanswered = len(played.due) - len(waits["all"])
    if unanswered:
        problems.append(f"{unanswered} chats were not answered")
    turns, expected = len(played.turns_ended), len(played.due) + opened
    if turns != expected:
        problems.append(f"{turns} turns ended in the log, not {expected}")
    if max(played.turns_ended.values(), default=1) > 1:
        problems.append("a turn ended twice in the log")
    return {
        "chats": {name: len(found) for name, found in waits.items()},
        "unanswered": unanswered,
        "kills": played.kills,
        "claims": dict(Counter(claim.owner for claim in played.claims)),
        **figures,
        "problems": problems,
        "longest": [
            {"waited_s": wait_s, "due_at_s": due_s, "partition": partition, "owner": owner}
            for wait_s, due_s, partition, owner in sorted(seen, key=lambda chat: -chat[0])[:_SHOWN]
        ],
    }


def owner_at(claims: Sequence[Claimed], partition: int, at: float) -> str | None:
    """Who had claimed a partition last at that time."""
    owners = [claim.owner for claim in claims if claim.partition == partition and claim.at <= at]
    return owners[-1] if owners else None


def _figures(ordered: list[float]) -> dict[str, float]:
    figures = {f"p{percent}_s": percentile(ordered, percent) for percent in (50, 90, 99)} | {"max_s": ordered[-1]}
    return {name: round(value, 3) for name, value in figures.items()}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
