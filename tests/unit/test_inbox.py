"""The inbox of a partition: acknowledgements in order, and when a request that does not come is looked for."""

import pytest

from workers.inbox import Inbox
from workers.ports import RequestRecord


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
