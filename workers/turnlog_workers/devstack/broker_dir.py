"""Who uses a development broker's data directory, and on which ports: one lock, one small file."""

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import psutil

from turnlog_workers.base.errors import EXIT_USAGE
from turnlog_workers.base.json_file import read_json, write_json
from turnlog_workers.devstack.broker_files import BrokerError, Say
from turnlog_workers.devstack.broker_ports import Ports

_KILL_TIMEOUT_S = 10.0


class DataDirInUseError(BrokerError):
    """Another live broker works on the data directory."""

    exit_code = EXIT_USAGE


class DataDirUse:
    """The right to run a broker on ``data_dir``, and what is remembered there: ports and process ids."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._path = data_dir / "broker.json"
        self._lock: IO[str] | None = None

    @property
    def lock_fd(self) -> int:
        """The held lock's file descriptor. Java inherits it, so that the lock lasts as long as either process."""
        if self._lock is None:
            raise BrokerError(f"The data directory {self._data_dir} is not locked.")
        return self._lock.fileno()

    def take(self, say: Say) -> None:
        """Lock the directory; a broker whose owner died is killed first. Raises DataDirInUseError."""
        lock = (self._data_dir / "broker.lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            state = read_json(self._path)
            if not _kill_orphan(state, say):
                lock.close()
                where = f" (process {state['pid']}, port {state['port']})" if "pid" in state else ""
                raise DataDirInUseError(
                    f"A broker is already running on {self._data_dir}{where}. Stop it first, or use another data "
                    f"directory."
                ) from None
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._lock = lock

    def release(self) -> None:
        """Give the directory up. Harmless when it is not held."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def remembered_ports(self) -> Ports | None:
        """The ports of the last start; None at the first one."""
        state = read_json(self._path)
        return Ports(client=state["port"], controller=state["controller_port"]) if "port" in state else None

    def record(self, ports: Ports, pid: int | None = None) -> None:
        """Remember the ports, and the running broker's process (None: it has ended)."""
        state: dict[str, Any] = {"port": ports.client, "controller_port": ports.controller}
        if pid is not None:
            state |= {"pid": pid, "started_at": psutil.Process(pid).create_time()}
            state |= {"owner_pid": os.getpid(), "owner_started_at": psutil.Process().create_time()}
        write_json(self._path, state)


def _kill_orphan(state: Mapping[str, Any], say: Say) -> bool:
    """Kill a broker whose owner is dead (possible only where the kernel does not do it); whether there was one."""
    try:
        owner_lives = psutil.Process(state["owner_pid"]).create_time() == state["owner_started_at"]
    except (psutil.NoSuchProcess, KeyError):
        owner_lives = False
    try:
        orphan = psutil.Process(state["pid"])
        if owner_lives or orphan.create_time() != state["started_at"]:
            return False
        say(f"stopping process {orphan.pid}, a broker that was left behind on this data directory")
        orphan.kill()
        orphan.wait(_KILL_TIMEOUT_S)
    except (psutil.NoSuchProcess, KeyError):
        return False
    return True
