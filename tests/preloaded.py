"""Python processes that start with their imports done: each is forked from one that has imported the packages.

A worker's imports cost 1.4 s of CPU, its start itself 0.3 s, and the tests start hundreds of processes. What only a
fresh interpreter shows is tested where users' own command lines run (the stack, the demo, the command line, the
installation). Linux only; elsewhere, and with an interpreter that is set up otherwise, a process is a fresh one.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import importlib.abc
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from turnlog_workers.devstack.launch import launch_argv

_ROOT = Path(__file__).resolve().parents[1]
#: What workers and the materializer import, now or as they go; of packages each module.
_MODULES = ("faust.app", "faust.assignor.partition_assignor", "turnlog.cli.app", "uvloop")
_OURS = ("turnlog", "tests.")  #: the modules that are run like this; Faust's command line wants to be the first
_PACKAGES = (
    "turnlog_schemas",
    "turnlog_streams",
    *(
        f"turnlog_workers.{room}"
        for room in ("base", "kafka", "tools", "intake", "membership", "store", "shard", "sessions", "process")
    ),
    "turnlog_workers.materializer",
)
#: It has a thread from its import on, which would not survive a fork. What imports it is imported after the fork.
_NOT_HERE = "duckdb"
_NO_MATTER = {"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
_READ_AT_IMPORT = "turnlog_workers.base.crash_points"  #: it reads the environment
_PR_SET_PDEATHSIG = 1
_MAX_REQUEST_BYTES = 1 << 20


class ForkedProcess:
    """As much of :class:`subprocess.Popen` as a test needs."""

    def __init__(self, status_fd: int) -> None:
        self._status = os.fdopen(status_fd, "rb", buffering=0)
        self._lock = threading.Lock()
        self.returncode: int | None = None
        self.pid = int.from_bytes(self._read(), "big")

    def poll(self) -> int | None:
        """Its exit code if it has ended; negative: killed by that signal."""
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, or :class:`subprocess.TimeoutExpired`."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # just now
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout_s: float | None) -> int | None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self.returncode is None:
            with self._lock, selectors.DefaultSelector() as selector:
                if self.returncode is not None:
                    break
                selector.register(self._status, selectors.EVENT_READ)
                left_s = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                if not selector.select(left_s):
                    return None
                self.returncode = int.from_bytes(self._read(), "big", signed=True)
                self._status.close()
        return self.returncode

    def _read(self) -> bytes:
        told = self._status.read(4)
        assert told is not None, "there is nothing to be read yet"
        assert len(told) == 4, "the process that forks the others has ended"
        return told


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    stdout: IO[bytes],
    stderr: IO[bytes] | None = None,
    cwd: Path | str | None = None,
) -> "ForkedProcess | subprocess.Popen[bytes]":
    """Start ``argv``, its outputs into files (one for both if ``stderr`` is none); forked if it is ``PYTHON -m MODULE``
    of ours.

    It has no input, and ends at the latest with this process.
    """
    stderr = stderr or stdout
    if not _can_be_forked(argv, env):
        return subprocess.Popen(
            launch_argv(argv), env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
        )
    request = {
        "argv": list(argv[argv.index("-m") + 1 :]),
        "env": dict(env),
        "cwd": str(cwd or Path.cwd()),
        "path": "-P" not in argv,
    }
    ours, theirs = os.pipe()
    try:
        _server().ask(json.dumps(request).encode(), [stdout.fileno(), stderr.fileno(), theirs])
    finally:
        os.close(theirs)
    return ForkedProcess(ours)


def run(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path | str | None = None, timeout_s: float = 60.0
) -> "subprocess.CompletedProcess[str]":
    """Run ``argv`` to its end; its outputs as text."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = start(argv, env=env, stdout=out, stderr=err, cwd=cwd)
        try:
            code = process.wait(timeout_s)
        finally:
            process.kill()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(argv, code, *texts)


def _of_python(env: Mapping[str, str]) -> dict[str, str]:
    names = {name for name in env if name.startswith("PYTHON")} - _NO_MATTER
    return {name: env[name] for name in names}


