"""Keeps one child process running: start, wait until ready, restart with back-off, stop."""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.readiness_file import READY_FILE_VARIABLE
from turnlog_workers.base.start_file import START_FILE_VARIABLE
from turnlog_workers.devstack.broker_ports import HOST, is_free
from turnlog_workers.devstack.launch import launch_argv
from turnlog_workers.devstack.stack_dir import ProcessRecord, StackError, identify

Say = Callable[[str], None]

_LOG_MAX_BYTES = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """A command line that runs until it is told to stop, and touches ``TURNLOG_READY_FILE`` once it serves."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)  # on top of the supervisor's own environment
    start_file: Path | None = None  # it is started early, and begins only when this file is there (base.start_file)
    port: int | None = None  # that it listens on
    port_option: str = "--port"  # of `turnlog up`, which names another one


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The supervisor's bounds."""

    ready_timeout_s: float = 90.0  # then the start counts as a death
    backoff_first_s: float = 0.1  # doubles with each death in a row
    backoff_max_s: float = 2.0
    healthy_after_s: float = 10.0  # of being ready: ends a row of deaths
    max_early_deaths: int = (
        5  # deaths in a row before the child was ready: then it is given up, or tried ever more seldom
    )
    seldom_max_s: float = 300.0  # the longest pause then; doubles up to it
    stop_timeout_s: float = 20.0  # from SIGTERM to SIGKILL
    kill_timeout_s: float = 10.0
    poll_interval_s: float = 0.05  # of the readiness file


class ChildFailedError(StackError):
    """A child died too often before it was ready."""


