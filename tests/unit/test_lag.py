"""What a log's tail says is decided, and which bounds a lag is above."""

from dataclasses import replace
from typing import Any

import pytest

from turnlog.cli.lag import document_of, exceeded, summary
from turnlog.client.lag import Lag, PartitionLag, newest
from turnlog_schemas.events import EventHeader, PartitionClaimed, SessionArchived

CLAIM = PartitionClaimed(owner="w1", incarnation="i", generation=1, partition_count=3, requests_topic_id="t")
HEADER = EventHeader(stream_kind="session", stream_id="s", stream_version=1, epoch=-1, n=-1, accepted=-1, replied=-1)


def claim(offset: int) -> tuple[int, EventHeader, Any]:
    return offset, replace(HEADER, stream_kind="partition"), CLAIM


def event(offset: int, *, epoch: int, n: int, accepted: int) -> tuple[int, EventHeader, Any]:
    return offset, replace(HEADER, epoch=epoch, n=n, accepted=accepted), SessionArchived()


def test_of_an_empty_log_nothing_is_known() -> None:
    assert newest([]) == (-1, -1)
    assert newest([claim(0)]) == (0, -1)


def test_the_newest_event_says_what_is_decided() -> None:
    tail = [event(90, epoch=3, n=86, accepted=40), event(91, epoch=3, n=87, accepted=41)]
    assert newest(tail) == (3, 41)


def test_what_an_overtaken_owner_appends_late_does_not_count() -> None:
    assert newest([event(4, epoch=3, n=0, accepted=7), claim(5), event(6, epoch=3, n=1, accepted=99)]) == (5, 7)
    late = [claim(5), event(6, epoch=3, n=1, accepted=99), event(7, epoch=5, n=0, accepted=8)]
    assert newest(late) == (5, 8)


def test_claims_without_events_keep_what_was_decided_before() -> None:
    assert newest([event(4, epoch=3, n=0, accepted=7), claim(5), claim(6)]) == (6, 7)


LAG = Lag(
    members=2,
    partitions=(
        PartitionLag(
            partition=0,
            requests_end=9,
            decided=9,
            waiting=0,
            oldest_age_s=None,
            owner="w1",
            log_end=30,
            materialized=30,
        ),
        PartitionLag(
            partition=1,
            requests_end=9,
            decided=4,
            waiting=5,
            oldest_age_s=61.0,
            owner="w2",
            log_end=30,
            materialized=23,
        ),
        PartitionLag(
            partition=2,
            requests_end=1,
            decided=1,
            waiting=0,
            oldest_age_s=None,
            owner=None,
            log_end=None,
            materialized=None,
        ),
    ),
)


@pytest.mark.parametrize(
    ("bounds", "partitions"),
    [
        ({}, []),
        ({"max_waiting": 5, "max_age_s": 61.0, "max_behind": 7}, []),
        ({"max_waiting": 4}, [1]),
        ({"max_age_s": 60.9}, [1]),
        ({"max_behind": 6}, [1]),
        ({"max_waiting": 0, "max_behind": 0}, [1, 1]),
    ],
)
def test_bounds(bounds: dict[str, Any], partitions: list[int]) -> None:
    said = exceeded(LAG, **{"max_waiting": None, "max_age_s": None, "max_behind": None, **bounds})
    assert [int(sentence.split()[1].rstrip(":")) for sentence in said] == partitions


def test_all_together() -> None:
    document = document_of(LAG)
    assert (document["waiting"], document["behind"], document["oldest_age_s"]) == (5, 7, 61.0)
    assert [each["behind"] for each in document["partitions"]] == [0, 7, None]
    assert summary(LAG) == "5 requests wait, the oldest for 61 s; 2 workers in the group"
    assert summary(Lag(members=None, partitions=())) == "0 requests wait; the broker does not tell of the workers"
