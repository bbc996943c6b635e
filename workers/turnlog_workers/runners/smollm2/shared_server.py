"""A worker's way to the machine's one model process: find it, or start it; be its user until the worker ends.

Nothing here waits on the event loop for another process: locks are tried, never waited for, and files are small.
"""

import asyncio
import atexit
import json
import logging
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from turnlog_workers.runners.base import RunnerError
from turnlog_workers.runners.smollm2.runtime_dir import RuntimeDir, RuntimeDirError, ServerInfo, User
from turnlog_workers.runners.smollm2.server import EXIT_TAKEN, ServerConfig

log = logging.getLogger(__name__)
START_TIMEOUT_S = 60.0  #: to load 98 MB, on a busy machine
_POLL_S = 0.05
#: All that the process gets of a worker's environment: no key of anybody is in it.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerWish:
    """How a process is started, where there is none yet: one that runs is taken as it is."""

    threads: int
    slots: int
    context_tokens: int
    idle_timeout_s: float
    linger_s: float = 30.0  #: longer than a group takes to notice that a worker is dead


class SharedServer:
    """One worker's use of the model process, for all its sessions."""

    def __init__(self, path: Path, model: Path, wish: ServerWish) -> None:
        self._path, self._model, self._wish = path, model, wish
        self._directory: RuntimeDir | None = None
        self._user: User | None = None
        self._info: ServerInfo | None = None
        self._asking = asyncio.Lock()

    async def ready(self) -> ServerInfo:
        """The process, started if need be. Raises :class:`RunnerError`."""
        async with self._asking:
            if self._info is None:
                try:
                    async with asyncio.timeout(START_TIMEOUT_S):
                        self._info = await self._joined()
                except RuntimeDirError as error:
                    raise RunnerError("model_unavailable", f"smollm2: {error}", retryable=False) from error
                except TimeoutError as error:
                    reason = f"the model did not start within {START_TIMEOUT_S:g} s; what it said is in {self._log}"
                    raise RunnerError("model_unavailable", reason) from error
            return self._info

    def lost(self, info: ServerInfo) -> None:
        """This process does not take connections any more."""
        if self._info == info:
            self._info = None

    def leave(self) -> None:
        """No more use of it: if nobody else uses it, it ends. Harmless to repeat."""
        user, self._user, self._info = self._user, None, None
        if user is not None:
            with suppress(OSError):  # at the end of a process nobody can do anything about it
                user.leave()
            atexit.unregister(self.leave)

    @property
    def _log(self) -> Path:
        return self._path / "server.log"

    async def _joined(self) -> ServerInfo:
        directory = self._directory = self._directory or RuntimeDir(self._path)
        while True:
            with directory.try_start_lock() as nobody_else:
                if nobody_else:  # so the process cannot leave meanwhile, nor another worker start one
                    if self._user is None:
                        self._user = directory.join()
                        atexit.register(self.leave)
                    return await _found(directory) or await self._started(directory)
            await asyncio.sleep(_POLL_S)

    async def _started(self, directory: RuntimeDir) -> ServerInfo:
        process = await asyncio.to_thread(self._spawn, directory)
        log.info("loading the model of smollm2: in process %d", process.pid)
        while True:
            info = await _found(directory)
            if info is not None:
                return info
            # Taken: whoever started one before was cancelled, and that one is loading still.
            if process.poll() not in (None, EXIT_TAKEN):
                reason = f"the model's process ended with code {process.returncode}; what it said is in {self._log}"
                raise RunnerError("model_unavailable", reason)
            await asyncio.sleep(_POLL_S)

    def _spawn(self, directory: RuntimeDir) -> "subprocess.Popen[bytes]":
        wish = asdict(self._wish)
        config = ServerConfig(directory=str(directory.path), model=str(self._model), **wish)
        opened = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "turnlog_workers.runners.smollm2.server", json.dumps(asdict(config))],
                cwd="/",
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=opened,
                stderr=opened,
                start_new_session=True,  # neither the terminal's Ctrl-C nor the end of this worker is its own
            )
        finally:
            os.close(opened)
        threading.Thread(target=process.wait, name="turnlog-model-process", daemon=True).start()  # no zombie is left
        return process


def _environment() -> dict[str, str]:
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    if path := passed_on.get("PYTHONPATH"):
        passed_on["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in path.split(os.pathsep) if entry)
    return passed_on


async def _found(directory: RuntimeDir) -> ServerInfo | None:
    """The process that has loaded its model, if anybody listens there."""
    info = directory.server()
    if info is None:
        return None
    try:
        _, writer = await asyncio.open_unix_connection(info.socket)
    except OSError:
        return None
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return info
