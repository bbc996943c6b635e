"""A session, or one of its turns, as a stream: its reply frames as JSON, one message each, as they are in the topic.

Frames may be there twice, or of an attempt that is over: they are told as they are, with attempt, epoch and frame_seq,
so that what is at an offset never changes. An offset is the position in the session's partition of the reply topic;
other sessions' frames leave gaps. A turn's stream is closed by its first terminal frame.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Self

from turnlog.client.frame_decoder import FrameDecoder
from turnlog.client.replies import Position, ReplyFrame
from turnlog.errors import NotFoundError, TurnlogError
from turnlog.serve.durable_streams.reading import Chunk, Extent
from turnlog.serve.gateway import Gateway
from turnlog.serve.http_errors import not_found, unavailable
from turnlog.snapshot.sql import open_snapshot, run
from turnlog_schemas.codec import Codec
from turnlog_schemas.registry import FRAMES
from turnlog_streams.topics import partition_of
from turnlog_workers.base.ports import LogError, UnreadableRange
from turnlog_workers.kafka.topic_reader import TopicReader

MAX_RECORDS = 20_000  #: of the partition, that one answer looks at
MAX_BYTES = 1024 * 1024  #: of the messages of one answer
_MAX_KNOWN = 10_000
_MARGIN_MS = 60_000  #: clocks differ, and a session's first frame follows its first event
_SETTLED_S = 10.0  #: a terminal frame follows its event sooner
_TURN_ID = re.compile(r"t-([0-9]{1,6})-([0-9]{1,18})")
_ASK_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the snapshot, or an owner, says of a session or a turn."""

    since_ms: int  #: its frames are not older
    ended: bool = False  #: a turn: its terminal frame is sent, if it is still kept
    status: str = ""  #: of a turn
    code: str = ""
    reason: str = ""


