"""What a person sees of a running turn, and what a script gets of it."""

import json

from turnlog.client.replies import FinishedTurn, ReplyFrame
from turnlog.terminal.live import LiveTurn, finished_document, frame_document, frame_line
from turnlog_schemas.codec import Codec, UnknownPayload
from turnlog_schemas.frames import (
    Frame,
    FrameHeader,
    HistoryCompacted,
    HistoryCompactionFailed,
    MessageStored,
    RequestRefused,
    TextDelta,
    ToolCallStarted,
    TurnAccepted,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
)
from turnlog_schemas.parts import ToolCall, Usage, text_content
from turnlog_schemas.registry import FRAMES

USAGE = Usage(input_tokens=1, output_tokens=2, model_calls=1)
CALL = ToolCall(call_id="c1", name="search", arguments='{"q": 1}')


def reply(frame: Frame | UnknownPayload, *, attempt: int = 1, seq: int = 0) -> ReplyFrame:
    header = FrameHeader(session_id="web-1", request_id="r1", turn_id="t1", attempt=attempt, epoch=3, frame_seq=seq)
    return ReplyFrame(header=header, frame=frame, partition=4, offset=5)


def assistant(text: str | None, seq: int = 2) -> MessageStored:
    return MessageStored(message_seq=seq, role="assistant", content=None if text is None else text_content(text))


def shown(*frames: tuple[Frame, int] | Frame) -> str:
    """What is written: asides in <>."""
    pieces: list[str] = []
    live = LiveTurn(lambda text, aside: pieces.append(f"<{text[:-1]}>\n" if aside else text))
    for each in frames:
        frame, attempt = each if isinstance(each, tuple) else (each, 1)
        live.show(reply(frame, attempt=attempt))
    live.finish()
    return "".join(pieces)


def test_the_pieces_come_as_they_are_and_the_whole_message_adds_nothing() -> None:
    frames = (TurnStarted(model="echo:"), TextDelta(text="Hel"), TextDelta(text="lo"), assistant("Hello"))
    assert shown(*frames, TurnCompleted(text="Hello", usage=USAGE)) == "Hello\n"


def test_what_did_not_come_in_pieces_comes_with_the_message() -> None:
    assert shown(TurnStarted(model="m"), TextDelta(text="Hel"), assistant("Hello")) == "Hello\n"
    assert shown(TurnStarted(model="m"), TextDelta(text="lo"), assistant("Hello")) == "lo\nHello\n"
    assert shown(TurnStarted(model="m"), assistant("Hello")) == "Hello\n"


def test_tool_calls_and_results_are_asides_on_lines_of_their_own() -> None:
    result = MessageStored(
        message_seq=3, role="tool", content=text_content("two\nlines " + "x" * 500), tool_call_id="c1"
    )
    out = shown(
        TextDelta(text="Wait"), assistant("Wait"), ToolCallStarted(message_seq=2, call=CALL), result, assistant("Done")
    )
    lines = out.splitlines()
    assert lines[:2] == ["Wait", '<-> search({"q": 1})>']
    assert lines[2].startswith("<<- two lines xxx")
    assert len(lines[2]) < 200
    assert lines[3:] == ["Done"]


def test_a_message_without_text_shows_nothing() -> None:
    assert shown(assistant(None)) == ""


def test_a_new_attempt_is_said() -> None:
    out = shown(
        TurnStarted(model="m"),
        TextDelta(text="Half an ans"),
        (TurnStarted(model="m"), 2),
        (TextDelta(text="Whole"), 2),
        (assistant("Whole"), 2),
    )
    assert out == "Half an ans\n<(started again, attempt 2: what follows counts)>\nWhole\n"


def test_turns_before_this_one_are_said() -> None:
    assert shown(TurnAccepted(queued_turns=2)) == "<(2 turns before this one)>\n"
    assert shown(TurnAccepted(queued_turns=0)) == ""


def test_a_model_cannot_steer_the_terminal() -> None:
    out = shown(TextDelta(text="a\x1b[2Jb\x9b"), ToolCallStarted(message_seq=1, call=CALL))
    assert "\x1b" not in out
    assert "\x9b" not in out


def test_a_frame_as_json_has_its_place() -> None:
    document = frame_document(Codec(FRAMES), reply(TextDelta(text="Hi")))
    assert json.loads(json.dumps(document)) == document
    assert (document["partition"], document["offset"], document["session_id"]) == (4, 5, "web-1")
    assert document["frame"] == {"type": "text_delta", "text": "Hi"}


def test_a_frame_of_a_newer_version_is_passed_on() -> None:
    newer = reply(UnknownPayload(name="SessionInfo", fields={"title": "x"}))
    assert frame_document(Codec(FRAMES), newer)["frame"] == {"type": "session_info", "title": "x"}
    assert "session_info" in frame_line(newer)


def test_a_frame_is_one_line_for_people() -> None:
    assert frame_line(reply(TextDelta(text="Hi\nthere"))) == "web-1 r1 text_delta: Hi there"
    assert frame_line(reply(RequestRefused(code="busy", reason="wait"))) == "web-1 r1 request_refused: busy: wait"
    assert (
        frame_line(reply(TurnFailed(code="c", reason="r", usage=USAGE), attempt=2)) == "web-1 r1 #2 turn_failed: c: r"
    )
    compacted = HistoryCompacted(summary="It\nbegan.", from_seq=1, to_seq=9)
    assert frame_line(reply(compacted)) == "web-1 r1 history_compacted: 1 to 9 It began."
    assert frame_line(reply(HistoryCompacted(summary=""))) == "web-1 r1 history_compacted"
    failed = HistoryCompactionFailed(code="c", reason="r")
    assert frame_line(reply(failed)) == "web-1 r1 history_compaction_failed: c: r"


def test_a_finished_turn_as_json() -> None:
    turn = FinishedTurn(
        session_id="web-1",
        request_id="r1",
        status="failed",
        text="",
        usage=USAGE,
        turn_id="t1",
        attempt=3,
        code="c",
        reason="r",
    )
    document = finished_document(turn)
    assert (document["status"], document["code"], document["reason"]) == ("failed", "c", "r")
    assert document["usage"] == {"input_tokens": 1, "output_tokens": 2, "model_calls": 1}
