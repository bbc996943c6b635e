"""The list of models that a worker serves: shell-style patterns with commas; ``+PATTERN`` adds one to the default."""

from collections.abc import Sequence

_ADD = "+"


def read_allow_list(text: str, default: Sequence[str]) -> tuple[str, ...]:
    """The patterns in ``text``. If one of them has a plus, those of ``default`` come first. Raises ``ValueError``."""
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    patterns = [entry.removeprefix(_ADD).strip() for entry in entries]
    if not all(patterns):
        raise ValueError("a pattern must follow the +, for example +mine:*")
    if any(entry.startswith(_ADD) for entry in entries):
        patterns = [*default, *patterns]
    return tuple(dict.fromkeys(patterns))


def may_match(pattern: str, provider: str) -> bool:
    """Can a shell-style pattern match any model name of this provider?"""
    literal = pattern
    for wildcard in "*?[":
        literal = literal.partition(wildcard)[0]
    beginning = f"{provider}:"
    if literal == pattern:
        return pattern.startswith(beginning)
    return literal.startswith(beginning) or beginning.startswith(literal)
