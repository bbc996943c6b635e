"""What of an event is somebody's text, and the event without it: all that a log keeps in the clear where it is sealed.

Nothing else about an event changes: as many messages, parts and calls, the same ids, models, times and tokens. So a
stream of blanked events folds as the stream itself does.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

from turnlog_schemas import events as ev
from turnlog_schemas.generation import GenerationParams
from turnlog_schemas.parts import (
    CancelRequest,
    ClientTool,
    ContentPart,
    InitialMessage,
    NewSession,
    ToolCall,
    ToolOutput,
)

Keyed = Callable[[str], str]  #: a command's hash -> one that tells nothing without a key, another one for each
_Blank = Callable[[Any, Keyed], Any]


def _empty(value: Any, keyed: Keyed) -> Any:
    """An absent text stays absent: that is no text of anybody."""
    return None if value is None else type(value)()


def _absent(value: Any, keyed: Keyed) -> Any:
    return None


def _hashed(value: Any, keyed: Keyed) -> Any:
    return keyed(value)


_HASH: dict[str, _Blank] = {"command_hash": _hashed}
_SAID: dict[str, _Blank] = {**_HASH, "name": _absent}
#: By record: the fields that hold text, or would tell whether a guess at one is right. A test knows all the others.
TEXTS: dict[type, dict[str, _Blank]] = {
    ContentPart: {"text": _empty, "uri": _empty, "sha256": _absent},
    ToolCall: {"arguments": _empty},
    ToolOutput: {"output": _empty},
    ClientTool: {"description": _empty, "parameters": _empty},
    InitialMessage: {"name": _absent},
    NewSession: {"title": _empty, "instructions": _empty, "metadata": _empty},
    GenerationParams: {"stop": _empty, "settings": _empty},
    CancelRequest: _HASH,
    ev.TurnAccepted: _SAID,
    ev.ToolOutputsAccepted: _SAID,
    ev.TurnStarted: {"error": _empty},
    ev.MessageStored: {"name": _absent},
    ev.TurnFailed: {"reason": _empty},
    ev.TurnCancelled: {"reason": _empty},
    ev.TurnHidden: _HASH,
    ev.RequestRefused: {**_HASH, "reason": _empty},
    ev.RequestDecided: _HASH,
    ev.SessionTitled: {"title": _empty},
    ev.SessionUpdated: {"title": _empty, "instructions": _empty, "metadata": _empty},
    ev.HistoryCompactionRequested: {**_HASH, "instructions": _empty},
    ev.HistoryCompacted: {"summary": _empty},
    ev.HistoryCompactionFailed: {"reason": _empty},
}


def blanked(record: Any, keyed: Keyed) -> Any:
    """A record without texts; the record itself where it has none."""
    changes: dict[str, Any] = {}
    texts = TEXTS.get(record.__class__, {})
    for name in _names(record.__class__):
        value = getattr(record, name)
        if name in texts:
            blank = texts[name](value, keyed)
        elif isinstance(value, tuple):
            blank = tuple([blanked(each, keyed) if is_dataclass(each) else each for each in value])
        elif is_dataclass(value):
            blank = blanked(value, keyed)
        else:
            continue
        if blank != value:
            changes[name] = blank
    return replace(record, **changes) if changes else record


@cache
def _names(record: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(record)) if is_dataclass(record) else ()


def subject_of(header: ev.EventHeader, event: Any) -> str | None:
    """Whose texts an event of a session or a channel holds, as keys are named; ``None``: nobody's."""
    if header.stream_kind == ev.SESSION:
        return f"session:{header.stream_id}"
    if header.stream_kind != ev.CHANNEL:
        return None
    if isinstance(event, ev.ChannelSessionOpened):
        return _in_channel(header, event.session_id)
    if isinstance(event, ev.CommandForwarded) and event.target_kind == ev.SESSION:
        return _in_channel(header, event.target_id)
    return f"channel:{header.stream_id}"


def _in_channel(header: ev.EventHeader, session_id: str) -> str:
    """What a channel knows of a session: two channels may want to make one of the same name."""
    return f"channel:{header.stream_id}:{session_id}"


def erased_subject(header: ev.EventHeader, event: Any) -> str | None:
    """Whose texts are gone with this event; ``None``: nobody's."""
    if isinstance(event, ev.SessionErased):
        return f"session:{header.stream_id}"
    if isinstance(event, ev.ChannelSessionErased):
        return _in_channel(header, event.session_id)
    return None
