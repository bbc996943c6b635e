"""Real conversations under small limits, through the session actor: what models see at every call, and what stays."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.histories import SAMPLE
from tests.one_session import LIMITS, SMALL, OneSession
from turnlog.feed.comparison import compare
from turnlog.feed.conversations import Conversation, read_conversations
from turnlog_schemas import events as ev
from turnlog_schemas.parts import NewSession, content_text
from turnlog_streams.history.compaction import HistoryCompactionPolicy
from turnlog_streams.history.compaction_plan import MIN_SUMMARY_TOKENS
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.tokens import message_tokens, prompt_tokens, with_margin
from turnlog_streams.history.view import SUMMARY_ROLE, assemble, latest_question
from turnlog_workers.runners.base import TurnInput
from turnlog_workers.runners.recordings import Message
from turnlog_workers.runners.registry import RunnerRegistry

CONVERSATIONS = {each.conversation_id: each for each in read_conversations(SAMPLE).conversations}
KEEP_TAIL = 4


async def played(conversation: Conversation, limit: int) -> OneSession:
    """The whole conversation; every call's history is checked by the runner that gets it."""
    model = f"recorded:{SAMPLE}#{conversation.conversation_id}"
    recorded = RunnerRegistry().make(model)
    bounds = HistoryCompactionPolicy(max_tokens=limit, keep_tail=KEEP_TAIL)
    session = OneSession(main=recorded.run, policy=replace(SMALL, default_model=model, history=bounds), limits=LIMITS)
    for user in conversation.user_messages:
        await session.say(
            content_text(user.content) or "", new_session=NewSession(instructions=conversation.instructions)
        )
    return session


@pytest.mark.parametrize("limit", [600, 1_500, 4_000])
@pytest.mark.parametrize("name", sorted(CONVERSATIONS))
async def test_every_view_is_good_and_nothing_is_lost(name: str, limit: int) -> None:
    conversation = CONVERSATIONS[name]
    session = await played(conversation, limit)
    assert len(session.of(ev.TurnCompleted)) == len(conversation.turns)
    made = session.of(ev.HistoryCompacted)
    for turn in session.given:
        if turn.allow_tools:
            check_view(turn, session.live.history, limit)
    check_storm(session, made, limit)
    assert not compare(conversation, session.live.state.instructions, stored(session))
    assert [event.to_seq for event in made] == sorted({event.to_seq for event in made}), "each covers more"


def stored(session: OneSession) -> list[Message]:
    """The whole history, as it is compared with a recording."""
    return [
        Message(
            role=message.role,
            content=message.content,
            tool_calls=tuple(replace(call, idempotent=False, idempotency_key="") for call in message.tool_calls),
            tool_call_id=message.tool_call_id,
            name=message.name,
        )
        for message in session.live.history
    ]


def check_view(turn: TurnInput, history: Sequence[HistoryMessage], limit: int) -> None:
    """The format is checked by :class:`tests.one_session.PlayedRunner`."""
    shown = list(turn.assembled)
    newest = max(message.message_seq for message in shown)
    known = [message for message in history if message.message_seq <= newest]
    covered_to = next((message.message_seq for message in shown if message.role == SUMMARY_ROLE), 0)
    tail = [message for message in known if message.message_seq > covered_to]
    assert [(m.role, m.content) for m in shown[-len(tail) :]] == [(m.role, m.content) for m in tail], "word for word"
    assert latest_question(known)[0].content in [m.content for m in shown if m.role == "user"]
    tokens = min(with_margin(prompt_tokens(shown, turn.instructions)), as_measured(turn))
    if tokens > limit:
        newest_said = max(index for index, message in enumerate(known) if message.role != "tool")
        least = assemble([*latest_question(known[:newest_said]), *known[newest_said:]]).messages
        shortest = max(MIN_SUMMARY_TOKENS, limit // 8 // 4)
        smallest = with_margin(prompt_tokens(least, turn.instructions) + shortest)
        assert smallest > limit * 3 // 4, f"{tokens} tokens, {smallest} would have done"


def as_measured(turn: TurnInput) -> int:
    """What the recorded model says of its prompt: a token for 4 characters."""
    texts = [turn.instructions or ""]
    for message in turn.assembled:
        texts.append(content_text(message.content) or "")
        texts += [text for call in message.tool_calls for text in (call.name, call.arguments)]
    return sum(-(-len(text) // 4) for text in texts)


def check_storm(session: OneSession, made: Sequence[ev.HistoryCompacted], limit: int) -> None:
    """Every run used up a quarter of the limit."""
    total = with_margin(sum(map(message_tokens, session.live.history)))
    assert len(made) <= 1 + 2 * total // (limit // 4)


async def test_some_of_them_are_compacted_in_the_middle_of_a_turn() -> None:
    inside = 0
    for conversation in CONVERSATIONS.values():
        session = await played(conversation, 1_500)
        for index, event in enumerate(session.events):
            before = session.events[index - 1]
            inside += isinstance(event, ev.HistoryCompacted) and isinstance(before, ev.MessageStored)
            assert not isinstance(before, ev.TurnStarted) or not isinstance(event, ev.HistoryCompacted)
    assert inside
