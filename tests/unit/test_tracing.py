"""Traces: which spans there are, what they say, and what hangs together; what is no trace is not there."""

import asyncio
import importlib
import logging
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as names
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes
from opentelemetry.trace import SpanKind, StatusCode

from tests.model_server import KEY, model_server, says
from tests.one_partition import OnePartition
from tests.one_session import LIMITS, LONG, OneSession
from tests.unit.test_mcp_tools import over_http
from tests.unit.test_tools import call as call_of
from tests.unit.test_tools import results_of
from tests.waiting import eventually, until
from turnlog.client.connection import Connection
from turnlog.runner import AssistantMessage, RunnerError, RunnerOutput, TextDelta, TurnInput, UsageReport
from turnlog.serve.traced import Traced
from turnlog_schemas import frames as fr
from turnlog_schemas.commands import Chat
from turnlog_schemas.parts import ToolCall, Usage, text_content
from turnlog_workers import observe
from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import RequestRecord
from turnlog_workers.base.tool_rules import ToolRule
from turnlog_workers.base.trace_context import INCOMING, TraceContext, trace_context, trace_of
from turnlog_workers.intake.request_reader import _address
from turnlog_workers.observe import spans, tracing
from turnlog_workers.runners.models.http import HttpRunners
from turnlog_workers.runners.models.providers import ProviderRunners
from turnlog_workers.tools.calculator import calculator
from turnlog_workers.tools.toolbox import Toolbox

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
PATIENT = replace(LIMITS, turn_timeout_s=120.0)
SECRET = "the-word-that-nobody-may-see"


class Seen:
    """What a traced process would have sent."""

    def __init__(self) -> None:
        self._exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        provider = TracerProvider(id_generator=spans.Ids(), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = spans.Tracing(provider, MeterProvider([self.reader], shutdown_on_exit=False))

    def all(self, name: str = "") -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name or not name]

    def one(self, name: str) -> ReadableSpan:
        (found,) = self.all(name)
        return found

    def numbers(self) -> dict[str, Any]:
        data: Any = self.reader.get_metrics_data()
        metrics = [metric for one in data.resource_metrics for scope in one.scope_metrics for metric in scope.metrics]
        return {metric.name: metric.data.data_points for metric in metrics}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen = Seen()
    monkeypatch.setattr(tracing, "active", seen.tracing)
    return seen


def place(span: ReadableSpan) -> tuple[str, str]:
    """Its trace and its parent."""
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}" if span.parent is not None else ""


def span_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def said(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


# ---- headers


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"x",
        TRACEPARENT.upper().encode(),
        f"00-{TRACE}-{PARENT}".encode(),
        f"00-{'0' * 32}-{PARENT}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        f"ff-{TRACE}-{PARENT}-01".encode(),
        f"{TRACEPARENT}-more".encode(),
        f"{TRACEPARENT}\n".encode(),
        f" {TRACEPARENT}".encode(),
        f"01-{TRACE}-{PARENT}-01x".encode(),
        f"01-{TRACE}-{PARENT}-01-{'x' * 600}".encode(),
        TRACEPARENT.replace("a", "ä").encode(),
        b"\xff" * 55,
        None,
    ],
)
def test_a_bad_traceparent_is_none(bad: bytes | None) -> None:
    assert trace_context(bad, b"a=b") is None
    address = _address(
        RequestRecord(partition=0, offset=0, key=b"s", value=b"", headers=[("traceparent", bad or b"")]), "json", None
    )
    assert (address.traceparent, address.tracestate) == (None, None)


def test_a_good_traceparent_is_taken_and_one_of_a_later_version_as_far_as_it_is_known() -> None:
    assert trace_context(TRACEPARENT.encode()) == TraceContext(TRACEPARENT)
    assert trace_context(f"01-{TRACE}-{PARENT}-01-later".encode()) == TraceContext(TRACEPARENT)
    assert trace_of([("traceparent", TRACEPARENT.encode()), ("tracestate", b"a=b, c@d=e")]) == (
        TRACEPARENT,
        "a=b, c@d=e",
    )
    for bad in (b"", b"no member", b"a=b\n", b"\xff=b", b"a=" + b"b" * 600):
        assert trace_context(TRACEPARENT.encode(), bad) == TraceContext(TRACEPARENT), bad


