"""Values of rows: content columns, JSON bodies, raw events. Part of ``projection.project``."""

import base64
import json
from collections.abc import Sequence
from typing import Any

from turnlog_schemas import events as ev
from turnlog_schemas.codec import UnknownPayload
from turnlog_schemas.json_writer import json_writer
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


def _body(payload: Any) -> tuple[str, str]:
    """Type and JSON of an event's own fields."""
    kind: type = type(payload)
    if kind is UnknownPayload:
        own = {name: value for name, value in payload.fields.items() if name not in _HEADER_FIELDS}
        return payload.name, json_column(own)
    return kind.__name__, json_writer(kind)(payload)


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
        body=Json(body),
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
        body=Json(body),
    )


def raw_columns(events: Sequence[LoggedEvent]) -> list[Sequence[Any]]:
    """Events as they stand in the log: the columns of their :class:`EventRow`. Every event has one, so none is made."""
    headers = [logged.header for logged in events]
    bodies = [_body(logged.payload) for logged in events]
    return [
        [logged.partition for logged in events],
        [logged.offset for logged in events],
        [header.epoch for header in headers],
        [header.n for header in headers],
        [header.stream_kind for header in headers],
        [header.stream_id for header in headers],
        [header.stream_version for header in headers],
        [name for name, _ in bodies],
        [header.turn_id for header in headers],
        [header.attempt for header in headers],
        [header.accepted for header in headers],
        [header.replied for header in headers],
        [header.recorded_at for header in headers],
        [body for _, body in bodies],
        [None if logged.logged_at < 0 else logged.logged_at for logged in events],
    ]


def raw_rows(events: Sequence[LoggedEvent]) -> list[EventRow]:
    """The same, row by row."""
    return [EventRow(*values) for values in zip(*raw_columns(events), strict=True)]
