"""The folder in which the users of one machine's model process find each other. Nobody but this user may enter it.

    start.lock    held by a worker while it joins (and perhaps starts the process), by the process while it leaves
    server.lock   held by the process: there is one
    server.json   where it listens and what it can hold: written when the model is loaded, gone when it leaves
    model.sock    where it listens
    users/NAME    held (a lock) by each worker that uses it; NAME.left once it has left, and NAME not held: it has died

The kernel gives a dead process's locks back, so nobody has to be asked whether it lives.
"""

import fcntl
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from turnlog_workers.base.json_file import read_json, write_json

_MAX_SOCKET_PATH_BYTES = 100  # of the address of a Unix socket: 104 on macOS, 108 on Linux, a zero byte included
_PRIVATE = 0o700
_LEFT = ".left"


class RuntimeDirError(RuntimeError):
    """The folder cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """A model process that has loaded its model."""

    pid: int
    socket: str
    context_tokens: int  #: of one slot: prompt and answer
    slots: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """Workers that use the process, and those that did."""

    living: int
    died: int  #: without a word, since somebody looked last
    left: int  #: in order, likewise


def default_directory() -> Path:
    """``$XDG_RUNTIME_DIR/turnlog`` where a session has such a folder, else ``turnlog-UID`` among temporary files."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given and _is_private(Path(given)):
        return Path(given) / "turnlog"
    return Path(tempfile.gettempdir()) / f"turnlog-{os.getuid()}"


def _is_private(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077


class RuntimeDir:
    """The folder of one model. Every method is a few system calls on local files: none waits for another process."""

    def __init__(self, path: Path) -> None:
        """Make it if need be. Raises :class:`RuntimeDirError` if others than this user could write or read there."""
        self.path = path
        self.socket = path / "model.sock"
        self.log = path / "server.log"
        self._info = path / "server.json"
        self._users = path / "users"
        if len(os.fsencode(self.socket)) > _MAX_SOCKET_PATH_BYTES:
            raise RuntimeDirError(
                f"the folder {path} is too long a name for a Unix socket: set TURNLOG_RUNTIME_DIR to a shorter one"
            )
        for folder in (path.parent, path, self._users):
            try:
                folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            except OSError as error:
                raise RuntimeDirError(
                    f"the folder {folder} cannot be made ({error.strerror}): set TURNLOG_RUNTIME_DIR to another"
                ) from error
            if not _is_private(folder):
                raise RuntimeDirError(
                    f"the folder {folder} is not this user's alone (its mode must be 0700): remove it, or set "
                    "TURNLOG_RUNTIME_DIR to another"
                )

    # ---- the process

    def server(self) -> ServerInfo | None:
        """The process that said last that it is ready. It may be dead: then its socket refuses."""
        found = read_json(self._info)
        try:
            return ServerInfo(**found)
        except TypeError:
            return None

    def publish(self, info: ServerInfo) -> None:
        """Tell everybody that the model is loaded."""
        write_json(self._info, asdict(info))

    def withdraw(self) -> None:
        """Nobody finds the process any more."""
        self._info.unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)

    def try_server_lock(self) -> bool:
        """Be the one model process, until this process ends."""
        return _locked(self.path / "server.lock") is not None

    @contextmanager
    def try_start_lock(self) -> Iterator[bool]:
        """Whether nobody else joins, starts or leaves now; held until the block ends."""
        held = _locked(self.path / "start.lock")
        try:
            yield held is not None
        finally:
            if held is not None:
                os.close(held)

    # ---- its users

    def join(self) -> "User":
        """Be a user until :meth:`User.leave`, or the end of this process. Under the start lock."""
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        new = self.path / f"{name}.joining"
        held = _locked(new)
        assert held is not None  # a name of our own
        new.rename(self._users / name)  # nobody sees it before it is locked
        return User(self._users / name, held)

    def users(self) -> Users:
        """Who uses the process, and what became of others since the last call."""
        living = died = left = 0
        for path in list(self._users.iterdir()):
            if path.suffix == _LEFT:
                path.unlink(missing_ok=True)
                left += 1
                continue
            held = _locked(path, create=False)
            if held is None:
                living += path.exists()
                continue
            path.unlink(missing_ok=True)
            os.close(held)
            died += 1
        return Users(living=living, died=died, left=left)


class User:
    """One worker's use of the model process."""

    def __init__(self, path: Path, held: int) -> None:
        self._path, self._held = path, held

    def leave(self) -> None:
        """No more use of it. Harmless to repeat."""
        if self._held >= 0:
            held, self._held = self._held, -1
            try:
                self._path.rename(self._path.with_suffix(_LEFT))
            finally:
                os.close(held)


def _locked(path: Path, *, create: bool = True) -> int | None:
    """The file, open and locked until it is closed; ``None``: somebody else holds it, or it is not there."""
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    try:
        file = os.open(path, flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except OSError:
        os.close(file)
        raise
    return file
