"""A folder of a process's own, for files that nobody needs after it: what DuckDB moves out of memory.

DuckDB gives such files the same names in every process. Two that shared a folder would read each other's pages.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
from pathlib import Path

_LOCK = "in-use"


class ScratchFolder:
    """``parent/PREFIXPID-RANDOM``, held by a lock until it is removed. Folders of processes that died are cleared away.

    Nobody else may look into it: it holds what people said.
    """

    def __init__(self, parent: Path, *, prefix: str = "") -> None:
        """``prefix`` tells ours from others, where ``parent`` is shared. Raises ``OSError`` when it cannot be made."""
        parent.mkdir(parents=True, exist_ok=True)
        for other in parent.iterdir():
            if other.name.startswith(prefix):
                _remove_if_left(other)
        self.path = parent / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"
        self.path.mkdir(mode=0o700)
        self._lock = _locked(self.path / _LOCK)

    def remove(self) -> None:
        """Away with it. May be called again."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock; ``None``: somebody else has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_if_left(folder: Path) -> None:
    """Nobody holds the lock of a process that died. One without a lock is being made just now."""
    lock = folder / _LOCK
    with contextlib.suppress(OSError):  # another process clears it away at the same time
        if folder.is_symlink() or not lock.exists() or folder.stat().st_uid != os.getuid():
            return
        descriptor = _locked(lock)
        if descriptor is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)
