"""CloudEvents headers, binary mode, for every record that we write.

Source: the CloudEvents Kafka protocol binding 1.0 (``ce_`` prefix for attributes, ``content-type`` bare).
"""

from datetime import UTC, datetime
from functools import lru_cache

from schemas.codec import CONTENT_TYPES

TRACE_HEADERS = ("traceparent", "tracestate")


@lru_cache(maxsize=64)
def _time(milliseconds: int) -> bytes:
    moment = datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()


@lru_cache(maxsize=1024)
def _constant(kind: str, source: str, framing: str) -> tuple[tuple[str, bytes], ...]:
    return (
        ("ce_specversion", b"1.0"),
        ("ce_type", f"turnlog.{kind}".encode()),
        ("ce_source", source.encode()),
        ("content-type", CONTENT_TYPES[framing].encode()),
    )


def cloudevent(
    kind: str, event_id: str, *, source: str, time_ms: int, framing: str = "avro"
) -> list[tuple[str, bytes]]:
    """The headers of one record. ``kind`` is ``events.TurnAccepted`` and the like, ``event_id`` unique per source."""
    return [*_constant(kind, source, framing), ("ce_id", event_id.encode()), ("ce_time", _time(time_ms))]


def trace_headers(traceparent: str | None, tracestate: str | None) -> list[tuple[str, bytes]]:
    """W3C trace context, copied from the request to everything that it causes."""
    headers = []
    if traceparent:
        headers.append(("traceparent", traceparent.encode()))
        if tracestate:
            headers.append(("tracestate", tracestate.encode()))
    return headers