class ReplyStreams:
    """What the streams of one gateway share. Made with the first that is asked for, closed with the gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.reader = TopicReader(gateway.settings)
        self.decoder = FrameDecoder(gateway.settings)
        self.codec = Codec(FRAMES)
        self._sessions: OrderedDict[str, Known] = OrderedDict()
        self._ends: OrderedDict[tuple[str, str], int] = OrderedDict()  # of turns: behind the terminal frame

    @classmethod
    def of(cls, gateway: Gateway) -> Self:
        """Those of a gateway."""
        return gateway.part(cls)

    async def aclose(self) -> None:
        """Disconnect."""
        await self.reader.close()

    def end_of(self, session_id: str, turn_id: str) -> int | None:
        """Behind the terminal frame of a turn, where somebody has seen it."""
        return self._ends.get((session_id, turn_id))

    def keep_end(self, session_id: str, turn_id: str, end: int) -> None:
        """A turn's first terminal frame was seen before this position."""
        self._ends.setdefault((session_id, turn_id), end)
        while len(self._ends) > _MAX_KNOWN:
            self._ends.popitem(last=False)

    async def session(self, session_id: str) -> Known:
        """A session that there is. Raises 404."""
        known = self._sessions.get(session_id)
        if known is None:
            known = await asyncio.to_thread(self._in_snapshot, session_id)
            if known is None:
                info = await self.gateway.client.get(session_id, timeout_s=_ASK_TIMEOUT_S)  # raises NotFoundError
                known = Known(since_ms=await self._before_snapshot() if info.turns else 0)
            self._sessions[session_id] = known
            while len(self._sessions) > _MAX_KNOWN:
                self._sessions.popitem(last=False)
        return known

    def _in_snapshot(self, session_id: str) -> Known | None:
        rows = self._ask("SELECT epoch_ms(created_at) FROM sessions WHERE session_id = ?", [session_id])
        return Known(since_ms=int(rows[0][0]) - _MARGIN_MS) if rows else None

    def _ask(self, statement: str, values: list[object]) -> list[tuple[Any, ...]]:
        path = self.gateway.settings.snapshot
        if not path.is_file():
            return []
        with open_snapshot(path) as connection:
            return run(connection, statement, values).rows

    async def _before_snapshot(self) -> int:
        """What the snapshot does not have is not older than this. 0: there is none to say so."""
        try:
            published = await asyncio.to_thread(self.gateway.settings.snapshot.stat)
        except OSError:
            return 0
        return int(published.st_mtime * 1000) - _MARGIN_MS

    async def turn(self, session_id: str, turn_id: str) -> Known:
        """A turn of the session. Raises 404."""
        await self.session(session_id)

        if (known := await asyncio.to_thread(self._turn_in_snapshot, session_id, "turn_id", turn_id)) is not None:
            return known
        if await self._requested(session_id, turn_id):
            return Known(since_ms=await self._before_snapshot())
        raise not_found(f"turn {turn_id[:100]!r}")

    def turn_of_request(self, session_id: str, request_id: str) -> Known | None:
        """The turn of a request, if the snapshot has it. It blocks."""
        return self._turn_in_snapshot(session_id, "request_id", request_id)

    def _turn_in_snapshot(self, session_id: str, column: str, value: str) -> Known | None:
        rows = self._ask(
            "SELECT epoch_ms(accepted_at), ended_offset IS NOT NULL, epoch(now()) - epoch(ended_at), status, "
            f"coalesce(code, ''), coalesce(reason, '') FROM turns WHERE session_id = ? AND {column} = ?",
            [session_id, value],
        )
        if not rows:
            return None
        since, ended, ago_s, status, code, reason = rows[0]
        return Known(
            since_ms=int(since) - _MARGIN_MS,
            ended=ended and (ago_s or 0) > _SETTLED_S,
            status=status,
            code=code,
            reason=reason,
        )

    async def _requested(self, session_id: str, turn_id: str) -> bool:
        """Is a turn's request in the topic? Its id says where."""
        topic, partition = self.gateway.settings.topics.requests, self.partition(session_id)
        found = _TURN_ID.fullmatch(turn_id)
        if found is None or int(found[1]) != partition:
            return False
        offset = int(found[2])
        try:
            first, end = (await self.reader.bounds(topic, [partition]))[partition]
            if not first <= offset < end:
                return False
            async for records in self.reader.read_leniently(topic, partition, offset, offset + 1):
                return any(getattr(record, "key", None) == session_id.encode() for record in records)
        except LogError as error:
            raise unavailable(f"the requests cannot be read: {error}") from error
        return False

    async def bounds(self, partition: int, since_ms: int) -> tuple[int, int, int]:
        """Of a partition of the replies: the first position kept, that of a time (milliseconds), and the end."""
        topic = self.gateway.settings.topics.replies
        try:
            first, end = (await self.reader.bounds(topic, [partition]))[partition]
            since = await self.reader.offset_at(topic, partition, since_ms) if since_ms > 0 else first
        except LogError as error:
            raise unavailable(f"the replies cannot be read: {error}") from error
        return first, max(first, end if since is None else min(since, end)), end

    async def frames(
        self, session_id: str, start: int, end: int
    ) -> AsyncGenerator[tuple[int, ReplyFrame | None], None]:
        """The position behind each record of the session's partition, and its frame if it is one of the session."""
        topic, partition, key = self.gateway.settings.topics.replies, self.partition(session_id), session_id.encode()
        try:
            async for records in self.reader.read_leniently(topic, partition, start, end):
                for record in records:
                    if isinstance(record, UnreadableRange):
                        yield record.last + 1, None
                        continue
                    own = record.key == key and getattr(record, "problem", None) is None
                    placed = _Placed(record, topic, partition)
                    yield record.offset + 1, await self.decoder.decode(placed) if own else None
        except LogError as error:
            raise unavailable(f"the replies cannot be read: {error}") from error

    def partition(self, session_id: str) -> int:
        """Where a session lives."""
        return partition_of(session_id.encode(), self.gateway.client.partition_count)


