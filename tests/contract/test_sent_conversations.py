"""Recorded conversations as they are sent to each kind of server: nothing is missing, nothing is out of order."""

import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_model_servers import runner_of, turn_of
from tests.model_faults import EVERY
from tests.model_server import KEY, ModelServer, model_server
from turnlog.runner import HistoryMessage, TextDelta, ToolCall, TurnInput, content_text, text_content
from turnlog.testing.turns import odd_turns, with_history
from turnlog_workers.runners.models.sent_messages import (
    BROKEN_ARGUMENTS,
    openai_request_messages,
    sendable_arguments,
    without_control_tokens,
)

#: More conversations for one run: a file of the same form.
MORE = os.environ.get("CONVERSATIONS", "")
PARTS = 6


def conversations() -> list[dict[str, Any]]:
    file = Path(MORE) if MORE else files("turnlog") / "data" / "sample-conversations.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def turn_behind(kind: str, messages: list[dict[str, Any]]) -> TurnInput:
    """The turn of the last user message, behind all that was said before."""
    system, *rest = messages
    at = max(index for index, message in enumerate(rest) if message["role"] == "user")
    history = [
        HistoryMessage(
            message_seq=0,
            turn_id="t-0",
            role=message["role"],
            content=None if message.get("content") is None else text_content(message["content"]),
            tool_calls=tuple(
                ToolCall(call_id=c["id"], name=c["function"]["name"], arguments=c["function"]["arguments"])
                for c in message.get("tool_calls") or ()
            ),
            tool_call_id=message.get("tool_call_id"),
            name=message.get("name"),
        )
        for message in rest[:at]
    ]
    turn = replace(turn_of(kind), instructions=system["content"], user_content=text_content(rest[at]["content"]))
    return with_history(turn, history)


def said(turn: TurnInput) -> Iterator[str]:
    """What the model must see of a turn, in order: texts, and calls by name and arguments."""
    for message in turn.assembled:
        text = content_text(message.content) or ""
        if text.strip():
            yield text
        for call in message.tool_calls:
            yield call_text(call.name, json.loads(call.arguments or "{}"))


def call_text(name: str, arguments: Any) -> str:
    return f"{name}({json.dumps(arguments, sort_keys=True)})"


def sent(node: Any) -> Iterator[str]:
    """The same, of a request's body, whatever its dialect."""
    if isinstance(node, list):
        for one in node:
            yield from sent(one)
    elif isinstance(node, dict):
        if "arguments" in node:
            yield call_text(node["name"], json.loads(node["arguments"]))
        elif node.get("type") == "tool_use":
            yield call_text(node["name"], node["input"])
        elif "functionCall" in node:
            yield call_text(node["functionCall"]["name"], node["functionCall"].get("args") or {})
        elif "functionResponse" in node:
            yield from sent(node["functionResponse"]["response"])
        else:
            for key in ("content", "text", "parts", "output", "return_value", "result", "tool_calls", "function"):
                if key in node:
                    yield from sent(node[key])
    elif isinstance(node, str):
        yield node


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ModelServer]:
    async with model_server() as found:
        for name in ("ANTHROPIC", "OPENAI", "GOOGLE", "FAKE"):
            monkeypatch.setenv(f"{name}_API_KEY", KEY)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", found.url)
        monkeypatch.setenv("OPENAI_BASE_URL", f"{found.url}/v1")
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", found.url)
        yield found


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("part", range(PARTS))
async def test_a_conversation_arrives_as_it_was(kind: str, part: int, server: ModelServer) -> None:
    runner = runner_of(kind, server)
    for conversation in conversations()[part::PARTS]:
        turn = turn_behind(kind, conversation["messages"])
        assert any([isinstance(output, TextDelta) async for output in runner.run(turn)])
        body = server.received[-1].body
        found = "\n".join(sent(body.get("messages") or body["contents"]))
        position = 0
        for expected in said(turn):
            at = found.find(expected, position)
            assert at >= 0, f"{conversation['id']}: not sent, or out of order: {expected[:100]!r}"
            position = at + len(expected)
        assert turn.instructions is not None
        everything = json.dumps(body, ensure_ascii=False)
        assert json.dumps(turn.instructions, ensure_ascii=False)[1:-1] in everything
    await runner.aclose()


