"""What a model server may do, and what must become of it: the rows of the table in docs/models.md."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from aiohttp import web

from tests.model_server import Answer, Call, Good, Stream, chunk, event, refuses, says

EVERY = ("http", "openai", "anthropic", "google")
OPENAI = ("http", "openai")  #: those that speak the OpenAI chat format
HALF = Call(call_id="c1", name="look", arguments=('{"city": "Par',))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A row: the code, and more where it is asked for."""

    name: str
    answer: Answer
    code: str
    runners: tuple[str, ...] = EVERY
    retryable: bool | None = None  #: ``None``: as its kind says
    retry_after_s: float | None = None
    prompt_tokens: int | None = None
    window_tokens: int | None = None


def plays(act: Callable[[Stream], Any]) -> Answer:
    async def play(stream: Stream) -> web.StreamResponse | None:
        found: web.StreamResponse | None = await act(stream)
        return found

    return play


async def begins(stream: Stream) -> None:
    """Some of an answer, with a word of its text."""
    events = stream.dialect(Good())
    at = next(index for index, one in enumerate(events) if "Hello" in one)
    await stream.send(*events[: at + 1])


async def cut(stream: Stream) -> None:
    await begins(stream)
    stream.abort()


async def cut_at_once(stream: Stream) -> None:
    stream.abort()


async def ends_early(stream: Stream) -> None:
    await begins(stream)


async def ends_in_an_event(stream: Stream) -> None:
    await begins(stream)
    await stream.raw(b'data: {"choices": [{"del')


async def ends_early_but_is_done(stream: Stream) -> None:
    await begins(stream)
    await stream.send(event("[DONE]"))


async def ends_empty(stream: Stream) -> None:
    await stream.begin()


async def half_a_call_and_the_end(stream: Stream) -> None:
    events = stream.dialect(Good(pieces=(), calls=(HALF,)))
    at = next(index for index, one in enumerate(events) if "Par" in one)
    await stream.send(*events[: at + 1])


async def silence(stream: Stream) -> None:
    await stream.hang()


async def headers_and_silence(stream: Stream) -> None:
    await stream.begin()
    await stream.hang()


async def pings(stream: Stream) -> None:
    """As a server does whose slots are all taken: comments, and Anthropic's named pings, but no event."""
    while not stream.server.released.is_set():
        await stream.raw(b":\n\n")
        await asyncio.sleep(0)
        try:
            await asyncio.wait_for(stream.server.released.wait(), 0.02)
        except TimeoutError:
            continue


async def stalls(stream: Stream) -> None:
    await begins(stream)
    await stream.hang()


async def stalls_with_pings(stream: Stream) -> None:
    await begins(stream)
    await pings(stream)


def errs(errors: dict[str, Any]) -> Answer:
    """An error in the middle of the stream, in each dialect's form."""

    async def play(stream: Stream) -> None:
        await begins(stream)
        if "/messages" in stream.received.path:
            await stream.send(event({"type": "error", "error": errors["anthropic"]}, "error"))
        else:
            await stream.send(event({"error": errors["openai"]}))

    return play


async def no_json(stream: Stream) -> None:
    await begins(stream)
    name = "content_block_delta" if "/messages" in stream.received.path else ""
    await stream.send(event('{"choices": [', name))


async def too_large(stream: Stream) -> None:
    await begins(stream)
    for _ in range(80):
        await stream.raw(b"x" * 65536)
    await stream.hang()


async def page(stream: Stream) -> web.StreamResponse:
    return web.Response(status=502, text="<html>Bad gateway</html>", content_type="text/html")


async def redirect(stream: Stream) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": f"{stream.server.url}/elsewhere"})


def said(message: str, **fields: Any) -> dict[str, Any]:
    return {"type": "error", "error": {"message": message} | fields}


LLAMA_CONTEXT = {
    "error": {"code": 400, "message": "request (9000 tokens) exceeds the available context size (8192 tokens)"}
    | {"type": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 8192}
}
OPENAI_CONTEXT = said(
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
    type="invalid_request_error",
    code="context_length_exceeded",
)
VLLM_CONTEXT = {"object": "error", "type": "BadRequestError", "code": 400} | {
    "message": "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens "
    "(8000 in the messages, 1000 in the completion). Please reduce the length."
}
ANTHROPIC_CONTEXT = said("prompt is too long: 209000 tokens > 200000 maximum", type="invalid_request_error")
GOOGLE_CONTEXT = said(
    "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    code=400,
    status="INVALID_ARGUMENT",
)


