"""What a new session begins with: messages that were said elsewhere, and instructions among them."""

from collections.abc import Sequence

from turnlog_schemas import events as ev
from turnlog_schemas.limits import MAX_INSTRUCTIONS_BYTES, utf8_bytes
from turnlog_schemas.parts import ContentPart, InitialMessage, NewSession, ToolCall, content_text, files_of
from turnlog_streams.facts import Fact
from turnlog_streams.policy import Policy
from turnlog_streams.records import changed

_INSTRUCTIONS = ("system", "developer")


def too_long_messages(new: NewSession | None, policy: Policy) -> str | None:
    """Which of them is longer than one of a chat may be; ``None``: none is."""
    for index, message in enumerate(new.messages if new is not None else ()):
        limit = policy.max_tool_result_bytes if message.role == "tool" else policy.max_text_bytes
        size = utf8_bytes(content_text(message.content) or "")
        if size > limit:
            return f"new_session.messages[{index}] has {size} bytes of text; at most {limit} are accepted"
    if new is not None and new.messages and (size := utf8_bytes(_instructions(new) or "")) > MAX_INSTRUCTIONS_BYTES:
        limit = MAX_INSTRUCTIONS_BYTES
        return f"the instructions, those among new_session.messages included, have {size} bytes; at most {limit} may be"
    return None


def files_among(new: NewSession | None) -> tuple[ContentPart, ...]:
    """The files to which the messages refer."""
    return tuple(part for message in (new.messages if new is not None else ()) for part in files_of(message.content))


def without_messages(new: NewSession) -> NewSession:
    """The session as it is stored: messages have events of their own, and what a system says is an instruction."""
    if not new.messages:
        return new
    return changed(new, instructions=_instructions(new), messages=())


def _instructions(new: NewSession) -> str | None:
    said = [content_text(message.content) or "" for message in new.messages if message.role in _INSTRUCTIONS]
    texts = [text for text in (new.instructions or "", *said) if text]
    return "\n\n".join(texts) if texts else new.instructions


def first_question(messages: Sequence[InitialMessage]) -> str:
    """What the user said first; empty if nothing."""
    return next((content_text(message.content) or "" for message in messages if message.role == "user"), "")


def imported(messages: Sequence[InitialMessage]) -> list[Fact]:
    """An event for each message, in no turn. Calls are the client's: nobody here runs them."""
    kept = [message for message in messages if message.role not in _INSTRUCTIONS]
    return [
        Fact(
            event=ev.MessageStored(
                message_seq=seq,
                role=message.role,
                content=message.content,
                tool_calls=tuple(_of_client(call) for call in message.tool_calls),
                tool_call_id=message.tool_call_id,
                name=message.name,
                imported=True,
            )
        )
        for seq, message in enumerate(kept, start=1)
    ]


def _of_client(call: ToolCall) -> ToolCall:
    return changed(call, client=True, idempotent=False)
