"""A request that one frame answers, with the broker replaced by a list; and which requests go under which key."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from tests.fake_line import FakeLine
from tests.waiting import eventually, sends
from turnlog import (
    Client,
    NotFoundError,
    RequestRefusedError,
    RequestTimedOutError,
    SessionNotFoundError,
    Settings,
    TurnlogError,
    UsageError,
)
from turnlog.client.chat_turn import ChatTurn
from turnlog.client.exchange import Answer
from turnlog.client.replies import ReplyFrame, TurnView
from turnlog.client.reply_consumer import ReplyConsumer
from turnlog.client.request_sender import PreparedRequest, RequestSender
from turnlog_schemas import commands as cmd
from turnlog_schemas.codec import RequestCodec
from turnlog_schemas.frames import (
    Frame,
    FrameHeader,
    HistoryCompacted,
    HistoryCompactionFailed,
    HistoryPage,
    RequestRefused,
    SessionInfo,
    TurnAccepted,
    TurnCompleted,
)
from turnlog_schemas.parts import Usage

REQUEST = PreparedRequest(key="web", request_id="r", value=b"", headers=(), kind="channel")


class Wire(FakeLine):
    """Takes requests instead of a broker."""

    def ask(self, *, timeout_s: float = 20.0, resend_after_s: float = 15.0) -> Answer:
        return Answer(REQUEST, self, SessionInfo, timeout_s=timeout_s, resend_after_s=resend_after_s)


@pytest.mark.parametrize("timeout_s", [float("nan"), float("inf"), -1.0])
async def test_a_wait_that_no_clock_can_keep_is_wrong_usage(timeout_s: float) -> None:
    with pytest.raises(UsageError, match=f"timeout_s must be a number of seconds from 0 on, not {timeout_s}"):
        Wire().ask(timeout_s=timeout_s)


def reply(frame: Frame) -> ReplyFrame:
    header = FrameHeader(session_id="web-1", request_id="r", channel="web")
    return ReplyFrame(header=header, frame=frame, partition=0, offset=0)


async def answered(wire: Wire, *frames: Frame) -> ReplyFrame:
    """What the waiting request makes of the frames."""
    waiting = asyncio.ensure_future(wire.ask().reply())
    await eventually(lambda: wire.sent, "the request")
    for frame in frames:
        for exchange in tuple(wire.registered):
            exchange.deliver(reply(frame))
    return await waiting


async def test_the_frame_of_the_expected_kind_is_the_answer() -> None:
    wire = Wire()
    others = (TurnAccepted(), TurnCompleted(text="", usage=Usage()), HistoryPage(messages=()))
    found = await answered(wire, *others, SessionInfo(title="first"), SessionInfo(title="second"))
    assert found.frame == SessionInfo(title="first")
    assert wire.registered == []
    assert len(wire.sent) == 1


async def test_a_refusal_is_an_error_of_its_code() -> None:
    with pytest.raises(SessionNotFoundError, match="nobody there") as caught:
        await answered(Wire(), RequestRefused(code="not_found", reason="nobody there"))
    assert isinstance(caught.value, NotFoundError)
    assert isinstance(caught.value, RequestRefusedError)
    assert (caught.value.code, caught.value.exit_code) == ("not_found", 4)


async def test_silence_is_asked_again_and_ends_with_what_to_check() -> None:
    wire = Wire()
    with pytest.raises(
        RequestTimedOutError, match=r"channel web, request r: not answered.*nothing heard.*turnlog doctor.*request id"
    ) as caught:
        await wire.ask(timeout_s=0.2, resend_after_s=0.02).reply()
    assert caught.value.exit_code == 6
    assert wire.registered == []

    again = Wire()
    await sends(again.ask(timeout_s=60.0, resend_after_s=0.01).reply(), again.sent, 3)
    assert set(again.sent) == {REQUEST}


async def test_whoever_stops_waiting_is_forgotten() -> None:
    wire = Wire()
    waiting = asyncio.ensure_future(wire.ask().reply())
    await eventually(lambda: wire.registered, "the request")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert wire.registered == []


def test_what_answers_another_question_does_not_end_a_turn() -> None:
    """Somebody asked for the session under the turn's own request id."""
    view = TurnView()
    assert not view.feed(reply(SessionInfo()))
    assert not view.feed(reply(HistoryPage(messages=())))
    assert not view.feed(reply(HistoryCompacted(summary="s", from_seq=1, to_seq=2)))
    assert not view.feed(reply(HistoryCompactionFailed(code="c", reason="r")))
    assert not view.ended
    assert view.feed(reply(TurnCompleted(text="done", usage=Usage())))
    assert view.finished is not None


@pytest.mark.parametrize(
    ("command", "ids", "key"),
    [
        (cmd.CreateSession(), {"channel": "web", "session_id": "mine"}, "web"),
        (cmd.ArchiveSession(), {"channel": "web", "session_id": "web-1"}, "web"),
        (cmd.ActiveSession(), {"channel": "web"}, "web"),
        (cmd.GetSession(), {"session_id": "web-1"}, "web-1"),
        (cmd.CancelTurn(turn_id="t-1"), {"session_id": "web-1"}, "web-1"),
        (cmd.CompactHistory(instructions="Be brief."), {"session_id": "web-1"}, "web-1"),
    ],
)
def test_lifecycle_goes_by_channel_and_everything_else_by_session(
    command: cmd.Command, ids: dict[str, str], key: str
) -> None:
    prepared = Client(Settings())._connection.prepare(command, request_id="r", **ids)
    assert prepared.key == key
    header, decoded, _ = RequestCodec().decode_request(prepared.value)
    assert decoded == command
    assert {"channel": header.channel, "session_id": header.session_id} == {"channel": None, "session_id": None} | ids
    assert dict(prepared.headers)["ce_type"] == f"turnlog.commands.{type(command).__name__}".encode()


async def test_ids_are_checked_and_a_connection_is_needed() -> None:
    client = Client(Settings())
    with pytest.raises(UsageError, match="channel"):
        await client.resolve("no blanks")
    with pytest.raises(UsageError, match="session_id"):
        await client.create("web", session_id="no blanks")
    with pytest.raises(TurnlogError, match="not connected"):
        await client.get("web-1")
    with pytest.raises(TurnlogError, match="not connected"):
        await client.list_sessions()


async def test_a_reply_reader_that_is_cancelled_from_below_is_a_failure_that_everybody_hears_of() -> None:
    class Cancelled:
        async def batches(self) -> AsyncIterator[list[object]]:
            raise asyncio.CancelledError
            yield []

    connection = Client(Settings())._connection
    consumer = cast(ReplyConsumer, Cancelled())
    connection._open = (cast(RequestSender, None), consumer, cast("asyncio.Task[None]", None))
    waiting = ChatTurn(REQUEST, connection, timeout_s=20.0, resend_after_s=15.0, max_buffered_frames=10)
    await connection.register(waiting)
    with pytest.raises(asyncio.CancelledError):
        await connection._read(consumer)
    with pytest.raises(TurnlogError, match="reply reader was cancelled"):
        await anext(waiting)
    with pytest.raises(TurnlogError, match="reply reader was cancelled"):
        await connection.register(waiting)
