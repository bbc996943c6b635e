"""The supervisor of the development stack, with tiny children: order, restarts, limits, and nobody left behind."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.fake_children import fake_child
from tests.waiting import eventually, until
from turnlog_workers.base.json_file import read_json
from turnlog_workers.base.start_file import START_FILE_VARIABLE, wait_for_start
from turnlog_workers.devstack.stack import Stack, child_environment, child_specs, http_spec
from turnlog_workers.devstack.stack_dir import DataDirError, ProcessRecord, StackDir, StackInUseError, identify
from turnlog_workers.devstack.supervisor import Child, ChildFailedError, ChildSpec, Limits

FAST = Limits(
    ready_timeout_s=10.0,
    backoff_first_s=0.01,
    backoff_max_s=0.04,
    healthy_after_s=60.0,
    stop_timeout_s=5.0,
    poll_interval_s=0.01,
)


class Bench:
    """One stack of fake children in a directory."""

    def __init__(self, data_dir: Path) -> None:
        self.journal = data_dir / "journal"
        self.journal.touch()
        self.directory = StackDir(data_dir)
        self.said: list[str] = []

    def stack(
        self,
        plans: dict[str, str],
        *,
        broker: str = "good",
        limits: Limits = FAST,
        start_file: Path | None = None,
        **more: object,
    ) -> Stack:
        children = [
            replace(fake_child(name, self.journal, plan), start_file=start_file) for name, plan in plans.items()
        ]
        return Stack(
            self.directory,
            bootstrap_server="127.0.0.1:1",
            snapshot_path=self.directory.data_dir / "snapshot.duckdb",
            broker=fake_child("broker", self.journal, broker),
            children=children,
            say=self.said.append,
            limits=limits,
            **more,  # type: ignore[arg-type]
        )

    def note(self, text: str) -> None:
        with self.journal.open("a") as file:
            file.write(text + "\n")

    @property
    def notes(self) -> list[str]:
        return self.lines(self.journal)

    def lines(self, path: Path) -> list[str]:
        return path.read_text().splitlines()

    @property
    def state(self) -> dict[str, object]:
        return read_json(self.directory.path)

    def pid(self, name: str) -> int | None:
        children = self.state.get("children")
        assert isinstance(children, dict)
        return children.get(name)

    def has_been_ready(self, name: str, *, times: int) -> bool:
        """Whether the supervisor has said so, so often."""
        return sum(line.startswith(f"{name}: ready") for line in self.said) >= times

    @asynccontextmanager
    async def running(self, stack: Stack) -> AsyncIterator["asyncio.Task[None]"]:
        """Run the stack until it is ready, hand it over, and stop it."""
        task = asyncio.create_task(stack.run())
        try:
            await eventually(lambda: stack.ready.is_set() or task.done(), "the stack is ready")
            yield task
        finally:
            if not task.done():
                stack.request_stop()
            await asyncio.wait_for(task, 60)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_broker_first_then_topics_then_children_and_back_in_reverse(bench: Bench) -> None:
    stack = bench.stack({"worker-1": "good", "materializer": "good"}, prepare=lambda: bench.note("topics made"))
    async with bench.running(stack):
        state = bench.state
        children = state["children"]
        assert isinstance(children, dict)
        assert set(children) == {"broker", "worker-1", "materializer"}
        assert all(psutil.Process(pid).is_running() for pid in children.values())
        assert state["bootstrap_server"] == "127.0.0.1:1"
        assert state["snapshot_path"] == str(bench.directory.data_dir / "snapshot.duckdb")
        assert (state["supervisor_pid"], state["running"], state["ready"]) == (os.getpid(), True, True)
    assert bench.notes[:3] == ["broker started", "broker ready", "topics made"]
    assert set(bench.notes[-3:-1]) == {"worker-1 stopped", "materializer stopped"}
    assert bench.notes[-1] == "broker stopped"
    state = bench.state
    assert (state["supervisor_pid"], state["running"], state["ready"], state["children"]) == (None, False, False, {})
    assert all(is_gone(pid) for pid in children.values())


async def test_a_child_that_was_ready_is_restarted_as_often_as_it_dies(bench: Bench) -> None:
    async with bench.running(bench.stack({"worker-1": "good"})):
        for deaths in range(1, FAST.max_early_deaths + 3):
            pid = bench.pid("worker-1")
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await eventually(partial(bench.has_been_ready, "worker-1", times=deaths + 1), "it is ready again")
            assert bench.pid("worker-1") not in (None, pid)
    delays = [float(line.split()[-2]) for line in bench.said if "SIGKILL" in line]
    assert delays == [0.01, 0.02, 0.04, 0.04, 0.04, 0.04, 0.04]


async def test_a_restarted_broker_does_not_touch_the_others(bench: Bench) -> None:
    async with bench.running(bench.stack({"worker-1": "good"}, prepare=lambda: bench.note("topics made"))):
        broker, worker = bench.pid("broker"), bench.pid("worker-1")
        assert broker is not None
        os.kill(broker, signal.SIGKILL)
        await eventually(lambda: bench.notes.count("broker ready") == 2, "the broker is back")
        assert bench.pid("worker-1") == worker
    assert bench.notes.count("worker-1 started") == bench.notes.count("topics made") == 1


async def test_a_child_that_never_gets_ready_stops_no_other_and_is_tried_ever_more_seldom(bench: Bench) -> None:
    limits = replace(FAST, seldom_max_s=0.3)
    plans = {"worker-1": "broken", "worker-2": "good", "materializer": "good"}
    stack = bench.stack(plans, limits=limits)
    async with bench.running(stack) as running:
        pids = {name: bench.pid(name) for name in ("broker", "worker-2", "materializer")}
        assert None not in pids.values()
        (given_up,) = [line for line in bench.said if "go on without it" in line]
        log = bench.directory.data_dir / "logs" / "worker-1.log"
        assert given_up.startswith("worker-1 died 5 times in a row before it was ready (last: exit code 3).")
        assert str(log) in given_up
        assert bench.said[-1].startswith("up: Kafka on 127.0.0.1:1, 3 processes (without worker-1)")
        assert (bench.state["ready"], bench.state["failing"]) == (True, ["worker-1"])
        await eventually(lambda: bench.notes.count("worker-1 started") == 9, "it is tried again and again")
        assert {name: bench.pid(name) for name in pids} == pids
        assert not running.done()
    seldom = [float(line.removesuffix(".").split()[-2]) for line in bench.said if "worker-1 died" in line]
    assert seldom[:5] == [0.08, 0.16, 0.3, 0.3, 0.3][: len(seldom)]
    assert len(seldom) >= 3
    assert bench.lines(log) == ["worker-1 cannot start"] * bench.notes.count("worker-1 started")
    assert bench.notes[-1] == "broker stopped"
    assert bench.state["children"] == {}


async def test_one_that_gets_ready_after_all_is_a_child_as_any_other(bench: Bench) -> None:
    async with bench.running(bench.stack({"worker-1": "seventh", "worker-2": "good"})):
        assert bench.state["failing"] == ["worker-1"]
        await eventually(partial(bench.has_been_ready, "worker-1", times=1), "the seventh start is ready")
        await eventually(lambda: bench.state["failing"] == [], "it is no failing child any more")
        pid = bench.pid("worker-1")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: any("worker-1: died (SIGKILL)" in line for line in bench.said), "its death is noticed")


async def test_every_worker_may_fail_and_the_broker_stays(bench: Bench) -> None:
    async with bench.running(bench.stack({"worker-1": "broken", "worker-2": "broken"})) as running:
        assert bench.state["failing"] == ["worker-1", "worker-2"]
        assert bench.pid("broker") is not None
        assert not running.done()


async def test_a_child_that_cannot_be_started_at_all_is_tried_again(bench: Bench) -> None:
    stack = bench.stack({"worker-1": "good", "worker-2": "good"})
    nothing = bench.directory.data_dir / "logs" / "worker-1.log"
    nothing.mkdir(parents=True)  # its log cannot be opened
    async with bench.running(stack):
        assert bench.state["failing"] == ["worker-1"]
        assert any("worker-1" in line and "it cannot be started: " in line for line in bench.said)
        nothing.rmdir()
        await eventually(partial(bench.has_been_ready, "worker-1", times=1), "it is ready once it can be started")


async def test_readiness_ends_a_row_of_early_deaths(bench: Bench) -> None:
    async with bench.running(bench.stack({"worker-1": "fifth"})):
        await eventually(lambda: bench.notes.count("worker-1 ready") == 2, "the tenth start is ready")
    assert bench.notes.count("worker-1 started") == 10


async def test_a_broker_that_cannot_start_ends_the_stack_before_anything_else_starts(bench: Bench) -> None:
    with pytest.raises(ChildFailedError, match="broker died 5 times"):
        await asyncio.wait_for(bench.stack({"worker-1": "good"}, broker="broken").run(), 60)
    assert set(bench.notes) == {"broker started"}


async def test_a_port_that_somebody_else_took_is_named_with_what_to_do(bench: Bench) -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        spec = replace(fake_child("broker", bench.journal, "broken"), port=port)
        child = Child(spec, data_dir=bench.directory.data_dir, limits=FAST, say=said.append, on_change=lambda: None)
        with pytest.raises(ChildFailedError) as caught:
            await asyncio.wait_for(child.supervise(asyncio.Event()), 60)
    assert f"port {port} is in use by another program" in said[0]
    assert str(caught.value).startswith(
        f"broker died 5 times in a row before it was ready (last: exit code 3). Port {port} on 127.0.0.1 is in use by "
        "another program: stop that program, or run turnlog up again with another --port; without one it takes a free "
        "port. What it said is in "
    )


def test_each_child_that_listens_says_where(tmp_path: Path) -> None:
    broker, _ = child_specs(tmp_path, workers=1, port=9092, env={})
    http = http_spec(8080, {})
    assert (broker.port, broker.port_option) == (9092, "--port")
    assert (http.port, http.port_option) == (8080, "--http")


async def test_a_start_that_never_gets_ready_counts_as_a_death(bench: Bench) -> None:
    limits = Limits(ready_timeout_s=2.0, max_early_deaths=2, backoff_first_s=0.01, poll_interval_s=0.01)
    async with bench.running(bench.stack({"worker-1": "never ready"}, limits=limits)):
        assert any("worker-1 was stopped 2 times" in line for line in bench.said)
    assert any("worker-1: not ready within 2 s" in line for line in bench.said)


async def test_a_child_that_ignores_sigterm_is_killed(bench: Bench) -> None:
    limits = Limits(stop_timeout_s=0.2, poll_interval_s=0.01)
    async with bench.running(bench.stack({"worker-1": "stubborn"}, limits=limits)):
        pid = bench.pid("worker-1")
    assert pid is not None
    assert is_gone(pid)
    assert any("did not stop within 0.2 s; killing it" in line for line in bench.said)


async def test_a_second_stop_request_kills_at_once(bench: Bench) -> None:
    stack = bench.stack({"worker-1": "stubborn"}, limits=Limits(stop_timeout_s=60.0, poll_interval_s=0.01))
    async with bench.running(stack) as task:
        stack.request_stop()
        stack.request_stop()
        await asyncio.wait_for(task, 60)
    assert bench.state["children"] == {}


async def test_what_fails_between_broker_and_children_is_raised_after_a_clean_stop(bench: Bench) -> None:
    def fail() -> None:
        raise LookupError("topics have other counts")

    with pytest.raises(LookupError, match="other counts"):
        await asyncio.wait_for(bench.stack({"worker-1": "good"}, prepare=fail).run(), 60)
    assert bench.notes == ["broker started", "broker ready", "broker stopped"]


async def test_children_are_out_of_reach_of_the_terminal_s_ctrl_c(bench: Bench) -> None:
    async with bench.running(bench.stack({"worker-1": "good"})):
        pid = bench.pid("worker-1")
        assert pid is not None
        assert os.getpgid(pid) == os.getsid(pid) == pid


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirError, match=r"file/data cannot be used: Not a directory\. Name another with --data-dir"):
        StackDir(tmp_path / "file" / "data").take()


def test_one_directory_has_one_supervisor(bench: Bench) -> None:
    bench.directory.take()
    bench.directory.write(bootstrap_server="b", snapshot_path=Path("s"), children={}, running=True, ready=True)
    try:
        with pytest.raises(StackInUseError, match=rf"already up in .* \(process {os.getpid()}\)"):
            StackDir(bench.directory.data_dir).take()
        with pytest.raises(StackInUseError):
            StackDir(bench.directory.data_dir).check()
    finally:
        bench.directory.release()
    StackDir(bench.directory.data_dir).check()
    again = StackDir(bench.directory.data_dir)
    again.take()
    again.release()


def start_alone(spec: ChildSpec, ready_file: Path) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        spec.argv, start_new_session=True, env={**os.environ, "TURNLOG_READY_FILE": str(ready_file)}
    )
    until(ready_file.exists, "the child is ready")
    return process


def test_leftovers_are_stopped_but_never_a_process_that_is_not_ours(bench: Bench) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    try:
        records: dict[str, ProcessRecord] = {}
        for name in ("ours", "reused-id", "other-command"):
            spec = fake_child(name, bench.journal)
            process = start_alone(spec, bench.directory.data_dir / f"{name}.ready")
            processes.append(process)
            record = identify(process.pid, spec.argv)
            assert record is not None
            records[name] = record
        old, other = records["reused-id"], records["other-command"]
        records["reused-id"] = ProcessRecord(pid=old.pid, started_at=old.started_at - 60, argv=old.argv)
        records["other-command"] = ProcessRecord(pid=other.pid, started_at=other.started_at, argv=("sleep", "1"))
        records["ended"] = ProcessRecord(pid=2**22 + 1, started_at=1.0, argv=("sleep",))
        bench.directory.write(bootstrap_server="b", snapshot_path=Path("s"), children=records, running=True, ready=True)
        assert bench.directory.stop_leftovers() == ["ours"]
        assert processes[0].wait(timeout=10) == 0
        assert [process.poll() for process in processes[1:]] == [None, None]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=10)


SUPERVISOR = """
import asyncio, pathlib, sys
from tests.fake_children import fake_child
from turnlog_workers.devstack.stack import Stack
from turnlog_workers.devstack.stack_dir import StackDir

