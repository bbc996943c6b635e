"""The session API on a real broker with three workers: lifecycle, turn control, and what its answers promise."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.deployment import Deployment, eventually_async
from tests.waiting import until
from turnlog import (
    ChatTurn,
    Client,
    RequestConflictError,
    RequestRefusedError,
    SessionArchivedError,
    SessionBusyError,
    SessionInfo,
    SessionNotFoundError,
    SyncClient,
    UsageError,
)
from turnlog_schemas import events as ev
from turnlog_schemas.events import CHANNEL
from turnlog_schemas.frames import Frame, TextDelta, ToolCallStarted, TurnAccepted, TurnStarted
from turnlog_schemas.parts import NewSession, content_text
from turnlog_streams.turn import INTERRUPTED_TEXT
from turnlog_workers.devstack.broker import DevBroker

SLOW = "script:slow?tools=0&words=2000&delta_ms=20"  #: 40 s, if nobody ends it
SHORT = "script:short?tools=0&words=60&delta_ms=20"


@pytest.fixture(scope="module")
def stack(broker: DevBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Three workers that share six partitions."""
    with Deployment(broker.bootstrap_server, tmp_path_factory.mktemp("api"), partitions=6) as deployment:
        deployment.make_topics()
        workers = [deployment.worker(f"w{number}") for number in range(3)]
        for worker in workers:
            until(lambda worker=worker: worker.ready, f"{worker.name} is ready", 60.0)  # type: ignore[misc]
        yield deployment
        assert all(worker.running for worker in workers)


@pytest.fixture
async def client(stack: Deployment) -> AsyncIterator[Client]:
    async with Client(stack.settings) as client:
        yield client


async def said(client: Client, session_id: str) -> list[tuple[str, str | None]]:
    """Role and text of each message."""
    return [(message.role, content_text(message.content)) async for message in client.messages(session_id)]


async def until_frame(turn: ChatTurn, kind: type[Frame], count: int = 1) -> None:
    """Follow a turn until the count-th frame of a kind."""
    async for reply in turn:
        if isinstance(reply.frame, kind):
            count -= 1
            if count == 0:
                return
    raise AssertionError(f"the turn ended without that {kind.__name__}")


async def channel_events(stack: Deployment, channel: str) -> list[ev.Event]:
    """What the log holds of a channel."""
    found = [event for events in (await stack.accepted()).values() for event in events]
    return [e.payload for e in found if (e.header.stream_kind, e.header.stream_id) == (CHANNEL, channel)]


# ---- reading what was written


async def test_what_was_written_is_read(client: Client) -> None:
    made = await client.create("ryw", title="Mine", instructions="Be brief.", model="echo:", metadata={"team": "a"})
    assert made.created
    assert made.active
    assert (made.channel, made.session_id.rpartition("-")[0]) == ("ryw", "ryw")
    for number in range(3):
        await client.chat(made.session_id, f"number {number}").result()
        found = await client.get(made.session_id)
        assert (found.messages, found.turns, found.running_turn_id, found.queued_turns) == (
            2 * number + 2,
            number + 1,
            None,
            0,
        )
    assert (found.title, found.instructions, found.model) == ("Mine", "Be brief.", "echo:")
    assert found.metadata == {"team": "a"}
    assert (found.channel, found.archived, found.active) == ("ryw", False, True)
    assert await said(client, made.session_id) == [
        (role, f"number {number}") for number in range(3) for role in ("user", "assistant")
    ]


async def test_a_history_comes_in_pages_by_message_number(client: Client) -> None:
    for number in range(4):
        await client.chat("paged", f"n{number}", request_id=f"paged-{number}").result()
    first = await client.history("paged", limit=3)
    assert [message.message_seq for message in first.messages] == [1, 2, 3]
    assert first.next_after == 3
    rest = await client.history("paged", after=3)
    assert [message.message_seq for message in rest.messages] == [4, 5, 6, 7, 8]
    assert rest.next_after is None
    assert (await client.history("paged", after=8)).messages == ()
    seqs = [message.message_seq async for message in client.messages("paged", after=1, page=2)]
    assert seqs == list(range(2, 9))


async def test_a_page_of_long_messages_fits_into_a_frame(client: Client) -> None:
    long = "x" * 200_000
    for number in range(14):  # twice that: 5.6 MB, and a frame has room for less
        await client.chat("long", long, request_id=f"long-{number}", model="echo:?deltas=1").result()
    page = await client.history("long", limit=1000)
    assert page.next_after is not None
    assert len([message async for message in client.messages("long", page=1000)]) == 28


