"""What ``turnlog tail`` begins with, what it passes over, and how much of a record it shows."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.test_cli import run
from turnlog.cli.tail import MAX_ITEMS, MAX_TEXT, bounded, event_line
from turnlog.client.channel_sessions import ChannelSessions
from turnlog.client.topic_tail import Filter, Place, codec_of
from turnlog.errors import BrokerUnreachableError, UsageError
from turnlog_schemas import events as ev
from turnlog_schemas.codec import Codec
from turnlog_schemas.frames import FrameHeader, SessionInfo, TextDelta, TurnCompleted
from turnlog_schemas.parts import NO_USAGE, NewSession, text_content
from turnlog_schemas.registry import EVENTS
from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import LogError, UnreadableRange

BOUNDS = {0: (0, 9), 1: (4, 6)}


def header(stream_id: str, kind: str = "session", **more: Any) -> ev.EventHeader:
    place = {"stream_version": 1, "epoch": 0, "n": 0, "accepted": 0, "replied": 0}
    return ev.EventHeader(stream_kind=kind, stream_id=stream_id, **place, **more)


@pytest.mark.parametrize(
    ("said", "starts"),
    [("beginning", {0: 0, 1: 4}), ("end", {0: 9, 1: 6}), ("-5", {0: 4, 1: 4}), ("-1", {0: 8, 1: 5})],
)
def test_it_begins_where_one_says(said: str, starts: dict[int, int]) -> None:
    assert Place.of(said).start()(BOUNDS) == starts


def test_a_moment_without_a_zone_is_in_utc() -> None:
    noon = int(datetime(2026, 5, 1, 12, tzinfo=UTC).timestamp() * 1000)
    assert [Place.of(said).since_ms for said in ("2026-05-01T12:00", "2026-05-01T14:00+02:00")] == [noon, noon]


@pytest.mark.parametrize("said", ["middle", "5", "-0", "-", "-5x", "", "2026-13-01"])
def test_another_place_is_refused(said: str) -> None:
    with pytest.raises(UsageError, match="--offset"):
        Place.of(said)


def test_a_session_is_shown_without_the_channel_of_its_name() -> None:
    wanted = Filter(session="web")
    archived = ev.SessionArchived()
    assert wanted.passes(header("web"), archived)
    assert not wanted.passes(header("web", "channel"), archived)
    assert not wanted.passes(header("web-2"), archived)


@pytest.mark.parametrize("name", ["TurnFailed", "turn_failed"])
def test_types_are_named_either_way(name: str) -> None:
    wanted = Filter(types=[name])
    assert wanted.passes(header("s"), ev.TurnFailed(code="c", reason="r", usage=NO_USAGE))
    assert not wanted.passes(header("s"), ev.SessionArchived())


def test_a_channel_is_its_own_events_and_those_of_its_sessions_that_are_known() -> None:
    wanted = Filter(channel="web", members={"old"})
    said = ev.SessionArchived()
    opened = ev.ChannelSessionOpened(session_id="new", by="request", new_session=NewSession())
    made = ev.SessionCreated(new_session=NewSession(channel="web"))
    other = ev.SessionCreated(new_session=NewSession(channel="other"))
    seen = [
        wanted.passes(header(stream, kind), event)
        for stream, kind, event in (
            *(("old", "session", said), ("new", "session", said), ("web", "channel", opened)),
            *(("new", "session", said), ("made", "session", made), ("made", "session", said)),
            *(("theirs", "session", other), ("theirs", "session", said), ("other", "channel", opened)),
        )
    ]
    assert seen == [True, False, True, True, True, True, False, False, False]


@dataclass
class LogReader:
    """One partition of the log."""

    events: list[Any]
    looks: int = 0
    error: Exception | None = None

    async def bounds(self, topic: str, partitions: list[int]) -> dict[int, tuple[int, int]]:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return {partition: (0, len(self.events)) for partition in partitions}

    async def read_leniently(self, topic: str, partition: int, start: int, end: int) -> AsyncGenerator[list[Any], None]:
        for offset, (head, event) in list(enumerate(self.events))[start:end]:
            if head is None:
                yield [UnreadableRange(first=offset, last=offset, reason="no")]
            else:
                value = Codec(EVENTS).encode(head, event)
                yield [SimpleNamespace(topic=topic, partition=partition, offset=offset, value=value)]


async def test_a_session_that_the_snapshot_does_not_have_is_looked_for_in_the_log() -> None:
    def made(name: str, channel: str | None) -> tuple[Any, Any]:
        return header(name), ev.SessionCreated(new_session=NewSession(channel=channel))

    log = LogReader([made("known", "web"), (None, None), made("new", "web"), made("other", "shop"), made("none", None)])
    wanted = Filter(channel="web", members={"known"})
    sessions = ChannelSessions(Settings(), log, {0: 1}, wanted.is_of_channel)  # type: ignore[arg-type]
    seen = []
    for name in ("known", "new", "other", "none", "other", "none", "new"):
        said = FrameHeader(session_id=name, request_id="r")
        if (session_id := wanted.unknown_session(said)) is not None:
            await sessions.meet(session_id)
        seen.append(wanted.passes(said, TextDelta(text="Hi")))
    assert seen == [True, True, False, False, False, False, True]
    assert log.looks == 3, "once a session"
    log.events.append(made("newer", "web"))
    await sessions.meet("newer")
    assert wanted.passes(FrameHeader(session_id="newer", request_id="r"), TextDelta(text="Hi"))
    log.error = LogError("away")
    with pytest.raises(BrokerUnreachableError, match=r"topic chat.events cannot be read"):
        await sessions.meet("newest")


def test_a_channels_frames_are_known_by_those_that_name_it() -> None:
    wanted = Filter(channel="web")
    of_session = FrameHeader(session_id="s", request_id="r")
    assert not wanted.passes(of_session, TextDelta(text="Hi"))
    assert wanted.passes(FrameHeader(session_id="s", request_id="r", channel="web"), SessionInfo())
    assert wanted.passes(of_session, TurnCompleted(text="", usage=NO_USAGE))


def test_what_is_long_is_cut_and_says_how_long_it_was() -> None:
    cut = bounded({"text": "x" * (MAX_TEXT + 1), "list": ["y"] * (MAX_ITEMS + 1), "short": ["z", None, 1]})
    assert cut["text"] == f"{'x' * MAX_TEXT}… ({MAX_TEXT + 1} characters)"
    assert cut["list"][MAX_ITEMS:] == [f"… ({MAX_ITEMS + 1} items)"]
    assert cut["short"] == ["z", None, 1]
    assert len(bounded({str(number): 1 for number in range(999)})) == MAX_ITEMS + 1


def test_an_event_is_a_line() -> None:
    stored = ev.MessageStored(message_seq=3, role="user", content=text_content("Hi\nthere " + "x" * 500))
    document = codec_of(True).to_json(
        header("web-1", turn_id="t-0-1", attempt=2, recorded_at=1_777_636_800_000), stored
    )
    line = event_line({**document, "partition": 4, "offset": 17})
    assert line.startswith(
        "2026-05-01T12:00:00Z 4@17 web-1 t-0-1 #2 message_stored: message_seq=3 role=user content=Hi "
    )
    assert len(line) < 250


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--type", "TurnNonsense"), "TurnCompleted"), (("--session", "a b"), "session id"), (("nothing",), "events")],
)
def test_what_cannot_be_is_said_before_anything_is_connected(arguments: tuple[str, ...], said: str) -> None:
    code, _, err = run("tail", *arguments)
    assert code == 2
    assert said in err