directory, journal = StackDir(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[1]) / "journal"
directory.take()

async def main():
    stack = Stack(
        directory, bootstrap_server="b", snapshot_path=pathlib.Path("s"), broker=fake_child("broker", journal),
        children=[fake_child("worker-1", journal)],
    )
    await stack.run()

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_signal_to_the_supervisor_leaves_a_child_behind(bench: Bench, number: signal.Signals) -> None:
    root = Path(__file__).resolve().parents[2]
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(bench.directory.data_dir)], cwd=root, start_new_session=True
    )
    try:
        until(lambda: bench.state.get("ready") is True, "the stack is ready")
        pids = [pid for name in ("broker", "worker-1") if (pid := bench.pid(name)) is not None]
        assert len(pids) == 2
        supervisor.send_signal(number)
        code = supervisor.wait(timeout=20)
        if number is signal.SIGKILL:
            assert code == -signal.SIGKILL
            StackDir(bench.directory.data_dir).stop_leftovers()  # needed only where the kernel does not end them
        else:
            assert code == 0
            assert bench.notes[-2:] == ["worker-1 stopped", "broker stopped"]
        until(lambda: all(is_gone(pid) for pid in pids), "both children are gone")
    finally:
        if supervisor.poll() is None:
            supervisor.kill()
            supervisor.wait(timeout=10)


