"""The one model process of a machine: found, started, shared, gone when nobody needs it. Around a stand-in engine."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.embedded_model import has_ended
from tests.fake_engine.xllamacpp import FAILING_MODEL
from tests.waiting import eventually
from turnlog_workers.runners.base import RunnerError
from turnlog_workers.runners.smollm2 import shared_server
from turnlog_workers.runners.smollm2.runtime_dir import (
    RuntimeDir,
    RuntimeDirError,
    ServerInfo,
    Users,
    default_directory,
)
from turnlog_workers.runners.smollm2.shared_server import ServerWish, SharedServer

pytestmark = pytest.mark.usefixtures("fake_engine")
Make = Callable[..., SharedServer]
MODEL = Path("/any/model.gguf")
#: A worker that joins, says who serves, and waits to be ended; ``leave`` as its last argument: in good order.
WORKER = """
import asyncio, sys
from pathlib import Path
from turnlog_workers.runners.smollm2.shared_server import ServerWish, SharedServer

async def main():
    wish = ServerWish(threads=1, slots=2, context_tokens=600, idle_timeout_s=600, linger_s=float(sys.argv[2]))
    print((await SharedServer(Path(sys.argv[1]), Path("/any/model.gguf"), wish).ready()).pid, flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


@pytest.fixture
def make(runtime_folder: Path) -> Iterator[Make]:
    """Workers' ways to the process of one folder."""
    made: list[SharedServer] = []

    def one(*, model: Path = MODEL, idle_timeout_s: float = 600.0, linger_s: float = 600.0) -> SharedServer:
        wish = ServerWish(threads=1, slots=2, context_tokens=600, idle_timeout_s=idle_timeout_s, linger_s=linger_s)
        made.append(SharedServer(runtime_folder / "m", model, wish))
        return made[-1]

    yield one
    for shared in made:
        shared.leave()


@pytest.fixture
async def other_worker(runtime_folder: Path) -> AsyncIterator[Callable[[float], subprocess.Popen[str]]]:
    """Workers that are processes of their own."""
    started: list[subprocess.Popen[str]] = []

    def start(linger_s: float) -> subprocess.Popen[str]:
        argv = [sys.executable, "-P", "-c", WORKER, str(runtime_folder / "m"), str(linger_s)]
        started.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


async def said(worker: subprocess.Popen[str]) -> int:
    """The process id of the server that a worker has found."""
    assert worker.stdout is not None
    return int(await asyncio.to_thread(worker.stdout.readline))


async def ends(info: ServerInfo) -> None:
    process = psutil.Process(info.pid) if psutil.pid_exists(info.pid) else None
    await eventually(lambda: process is None or has_ended(process), "the model's process ends")


def runs(info: ServerInfo) -> bool:
    return psutil.pid_exists(info.pid) and not has_ended(psutil.Process(info.pid))


async def test_all_workers_share_one_process_that_ends_with_the_last_of_them(make: Make) -> None:
    workers = [make() for _ in range(5)]
    found = await asyncio.gather(*(worker.ready() for worker in workers))
    assert len({info.pid for info in found}) == 1
    for worker in workers[1:]:
        worker.leave()
    assert runs(found[0])
    assert (await workers[0].ready()).pid == found[0].pid
    workers[0].leave()
    await ends(found[0])
    await eventually(lambda: not Path(found[0].socket).exists(), "its socket is gone")


async def test_workers_that_begin_in_one_moment_start_one_process(
    other_worker: Callable[[float], subprocess.Popen[str]],
) -> None:
    workers = [other_worker(600.0) for _ in range(3)]
    assert len({await said(worker) for worker in workers}) == 1


async def test_it_survives_the_death_of_a_worker_and_takes_the_next_one(
    make: Make, other_worker: Callable[[float], subprocess.Popen[str]], runtime_folder: Path
) -> None:
    first = other_worker(600.0)
    pid = await said(first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    users = runtime_folder / "m" / "users"
    await eventually(lambda: not list(users.iterdir()), "the process notices the death")
    second = make()
    info = await second.ready()
    assert info.pid == pid
    second.leave()
    await ends(info)


async def test_after_the_death_of_its_last_user_it_ends_by_itself(
    runtime_folder: Path, other_worker: Callable[[float], subprocess.Popen[str]]
) -> None:
    only = other_worker(0.5)
    await said(only)
    info = RuntimeDir(runtime_folder / "m").server()
    assert info is not None
    only.send_signal(signal.SIGKILL)
    only.wait()
    await ends(info)


async def test_a_worker_that_ends_in_order_leaves_by_itself(
    runtime_folder: Path, other_worker: Callable[[float], subprocess.Popen[str]]
) -> None:
    only = other_worker(600.0)
    await said(only)
    info = RuntimeDir(runtime_folder / "m").server()
    assert info is not None
    assert only.stdin is not None
    only.stdin.close()
    await ends(info)


async def test_unused_for_long_it_ends_and_is_started_again_when_it_is_needed(make: Make) -> None:
    worker = make(idle_timeout_s=1.0)
    first = await worker.ready()
    await ends(first)
    worker.lost(first)
    second = await worker.ready()
    assert second.pid != first.pid


async def test_a_killed_process_is_replaced(make: Make) -> None:
    worker, other = make(), make()
    first = await worker.ready()
    await other.ready()
    os.kill(first.pid, signal.SIGKILL)
    await ends(first)
    worker.lost(first)
    second = await worker.ready()
    assert second.pid != first.pid
    other.lost(first)
    assert (await other.ready()).pid == second.pid
    other.lost(first)  # which it knows already
    assert (await other.ready()).pid == second.pid


async def test_a_worker_that_is_cancelled_while_it_starts_one_leaves_no_second_one_behind(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    spawn = SharedServer._spawn

    def noted(self: SharedServer, directory: RuntimeDir) -> "subprocess.Popen[bytes]":
        process = spawn(self, directory)
        started.append(process.pid)
        return process

    monkeypatch.setattr(SharedServer, "_spawn", noted)
    worker = make()
    for number in (1, 2):
        asking = asyncio.create_task(worker.ready())
        await eventually(lambda number=number: len(started) == number, "it is starting")  # type: ignore[misc]
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    info = await make().ready()
    assert info.pid in started
    others = [psutil.Process(pid) for pid in started if pid != info.pid and psutil.pid_exists(pid)]
    await eventually(lambda: all(has_ended(process) for process in others), "the others end", 20.0)
    assert (await worker.ready()).pid == info.pid


async def test_a_model_that_cannot_be_loaded_is_a_sentence(make: Make, runtime_folder: Path) -> None:
    with pytest.raises(RunnerError, match=r"ended with code 1; what it said is in .*server\.log") as caught:
        await make(model=Path(FAILING_MODEL)).ready()
    assert caught.value.code == "model_unavailable"
    assert "Failed to load" in (runtime_folder / "m" / "server.log").read_text()


async def test_starting_has_an_end(make: Make, monkeypatch: pytest.MonkeyPatch, runtime_folder: Path) -> None:
    monkeypatch.setattr(shared_server, "START_TIMEOUT_S", 0.2)
    with RuntimeDir(runtime_folder / "m").try_start_lock() as held:
        assert held
        with pytest.raises(RunnerError, match=r"did not start within 0\.2 s"):
            await make().ready()


async def test_nothing_of_the_workers_environment_that_is_not_needed_gets_there(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "planted-key")
    monkeypatch.setenv("TURNLOG_SASL_PASSWORD", "planted-password")
    info = await make().ready()
    process = psutil.Process(info.pid)
    assert "planted" not in str(process.environ())
    assert "planted" not in str(process.cmdline())


async def test_nobody_else_may_enter_its_folder(make: Make, runtime_folder: Path) -> None:
    info = await make().ready()
    for path in (runtime_folder / "m", runtime_folder / "m" / "users", Path(info.socket).parent):
        assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["open", "link", "file", "long"])
async def test_a_folder_that_others_could_enter_is_not_used(runtime_folder: Path, make: Make, kind: str) -> None:
    path = runtime_folder / ("m" * 200 if kind == "long" else "m")
    if kind == "open":
        path.mkdir(mode=0o755)
    elif kind == "link":
        (runtime_folder / "other").mkdir(mode=0o700)
        path.symlink_to(runtime_folder / "other")
    elif kind == "file":
        path.touch()
    with pytest.raises(RuntimeDirError, match="TURNLOG_RUNTIME_DIR"):
        RuntimeDir(path)
    if kind != "long":
        with pytest.raises(RunnerError, match="TURNLOG_RUNTIME_DIR") as caught:
            await make().ready()
        assert not caught.value.retryable


def test_the_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch, runtime_folder: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder))
    assert default_directory() == runtime_folder / "turnlog"
    runtime_folder.chmod(0o755)  # not private: no runtime folder of a session
    assert str(os.getuid()) in default_directory().name
    runtime_folder.chmod(0o700)


def test_a_user_is_seen_from_the_first_moment_and_its_death_once(runtime_folder: Path) -> None:
    directory = RuntimeDir(runtime_folder / "m")
    assert directory.users() == Users(living=0, died=0, left=0)
    user = directory.join()
    assert directory.users() == Users(living=1, died=0, left=0)
    (runtime_folder / "m" / "users" / "4711-dead").touch()
    assert directory.users() == Users(living=1, died=1, left=0)
    assert directory.users() == Users(living=1, died=0, left=0)
    user.leave()
    user.leave()
    assert directory.users() == Users(living=0, died=0, left=1)
    assert directory.users() == Users(living=0, died=0, left=0)
