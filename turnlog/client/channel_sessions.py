"""Which sessions are a channel's: of each that a snapshot does not have yet, the event log says so."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from turnlog.client.frame_decoder import FrameDecoder
from turnlog.client.topic_look import count_partitions, in_words, topic_reader
from turnlog.errors import TurnlogError
from turnlog_schemas.codec import Codec
from turnlog_schemas.registry import EVENTS
from turnlog_streams.topics import partition_of
from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import UnreadableRange
from turnlog_workers.kafka.topic_reader import TopicReader

_MAX_OTHERS = 100_000
#: Takes the header and the payload of each event that is read.
Learn = Callable[[Any, Any], object]


class ChannelSessions:
    """Reads the log up to its end whenever somebody meets a session that is not known: its creation is there then,
    since frames follow their events.
    """

    def __init__(self, settings: Settings, reader: TopicReader, positions: Mapping[int, int], learn: Learn) -> None:
        """``positions``: where to begin, by partition: what is before them is known."""
        self._topic = settings.topics.events
        self._settings, self._reader, self._learn = settings, reader, learn
        self._next = dict(positions)
        self._decoder = FrameDecoder(settings, Codec(EVENTS))
        self._met: set[str] = set()

    async def meet(self, session_id: str) -> None:
        """Read what the log says of a session, unless that was done. Raises :class:`BrokerUnreachableError`."""
        if session_id in self._met:
            return
        partition = partition_of(session_id.encode(), len(self._next))
        async with in_words(self._settings, self._topic):
            _, end = (await self._reader.bounds(self._topic, [partition]))[partition]
            if self._next[partition] < end:
                found = self._reader.read_leniently(self._topic, partition, self._next[partition], end)
                async for records in found:
                    for record in records:
                        await self._take(record)
                self._next[partition] = end
        if len(self._met) >= _MAX_OTHERS:
            self._met.clear()
        self._met.add(session_id)

    async def _take(self, record: Any) -> None:
        event = None if isinstance(record, UnreadableRange) else await self._decoder.decode(record)
        if event is not None:
            self._learn(event.header, event.frame)


@asynccontextmanager
async def channel_sessions(
    settings: Settings, positions: Mapping[int, int] | None, learn: Learn, say: Callable[[str], None]
) -> AsyncIterator["ChannelSessions | None"]:
    """From what a snapshot has (``positions``; ``None``: there is none) or, without one, from now on.

    ``None`` where the log cannot be read, as by a user who may read frames only: that is said.
    """
    topic = settings.topics.events
    async with topic_reader(settings) as reader:
        try:
            (partitions,) = await count_partitions(settings, topic)
            async with in_words(settings, topic):
                ends = {number: end for number, (_, end) in (await reader.bounds(topic, partitions)).items()}
        except TurnlogError as error:
            say(f"Sessions that are opened from now on are known only as far as what is read here names them: {error}")
            yield None
            return
        yield ChannelSessions(settings, reader, ends | dict(positions or {}), learn)
