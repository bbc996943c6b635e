"""The event log on Kafka: one idempotent producer for all shards of a worker, and readers at explicit positions.

An idempotent aiokafka producer never expires a batch by itself and never heals a broken sequence. So every append
has a deadline of ours, and a producer that failed once is replaced: no shard starts an append on the old one.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from turnlog_schemas.codec import Codec, is_foreign
from turnlog_schemas.errors import UnknownFingerprintError, WireError
from turnlog_schemas.events import CHANNEL, SEALED_LOG_FORMAT, SESSION, EventHeader, PartitionClaimed
from turnlog_schemas.registry import EVENTS
from turnlog_streams.reader_rule import (
    FOREIGN,
    NOT_READ,
    LogFormatError,
    LoggedEvent,
    SkimmedRecord,
    check_log_format,
)
from turnlog_streams.records import changed
from turnlog_workers.base.cloudevents import ID_HEADER, Envelope
from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import (
    AppendUncertainError,
    Headers,
    LogAuthorizationError,
    LogBrokenError,
    LogError,
    NewRecord,
    RecordsRefusedError,
)
from turnlog_workers.base.shared_look import SharedLook
from turnlog_workers.base.tasks import watched
from turnlog_workers.kafka.connections import REFUSALS, REFUSED_RECORDS, SET_THE_CLOCK, WRONG_CLOCK, client_options
from turnlog_workers.kafka.prompt_producer import PromptProducer
from turnlog_workers.kafka.refusal import RefusalWatch
from turnlog_workers.kafka.sealing import SEALED
from turnlog_workers.kafka.session_keys import SessionKeys
from turnlog_workers.kafka.topic_reader import TopicReader

log = logging.getLogger(__name__)
#: What a record batch costs beside keys, values and headers: batch header, then per record and per header (rounded up).
BATCH_OVERHEAD_BYTES = 128
RECORD_OVERHEAD_BYTES = 64
HEADER_OVERHEAD_BYTES = 10
_STOP_TIMEOUT_S = 5.0
_LOOK_S = 0.05
_STREAMS = (SESSION, CHANNEL)


class LogProducer:
    """The producer of the event log, and of dead letters and forwards: they are stored before an event says so."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._stopping: set[asyncio.Task[None]] = set()
        self._in_use: dict[AIOKafkaProducer, int] = {}  #: appends in flight
        self._refusals = RefusalWatch(settings)

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Raises ``TimeoutError``: a start that this has ended was cancelled, and does not know why."""
        try:
            async with asyncio.timeout(self._settings.append_timeout_s):
                yield
        except TimeoutError:
            if self._producer is None:
                self._refusals.failed()
            raise

    async def get(self) -> AIOKafkaProducer:
        """The current instance, started. Raises ``KafkaError`` or ``TimeoutError``."""
        if self._producer is not None:
            return self._producer
        async with self._starting:
            if self._producer is None:
                producer = PromptProducer(
                    **client_options(self._settings, "turnlog-log"),
                    acks="all",
                    enable_idempotence=True,
                    linger_ms=0,
                    max_batch_size=self._settings.max_batch_bytes + 256 * 1024,
                    max_request_size=2 * self._settings.max_batch_bytes,
                    request_timeout_ms=int(self._settings.append_timeout_s * 1000),
                )
                try:
                    async with asyncio.timeout(self._settings.append_timeout_s):
                        await producer.start()
                except BaseException as error:
                    self._retire(producer)
                    if isinstance(error, KafkaError | TimeoutError):
                        self._refusals.failed()
                    raise
                self._producer = producer
                self._refusals.worked()
        return self._producer

    def discard(self, producer: AIOKafkaProducer) -> None:
        """This instance failed: the next append gets a new one. Appends in flight run to their own deadline."""
        if self._producer is producer:
            self._producer = None
            self._retire(producer)

    def _retire(self, producer: AIOKafkaProducer) -> None:
        async def stop() -> None:
            # Stopping it would hang what others have in flight, and cost them their partitions.
            deadline = time.monotonic() + self._settings.append_timeout_s
            while self._in_use.get(producer) and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_S)
            with contextlib.suppress(Exception):  # it is broken: nothing depends on how it ends
                async with asyncio.timeout(_STOP_TIMEOUT_S):
                    await producer.stop()

        task = watched(stop(), "the end of a producer")
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def close(self) -> None:
        """Stop the current instance and wait (bounded) for the retired ones."""
        if self._producer is not None:
            self.discard(self._producer)
        if self._stopping:
            await asyncio.wait(self._stopping, timeout=_STOP_TIMEOUT_S + 1)

    async def partition_count(self, topic: str) -> int:
        """How many partitions a topic has. Raises :class:`LogError`."""
        try:
            async with self._in_time():
                return len(await (await self.get()).partitions_for(topic))
        except (KafkaError, TimeoutError, OSError) as error:
            raise LogError(f"{topic}: the broker does not tell its partitions ({type(error).__name__})") from error

    async def partition_counts(self, topics: Collection[str]) -> dict[str, int]:
        """How many partitions topics have now, not when somebody asked last. Raises :class:`LogError`."""
        try:
            async with self._in_time():
                client = (await self.get()).client
                for topic in topics:
                    await client.add_topic(topic)
                await client.force_metadata_update()
                return {topic: len(client.cluster.partitions_for_topic(topic) or ()) for topic in topics}
        except (KafkaError, TimeoutError, OSError) as error:
            raise LogError(f"the broker does not tell its partitions ({type(error).__name__})") from error

    async def send(
        self, topic: str, partition: int, records: Sequence[tuple[bytes | None, bytes | None, Headers]]
    ) -> int:
        """Append (key, value, headers) records as one batch; the base offset, -1 when the broker does not tell.

        Raises :class:`AppendUncertainError`, :class:`RecordsRefusedError` or :class:`LogAuthorizationError`.
        """
        producer: AIOKafkaProducer | None = None
        try:
            async with self._in_time():
                producer = await self.get()
                self._in_use[producer] = self._in_use.get(producer, 0) + 1
                batch = producer.create_batch()
                for key, value, headers in records:
                    if batch.append(timestamp=None, key=key, value=value, headers=list(headers)) is None:
                        raise MessageSizeTooLargeError
                batch.close()
                done = await producer.send_batch(batch, topic, partition=partition)
                metadata = await done
        except REFUSED_RECORDS as error:
            if producer is not None:  # the refused batch took a sequence number with it
                self.discard(producer)
            size = sum(len(key or b"") + len(value or b"") + _header_bytes(headers) for key, value, headers in records)
            raise RecordsRefusedError(
                f"{topic}[{partition}]: the broker refuses {len(records)} records of {size} bytes together "
                f"({type(error).__name__}): see the topic's max.message.bytes"
            ) from error
        except WRONG_CLOCK as error:
            if producer is not None:
                self.discard(producer)
            raise AppendUncertainError(f"{topic}[{partition}]: nothing can be appended: {SET_THE_CLOCK}") from error
        except REFUSALS as error:
            raise LogAuthorizationError(f"the broker refuses to let us write to {topic}: {error}") from error
        except (KafkaError, TimeoutError, OSError) as error:
            if producer is not None:
                self.discard(producer)
            raise AppendUncertainError(
                f"{topic}[{partition}]: append of {len(records)} records not answered "
                f"({type(error).__name__}); they may or may not be stored"
            ) from error
        except asyncio.CancelledError:
            # The batch may still be on its way with our sequence numbers: others may go on with this instance.
            raise
        finally:
            self._leave(producer)
        return int(metadata.offset)

    def _leave(self, producer: AIOKafkaProducer | None) -> None:
        if producer is not None and producer in self._in_use:
            self._in_use[producer] -= 1
            if not self._in_use[producer]:
                del self._in_use[producer]


class LogPart(Protocol):
    """Some streams of a partition."""

    def has(self, key: bytes) -> bool:
        """Are the records with this key events of theirs?"""
        ...

    def takes(self, size_bytes: int) -> None:
        """The next batch has so many bytes."""
        ...


class KafkaEventLog:
    """:class:`EventLog` on Kafka."""

    def __init__(
        self,
        settings: Settings,
        producer: LogProducer,
        reader: TopicReader,
        *,
        source: str,
        schemas: SharedLook[bytes],
        codec: Codec | None = None,
        keys: SessionKeys | None = None,
    ) -> None:
        """``keys``: of a sealed log."""
        self._topic = settings.topics.events
        self._producer = producer
        self._reader = reader
        self._envelope = Envelope("events", source)
        self._codec = codec or Codec(EVENTS)
        self._other_header_bytes: dict[type, int] = {}  #: of an event's headers, without its id
        self._schemas = schemas
        self._keys = keys
        self._skim = self._codec.skimmer(SkimmedRecord, but=(PartitionClaimed,))

    def encode(self, header: EventHeader, payload: Any, key: bytes, trace: Headers = ()) -> NewRecord:
        sealed: bytes | None = None
        if self._keys is None:
            value = self._codec.encode(header, payload)
        else:
            if payload.__class__ is PartitionClaimed:
                payload = changed(payload, log_format=SEALED_LOG_FORMAT)
            value, sealed = self._keys.sealed(self._codec, header, payload, key)
        # Claims are told apart by their incarnation: they have no epoch yet.
        n = header.n if header.n >= 0 else getattr(payload, "incarnation", header.n)
        event_id = f"{header.stream_id}.{header.epoch}.{n}"
        headers = self._envelope.headers(payload.__class__, event_id, header.recorded_at)
        id_bytes = len(headers[ID_HEADER][1] or b"")
        others_bytes = self._other_header_bytes.get(payload.__class__)  # every event's size is known before it is sent
        if others_bytes is None:
            others_bytes = self._other_header_bytes[payload.__class__] = _header_bytes(headers) - id_bytes
        size = len(key) + len(value) + RECORD_OVERHEAD_BYTES + others_bytes + id_bytes
        if trace:
            headers.extend(trace)
            size += _header_bytes(trace)
        if sealed is not None:
            headers.append((SEALED, sealed))
            size += HEADER_OVERHEAD_BYTES + len(SEALED) + len(sealed)
        return NewRecord(header=header, payload=payload, key=key, value=value, headers=headers, size_bytes=size)

    async def append(self, partition: int, records: Sequence[NewRecord]) -> int:
        if self._keys is not None:
            await self._keys.before_append(partition, records)
        return await self._producer.send(self._topic, partition, [(r.key, r.value, r.headers) for r in records])

    def read(self, partition: int, start: int, end: int) -> AsyncIterator[list[LoggedEvent]]:
        return self._read(partition, start, end, None)

    def read_part(self, partition: int, end: int, part: LogPart) -> AsyncIterator[list[LoggedEvent]]:
        """From the beginning, for who needs the events of some streams only, but has to know which records count.

        Of others only what the reader's rule asks is read: ``NOT_READ`` stands for what they say, and most of them are
        a ``SkimmedRecord``, which is good for that rule and nothing else.
        """
        return self._read(partition, 0, end, part)

    async def _read(
        self, partition: int, start: int, end: int, part: LogPart | None
    ) -> AsyncIterator[list[LoggedEvent]]:
        expected, decode = start, self._codec.decode
        if self._keys is not None:
            await self._keys.refresh(partition)
        async for records in self._reader.read(self._topic, partition, start, end):
            batch: list[LoggedEvent] = []
            if part is not None:
                part.takes(sum(len(record.value or b"") for record in records))
            for record in records:
                if record.offset != expected:
                    raise LogBrokenError(
                        f"{self._topic}[{partition}]: offsets {expected} to {record.offset - 1} are missing; "
                        "the event log must be neither compacted nor written in transactions"
                    )
                expected = record.offset + 1
                others = part is not None and not part.has(record.key or b"")
                # The last one of a batch may be where a reader stops: its id is asked for then.
                if others and record is not records[-1] and (skimmed := self._skim(record.value or b"")) is not None:
                    batch.append(skimmed)
                    continue
                try:
                    header, payload = decode(record.value if self._keys is None else self._opened(record))
                except LogBrokenError:
                    raise
                except Exception:  # not as usual: what it is comes to light there
                    header, payload = await self._decode(record)
                if payload.__class__ is PartitionClaimed:
                    self._check_format(payload, partition, record.offset)
                elif part is not None:
                    payload = self._of_part(record, header, payload, others=others)
                batch.append(_logged(record, header, payload))
            yield batch
        if expected < end:
            raise LogBrokenError(f"{self._topic}[{partition}]: offsets {expected} to {end - 1} are missing")

    def _of_part(self, record: Any, header: EventHeader, payload: Any, *, others: bool) -> Any:
        if header.stream_kind in _STREAMS and header.stream_id.encode() != record.key:
            raise LogBrokenError(
                f"{self._topic}[{record.partition}]@{record.offset}: its key is not the id of its stream"
            )
        return NOT_READ if others else payload

    def _opened(self, record: Any) -> bytes:
        value: bytes = record.value or b""
        if self._keys is None:
            return value
        try:
            return self._keys.opened(self._codec, record.partition, value, record.headers)
        except LogBrokenError as error:
            raise LogBrokenError(f"{self._topic}[{record.partition}]@{record.offset}: {error}") from error

    def _check_format(self, claim: PartitionClaimed, partition: int, offset: int) -> None:
        try:
            check_log_format(claim, self._topic, partition, offset, sealed=self._keys is not None)
        except LogFormatError as error:
            raise LogBrokenError(str(error)) from error

    async def _decode(self, record: Any) -> tuple[EventHeader, Any]:
        where = f"{self._topic}[{record.partition}]@{record.offset}"
        if is_foreign(record.value or b""):
            log.warning("%s is ignored: nobody of ours wrote it", where)
            return FOREIGN
        try:
            try:
                return self._codec.decode(self._opened(record))
            except UnknownFingerprintError as error:
                await self._schemas.find(error.fingerprint, there_since=time.monotonic())
                return self._codec.decode(self._opened(record))
        except WireError as error:
            raise LogBrokenError(f"{where}: cannot be read as an event: {error}") from error

    async def bounds(self, partition: int) -> tuple[int, int]:
        return (await self._reader.bounds(self._topic, [partition]))[partition]


def _logged(record: Any, header: EventHeader, payload: Any) -> LoggedEvent:
    return LoggedEvent(
        partition=record.partition,
        offset=record.offset,
        header=header,
        payload=payload,
        logged_at=record.timestamp,
    )


def _header_bytes(headers: Headers) -> int:
    size = HEADER_OVERHEAD_BYTES * len(headers)
    for name, content in headers:
        size += len(name) + len(content or b"")  # a request's header may have no value
    return size
