"""The development stack behind ``turnlog up``: broker, topics, workers, materializer, under one supervisor."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from turnlog_workers.base.allow_list import read_allow_list
from turnlog_workers.base.config import Settings
from turnlog_workers.base.counted import counted
from turnlog_workers.base.settings_check import SettingsError, check_models
from turnlog_workers.devstack.broker_dir import DataDirUse
from turnlog_workers.devstack.broker_files import Say, cache_dir, ensure_jars, find_java
from turnlog_workers.devstack.broker_ports import DEFAULT_PORT, HOST, choose_ports
from turnlog_workers.devstack.stack_dir import StackDir
from turnlog_workers.devstack.supervisor import Child, ChildFailedError, ChildSpec, Limits

InitTopics = Callable[[Mapping[str, str]], object]
"""Creates the stack's topics, given the children's ``TURNLOG_...`` variables; blocking, and harmless to repeat."""

_RELEASE_S = 10.0  #: what a worker needs beside its drain
#: Besides what the settings allow by default: nothing that costs money or leaves the machine.
ALLOWED_MODELS = ("echo:*", "recorded:*", "script:*", "smollm2:*")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stack:
    """Supervises a broker and the children that need it, in a data directory that is held already.

    ``prepare`` runs once, in a thread, between the broker's readiness and the children's start. Those with a
    ``start_file`` are started beside the broker; the file is made after ``prepare``.
    """

    def __init__(
        self,
        directory: StackDir,
        *,
        bootstrap_server: str,
        snapshot_path: Path,
        broker: ChildSpec,
        children: Sequence[ChildSpec],
        prepare: Callable[[], object] = lambda: None,
        models: Mapping[str, str] | None = None,
        say: Say = lambda line: None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        console: str | None = None,
    ) -> None:
        """``console``: the address that is said once all is up."""
        self._console = console
        self._directory, self._bootstrap_server, self._snapshot_path = directory, bootstrap_server, snapshot_path
        self._prepare, self._say, self._models = prepare, say, models
        self._broker, *self._children = (
            Child(
                spec,
                data_dir=directory.data_dir,
                limits=limits,
                say=say,
                on_change=self._publish,
                essential=spec is broker,  # one of the others that cannot work must not stop those that can
            )
            for spec in (broker, *children)
        )
        self._running = False
        self._stop_requested = asyncio.Event()
        self._stop_children = asyncio.Event()
        self._stop_broker = asyncio.Event()
        self._supervisors: list[asyncio.Task[None]] = []
        self.ready = asyncio.Event()  # every child has been ready once, or is given up for the time being

    async def run(self) -> None:
        """Run until `request_stop` or a signal, then stop everything. Raises ChildFailedError, or as prepare does."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.request_stop)
        self._running = True
        try:
            await self._run()
        finally:
            try:
                await self._stop_all()
            finally:
                self._running = False
                self._publish()
                for number in _SIGNALS:
                    loop.remove_signal_handler(number)

    def request_stop(self) -> None:
        """Stop everything in order; asked a second time, kill what still runs."""
        if not self._stop_requested.is_set():
            self._say("stopping (again: at once)")
            self._stop_requested.set()
            return
        for child in (*self._children, self._broker):
            child.kill()

    async def _run(self) -> None:
        self._say(f"starting; each child's output is in {self._directory.data_dir / 'logs'}")
        early = [child for child in self._children if child.spec.start_file is not None]
        start_files = {child.spec.start_file for child in early if child.spec.start_file is not None}
        for path in start_files:  # of an earlier stack
            path.unlink(missing_ok=True)
        self._supervise(self._broker, self._stop_broker)
        for child in early:
            self._supervise(child, self._stop_children)
        if not await self._unless_stopped(self._broker.ready.wait()):
            return
        if not await self._unless_stopped(asyncio.to_thread(self._prepare)):
            return
        for path in start_files:
            path.touch()
        for child in self._children:
            if child not in early:
                self._supervise(child, self._stop_children)
        for child in self._children:
            if not await self._unless_stopped(child.settled.wait()):
                return
        self.ready.set()
        self._publish()
        failing = [child.spec.name for child in self._children if child.failing]
        count = len(self._children) + 1 - len(failing)
        without = f" (without {', '.join(failing)})" if failing else ""
        if self._console is not None and "http" not in failing:
            self._say(f"console: {self._console} (OpenAI's protocols: {self._console}v1)")
        processes = counted(count, "process", "processes")
        self._say(f"up: Kafka on {self._bootstrap_server}, {processes}{without}; Ctrl-C stops them")
        await self._unless_stopped(asyncio.Event().wait())

    def _supervise(self, child: Child, stop: asyncio.Event) -> None:
        self._supervisors.append(asyncio.create_task(child.supervise(stop), name=child.spec.name))

    async def _unless_stopped(self, step: Coroutine[Any, Any, object]) -> bool:
        """Wait for a step; False when a stop came first. Raises what the step or a failing supervisor raises."""
        step_task = asyncio.create_task(step)
        stop_task = asyncio.create_task(self._stop_requested.wait())
        try:
            done, _ = await asyncio.wait(
                (step_task, stop_task, *self._supervisors), return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()
            return stop_task not in done
        finally:
            step_task.cancel()
            stop_task.cancel()

    async def _stop_all(self) -> None:
        """Workers and materializer first: their last events need the broker."""
        self._stop_children.set()
        results = await asyncio.gather(*self._supervisors[1:], return_exceptions=True)
        self._stop_broker.set()
        results += await asyncio.gather(*self._supervisors[:1], return_exceptions=True)
        for error in results:
            if error is not None and not isinstance(error, ChildFailedError):  # that one is raised
                self._say(f"while stopping: {type(error).__name__}: {error}")

    def _publish(self) -> None:
        children = {c.spec.name: c.record for c in (self._broker, *self._children) if c.record is not None}
        self._directory.write(
            bootstrap_server=self._bootstrap_server,
            snapshot_path=self._snapshot_path,
            children=children,
            models=self._models,
            failing=[child.spec.name for child in self._children if child.failing],
            running=self._running,
            ready=self._running and self.ready.is_set(),
        )


def limits_for(settings: Settings) -> Limits:
    """The supervisor's bounds: a worker is not killed while it drains."""
    return Limits(stop_timeout_s=max(Limits().stop_timeout_s, settings.drain_timeout_s + _RELEASE_S))


def child_environment(data_dir: Path, bootstrap_server: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The ``TURNLOG_...`` variables that a stack's processes share, on top of the user's own ``environ``."""
    return {
        "TURNLOG_BOOTSTRAP_SERVER": bootstrap_server,
        "TURNLOG_SECURITY_PROTOCOL": "PLAINTEXT",
        "TURNLOG_REPLICATION_FACTOR": "1",
        "TURNLOG_DATA_DIR": str(data_dir),
        "TURNLOG_SNAPSHOT_PATH": str(data_dir / "snapshot.duckdb"),
        "TURNLOG_ALLOW_MODELS": _allowed(environ.get("TURNLOG_ALLOW_MODELS")),
    }


def _allowed(chosen: str | None) -> str:
    """What somebody chose; ``+PATTERN`` is added to what a stack allows, not to what a worker alone does."""
    return ",".join(read_allow_list(chosen, ALLOWED_MODELS) if chosen else ALLOWED_MODELS)


def _models_of(settings: Settings) -> dict[str, str]:
    """What commands in other terminals should know of the workers' models."""
    return {
        "allow_models": ",".join(settings.allow_models),
        "default_model": settings.default_model,
        "fast_model": settings.fast_model,
    }


def child_specs(
    data_dir: Path, *, workers: int, port: int, env: Mapping[str, str]
) -> tuple[ChildSpec, list[ChildSpec]]:
    """The broker's command line, and those of the workers and the materializer."""
    start_file = _start_file_in(data_dir)
    # -P: a folder "workers" where the user happens to be must not stand in for ours.
    python = (sys.executable, "-P", "-m")
    broker_dir = str(data_dir / "broker")
    broker = ChildSpec(
        name="broker",
        argv=(*python, "turnlog_workers.devstack.broker", "--data-dir", broker_dir, "--port", str(port)),
        env=env,
        port=port,
    )
    children = [
        ChildSpec(
            name=(name := f"worker-{number}"),
            argv=(*python, "turnlog", "worker"),
            env={**env, "TURNLOG_WORKER_NAME": name},
            start_file=start_file,
        )
        for number in range(1, workers + 1)
    ]
    children.append(
        ChildSpec(name="materializer", argv=(*python, "turnlog", "materialize"), env=env, start_file=start_file)
    )
    return broker, children


def with_metrics_ports(
    children: Sequence[ChildSpec], taken: Collection[int], environ: Mapping[str, str] = os.environ
) -> list[ChildSpec]:
    """Processes of one machine cannot share a port: each has the next one that is not ``taken``; 0 is any for each.

    Raises :class:`SettingsError` when there are too few.
    """
    first = environ.get("TURNLOG_METRICS_PORT") or "0"
    if not first.isdigit() or not int(first):
        return list(children)
    ports = [port for port in range(int(first), 65536) if port not in taken][: len(children)]
    if len(ports) < len(children):
        raise SettingsError(f"TURNLOG_METRICS_PORT={first}: {len(children)} processes need a port each from this on")
    return [
        replace(child, env={**child.env, "TURNLOG_METRICS_PORT": str(port)})
        for child, port in zip(children, ports, strict=True)
    ]


def _start_file_in(data_dir: Path) -> Path:
    """It is there once the topics are."""
    return data_dir / "run" / "start"


def http_spec(port: int, env: Mapping[str, str]) -> ChildSpec:
    """The HTTP front's command line."""
    argv = (sys.executable, "-P", "-m", "turnlog", "serve", "--port", str(port))
    return ChildSpec(name="http", argv=argv, env=env, port=port, port_option="--http")


class MakeSpecs(Protocol):
    """As `child_specs`."""

    def __call__(
        self, data_dir: Path, *, workers: int, port: int, env: Mapping[str, str]
    ) -> tuple[ChildSpec, list[ChildSpec]]: ...


async def up(
    data_dir: Path,
    *,
    workers: int,
    port: int | None,
    init_topics: InitTopics,
    say: Say,
    specs: MakeSpecs = child_specs,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    http_port: int | None = None,
) -> None:
    """Run a whole development stack in ``data_dir`` until Ctrl-C or SIGTERM. ``http_port``: of its HTTP front, if any.

    Fetches Kafka at the first time, stops what an earlier supervisor left behind, and keeps its port from start to
    start. Raises SettingsError, StackInUseError and PortTakenError (usage), BrokerError and StackError, each with a
    sentence.
    """
    check_models(Settings(allow_models=child_environment(data_dir, "")["TURNLOG_ALLOW_MODELS"]))
    directory = StackDir(data_dir)
    directory.take()
    try:
        data_dir = directory.data_dir
        if left := await asyncio.to_thread(directory.stop_leftovers):
            say(f"stopped what an earlier stack left behind: {', '.join(left)}")
        await asyncio.to_thread(ensure_jars, cache_dir(), say=say)
        await asyncio.to_thread(find_java)
        remembered = DataDirUse(data_dir / "broker").remembered_ports()
        ports = choose_ports(port=port, preferred=DEFAULT_PORT, remembered=remembered, say=say)
        bootstrap_server = f"{HOST}:{ports.client}"
        env = child_environment(data_dir, bootstrap_server)
        broker, children = specs(data_dir, workers=workers, port=ports.client, env=env)
        if http_port is not None:
            children = [*children, replace(http_spec(http_port, env), start_file=_start_file_in(data_dir))]
        children = with_metrics_ports(children, {ports.client, ports.controller, http_port or 0})
        stack = Stack(
            directory,
            bootstrap_server=bootstrap_server,
            snapshot_path=Path(env["TURNLOG_SNAPSHOT_PATH"]),
            broker=broker,
            children=children,
            prepare=lambda: init_topics(env),
            models=_models_of(Settings(allow_models=env["TURNLOG_ALLOW_MODELS"])),
            say=say,
            limits=limits,
            console=None if http_port is None else f"http://{HOST}:{http_port}/",
        )
        await stack.run()
    finally:
        directory.release()
