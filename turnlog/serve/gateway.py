"""What every request of a gateway shares: the connection to Kafka, the keys, the limits, the open streams."""

import asyncio
import logging
import time
from types import TracebackType
from typing import Protocol, Self, TypeVar

from turnlog.client.async_client import Client
from turnlog.client.raw_requests import partitions, watch_frames
from turnlog.serve.hidden_turns import HiddenTurns, may_hide
from turnlog.serve.http_errors import unavailable
from turnlog.serve.keys import KeyRing, read_keys
from turnlog.serve.limits import RateLimit, StreamLimit
from turnlog.serve.open_streams import OpenStreams
from turnlog.serve.request_records import RequestRecords
from turnlog.serve.retries import RecentRequests
from turnlog.serve.turns import Turns
from turnlog_workers.base.config import Settings

log = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0


class Part(Protocol):
    """What some of the endpoints share, beside all that every one has."""

    def __init__(self, gateway: "Gateway") -> None: ...

    async def aclose(self) -> None:
        """The gateway stops."""
        ...


P = TypeVar("P", bound=Part)


class Gateway:
    """One process of ``turnlog serve``. Use it in ``async with``; entering connects, and raises as a client does."""

    def __init__(self, settings: Settings, *, keys: KeyRing | None = None) -> None:
        """``keys``: those of the settings, unless others are given. Raises :class:`UsageError`."""
        self.settings = settings
        self.keys = read_keys(settings) if keys is None else keys
        self.rate = RateLimit(settings.http_max_requests_per_minute, time.monotonic)
        self.stream_limit = StreamLimit(settings.http_max_streams_per_key)
        self.streams = OpenStreams(
            heartbeat_s=settings.http_heartbeat_s,
            slow_reader_timeout_s=settings.http_slow_reader_timeout_s,
            clock=time.monotonic,
        )
        self.broken = asyncio.Event()  #: the client cannot go on: this process is to end, and to be started again
        self.recent = RecentRequests(time.monotonic)
        self.hidden = HiddenTurns()
        self._turns: Turns | None = None
        self._client: Client | None = None
        self._parts: dict[type, Part] = {}
        self._watch: asyncio.Task[None] | None = None

    @property
    def client(self) -> Client:
        """The one client of the process. Raises 503 while it is not connected."""
        if self._client is None or self._client.failure is not None:
            raise unavailable("the gateway is not connected to Kafka")
        return self._client

    @property
    def connected(self) -> bool:
        """Is there a client that works?"""
        return self._client is not None and self._client.failure is None

    def part(self, kind: type[P]) -> P:
        """The gateway's one of a kind; made when it is first asked for, closed with the gateway."""
        made = self._parts.get(kind)
        if made is None:
            made = self._parts[kind] = kind(self)
        assert isinstance(made, kind)
        return made

    @property
    def turns(self) -> Turns:
        """The turns behind it. Raises 503 while it is not connected."""
        _ = self.client
        assert self._turns is not None
        return self._turns

    async def __aenter__(self) -> Self:
        client = Client(self.settings)
        watch_frames(client, may_hide, self.hidden.hear)
        await client.__aenter__()
        self._client = client
        self._turns = Turns(client, RequestRecords(self.settings, "turnlog-serve-records", partitions(client)))
        self._watch = asyncio.create_task(self._watch_client(client), name="gateway")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.streams.aclose()
        while self._parts:
            await self._parts.popitem()[1].aclose()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        turns, self._turns = self._turns, None
        if turns is not None:
            await turns.records.aclose()
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _watch_client(self, client: Client) -> None:
        while client.failure is None:  # noqa: ASYNC110 - it is a fact to look at, not a signal
            await asyncio.sleep(_LOOK_EVERY_S)
        log.error("replies cannot be read any more: %s", client.failure)
        self.broken.set()
