"""Numbers of things, and how long ago, in sentences for people."""


def counted(count: int, thing: str, things: str | None = None) -> str:
    """``1 session``, ``2,000 sessions``. ``things``: the plural, where it is not ``thing`` with an s."""
    return f"{count:,} {thing if count == 1 else things or f'{thing}s'}"


def duration(seconds: float) -> str:
    """In the largest unit that it has two of: ``119 s``, ``3 min``, ``2 h``, ``4 days``."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"
