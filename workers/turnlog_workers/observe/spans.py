"""Spans and the numbers beside them, for OpenTelemetry: the one module that imports it (the extra ``otel``).

Names are those of the GenAI semantic conventions, version 0.1.0 (``docs/gen-ai/client-inference.md`` and
``execute-tool.md`` of open-telemetry/semantic-conventions-genai); what these have no name for begins with ``turnlog.``.
No text of a session is in any of it: ids, names, counts and codes only.

A span that somebody else must find without being told has an id made of what it stands for: a turn's attempts are
linked, and stay in one trace, whichever worker takes the turn over.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import partial
from importlib.metadata import version
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, TraceFlags, TraceState

from turnlog_schemas.events import EventHeader, TurnAccepted, TurnCancelled, TurnStarted
from turnlog_schemas.parts import ReplyAddress
from turnlog_streams.session.commands import AcceptChat
from turnlog_streams.turn import Turn
from turnlog_workers.base.trace_context import TraceContext, trace_context
from turnlog_workers.observe.model_call import MAX_CHARACTERS, ModelCall, Numbers, provider_and_model

Attributes = dict[str, Any]
_MAX_WAITING = 50_000  #: turns whose first attempt is awaited
_next_ids: ContextVar[tuple[int, int] | None] = ContextVar("_next_ids", default=None)


class Ids(RandomIdGenerator):
    """Random, but for spans whose ids are made of what they stand for."""

    def generate_trace_id(self) -> int:
        """Of a span without a parent."""
        ids = _next_ids.get()
        return super().generate_trace_id() if ids is None else ids[0]

    def generate_span_id(self) -> int:
        """Of any span."""
        ids = _next_ids.get()
        return super().generate_span_id() if ids is None else ids[1]


def exported(service: str, instance: str, environment: Mapping[str, str] = os.environ) -> "Tracing":
    """Spans and numbers that go to the receiver of the environment, in batches, from threads of their own.

    Raises whatever the library raises about variables that it cannot use.
    """
    named = "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "") or environment.get("OTEL_SERVICE_NAME")
    names = {"service.instance.id": instance, "service.version": version("turnlog")}
    resource = Resource.create({**({} if named else {"service.name": service}), **names})
    provider = TracerProvider(resource=resource, id_generator=Ids(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    endpoint = environment.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint or environment.get("OTEL_METRICS_EXPORTER", "otlp").strip() == "none":
        return Tracing(provider)
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    return Tracing(provider, MeterProvider([reader], resource, shutdown_on_exit=False))


class Tracing:
    """The spans of one process."""

    def __init__(self, provider: TracerProvider, meters: MeterProvider | None = None) -> None:
        """``provider``: made with :class:`Ids`."""
        self._provider = provider
        self._meters = meters
        self._tracer = provider.get_tracer("turnlog", version("turnlog"))
        self._numbers = Numbers(meters.get_meter("turnlog", version("turnlog"))) if meters is not None else None
        self._accepted: dict[str, tuple[int, ReplyAddress]] = {}  #: of turns that wait

    # ---- requests and turns

    def requested(
        self,
        command: object,
        sent_ms: int | None,
        now_ms: Callable[[], int],
        *,
        stream_id: str,
        deployment: str,
        place: tuple[str, int, int],
    ) -> None:
        """A request is decided, and that is in the log. ``place``: its topic, partition and offset."""
        reply = getattr(command, "reply", None)
        if not isinstance(reply, ReplyAddress):  # it is a worker's own
            return
        topic, partition, offset = place
        end_ms, given, ids = now_ms(), _given(reply), None
        if given is None and isinstance(command, AcceptChat):
            ids = _request_ids(deployment, stream_id, command.turn_id)
        self._past(
            "turnlog.request",
            min(sent_ms if sent_ms is not None else end_ms, end_ms),
            end_ms,
            parent=given,
            ids=ids,
            attributes={
                "turnlog.stream.id": stream_id,
                "turnlog.command": type(command).__name__,
                "messaging.system": "kafka",
                "messaging.destination.name": topic,
                "messaging.destination.partition.id": str(partition),
                "messaging.kafka.offset": offset,
            },
        )

    def confirmed(self, header: EventHeader, payload: Any, deployment: str) -> None:
        """An event of ours is in the log."""
        kind, turn_id = type(payload), header.turn_id
        if turn_id is None:
            return
        if kind is TurnAccepted:
            if len(self._accepted) >= _MAX_WAITING:
                self._accepted.clear()
            self._accepted[turn_id] = header.recorded_at, payload.reply
        elif kind is TurnStarted and (accepted := self._accepted.pop(turn_id, None)) is not None:
            begin_ms, reply = accepted
            self._past(
                "turnlog.queue",
                begin_ms,
                max(begin_ms, header.recorded_at),
                parent=self._parent(reply, deployment, header.stream_id, turn_id),
                ids=None,
                attributes={"gen_ai.conversation.id": header.stream_id, "turnlog.turn.id": turn_id},
            )
        elif kind is TurnCancelled:
            self._accepted.pop(turn_id, None)

    def attempt(self, session_id: str, turn: Turn, deployment: str) -> "TracedAttempt":
        """The turn's newest attempt begins; it is linked with the one before it, whoever made that."""
        ids, number = (deployment, session_id, turn.turn_id), turn.attempt
        parent = self._parent(turn.reply, *ids)
        before = SpanContext(parent.trace_id, _span_id(*ids, number - 1), True, parent.trace_flags)
        with _with_ids((parent.trace_id, _span_id(*ids, number))):
            span = self._tracer.start_span(
                "turnlog.turn",
                context=_under(parent),
                kind=SpanKind.CONSUMER,
                attributes={
                    "gen_ai.conversation.id": session_id,
                    "gen_ai.request.model": provider_and_model(turn.model or "")[1],
                    "turnlog.turn.id": turn.turn_id,
                    "turnlog.turn.attempt": number,
                },
                links=[Link(before)] if number > 1 else (),
            )
        return TracedAttempt(span)

    def _parent(self, reply: ReplyAddress, deployment: str, session_id: str, turn_id: str) -> SpanContext:
        """What a turn's spans are under: the span that its request names, else that of the request itself."""
        return _given(reply) or self._request_context(*_request_ids(deployment, session_id, turn_id))

    def _request_context(self, trace_id: int, span_id: int) -> SpanContext:
        # Whoever accepted the request asked the same sampler the same question.
        decision = self._provider.sampler.should_sample(None, trace_id, "turnlog.request").decision
        sampled = decision is Decision.RECORD_AND_SAMPLE
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        return SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)

    def _past(
        self,
        name: str,
        start_ms: int,
        end_ms: int,
        *,
        parent: SpanContext | None,
        ids: tuple[int, int] | None,
        attributes: Attributes,
    ) -> None:
        """A span of what is over already."""
        with _with_ids(ids):
            span = self._tracer.start_span(
                name, context=_under(parent), start_time=start_ms * 1_000_000, attributes=attributes
            )
        span.end(end_ms * 1_000_000)

    # ---- what happens in an attempt

    def model_call(self, model: str, session_id: str) -> "ModelCall":
        """A model is asked now."""
        provider, name = provider_and_model(model)
        labels: Attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": name,
        }
        span = self._tracer.start_span(
            f"chat {name}", kind=SpanKind.CLIENT, attributes={**labels, "gen_ai.conversation.id": session_id}
        )
        return ModelCall(span, lambda: _current(span), partial(_failed, span), labels, self._numbers)

    @contextlib.contextmanager
    def section(
        self, name: str, attributes: Attributes, reply: ReplyAddress | None = None
    ) -> Iterator[Callable[[str], None]]:
        """A span of what is done inside; to be told the code of what went wrong, if anything did.

        ``reply``: of the request that it is done for, where that is not what is current.
        """
        parent = None if reply is None else _given(reply)
        span = self._tracer.start_span(name, context=_under(parent), attributes=attributes)
        with _current(span, ends=True):
            yield partial(_failed, span)

    # ---- HTTP

    @contextlib.contextmanager
    def http_request(self, method: str, given: TraceContext | None) -> "Iterator[HttpRequest]":
        """An HTTP request is answered inside."""
        span = self._tracer.start_span(
            method,
            context=_under(None if given is None else _span_context(given)),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method},
        )
        with _current(span, ends=True):
            yield HttpRequest(span, method)

    def close(self) -> None:
        """Send what waits, and nothing more. It may take long: the receiver may be away."""
        self._provider.shutdown()
        if self._meters is not None:
            self._meters.shutdown()


