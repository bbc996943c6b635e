"""An event log as it would be after years: its records are written straight into a topic that is empty yet.

Every turn in it has ended and is answered, so an owner has nothing to go on with; it only has to know.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from aiokafka import AIOKafkaProducer

from turnlog_schemas import events as ev
from turnlog_schemas.codec import Codec
from turnlog_schemas.parts import NO_USAGE, NewSession, Usage, text_content
from turnlog_schemas.registry import EVENTS
from turnlog_streams.forwarding import OPENED
from turnlog_workers.base.config import Settings
from turnlog_workers.kafka.connections import client_options

Record = tuple[bytes, bytes]  #: key and value
EVENTS_A_TURN = 5
MESSAGES_A_TURN = 2
TURNS_OF_OLD_SESSIONS = 10
_BATCH_BYTES = 900_000
_TEXT = "the log keeps every answer, in the order in which it was given, for as long as it is asked for " * 3


class PartitionLog:
    """Encodes the events of one partition under one claim: numbers and versions are as its owner would count them."""

    def __init__(self, requests_topic_id: str, partition_count: int = 1) -> None:
        self._codec = Codec(EVENTS)
        self._requests_topic_id = requests_topic_id
        self._partition_count = partition_count
        self._n = 0
        self._versions: dict[tuple[str, str], int] = {}

    def claim(self) -> Record:
        """The first record: offset 0."""
        payload = ev.PartitionClaimed(
            log_format=ev.LOG_FORMAT,
            owner="writer",
            incarnation="writer",
            generation=0,
            partition_count=self._partition_count,
            requests_topic_id=self._requests_topic_id,
        )
        header = ev.EventHeader(
            **{"stream_kind": ev.PARTITION, "stream_id": "0", "stream_version": 0, "epoch": -1, "n": -1},
            accepted=-1,
            replied=-1,
            recorded_at=1_700_000_000_000,
        )
        return b"0", self._codec.encode(header, payload)

    def event(self, kind: str, stream_id: str, payload: Any, turn_id: str | None = None) -> Record:
        """The next event, of this stream."""
        version = self._versions[kind, stream_id] = self._versions.get((kind, stream_id), 0) + 1
        header = ev.EventHeader(
            stream_kind=kind,
            stream_id=stream_id,
            stream_version=version,
            epoch=0,
            n=self._n,
            accepted=-1,
            replied=self._n,
            turn_id=turn_id,
            attempt=0 if turn_id is None else 1,
            recorded_at=1_700_000_000_000 + self._n,
        )
        self._n += 1
        return stream_id.encode(), self._codec.encode(header, payload)

    def turn(self, session_id: str, number: int) -> Iterator[Record]:
        """The events of a session's turn, the first of which is number 0."""
        asked = text_content(f"question {number}")
        first = MESSAGES_A_TURN * number + 1
        for payload in (
            ev.TurnAccepted(request_id=f"r{number}", command_hash="0" * 32, content=asked),
            ev.TurnStarted(model="echo:", cause="first"),
            ev.MessageStored(message_seq=first, role="user", content=asked),
            ev.MessageStored(message_seq=first + 1, role="assistant", content=text_content(_TEXT)),
            ev.TurnCompleted(usage=Usage(input_tokens=100, output_tokens=50, model_calls=1)),
        ):
            yield self.event(ev.SESSION, session_id, payload, f"t-{session_id}-{number}")

    def session(self, session_id: str, turns: int, *, seen: int | None = None) -> Iterator[Record]:
        """A session without a channel. ``seen``: a summary stands for all but so many of its newest messages."""
        new = NewSession(title="an old session", history_max_tokens=-1)
        yield self.event(ev.SESSION, session_id, ev.SessionCreated(new_session=new))
        for number in range(turns):
            yield from self.turn(session_id, number)
        messages = turns * MESSAGES_A_TURN
        if seen is not None and messages > seen:
            summary = ev.HistoryCompacted(
                history_compaction_id="0" * 32,
                from_seq=1,
                to_seq=messages - seen,
                summary="They spoke of many things.",
                history_seq=messages,
                method="truncation",
                trigger="automatic",
                usage=NO_USAGE,
            )
            yield self.event(ev.SESSION, session_id, summary)

    def channel(self, name: str, sessions: int, *, known: int) -> Iterator[Record]:
        """A channel that so many sessions were opened in, every other one by a request, the others by a chat.

        The ``known`` sessions opened first have a stream of their own (ids: :func:`channel_session`), with one turn.
        Of the others there is what the channel knows.
        """
        for number in range(sessions):
            session_id = channel_session(name, number)
            new = NewSession(channel=name, title="an old session")
            if number < known:
                yield from self._opening_chat(session_id, new)
            if by_chat := number < known or number % 2:
                heard = ev.ForwardReceived(source_kind=ev.SESSION, source_id=session_id, seq=1)
                yield self.event(ev.CHANNEL, name, heard)
            opened = ev.ChannelSessionOpened(
                session_id=session_id, by="chat" if by_chat else "request", new_session=new
            )
            yield self.event(ev.CHANNEL, name, opened)
            if not by_chat:
                decided = ev.RequestDecided(
                    request_id=f"c{number}", command_hash="0" * 32, session_id=session_id, created=True
                )
                yield self.event(ev.CHANNEL, name, decided)

    def _opening_chat(self, session_id: str, new: NewSession) -> Iterator[Record]:
        yield self.event(ev.SESSION, session_id, ev.SessionCreated(new_session=new))
        told = ev.CommandForwarded(
            seq=1, target_kind=ev.CHANNEL, target_id=new.channel or "", what=OPENED, new_session=new
        )
        yield self.event(ev.SESSION, session_id, told)
        yield from self.turn(session_id, 0)
        yield self.event(ev.SESSION, session_id, ev.ForwardDelivered(seq=1))
        passed_by = ev.ForwardReceived(source_kind=ev.CHANNEL, source_id=new.channel or "", seq=1)
        yield self.event(ev.SESSION, session_id, passed_by)
        yield self.event(ev.SESSION, session_id, ev.SessionDeactivated())


