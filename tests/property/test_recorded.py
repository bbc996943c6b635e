"""A recording comes back exactly as it is: the sample in the package, and recordings that nobody has made yet."""

import asyncio
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnlog_schemas.parts import content_text, text_content
from turnlog_streams.history.messages import HistoryMessage
from turnlog_workers.runners.base import AssistantMessage, RunnerOutput, TextDelta, ToolResult, TurnInput, UsageReport
from turnlog_workers.runners.recorded import factory

Json = dict[str, Any]


@pytest.fixture(scope="module")
def sample() -> Iterator[Path]:
    with as_file(files("turnlog") / "data" / "sample-conversations.jsonl") as path:
        yield path


def turn_input(model: str, number: int, text: str) -> TurnInput:
    return TurnInput(
        session_id="s",
        turn_id=f"t-{number}",
        attempt=1,
        turn_number=number,
        fencing_token=1,
        model=model,
        instructions=None,
        user_content=text_content(text),
    )


def as_message(output: RunnerOutput) -> Json:
    """A runner's whole message in the OpenAI chat format."""
    match output:
        case AssistantMessage():
            message: Json = {"role": "assistant", "content": content_text(output.content)}
            if output.tool_calls:
                message["tool_calls"] = [
                    {
                        "id": call.call_id,
                        "type": "function",
                        "function": {"name": call.name, "arguments": call.arguments},
                    }
                    for call in output.tool_calls
                ]
            return message
        case ToolResult():
            message = {"role": "tool", "tool_call_id": output.call_id, "content": content_text(output.content)}
            return message if output.name is None else {**message, "name": output.name}
        case _:
            raise AssertionError(f"{output} is no message")


async def replay(path: Path, conversation: Json, cuts: Sequence[int] = ()) -> list[Json]:
    """The conversation as a session would hold it; attempt after attempt ends after so many messages of each turn."""
    model = f"recorded:{path}#{conversation['id']}"
    runner = factory(model)
    messages = [message for message in conversation["messages"] if message["role"] == "system"]
    for number, user in enumerate((m for m in conversation["messages"] if m["role"] == "user"), start=1):
        messages.append({"role": "user", "content": user["content"]})
        turn = turn_input(model, number, user["content"])
        kept: list[RunnerOutput] = []
        for cut in [*cuts, None]:
            stored = tuple(stored_as(output, index) for index, output in enumerate(kept))
            found = [output async for output in runner.run(replace(turn, turn_messages=stored))]
            assert isinstance(found[-1], UsageReport)
            assert_words_make_the_messages(found)
            kept += [output for output in found if isinstance(output, AssistantMessage | ToolResult)][:cut]
        messages += [as_message(output) for output in kept]
    await runner.aclose()
    return messages


def stored_as(output: RunnerOutput, index: int) -> HistoryMessage:
    if isinstance(output, AssistantMessage):
        calls = output.tool_calls
        return HistoryMessage(
            message_seq=index, turn_id="t", role="assistant", content=output.content, tool_calls=calls
        )
    assert isinstance(output, ToolResult)
    return HistoryMessage(
        message_seq=index, turn_id="t", role="tool", content=output.content, tool_call_id=output.call_id
    )


def assert_words_make_the_messages(found: Sequence[RunnerOutput]) -> None:
    deltas: list[str] = []
    for output in found:
        if isinstance(output, TextDelta):
            deltas.append(output.text)
        elif isinstance(output, AssistantMessage):
            text = content_text(output.content) or ""
            assert "".join(deltas) == text
            assert len(deltas) == (len(text.split()) or bool(text)), "a delta is one word"
            deltas = []
    assert deltas == []


def test_the_sample_is_what_it_is_said_to_be(sample: Path) -> None:
    conversations = [json.loads(line) for line in sample.read_text().splitlines()]
    messages = [message for conversation in conversations for message in conversation["messages"]]
    assert len({conversation["id"] for conversation in conversations}) == len(conversations) == 12
    assert sample.stat().st_size < 250_000
    assert sum(len(message.get("tool_calls") or ()) for message in messages) > 40
    assert {conversation["messages"][-1]["role"] for conversation in conversations} == {"user", "tool"}
    assert None in [message["content"] for message in messages]
    assert "" in [message["content"] for message in messages]


@pytest.mark.parametrize("cuts", [(), (0,), (1,), (1, 1, 1), (2, 0, 3)])
def test_every_conversation_of_the_sample_comes_back(sample: Path, cuts: tuple[int, ...]) -> None:
    lines = sample.read_text().splitlines()
    assert lines
    for line in lines:
        conversation = json.loads(line)
        assert asyncio.run(replay(sample, conversation, cuts)) == conversation["messages"]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["", " ", "a  b\n", "{} ", "日本 🙂"]
)
NAMES = st.sampled_from(["call_1", "call_2", "book", "x y"])  # few: ids repeat
CALLS = st.fixed_dictionaries(
    {
        "id": NAMES,
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": NAMES, "arguments": TEXTS}),
    }
)
ASSISTANTS = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | TEXTS},
    optional={"tool_calls": st.lists(CALLS, min_size=1, max_size=3)},
)
RESULTS = st.fixed_dictionaries(
    {"role": st.just("tool"), "tool_call_id": NAMES, "content": st.none() | TEXTS}, optional={"name": NAMES}
)
USERS = st.fixed_dictionaries({"role": st.just("user"), "content": TEXTS})
SYSTEM = st.fixed_dictionaries({"role": st.just("system"), "content": TEXTS})
CONVERSATIONS = st.builds(
    lambda system, first, rest: [*system, *first, *rest],
    st.lists(SYSTEM, max_size=1),
    st.lists(USERS, min_size=1, max_size=1),
    st.lists(USERS | ASSISTANTS | RESULTS, max_size=12),
)


@settings(max_examples=100, deadline=None)
@given(
    conversations=st.lists(CONVERSATIONS, min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 3), max_size=3),
    blank=st.booleans(),
)
def test_any_conversation_comes_back(conversations: list[list[Json]], cuts: list[int], blank: bool) -> None:
    rows = [{"id": f"c-{index}", "messages": messages} for index, messages in enumerate(conversations)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "odd #name?.jsonl"
        lines = [json.dumps({**row, "extra": 1}, ensure_ascii=blank) for row in rows]
        path.write_text(("\n\n" if blank else "\n").join(lines), encoding="utf-8", newline="")
        for row in rows:
            assert asyncio.run(replay(path, row, cuts)) == row["messages"]