def sent_by(connection: Connection, **fields: Any) -> dict[str, bytes]:
    return dict(connection.prepare(Chat(content=text_content("Hi")), session_id="s", **fields).headers)


async def test_a_client_sends_the_span_that_is_current_whoever_made_it() -> None:
    connection = Connection(Settings(), client_id="c", connect_timeout_s=1, send_timeout_s=1, resend_after_s=1)
    assert "traceparent" not in sent_by(connection)
    token = INCOMING.set(TraceContext(TRACEPARENT, "a=b"))
    assert sent_by(connection).items() >= {"traceparent": TRACEPARENT.encode(), "tracestate": b"a=b"}.items()
    with TracerProvider(shutdown_on_exit=False).get_tracer("somebody").start_as_current_span("theirs") as span:
        theirs = f"{span.get_span_context().span_id:016x}"
        assert theirs.encode() in sent_by(connection)["traceparent"]
        assert sent_by(connection, traceparent="as told")["traceparent"] == b"as told"
        assert tracing.outgoing() == {}, "no process of ours is traced"
    INCOMING.reset(token)


# ---- a partition


async def streams(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    yield TextDelta(text=SECRET)
    yield UsageReport(usage=Usage(input_tokens=7, output_tokens=3, model_calls=1))
    yield AssistantMessage(content=text_content(SECRET))


class TracedPartition(OnePartition):
    """One whose requests have a trace."""

    traceparent: bytes | None = None

    def deliver(self, key: str, value: bytes) -> None:
        headers = [("traceparent", self.traceparent)] if self.traceparent is not None else []
        record = RequestRecord(
            partition=0, offset=self.sent, key=key.encode(), value=value, headers=headers, timestamp_ms=1
        )
        self.sent += 1
        self.requests.end = self.sent
        self.shard.deliver(record)


async def ended(seen: Seen, name: str, count: int) -> list[ReadableSpan]:
    await eventually(lambda: len(seen.all(name)) >= count, f"{count} spans of {name}", 20.0)
    return seen.all(name)


async def test_the_spans_of_a_turn_are_in_its_requests_trace(seen: Seen) -> None:
    async with TracedPartition(streams) as one:
        one.traceparent = TRACEPARENT.encode()
        one.chat("s", "r", SECRET)
        await one.answer("r", fr.TurnCompleted)
        await ended(seen, "turnlog.turn", 1)
    request, queue, turn, call = map(seen.one, ("turnlog.request", "turnlog.queue", "turnlog.turn", "chat main"))
    assert [place(span) for span in (request, queue, turn)] == [(TRACE, PARENT)] * 3
    assert place(call) == (TRACE, span_id(turn))
    assert (turn.kind, call.kind) == (SpanKind.CONSUMER, SpanKind.CLIENT)
    assert said(request) == {
        "turnlog.stream.id": "s",
        "turnlog.command": "AcceptChat",
        messaging_attributes.MESSAGING_SYSTEM: "kafka",
        messaging_attributes.MESSAGING_DESTINATION_NAME: "chat.requests",
        messaging_attributes.MESSAGING_DESTINATION_PARTITION_ID: "0",
        messaging_attributes.MESSAGING_KAFKA_OFFSET: 0,
    }
    assert said(queue) == {names.GEN_AI_CONVERSATION_ID: "s", "turnlog.turn.id": "t-0-0"}
    assert said(turn) == {
        names.GEN_AI_CONVERSATION_ID: "s",
        names.GEN_AI_REQUEST_MODEL: "main",
        "turnlog.turn.id": "t-0-0",
        "turnlog.turn.attempt": 1,
        "turnlog.turn.outcome": "completed",
    }
    about = said(call)
    assert 0 <= about.pop(names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK) < 60
    assert about == {
        names.GEN_AI_CONVERSATION_ID: "s",
        names.GEN_AI_OPERATION_NAME: names.GenAiOperationNameValues.CHAT.value,
        names.GEN_AI_PROVIDER_NAME: "main",
        names.GEN_AI_REQUEST_MODEL: "main",
        names.GEN_AI_REQUEST_STREAM: True,
        names.GEN_AI_RESPONSE_FINISH_REASONS: ("stop",),
        names.GEN_AI_USAGE_INPUT_TOKENS: 7,
        names.GEN_AI_USAGE_OUTPUT_TOKENS: 3,
    }
    assert SECRET not in str([span.to_json() for span in seen.all()]), "texts are in no span"
    numbers = seen.numbers()
    inference = "gen_ai.client.inference"
    assert numbers[f"{inference}.duration"][0].count == numbers[f"{inference}.time_to_first_chunk"][0].count == 1
    assert [numbers[f"{inference}.usage.{kind}_tokens"][0].value for kind in ("input", "output")] == [7, 3]
    assert SECRET not in str(numbers)


@pytest.mark.parametrize("traceparent", [None, TRACEPARENT.encode(), b"not one"])
async def test_a_turn_that_is_taken_over_stays_in_its_trace_and_is_linked(
    seen: Seen, traceparent: bytes | None
) -> None:
    never, begun = asyncio.Event(), 0

    async def hangs_once(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        nonlocal begun
        begun += 1
        if begun == 1:
            await never.wait()
        yield AssistantMessage(content=text_content("Hello."))

    async with TracedPartition(hangs_once) as one:
        one.traceparent = traceparent
        one.chat("s", "r")
        await eventually(lambda: begun == 1, "the model is asked", 20.0)
        await one.take_over()
        await one.answer("r", fr.TurnCompleted)
        first, second = await ended(seen, "turnlog.turn", 2)
    assert (said(first)["turnlog.turn.outcome"], said(second)["turnlog.turn.outcome"]) == ("stopped", "completed")
    assert said(first)[error_attributes.ERROR_TYPE] == "cancelled"
    assert said(second)["turnlog.turn.attempt"] > said(first)["turnlog.turn.attempt"]
    assert [f"{link.context.span_id:016x}" for link in second.links] == [span_id(first)]
    request = seen.one("turnlog.request")
    assert place(first) == place(second)
    if traceparent == TRACEPARENT.encode():
        assert place(first) == place(request) == (TRACE, PARENT)
    else:
        assert place(first) == (place(request)[0], span_id(request)), "under the request's own span"
    stopped, went_well = seen.all("chat main")
    assert (said(stopped)[error_attributes.ERROR_TYPE], stopped.status.status_code) == ("cancelled", StatusCode.ERROR)
    assert went_well.status.status_code is StatusCode.UNSET


async def test_an_attempt_that_fails_says_with_which_code(seen: Seen) -> None:
    async def fails(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        raise RunnerError("quota_exceeded", f"no more of {SECRET}", retryable=False)
        yield

    async with TracedPartition(fails) as one:
        one.chat("s", "r")
        await one.answer("r", fr.TurnFailed)
        await ended(seen, "turnlog.turn", 1)
    for name in ("turnlog.turn", "chat main"):
        span = seen.one(name)
        assert said(span)[error_attributes.ERROR_TYPE] == "quota_exceeded"
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
    assert SECRET not in str([span.to_json() for span in seen.all()])


async def test_without_an_active_trace_nothing_is_made() -> None:
    assert tracing.active is None
    async with TracedPartition(streams) as one:
        one.traceparent = TRACEPARENT.encode()
        one.chat("s", "r")
        assert (await one.answer("r", fr.TurnCompleted)).text == SECRET
    assert next(reply.address.traceparent for _, reply, _ in one.sender.replies) == TRACEPARENT


# ---- a session


async def counts(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    calls = (ToolCall(call_id="c1", name="calculator", arguments='{"expression": "1+1"}'),)
    calls += (ToolCall(call_id="c2", name="calculator", arguments='{"expression": "1+"}'),)
    yield UsageReport(usage=Usage(input_tokens=10, output_tokens=2, model_calls=1))
    yield AssistantMessage(content=None, tool_calls=calls)
    async for result in turn.tools.run(calls):
        yield result
    yield UsageReport(usage=Usage(input_tokens=30, output_tokens=3, model_calls=2))
    yield AssistantMessage(content=text_content("2"))


async def test_each_call_of_a_model_and_of_a_tool_has_its_span(seen: Seen) -> None:
    toolbox = Toolbox((ToolRule(tools="calculator"),), extra={"calculator": calculator})
    one = OneSession(main=counts, toolbox=toolbox, limits=PATIENT)
    await one.say("What is 1+1?")
    await one.actor.stop()
    first, second = seen.all("chat main")
    assert [said(call)[names.GEN_AI_USAGE_INPUT_TOKENS] for call in (first, second)] == [10, 20]
    assert [said(call)[names.GEN_AI_RESPONSE_FINISH_REASONS] for call in (first, second)] == [
        ("tool_calls",),
        ("stop",),
    ]
    good, bad = seen.all("execute_tool calculator")
    assert said(good) == {
        names.GEN_AI_OPERATION_NAME: names.GenAiOperationNameValues.EXECUTE_TOOL.value,
        names.GEN_AI_TOOL_NAME: "calculator",
        names.GEN_AI_TOOL_CALL_ID: "c1",
        names.GEN_AI_TOOL_TYPE: "function",
        names.GEN_AI_CONVERSATION_ID: "s",
    }
    assert (said(bad)[error_attributes.ERROR_TYPE], bad.status.status_code) == ("error", StatusCode.ERROR)
    assert first.end_time is not None
    assert good.start_time is not None
    assert first.end_time <= good.start_time + 1_000_000_000, "the model's time is not the tool's"


async def test_a_history_compaction_has_a_span_and_the_summary_is_under_it(seen: Seen) -> None:
    one = OneSession()
    for _ in range(8):
        await one.say(LONG)
    await one.actor.stop()
    made = seen.all("turnlog.history_compaction")[0]
    assert said(made) == {
        names.GEN_AI_CONVERSATION_ID: "s",
        "turnlog.history_compaction.trigger": "automatic",
    }
    assert span_id(made) in {place(call)[1] for call in seen.all("chat fast")}


# ---- what goes out


async def test_a_model_server_gets_our_span_and_says_how_it_ended(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    async with model_server(says()) as server:
        monkeypatch.setenv("TURNLOG_HTTP_SERVERS", f'{{"fake": {{"url": "{server.url}/v1"}}}}')
        makes = HttpRunners(Settings())
        one = OneSession(limits=PATIENT)
        one.actor._make_runner = makes
        await one.say("Hello", model="http:fake#good")
        await one.actor.stop()
    call = seen.one("chat good")
    (request,) = server.received
    assert request.headers["traceparent"][:53] == f"00-{place(call)[0]}-{span_id(call)}-"
    assert "tracestate" not in request.headers
    assert said(call)[names.GEN_AI_PROVIDER_NAME] == "fake"
    assert said(call)[names.GEN_AI_RESPONSE_FINISH_REASONS] == ("stop",)
    assert (
        f"http://{said(call)[server_attributes.SERVER_ADDRESS]}:{said(call)[server_attributes.SERVER_PORT]}"
        == server.url
    )


def test_the_providers_names_are_those_of_the_conventions() -> None:
    known = {value.value for value in names.GenAiProviderNameValues}
    ours = {spans.provider_and_model(f"{name}:m")[0] for name in ("anthropic", "openai", "google", "mistral", "xai")}
    assert ours <= known
    assert spans.provider_and_model("pydantic-ai:bedrock:eu.claude:1") == ("aws.bedrock", "eu.claude:1")
    assert spans.provider_and_model("http:vllm#org/model") == ("vllm", "org/model")
    assert spans.provider_and_model("echo:") == ("echo", "echo")


async def test_a_provider_behind_a_library_gets_our_span_too(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    async with model_server(says()) as server:
        monkeypatch.setenv("GOOGLE_API_KEY", KEY)
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        importlib.import_module("turnlog_workers.runners.models.pydantic_models")  # it takes long: not in the turn
        one = OneSession(limits=PATIENT)
        one.actor._make_runner = ProviderRunners(Settings())
        await one.say("Hello", model="google:gemini-m")
        await one.actor.stop()
    call = seen.one("chat gemini-m")
    (request,) = server.received
    sent = {name.lower(): value for name, value in request.headers.items()}
    assert sent["traceparent"][:53] == f"00-{place(call)[0]}-{span_id(call)}-"
    assert said(call)[names.GEN_AI_PROVIDER_NAME] == names.GenAiProviderNameValues.GCP_GEMINI.value
    assert said(call)[names.GEN_AI_RESPONSE_FINISH_REASONS] == ("stop",)
    assert KEY not in str([span.to_json() for span in seen.all()])


async def test_a_tool_of_a_server_gets_our_span(seen: Seen) -> None:
    importlib.import_module("mcp.client.streamable_http")  # as above
    async with over_http() as box:
        ((outcome, told),) = await results_of(box, call_of("small__told", {}), limits=PATIENT)
    span = seen.one("execute_tool small__told")
    assert outcome == "ok"
    assert f"00-{place(span)[0]}-" in told
    assert "traceparent" in told


async def test_the_log_names_the_place_in_the_plug_in(seen: Seen, caplog: pytest.LogCaptureFixture) -> None:
    async def fails(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        raise ValueError("no")
        yield

    one = OneSession(main=fails)
    await one.say("Hello")
    await one.actor.stop()
    assert "test_tracing.py" in caplog.records[0].getMessage()


# ---- HTTP


async def test_an_http_request_is_a_span_and_what_it_leads_to_is_under_it(seen: Seen) -> None:
    with seen.tracing.http_request("POST", TraceContext(TRACEPARENT, "a=b")) as request:
        inside = tracing.current()
        request.answered(503, "/v1/responses")
    span = seen.one("POST /v1/responses")
    assert place(span) == (TRACE, PARENT)
    assert inside == TraceContext(f"00-{TRACE}-{span_id(span)}-01", "a=b")
    assert span.kind is SpanKind.SERVER
    assert said(span) == {
        http_attributes.HTTP_REQUEST_METHOD: "POST",
        http_attributes.HTTP_ROUTE: "/v1/responses",
        http_attributes.HTTP_RESPONSE_STATUS_CODE: 503,
        error_attributes.ERROR_TYPE: "503",
    }


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"traceparent": TRACEPARENT, "tracestate": "a=b"}, TraceContext(TRACEPARENT, "a=b")),
        ({"traceparent": TRACEPARENT + "x" * 5000}, None),
        ({"tracestate": "a=b"}, None),
    ],
)
async def test_a_gateway_passes_on_what_a_request_says_also_where_nothing_is_traced(
    headers: dict[str, str], expected: TraceContext | None
) -> None:
    inside: list[TraceContext | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        inside.append(tracing.current())

    async def nothing(*_: Any) -> Any:
        """Nobody reads or sends."""

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await Traced(app)({"type": "http", "method": "GET", "headers": raw}, nothing, nothing)
    assert inside == [expected]
    assert tracing.current() is None


# ---- the switch


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318", "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_nothing_is_traced_unless_a_receiver_is_named(environment: dict[str, str], expected: bool) -> None:
    assert tracing.wanted(environment) == expected


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    library = logging.getLogger("opentelemetry")
    before = library.propagate, library.handlers
    yield
    tracing.stop(1.0)
    library.propagate, library.handlers = before


def test_a_receiver_that_is_away_holds_nobody_up_and_says_one_line(
    exporting: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization={SECRET}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    tracing.start("test")
    assert tracing.active is not None
    for _ in range(500):
        with tracing.tool_call("t", "c", "s"):
            pass
    until(lambda: caplog.records, "it says so", 30.0)
    tracing.stop(60.0)
    assert tracing.active is None
    lines = [record.getMessage() for record in caplog.records if record.name.startswith(("turnlog", "opentelemetry"))]
    assert len(lines) == 1, lines
    assert lines[0].startswith("traces: ")
    assert SECRET not in lines[0]


def test_the_end_of_a_process_does_not_wait_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hangs:
        closing, go_on = threading.Event(), threading.Event()

        def close(self) -> None:
            self.closing.set()
            self.go_on.wait()

    monkeypatch.setattr(tracing, "active", Hangs())
    tracing.stop(0.01)
    assert Hangs.closing.wait(20)
    assert tracing.active is None
    Hangs.go_on.set()


def test_what_the_library_says_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = 0.0
    seldom = tracing.Seldom(now=lambda: clock)
    record = logging.LogRecord("opentelemetry.x", logging.WARNING, "f", 1, "gone: %s", ("h",), None)
    for clock in (0.0, 1.0, 59.0, 61.0):  # noqa: B007
        seldom.handle(record)
    assert [entry.getMessage() for entry in caplog.records] == [
        "traces: gone: h (and 0 lines more since the last one)",
        "traces: gone: h (and 2 lines more since the last one)",
    ]


def test_without_the_extra_it_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "turnlog_workers.observe.spans", None)
    monkeypatch.delattr(observe, "spans")
    tracing.start("test", environment={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    assert tracing.active is None
    assert "turnlog[otel]" in caplog.text
