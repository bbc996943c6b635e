"""Histories to assemble and compact: by hand, by chance, and real ones.

History().user("Hi").assistant(calls=["a", "b"]).result("a").result("b").assistant("Done.").messages
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from hypothesis import strategies as st

import turnlog
from turnlog_schemas.parts import ToolCall, text_content
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.view import HistorySummary

SAMPLE = Path(turnlog.__file__).parent / "data" / "sample-conversations.jsonl"


@dataclass
class History:
    """Builds the messages of a session."""

    messages: list[HistoryMessage] = field(default_factory=list)
    turns: int = 0

    def user(self, text: str | None = "Hi") -> Self:
        """A new turn begins."""
        self.turns += 1
        return self._add("user", text)

    def assistant(self, text: str | None = None, calls: Sequence[str] = (), arguments: str = "{}") -> Self:
        """``calls``: their ids."""
        made = tuple(ToolCall(call_id=call_id, name=f"tool_{call_id or 'x'}", arguments=arguments) for call_id in calls)
        return self._add("assistant", text, tool_calls=made)

    def result(self, call_id: str, text: str | None = "ok", *, interrupted: bool = False) -> Self:
        """A tool result."""
        return self._add("tool", text, tool_call_id=call_id, interrupted=interrupted)

    def _add(self, role: str, text: str | None, **fields: Any) -> Self:
        message = HistoryMessage(
            message_seq=len(self.messages) + 1,
            turn_id=f"t{self.turns}",
            role=role,
            content=None if text is None else text_content(text),
            **fields,
        )
        self.messages.append(message)
        return self


def summary(to_seq: int, text: str = "Summary.", **fields: Any) -> HistorySummary:
    """A summary of the messages up to one."""
    values = {"history_compaction_id": f"c{to_seq}", "from_seq": 1, "history_seq": to_seq, **fields}
    return HistorySummary(to_seq=to_seq, text=text, **values)


def sample_conversations() -> Iterator[tuple[str, str, list[HistoryMessage]]]:
    """Id, instructions and messages of each real conversation that Turnlog ships."""
    for line in SAMPLE.read_text().splitlines():
        conversation = json.loads(line)
        yield conversation["id"], *recorded(conversation["messages"])


def recorded(raw: Sequence[dict[str, Any]]) -> tuple[str, list[HistoryMessage]]:
    """Instructions and history of a conversation in the OpenAI chat format."""
    history: list[HistoryMessage] = []
    turn = 0
    for message in raw[1:]:
        turn += message["role"] == "user"
        calls = tuple(
            ToolCall(call_id=call["id"], name=call["function"]["name"], arguments=call["function"]["arguments"])
            for call in message.get("tool_calls") or ()
        )
        content = message["content"]
        history.append(
            HistoryMessage(
                message_seq=len(history) + 1,
                turn_id=f"t{turn}",
                role=message["role"],
                content=None if content is None else text_content(content),
                tool_calls=calls,
                tool_call_id=message.get("tool_call_id"),
                name=message.get("name"),
            )
        )
    return raw[0]["content"], history


# ---- by chance

CALL_IDS = st.sampled_from(["a", "b", "c", "call_1", ""])
WORDS = st.sampled_from(["the log ", "{'x': 12345}", "予約 ", "🙂", "Überfall\n", "ok "])
TEXTS = st.builds(lambda word, count: word * count, WORDS, st.integers(0, 120))
CONTENTS = st.none() | st.just("") | TEXTS


@st.composite
def tidy_histories(draw: st.DrawFn, *, max_turns: int = 8, max_steps: int = 6) -> list[HistoryMessage]:
    """As a session stores them: results follow their calls, in any order; ids repeat; the last calls may be open."""
    history = History()
    turns = draw(st.integers(1, max_turns))
    for turn in range(turns):
        history.user(draw(CONTENTS))
        steps = draw(st.integers(0, max_steps))
        for step in range(steps):
            calls = draw(st.lists(CALL_IDS, max_size=3))
            history.assistant(draw(CONTENTS), calls)
            answered = draw(st.permutations(calls))
            if turn == turns - 1 and step == steps - 1:
                answered = answered[: draw(st.integers(0, len(calls)))]
            for call_id in answered:
                history.result(call_id, draw(CONTENTS))
    return history.messages


@st.composite
def wild_histories(draw: st.DrawFn) -> list[HistoryMessage]:
    """Anything in any order: results before calls, twice, never, of nothing."""
    history = History(turns=1)
    for kind in draw(st.lists(st.sampled_from(["user", "assistant", "calls", "result", "result"]), max_size=25)):
        match kind:
            case "user":
                history.user(draw(CONTENTS))
            case "assistant":
                history.assistant(draw(CONTENTS))
            case "calls":
                history.assistant(draw(CONTENTS), draw(st.lists(CALL_IDS, min_size=1, max_size=3)))
            case _:
                history.result(draw(CALL_IDS), draw(CONTENTS), interrupted=draw(st.booleans()))
    return history.messages
