"""A model server on loopback that does what a test plans: good answers, and every fault that a real one has.

It speaks the OpenAI chat format (``/v1/chat/completions``), Anthropic's messages (``/v1/messages``) and Google's
``streamGenerateContent``. What it is asked it keeps; each request is answered by the next planned answer, the last
one again and again.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

KEY = "sk-planted-0123456789abcdef"  #: that no log, event, frame or error may hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    port: int = 0  #: of the client: the same for two requests over one connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool call, its arguments in the pieces in which they are sent."""

    call_id: str
    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Good:
    """What a model says in one answer."""

    pieces: tuple[str, ...] = ("Hello", " there", "!")
    reasoning: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()
    finish: str = ""  #: empty: what fits
    input_tokens: int = 12
    output_tokens: int = 7


class Stream:
    """The answer under way."""

    def __init__(self, request: web.Request, server: "ModelServer", received: Received) -> None:
        self.request = request
        self.server = server
        self.received = received
        self.dialect = DIALECTS[next(name for name in DIALECTS if name in received.path)]
        self.response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})

    async def begin(self) -> None:
        await self.response.prepare(self.request)

    async def send(self, *events: str) -> None:
        if not self.response.prepared:
            await self.begin()
        for event in events:
            await self.response.write(event.encode())

    async def good(self, answer: Good | None = None) -> None:
        await self.send(*self.dialect(answer or Good()))

    async def raw(self, data: bytes) -> None:
        if not self.response.prepared:
            await self.begin()
        await self.response.write(data)

    def abort(self) -> None:
        """Cut the connection."""
        assert self.request.transport is not None
        self.request.transport.abort()

    async def hang(self) -> None:
        """Stay silent until the client has gone, or the test ends."""
        await self.server.released.wait()


Answer = Callable[[Stream], Awaitable[web.StreamResponse | None]]


def event(data: Any, name: str = "") -> str:
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return (f"event: {name}\n" if name else "") + f"data: {text}\n\n"


