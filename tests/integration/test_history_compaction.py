"""History compaction through the client on a real broker: what is told, what stays, and that models' turns go on."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import turnlog
from tests.deployment import Deployment, eventually_async
from turnlog import Client, RequestConflictError, SyncClient
from turnlog_schemas import events as ev
from turnlog_schemas.frames import TurnStarted
from turnlog_schemas.parts import HistoryEntry, content_text
from turnlog_workers.devstack.broker import DevBroker

SAMPLES = Path(turnlog.__file__).parent / "data" / "sample-conversations.jsonl"
SLOW = "script:slow?tools=0&words=2000&delta_ms=20"  #: 40 s, if nobody ends it
RUNS = (
    *(ev.HistoryCompactionRequested, ev.HistoryCompacted),
    *(ev.HistoryCompactionFailed, ev.HistoryCompactionSkipped),
)


@pytest.fixture(scope="module")
def stack(broker: DevBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("compaction")
    with Deployment(broker.bootstrap_server, folder, fast_model="script:summary?tools=0&words=40") as deployment:
        deployment.make_topics()
        deployment.ready_worker()
        yield deployment


@pytest.fixture
async def client(stack: Deployment) -> AsyncIterator[Client]:
    async with Client(stack.settings) as client:
        yield client


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A conversation that was recorded, and the model that plays it."""

    model: str
    instructions: str | None
    users: list[str]
    said: list[tuple[str, str | None]]  #: role and text of each message


def recording(conversation_id: str) -> Recording:
    conversations = map(json.loads, SAMPLES.read_text(encoding="utf-8").splitlines())
    (messages,) = (each["messages"] for each in conversations if each["id"] == conversation_id)
    system = [message["content"] for message in messages if message["role"] == "system"]
    said = [(message["role"], message["content"]) for message in messages if message["role"] != "system"]
    return Recording(
        model=f"recorded:{SAMPLES}#{conversation_id}",
        instructions=next(iter(system), None),
        users=[text or "" for role, text in said if role == "user"],
        said=said,
    )


async def whole(client: Client, session_id: str) -> list[HistoryEntry]:
    return [message async for message in client.messages(session_id)]


def said(messages: list[HistoryEntry]) -> list[tuple[str, str | None]]:
    return [(message.role, content_text(message.content)) for message in messages]


async def runs_of(stack: Deployment, session_id: str) -> list[Any]:
    """The session's events of history compactions, in order."""
    return [event.payload for event in await stack.events_of(session_id) if isinstance(event.payload, RUNS)]


async def test_a_recorded_conversation_is_compacted_when_asked(stack: Deployment, client: Client) -> None:
    recorded = recording("airline-011-3")
    made = await client.create(
        "manual",
        model=recorded.model,
        instructions=recorded.instructions,
        history_max_tokens=-1,
        history_keep_tail=4,
    )
    session_id = made.session_id
    *first, last = recorded.users
    for text in first:
        assert (await client.chat(session_id, text).result()).status == "completed"
    before = await whole(client, session_id)
    large = await client.get(session_id)
    assert (large.context_tokens or 0) > 1000
    assert large.needs_compaction is False, "it is never compacted by itself"

    done = await client.compact(session_id, request_id="first")
    assert done.changed
    assert (done.session_id, done.request_id, done.from_seq) == (session_id, "first", 1)
    assert 1 < done.to_seq <= len(before) - 4
    assert done.summary
    assert done.tokens_before == large.context_tokens
    assert (done.tokens_after or 0) < (done.tokens_before or 0)
    assert done.usage is not None
    assert done.usage.model_calls >= 1
    assert await client.compact(session_id, request_id="first") == done, "a retry gets the first answer"
    with pytest.raises(RequestConflictError):
        await client.compact(session_id, instructions="Something else.", request_id="first")
    again = await client.compact(session_id)
    assert not again.changed
    assert (again.summary, again.from_seq, again.to_seq) == (done.summary, 1, done.to_seq)
    kinds = [type(event) for event in await runs_of(stack, session_id)]
    requested = ev.HistoryCompactionRequested
    assert kinds == [requested, ev.HistoryCompacted, requested, ev.HistoryCompactionSkipped]

    after = await whole(client, session_id)
    assert [replace(message, covered=False) for message in after] == before
    assert [message.covered for message in after] == [message.message_seq <= done.to_seq for message in after]
    page = await client.history(session_id, skip_covered=True)
    assert (page.covered_to, page.summary) == (done.to_seq, done.summary)
    assert list(page.messages) == after[done.to_seq :]
    assert page.messages[0].role != "tool"
    small = await client.get(session_id)
    assert (small.context_tokens or 0) < (large.context_tokens or 0)
    assert small.messages == len(before)

    # A runner is as far as it was: the recording goes on behind the summary.
    assert (await client.chat(session_id, last).result()).status == "completed"
    assert said(await whole(client, session_id)) == recorded.said


