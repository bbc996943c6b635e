"""CloudEvents headers, binary mode, for every record that we write.

Source: the CloudEvents Kafka protocol binding 1.0 (``ce_`` prefix for attributes, ``content-type`` bare).
"""

from datetime import UTC, datetime
from functools import lru_cache

from turnlog_schemas.codec import CONTENT_TYPES, FRAMING_AVRO

TYPE_HEADER = 1  #: where ``ce_type`` stands
ID_HEADER = 4  #: where ``ce_id`` stands: the one header of an envelope whose length differs


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=64)
def _time(milliseconds: int) -> bytes:
    seconds, rest = divmod(milliseconds, 1000)
    return b"%b.%03dZ" % (_second(seconds).encode(), rest)


class Envelope:
    """Makes the headers of one family's records (``events``, ``frames``, ``commands``), all of one source."""

    def __init__(self, family: str, source: str) -> None:
        self._family = family
        self._source = source.encode()
        self._constants: dict[tuple[type, str], tuple[tuple[str, bytes], ...]] = {}

    def headers(
        self, payload: type, event_id: str, time_ms: int, framing: str = FRAMING_AVRO
    ) -> list[tuple[str, bytes]]:
        """The headers of one record; ``event_id`` is unique per source."""
        constant = self._constants.get((payload, framing))
        if constant is None:
            constant = self._constants[payload, framing] = self._constant(payload, framing)
        return [*constant, ("ce_id", event_id.encode()), ("ce_time", _time(time_ms))]

    def _constant(self, payload: type, framing: str) -> tuple[tuple[str, bytes], ...]:
        return (
            ("ce_specversion", b"1.0"),
            ("ce_type", f"turnlog.{self._family}.{payload.__name__}".encode()),
            ("ce_source", self._source),
            ("content-type", CONTENT_TYPES[framing].encode()),
        )
