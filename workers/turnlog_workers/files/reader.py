"""Reads the files of turns within the bounds of the settings, and compares them with what was said of them."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote, urlsplit

from turnlog_schemas.files import file_name
from turnlog_schemas.parts import ContentPart, files_of
from turnlog_streams.files import FilePolicy, is_below, not_taken
from turnlog_streams.records import changed
from turnlog_workers.base.config import Settings
from turnlog_workers.files.folder import read_below
from turnlog_workers.runners.base import RunnerError, TurnInput

MAX_READS = 8  #: at a time, of one worker
_BLOCKING_READS = 4  #: threads: a folder on a file server that hangs stops files, and nothing else
#: How files of a type begin. Sources: RFC 2083 (PNG), ITU-T T.81 (JPEG), GIF89a's specification, ISO 32000-1 (PDF).
_BEGINNINGS = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "application/pdf": (b"%PDF-",),
}


class FileReader:
    """The files that the turns of one worker may read."""

    def __init__(
        self,
        policy: FilePolicy,
        *,
        timeout_s: float,
        private_addresses: bool = False,
        media_types_of: Callable[[str], Sequence[str]],
    ) -> None:
        self._policy = policy
        self._timeout_s = timeout_s
        self._private = private_addresses
        self._media_types_of = media_types_of
        self._reads = asyncio.Semaphore(MAX_READS)
        self._threads = ThreadPoolExecutor(_BLOCKING_READS, thread_name_prefix="turnlog-files")

    @classmethod
    def of(cls, settings: Settings, media_types_of: Callable[[str], Sequence[str]]) -> "FileReader":
        """As the settings have it. ``media_types_of``: what the runner of a model takes."""
        return cls(
            settings.policy().files,
            timeout_s=settings.file_timeout_s,
            private_addresses=settings.file_private_addresses,
            media_types_of=media_types_of,
        )

    @property
    def max_turn_bytes(self) -> int:
        """Of all files that one call of a model is shown."""
        return self._policy.max_turn_bytes

    def offered(self, turn: TurnInput) -> TurnInput:
        """The turn with its files. Raises :class:`RunnerError` if its model does not take what it was asked about.

        That was refused with the request where it was known then: the default model may have become another one.
        """
        asked_about = files_of(turn.user_content)
        taken = self._media_types_of(turn.model) if asked_about else ()
        for part in asked_about:
            found = not_taken(part, turn.model, taken)
            if found is not None:
                raise RunnerError(*found, retryable=False)
        return changed(turn, files=self)

    async def read(self, part: ContentPart) -> bytes:
        """The bytes of a file. Raises :class:`RunnerError`."""
        refused = self._policy.refusal(part)
        if refused is not None:
            raise RunnerError(*refused, retryable=False)
        name = file_name(part)
        try:
            async with asyncio.timeout(self._timeout_s), self._reads:
                data = await self._fetched(part, name)
                if len(data) > self._policy.max_bytes:
                    raise RunnerError("file_too_large", f"file {name!r}: {self._policy.most_bytes}", retryable=False)
                wrong = await asyncio.to_thread(mismatch, part, data)
        except TimeoutError as error:
            reason = f"file {name!r} was not read within {self._timeout_s:g} s (setting TURNLOG_FILE_TIMEOUT_S)"
            raise RunnerError("file_unreachable", reason) from error
        if wrong is not None:
            raise RunnerError("file_mismatch", f"file {name!r}: {wrong}", retryable=False)
        return data

    async def _fetched(self, part: ContentPart, name: str) -> bytes:
        uri, most = part.uri or "", self._policy.max_bytes
        parts = urlsplit(uri)
        if parts.scheme != "file":
            from turnlog_workers.files.web import fetch  # here: an HTTP client is 0.2 s of imports

            return await fetch(
                uri,
                allows=self._policy.allows,
                private=self._private,
                most_bytes=most,
                media_type=part.media_type or "*/*",
                name=name,
            )
        folders = [unquote(urlsplit(prefix).path) for prefix in self._policy.prefixes if is_below(uri, prefix)]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, read_below, unquote(parts.path), folders, most, name)

    def close(self) -> None:
        """No more reads; one that hangs is left alone."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def mismatch(part: ContentPart, data: bytes) -> str | None:
    """What is other than the reference says; ``None``: nothing. Blocks for as long as a hash takes."""
    if part.bytes is not None and len(data) != part.bytes:
        return f"it has {len(data)} bytes and not the {part.bytes} that were said"
    if part.sha256 is not None and hashlib.sha256(data).hexdigest() != part.sha256:
        return "its SHA-256 is not the one that was said: it was changed"
    kind = part.media_type or ""
    beginnings = _BEGINNINGS.get(kind)
    fits = beginnings is None or data.startswith(beginnings)
    if kind == "image/webp":
        fits = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    elif kind.startswith("text/"):
        fits = _is_text(data)
    return None if fits else f"it is no {kind}"


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False
