"""What the operator's log says of an exception that a runner raised: its type, its message and its place.

The message is a plug-in's, so it may hold anything. It is cut to one short line, secrets are taken out of it, and so is
whatever it quotes of the turn's own texts. A traceback (at DEBUG) shows code only, no message.
"""

import json
import logging
import traceback
from collections.abc import Iterable, Iterator
from types import FrameType

from turnlog_schemas.parts import content_text
from turnlog_workers.base.logs import at, redacted
from turnlog_workers.base.tasks import traceback_of
from turnlog_workers.runners.base import TurnInput
from turnlog_workers.runners.checked import one_line, type_name
from turnlog_workers.runners.contained import UnexpectedError

log = logging.getLogger(__name__)
MAX_MESSAGE_CHARACTERS = 300
_READ_CHARACTERS = 10_000  #: of a message
_KNOWN_CHARACTERS = 100_000  #: of a turn's texts
_QUOTE_CHARACTERS = 12  #: as many in a row are a quotation
_SHORT_CHARACTERS = 4  #: a whole text of so many is one, too
_MAX_FRAMES = 30
_MAX_CHAIN = 5
_CAUSE, _CONTEXT = (BaseException.__dict__[name] for name in ("__cause__", "__context__"))
_OURS = {
    *(
        "turnlog_workers.sessions.session_actor",
        "turnlog_workers.sessions.turn_attempt",
        "turnlog_workers.sessions.history_compactor",
    ),
    *("turnlog_workers.runners.contained", "turnlog_workers.runners.checked", "turnlog_workers.runners.traced"),
    *("turnlog_workers.tools.toolbox", "turnlog_workers.tools.function_tool"),
}


def log_fault(fault: UnexpectedError, session_id: str, turn_id: str, texts: Iterable[str]) -> None:
    """Tell of an attempt that ended by ``fault``. ``texts``: what of the turn may be quoted in it."""
    place, error = at(session=session_id, turn=turn_id), fault.__cause__
    if error is None:
        log.error("%s", fault.reason, extra=place)
        return
    log.error("a runner raised %s: %s (%s)", type_name(error), message_of(error, texts), place_of(error), extra=place)
    if log.isEnabledFor(logging.DEBUG):
        log.debug("where the runner raised it:\n%s", "\n".join(_code_of(error)), extra=place)


def texts_of(turn: TurnInput, *more: str) -> Iterator[str]:
    """The texts of a turn, the newest first."""
    yield from more
    yield content_text(turn.user_content) or ""
    for message in (*reversed(turn.turn_messages), *reversed(turn.assembled)):
        yield content_text(message.content) or ""
        for call in message.tool_calls:
            yield call.arguments
    yield turn.instructions or ""


def message_of(error: BaseException, texts: Iterable[str] = ()) -> str:
    """The message of an exception, as a log may hold it."""
    try:
        return as_logged(str.__str__(str(error)), texts) or "[no message]"
    except BaseException as failed:  # it is a plug-in's method, and may be a plug-in's text
        return f"[its message raised {type_name(failed)}]"


def as_logged(said: str, texts: Iterable[str] = ()) -> str:
    """Somebody else's words as a log may hold them: short, without secrets and without quotations of ``texts``."""
    line = one_line(redacted(said[:_READ_CHARACTERS]), 2 * MAX_MESSAGE_CHARACTERS)
    return _without_quotations(line, texts)[:MAX_MESSAGE_CHARACTERS]


def _without_quotations(line: str, texts: Iterable[str]) -> str:
    known, short, size = [], [], 0
    for text in texts:
        if size > _KNOWN_CHARACTERS:
            break
        for form in {text, json.dumps(text)[1:-1], repr(text)[1:-1]}:
            flat = " ".join(form[:_KNOWN_CHARACTERS].split())
            size += len(flat)
            known.append(flat)
            if _SHORT_CHARACTERS <= len(flat) < _QUOTE_CHARACTERS:
                short.append(flat)
    everything = "\n".join(known)
    quoted = [False] * len(line)
    for start in range(len(line) - _QUOTE_CHARACTERS + 1):
        if line[start : start + _QUOTE_CHARACTERS] in everything:
            quoted[start : start + _QUOTE_CHARACTERS] = [True] * _QUOTE_CHARACTERS
    for text in short:
        start = line.find(text)
        while start >= 0:
            quoted[start : start + len(text)] = [True] * len(text)
            start = line.find(text, start + 1)
    pieces = []
    for index, character in enumerate(line):
        if not quoted[index]:
            pieces.append(character)
        elif index == 0 or not quoted[index - 1]:
            pieces.append("[text]")
    return "".join(pieces)


def place_of(error: BaseException) -> str:
    """``FILE:LINE in FUNCTION``: the innermost frame of the plug-in, whatever library it called from there."""
    frames = list(traceback.walk_tb(traceback_of(error)))
    theirs = [pair for pair in frames if _module(pair[0]) not in _OURS] or frames
    if not theirs:
        return "place unknown"
    package = _module(theirs[0][0]).partition(".")[0]
    frame, line = [pair for pair in theirs if _module(pair[0]).partition(".")[0] == package][-1]
    return f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _code_of(error: BaseException) -> Iterator[str]:
    """Types and lines of code, of the error and of what led to it."""
    cause: BaseException | None = error
    for _ in range(_MAX_CHAIN):
        if cause is None:
            return
        yield f"{type_name(cause)}, most recent call last:"
        yield "".join(traceback.format_tb(traceback_of(cause))[-_MAX_FRAMES:]).rstrip()
        cause = _CAUSE.__get__(cause) or _CONTEXT.__get__(cause)
