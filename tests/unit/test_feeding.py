"""Reading recordings, feeding them to something that answers, and comparing what was stored."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnlog.client.async_client import Client
from turnlog.client.chat_turn import ChatTurn
from turnlog.client.exchange import Exchange
from turnlog.client.replies import Position, ReplyFrame
from turnlog.client.request_sender import PreparedRequest
from turnlog.errors import (
    BrokerUnreachableError,
    NotFoundError,
    SnapshotBehindError,
    TurnlogError,
    TurnTimedOutError,
    UsageError,
)
from turnlog.feed.comparison import compare
from turnlog.feed.conversations import Conversation, read_conversations
from turnlog.feed.feeding import Feed
from turnlog.feed.plan import FeedOptions, FeedPlan, FeedProgress, plan_feed
from turnlog.feed.verification import verify
from turnlog_schemas.frames import (
    Frame,
    FrameHeader,
    RequestRefused,
    TextDelta,
    TurnAccepted,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
)
from turnlog_schemas.parts import ContentPart, NewSession, ToolCall, Usage, content_text
from turnlog_streams.projection.rows import (
    MESSAGES,
    SESSIONS,
    TOOL_CALLS,
    TURNS,
    MessageRow,
    SessionRow,
    ToolCallRow,
    TurnRow,
)
from turnlog_streams.table_types import MOMENT, Json, Millis, Table, columns_of
from turnlog_workers.runners.recordings import Message, Recordings

USER = {"role": "user", "content": "Hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{ "at":1}'}}
UNTIDY = [
    {"role": "system", "content": "Be kind."},
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "", "tool_call_id": "c1", "name": "look"},
    {"role": "tool", "content": "two", "tool_call_id": "c1"},
    {"role": "assistant", "content": "", "tool_calls": None},
    {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "text", "text": " now?"}]},
]


def written(path: Path, *lines: object) -> Path:
    file = path / "talks.jsonl"
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return file


def talk(conversation_id: object, *messages: object) -> dict[str, object]:
    return {"id": conversation_id, "messages": list(messages)}


def one(tmp_path: Path, *messages: object) -> Conversation:
    (conversation,) = read_conversations(written(tmp_path, talk("a", *messages))).conversations
    return conversation


# ---- reading


def test_a_recording_is_read_as_it_is(tmp_path: Path) -> None:
    conversation = one(tmp_path, *UNTIDY)
    call = ToolCall(call_id="c1", name="look", arguments='{ "at":1}')
    assert conversation.session_id == "feed-a"
    assert conversation.instructions == "Be kind."
    assert conversation.messages == (
        Message(role="user", content=(ContentPart(text="Hi"),)),
        Message(role="assistant", content=None, tool_calls=(call, call)),
        Message(role="tool", content=(ContentPart(text=""),), tool_call_id="c1", name="look"),
        Message(role="tool", content=(ContentPart(text="two"),), tool_call_id="c1"),
        Message(role="assistant", content=(ContentPart(text=""),)),
        Message(role="user", content=(ContentPart(text="And"), ContentPart(text=" now?"))),
    )
    assert [[message.role for message in turn] for turn in conversation.turns] == [
        ["user", "assistant", "tool", "tool", "assistant"],
        ["user"],
    ]


def test_ids_may_be_numbers_lines_may_be_empty_and_the_digest_is_of_the_bytes(tmp_path: Path) -> None:
    path = written(tmp_path, talk(7, USER), "", talk("b", USER))
    file = read_conversations(path)
    assert [conversation.conversation_id for conversation in file.conversations] == ["7", "b"]
    assert [conversation.line for conversation in file.conversations] == [1, 3]
    assert file.conversations[0].instructions is None
    path.write_bytes(path.read_bytes() + b"\n")
    assert read_conversations(path).digest != file.digest


def test_keys_that_no_history_keeps_are_told(tmp_path: Path) -> None:
    user = {**USER, "name": "Ann B.", "refusal": None}
    answer = {"role": "assistant", "content": "x", "refusal": None, "audio": {"id": "1"}}
    assert read_conversations(written(tmp_path, talk("a", user, answer))).not_stored == ("audio", "name")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 2: Invalid JSON"),
        ("[]", "line 2: Input should be an object"),
        ({"id": "b", "messages": ["x"]}, r"line 2: messages\[0\]: Input should be an object"),
        (talk("b"), "line 2: the conversation has no user message"),
        (talk("b", {"role": "system", "content": "x"}), "no user message"),
        ({"id": 1.5, "messages": [USER]}, "line 2: its id is neither a text nor a whole number"),
        ({"text": "x"}, "line 2: messages: Field required"),
        (talk("a", USER), "line 2: the id 'a' is that of line 1 too"),
        (talk("a b", USER), "line 2: the id 'a b' cannot be part of a session id"),
        (talk("x" * 124, USER), "cannot be part of a session id: at most 123 characters"),
        (talk("b", USER, {"role": "system", "content": "x"}), r"messages\[1\]: a system or developer message can only"),
        (talk("b", {"role": "user", "content": " \n"}), r"messages\[0\]: the user's message is empty"),
        (talk("b", {"role": "user", "content": None}), r"messages\[0\]: the user's message is empty"),
        (talk("b", USER, {"role": "tool", "content": "x"}), r"messages\[1\]: the tool message has no tool_call_id"),
        (talk("b", {**USER, "tool_calls": [CALL]}), r"messages\[0\]: a user message has no tool_calls"),
        (talk("b", USER, {"role": "function", "content": "x"}), r"messages\[1\]: a function's answer without a call"),
        (
            talk("b", USER, {"role": "assistant", "tool_calls": [{"id": "1"}]}),
            r"messages\[1\].tool_calls\[0\].function",
        ),
        (talk("b", {"role": "narrator", "content": "x"}), r"messages\[0\].role: Input should be 'system'"),
        (
            talk("b", {"role": "user", "content": [{"type": "image_url"}]}),
            r"messages\[0\].content\[0\]: a part of type 'image_url' is neither",
        ),
        ({"conversations": [{"from": "ghost", "value": "x"}]}, r"conversations\[0\]: nobody is called 'ghost'"),
        (
            {"conversations": [{"from": "function_call", "value": "x"}]},
            r"conversations\[0\]: the value of a function_call",
        ),
        ('{"id": "b", "messages": [{"role": "user", "content": "\\ud800"}]}', "line 2: Invalid JSON: .*hex escape"),
    ],
)
def test_odd_shapes_get_a_clear_sentence(tmp_path: Path, line: object, sentence: str) -> None:
    path = written(tmp_path, talk("a", USER), line)
    with pytest.raises(UsageError, match=sentence):
        read_conversations(path)


OLD_CALL = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": '{ "at":1}'}}
MADE = ToolCall(call_id="call-2", name="look", arguments='{ "at":1}')
LOOKED = (
    Message(role="user", content=(ContentPart(text="Hi"),)),
    Message(role="assistant", content=None, tool_calls=(MADE,)),
    Message(role="tool", content=(ContentPart(text="two"),), tool_call_id="call-2", name="look"),
    Message(role="assistant", content=(ContentPart(text="Two."),)),
)
ANSWER = {"role": "assistant", "content": "Two."}
SHAREGPT = [
    {"from": "human", "value": "Hi"},
    {"from": "function_call", "value": '{"name": "look", "arguments": "{ \\"at\\":1}"}'},
    {"from": "observation", "value": "two", "name": "look"},
    {"from": "gpt", "value": "Two."},
]


@pytest.mark.parametrize(
    "line",
    [
        {"messages": [{"role": "system", "content": "Be kind."}, USER, OLD_CALL]},
        {"messages": [{"role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]}, USER, OLD_CALL]},
        {"system": "Be kind.", "conversations": SHAREGPT},
        {"conversations": [{"from": "system", "value": "Be kind."}, *SHAREGPT]},
        [{"role": "system", "content": "Be kind."}, USER, OLD_CALL],
    ],
)
def test_other_forms_are_read_alike_here_and_by_the_model_that_replays_them(tmp_path: Path, line: Any) -> None:
    for messages in (line, line.get("messages", ()) if isinstance(line, dict) else ()):
        if isinstance(messages, list):
            messages += [{"role": "function", "name": "look", "content": "two"}, ANSWER]
    path = written(tmp_path, talk("a", USER), line)
    _, found = read_conversations(path).conversations
    assert (found.instructions, found.messages) == ("Be kind.", LOOKED)
    assert re.fullmatch("line2-[0-9a-f]{12}", found.conversation_id)
    replayed = Recordings().messages(str(path), found.conversation_id)
    assert tuple(message for message in replayed if message.role != "system") == LOOKED


def test_a_session_begins_with_what_stands_before_the_first_question(tmp_path: Path) -> None:
    hello = {"role": "assistant", "content": "Hello!", "name": "Bo"}
    begun = one(tmp_path, {"role": "system", "content": "A"}, {"role": "developer", "content": "B"}, hello, USER)
    assert begun.instructions == "A\n\nB"
    assert begun.opening == (Message(role="assistant", content=(ContentPart(text="Hello!"),), name="Bo"),)
    assert [len(turn) for turn in begun.turns] == [1]


def test_what_is_not_stored_is_said_by_line_and_bad_lines_are_left_out_when_asked(tmp_path: Path) -> None:
    odd = {"messages": [{**USER, "name": "Ann B."}, {**ANSWER, "weight": 0}], "tools": [], "parallel_tool_calls": False}
    path = written(tmp_path, talk("a", USER), odd, talk("b"), "{")
    with pytest.raises(UsageError, match=r"line 3: .*no user message; line 4: Invalid JSON.*--skip feeds the others"):
        read_conversations(path)
    file = read_conversations(path, skip=True)
    assert [conversation.line for conversation in file.conversations] == [1, 2]
    assert file.not_stored_lines == ("line 2: tools, parallel_tool_calls, messages[0].name, messages[1].weight",)
    assert [line.partition(":")[0] for line in file.left_out] == ["line 3", "line 4"]
    with pytest.raises(UsageError, match="one JSON array, make it lines: jq"):
        read_conversations(written(tmp_path, [talk("a", USER), talk("b", USER)]))


def test_a_title_of_the_file_is_compared(tmp_path: Path) -> None:
    (titled,) = read_conversations(written(tmp_path, {**talk("a", USER), "title": "Order"})).conversations
    assert compare(titled, None, titled.messages, title="Order") == []
    assert [each.where for each in compare(titled, None, titled.messages, title="")] == ["title"]


def test_files_that_are_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"cannot read .*none.jsonl: No such file"):
        read_conversations(tmp_path / "none.jsonl")
    with pytest.raises(NotFoundError, match="Is a directory"):
        read_conversations(tmp_path)
    with pytest.raises(UsageError, match="has no conversation"):
        read_conversations(written(tmp_path, "", ""))


# ---- comparing


def test_a_history_that_is_the_recording_has_no_mismatch(tmp_path: Path) -> None:
    conversation = one(tmp_path, *UNTIDY)
    assert compare(conversation, "Be kind.", conversation.messages) == []


def changed(messages: Sequence[Message], index: int, **fields: Any) -> list[Message]:
    return [replace(message, **fields) if at == index else message for at, message in enumerate(messages)]


def test_every_difference_is_found_and_said(tmp_path: Path) -> None:
    conversation = one(tmp_path, *UNTIDY)
    messages = conversation.messages
    call, other = messages[1].tool_calls[0], ToolCall(call_id="c1", name="look", arguments='{"at":1}')

    def differences(history: Sequence[Message] | None, instructions: str | None = "Be kind.") -> list[str]:
        found = compare(conversation, instructions, history)
        return [f"{each.where}: {each.recorded} / {each.stored}" for each in found]

    assert differences(changed(messages, 1, content=(ContentPart(text=""),))) == ['message 2, content: null / ""']
    assert differences(changed(messages, 4, content=None)) == ['message 5, content: "" / null']
    assert differences(changed(messages, 1, tool_calls=(call, other))) == [
        'message 2, tool_calls[1].arguments: "{ \\"at\\":1}" / "{\\"at\\":1}"'
    ]
    assert differences(changed(messages, 1, tool_calls=(call,))) == ["message 2, number of tool_calls: 2 / 1"]
    assert differences(changed(messages, 2, name=None)) == ['message 3, name: "look" / null']
    assert differences(changed(messages, 3, tool_call_id="c2")) == ['message 4, tool_call_id: "c1" / "c2"']
    assert differences(changed(messages, 5, content=(ContentPart(text="And now?"),))) == [
        'message 6, content: ["And", " now?"] / "And now?"'
    ]
    assert differences(messages[:-1]) == ["message 6: a message of role 'user' / nothing"]
    assert differences([*messages, messages[0]]) == ["message 7: nothing / a message of role 'user'"]
    assert differences(messages, None) == ['instructions: "Be kind." / null']
    assert differences(None) == ["the session: it is / no such session"]
    swapped = [messages[0], messages[1], messages[3], messages[2], *messages[4:]]
    assert len(differences(swapped)) == 4


TEXTS = st.text(st.characters(codec="utf-8"), max_size=5)
CONTENTS = st.none() | TEXTS.map(lambda text: (ContentPart(text=text),))
CALLS = st.builds(ToolCall, call_id=TEXTS, name=TEXTS, arguments=TEXTS)
MESSAGE_LISTS = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["user", "assistant", "tool"]),
        content=CONTENTS,
        tool_calls=st.lists(CALLS, max_size=2).map(tuple),
        tool_call_id=st.none() | TEXTS,
        name=st.none() | TEXTS,
    ),
    max_size=4,
).map(tuple)


@given(MESSAGE_LISTS, MESSAGE_LISTS)
def test_no_mismatch_means_equal(recorded: tuple[Message, ...], stored: tuple[Message, ...]) -> None:
    conversation = Conversation(conversation_id="a", line=1, instructions=None, messages=recorded)
    assert (compare(conversation, None, stored) == []) == (recorded == stored)
    assert compare(conversation, None, recorded) == []


# ---- planning


def test_models_and_request_ids_come_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, talk("a", USER, USER), talk("b", USER))
    plan = plan_feed(Path("talks.jsonl"), FeedOptions())
    first, second = plan.file.conversations
    assert plan.is_recorded
    assert plan.model(first) == f"recorded:{tmp_path}/talks.jsonl#a"
    assert plan.request_id(first, 2) == f"feed-{plan.file.digest[:32]}-a-2"
    plan = plan_feed(Path("talks.jsonl"), FeedOptions(model="recorded:../other.jsonl", delta_ms=20))
    assert plan.model(second) == f"recorded:{tmp_path.parent}/other.jsonl#b?delta_ms=20"
    plan = plan_feed(Path("talks.jsonl"), FeedOptions(model="echo:"))
    assert plan.model(first) == "echo:"
    assert not plan.is_recorded


@pytest.mark.parametrize(
    "options",
    [
        FeedOptions(model="recorded:x.jsonl#a"),
        FeedOptions(model="recorded:"),
        FeedOptions(model="echo:", delta_ms=5),
        FeedOptions(delta_ms=-1),
        FeedOptions(concurrency=0),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_sent(tmp_path: Path, options: FeedOptions) -> None:
    with pytest.raises(UsageError):
        plan_feed(written(tmp_path, talk("a", USER)), options)


# ---- feeding

Answer = Callable[["Responder", ChatTurn], Awaitable[None]]


@dataclass
class Responder:
    """Stands for client, broker and workers: each request is answered by ``answer``."""

    answer: Answer
    requests: list[tuple[str, str, NewSession | None]] = field(default_factory=list)
    sends: int = 0
    failure: TurnlogError | None = None
    running: dict[str, Exchange] = field(default_factory=dict)
    most_running: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def chat(
        self,
        session_id: str,
        content: tuple[ContentPart, ...],
        *,
        request_id: str,
        new_session: NewSession | None,
        name: str | None,
        timeout_s: float,
        resend_after_s: float,
    ) -> ChatTurn:
        self.requests.append((session_id, content_text(content), new_session))
        return ChatTurn(
            PreparedRequest(key=session_id, request_id=request_id, value=b"", headers=()),
            self,
            timeout_s=timeout_s,
            resend_after_s=resend_after_s,
            max_buffered_frames=100,
        )

    async def register(self, exchange: Exchange) -> None:
        assert exchange.key not in self.running, "one turn at a time"
        self.running[exchange.key] = exchange
        self.most_running = max(self.most_running, len(self.running))

    def unregister(self, exchange: Exchange) -> None:
        self.running.pop(exchange.key, None)

    async def send(self, request: PreparedRequest) -> Position:
        self.sends += 1
        task = asyncio.create_task(self._answer(cast(ChatTurn, self.running[request.key])))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Position(partition=0, offset=self.sends)

    async def _answer(self, turn: ChatTurn) -> None:
        await self.answer(self, turn)

    def feed(self, plan: FeedPlan, on_progress: Callable[[FeedProgress], None] = lambda progress: None) -> Feed:
        return Feed(plan, cast(Client, self), on_progress)


def frames(turn: ChatTurn, *answers: Frame) -> None:
    for seq, frame in enumerate(answers):
        header = FrameHeader(
            session_id=turn.session_id, request_id=turn.request_id, turn_id="t", attempt=1, epoch=1, frame_seq=seq
        )
        turn.deliver(ReplyFrame(header=header, frame=frame, partition=0, offset=seq))


async def complete(responder: Responder, turn: ChatTurn) -> None:
    frames(turn, TurnAccepted(), TurnStarted(model="m"), TextDelta(text="a"), TurnCompleted(text="a", usage=Usage()))


def three(tmp_path: Path, options: FeedOptions | None = None) -> FeedPlan:
    system = {"role": "system", "content": "Be kind."}
    lines = [talk(name, system, {"role": "user", "content": f"{name} 1"}, USER) for name in "abc"]
    return plan_feed(written(tmp_path, *lines), options or FeedOptions())


async def test_each_conversation_is_fed_in_order_and_the_first_request_makes_the_session(tmp_path: Path) -> None:
    plan = three(tmp_path)
    responder, told = Responder(complete), list[FeedProgress]()
    report = await responder.feed(plan, told.append).run()
    new = [NewSession(instructions="Be kind.", model=plan.model(each)) for each in plan.file.conversations]
    assert sorted(responder.requests, key=lambda request: request[0]) == [
        ("feed-a", "a 1", new[0]),
        ("feed-a", "Hi", None),
        ("feed-b", "b 1", new[1]),
        ("feed-b", "Hi", None),
        ("feed-c", "c 1", new[2]),
        ("feed-c", "Hi", None),
    ]
    assert (report.conversations, report.turns, report.messages, report.exit_code) == (3, 6, 6, 0)
    assert (report.completed, report.not_fed, report.turns_in_words) == (6, 0, "6 turns")
    assert (told[0].turns_ended, told[-1].turns_ended, told[-1].conversations_done) == (0, 6, 3)
    assert responder.most_running == 3
    assert report.as_json()["mismatches"] is None  # nothing was compared


async def test_no_more_sessions_at_once_than_wanted(tmp_path: Path) -> None:
    responder = Responder(complete)
    await responder.feed(three(tmp_path, FeedOptions(concurrency=1))).run()
    assert responder.most_running == 1


async def test_a_failed_turn_is_reported_and_the_session_goes_on(tmp_path: Path) -> None:
    async def answer(responder: Responder, turn: ChatTurn) -> None:
        if turn.request_id.endswith("-b-1"):
            frames(turn, TurnFailed(code="boom", reason="it broke", usage=Usage()))
        else:
            await complete(responder, turn)

    responder = Responder(answer)
    report = await responder.feed(three(tmp_path)).run()
    assert [str(turn) for turn in report.failed_turns] == ["session feed-b, turn 1: failed (boom): it broke"]
    assert len(responder.requests) == 6
    assert report.exit_code == 1
    assert report.turns_in_words == "6 turns (5 completed, 1 failed or cancelled)"


async def test_a_refusal_ends_its_conversation_only(tmp_path: Path) -> None:
    async def answer(responder: Responder, turn: ChatTurn) -> None:
        if turn.session_id == "feed-b":
            frames(turn, RequestRefused(code="model_not_allowed", reason="not here"))
        else:
            await complete(responder, turn)

    responder = Responder(answer)
    report = await responder.feed(three(tmp_path)).run()
    assert [(turn.session_id, turn.code) for turn in report.refused] == [("feed-b", "model_not_allowed")]
    assert len(responder.requests) == 5
    assert report.exit_code == 5
    assert (report.completed, report.not_fed) == (4, 2)
    assert report.turns_in_words == "6 turns (4 completed, 2 not fed)"
    found = report.as_json()
    assert found["turns"] == found["completed"] + found["failed_turns"] + found["not_fed"]


async def test_a_turn_that_nobody_accounts_for_is_not_fed_and_the_exit_code_says_so(tmp_path: Path) -> None:
    feed = Responder(complete).feed(three(tmp_path))
    report = await feed.run()
    lost = replace(report, completed=report.completed - 1)
    assert (lost.not_fed, lost.exit_code) == (1, 1)


async def test_a_conversation_that_is_cancelled_from_below_is_no_success(tmp_path: Path) -> None:
    """A Kafka client may end what it was asked with a cancellation that nobody asked for."""

    class Cancelling(Responder):
        async def send(self, request: PreparedRequest) -> Position:
            if request.key == "feed-b":
                raise asyncio.CancelledError
            return await super().send(request)

    with pytest.raises(TurnlogError, match="feeding was cancelled"):
        await Cancelling(complete).feed(three(tmp_path)).run()


async def test_silence_is_asked_again_and_ends_at_the_stall_limit(tmp_path: Path) -> None:
    async def answer(responder: Responder, turn: ChatTurn) -> None:
        if turn.session_id != "feed-b":
            await complete(responder, turn)

    responder = Responder(answer)
    plan = three(tmp_path, FeedOptions(resend_after_s=0.02, stall_timeout_s=0.3))
    with pytest.raises(TurnTimedOutError, match=r"no progress.*4 of 6 turns ended.*feed-b turn 1: nothing heard"):
        await responder.feed(plan).run()
    assert responder.sends > 6
    assert responder.running == {}


async def test_a_reply_reader_that_stopped_ends_the_feed(tmp_path: Path) -> None:
    async def answer(responder: Responder, turn: ChatTurn) -> None:
        responder.failure = BrokerUnreachableError("gone")
        turn.give_up(responder.failure)

    with pytest.raises(BrokerUnreachableError, match="gone"):
        await Responder(answer).feed(three(tmp_path)).run()


async def test_a_broker_that_comes_back_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnlog.feed.feeding._RECONNECT_PAUSE_S", 0.001)
    failed: set[str] = set()

    async def answer(responder: Responder, turn: ChatTurn) -> None:
        if turn.request_id in failed:
            await complete(responder, turn)
        else:
            failed.add(turn.request_id)
            turn.give_up(BrokerUnreachableError("away"))

    responder = Responder(answer)
    report = await responder.feed(three(tmp_path)).run()
    assert (report.exit_code, len(responder.requests)) == (0, 12)


# ---- verifying

AT = Millis(0)


def insert(connection: duckdb.DuckDBPyConnection, table: Table, rows: Sequence[object]) -> None:
    columns = columns_of(table.row)
    definition = ", ".join(f'"{column.name}" {column.sql_type}' for column in columns)
    connection.execute(f"CREATE TABLE IF NOT EXISTS {table.name} ({definition})")
    marks = ", ".join("make_timestamptz(?)" if column.sql_type == MOMENT else "?" for column in columns)
    for row in rows:
        values = [getattr(row, column.name) for column in columns]
        connection.execute(f"INSERT INTO {table.name} VALUES ({marks})", values)


def session_row(conversation: Conversation) -> SessionRow:
    return SessionRow(
        active=None,
        session_id=conversation.session_id,
        partition=0,
        session_offset=0,
        channel="feed",
        title="",
        instructions=conversation.instructions,
        model=None,
        metadata=Json("{}"),
        created_at=AT,
        last_active_at=AT,
        stream_version=1,
        last_offset=1,
    )


def turn_row(session_id: str, request_id: str, offset: int, status: str) -> TurnRow:
    return TurnRow(
        turn_id=request_id,
        session_id=session_id,
        partition=0,
        session_offset=0,
        request_id=request_id,
        command_hash="",
        status=status,
        requested_model=None,
        text=None,
        content_parts=None,
        reply_to=None,
        framing="avro",
        traceparent=None,
        tracestate=None,
        accepted_offset=offset,
        accepted_at=AT,
    )


def message_row(session_id: str, seq: int, message: Message) -> MessageRow:
    parts = None if message.content is None else [{"text": part.text} for part in message.content]
    return MessageRow(
        session_id=session_id,
        partition=0,
        session_offset=0,
        message_seq=seq,
        turn_id="t",
        role=message.role,
        content=None if parts is None else "".join(part["text"] or "" for part in parts),
        content_parts=None if parts is None or len(parts) == 1 else Json(json.dumps(parts)),
        tool_call_id=message.tool_call_id,
        name=message.name,
        interrupted=False,
        truncated=False,
        outcome=None,
        imported=False,
        log_offset=seq,
        recorded_at=AT,
    )


def call_row(session_id: str, seq: int, position: int, call: ToolCall) -> ToolCallRow:
    return ToolCallRow(
        session_id=session_id,
        partition=0,
        session_offset=0,
        message_seq=seq,
        position=position,
        turn_id="t",
        call_id=call.call_id,
        name=call.name,
        arguments=call.arguments,
        idempotent=True,
        idempotency_key="",
        client=False,
        log_offset=seq,
        recorded_at=AT,
    )


def publish(path: Path, plan: FeedPlan, *, status: str = "completed", skip: frozenset[str] = frozenset()) -> None:
    """A snapshot of what a worker that replays the file would have stored; rows stand in the wrong order on purpose."""
    rows: dict[Table, list[object]] = {SESSIONS: [], TURNS: [], MESSAGES: [], TOOL_CALLS: []}
    for conversation in plan.file.conversations:
        name = conversation.session_id
        if name in skip:
            continue
        rows[SESSIONS].append(session_row(conversation))
        for number in range(1, len(conversation.turns) + 1):
            rows[TURNS].append(turn_row(name, plan.request_id(conversation, number), number, status))
        for seq, message in enumerate(conversation.messages, start=1):
            rows[MESSAGES].append(message_row(name, seq, message))
            rows[TOOL_CALLS] += [call_row(name, seq, at, call) for at, call in enumerate(message.tool_calls)]
    with duckdb.connect(str(path)) as connection:
        for table, of_table in rows.items():
            insert(connection, table, of_table[::-1])


@pytest.fixture
def untidy_plan(tmp_path: Path) -> FeedPlan:
    lines = [talk("a", *UNTIDY), talk("b", *UNTIDY[1:]), talk("c", *UNTIDY)]
    return plan_feed(written(tmp_path, *lines), FeedOptions(verify_timeout_s=0.05))


async def test_equal_histories_verify(tmp_path: Path, untidy_plan: FeedPlan) -> None:
    feed = Responder(complete).feed(untidy_plan)
    await feed.run()
    publish(tmp_path / "s.duckdb", untidy_plan)
    report = await verify(untidy_plan, feed, tmp_path / "s.duckdb")
    assert report.mismatches == ()
    assert report.exit_code == 0
    found = report.as_json()
    assert [found[key] for key in ("conversations", "turns", "messages", "mismatches")] == [3, 6, 18, 0]
    assert json.loads(json.dumps(found)) == found


async def test_a_lost_message_is_a_mismatch(tmp_path: Path, untidy_plan: FeedPlan) -> None:
    feed = Responder(complete).feed(untidy_plan)
    await feed.run()
    snapshot = tmp_path / "s.duckdb"
    publish(snapshot, untidy_plan)
    with duckdb.connect(str(snapshot)) as connection:
        connection.execute("DELETE FROM messages WHERE session_id = 'feed-b' AND message_seq = 6")
    report = await verify(untidy_plan, feed, snapshot)
    assert [str(mismatch) for mismatch in report.mismatches] == [
        "session feed-b, message 6: recorded a message of role 'user', stored nothing"
    ]
    assert (report.exit_code, report.as_json()["mismatches"]) == (1, 1)


async def test_another_model_is_compared_by_the_user_s_messages(tmp_path: Path, untidy_plan: FeedPlan) -> None:
    plan = replace(untidy_plan, options=FeedOptions(model="echo:", verify_timeout_s=0.05))
    feed = Responder(complete).feed(plan)
    await feed.run()
    snapshot = tmp_path / "s.duckdb"
    publish(snapshot, plan)
    with duckdb.connect(str(snapshot)) as connection:
        connection.execute("UPDATE messages SET content = 'echo' WHERE role = 'assistant'")
    report = await verify(plan, feed, snapshot)
    assert (report.mismatches, report.users_only) == ((), True)


async def test_a_snapshot_that_is_behind_or_missing_is_said(tmp_path: Path, untidy_plan: FeedPlan) -> None:
    feed = Responder(complete).feed(untidy_plan)
    await feed.run()
    snapshot = tmp_path / "s.duckdb"
    with pytest.raises(SnapshotBehindError, match=r"s\.duckdb did not catch up.*Everything was fed") as caught:
        await verify(untidy_plan, feed, snapshot)
    assert caught.value.exit_code == 6
    publish(snapshot, untidy_plan, status="started")
    with pytest.raises(
        SnapshotBehindError, match=r"6 of the 6 turns that ended are not in it yet, such as feed-a feed-.*-a-1"
    ):
        await verify(untidy_plan, feed, snapshot)


async def test_a_snapshot_that_is_behind_does_not_hide_what_was_not_fed(tmp_path: Path, untidy_plan: FeedPlan) -> None:
    """The report is not seen then: with 164 of 457 turns ended it once said that everything was fed."""

    async def answer(responder: Responder, turn: ChatTurn) -> None:
        if turn.session_id == "feed-a":
            await complete(responder, turn)
        elif turn.session_id == "feed-b":
            frames(turn, RequestRefused(code="model_not_allowed", reason="not here"))
        else:
            frames(turn, TurnFailed(code="boom", reason="it broke", usage=Usage()))

    feed = Responder(answer).feed(untidy_plan)
    await feed.run()
    with pytest.raises(SnapshotBehindError) as caught:
        await verify(untidy_plan, feed, tmp_path / "s.duckdb")
    said = str(caught.value)
    assert "Everything was fed" not in said
    assert "6 turns (2 completed, 2 failed or cancelled, 2 not fed)" in said
    assert "session feed-b, turn 1: refused (model_not_allowed)" in said


async def test_verification_waits_for_the_snapshot(tmp_path: Path, untidy_plan: FeedPlan) -> None:
    plan = replace(untidy_plan, options=FeedOptions(verify_timeout_s=20))
    feed = Responder(complete).feed(plan)
    await feed.run()
    waiting = asyncio.ensure_future(verify(plan, feed, tmp_path / "s.duckdb"))
    await asyncio.sleep(0)
    publish(tmp_path / "unpublished.duckdb", plan)
    (tmp_path / "unpublished.duckdb").rename(tmp_path / "s.duckdb")
    assert (await waiting).exit_code == 0


async def test_a_snapshot_that_gets_nearer_is_waited_for(
    tmp_path: Path, untidy_plan: FeedPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(untidy_plan, options=FeedOptions(verify_timeout_s=0.2))
    feed = Responder(complete).feed(plan)
    await feed.run()
    publish(tmp_path / "s.duckdb", plan)
    clock = [0.0]
    monkeypatch.setattr("turnlog.feed.verification.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr("turnlog.feed.verification._SNAPSHOT_POLL_S", 0)
    ended = sorted(feed.ended)
    looks: list[int] = []

    def one_more(snapshot: Path, sessions: Sequence[str]) -> set[tuple[str, str]]:
        clock[0] += 0.15  # two looks without a new turn are too long
        looks.append(len(looks))
        return set(ended[: len(looks)])

    monkeypatch.setattr("turnlog.feed.verification.ended_turns", one_more)
    assert (await verify(plan, feed, tmp_path / "s.duckdb")).exit_code == 0
    assert len(looks) == len(ended) == 6


async def test_fed_before_at_another_pace_is_fine_when_the_history_is_the_file(
    tmp_path: Path, untidy_plan: FeedPlan
) -> None:
    async def conflict(responder: Responder, turn: ChatTurn) -> None:
        frames(turn, RequestRefused(code="conflict", reason="used before"))

    feed = Responder(conflict).feed(untidy_plan)
    report = await feed.run()
    assert report.exit_code == 5
    assert "another --model or --delta-ms" in report.refused[0].reason
    publish(tmp_path / "s.duckdb", untidy_plan, skip=frozenset({"feed-c"}))
    report = await verify(untidy_plan, feed, tmp_path / "s.duckdb")
    assert report.fed_before == ("feed-a", "feed-b")
    assert report.turns_in_words == "6 turns (4 fed before, 2 not fed)"
    assert [turn.session_id for turn in report.refused] == ["feed-c"]
    assert [mismatch.where for mismatch in report.mismatches] == ["the session"]
    assert report.exit_code == 5
