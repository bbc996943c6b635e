"""The events of a response, made of the frames of its turn; and the chunks of a completion."""

from collections.abc import Callable
from typing import Any

import pytest

from tests import serve_frames
from tests.open_responses import check_events, check_response
from tests.serve_frames import TURNS, Recorder
from turnlog.serve.openai.chat_chunks import ChatChunks
from turnlog.serve.openai.response_events import ResponseEvents
from turnlog.serve.openai.response_object import (
    MAX_ECHO_BYTES,
    ResponseSeed,
    packed_echo,
    unpacked_echo,
)
from turnlog.serve.turn_ids import TurnRef, response_ref, turn_ref
from turnlog_schemas.parts import ClientTool

TURN = TurnRef(session_id="web-1", partition=3, offset=17)
SEED = ResponseSeed(turn=TURN, created_at=1_800_000_000)


def events_of(turn: Recorder) -> list[dict[str, Any]]:
    mapping = ResponseEvents(SEED)
    return [event for frame in turn.counting() for event in mapping.feed(frame)]


def final(turn: Recorder) -> dict[str, Any]:
    response = events_of(turn)[-1]["response"]
    assert isinstance(response, dict)
    return response


def texts(response: dict[str, Any]) -> list[str]:
    return [item["content"][0]["text"] for item in response["output"] if item["type"] == "message"]


@pytest.mark.parametrize("make", TURNS)
def test_every_turn_makes_a_stream_that_the_schema_allows(make: Callable[[], Recorder]) -> None:
    events = events_of(make())
    check_events(events)
    assert events == events_of(make())  # whoever replays it, numbers it alike


@pytest.mark.parametrize("make", TURNS)
def test_the_response_is_whole_at_any_time(make: Callable[[], Recorder]) -> None:
    mapping = ResponseEvents(SEED)
    check_response(mapping.response)
    for frame in make().counting():
        mapping.feed(frame)
        check_response(mapping.response)
    assert mapping.ended


def test_a_plain_answer() -> None:
    events = events_of(serve_frames.plain())
    assert [event["type"].removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    response = events[-1]["response"]
    assert response["id"] == "resp_3_17_web-1"
    assert (response["status"], response["model"], texts(response)) == ("completed", "echo:", ["Hello"])
    assert response["usage"]["total_tokens"] == 12
    assert response["conversation"] == {"id": "web-1"}


def test_a_turn_in_the_queue_is_queued_until_it_starts() -> None:
    kinds = [event["type"] for event in events_of(serve_frames.reasoned())]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    response = final(serve_frames.reasoned())
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    waiting = final(serve_frames.cancelled_in_the_queue())
    assert (waiting["status"], waiting["output"]) == ("cancelled", [])


def test_what_workers_run_is_not_for_the_client_to_run() -> None:
    response = final(serve_frames.server_tools())
    assert [item["type"] for item in response["output"]] == ["message", "message"]
    asked = final(serve_frames.client_tools())
    assert [item["type"] for item in asked["output"]] == ["message", "function_call", "function_call"]
    assert [item["arguments"] for item in asked["output"][1:]] == ['{"a":1}', '{"a": 2}']


def test_what_an_attempt_had_said_is_void_once_another_begins() -> None:
    events = events_of(serve_frames.taken_over())
    assert [event["delta"] for event in events if event["type"] == "response.output_text.delta"] == [
        *("Hello wo", "Good ", "day")
    ]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [item.get("status") for item in done] == [None, "incomplete", "completed"]
    assert texts(events[-1]["response"]) == ["Good day"]
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message"]


def test_a_message_is_whole_whatever_was_lost_on_the_way() -> None:
    events = events_of(serve_frames.pieces_lost())
    assert [event["delta"] for event in events if event["type"] == "response.output_text.delta"] == ["He", "llo"]
    late = final(serve_frames.only_its_end())
    assert texts(late) == ["Hello"]
    assert late["output"][-1]["type"] == "function_call"


def test_ends_that_are_no_success() -> None:
    stopped = events_of(serve_frames.cancelled())[-1]
    assert (stopped["type"], stopped["response"]["status"]) == ("response.incomplete", "cancelled")
    assert stopped["response"]["output"][0]["status"] == "incomplete"
    broken = events_of(serve_frames.failed())[-1]
    assert broken["type"] == "response.failed"
    assert broken["response"]["error"] == {"code": "turn_timeout", "message": "it took too long"}
    assert broken["response"]["output"] == []


def test_nothing_follows_the_end() -> None:
    turn = serve_frames.plain()
    mapping = ResponseEvents(SEED)
    for frame in turn.frames:
        mapping.feed(frame)
    assert [event for frame in turn.frames for event in mapping.feed(frame)] == []


def test_the_echo_is_what_the_schema_wants() -> None:
    echo = {
        "model": "echo:",
        "instructions": "Be brief.",
        "temperature": 0.2,
        "metadata": {"a": "b"},
        "tool_choice": "required",
        "reasoning": {"effort": "low", "summary": None},
        "strict": {"look_up": True},
        "previous_response_id": "resp_3_1_web-1",
    }
    tools = (ClientTool(name="look_up"), ClientTool(name="book", description="Books.", parameters='{"type":"object"}'))
    seed = ResponseSeed(
        turn=TURN, created_at=1, echo=unpacked_echo({"turnlog.response": packed_echo(echo)}), tools=tools
    )
    response = ResponseEvents(seed).response
    check_response(response)
    assert response["temperature"] == 0.2
    assert response["tools"][0] == {
        "type": "function",
        "name": "look_up",
        "description": None,
        "parameters": {"type": "object", "properties": {}},
        "strict": True,
    }


def test_an_echo_that_is_too_long_loses_its_longest_field() -> None:
    packed = packed_echo({"instructions": "x" * MAX_ECHO_BYTES, "model": "echo:"})
    assert unpacked_echo({"turnlog.response": packed}) == {"model": "echo:"}


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "1", '{"metadata": 1, "tool_choice": 5, "strict": []}'])
def test_an_echo_of_somebody_else_is_passed_over(text: str) -> None:
    seed = ResponseSeed(turn=TURN, created_at=1, echo=unpacked_echo({"turnlog.response": text}))
    check_response(ResponseEvents(seed).response)