def in_two_minutes() -> Answer:
    async def play(stream: Stream) -> web.StreamResponse | None:
        when = format_datetime(datetime.now(UTC) + timedelta(seconds=120), usegmt=True)
        return await refuses(429, headers={"Retry-After": when})(stream)

    return play


FAULTS = [
    Fault(name="429", answer=refuses(429), code="rate_limited"),
    Fault(name="429, wait", answer=refuses(429, headers={"Retry-After": "7"}), code="rate_limited", retry_after_s=7),
    Fault(
        name="429, wait an hour",
        answer=refuses(429, headers={"Retry-After": "3600"}),
        code="rate_limited",
        retry_after_s=3600,
    ),
    Fault(name="429, until a date", answer=in_two_minutes(), code="rate_limited", retry_after_s=120),
    Fault(
        name="429, no quota",
        answer=refuses(429, said("You exceeded your current quota", type="insufficient_quota")),
        code="quota_exceeded",
    ),
    Fault(name="402", answer=refuses(402), code="quota_exceeded"),
    Fault(
        name="503, loading",
        answer=refuses(503, said("Loading model", type="unavailable_error", code=503), {"Retry-After": "2"}),
        code="overloaded",
        retry_after_s=2,
    ),
    Fault(name="529", answer=refuses(529, said("Overloaded", type="overloaded_error")), code="overloaded"),
    *(Fault(name=str(status), answer=refuses(status), code="overloaded") for status in (408, 409, 425)),
    *(Fault(name=str(status), answer=refuses(status), code="server_error") for status in (500, 502, 504)),
    Fault(name="502, a page", answer=plays(page), code="server_error"),
    *(Fault(name=str(status), answer=refuses(status), code="authentication") for status in (401, 403)),
    Fault(
        name="400, wrong key",
        answer=refuses(400, said("API key not valid.", code=400, status="INVALID_ARGUMENT")),
        code="authentication",
    ),
    Fault(name="404", answer=refuses(404), code="model_not_found"),
    Fault(name="307", answer=plays(redirect), code="model_not_found", runners=("http", "openai", "anthropic")),
    *(Fault(name=str(status), answer=refuses(status), code="request_rejected") for status in (400, 422)),
    Fault(name="413", answer=refuses(413), code="context_too_long"),
    *(
        Fault(
            name=f"400, context, {name}",
            answer=refuses(400, body),
            code="context_too_long",
            prompt_tokens=prompt,
            window_tokens=window,
        )
        for name, body, prompt, window in (
            ("llama.cpp", LLAMA_CONTEXT, 9000, 8192),
            ("OpenAI", OPENAI_CONTEXT, 9000, 8192),
            ("vLLM", VLLM_CONTEXT, 9000, 8192),
            ("Anthropic", ANTHROPIC_CONTEXT, 209000, 200000),
            ("Google", GOOGLE_CONTEXT, 1200000, 1048576),
        )
    ),
    Fault(name="cut", answer=plays(cut), code="stream_cut"),
    Fault(name="cut at once", answer=plays(cut_at_once), code="stream_cut"),
    Fault(name="ends early", answer=plays(ends_early), code="stream_cut"),
    Fault(name="ends in an event", answer=plays(ends_in_an_event), code="stream_cut", runners=("http",)),
    Fault(name="done without an end", answer=plays(ends_early_but_is_done), code="stream_cut", runners=OPENAI),
    Fault(name="ends empty", answer=plays(ends_empty), code="stream_cut"),
    Fault(
        name="half a call and the end",
        answer=plays(half_a_call_and_the_end),
        code="stream_cut",
        runners=("http", "openai", "anthropic"),
    ),
    Fault(
        name="half a call, finished",
        answer=says(pieces=(), calls=(HALF,)),
        code="incomplete_tool_call",
        retryable=True,
        runners=("http", "openai", "anthropic"),
    ),
    Fault(
        name="half a call, out of tokens",
        answer=says(pieces=(), calls=(HALF,), finish="length"),
        code="incomplete_tool_call",
        retryable=False,
        runners=("http", "openai", "anthropic"),
    ),
    Fault(
        name="an error in the stream",
        answer=errs(
            {
                "openai": {"code": 500, "message": "does not match the expected format", "type": "server_error"},
                "anthropic": {"type": "api_error", "message": "Internal server error"},
            }
        ),
        code="server_error",
        runners=("http", "openai", "anthropic"),
    ),
    Fault(
        name="overloaded in the stream",
        answer=errs(
            {
                "openai": {"code": 503, "message": "busy", "type": "unavailable_error"},
                "anthropic": {"type": "overloaded_error", "message": "Overloaded"},
            }
        ),
        code="overloaded",
        runners=("http", "openai", "anthropic"),
    ),
    Fault(
        name="limited in the stream",
        answer=errs(
            {
                "openai": {"code": "rate_limit_exceeded", "message": "slow down", "type": "rate_limit_error"},
                "anthropic": {"type": "rate_limit_error", "message": "slow down"},
            }
        ),
        code="rate_limited",
        runners=("http", "openai", "anthropic"),
    ),
    Fault(name="no JSON", answer=plays(no_json), code="invalid_response", runners=("http", "openai", "anthropic")),
    Fault(name="a large event", answer=plays(too_large), code="invalid_response", runners=("http",)),
    Fault(name="silence", answer=plays(silence), code="no_answer"),
    Fault(name="headers only", answer=plays(headers_and_silence), code="no_answer"),
    Fault(name="pings only", answer=plays(pings), code="no_answer", runners=("http", "openai", "anthropic")),
    Fault(name="stalled", answer=plays(stalls), code="stream_stalled"),
    Fault(
        name="stalled with pings",
        answer=plays(stalls_with_pings),
        code="stream_stalled",
        runners=("http", "openai", "anthropic"),
    ),
    Fault(name="filtered", answer=says(finish="content_filter"), code="content_filter", retryable=False),
    Fault(
        name="out of tokens before a word",
        answer=says(pieces=(), reasoning=("Hm", "m"), finish="length"),
        code="answer_cut",
        retryable=False,
    ),
]


