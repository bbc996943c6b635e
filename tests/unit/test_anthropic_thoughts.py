"""What a model of Anthropic thought before a call goes back to it with the result, to the letter, and is not stored.

And what its server would refuse is not sent.
"""

from dataclasses import replace
from typing import Any

import pytest

from tests.model_server import Answer, Call, Good, event, model_server, says
from turnlog.runner import GenerationParams, HistoryMessage, RunnerOutput, ToolCall, TurnInput, text_content
from turnlog_workers.base.config import Settings
from turnlog_workers.runners.models.anthropic_route import AnthropicRunner
from turnlog_workers.runners.models.patience import ModelLimits

CALL = Call(call_id="c1", name="nothing", arguments=("{}",))
CALLS = says(Good(pieces=(), reasoning=("First I", " call."), calls=(CALL,)))
THOUGHT = {"type": "thinking", "thinking": "First I call.", "signature": "signed-1"}
BY_BUDGET = '{"type": "enabled", "budget_tokens": 1024}'


def turn(thinking: str) -> TurnInput:
    return TurnInput(
        session_id="s",
        turn_id="t",
        attempt=1,
        turn_number=1,
        fencing_token=7,
        model="anthropic:m",
        instructions=None,
        user_content=text_content("Hello"),
        params=GenerationParams(settings={"thinking": thinking} if thinking else {}),
    )


async def asked(turn: TurnInput, monkeypatch: pytest.MonkeyPatch, *answers: Answer) -> list[dict[str, Any]]:
    """The bodies of what a run asks for, and after it of what another turn asks for."""
    async with model_server(*answers) as server:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "planted-key")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        runner = AnthropicRunner("m", ModelLimits.of(Settings()))
        outputs: list[RunnerOutput] = [output async for output in runner.run(turn)]
        assert outputs
        outputs = [output async for output in runner.run(replace(turn, turn_id="t2", turn_messages=()))]
        await runner.aclose()
        return [received.body for received in server.received]


async def test_thoughts_go_back_with_the_result_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third, other = await asked(turn(BY_BUDGET), monkeypatch, CALLS, CALLS, says())
    assert len(first["messages"]) == 1
    for body, answers in ((second, 1), (third, 2)):
        of_model = [message["content"] for message in body["messages"] if message["role"] == "assistant"]
        assert [content[0] for content in of_model] == [THOUGHT] * answers
        assert [content[1]["type"] for content in of_model] == ["tool_use"] * answers
        assert body["thinking"]["budget_tokens"] == 1024
    assert "signed" not in str(other["messages"])
    assert other["thinking"]["budget_tokens"] == 1024


async def test_what_only_openai_knows_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    openai = dict.fromkeys(("presence_penalty", "frequency_penalty", "seed"), "0") | {"parallel_tool_calls": "false"}
    said = replace(turn(""), params=GenerationParams(settings={"top_p": "0.5", **openai}))
    body, _ = await asked(said, monkeypatch, says())
    assert body["top_p"] == 0.5
    assert set(openai).isdisjoint(body)


async def test_redacted_thoughts_go_back_as_they_came(monkeypatch: pytest.MonkeyPatch) -> None:
    block = {"type": "redacted_thinking", "data": "c2VjcmV0"}

    async def plays(stream: Any) -> None:
        begun, *rest = stream.dialect(Good(pieces=(), calls=(CALL,)))
        start = {"type": "content_block_start", "index": 7, "content_block": block}
        await stream.send(begun, event(start, "content_block_start"), *rest)

    _, second, _ = await asked(turn(BY_BUDGET), monkeypatch, plays, says())
    assert second["messages"][1]["content"][0] == block


@pytest.mark.parametrize("thinking", [BY_BUDGET, '{"type": "adaptive"}', ""])
async def test_an_attempt_that_goes_on_after_calls_of_another_one(
    thinking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ToolCall(call_id="c1", name="nothing", arguments="{}")
    lost = (
        HistoryMessage(message_seq=2, turn_id="t", role="assistant", content=None, tool_calls=(call,)),
        HistoryMessage(message_seq=3, turn_id="t", role="tool", content=text_content("x"), tool_call_id="c1"),
    )
    resumed = replace(turn(thinking), turn_messages=lost)
    first, second, other = await asked(resumed, monkeypatch, says(Good(pieces=(), calls=(CALL,))), says())
    for body in (first, second):
        assert ("thinking" in body) == (thinking == '{"type": "adaptive"}')
    assert ("thinking" in other) == bool(thinking), "the next turn thinks again"
