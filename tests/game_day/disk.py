"""A small disk of a test's own: a tmpfs, which takes root on Linux."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_CHUNK = b"\0" * (64 << 10)
_AGAIN_S = 0.05


def can_mount() -> bool:
    """May this process mount one?"""
    return sys.platform == "linux" and os.geteuid() == 0


class SmallDisk:
    """Use :func:`small_disk`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "somebody-elses-file"

    async def keep_full(self) -> None:
        """To the last byte, again and again: a file that somebody gives up makes no room for others."""
        with self._ballast.open("ab", buffering=0) as file:
            while True:
                with contextlib.suppress(OSError):
                    while True:
                        file.write(_CHUNK)
                await asyncio.sleep(_AGAIN_S)

    def make_room(self) -> None:
        """What filled it goes."""
        self._ballast.unlink()

    def read_only(self) -> None:
        """Nobody writes any more: what a broken disk is mounted as again."""
        _mount("-o", "remount,ro", str(self.folder))

    def writable(self) -> None:
        """As it was."""
        _mount("-o", "remount,rw", str(self.folder))


@contextlib.contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[SmallDisk]:
    """One of so many MiB, mounted at ``folder``."""
    folder.mkdir(parents=True)
    _mount("-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder))
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
