"""The client's reading of replies: consumers at explicit positions, past whatever strangers write into the topic."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError

from turnlog.client.replies import Position
from turnlog.client.request_sender import node_timeout_s, start_patiently, stop_quietly
from turnlog.errors import NotFoundError
from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import LogError, UnreadableRange
from turnlog_workers.kafka.connections import client_options
from turnlog_workers.kafka.raw_fetch import fetch_batches, fetched_records, what_is_wrong
from turnlog_workers.kafka.record_batches import LenientRecord, take_apart
from turnlog_workers.kafka.unreachable import unreachable

log = logging.getLogger(__name__)
_POLL_TIMEOUT_MS = 500
_MAX_RECORDS = 500
_MAX_FETCH_BYTES = 9 * 1024 * 1024  #: above the largest record of the reply topic
_FETCH_BYTES = 1024 * 1024  #: at a time, of all partitions: a slow line must bring it before the node is given up
_RETRY_S = 0.5

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyRecord:
    """A record of the reply topic that was read past a bad neighbour; the fields of aiokafka's that readers use."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


def _readable(tp: TopicPartition, item: LenientRecord | UnreadableRange) -> ReplyRecord | None:
    """The record, or ``None`` for what nobody can parse, after saying so."""
    if isinstance(item, UnreadableRange):
        log.warning("%s[%d]@%d to %d: ignored, %s", tp.topic, tp.partition, item.first, item.last, item.reason)
    elif item.problem is not None:
        log.warning("%s[%d]@%d: ignored, %s", tp.topic, tp.partition, item.offset, item.problem)
    else:
        return ReplyRecord(topic=tp.topic, partition=tp.partition, offset=item.offset, key=item.key, value=item.value)
    return None


