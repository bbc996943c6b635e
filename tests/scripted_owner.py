"""Clients, and commands of the command line, whose broker and worker are one function: from a command to its frames."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from turnlog import Settings
from turnlog.client.connection import Connection
from turnlog.client.exchange import Exchange
from turnlog.client.replies import Position, ReplyFrame
from turnlog.client.request_sender import PreparedRequest
from turnlog_schemas.codec import Codec, RequestCodec
from turnlog_schemas.commands import RequestHeader
from turnlog_schemas.frames import Frame, FrameHeader
from turnlog_schemas.registry import FRAMES


@dataclass
class Owner:
    """Answers each request with these frames, and keeps what it was asked. Both cross the wire's codecs."""

    answers: Callable[[Any], Iterable[Frame]]
    asked: list[tuple[RequestHeader, Any]] = field(default_factory=list)

    def instead_of_kafka(self, monkeypatch: pytest.MonkeyPatch) -> "Owner":
        """From now on every new client talks to it."""
        monkeypatch.setattr(
            "turnlog.client.async_client.Connection", lambda settings, **options: _Line(self, settings, **options)
        )
        return self

    @property
    def commands(self) -> list[Any]:
        """What it was asked."""
        return [command for _, command in self.asked]


class _Line(Connection):
    def __init__(self, owner: Owner, settings: Settings, **options: Any) -> None:
        super().__init__(settings, **options)
        self._owner = owner
        self._exchanges: list[Exchange] = []
        self._frames = Codec(FRAMES)

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def register(self, exchange: Exchange) -> None:
        self._exchanges.append(exchange)

    def unregister(self, exchange: Exchange) -> None:
        if exchange in self._exchanges:
            self._exchanges.remove(exchange)

    async def send(self, request: PreparedRequest) -> Position:
        header, command, _ = RequestCodec().decode_request(request.value)
        self._owner.asked.append((header, command))
        for frame in self._owner.answers(command):
            about = FrameHeader(session_id=request.key, request_id=request.request_id, channel="web")
            decoded = self._frames.decode(self._frames.encode(about, frame))
            reply = ReplyFrame(header=decoded[0], frame=decoded[1], partition=0, offset=0)
            for exchange in tuple(self._exchanges):
                exchange.deliver(reply)
        return Position(partition=0, offset=len(self._owner.asked))
