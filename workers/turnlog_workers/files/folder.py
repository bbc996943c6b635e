"""A file of an allowed folder. It blocks: call it in a thread.

Symbolic links may lead about inside of the folder, and not out of it: the path is resolved, looked at, and then opened
folder by folder without following any link, so that nobody can put one there in between.
"""

import errno
import os
import stat
from collections.abc import Sequence

from turnlog_workers.runners.base import RunnerError

_CHUNK_BYTES = 1024 * 1024


def read_below(path: str, folders: Sequence[str], most_bytes: int, name: str) -> bytes:
    """The file at an absolute path below one of the folders; of one that is too long, one byte too many.

    Raises :class:`RunnerError`. ``name``: what the file is called in reasons.
    """
    real = os.path.realpath(path)
    root = next((root for root in map(os.path.realpath, folders) if real.startswith(f"{root.rstrip('/')}/")), None)
    if root is None:
        reason = f"file {name!r}: a link leads out of what is allowed (setting TURNLOG_ALLOW_FILES)"
        raise RunnerError("file_not_allowed", reason, retryable=False)
    try:
        descriptor = _opened(root, real.removeprefix(root).strip("/"))
    except OSError as error:
        raise _fault(error, name) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RunnerError("file_not_found", f"file {name!r} is no regular file", retryable=False)
        pieces: list[bytes] = []
        left = most_bytes + 1
        while left > 0 and (piece := os.read(descriptor, min(left, _CHUNK_BYTES))):
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)
    except OSError as error:
        raise _fault(error, name) from error
    finally:
        os.close(descriptor)


def _opened(root: str, relative: str) -> int:
    """A descriptor of the file; whatever became a link meanwhile is not followed."""
    *folders, last = relative.split("/")
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        # Without O_NONBLOCK a pipe would be waited for.
        return os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=here)
    finally:
        os.close(here)


def _fault(error: OSError, name: str) -> RunnerError:
    if error.errno in (errno.ELOOP, errno.EMLINK):
        return RunnerError("file_not_allowed", f"file {name!r}: a link is not followed", retryable=False)
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENAMETOOLONG):
        return RunnerError("file_not_found", f"file {name!r} cannot be opened: {error.strerror}", retryable=False)
    return RunnerError("file_unreachable", f"file {name!r} cannot be read: {error.strerror}")