class TracedAttempt:
    """The span of an attempt: current for what is done inside."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._current = contextlib.ExitStack()

    def __enter__(self) -> "TracedAttempt":
        self._current.enter_context(_current(self._span))
        return self

    def __exit__(self, *_: object) -> None:
        self._current.close()
        if self._span.is_recording():
            self._end("stopped", "cancelled")

    def ended(self, code: str | None) -> None:
        """Its end is in the log. ``code``: of its failure."""
        self._end("completed" if code is None else "failed", code)

    def _end(self, outcome: str, code: str | None) -> None:
        self._span.set_attribute("turnlog.turn.outcome", outcome)
        if code is not None:
            _failed(self._span, code)
        self._span.end()


class HttpRequest:
    """The span of an HTTP request."""

    def __init__(self, span: Span, method: str) -> None:
        self._span = span
        self._method = method

    def answered(self, status: int, route: str | None) -> None:
        """``route``: the path as its endpoint declares it."""
        self._span.set_attribute("http.response.status_code", status)
        if route is not None:
            self._span.update_name(f"{self._method} {route}")
            self._span.set_attribute("http.route", route)
        if status >= 500:
            _failed(self._span, str(status))


def _given(reply: ReplyAddress) -> SpanContext | None:
    """The span that a request names; an old log may name anything."""
    if reply.traceparent is None:
        return None
    state = reply.tracestate
    found = trace_context(reply.traceparent.encode(), None if state is None else state.encode())
    return None if found is None else _span_context(found)


def _span_context(given: TraceContext) -> SpanContext:
    _, trace_id, span_id, flags = given.traceparent.split("-")
    state = TraceState() if given.tracestate is None else TraceState.from_header([given.tracestate])
    return SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)), state)


def _under(parent: SpanContext | None) -> contexts.Context | None:
    """``None``: under what is current, if anything is."""
    return None if parent is None else trace.set_span_in_context(trace.NonRecordingSpan(parent), contexts.Context())


@contextlib.contextmanager
def _current(span: Span, *, ends: bool = False) -> Iterator[None]:
    """What is done inside is under the span. ``ends``: and the span ends with it, an error being its end, too."""
    token = contexts.attach(trace.set_span_in_context(span))
    try:
        yield
    except BaseException as error:
        if ends:
            _failed(span, type(error).__name__)
        raise
    finally:
        contexts.detach(token)
        if ends:
            span.end()


@contextlib.contextmanager
def _with_ids(ids: tuple[int, int] | None) -> Iterator[None]:
    token = _next_ids.set(ids)
    try:
        yield
    finally:
        _next_ids.reset(token)


def _request_ids(deployment: str, session_id: str, turn_id: str) -> tuple[int, int]:
    """Trace and span of a request that names none."""
    trace_id = _digest(16, "trace", deployment, session_id, turn_id)
    return trace_id, _digest(8, "request", deployment, session_id, turn_id)


def _span_id(deployment: str, session_id: str, turn_id: str, attempt: int) -> int:
    return _digest(8, "attempt", deployment, session_id, turn_id, str(attempt))


def _digest(size: int, *names: str) -> int:
    digest = hashlib.sha256("\0".join(names).encode()).digest()[:size]
    return int.from_bytes(digest) or 1  # 0 is no id


def _failed(span: Span, code: str) -> None:
    span.set_attribute("error.type", code[:MAX_CHARACTERS])
    span.set_status(trace.StatusCode.ERROR)
