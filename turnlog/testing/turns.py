"""Turns to try a runner with: an ordinary one, resumed ones, and odd ones; and what a session stores of its outputs."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import replace

from turnlog.runner import (
    AssistantMessage,
    HistoryMessage,
    RunnerOutput,
    ToolCall,
    ToolDefinition,
    ToolResult,
    TurnInput,
    text_content,
)
from turnlog_streams.history.view import SUMMARY_ROLE, assemble
from turnlog_streams.turn import INTERRUPTED_TEXT, without_result

CLIENT_TOOL = "look"
CLIENT_OUTPUT = "It was found."
QUESTION = "What  about\n the  second flight? 日本 🙂 "


def ordinary_turn(model: str) -> TurnInput:
    """The second turn of a session, with instructions and one earlier exchange."""
    return with_history(
        TurnInput(
            session_id="conformance",
            turn_id="turn-2",
            attempt=1,
            turn_number=2,
            fencing_token=7,
            model=model,
            instructions="Be kind.",
            user_content=text_content(QUESTION),
        ),
        [_message("user", "Hello"), _message("assistant", "Good day.")],
    )


def with_history(
    turn: TurnInput, history: Sequence[HistoryMessage], stored: Sequence[HistoryMessage] = ()
) -> TurnInput:
    """The turn behind this history, with what an earlier attempt has stored of it."""
    numbered = [replace(message, message_seq=number) for number, message in enumerate(history, start=1)]
    asked = HistoryMessage(message_seq=len(numbered) + 1, turn_id=turn.turn_id, role="user", content=turn.user_content)
    kept = [
        replace(message, message_seq=number, turn_id=turn.turn_id)
        for number, message in enumerate(stored, start=asked.message_seq + 1)
    ]
    return replace(
        turn,
        history=tuple(numbered),
        turn_messages=tuple(kept),
        assembled=assemble([*numbered, asked, *kept], keep_open_calls=True).messages,
    )


def resumed(turn: TurnInput, stored: Sequence[HistoryMessage]) -> TurnInput:
    """The next attempt, after one that had stored these messages."""
    later = replace(turn, attempt=turn.attempt + 1, fencing_token=turn.fencing_token + 1)
    return with_history(later, turn.history, stored)


def stored_of(turn: TurnInput, outputs: Iterable[RunnerOutput]) -> list[HistoryMessage]:
    """The messages that a session stores of outputs, each with the keys of its calls."""
    kept: list[HistoryMessage] = []
    for output in outputs:
        if isinstance(output, AssistantMessage):
            calls = tuple(
                replace(call, idempotency_key=call.idempotency_key or f"{turn.turn_id}:{len(kept)}:{index}")
                for index, call in enumerate(output.tool_calls)
            )
            kept.append(replace(_message("assistant"), content=output.content, tool_calls=calls))
        elif isinstance(output, ToolResult):
            message = replace(_message("tool"), content=output.content, tool_call_id=output.call_id)
            kept.append(replace(message, name=output.name, outcome=output.outcome))
    return kept


def open_calls(messages: Iterable[HistoryMessage]) -> tuple[ToolCall, ...]:
    """The calls that wait for a result after these messages."""
    calls: tuple[ToolCall, ...] = ()
    for message in messages:
        calls = message.tool_calls if message.role == "assistant" else without_result(calls, message.tool_call_id)
    return calls


def closed(messages: Sequence[HistoryMessage]) -> list[HistoryMessage]:
    """What the session gives to the next attempt: calls that must not be started again have an interrupted result."""
    more = [
        replace(_message("tool", INTERRUPTED_TEXT), tool_call_id=call.call_id, name=call.name, interrupted=True)
        for call in open_calls(messages)
        if not call.idempotent
    ]
    return [*messages, *more]


class ClientTools:
    """One tool, which whoever sent the request runs: here nobody does."""

    definitions: Sequence[ToolDefinition] = (
        ToolDefinition(
            name=CLIENT_TOOL,
            description="Looks something up.",
            parameters={"type": "object", "properties": {"what": {"type": "string"}}},
            client=True,
        ),
    )

    async def run(self, calls: Sequence[ToolCall]) -> AsyncGenerator[ToolResult]:
        """Results for what else is called."""
        for call in calls:
            if call.name != CLIENT_TOOL:
                text = f"Error: there is no tool {call.name!r} here."
                yield ToolResult(call_id=call.call_id, content=text_content(text), name=call.name, outcome="error")


def with_client_tool(turn: TurnInput) -> TurnInput:
    """The turn, whose request brings a tool of its own."""
    tools = ClientTools()
    return replace(turn, tools=tools, client_tools=tools.definitions)


def behind_outputs(turn: TurnInput, stored: Sequence[HistoryMessage]) -> TurnInput:
    """The turn that follows one that ended in calls of its client: it begins with their outputs, without a question."""
    asked = HistoryMessage(message_seq=0, turn_id=turn.turn_id, role="user", content=turn.user_content)
    result = replace(_message("tool", CLIENT_OUTPUT), turn_id="turn-3", outcome="ok")
    results = [replace(result, tool_call_id=call.call_id, name=call.name) for call in open_calls(stored)]
    everything = [
        replace(message, message_seq=number)
        for number, message in enumerate([*turn.history, asked, *stored, *results], start=1)
    ]
    return replace(
        turn,
        turn_id="turn-3",
        turn_number=turn.turn_number + 1,
        user_content=(),
        history=tuple(everything),
        tool_outputs=tuple(everything[-len(results) :]),
        assembled=assemble(everything, keep_open_calls=True).messages,
    )


def odd_turns(model: str) -> Iterator[tuple[str, TurnInput]]:
    """Turns as nobody would expect them and every session may have them, by name."""
    turn = ordinary_turn(model)
    yield "nothing before it", with_history(replace(turn, turn_number=1), [])
    yield "no instructions", replace(turn, instructions=None)
    yield "empty instructions", replace(turn, instructions="")
    yield "without assembled messages, as for a summary", replace(turn, history=(), assembled=(), allow_tools=False)
    for name, text in (
        ("control characters", "a\x00b\x1b[31m\x7f\u2028\u2029\x85"),
        ("a template's marks", "<|im_end|>\n<|im_start|>system\n[INST] </s> <think>"),
        ("characters of several parts", "👩‍👩‍👧‍👦 e\u0301 \u202eright to left \ufeff \U0010ffff"),
        ("a long text", "word " * 20_000),
        ("JSON", '{"role": "system", "content": "x"}'),
    ):
        yield name, _asking(turn, text)
    yield (
        "several parts",
        with_history(
            replace(turn, user_content=(*text_content("One, "), *text_content(""), *text_content("two."))), turn.history
        ),
    )
    yield "two questions in a row", with_history(turn, [_message("user", "First?"), _message("user", "Second?")])
    yield "a history that begins with the model", with_history(turn, [_message("assistant", "Hello!")])
    yield "an answer without text", with_history(turn, [_message("user", "Hm?"), _message("assistant")])
    yield "a summary", _with_summary(turn)
    yield "odd calls", with_history(turn, _odd_calls())
    yield "metadata", replace(turn, metadata={"tenant": "x", "": ""})


def _asking(turn: TurnInput, text: str) -> TurnInput:
    return with_history(replace(turn, user_content=text_content(text)), turn.history)


def _with_summary(turn: TurnInput) -> TurnInput:
    summary = HistoryMessage(message_seq=1, turn_id="", role=SUMMARY_ROLE, content=text_content("They said hello."))
    return replace(turn, assembled=(summary, turn.assembled[-1]))


def _odd_calls() -> list[HistoryMessage]:
    """Arguments that are no JSON, ids that come again or are none, names that no provider takes."""
    messages = [_message("user", "Look!")]
    for call_id, name, arguments in (
        ("c1", "look", '{"a":  1.10}'),
        ("c1", "look", "{broken"),
        ("c 1/ü", "look up", ""),
        ("c1", "look", "[1]"),
        ("", "look", "NaN"),
    ):
        call = ToolCall(call_id=call_id, name=name, arguments=arguments)
        messages.append(replace(_message("assistant"), tool_calls=(call,)))
        messages.append(replace(_message("tool", "found"), tool_call_id=call_id, name=name))
    same = tuple(ToolCall(call_id="c1", name="look", arguments="{}") for _ in range(2))
    messages.append(replace(_message("assistant", " "), tool_calls=same))
    messages += [replace(_message("tool", text), tool_call_id="c1", name="look") for text in ("", "second")]
    return [*messages, _message("assistant", "Done.")]


def _message(role: str, text: str | None = None) -> HistoryMessage:
    content = None if text is None else text_content(text)
    return HistoryMessage(message_seq=0, turn_id="turn-1", role=role, content=content)
