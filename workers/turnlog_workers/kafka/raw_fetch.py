"""Fetching past what aiokafka cannot parse: partition by partition, and batches as the broker stores them.

aiokafka's own ``getmany`` gives up all partitions for one bad batch, forgets what it had of the others, and goes on
behind records that nobody saw.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, Fetcher, FetchResult
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    KafkaError,
    RecordTooLargeError,
    UnsupportedCodecError,
    for_code,
)
from aiokafka.protocol.fetch import FetchRequest

from turnlog_workers.base.config import MIB
from turnlog_workers.base.ports import LogError
from turnlog_workers.kafka.record_batches import FetchedBatches

_RAW_FETCH_BYTES = 8 * MIB
_RAW_FETCH_WAIT_MS = 100

#: Told of a partition that cannot be read from its position on, and why. It may be fetched again.
OnUnreadable = Callable[[TopicPartition, Exception], None]


def is_unreadable(error: BaseException) -> bool:
    """Is this error of a fetch about the bytes that came, and not about the broker or us?"""
    if isinstance(error, KafkaError):
        return isinstance(error, CorruptRecordException | UnsupportedCodecError | RecordTooLargeError)
    return isinstance(error, Exception) and not isinstance(error, ConsumerStoppedError)


def what_is_wrong(error: BaseException) -> str:
    """The error without the bytes that it may quote."""
    if isinstance(error, UnicodeDecodeError):
        return "the key of a header is not UTF-8"
    return f"{type(error).__name__}: {error}"[:200]


async def fetched_records(
    consumer: AIOKafkaConsumer,
    on_unreadable: OnUnreadable,
    *,
    wanted: Collection[TopicPartition] | None = None,
    timeout_s: float | None = None,
    max_records: int | None = None,
) -> dict[TopicPartition, list[Any]]:
    """Fetched records by partition, as aiokafka's ``getmany``; of a bad partition none, and its position stays."""
    fetcher = consumer._fetcher
    if consumer._closed or fetcher._closed:
        raise ConsumerStoppedError()
    with fetcher._subscriptions.fetch_context():
        if fetcher._subscriptions.reassignment_in_progress:
            await fetcher._subscriptions.wait_for_assignment()
        found, bad = drain(fetcher, on_unreadable, wanted, max_records)
        if found or bad or not timeout_s:
            return found
        waiter = fetcher._create_fetch_waiter()
        done, _ = await asyncio.wait([waiter], timeout=timeout_s)
        if not done or fetcher._closed:
            waiter.cancel()
            return {}
        waiter.result()  # raises when we may not read
        return drain(fetcher, on_unreadable, wanted, max_records)[0]


def drain(
    fetcher: Fetcher, on_unreadable: OnUnreadable, wanted: Collection[TopicPartition] | None, max_records: int | None
) -> tuple[dict[TopicPartition, list[Any]], bool]:
    """What was fetched, each partition's on its own; and was any of them bad?"""
    drained: dict[TopicPartition, list[Any]] = {}
    bad = False
    for tp, fetched in list(fetcher._records.items()):
        if wanted and tp not in wanted:
            if not fetcher._subscriptions.is_assigned(tp):
                del fetcher._records[tp]
            continue
        try:
            if type(fetched) is not FetchResult:
                if drained:
                    break  # the next call raises it
                _forget(fetcher, tp)
                fetched.check_raise()
            records = fetched.getall(max_records)
        except Exception as error:
            if not is_unreadable(error):
                raise
            _forget(fetcher, tp)
            on_unreadable(tp, error)
            bad = True
            continue
        if fetched.has_more():
            fetcher._records.move_to_end(tp)  # the others first: they must not wait for all that this one has
        else:
            _forget(fetcher, tp)
        if records:
            drained[tp] = records
            if max_records is not None:
                max_records -= len(records)
                if max_records <= 0:
                    break
    return drained, bad


def _forget(fetcher: Fetcher, tp: TopicPartition) -> None:
    """It may be fetched again."""
    fetcher._records.pop(tp, None)
    fetcher._notify(fetcher._wait_consume_future)


async def fetch_batches(
    consumer: AIOKafkaConsumer, tp: TopicPartition, start: int, *, committed: bool, timeout_s: float
) -> FetchedBatches:
    """Batches from ``start`` on as the broker stores them. ``consumer`` is assigned the partition and has it paused.

    Raises :class:`LogError` or what aiokafka raises.
    """
    where = f"{tp.topic}[{tp.partition}]@{start}"
    request = FetchRequest(
        _RAW_FETCH_WAIT_MS,
        1,
        _RAW_FETCH_BYTES,
        READ_COMMITTED if committed else 0,
        [(tp.topic, [(tp.partition, start, _RAW_FETCH_BYTES)])],
    )
    try:
        async with asyncio.timeout(timeout_s):
            while (leader := consumer._client.cluster.leader_for_partition(tp)) in (None, -1):
                await consumer._client.force_metadata_update()
            answer = await consumer._client.send(leader, request)
    except TimeoutError as error:
        raise LogError(f"{where}: not answered within {timeout_s} s") from error
    (_, ((_, code, high_watermark, stable_end, *rest),)) = answer.topics[0]
    if code:
        raise LogError(f"{where} cannot be fetched: {for_code(code).__name__}")
    # As aiokafka's fetcher takes it apart: from version 11 on the preferred replica is last but one.
    aborted = (rest[1] if answer.API_VERSION >= 11 else rest[-2]) or ()
    return FetchedBatches(
        data=bytes(rest[-1] or b""),
        stable_end=stable_end if committed else high_watermark,
        aborted=[(producer, first) for producer, first in aborted],
    )
