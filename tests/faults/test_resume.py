"""A turn goes on where it stood: at tool-call granularity, by the journal that the tools themselves write."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deployment import START_S, Deployment, Wire
from tests.faults.record import journal_lines
from tests.waiting import eventually
from turnlog_schemas.events import MessageStored, TurnCompleted, TurnStarted
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_workers.devstack.broker import DevBroker

TOOLS = 5


@pytest.fixture
def deployment(broker: DevBroker, tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(broker.bootstrap_server, tmp_path, partitions=1) as deployment:
        deployment.make_topics()
        yield deployment


class Story:
    """A turn with five tool calls whose worker died at a point, and what another one made of it."""

    def __init__(self, events: list[LoggedEvent], journal: list[dict[str, Any]]) -> None:
        self.payloads = [event.payload for event in events]
        self.journal = journal
        messages = [payload for payload in self.payloads if isinstance(payload, MessageStored)]
        self.calls = [call for message in messages for call in message.tool_calls]
        self.results = [message for message in messages if message.role == "tool"]

    @property
    def starts(self) -> list[int]:
        """How often each call of the log was started, in their order."""
        counts = Counter(line["idempotency_key"] for line in self.journal if line["what"] == "start")
        assert set(counts) <= {call.idempotency_key for call in self.calls}, "a tool ran whose call is not in the log"
        return [counts[call.idempotency_key] for call in self.calls]

    @property
    def interrupted(self) -> list[bool]:
        return [result.interrupted for result in self.results]

    @property
    def attempts(self) -> list[str]:
        return [payload.cause for payload in self.payloads if isinstance(payload, TurnStarted)]


async def killed_and_resumed(deployment: Deployment, point: str, *, idempotent: bool) -> Story:
    journal = deployment.folder / "journal.jsonl"
    model = f"script:resume?tools={TOOLS}&tool_ms=5&words=4&idempotent={str(idempotent).lower()}"
    async with Wire(deployment) as wire:
        first = deployment.worker("w0", crash_at=point, script_journal=str(journal))
        await wire.chat_json("web-1", "go", request_id="r1", model=model)
        await eventually(lambda: not first.running, f"killed at {point}", START_S)
        assert first.exit_code == -9, first.log
        assert not [frame for frame in wire.of("r1") if frame.terminal]
        deployment.worker("w1", script_journal=str(journal))
        done = await wire.terminal("r1")
        assert (done.kind, done.header.attempt) == ("TurnCompleted", 2)
    story = Story(await deployment.events_of("web-1"), journal_lines(journal))
    assert story.attempts == ["first", "takeover"]
    assert len(story.results) == len(story.calls) == TOOLS
    assert [result.tool_call_id for result in story.results] == [call.call_id for call in story.calls]
    assert sum(isinstance(payload, TurnCompleted) for payload in story.payloads) == 1
    return story


@pytest.mark.parametrize("idempotent", [False, True])
async def test_after_the_third_result_it_goes_on_with_the_fourth_call(deployment: Deployment, idempotent: bool) -> None:
    story = await killed_and_resumed(deployment, "actor.after_tool_result:3", idempotent=idempotent)
    assert story.starts == [1] * TOOLS, "no stored result was produced again"
    assert not any(story.interrupted)
    attempts = [line["attempt"] for line in story.journal if line["what"] == "start"]
    assert attempts == [1, 1, 1, 2, 2]


async def test_a_call_that_may_have_run_is_repeated_if_it_may_be(deployment: Deployment) -> None:
    """Under its own key, so that the tool can know; with another fencing token, so that it can tell the owners."""
    story = await killed_and_resumed(deployment, "script.after_tool_end:3", idempotent=True)
    assert story.starts == [1, 1, 2, 1, 1]
    assert not any(story.interrupted)
    third = [line for line in story.journal if line["what"] == "start"][2:4]
    assert third[0]["idempotency_key"] == third[1]["idempotency_key"]
    assert third[0]["fencing_token"] < third[1]["fencing_token"]


async def test_a_call_that_may_have_run_is_closed_if_it_may_not(deployment: Deployment) -> None:
    story = await killed_and_resumed(deployment, "script.after_tool_start:3", idempotent=False)
    assert story.starts == [1] * TOOLS
    assert story.interrupted == [False, False, True, False, False]


async def test_a_stored_call_that_nobody_started_is_ambiguous_too(deployment: Deployment) -> None:
    """The log cannot tell: it holds the call and no result."""
    story = await killed_and_resumed(deployment, "actor.after_tool_call_stored:3", idempotent=False)
    assert story.starts == [1, 1, 0, 1, 1]
    assert story.interrupted == [False, False, True, False, False]
