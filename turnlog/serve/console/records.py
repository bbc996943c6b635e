"""One record of the event log as the topic has it: key, headers, decoded header and body."""

import json
from dataclasses import dataclass
from typing import Any

from turnlog.errors import NotFoundError
from turnlog_schemas.codec import Codec
from turnlog_schemas.errors import WireError
from turnlog_schemas.registry import EVENTS
from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import UnreadableRange
from turnlog_workers.kafka.topic_reader import TopicReader

MAX_BODY_CHARS = 2_000_000  #: more than a record may hold, unless its bytes are all escapes


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """A record, in words."""

    topic: str
    partition: int
    offset: int
    key: str
    size: int  #: bytes of the value
    headers: tuple[tuple[str, str], ...]
    type: str = ""
    event_header: str = ""
    body: str = ""
    problem: str = ""  #: why it could not be decoded


async def read_record(
    reader: TopicReader, settings: Settings, session_id: str, partition: int, offset: int
) -> LogRecord:
    """The record at a place. Raises :class:`NotFoundError` where there is none of this session, or ``LogError``."""
    topic = settings.topics.events
    first, end = (await reader.bounds(topic, [partition]))[partition]
    missing = NotFoundError(f"{topic}[{partition}]@{offset} is no event of session {session_id}.")
    if not first <= offset < end:
        raise missing
    async for records in reader.read_leniently(topic, partition, offset, offset + 1):
        for record in records:
            if isinstance(record, UnreadableRange) or record.key != session_id.encode():
                raise missing
            return describe(topic, partition, record)
    raise missing


def describe(topic: str, partition: int, record: Any) -> LogRecord:
    """What a record says."""
    value: bytes = record.value or b""
    headers = tuple((name, (data or b"").decode(errors="backslashreplace")) for name, data in record.headers)
    key = (record.key or b"").decode(errors="backslashreplace")
    place: dict[str, Any] = {
        "topic": topic,
        "partition": partition,
        "offset": record.offset,
        "key": key,
        "size": len(value),
        "headers": headers,
    }
    codec = Codec(EVENTS)
    try:
        header, payload = codec.decode(value)
        document = codec.to_json(header, payload)
    except WireError as error:
        return LogRecord(**place, problem=f"This version cannot read it: {error}")
    body = document.pop("event", None)
    return LogRecord(
        **place,
        type=type(payload).__name__,
        event_header=json.dumps(document, indent=2, ensure_ascii=False),
        body=json.dumps(body, indent=2, ensure_ascii=False)[:MAX_BODY_CHARS],
    )
