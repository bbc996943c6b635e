"""Is a history that was sent again the one that a session has? Pure.

Clients send back what they were shown: the texts of an answer in one, without what workers called; now and then without
the blanks at its ends, or with what an attempt had said before it was given up.
"""

from collections.abc import Iterable, Sequence

from turnlog.serve.retries import digest
from turnlog_schemas.parts import ContentPart, HistoryEntry, InitialMessage

Spoken = tuple[str, str]  # role, text
_BETWEEN = {"user": "\n\n", "assistant": ""}


def spoken(messages: Iterable[InitialMessage | HistoryEntry]) -> list[Spoken]:
    """Who said what, in turns: neighbours of one role are one; tools and empty texts are left out."""
    found: list[Spoken] = []
    for message in messages:
        text = _text(message.content)
        if message.role not in _BETWEEN or not text:
            continue
        if found and found[-1][0] == message.role:
            found[-1] = (message.role, f"{found[-1][1]}{_BETWEEN[message.role]}{text}")
        else:
            found.append((message.role, text))
    return [(role, text.strip()) for role, text in found]


def same_history(sent: Sequence[Spoken], stored: Sequence[Spoken]) -> bool:
    """Does what was sent say what is stored?"""
    return len(sent) == len(stored) and all(
        role == stored_role and (text == said or (role == "assistant" and _shown_as(text, said)))
        for (role, text), (stored_role, said) in zip(sent, stored, strict=True)
    )


def _shown_as(sent: str, stored: str) -> bool:
    """Behind what was void, or as far as it was shown when it was cut short."""
    return sent.endswith(f"\n\n{stored}")


def mark(messages: Sequence[InitialMessage], number: int = 0) -> str:
    """A name for a history: the same for the same, 16 characters. ``number`` tells several that began with it apart."""
    return digest(*(part for pair in spoken(messages) for part in pair), str(number))[:16]


def _text(content: Sequence[ContentPart] | None) -> str:
    return "".join(part.text or f"[{part.uri}]" for part in content or ())
