"""While a live analysts' file changes its place, nobody else opens or replaces it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from turnlog_workers.store.port import StoreError


@contextlib.contextmanager
def swapping(live: Path) -> Iterator[None]:
    """While a live file is opened or replaced: one process at a time. Raises :class:`StoreError`."""
    lock = live.with_name(f".{live.name}.swap")
    try:
        live.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(f"{lock} cannot be made: {error}. Check the disk and the rights of its folder") from error
    try:
        with contextlib.suppress(OSError):  # not every file system can
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
