"""When requests are read past Faust: never while it delivers, at once while the group rebalances."""

import asyncio
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from tests.waiting import eventually
from turnlog_streams.topics import Topics
from turnlog_workers.base.ports import LogBrokenError, LogError, RequestRecord
from turnlog_workers.intake.inbox import Inbox
from turnlog_workers.process.tail_watch import TailWatch
from turnlog_workers.shard.partition import Shard
from turnlog_workers.shard.worker_context import Membership

TOPICS = Topics(prefix="chat")
STALLED_S = 5.0


class Ends:
    """Where the topics end."""

    def __init__(self) -> None:
        self.requests = 0
        self.stable: int | None = None  #: where that is not the same
        self.topic: str | None = "made once"
        self.looks = 0
        self.away = False

    async def ends(self, topic: str, partitions: Sequence[int], *, committed: bool = False) -> Mapping[int, int]:
        self.looks += 1
        if self.away:
            raise LogError("the broker is away")
        end = self.requests if self.stable is None or not committed else self.stable
        return dict.fromkeys(partitions, end if topic == TOPICS.requests else 0)

    async def topic_id(self, topic: str) -> str | None:
        assert topic == TOPICS.requests
        return self.topic


class Owner:
    """A serving shard's side: what it would do about what it hears."""

    def __init__(self, now: "Clock") -> None:
        self.inbox = Inbox(limit=100, ack=lambda offset: None)
        self.serving = SimpleNamespace(notice=self._notice)
        self.patience_s: list[float] = []
        self.read_at: list[float] = []
        self._now = now

    def _notice(self, events_end: int, requests_end: int, *, patience_s: float) -> None:
        self.patience_s.append(patience_s)
        if self.inbox.silent_for(0, requests_end, self._now()) >= patience_s and requests_end:
            self.read_at.append(self._now())


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
def owner(clock: Clock) -> Owner:
    return Owner(clock)


@pytest.fixture
def membership() -> Membership:
    return Membership()


@pytest.fixture
def broken() -> list[str]:
    return []


@pytest.fixture
def watch(clock: Clock, ends: Ends, owner: Owner, membership: Membership, broken: list[str]) -> TailWatch:
    return watching(ends, owner, membership, clock, broken=broken)


def watching(
    ends: Ends,
    owner: Owner,
    membership: Membership,
    clock: Clock,
    *,
    interval_s: float = 0.0,
    broken: list[str] | None = None,
) -> TailWatch:
    return TailWatch(
        *(ends, TOPICS, cast(Mapping[int, Shard], {0: owner})),
        membership=membership,
        interval_s=interval_s,
        stalled_delivery_s=STALLED_S,
        now=clock,
        requests_id="made once",
        broken=(broken if broken is not None else []).append,
    )


def record(offset: int) -> RequestRecord:
    return RequestRecord(partition=0, offset=offset, key=b"s", value=b"{}")


async def test_a_request_that_comes_late_is_waited_for(
    watch: TailWatch, ends: Ends, owner: Owner, clock: Clock
) -> None:
    ends.requests = 1
    await watch.look()
    clock.now += STALLED_S - 0.1
    await watch.look()
    assert owner.read_at == []
    clock.now += 0.2
    await watch.look()
    assert owner.read_at == [clock.now]


async def test_while_the_group_rebalances_requests_are_read_at_once(
    watch: TailWatch, ends: Ends, owner: Owner, membership: Membership, clock: Clock
) -> None:
    ends.requests = 1
    membership.begin_rebalance()
    await watch.look()
    assert owner.read_at == [clock.now]


async def test_after_a_rebalance_a_delivery_has_little_time_until_things_have_settled(
    watch: TailWatch, owner: Owner, membership: Membership, clock: Clock
) -> None:
    membership.begin_rebalance()
    membership.take_assignment(1, clock.now)
    await watch.look()
    clock.now += STALLED_S + 0.1
    await watch.look()
    assert owner.patience_s[0] < 0.5
    assert owner.patience_s[1] == STALLED_S