async def test_a_long_conversation_is_compacted_by_itself(stack: Deployment, client: Client) -> None:
    recorded = recording("airline-000-0")
    made = await client.create(
        "automatic",
        model=recorded.model,
        instructions="Be brief.",
        history_max_tokens=1500,
        history_keep_tail=2,
    )
    for text in recorded.users:
        assert (await client.chat(made.session_id, text).result()).status == "completed"
    assert said(await whole(client, made.session_id)) == recorded.said
    found = await runs_of(stack, made.session_id)
    assert found
    assert {type(event) for event in found} == {ev.HistoryCompacted}
    assert {event.trigger for event in found} == {"automatic"}
    ends = [event.to_seq for event in found]
    assert ends == sorted(ends)
    page = await client.history(made.session_id, skip_covered=True)
    assert (page.covered_to, page.summary) == (found[-1].to_seq, found[-1].summary)


async def test_a_session_says_that_its_next_turn_compacts_it(stack: Deployment, client: Client) -> None:
    session_id = (await client.create("needs", history_max_tokens=1000, history_keep_tail=2)).session_id
    new = await client.get(session_id)
    assert (new.needs_compaction, (new.context_tokens or 0) < 100) == (False, True)
    await client.chat(session_id, "word " * 2000, model="echo:?deltas=1").result()
    large = await client.get(session_id)
    assert large.needs_compaction
    assert (large.context_tokens or 0) > 1000
    assert await runs_of(stack, session_id) == []
    for _ in range(2):  # the second one can cover the first one's long answer too
        await client.chat(session_id, "Hi").result()
    small = await client.get(session_id)
    assert not small.needs_compaction
    assert (small.context_tokens or 0) < 1000
    assert {type(event) for event in await runs_of(stack, session_id)} == {ev.HistoryCompacted}
    assert len(await whole(client, session_id)) == 6


async def test_it_waits_for_the_running_turn(stack: Deployment, client: Client) -> None:
    session_id = (await client.create("waits", history_keep_tail=0)).session_id
    await client.chat(session_id, "Hello").result()
    async with client.chat(session_id, "go on", model=SLOW) as turn:
        async for reply in turn:
            if isinstance(reply.frame, TurnStarted):
                break
        asked = asyncio.ensure_future(client.compact(session_id, request_id="later"))

        async def accepted() -> bool:
            return [type(event) for event in await runs_of(stack, session_id)] == [ev.HistoryCompactionRequested]

        await eventually_async(accepted, "the request is accepted")
        retried = asyncio.ensure_future(client.compact(session_id, request_id="later"))
        assert (await client.get(session_id)).running_turn_id
        assert not asked.done()
        await client.cancel(session_id)
        done = await asked
    assert done.changed
    assert done.to_seq >= 2
    assert await retried == done
    kinds = [type(event) for event in await runs_of(stack, session_id)]
    assert kinds == [ev.HistoryCompactionRequested, ev.HistoryCompacted]


async def test_nothing_to_compact(stack: Deployment) -> None:
    with SyncClient(stack.settings) as client:
        client.chat("short", "Hello").result()
        done = client.compact("short")
        assert (done.summary, done.from_seq, done.to_seq, done.changed) == ("", 0, 0, False)
        assert not any(message.covered for message in client.messages("short"))
