"""AG-UI: requests as they are read, frames as events in the protocol's order, and snapshots of histories."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ag_ui.core import MessagesSnapshotEvent, RunErrorEvent, RunFinishedEvent, RunStartedEvent

from turnlog.client.replies import ReplyFrame
from turnlog.serve.agui.run_events import SNAPSHOT, RunEvents
from turnlog.serve.agui.run_input import KnownMessage, read_run_input, session_name
from turnlog.serve.agui.snapshots import messages_snapshot
from turnlog.serve.http_errors import HttpError
from turnlog_schemas.frames import (
    Frame,
    FrameHeader,
    MessageStored,
    ReasoningDelta,
    TextDelta,
    ToolCallStarted,
    TurnAccepted,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
)
from turnlog_schemas.parts import ClientTool, HistoryEntry, ToolCall, ToolOutput, Usage, content_text, text_content

USAGE = Usage(input_tokens=7, output_tokens=3, model_calls=1)
CALL = ToolCall(call_id="c", name="find", arguments='{"q": 1}', idempotency_key="t:0:0")
SAME_ID = ToolCall(call_id="c", name="find", arguments="{ }", idempotency_key="t:0:1")  # models repeat their ids


class Told:
    """The events of a run whose frames are given one by one."""

    def __init__(self) -> None:
        self.run = RunEvents(thread_id="thread", run_id="run")
        self.events: list[dict[str, Any]] = [self.run.started()]
        self._seq = 0
        self._attempt = 0

    def of(self, *frames: Frame) -> list[dict[str, Any]]:
        new = []
        for frame in frames:
            if isinstance(frame, TurnStarted):
                self._attempt, self._seq = self._attempt + 1, 0
            header = FrameHeader(
                session_id="thread", request_id="run", turn_id="t", attempt=self._attempt, epoch=1, frame_seq=self._seq
            )
            self._seq += 1
            new += self.run.of(ReplyFrame(header=header, frame=frame, partition=0, offset=0))
        self.events += new
        return new


def types(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def findings(events: Sequence[dict[str, Any]], folder: Path) -> str:
    """What ag-ui-validate says of them, and ag-ui's own models; empty for nothing."""
    recorded = folder / "run.sse"
    recorded.write_text("".join(f"data: {json.dumps(event)}\n\n" for event in events))
    tool = Path(sys.executable).parent / "ag-ui-validate"
    done = subprocess.run([tool, "--no-color", str(recorded)], capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def whole_run() -> Told:
    told = Told()
    told.of(
        TurnAccepted(),
        TurnStarted(model="m"),
        ReasoningDelta(text="hm"),
        ReasoningDelta(text="…"),
        MessageStored(message_seq=2, role="assistant", tool_calls=(CALL, SAME_ID)),
        ToolCallStarted(message_seq=2, call=CALL),
        MessageStored(message_seq=3, role="tool", content=text_content("found"), tool_call_id="c", name="find"),
        MessageStored(message_seq=4, role="tool", content=text_content("again"), tool_call_id="c", name="find"),
        TextDelta(text="He"),
        TextDelta(text="llo"),
        MessageStored(message_seq=5, role="assistant", content=text_content("Hello!")),
        TurnCompleted(text="Hello!", usage=USAGE),
    )
    return told


def test_a_turn_is_a_run() -> None:
    events = whole_run().events
    assert types(events) == [
        "RUN_STARTED",
        "REASONING_START",
        "REASONING_MESSAGE_START",
        "REASONING_MESSAGE_CONTENT",
        "REASONING_MESSAGE_CONTENT",
        "REASONING_MESSAGE_END",
        "REASONING_END",
        *["TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END"] * 2,
        "TOOL_CALL_RESULT",
        "TOOL_CALL_RESULT",
        "TEXT_MESSAGE_START",
        *["TEXT_MESSAGE_CONTENT"] * 3,
        "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]
    text = "".join(event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT")
    assert text == "Hello!"
    RunStartedEvent.model_validate(events[0])
    assert events[0]["protocolVersion"] == "1.0"
    RunFinishedEvent.model_validate(events[-1])
    assert events[-1]["outcome"] == {"type": "success"}


def test_arguments_stay_as_the_model_wrote_them() -> None:
    told = Told()
    odd = ToolCall(call_id="c", name="find", arguments="not JSON", idempotency_key="t:0:0")
    events = told.of(TurnStarted(model="m"), MessageStored(message_seq=2, role="assistant", tool_calls=(odd,)))
    assert [event["delta"] for event in events if event["type"] == "TOOL_CALL_ARGS"] == ["not JSON"]


def test_the_validator_has_no_complaint(tmp_path: Path) -> None:
    told = whole_run()
    assert findings(told.events, tmp_path) == ""
    assert "AGUI" in findings(told.events[1:], tmp_path), "it can complain"
    failed = Told()
    failed.of(TurnStarted(model="m"), TextDelta(text="x"), TurnFailed(code="turn_timeout", reason="", usage=USAGE))
    assert types(failed.events)[-2:] == ["TEXT_MESSAGE_END", "RUN_ERROR"]
    RunErrorEvent.model_validate(failed.events[-1])
    assert findings(failed.events, tmp_path) == ""
    cancelled = Told()
    cancelled.of(TurnStarted(model="m"), TextDelta(text="x"), TurnCancelled(reason="asked", text="x", usage=USAGE))
    assert cancelled.events[-1]["outcome"] == {"type": "cancelled"}
    assert findings(cancelled.events, tmp_path) == ""


def test_what_a_failed_attempt_had_begun_is_void(tmp_path: Path) -> None:
    told = Told()
    told.of(TurnStarted(model="m"), TextDelta(text="wro"))
    again = told.of(TurnStarted(model="m"), TextDelta(text="right"))
    assert types(again) == ["TEXT_MESSAGE_END", "MESSAGES_SNAPSHOT", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT"]
    assert again[1] is SNAPSHOT
    assert again[2]["messageId"] != told.events[1]["messageId"]
    told.of(MessageStored(message_seq=2, role="assistant", content=text_content("right")))
    told.of(TurnCompleted(text="right", usage=USAGE))
    made = messages_snapshot([], (), turn_id="t")
    assert findings([made if event is SNAPSHOT else event for event in told.events], tmp_path) == ""


def test_a_message_whose_pieces_were_dropped_comes_whole() -> None:
    told = Told()
    told.of(TurnStarted(model="m"), TextDelta(text="the "), TextDelta(text="end"))
    stored = told.of(MessageStored(message_seq=2, role="assistant", content=text_content("the very end")))
    assert types(stored) == ["TEXT_MESSAGE_END", "MESSAGES_SNAPSHOT"]


def history() -> list[HistoryEntry]:
    return [
        HistoryEntry(message_seq=1, turn_id="t-1", role="user", content=text_content("First")),
        HistoryEntry(message_seq=2, turn_id="t-1", role="assistant", content=text_content("One")),
        HistoryEntry(message_seq=3, turn_id="t", role="user", content=text_content("Look\n\nPlease")),
        HistoryEntry(message_seq=4, turn_id="t", role="assistant", tool_calls=(CALL,)),
        HistoryEntry(message_seq=5, turn_id="t", role="tool", content=text_content("found"), tool_call_id="c"),
        HistoryEntry(message_seq=6, turn_id="t", role="assistant", content=text_content("Not told yet")),
    ]


def test_a_rejoin_begins_with_all_that_was_told(tmp_path: Path) -> None:
    told = Told()
    told.of(
        TurnStarted(model="m"),
        MessageStored(message_seq=4, role="assistant", tool_calls=(CALL,)),
        MessageStored(message_seq=5, role="tool", content=text_content("found"), tool_call_id="c"),
        TextDelta(text="Not to"),
    )
    known = [
        KnownMessage(message_id="u1", role="user", text="First"),
        KnownMessage(message_id="u2", role="user", text="Look"),
        KnownMessage(message_id="u3", role="user", text="Please"),
    ]
    made = messages_snapshot(history(), known, turn_id="t", through_seq=told.run.last_seq, partial=told.run.partial)
    MessagesSnapshotEvent.model_validate(made)
    assert [(message["id"], message["role"]) for message in made["messages"]] == [
        ("u1", "user"),
        ("t-1.a0", "assistant"),
        ("u3", "user"),
        ("t.a0", "assistant"),
        ("t.r0", "tool"),
        ("t.a1", "assistant"),
    ]
    assert made["messages"][-1]["content"] == "Not to"
    assert made["messages"][4]["toolCallId"] == made["messages"][3]["toolCalls"][0]["id"]
    rest = told.of(
        TextDelta(text="ld yet"),
        MessageStored(message_seq=6, role="assistant", content=text_content("Not told yet")),
        TurnCompleted(text="Not told yet", usage=USAGE),
    )
    events = [told.run.started(), made, {"type": "TEXT_MESSAGE_START", "messageId": "t.a1", "role": "assistant"}, *rest]
    assert findings(events, tmp_path) == ""
    assert {event["messageId"] for event in rest if "messageId" in event} == {"t.a1"}


def body(**more: Any) -> dict[str, Any]:
    return {"threadId": "web-1", "runId": "r", "messages": [{"id": "m", "role": "user", "content": "Hi"}], **more}


def test_a_run_is_what_the_user_said_last() -> None:
    messages = [
        {"id": "0", "role": "system", "content": "Be brief."},
        {"id": "1", "role": "user", "content": "Old"},
        {"id": "2", "role": "assistant", "content": "Answer"},
        {"id": "3", "role": "user", "content": "New"},
        {"id": "4", "role": "user", "content": [{"type": "text", "text": "and "}, {"type": "text", "text": "more"}]},
    ]
    asked = read_run_input(body(messages=messages))
    assert (asked.text, asked.instructions) == ("New\n\nand more", "Be brief.")
    assert [known.message_id for known in asked.known] == ["1", "2", "3", "4"]
    assert [(message.role, content_text(message.content)) for message in asked.earlier] == [
        ("user", "Old"),
        ("assistant", "Answer"),
    ]


def test_outputs_of_the_client_s_tools_are_what_is_new() -> None:
    call = replace(CALL, client=True)
    told = Told()
    events = told.of(TurnStarted(model="m"), MessageStored(message_seq=2, role="assistant", tool_calls=(call,)))
    own_id = events[0]["toolCallId"]
    messages = [
        {"id": "1", "role": "user", "content": "Look"},
        {"id": "2", "role": "assistant", "toolCalls": [{"id": own_id}]},
        {"id": "3", "role": "tool", "content": "found", "toolCallId": own_id},
    ]
    tools = [{"name": "find", "description": "Finds.", "parameters": {"type": "object"}}]
    asked = read_run_input(body(messages=messages, tools=tools))
    assert (asked.text, asked.outputs) == ("", (ToolOutput(call_id="c", output="found"),))
    assert asked.tools == (ClientTool(name="find", description="Finds.", parameters='{"type": "object"}'),)
    failed = {"id": "3", "role": "tool", "content": "", "error": "not there", "toolCallId": own_id}
    asked = read_run_input(body(messages=[*messages[:2], failed]))
    assert asked.outputs == (ToolOutput(call_id="c", output="not there", is_error=True),)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"threadId": ""}, "threadId"),
        ({"runId": 7}, "runId"),
        ({"messages": []}, "messages"),
        ({"messages": [{"id": "1", "role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"id": "1", "role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"id": "1", "role": "user", "content": [{"type": "image"}]}]}, "messages[0].content"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"resume": [{}]}, "resume"),
        ({"tools": [{}]}, "tools[0]"),
        ({"messages": [{"id": "1", "role": "tool", "content": "x"}]}, "messages[0].toolCallId"),
    ],
)
def test_what_cannot_be_is_named(more: dict[str, Any], field: str) -> None:
    with pytest.raises(HttpError) as raised:
        read_run_input(body(**more))
    assert (raised.value.status, raised.value.param) == (400, field)


def test_every_thread_has_a_session() -> None:
    assert session_name("web-1") == "web-1"
    made = session_name("https://example.org/thread/1")
    assert made == session_name("https://example.org/thread/1")
    assert made != session_name("https://example.org/thread/2")
    assert made.startswith("agui-")
