"""Forwards are repeated until they are received, and never so often that a backlog feeds itself."""

from dataclasses import dataclass, field
from typing import Any

from turnlog_schemas.commands import Forwarded, ForwardReceipt, RequestHeader
from turnlog_streams.forwarding import ARCHIVED, OPENED, Forward, ReceiveForward
from turnlog_workers.shard.forwarder import MAX_RESENDS, RESEND, Forwarder


@dataclass
class Line:
    """Takes requests; the broker has them when the test says so."""

    has_them: bool | None = True  #: ``None``: given up
    sent: list[tuple[RequestHeader, Any]] = field(default_factory=list)

    def request(self, header: RequestHeader, command: Forwarded | ForwardReceipt) -> "Line":
        self.sent.append((header, command))
        return self

    def on_its_way(self) -> bool:
        return self.has_them is False

    def stored(self) -> bool:
        return self.has_them is True


RecordSender = tuple[str, str, tuple[Forward, ...]]


def telling(session_id: str, *seqs: int) -> RecordSender:
    """A session that has something to tell its channel."""
    outbox = tuple(
        Forward(seq=seq, target_kind="channel", target_id="web", what=OPENED if seq == 1 else ARCHIVED) for seq in seqs
    )
    return "session", session_id, outbox


class World:
    """A forwarder, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.line = Line()
        self.forwarder = Forwarder(self.line, lambda: self.now)  # type: ignore[arg-type]

    def sent_until(self, end_s: float) -> list[float]:
        """When something was sent, looking every second."""
        times = []
        while self.now < end_s:
            self.now += 1.0
            before = len(self.line.sent)
            self.forwarder.resend()
            times += [self.now] * (len(self.line.sent) - before)
        return times


def test_the_first_of_each_target_is_sent_once_and_the_next_one_after_it() -> None:
    world = World()
    world.forwarder.note(*telling("s", 1, 2))
    world.forwarder.note(*telling("s", 1, 2))
    assert [command.seq for _, command in world.line.sent] == [1]
    assert world.line.sent[0][0].channel == "web"
    world.forwarder.note(*telling("s", 2))
    assert [command.seq for _, command in world.line.sent] == [1, 2]


def test_what_is_not_received_is_repeated_ever_more_seldom() -> None:
    world = World()
    world.forwarder.note(*telling("s", 1))
    times = world.sent_until(2_000.0)
    pauses = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    assert pauses[:4] == [5.0, 10.0, 20.0, 40.0]
    assert set(pauses[7:]) == {RESEND.max_s}


def test_what_was_received_is_not_repeated() -> None:
    world = World()
    world.forwarder.note(*telling("s", 1))
    world.forwarder.note(*telling("s"))
    assert world.sent_until(1_000.0) == []
    assert world.forwarder._again == []


def test_what_the_broker_does_not_take_is_not_sent_a_second_time() -> None:
    world = World()
    world.line.has_them = False
    world.forwarder.note(*telling("s", 1))
    assert world.sent_until(100.0) == []
    world.line.has_them = True
    assert world.sent_until(100.0 + 2 * RESEND.first_s)


def test_many_that_wait_are_not_repeated_all_at_once() -> None:
    world = World()
    for number in range(10 * MAX_RESENDS):
        world.forwarder.note(*telling(f"s{number}", 1))
    world.line.sent.clear()
    world.now = RESEND.first_s
    world.forwarder.resend()
    assert len(world.line.sent) == MAX_RESENDS
    again = {command.source_id for _, command in world.line.sent}
    world.line.sent.clear()
    world.forwarder.resend()
    assert len(world.line.sent) == MAX_RESENDS
    assert again.isdisjoint(command.source_id for _, command in world.line.sent), "each has its turn"


def test_a_receipt_goes_to_the_source() -> None:
    world = World()
    received = ReceiveForward(source_kind="channel", source_id="web", seq=7, what="activated")
    world.forwarder.receipt("session", "s", received, refused=True)
    ((header, receipt),) = world.line.sent
    assert (header.channel, receipt.seq, receipt.target_id, receipt.refused) == ("web", 7, "s", True)


def test_what_is_given_up_is_sent_again_by_its_owner() -> None:
    world = World()
    world.line.has_them = None
    world.forwarder.note(*telling("s", 1))
    assert len(world.sent_until(100.0)) >= 3


def test_what_is_received_is_forgotten_however_long_its_source_has_something_to_tell() -> None:
    world = World()
    for seq in range(1, 5_000):
        world.forwarder.note(*telling("s", seq, seq + 1))
    assert len(world.forwarder._sources["session", "s"].sent) <= 2
    assert len(world.forwarder._again) <= 2_000
