"""The data directory of a development stack: who supervises it, ``stack.json``, and processes that were left behind."""

import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from turnlog_workers.base.errors import EXIT_USAGE, TurnlogError
from turnlog_workers.base.json_file import read_json, write_json

_LEFTOVER_TERM_TIMEOUT_S = 10.0
_LEFTOVER_KILL_TIMEOUT_S = 5.0


class StackError(TurnlogError):
    """The development stack cannot go on; the message says why and what to do."""


class DataDirError(StackError):
    """The data directory cannot be used."""

    exit_code = EXIT_USAGE


class StackInUseError(StackError):
    """Another supervisor works on the data directory."""

    exit_code = EXIT_USAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """What identifies one process for good: ids are reused, the same id at the same start time is not."""

    pid: int
    started_at: float  # seconds since 1970, as the system tells it
    argv: tuple[str, ...]


class StackDir:
    """The right to supervise a stack in ``data_dir``, and the file that tells others about it."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self.path = self.data_dir / "stack.json"
        self._lock: IO[str] | None = None

    def take(self) -> None:
        """Become the supervisor of this directory.

        Raises DataDirError when it cannot be made or written, StackInUseError while another supervisor lives.
        """
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            lock = (self.data_dir / "stack.lock").open("a+")
        except OSError as error:
            raise DataDirError(
                f"The folder {self.data_dir} cannot be used: {error.strerror or error}. Name another with --data-dir."
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            pid = read_json(self.path).get("supervisor_pid")
            who = f" (process {pid})" if pid else ""
            raise StackInUseError(
                f"A stack is already up in {self.data_dir}{who}. Use it, stop it first, or start another one with "
                f"--data-dir."
            ) from None
        self._lock = lock

    def check(self) -> None:
        """Could it be taken now? Raises what :meth:`take` raises."""
        self.take()
        self.release()

    def release(self) -> None:
        """Give the directory up. Harmless when it is not held."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def write(
        self,
        *,
        bootstrap_server: str,
        snapshot_path: Path,
        children: Mapping[str, ProcessRecord],
        running: bool,
        ready: bool,
        failing: Sequence[str] = (),
        models: Mapping[str, str] | None = None,
    ) -> None:
        """Publish the stack's state. ``ready``: every child has been ready once, or is among the ``failing``."""
        write_json(
            self.path,
            {
                "bootstrap_server": bootstrap_server,
                "snapshot_path": str(snapshot_path),
                "running": running,
                "ready": ready,
                "failing": list(failing),
                **(models or {}),
                "supervisor_pid": os.getpid() if running else None,
                "children": {name: record.pid for name, record in children.items()},
                "processes": {name: asdict(record) for name, record in children.items()},
            },
        )

    def stop_leftovers(self) -> list[str]:
        """Stop the children of a supervisor that was killed, if they still live; returns their names.

        Only a process with the recorded id, start time and command line is touched, never one that got a reused id.
        """
        processes = read_json(self.path).get("processes", {})
        found = {name: process for name, record in processes.items() if (process := _find(record))}
        _signal_all(found.values(), signal.SIGTERM)
        _, alive = psutil.wait_procs(list(found.values()), timeout=_LEFTOVER_TERM_TIMEOUT_S)
        _signal_all(alive, signal.SIGKILL)
        _, alive = psutil.wait_procs(alive, timeout=_LEFTOVER_KILL_TIMEOUT_S)
        if alive:
            pids = ", ".join(str(process.pid) for process in alive)
            raise StackError(f"Processes of an earlier stack in {self.data_dir} cannot be stopped: {pids}. End them.")
        return list(found)


def identify(pid: int, argv: Sequence[str]) -> ProcessRecord | None:
    """The record of a child that was just started; None when it has already ended."""
    try:
        return ProcessRecord(pid=pid, started_at=psutil.Process(pid).create_time(), argv=tuple(argv))
    except psutil.NoSuchProcess:
        return None


def _find(record: Mapping[str, Any]) -> psutil.Process | None:
    try:
        process = psutil.Process(record["pid"])
        same = process.create_time() == record["started_at"] and process.cmdline() == list(record["argv"])
    except (psutil.NoSuchProcess, psutil.AccessDenied, KeyError):
        return None
    return process if same else None


def _signal_all(processes: Any, number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.killpg(process.pid, number)  # each child leads a group of its own