async def _answered(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Asked until somebody answers, within the time limit of the caller: a leader that stands still is replaced."""
    while True:
        try:
            return await ask()
        except KafkaTimeoutError:
            continue


class ReplyConsumer:
    """Reads the reply topic from positions that are fixed when ``start`` returns. No group, nothing committed."""

    def __init__(self, settings: Settings, *, client_id: str, connect_timeout_s: float) -> None:
        self._settings = settings
        self._connect_timeout_s = connect_timeout_s
        self._node_s = node_timeout_s(connect_timeout_s)
        # Trimmed while we read: go on with what is left. Re-sent terminal frames make good for what is gone.
        self._consumer = AIOKafkaConsumer(
            **client_options(settings, client_id),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=int(self._node_s * 1000),
            fetch_max_wait_ms=_POLL_TIMEOUT_MS,
            fetch_max_bytes=_FETCH_BYTES,
            max_partition_fetch_bytes=_MAX_FETCH_BYTES,
            max_poll_records=_MAX_RECORDS,
        )

    async def start(self, topic: str, partitions: list[int], choose: "StartAt") -> None:
        """Connect and fix the positions. Raises :class:`BrokerUnreachableError`, or what ``choose`` raises."""
        wanted = [TopicPartition(topic, partition) for partition in partitions]
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await start_patiently(self._consumer, self._node_s)
                self._consumer.assign(wanted)
                first = await _answered(partial(self._consumer.beginning_offsets, wanted))
                end = await _answered(partial(self._consumer.end_offsets, wanted))
            starts = choose({tp.partition: (first[tp], end[tp]) for tp in wanted})
            for tp in wanted:
                self._consumer.seek(tp, starts[tp.partition])
        except BaseException as error:
            await self.stop()
            if isinstance(error, KafkaError | OSError):
                raise unreachable(self._settings, error, f"topic {topic} cannot be read") from error
            raise

    async def seek_to_moment(self, topic: str, partitions: list[int], moment_ms: int) -> None:
        """Go on at the first record of a moment or later, by partition; where there is none, at what comes next.

        Raises :class:`BrokerUnreachableError`.
        """
        wanted = [TopicPartition(topic, partition) for partition in partitions]
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                found = await _answered(partial(self._consumer.offsets_for_times, dict.fromkeys(wanted, moment_ms)))
                end = await _answered(partial(self._consumer.end_offsets, wanted))
        except (KafkaError, OSError) as error:
            raise unreachable(self._settings, error, f"topic {topic} cannot be read") from error
        for tp in wanted:
            place = found.get(tp)
            self._consumer.seek(tp, end[tp] if place is None else place.offset)

    async def end_offsets(self, topic: str, partitions: list[int]) -> dict[int, int] | None:
        """By partition: the offset of a topic's next record. ``None``: the broker will not tell us."""
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                wanted = [TopicPartition(topic, partition) for partition in partitions]
                end = await _answered(partial(self._consumer.end_offsets, wanted))
        except (KafkaError, OSError) as error:
            log.info("the end of %s is not known: %s", topic, type(error).__name__)
            return None
        return {tp.partition: offset for tp, offset in end.items()}

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The first and the end offset of a partition. Raises :class:`BrokerUnreachableError`."""
        tp = TopicPartition(topic, partition)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                first = await _answered(partial(self._consumer.beginning_offsets, [tp]))
                end = await _answered(partial(self._consumer.end_offsets, [tp]))
        except (KafkaError, OSError) as error:
            raise unreachable(self._settings, error, f"topic {topic} cannot be read") from error
        return first[tp], end[tp]

    async def batches(self, until: int | None = None) -> AsyncIterator[list[Any]]:
        """Records as they come, of one partition in order. Raises :class:`BrokerUnreachableError`.

        Without end, unless ``until`` says before which offset to stop (of a consumer of one partition).
        What nobody can parse is ignored and said: a stranger's record must not keep anybody from the answers.
        """
        while until is None or not await self._is_behind(until):
            unreadable: dict[TopicPartition, Exception] = {}
            try:
                fetched = await fetched_records(
                    self._consumer,
                    unreadable.__setitem__,
                    timeout_s=_POLL_TIMEOUT_MS / 1000,
                    max_records=_MAX_RECORDS,
                )
            except KafkaError as error:
                raise unreachable(self._settings, error, "the reply topic cannot be read any more") from error
            for records in fetched.values():
                yield records
            for tp, problem in unreadable.items():
                if records := await self._past(tp, problem):
                    yield records

    async def _is_behind(self, until: int) -> bool:
        """Are all records before an offset read?"""
        return all([await self._consumer.position(tp) >= until for tp in self._consumer.assignment()])

    async def _past(self, tp: TopicPartition, problem: Exception) -> list[Any]:
        """What can be read of the batches that the partition's position is at, one by one; it is behind them then.

        None where the broker does not give them now: they are fetched, and found unreadable, again.
        """
        position = await self._consumer.position(tp)
        self._consumer.pause(tp)
        try:
            batches = await fetch_batches(
                self._consumer, tp, position, committed=False, timeout_s=self._connect_timeout_s
            )
            items, behind = await asyncio.to_thread(take_apart, batches, position, batches.stable_end)
            if behind == position:
                raise LogError("the broker does not send what is there")
            self._consumer.seek(tp, behind)
        except (KafkaError, LogError, OSError) as error:
            log.warning(
                "%s[%d]@%d cannot be read (%s), nor read past yet: %s",
                tp.topic,
                tp.partition,
                position,
                what_is_wrong(problem),
                error,
            )
            await asyncio.sleep(_RETRY_S)
            return []
        finally:
            self._consumer.resume(tp)
        return [record for item in items if (record := _readable(tp, item)) is not None]

    async def stop(self) -> None:
        """Disconnect, within a few seconds."""
        await stop_quietly(self._consumer)


#: From the first and the end offset of each partition to where reading starts.
StartAt = Callable[[Mapping[int, tuple[int, int]]], Mapping[int, int]]


def from_end(bounds: Mapping[int, tuple[int, int]]) -> Mapping[int, int]:
    """Only what comes from now on."""
    return {partition: end for partition, (_, end) in bounds.items()}


def from_beginning(bounds: Mapping[int, tuple[int, int]]) -> Mapping[int, int]:
    """All that the topic still holds."""
    return {partition: first for partition, (first, _) in bounds.items()}


def from_offset(start: int) -> "StartAt":
    """From an offset on, or from what is left behind it."""
    return lambda bounds: {partition: min(max(start, first), end) for partition, (first, end) in bounds.items()}


def after(position: Position, topic: str) -> StartAt:
    """What follows a record. Raises :class:`NotFoundError` when the topic does not hold that place any more."""

    def choose(bounds: Mapping[int, tuple[int, int]]) -> Mapping[int, int]:
        first, end = bounds[position.partition]
        start = position.offset + 1
        if not first <= start <= end:
            raise NotFoundError(
                f"{topic}[{position.partition}]@{start} is not there (it holds {first} to {end - 1}): reply frames are "
                "kept for a day only. Read the session's history instead."
            )
        return {**from_end(bounds), position.partition: start}

    return choose
