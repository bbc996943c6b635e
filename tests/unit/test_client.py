"""One turn as its reader sees it, with the broker replaced by a list; and what a request looks like on the wire."""

import asyncio
import re
from typing import Any

import pytest

import turnlog
from tests.fake_line import FakeLine
from tests.waiting import eventually, sends
from turnlog.client.async_client import Client
from turnlog.client.chat_turn import ChatTurn
from turnlog.client.replies import Position, ReplyFrame
from turnlog.client.reply_consumer import after, from_beginning, from_end
from turnlog.client.request_sender import PreparedRequest
from turnlog.errors import (
    BrokerUnreachableError,
    ReaderTooSlowError,
    RequestRefusedError,
    TurnlogError,
    TurnTimedOutError,
    UsageError,
)
from turnlog_schemas.codec import RequestCodec
from turnlog_schemas.commands import Chat, RequestHeader
from turnlog_schemas.frames import (
    Frame,
    FrameHeader,
    MessageStored,
    RequestRefused,
    TextDelta,
    TurnAccepted,
    TurnCompleted,
    TurnStarted,
)
from turnlog_schemas.parts import NewSession, Usage, text_content
from turnlog_workers.base.config import Settings

REQUEST = PreparedRequest(key="s", request_id="r", value=b"", headers=())
DONE = TurnCompleted(text="hi there", usage=Usage())


class Wire(FakeLine):
    """Takes requests instead of a broker."""

    def turn(self, *, timeout_s: float = 20.0, resend_after_s: float = 15.0, buffered: int = 100) -> ChatTurn:
        return ChatTurn(
            REQUEST,
            self,
            timeout_s=timeout_s,
            resend_after_s=resend_after_s,
            max_buffered_frames=buffered,
        )


def reply(frame: Frame, seq: int = 0, attempt: int = 1) -> ReplyFrame:
    header = FrameHeader(session_id="s", request_id="r", turn_id="t", attempt=attempt, epoch=1, frame_seq=seq)
    return ReplyFrame(header=header, frame=frame, partition=0, offset=seq)


async def test_frames_come_as_they_are_delivered_and_the_result_with_the_last() -> None:
    wire = Wire()
    frames = [reply(TurnAccepted(), attempt=0), reply(TurnStarted(model="m")), reply(TextDelta(text="hi"), 1)]
    async with wire.turn() as turn:
        assert wire.sent == [REQUEST]
        for frame in frames:
            turn.deliver(frame)
        assert [await anext(turn) for _ in frames] == frames
        waiting = asyncio.ensure_future(anext(turn))
        result = asyncio.ensure_future(turn.result())
        await asyncio.sleep(0)
        assert not waiting.done()
        turn.deliver(reply(DONE, 2))
        assert (await waiting).frame == DONE
        assert (await result).text == "hi there"
        assert [frame async for frame in turn] == []
        assert wire.registered == []


async def test_nothing_is_sent_before_somebody_waits_and_it_is_sent_once() -> None:
    wire = Wire()
    turn = wire.turn()
    assert wire.sent == []
    waiting = [asyncio.ensure_future(turn.result()) for _ in range(3)]
    await eventually(lambda: wire.sent, "the request")
    turn.deliver(reply(DONE))
    assert {(await each).status for each in waiting} == {"completed"}
    assert len(wire.sent) == 1


async def test_a_silent_turn_is_asked_for_again_until_its_timeout() -> None:
    wire = Wire()
    with pytest.raises(TurnTimedOutError, match=r"session s, request r: not ended.*nothing heard.*turnlog doctor"):
        await wire.turn(timeout_s=0.2, resend_after_s=0.02).result()
    assert wire.registered == []

    again = Wire()
    await sends(again.turn(timeout_s=60.0, resend_after_s=0.01).result(), again.sent, 3)
    assert set(again.sent) == {REQUEST}


async def test_a_turn_that_speaks_is_not_asked_for_again_and_says_where_it_stands() -> None:
    wire = Wire()
    turn = wire.turn(timeout_s=0.1, resend_after_s=50.0)
    async with turn:
        turn.deliver(reply(TurnStarted(model="m")))
        with pytest.raises(TurnTimedOutError, match=r"started \(attempt 1, model m\)"):
            [frame async for frame in turn]
    assert len(wire.sent) == 1


async def test_a_wait_that_times_out_can_be_taken_up_again() -> None:
    turn = Wire().turn()
    with pytest.raises(TurnTimedOutError):
        await turn.result(timeout_s=0.01)
    turn.deliver(reply(DONE))
    assert (await turn.result(timeout_s=1)).status == "completed"


async def test_an_unreachable_broker_fails_the_first_send_only() -> None:
    with pytest.raises(BrokerUnreachableError):
        await Wire(fails=1).turn().result()

    wire = Wire()
    turn = wire.turn(resend_after_s=0.01)
    async with turn:
        wire.fails = 3  # the next two
        await eventually(lambda: len(wire.sent) > 3, "requests sent again after failures")
        turn.deliver(reply(DONE))
        assert (await turn.result()).status == "completed"


@pytest.mark.parametrize("error", [RequestRefusedError("too_long", "now"), ValueError("a defect")])
async def test_whatever_ends_the_asking_again_ends_the_turn(error: Exception) -> None:
    """Nobody awaits the task that asks again: its reader would wait for ever."""

    class Failing(Wire):
        async def send(self, request: PreparedRequest) -> Position:
            if self.sent:
                raise error
            return await super().send(request)

    wire = Failing()
    with pytest.raises(TurnlogError, match=r"now|a defect"):
        await wire.turn(timeout_s=20.0, resend_after_s=0.01).result()
    assert wire.registered == []


