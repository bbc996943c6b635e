"""An answer in the OpenAI chat format, put together from its chunks. Pure.

What servers do that the format does not say (measured on llama.cpp, and in what others publish): the role comes with a
null content; usage comes in a chunk without choices, in the last one, or in each; a tool call comes in pieces that have
an index, or none, or all the same one; errors come inside of a stream whose status was 200.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from turnlog_schemas.parts import ToolCall, Usage, text_content
from turnlog_workers.runners.base import AssistantMessage, ReasoningDelta, RunnerError, TextDelta
from turnlog_workers.runners.checked import MAX_TOKENS, MAX_TOOL_CALLS
from turnlog_workers.runners.models.faults import fault_in_stream, invalid_response, stream_cut
from turnlog_workers.runners.models.sent_messages import is_json_object

DONE = "[DONE]"
_MAX_ARGUMENT_CHARACTERS = 4 * 1024 * 1024  #: of all calls of one answer


@dataclass(slots=True)
class _Call:
    """A tool call, as far as it came."""

    call_id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class ChatAnswer:
    """Takes the chunks of one answer."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.usage = Usage()
        self.done = False  #: the server said that nothing follows
        self._text: list[str] = []
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._argument_characters = 0

    def feed(self, data: str) -> list[TextDelta | ReasoningDelta]:
        """What an event says. Raises :class:`RunnerError`."""
        if data.strip() == DONE:
            self.done = True
            return []
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise invalid_response("an event that is no JSON") from error
        return self.take(chunk)

    def take(self, chunk: object) -> list[TextDelta | ReasoningDelta]:
        """What a chunk says; a whole answer (``message`` in place of ``delta``) is one, too."""
        if not isinstance(chunk, dict):
            raise invalid_response("an event that is no object")
        if chunk.get("error") or chunk.get("object") == "error":
            raise fault_in_stream(chunk)
        if isinstance(chunk.get("usage"), dict):
            self.usage = _usage(chunk["usage"])
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return []
        delta = choice.get("delta") or choice.get("message")
        outputs = self._delta(delta) if isinstance(delta, dict) else []
        if isinstance(choice.get("finish_reason"), str) and choice["finish_reason"]:
            self.finish_reason = choice["finish_reason"]
        return outputs

    def _delta(self, delta: Mapping[str, Any]) -> list[TextDelta | ReasoningDelta]:
        outputs: list[TextDelta | ReasoningDelta] = []
        if reasoning := _text(delta.get("reasoning_content")) or _text(delta.get("reasoning")):
            outputs.append(ReasoningDelta(text=reasoning))
        if text := _text(delta.get("content")) or _text(delta.get("refusal")):
            self._text.append(text)
            outputs.append(TextDelta(text=text))
        calls = delta.get("tool_calls")
        if isinstance(calls, list):
            for piece in calls:
                self._piece(piece)
        return outputs

    def _piece(self, piece: object) -> None:
        if not isinstance(piece, dict):
            raise invalid_response("a piece of a tool call that is no object")
        function = piece.get("function")
        function = function if isinstance(function, dict) else {}
        index, call_id, name = piece.get("index"), _text(piece.get("id")), _text(function.get("name"))
        call = self._call_of(index if isinstance(index, int) else None, call_id, name)
        call.call_id = call.call_id or call_id
        call.name = call.name or name
        arguments = function.get("arguments")
        if isinstance(arguments, dict):  # of a server that has read them already
            arguments = json.dumps(arguments, ensure_ascii=False)
        if arguments := _text(arguments):
            call.arguments.append(self.counted(arguments))

    def counted(self, arguments: str) -> str:
        """A piece of the arguments of calls, within the bound of all of them."""
        self._argument_characters += len(arguments)
        if self._argument_characters > _MAX_ARGUMENT_CHARACTERS:
            raise invalid_response(f"tool call arguments of more than {_MAX_ARGUMENT_CHARACTERS} characters")
        return arguments

    @staticmethod
    def check_calls(count: int) -> None:
        """Are so many calls in one answer too many?"""
        if count > MAX_TOOL_CALLS:
            raise invalid_response(f"more than {MAX_TOOL_CALLS} tool calls in one answer")

    def _call_of(self, index: int | None, call_id: str, name: str) -> _Call:
        """The call that a piece belongs to: another id with a name begins another call, whatever its index is."""
        known = self._by_index.get(index) if index is not None else (self._calls[-1] if self._calls else None)
        begins_another = known is not None and name and call_id and known.call_id and call_id != known.call_id
        if index is None and known is not None and name and not call_id:
            begins_another = True  # neither index nor id: a name is all that says so
        if known is None or begins_another:
            known = _Call()
            self._calls.append(known)
            self.check_calls(len(self._calls))
            if index is not None:
                self._by_index[index] = known
        return known

    def message(self) -> AssistantMessage:
        """The whole answer. Raises :class:`RunnerError` if it is not complete."""
        if self.finish_reason is None:
            raise stream_cut("the stream ended before the model had finished")
        return whole_answer(
            "".join(self._text) if self._text else None,
            [(call.call_id, call.name, "".join(call.arguments)) for call in self._calls],
            cut_short=self.finish_reason == "length",
            filtered=self.finish_reason == "content_filter",
        )


def whole_answer(
    text: str | None, calls: list[tuple[str, str, str]], *, cut_short: bool, filtered: bool
) -> AssistantMessage:
    """A finished answer as a message: calls are (id, name, arguments). Raises :class:`RunnerError`.

    ``cut_short``: the model used up its tokens. ``filtered``: the provider took the answer back.
    """
    if filtered:
        raise RunnerError("content_filter", "the provider's content filter stopped the answer", retryable=False)
    for number, (_, name, arguments) in enumerate(calls, start=1):
        if not name or (arguments.strip() and not is_json_object(arguments)):
            why = "the answer used up its tokens" if cut_short else "its name is missing or its arguments are no JSON"
            reason = f"tool call {number} of the answer is not whole: {why}"
            raise RunnerError("incomplete_tool_call", reason, retryable=not cut_short)
    if cut_short and not calls and not (text or "").strip():
        reason = "the model used up its tokens before it said anything (setting TURNLOG_MAX_ANSWER_TOKENS)"
        raise RunnerError("answer_cut", reason, retryable=False)
    return AssistantMessage(
        content=None if text is None else text_content(text),
        tool_calls=tuple(
            ToolCall(call_id=call_id or f"call-{number}", name=name, arguments=arguments)
            for number, (call_id, name, arguments) in enumerate(calls, start=1)
        ),
    )


def _text(value: object) -> str:
    """A text; of a list of parts, the texts in it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, dict))
    return ""


def _usage(raw: Mapping[str, Any]) -> Usage:
    """A call's own, as the server counted it: the last one that came, never a sum of several."""
    prompt = count_of(raw.get("prompt_tokens"))
    return Usage(
        input_tokens=prompt,
        output_tokens=count_of(raw.get("completion_tokens")),
        model_calls=1,
        last_input_tokens=prompt,
    )


def count_of(value: object) -> int:
    """A number of tokens; what is none counts as 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS else 0
