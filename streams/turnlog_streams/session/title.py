"""A session's title, where nobody gave it one."""

_TITLE_MAX = 60
_TITLE_MIN = 20


def auto_title(text: str) -> str:
    """The first user message on one line, cut at 60 characters: at a word boundary if that keeps more than 20."""
    line = " ".join(text.split())
    if len(line) <= _TITLE_MAX:
        return line
    boundary = line.rfind(" ", 0, _TITLE_MAX + 1)  # a word may end exactly at the limit
    return line[: boundary if boundary > _TITLE_MIN else _TITLE_MAX].rstrip() + "…"
