"""The reader's rule: whatever zombies, retries and lost appends leave in a log, every reader accepts the same events.

A log is written by one owner after another, each under its own claim. Between their records stands noise: late records
of owners that were replaced, records twice, records after a hole, records under claims that never were.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnlog_schemas.codec import UnknownPayload
from turnlog_schemas.events import LOG_FORMAT, SEALED_LOG_FORMAT, SESSION, EventHeader, PartitionClaimed, RequestsLost
from turnlog_streams.reader_rule import (
    NO_EPOCH,
    LogFormatError,
    LoggedEvent,
    LogPosition,
    advance,
    advance_own,
    check_log_format,
    is_accepted,
    read_on,
    record_id,
)

Record = tuple[EventHeader, object]


def claim(owner: int, generation: int = 0) -> Record:
    header = EventHeader(
        stream_kind="partition", stream_id="0", stream_version=0, epoch=-1, n=-1, accepted=-1, replied=-1
    )
    return header, PartitionClaimed(
        log_format=LOG_FORMAT,
        owner=f"w{owner}",
        incarnation=f"i{owner}",
        generation=generation,
        partition_count=3,
        requests_topic_id="id",
    )


def event(epoch: int, n: int, *, accepted: int = -1, replied: int = -1, stream_id: str = "s") -> Record:
    header = EventHeader(
        stream_kind=SESSION,
        stream_id=stream_id,
        stream_version=1,
        epoch=epoch,
        n=n,
        accepted=accepted,
        replied=replied,
    )
    return header, RequestsLost(from_offset=0, to_offset=0)


@dataclass
class Log:
    """A partition as its writers left it, and which of its offsets count (told by who wrote them, not by the rule)."""

    records: list[Record] = field(default_factory=list)
    legitimate: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    next_n: int = 0
    highest_accepted: int = -1

    def append(self, record: Record, *, legitimate: bool) -> None:
        if legitimate:
            self.legitimate.append(len(self.records))
        self.records.append(record)


def write(log: Log, action: str, number: int) -> None:
    """One more record. ``number`` is any: it varies what a record says."""
    match action:
        case "claim":
            log.epochs.append(len(log.records))
            log.next_n = 0
            log.append(claim(len(log.epochs), number), legitimate=True)
        case "append" if log.epochs:
            accepted = max(log.highest_accepted, number)
            log.highest_accepted = accepted
            log.append(event(log.epochs[-1], log.next_n, accepted=accepted), legitimate=True)
            log.next_n += 1
        case "zombie" if len(log.epochs) > 1:
            old = log.epochs[number % (len(log.epochs) - 1)]
            log.append(event(old, number, accepted=10**6 + number, replied=10**6), legitimate=False)
        case "twice" if log.epochs and log.next_n:
            log.append(event(log.epochs[-1], number % log.next_n, accepted=10**6), legitimate=False)
        case "after a hole" if log.epochs:
            log.append(event(log.epochs[-1], log.next_n + 1 + number, accepted=10**6), legitimate=False)
        case "no such claim":
            log.append(event(len(log.records) + number, log.next_n, accepted=10**6), legitimate=False)
        case "negative":
            log.append(event(-1, -1 - number % 2, accepted=10**6), legitimate=False)
        case _:
            pass  # not possible yet


ACTIONS = ["claim", "append", "append", "append", "zombie", "twice", "after a hole", "no such claim", "negative"]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    log = Log()
    for action, number in draw(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 30)), max_size=60)):
        write(log, action, number)
    return log


def read(records: Sequence[Record], position: LogPosition | None = None) -> tuple[LogPosition, list[int]]:
    """Where a reader ends, and the offsets that it accepted."""
    position = position or LogPosition()
    accepted: list[int] = []
    for offset, (header, payload) in enumerate(records[position.next_offset :], start=position.next_offset):
        if is_accepted(position, header, payload):
            accepted.append(offset)
        position = advance(position, offset, header, payload)
    return position, accepted


@given(logs())
def test_exactly_the_owners_records_count(log: Log) -> None:
    position, accepted = read(log.records)
    assert accepted == log.legitimate
    assert position.next_offset == len(log.records)
    assert position.epoch == (log.epochs[-1] if log.epochs else NO_EPOCH)
    assert position.next_n == log.next_n
    assert position.accepted == log.highest_accepted
    assert position.replied == -1, "no owner said so"


@given(logs(), st.integers(1, 7))
def test_read_many_at_a_time_it_is_the_same(log: Log, size: int) -> None:
    batches = [
        [
            LoggedEvent(partition=0, offset=first + index, header=header, payload=payload)
            for index, (header, payload) in enumerate(log.records[first : first + size])
        ]
        for first in range(0, len(log.records), size)
    ]
    position, together = LogPosition(), LogPosition()
    for batch in batches:
        counted = []
        for logged in batch:
            if is_accepted(position, logged.header, logged.payload):
                counted.append(logged)
            position = advance(position, logged.offset, logged.header, logged.payload)
        accepted, together = read_on(together, batch)
        assert (accepted, together) == (counted, position)


@given(logs(), logs())
def test_late_records_of_a_zombie_change_nothing(log: Log, more: Log) -> None:
    """Noise after a log leaves a reader where it was, but for its place."""
    before, _ = read(log.records)
    noise = [record for offset, record in enumerate(more.records) if offset not in more.legitimate]
    quiet = [
        (header, payload) for header, payload in noise if (header.epoch, header.n) != (before.epoch, before.next_n)
    ]
    after, accepted = read([*log.records, *quiet], before)
    assert accepted == []
    assert (after.epoch, after.next_n, after.accepted, after.replied) == (
        before.epoch,
        before.next_n,
        before.accepted,
        before.replied,
    )
    assert after.next_offset == before.next_offset + len(quiet)


@given(logs(), st.data())
def test_a_reader_that_comes_back_to_its_checkpoint_goes_on_as_if_it_had_never_stopped(
    log: Log, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(log.records)))
    half, first = read(log.records[:cut])
    resumed, rest = read(log.records, half)
    whole, accepted = read(log.records)
    assert resumed == whole
    assert first + rest == accepted


@given(logs(), st.integers(0, 10**6), st.lists(st.tuples(st.integers(-1, 40), st.integers(-1, 40)), max_size=20))
def test_an_owners_own_records_lead_where_a_reader_gets_one_by_one(
    log: Log, wrong: int, decided: list[tuple[int, int]]
) -> None:
    before, _ = read(log.records)
    own = [
        event(before.epoch, before.next_n + index, accepted=accepted, replied=replied)
        for index, (accepted, replied) in enumerate(decided)
    ]
    if not own or before.epoch == NO_EPOCH:
        assert advance_own(before, before.next_offset, own) == (None if own else before)
        return
    assert advance_own(before, before.next_offset, own) == read([*log.records, *own], before)[0]
    index = wrong % len(own)
    for mistaken in (event(before.epoch, before.next_n + index + 1), event(before.epoch + 1, before.next_n + index)):
        assert advance_own(before, before.next_offset, [*own[:index], mistaken, *own[index + 1 :]]) is None


@given(logs())
def test_what_counts_is_in_order_and_counts_once(log: Log) -> None:
    _, accepted = read(log.records)
    events = [log.records[offset][0] for offset in accepted if not is_claim(log.records[offset])]
    ids = [(header.epoch, header.n) for header in events]
    assert ids == sorted(set(ids))
    decided = [header.accepted for header in events]
    assert decided == sorted(decided)


@given(logs())
def test_once_inert_for_ever_inert(log: Log) -> None:
    """What later records are there never changes the verdict on an earlier one."""
    _, accepted = read(log.records)
    for end in range(len(log.records)):
        assert read(log.records[:end])[1] == [offset for offset in accepted if offset < end]


def is_claim(record: Record) -> bool:
    return isinstance(record[1], PartitionClaimed)


# ---- by hand


def test_nothing_counts_before_the_first_claim() -> None:
    header, payload = event(NO_EPOCH, 0)
    assert not is_accepted(LogPosition(), header, payload)
    assert advance(LogPosition(), 0, header, payload) == LogPosition(next_offset=1, last_event_id="-1.0.s")


def test_a_hole_makes_the_rest_of_an_epoch_inert_until_the_next_claim() -> None:
    records = [claim(1), event(0, 0), event(0, 2), event(0, 1), event(0, 3), event(0, 2), claim(2), event(6, 0)]
    assert read(records)[1] == [0, 1, 3, 5, 6, 7], "n goes on where it was: 2 was too early, and came again"


def test_a_claim_tells_what_writers_must_know() -> None:
    position, _ = read([claim(1, generation=7), claim(2, generation=3)])
    assert position.newest_generation == 7
    assert (position.epoch, position.next_n) == (1, 0)
    assert (position.partition_count, position.requests_topic_id) == (3, "id")
    assert position.last_event_id == "i2"


def test_accepted_and_replied_never_go_back() -> None:
    position, _ = read([claim(1), event(0, 0, accepted=5, replied=4), claim(2), event(2, 0, accepted=3, replied=-1)])
    assert (position.accepted, position.replied) == (5, 4)


@pytest.mark.parametrize("n", [0, 1])
def test_a_type_that_this_version_does_not_know_counts_like_any_other(n: int) -> None:
    header, _ = event(0, n)
    position, _ = read([claim(1)])
    assert is_accepted(position, header, UnknownPayload(name="SessionPinned", fields={})) is (n == 0)


def test_what_identifies_a_record() -> None:
    assert record_id(*claim(3)) == "i3"
    assert record_id(*event(4, 2, stream_id="web")) == "4.2.web"


@pytest.mark.parametrize(
    ("log_format", "what"), [(0, "earlier development build"), (2, "no topic with their keys"), (3, "upgrade it")]
)
def test_a_log_of_another_format_is_refused_with_its_place_and_the_way_out(log_format: int, what: str) -> None:
    _, payload = claim(1)
    assert isinstance(payload, PartitionClaimed)
    check_log_format(payload, "chat.events", 3, 17)
    with pytest.raises(LogFormatError, match=rf"chat\.events\[3\]@17: .*{what}"):
        check_log_format(replace(payload, log_format=log_format), "chat.events", 3, 17)


def test_who_can_open_seals_refuses_a_log_that_was_begun_in_the_clear() -> None:
    _, payload = claim(1)
    assert isinstance(payload, PartitionClaimed)
    check_log_format(replace(payload, log_format=SEALED_LOG_FORMAT), "chat.events", 3, 17, sealed=True)
    with pytest.raises(LogFormatError, match=r"chat\.events\[3\]@17: .*in the clear"):
        check_log_format(payload, "chat.events", 3, 17, sealed=True)
