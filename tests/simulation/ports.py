"""The ports of a worker, in memory: each call takes its time, may fail, and may take effect although it failed."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from tests.checker.history import ToolRun
from tests.checker.requests import home_of
from tests.checker.stores import Row, plain_row
from tests.simulation.world import World
from turnlog_schemas.codec import Codec
from turnlog_schemas.commands import Forwarded, ForwardReceipt, RequestHeader
from turnlog_schemas.events import EventHeader, MessageStored, TurnAccepted
from turnlog_schemas.frames import FrameHeader, ReasoningDelta, TextDelta
from turnlog_schemas.parts import ToolCall
from turnlog_schemas.registry import COMMANDS, EVENTS
from turnlog_streams.folding.fold import FoldError, StreamName
from turnlog_streams.folding.rows import Unanswered
from turnlog_streams.reader_rule import LoggedEvent, LogPosition, read_on
from turnlog_streams.reply import Reply
from turnlog_streams.topics import partition_of
from turnlog_workers.base.ports import (
    AppendUncertainError,
    Headers,
    LogError,
    NewRecord,
    Parked,
    RecordsRefusedError,
    RequestRecord,
    UnreadableRange,
)
from turnlog_workers.kafka.sealing import SEALED
from turnlog_workers.kafka.session_keys import SessionKeys
from turnlog_workers.runners.base import TurnInput
from turnlog_workers.store.memory_store import MemoryStore, MemoryStores
from turnlog_workers.store.port import FoundRows, LoadedStream, NoRoomError, Saved, StoreError, WantedRows

T = TypeVar("T")
RECORD_BYTES = 100
_BUILT = 0.5  #: of the stores without anything
FRAMES_ARRIVE_WITHIN_S = 2.0
_EVENTS = Codec(EVENTS)


class Batches(AsyncIterator[list[T]]):
    """What was in a range of a topic when it was read, in batches of chance."""

    def __init__(self, world: World, records: Sequence[T]) -> None:
        self._world = world
        self._rest = list(records)

    def __aiter__(self) -> "Batches[T]":
        return self

    async def __anext__(self) -> list[T]:
        if not self._rest:
            raise StopAsyncIteration
        await asyncio.sleep(self._world.latency())
        if self._world.happens(self._world.chaos.read_fails):
            raise LogError("simulated: cannot read")
        size = self._world.rng.randint(1, 12)
        batch, self._rest = self._rest[:size], self._rest[size:]
        return batch


class _Failing(AsyncIterator[list[T]]):
    def __aiter__(self) -> "_Failing[T]":
        return self

    async def __anext__(self) -> list[T]:
        raise LogError("simulated: there is no such offset")


class SimEventLog:
    """:class:`EventLog`."""

    def __init__(self, world: World, worker: str, *, append_timeout_s: float) -> None:
        self._world = world
        self._worker = worker
        self._timeout_s = append_timeout_s
        reader: Any = SimKeysReader(world)
        count = world.partition_count
        self._keys = SessionKeys("chat.keys", count, reader, self._store_keys) if world.sealed else None

    def encode(self, header: EventHeader, payload: Any, key: bytes, trace: Headers = ()) -> NewRecord:
        size = RECORD_BYTES
        if isinstance(payload, TurnAccepted | MessageStored):
            size += sum(len(part.text or "") for part in payload.content or ())
        if self._keys is None:
            return NewRecord(header=header, payload=payload, key=key, value=None, size_bytes=size)
        value, seal = self._keys.sealed(_EVENTS, header, payload, key)
        headers = () if seal is None else ((SEALED, seal),)
        return NewRecord(header=header, payload=payload, key=key, value=value, headers=headers, size_bytes=size)

    async def append(self, partition: int, records: Sequence[NewRecord]) -> int:
        world = self._world
        size = sum(record.size_bytes for record in records)
        if world.max_append_bytes is not None and size > world.max_append_bytes:
            await asyncio.sleep(world.latency())
            raise RecordsRefusedError(f"simulated: {size} bytes are too many")
        if self._keys is not None:
            await self._keys.before_append(partition, records)
        several = len({record.header.stream_id for record in records}) > 1
        return await self._append(
            f"{partition} of {len(records)}", lambda: world.land(self._worker, partition, records), refusable=several
        )

    async def _store_keys(
        self, topic: str, partition: int, records: Sequence[tuple[bytes | None, bytes | None, Headers]]
    ) -> int:
        what = f"the keys of {partition} of {len(records)}"
        return await self._append(what, lambda: self._world.store_keys(partition, records), refusable=False)

    async def _append(self, what: str, store: Callable[[], int], *, refusable: bool) -> int:
        world, loop, chaos = self._world, self._world.loop, self._world.chaos
        answer: asyncio.Future[int] = loop.create_future()
        delay = world.latency()
        kind = ""
        if refusable and world.happens(chaos.append_refused):
            kind = "refused"
            loop.in_world(delay, _fail, answer, RecordsRefusedError("simulated: too long"))
        elif world.happens(chaos.append_rejected):
            kind = "rejected"
            loop.in_world(delay, _fail, answer)
        elif world.happens(chaos.append_late):
            kind = "late"
            loop.in_world(self._timeout_s + world.latency(0.5), store)
        else:
            twice, silent = world.happens(chaos.append_twice), world.happens(chaos.append_lost_answer)
            no_offset = world.happens(chaos.append_no_offset)
            kind = ("twice " if twice else "") + ("unanswered" if silent else "no offset" if no_offset else "")

            def land() -> None:
                base = store()
                if twice:
                    again = store()
                    base = again if world.rng.random() < 0.5 else base
                if not silent:
                    loop.in_world(world.latency(), _answer, answer, -1 if no_offset else base)

            loop.in_world(delay, land)
        if kind:
            world.trace(self._worker, f"append to {what} is {kind}")
        deadline = loop.call_later(self._timeout_s, _fail, answer)
        try:
            return await answer
        finally:
            deadline.cancel()

    def read(self, partition: int, start: int, end: int) -> AsyncIterator[list[LoggedEvent]]:
        log = self._world.events[partition]
        if end > len(log):
            return _Failing()
        batches = Batches(self._world, log[start:end])
        return batches if self._keys is None else self._opened(partition, batches, self._keys)

    async def _opened(
        self, partition: int, batches: Batches[LoggedEvent], keys: SessionKeys
    ) -> AsyncIterator[list[LoggedEvent]]:
        await keys.refresh(partition)
        async for batch in batches:
            yield [opened(self._world, keys, event) for event in batch]

    async def bounds(self, partition: int) -> tuple[int, int]:
        await _trip(self._world)
        return self._world.events_start, len(self._world.events[partition])


def opened(world: World, keys: SessionKeys, event: LoggedEvent) -> LoggedEvent:
    """An event of a sealed log as one reads it who has these keys."""
    value, headers = world.as_stored[event.partition][event.offset]
    _, payload = _EVENTS.decode(keys.opened(_EVENTS, event.partition, value, headers))
    return replace(event, payload=payload)


class SimKeysReader:
    """What :class:`SessionKeys` reads their topic with."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def bounds(self, topic: str, partitions: Sequence[int]) -> Mapping[int, tuple[int, int]]:
        await _trip(self._world)
        return {partition: (0, len(self._world.keys[partition])) for partition in partitions}

    def read_leniently(self, topic: str, partition: int, start: int, end: int) -> AsyncIterator[list[Any]]:
        return Batches(self._world, self._world.keys[partition][start:end])


