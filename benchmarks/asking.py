"""One request after the other, and how long each waits for its first piece of text and for its end."""

import asyncio
import itertools
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load import MODEL, Broker, Request
from turnlog_schemas.codec import Codec
from turnlog_schemas.commands import Chat, CreateSession, RequestHeader
from turnlog_schemas.frames import TERMINAL_FRAMES, RequestRefused, TextDelta, TurnCancelled, TurnFailed
from turnlog_schemas.parts import NewSession, text_content
from turnlog_schemas.registry import COMMANDS
from turnlog_streams.topics import partition_of

_QUIET_S = 0.4
_POLL_S = 0.05
_QUIET_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited:
    """For what, in milliseconds."""

    first_delta_ms: float | None  #: absent: there was none
    ended_ms: float


@dataclass(slots=True, kw_only=True)
class _Open:
    sent: float
    done: asyncio.Future[Waited]
    first_delta: float | None = field(default=None)


class Asker:
    """Sends requests and reads all frames of a deployment."""

    def __init__(self, broker: Broker, *, partitions: int, replies: str, timeout_s: float) -> None:
        self._broker = broker
        self._partitions = partitions
        self._replies = replies
        self._timeout_s = timeout_s
        self._codec = Codec(COMMANDS)
        self._ids = (f"{uuid.uuid4().hex[:6]}-{number}" for number in itertools.count())
        self._open: dict[str, _Open] = {}
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Asker":
        self._broker.consumer.assign(self._broker.tps(self._replies))
        await self._broker.consumer.seek_to_end()
        for tp in self._broker.consumer.assignment():
            await self._broker.consumer.position(tp)  # the end as of now, and not as of the first fetch
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._reading is not None
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def chat(self, session_id: str, *, channel: str | None = None, model: str = MODEL) -> Waited:
        """A turn; with ``channel`` the session belongs to it if this chat makes it."""
        new = NewSession(channel=channel) if channel else None
        command = Chat(content=text_content("What is the way to the station?"), model=model, new_session=new)
        return await self._ask(command, key=session_id, session_id=session_id)

    async def create(self, channel: str) -> Waited:
        """Open a session in a channel."""
        return await self._ask(CreateSession(), key=channel, channel=channel)

    async def _ask(self, command: Any, *, key: str, **header: str) -> Waited:
        request_id = next(self._ids)
        value = self._codec.encode(RequestHeader(request_id=request_id, **header), command)
        partition = partition_of(key.encode(), self._partitions)
        request = Request(request_id=request_id, partition=partition, key=key.encode(), value=value)
        waiting = _Open(sent=time.monotonic(), done=asyncio.get_running_loop().create_future())
        self._open[request_id] = waiting
        await self._broker.send(request)
        assert self._reading is not None
        await asyncio.wait({waiting.done, self._reading}, timeout=self._timeout_s, return_when="FIRST_COMPLETED")
        del self._open[request_id]
        if not waiting.done.done():
            if self._reading.done():
                self._reading.result()
            raise TimeoutError(f"{type(command).__name__} to {key} is not answered within {self._timeout_s:g} s")
        return waiting.done.result()

    async def _read(self) -> None:
        async for now, header, frame in self._broker.frames():
            waiting = self._open.get(header.request_id)
            if waiting is None or waiting.done.done():
                continue
            if isinstance(frame, TextDelta):
                waiting.first_delta = waiting.first_delta or now
            elif isinstance(frame, RequestRefused | TurnFailed | TurnCancelled):
                waiting.done.set_exception(RuntimeError(f"{header.session_id}: {frame}"))
            elif isinstance(frame, TERMINAL_FRAMES):
                first = waiting.first_delta
                waited = None if first is None else 1000 * (first - waiting.sent)
                waiting.done.set_result(Waited(first_delta_ms=waited, ended_ms=1000 * (now - waiting.sent)))


async def until_quiet(broker: Broker, *topics: str) -> None:
    """Wait until no record comes any more: streams tell each other, after requests have been answered."""
    last, since = [-1], time.monotonic()
    async with asyncio.timeout(_QUIET_LIMIT_S):
        while time.monotonic() - since < _QUIET_S:
            found = [await broker.records(topic) for topic in topics]
            if found != last:
                last, since = found, time.monotonic()
            await asyncio.sleep(_POLL_S)
