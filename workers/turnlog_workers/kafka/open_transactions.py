"""Transactions that keep requests waiting, and whose they are: requests are read committed.

The broker tells the producer id of an open transaction to whoever may read the topic, its transactional id only to
whoever may describe that.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import KafkaError

from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import BrokerUnreachableError
from turnlog_workers.base.logs import at
from turnlog_workers.base.ports import LogError
from turnlog_workers.kafka.kafka_python import connected

log = logging.getLogger(__name__)
HELD_S = 5.0  #: a transaction that holds a partition for less is nothing to talk of
_SAY_AGAIN_S = 60.0
_CLIENT_ID = "turnlog-transactions"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTransaction:
    """A transaction in a partition of the requests."""

    partition: int
    first_offset: int
    producer_id: int
    transactional_id: str | None = None  #: absent: the broker does not tell us
    open_for_s: float | None = None

    def __str__(self) -> str:
        name = f"producer {self.transactional_id!r}" if self.transactional_id is not None else "a producer"
        since = "" if self.open_for_s is None else f", open for {self.open_for_s:.0f} s"
        return (
            f"partition {self.partition}: requests from offset {self.first_offset} on wait for a transaction of {name} "
            f"(producer id {self.producer_id}{since}) to be committed or aborted"
        )


def open_transactions(settings: Settings, partitions: Iterable[int], *, timeout_s: float) -> list[OpenTransaction]:
    """The oldest open transaction of each of these partitions of the requests. Blocks.

    Raises :class:`BrokerUnreachableError`.
    """
    wanted = [TopicPartition(settings.topics.requests, partition) for partition in partitions]
    with connected(KafkaAdminClient, settings, _CLIENT_ID, timeout_s) as admin:
        found: list[OpenTransaction] = []
        for tp, state in admin.describe_producers(wanted).items():
            started = [p for p in state.active_producers if p.current_transaction_start_offset >= 0]
            if started:
                oldest = min(started, key=lambda producer: producer.current_transaction_start_offset)
                found.append(_named(admin, tp.partition, oldest))
    return sorted(found, key=lambda transaction: transaction.partition)


def _named(admin: Any, partition: int, producer: Any) -> OpenTransaction:
    """With its name and age, where the broker tells them."""
    transactional_id, age_s = None, None
    try:
        listed = admin.list_transactions(producer_id_filters=[producer.producer_id])
        names = [listing.transactional_id for listings in listed.values() for listing in listings]
        if names:
            transactional_id = names[0]
            began_ms = admin.describe_transactions(names[:1])[transactional_id].transaction_start_time_ms
            age_s = max(0.0, time.time() - began_ms / 1000) if began_ms > 0 else None
    except KafkaError as error:
        log.debug("the transaction of producer %d is not described: %s", producer.producer_id, error)
    return OpenTransaction(
        partition=partition,
        first_offset=producer.current_transaction_start_offset,
        producer_id=producer.producer_id,
        transactional_id=transactional_id,
        open_for_s=age_s,
    )


class EndsReader(Protocol):
    """Who knows where a topic ends."""

    async def ends(self, topic: str, partitions: Sequence[int], *, committed: bool = False) -> Mapping[int, int]:
        """End offset of each partition; with ``committed`` before what is not. Raises :class:`LogError`."""
        ...


class TransactionWatch:
    """Says in the log which transactions keep our partitions' requests waiting, once a minute each."""

    def __init__(self, settings: Settings, reader: EndsReader, partitions: Callable[[], Sequence[int]]) -> None:
        self._settings = settings
        self._reader = reader
        self._partitions = partitions
        self._held: dict[int, int] = {}  #: by partition: the stable end, where it was not the end at the last look
        self._said: dict[tuple[int, int], float] = {}

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await asyncio.sleep(HELD_S)
            try:
                await self.look()
            except (LogError, BrokerUnreachableError) as error:
                log.warning("cannot look for open transactions: %s", error)

    async def look(self) -> None:
        """Look once. Raises :class:`LogError` or :class:`BrokerUnreachableError`."""
        partitions = self._partitions()
        if not partitions:
            return
        topic = self._settings.topics.requests
        stable = await self._reader.ends(topic, partitions, committed=True)
        ends = await self._reader.ends(topic, partitions)
        held = {partition: stable[partition] for partition in partitions if stable[partition] < ends[partition]}
        still = [partition for partition, offset in held.items() if self._held.get(partition) == offset]
        self._held = held
        self._said = {place: said for place, said in self._said.items() if held.get(place[0]) == place[1]}
        now = time.monotonic()
        due = [p for p in still if now - self._said.get((p, held[p]), -_SAY_AGAIN_S) >= _SAY_AGAIN_S]
        if not due:
            return
        for partition in due:
            self._said[partition, held[partition]] = now
        timeout_s = self._settings.append_timeout_s
        found = await asyncio.to_thread(open_transactions, self._settings, due, timeout_s=timeout_s)
        for transaction in found:
            log.warning("%s", transaction, extra=at(topic=topic, partition=transaction.partition))