# ---- what is odd and no fault


def usage_in_each_chunk() -> Answer:
    async def play(stream: Stream) -> None:
        for index, one in enumerate(stream.dialect(Good())):
            data = one.removeprefix("data: ").strip()
            if data == "[DONE]":
                await stream.send(one)
                continue
            usage = {
                "prompt_tokens": 12,
                "completion_tokens": min(7, index + 2),
                "total_tokens": 12 + min(7, index + 2),
            }
            await stream.send(event(json.loads(data) | {"usage": usage}))

    return play


async def crlf_comments_and_parts(stream: Stream) -> None:
    """All that the event stream's standard allows."""
    events = [one for one in stream.dialect(Good()) if "[DONE]" not in one]
    await stream.raw(b"\xef\xbb\xbf: hello\r\n\r\n")
    for one in events:
        await stream.raw(b"retry: 10\r\nid: 1\r\n" + one.replace("data: ", "data:").replace("\n", "\r\n").encode())
        await stream.raw(b": ping\r\n\r\n")
    await stream.raw(b"data: [DONE]")


async def byte_by_byte(stream: Stream) -> None:
    for one in stream.dialect(Good(pieces=("Hel", "lo there", "!"))):
        for byte in one.encode():
            await stream.raw(bytes([byte]))


async def whole(stream: Stream) -> web.StreamResponse:
    """A server that does not stream."""
    message = {"role": "assistant", "content": "Hello there!"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 12, "completion_tokens": 7}
    return web.json_response({"object": "chat.completion", "choices": [choice], "usage": usage})


async def no_done(stream: Stream) -> None:
    await stream.send(*(one for one in stream.dialect(Good()) if "[DONE]" not in one))


async def another_finish(stream: Stream) -> None:
    await stream.good(Good(finish="eos_token"))


async def null_everywhere(stream: Stream) -> None:
    for delta in ({"role": "assistant", "content": None, "tool_calls": None, "reasoning_content": None}, {}):
        await stream.send(event(chunk(delta) | {"usage": None}))
    await stream.good()


ODD: dict[str, tuple[Answer, tuple[str, ...]]] = {
    "good": (says(), EVERY),
    "usage in each chunk": (usage_in_each_chunk(), OPENAI),
    "CR LF, comments, a byte order mark, no last blank line": (plays(crlf_comments_and_parts), ("http",)),
    "byte by byte": (plays(byte_by_byte), EVERY),
    "not streamed": (plays(whole), ("http",)),
    "no [DONE]": (plays(no_done), OPENAI),
    "another finish reason": (plays(another_finish), OPENAI),
    "null everywhere": (plays(null_everywhere), OPENAI),
}
