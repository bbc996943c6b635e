"""One call of a model, as the GenAI semantic conventions tell of it: its span, and its numbers.

Source: version 0.1.0 of these conventions (``docs/gen-ai/client-inference.md`` of
open-telemetry/semantic-conventions-genai).
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Protocol
from urllib.parse import urlsplit

from turnlog_schemas.parts import Usage

Attributes = dict[str, Any]
MAX_CHARACTERS = 256  #: of a name that somebody else chose
_SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
#: By the beginning of a model's name; whoever is not here is called as in that name. Source: ``gen_ai.provider.name``.
_PROVIDERS = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "google": "gcp.gemini",
    "google-gla": "gcp.gemini",
    "google-vertex": "gcp.vertex_ai",
    "grok": "x_ai",
    "mistral": "mistral_ai",
    "moonshotai": "moonshot_ai",
    "xai": "x_ai",
}
_call: ContextVar["ModelCall | None"] = ContextVar("_call", default=None)


class Span(Protocol):
    """What is used of the library's own."""

    def set_attribute(self, key: str, value: Any) -> None:
        """Say something of it."""
        ...

    def end(self, end_time: int | None = None) -> None:
        """In nanoseconds since 1970."""
        ...


class ModelCall:
    """A call of a model: current for what is done :meth:`inside`."""

    def __init__(
        self,
        span: Span,
        current: Callable[[], AbstractContextManager[None]],
        failed: Callable[[str], None],
        labels: Attributes,
        numbers: "Numbers | None",
    ) -> None:
        self._span = span
        self._current = current
        self._failed = failed
        self._labels = labels
        self._numbers = numbers
        self._began = time.monotonic()
        self._began_ns = time.time_ns()
        self._ended: float | None = None
        self._first_chunk_s: float | None = None
        self._finish_reason: str | None = None
        self._usage = Usage()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """What happens in here is part of the call."""
        ours = _call.set(self)
        try:
            with self._current():
                yield
        finally:
            _call.reset(ours)

    def heard(self) -> None:
        """A piece of the answer came."""
        if self._first_chunk_s is None:
            self._first_chunk_s = time.monotonic() - self._began

    def used(self, usage: Usage) -> None:
        """What this call alone has cost."""
        self._usage = usage

    def answered(self, *, calls_tools: bool) -> None:
        """The whole answer is there; its usage may follow."""
        self._ended = time.monotonic()
        self._finish_reason = self._finish_reason or ("tool_calls" if calls_tools else "stop")

    def note(self, finish_reason: str | None, server: str | None) -> None:
        """What only the runner knows."""
        self._finish_reason = finish_reason or self._finish_reason
        if server is not None:
            with contextlib.suppress(ValueError):  # it is no address
                parts = urlsplit(server)
                port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
                if parts.hostname and port:
                    for name, value in (("server.address", parts.hostname), ("server.port", port)):
                        self._labels[name] = value
                        self._span.set_attribute(name, value)

    def end(self, code: str | None = None) -> None:
        """It is over. ``code``: of what went wrong."""
        seconds = (self._ended or time.monotonic()) - self._began
        span, usage = self._span, self._usage
        if self._first_chunk_s is not None:
            span.set_attribute("gen_ai.request.stream", True)
            span.set_attribute("gen_ai.response.time_to_first_chunk", self._first_chunk_s)
        if self._finish_reason is not None:
            span.set_attribute("gen_ai.response.finish_reasons", [self._finish_reason[:MAX_CHARACTERS]])
        if usage.input_tokens or usage.output_tokens:
            span.set_attribute("gen_ai.usage.input_tokens", usage.input_tokens)
            span.set_attribute("gen_ai.usage.output_tokens", usage.output_tokens)
        if code is not None:
            self._labels["error.type"] = code
            self._failed(code)
        span.end(self._began_ns + int(seconds * 1e9))
        if self._numbers is not None:
            self._numbers.add(self._labels, seconds, self._first_chunk_s, usage)


class Numbers:
    """The conventions' instruments: for whoever collects numbers with the spans."""

    def __init__(self, meter: Any) -> None:
        def seconds(name: str, description: str) -> Any:
            return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=_SECONDS)

        inference = "gen_ai.client.inference"
        self._duration = seconds(f"{inference}.duration", "GenAI client inference operation duration.")
        self._first = seconds(f"{inference}.time_to_first_chunk", "From the request to the first chunk of its answer.")
        self._input = meter.create_counter(f"{inference}.usage.input_tokens", "{token}", "Tokens of prompts.")
        self._output = meter.create_counter(f"{inference}.usage.output_tokens", "{token}", "Tokens of answers.")

    def add(self, labels: Mapping[str, Any], seconds: float, first_chunk_s: float | None, usage: Usage) -> None:
        """One call."""
        self._duration.record(seconds, labels)
        plain = {name: value for name, value in labels.items() if name != "error.type"}
        if first_chunk_s is not None:
            self._first.record(first_chunk_s, plain)
        if usage.input_tokens:
            self._input.add(usage.input_tokens, plain)
        if usage.output_tokens:
            self._output.add(usage.output_tokens, plain)


def note_answer(finish_reason: str | None, server: str | None) -> None:
    """What only the runner knows of the call that it makes now."""
    call = _call.get()
    if call is not None:
        call.note(finish_reason, server)


def provider_and_model(model: str) -> tuple[str, str]:
    """``gen_ai.provider.name`` and ``gen_ai.request.model`` of a model's full name."""
    provider, _, name = model.partition(":")
    if provider == "pydantic-ai":
        provider, _, name = name.partition(":")
    elif provider == "http":
        provider, _, name = name.partition("#")
    return _PROVIDERS.get(provider, provider)[:MAX_CHARACTERS], (name or provider)[:MAX_CHARACTERS]