_PYTHON = _of_python(os.environ)


def _can_be_forked(argv: Sequence[str], env: Mapping[str, str]) -> bool:
    """An interpreter's own variables must be those that this run began with."""
    interpreter, *options = argv
    options = options[1:] if options[:1] == ["-P"] else options
    ours = interpreter == sys.executable and options[:1] == ["-m"] and options[1].startswith(_OURS)
    return sys.platform == "linux" and ours and _of_python(env) == _PYTHON


# ---- the process that forks


class _Server:
    """The process that has imported everything; it ends with this one."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            argv = [sys.executable, "-m", __name__, str(theirs.fileno())]
            environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | _PYTHON
            self._process = subprocess.Popen(
                argv, cwd=_ROOT, env=environ, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        self.owner = os.getpid()
        atexit.register(self.close)

    def ask(self, request: bytes, fds: list[int]) -> None:
        with self._lock:
            socket.send_fds(self._socket, [request], fds)

    def close(self) -> None:
        if os.getpid() == self.owner:
            self._socket.close()
            self._process.wait()


_servers: list[_Server] = []
_starting = threading.Lock()


def _server() -> _Server:
    with _starting:
        if not _servers:
            _servers.append(_Server())
        return _servers[0]


class _Forker:
    """Forks a process for each request, and tells how each one ends."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._status: dict[int, int] = {}  #: where to tell it, by process id
        self._selector = selectors.DefaultSelector()
        self._selector.register(requests, selectors.EVENT_READ)

    def serve(self) -> dict[str, Any] | None:
        """In a forked process: what it shall do. In this one: ``None``, when nobody can ask any more."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is not self._requests:
                    self._ended(key.fd, key.data)
                    continue
                request, fds, _, _ = socket.recv_fds(self._requests, _MAX_REQUEST_BYTES, 3)
                if not request:
                    return None
                if self._fork(*fds):
                    return json.loads(request)  # type: ignore[no-any-return]

    def _fork(self, out: int, err: int, status: int) -> bool:
        """Is this the new process?"""
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            _end_with(server)
            self._selector.close()
            self._requests.close()
            for fd in self._status.values():
                os.close(fd)
            os.close(status)
            os.dup2(out, 1)
            os.dup2(err, 2)
            os.close(out)
            os.close(err)
            return True
        os.close(out)
        os.close(err)
        self._status[pid] = status
        os.write(status, pid.to_bytes(4, "big"))
        self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
        return False

    def _ended(self, pidfd: int, pid: int) -> None:
        self._selector.unregister(pidfd)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        status = self._status.pop(pid)
        with contextlib.suppress(BrokenPipeError):  # nobody wants to know
            os.write(status, code.to_bytes(4, "big", signed=True))
        os.close(status)


def _end_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _become(request: Mapping[str, Any]) -> NoReturn:
    """What ``python -m MODULE ARGUMENTS`` would do with this environment, in this directory."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    os.chdir(request["cwd"])
    if request["path"]:
        sys.path[0] = request["cwd"]
    else:
        del sys.path[0]
    importlib.reload(sys.modules[_READ_AT_IMPORT])
    gc.enable()
    module, *arguments = request["argv"]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit(0)


class _Without(importlib.abc.MetaPathFinder):
    """A package seems not to be there."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name.partition(".")[0] == _NOT_HERE:
            raise ModuleNotFoundError("imported after the fork", name=_NOT_HERE)


def _import_all() -> None:
    without = _Without()
    sys.meta_path.insert(0, without)
    modules = list(_MODULES)
    for package in map(importlib.import_module, _PACKAGES):
        modules += [found.name for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != _NOT_HERE:
                raise
    sys.meta_path.remove(without)
    assert threading.active_count() == 1, "a thread does not survive a fork"


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the test run
    _import_all()
    gc.disable()  # until the fork: a collection would copy what is shared
    gc.freeze()
    request = _Forker(socket.socket(fileno=int(sys.argv[1]))).serve()
    if request is not None:
        _become(request)


if __name__ == "__main__":
    _main()
