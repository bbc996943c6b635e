"""Where an incident is played: workers, the materializer, a gateway, users, and a Prometheus with the real rules."""

import asyncio
import contextlib
import itertools
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka.errors import KafkaError

from tests import preloaded
from tests.deployment import START_S, Deployment, Process, Wire
from tests.http_stack import free_port
from tests.prometheus import ALERTS_FILE, Prometheus, hastened
from tests.waiting import eventually

WORKERS = ("w0", "w1")
PARTITIONS = 4
#: Everything in the rules that waits waits so many times shorter, and so does the watchdog.
FACTOR = 20
FIRE_S = 180.0
CLEAR_S = 240.0
_PAUSE_S = 0.25
_ASK_S = 5.0
_SESSIONS = 8
JOBS = {"turnlog-worker": WORKERS, "turnlog-materializer": ("materializer",), "turnlog-gateway": ("gateway",)}
_COMMANDS = {"materializer": ["materialize"], "gateway": ["serve"]}


@dataclass(slots=True)
class Users:
    """People who chat all the time, one turn after the other, and look at their sessions over HTTP."""

    wire: Wire
    address: str
    asked: list[str] = field(default_factory=list)
    not_sent: int = 0
    pages: dict[str, int] = field(default_factory=dict)  #: by what came of it
    may_chat: asyncio.Lock = field(default_factory=asyncio.Lock)  #: held by who wants them to be silent

    async def run(self) -> None:
        """For ever."""
        await asyncio.gather(self._chat(), self._look())

    async def _chat(self) -> None:
        for number in itertools.count():
            request_id = f"user-{number}"
            try:
                async with self.may_chat:
                    await self.wire.chat_json(f"s-{number % _SESSIONS}", f"Hello {number}", request_id=request_id)
                self.asked.append(request_id)
            except KafkaError:  # the broker is away: nothing was promised to anybody
                self.not_sent += 1
            await asyncio.sleep(_PAUSE_S)

    async def _look(self) -> None:
        for number in itertools.count():
            came = await asyncio.to_thread(_status, f"{self.address}/v1/sessions/s-{number % _SESSIONS}")
            self.pages[came] = self.pages.get(came, 0) + 1
            await asyncio.sleep(_PAUSE_S)


def _status(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=_ASK_S) as response:
            return str(response.status)
    except urllib.error.HTTPError as error:
        return str(error.code)
    except OSError:
        return "none"


