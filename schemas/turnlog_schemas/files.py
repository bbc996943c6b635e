"""References to files: what one must look like, what it is called, how it is shown where only text is. Pure.

The bytes of a file are never in a request, an event or a frame: a worker reads them for a call of a model, and forgets
them.
"""

import re
from urllib.parse import unquote, urlsplit

from turnlog_schemas.parts import FILE_REF, TEXT, ContentPart, content_text

SCHEMES = ("https", "http", "file")
MAX_URI_BYTES = 4096  #: signed addresses of object stores are long
MAX_TYPE_BYTES = 128
MAX_FILES = 64  #: of one message
_MAX_NAME_CHARACTERS = 120
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*")  # RFC 6838, in small letters
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NOT_IN_URIS = re.compile(r"[^!-~]|[\\<>\"`{}|^]")  # RFC 3986: everything else is percent-encoded
_ENCODED_MARK = re.compile(r"%(?:2f|5c|00)", re.IGNORECASE)
_MAX_UNQUOTED = 3  #: so many times a server or a proxy may take a path's encoding away


def wrong_content(content: tuple[ContentPart, ...]) -> tuple[str, str] | None:
    """Why no chat may say this: code and reason; ``None``: it may."""
    files = 0
    for index, part in enumerate(content):
        for what, said, most in (("uri", part.uri, MAX_URI_BYTES), ("media_type", part.media_type, MAX_TYPE_BYTES)):
            if said is not None and len(said) > most:
                return "too_long", f"content.{index}.{what} has {len(said)} characters; at most {most} are accepted"
        if (wrong := wrong_part(part)) is not None:
            return "invalid_command", f"content.{index}: {wrong}"
        files += part.kind == FILE_REF
    if files > MAX_FILES:
        return "too_long", f"{files} files; at most {MAX_FILES} are accepted"
    if not files and not "".join(part.text or "" for part in content).strip():
        return "empty_text", "the text is empty"
    return None


def wrong_part(part: ContentPart) -> str | None:
    """Why no request may have this part; ``None``: it may. Never quotes a value."""
    if part.kind == TEXT:
        said = (part.uri, part.media_type, part.sha256, part.bytes)
        return None if said == (None, None, None, None) else "a part of kind 'text' has a text and nothing else"
    if part.kind != FILE_REF:
        return f"there is no part of kind {part.kind[:64]!r}: a part is a 'text' or a 'file_ref'"
    if part.text is not None:
        return "a file_ref has no text: a text is a part of its own"
    if part.media_type is None or len(part.media_type) > MAX_TYPE_BYTES:
        return "a file_ref says its media_type, such as image/png"
    if not _MEDIA_TYPE.fullmatch(part.media_type):
        return "media_type is not two names with a slash in between, in small letters and without parameters"
    if part.sha256 is not None and not _SHA256.fullmatch(part.sha256):
        return "sha256 is not 64 of 0-9 a-f"
    if part.bytes is not None and part.bytes < 0:
        return "bytes is negative"
    return wrong_uri(part.uri)


def wrong_uri(uri: str | None) -> str | None:
    """Why a file cannot be there; ``None``: it can."""
    if not uri:
        return "a file_ref says its uri, https://… or file:///…"
    scheme = uri[:5].lower()
    if scheme == "data:":
        return "uri holds the data itself: only references are stored; put the file where workers can read it"
    if len(uri) > MAX_URI_BYTES:
        return f"uri has more than {MAX_URI_BYTES} bytes"
    if _NOT_IN_URIS.search(uri):
        return "uri has characters that must be percent-encoded"
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "uri is no address"
    if parts.scheme not in SCHEMES:
        return f"uri begins with none of {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
    if "@" in parts.netloc:
        return "uri holds a name or a password"
    if "#" in uri:
        return "uri has a fragment"
    if parts.scheme == "file":
        if host not in (None, "localhost") or not uri.lower().startswith("file://"):
            return "uri is of a file on another host"
        if "?" in uri:
            return "uri of a file has a query"
    elif not host:
        return "uri names no host"
    if _ENCODED_MARK.search(parts.path):
        return "uri has an encoded slash, backslash or NUL in its path"
    return "uri has a path with . or .. in it" if has_dot_segments(parts.path) else None


def has_dot_segments(path: str) -> bool:
    """Does a path lead upwards, or nowhere, however often its encoding is taken away?"""
    for _ in range(_MAX_UNQUOTED):
        if any(segment in (".", "..") for segment in path.split("/")):
            return True
        plainer = unquote(path)
        if plainer == path:
            return False
        path = plainer
    return True


def file_name(part: ContentPart) -> str:
    """What a file is called: the end of its URI's path, cut, without what is no printable character."""
    try:
        path = urlsplit(part.uri or "").path
    except ValueError:
        path = ""
    last = unquote(path).rstrip("/").rpartition("/")[2][:_MAX_NAME_CHARACTERS]
    return "".join(c if c.isprintable() else "_" for c in last) or "file"


def reference_text(part: ContentPart) -> str:
    """A file in words, for whoever is shown text only."""
    size = "" if part.bytes is None else f", {part.bytes} bytes"
    return f"[file {file_name(part)}: {part.media_type or 'of a type that nobody said'}{size}]"


def shown_text(content: tuple[ContentPart, ...] | None) -> str | None:
    """As :func:`~turnlog_schemas.parts.content_text`, with a line for each file."""
    if content is None or all(part.kind != FILE_REF for part in content):
        return content_text(content)
    lines = [""]
    for part in content:
        if part.kind == FILE_REF:
            lines += [reference_text(part), ""]
        else:
            lines[-1] += part.text or ""
    return "\n".join(line for line in lines if line)
