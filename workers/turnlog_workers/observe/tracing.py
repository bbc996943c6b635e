"""Is this process traced? The switch, and what is asked of whoever may be: it needs no library.

Spans are made where ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``_TRACES_ENDPOINT``) names a receiver and the extra ``otel``
is installed. Everything is set by OpenTelemetry's own environment variables.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

from turnlog_schemas.parts import ReplyAddress
from turnlog_streams.turn import Turn
from turnlog_workers.base.logs import keep_secret, redacted
from turnlog_workers.base.trace_context import INCOMING, TraceContext
from turnlog_workers.observe import model_call

if TYPE_CHECKING:
    from turnlog_workers.observe.spans import Tracing

log = logging.getLogger(__name__)
FLUSH_S = 3.0  #: at the end of a process, for what is not sent yet
_SAY_AGAIN_S = 60.0
_MAX_SAID_CHARACTERS = 300
_LIBRARY = "opentelemetry"
active: "Tracing | None" = None  #: of this process; ``None``: nothing is traced


def start(service: str, instance: str = "", environment: Mapping[str, str] = os.environ) -> None:
    """Trace from now on, if the environment says so. Never raises.

    ``service``, ``instance``: what the spans' process is called, unless the environment has a name.
    """
    global active
    if active is not None or not wanted(environment):
        return
    try:
        from turnlog_workers.observe import spans
    except ImportError as error:
        install = "pip install 'turnlog[otel]'"
        log.warning("nothing is traced: OTEL_EXPORTER_OTLP_ENDPOINT needs the extra: %s (%s)", install, error.name)
        return
    library = logging.getLogger(_LIBRARY)
    library.propagate = False
    library.handlers = [Seldom()]
    for value in _header_values(environment):
        keep_secret(value)
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol and protocol != "http/protobuf":
        log.warning("spans are sent as http/protobuf, and not as OTEL_EXPORTER_OTLP_PROTOCOL says (%.40s)", protocol)
    try:
        active = spans.exported(service, instance, environment)
    except Exception as error:  # a variable that is no number, a certificate that is not there
        log.error("nothing is traced: %s: %s", type(error).__name__, redacted(str(error))[:_MAX_SAID_CHARACTERS])


def stop(timeout_s: float = FLUSH_S) -> None:
    """Send what waits, for a bounded time, and trace no more. It blocks."""
    global active
    tracing, active = active, None
    if tracing is not None:
        closing = threading.Thread(target=tracing.close, name="the last spans", daemon=True)
        closing.start()
        closing.join(timeout_s)


def wanted(environment: Mapping[str, str]) -> bool:
    """Is there a receiver, and nothing that says otherwise?"""
    endpoint = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return bool(endpoint) and not off and environment.get("OTEL_TRACES_EXPORTER", "otlp").strip() != "none"


def _header_values(environment: Mapping[str, str]) -> list[str]:
    """What the receiver is shown: keys, most often."""
    pairs = ",".join(value for name, value in environment.items() if name.startswith("OTEL_") and "HEADERS" in name)
    values = [unquote(pair.partition("=")[2].strip()) for pair in pairs.split(",")]
    return [*values, *(value.rpartition(" ")[2] for value in values)]  # "Bearer KEY"


class Seldom(logging.Handler):
    """What the library has to say, as one line a minute: a receiver that is away is no reason for more."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._now = now
        self._said_at = -_SAY_AGAIN_S
        self._kept = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Tell of it, or count it."""
        now = self._now()
        if now - self._said_at < _SAY_AGAIN_S:
            self._kept += 1
            return
        said = " ".join(redacted(record.getMessage()).split())[:_MAX_SAID_CHARACTERS]
        log.warning("traces: %s (and %d lines more since the last one)", said, self._kept)
        self._said_at, self._kept = now, 0


# ---- asked from everywhere


def current() -> TraceContext | None:
    """Of the span that is current, whoever made it, or else of the HTTP request that is answered now."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is not None:  # else nobody can have a span
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
            return TraceContext(parent, context.trace_state.to_header() or None)
    return INCOMING.get()


def outgoing() -> dict[str, str]:
    """What a request to a model server or a tool says of our span: its ``traceparent``, nothing of anybody else's."""
    if active is None or (found := current()) is None:
        return {}
    return {"traceparent": found.traceparent}


def note_answer(*, finish_reason: str | None = None, server: str | None = None) -> None:
    """What only a runner knows of the call of a model that it makes now. ``server``: its address."""
    if active is not None:
        model_call.note_answer(finish_reason, server)


def tool_call(name: str, call_id: str, session_id: str) -> AbstractContextManager[Callable[[str], None]]:
    """A tool is run inside; to be told the code of what went wrong, if anything did."""
    if active is None:
        return _NOTHING
    return active.section(
        f"execute_tool {name}",
        {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.call.id": call_id[: model_call.MAX_CHARACTERS],
            "gen_ai.tool.type": "function",
            "gen_ai.conversation.id": session_id,
        },
    )


def history_compaction(
    session_id: str, trigger: str, reply: ReplyAddress | None
) -> AbstractContextManager[Callable[[str], None]]:
    """A history is compacted inside; as above. ``reply``: of the request for it."""
    if active is None:
        return _NOTHING
    attributes = {"gen_ai.conversation.id": session_id, "turnlog.history_compaction.trigger": trigger}
    return active.section("turnlog.history_compaction", attributes, reply)


def attempt(session_id: str, turn: Turn, deployment: str) -> AbstractContextManager["TracedAttempt | None"]:
    """The turn's newest attempt is made inside. ``deployment``: what tells its turns from those of any other."""
    return NOT_TRACED if active is None else active.attempt(session_id, turn, deployment)


class TracedAttempt(Protocol):
    """The span of an attempt."""

    def ended(self, code: str | None) -> None:
        """Its end is in the log. ``code``: of its failure."""
        ...


def _ignore(_: str) -> None:
    pass


NOT_TRACED: AbstractContextManager[None] = contextlib.nullcontext()
_NOTHING: AbstractContextManager[Callable[[str], None]] = contextlib.nullcontext(_ignore)
