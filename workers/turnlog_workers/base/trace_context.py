"""W3C trace context: which trace a request belongs to, as its headers say. It needs no library.

Source: W3C Trace Context, https://www.w3.org/TR/trace-context/ (``traceparent`` 3.2, ``tracestate`` 3.3).
"""

import re
from collections.abc import Iterable
from contextvars import ContextVar
from typing import NamedTuple

NAMES = ("traceparent", "tracestate")
_CHARACTERS = 55  #: of a traceparent; of a later version than 00, what we understand of it
_MAX_STATE_CHARACTERS = 512
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_STATE_MEMBER = re.compile(r"[ \t]*[a-z0-9][a-z0-9_*/@-]*=[\x20-\x2b\x2d-\x3c\x3e-\x7e]+")


class TraceContext(NamedTuple):
    """The two headers, checked."""

    traceparent: str
    tracestate: str | None = None

    def headers(self) -> list[tuple[str, bytes]]:
        """As those of a record."""
        return trace_headers(self.traceparent, self.tracestate)


#: Of the HTTP request that is answered now: what it leads to is of its trace.
INCOMING: ContextVar[TraceContext | None] = ContextVar("incoming_trace", default=None)


def trace_context(traceparent: bytes | None, tracestate: bytes | None = None) -> TraceContext | None:
    """What the headers say; ``None``: there is no ``traceparent``, or none as it must be. Never raises."""
    parent = _ascii(traceparent, _MAX_STATE_CHARACTERS)
    if parent is None or not _TRACEPARENT.fullmatch(parent[:_CHARACTERS]):
        return None
    if len(parent) > _CHARACTERS:
        if parent.startswith("00") or parent[_CHARACTERS] != "-":
            return None
        parent = parent[:_CHARACTERS]
    return TraceContext(f"00{parent[2:]}", _state(tracestate))


def trace_of(headers: Iterable[tuple[str, bytes | None]]) -> TraceContext | None:
    """As above, of a record's headers; of several with one name the last counts."""
    found = {name: value for name, value in headers if name in NAMES}
    return trace_context(found.get("traceparent"), found.get("tracestate")) if found else None


def trace_headers(traceparent: str | None, tracestate: str | None) -> list[tuple[str, bytes]]:
    """W3C trace context, copied from the request to everything that it causes."""
    headers = []
    if traceparent:
        headers.append(("traceparent", traceparent.encode()))
        if tracestate:
            headers.append(("tracestate", tracestate.encode()))
    return headers


def _state(value: bytes | None) -> str | None:
    state = _ascii(value, _MAX_STATE_CHARACTERS)
    if not state or not all(_STATE_MEMBER.fullmatch(member) for member in state.split(",") if member.strip()):
        return None
    return state


def _ascii(value: bytes | None, most: int) -> str | None:
    if not value or len(value) > most or not value.isascii():
        return None
    return value.decode("ascii")
