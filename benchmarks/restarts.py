"""Workers that are killed and started again by their supervisor: how long their sessions wait for their next words.

Two workers as ``turnlog up`` runs them, sessions whose answers come a word at a time. One worker is killed
(``kill -9``), in turns, and what counts is the time from the kill to the first text of the next attempt, for each
session whose answer was under way in it.
"""

import asyncio
import os
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.deployment import Deployment
from benchmarks.load import Broker, Request
from benchmarks.meter import load_average
from turnlog_schemas.codec import Codec
from turnlog_schemas.commands import CancelTurn, Chat, RequestHeader
from turnlog_schemas.frames import TextDelta, TurnStarted
from turnlog_schemas.parts import text_content
from turnlog_schemas.registry import COMMANDS
from turnlog_streams.topics import partition_of
from turnlog_workers.devstack.supervisor import Child, ChildSpec, Limits

_NAMES = ("worker-1", "worker-2")
_MODEL = "echo:?delta_ms=50"
_TEXT = "word " * 1200  #: a minute
_LIMIT_S = 60.0
_UNDISTURBED_S = 4.0  #: a session that has gone on for so long, and began nothing anew, is another worker's
_POLL_S = 0.02
Until = Callable[[Callable[[], bool]], Awaitable[None]]  #: waits for a condition


@dataclass(slots=True, kw_only=True)
class _Answer:
    attempt: int = 0
    last_at: float = 0.0
    attempts: dict[int, float] = field(default_factory=dict)  #: the first text of each


class _Answers:
    """What is known of each session's answer, by the frames."""

    def __init__(self) -> None:
        self.of: dict[str, _Answer] = {}

    async def read(self, broker: Broker) -> None:
        async for now, header, frame in broker.frames():
            answer = self.of.get(header.session_id)
            if answer is None or header.attempt < answer.attempt:
                continue
            if isinstance(frame, TurnStarted):
                answer.attempt = header.attempt
            elif isinstance(frame, TextDelta):
                answer.attempt, answer.last_at = header.attempt, now
                answer.attempts.setdefault(header.attempt, now)


async def measure(kills: int, deployment: Deployment, *, sessions: int, say: Callable[[str], None]) -> dict[str, Any]:
    """So many kills; the waits in seconds."""
    settings = deployment.settings
    stop = asyncio.Event()
    children = [
        Child(
            ChildSpec(
                name=name,
                argv=(sys.executable, "-P", "-m", "turnlog", "worker"),
                env={
                    "TURNLOG_BOOTSTRAP_SERVER": settings.bootstrap_server,
                    "TURNLOG_PREFIX": settings.prefix,
                    "TURNLOG_PARTITIONS": str(settings.partitions),
                    "TURNLOG_DATA_DIR": str(settings.data_dir),
                    "TURNLOG_WORKER_NAME": name,
                },
            ),
            data_dir=deployment.directory,
            limits=Limits(),
            say=lambda line: None,
            on_change=lambda: None,
            essential=False,
        )
        for name in _NAMES
    ]
    supervisors = [asyncio.create_task(child.supervise(stop)) for child in children]
    waits: list[float] = []
    ready: list[float] = []
    load_before = load_average()
    try:
        for child in children:
            async with asyncio.timeout(_LIMIT_S):
                await child.ready.wait()
        async with Broker(settings) as broker:
            broker.consumer.assign(broker.tps(settings.topics.replies))
            for number in range(kills):
                victim = children[number % len(children)]
                found, ready_s = await _kill(broker, victim, deployment, f"{number}", sessions)
                waits += found
                ready.append(ready_s)
                say(f"restart, kill {number + 1} of {kills}: {', '.join(f'{wait:.2f}' for wait in sorted(found))} s")
    finally:
        stop.set()
        await asyncio.gather(*supervisors, return_exceptions=True)
    waits.sort()
    return {
        "kills": kills,
        "waited": len(waits),
        "next_delta_p50_s": statistics.median(waits),
        "next_delta_p95_s": waits[min(len(waits) - 1, int(0.95 * len(waits)))],
        "next_delta_max_s": waits[-1],
        "ready_s": statistics.median(ready),
        "load_average": [round(load_before, 2), round(load_average(), 2)],
    }


async def _kill(
    broker: Broker, victim: Child, deployment: Deployment, name: str, sessions: int
) -> tuple[list[float], float]:
    """The waits of the sessions that the killed worker had, and until the next process was ready."""
    assert victim.record is not None
    pid, ready_s = victim.record.pid, 0.0

    async def again(killed_at: float, until: Until) -> None:
        nonlocal ready_s
        await until(lambda: not victim.ready.is_set())
        await until(victim.ready.is_set)
        ready_s = time.monotonic() - killed_at

    return await waits_after_kill(broker, deployment, pid, name, sessions=sessions, again=again), ready_s


async def _nobody(killed_at: float, until: Until) -> None:
    """Nothing follows the kill."""


async def waits_after_kill(
    broker: Broker,
    deployment: Deployment,
    pid: int,
    name: str,
    *,
    sessions: int,
    undisturbed_s: float = _UNDISTURBED_S,
    again: Callable[[float, Until], Awaitable[None]] = _nobody,
) -> list[float]:
    """Let so many sessions answer, kill this worker, and see how long each session that it had waits for text, in s.

    A session that goes on for ``undisturbed_s`` is another worker's. ``again`` is awaited behind the kill.
    """
    answers = _Answers()
    answers.of = {f"restart-{name}-{number}": _Answer() for number in range(sessions)}
    reading = asyncio.create_task(answers.read(broker))

    async def until(condition: Callable[[], bool]) -> None:
        await _until(reading, condition)

    try:
        for session_id in answers.of:
            await _send(broker, deployment, session_id, Chat(content=text_content(_TEXT), model=_MODEL))
        await until(lambda: all(answer.last_at for answer in answers.of.values()))
        before = {session_id: answer.attempt for session_id, answer in answers.of.items()}
        killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        await again(killed_at, until)

        def gone_on(session_id: str) -> bool:
            answer = answers.of[session_id]
            begun_again = any(attempt > before[session_id] for attempt in answer.attempts)
            return begun_again or answer.last_at > killed_at + undisturbed_s

        await until(lambda: all(map(gone_on, answers.of)))
        for session_id in answers.of:
            await _send(broker, deployment, session_id, CancelTurn())
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    waits = []
    for session_id, answer in answers.of.items():
        later = [at for attempt, at in answer.attempts.items() if attempt > before[session_id]]
        waits += [min(later) - killed_at] if later else []
    if not waits:
        raise RuntimeError("the worker that was killed had no session")
    return waits


async def _send(broker: Broker, deployment: Deployment, session_id: str, command: Chat | CancelTurn) -> None:
    request_id = f"{session_id}-{type(command).__name__}"
    value = Codec(COMMANDS).encode(RequestHeader(request_id=request_id, session_id=session_id), command)
    key = session_id.encode()
    partition = partition_of(key, deployment.settings.partitions)
    await broker.send(Request(request_id=request_id, partition=partition, key=key, value=value))


async def _until(reading: asyncio.Task[None], condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_LIMIT_S):
        while not condition():
            if reading.done():
                reading.result()
            await asyncio.sleep(_POLL_S)
