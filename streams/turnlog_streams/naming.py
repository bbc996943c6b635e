"""Names that follow from others: a session's channel from its id, its title from the first message."""

import re

_CHANNEL_AND_SUFFIX = re.compile(r"(.+)-[0-9a-f]{8}")
_TITLE_MAX = 60
_TITLE_MIN = 20


def channel_of(session_id: str) -> str:
    """The channel that a session id tells: generated ids are channel, ``-``, 8 hex digits; else the id itself."""
    match = _CHANNEL_AND_SUFFIX.fullmatch(session_id)
    return match.group(1) if match else session_id


def auto_title(text: str) -> str:
    """The first user message on one line, cut at 60 characters: at a word boundary if that keeps more than 20."""
    line = " ".join(text.split())
    if len(line) <= _TITLE_MAX:
        return line
    boundary = line.rfind(" ", 0, _TITLE_MAX + 1)  # a word may end exactly at the limit
    return line[: boundary if boundary > _TITLE_MIN else _TITLE_MAX].rstrip() + "…"