def _answer(answer: asyncio.Future[int], base: int) -> None:
    if not answer.done():
        answer.set_result(base)


def _fail(answer: asyncio.Future[int], error: LogError | None = None) -> None:
    if not answer.done():
        answer.set_exception(error or AppendUncertainError("simulated: not answered"))


async def _trip(world: World) -> None:
    await asyncio.sleep(world.latency())
    if world.happens(world.chaos.read_fails):
        raise LogError("simulated: cannot read")


class SimRequestLog:
    """:class:`RequestLog`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def read(self, partition: int, start: int, end: int) -> AsyncIterator[list[RequestRecord | UnreadableRange]]:
        topic = self._world.requests[partition]
        if start < topic.start or end > topic.stable_end:
            return _Failing()
        found: list[RequestRecord | UnreadableRange] = []
        for offset in range(start, end):
            record, damaged = topic.records[offset], topic.unreadable.get(offset)
            if damaged is not None and offset == max(start, damaged.first):
                found.append(replace(damaged, first=offset, last=min(damaged.last, end - 1)))
            elif record is not None:
                found.append(record)
        return Batches(self._world, found)

    async def bounds(self, partition: int) -> tuple[int, int]:
        await _trip(self._world)
        topic = self._world.requests[partition]
        return topic.start, len(topic.records)

    async def stable_ends(self, partitions: Sequence[int]) -> Mapping[int, int]:
        await _trip(self._world)
        return {partition: self._world.requests[partition].stable_end for partition in partitions}


class SimSent:
    """:class:`Sent`."""

    __slots__ = ("finished", "lost", "pieces")

    def __init__(self, pieces: list[str] | None = None) -> None:
        self.finished = False
        self.lost = False
        self.pieces = pieces  #: of a delta that waits

    def on_its_way(self) -> bool:
        return not self.finished

    def stored(self) -> bool:
        return self.finished and not self.lost

    def join(self, text: str) -> bool:
        if self.pieces is None:
            return False
        self.pieces.append(text)
        return True

    def withdraw(self) -> None:
        if self.pieces is not None:
            self.finished = self.lost = True


_COMMANDS = Codec(COMMANDS)


def _made(partition: int, header: FrameHeader, reply: Reply, sent: SimSent) -> tuple[int, FrameHeader, Reply, SimSent]:
    """A frame as it goes, with what has joined it."""
    if sent.pieces is not None:
        text, sent.pieces = "".join(sent.pieces), None
        reply = replace(reply, frame=replace(reply.frame, text=text))  # type: ignore[call-arg]
    return partition, header, reply, sent


class SimRecordSender:
    """:class:`RecordSender`: frames wait a little, then go out in order; terminal ones until they are taken."""

    def __init__(self, world: World, worker: str) -> None:
        self._world = world
        self._worker = worker
        self._queue: list[tuple[int, FrameHeader, Reply, SimSent]] = []
        self._flushing = False
        self._arrives_at = 0.0

    def reply(
        self, reply: Reply, *, stream_id: str, partition: int, epoch: int, frame_seq: int, may_wait: bool = False
    ) -> SimSent:
        header = FrameHeader(
            session_id=reply.session_id if reply.session_id is not None else stream_id,
            request_id=reply.request_id,
            turn_id=reply.turn_id,
            attempt=reply.attempt,
            epoch=epoch,
            frame_seq=frame_seq,
            channel=reply.channel,
        )
        waits = may_wait and isinstance(reply.frame, TextDelta | ReasoningDelta)
        sent = SimSent([reply.frame.text] if waits else None)  # type: ignore[union-attr]
        self._queue.append((partition, header, reply, sent))
        self._flush_after(self._world.latency(0.003))
        return sent

    def _flush_after(self, delay_s: float) -> None:
        if not self._flushing:
            self._flushing = True
            self._world.loop.call_later(delay_s, self._flush)

    def _flush(self) -> None:
        world = self._world
        self._flushing = False
        batch, self._queue = [_made(*queued) for queued in self._queue if not queued[3].lost], []
        if world.happens(world.chaos.frames_lost):
            world.trace(self._worker, f"{len(batch)} frames are not taken")
            self._queue = [queued for queued in batch if queued[2].terminal]
            for queued in batch:
                if not queued[2].terminal:
                    queued[3].finished = queued[3].lost = True
            if self._queue:
                self._flush_after(world.rng.uniform(0.1, 1.0))
            return
        self._arrives_at = max(self._arrives_at, world.loop.now + min(world.latency(), FRAMES_ARRIVE_WITHIN_S))
        world.loop.in_world(self._arrives_at - world.loop.now, self._arrive, batch)

    def _arrive(self, batch: list[tuple[int, FrameHeader, Reply, SimSent]]) -> None:
        for partition, header, reply, sent in batch:
            self._world.frame(partition, header, reply.frame)
            self._world.loop.in_world(self._world.latency(), setattr, sent, "finished", True)

    def request(self, header: RequestHeader, command: Forwarded | ForwardReceipt) -> SimSent:
        world = self._world
        sent = SimSent()
        if world.happens(world.chaos.frames_lost):
            world.trace(self._worker, f"{type(command).__name__} {header.request_id} is lost")
            sent.finished = True
            sent.lost = world.rng.random() < 0.5  # given up; else the broker said that it had it
            return sent
        key = (header.session_id or header.channel or "").encode()
        value = _COMMANDS.encode(header, command)
        target = partition_of(key, world.partition_count)

        def record(partition: int, offset: int) -> RequestRecord:
            return RequestRecord(partition=partition, offset=offset, key=key, value=value)

        def land() -> None:
            world.produce_request(record, target)
            sent.finished = True

        world.loop.in_world(world.latency(0.003), land)
        return sent

    def known_reply_topic(self, topic: str) -> bool:
        return True

    async def look_for_reply_topics(self) -> None:
        await _trip(self._world)

    async def dead_letters(self, parked: Sequence[Parked]) -> None:
        places = [(record.partition, record.offset) for record, _, _ in parked]
        await self._stored(lambda: self._world.parked.extend(places))

    async def forward(self, record: RequestRecord, key: bytes, value: bytes) -> None:
        target = partition_of(key, self._world.partition_count)

        def again(partition: int, offset: int) -> RequestRecord:
            return RequestRecord(partition=partition, offset=offset, key=key, value=value, headers=record.headers)

        def store() -> None:
            offset = self._world.produce_request(again, target)
            self._world.trace(self._worker, f"forwarded to requests[{target}]@{offset}")

        await self._stored(store)

    async def _stored(self, store: Callable[[], object]) -> None:
        world = self._world
        fails = world.happens(world.chaos.parking_fails)
        if not fails or world.rng.random() < 0.5:
            world.loop.in_world(world.latency(), store)
        await asyncio.sleep(world.latency(0.02))
        if fails:
            raise AppendUncertainError("simulated: not answered")


class Disk(MemoryStores):
    """What a host has on disk: rows of partitions, whoever has them open."""

    def after_crash(self) -> None:
        """The process that had them open is gone."""
        self._open.clear()

    def forget(self, partition: int) -> None:
        """The file is gone (or moved aside)."""
        self._open.pop(partition, None)
        self._data.pop(partition, None)

    def take(self, partition: int, other: "Disk") -> None:
        """The file gives way to one that was made elsewhere."""
        self._data[partition] = other._data[partition]

    def tables(self) -> dict[int, dict[str, list[Row]]]:
        """The rows by partition and table."""
        tables: dict[int, dict[str, list[Row]]] = {}
        for partition, data in self._data.items():
            tables[partition] = {
                "streams": [plain_row(row) for row in data.streams.values()],
                "messages": [plain_row(row) for rows in data.messages.values() for row in rows],
                "answers": [plain_row(row) for row in data.answers.values()],
                "marks": [plain_row(row) for row in data.marks.values()],
                "channel_sessions": [plain_row(row) for row in data.channel_sessions.values()],
                "unanswered": [plain_row(row) for row in data.unanswered],
                "partitions": [{"partition": partition, **plain_row(data.position)}],
            }
        return tables


class SimStores:
    """The stores of one worker: rows in memory behind one slow thread, as DuckDB has. Rows survive the process."""

    def __init__(self, world: World, stores: Disk) -> None:
        self._world = world
        self._stores = stores
        self._free_at = 0.0
        self._opening: set[int] = set()
        self._open: dict[int, SimStore] = {}

    async def in_thread(self, function: Callable[[], T]) -> T:
        """The function runs although nobody waits for it any more."""
        loop = self._world.loop
        result: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                value = function()
            except Exception as error:
                if not result.done():
                    result.set_exception(error)
            else:
                if not result.done():
                    result.set_result(value)

        self._free_at = max(self._free_at, loop.now) + self._world.latency()
        loop.call_at(self._free_at, run)
        return await result

    async def open(self, partition: int) -> "SimStore":
        if partition in self._open or partition in self._opening:
            raise ValueError(f"the store of partition {partition} is open already")
        self._opening.add(partition)
        try:
            inner = await self.in_thread(lambda: at_once(self._stores.open(partition)))
            store = self._open[partition] = SimStore(self._world, self, partition, inner)
        finally:
            self._opening.discard(partition)
        return store

    async def open_fresh(self, partition: int, reason: str) -> "SimStore":
        await self.in_thread(lambda: self._stores.forget(partition))
        return await self.open(partition)

    def closed(self, partition: int) -> None:
        self._open.pop(partition, None)

    async def close(self) -> None:
        for store in list(self._open.values()):
            await store.close()


class SimStore:
    """A store that is written and read in the thread."""

    def __init__(self, world: World, stores: SimStores, partition: int, inner: MemoryStore) -> None:
        self._world = world
        self._stores = stores
        self._partition = partition
        self._inner = inner
        self._failures = 0
        self._closed = False

    @property
    def position(self) -> LogPosition:
        return self._inner.position

    @property
    def outworn(self) -> bool:
        return self._inner.outworn

    @property
    def tolerant(self) -> bool:
        return self._inner.tolerant

    async def _run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._closed:
            raise StoreError("simulated: closed")

        def function() -> T:
            if self._world.happens(self._world.chaos.store_fails):
                self._failures += 1
                error = NoRoomError if self._failures % 2 else StoreError
                raise error("simulated: the store cannot be written")
            return at_once(call())

        return await self._stores.in_thread(function)

    async def write(self, events: Sequence[LoggedEvent], position: LogPosition) -> Mapping[StreamName, Saved]:
        return await self._run(lambda: self._inner.write(list(events), position))

    async def load(self, names: Collection[StreamName]) -> dict[StreamName, LoadedStream]:
        return await self._run(lambda: self._inner.load(list(names)))

    async def look_up(self, wanted: Sequence[WantedRows]) -> list[FoundRows]:
        return await self._run(lambda: self._inner.look_up(list(wanted)))

    async def unfinished(self) -> list[StreamName]:
        return await self._run(self._inner.unfinished)

    async def unanswered(self) -> list[Unanswered]:
        return await self._run(self._inner.unanswered)

    async def forget(self, streams: Collection[StreamName]) -> None:
        await self._run(lambda: self._inner.forget(list(streams)))

    async def rest(self) -> None:
        await self._run(self._inner.rest)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            await self._stores.in_thread(lambda: at_once(self._inner.close()))
        finally:
            self._stores.closed(self._partition)


class SimBuilds:
    """Stores that are made by processes beside the worker: they read the log as it is, and may fail."""

    def __init__(self, world: World, name: str, stores: SimStores, disk: Disk, log: SimEventLog) -> None:
        self._world = world
        self._stores = stores
        self._disk = disk
        self._log = log
        self._rng = random.Random(f"the builds of {name}")  # of its own: the seeds' other chances stay as they are

    def pay(self, events: int) -> bool:
        return events > 0 and self._rng.random() < _BUILT

    async def build(
        self, partition: int, end: int, *, tolerant: bool, told: Callable[[int], None]
    ) -> Callable[[], Coroutine[None, None, SimStore]] | None:
        made, position = Disk(), LogPosition()
        store = await (made.open_fresh(partition, "") if tolerant else made.open(partition))
        fails_at = self._rng.randrange(2 * end)
        try:
            async for batch in self._log.read(partition, 0, end):
                accepted, position = read_on(position, batch)
                await store.write(accepted, position)
                told(len(batch))
                if position.next_offset > fails_at:
                    return None
        except (LogError, FoldError):
            return None
        self._world.trace(f"the store of {partition} is made up to {end}")

        async def open_it() -> SimStore:
            await self._stores.in_thread(lambda: self._disk.take(partition, made))
            return await self._stores.open(partition)

        return open_it


def at_once(call: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        call.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise AssertionError("it waited")


class SimJournal:
    """The tool journal (``runners.journal``), kept in the world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def write(self, what: str, turn: TurnInput, call: ToolCall) -> None:
        partition = home_of(turn.session_id, self._world.partition_count)
        run = ToolRun(
            what=what,
            idempotency_key=call.idempotency_key,
            session_id=turn.session_id,
            turn_id=turn.turn_id,
            attempt=turn.attempt,
            fencing_token=turn.fencing_token,
            idempotent=call.idempotent,
            log_end=len(self._world.events[partition]),
        )
        if not self._world.closed:
            self._world.tool_runs.append(run)
        self._world.trace(f"tool {what}", call.idempotency_key, f"e{turn.fencing_token} {turn.turn_id}#{turn.attempt}")
