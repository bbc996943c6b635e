"""From records of the reply topic to frames, those of newer writers included."""

import asyncio
import logging
import time
from typing import Any

from turnlog.client.replies import ReplyFrame
from turnlog_schemas.codec import Codec
from turnlog_schemas.errors import UnknownFingerprintError, WireError
from turnlog_schemas.registry import FRAMES
from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import BrokerUnreachableError, NotFoundError
from turnlog_workers.kafka.schema_topic import read_schemas

log = logging.getLogger(__name__)
_SCHEMAS_TIMEOUT_S = 5.0
_ASK_AGAIN_AFTER_S = 60.0


class FrameDecoder:
    """Decodes frames; looks a schema up in the schemas topic when it meets one that it does not know."""

    def __init__(self, settings: Settings, codec: Codec | None = None) -> None:
        self._settings = settings
        self._codec = codec or Codec(FRAMES)
        self._asked_at = -_ASK_AGAIN_AFTER_S
        self._asked_for: set[bytes] = set()  #: since then

    async def decode(self, record: Any) -> ReplyFrame | None:
        """The frame of a consumer's record; ``None`` for what this version cannot read."""
        value: bytes = record.value or b""
        try:
            try:
                header, frame = self._decode(value)
            except UnknownFingerprintError as error:
                if not await self._refresh(error.fingerprint):
                    raise
                header, frame = self._decode(value)
        except WireError as error:
            where = f"{record.topic}[{record.partition}]@{record.offset}"
            log.warning("%s: ignored, not a frame that this version knows: %s", where, error)
            return None
        return ReplyFrame(header=header, frame=frame, partition=record.partition, offset=record.offset)

    def _decode(self, value: bytes) -> tuple[Any, Any]:
        return self._codec.from_json(value) if value[:1] == b"{" else self._codec.decode(value)

    async def _refresh(self, fingerprint: bytes) -> bool:
        """Read the schemas topic, once a minute at most for the same fingerprint: it may not be there at all."""
        now = time.monotonic()
        if now >= self._asked_at + _ASK_AGAIN_AFTER_S or len(self._asked_for) >= 1000:
            self._asked_for.clear()
            self._asked_at = now
        if fingerprint in self._asked_for:
            return False
        self._asked_for.add(fingerprint)
        try:
            new = await asyncio.to_thread(
                read_schemas, self._settings, self._codec.registry, timeout_s=_SCHEMAS_TIMEOUT_S
            )
        except (BrokerUnreachableError, NotFoundError) as error:
            log.warning("the schemas topic cannot be read: %s", error)
            return False
        return new > 0
