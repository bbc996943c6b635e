"""References to files, for what a program or a command line says: a path or a URI becomes a part of a message."""

import hashlib
import mimetypes
from pathlib import Path
from urllib.parse import urlsplit

from turnlog.errors import NotFoundError, UsageError
from turnlog_schemas.files import SCHEMES, wrong_part
from turnlog_schemas.parts import FILE_REF, ContentPart


def file_part(path_or_uri: str | Path, *, media_type: str | None = None) -> ContentPart:
    """A reference to a file: of this machine (its size and SHA-256 are looked up), or at ``https://…``.

    The worker reads it, not this program: a path must lead to the same file there, and be allowed
    (``TURNLOG_ALLOW_FILES``). ``media_type``: absent, it is told by the name's ending. It blocks while it reads. Raises
    :class:`NotFoundError` for a file that cannot be read, :class:`UsageError` for what can be no reference.
    """
    text = str(path_or_uri)
    if text.partition(":")[0].lower() in (*SCHEMES, "data") and not isinstance(path_or_uri, Path):
        name = urlsplit(text).path
        part = ContentPart(kind=FILE_REF, uri=text, media_type=media_type or _type_of(name, text))
    else:
        part = _of_path(Path(text), media_type)
    if (wrong := wrong_part(part)) is not None:
        raise UsageError(f"{text[:200]!r}: {wrong}")
    return part


def _of_path(path: Path, media_type: str | None) -> ContentPart:
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as opened:
            while piece := opened.read(1024 * 1024):
                digest.update(piece)
                size += len(piece)
    except OSError as error:
        raise NotFoundError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    return ContentPart(
        kind=FILE_REF,
        uri=path.resolve().as_uri(),
        media_type=media_type or _type_of(path.name, str(path)),
        sha256=digest.hexdigest(),
        bytes=size,
    )


def _type_of(name: str, shown: str) -> str:
    found, encoding = mimetypes.guess_type(name)
    if found is None or encoding is not None:
        raise UsageError(f"{shown[:200]!r}: its name does not tell its media type; say it, such as image/png")
    return found.lower()