async def test_what_does_not_exist_is_not_found(client: Client) -> None:
    for asked in (
        client.get("nobody"),
        client.history("nobody"),
        client.reset_runner("nobody"),
        client.archive("nobody"),
        client.archive("nobody", "nowhere"),
        client.cancel("nobody"),
        client.active("nowhere"),
    ):
        with pytest.raises(SessionNotFoundError):
            await asked
    with pytest.raises(UsageError, match="channel"):
        await client.resolve("no blanks")


# ---- lifecycle


async def test_fifty_resolves_of_a_new_channel_give_one_session(stack: Deployment) -> None:
    async with Client(stack.settings) as one, Client(stack.settings) as two:
        asked = [(one, two)[number % 2].resolve("crowd", title=f"by {number}") for number in range(50)]
        found = await asyncio.gather(*asked)
    assert len({info.session_id for info in found}) == 1
    assert [info.created for info in found].count(True) == 1
    assert all(info.title is None for info in found if not info.created), "somebody may have changed it since"
    opened = [e for e in await channel_events(stack, "crowd") if isinstance(e, ev.ChannelSessionOpened)]
    assert len(opened) == 1


async def test_the_active_session_is_the_one_opened_last_whoever_chats(client: Client) -> None:
    first = (await client.create("act")).session_id
    second = (await client.create("act", session_id="act-mine")).session_id
    assert second == "act-mine"
    assert (await client.active("act")).session_id == second
    assert not (await client.get(first)).active
    assert (await client.resolve("act")).session_id == second

    await client.chat(first, "I am still here").result()  # changes nothing
    assert (await client.active("act")).session_id == second
    chatted = await client.chat("act-chat", "Hi", new_session=NewSession(channel="act")).result()

    async def opened() -> bool:
        return (await client.active("act")).session_id == chatted.session_id

    await eventually_async(opened, "the session that a chat opened is the active one")
    assert (await client.archive("act-chat")).channel == "act"
    assert (await client.active("act")).session_id == second
    assert (await client.archive(second, "act")).archived
    assert (await client.active("act")).session_id == first
    assert not (await client.resolve("act")).created

    async def heard() -> bool:
        return bool((await client.get(first)).active)

    await eventually_async(heard, "it heard that it is the active one again")
    await client.archive(first, "act")
    with pytest.raises(SessionNotFoundError, match="no active session"):
        await client.active("act")
    third = await client.resolve("act")
    assert third.created
    assert third.session_id not in (first, second)


async def test_a_session_of_no_channel_is_archived_by_its_id(client: Client) -> None:
    """However its id is spelled."""
    await client.chat("lone-0123abcd", "Hi").result()
    info = await client.get("lone-0123abcd")
    assert (info.channel, info.active, info.archived) == (None, None, False)
    with pytest.raises(SessionNotFoundError):
        await client.active("lone")
    with pytest.raises(SessionNotFoundError):
        await client.archive("lone-0123abcd", "lone")
    archived = await client.archive("lone-0123abcd", request_id="bye")
    assert (archived.channel, archived.active, archived.archived) == (None, None, True)
    assert await client.archive("lone-0123abcd", request_id="bye") == archived
    with pytest.raises(SessionArchivedError):
        await client.chat("lone-0123abcd", "Hi again").result()


async def test_rotating_under_a_running_turn(client: Client) -> None:
    old = (await client.resolve("rot")).session_id
    async with client.chat(old, "go on", model=SHORT) as turn:
        await until_frame(turn, TextDelta)
        new = await client.rotate("rot", title="Next")
        assert new.created
        assert new.session_id != old
        assert (await client.active("rot")).session_id == new.session_id
        with pytest.raises(SessionArchivedError):
            await client.chat(old, "one more").result()
        ended = await turn.result()
    assert ended.status == "completed"
    kept = await client.get(old)
    assert kept.archived
    assert (kept.messages, kept.running_turn_id) == (2, None)
    assert (await client.active("rot")).session_id == new.session_id
    assert (await said(client, old))[-1] == ("assistant", ended.text)


async def test_archiving_cancels_what_is_queued(client: Client) -> None:
    session_id = (await client.create("arc")).session_id
    async with client.chat(session_id, "first", model=SHORT) as running:
        await until_frame(running, TurnStarted)
        async with client.chat(session_id, "second") as queued:
            await until_frame(queued, TurnAccepted)
            await client.archive(session_id)
            cancelled = await queued.result()
        assert (cancelled.status, cancelled.text) == ("cancelled", "")
        assert "archived" in cancelled.reason
        assert (await running.result()).status == "completed"
    assert [text for role, text in await said(client, session_id) if role == "user"] == ["first"]
    again = await client.archive(session_id)  # archiving what is archived changes nothing
    assert again.archived