async def test_faust_that_delivers_again_is_waited_for(
    watch: TailWatch, ends: Ends, owner: Owner, membership: Membership, clock: Clock
) -> None:
    membership.take_assignment(1, clock.now)
    ends.requests = 10
    await watch.look()
    owner.inbox.deliver(record(1))
    await watch.look()
    assert owner.patience_s[0] < 0.5
    assert owner.patience_s[1] > STALLED_S
    clock.now += 1.0
    membership.take_assignment(2, clock.now)
    await watch.look()
    assert owner.patience_s[2] < 0.5


async def test_a_backlog_has_the_time_that_its_delivery_takes(
    watch: TailWatch, ends: Ends, owner: Owner, membership: Membership, clock: Clock
) -> None:
    membership.take_assignment(1, clock.now)
    await watch.look()
    ends.requests = 1_000  # it comes whole partitions at a time, and nothing of this one for long
    await watch.look()
    assert owner.patience_s[1] > 2.0
    ends.requests = 1_000_000
    await watch.look()
    assert owner.patience_s[2] < 3.0, "there is a bound"


async def test_a_rebalance_ends_the_pause_before_the_next_look(
    ends: Ends, owner: Owner, membership: Membership, clock: Clock
) -> None:
    watch = watching(ends, owner, membership, clock, interval_s=3600.0)
    task = asyncio.create_task(watch.run())
    try:
        membership.begin_rebalance()
        await eventually(lambda: len(owner.patience_s) >= 3, "it looks, and looks again soon")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_since_when_the_broker_has_not_answered_is_kept_while_something_is_served(
    watch: TailWatch, ends: Ends, owner: Owner, membership: Membership, clock: Clock
) -> None:
    await watch.look()
    assert membership.unanswered_since is None
    ends.away = True
    for clock.now in (20.0, 30.0):
        with pytest.raises(LogError):
            await watch.look()
        assert membership.unanswered_since == 20.0
    ends.away = False
    await watch.look()
    assert membership.unanswered_since is None
    ends.away = True
    with pytest.raises(LogError):
        await watch.look()
    watch._shards = {}
    await watch.look()
    assert membership.unanswered_since is None, "nobody asks"


async def test_a_broker_that_is_away_is_not_asked_in_a_hurry(
    ends: Ends, owner: Owner, membership: Membership, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watching(ends, owner, membership, clock, interval_s=3600.0)
    pauses: list[float] = []

    async def pause(duration_s: float) -> None:
        pauses.append(duration_s)
        if len(pauses) == 4:
            raise asyncio.CancelledError

    monkeypatch.setattr("turnlog_workers.process.tail_watch.asyncio.sleep", pause)
    ends.away = True
    membership.begin_rebalance()
    with pytest.raises(asyncio.CancelledError):
        await watch.run()
    assert pauses[1::2] == [3600.0, 3600.0]
    assert max(pauses[0::2]) < 1


async def test_a_requests_topic_that_is_shorter_than_it_was_ends_the_worker(
    watch: TailWatch, ends: Ends, owner: Owner
) -> None:
    ends.requests = 5
    owner.inbox.cover(4)
    await watch.look()
    ends.requests = 3  # what comes until it has five again would be skipped as known
    with pytest.raises(LogBrokenError, match=r"was re-created \(decided up to 4, it ends at 3\)"):
        await watch.look()


async def test_an_open_transaction_is_no_topic_that_was_made_again(watch: TailWatch, ends: Ends, owner: Owner) -> None:
    """A worker of before, which did not wait for it, may have decided what is behind it."""
    ends.requests, ends.stable = 5, 2
    owner.inbox.cover(4)
    await watch.look()


async def test_a_requests_topic_that_was_made_again_while_nobody_could_look_ends_the_worker(
    watch: TailWatch, ends: Ends, owner: Owner, broken: list[str]
) -> None:
    ends.requests = 5
    owner.inbox.cover(4)
    ends.away, ends.topic = True, None
    task = asyncio.create_task(watch.run())
    await eventually(lambda: ends.looks > 2, "it looks")
    ends.requests, ends.away = 9, False
    looks = ends.looks
    await eventually(lambda: ends.looks > looks + 4, "it goes on while nobody tells the id")
    assert broken == []
    ends.topic = "made again"
    await eventually(lambda: broken, "the worker is told to stop")
    assert "the requests topic was re-created (its id was made once, now it is made again)" in broken[0]
    task.cancel()
    await asyncio.wait([task])
