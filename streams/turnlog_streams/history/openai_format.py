"""A view in the OpenAI chat format, and what that format demands of a list of messages."""

from collections.abc import Mapping, Sequence
from typing import Any

from turnlog_schemas.files import shown_text
from turnlog_schemas.parts import FILE_REF, TEXT, files_of
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.view import SUMMARY_ROLE

_SUMMARY_FRAME = (
    "The messages before this point are not shown. This is a record of them, written for you. It is information about "
    "what was said and done, not a message of the user and not an instruction of the system:\n\n{text}\n\n"
    "(End of the record. The conversation goes on with the messages that follow.)"
)


def openai_messages(
    instructions: str | None, messages: Sequence[HistoryMessage], *, files: bool = False
) -> list[dict[str, Any]]:
    """The request's ``messages`` for an assembled view (``history.view.assemble``).

    The summary goes as a ``system`` message with a frame around it, so that nobody takes it for words of the user. A
    missing content is the empty text where the format has no null. A question that no answer followed (its turn failed)
    and the next one become one message, with a blank line in between: some providers refuse two of the user in a row.
    The name of who said a question goes with it, unless it joins one of somebody else.

    A file is a line of text. With ``files`` the content of a message with files is a list: ``{"type": "text", …}``, and
    ``{"type": "file_ref", "part": …, "turn_id": …}`` for whoever puts in what the format has for a file.
    """
    rendered: list[dict[str, Any]] = []
    if instructions is not None:
        rendered.append({"role": "system", "content": instructions})
    for message in messages:
        shown = _rendered(message)
        if files and message.role == "user" and files_of(message.content):
            shown["content"] = _parts(message)
        if rendered and shown["role"] == rendered[-1]["role"] == "user":
            rendered[-1]["content"] = _joined(rendered[-1]["content"], shown["content"])
            if rendered[-1].get("name") != shown.get("name"):
                rendered[-1].pop("name", None)  # what two people said is nobody's
        else:
            rendered.append(shown)
    return rendered


def _parts(message: HistoryMessage) -> list[dict[str, Any]]:
    return [
        {"type": FILE_REF, "part": part, "turn_id": message.turn_id}
        if part.kind == FILE_REF
        else {"type": TEXT, "text": part.text}
        for part in message.content or ()
        if part.kind == FILE_REF or part.text
    ]


def _joined(one: str | list[dict[str, Any]], other: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    if isinstance(one, str) and isinstance(other, str):
        return f"{one}\n\n{other}"
    lists = (said if isinstance(said, list) else [{"type": TEXT, "text": said}] for said in (one, other))
    return [part for each in lists for part in each]


def _rendered(message: HistoryMessage) -> dict[str, Any]:
    text = shown_text(message.content)
    if message.role == SUMMARY_ROLE:
        return {"role": "system", "content": _SUMMARY_FRAME.format(text=text or "")}
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.tool_call_id or "", "content": text or ""}
    if not message.tool_calls:
        named = {"name": message.name} if message.role == "user" and message.name else {}
        return {"role": message.role, "content": text or "", **named}
    calls = [
        {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.tool_calls
    ]
    return {"role": message.role, "content": text, "tool_calls": calls}


def validate_openai(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise ``ValueError`` (with the position) if a provider of the OpenAI chat format would refuse the messages."""
    waiting: set[str] = set()
    for index, message in enumerate(messages):
        where = f"message {index} ({message.get('role')!r})"
        if message.get("role") == "tool":
            call_id = message.get("tool_call_id")
            if not isinstance(call_id, str) or call_id not in waiting:
                raise ValueError(f"{where}: a result of {call_id!r}, open calls are {sorted(waiting)}")
            waiting.remove(call_id)
        elif waiting:
            raise ValueError(f"{where}: calls {sorted(waiting)} have no result before it")
        elif index and message.get("role") == messages[index - 1].get("role") == "user":
            raise ValueError(f"{where}: two messages of the user in a row")
        _validate_content(message, where)
        if "tool_calls" in message:
            waiting = _validated_calls(message, where)
    if waiting:
        raise ValueError(f"calls {sorted(waiting)} have no result at the end")
    if not messages:
        raise ValueError("there is no message")


def _validate_content(message: Mapping[str, Any], where: str) -> None:
    if message.get("role") not in ("system", "user", "assistant", "tool"):
        raise ValueError(f"{where}: no such role")
    content = message.get("content")
    may_be_null = message["role"] == "assistant" and "tool_calls" in message
    if message["role"] == "assistant" and not may_be_null and (not isinstance(content, str) or not content.strip()):
        raise ValueError(f"{where}: it has neither a text nor calls")
    if not isinstance(content, str) and not (content is None and may_be_null):
        raise ValueError(f"{where}: its content is {type(content).__name__}")


def _validated_calls(message: Mapping[str, Any], where: str) -> set[str]:
    calls = message["tool_calls"]
    if message["role"] != "assistant" or not isinstance(calls, list) or not calls:
        raise ValueError(f"{where}: tool_calls must be a list of calls, of an assistant")
    ids: set[str] = set()
    for call in calls:
        function = call.get("function", {})
        if call.get("type") != "function" or not function.get("name") or not isinstance(function.get("arguments"), str):
            raise ValueError(f"{where}: no function call: {call!r}")
        if not isinstance(call.get("id"), str) or not call["id"] or call["id"] in ids:
            raise ValueError(f"{where}: call id {call.get('id')!r} is missing or used twice")
        ids.add(call["id"])
    return ids
