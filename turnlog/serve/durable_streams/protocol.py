"""What Durable Streams says of offsets, cursors and tags (PROTOCOL.md of durable-streams, 5.5 to 10). Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from turnlog.serve.http_errors import HttpError, bad_request

OFFSET_DIGITS = 20
_OFFSET = re.compile(rf"[0-9]{{{OFFSET_DIGITS}}}")
_CURSOR = re.compile(r"[0-9]{1,18}")
_CURSOR_EPOCH_S = 1_728_432_000  #: 2024-10-09T00:00:00Z
_CURSOR_INTERVAL_S = 20
_MAX_JITTER_S = 3600

Live = Literal["long-poll", "sse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """What a reader asks for. ``start``: the first position, ``None`` the beginning, ``now`` the end."""

    start: int | Literal["now"] | None = None
    live: Live | None = None
    cursor: int | None = None


def read_request(pairs: Sequence[tuple[str, str]]) -> ReadRequest:
    """The request of a query string. 400 for what cannot be; unknown names are passed over."""
    offsets = [value for name, value in pairs if name == "offset"]
    if len(offsets) > 1:
        raise bad_request("invalid_offset", "offset is given more than once", "offset")
    values = dict(pairs)
    live: Live | None = None
    if "live" in values:
        found = next((known for known in ("long-poll", "sse") if known == values["live"]), None)
        if found is None:
            raise bad_request("invalid_live", "live is long-poll or sse", "live")
        if not offsets:
            raise bad_request("offset_required", "live reads need an offset; -1 is the beginning", "offset")
        live = "sse" if found == "sse" else "long-poll"
    cursor = int(values["cursor"]) if _CURSOR.fullmatch(values.get("cursor", "")) else None
    return ReadRequest(start=_start(offsets[0]) if offsets else None, live=live, cursor=cursor)


def _start(text: str) -> int | Literal["now"] | None:
    if text == "-1":
        return None
    if text == "now":
        return "now"
    if not _OFFSET.fullmatch(text):
        raise bad_request("invalid_offset", "offset is -1, now, or one that this stream gave", "offset")
    return int(text)


def offset_text(position: int) -> str:
    """A position as an offset: sorts as the positions do."""
    return f"{position:0{OFFSET_DIGITS}d}"


def gone(first: int) -> HttpError:
    """410: what the reader asks for is not kept any more."""
    message = f"that offset is not kept any more; the stream begins at {offset_text(first)}: read from -1"
    return HttpError(status=410, code="gone", message=message)


def cursor_text(now_s: float, given: int | None, jitter_s: float) -> str:
    """The cursor of a live answer: it moves on with the clock, and always beyond the one that the reader has.

    ``jitter_s``: 1 to 3600, so that readers who share a cache do not stay together.
    """
    interval = max(0, int((now_s - _CURSOR_EPOCH_S) // _CURSOR_INTERVAL_S))
    if given is not None and given >= interval:
        interval = given + max(1, round(min(jitter_s, _MAX_JITTER_S) / _CURSOR_INTERVAL_S))
    return str(interval)


def etag(name: str, start: int | None, end: int, *, closed: bool) -> str:
    """The tag of an answer: another one once the stream is closed."""
    return f'"{name}:{-1 if start is None else start}:{end}{":c" if closed else ""}"'


def matches(header: str | None, tag: str) -> bool:
    """Does If-None-Match name the tag?"""
    return header is not None and any(part.strip().removeprefix("W/") in (tag, "*") for part in header.split(","))
