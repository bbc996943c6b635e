"""The keys topic of a sealed prefix: ``keys[p]`` has the keys of what ``events[p]`` says.

A record's key is ``subject/key id``, its value a version byte and the key. A record whose key is ``subject`` alone says
that the subject is erased: no key of it counts, wherever in the topic it stands. The topic is compacted.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from turnlog_schemas.blanking import blanked, erased_subject, subject_of
from turnlog_schemas.codec import Codec
from turnlog_schemas.errors import UnknownFingerprintError, WireError
from turnlog_schemas.events import EventHeader
from turnlog_streams.topics import partition_of
from turnlog_workers.base.ports import Headers, LogBrokenError, NewRecord, UnreadableRange
from turnlog_workers.kafka.sealing import SECRET_BYTES, SealBrokenError, SessionKey, key_id_of, sealed_part
from turnlog_workers.kafka.topic_reader import TopicReader

log = logging.getLogger(__name__)

#: Topic, partition and records (key, value, headers): stored on return.
Send = Callable[[str, int, Sequence[tuple[bytes | None, bytes | None, Headers]]], Awaitable[int]]
_VERSION = b"\x01"
_RECORDS_TOGETHER = 2_000  #: in one batch: half of what a topic takes that nobody set up


class KeyMissingError(LogBrokenError):
    """A sealed record whose key nobody dropped, and which is not there."""


class PartitionKeys:
    """The keys of one partition, as far as its topic was read."""

    def __init__(self) -> None:
        self.next_offset = 0
        self.erased: set[str] = set()  #: subjects
        self.unstored: dict[bytes, str] = {}  #: key id -> subject: made here, and not in the topic yet
        #: Key id -> subject, erased: still in the topic. Of an owner that died, or of a zombie, who came late with it.
        self.left: dict[bytes, str] = {}
        self._keys: dict[bytes, SessionKey] = {}
        self._of_subject: dict[str, list[bytes]] = {}

    def find(self, key_id: bytes) -> SessionKey | None:
        """A key that is not dropped."""
        return self._keys.get(key_id)

    def add(self, subject: str, key: SessionKey) -> None:
        """A key; none of an erased subject."""
        if subject in self.erased:
            self.left[key.key_id] = subject
        elif key.key_id not in self._keys:
            self._keys[key.key_id] = key
            self._of_subject.setdefault(subject, []).append(key.key_id)

    def of(self, subject: str) -> SessionKey:
        """What to seal with: the subject's key, a new one where it has none. What is erased gets no lasting one."""
        known = self._of_subject.get(subject)
        if known:
            return self._keys[known[-1]]
        key = SessionKey.new()
        if subject not in self.erased:
            self.add(subject, key)
            self.unstored[key.key_id] = subject
        return key

    def ids(self, subject: str) -> list[bytes]:
        """Of all its keys."""
        return list(self._of_subject.get(subject, ()))

    def drop(self, subject: str) -> None:
        """The subject is erased, for good."""
        self.erased.add(subject)
        for key_id in self._of_subject.pop(subject, ()):
            self._keys.pop(key_id, None)
            self.unstored.pop(key_id, None)
            self.left[key_id] = subject

    def take(self, name: bytes | None, value: bytes | None) -> None:
        """A record of the topic."""
        subject, _, key_id = (name or b"").decode(errors="replace").partition("/")
        if not key_id:
            if subject and value is not None:
                self.drop(subject)
            return
        try:
            named = bytes.fromhex(key_id)
        except ValueError:
            named = b""
        if value is None:
            self.left.pop(named, None)
        else:
            secret = value[len(_VERSION) :]
            if value[:1] != _VERSION or len(secret) != SECRET_BYTES or not named:
                raise LogBrokenError(f"a key of {subject[:200]} is none that this version knows: upgrade it")
            self.add(subject, SessionKey(named, secret))

    def record_of(self, key_id: bytes) -> tuple[bytes, bytes]:
        """How a key is stored."""
        return f"{self.unstored[key_id]}/{key_id.hex()}".encode(), _VERSION + self._keys[key_id].secret


async def read_on(reader: TopicReader, topic: str, partition: int, start: int, take: Callable[[Any], None]) -> int:
    """Give each record from an offset to the end to ``take``; the offset behind them. Raises :class:`LogError`."""
    first, end = (await reader.bounds(topic, [partition]))[partition]
    start = max(start, first)
    if start >= end:
        return start
    async for records in reader.read_leniently(topic, partition, start, end):
        for record in records:
            if isinstance(record, UnreadableRange):
                raise LogBrokenError(f"{topic}[{partition}]@{record.first}: {record.reason}")
            take(record)
    return end