def test_ids_lead_to_their_turn_and_nothing_else_does() -> None:
    assert response_ref(TURN.response_id) == TURN
    assert turn_ref("web-1", "t-3-17") == TURN
    for wrong in ("", "resp_", "resp_3_17_", "resp_3_17_a b", "resp_-1_17_a", f"resp_3_17_{'a' * 129}", "msg_3_17_a"):
        assert response_ref(wrong) is None
    assert turn_ref("web-1", "x") is None


# ---- chat completions


def chunks_of(turn: Recorder, *, include_usage: bool = False) -> tuple[list[dict[str, Any]], ChatChunks]:
    mapping = ChatChunks(completion_id="resp_3_17_web-1", created=1, model="echo:", include_usage=include_usage)
    return [chunk for frame in turn.counting() for chunk in mapping.feed(frame)], mapping


def streamed(chunks: list[dict[str, Any]]) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


@pytest.mark.parametrize(
    ("make", "text", "reason"),
    [
        (serve_frames.plain, "Hello", "stop"),
        (serve_frames.reasoned, "42", "stop"),
        (serve_frames.server_tools, "I look. Found.", "stop"),
        (serve_frames.client_tools, "One moment.", "tool_calls"),
        (serve_frames.pieces_lost, "Hello", "stop"),
        (serve_frames.cancelled, "Hello", "stop"),
        (serve_frames.cancelled_in_the_queue, "", "stop"),
        (serve_frames.only_its_end, "Hello", "tool_calls"),
    ],
)
def test_chunks_say_what_the_completion_says(make: Callable[[], Recorder], text: str, reason: str) -> None:
    chunks, mapping = chunks_of(make())
    assert streamed(chunks) == text
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [*[None] * (len(chunks) - 1), reason]
    assert all("usage" not in chunk for chunk in chunks)
    whole = mapping.completion()
    assert (whole["choices"][0]["message"]["content"] or "") == text
    assert whole["choices"][0]["finish_reason"] == reason
    assert whole["usage"]["prompt_tokens"] + whole["usage"]["completion_tokens"] == whole["usage"]["total_tokens"]


def test_text_that_is_void_is_told_apart_by_an_empty_line() -> None:
    chunks, mapping = chunks_of(serve_frames.taken_over())
    assert streamed(chunks) == "Hello wo\n\nGood day"
    assert mapping.completion()["choices"][0]["message"]["content"] == "Good day"


def test_usage_comes_alone_and_only_where_it_is_asked_for() -> None:
    chunks, _ = chunks_of(serve_frames.plain(), include_usage=True)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 12
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_calls_of_the_client_come_as_their_beginning_and_their_arguments() -> None:
    chunks, mapping = chunks_of(serve_frames.client_tools())
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert [(call["index"], call.get("id")) for call in calls] == [(0, "call_1"), (0, None), (1, "call_2"), (1, None)]
    assert [call["function"]["arguments"] for call in calls] == ["", '{"a":1}', "", '{"a": 2}']
    assert len(mapping.completion()["choices"][0]["message"]["tool_calls"]) == 2


def test_a_failed_turn_is_said_to_have_failed() -> None:
    chunks, mapping = chunks_of(serve_frames.failed())
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)
    assert mapping.failed is not None
    assert mapping.failed.code == "turn_timeout"