class FrameSource:
    """The frames of a session; with ``turn_id`` of one of its turns."""

    content_type = "application/json"
    is_json = True

    def __init__(self, streams: ReplyStreams, session_id: str, known: Known, turn_id: str | None = None) -> None:
        self._streams = streams
        self._session_id = session_id
        self._known = known
        self._turn_id = turn_id
        self._partition = streams.partition(session_id)
        self.name = session_id if turn_id is None else f"{session_id}.{turn_id}"

    async def extent(self) -> Extent:
        """From what is kept to the end of the partition, or behind the terminal frame."""
        first, begin, end = await self._streams.bounds(self._partition, self._known.since_ms)
        if (known_end := self._terminal_end()) is not None:
            return Extent(first=first, begin=min(begin, known_end), end=known_end, closed=True)
        if self._known.ended:
            return await self._ended_extent(first, begin, end)
        return Extent(first=first, begin=begin, end=end, closed=False)

    async def _ended_extent(self, first: int, begin: int, end: int) -> Extent:
        """Of a turn that is known to have ended: its terminal frame is looked for once, and may be gone."""
        position = begin
        while position < end:
            chunk = await self._read(position, end)
            if chunk.closed:
                return Extent(first=first, begin=begin, end=chunk.next, closed=True)
            position = chunk.next
        return Extent(first=first, begin=begin, end=begin, closed=True)

    def _terminal_end(self) -> int | None:
        return None if self._turn_id is None else self._streams.end_of(self._session_id, self._turn_id)

    async def read(self, start: int) -> Chunk:
        """A bounded part from a position on."""
        extent = await self.extent()
        if extent.closed and start >= extent.end:
            return Chunk(items=(), next=start, up_to_date=True, closed=True)
        return await self._read(start, extent.end)

    async def _read(self, start: int, end: int) -> Chunk:
        items: list[bytes] = []
        position, size, looked_at = start, 0, 0
        async for position, reply in self._streams.frames(self._session_id, start, end):
            looked_at += 1
            if reply is not None and self._wanted(reply):
                items.append(self._item(reply))
                size += len(items[-1])
                if self._closes(reply):
                    return Chunk(items=tuple(items), next=position, up_to_date=True, closed=True)
            if size >= MAX_BYTES or looked_at >= MAX_RECORDS:
                return Chunk(items=tuple(items), next=position, up_to_date=position >= end)
        return Chunk(items=tuple(items), next=end, up_to_date=True)

    def _wanted(self, reply: ReplyFrame) -> bool:
        return self._turn_id is None or reply.header.turn_id == self._turn_id

    def _item(self, reply: ReplyFrame) -> bytes:
        return self._streams.codec.encode_json(reply.header, reply.frame)

    def _closes(self, reply: ReplyFrame) -> bool:
        """Is it the terminal frame of the turn that this is the stream of?"""
        if self._turn_id is None or not reply.is_terminal:
            return False
        self._streams.keep_end(self._session_id, self._turn_id, reply.offset + 1)
        return True

    async def follow(self, start: int) -> AsyncGenerator[Chunk, None]:
        """What comes behind a position."""
        place = Position(partition=self._partition, offset=start - 1)
        following = self._streams.gateway.client.follow(self._session_id, from_position=place, deduplicate=False)
        try:
            async for each in following:
                if not self._wanted(each):
                    continue
                closed = self._closes(each)
                yield Chunk(items=(self._item(each),), next=each.offset + 1, up_to_date=True, closed=closed)
                if closed:
                    return
        except NotFoundError:  # retention has passed it meanwhile: the reader asks again, and is told
            return
        except TurnlogError as error:
            raise unavailable(str(error)) from error
        finally:
            await following.aclose()


@dataclass(frozen=True, slots=True)
class _Placed:
    """A record for the decoder, wherever it was read from."""

    record: Any
    topic: str
    partition: int

    @property
    def offset(self) -> int:
        return int(self.record.offset)

    @property
    def value(self) -> bytes | None:
        value: bytes | None = self.record.value
        return value
