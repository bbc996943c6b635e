"""What is fetched in the consumer's thread reaches the worker's loop: records, an error, the end of the thread."""

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop
from aiokafka.errors import ConsumerStoppedError, KafkaConnectionError

from tests.waiting import eventually
from turnlog_workers.base.backoff import Backoff
from turnlog_workers.intake.faust_consumer import IdleProducer, IntakeThread
from turnlog_workers.kafka import connecting


@pytest.fixture
def thread_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The loop of another thread, which ends with the test."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


class Thread(IntakeThread):
    """One whose fetches the test answers."""

    def __init__(self, thread_loop: asyncio.AbstractEventLoop) -> None:
        self.thread_loop, self.parent_loop = thread_loop, asyncio.get_running_loop()
        self.asked: list[Any] = []
        self.answers: dict[str, Any] = {}
        self.fetching: asyncio.Task[Any] | None = None
        self.fetched: list[str] = []

    def _ensure_consumer(self) -> Any:
        return SimpleNamespace(_max_poll_records=7)

    async def _fetch_records(self, consumer: Any, active_partitions: Any, *args: Any, **bounds: Any) -> Any:
        assert asyncio.get_running_loop() is self.thread_loop
        self.fetching = asyncio.current_task()
        self.asked.append((active_partitions, bounds))
        try:
            await eventually(lambda: self.answers, "an answer")
        finally:
            self.fetched.append("done")
        answer = self.answers["next"]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_records_and_errors_come_over(thread_loop: asyncio.AbstractEventLoop) -> None:
    thread = Thread(thread_loop)
    thread.answers["next"] = {"requests": ["a record"]}
    assert await thread.getmany(None, 1.0) == {"requests": ["a record"]}
    assert thread.asked == [(None, {"timeout": 1.0, "max_records": 7})]
    thread.answers["next"] = ConsumerStoppedError()
    with pytest.raises(ConsumerStoppedError):
        await thread.getmany(None, 1.0)


async def test_a_fetch_that_the_thread_s_end_cuts_off_ends_here_too(thread_loop: asyncio.AbstractEventLoop) -> None:
    thread = Thread(thread_loop)
    asking = asyncio.create_task(thread.getmany(None, 1.0))
    fetching = await eventually(lambda: thread.fetching, "it fetches")
    thread_loop.call_soon_threadsafe(fetching.cancel)
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_nobody_waits_for_it_any_more(thread_loop: asyncio.AbstractEventLoop) -> None:
    thread = Thread(thread_loop)
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    for answer in ({}, ConsumerStoppedError()):
        thread.answers, thread.fetching, thread.fetched = {}, None, []
        asking = asyncio.create_task(thread.getmany(None, 1.0))
        await eventually(lambda: thread.fetching, "it fetches")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        thread.answers["next"] = answer
        await eventually(lambda: thread.fetched, "it has fetched")
        thread.answers["next"] = {"requests": []}
        assert await thread.getmany(None, 1.0) == {"requests": []}, "the next one is answered, behind it"
    assert not failures


class Consumer:
    """Starts when the connections that break are used up."""

    def __init__(self, breaking: list[Exception]) -> None:
        self._breaking = breaking
        self.stopped = False

    async def start(self) -> None:
        if self._breaking:
            raise self._breaking.pop()

    async def stop(self) -> None:
        self.stopped = True


class Starting(IntakeThread):
    """One whose consumers the test makes."""

    def __init__(self, *breaking: Exception) -> None:
        self.app: Any = SimpleNamespace(turnlog_settings=SimpleNamespace(startup_timeout_s=60.0))
        self.thread_loop = asyncio.get_running_loop()
        self.breaking = list(breaking)
        self.made: list[Consumer] = []

    def _create_consumer(self, loop: asyncio.AbstractEventLoop) -> Any:
        self.made.append(Consumer(self.breaking))
        return self.made[-1]


async def test_a_connection_that_breaks_at_the_start_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_AGAIN", Backoff(0.0))
    thread = Starting(KafkaConnectionError("reset"), KafkaConnectionError("reset"))
    await thread.on_start()
    assert [consumer.stopped for consumer in thread.made] == [True, True, False]


class StartingProducer(IdleProducer):
    """One whose producers the test makes."""

    def __init__(self, *breaking: Exception) -> None:
        app: Any = SimpleNamespace(turnlog_settings=SimpleNamespace(startup_timeout_s=60.0))
        app.conf = SimpleNamespace(producer_threaded=False)
        self.app, self.threaded_producer, self.buffer = app, None, cast(Any, None)
        self.beacon: Any = SimpleNamespace(add=lambda _: None)
        self.breaking = list(breaking)
        self.made: list[Consumer] = []

    async def add_runtime_dependency(self, service: Any) -> Any:
        return service

    def _new_producer(self) -> Any:
        self.made.append(Consumer(self.breaking))
        return self.made[-1]


async def test_so_is_that_of_the_producer_that_faust_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_AGAIN", Backoff(0.0))
    producer = StartingProducer(KafkaConnectionError("reset"))
    await producer.on_start()
    assert [made.stopped for made in producer.made] == [True, False]
    assert producer._producer is cast(Any, producer.made[-1])


async def test_what_else_is_wrong_at_the_start_is_told_at_once() -> None:
    thread = Starting(ValueError("a defect"))
    with pytest.raises(ValueError, match="a defect"):
        await thread.on_start()
    assert len(thread.made) == 1
