"""Values of rows: content columns, JSON bodies, raw events. Part of ``projection.project``."""

import base64
import json
from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from turnlog_schemas import events as ev
from turnlog_schemas.codec import UnknownPayload
from turnlog_schemas.mapping import to_dict
from turnlog_schemas.parts import ContentPart, content_text, is_plain_text
from turnlog_streams.projection.rows import ChannelEventRow, EventRow, UnknownEventRow
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_streams.table_types import Json, Millis

_PART_DICT = to_dict(ContentPart)
_HEADER_FIELDS = frozenset(ev.EventHeader.__dataclass_fields__)


def content_columns(content: tuple[ContentPart, ...]) -> tuple[str | None, Json | None]:
    """Text and parts of a content list; no parts where the text says it all."""
    if len(content) == 1:
        (part,) = content
        if part.text is not None and is_plain_text(part):
            return part.text, None
    return content_text(content), json_column([_PART_DICT(part) for part in content])


def json_column(value: Any) -> Json:
    """Compact JSON."""
    return Json(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain))


def json_of_plain(value: Any) -> Json:
    """The same text for dicts, lists, texts, numbers and nothing else, four times as fast."""
    try:
        return Json(to_json(value).decode())
    except ValueError:  # what is no Unicode: Python's encoder is not so strict
        return json_column(value)


def json_records(records: Sequence[Any]) -> Json | None:
    """Wire records as a JSON list; ``None``: there are none."""
    if not records:
        return None
    cls: type = type(records[0])
    return json_column([to_dict(cls)(record) for record in records])


def _plain(value: Any) -> Any:
    """Types that only a newer writer's schema may bring."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def _body(payload: Any) -> tuple[str, Json]:
    """Type and JSON of an event's own fields."""
    if isinstance(payload, UnknownPayload):
        own = {name: value for name, value in payload.fields.items() if name not in _HEADER_FIELDS}
        return payload.name, json_column(own)
    kind: type = type(payload)
    return kind.__name__, json_of_plain(to_dict(kind)(payload))


def unknown_row(logged: LoggedEvent) -> UnknownEventRow:
    """The event, kept raw because it cannot be projected."""
    header = logged.header
    name, body = _body(logged.payload)
    return UnknownEventRow(
        partition=logged.partition,
        log_offset=logged.offset,
        stream_kind=header.stream_kind,
        stream_id=header.stream_id,
        stream_version=header.stream_version,
        type=name,
        turn_id=header.turn_id,
        recorded_at=Millis(header.recorded_at),
        body=body,
    )


def channel_event_row(logged: LoggedEvent) -> ChannelEventRow:
    """An event of a channel, whole."""
    header = logged.header
    name, body = _body(logged.payload)
    return ChannelEventRow(
        partition=logged.partition,
        log_offset=logged.offset,
        channel=header.stream_id,
        stream_version=header.stream_version,
        type=name,
        recorded_at=Millis(header.recorded_at),
        body=body,
    )


def raw_row(logged: LoggedEvent) -> EventRow:
    """The event as it stands in the log."""
    header = logged.header
    name, body = _body(logged.payload)
    return EventRow(
        partition=logged.partition,
        log_offset=logged.offset,
        epoch=header.epoch,
        n=header.n,
        stream_kind=header.stream_kind,
        stream_id=header.stream_id,
        stream_version=header.stream_version,
        type=name,
        turn_id=header.turn_id,
        attempt=header.attempt,
        accepted=header.accepted,
        replied=header.replied,
        recorded_at=Millis(header.recorded_at),
        body=body,
        logged_at=None if logged.logged_at < 0 else Millis(logged.logged_at),
    )
