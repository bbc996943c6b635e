"""What waits in each partition: requests that no owner has decided, and events that the snapshot does not have.

What is decided stands in the log: each event of an owner says up to where it has decided. Requests that only ask leave
no event, so the offset that the group has committed counts, too.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from turnlog.client.patience import CONNECT_TIMEOUT_S
from turnlog.client.topic_look import count_partitions, in_words, topic_reader
from turnlog_schemas.codec import Codec, is_foreign
from turnlog_schemas.errors import UnknownFingerprintError, WireError
from turnlog_schemas.events import EventHeader, PartitionClaimed
from turnlog_schemas.registry import EVENTS
from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import UnreadableRange
from turnlog_workers.kafka.connections import client_options
from turnlog_workers.kafka.schema_topic import read_schemas
from turnlog_workers.kafka.topic_reader import TopicReader

_FEW = 20  #: records of the log that are looked at, where one of them is surely accepted
_TAIL = 500  #: where none is: an owner that was overtaken leaves one batch behind at most


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLag:
    """One partition. Offsets are those of the record that comes next."""

    partition: int
    requests_end: int  #: behind it a transaction is open, or nothing
    decided: int  #: every request before it is decided
    waiting: int  #: requests, counted by their offsets
    oldest_age_s: float | None  #: of the first that waits; ``None``: none does, or its time is not known
    owner: str | None  #: of the last claim; ``None``: there is none
    log_end: int | None  #: ``None``: a partition of the requests that was added, and has no log
    materialized: int | None  #: ``None``: no snapshot here

    @property
    def behind(self) -> int | None:
        """Records of the log that the snapshot does not have."""
        if self.log_end is None or self.materialized is None:
            return None
        return max(0, self.log_end - self.materialized)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupState:
    """The workers' group: its members, and what they have committed by partition."""

    members: int | None  #: ``None``: the broker does not tell
    committed: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """All partitions."""

    partitions: tuple[PartitionLag, ...]
    members: int | None  #: workers in the group; ``None``: the broker does not tell

    @property
    def waiting(self) -> int:
        """Requests that wait, in all partitions."""
        return sum(each.waiting for each in self.partitions)

    @property
    def oldest_age_s(self) -> float | None:
        """Of the oldest request that waits."""
        return max((each.oldest_age_s for each in self.partitions if each.oldest_age_s is not None), default=None)

    @property
    def behind(self) -> int | None:
        """Records of the log that the snapshot does not have; ``None``: no snapshot here."""
        known = [each.behind for each in self.partitions if each.behind is not None]
        return sum(known) if known else None


async def measure_lag(settings: Settings, materialized: Mapping[int, int] | None = None) -> Lag:
    """How it stands now. ``materialized``: the next offset of the snapshot, by partition.

    Raises :class:`BrokerUnreachableError`, or :class:`NotFoundError` for topics that are not there.
    """
    topics = settings.topics
    requests, events = await count_partitions(settings, topics.requests, topics.events)
    group = await _group(settings)
    async with topic_reader(settings) as reader, in_words(settings, topics.events):
        looker = _Looker(settings, reader)
        log_bounds = await reader.bounds(topics.events, events)
        request_bounds = await reader.bounds(topics.requests, requests)
        stable = await reader.ends(topics.requests, requests, committed=True)
        found = await asyncio.gather(
            *(
                looker.look(
                    partition,
                    log=log_bounds.get(partition),
                    requests=(request_bounds[partition][0], stable[partition]),
                    committed=group.committed.get(partition, 0),
                    materialized=(materialized or {}).get(partition, None if materialized is None else 0),
                )
                for partition in requests
            )
        )
    return Lag(partitions=tuple(found), members=group.members)