class Stage:
    """Use :func:`on_stage`."""

    def __init__(self, deployment: Deployment, parts: contextlib.AsyncExitStack) -> None:
        """``parts`` end with the stage."""
        self.deployment = deployment
        self._parts = parts
        self.ports = {name: free_port() for names in JOBS.values() for name in names}
        self.http_port = free_port()
        self.processes: dict[str, Process] = {}
        self.answered = 0  #: of those who asked before it moved
        self.wire: Wire
        self.prometheus: Prometheus
        self.users: Users

    @property
    def address(self) -> str:
        """Of the gateway."""
        return f"http://127.0.0.1:{self.http_port}"

    def start(self, name: str, **settings: str) -> Process:
        """One of the processes, on its port; not ready yet."""
        own = {"metrics_port": str(self.ports[name]), "watchdog_timeout_s": f"{120 / FACTOR:g}"}
        if name == "gateway":
            own["http_port"] = str(self.http_port)
        if name in WORKERS:
            own["worker_name"] = name
        arguments = _COMMANDS.get(name, ["worker"])
        self.processes[name] = self.deployment.start(name, *arguments, **{**own, **settings})
        return self.processes[name]

    async def ready(self, *names: str) -> None:
        """Until they serve."""
        for name in names:
            process = self.processes[name]
            await eventually(lambda process=process: process.ready, f"{name} is ready", START_S)

    async def restart(self, name: str, *, how: signal.Signals = signal.SIGTERM, **settings: str) -> None:
        """End one and start it again, until it serves."""
        self.processes[name].signal(how)
        await asyncio.to_thread(self.processes[name].wait)
        self.start(name, **settings)
        await self.ready(name)

    async def move_to(self, prefix: str) -> None:
        """Everything is stopped, and started with another prefix. Who was promised an answer has it before."""
        async with self.users.may_chat:
            self.answered = await self.all_answered()
            for process in self.processes.values():
                process.signal(signal.SIGTERM)
            for process in self.processes.values():
                await asyncio.to_thread(process.wait)
            old = self.deployment
            self.deployment = self._parts.enter_context(old.with_prefix(prefix, old.folder / prefix))
            await asyncio.to_thread(self.deployment.make_topics)
            for name in self.ports:
                self.start(name)
            await self.ready(*self.ports)
            self.wire = self.users.wire = await self._parts.enter_async_context(Wire(self.deployment))
            self.users.asked.clear()

    async def turnlog(self, *arguments: str, code: int | None = 0, **settings: str) -> str:
        """A command of an operator: what it prints."""
        argv, env = [sys.executable, "-m", "turnlog", *arguments], self.deployment.environ(**settings)
        ran = await asyncio.to_thread(preloaded.run, argv, env=env, cwd=self.deployment.folder, timeout_s=START_S)
        said = f"{ran.stdout}{ran.stderr}"
        assert code is None or ran.returncode == code, f"turnlog {' '.join(arguments)}: {ran.returncode}\n{said}"
        return said

    async def fires(self, alert: str, count: int = 1) -> list[str]:
        """Wait for an alert; every one that fires by then, too."""

        def found() -> bool:
            return len(self.prometheus.firing().get(alert, ())) >= count

        await eventually(found, f"{alert} fires", FIRE_S)
        return sorted(self.prometheus.firing())

    async def calm(self, timeout_s: float = CLEAR_S) -> None:
        """Until all targets are there and nothing fires."""
        seen: dict[str, Any] = {}

        def quiet() -> bool:
            seen["firing"] = self.prometheus.firing()
            seen["up"] = self.prometheus.value('sum(up{job=~"turnlog-.+"})')
            return not seen["firing"] and seen["up"] == len(self.ports)

        try:
            await eventually(quiet, "all is calm", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}: {seen}") from error

    async def all_answered(self) -> int:
        """Until each request of the users has its answer; how many."""
        asked = list(self.users.asked)
        for request_id in asked:
            await self.wire.terminal(request_id)
        return self.answered + len(asked)


@contextlib.asynccontextmanager
async def on_stage(
    bootstrap_server: str, folder: Path, settings: Mapping[str, str], of: Mapping[str, Mapping[str, str]]
) -> AsyncIterator[Stage]:
    """Everything runs, and nothing fires. ``of``: further settings of single processes."""
    rules = hastened(ALERTS_FILE, FACTOR, _made(folder) / "alerts.yml")
    everybody = {"publish_interval_s": "0.5", "append_timeout_s": "2", **settings}
    async with contextlib.AsyncExitStack() as parts:
        deployment = parts.enter_context(Deployment(bootstrap_server, folder, partitions=PARTITIONS, **everybody))
        await asyncio.to_thread(deployment.make_topics)
        stage = Stage(deployment, parts)
        for name in stage.ports:
            stage.start(name, **of.get(name, {}))
        await stage.ready(*stage.ports)
        stage.wire = await parts.enter_async_context(Wire(deployment))
        stage.users = Users(stage.wire, stage.address)
        targets = {job: [stage.ports[name] for name in names] for job, names in JOBS.items()}
        stage.prometheus = parts.enter_context(Prometheus(folder / "prometheus", rules, targets))
        chatting = asyncio.create_task(stage.users.run())
        try:
            await eventually(lambda: len(stage.users.asked) >= _SESSIONS, "users chat")
            await stage.all_answered()
            await asyncio.to_thread(stage.prometheus.wait_for_rounds)
            await stage.calm()
            yield stage
        finally:
            chatting.cancel()
            await asyncio.gather(chatting, return_exceptions=True)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def elapsed(since: float) -> float:
    """Seconds, to a tenth."""
    return round(time.monotonic() - since, 1)
