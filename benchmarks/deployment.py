"""What is measured: topics of their own on a broker, and the processes that work on them."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.meter import Meter
from turnlog_workers.base.config import Settings
from turnlog_workers.devstack.launch import launch_argv
from turnlog_workers.kafka.topics_admin import init_topics

_READY_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 30.0
_POLL_S = 0.05
_NOT_DELIVERED = re.compile(r"read (\d+) requests that were not delivered")
WORKER = (sys.executable, "-m", "turnlog", "worker")
MATERIALIZER = (sys.executable, "-m", "turnlog", "materialize")


class Deployment:
    """Topics under a prefix of their own, and a folder for the data and logs of its processes."""

    def __init__(
        self, bootstrap_server: str, directory: Path, broker_pid: int | None, *, partitions: int | None = None
    ) -> None:
        self.settings = Settings(
            bootstrap_server=bootstrap_server,
            prefix=f"bench-{uuid.uuid4().hex[:8]}",
            data_dir=directory / "data",
            **({} if partitions is None else {"partitions": partitions}),
        )
        self.directory = directory
        self._broker_pid = broker_pid
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        directory.mkdir(parents=True)
        init_topics(self.settings)

    @contextlib.contextmanager
    def process(self, name: str, argv: Sequence[str], variables: Mapping[str, str] | None = None) -> Iterator[None]:
        """Run a process that tells when it is ready; stop it at the end. ``RuntimeError`` with its last lines."""
        ready = self.directory / f"{name}.ready"
        ready.unlink(missing_ok=True)  # of one before it
        log = self.log_path(name)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TURNLOG_")} | {
            "TURNLOG_BOOTSTRAP_SERVER": self.settings.bootstrap_server,
            "TURNLOG_PREFIX": self.settings.prefix,
            "TURNLOG_PARTITIONS": str(self.settings.partitions),
            "TURNLOG_DATA_DIR": str(self.settings.data_dir),
            "TURNLOG_READY_FILE": str(ready),
            **(variables or {}),
        }
        with log.open("wb") as output:
            process = subprocess.Popen(launch_argv(argv), env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            self._processes[name] = process
            deadline = time.monotonic() + _READY_TIMEOUT_S
            while not ready.exists():
                self.check_alive()
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the {name} does not get ready:\n{self._tail(name)}")
                time.sleep(_POLL_S)
            yield
        finally:
            self._processes.pop(name, None)
            _stop(process)

    def check_alive(self) -> None:
        """``RuntimeError`` with its last lines if a process has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise RuntimeError(f"the {name} ended (exit code {process.returncode}):\n{self._tail(name)}")

    def _tail(self, name: str) -> str:
        return "\n".join(self.log_path(name).read_text(errors="replace").splitlines()[-20:])

    def pid(self, name: str) -> int:
        """Of one of its processes."""
        return self._processes[name].pid

    def log_path(self, name: str) -> Path:
        """The output of one of its processes."""
        return self.directory / f"{name}.log"

    def meter(self, others: Mapping[str, int] | None = None) -> Meter:
        """Of the processes that run now, and of ``others`` that belong to the measurement, by their process ids."""
        pids = {name: process.pid for name, process in self._processes.items()} | dict(others or {})
        return Meter(pids if self._broker_pid is None else pids | {"broker": self._broker_pid})

    def not_delivered(self) -> int:
        """Requests that the worker had to read by itself, as it says in its log: 0 when all is well."""
        text = self.log_path("worker").read_text(errors="replace")
        return sum(int(count) for count in _NOT_DELIVERED.findall(text))


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_TIMEOUT_S)
