"""Streams in memory that can be written to, behind the same reading code: for other people's tests of the protocol.

``python -m tests.durable_shim`` serves them under ``/v1/stream/NAME`` and prints its address. Streams come and go as
the protocol has it (PUT, POST, DELETE); deadlines, producers and forks are not there.
"""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import uvicorn
from starlette.responses import Response

from turnlog.serve.app import create_app
from turnlog.serve.durable_streams import reading
from turnlog.serve.durable_streams.protocol import offset_text
from turnlog.serve.durable_streams.reading import Chunk, Extent, answer
from turnlog.serve.endpoints import Call, Endpoint
from turnlog.serve.gateway import Gateway
from turnlog.serve.http_errors import HttpError, bad_request, not_found
from turnlog_workers.base.config import Settings

_MAX_BYTES = 256 * 1024


@dataclass
class MemoryStream:
    """A stream; a position is the number of messages before it."""

    name: str
    content_type: str
    closed: bool = False
    messages: list[bytes] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_json(self) -> bool:
        return self.content_type.partition(";")[0].strip().lower() == "application/json"

    def add(self, body: bytes, *, close: bool) -> None:
        if body:
            self.messages += self._parts(body)
        self.closed = self.closed or close
        self.changed.set()
        self.changed = asyncio.Event()

    def _parts(self, body: bytes) -> list[bytes]:
        if not self.is_json:
            return [body]
        try:
            found = json.loads(body)
        except ValueError:
            raise bad_request("invalid_json", "the body is not JSON") from None
        if found == []:
            raise bad_request("empty", "an empty array adds nothing")
        return [json.dumps(each).encode() for each in (found if isinstance(found, list) else [found])]

    async def extent(self) -> Extent:
        return Extent(first=0, begin=0, end=len(self.messages), closed=self.closed)

    async def read(self, start: int) -> Chunk:
        items: list[bytes] = []
        for message in self.messages[start:]:
            if items and sum(map(len, items)) + len(message) > _MAX_BYTES:
                break
            items.append(message)
        end = start + len(items)
        last = end == len(self.messages)
        return Chunk(items=tuple(items), next=end, up_to_date=last, closed=last and self.closed)

    async def follow(self, start: int) -> AsyncGenerator[Chunk, None]:
        while True:
            changed = self.changed
            chunk = await self.read(start)
            if chunk.items or chunk.closed:
                yield chunk
                start = chunk.next
                if chunk.closed:
                    return
            else:
                await changed.wait()


STREAMS: dict[str, MemoryStream] = {}


def stream_of(call: Call) -> MemoryStream:
    name = call.request.path_params["name"]
    if name not in STREAMS:
        raise not_found("this stream")
    return STREAMS[name]


async def read(call: Call) -> Response:
    return await answer(call, stream_of(call))


def told(stream: MemoryStream, status: int) -> Response:
    headers = {"stream-next-offset": offset_text(len(stream.messages)), "content-type": stream.content_type}
    if stream.closed:
        headers["stream-closed"] = "true"
    return Response(status_code=status, headers=headers)


async def put(call: Call) -> Response:
    name, headers = call.request.path_params["name"], call.request.headers
    content_type = headers.get("content-type", "application/octet-stream")
    close = headers.get("stream-closed", "").lower() == "true"
    body = await call.body()
    known = STREAMS.get(name)
    if known is not None:
        if known.content_type.lower() != content_type.lower() or known.closed != close:
            raise HttpError(status=409, code="conflict", message="it is there, and another one")
        return told(known, 200)
    stream = MemoryStream(name=name, content_type=content_type)
    if not (stream.is_json and body.strip() == b"[]"):
        stream.add(body, close=close)
    stream.closed = close
    STREAMS[name] = stream
    made = told(stream, 201)
    made.headers["location"] = str(call.request.url)
    return made


async def post(call: Call) -> Response:
    stream, headers = stream_of(call), call.request.headers
    close = headers.get("stream-closed", "").lower() == "true"
    body = await call.body()
    if stream.closed:
        if close and not body:
            return told(stream, 204)
        return told(stream, 409)
    if not body and not close:
        raise bad_request("empty", "there is nothing to add")
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and given != stream.content_type.partition(";")[0].strip().lower():
        raise HttpError(status=409 if given else 400, code="content_type", message="that is not the stream's type")
    stream.add(body, close=close)
    return told(stream, 204)


async def delete(call: Call) -> Response:
    STREAMS.pop(stream_of(call).name)
    return Response(status_code=204)


_PATH = "/v1/stream/{name:path}"
ENDPOINTS = (
    Endpoint(path=_PATH, handler=read, methods=("GET", "HEAD")),
    Endpoint(path=_PATH, handler=put, methods=("PUT",)),
    Endpoint(path=_PATH, handler=post, methods=("POST",)),
    Endpoint(path=_PATH, handler=delete, methods=("DELETE",)),
)


async def main() -> None:
    reading.LONG_POLL_TIMEOUT_S = 0.5  # who tests it waits for it, several times
    gateway = Gateway(
        Settings(
            http_cors_origins=("https://example.com",),
            http_max_body_bytes=64 * 1024 * 1024,
            http_max_requests_per_minute=10_000_000,
        )
    )
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        config = uvicorn.Config(create_app(gateway, ENDPOINTS), log_config=None, ws="none", lifespan="off")
        await uvicorn.Server(config).serve(sockets=[listening])


if __name__ == "__main__":
    asyncio.run(main())
