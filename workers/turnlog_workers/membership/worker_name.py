"""A worker's name: unique among those that live, and the same again after a restart.

The consumer group knows the worker by it (``group.instance.id``), so that a restarted one takes its old place at once.
``TURNLOG_WORKER_NAME``, or the host's name, a mark of the data directory and the first number that no other process of
this directory holds. A held name is a locked file; the lock ends with the process, however that ends.
"""

import fcntl
import hashlib
import os
import re
import secrets
import socket
from pathlib import Path

from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import UsageError

_MAX_HOST_CHARACTERS = 150
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]")
_TOKEN = re.compile(r"[0-9a-f]{12}")


class NameTakenError(UsageError):
    """Another process has this worker's name."""


class WorkerName:
    """A name, and the token of the file that holds it.

    Whoever holds the file is the only process that lives with this token: a member of the group that has the same
    token is our own predecessor, and dead.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self._path = directory / f"{name}.lock"
        self._file = -1
        directory.mkdir(parents=True, exist_ok=True)
        self.token = self._read_token()

    @property
    def client_id(self) -> str:
        """What the broker calls our connections; the group shows it with the member."""
        return f"turnlog-{self.name}-{self.token}"

    def hold(self) -> None:
        """Take the name until the process ends; harmless to repeat. Raises :class:`NameTakenError`."""
        if self._file >= 0:
            return
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if not isinstance(error, BlockingIOError):  # a file system without locks, perhaps
                raise
            raise NameTakenError(
                f"another process on this data directory is the worker {self.name!r} ({self._path} is locked): "
                "stop it, or give each worker a TURNLOG_WORKER_NAME of its own"
            ) from error
        self._file = file
        self.token = self._read_token()

    def release(self) -> None:
        """Give the name back before the process ends."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _read_token(self) -> str:
        """The file's token; a new one where it has none yet."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            found = os.pread(file, 64, 0).decode(errors="replace").strip()
            if _TOKEN.fullmatch(found):
                return found
            token = secrets.token_hex(6)
            os.ftruncate(file, 0)
            os.pwrite(file, f"{token}\n".encode(), 0)
            return token
        finally:
            os.close(file)


def take_name(settings: Settings) -> WorkerName:
    """The name for a worker that begins. A number is held at once, a name that was given by :meth:`WorkerName.hold`."""
    directory = settings.data_dir.absolute() / "workers"
    if settings.worker_name:
        return WorkerName(settings.worker_name, directory)
    number = 0
    while True:
        number += 1
        name = WorkerName(f"{_host()}-{_mark(directory)}-{number}", directory)
        try:
            name.hold()
        except NameTakenError:
            continue
        return name


def _host() -> str:
    return _NOT_IN_NAMES.sub("-", socket.gethostname())[:_MAX_HOST_CHARACTERS] or "host"


def _mark(directory: Path) -> str:
    """Tells workers of one host apart that do not share a directory, so cannot see each other's locks."""
    return hashlib.sha256(os.fsencode(os.path.realpath(directory))).hexdigest()[:4]
