"""Slow answers side by side on one worker: how much they cost, and how late their words come.

Each session's model says a word each so many milliseconds. A word is due at its place in the answer, counted from the
stream's first word; what counts is when this reader has it. Reader, broker and worker share the machine, so the reader
only keeps what comes and decodes it afterwards: else what comes meanwhile would wait for that.
"""

import asyncio
import itertools
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from benchmarks.deployment import WORKER, Deployment
from benchmarks.latency import percentile
from benchmarks.load import Broker, Request
from benchmarks.meter import foreign_cores, highest_rss_mb, load_average, used
from turnlog_schemas.codec import Codec
from turnlog_schemas.commands import Chat, RequestHeader
from turnlog_schemas.frames import TERMINAL_FRAMES, Frame, FrameHeader, TextDelta, TurnCompleted
from turnlog_schemas.parts import text_content
from turnlog_schemas.registry import COMMANDS, FRAMES
from turnlog_streams.topics import partition_of
from turnlog_workers.base.cloudevents import TYPE_HEADER

_STALLED_S = 60.0
_POLL_S = 0.1
_MOST_TIMES_IDEAL = 10
_TERMINAL = frozenset(f"turnlog.frames.{frame.__name__}".encode() for frame in TERMINAL_FRAMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """How many answers, how long, how fast."""

    streams: int
    words: int
    delta_ms: int
    start_s: float  #: they begin within so many seconds

    @property
    def ideal_s(self) -> float:
        """What an answer takes where nothing is in its way."""
        return self.words * self.delta_ms / 1000


@dataclass(slots=True)
class Stream:
    """What has come of an answer."""

    began: float = 0.0  #: the first word
    ended: float = 0.0
    words: int = 0
    frames: int = 0


@dataclass(slots=True)
class Seen:
    """What has come of all, and the first text of turns that are none of them."""

    streams: dict[str, Stream]
    word_s: float
    late: list[tuple[float, int]] = field(default_factory=list)  #: of each frame: its oldest word, and how many it has
    bad: list[str] = field(default_factory=list)
    ended: int = 0
    others: dict[str, float] = field(default_factory=dict)

    def delta(self, request_id: str, text: str, now: float) -> None:
        """Text has come."""
        stream = self.streams.get(request_id)
        if stream is None:
            self.others.setdefault(request_id, now)
            return
        if not stream.frames:
            stream.began = now
        words = text.count(" ")
        self.late.append((now - stream.began - stream.words * self.word_s, words))
        stream.words += words
        stream.frames += 1

    def end(self, request_id: str, frame: Any, now: float, words: int) -> None:
        """A turn has ended; an answer has so many words."""
        stream = self.streams.get(request_id)
        if stream is None:
            return
        if not isinstance(frame, TurnCompleted) or stream.ended or stream.words != words:
            self.bad.append(f"{request_id}: {type(frame).__name__} after {stream.words} of {words} words")
        stream.ended = now
        self.ended += 1


@dataclass(slots=True)
class Kept:
    """Frames as they came, not decoded."""

    ended: int = 0  #: terminal ones among them
    _values: list[tuple[float, bytes]] = field(default_factory=list)

    async def read(self, broker: Broker) -> None:
        """All frames, until it is cancelled."""
        while True:
            found = await broker.consumer.getmany(timeout_ms=500)
            now = time.monotonic()
            for record in itertools.chain(*found.values()):
                self._values.append((now, record.value))
                self.ended += record.headers[TYPE_HEADER][1] in _TERMINAL

    def tell(self, seen: Seen, words: int) -> None:
        """What came, of answers of so many words."""
        codec = Codec(FRAMES)
        for now, value in self._values:
            header, frame = codec.decode(value)
            _told(seen, now, header, frame, words)


async def measure(load: Streams, deployment: Deployment) -> dict[str, Any]:
    """One run, default settings. Raises ``RuntimeError`` if a word is lost, doubled or behind its turn's end."""
    with deployment.process("worker", WORKER):
        async with Broker(deployment.settings) as broker:
            return await _drive(load, deployment, broker)


def requests_of(load: Streams, name: str, partitions: int) -> list[Request]:
    """A chat for each answer, in a session of its own."""
    codec, text = Codec(COMMANDS), "".join(f"word{number:04d} " for number in range(load.words))
    chat = Chat(content=text_content(text), model=f"echo:?delta_ms={load.delta_ms}")
    made = []
    for index in range(load.streams):
        session_id = request_id = f"{name}-{index:05d}"
        value = codec.encode(RequestHeader(request_id=request_id, session_id=session_id), chat)
        key = session_id.encode()
        made.append(Request(request_id=request_id, partition=partition_of(key, partitions), key=key, value=value))
    return made


async def _drive(load: Streams, deployment: Deployment, broker: Broker) -> dict[str, Any]:
    settings = deployment.settings
    made = requests_of(load, f"streams-{uuid.uuid4().hex[:6]}", settings.partitions)
    seen = Seen({request.request_id: Stream() for request in made}, load.delta_ms / 1000)
    broker.consumer.assign(broker.tps(settings.topics.replies))
    await broker.consumer.seek_to_beginning()
    kept = Kept()
    reading = asyncio.create_task(kept.read(broker))
    meter = deployment.meter()
    load_before, before = load_average(), meter.read()
    try:
        began = time.monotonic()
        for index, request in enumerate(made):
            await asyncio.sleep(max(0.0, began + index * load.start_s / len(made) - time.monotonic()))
            await broker.send(request)
        deadline = time.monotonic() + _MOST_TIMES_IDEAL * load.ideal_s + _STALLED_S
        while kept.ended < len(made) and time.monotonic() < deadline:
            if reading.done():
                await reading
            deployment.check_alive()
            await asyncio.sleep(_POLL_S)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    after = meter.read()
    kept.tell(seen, load.words)
    if seen.bad or seen.ended != len(made):
        raise RuntimeError(f"{seen.ended} of {len(made)} streams ended; not as they must: {seen.bad[:5]}")
    words, cpu_s = load.streams * load.words, used(before, after)["worker"]
    walls = sorted((stream.ended - stream.began) / load.ideal_s for stream in seen.streams.values())
    late_ms = sorted(1000 * (oldest - word * seen.word_s) for oldest, many in seen.late for word in range(many))
    return {
        "wall_p50": percentile(walls, 50),
        "wall_max": walls[-1],
        "pace_ratio": walls[-1] / walls[0],
        "late_p50_ms": percentile(late_ms, 50),
        "late_p99_ms": percentile(late_ms, 99),
        "cpu_us_per_word": 1e6 * cpu_s / words,
        "worker_rss_mb": highest_rss_mb(deployment.pid("worker")),
        "worker_cores": cpu_s / (after.at_s - before.at_s),
        "words_per_frame": words / len(seen.late),
        "load_average": [round(load_before, 2), round(load_average(), 2)],
        "foreign_cores": foreign_cores(before, after),
    }


async def read(broker: Broker, seen: Seen, words: int) -> None:
    """All frames, until it is cancelled."""
    async for now, header, frame in broker.frames():
        _told(seen, now, header, frame, words)


def _told(seen: Seen, now: float, header: FrameHeader, frame: Frame, words: int) -> None:
    if isinstance(frame, TextDelta):
        seen.delta(header.request_id, frame.text, now)
    elif isinstance(frame, TERMINAL_FRAMES):
        seen.end(header.request_id, frame, now, words)