async def test_a_refusal_is_raised_by_both_faces() -> None:
    turn = Wire().turn()
    async with turn:
        turn.deliver(reply(RequestRefused(code="archived", reason="it is over"), attempt=0))
        with pytest.raises(RequestRefusedError, match="it is over"):
            [frame async for frame in turn]
        with pytest.raises(RequestRefusedError) as caught:
            await turn.result()
    assert caught.value.code == "archived"
    assert caught.value.exit_code == 5


async def test_a_slow_reader_loses_deltas_only() -> None:
    turn = Wire().turn(buffered=3)
    stored = MessageStored(message_seq=2, role="assistant", content=text_content("abcd"))
    async with turn:
        turn.deliver(reply(TurnStarted(model="m")))
        for seq, letter in enumerate("abcd", start=1):
            turn.deliver(reply(TextDelta(text=letter), seq))
        turn.deliver(reply(stored, 5))
        turn.deliver(reply(DONE, 6))
        frames = [frame.frame async for frame in turn]
    assert frames == [TurnStarted(model="m"), stored, DONE]
    assert turn.dropped_deltas == 4


async def test_a_reader_that_never_reads_loses_the_frames_but_not_the_result() -> None:
    turn = Wire().turn(buffered=2)
    async with turn:
        for seq in range(4):
            turn.deliver(reply(MessageStored(message_seq=seq, role="assistant"), seq))
        turn.deliver(reply(DONE, 9))
        with pytest.raises(ReaderTooSlowError, match="more than 2 frames"):
            await anext(turn)
        assert (await turn.result()).status == "completed"


async def test_leaving_early_forgets_the_turn() -> None:
    wire = Wire()
    async with wire.turn() as turn:
        turn.deliver(reply(TurnStarted(model="m")))
        async for _ in turn:
            break
    assert wire.registered == []
    with pytest.raises(TurnlogError, match="not followed any more"):
        await turn.result()


def test_a_request_on_the_wire_is_what_was_asked_for() -> None:
    client = Client(Settings(prefix="x"), bootstrap_server="nowhere:1", prefix="y")
    assert (client.settings.prefix, client.settings.bootstrap_server) == ("y", "nowhere:1")
    prepared = client._connection.prepare(
        Chat(content=text_content("Hi"), model="echo:", new_session=NewSession(instructions="Be kind.")),
        session_id="web-1",
        reply_to="y.replies",
        metadata={"team": "a"},
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    header, command, framing = RequestCodec().decode_request(prepared.value)
    assert framing == "avro"
    assert header == RequestHeader(
        request_id=prepared.request_id,
        session_id="web-1",
        reply_to="y.replies",
        sent_at=header.sent_at,
        metadata={"team": "a"},
    )
    assert command.new_session.instructions == "Be kind."
    headers = dict(prepared.headers)
    assert headers["ce_type"] == b"turnlog.commands.Chat"
    assert headers["traceparent"].startswith(b"00-0af7")
    assert {"ce_specversion", "ce_id", "ce_source", "ce_time", "content-type"} <= set(headers)


async def test_an_impossible_session_id_is_refused_before_anything_is_sent() -> None:
    client = Client(Settings())
    with pytest.raises(UsageError, match="session_id"):
        client.chat("no spaces", "Hi")
    with pytest.raises(UsageError, match="session_id"):
        await client.enqueue("no spaces", "Hi")
    with pytest.raises(UsageError, match="not Unicode"):
        client.chat("web-1", "half a \ud83d")
    with pytest.raises(TurnlogError, match="not connected"):
        await client.enqueue("web-1", "Hi")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"content": None}, "a text, or a list of ContentPart: not NoneType"),
        ({"content": b"Hi"}, "a text, or a list of ContentPart: not int"),
        ({"content": ["Hi"]}, "a text, or a list of ContentPart: not str"),
        ({"session_id": 7}, "session_id: Input should be a valid string"),
        ({"request_id": 7}, "request_id: Input should be a valid string"),
        ({"model": 7}, "for session web-1 holds a value of a wrong type: model: Input should be a valid string"),
        ({"params": {"temperature": 1}}, "for session web-1 holds a value of a wrong type: "),
        ({"tools": ["clock"]}, "for session web-1 holds a value of a wrong type: tools"),
    ],
)
def test_a_value_of_a_wrong_type_is_named_before_anything_is_sent(arguments: Any, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        Client(Settings()).chat(**{"session_id": "web-1", "content": "Hi", **arguments})


def test_where_reading_starts() -> None:
    bounds = {0: (10, 20), 1: (0, 0)}
    assert from_end(bounds) == {0: 20, 1: 0}
    assert from_beginning(bounds) == {0: 10, 1: 0}
    assert after(Position(partition=0, offset=12), "t")(bounds) == {0: 13, 1: 0}
    assert after(Position(partition=0, offset=19), "t")(bounds) == {0: 20, 1: 0}
    for gone in (8, 20):
        with pytest.raises(turnlog.NotFoundError, match=rf"t\[0\]@{gone + 1} is not there"):
            after(Position(partition=0, offset=gone), "t")(bounds)


def test_the_package_names_what_a_program_needs() -> None:
    assert all(getattr(turnlog, name) is not None for name in turnlog.__all__)
    assert turnlog.Client is Client
    assert set(turnlog.__all__) <= set(dir(turnlog))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = turnlog.nonsense