class Child:
    """One supervised process. Its output goes to ``DATA_DIR/logs/NAME.log``.

    ``essential``: nothing works without it, so :meth:`supervise` gives up when it does not get ready. Any other child
    is then tried ever more seldom, and the others go on.
    """

    def __init__(
        self,
        spec: ChildSpec,
        *,
        data_dir: Path,
        limits: Limits,
        say: Say,
        on_change: Callable[[], None],
        essential: bool = True,
    ) -> None:
        self.spec = spec
        self.ready = asyncio.Event()  # set while the current process is ready
        self.settled = asyncio.Event()  # it was ready once, or has died so often that nobody waits for it
        self.record: ProcessRecord | None = None
        self.log_path = data_dir / "logs" / f"{spec.name}.log"
        self._ready_file = data_dir / "run" / f"{spec.name}.ready"
        self._limits, self._say, self._on_change = limits, say, on_change
        self._essential = essential
        self._deaths_in_row = 0
        self._early_deaths = 0

    async def supervise(self, stop: asyncio.Event) -> None:
        """Keep the child running until ``stop`` is set, then stop it. Raises ChildFailedError if it is essential."""
        while not stop.is_set():
            try:
                process = await self._spawn()
            except OSError as error:  # no memory, no process, no room for its log: as if it had died
                how = f"it cannot be started: {error}"
            else:
                in_time = True
                try:
                    in_time = await self._watch(process, stop)
                finally:
                    await self._end(process)
                how = _describe(process.returncode) if in_time else f"{_NOT_READY}{self._limits.ready_timeout_s:g} s"
            if stop.is_set():
                return
            delay_s = self._count_death(how)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), delay_s)

    def kill(self) -> None:
        """SIGKILL at once, without waiting; `supervise` notices."""
        if self.record is not None:
            _signal_group(self.record.pid, signal.SIGKILL)

    async def _spawn(self) -> asyncio.subprocess.Process:
        self._ready_file.parent.mkdir(parents=True, exist_ok=True)
        self._ready_file.unlink(missing_ok=True)
        own = {READY_FILE_VARIABLE: str(self._ready_file), "PYTHONUNBUFFERED": "1"}
        if self.spec.start_file is not None:
            own[START_FILE_VARIABLE] = str(self.spec.start_file)
        with _open_log(self.log_path) as log:
            process = await asyncio.create_subprocess_exec(
                *launch_argv(self.spec.argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.spec.env, **own},
                start_new_session=True,  # the terminal's Ctrl-C is for the supervisor alone
            )
        self.record = identify(process.pid, self.spec.argv)
        self._on_change()
        return process

    async def _watch(self, process: asyncio.subprocess.Process, stop: asyncio.Event) -> bool:
        """Until the process ends, is to stop, or was not ready in time (``False``); says when it is ready."""
        clock = asyncio.get_running_loop().time
        ended = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(stop.wait())
        either = (ended, stopping)
        try:
            deadline = clock() + self._limits.ready_timeout_s
            while not self._ready_file.exists():
                if self.spec.start_file is not None and not self.spec.start_file.exists():
                    deadline = clock() + self._limits.ready_timeout_s
                if clock() > deadline:
                    self._say(f"{self.spec.name}: not ready within {self._limits.ready_timeout_s:g} s; stopping it")
                    return False
                done, _ = await asyncio.wait(
                    either, timeout=self._limits.poll_interval_s, return_when=asyncio.FIRST_COMPLETED
                )
                if done:
                    return True
            self._early_deaths = 0
            self._say(f"{self.spec.name}: ready (process {process.pid})")
            self.ready.set()
            self._settle()
            await asyncio.wait(either, timeout=self._limits.healthy_after_s, return_when=asyncio.FIRST_COMPLETED)
            if not (ended.done() or stopping.done()):
                self._deaths_in_row = 0
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return True
        finally:
            ended.cancel()
            stopping.cancel()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Stop the process if it still runs: SIGTERM, a bounded wait, SIGKILL for its whole group."""
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), self._limits.stop_timeout_s)
            except TimeoutError:
                self._say(f"{self.spec.name}: did not stop within {self._limits.stop_timeout_s:g} s; killing it")
                _signal_group(process.pid, signal.SIGKILL)
                await asyncio.wait_for(process.wait(), self._limits.kill_timeout_s)
        self.record = None
        self._on_change()

    @property
    def failing(self) -> bool:
        """Has it died so often before it was ready that it is tried ever more seldom?"""
        return self._early_deaths >= self._limits.max_early_deaths

    @property
    def _port_is_taken(self) -> bool:
        """It has ended; does somebody else listen where it should?"""
        return self.spec.port is not None and not is_free(self.spec.port)

    def _settle(self) -> None:
        self.settled.set()
        self._on_change()

    def _count_death(self, how: str) -> float:
        """Note a death that was not asked for; returns the seconds to wait before the next start."""
        # The file too: a child can get ready and die between two looks.
        was_ready = self.ready.is_set() or self._ready_file.exists()
        self.ready.clear()
        self._deaths_in_row += 1
        self._early_deaths = 0 if was_ready else self._early_deaths + 1
        limits = self._limits
        if self.failing:
            return self._failed(how)
        delay_s = Backoff(limits.backoff_first_s, limits.backoff_max_s).next_delay(self._deaths_in_row)
        when = "" if was_ready else " before it was ready"
        taken = f"; port {self.spec.port} is in use by another program" if self._port_is_taken else ""
        self._say(f"{self.spec.name}: {_verb(how)}{when} ({how}{taken}); starting it again in {delay_s:g} s")
        return delay_s

    def _failed(self, how: str) -> float:
        """It does not get ready, time after time. The pause before the next try; raises if it is essential."""
        limits, deaths = self._limits, self._early_deaths
        died = f"{self.spec.name} {_verb(how)} {deaths} times in a row before it was ready (last: {how})"
        if self._port_is_taken:
            died += (
                f". Port {self.spec.port} on {HOST} is in use by another program: stop that program, or run turnlog up "
                f"again with another {self.spec.port_option}; without one it takes a free port"
            )
        if self._essential:
            raise ChildFailedError(f"{died}. What it said is in {self.log_path}.")
        seldom = Backoff(2 * limits.backoff_max_s, limits.seldom_max_s)
        delay_s = seldom.next_delay(deaths - limits.max_early_deaths + 1)
        if deaths == limits.max_early_deaths:
            self._say(
                f"{died}. What it said is in {self.log_path}. The others go on without it; it is tried again ever more "
                f"seldom, next in {delay_s:g} s."
            )
        else:
            self._say(f"{died}; next try in {delay_s:g} s")
        self._settle()
        return delay_s


_NO_ERROR = "no error, exit code 0"
_NOT_READY = "not ready within "


def _describe(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return signal.Signals(-exit_code).name
    return f"exit code {exit_code}" if exit_code else _NO_ERROR


def _verb(how: str) -> str:
    """What happened to it: neither one that is content with itself nor one that is stopped has died."""
    if how.startswith(_NOT_READY):
        return "was stopped"
    return "ended by itself" if how == _NO_ERROR else "died"


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended meanwhile
        os.killpg(pid, number)


def _open_log(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LOG_MAX_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return path.open("ab")