class _Looker:
    def __init__(self, settings: Settings, reader: TopicReader) -> None:
        self._settings = settings
        self._topics = settings.topics
        self._reader = reader
        self._codec = Codec(EVENTS)
        self._schemas: asyncio.Task[None] | None = None

    async def look(
        self,
        partition: int,
        *,
        log: tuple[int, int] | None,
        requests: tuple[int, int],
        committed: int,
        materialized: int | None,
    ) -> PartitionLag:
        epoch, accepted = await self._decided(partition, *log) if log is not None else (-1, -1)
        first, end = requests
        decided = min(max(first, accepted + 1, committed), end)
        waiting, age_s = end - decided, None
        if waiting:
            there, age_s = await self._first_waiting(partition, decided, end)
            waiting = waiting if there else 0  # only a transaction's markers, or what it aborted
        return PartitionLag(
            partition=partition,
            requests_end=end,
            decided=decided if waiting else end,
            waiting=waiting,
            oldest_age_s=age_s,
            owner=await self._owner(partition, epoch) if epoch >= 0 else None,
            log_end=None if log is None else log[1],
            materialized=materialized if log is not None else None,
        )

    async def _decided(self, partition: int, first: int, end: int) -> tuple[int, int]:
        """The newest epoch, and the highest request that is decided; -1: none."""
        found = -1, -1
        for size in (_FEW, _TAIL):
            tail: list[tuple[int, EventHeader, Any]] = []
            start = max(first, end - size)
            if start >= end:
                break
            async for records in self._reader.read_leniently(self._topics.events, partition, start, end):
                for record in records:
                    event = None if isinstance(record, UnreadableRange) else await self._decode(record.value)
                    if event is not None:
                        header, payload = event  # texts are not kept
                        tail.append((record.offset, header, payload if isinstance(payload, PartitionClaimed) else None))
            found = newest(tail)
            if start == first or any(in_place(offset, header) for offset, header, claim in tail if claim is None):
                break
        return found

    async def _decode(self, value: bytes | None) -> tuple[EventHeader, Any] | None:
        if not value or is_foreign(value):
            return None
        try:
            return self._codec.decode(value)
        except UnknownFingerprintError:
            if self._schemas is None:
                self._schemas = asyncio.create_task(self._read_schemas())
            await self._schemas
        except WireError:
            return None
        try:
            return self._codec.decode(value)
        except WireError:
            return None

    async def _read_schemas(self) -> None:
        await asyncio.to_thread(
            read_schemas, self._settings, self._codec.registry, timeout_s=self._settings.append_timeout_s
        )

    async def _owner(self, partition: int, epoch: int) -> str | None:
        async for records in self._reader.read_leniently(self._topics.events, partition, epoch, epoch + 1):
            for record in records:
                event = None if isinstance(record, UnreadableRange) else await self._decode(record.value)
                if event is not None and isinstance(event[1], PartitionClaimed):
                    return event[1].owner
        return None

    async def _first_waiting(self, partition: int, start: int, end: int) -> tuple[bool, float | None]:
        """Is there a request, and how old is the first?"""
        found: Any = self._reader.read_leniently(self._topics.requests, partition, start, end, committed=True)
        async with aclosing(found) as batches:
            async for records in batches:
                sent_ms = getattr(records[0], "timestamp", None)
                age_s = None if not isinstance(sent_ms, int) or sent_ms < 0 else time.time() - sent_ms / 1000
                return True, None if age_s is None else max(0.0, age_s)
        return False, None


def newest(tail: Sequence[tuple[int, EventHeader, Any]]) -> tuple[int, int]:
    """The newest epoch of these records (offset, header, payload), and the highest request that is decided; -1: none.

    A record that stands where its number says, right behind its claim and those before it, is accepted whatever else is
    in the log. Of others those of the newest epoch count: who was overtaken has an older one.
    """
    epoch = -1
    for offset, header, payload in tail:
        epoch = max(epoch, offset if isinstance(payload, PartitionClaimed) else header.epoch)
    accepted = -1
    for offset, header, payload in tail:
        if not isinstance(payload, PartitionClaimed) and (header.epoch == epoch or in_place(offset, header)):
            accepted = max(accepted, header.accepted)
    return epoch, accepted


def in_place(offset: int, header: EventHeader) -> bool:
    """Does an event stand right behind its claim and those before it?"""
    return offset == header.epoch + 1 + header.n


async def _group(settings: Settings) -> GroupState:
    """What the broker tells of the workers' group; a user without the right is told nothing."""
    admin = AIOKafkaAdminClient(
        **client_options(settings, "turnlog-look"), request_timeout_ms=int(CONNECT_TIMEOUT_S * 1000)
    )
    members: int | None = None
    committed: dict[int, int] = {}
    try:
        async with asyncio.timeout(2 * CONNECT_TIMEOUT_S):
            await admin.start()
            described = await admin.describe_consumer_groups([settings.group_id])
            for answer in described:
                for code, _, _, _, _, group_members, *_ in answer.groups:
                    members = len(group_members) if not code else members
            offsets = await admin.list_consumer_group_offsets(settings.group_id)
            for tp, stored in offsets.items():
                if isinstance(tp, TopicPartition) and tp.topic == settings.topics.requests and stored.offset >= 0:
                    committed[tp.partition] = stored.offset
    except (KafkaError, OSError):
        pass  # the log alone tells then
    finally:
        await admin.close()
    return GroupState(members=members, committed=committed)