def openai_events(answer: Good) -> list[str]:
    """As llama.cpp and OpenAI send it: a role with a null content, pieces, finish, usage, ``[DONE]``."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}]
    deltas += [{"reasoning_content": piece} for piece in answer.reasoning]
    deltas += [{"content": piece} for piece in answer.pieces]
    for index, call in enumerate(answer.calls):
        function = {"name": call.name, "arguments": call.arguments[0]}
        deltas.append({"tool_calls": [{"index": index, "id": call.call_id, "type": "function", "function": function}]})
        for piece in call.arguments[1:]:
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    events = [event(chunk(delta)) for delta in deltas]
    finish = answer.finish or ("tool_calls" if answer.calls else "stop")
    events.append(event(chunk({}, finish)))
    usage = {"prompt_tokens": answer.input_tokens, "completion_tokens": answer.output_tokens}
    usage["total_tokens"] = answer.input_tokens + answer.output_tokens
    events.append(event(chunk(None) | {"usage": usage}))
    events.append(event("[DONE]"))
    return events


def chunk(delta: dict[str, Any] | None, finish: str | None = None) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}


def anthropic_events(answer: Good) -> list[str]:
    usage = {"input_tokens": answer.input_tokens, "output_tokens": 1}
    message = {"id": "m1", "type": "message", "role": "assistant", "model": "m", "content": []}
    message |= {"stop_reason": None, "stop_sequence": None, "usage": usage}
    found: list[dict[str, Any]] = [{"type": "message_start", "message": message}, {"type": "ping"}]
    index = 0

    def block(start: dict[str, Any], deltas: Sequence[dict[str, Any]]) -> None:
        nonlocal index
        found.append({"type": "content_block_start", "index": index, "content_block": start})
        found.extend({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas)
        found.append({"type": "content_block_stop", "index": index})
        index += 1

    if answer.reasoning:
        thoughts = [{"type": "thinking_delta", "thinking": piece} for piece in answer.reasoning]
        thoughts += [{"type": "signature_delta", "signature": piece} for piece in ("signed-", "1")]
        block({"type": "thinking", "thinking": "", "signature": ""}, thoughts)
    if answer.pieces:
        block({"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in answer.pieces])
    for call in answer.calls:
        pieces = [{"type": "input_json_delta", "partial_json": piece} for piece in call.arguments]
        block({"type": "tool_use", "id": call.call_id, "name": call.name, "input": {}}, pieces)
    reason = answer.finish or ("tool_use" if answer.calls else "end_turn")
    reason = {"length": "max_tokens", "stop": "end_turn", "content_filter": "refusal"}.get(reason, reason)
    delta = {"stop_reason": reason, "stop_sequence": None}
    found.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": answer.output_tokens}})
    found.append({"type": "message_stop"})
    return [event(one, one["type"]) for one in found]


def google_events(answer: Good) -> list[str]:
    parts: list[dict[str, Any]] = [{"text": piece, "thought": True} for piece in answer.reasoning]
    parts += [{"text": piece} for piece in answer.pieces]
    for call in answer.calls:
        parts.append(
            {"functionCall": {"id": call.call_id, "name": call.name, "args": json.loads("".join(call.arguments))}}
        )
    usage = {"promptTokenCount": answer.input_tokens, "candidatesTokenCount": answer.output_tokens}
    usage["totalTokenCount"] = answer.input_tokens + answer.output_tokens
    finish = {"": "STOP", "stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}[answer.finish]
    found = [{"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}]} for part in parts]
    last = {"content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": finish, "index": 0}
    found.append({"candidates": [last], "usageMetadata": usage})
    return [event(one | {"modelVersion": "m", "responseId": "r1"}) for one in found]


DIALECTS: dict[str, Callable[[Good], list[str]]] = {
    "/chat/completions": openai_events,
    "/v1/messages": anthropic_events,
    "streamGenerateContent": google_events,
}


def says(answer: Good | None = None, **fields: Any) -> Answer:
    """A good answer."""

    async def play(stream: Stream) -> None:
        await stream.good(answer or Good(**fields))

    return play


def refuses(status: int, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """An error before the stream. Its message quotes the key and the prompt, as real ones may."""

    async def play(stream: Stream) -> web.StreamResponse:
        said = f"Wrong: {KEY} and {json.dumps(stream.received.body)[:500]}"
        return web.json_response(
            body if body is not None else {"error": {"message": said, "type": "some_error"}},
            status=status,
            headers=headers or {},
        )

    return play


@dataclass
class ModelServer:
    """The server, while a test runs."""

    url: str = ""  #: without ``/v1``
    answers: list[Answer] = field(default_factory=lambda: [says()])
    received: list[Received] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    gone: int = 0  #: clients that closed before their answer was whole

    def plan(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.received.clear()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.json()
        except ValueError:
            body = {}
        received = Received(path=request.path, headers=dict(request.headers), body=body)
        if request.transport is not None:
            received = replace(received, port=request.transport.get_extra_info("peername")[1])
        self.received.append(received)
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        stream = Stream(request, self, received)
        try:
            return await answer(stream) or stream.response
        except (asyncio.CancelledError, ConnectionError):
            self.gone += 1
            raise


@asynccontextmanager
async def model_server(*answers: Answer) -> AsyncIterator[ModelServer]:
    """A server that answers so."""
    server = ModelServer()
    if answers:
        server.plan(*answers)
    app = web.Application()
    app.router.add_post("/{path:.*}", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}"
    try:
        yield server
    finally:
        server.released.set()
        await runner.cleanup()


@contextmanager
def model_server_in_a_thread(*answers: Answer) -> Iterator[ModelServer]:
    """The same, in an event loop of its own."""
    ready = threading.Event()
    found: list[ModelServer] = []
    stop: list[Callable[[], None]] = []

    async def serve() -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        async with model_server(*answers) as server:
            found.append(server)
            stop.append(lambda: loop.call_soon_threadsafe(stopped.set) and None)
            ready.set()
            await stopped.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="model-server")
    thread.start()
    try:
        assert ready.wait(10), "the server does not start"
        yield found[0]
    finally:
        for act in stop:
            act()
        thread.join(10)
