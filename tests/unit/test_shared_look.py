"""Looks at the broker: shared by those who wait, begun late enough for each of them, and not too many."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from tests.waiting import eventually
from turnlog_schemas.codec import AVRO_MAGIC
from turnlog_schemas.errors import UnknownFingerprintError
from turnlog_workers.base import shared_look
from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.ports import LogError, RequestRecord
from turnlog_workers.base.shared_look import MIN_INTERVAL_S, SharedLook
from turnlog_workers.intake.request_reader import ForStream, Misrouted, UnknownReplyTopicError, Unreadable
from turnlog_workers.kafka.event_log import KafkaEventLog
from turnlog_workers.shard.worker_context import WorkerContext


@dataclass
class Broker:
    """Has names; a look at it takes as long as the test likes."""

    names: set[bytes] = field(default_factory=set)
    known: set[bytes] = field(default_factory=set)
    failures: int = 0
    now: float = 100.0
    asked: int = 0
    answers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1000))

    def look(self) -> SharedLook[bytes]:
        return SharedLook(self._look, known=self.known.__contains__, now=lambda: self.now, again=Backoff(0.0))

    async def _look(self) -> None:
        self.asked += 1
        there = set(self.names)  # as the topic was when it was asked for its end
        await self.answers.acquire()
        if self.failures:
            self.failures -= 1
            raise LogError("the broker is away")
        self.known |= there


@pytest.fixture(autouse=True)
def no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_look, "MIN_INTERVAL_S", 0.0)


async def test_who_comes_during_a_look_waits_for_it_and_shares_it() -> None:
    broker = Broker(names={b"new"}, answers=asyncio.Semaphore(0))
    look = broker.look()
    waiting = [asyncio.create_task(look.find(b"new", 99.0)) for _ in range(12)]
    await eventually(lambda: broker.asked, "somebody looks")
    assert not any(task.done() for task in waiting), "no verdict before the look has ended"
    broker.answers.release()
    await asyncio.gather(*waiting)
    assert broker.known == {b"new"}
    assert broker.asked == 1


async def test_what_appeared_after_a_look_began_gets_a_fresh_one() -> None:
    broker = Broker(answers=asyncio.Semaphore(0))
    look = broker.look()
    garbage = asyncio.create_task(look.find(b"garbage", 100.0))
    await eventually(lambda: broker.asked, "somebody looks")
    broker.now = 101.0
    broker.names.add(b"new")  # the look that goes on does not see it
    valid = asyncio.create_task(look.find(b"new", 101.0))
    broker.answers.release()
    await garbage
    await eventually(lambda: broker.asked == 2, "a fresh look")
    broker.answers.release()
    await valid
    assert b"new" in broker.known


async def test_one_look_serves_all_that_was_there() -> None:
    broker = Broker()
    look = broker.look()
    for number in range(1000):  # a backlog of garbage, each record with a fingerprint of its own
        await look.find(b"%d" % number, 100.0)
    assert broker.asked == 1


async def test_what_was_looked_for_in_vain_is_found_as_soon_as_it_is_there() -> None:
    """A schema that is published after the first record by it: the second one is no garbage, however soon it comes."""
    broker = Broker()
    look = broker.look()
    await look.find(b"new", 100.0)
    broker.names.add(b"new")
    broker.now += MIN_INTERVAL_S
    await look.find(b"new", 100.1)
    assert b"new" in broker.known
    assert broker.asked == 2


async def test_a_look_that_fails_is_no_verdict() -> None:
    broker = Broker(names={b"new"}, failures=1)
    await broker.look().find(b"new", 100.0)
    assert b"new" in broker.known, "tried again"
    broker = Broker(names={b"new"}, failures=9)
    look = broker.look()
    with pytest.raises(LogError, match="away"):
        await look.find(b"new", 100.0)
    assert broker.asked == 5
    broker.failures = 0
    await look.find(b"new", 100.0)
    assert b"new" in broker.known, "the failure was not taken for an answer"


async def test_a_look_that_raises_anything_else_lets_nobody_wait_for_ever() -> None:
    async def raises() -> None:
        raise RuntimeError("a defect")

    look: SharedLook[bytes] = SharedLook(raises, known=lambda name: False, now=lambda: 1.0)
    with pytest.raises(LogError, match="RuntimeError"):
        await asyncio.wait_for(look.find(b"x", 0.0), 60)


# ---- its users


class Reader:
    """A request reader that stumbles until it is helped."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def read(self, record: RequestRecord, *, last_try: bool = False) -> Any:
        if self.errors and not (last_try and isinstance(self.errors[0], UnknownFingerprintError)):
            raise self.errors.pop(0)
        return Unreadable(code="unknown_fingerprint", reason="") if self.errors else Misrouted(key=b"k", value=b"v")


def parts_with(reader: Reader, broker: Broker) -> WorkerContext:
    context: Any = object.__new__(WorkerContext)
    context.requests = reader
    context.schemas = context.reply_topics = broker.look()
    context.topics = SimpleNamespace(requests="chat.requests")
    return context  # type: ignore[no-any-return]


RECORD = RequestRecord(partition=0, offset=7, key=b"k", value=b"v")


async def test_a_request_of_a_new_writer_is_read_after_a_look_and_not_judged_while_nobody_can_look() -> None:
    unknown, topic = UnknownFingerprintError(b"new"), UnknownReplyTopicError("chat.replies.mine")
    assert isinstance(await parts_with(Reader(unknown, topic), Broker()).read(RECORD, 0.0), Misrouted)
    with pytest.raises(LogError):
        await parts_with(Reader(unknown), Broker(failures=9)).read(RECORD, 100.0)


async def test_a_reader_that_stumbles_over_a_request_makes_it_a_dead_letter() -> None:
    found = await parts_with(Reader(RecursionError("deep"), RecursionError("deep")), Broker()).read(RECORD, 0.0)
    assert not isinstance(found, ForStream | Misrouted)
    assert (found.code, found.reason) == ("undecidable", "reading it failed: RecursionError")


async def test_events_of_a_new_writer_are_read_after_a_look_that_they_share() -> None:
    """Partitions that are caught up together ask together: none is told that the log cannot be read."""
    new = AVRO_MAGIC + b"new"
    broker = Broker(names={new}, answers=asyncio.Semaphore(0))

    def decode(value: bytes) -> tuple[str, str]:
        if value not in broker.known:
            raise UnknownFingerprintError(value)
        return "header", "payload"

    log: Any = object.__new__(KafkaEventLog)
    log._topic, log._schemas, log._codec = "chat.events", broker.look(), SimpleNamespace(decode=decode)
    log._keys = None
    broker.now = 1e12  # `there_since` is the real clock's
    records = [SimpleNamespace(partition=partition, offset=0, value=new, headers=()) for partition in range(12)]
    reading = [asyncio.create_task(log._decode(record)) for record in records]
    await eventually(lambda: broker.asked, "somebody looks")
    broker.answers.release()
    assert await asyncio.gather(*reading) == [("header", "payload")] * 12
    assert broker.asked == 1
