"""Numbers of things, moments, and how long ago, in sentences for people."""

from datetime import UTC, datetime


def counted(count: int, thing: str, things: str | None = None) -> str:
    """``1 session``, ``2,000 sessions``. ``things``: the plural, where it is not ``thing`` with an s."""
    return f"{count:,} {thing if count == 1 else things or f'{thing}s'}"


def moment(at_ms: int) -> str:
    """Milliseconds since 1970 as ``2026-11-29T10:00:00Z``."""
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%dT%H:%M:%S}Z"


def duration(seconds: float) -> str:
    """In the largest unit that it has two of: ``119 s``, ``3 min``, ``2 h``, ``4 days``."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"
