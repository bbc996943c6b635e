"""How long a lost worker's sessions were silent, as the fault runs count it."""

import pytest

from tests.faults.takeover import FrameAt, Loss, Takeovers
from turnlog_schemas import events as ev
from turnlog_schemas.parts import Usage
from turnlog_streams.reader_rule import LoggedEvent

AT, WALL_MS = 100.0, 1_000_000  #: when w1 was lost
CHAT = ev.TurnAccepted(request_id="r", command_hash="h", content=())
ENDED = ev.TurnCompleted(usage=Usage())


def logged(offset: int, payload: object, seconds: float, *, epoch: int = -1, n: int = -1) -> LoggedEvent:
    """An event that was recorded so many seconds after the loss."""
    of_turn = not isinstance(payload, ev.PartitionClaimed)
    header = ev.EventHeader(
        stream_kind=ev.SESSION if of_turn else ev.PARTITION,
        stream_id="s" if of_turn else "0",
        stream_version=0,
        epoch=epoch,
        n=n,
        accepted=-1,
        replied=-1,
        turn_id="t" if of_turn else None,
        recorded_at=WALL_MS + round(seconds * 1_000),
    )
    return LoggedEvent(partition=0, offset=offset, header=header, payload=payload, logged_at=header.recorded_at)


def claim(offset: int, owner: str, seconds: float) -> LoggedEvent:
    payload = ev.PartitionClaimed(owner=owner, incarnation="i", generation=1, partition_count=1, requests_topic_id="t")
    return logged(offset, payload, seconds)


OWNED = [claim(3, "w1", -5.0), logged(4, CHAT, -1.0, epoch=3, n=0)]


def silences(log: list[LoggedEvent], *frames: tuple[int, float], back_s: float | None = None) -> list[float]:
    """After the loss of w1, with frames of (epoch, seconds after it)."""
    loss = Loss("w1", AT, WALL_MS, None if back_s is None else AT + back_s)
    return Takeovers([loss]).seconds({0: log}, [FrameAt(0, epoch, AT + seconds) for epoch, seconds in frames])


def test_a_dead_worker_s_silence_ends_with_a_frame_of_the_next_owner() -> None:
    log = [*OWNED, claim(9, "w2", 2.0)]
    assert silences(log, (3, -0.1), (3, 0.01), (9, 2.5), (9, 3.0)) == [2.5]


def test_a_worker_that_was_not_the_owner_is_not_missed() -> None:
    assert silences([*OWNED, claim(5, "w2", -0.5)], (5, 0.5)) == []


@pytest.mark.parametrize("log", [OWNED[:1], [*OWNED, logged(5, ENDED, -0.5, epoch=3, n=1)]])
def test_where_no_turn_was_under_way_nobody_waits(log: list[LoggedEvent]) -> None:
    log = [*log, claim(9, "w2", 2.0), logged(10, CHAT, 30.0, epoch=9, n=0)]
    assert silences(log, (9, 30.1)) == []


def test_who_was_paused_and_is_still_the_owner_ends_its_own_silence() -> None:
    log = [*OWNED, claim(9, "w2", 18.0)]
    assert silences(log, (3, 0.01), (3, 4.2), (9, 18.5), back_s=4.0) == [pytest.approx(4.2)]


def test_what_a_zombie_says_after_another_has_claimed_does_not_count() -> None:
    log = [*OWNED, claim(9, "w2", 2.0)]
    assert silences(log, (3, 4.2), (9, 6.0), back_s=4.0) == [6.0]
