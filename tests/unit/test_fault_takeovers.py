"""How long a lost worker's sessions were silent, as the fault runs count it."""

import pytest

from tests.faults.takeover import Loss, SeenFrame, Takeovers
from turnlog_schemas.events import PARTITION, EventHeader, PartitionClaimed
from turnlog_streams.reader_rule import LoggedEvent

AT, WALL_MS = 100.0, 1_000_000  #: when w1 was lost


def claim(offset: int, owner: str, recorded_s: float) -> LoggedEvent:
    """A claim so many seconds after the loss."""
    header = EventHeader(
        stream_kind=PARTITION,
        stream_id="0",
        stream_version=0,
        epoch=-1,
        n=-1,
        accepted=-1,
        replied=-1,
        recorded_at=WALL_MS + round(recorded_s * 1_000),
    )
    payload = PartitionClaimed(owner=owner, incarnation="i", generation=1, partition_count=1, requests_topic_id="t")
    return LoggedEvent(partition=0, offset=offset, header=header, payload=payload, logged_at=header.recorded_at)


def silences(claims: list[LoggedEvent], *frames: tuple[int, float], back_s: float | None = None) -> list[float]:
    """After the loss of w1, with frames of (epoch, seconds after it)."""
    loss = Loss("w1", AT, WALL_MS, None if back_s is None else AT + back_s)
    seen = [SeenFrame(0, epoch, AT + seconds) for epoch, seconds in frames]
    return Takeovers([loss]).seconds({0: claims}, seen)


def test_a_dead_worker_s_silence_ends_with_a_frame_of_the_next_owner() -> None:
    claims = [claim(3, "w1", -5.0), claim(9, "w2", 2.0)]
    assert silences(claims, (3, -0.1), (3, 0.01), (9, 2.5), (9, 3.0)) == [2.5]


def test_a_worker_that_was_not_the_owner_is_not_missed() -> None:
    assert silences([claim(3, "w1", -5.0), claim(5, "w2", -1.0)], (5, 0.5)) == []


def test_who_was_paused_and_is_still_the_owner_ends_its_own_silence() -> None:
    claims = [claim(3, "w1", -5.0), claim(9, "w2", 18.0)]
    assert silences(claims, (3, 0.01), (3, 4.2), (9, 18.5), back_s=4.0) == [pytest.approx(4.2)]


def test_what_a_zombie_says_after_another_has_claimed_does_not_count() -> None:
    claims = [claim(3, "w1", -5.0), claim(9, "w2", 2.0)]
    assert silences(claims, (3, 4.2), (9, 6.0), back_s=4.0) == [6.0]
