"""Summaries that are brought, and names of who speaks: decided, shown to models, exported, fed and compared."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from tests.console_snapshot import make_snapshot
from tests.given import chat, given
from tests.one_partition import OnePartition
from tests.unit.test_feeding import Responder, complete, publish, talk, written
from turnlog.errors import SnapshotBehindError, UsageError
from turnlog.export.files import export_files
from turnlog.feed.comparison import compare
from turnlog.feed.conversations import Summary, read_conversations
from turnlog.feed.feeding import Feed
from turnlog.feed.plan import FeedOptions, FeedPlan, plan_feed
from turnlog.feed.verification import verify
from turnlog.runner import AssistantMessage, RunnerOutput, TurnInput
from turnlog.serve.openai.chat_body import read_chat_request
from turnlog.snapshot.history import Histories
from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_schemas.commands import Chat, CompactHistory, GetHistory, RequestHeader
from turnlog_schemas.errors import InvalidCommandError
from turnlog_schemas.parts import ToolOutput, Usage, text_content
from turnlog_schemas.request_checks import check_command
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.openai_format import openai_messages

HEADER = RequestHeader(session_id="s")


# ---- summaries


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (CompactHistory(summary="x"), "go together"),
        (CompactHistory(to_seq=3), "go together"),
        (CompactHistory(summary="x", to_seq=3, instructions="briefly"), "not asked"),
        (CompactHistory(summary=" \n", to_seq=3), "empty"),
        (CompactHistory(summary="x", to_seq=0), "from 1"),
        (Chat(content=text_content("Hi"), name=""), "no name"),
        (Chat(content=text_content("Hi"), name="Ann B."), "no name"),
        (Chat(content=text_content("Hi"), name="a" * 65), "no name"),
        (Chat(content=(), tool_outputs=(ToolOutput(call_id="c", output="1"),), name="Ann"), "no message of the user"),
    ],
)
def test_what_makes_no_sense_is_refused(command: CompactHistory | Chat, reason: str) -> None:
    with pytest.raises(InvalidCommandError, match=reason) as caught:
        check_command(HEADER, command)
    assert caught.value.code == "invalid_command"


async def test_a_summary_that_is_brought_is_recorded_at_once_and_shown_to_models() -> None:
    async with OnePartition() as world:
        for number in range(3):
            world.chat("s", f"s-{number}", f"question {number}")
            await world.answer(f"s-{number}", fr.TurnCompleted)
        models = len(world.made)
        given_summary = CompactHistory(summary="They asked twice.", to_seq=4)
        world.ask(given_summary, "given", session_id="s")
        frame = await world.answer("given", fr.HistoryCompacted)
        assert (frame.summary, frame.from_seq, frame.to_seq, frame.changed) == ("They asked twice.", 1, 4, True)
        assert (frame.tokens_before, frame.tokens_after, frame.usage) == (0, 0, Usage())
        (made,) = world.log.of(ev.HistoryCompacted)
        assert (made.method, made.trigger, made.model, made.history_seq) == ("given", "manual", None, 6)
        assert len(world.made) == models
        for again in (given_summary, CompactHistory(summary="Another.", to_seq=4)):
            world.sender.replies.clear()
            world.ask(again, "given", session_id="s")
            if again is given_summary:
                assert (await world.answer("given", fr.HistoryCompacted)).summary == "They asked twice."
            else:
                assert (await world.answer("given", fr.RequestRefused)).code == "conflict"
        for number, to_seq in enumerate((6, 99, 4, 2)):
            world.ask(CompactHistory(summary="x", to_seq=to_seq), f"no-{number}", session_id="s")
            assert (await world.answer(f"no-{number}", fr.RequestRefused)).code == "wrong_range"
        world.ask(CompactHistory(summary="x" * 300_000, to_seq=5), "long", session_id="s")
        assert (await world.answer("long", fr.RequestRefused)).code == "too_long"
        assert len(world.log.of(ev.HistoryCompacted)) == 1
        await world.take_over()
        world.chat("s", "s-3", "question 3")
        await world.answer("s-3", fr.TurnCompleted)
        world.ask(GetHistory(skip_covered=True), "page", session_id="s")
        page = await world.answer("page", fr.HistoryPage)
        assert (page.summary, [entry.message_seq for entry in page.messages]) == ("They asked twice.", [5, 6, 7, 8])


async def test_the_runner_that_knew_the_longer_history_is_replaced() -> None:
    async with OnePartition() as world:
        for number in range(2):
            world.chat("s", f"s-{number}", f"question {number}")
            await world.answer(f"s-{number}", fr.TurnCompleted)
        world.ask(CompactHistory(summary="They asked.", to_seq=2), "given", session_id="s")
        await world.answer("given", fr.HistoryCompacted)
        runners = len(world.made)
        world.chat("s", "s-2", "question 2")
        await world.answer("s-2", fr.TurnCompleted)
        assert len(world.made) == runners + 1
        shown = world.made[-1].given[-1].assembled
        assert [message.message_seq for message in shown][-3:] == [3, 4, 5]
        assert "They asked." in str(shown[0].content)


async def test_not_while_a_turn_is_open() -> None:
    go_on = asyncio.Event()

    async def second_waits(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        if turn.turn_number == 2:
            await go_on.wait()
        yield AssistantMessage(content=text_content("said"))

    async with OnePartition(play=second_waits) as world:
        world.chat("s", "s-0", "question 0")
        await world.answer("s-0", fr.TurnCompleted)
        world.chat("s", "s-1", "question 1")
        world.ask(CompactHistory(summary="x", to_seq=1), "given", session_id="s")
        assert (await world.answer("given", fr.RequestRefused)).code == "busy"
        go_on.set()
        await world.answer("s-1", fr.TurnCompleted)


# ---- names


def test_a_name_goes_with_its_message() -> None:
    asked = chat()
    scenario = given().when(replace(asked, chat=replace(asked.chat, name="Ann")))
    accepted, stored = (scenario.facts[at].event for at in (1, 3))
    assert isinstance(accepted, ev.TurnAccepted)
    assert isinstance(stored, ev.MessageStored)
    assert (accepted.name, stored.name) == ("Ann", "Ann")
    second = chat("2")
    scenario.when(replace(second, chat=replace(second.chat, name="Bob")))
    assert scenario.session.turns["t2"].name == "Bob"


def user(seq: int, text: str, name: str | None) -> HistoryMessage:
    return HistoryMessage(message_seq=seq, turn_id="t", role="user", content=text_content(text), name=name)


@pytest.mark.parametrize(
    ("names", "told"),
    [(("Ann", "Ann"), {"name": "Ann"}), (("Ann", "Bob"), {}), ((None, "Bob"), {}), (("Ann", None), {})],
)
def test_models_are_told_who_speaks(names: tuple[str | None, str | None], told: dict[str, str]) -> None:
    one, two = user(1, "a", names[0]), user(2, "b", names[1])
    alone = {"name": names[0]} if names[0] else {}
    assert openai_messages(None, [one]) == [{"role": "user", "content": "a", **alone}]
    assert openai_messages(None, [one, two]) == [{"role": "user", "content": "a\n\nb", **told}]


def test_the_gateway_takes_names() -> None:
    asked = [{"role": "user", "content": "a", "name": name} for name in ("Ann B.", "Ann", "Ann")]
    said = read_chat_request({"messages": asked}).said
    assert ([message.name for message in said.before], said.opening_name, said.name) == ([None, "Ann"], "Ann", None)
    assert read_chat_request({"messages": asked[1:]}).said.name == "Ann"


# ---- export, feed and compare

USER = {"role": "user", "content": "Hi", "name": "Ann"}
ANSWER = {"role": "assistant", "content": "x"}


def made_of(to_seq: int, summary: str = "They met.", from_seq: int = 1) -> dict[str, object]:
    return {"from_seq": from_seq, "to_seq": to_seq, "method": "model", "summary": summary}


def with_summaries(*summaries: dict[str, object]) -> dict[str, object]:
    return {**talk("a", USER, ANSWER, USER, ANSWER, USER, ANSWER), "history_compactions": list(summaries)}


def test_summaries_and_names_are_read_and_what_cannot_be_fed_is_said(tmp_path: Path) -> None:
    line = with_summaries(
        made_of(2, "An earlier one."),
        made_of(2),
        made_of(6),
        made_of(4, " "),
        made_of(3, from_seq=2),
        made_of(5, "They met again."),
    )
    file = read_conversations(written(tmp_path, line))
    (conversation,) = file.conversations
    assert conversation.summaries == (
        Summary(from_seq=1, to_seq=2, text="They met."),
        Summary(from_seq=1, to_seq=5, text="They met again."),
    )
    assert [message.name for message in conversation.user_messages] == ["Ann"] * 3
    places = ", ".join(f"history_compactions[{at}]" for at in (0, 2, 3, 4))
    assert file.not_stored_lines == (f"line 1: {places}",)
    other = plan_feed(written(tmp_path, line), FeedOptions(model="echo:"))
    assert other.file.conversations[0].summaries == ()
    assert other.file.not_stored == ("history_compactions",)
    with pytest.raises(UsageError, match=r"history_compactions\[0\].to_seq"):
        read_conversations(written(tmp_path, {**line, "history_compactions": [{"summary": "x"}]}))


class Summarised(Responder):
    """Takes summaries, too."""

    async def compact(self, session_id: str, *, summary: str, to_seq: int, request_id: str, **waits: float) -> None:
        self.requests.append((session_id, f"{summary} {to_seq} {request_id.rpartition('-a-')[2]}", None))


async def fed(tmp_path: Path) -> tuple[FeedPlan, Feed, Summarised]:
    line = with_summaries(made_of(2), made_of(5, "They met again."))
    plan = plan_feed(written(tmp_path, line), FeedOptions(verify_timeout_s=0.05))
    responder = Summarised(complete)
    feed = responder.feed(plan)
    await feed.run()
    return plan, feed, responder


async def test_each_summary_is_sent_once_the_message_behind_it_is_stored(tmp_path: Path) -> None:
    _, feed, responder = await fed(tmp_path)
    assert [said for _, said, _ in responder.requests] == [
        *("Hi", "Hi", "They met. 2 summary-2", "Hi", "They met again. 5 summary-5")
    ]
    new = responder.requests[0][2]
    assert new is not None
    assert new.history_max_tokens == -1
    assert len(feed.summarised) == 2


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("", []),
        ("UPDATE history_compactions SET summary = 'y' WHERE to_seq = 2", ["summary 1, text"]),
        ("UPDATE history_compactions SET to_seq = 4 WHERE to_seq = 5", ["summary 2, to_seq"]),
        ("UPDATE history_compactions SET status = 'failed' WHERE to_seq = 5", None),
        ("UPDATE messages SET name = 'Bob' WHERE message_seq = 3", ["message 3, name"]),
    ],
)
async def test_summaries_and_names_are_compared(tmp_path: Path, change: str, found: list[str] | None) -> None:
    plan, feed, _ = await fed(tmp_path)
    snapshot = tmp_path / "s.duckdb"
    publish(snapshot, plan)
    with duckdb.connect(str(snapshot)) as connection:
        connection.execute(
            "CREATE TABLE history_compactions (partition INT, log_offset INT, session_id TEXT, request_id TEXT, "
            "status TEXT, from_seq INT, to_seq INT, summary TEXT)"
        )
        for offset, summary in enumerate(plan.file.conversations[0].summaries):
            request_id = plan.summary_id(plan.file.conversations[0], summary.to_seq)
            connection.execute(
                "INSERT INTO history_compactions VALUES (0, ?, 'feed-a', ?, 'compacted', 1, ?, ?)",
                [offset, request_id, summary.to_seq, summary.text],
            )
        if change:
            connection.execute(change)
    if found is None:
        with pytest.raises(SnapshotBehindError, match="1 of the 5 turns that ended and summaries"):
            await verify(plan, feed, snapshot)
        return
    report = await verify(plan, feed, snapshot)
    assert [mismatch.where for mismatch in report.mismatches] == found


def test_an_exported_summary_counts_the_messages_of_its_line(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "snapshot.duckdb", marked=False)
    with duckdb.connect(str(snapshot)) as connection:
        connection.execute("UPDATE internal.messages SET tool_call_id = 'call-1' WHERE role = 'tool'")
        connection.execute("UPDATE internal.messages SET name = 'Ann' WHERE role = 'user'")
        connection.execute("UPDATE internal.messages SET turn_id = 't-0-8' WHERE message_seq = 1")
    export_files(snapshot, tmp_path / "out", "openai")
    (path,) = tmp_path.glob("out/conversations/*/current.jsonl")
    (conversation,) = read_conversations(path).conversations
    summary = Summary(from_seq=1, to_seq=3, text="They ask for *order 17*.")
    assert conversation.summaries == (summary,)
    assert {message.name for message in conversation.user_messages} == {"Ann"}
    stored = Histories(snapshot, ["web-1"]).messages("web-1")
    assert compare(conversation, None, stored, summaries=(summary,), title=conversation.title) == []
    with duckdb.connect(str(snapshot)) as connection:
        connection.execute("UPDATE internal.turns SET hidden = true WHERE turn_id = 't-0-8'")
    export_files(snapshot, tmp_path / "out", "openai")
    hidden = json.loads(path.read_text())
    assert [message["role"] for message in hidden["messages"]] == ["assistant", "tool", "assistant"]
    assert [(made["from_seq"], made["to_seq"]) for made in hidden["history_compactions"]] == [(1, 2)]
