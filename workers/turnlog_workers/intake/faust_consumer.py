"""Faust's transport with our own consumer in it: a static member of the group (see ``membership.group_member``), which
reads committed records only, and what it cannot read holds up nobody.

Faust ties reading committed to ``exactly_once``, and dies of a batch that aiokafka cannot parse, with every other
partition of the worker. Here such a partition is set aside: its shard reads some thousand requests from the topic
itself (:mod:`turnlog_workers.kafka.request_log`), and Faust goes on from there.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from types import CoroutineType, coroutine
from typing import Any, cast

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import IllegalStateError
from faust.transport.drivers.aiokafka import (
    AIOKafkaConsumerThread,
    Consumer,
    Producer,
    Transport,
    credentials_to_aiokafka_auth,
    server_list,
)
from faust.types import TP
from mode.services import WaitArgT, WaitResults

from turnlog_workers.base.logs import at
from turnlog_workers.base.ports import LogError
from turnlog_workers.base.tasks import describe, was_cancelled, watched
from turnlog_workers.kafka.connecting import unless_it_breaks
from turnlog_workers.kafka.raw_fetch import fetched_records, what_is_wrong
from turnlog_workers.membership.group_member import GroupConsumer, GroupMember

log = logging.getLogger(__name__)
_RETRY_S = 0.5

#: Reads a partition from an offset on past Faust; where Faust goes on, ``None`` while nobody can tell.
#: Raises :class:`LogError`.
ReadPast = Callable[[int, int], Awaitable[int | None]]


class IntakeThread(AIOKafkaConsumerThread):
    """The thread that talks to the broker."""

    async def on_start(self) -> None:
        """Connect; a connection that breaks meanwhile is made again, as those before it."""
        limit_s = cast(Any, self.app).turnlog_settings.startup_timeout_s
        await unless_it_breaks(self._start_consumer, limit_s)

    async def _start_consumer(self) -> None:
        try:
            await super().on_start()
        except BaseException:
            if self._consumer is not None:  # nothing of it goes on beside the next one
                await self._consumer.stop()
            raise

    def _create_worker_consumer(self, transport: Transport) -> GroupConsumer:
        conf = self.app.conf
        return GroupConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            on_fenced=self._fenced,
            leaves=lambda: cast(Any, self.app).leaves_group,
            bootstrap_servers=server_list(transport.url, transport.default_port),
            enable_auto_commit=False,
            auto_offset_reset=conf.consumer_auto_offset_reset,
            max_poll_records=conf.broker_max_poll_records,
            max_poll_interval_ms=_ms(conf.broker_max_poll_interval),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_wait_ms=1500,
            request_timeout_ms=_ms(conf.broker_request_timeout),
            check_crcs=conf.broker_check_crcs,
            isolation_level="read_committed",
            session_timeout_ms=_ms(conf.broker_session_timeout),
            rebalance_timeout_ms=_ms(conf.broker_rebalance_timeout),
            heartbeat_interval_ms=_ms(conf.broker_heartbeat_interval),
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
            **credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )

    async def name_is_ours(self) -> bool:
        """Does the group still mean us by our name? Asked now, not remembered."""
        return bool(await self.call_thread(cast(GroupMember, self._ensure_consumer()._coordinator).is_ours))

    def _fenced(self, sentence: str) -> None:
        app = cast(Any, self.app)
        app.loop.call_soon_threadsafe(app.fenced, sentence)

    async def getmany(self, active_partitions: set[TP] | None, timeout: float) -> dict[TopicPartition, list[Any]]:
        """As Faust's own, past the queue of calls into its thread: two workers wait at it with tasks of theirs."""
        fetched: asyncio.Future[dict[TopicPartition, list[Any]]] = self.parent_loop.create_future()
        self.thread_loop.call_soon_threadsafe(self._fetch, fetched, active_partitions, timeout)
        return await fetched

    def _fetch(self, fetched: asyncio.Future[Any], active_partitions: set[TP] | None, timeout: float) -> None:
        async def fetch() -> dict[TopicPartition, list[Any]]:
            consumer = self._ensure_consumer()
            most = consumer._max_poll_records
            return await self._fetch_records(consumer, active_partitions, timeout=timeout, max_records=most)

        def hand_over(done: asyncio.Task[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the worker's loop is closed
                self.parent_loop.call_soon_threadsafe(_settle, fetched, done)

        self.thread_loop.create_task(fetch()).add_done_callback(hand_over)

    async def _fetch_records(
        self,
        consumer: AIOKafkaConsumer,
        active_partitions: set[TP] | None,
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> dict[TopicPartition, list[Any]]:
        """Fetched records by partition, as aiokafka's ``fetched_records``; of a bad partition none."""
        if not self.consumer.flow_active:
            return {}
        return await fetched_records(
            consumer,
            partial(self._set_aside, consumer),
            wanted=active_partitions,
            timeout_s=timeout,
            max_records=max_records,
        )

    def _set_aside(self, consumer: AIOKafkaConsumer, tp: TopicPartition, error: Exception) -> None:
        """No more fetches of this partition until the main thread says where to go on."""
        with contextlib.suppress(IllegalStateError):  # not ours any more
            state = consumer._subscription._assigned_state(tp)
            if state.has_valid_position:
                consumer.pause(tp)
                intake = cast(IntakeConsumer, self.consumer)
                self.parent_loop.call_soon_threadsafe(intake.set_aside, TP(*tp), state.position, what_is_wrong(error))

    async def go_on(self, tp: TP, offset: int) -> None:
        """Fetch a partition again that was set aside, from there on."""
        consumer, partition = self._ensure_consumer(), TopicPartition(*tp)
        with contextlib.suppress(IllegalStateError):  # not ours any more
            consumer.seek(partition, offset)
            consumer.resume(partition)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: Faust compares with the high watermark, which an open transaction keeps away for as long as it
        lasts. Requests that do not come are looked for by the tail watch."""


class IntakeConsumer(Consumer):
    """Faust's consumer of the requests."""

    #: Set by the app.
    read_past: ReadPast

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._set_aside: dict[TP, asyncio.Task[None]] = {}

    def _new_consumer_thread(self) -> IntakeThread:
        thread = IntakeThread(self, loop=self.loop, thread_loop=uvloop.new_event_loop(), beacon=self.beacon)
        thread._close_thread_loop_on_stop = True  # as one that the thread makes itself
        return thread

    async def sleep(self, n: Any) -> None:
        """As Faust's own; before each fetch it sleeps for no time, in a task of its own with a timer."""
        if n == 0:
            await asyncio.sleep(0)
        else:
            await super().sleep(n)

    async def wait_first(self, *coros: WaitArgT, timeout: Any = None) -> WaitResults:
        """As Faust's own, without its four tasks for each message where handing it over waits for nothing.

        It waits only while the agent's buffer is full.
        """
        work, others = cast(Any, coros[0]), coros[1:]
        hands_over = len(others) == 1 and timeout is None and type(work) is CoroutineType
        if not hands_over or self._stopped.is_set() or self._crashed.is_set():
            return await super().wait_first(*coros, timeout=timeout)
        try:
            waits_for = work.send(None)
        except BaseException as ended:
            for other in others:
                if type(other) is CoroutineType:
                    other.close()
            if not isinstance(ended, StopIteration):
                raise
            return WaitResults([work], [ended.value], False)
        return await super().wait_first(_going_on(work, waits_for), *others, timeout=timeout)

    async def name_is_ours(self) -> bool:
        """Does the group still mean us by our name?"""
        return await cast(IntakeThread, self._thread).name_is_ours()

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        # Faust counts the message behind the gap as acknowledged, too.
        await super()._add_gap(tp, offset_from, offset_to - 1)

    def set_aside(self, tp: TP, position: int, problem: str) -> None:
        """A partition cannot be read from ``position`` on (in the main thread)."""
        log.warning(
            "a batch cannot be read (%s): the partition is read past it",
            problem,
            extra=at(topic=tp.topic, partition=tp.partition, offset=position),
        )
        before = self._set_aside.pop(tp, None)
        if before is not None:
            before.cancel()
        task = self._set_aside[tp] = watched(self._pass_by(tp, position), f"reading past a batch of {tp.partition}")
        task.add_done_callback(lambda done: self._set_aside.pop(tp, None) if self._set_aside.get(tp) is done else None)

    async def _pass_by(self, tp: TP, position: int) -> None:
        generation = self.app.consumer_generation_id
        while not self.should_stop and generation == self.app.consumer_generation_id:
            try:
                end = await self.read_past(tp.partition, position)
                if end is not None:
                    self._read_offset[tp] = end  # what was fetched before and comes late is not wanted
                    thread = cast(IntakeThread, self._thread)
                    await thread.call_thread(thread.go_on, tp, end)
                    return
            except BaseException as error:  # whatever it is, nobody else lets the partition go on
                if was_cancelled(error):
                    raise
                place = at(topic=tp.topic, partition=tp.partition, offset=position)
                why = error if isinstance(error, LogError) else describe(error)
                log.warning("cannot read past an unreadable batch yet: %s", why, extra=place)
            await asyncio.sleep(_RETRY_S)


class IdleProducer(Producer):
    """Faust's own producer, which it starts with every app. Nothing is sent by it."""

    async def on_start(self) -> None:
        """Connect; a connection that breaks meanwhile is made again, as those before it."""
        await super(Producer, self).on_start()
        self._producer = await unless_it_breaks(self._connected, cast(Any, self.app).turnlog_settings.startup_timeout_s)
        self.beacon.add(self._producer)

    async def _connected(self) -> AIOKafkaProducer:
        producer = self._new_producer()
        try:
            await producer.start()
        except BaseException:
            await producer.stop()  # nothing of it goes on beside the next one
            raise
        return producer


class IntakeTransport(Transport):
    """Faust's transport with this consumer and this producer."""

    Consumer = IntakeConsumer
    Producer = IdleProducer


def _settle(fetched: asyncio.Future[Any], done: asyncio.Task[Any]) -> None:
    """What a task of the other thread ended with, for whoever waits in this one, if somebody still does."""
    if done.cancelled():
        fetched.cancel()
    elif (error := done.exception()) is not None:
        if not fetched.done():
            fetched.set_exception(error)
    elif not fetched.done():
        fetched.set_result(done.result())


async def _going_on(work: Coroutine[Any, Any, Any], waits_for: Any) -> Any:
    """The rest of a coroutine that was begun by hand; ``waits_for`` is what it stopped at."""
    return await _resumed(work, waits_for)


@coroutine
def _resumed(work: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    try:
        while True:
            try:
                told = yield waits_for
            except BaseException as error:
                waits_for = work.throw(error)
            else:
                waits_for = work.send(told)
    except StopIteration as ended:
        return ended.value
    finally:
        work.close()


def _ms(seconds: Any) -> int:
    return int((seconds or 0) * 1000)