def channel_session(channel: str, number: int) -> str:
    """The id of a channel's session."""
    return f"{channel}-{number:08x}"


def events_of_session(turns: int) -> int:
    """Of a session with so many turns, its creation with them."""
    return 1 + turns * EVENTS_A_TURN


def old_sessions(
    count: int,
    requests_topic_id: str,
    *,
    name: str = "old",
    partition_count: int = 1,
    turns: int = TURNS_OF_OLD_SESSIONS,
) -> Iterator[Record]:
    """So many events of sessions of ten turns each, or as many as are wanted, behind a claim."""
    log = PartitionLog(requests_topic_id, partition_count)
    yield log.claim()
    events = session = 0
    while events < count:
        for record in log.session(f"{name}-{session:08x}", turns):
            yield record
            events += 1
        session += 1


async def write(settings: Settings, records: Iterable[Record], partition: int = 0) -> int:
    """Write the event log of an empty partition, in batches as large as the topic takes; how many records there are."""
    producer = AIOKafkaProducer(
        **client_options(settings, "bench-seeding"),
        acks="all",
        max_batch_size=2 * _BATCH_BYTES,
        max_request_size=4 * _BATCH_BYTES,
    )
    await producer.start()
    written = size = 0
    batch = producer.create_batch()
    try:
        for key, value in records:
            if size > _BATCH_BYTES:
                batch.close()
                await producer.send_batch(batch, settings.topics.events, partition=partition)
                batch, size = producer.create_batch(), 0
            batch.append(timestamp=None, key=key, value=value)
            size += len(key) + len(value) + 32
            written += 1
        batch.close()
        last = await producer.send_batch(batch, settings.topics.events, partition=partition)
        await last
    finally:
        await producer.stop()
    return written