class ErasureMarks:
    """When something was erased last, by partition: who has a copy of before has what must not be there any more."""

    def __init__(self, topic: str, reader: TopicReader) -> None:
        self._topic = topic
        self._reader = reader
        self._next: dict[int, int] = {}
        self.newest_ms: dict[int, int] = {}  #: milliseconds since 1970, as its owner's clock had it
        self.count = 0

    async def refresh(self, partition: int) -> None:
        """Read on to the end. Raises :class:`LogError`."""

        def take(record: Any) -> None:
            if record.key is not None and b"/" not in record.key and record.value is not None:
                self.count += 1
                self.newest_ms[partition] = max(record.timestamp or 0, self.newest_ms.get(partition, 0))

        start = self._next.get(partition, 0)
        self._next[partition] = await read_on(self._reader, self._topic, partition, start, take)


class SessionKeys:
    """The keys of all partitions that a process reads or owns."""

    def __init__(self, topic: str, partitions: int, reader: TopicReader, send: Send | None = None) -> None:
        """``send`` stores records, for who writes events."""
        self._topic = topic
        self._partitions = partitions
        self._reader = reader
        self._send = send
        self._of: dict[int, PartitionKeys] = {}
        self._told: set[str] = set()  #: subjects whose texts were not kept, although no event says that they are erased

    def of_partition(self, partition: int) -> PartitionKeys:
        """The keys of a partition."""
        return self._of.setdefault(partition, PartitionKeys())

    async def refresh(self, partition: int) -> None:
        """Read on to the end. Raises :class:`LogError`.

        A key is stored before what it seals, so whoever knows where the events end, and then does this, can read them.
        """
        keys = self.of_partition(partition)
        keys.next_offset = await read_on(
            self._reader, self._topic, partition, keys.next_offset, lambda record: keys.take(record.key, record.value)
        )

    async def look_again(self) -> None:
        """What others did to the keys of partitions that are read or owned here. Raises :class:`LogError`."""
        for partition in list(self._of):
            await self.refresh(partition)

    # ---- to write

    def sealed(self, codec: Codec, header: EventHeader, event: Any, key: bytes) -> tuple[bytes, bytes | None]:
        """The record's bytes, and what stands sealed beside it; ``None``: the event has no text."""
        subject = subject_of(header, event)
        if subject is None:
            return codec.encode(header, event), None
        keys = self.of_partition(partition_of(key, self._partitions))
        made: list[SessionKey] = []  # only where there is something to seal

        def own() -> SessionKey:
            if not made:
                made.append(keys.of(subject))
            return made[0]

        blank = blanked(event, lambda told: own().keyed(told))
        value = codec.encode(header, blank)
        if blank is event:
            return value, None
        if subject in keys.erased:
            self._tell_not_kept(subject)
            return value, None
        return value, own().seal(codec.encode(header, event), value)

    async def before_append(self, partition: int, records: Sequence[NewRecord]) -> None:
        """Store what these records were sealed with, and drop the keys of what they erase. Raises :class:`LogError`."""
        keys = self.of_partition(partition)
        made, dropped = list(keys.unstored), dict(keys.left)
        out: list[tuple[bytes | None, bytes | None, Headers]] = [(*keys.record_of(key_id), ()) for key_id in made]
        gone: list[str] = []
        for record in records:
            subject = erased_subject(record.header, record.payload)
            if subject is not None:
                gone.append(subject)
                mark = json.dumps({"erased_at": record.header.recorded_at}).encode()
                out.append((subject.encode(), mark, ()))  # first: without it a missing key would be a lost one
                dropped |= dict.fromkeys(keys.ids(subject), subject)
        out += [(f"{subject}/{key_id.hex()}".encode(), None, ()) for key_id, subject in dropped.items()]
        for start in range(0, len(out), _RECORDS_TOGETHER):
            assert self._send is not None
            await self._send(self._topic, partition, out[start : start + _RECORDS_TOGETHER])
        for key_id in made:
            keys.unstored.pop(key_id, None)
        for subject in gone:
            keys.drop(subject)
        for key_id in dropped:
            keys.left.pop(key_id, None)

    def _tell_not_kept(self, subject: str) -> None:
        """The owner that erased it died before its event said so; the request is decided again, or was lost."""
        if subject not in self._told:
            self._told.add(subject)
            log.warning("%s is marked as erased in %s: texts of it are not kept any more", subject, self._topic)

    # ---- to read

    def opened(self, codec: Codec, partition: int, value: bytes, headers: Headers | None) -> bytes:
        """The whole record; without its texts, where they are erased.

        Raises :class:`KeyMissingError` (read the keys on, and try again) or another :class:`LogBrokenError`; and
        :class:`UnknownFingerprintError` where only the record's type could tell whose key it is that is not there.
        """
        sealed = sealed_part(headers)
        if sealed is None:
            return value
        keys = self.of_partition(partition)
        key = keys.find(key_id_of(sealed))
        if key is not None:
            try:
                return key.open(sealed, value)
            except SealBrokenError as error:
                raise LogBrokenError(str(error)) from error
        try:
            header, event = codec.decode(value)
        except UnknownFingerprintError:
            raise
        except WireError:
            return value  # whoever decodes it says what it is
        subject = subject_of(header, event)
        if subject in keys.erased:
            return value
        raise KeyMissingError(
            f"its key {key_id_of(sealed).hex()} of {subject} is neither in {self._topic}[{partition}] nor erased: "
            "restore that topic"
        )
