"""The inbox of a partition: acknowledgements in order, and when a request that does not come is looked for."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from turnlog_workers.base.ports import RequestLog, RequestRecord, UnreadableRange
from turnlog_workers.intake.inbox import Inbox


def record(offset: int) -> RequestRecord:
    return RequestRecord(partition=0, offset=offset, key=b"k", value=b"v")


@pytest.fixture
def acks() -> list[int]:
    return []


@pytest.fixture
def inbox(acks: list[int]) -> Inbox:
    return Inbox(limit=100, ack=acks.append)


@pytest.mark.parametrize("waiting", [3, 50])
def test_what_is_covered_is_acknowledged_in_order_and_once(inbox: Inbox, acks: list[int], waiting: int) -> None:
    for offset in (2, 0, 1, *range(10, 10 + waiting)):
        inbox.deliver(record(offset))
    inbox.cover(1)
    assert acks == [0, 1]
    inbox.cover(5)
    inbox.cover(4)
    assert acks == [0, 1, 2]
    inbox.deliver(record(1))
    assert acks == [0, 1, 2, 1], "redelivered: Faust must hear it again"
    assert len(inbox) == waiting


def test_a_request_that_does_not_come_is_missed_from_the_last_delivery_on(inbox: Inbox) -> None:
    assert inbox.silent_for(0, 3, now=10.0) == 0
    assert inbox.silent_for(0, 3, now=14.0) == 4
    inbox.deliver(record(5))
    assert inbox.silent_for(0, 7, now=15.0) == 0, "slow is not lost"
    assert inbox.silent_for(0, 7, now=18.0) == 3
    inbox.deliver(record(0))
    assert inbox.silent_for(0, 7, now=19.0) == 0, "it came"
    assert inbox.silent_for(6, 7, now=30.0) == 0
    assert inbox.silent_for(7, 7, now=40.0) == 0, "nothing more is there"
    assert inbox.silent_for(7, 8, now=50.0) == 0, "the clock starts when it is first missed"


def test_what_was_dropped_for_want_of_room_is_acknowledged_too(acks: list[int]) -> None:
    """It may be decided already, by the owner before: then nobody reads it again, and the group would wait for it."""
    inbox = Inbox(limit=2, ack=acks.append)
    for offset in range(5):
        inbox.deliver(record(offset))
    assert len(inbox) == 2
    inbox.cover(3)
    assert acks == [0, 1, 2, 3]
    inbox.put(4, record(4))
    inbox.cover(4)
    assert acks == [0, 1, 2, 3, 4], "read again from the topic, acknowledged once"
    inbox.deliver(record(5))
    inbox.cover(5)
    assert acks == [0, 1, 2, 3, 4, 5]
    assert not inbox._dropped


def test_what_the_delivery_passes_over_is_read_and_acknowledged_in_order(inbox: Inbox, acks: list[int]) -> None:
    """With a record or without; else the group's offset would stand still for ever."""
    for offset in (0, 1, 2):
        inbox.deliver(record(offset))
    inbox.cover(1)
    inbox.skip(3, 8)
    assert acks == [0, 1]
    assert inbox.missing_from(3) == 8, "read from the topic, whether anything is delivered or not"
    assert inbox.silent_for(3, 8, now=1.0) == 0
    for offset, found in ((3, record(3)), (4, None), (5, record(5)), (6, None), (7, record(7))):
        inbox.put(offset, found)
    inbox.deliver(record(8))
    inbox.cover(5)
    assert acks == [0, 1, 2, 3, 4, 5]
    inbox.cover(8)
    assert acks == list(range(9))
    assert len(inbox) == 0
    inbox.skip(6, 12)
    assert acks == [*range(9), 6, 7, 8], "redelivery: what is covered is acknowledged at once, again"
    inbox.cover(11)
    assert acks[-3:] == [9, 10, 11]


def test_a_skip_before_the_takeover_is_known_is_acknowledged_with_it(inbox: Inbox, acks: list[int]) -> None:
    inbox.skip(100, 110)
    inbox.cover(104)
    assert acks == [100, 101, 102, 103, 104]
    inbox.skip(110, 112)
    inbox.cover(111)
    assert acks == list(range(100, 112))


def test_a_range_that_nobody_can_take_apart_is_kept_at_its_first_offset() -> None:
    class Requests:
        async def bounds(self, partition: int) -> tuple[int, int]:
            return 0, 9

        async def read(
            self, partition: int, start: int, end: int
        ) -> AsyncIterator[list[RequestRecord | UnreadableRange]]:
            assert (start, end) == (1, 9)
            yield [record(1), UnreadableRange(first=2, last=5, reason="no")]
            yield [record(7)]

    inbox = Inbox(limit=100, ack=lambda offset: None)
    inbox.known_end = 9
    assert asyncio.run(inbox.fill(cast(RequestLog, Requests()), 0, 1, 9)) == 1
    assert inbox.missing_from(1) == 1
    assert [inbox.get(offset) for offset in (1, 7)] == [record(1), record(7)]
    assert inbox.get(2) == UnreadableRange(first=2, last=5, reason="no")
    assert [inbox.get(offset) for offset in (3, 4, 5, 6, 8)] == [None] * 5