def test_children_are_command_lines_of_their_own_with_the_stack_s_settings() -> None:
    env = child_environment(Path("/data"), "127.0.0.1:9092", environ={})
    assert env["TURNLOG_ALLOW_MODELS"] == "echo:*,recorded:*,script:*,smollm2:*"
    own = child_environment(Path("/data"), "127.0.0.1:9092", environ={"TURNLOG_ALLOW_MODELS": "echo:*"})
    assert own["TURNLOG_ALLOW_MODELS"] == "echo:*"
    more = child_environment(Path("/data"), "127.0.0.1:9092", environ={"TURNLOG_ALLOW_MODELS": "+mine:*"})
    assert more["TURNLOG_ALLOW_MODELS"] == "echo:*,recorded:*,script:*,smollm2:*,mine:*"
    broker, children = child_specs(Path("/data"), workers=2, port=9092, env=env)
    assert command(broker.argv) == ["turnlog_workers.devstack.broker", "--data-dir", "/data/broker", "--port", "9092"]
    assert [(child.name, command(child.argv)) for child in children] == [
        ("worker-1", ["turnlog", "worker"]),
        ("worker-2", ["turnlog", "worker"]),
        ("materializer", ["turnlog", "materialize"]),
    ]
    assert [child.env.get("TURNLOG_WORKER_NAME") for child in children] == ["worker-1", "worker-2", None]
    assert all(child.env["TURNLOG_BOOTSTRAP_SERVER"] == "127.0.0.1:9092" for child in children)
    http = http_spec(8080, env)
    assert (http.name, command(http.argv), http.env) == ("http", ["turnlog", "serve", "--port", "8080"], env)