def test_arguments_are_sent_as_the_model_wrote_them() -> None:
    """Not one of them is canonical JSON; each goes out letter by letter."""
    count = 0
    for conversation in conversations():
        turn = turn_behind("http", conversation["messages"])
        stored = [call.arguments for message in turn.assembled for call in message.tool_calls]
        messages = openai_request_messages(turn)
        found = [call["function"]["arguments"] for message in messages for call in message.get("tool_calls", ())]
        assert found == stored
        count += len(found)
    assert count > 50


def test_ids_of_calls_come_once_and_each_result_has_its_call() -> None:
    """In a third of the conversations they repeat."""
    repeated = 0
    for conversation in conversations():
        turn = turn_behind("http", conversation["messages"])
        stored = [call.call_id for message in turn.assembled for call in message.tool_calls]
        repeated += len(set(stored)) < len(stored)
        waiting: list[str] = []
        seen: set[str] = set()
        for message in openai_request_messages(turn):
            if message["role"] == "tool":
                waiting.remove(message["tool_call_id"])
                continue
            assert not waiting
            waiting = [call["id"] for call in message.get("tool_calls", ())]
            assert not seen & set(waiting)
            seen |= set(waiting)
    assert repeated > 1


@pytest.mark.parametrize(
    ("stored", "goes"),
    [
        ('{"a":  1.10, "a": 2}', '{"a":  1.10, "a": 2}'),
        ("", "{}"),
        (" \n", "{}"),
        ("{broken", json.dumps({BROKEN_ARGUMENTS: "{broken"})),
        ("[1]", json.dumps({BROKEN_ARGUMENTS: "[1]"})),
        ('{"a": NaN}', json.dumps({BROKEN_ARGUMENTS: '{"a": NaN}'})),
        ("[" * 5000, json.dumps({BROKEN_ARGUMENTS: "[" * 5000})),
    ],
)
def test_what_is_no_json_object_is_sent_inside_of_one(stored: str, goes: str) -> None:
    assert sendable_arguments(stored) == goes
    json.loads(goes)


@pytest.mark.parametrize(
    "mark", ["<|im_end|>", "<|eot_id|>", "</s>", "[INST]", "<<SYS>>", "<start_of_turn>", "<｜end▁of▁sentence｜>"]
)
def test_a_template_s_marks_are_no_marks_any_more(mark: str) -> None:
    clean = without_control_tokens(f"a{mark}{mark}b")
    assert mark not in clean
    assert clean.replace(" ", "") == f"a{mark}{mark}b".replace(" ", "")
    assert without_control_tokens(clean) == clean


@pytest.mark.parametrize("text", ["a < b | c > d", "<b>bold</b>", "x[0]", "1 << 2 >> 1", "<s5>", "|im_end|"])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert without_control_tokens(text) == text


def test_what_is_stored_is_never_changed() -> None:
    for _, turn in odd_turns("http:fake#m"):
        before = repr(turn)
        openai_request_messages(turn)
        assert repr(turn) == before


def test_a_word_of_the_operator_is_not_escaped() -> None:
    turn = replace(turn_of("http"), instructions="Say </s>.", user_content=text_content("</s>"), assembled=())
    first, second = openai_request_messages(turn)
    assert (first["content"], second["content"]) == ("Say </s>.", "< /s>")
    assert openai_request_messages(turn, escape_control_tokens=False)[1]["content"] == "</s>"


def test_a_history_never_ends_with_the_model() -> None:
    for _, turn in odd_turns("http:fake#m"):
        assert openai_request_messages(turn)[-1]["role"] == "user"
