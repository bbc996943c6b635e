"""Dead letters sent again, or put aside. What was done is recorded behind them, in their own topic."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from turnlog.client.dead_letters import DISCARDED, REDRIVEN, DeadLetter, Headers, mark_headers
from turnlog.client.patience import CONNECT_TIMEOUT_S
from turnlog.client.request_sender import stop_quietly
from turnlog_schemas.codec import FRAMING_AVRO, Codec, RequestCodec
from turnlog_schemas.commands import RequestHeader
from turnlog_schemas.errors import InvalidCommandError, WireError
from turnlog_streams.topics import partition_of
from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import RequestRecord
from turnlog_workers.intake.request_reader import ForStream, Misrouted, RequestReader
from turnlog_workers.kafka.connections import REFUSED_RECORDS, client_options
from turnlog_workers.kafka.dead_letters import SIZES
from turnlog_workers.kafka.schema_topic import read_schemas
from turnlog_workers.kafka.unreachable import unreachable

_OURS = "x-turnlog-"
_SEND_TIMEOUT_S = 10.0
_MARKS_TOGETHER = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A letter as it is sent again."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    request_id: str | None  #: that makes a second sending the same turn; ``None``: it cannot be read


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a letter."""

    letter: DeadLetter
    sent_to: str = ""  #: ``TOPIC[PARTITION]@OFFSET``; empty: it was not sent
    request_id: str | None = None
    why_not: str = ""


class Redrive:
    """Decides what is sent. ``partition_count``: of the event log, where sessions live."""

    def __init__(self, settings: Settings, *, partition_count: int, codec: RequestCodec | None = None) -> None:
        self._codec = codec or RequestCodec()
        self._partition_count = partition_count
        self._reader = RequestReader(
            self._codec,
            settings.topics,
            partition_count=partition_count,
            reply_prefix=settings.reply_prefix,
            reply_topic_exists=lambda _: True,
            max_request_bytes=settings.max_request_bytes,
        )

    def prepare(self, letter: DeadLetter, *, force: bool = False) -> Prepared | str:
        """What to send, or why not. ``force``: also what would be parked again, as it is."""
        if letter.cut is not None:
            kept = f"{letter.size_bytes} of {letter.original_bytes or 'more'} bytes are kept"
            return (
                f"it was cut when it was parked ({letter.cut}; {kept}), so it cannot be redriven: send the request anew"
            )
        value, header = self._with_id(letter)
        headers = tuple((name, content) for name, content in letter.headers if not name.startswith(_OURS))
        record = RequestRecord(
            partition=letter.partition, offset=letter.offset, key=letter.key, value=value, headers=headers
        )
        verdict = self._reader.read(record, last_try=True)
        key = letter.key
        if isinstance(verdict, Misrouted):
            key = verdict.key
        elif isinstance(verdict, ForStream):
            key = verdict.stream_id.encode()
        elif not force:
            return f"it would be parked again ({verdict.code}: {verdict.reason}); --force sends it all the same"
        partition = partition_of(key, self._partition_count) if key else letter.partition % self._partition_count
        request_id = header.request_id if header is not None else None
        return Prepared(partition=partition, key=key, value=value, headers=headers, request_id=request_id)

    def _with_id(self, letter: DeadLetter) -> tuple[bytes | None, RequestHeader | None]:
        """The body, and what it says in front. A request without an id has its place as its id: it is written down,
        since the place changes."""
        codec: Codec = self._codec
        try:
            header, command, framing = self._codec.decode_request(letter.value)
        except InvalidCommandError as error:
            return letter.value, error.header if isinstance(error.header, RequestHeader) else None
        except WireError:
            return letter.value, None
        if header.request_id is not None:
            return letter.value, header
        header = replace(header, request_id=f"{letter.topic}-{letter.partition}-{letter.offset}")
        encoded = codec.encode(header, command) if framing == FRAMING_AVRO else codec.encode_json(header, command)
        return encoded, header