async def test_children_import_beside_the_broker_and_begin_when_the_topics_are_there(bench: Bench) -> None:
    start_file = bench.directory.data_dir / "run" / "start"
    start_file.parent.mkdir()
    start_file.touch()  # of an earlier stack

    def topics() -> None:
        until(lambda: "worker-1 started" in bench.notes, "the worker is started")
        bench.note("topics")

    async with bench.running(bench.stack({"worker-1": "good"}, start_file=start_file, prepare=topics)):
        assert bench.notes.index("topics") < bench.notes.index("worker-1 ready")
        pid = bench.pid("worker-1")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: bench.notes.count("worker-1 ready") == 2, "a worker that died waits for nothing")


def test_a_process_waits_for_its_start_file_and_not_for_ever(tmp_path: Path) -> None:
    wait_for_start({})
    start_file = tmp_path / "start"
    waiting = threading.Thread(target=wait_for_start, args=({START_FILE_VARIABLE: str(start_file)},))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    start_file.touch()
    waiting.join(10)
    assert not waiting.is_alive()
    wait_for_start({START_FILE_VARIABLE: str(tmp_path / "never")}, limit_s=0.05)


async def test_the_address_of_http_is_said_where_it_is_up(bench: Bench) -> None:
    console = "http://127.0.0.1:8080/"
    async with bench.running(bench.stack({"http": "good"}, console=console)):
        assert bench.said[-2].startswith(f"console: {console} ")
        assert bench.said[-1].startswith("up: ")
    bench.said.clear()
    async with bench.running(bench.stack({"http": "broken"}, console=console)):
        assert not [line for line in bench.said if line.startswith("console: ")]


def command(argv: Sequence[str]) -> list[str]:
    return list(argv[argv.index("-m") + 1 :])
