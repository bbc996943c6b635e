"""Calls that a session's client runs: what ends them, and which outputs fit.

A turn may end in calls of tools that its request brought, and a session may be opened with a history that ends so.
Their outputs come with the next request. What else comes next closes them: no call stays without a result.
"""

from collections import Counter
from collections.abc import Sequence

from turnlog_schemas import events as ev
from turnlog_schemas.commands import Chat
from turnlog_schemas.limits import utf8_bytes
from turnlog_schemas.parts import ToolOutput, text_content
from turnlog_streams.policy import Policy
from turnlog_streams.session.state import Session
from turnlog_streams.turn import INTERRUPTED_TEXT

_SHOWN_IDS = 5
_SHOWN_CHARACTERS = 60


def wrong_outputs(session: Session, chat: Chat, policy: Policy) -> tuple[str, str] | None:
    """Why the outputs of a chat are not what the session waits for: code and reason. All calls are answered at once."""
    outputs = chat.tool_outputs
    if not outputs:
        return None
    name = f"session {session.session_id}"
    if not session.awaited:
        return "not_waiting", f"{name} waits for no tool outputs: they came before, or its calls were closed since"
    if session.turns:
        return (
            "not_waiting",
            f"{name} waits for no tool outputs any more: a turn that came after its calls is not ended",
        )
    owed = Counter(call.call_id for call in session.awaited)
    given = Counter(output.call_id for output in outputs)
    if unknown := given - owed:
        return "unknown_call", f"{name} waits for no (other) output of {_shown(unknown)}"
    if missing := owed - given:
        return "missing_outputs", f"{name} waits for the output of {_shown(missing)}, too: send all in one request"
    for output in outputs:
        size, limit = utf8_bytes(output.output), policy.max_tool_result_bytes
        if size > limit:
            return (
                "too_long",
                f"the output of {_shown([output.call_id])} has {size} bytes; at most {limit} are accepted",
            )
    return None


def _shown(call_ids: Sequence[str] | Counter[str]) -> str:
    ids = list(call_ids)
    shown = ", ".join(repr(call_id[:_SHOWN_CHARACTERS]) for call_id in ids[:_SHOWN_IDS])
    return f"{shown} and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else shown


def results_first(session: Session, outputs: Sequence[ToolOutput]) -> list[ev.MessageStored]:
    """What a turn begins with, before its user's message: a result for each call that is open.

    That is its output, or, in a turn that brings none, the word that nobody knows what became of it.
    """
    left = list(outputs)
    results: list[ev.MessageStored] = []
    for call in session.awaited:
        output = next((each for each in left if each.call_id == call.call_id), None)
        if output is not None:
            left.remove(output)
        outcome = "interrupted" if output is None else "error" if output.is_error else "ok"
        results.append(
            ev.MessageStored(
                message_seq=session.messages + 1 + len(results),
                role="tool",
                content=text_content(INTERRUPTED_TEXT if output is None else output.output),
                tool_call_id=call.call_id,
                name=call.name,
                interrupted=output is None,
                outcome=outcome,
            )
        )
    return results