async def test_a_chat_creates_its_session_in_the_channel_that_it_names(client: Client) -> None:
    new = NewSession(channel="told")
    await client.chat("some.id", "  What   is a log? ", new_session=new).result()
    info = await client.get("some.id")
    assert (info.channel, info.title) == ("told", "What is a log?")

    async def known() -> bool:
        try:
            return (await client.active("told")).session_id == "some.id"
        except SessionNotFoundError:
            return False

    await eventually_async(known, "the channel knows its session")
    assert (await client.resolve("told")).session_id == "some.id"


async def test_a_session_id_belongs_to_one_channel(client: Client) -> None:
    before = await client.create("one", title="Before")
    await client.create("two", session_id="wanted")
    for _ in range(2):
        with pytest.raises(RequestRefusedError, match="exists") as refused:
            await client.create("one", session_id="wanted", request_id="want")
        assert refused.value.code == "exists"
    assert (await client.active("one")).session_id == before.session_id
    assert (await client.get("wanted")).channel == "two"
    assert (await client.active("two")).session_id == "wanted"

    asked = [client.create(f"race-{number}", session_id="prize") for number in range(6)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    (winner,) = [answer for answer in answers if isinstance(answer, SessionInfo)]
    assert (await client.get("prize")).channel == winner.channel
    assert sum(isinstance(answer, RequestRefusedError) and answer.code == "exists" for answer in answers) == 5


async def test_a_session_without_a_title_gets_one_from_its_first_message(client: Client) -> None:
    session_id = (await client.create("untitled")).session_id
    await client.chat(session_id, "a message that is so long that no title would want to have all of it").result()
    title = (await client.get(session_id)).title or ""
    assert title.endswith("…")
    assert 20 < len(title) <= 61


async def test_the_same_key_gives_the_first_answer_and_another_request_is_a_conflict(client: Client) -> None:
    made = await client.create("key", title="A", request_id="k1")
    assert await client.create("key", title="A", request_id="k1") == made
    with pytest.raises(RequestConflictError):
        await client.create("key", title="B", request_id="k1")
    with pytest.raises(RequestConflictError):
        await client.rotate("key", request_id="k1")
    rotated = await client.rotate("key", request_id="k2")
    assert (await client.rotate("key", request_id="k2")).session_id == rotated.session_id
    assert (await client.active("key")).session_id == rotated.session_id
    with pytest.raises(RequestRefusedError, match="exists"):
        await client.create("key", session_id=made.session_id)
    with pytest.raises(RequestRefusedError, match="model_not_allowed"):
        await client.create("key", model="openai:gpt")


# ---- turn control


async def test_cancelling_the_running_turn_keeps_what_it_said(stack: Deployment, client: Client) -> None:
    async with client.chat("cancel-1", "talk", model=SLOW) as turn:
        await until_frame(turn, TextDelta, 3)
        cancelled = await client.cancel("cancel-1", request_id="stop")
        ended = await turn.result()
    assert (ended.status, cancelled.status) == ("cancelled", "cancelled")
    assert ended.turn_id == cancelled.turn_id
    assert ended.text == cancelled.text != ""
    assert ended.text.startswith(turn.view.text)
    assert await client.cancel("cancel-1", request_id="stop") == cancelled, "a retry gets the first answer"
    with pytest.raises(RequestRefusedError, match="not_running"):
        await client.cancel("cancel-1")
    assert await said(client, "cancel-1") == [("user", "talk"), ("assistant", ended.text)]
    (last,) = [m async for m in client.messages("cancel-1", after=1)]
    assert last.interrupted
    terminal = [e.payload for e in await stack.events_of("cancel-1") if isinstance(e.payload, ev.TurnCancelled)]
    assert [event.by and event.by.request_id for event in terminal] == ["stop"]
    assert (await client.chat("cancel-1", "again", model="echo:").result()).text == "again"


async def test_cancelling_leaves_no_tool_call_without_a_result(client: Client) -> None:
    async with client.chat("cancel-2", "work", model="script:t?tools=1&tool_ms=60000") as turn:
        await until_frame(turn, ToolCallStarted)
        assert (await client.cancel("cancel-2")).status == "cancelled"
        assert (await turn.result()).status == "cancelled"
    messages = [message async for message in client.messages("cancel-2")]
    assert [message.role for message in messages] == ["user", "assistant", "tool"]
    assert messages[2].interrupted
    assert content_text(messages[2].content) == INTERRUPTED_TEXT
    assert messages[2].tool_call_id == messages[1].tool_calls[0].call_id


async def test_cancelling_a_queued_turn_leaves_the_running_one_alone(client: Client) -> None:
    async with client.chat("cancel-3", "first", model=SHORT) as running:
        await until_frame(running, TurnStarted)
        async with client.chat("cancel-3", "second") as queued, client.chat("cancel-3", "third") as last:
            await until_frame(queued, TurnAccepted)
            await until_frame(last, TurnAccepted)
            assert (await client.get("cancel-3")).queued_turns == 2
            cancelled = await client.cancel("cancel-3", queued.view.turn_id)
            assert cancelled.turn_id == queued.view.turn_id
            assert (await queued.result()).status == "cancelled"
            assert (await running.result()).status == "completed"
            assert (await last.result()).text == "third"
    users = [text for role, text in await said(client, "cancel-3") if role == "user"]
    assert users == ["first", "third"], "a turn that never started left no message"


async def test_what_a_busy_session_does(client: Client) -> None:
    async with client.chat("busy-1", "first", model=SLOW) as running, client.chat("busy-1", "second") as queued:
        await until_frame(running, TextDelta)
        await until_frame(queued, TurnAccepted)
        with pytest.raises(SessionBusyError, match="2 turns"):
            await client.chat("busy-1", "not now", on_busy="reject").result()
        newest = await client.chat("busy-1", "listen", on_busy="interrupt").result()
        assert newest.text == "listen"
        stopped, never = await running.result(), await queued.result()
    assert (stopped.status, never.status) == ("cancelled", "cancelled")
    assert stopped.text != ""
    assert never.text == ""
    assert await said(client, "busy-1") == [
        ("user", "first"),
        ("assistant", stopped.text),
        ("user", "listen"),
        ("assistant", "listen"),
    ]
    assert (await client.chat("busy-1", "calm", on_busy="reject").result()).text == "calm"


async def test_the_model_of_a_request_is_its_own(client: Client) -> None:
    session_id = (await client.create("models", model="script:own?tools=0&words=3")).session_id
    models = []
    for model in (None, "echo:", None):
        turn = client.chat(session_id, "hello", model=model)
        models.append(await turn.result())
        assert turn.view.model == (model or "script:own?tools=0&words=3")
    assert models[1].text == "hello"
    assert models[0].text != "hello" != models[2].text
    assert (await client.get(session_id)).model == "script:own?tools=0&words=3"


async def test_what_a_turn_cost_is_told(stack: Deployment, client: Client) -> None:
    turn = await client.chat("cost-1", "count me", model="script:c?tools=2&words=9").result()
    assert turn.usage.input_tokens > 0 < turn.usage.output_tokens
    assert turn.usage.model_calls == 3
    failed = await client.chat("cost-1", "and me", model="script:c?fatal=true").result()
    assert (failed.status, failed.code) == ("failed", "scripted_failure")
    ended = [
        e.payload for e in await stack.events_of("cost-1") if isinstance(e.payload, ev.TurnCompleted | ev.TurnFailed)
    ]
    assert [type(event) for event in ended] == [ev.TurnCompleted, ev.TurnFailed]
    assert ended[0].usage == turn.usage
    assert all(event.duration_ms >= 0 for event in ended)


# ---- without await


async def test_the_client_without_await_works_beside_a_running_loop(stack: Deployment) -> None:
    """As in a notebook, whose own loop runs in the thread that calls."""
    with SyncClient(stack.settings) as client:
        session_id = client.resolve("sync", title="S").session_id
        with client.chat(session_id, "one two three", model="echo:") as turn:
            kinds = [type(reply.frame).__name__ for reply in turn]
            assert turn.result().text == "one two three"
        assert kinds[0] == "TurnAccepted"
        assert kinds[-1] == "TurnCompleted"
        assert client.get(session_id).messages == 2
        assert [message.role for message in client.messages(session_id)] == ["user", "assistant"]
        with client.chat(session_id, "go on", model=SLOW) as turn:
            for reply in turn:
                if isinstance(reply.frame, TextDelta):
                    assert client.cancel(session_id).status == "cancelled"
                    break
            assert turn.result().status == "cancelled"
        with client.follow(session_id, from_position="beginning") as replies:
            assert next(iter(replies)).header.session_id == session_id
        assert client.rotate("sync").session_id != session_id
        with pytest.raises(SessionArchivedError):
            client.chat(session_id, "late").result()
