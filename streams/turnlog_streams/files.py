"""Which files a request may refer to: what the settings and the model say, before anything is read. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import unquote, urlsplit

from turnlog_schemas.files import file_name, wrong_uri
from turnlog_schemas.parts import ContentPart

_PORTS = {"https": 443, "http": 80}
_SHOWN_TYPES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePolicy:
    """What the worker allows. Sizes in bytes."""

    prefixes: tuple[str, ...] = ()  #: of URIs, each ends with a slash; none: no files
    media_types: tuple[str, ...] = ()  #: shell-style patterns
    max_bytes: int = 10 * 1024 * 1024  #: of one file
    max_turn_bytes: int = 20 * 1024 * 1024  #: of all files of a model call

    def allows(self, uri: str) -> bool:
        """Is it below one of the prefixes?"""
        return wrong_uri(uri) is None and any(is_below(uri, prefix) for prefix in self.prefixes)

    @property
    def most_bytes(self) -> str:
        """The bound of one file, in words."""
        return f"at most {self.max_bytes} are read (setting TURNLOG_MAX_FILE_BYTES)"

    def refusal(self, part: ContentPart) -> tuple[str, str] | None:
        """Why no turn may refer to this file: code and reason; ``None``: one may."""
        name = file_name(part)
        if not self.allows(part.uri or ""):
            where = "no files are allowed here" if not self.prefixes else "its uri begins with none of what is allowed"
            return "file_not_allowed", f"file {name!r}: {where} (setting TURNLOG_ALLOW_FILES)"
        if not fits(part.media_type, self.media_types):
            what = f"files of type {part.media_type} are not allowed here (setting TURNLOG_FILE_MEDIA_TYPES)"
            return "media_type_not_allowed", f"file {name!r}: {what}"
        if part.bytes is not None and part.bytes > self.max_bytes:
            return "file_too_large", f"file {name!r} has {part.bytes} bytes; {self.most_bytes}"
        return None

    def refusal_of_all(self, parts: Sequence[ContentPart], model: str, taken: Sequence[str]) -> tuple[str, str] | None:
        """Why a turn of this model may not have these files. ``taken``: patterns of media types that it takes."""
        for part in parts:
            if (found := self.refusal(part) or not_taken(part, model, taken)) is not None:
                return found
        size = sum(part.bytes or 0 for part in parts)
        if size > self.max_turn_bytes:
            most = f"at most {self.max_turn_bytes} (setting TURNLOG_MAX_TURN_FILE_BYTES)"
            return "file_too_large", f"the files have {size} bytes together; {most}"
        return None


def not_taken(part: ContentPart, model: str, taken: Sequence[str]) -> tuple[str, str] | None:
    """Why this model cannot be shown the file: code and reason; ``None``: it can."""
    if fits(part.media_type, taken):
        return None
    what = f"takes {', '.join(taken[:_SHOWN_TYPES])}" if taken else "takes no files"
    return "media_type_not_supported", f"file {file_name(part)!r} is {part.media_type}; model {model[:200]!r} {what}"


def fits(media_type: str | None, patterns: Sequence[str]) -> bool:
    """Is the media type one of these?"""
    return any(fnmatchcase(media_type or "", pattern) for pattern in patterns)


def is_below(uri: str, prefix: str) -> bool:
    """Is a URI that :func:`~turnlog_schemas.files.wrong_uri` has nothing against below a prefix?

    Scheme, host and port are the same, and the path goes on where the prefix's ends, at a slash.
    """
    one, other = urlsplit(uri), urlsplit(prefix)
    if one.scheme != other.scheme:
        return False
    if one.scheme != "file" and (one.hostname, _port(one.port, one.scheme)) != (
        other.hostname,
        _port(other.port, other.scheme),
    ):
        return False
    folder = unquote(other.path).rstrip("/") + "/"
    return unquote(one.path or "/").startswith(folder)


def _port(port: int | None, scheme: str) -> int | None:
    return port if port is not None else _PORTS.get(scheme)