class LetterDesk:
    """Sends letters again and marks them, one after the other, in the order in which they are given."""

    def __init__(self, settings: Settings, *, partition_count: int) -> None:
        self._settings = settings
        self._partition_count = partition_count
        self._redrive: Redrive | None = None
        self._producer: AIOKafkaProducer | None = None
        self._marks: list[asyncio.Future[Any]] = []  #: on their way
        self._outcomes: list[tuple[Outcome, asyncio.Future[Any] | None]] = []  #: to be told; and what they wait for

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: Any, *_: object) -> None:
        try:
            if kind is None:
                await self.flush()
        finally:
            if self._producer is not None:
                await stop_quietly(self._producer)

    def outcomes(self) -> list[Outcome]:
        """What came of letters since this was asked last: of those sent once they are stored, of those discarded once
        that is recorded. In order, except where some are stored and one before them is not yet.
        """
        told, self._outcomes = self._outcomes, []
        for outcome, mark in told:
            if mark is not None and not mark.done():
                self._outcomes.append((outcome, mark))
        return [outcome for outcome, mark in told if mark is None or _is_stored(mark)]

    async def redrive(self, letter: DeadLetter, *, force: bool = False) -> None:
        """Send it to the partition that its key belongs to now, and mark it. Raises :class:`BrokerUnreachableError`."""
        prepared = (await self._planner()).prepare(letter, force=force)
        if isinstance(prepared, str):
            self._outcomes.append((Outcome(letter=letter, why_not=prepared), None))
            return
        topic = self._settings.topics.requests
        producer = await self._started()
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                stored = await producer.send_and_wait(
                    topic,
                    key=prepared.key,
                    value=prepared.value,
                    headers=list(prepared.headers),
                    partition=prepared.partition,
                )
        except REFUSED_RECORDS as error:
            await self._replace()  # the refused batch took a sequence number with it
            why_not = f"the broker does not take it for {topic} ({type(error).__name__})"
            self._outcomes.append((Outcome(letter=letter, why_not=why_not), None))
            return
        except (KafkaError, OSError) as error:
            raise unreachable(
                self._settings, error, f"dead letter {letter.id}: not acknowledged; send it again"
            ) from error
        sent_to = f"{topic}[{stored.partition}]@{stored.offset}"
        self._outcomes.append((Outcome(letter=letter, sent_to=sent_to, request_id=prepared.request_id), None))
        await self._mark(letter, REDRIVEN, sent_to)
        await self._flush_many()

    async def discard(self, letter: DeadLetter) -> None:
        """Record that it is done with. Its bytes stay for as long as its topic keeps them."""
        mark = await self._mark(letter, DISCARDED)
        self._outcomes.append((Outcome(letter=letter), mark))
        await self._flush_many()

    async def flush(self) -> None:
        """Wait until all marks are stored. Raises :class:`BrokerUnreachableError`."""
        marks, self._marks = self._marks, []
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                await asyncio.gather(*marks)
        except (KafkaError, OSError) as error:
            topic = self._settings.topics.dead_letters
            raise unreachable(self._settings, error, f"what was done is not recorded in {topic}") from error

    async def _flush_many(self) -> None:
        if len(self._marks) >= _MARKS_TOGETHER:
            await self.flush()

    async def _mark(self, letter: DeadLetter, kind: str, sent_to: str = "") -> asyncio.Future[Any]:
        producer = await self._started()
        headers: Sequence[tuple[str, bytes]] = mark_headers(letter, kind, sent_to)
        topic, partition = self._settings.topics.dead_letters, letter.stored[0]
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                mark: asyncio.Future[Any] = await producer.send(
                    topic, key=letter.id.encode(), headers=list(headers), partition=partition
                )
        except (KafkaError, OSError) as error:
            raise unreachable(self._settings, error, f"what was done is not recorded in {topic}") from error
        self._marks.append(mark)
        return mark

    async def _planner(self) -> Redrive:
        if self._redrive is None:
            codec = RequestCodec()
            await asyncio.to_thread(read_schemas, self._settings, codec.registry, timeout_s=_SEND_TIMEOUT_S)
            self._redrive = Redrive(self._settings, partition_count=self._partition_count, codec=codec)
        return self._redrive

    async def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                **client_options(self._settings, "turnlog-dead-letters"),
                acks="all",
                enable_idempotence=True,
                max_request_size=2 * max(SIZES[0], self._settings.max_request_bytes),
            )
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await producer.start()
            except BaseException as error:
                await stop_quietly(producer)
                if isinstance(error, KafkaError | OSError):
                    raise unreachable(self._settings, error) from error
                raise
            self._producer = producer
        return self._producer

    async def _replace(self) -> None:
        """A new producer next time; what the old one has on its way is waited for first."""
        await self.flush()
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await stop_quietly(producer)


def _is_stored(mark: asyncio.Future[Any]) -> bool:
    return mark.done() and not mark.cancelled() and mark.exception() is None
