"""Where files may be that messages refer to, and of which types: the settings ``TURNLOG_ALLOW_FILES`` and others."""

import re
from urllib.parse import urlsplit

from turnlog_schemas.files import wrong_uri

_TYPE_PATTERN = re.compile(r"[a-z0-9*?][a-z0-9!#$&^_.+*?-]*/[a-z0-9*?][a-z0-9!#$&^_.+*?-]*")


def read_file_prefixes(text: str) -> tuple[str, ...]:
    """Prefixes of URIs, with commas: ``file:///srv/uploads/``, ``https://files.example.com/``.

    Raises ``ValueError`` with a sentence.
    """
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for prefix in found:
        if (wrong := wrong_uri(prefix)) is not None or "?" in prefix:
            raise ValueError(f"{prefix[:100]!r} is no URI of a folder or host: {wrong or 'it has a query'}")
        if not prefix.endswith("/"):
            raise ValueError(f"{prefix[:100]!r} must end with a slash: what is allowed is below it")
        if urlsplit(prefix).scheme == "file" and not urlsplit(prefix).path.strip("/"):
            raise ValueError(f"{prefix[:100]!r} is everything on this machine: name a folder")
    return found


def read_media_types(text: str) -> tuple[str, ...]:
    """Shell-style patterns, with commas: ``image/*``, ``application/pdf``. Raises ``ValueError`` with a sentence."""
    found = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    for pattern in found:
        if not _TYPE_PATTERN.fullmatch(pattern):
            raise ValueError(f"{pattern[:100]!r} is no pattern of media types, such as image/*")
    return found
